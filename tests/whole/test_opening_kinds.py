"""Whole nodes open every kind of channel: before a block, above 2^24 sat, hidden and announced (BOLT 2, "The
open_channel Message")."""

from typing import Any

import pytest

from node.demo.stack import Node, RpcRefused, Stack, wait_for
from tests.whole.support import folder, normal

LARGE = 1 << 24
COINS = 3 * LARGE


def pay(payer: Node, payee: Node, amount_msat: int) -> str:
    made = payee.call("invoice", amount_msat=amount_msat, label=f"{amount_msat}", description="test")
    return str(payer.call("pay", made["bolt11"])["status"])


def open_more(stack: Stack, **asked: Any) -> dict[str, Any]:
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    known = {channel["channel_id"] for channel in alice.channels()}
    opened: dict[str, Any] = alice.call("fundchannel", id=bob.node_id, **asked)
    assert opened["channel_id"] not in known
    return opened


def seen(node: Node, opened: dict[str, Any]) -> dict[str, Any]:
    (channel,) = node.call("listpeerchannels", channel_id=opened["channel_id"])["channels"]
    return dict(channel)


def test_every_kind_of_channel_opens_between_whole_nodes() -> None:
    """checklist 12, 13: one start of the programs, one after the other."""
    with folder() as place, Stack(place) as stack:
        stack.start()
        alice, bob = stack.nodes["alice"], stack.nodes["bob"]
        stack.chain.fund(alice.call("newaddr")["bech32"], COINS)
        stack.chain.mine(1)
        wait_for("the coins", lambda: alice.call("listfunds")["outputs"])
        alice.call("connect", f"{bob.node_id}@{bob.address}")
        # Nobody trusts anybody by himself.
        with pytest.raises(RpcRefused, match="does not trust you"):
            open_more(stack, amount=500_000, mindepth=0, announce=False)

        alice_id = alice.node_id
        bob.settings.append(f'channel.zeroconf_peers=["{alice_id}"]')
        bob.daemon.stop()
        bob.start_daemon()
        bob.wait_ready()
        wait_for(
            "a connection",
            lambda: alice.try_call("connect", id=f"{bob.node_id}@{bob.address}") is not None,
        )
        early = open_more(stack, amount=500_000, mindepth=0, announce=False)
        wait_for("the channel before its block", lambda: normal(alice, bob))
        assert "short_channel_id" not in seen(alice, early)
        assert "all that we received in this channel is lost" in seen(bob, early)["status"][0]
        assert pay(alice, bob, 50_000_000) == "complete"
        stack.chain.mine(1)
        wait_for("its number", lambda: "short_channel_id" in seen(bob, early))
        assert seen(alice, early)["alias"]["remote"] == seen(bob, early)["alias"]["local"]
        assert seen(alice, early)["channel_type"]["bits"] == [12, 22, 46, 50]
        assert seen(bob, early)["private"]

        large = open_more(stack, amount=LARGE + 1, minconf=0)
        stack.chain.mine(6)
        wait_for("the large channel", lambda: normal(alice, bob))
        assert not seen(bob, large)["private"]
        assert seen(bob, large)["total_msat"] == (LARGE + 1) * 1000
        assert pay(alice, bob, 12_000_000_000) == "complete"
