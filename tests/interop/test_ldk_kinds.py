"""Our node and LDK: aliases, zero-conf, and channels without anchors."""

import pytest

from tests.interop.cases import pay_them, pay_us
from tests.interop.harness import CONFIRMATIONS, Kind, Side, World
from tests.interop.kinds_cases import Aliases, WithoutAnchors, ZeroConf, row_of

PEER = "ldk"
ZEROCONF = 50


class TestWithoutAnchors(WithoutAnchors):
    pass


class TestAliases(Aliases):
    pass


class TestZeroConf(ZeroConf):
    @pytest.mark.parametrize("opener", ["ours"])
    def test_channel_is_used_before_its_block_and_after(self, world: World, opener: Side) -> None:
        """LDK accepts the channel type for each channel, and never proposes it."""
        super().test_channel_is_used_before_its_block_and_after(world, opener)

    def test_channel_of_theirs_waits_for_its_blocks_though_we_trust_it(self, world: World) -> None:
        """BOLT 2, accept_channel: we say minimum_depth 0 where `option_zeroconf` stands in the channel type.

        LDK knows the feature and has no switch that would name it in its own open_channel, so its channel is a usual
        one: our trust by name alone does not make it another.
        """
        peer = world.peer
        world.ensure_connected()
        (row,) = world.ours.call("listpeers", world.their_id)["peers"]
        assert int(row["features"], 16) >> ZEROCONF & 3, "LDK says that it knows option_zeroconf"
        known = {row["channel_id"] for row in world.ours.channels()}
        kind = Kind(peer.anchors, alias=True, zeroconf=True)
        push_sat = peer.channel_sat * 2 // 5
        peer.open_channel(world.our_id, world.ours.address, peer.channel_sat, push_sat, kind)
        row = world.until(
            "our node to know the new channel",
            lambda: next((row for row in world.ours.channels() if row["channel_id"] not in known), None),
        )
        assert row["channel_type"]["bits"] == Kind(peer.anchors, alias=True).bits
        txid = row["funding_txid"]
        funding = f"{txid}:{row['funding_outnum']}"
        world.until("the funding in the mempool", lambda: txid in world.chain.call("getrawmempool"))
        world.mine(CONFIRMATIONS - 1)
        assert row_of(world, funding)["state"] == "CHANNELD_AWAITING_LOCKIN"
        assert not world.usable(funding)
        world.mine(1)
        world.until("the channel to be usable", lambda: world.usable(funding))
        pay_them(world, 3_000_000)
        pay_us(world, 2_000_000)
        world.close(funding, by="theirs")
