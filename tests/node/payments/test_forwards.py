"""May an HTLC be passed on (BOLT 4, "Failure Messages"): each check kept and broken."""

import pytest
from msgspec.structs import replace

from node.payments import forwards
from node.payments.forwards import MIN_BLOCKS_LEFT
from protocol.amounts import MAX_HTLC_CLTV, BlockHeight, Msat, ShortChannelId
from protocol.bolt4 import payload as payloads
from protocol.bolt4.failure import (
    AmountBelowMinimum,
    ChannelDisabled,
    ExpiryTooFar,
    ExpiryTooSoon,
    FeeInsufficient,
    IncorrectCltvExpiry,
    InvalidOnionPayload,
    TemporaryChannelFailure,
    UnknownNextPeer,
)
from protocol.bolt4.payload import FinalPayload, ForwardPayload
from protocol.bus.messages.channel import HtlcReceived
from protocol.bus.messages.routing import ChannelPolicy
from tests.node.payments.support import CHANNEL, HEIGHT

POLICY = ChannelPolicy(Msat(1000), 100, 40, Msat(1000), Msat(50_000_000))
AMOUNT = 10_000_000
FEE = 1000 + 1000
OUT_EXPIRY = HEIGHT + 60


def htlc(amount: int = AMOUNT + FEE, expiry: int = OUT_EXPIRY + 40, payload: bytes = b"") -> HtlcReceived:
    return HtlcReceived(CHANNEL, 0, Msat(amount), bytes(32), expiry, payload, False, b"onion")


def onward(amount: int = AMOUNT, expiry: int = OUT_EXPIRY) -> ForwardPayload:
    return ForwardPayload(ShortChannelId(7), Msat(amount), BlockHeight(expiry))


def judged(incoming: HtlcReceived, payload: ForwardPayload, *policies: ChannelPolicy):
    return forwards.judge(incoming, payload, policies or (POLICY,), height=HEIGHT)


def test_an_htlc_that_keeps_to_the_policy_is_passed_on():
    """checklist 35: fee, delta, minimum and maximum are all exactly met."""
    assert judged(htlc(), onward()) is None
    assert judged(htlc(1000 + 1000), onward(1000), replace(POLICY, fee_proportional_millionths=0)) is None
    assert judged(htlc(50_000_000 + 6000), onward(50_000_000)) is None


def test_a_fee_too_small_by_one_is_refused_with_the_incoming_amount():
    """checklist 35"""
    assert judged(htlc(AMOUNT + FEE - 1), onward()) == FeeInsufficient(Msat(AMOUNT + FEE - 1))


def test_the_proportional_fee_is_rounded_down():
    """checklist 35: 1009 * 100 / 1,000,000 is nothing yet."""
    free = replace(POLICY, fee_base_msat=Msat(0))
    assert judged(htlc(1009), onward(1009), free) is None
    assert judged(htlc(10_000), onward(10_000), free) == FeeInsufficient(Msat(10_000))


def test_less_in_than_out_is_never_passed_on():
    """checklist 35: not even for nothing."""
    free = replace(POLICY, fee_base_msat=Msat(0), fee_proportional_millionths=0)
    assert judged(htlc(AMOUNT), onward(AMOUNT), free) is None
    assert judged(htlc(AMOUNT - 1), onward(AMOUNT), free) == FeeInsufficient(Msat(AMOUNT - 1))


def test_a_delta_too_small_by_one_is_refused_with_the_outgoing_expiry():
    """checklist 35"""
    assert judged(htlc(expiry=OUT_EXPIRY + 39), onward()) == IncorrectCltvExpiry(BlockHeight(OUT_EXPIRY))


def test_amounts_outside_the_policy_are_refused():
    """checklist 35: the minimum has its code, the maximum is a passing failure."""
    assert judged(htlc(), onward(999)) == AmountBelowMinimum(Msat(999))
    assert judged(htlc(60_000_000), onward(50_000_001)) == TemporaryChannelFailure()
    nothing = replace(POLICY, htlc_minimum_msat=Msat(0), fee_base_msat=Msat(0))
    assert judged(htlc(), onward(0), nothing) == AmountBelowMinimum(Msat(0))


def test_a_channel_switched_off_is_refused():
    """checklist 35"""
    assert isinstance(judged(htlc(), onward(), replace(POLICY, enabled=False)), ChannelDisabled)


def test_an_expiry_too_near_is_refused():
    """checklist 35"""
    near = HEIGHT + MIN_BLOCKS_LEFT
    assert judged(htlc(expiry=near + 41), onward(expiry=near + 1)) is None
    assert judged(htlc(expiry=near + 40), onward(expiry=near)) == ExpiryTooSoon()


def test_an_expiry_more_than_2016_blocks_away_is_refused():
    """checklist 35: either of the two."""
    far = HEIGHT + MAX_HTLC_CLTV
    assert judged(htlc(expiry=far), onward(expiry=far - 40)) is None
    assert judged(htlc(expiry=far + 1), onward(expiry=far - 40)) == ExpiryTooFar()


def test_the_policy_before_the_last_change_still_counts_and_the_failure_is_that_of_the_present_one():
    """checklist 35: the old policy is valid for a while; the sender may not have heard of the new one."""
    dearer = replace(POLICY, fee_base_msat=Msat(5000))
    assert judged(htlc(), onward(), dearer, POLICY) is None
    assert judged(htlc(), onward(), dearer) == FeeInsufficient(Msat(AMOUNT + FEE))
    assert judged(htlc(AMOUNT), onward(), dearer, POLICY) == FeeInsufficient(Msat(AMOUNT))


def test_a_payload_of_the_last_node_is_no_payload_of_a_forward():
    final = payloads.encode_final(FinalPayload(Msat(1), BlockHeight(1), bytes(32), Msat(1)))
    assert isinstance(forwards.read_forward(htlc(payload=final)), InvalidOnionPayload)
    assert forwards.read_forward(htlc(payload=payloads.encode_forward(onward()))) == onward()


RAW = b"\x01\x02" + bytes(64) + bytes(32) + (7).to_bytes(8, "big") + bytes(30)


@pytest.mark.parametrize(
    "failure",
    [
        TemporaryChannelFailure(),
        AmountBelowMinimum(Msat(1)),
        FeeInsufficient(Msat(1)),
        IncorrectCltvExpiry(BlockHeight(1)),
        ExpiryTooSoon(),
        ChannelDisabled(2),
    ],
)
def test_our_update_goes_into_a_failure_only_if_it_names_the_channel_as_the_sender_did(failure):
    """checklist 34: name the short channel id that the sender used."""
    assert forwards.takes_update(failure)
    assert forwards.with_update(failure, RAW, 7).channel_update == RAW
    assert forwards.with_update(failure, RAW, 8) == failure


def test_a_failure_without_room_for_an_update_stays_as_it_is():
    """checklist 34"""
    assert not forwards.takes_update(UnknownNextPeer())
    assert forwards.with_update(UnknownNextPeer(), RAW, 7) == UnknownNextPeer()
