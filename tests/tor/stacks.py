"""Two nodes on a private Tor network, each run under the audit hook, with a channel between them."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from node.demo.stack import Node, Stack, wait_for
from node.demo.tor_network import TorNetwork
from tests.tor.relay import Relay

CHANNEL = 1_000_000


def audit_file(node: Node) -> Path:
    return node.folder / f"{node.name}.audit"


def audited(node: Node) -> list[list[str]]:
    return [json.loads(line) for line in audit_file(node).read_text().splitlines()]


@contextmanager
def two_nodes(network: TorNetwork, folder: Path) -> Iterator[Stack]:
    """alice has client 0, its control port behind a relay that the test may cut; bob has client 1."""
    stack = Stack(folder)
    with Relay(network.clients[0].control_port) as relay, stack:
        for number, node in enumerate(stack.nodes.values()):
            control = relay.port if number == 0 else network.clients[number].control_port
            node.use_tor(network.socks_ports[number], control)
            node.program = ("tests.tor.audited", str(audit_file(node)), "node")
        stack.start()
        stack.relay = relay  # type: ignore[attr-defined]
        yield stack


def reachable(node: Node) -> str:
    onion: str = wait_for(f"{node.name} to be reachable through Tor", lambda: node.onion, seconds=90)
    return onion


def is_normal(*nodes: Node) -> bool:
    for node in nodes:
        channels = node.channels()
        if not channels:
            return False
        for channel in channels:
            if channel["state"] != "CHANNELD_NORMAL" or not channel["peer_connected"]:
                return False
    return True


def open_channel(stack: Stack) -> None:
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    stack.chain.fund(alice.call("newaddr")["bech32"], 10 * CHANNEL)
    stack.chain.mine(1)
    wait_for("coins", lambda: [o for o in alice.call("listfunds")["outputs"] if o["status"] == "confirmed"])
    alice.call("connect", f"{bob.node_id}@{reachable(bob)}")
    alice.call("fundchannel", bob.node_id, CHANNEL)
    stack.chain.mine(3)
    wait_for("the channel", lambda: is_normal(alice, bob))


def pay(payer: Node, payee: Node, msat: int, label: str) -> float:
    """Seconds until the preimage was there."""
    invoice = payee.call("invoice", msat, label, label)["bolt11"]
    began = time.perf_counter()
    paid = payer.call("xpay", invoice)
    assert len(paid["payment_preimage"]) == 64
    return time.perf_counter() - began


def allowed_ports(network: TorNetwork, stack: Stack) -> set[int]:
    """SOCKS, control, and the bitcoind of the operator: no peer is behind any of them."""
    relay: Relay = stack.relay  # type: ignore[attr-defined]
    controls = {client.control_port for client in network.clients}
    return {*network.socks_ports, *controls, relay.port, urlsplit(stack.chain.doors["rpc_url"]).port or 0}


def strays(seen: list[list[str]], allowed: set[int]) -> list[list[str]]:
    """What went anywhere but to these ports of loopback: elsewhere, by datagram, or to a resolver."""
    fine = {f"('127.0.0.1', {port})" for port in allowed}
    return [entry for entry in seen if not (entry[0] == "socket.connect" and _is_fine(entry[1], fine))]


def _is_fine(address: str, fine: set[str]) -> bool:
    return address in fine or address.startswith("/")  # a unix socket leads nowhere else
