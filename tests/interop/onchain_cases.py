"""Channels that end on the chain: force closes with HTLCs, revoked commitments, lost databases (docs/interop.md).

The world mines in steps that both nodes have seen, so no deadline passes while one of them still reads blocks.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from node.demo.stack import wait_for
from tests.interop.cases import pay_them, pay_us
from tests.interop.harness import Kind, Side, World, copy_state
from tests.interop.peers.base import HoldingPeer
from tests.whole.test_restore import copy_files, lnpd, new_node, put_back, start, stop

THEY_CLAIM, WE_LOSE_TIME, WE_CLAIM, THEY_LOSE_TIME = 90_000, 80_000, 70_000, 60_000
"""Satoshis of the four HTLCs, each enough to tell whose it became."""
TO_THE_END: Any = {"blocks": 1300, "step": 12}
"""An HTLC expires, then the longest delay (Electrum wants 1008 blocks), then the depth at which a close is over."""

DELAY: Any = {"blocks": 240, "step": 3}
"""For an HTLC to expire: LDK adds up to 144 blocks to hide who the payee is."""


@dataclass(frozen=True)
class Htlcs:
    """One HTLC of each direction and fate, all held."""

    they_claim: str
    we_time_out: str
    we_claim: dict[str, Any]
    they_time_out: dict[str, Any]


def hold_four(world: World, funding: str) -> Htlcs:
    peer = world.peer
    assert isinstance(peer, HoldingPeer)
    htlcs = Htlcs(
        peer.hold_invoice(THEY_CLAIM * 1000),
        peer.hold_invoice(WE_LOSE_TIME * 1000),
        world.our_hold_invoice(WE_CLAIM * 1000),
        world.our_hold_invoice(THEY_LOSE_TIME * 1000),
    )
    for bolt11 in (htlcs.they_claim, htlcs.we_time_out):
        world.begin_paying(bolt11)
        world.until("the peer to hold our payment", lambda b=bolt11: peer.holds(b))
    for invoice in (htlcs.we_claim, htlcs.they_time_out):
        peer.begin_paying(invoice["bolt11"])
        world.until("us to hold the peer's payment", lambda i=invoice: world.we_hold(i["payment_hash"]))
        # LDK 0.1 claims what expires in one block with one transaction, and repeats it though we took an input of it.
        world.mine(3)
    row = world.our_channel(funding)
    assert row is not None
    assert sorted(htlc["amount_msat"] // 1000 for htlc in row["htlcs"]) == [60_000, 70_000, 80_000, 90_000]
    return htlcs


def force_close(world: World, funding: str, by: Side) -> str:
    """The txid of the commitment, which is in the mempool."""
    if by == "ours":
        row = world.our_channel(funding)
        assert row is not None
        world.disconnect()  # else we would wait a second for an agreement, and could have one
        closed = world.ours.call("close", id=row["channel_id"], unilateraltimeout=1)
        assert closed["type"] == "unilateral"
    else:
        world.peer.force_close(funding)
    txid: str = world.until("the commitment in the mempool", lambda: world.spender(funding))
    return txid


class ForceClosing:
    """For peers that can hold payments."""

    @pytest.mark.parametrize("closer", ["ours", "theirs"])
    @pytest.mark.parametrize("opener", ["ours", "theirs"])
    def test_force_close_with_htlcs_both_ways(self, world: World, opener: Side, closer: Side) -> None:
        """Preimages and timeouts of both sides are mined; each ends with what is its own."""
        self.to_the_end(world, opener, closer, Kind(world.peer.anchors))

    @pytest.mark.parametrize("closer", ["ours", "theirs"])
    def test_force_close_with_htlcs_without_anchors(self, world: World, closer: Side) -> None:
        """{static_remotekey}: HTLC transactions carry their fee, and are signed for as they are."""
        self.to_the_end(world, "ours", closer, Kind(anchors=False))

    def to_the_end(self, world: World, opener: Side, closer: Side, kind: Kind) -> None:
        peer = world.peer
        assert isinstance(peer, HoldingPeer)
        funding = world.open(opener, push_sat=peer.channel_sat * 2 // 5, kind=kind)
        pay_them(world, 5_000_000)
        pay_us(world, 3_000_000)
        world.quiet(funding)
        ours, theirs = world.our_msat(funding) // 1000, peer.channel_sat - world.our_msat(funding) // 1000
        before = world.money_sat(), peer.money_sat()
        htlcs = hold_four(world, funding)
        force_close(world, funding, closer)
        world.mine(1)

        peer.release(htlcs.they_claim)
        world.ours.call("settleholdinvoice", payment_hash=htlcs.we_claim["payment_hash"])
        we_claimed, they_lost = htlcs.we_claim["payment_hash"], htlcs.they_time_out["payment_hash"]
        world.bury(
            "their preimage to reach us", lambda: status(world, htlcs.they_claim) == "complete", blocks=20
        )
        world.bury("our preimage to reach them", lambda: peer.ended(we_claimed) is not None, blocks=20)
        assert claimed(peer, we_claimed)
        world.bury("our own to time out", lambda: status(world, htlcs.we_time_out) == "failed", **DELAY)
        world.bury("theirs to time out", lambda: peer.ended(they_lost) is not None, **DELAY)
        assert not claimed(peer, they_lost)
        world.bury("every output to be spent", lambda: world.resolved(funding), **TO_THE_END)

        gains(world, ours - THEY_CLAIM + WE_CLAIM, theirs - WE_CLAIM + THEY_CLAIM, before)


def claimed(peer: HoldingPeer, payment_hash: str) -> bool:
    end = peer.ended(payment_hash)
    assert end is not None
    return end.preimage is not None


def status(world: World, bolt11: str) -> str:
    row = world.paid_row(bolt11)
    return "" if row is None else str(row["status"])


def settle_four(world: World, htlcs: Htlcs) -> None:
    """The same four ends, but in agreement."""
    peer = world.peer
    assert isinstance(peer, HoldingPeer)
    peer.release(htlcs.they_claim)
    peer.give_back(htlcs.we_time_out)
    world.ours.call("settleholdinvoice", payment_hash=htlcs.we_claim["payment_hash"])
    world.ours.call("cancelholdinvoice", payment_hash=htlcs.they_time_out["payment_hash"])


def keep_their_state(world: World, funding: str, place: Path) -> None:
    """A copy of what the peer has on its disk now; then the channel goes on."""
    world.peer.stop()
    copy_state(world.peer.state, place)
    world.peer.start()
    world.until("the channel to be reestablished", lambda: world.usable(funding))


def gains(world: World, ours: int, theirs: int, before: tuple[int, int]) -> None:
    """Each side has what is its own, but for fees."""
    got = world.money_sat() - before[0], world.peer.money_sat() - before[1]
    fees = world.peer.close_fees_sat
    assert 0 <= ours - got[0] < fees, (ours, theirs, got)
    assert 0 <= theirs - got[1] < fees, (ours, theirs, got)


class Cheating:
    """The peer publishes a state that it gave up: its database of then, put back while our node is down.

    The last class of a module: what a punished peer makes of its lost channel is its own affair, and disturbs.
    """

    def test_revoked_commitment_is_punished(self, world: World, tmp_path: Path) -> None:
        funding = self.a_past_to_regret(world, tmp_path, held=False)
        self.cheat(world, tmp_path, funding)

    def a_past_to_regret(self, world: World, place: Path, *, held: bool) -> str:
        """A channel in which the peer had more, once; with HTLCs each way at that time, or without."""
        funding = world.open("theirs", push_sat=world.peer.channel_sat // 5)
        pay_us(world, 5_000_000)
        world.quiet(funding)
        htlcs = hold_four(world, funding) if held else None
        keep_their_state(world, funding, place / "old")
        if htlcs is not None:
            settle_four(world, htlcs)
            world.quiet(funding)
        pay_us(world, 200_000_000)
        pay_them(world, 1_000_000)
        world.quiet(funding)
        return funding

    def cheat(self, world: World, place: Path, funding: str) -> None:
        before = world.money_sat(), world.peer.money_sat()
        world.ours.daemon.stop()
        world.peer.stop()
        copy_state(place / "old", world.peer.state)
        world.peer.start()
        world.peer.force_close(funding)
        world.until("the revoked commitment in the mempool", lambda: world.spender(funding))
        world.start_ours()
        world.mine(1)
        world.bury("the penalty to be final", lambda: world.done(funding), **TO_THE_END)
        gains(world, world.peer.channel_sat, 0, before)


class CheatingWithHtlcs(Cheating):
    """For peers that can hold payments."""

    def test_revoked_commitment_with_htlcs_is_punished(self, world: World, tmp_path: Path) -> None:
        funding = self.a_past_to_regret(world, tmp_path, held=True)
        self.cheat(world, tmp_path, funding)


def rounds(world: World, funding: str) -> None:
    for _ in range(3):
        pay_us(world, 20_000_000)
        pay_them(world, 30_000_000)
    world.quiet(funding)


class Losing:
    """A database that is old or lost: its owner publishes nothing, the other side closes, each gets what is its own."""

    def open_and_pay(self, world: World, opener: Side) -> str:
        funding = world.open(opener, push_sat=world.peer.channel_sat * 2 // 5)
        pay_us(world, 5_000_000)
        world.quiet(funding)
        return funding

    def balances(self, world: World, funding: str) -> tuple[int, int]:
        ours = world.our_msat(funding) // 1000
        return ours, world.peer.channel_sat - ours

    def closed_by_the_other(
        self,
        world: World,
        funding: str,
        balances: tuple[int, int],
        before: tuple[int, int],
        *,
        died: bool = False,
    ) -> None:
        wait_for("the other side's commitment in the mempool", lambda: world.spender(funding), seconds=30)
        if died:
            world.peer.kill()
            world.chain.mine(1)
            world.peer.start()
        world.mine(1)
        world.bury("both to be done", lambda: world.resolved(funding), **TO_THE_END)
        gains(world, *balances, before)


class LosingOurs(Losing):
    @pytest.mark.parametrize("old", [("node",), ("signer",), ("node", "signer")], ids="+".join)
    def test_our_database_is_old(self, world: World, tmp_path: Path, old: tuple[str, ...]) -> None:
        """checklist 30: with either database old, or both."""
        files = {"node": ("node.db*", world.our_state), "signer": ("signer.sqlite*", world.ours.signer_dir)}
        funding = self.open_and_pay(world, "theirs")
        stop(world.ours)
        for name in old:
            pattern, place = files[name]
            copy_files(pattern, place, tmp_path / name)
        start(world.ours)
        world.until("the channel to be reestablished", lambda: world.usable(funding))
        rounds(world, funding)
        balances, before = self.balances(world, funding), (world.money_sat(), world.peer.money_sat())
        stop(world.ours)
        for name in old:
            pattern, place = files[name]
            put_back(pattern, tmp_path / name, place)
        start(world.ours)
        self.closed_by_the_other(world, funding, balances, before)

    def test_all_of_ours_is_lost_but_the_seed_and_a_backup(self, world: World, tmp_path: Path) -> None:
        """checklist 30: `lnpd restore --backup`."""
        ours = world.ours
        funding = self.open_and_pay(world, "ours")
        rounds(world, funding)
        balances, before = self.balances(world, funding), (world.money_sat(), world.peer.money_sat())
        kept = tmp_path / "channels.backup"
        shutil.copy(world.our_state / "channels.backup", kept)
        stop(ours)
        shutil.rmtree(ours.datadir)
        for file in ours.signer_dir.glob("signer.sqlite*"):
            file.unlink()
        new_node(ours)
        assert "the peer closes" in lnpd(ours, "restore", "--backup", str(kept), "--plan")
        assert "Done" in lnpd(ours, "restore", "--backup", str(kept), "--yes")
        world.start_ours()
        self.closed_by_the_other(world, funding, balances, before)


class LosingTheirs(Losing):
    def test_their_database_is_old(self, world: World, tmp_path: Path) -> None:
        funding = self.open_and_pay(world, "ours")
        keep_their_state(world, funding, tmp_path / "old")
        rounds(world, funding)
        balances, before = self.balances(world, funding), (world.money_sat(), world.peer.money_sat())
        world.peer.stop()
        copy_state(tmp_path / "old", world.peer.state)
        world.peer.start()
        if not world.peer.tells_old_state:
            world.until("us to meet, or to have closed", lambda: world.connected() or world.spender(funding))
            if world.spender(funding) is None:
                force_close(world, funding, "ours")  # as its owner would have to ask us to
        died = not world.peer.survives_old_state
        self.closed_by_the_other(world, funding, balances, before, died=died)
