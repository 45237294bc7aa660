"""A commitment that the signer signed and a crash made the node forget must not stand for ever (DESIGN, "Version sets";
BOLT 2, "Committing Updates So Far")."""

from pathlib import Path

import pytest

from node.channel.events import CloseWanted, FeerateMoved, Fulfil, Offer
from node.channel.state import CloseKind, Closing, Normal, OfferWant
from protocol.amounts import FeeratePerKw, Msat
from protocol.bolt3.commitment import Side
from protocol.wire.bolt2_update import CommitmentSigned, UpdateFee
from protocol.wire.message import decode
from tests.node.channel.pair import End, Pair, open_channel
from tests.node.channel.test_dance import balances, mirrored, offer

HASH = b"\x09" * 32


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    open_channel(made, push=3_000_000_000)
    return made


def signs_what_is_lost(pair: Pair, end: End) -> None:
    """The signer signs an HTLC of ours, and the process dies before that is saved."""
    end.lose_save = True
    end.do(Offer(OfferWant(Msat(50_000_000), HASH, 200, bytes(1366), "payment/lost")))
    assert end.died
    pair.disconnect()
    end.crash(lose_next=True)


def htlcs_in_the_signer(end: End) -> int:
    (channel,) = end.signer._channels.values()
    assert channel.state is not None
    return sum(len(v.content.htlcs) for side, v in channel.state.all_versions() if side is Side.COUNTERPARTY)


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_stray_version_is_revoked_on_a_channel_that_is_quiet(pair: Pair, who: str) -> None:
    """checklist 16: Bob has no update to repeat; his empty one is taken."""
    end: End = getattr(pair, who)
    signs_what_is_lost(pair, end)
    assert htlcs_in_the_signer(end) == 1
    before = end.state.committed.remote_number
    pair.connect()
    pair.quiet()
    assert end.state.committed.remote_number == before + 2  # one of the same number, and the one after it
    assert end.state.committed.stray is None
    end.do(CloseWanted())
    pair.quiet()
    for one in pair.ends:
        phase = one.state.committed.phase
        assert isinstance(phase, Closing)
        assert phase.kind is CloseKind.MUTUAL
        assert not one.state.volatile.stalled
        assert not one.drops


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_stray_version_does_not_hold_a_close_that_ran_at_the_crash(pair: Pair, who: str) -> None:
    """The commitment leaves before our shutdown, behind which no update may come."""
    end: End = getattr(pair, who)
    signs_what_is_lost(pair, end)
    end.do(CloseWanted())
    end.crash(lose_next=False)
    pair.connect()
    pair.quiet()
    assert all(isinstance(one.state.committed.phase, Closing) for one in pair.ends)
    assert not pair.alice.drops
    assert not pair.bob.drops


def test_the_opener_repeats_its_feerate_so_that_the_commitment_is_not_empty(pair: Pair) -> None:
    """Checklist 16: no empty commitment_signed where an update can be had."""
    signs_what_is_lost(pair, pair.alice)
    pair.connect()
    while not any(isinstance(decode(frame), CommitmentSigned) for frame in pair.alice.out.waiting):
        assert any(end.answer() or pair.deliver(end) for end in pair.ends)
    (first,) = [m for frame in pair.alice.out.waiting if isinstance(m := decode(frame), UpdateFee)]
    assert first.feerate_per_kw == pair.alice.state.committed.fees[0].feerate_per_kw
    pair.quiet()
    mirrored(pair)
    assert balances(pair) == (7_000_000_000, 3_000_000_000)


def test_what_is_due_anyway_takes_the_stray_version_away(pair: Pair) -> None:
    signs_what_is_lost(pair, pair.alice)
    pair.alice.do(FeerateMoved(FeeratePerKw(2000)))
    before = pair.alice.state.committed.remote_number
    pair.connect()
    pair.quiet()
    assert pair.alice.state.committed.remote_number == before + 2
    assert pair.alice.state.committed.fees[-1].feerate_per_kw == 2000


def test_a_second_crash_between_the_two_rounds_forgets_nothing(pair: Pair) -> None:
    signs_what_is_lost(pair, pair.bob)
    pair.connect()
    while pair.bob.state.committed.remote_number == 0:
        assert any(end.answer() or pair.deliver(end) for end in pair.ends)
    pair.disconnect()
    pair.bob.crash(lose_next=True)
    assert pair.bob.numbers().counterparty_signed == pair.bob.state.committed.remote_number
    pair.connect()
    pair.quiet()
    pair.bob.do(CloseWanted())
    pair.quiet()
    assert all(isinstance(end.state.committed.phase, Closing) for end in pair.ends)


def test_a_start_without_a_stray_version_signs_nothing(pair: Pair) -> None:
    """Checklist 16: no empty commitment_signed."""
    before = [end.state.committed.remote_number for end in pair.ends]
    pair.disconnect()
    for end in pair.ends:
        end.crash(lose_next=False)
    pair.connect()
    pair.quiet()
    assert [end.state.committed.remote_number for end in pair.ends] == before


def test_a_stray_version_holds_no_preimage_back(pair: Pair) -> None:
    """The received HTLC is missing in nothing that the signer remembers, once the stray version is revoked."""
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    signs_what_is_lost(pair, pair.bob)
    pair.connect()
    pair.quiet()
    pair.bob.do(Fulfil(0))
    pair.quiet()
    assert pair.alice.said.fulfilled
    assert isinstance(pair.alice.state.committed.phase, Normal)
