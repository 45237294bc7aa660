"""The forwarder: three nodes in a row, the middle one passes everything on (issue "network").

`python -m tests.bench.forward`. All six processes and the chain share the machine.
"""

import os
import tempfile
from pathlib import Path

from node.demo.stack import Node, Stack, wait_for
from tests.bench.load import run_load
from tests.bench.measure import memory_mb

CAPACITY = 16_000_000
CONFIRMATIONS = 6
"""From here on a channel is announced, so the payer learns of the far one."""


def open_announced(stack: Stack, funder: Node, fundee: Node) -> None:
    stack.chain.fund(funder.call("newaddr")["bech32"], 2 * CAPACITY)
    stack.chain.mine(1)
    wait_for(
        "the coins", lambda: any(o["status"] == "confirmed" for o in funder.call("listfunds")["outputs"])
    )
    funder.call("connect", f"{fundee.node_id}@{fundee.address}")
    funder.call("fundchannel", id=fundee.node_id, amount=CAPACITY, announce=True)
    stack.chain.mine(CONFIRMATIONS)
    stack.settled_at(stack.chain.height)


def in_a_row(stack: Stack) -> list[Node]:
    """Alice, Bob, Carol; when this returns Alice can pay Carol."""
    alice, bob, carol = path = list(stack.nodes.values())
    open_announced(stack, alice, bob)
    open_announced(stack, bob, carol)
    wait_for(
        "the channels",
        lambda: all(c["state"] == "CHANNELD_NORMAL" for node in path for c in node.channels()),
    )
    wait_for(
        "Alice to know of the channel to Carol",
        lambda: len(alice.call("listchannels", destination=carol.node_id)["channels"]) > 0,
        seconds=120,
    )
    return path


def rows(payments: int = 600, in_flight: int = 100, lone: int = 30) -> list[tuple[str, float, str, str]]:
    with (
        tempfile.TemporaryDirectory(prefix="lnp-bench-") as name,
        Stack(Path(name), ("alice", "bob", "carol")) as stack,
    ):
        stack.start()
        path = in_a_row(stack)
        run_load(path, 50, 10, "warm")
        load = run_load(path, payments, in_flight, "load")
        alone = run_load(path, lone, 1, "lone")
        direct = run_load(path[:2], lone, 1, "direct")
        middle, single = load.shares[1], alone.shares[1]
        return [
            (f"forwards, {in_flight} in flight, both neighbours here", load.rate, "1/s", "250"),
            ("CPU per forward, middle daemon", middle.cpu, "ms", ""),
            ("CPU per forward, middle signer", middle.signer_cpu, "ms", ""),
            ("durable commits per forward in flight", middle.commits, "", ""),
            ("signer requests per forward in flight", middle.requests, "", ""),
            ("durable commits of a lone forward", single.commits, "", ""),
            ("signer requests of a lone forward", single.requests, "", ""),
            ("a lone payment over one forwarder", alone.median_ms, "ms", "30"),
            ("what the forwarder adds to it", alone.median_ms - direct.median_ms, "ms", "10"),
            ("memory of the forwarder", memory_mb(path[1].daemon.pid), "MB", "120"),
        ]


if __name__ == "__main__":
    for what, value, unit, aim in rows():
        print(f"{what:52} {value:9.2f} {unit:5} {aim}")
    print(f"load average {os.getloadavg()[0]:.1f}")
