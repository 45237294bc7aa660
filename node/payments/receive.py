"""What the final node decides about incoming HTLCs (BOLT 4, "Failure Messages" and "Basic Multi-Part Payments").

Pure: the shell supplies height and time, keeps one `HtlcSet` an invoice and says the decisions. Every reason
that could tell a prober something gives the same `incorrect_or_unknown_payment_details`.
"""

from msgspec import Struct

from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import payload as payloads
from protocol.bolt4.failure import (
    Failure,
    FinalIncorrectCltvExpiry,
    FinalIncorrectHtlcAmount,
    IncorrectOrUnknownPaymentDetails,
    InvalidOnionPayload,
)
from protocol.bolt4.payload import FinalPayload
from protocol.bolt4.sphinx import InvalidOnionPayload as BadPayload
from protocol.bus.messages.channel import HtlcReceived
from protocol.bus.messages.signer import OtherParts
from protocol.hashes import sha256

MIN_FINAL_CLTV_EXPIRY = 22
"""The fewest blocks that we accept to have left. 18 before its expiry an HTLC that we fulfilled forces its channel
onto the chain: one that comes that late could end there before the peer has credited it."""
ASKED_FINAL_CLTV_EXPIRY = 40
"""What our invoices ask for: some hours in which we, the peer or the signer may be away."""
MPP_SECONDS = 60.0
HtlcKey = tuple[bytes, int]
"""Channel id and HTLC id."""


HOLD_MARGIN = 20
"""A hold invoice is cancelled so many blocks before the first of its HTLCs expires: two before a fulfilled one would
force its channel onto the chain."""


class Expected(Struct, frozen=True):
    """The part of one of our unpaid invoices that an HTLC is held against. `expires_at` None: it came in time."""

    payment_hash: bytes
    payment_secret: bytes
    amount_msat: Msat | None
    expires_at: int | None


def details_failure(htlc: HtlcReceived, height: BlockHeight) -> Failure:
    return IncorrectOrUnknownPaymentDetails(htlc.amount_msat, height)


def read_final(htlc: HtlcReceived) -> FinalPayload | Failure:
    """The payload, held against the HTLC that brought it: the last hop may have changed amount or expiry."""
    try:
        final = payloads.decode_final(htlc.payload)
    except BadPayload as error:
        return InvalidOnionPayload(error.tlv_type, error.offset)
    if htlc.cltv_expiry < final.outgoing_cltv_value:
        return FinalIncorrectCltvExpiry(BlockHeight(htlc.cltv_expiry))
    if htlc.amount_msat < final.amt_to_forward:
        return FinalIncorrectHtlcAmount(htlc.amount_msat)
    return final


def judge(
    htlc: HtlcReceived, final: FinalPayload, expected: Expected | None, *, height: BlockHeight, now: float
) -> Failure | None:
    """None when the HTLC may count towards the invoice."""
    acceptable = (
        expected is not None
        and final.payment_secret == expected.payment_secret
        and (expected.expires_at is None or expected.expires_at > now)
        and _is_amount_right(final.total_msat, expected.amount_msat)
        and htlc.cltv_expiry >= height + MIN_FINAL_CLTV_EXPIRY
    )
    return None if acceptable else details_failure(htlc, height)


def judge_keysend(htlc: HtlcReceived, final: FinalPayload, *, height: BlockHeight) -> Failure | None:
    """bLIP 3: whoever sends the preimage along pays without an invoice, in one piece."""
    acceptable = (
        final.keysend_preimage is not None
        and sha256(final.keysend_preimage) == htlc.payment_hash
        and 0 < final.total_msat <= htlc.amount_msat
        and htlc.cltv_expiry >= height + MIN_FINAL_CLTV_EXPIRY
    )
    return None if acceptable else details_failure(htlc, height)


def _is_amount_right(total: Msat, asked: Msat | None) -> bool:
    """At least the amount, and at most twice: a payer may blur the amount, but not lose a fortune by a slip."""
    return total > 0 if asked is None else asked <= total <= 2 * asked


class HtlcSet:
    """The HTLCs that pay one invoice together. All are fulfilled or none.

    Once it is `complete` it takes no HTLC more: the second payer of an invoice gets the money back. A `resumed`
    set was being claimed before a restart. Its preimage may be out, so what is said again is fulfilled again.
    """

    def __init__(self, total_msat: Msat, *, resumed: bool = False) -> None:
        self.total_msat = total_msat
        self.parts: dict[HtlcKey, HtlcReceived] = {}
        self.complete = resumed
        self.resumed = resumed
        self.was_fulfilled = False

    @property
    def first_expiry(self) -> int:
        return min((part.cltv_expiry for part in self.parts.values()), default=2**32)

    @property
    def received_msat(self) -> Msat:
        return Msat(sum(part.amount_msat for part in self.parts.values()))

    def others(self, channel_id: bytes) -> OtherParts:
        """The parts in other channels: the signer gives the preimage for all of them together."""
        found: dict[bytes, list[int]] = {}
        for channel, htlc_id in self.parts:
            if channel != channel_id:
                found.setdefault(channel, []).append(htlc_id)
        return tuple((channel, tuple(ids)) for channel, ids in found.items())

    def takes(self, final: FinalPayload) -> bool:
        return self.resumed or (not self.complete and final.total_msat == self.total_msat)

    def add(self, htlc: HtlcReceived) -> bool:
        """Whether the set is complete now, and so to be claimed."""
        self.parts[htlc.channel_id, htlc.htlc_id] = htlc
        if not self.complete and self.received_msat >= self.total_msat:
            self.complete = True
        return self.complete

    def resolved(self, key: HtlcKey, *, fulfilled: bool) -> bool:
        """Whether the last of the parts that we know is gone now."""
        self.parts.pop(key, None)
        self.was_fulfilled |= fulfilled
        return not self.parts
