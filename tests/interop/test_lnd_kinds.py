"""Our node and an LND with switches that are off by default: aliases, zero-conf, the close that may be replaced."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.interop.cases import pay_them, pay_us
from tests.interop.closed import sat
from tests.interop.harness import RpcRefused, Side, World
from tests.interop.kinds_cases import Aliases, WithoutAnchors, ZeroConf, row_of
from tests.interop.peers.lnd_acceptor import Acceptor
from tests.interop.peers.lnd_peer import Lnd

PEER = "lnd"
SWITCHES = ("--protocol.option-scid-alias", "--protocol.zero-conf", "--protocol.rbf-coop-close")

RATES = (2_000, 5_000, 12_000)
"""Satoshis per 1000 weight of our closing transaction and of what replaces it; LND's own offer pays 500."""
CLOSE_SECONDS = 180.0
NOT_NOW = ("has not answered", "already", "while the peer is connected")
"""Refusals of a higher feerate that do not last: an offer or a reconnection is on its way, or its fruit is there."""


def before(world: World) -> None:
    assert isinstance(world.peer, Lnd)
    world.peer.extra = SWITCHES


class TestWithoutAnchors(WithoutAnchors):
    pass


class TestAliases(Aliases):
    pass


@pytest.fixture(scope="class")
def acceptor(world: World) -> Iterator[None]:
    assert isinstance(world.peer, Lnd)
    made = Acceptor(world.peer.rest_port)
    yield
    made.close()


@pytest.mark.usefixtures("acceptor")
class TestZeroConf(ZeroConf):
    pass


