"""The final node's rules for an incoming HTLC (BOLT 4), each kept and broken."""

import pytest

from node.onchain.deadlines import Running, must_close
from node.payments import receive
from node.payments.receive import Expected, HtlcSet
from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import payload as payloads
from protocol.bolt4.failure import (
    FinalIncorrectCltvExpiry,
    FinalIncorrectHtlcAmount,
    IncorrectOrUnknownPaymentDetails,
    InvalidOnionPayload,
)
from protocol.bolt4.payload import FinalPayload
from protocol.bus.messages.channel import HtlcReceived
from tests.node.payments.support import CHANNEL, HEIGHT, NOW, SECRET

EXPIRY = BlockHeight(HEIGHT + receive.MIN_FINAL_CLTV_EXPIRY)
EXPECTED = Expected(bytes(32), SECRET, Msat(10_000), NOW + 3600)


def final(
    amount: int = 10_000, *, total: int | None = None, secret: bytes | None = SECRET, expiry: int = EXPIRY
):
    return FinalPayload(Msat(amount), BlockHeight(expiry), secret, Msat(amount if total is None else total))


def htlc(
    amount: int = 10_000, *, htlc_id: int = 0, expiry: int = EXPIRY, payload: FinalPayload | None = None
):
    encoded = payloads.encode_final(payload or final(amount))
    return HtlcReceived(CHANNEL, htlc_id, Msat(amount), bytes(32), expiry, encoded, True)


def judged(
    payload: FinalPayload, *, expected: Expected | None = EXPECTED, now: float = NOW, expiry: int = EXPIRY
):
    return receive.judge(htlc(expiry=expiry), payload, expected, height=HEIGHT, now=now)


DETAILS = IncorrectOrUnknownPaymentDetails(Msat(10_000), HEIGHT)


def test_the_amount_asked_for_up_to_twice_of_it_is_accepted():
    """checklist 36"""
    assert judged(final(10_000)) is None
    assert judged(final(20_000)) is None
    assert judged(final(9_999)) == DETAILS
    assert judged(final(20_001)) == DETAILS


def test_an_open_amount_takes_anything_but_nothing():
    any_amount = Expected(bytes(32), SECRET, None, NOW + 3600)
    assert judged(final(1), expected=any_amount) is None
    assert judged(final(0), expected=any_amount) == DETAILS


def test_unknown_hash_wrong_and_missing_secret_give_the_same_failure():
    """checklist 36"""
    assert judged(final(), expected=None) == DETAILS
    assert judged(final(secret=bytes(32))) == DETAILS
    assert judged(final(secret=None)) == DETAILS


def test_an_expired_invoice_is_as_good_as_unknown():
    assert judged(final(), now=NOW + 3599) is None
    assert judged(final(), now=NOW + 3600) == DETAILS


def test_an_expiry_too_near_to_claim_safely_is_refused():
    """checklist 36"""
    assert judged(final(), expiry=HEIGHT + 22) is None
    assert judged(final(), expiry=HEIGHT + 21) == DETAILS


def test_an_accepted_payment_does_not_force_its_channel_onto_the_chain_before_the_peer_can_credit_it():
    """Electrum adds nothing to what the invoice asks for: with 18 blocks a restart in that moment was the end."""
    accepted = Running(False, 0, HEIGHT + receive.MIN_FINAL_CLTV_EXPIRY, released=True)
    assert must_close([accepted], BlockHeight(HEIGHT + 3)) is None
    assert receive.ASKED_FINAL_CLTV_EXPIRY >= receive.MIN_FINAL_CLTV_EXPIRY + 6


def test_an_htlc_below_what_the_onion_says_is_final_incorrect_htlc_amount():
    """checklist 36"""
    assert receive.read_final(htlc(9_999, payload=final(10_000))) == FinalIncorrectHtlcAmount(Msat(9_999))
    assert receive.read_final(htlc(10_001, payload=final(10_000))) == final(10_000)


def test_an_htlc_that_expires_before_what_the_onion_says_is_final_incorrect_cltv_expiry():
    """checklist 36"""
    early = htlc(expiry=EXPIRY - 1, payload=final())
    assert receive.read_final(early) == FinalIncorrectCltvExpiry(BlockHeight(EXPIRY - 1))


@pytest.mark.parametrize("payload", [b"", b"\x02\x01\x01", b"\xff", b"\x0a\x01\x00"])
def test_a_payload_that_is_not_understood_is_invalid_onion_payload(payload: bytes):
    broken = HtlcReceived(CHANNEL, 0, Msat(1), bytes(32), EXPIRY, payload, True)
    assert isinstance(receive.read_final(broken), InvalidOnionPayload)


def test_a_set_is_claimed_when_its_parts_reach_the_total_and_takes_no_more():
    """checklist 37"""
    parts = HtlcSet(Msat(10_000))
    assert not parts.add(htlc(4_000, htlc_id=0))
    assert parts.takes(final(6_000, total=10_000))
    assert not parts.takes(final(6_000, total=11_000))
    assert parts.add(htlc(6_000, htlc_id=1))
    assert parts.received_msat == 10_000
    assert not parts.takes(final(6_000, total=10_000))


def test_the_same_htlc_counts_once_in_a_set():
    parts = HtlcSet(Msat(10_000))
    assert not parts.add(htlc(5_000))
    assert not parts.add(htlc(5_000))


def test_a_set_is_over_with_its_last_part():
    parts = HtlcSet(Msat(10_000))
    parts.add(htlc(5_000, htlc_id=0))
    parts.add(htlc(5_000, htlc_id=1))
    assert not parts.resolved((CHANNEL, 0), fulfilled=True)
    assert parts.resolved((CHANNEL, 1), fulfilled=False)
    assert parts.was_fulfilled
