"""The ordinary life of a channel: open, pay, fail, disconnect, close (BOLT 2)."""

import os
from pathlib import Path

import pytest

from node.channel.content import content
from node.channel.events import CloseWanted, Fail, FeerateMoved, Fulfil, Offer
from node.channel.state import CloseKind, Closing, Normal, OfferWant
from protocol.amounts import FeeratePerKw, Msat
from protocol.bolt3.commitment import Side
from protocol.bolt4 import failure as failures
from protocol.hashes import sha256
from tests.node.channel.pair import End, Pair, invoice, onion_for, open_channel


@pytest.fixture(params=[True, False], ids=["anchors", "static_remotekey"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    open_channel(made, anchors=request.param, push=3_000_000_000)
    return made


def offer(pair: Pair, payer: End, amount: int) -> str:
    payee = pair.other(payer)
    made = invoice(payee, amount)
    origin = os.urandom(4).hex()
    onion = onion_for(payee, made, amount, 200)
    payer.do(Offer(OfferWant(Msat(amount), made.payment_hash, 200, onion, origin)))
    return origin


def balances(pair: Pair) -> tuple[int, int]:
    alice, bob = pair.alice.state.committed, pair.bob.state.committed
    assert alice.settled_local == bob.settled_remote
    assert alice.settled_remote == bob.settled_local
    return alice.settled_local, bob.settled_local


def mirrored(pair: Pair) -> None:
    """Both ends agree on both commitments when the line is quiet."""
    for one, two in ((pair.alice, pair.bob), (pair.bob, pair.alice)):
        a, b = one.state, two.state
        ours = content(a.committed, a.htlcs, Side.HOLDER, a.committed.local_number)
        theirs = content(b.committed, b.htlcs, Side.COUNTERPARTY, b.committed.remote_number)
        assert ours.number == theirs.number
        assert ours.feerate_per_kw == theirs.feerate_per_kw
        assert (ours.to_owner_msat, ours.to_other_msat) == (theirs.to_owner_msat, theirs.to_other_msat)
        assert set(ours.htlcs) == set(theirs.htlcs)


def test_a_new_channel_is_usable_by_both(pair: Pair) -> None:
    for end in pair.ends:
        assert isinstance(end.state.committed.phase, Normal)
    assert balances(pair) == (7_000_000_000, 3_000_000_000)
    mirrored(pair)


@pytest.mark.parametrize("direction", ["there", "back"])
def test_a_payment_moves_the_money_and_leaves_no_htlc(pair: Pair, direction: str) -> None:
    """checklist 15, 16, 23"""
    payer = pair.alice if direction == "there" else pair.bob
    payee = pair.other(payer)
    before = balances(pair)
    origin = offer(pair, payer, 50_000_000)
    pair.quiet()
    (received,) = payee.said.received
    assert received.final
    mirrored(pair)
    payee.do(Fulfil(received.htlc_id))
    pair.quiet()
    (fulfilled,) = payer.said.fulfilled
    assert fulfilled.origin == origin
    assert sha256(fulfilled.preimage) == received.payment_hash
    moved = 50_000_000 if payer is pair.alice else -50_000_000
    assert balances(pair) == (before[0] - moved, before[1] + moved)
    assert not pair.alice.state.htlcs
    assert not pair.bob.state.htlcs
    assert payee.said.resolved[0].fulfilled
    mirrored(pair)


def test_a_lone_payment_costs_four_requests_and_three_commits_a_side(pair: Pair) -> None:
    """DESIGN, Throughput: at most four signer requests and three durable commits a side."""
    for end in pair.ends:
        end.saves = end.requests = 0
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    pair.bob.do(Fulfil(0))
    pair.quiet()
    assert pair.alice.saves <= 3
    assert pair.bob.saves <= 3
    assert pair.alice.requests <= 4
    assert pair.bob.requests <= 3  # and one to peel the onion


def test_a_failed_payment_gives_the_money_back(pair: Pair) -> None:
    before = balances(pair)
    origin = offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    reason = failures.encode(failures.IncorrectOrUnknownPaymentDetails(Msat(50_000_000), 110))
    pair.bob.do(Fail(0, reason))
    pair.quiet()
    assert pair.alice.said.failed[0].origin == origin
    assert balances(pair) == before
    assert not pair.alice.state.htlcs
    mirrored(pair)


def test_what_is_being_failed_is_not_fulfilled_any_more(pair: Pair) -> None:
    """The invoice would count as paid, and the payer would have its preimage for nothing."""
    before = balances(pair)
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    reason = failures.encode(failures.IncorrectOrUnknownPaymentDetails(Msat(50_000_000), 110))
    pair.bob.do(Fail(0, reason))
    pair.bob.do(Fulfil(0))
    pair.quiet()
    assert pair.alice.said.failed
    assert not pair.alice.said.fulfilled
    assert balances(pair) == before
    assert not pair.bob.state.volatile.stalled
    mirrored(pair)


def test_what_is_being_fulfilled_is_not_fulfilled_again(pair: Pair) -> None:
    """It would stand once more in a commitment that the peer has without it."""
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    pair.bob.do(Fulfil(0))
    pair.bob.answer()
    pair.deliver(pair.bob, 10)
    pair.bob.do(Fulfil(0))
    pair.quiet()
    assert len(pair.alice.said.fulfilled) == 1
    assert not pair.alice.drops + pair.bob.drops
    assert balances(pair) == (6_950_000_000, 3_050_000_000)
    mirrored(pair)


def test_a_new_feerate_and_a_removal_fit_in_one_commitment(pair: Pair) -> None:
    offer(pair, pair.alice, 50_000_000)
    offer(pair, pair.bob, 50_000_000)
    pair.quiet()
    pair.alice.do(Fulfil(0), FeerateMoved(FeeratePerKw(1500)))
    pair.quiet()
    assert pair.bob.said.fulfilled
    assert pair.bob.state.committed.fees[-1].feerate_per_kw == 1500
    mirrored(pair)


def test_many_payments_both_ways_at_once(pair: Pair) -> None:
    """checklist 15, 16"""
    before = balances(pair)
    for n in range(30):
        offer(pair, pair.alice, 1_000_000 + n)
        offer(pair, pair.bob, 2_000_000 + n)
    pair.quiet()
    for end in pair.ends:
        assert len(end.said.received) == 30
        for received in end.said.received:
            end.do(Fulfil(received.htlc_id))
    pair.quiet()
    moved = sum(2_000_000 + n - 1_000_000 - n for n in range(30))
    assert balances(pair) == (before[0] + moved, before[1] - moved)
    mirrored(pair)


def test_an_offer_above_what_can_be_spent_is_refused_before_anything_is_sent(pair: Pair) -> None:
    """BOLT 2, Adding an HTLC: must not offer an amount it cannot pay for while keeping the reserve. checklist 19"""
    offer(pair, pair.alice, 6_990_000_000)
    assert pair.alice.said.refused
    assert not pair.alice.out.waiting
    assert not pair.alice.state.htlcs


def test_reconnection_at_every_message_of_a_payment_loses_nothing(tmp_path: Path) -> None:
    """BOLT 2, Message Retransmission: cut the line after each message in turn. checklist 26, 27"""
    for cut in range(14):
        pair = Pair(tmp_path / str(cut))
        open_channel(pair, push=3_000_000_000)
        offer(pair, pair.alice, 50_000_000)
        _move(pair, cut)
        pair.disconnect()
        pair.connect()
        pair.quiet()
        for received in pair.bob.said.received[:1]:
            pair.bob.do(Fulfil(received.htlc_id))
        pair.quiet()
        if pair.alice.said.refused:
            continue
        assert pair.alice.said.fulfilled, cut
        assert balances(pair) == (6_950_000_000, 3_050_000_000), cut
        mirrored(pair)


def _move(pair: Pair, count: int) -> None:
    """Moves single messages and answers until `count` of them moved."""
    for _ in range(count):
        for end in pair.ends:
            if end.answer() or pair.deliver(end):
                break
        else:
            for received in pair.bob.said.received:
                pair.bob.do(Fulfil(received.htlc_id))


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_a_cooperative_close_pays_both(pair: Pair, who: str) -> None:
    """checklist 54"""
    getattr(pair, who).do(CloseWanted())
    pair.quiet()
    for end in pair.ends:
        phase = end.state.committed.phase
        assert isinstance(phase, Closing)
        assert phase.kind is CloseKind.MUTUAL
    assert pair.alice.published[0] == pair.bob.published[0]


def test_a_close_waits_for_running_htlcs(pair: Pair) -> None:
    """checklist 53"""
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    pair.bob.do(CloseWanted())
    pair.quiet()
    assert not pair.alice.published
    offer(pair, pair.alice, 1_000_000)
    assert pair.alice.said.refused
    pair.bob.do(Fulfil(0))
    pair.quiet()
    assert pair.alice.published
    assert pair.alice.said.fulfilled
