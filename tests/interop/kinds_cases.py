"""Channels of other kinds: without anchors, hidden behind an alias, used before a block (docs/interop.md)."""

from typing import Any

import pytest

from protocol.amounts import format_scid
from protocol.bolt11.decode import decode
from tests.interop.cases import pay_them, pay_us
from tests.interop.harness import Kind, Side, World


def row_of(world: World, funding: str) -> dict[str, Any]:
    row = world.our_channel(funding)
    assert row is not None
    return row


class Aliases:
    """option_scid_alias in the channel type: the real id stays between the two."""

    @pytest.mark.parametrize("opener", ["ours", "theirs"])
    def test_alias_is_what_invoices_name(self, world: World, opener: Side) -> None:
        kind = Kind(world.peer.anchors, alias=True)
        funding = world.open(opener, push_sat=world.peer.channel_sat * 2 // 5, kind=kind)
        row = row_of(world, funding)
        assert row["channel_type"]["bits"] == kind.bits
        assert row["private"]
        assert row["alias"]["local"] != row["alias"]["remote"]
        assert row["short_channel_id"] not in row["alias"].values()
        pay_them(world, 3_000_000)
        pay_us(world, 2_000_000)
        # Their invoice, if it has a hint, and ours name the alias that the other side gave.
        hinted = [hop for route in decode(world.their_invoice(1_000_000)).route_hints for hop in route]
        assert all(format_scid(hop.short_channel_id) == row["alias"]["local"] for hop in hinted)
        for route in decode(world.our_invoice(1_000_000)["bolt11"]).route_hints:
            assert [format_scid(hop.short_channel_id) for hop in route] == [row["alias"]["remote"]]
        world.close(funding, by="theirs" if opener == "ours" else "ours")


@pytest.mark.usefixtures("trusted")
class ZeroConf:
    """Each side trusts the other by name."""

    @pytest.mark.parametrize("opener", ["ours", "theirs"])
    def test_channel_is_used_before_its_block_and_after(self, world: World, opener: Side) -> None:
        kind = Kind(world.peer.anchors, alias=True, zeroconf=True)
        funding = world.open(opener, push_sat=world.peer.channel_sat * 2 // 5, kind=kind)
        early = row_of(world, funding)
        assert early["channel_type"]["bits"] == kind.bits
        assert "short_channel_id" not in early
        assert funding.partition(":")[0] in world.chain.call("getrawmempool")
        pay_them(world, 3_000_000)
        pay_us(world, 2_000_000)
        world.mine(6)
        world.until("the channel to have its number", lambda: "short_channel_id" in row_of(world, funding))
        world.until("the channel to be usable", lambda: world.usable(funding))
        pay_them(world, 1_000_000)
        pay_us(world, 4_000_000)
        assert world.our_msat(funding) == early["to_us_msat"] - 4_000_000 + 6_000_000
        world.close(funding, by="ours" if opener == "ours" else "theirs")


class WithoutAnchors:
    """{static_remotekey} with a peer whose usual type has anchors."""

    @pytest.mark.parametrize("opener", ["ours", "theirs"])
    def test_update_fee_by_the_opener(self, world: World, opener: Side) -> None:
        funding = world.open(opener, push_sat=world.peer.channel_sat * 2 // 5, kind=Kind(anchors=False))

        def rate() -> set[int | None]:
            theirs = world.their_channel(funding)
            assert theirs is not None and theirs.anchors is False
            return {row_of(world, funding)["feerate"]["perkw"], theirs.feerate_per_kw}

        for asked in (2000, 600):
            # Without anchors a commitment must confirm as it is, so our own takes half as much again.
            if opener == "ours":
                wanted = asked * 3 // 2
                world.chain.call("setfeerate", asked * 4)
                world.mine(1)
            else:
                wanted = world.peer.want_feerate(asked)
            world.until(f"update_fee to {wanted}", lambda w=wanted: rate() == {w})
            world.until("the channel to be usable", lambda: world.usable(funding))
            pay_them(world, 3_000_000)
            pay_us(world, 2_000_000)
        world.chain.call("setfeerate", 2000)
        world.close(funding, by="theirs")
