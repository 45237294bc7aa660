"""May this HTLC be passed on, and what its sender is told if not (BOLT 4, "Failure Messages"; checklist 35).

Pure: height, policies and the channel that the onion names arrive as arguments.
"""

from collections.abc import Sequence

from protocol.amounts import MAX_HTLC_CLTV, BlockHeight, Msat
from protocol.bolt4 import failure as failures
from protocol.bolt4 import payload as payloads
from protocol.bolt4.failure import (
    AmountBelowMinimum,
    ChannelDisabled,
    ExpiryTooFar,
    ExpiryTooSoon,
    Failure,
    FeeInsufficient,
    IncorrectCltvExpiry,
    InvalidOnionPayload,
    PermanentChannelFailure,
    TemporaryChannelFailure,
)
from protocol.bolt4.payload import ForwardPayload
from protocol.bolt4.sphinx import InvalidOnionPayload as BadPayload
from protocol.bus.messages.channel import FailHtlc, HtlcReceived
from protocol.bus.messages.routing import ChannelPolicy
from protocol.errors import MalformedMessage

MIN_BLOCKS_LEFT = 4
"""What the next node must have left at the least: two that may be reorganised, two for it to act."""
DISABLED_DIRECTION = 2
"""The bit of `channel_flags` that says a channel is disabled (BOLT 7); what `disabled_flags` repeats is up to us."""


def read_forward(htlc: HtlcReceived) -> ForwardPayload | Failure:
    try:
        return payloads.decode_forward(htlc.payload)
    except BadPayload as error:
        return InvalidOnionPayload(error.tlv_type, error.offset)


def fee_for(policy: ChannelPolicy, amount: Msat) -> int:
    """BOLT 7, "HTLC Fees"."""
    return policy.fee_base_msat + amount * policy.fee_proportional_millionths // 1_000_000


def judge(
    htlc: HtlcReceived, payload: ForwardPayload, policies: Sequence[ChannelPolicy], *, height: BlockHeight
) -> Failure | None:
    """None when it satisfies one of `policies`: the present one first, then one that was valid a short while ago.

    The first failure is that of the present policy, in the order of the specification's list.
    """
    if payload.outgoing_cltv_value <= height + MIN_BLOCKS_LEFT:
        return ExpiryTooSoon()
    if max(payload.outgoing_cltv_value, htlc.cltv_expiry) > height + MAX_HTLC_CLTV:
        return ExpiryTooFar()
    found = [_against(htlc, payload, policy) for policy in policies]
    return None if None in found else found[0]


def _against(htlc: HtlcReceived, payload: ForwardPayload, policy: ChannelPolicy) -> Failure | None:
    amount = payload.amt_to_forward
    if amount > policy.htlc_maximum_msat:
        return TemporaryChannelFailure()
    if amount < policy.htlc_minimum_msat or amount == 0:
        return AmountBelowMinimum(amount)
    if htlc.amount_msat < amount + fee_for(policy, amount):
        return FeeInsufficient(htlc.amount_msat)
    if htlc.cltv_expiry < payload.outgoing_cltv_value + policy.cltv_expiry_delta:
        return IncorrectCltvExpiry(payload.outgoing_cltv_value)
    if not policy.enabled:
        return ChannelDisabled(DISABLED_DIRECTION)
    return None


def with_update(failure: Failure, raw: bytes, named: int) -> Failure:
    """The failure with our channel_update in it, if that is about the short channel id that the sender used.

    Another one would tell it an alias, or the place of the funding output (BOLT 4, rationale; checklist 34).
    """
    if int.from_bytes(raw[_SCID], "big") != named:
        return failure
    match failure:
        case TemporaryChannelFailure():
            return TemporaryChannelFailure(raw)
        case AmountBelowMinimum(htlc_msat=amount):
            return AmountBelowMinimum(amount, raw)
        case FeeInsufficient(htlc_msat=amount):
            return FeeInsufficient(amount, raw)
        case IncorrectCltvExpiry(cltv_expiry=expiry):
            return IncorrectCltvExpiry(expiry, raw)
        case ExpiryTooSoon():
            return ExpiryTooSoon(raw)
        case ChannelDisabled(disabled_flags=flags):
            return ChannelDisabled(flags, raw)
        case _:
            return failure


def failure_upstream(
    key: tuple[bytes, int],
    reason: bytes,
    malformed_code: int | None,
    hold_time: int,
    attribution: bytes | None,
) -> FailHtlc:
    """What the incoming HTLC is failed with when the onward one failed; only a failure onion of the next hop is passed
    on, and the attribution data with it. All else is a failure of our own."""
    if malformed_code is not None:
        # BOLT 2, "Removing an HTLC": the next node could not read the onion, and only it may say so in this form.
        try:
            failure = failures.from_malformed(malformed_code, reason)
        except MalformedMessage:
            failure = TemporaryChannelFailure()
        return FailHtlc(*key, failures.encode(failure), hold_time=hold_time)
    if not reason:
        # It timed out on chain: nobody further on can tell why.
        return FailHtlc(*key, failures.encode(PermanentChannelFailure()), hold_time=hold_time)
    return FailHtlc(*key, reason, from_next=True, hold_time=hold_time, attribution=attribution)


def takes_update(failure: Failure) -> bool:
    return bool(failure.code & 0x1000)


_SCID = slice(2 + 64 + 32, 2 + 64 + 32 + 8)
"""Where a raw channel_update has its short channel id: behind type, signature and chain hash (BOLT 7)."""
