"""Our node and LND, on the chain: force closes, revoked commitments, lost databases."""

import shutil

from tests.interop.harness import World
from tests.interop.onchain_cases import CheatingWithHtlcs, ForceClosing, LosingOurs, LosingTheirs, rounds
from tests.interop.peers.lnd_peer import Lnd

PEER = "lnd"


class TestForceClosing(ForceClosing):
    pass


class TestLosingOurs(LosingOurs):
    pass


class TestLosingTheirs(LosingTheirs):
    def test_all_of_theirs_is_lost_but_the_seed_and_a_backup(self, world: World) -> None:
        """LND's own static channel backup: it asks for the close, and we close."""
        lnd = world.peer
        assert isinstance(lnd, Lnd)
        funding = self.open_and_pay(world, "theirs")
        rounds(world, funding)
        balances, before = self.balances(world, funding), (world.money_sat(), lnd.money_sat())
        backup = lnd.get("/v1/channels/backup")["multi_chan_backup"]["multi_chan_backup"]
        lnd.stop()
        shutil.rmtree(lnd.state)
        lnd.start()
        assert lnd.post("/v1/channels/backup/restore", multi_chan_backup=backup)["num_restored"] == 1
        self.closed_by_the_other(world, funding, balances, before)


class TestCheating(CheatingWithHtlcs):
    pass
