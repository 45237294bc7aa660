"""Two nodes that know each other by onion address only, on a real private Tor network."""

import statistics
import time

import pytest

from node.demo.stack import Node, RpcRefused, Stack, wait_for
from node.demo.tor_network import TorNetwork
from tests.tor.stacks import (
    allowed_ports,
    audited,
    is_normal,
    open_channel,
    pay,
    reachable,
    strays,
)
from tests.transports.tor.fakes import NOBODY

PAYMENTS = 20


@pytest.fixture(scope="module")
def nodes(stack: Stack) -> tuple[Node, Node]:
    open_channel(stack)
    return stack.nodes["alice"], stack.nodes["bob"]


def states(node: Node) -> list[str]:
    return [channel["state"] for channel in node.channels()]


def test_they_find_each_other_by_onion_address_and_pay_twenty_times(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    (peer,) = alice.call("listpeers")["peers"]
    assert peer["road"] == "tor" and peer["netaddr"] == [reachable(bob)]
    (visitor,) = bob.call("listpeers")["peers"]
    assert visitor["road"] == "tor"
    took = [pay(alice, bob, 10_000_000, f"there {number}") for number in range(PAYMENTS)]
    print(f"median {statistics.median(took) * 1000:.0f} ms, worst {max(took) * 1000:.0f} ms")
    assert pay(bob, alice, 5_000_000, "back") < 60
    wait_for(
        "all to settle, to the millisatoshi",
        lambda: sum(channel["to_us_msat"] for channel in bob.channels()) == PAYMENTS * 10_000_000 - 5_000_000,
    )


def test_getinfo_shows_the_onion_and_the_road(nodes: tuple[Node, Node]) -> None:
    info = nodes[0].call("getinfo")
    onion = reachable(nodes[0])
    assert {"type": "torv3", "address": onion.removesuffix(":9735"), "port": 9735} in info["address"]
    assert [road["name"] for road in info["roads"]] == ["tor"]
    assert info["roads"][0]["state"] == "up"
    assert [entry["address"] for entry in info["binding"]] == ["127.0.0.1"]


@pytest.mark.parametrize("who", [0, 1])
def test_a_restart_of_tor_closes_no_channel(nodes: tuple[Node, Node], network: TorNetwork, who: int) -> None:
    alice, bob = nodes
    onion = reachable(bob)
    client = network.clients[who]
    client.stop()
    wait_for("both to notice", lambda: not is_normal(alice, bob), seconds=120)
    client.start()
    began = time.monotonic()
    wait_for("tor", lambda: client.is_bootstrapped, seconds=90, every=0.2)
    wait_for("both to be connected again", lambda: is_normal(alice, bob), seconds=180)
    print(f"connected again {time.monotonic() - began:.1f} s after tor was started")
    pay(alice, bob, 1_000_000, f"after a restart of tor {who}")
    assert reachable(bob) == onion


def test_a_restart_of_the_node_keeps_its_onion_and_closes_no_channel(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    onion = reachable(bob)
    bob.daemon.kill()
    bob.start_daemon()
    bob.wait_ready()
    assert reachable(bob) == onion
    wait_for("both to be connected again", lambda: is_normal(alice, bob), seconds=180)
    pay(alice, bob, 1_000_000, "after a restart of the node")


def test_a_lost_control_port_brings_the_onion_back_and_drops_no_peer(
    nodes: tuple[Node, Node], stack: Stack
) -> None:
    alice, bob = nodes
    relay = stack.relay  # type: ignore[attr-defined]
    onion, before = reachable(alice), relay.connections
    relay.refuse()
    wait_for("alice to notice", lambda: alice.onion is None, seconds=30)
    (road,) = alice.call("getinfo")["roads"]
    assert road["state"] == "up" and "makes no onion address" in road["what"]
    pay(alice, bob, 1_000_000, "without a control port")
    relay.allow()
    assert reachable(alice) == onion
    assert relay.connections > before
    assert is_normal(alice, bob)


def test_a_peer_that_is_not_there_is_told_in_words(nodes: tuple[Node, Node]) -> None:
    alice, bob = nodes
    stranger = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"
    with pytest.raises(
        RpcRefused, match="no descriptor of it is published: the peer, or its Tor, is offline"
    ):
        alice.call("connect", f"{stranger}@{NOBODY}:9735", seconds=300)
    assert is_normal(alice, bob)


def test_through_all_that_no_channel_closed_and_nothing_but_tor_was_dialled(
    nodes: tuple[Node, Node], network: TorNetwork, stack: Stack
) -> None:
    alice, bob = nodes
    assert states(alice) == states(bob) == ["CHANNELD_NORMAL"]
    allowed = allowed_ports(network, stack)
    for node in nodes:
        seen = audited(node)
        assert any(event == "socket.connect" for event, *_ in seen), "the hook saw nothing at all"
        assert strays(seen, allowed) == []
