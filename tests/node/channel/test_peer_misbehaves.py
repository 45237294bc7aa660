"""What a peer may not do, one offence at a time (BOLT 2; BOLT 1, "error" and "warning").

An offence costs the peer its connection and a warning. The channel stays as it was saved: after a reconnection
it pays both ways. Only where the BOLT says so does the channel end, and then with our newest commitment.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from node.channel.events import (
    Fail,
    FromPeer,
    Fulfil,
    Offer,
)
from node.channel.state import Limits, Normal, OfferWant, Offline
from node.channel.terms import Policy
from protocol import curve
from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bitcoin.script import p2wpkh
from protocol.bolt4 import failure as failures
from protocol.secret import Secret
from protocol.wire.bolt1 import Warning
from protocol.wire.bolt2_close import ClosingSigned, Shutdown
from protocol.wire.bolt2_open import ChannelReady
from protocol.wire.bolt2_reestablish import ChannelReestablish
from protocol.wire.bolt2_update import (
    CommitmentSigned,
    RevokeAndAck,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
)
from protocol.wire.message import Message, decode
from tests.node.channel.pair import End, Pair, invoice, onion_for, open_channel
from tests.node.channel.test_dance import balances, mirrored, offer

REASON = failures.encode(failures.IncorrectOrUnknownPaymentDetails(Msat(1), 110))
POINT = curve.point_of(b"\x07" * 32)
JUNK = curve.sign_ecdsa(b"\x07" * 32, b"\x08" * 32)


class Strict(Policy, frozen=True):
    """Limits that a test can reach."""

    def limits(self, funding: Sat) -> Limits:
        usual = super().limits(funding)
        return Limits(
            dust_limit=usual.dust_limit,
            reserve=usual.reserve,
            to_self_delay=usual.to_self_delay,
            max_accepted_htlcs=3,
            htlc_minimum=Msat(1000),
            max_in_flight=Msat(1_000_000_000),
        )


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """An HTLC of alice (id 0) and one of bob (id 0) are irrevocably committed."""
    made = Pair(tmp_path)
    open_channel(made, push=3_000_000_000, policy=Strict())
    offer(made, made.alice, 50_000_000)
    offer(made, made.bob, 20_000_000)
    made.quiet()
    return made


def channel_id(pair: Pair) -> bytes:
    found: bytes = pair.alice.state.committed.params.channel_id
    return found


def add(pair: Pair, htlc_id: int, amount: int = 1_000_000, expiry: int = 200) -> UpdateAddHtlc:
    return UpdateAddHtlc(channel_id(pair), htlc_id, Msat(amount), bytes(32), expiry, bytes(1366))


def commitment(pair: Pair, *htlcs: bytes) -> CommitmentSigned:
    return CommitmentSigned(channel_id(pair), JUNK, htlcs)


def hear(victim: End, *messages: Message) -> None:
    victim.do(*[FromPeer(message) for message in messages])


def offend(pair: Pair, *messages: Message, says: str, victim: End | None = None) -> None:
    """The victim hangs up with a warning, keeps the channel as it was, and goes on after a reconnection."""
    end = victim or pair.alice
    before = end.state
    hear(end, *messages)
    while end.answer():
        pass
    assert end.drops, "the offence went through"
    assert says in end.drops[0].reason
    assert isinstance(end.drops[0].messages[0], Warning)
    assert end.state.committed.phase == before.committed.phase
    assert end.state.committed.local_number == before.committed.local_number
    assert end.state.committed.remote_revoked == before.committed.remote_revoked
    assert {key: (row.local_from, row.local_to) for key, row in end.state.htlcs.items()} == {
        key: (row.local_from, row.local_to) for key, row in before.htlcs.items()
    }
    assert isinstance(end.state.volatile.link, Offline)
    end.drops.clear()
    goes_on(pair)


def goes_on(pair: Pair) -> None:
    pair.disconnect()
    pair.connect()
    pair.quiet()
    if isinstance(pair.alice.state.committed.phase, Normal):
        for payer in pair.ends:
            before, paid = balances(pair), len(payer.said.fulfilled)
            offer(pair, payer, 2_000_000)
            pair.quiet()
            payee = pair.other(payer)
            payee.do(Fulfil(payee.said.received[-1].htlc_id))
            pair.quiet()
            assert len(payer.said.fulfilled) == paid + 1
            moved = 2_000_000 if payer is pair.alice else -2_000_000
            assert balances(pair) == (before[0] - moved, before[1] + moved)
        mirrored(pair)
    for end in pair.ends:
        assert not end.drops
        assert not end.published


Offence = tuple[str, Callable[[Pair], list[Message]]]

OFFENCES: dict[str, Offence] = {
    "an id is skipped": ("HTLC id 2 where 1", lambda p: [add(p, 2)]),
    "an id comes again": ("HTLC id 0 where 1", lambda p: [add(p, 0)]),
    "an HTLC is below our minimum": ("below our minimum", lambda p: [add(p, 1, 999)]),
    "an HTLC is of nothing": ("below our minimum", lambda p: [add(p, 1, 0)]),
    "an expiry is a time": ("is a time", lambda p: [add(p, 1, expiry=500_000_000)]),
    "too many HTLCs": (
        "4 HTLCs at once, we accept 3",
        lambda p: [add(p, 1), add(p, 2), add(p, 3), commitment(p)],
    ),
    "too much in flight": (
        "in flight",
        lambda p: [add(p, 1, 980_000_001), commitment(p)],
    ),
    "a commitment signature is wrong": (
        "signature on our commitment",
        lambda p: [add(p, 1), commitment(p, JUNK)],
    ),
    "revoke_and_ack without a commitment": (
        "without a commitment_signed",
        lambda p: [RevokeAndAck(channel_id(p), Secret(b"\x01" * 32), POINT)],
    ),
    "an unknown HTLC is fulfilled": (
        "not there to be removed",
        lambda p: [UpdateFulfillHtlc(channel_id(p), 1, Secret(bytes(32)))],
    ),
    "an unknown HTLC is failed": (
        "not there to be removed",
        lambda p: [UpdateFailHtlc(channel_id(p), 9, b"")],
    ),
    "an unknown HTLC is failed as malformed": (
        "not there to be removed",
        lambda p: [UpdateFailMalformedHtlc(channel_id(p), 9, bytes(32), 0xC005)],
    ),
    "an HTLC is removed twice": (
        "removed twice",
        lambda p: [UpdateFailHtlc(channel_id(p), 0, b"x"), UpdateFailHtlc(channel_id(p), 0, b"x")],
    ),
    "a preimage is wrong": (
        "preimage for HTLC 0 is wrong",
        lambda p: [UpdateFulfillHtlc(channel_id(p), 0, Secret(bytes(32)))],
    ),
    "malformed without BADONION": (
        "BADONION",
        lambda p: [UpdateFailMalformedHtlc(channel_id(p), 0, bytes(32), 0x4005)],
    ),
    "a feerate from the side that did not open": (
        "did not open",
        lambda p: [UpdateFee(channel_id(p), FeeratePerKw(2000))],
    ),
    "channel_reestablish in the middle": (
        "out of turn",
        lambda p: [ChannelReestablish(channel_id(p), 1, 0, Secret(bytes(32)), POINT)],
    ),
    "a point that is none": (
        "second_per_commitment_point is no point",
        lambda p: [ChannelReady(channel_id(p), b"\x02" + b"\xff" * 32)],
    ),
    "shutdown to a strange script": ("unknown form", lambda p: [Shutdown(channel_id(p), b"\x51")]),
    "shutdown to another script than promised": (
        "upfront",
        lambda p: [Shutdown(channel_id(p), p2wpkh(POINT))],
    ),
    "closing_signed in the middle": (
        "before the channel is clear",
        lambda p: [ClosingSigned(channel_id(p), Sat(500), JUNK)],
    ),
}


@pytest.mark.parametrize("name", OFFENCES)
def test_an_offence_costs_the_connection_and_nothing_else(pair: Pair, name: str) -> None:
    """checklist 8, 9, 15, 18, 20, 22, 23, 26, 32, 53, 54"""
    says, made = OFFENCES[name]
    offend(pair, *made(pair), says=says)


@pytest.mark.parametrize("rate", [0, 252, 500_001, 0xFFFFFFFF])
def test_an_absurd_feerate_is_not_taken(pair: Pair, rate: int) -> None:
    """checklist 22"""
    offend(pair, UpdateFee(channel_id(pair), FeeratePerKw(rate)), says="out of all bounds", victim=pair.bob)


def test_a_feerate_that_the_opener_cannot_pay_is_not_taken(tmp_path: Path) -> None:
    """BOLT 2, Updating Fees: it may be judged when it is committed. checklist 22"""
    pair = Pair(tmp_path)
    open_channel(pair, funding=1_000_000, push=900_000_000)
    fee = UpdateFee(channel_id(pair), FeeratePerKw(100_000))
    offend(pair, fee, commitment(pair), says="cannot pay the fee", victim=pair.bob)


def test_an_htlc_that_eats_the_reserve_is_not_taken(tmp_path: Path) -> None:
    """checklist 19"""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000)
    hear(pair.alice, add(pair, 0, 2_900_000_000))
    assert not pair.alice.drops
    pair.disconnect()
    pair.connect()
    pair.quiet()
    offend(pair, add(pair, 0, 2_900_000_001), commitment(pair, JUNK), says="above its reserve")


def test_what_the_peer_wins_in_a_commitment_it_may_spend_in_it(tmp_path: Path) -> None:
    """BOLT 2, Adding an HTLC: the offer must be payable in the commitment that the receiver gets, not before.

    Other implementations do so; the balance that we book ourselves comes a revocation later. checklist 19
    """
    pair = Pair(tmp_path)
    open_channel(pair, push=200_000_000)
    offer(pair, pair.alice, 300_000_000)
    pair.quiet()
    preimage = known_preimage(pair.bob, pair.alice.state.htlcs[True, 0].payment_hash)
    fulfil = UpdateFulfillHtlc(channel_id(pair), 0, Secret(preimage))
    hear(pair.alice, fulfil, add(pair, 0, 400_000_001), commitment(pair, JUNK))
    assert "above its reserve" in pair.alice.drops[0].reason
    pair.alice.drops.clear()
    pair.disconnect()
    pair.connect()
    pair.quiet()
    hear(pair.alice, fulfil, add(pair, 0, 400_000_000), commitment(pair, JUNK))
    assert not pair.alice.drops
    assert pair.alice.asks, "the signer judges the signatures"


def test_a_wrong_number_of_htlc_signatures_is_not_taken(pair: Pair) -> None:
    """checklist 16"""
    made = invoice(pair.alice, 2_000_000)
    onion = onion_for(pair.alice, made, 2_000_000, 200)
    pair.bob.do(Offer(OfferWant(Msat(2_000_000), made.payment_hash, 200, onion, "y")))
    pair.bob.answer()
    update, signed = (decode(frame) for frame in pair.bob.out.waiting)
    assert isinstance(update, UpdateAddHtlc)
    assert isinstance(signed, CommitmentSigned)
    short = CommitmentSigned(signed.channel_id, signed.signature, signed.htlc_signature[:-1])
    hear(pair.alice, update, short)
    while pair.alice.answer():
        pass
    assert "HTLC signatures came" in pair.alice.drops[0].reason
    assert (False, 1) not in pair.alice.state.htlcs
    pair.alice.drops.clear()
    pair.disconnect()
    pair.connect()
    pair.quiet()
    assert pair.alice.said.received[-1].payment_hash == made.payment_hash
    mirrored(pair)


def test_a_failure_code_of_an_update_that_was_undone_does_not_stick(pair: Pair) -> None:
    """The peer fails an HTLC as malformed under a bad signature, and after a reconnection as it should."""
    hear(pair.alice, UpdateFailMalformedHtlc(channel_id(pair), 0, bytes(32), 0xC005), commitment(pair))
    while pair.alice.answer():
        pass
    assert pair.alice.drops
    pair.alice.drops.clear()
    pair.disconnect()
    pair.connect()
    pair.quiet()
    pair.bob.do(Fail(0, REASON))
    pair.quiet()
    assert pair.alice.said.failed[0].malformed_code is None


@pytest.mark.parametrize("secret", [b"\x01" * 32, bytes(32)], ids=["another", "none"])
def test_a_wrong_revocation_secret_is_not_taken(pair: Pair, secret: bytes) -> None:
    """checklist 23"""
    offer(pair, pair.alice, 1_000_000)
    pair.alice.answer()
    before = pair.alice.state.committed.remote_revoked
    hear(pair.alice, RevokeAndAck(channel_id(pair), Secret(secret), POINT))
    assert "does not fit" in pair.alice.drops[0].reason
    assert pair.alice.state.committed.remote_revoked == before
    pair.alice.drops.clear()
    pair.disconnect()
    pair.connect()
    pair.quiet()
    pair.bob.do(Fulfil(pair.bob.said.received[-1].htlc_id))
    pair.quiet()
    assert pair.alice.said.fulfilled
    mirrored(pair)


def test_a_next_point_that_is_none_is_not_taken(pair: Pair) -> None:
    """No commitment could be built on it, and a channel that cannot go on takes no HTLC back. checklist 23"""
    offer(pair, pair.alice, 1_000_000)
    pair.alice.answer()
    pair.deliver(pair.alice, 10)
    while not pair.bob.out.waiting:
        assert pair.bob.answer()
    revocation = decode(pair.bob.out.waiting[0])
    assert isinstance(revocation, RevokeAndAck)
    before = pair.alice.state.committed
    secret = revocation.per_commitment_secret
    hear(pair.alice, RevokeAndAck(channel_id(pair), secret, b"\x02" + b"\xff" * 32))
    assert "next_per_commitment_point is no point" in pair.alice.drops[0].reason
    assert pair.alice.state.committed.remote_points == before.remote_points
    assert pair.alice.state.committed.remote_revoked == before.remote_revoked
    pair.alice.drops.clear()
    pair.disconnect()
    pair.connect()
    pair.quiet()
    mirrored(pair)


def failure(pair: Pair, htlc_id: int, *, malformed: bool) -> Message:
    if malformed:
        return UpdateFailMalformedHtlc(channel_id(pair), htlc_id, bytes(32), 0xC005)
    return UpdateFailHtlc(channel_id(pair), htlc_id, b"no")


@pytest.mark.parametrize("malformed", [False, True])
def test_an_htlc_that_is_not_irrevocable_cannot_be_removed(pair: Pair, malformed: bool) -> None:
    """Its failure would go to the payer while the peer still holds a commitment that pays it. checklist 15"""
    offer(pair, pair.alice, 1_000_000)
    pair.alice.answer()
    hear(pair.alice, failure(pair, 1, malformed=malformed))
    assert "not there to be removed" in pair.alice.drops[0].reason
    pair.alice.drops.clear()
    goes_on(pair)


@pytest.mark.parametrize("malformed", [False, True])
def test_an_htlc_that_was_fulfilled_cannot_be_failed_on_the_next_connection(
    pair: Pair, malformed: bool
) -> None:
    """We showed the preimage to whoever paid us: taking the failure would make the two ends differ for ever.

    checklist 26
    """
    pair.bob.do(Fulfil(0))
    pair.bob.answer()
    fulfil = decode(pair.bob.out.waiting[0])
    assert isinstance(fulfil, UpdateFulfillHtlc)
    hear(pair.alice, fulfil)
    assert pair.alice.said.fulfilled
    pair.disconnect()
    pair.connect()
    pair.deliver(pair.bob)
    hear(pair.alice, failure(pair, 0, malformed=malformed))
    assert "failed after it was fulfilled" in pair.alice.drops[0].reason
    pair.alice.drops.clear()
    goes_on(pair)


def test_a_preimage_for_an_htlc_that_failed_changes_nothing(pair: Pair) -> None:
    """Learned early, while the signer has our question, it must not count for an HTLC that is on its way out."""
    pair.bob.do(Fail(0, REASON))
    pair.bob.answer()
    pair.deliver(pair.bob, 10)
    before = balances(pair)
    assert pair.alice.state.htlcs[True, 0].local_to is not None
    assert pair.alice.state.committed.question is not None
    preimage = known_preimage(pair.bob, pair.alice.state.htlcs[True, 0].payment_hash)
    hear(pair.alice, UpdateFulfillHtlc(channel_id(pair), 0, Secret(preimage)))
    assert not pair.alice.said.fulfilled
    while pair.alice.answer():
        pass
    assert "removed twice" in pair.alice.drops[0].reason
    pair.alice.drops.clear()
    pair.disconnect()
    pair.connect()
    pair.quiet()
    assert [event.origin for event in pair.alice.said.failed]
    assert not pair.alice.said.fulfilled
    assert balances(pair) == before
    mirrored(pair)


def known_preimage(end: End, payment_hash: bytes) -> bytes:
    invoice_of = end.signer._books.invoice(payment_hash, end.state.committed.params.handle)
    assert invoice_of is not None
    found: bytes = invoice_of.preimage.reveal()
    return found


def test_nothing_is_heard_before_channel_reestablish(pair: Pair) -> None:
    """checklist 26"""
    pair.disconnect()
    pair.connect()
    offend(pair, add(pair, 1), says="before channel_reestablish")


def test_a_warning_is_only_read(pair: Pair) -> None:
    """checklist 6"""
    before = pair.alice.state
    hear(pair.alice, Warning(channel_id(pair), b"careful"))
    pair.disconnect()
    pair.connect()
    hear(pair.alice, Warning(channel_id(pair), b"careful"))
    assert not pair.alice.drops
    assert pair.alice.state.committed == before.committed
    goes_on(pair)
