"""What the tests of the whole node share: real programs, an asynchronous RPC client, an open channel."""

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

from node.demo.stack import Node, RpcRefused, Stack, wait_for

__all__ = ["Answer", "LostLine", "ask", "folder", "normal", "open_channel", "ready", "settled", "until"]
Answer = dict[str, Any]
_ids = count(1)


class LostLine(Exception):
    """The daemon went away under a call, or is not there: nobody knows what became of it."""


async def ask(node: Node, method: str, *positional: Any, seconds: float = 60.0, **named: Any) -> Answer:
    """One call on a connection of its own. RpcRefused is a refusal; LostLine an outcome that is not known."""
    body = {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": list(positional) or named}
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await asyncio.open_unix_connection(str(node.socket), limit=1 << 24)
            try:
                writer.write(json.dumps(body).encode())
                raw = await reader.readuntil(b"\n\n")
            finally:
                writer.close()
    except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
        raise LostLine(f"{method} of {node.name}: {error!r}") from error
    answer = json.loads(raw)
    if "error" in answer:
        raise RpcRefused(answer["error"]["code"], answer["error"]["message"])
    result: Answer = answer["result"]
    return result


async def until(what: str, seen: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """`wait_for`, while the event loop goes on."""
    return await asyncio.to_thread(wait_for, what, seen, seconds=seconds)


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Unix sockets have short names, and pytest's folders have long ones. `LNP_KEEP` keeps what is in it."""
    name = tempfile.mkdtemp(prefix="lnp-")
    try:
        yield Path(name)
    finally:
        if os.environ.get("LNP_KEEP"):
            print(f"kept: {name}")
        else:
            shutil.rmtree(name, ignore_errors=True)


def normal(*nodes: Node) -> bool:
    """Every node answers, and its channels can be used."""
    for node in nodes:
        found = node.try_call("listpeerchannels")
        if not found or not found["channels"]:
            return False
        for channel in found["channels"]:
            if channel["state"] != "CHANNELD_NORMAL" or not channel["reestablished"]:
                return False
    return True


def ready(*nodes: Node) -> bool:
    """`normal`, and every signer answers too."""
    return normal(*nodes) and not any(
        "waiting for the signer" in line
        for node in nodes
        for channel in node.channels()
        for line in channel["status"]
    )


def settled(*nodes: Node) -> bool:
    return normal(*nodes) and not any(channel["htlcs"] for node in nodes for channel in node.channels())


def open_channel(
    stack: Stack, *, sat: int = 2_000_000, push_msat: int = 0, funder: str = "alice", fundee: str = "bob"
) -> None:
    """From coins to a usable channel."""
    one, other = stack.nodes[funder], stack.nodes[fundee]
    stack.chain.fund(one.call("newaddr")["bech32"], 10 * sat)
    stack.chain.mine(1)
    wait_for("the coins", lambda: any(o["status"] == "confirmed" for o in one.call("listfunds")["outputs"]))
    # Each dials once, so that each knows where to find the other: whoever was away comes back by itself.
    other.call("connect", f"{one.node_id}@{one.address}")
    other.call("disconnect", one.node_id)
    wait_for("the line to be cut", lambda: not one.call("listpeers")["peers"])
    one.call("connect", f"{other.node_id}@{other.address}")
    one.call("fundchannel", id=other.node_id, amount=sat, push_msat=push_msat)
    stack.chain.mine(3)
    wait_for("the channel", lambda: normal(one, other))
