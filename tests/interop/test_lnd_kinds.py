"""Our node and an LND with switches that are off by default: aliases, zero-conf, the close that may be replaced."""

from collections.abc import Iterator

import pytest

from tests.interop.cases import pay_them, pay_us
from tests.interop.harness import Side, World
from tests.interop.kinds_cases import Aliases, WithoutAnchors, ZeroConf, row_of
from tests.interop.peers.lnd_acceptor import Acceptor
from tests.interop.peers.lnd_peer import Lnd

PEER = "lnd"
SWITCHES = ("--protocol.option-scid-alias", "--protocol.zero-conf", "--protocol.rbf-coop-close")


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
