"""What a forward asks of its two channels: the incoming HTLC is told whole, the outgoing one names where it comes from
(BOLT 2, "Forwarding HTLCs"; BOLT 4, "Returning Errors"; DESIGN, "The signer contract")."""

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from node.channel import store
from node.channel.events import (
    Fail,
    Fulfil,
    Offer,
    SignerAnswered,
)
from node.channel.handover import running
from node.channel.state import FulfilWant, OfferWant, Want
from node.onchain.deadlines import must_close
from protocol.amounts import BlockHeight, Msat, scid
from protocol.bolt4 import failure as failures
from protocol.bolt4 import failure_onion, sphinx
from protocol.bolt4.payload import FinalPayload, ForwardPayload, encode_final, encode_forward
from protocol.bus.messages import signer as sign
from protocol.curve import point_of
from protocol.hashes import sha256
from protocol.secret import Secret
from protocol.wire.bolt2_update import UpdateFailHtlc
from protocol.wire.message import decode
from tests.node.channel.pair import End, Pair, invoice, onion_for, open_channel, question

PREIMAGE = b"\x21" * 32
HASH = sha256(PREIMAGE)
CAROL = b"\x77" * 32
REASON = failures.encode(failures.TemporaryNodeFailure())


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    open_channel(made, push=3_000_000_000)
    return made


def onion_through(end: End, amount: int) -> sphinx.Onion:
    """An onion whose next hop behind `end` is Carol, who is nobody's peer here."""
    hop = encode_forward(ForwardPayload(scid(200, 1, 0), Msat(amount), BlockHeight(160)))
    last = encode_final(FinalPayload(Msat(amount), BlockHeight(160), b"\x05" * 32, Msat(amount)))
    return sphinx.build(os.urandom(32), [(end.node_id, hop), (point_of(CAROL), last)], HASH)


def incoming(pair: Pair, amount: int = 50_000_000) -> sphinx.Onion:
    """Alice sends Bob something that is for Carol."""
    onion = onion_through(pair.bob, amount)
    pair.alice.do(Offer(OfferWant(Msat(amount), HASH, 200, onion.packet, "payment/1")))
    pair.quiet()
    return onion


def test_an_incoming_htlc_is_told_with_the_onion_for_the_next_hop_and_its_own_key(pair: Pair) -> None:
    onion = incoming(pair)
    (received,) = pair.bob.said.received
    assert not received.final
    assert received.onion_key == onion.packet[1:34]
    assert received.next_onion is not None
    peeled = sphinx.peel(Secret(CAROL), received.next_onion, HASH)
    assert peeled.next_packet is None


def test_an_incoming_htlc_is_told_when_the_peer_cannot_take_it_back_any_more(pair: Pair) -> None:
    """BOLT 2, Forwarding HTLCs: until it revoked the commitment without it, the peer may publish that one, and the next
    hop would be paid out of our pocket. checklist 15"""
    onion = onion_through(pair.bob, 50_000_000)
    pair.alice.do(Offer(OfferWant(Msat(50_000_000), HASH, 200, onion.packet, "payment/1")))
    pair.alice.answer()
    pair.deliver(pair.alice, 10)
    while pair.bob.answer():
        pass
    assert pair.bob.state.htlcs[False, 0].payload is not None
    assert not pair.bob.said.received
    pair.quiet()
    assert [event.htlc_id for event in pair.bob.said.received] == [0]


def test_an_incoming_htlc_is_told_the_same_after_every_start(pair: Pair) -> None:
    """Checklist 15: said again until it is resolved; the next onion and the key survive a restart."""
    incoming(pair)
    (before,) = pair.bob.said.received
    for _ in range(2):
        pair.disconnect()
        pair.bob.crash(lose_next=False)
    assert pair.bob.said.received == [before] * 3


def test_a_resolved_htlc_keeps_no_onion(pair: Pair) -> None:
    incoming(pair)
    pair.bob.do(Fail(0, REASON))
    pair.quiet()
    rows = pair.bob.database.read("SELECT done, next_onion, onion_key FROM htlcs WHERE offered = 0")
    assert [(done, onion, len(key)) for done, onion, key in rows] == [(1, None, 33)]


