"""The end of a forward in its two channels, and what the signer is told of it before anybody else (BOLT 2, "Forwarding
HTLCs"; DESIGN, "The signer contract")."""

from pathlib import Path

import pytest

from node.channel import store
from node.channel.events import (
    Fail,
    Fulfil,
    FundingSpent,
    Offer,
    ResolvedOnChain,
    SettledOnChain,
)
from node.channel.state import Closed, Closing, OfferWant
from protocol.amounts import BlockHeight, Msat, Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bolt4 import failure as failures
from protocol.bus.messages import signer as sign
from protocol.hashes import sha256
from protocol.wire.bolt2_update import UpdateFulfillHtlc
from protocol.wire.message import decode
from tests.node.channel.pair import End, Pair, open_channel, question
from tests.node.channel.three import AMOUNT, FEE, PUSH, Row

PREIMAGE = b"\x21" * 32
HASH = sha256(PREIMAGE)
REASON = failures.encode(failures.TemporaryNodeFailure())


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    open_channel(made, push=3_000_000_000)
    return made


@pytest.fixture
def row(tmp_path: Path) -> Row:
    return Row(tmp_path)


def signings(end: End) -> list[sign.SignCounterparty]:
    return [op for ask in end.asks for op in ask.operations if isinstance(op, sign.SignCounterparty)]


def test_the_signer_is_told_which_incoming_htlc_an_offer_passes_on(row: Row) -> None:
    row.receive(HASH)
    row.out.do(Offer(OfferWant(Msat(1_000_000), b"\x09" * 32, 200, bytes(1366), "payment/2")))
    assert [op.forwards for op in signings(row.out)] == [()]
    row.pass_on()  # it waits for the next round
    row.out.answer()
    while not signings(row.out):
        assert any(end.answer() or row.second.deliver(end) for end in row.second.ends)
    assert [op.forwards for op in signings(row.out)] == [(sign.Forward(1, row.channel_id, 0),)]


def test_an_htlc_names_its_source_only_in_the_commitment_that_adds_it(row: Row) -> None:
    row.receive(HASH)
    row.pass_on()
    assert [len(op.forwards) for op in signings(row.out)] == [1]
    row.out.answer()
    row.out.do(Offer(OfferWant(Msat(1_000_000), b"\x09" * 32, 200, bytes(1366), "payment/2")))
    seen: list[sign.SignCounterparty] = []
    while any(end.answer() or row.second.deliver(end) for end in row.second.ends):
        seen += signings(row.out)
    assert seen
    assert not any(op.forwards for op in seen)


def test_a_resent_commitment_names_the_source_again(row: Row) -> None:
    """Checklist 27: the same request, byte for byte."""
    row.receive(HASH)
    row.pass_on()
    asked = signings(row.out)
    row.out.answer()
    row.second.disconnect()
    row.second.connect()
    while not row.out.asks:
        assert any(end.answer() or row.second.deliver(end) for end in row.second.ends)
    assert signings(row.out) == asked


def drive_to_revocation(row: Row) -> None:
    """Moves all until Alice heard the revocation that takes her forward away, and no further."""
    decided = False
    for _ in range(200):
        htlc = row.out.state.htlcs.get((True, 0))
        committed = row.out.state.committed
        if htlc is not None and htlc.remote_to is not None and htlc.remote_to <= committed.remote_revoked:
            return
        if row.bob.said.received and not decided:
            decided = True
            row.bob.do(Fail(0, REASON))
        if not any(end.answer() or row.second.deliver(end) for end in row.second.ends):
            break
    raise AssertionError("the HTLC was never removed")


def pass_on(row: Row) -> None:
    row.receive(HASH)
    row.pass_on()


def test_a_failed_forward_is_told_once_the_signer_knows_that_it_is_gone(row: Row) -> None:
    """The signer lets the incoming HTLC fail only when no version that it knows holds the outgoing one; so it is told
    of the revocation at once, and payments after it."""
    pass_on(row)
    drive_to_revocation(row)
    assert not row.out.said.failed
    assert [type(op) for op in question(row.out)] == [sign.AcceptRevocation]
    row.out.answer()
    (failed,) = row.out.said.failed
    assert failed.origin == row.origin
    row.inn.do(Fail(0, failed.reason, from_next=True))
    row.first.quiet()
    assert row.carol.said.failed
    assert not row.inn.state.volatile.stalled
    assert not row.inn.state.htlcs


def test_failing_the_incoming_htlc_before_is_what_the_signer_refuses(row: Row) -> None:
    pass_on(row)
    row.second.quiet()
    row.inn.do(Fail(0, REASON))
    row.first.quiet()
    assert "onward-lives" in row.inn.state.volatile.stalled
    assert not row.carol.said.failed