class TestSimpleClose:
    """option_simple_close: who closes pays, and may pay more."""

    @pytest.mark.parametrize("closer", ["ours", "theirs"])
    @pytest.mark.parametrize("opener", ["ours", "theirs"])
    def test_close_is_agreed_and_replaced(self, world: World, opener: Side, closer: Side) -> None:
        lnd = world.peer
        assert isinstance(lnd, Lnd)
        funding = world.open(opener, push_sat=lnd.channel_sat * 2 // 5)
        pay_them(world, 5_000_000)
        pay_us(world, 3_000_000)
        world.quiet(funding)
        row = row_of(world, funding)
        ours = row["to_us_msat"] // 1000
        if closer == "ours":
            assert world.ours.call("close", id=row["channel_id"], unilateraltimeout=0)["type"] == "mutual"
        else:
            lnd.close_channel(funding)
        first = world.until("a closing transaction in the mempool", lambda: world.spender(funding))
        if closer == "theirs":
            lnd.close_channel(funding, sat_per_vbyte=30)
            world.until("a dearer one in its place", lambda: world.spender(funding) != first)
        world.mine(1)
        tx = world.closing(funding)
        values = {out["scriptPubKey"]["hex"]: round(out["value"] * 100_000_000) for out in tx["vout"]}
        fee = lnd.channel_sat - sum(values.values())
        mine = values.pop(row["close_to"])
        assert mine in (ours, ours - fee), "one side pays all of the fee, whoever opened"
        assert all(put["sequence"] == 0xFFFFFFFD for put in tx["vin"]), "BIP 125"
        if closer == "theirs":
            assert (mine, fee > 3_000) == (ours, True)
        world.until("our money to be ours on chain", lambda: world.has_output(tx["txid"], mine))
        world.bury("both to be done", lambda: world.resolved(funding), blocks=30)

    @pytest.mark.parametrize("closer", ["ours", "theirs"])
    @pytest.mark.parametrize("opener", ["ours", "theirs"])
    def test_ours_is_replaced_by_dearer_ones_of_ours(self, world: World, opener: Side, closer: Side) -> None:
        """BOLT 2: `closing_complete` again and again, each at a higher fee, whoever began; LND signs each of them."""
        lnd = world.peer
        assert isinstance(lnd, Lnd)
        funding = world.open(opener, push_sat=lnd.channel_sat * 2 // 5)
        pay_them(world, 5_000_000)
        pay_us(world, 3_000_000)
        world.quiet(funding)
        row = row_of(world, funding)
        ours = row["to_us_msat"] // 1000
        if closer == "ours":
            assert self.close_again(world, row, RATES[0]) == "mutual"
        else:
            lnd.close_channel(funding)
        paid = [self.paid(world, funding, row, rate) for rate in RATES]
        assert paid == sorted(set(paid))
        assert "already" in self.close_again(world, row, RATES[0])
        last = world.spender(funding)
        world.mine(1)
        tx = world.closing(funding)
        assert tx["txid"] == last
        world.until("our money to be ours on chain", lambda: world.has_output(tx["txid"], ours - paid[-1]))
        world.bury("both to be done", lambda: world.resolved(funding), blocks=30)

    @pytest.mark.parametrize("opener", ["ours", "theirs"])
    def test_ours_is_replaced_on_a_new_connection(self, world: World, opener: Side) -> None:
        """BOLT 2: both say shutdown again, then a dearer `closing_complete` replaces what is out."""
        funding = world.open(opener, push_sat=world.peer.channel_sat * 2 // 5)
        row = row_of(world, funding)
        assert self.close_again(world, row, RATES[0]) == "mutual"
        first = self.paid(world, funding, row, RATES[0])
        world.disconnect()
        world.until("LND to see that we left", lambda: not world.peer.connected(world.our_id))
        world.ensure_connected()
        second = self.paid(world, funding, row, RATES[1])
        assert second > first
        world.mine(1)
        tx = world.closing(funding)
        ours = row["to_us_msat"] // 1000
        world.until("our money to be ours on chain", lambda: world.has_output(tx["txid"], ours - second))
        world.bury("both to be done", lambda: world.resolved(funding), blocks=30)

    def paid(self, world: World, funding: str, row: dict[str, Any], rate: int) -> int:
        """Asks for that feerate until our transaction of that feerate is in the mempool; what it costs us.

        LND's own offer, and our first one, which follows each shutdown by itself, may stand there before.
        """
        ours = row["to_us_msat"] // 1000

        def dearer() -> dict[str, Any] | None:
            tx = self.in_mempool(world, funding)
            if tx is not None and self.fee(world, tx) * 1000 >= rate * tx["weight"]:
                return tx
            if world.spender(funding) is not None:
                said = self.close_again(world, row, rate)
                assert said == "mutual" or any(word in said for word in NOT_NOW), said
            return None

        tx = world.until(f"our close at {rate} per kw in the mempool", dearer, CLOSE_SECONDS)
        assert all(put["sequence"] == 0xFFFFFFFD for put in tx["vin"]), "BIP 125"
        fee = self.fee(world, tx)
        values = {out["scriptPubKey"]["hex"]: sat(out) for out in tx["vout"]}
        assert values.pop(row["close_to"]) == ours - fee, "who closes pays"
        assert list(values.values()) == [world.peer.channel_sat - ours], "and the other pays nothing"
        # A signature is a byte or two shorter than the rule reckons.
        assert fee * 1000 < rate * 1.02 * tx["weight"]
        return fee

    def in_mempool(self, world: World, funding: str) -> dict[str, Any] | None:
        txid = world.spender(funding)
        if txid is None:
            return None
        try:
            tx: dict[str, Any] = world.chain.call("getrawtransaction", txid, True)
        except RpcRefused:
            return None  # replaced between the two questions
        return tx

    def fee(self, world: World, tx: dict[str, Any]) -> int:
        return world.peer.channel_sat - sum(map(sat, tx["vout"]))

    def close_again(self, world: World, row: dict[str, Any], rate: int) -> str:
        """The type of the close that we asked for, or why it is refused."""
        try:
            closed = world.ours.call(
                "close", id=row["channel_id"], unilateraltimeout=0, feerate=f"{rate}perkw"
            )
        except RpcRefused as refusal:
            return str(refusal)
        return str(closed["type"])