def test_a_forwarded_htlc_is_fulfilled_with_the_preimage_of_the_next_hop(pair: Pair) -> None:
    """Checklist 15: the signer is shown the preimage as evidence and notes the credit; no invoice is needed."""
    incoming(pair)
    pair.bob.do(Fulfil(0, PREIMAGE))
    assert sign.ReleasePreimage(HASH, (0,), PREIMAGE) in question(pair.bob)
    assert not pair.bob.out.waiting  # not before the signer knows and all is saved
    pair.quiet()
    (fulfilled,) = pair.alice.said.fulfilled
    assert fulfilled.preimage == PREIMAGE
    assert [event.fulfilled for event in pair.bob.said.resolved] == [True]
    assert pair.bob.state.committed.settled_local == 3_050_000_000


def test_a_wrong_preimage_is_not_even_shown_to_the_signer(pair: Pair) -> None:
    incoming(pair)
    pair.bob.do(Fulfil(0, bytes(32)))
    pair.quiet()
    assert pair.bob.state.htlcs[False, 0].preimage is None
    assert not pair.alice.said.fulfilled


@pytest.mark.parametrize("steps", [0, 1, 2], ids=["asked", "signed", "heard"])
def test_a_preimage_for_an_htlc_that_is_being_failed_stays_with_us(pair: Pair, steps: int) -> None:
    """The failure is signed, so it would be a gift: shown to the peer, in a commitment that does not pay for it."""
    incoming(pair)
    pair.bob.do(Fail(0, REASON))
    for _ in range(steps):
        pair.bob.answer()
        pair.deliver(pair.bob, 10)
        pair.alice.answer()
    pair.bob.do(Fulfil(0, PREIMAGE))
    pair.quiet()
    assert pair.alice.said.failed
    assert not pair.alice.said.fulfilled
    assert not pair.alice.drops + pair.bob.drops
    assert pair.bob.state.committed.settled_local == 3_000_000_000


@pytest.mark.parametrize("crash", [False, True], ids=["calm", "crashes"])
def test_a_preimage_outweighs_a_failure_that_has_not_left(pair: Pair, crash: bool) -> None:
    """Whatever made us want to fail it: the next hop was paid, and only this HTLC brings the money back."""
    incoming(pair)
    pair.bob.do(Offer(OfferWant(Msat(1_000_000), bytes(32), 200, bytes(1366), "payment/2")))
    pair.bob.do(Fail(0, REASON))  # waits while the line is taken
    pair.bob.do(Fulfil(0, PREIMAGE))
    if crash:
        pair.disconnect()
        pair.bob.crash(lose_next=False)
        pair.connect()
    pair.quiet()
    assert [event.preimage for event in pair.alice.said.fulfilled] == [PREIMAGE]
    assert not pair.alice.said.failed
    assert pair.bob.state.committed.settled_local == 3_050_000_000


def test_an_htlc_that_is_being_failed_is_not_failed_again(pair: Pair) -> None:
    """It would stand once more in a commitment that the peer has without it."""
    incoming(pair)
    pair.bob.do(Fail(0, REASON))
    pair.bob.answer()
    pair.deliver(pair.bob, 10)
    pair.bob.do(Fail(0, failures.encode(failures.UnknownNextPeer())))
    pair.quiet()
    assert len(pair.alice.said.failed) == 1
    assert not pair.alice.drops + pair.bob.drops
    assert not pair.alice.state.htlcs
    assert not pair.bob.state.htlcs


def test_a_preimage_that_is_told_again_after_the_end_changes_nothing(pair: Pair) -> None:
    incoming(pair)
    pair.bob.do(Fulfil(0, PREIMAGE))
    pair.quiet()
    pair.bob.do(Fulfil(0, PREIMAGE), Fulfil(0), Fail(0, REASON))
    pair.quiet()
    assert len(pair.alice.said.fulfilled) == 1
    assert pair.bob.state.committed.settled_local == 3_050_000_000


def test_a_preimage_that_came_while_the_peer_is_away_is_kept_and_leaves_later(pair: Pair) -> None:
    """Checklist 29: nobody needs to say it again after a crash; a later failure changes nothing."""
    incoming(pair)
    pair.disconnect()
    pair.bob.do(Fulfil(0, PREIMAGE))
    pair.bob.crash(lose_next=False)
    assert pair.bob.state.htlcs[False, 0].preimage == PREIMAGE
    pair.bob.do(Fail(0, REASON))
    pair.connect()
    pair.quiet()
    assert [event.preimage for event in pair.alice.said.fulfilled] == [PREIMAGE]
    assert not pair.alice.said.failed