def test_a_failed_payment_of_our_own_is_told_without_an_extra_request(pair: Pair) -> None:
    pair.alice.do(Offer(OfferWant(Msat(50_000_000), HASH, 200, bytes(1366), "payment/1")))
    for _ in range(200):
        if pair.alice.said.failed or not any(end.answer() or pair.deliver(end) for end in pair.ends):
            break
    assert pair.alice.said.failed
    assert pair.alice.state.committed.unaccepted is not None


@pytest.mark.parametrize("lose_next", [True, False])
@pytest.mark.parametrize("answered", [True, False])
def test_a_failed_forward_is_told_after_a_crash_too(row: Row, answered: bool, lose_next: bool) -> None:
    """Checklist 29: whether the question, or its answer, was lost."""
    pass_on(row)
    drive_to_revocation(row)
    if answered:
        row.out.answer()
    assert bool(row.out.said.failed) == answered
    row.second.disconnect()
    row.out.crash(lose_next=lose_next)
    row.second.connect()
    row.second.quiet()
    found = row.out.database.read("SELECT origin, done FROM htlcs WHERE offered = 1")
    assert found == [(row.origin, 1)]
    # Told at least once; what was told before a crash payments find in `LiveOrigins`.
    assert {event.origin for event in row.out.said.failed} == {row.origin}


def test_a_fulfilled_forward_is_told_at_first_sight_and_brings_the_money(row: Row) -> None:
    """Checklist 15: an update_fulfill_htlc is passed upstream at once, before it is irrevocable."""
    pass_on(row)
    row.second.quiet()
    row.bob.do(Fulfil(0, PREIMAGE))
    while not row.bob.out.waiting:
        assert row.bob.answer()
    assert isinstance(decode(row.bob.out.waiting[0]), UpdateFulfillHtlc)
    row.second.deliver(row.bob)
    (told,) = row.out.said.fulfilled
    assert (told.origin, told.preimage) == (row.origin, PREIMAGE)
    assert row.out.state.htlcs[True, 0].local_to is None
    row.inn.do(Fulfil(0, told.preimage))
    row.first.quiet()
    assert [event.preimage for event in row.carol.said.fulfilled] == [PREIMAGE]
    row.second.quiet()
    assert row.inn.state.committed.settled_local == PUSH + AMOUNT + FEE
    assert row.out.state.committed.settled_local == 10_000_000_000 - PUSH - AMOUNT


def spend_of(row: Row) -> bytes:
    """Any transaction that spends the funding of the second channel, with the look of Bob's commitment."""
    funding = row.out.state.committed.params.fundings[0]
    spend = TxIn(OutPoint(funding.txid, funding.index), sequence=0x80000000)
    return Transaction(2, (spend,), (TxOut(Sat(1000), b"\x00\x14" + bytes(20)),), 0x20000000).serialize()


def closed_on_chain(row: Row) -> None:
    pass_on(row)
    row.second.quiet()
    row.out.do(FundingSpent(spend_of(row), BlockHeight(190), 1))
    row.out.do(SettledOnChain(True, 0, paid=False))


def test_a_forward_that_timed_out_on_chain_is_told_once_the_signer_was_told(row: Row) -> None:
    """Checklist 44: only then may the incoming HTLC fail."""
    closed_on_chain(row)
    assert not row.out.said.failed
    assert sign.HtlcBuried(0, spend_of(row)) in question(row.out)
    row.out.do(ResolvedOnChain())
    assert isinstance(row.out.state.committed.phase, Closing)
    row.out.answer()
    (failed,) = row.out.said.failed
    assert failed.origin == row.origin
    assert isinstance(row.out.state.committed.phase, Closed)
    row.inn.do(Fail(0, REASON))
    row.first.quiet()
    assert row.carol.said.failed


def test_a_forward_that_timed_out_on_chain_is_known_to_have_failed_after_a_crash(row: Row) -> None:
    """Else its origin would be offered a second time, or wait for ever."""
    closed_on_chain(row)
    row.out.answer()
    assert row.out.said.failed
    row.out.crash(lose_next=False)
    assert not row.out.state.htlcs
    assert store.origins(row.out.database) == [(row.origin, None, None, None, 1, None)]


def test_a_signer_that_is_away_is_told_of_the_burial_later(row: Row) -> None:
    closed_on_chain(row)
    row.out.answer(not_now=True)
    assert not row.out.said.failed
    row.out.signer_is_back()
    row.out.answer()
    assert row.out.said.failed


def test_a_forward_that_the_chain_paid_is_told_at_once(row: Row) -> None:
    """Checklist 46."""
    pass_on(row)
    row.second.quiet()
    row.out.do(FundingSpent(spend_of(row), BlockHeight(190), 1))
    row.out.do(SettledOnChain(True, 0, paid=True, preimage=PREIMAGE))
    assert [event.preimage for event in row.out.said.fulfilled] == [PREIMAGE]
    assert not any(isinstance(op, sign.HtlcBuried) for ask in row.out.asks for op in ask.operations)