def test_a_crash_asks_the_signer_with_the_same_evidence(pair: Pair) -> None:
    """Checklist 29: the open question is asked again byte for byte."""
    incoming(pair)
    pair.bob.do(Fulfil(0, PREIMAGE))
    asked = question(pair.bob)
    pair.disconnect()
    pair.bob.crash(lose_next=True)
    assert question(pair.bob) == asked
    pair.connect()
    pair.quiet()
    assert pair.alice.said.fulfilled


def test_origins_are_found_by_name(pair: Pair) -> None:
    """A start reads what is under way, by an index, whatever a channel has carried before."""
    incoming(pair)
    pair.bob.do(Fulfil(0, PREIMAGE))
    pair.quiet()
    database = pair.alice.database
    many = [f"payment/{number}" for number in range(2000)]
    assert store.origins(database, many) == [("payment/1", PREIMAGE, None, None, 1, None)]
    assert store.origins(database) == store.origins(database, many)
    assert store.origins(database, ()) == []
    plan = database.read("EXPLAIN QUERY PLAN SELECT 1 FROM htlcs WHERE offered = 1 AND origin IN ('a', 'b')")
    assert any("htlcs_by_origin" in str(step) for step in plan)


# Parts of a payment to us that came over several channels.

OTHERS = ((b"\x44" * 32, (7,)),)


def part_of_invoice(pair: Pair) -> sign.InvoiceMade:
    made = invoice(pair.bob, 50_000_000)
    packet = onion_for(pair.bob, made, 50_000_000, 160)
    pair.alice.do(Offer(OfferWant(Msat(50_000_000), made.payment_hash, 200, packet, "payment/1")))
    pair.quiet()
    return made


def test_a_part_is_fulfilled_with_what_stands_in_other_channels_and_so_again_after_a_crash(
    pair: Pair,
) -> None:
    """checklist 29, 37: the open question is asked again byte for byte."""
    made = part_of_invoice(pair)
    pair.bob.do(Fulfil(0, None, OTHERS))
    asked = question(pair.bob)
    assert sign.ReleasePreimage(made.payment_hash, (0,), None, OTHERS) in asked
    pair.disconnect()
    pair.bob.crash(lose_next=True)
    assert question(pair.bob) == asked


def bare(wants: tuple[Want, ...]) -> list[FulfilWant]:
    """What is to be fulfilled; each has the attribution data that goes with it."""
    found = [want for want in wants if isinstance(want, FulfilWant)]
    assert len(found) == len(wants) and all(want.attribution for want in found)
    return [replace(want, attribution=None) for want in found]


def test_a_part_that_waits_for_another_channel_is_parked_with_what_stands_there(pair: Pair) -> None:
    part_of_invoice(pair)
    pair.bob.do(Fulfil(0, None, OTHERS))
    ask = pair.bob.asks.popleft()
    refusal = sign.Refused("release-htlcs", "a rule", "seen", "limit", "wait")
    before = tuple(op for op in ask.operations if isinstance(op, sign.AcceptRevocation))
    told = pair.bob.call(sign.ChannelRequest(pair.bob.state.committed.params.handle, before))
    assert isinstance(told, sign.ChannelAnswer)
    pair.bob.do(SignerAnswered(ask.ask, sign.ChannelAnswer(told.results, refusal)))
    assert bare(pair.bob.state.volatile.parked) == [FulfilWant(0, None, OTHERS)]


def test_the_newest_word_on_a_part_counts(pair: Pair) -> None:
    """After a restart the parts are told one by one."""
    made = part_of_invoice(pair)
    pair.disconnect()
    pair.bob.do(Fulfil(0), Fulfil(0, None, OTHERS), Fulfil(0))
    assert bare(pair.bob.state.volatile.wants) == [FulfilWant(0, None, OTHERS)]
    pair.connect()
    while not pair.bob.asks and (pair.deliver(pair.alice) or pair.deliver(pair.bob)):
        pass
    assert sign.ReleasePreimage(made.payment_hash, (0,), None, OTHERS) in question(pair.bob)


def test_a_part_whose_peer_is_away_forces_its_channel_onto_the_chain_in_time(pair: Pair) -> None:
    """checklist 43: the preimage may be out over another channel, so this part must be claimed before it expires."""
    part_of_invoice(pair)
    pair.disconnect()
    state = pair.bob.state
    assert must_close(running(state.committed, state.htlcs, state.volatile), BlockHeight(182)) is None
    pair.bob.do(Fulfil(0, None, OTHERS))
    state = pair.bob.state
    assert must_close(running(state.committed, state.htlcs, state.volatile), BlockHeight(181)) is None
    assert must_close(running(state.committed, state.htlcs, state.volatile), BlockHeight(182)) is not None


@pytest.mark.parametrize("promised", [True, False])
def test_what_was_promised_forces_its_channel_onto_the_chain_and_else_it_lapses(
    pair: Pair, promised: bool
) -> None:
    """checklist 43: a hold invoice was settled while the payer's side was away: the goods are gone. Of an invoice that
    nobody called paid, nothing is lost when the payer takes the money back."""
    part_of_invoice(pair)
    pair.disconnect()
    pair.bob.do(Fulfil(0, promised=promised))
    pair.bob.do(Fulfil(0))  # said again, by whoever does not know
    state = pair.bob.state
    due = running(state.committed, state.htlcs, state.volatile)
    assert must_close(due, BlockHeight(181)) is None
    assert (must_close(due, BlockHeight(182)) is not None) is promised


def test_a_refused_evidence_is_parked_and_shown_again(pair: Pair) -> None:
    """What we paid the next hop for is never given up."""
    incoming(pair)
    pair.bob.do(Fulfil(0, PREIMAGE))
    ask = pair.bob.asks.popleft()
    refusal = sign.Refused("release-htlcs", "a rule", "seen", "limit", "wait")
    before = tuple(op for op in ask.operations if isinstance(op, sign.AcceptRevocation))
    told = pair.bob.call(sign.ChannelRequest(pair.bob.state.committed.params.handle, before))
    assert isinstance(told, sign.ChannelAnswer)
    pair.bob.do(SignerAnswered(ask.ask, sign.ChannelAnswer(told.results, refusal)))
    assert bare(pair.bob.state.volatile.parked) == [FulfilWant(0, PREIMAGE)]
    assert pair.bob.state.htlcs[False, 0].preimage == PREIMAGE
    pair.alice.do(Offer(OfferWant(Msat(1_000_000), HASH, 200, bytes(1366), "payment/2")))
    pair.quiet()
    assert pair.alice.said.fulfilled


def test_the_failure_of_the_next_hop_is_wrapped_once(pair: Pair) -> None:
    """BOLT 4, Returning Errors: the payer opens one layer of ours and finds Carol's failure."""
    onion = incoming(pair)
    carol = failure_onion.create(onion.shared_secrets[1], failures.UnknownNextPeer())
    pair.bob.do(Fail(0, carol, from_next=True))
    pair.quiet()
    (failed,) = pair.alice.said.failed
    found = failure_onion.unwrap(onion.shared_secrets, failed.reason)
    assert found == failure_onion.Attributed(1, failures.UnknownNextPeer())


def test_our_own_failure_is_made_and_not_only_wrapped(pair: Pair) -> None:
    onion = incoming(pair)
    pair.bob.do(Fail(0, REASON))
    pair.quiet()
    found = failure_onion.unwrap(onion.shared_secrets, pair.alice.said.failed[0].reason)
    assert found == failure_onion.Attributed(0, failures.TemporaryNodeFailure())


def test_a_failure_is_not_passed_on_before_it_is_irrevocable(pair: Pair) -> None:
    """Checklist 15: an update_fail_htlc alone tells nobody anything."""
    incoming(pair)
    pair.alice.said.failed.clear()
    pair.bob.do(Fail(0, REASON))
    while not pair.bob.out.waiting:
        assert pair.bob.answer()
    assert isinstance(decode(pair.bob.out.waiting[0]), UpdateFailHtlc)
    pair.deliver(pair.bob)
    assert not pair.alice.said.failed
