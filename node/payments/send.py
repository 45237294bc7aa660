"""What a payer decides: may this invoice be paid, with which HTLC, and what an answer means (BOLT 4; BOLT 11).

Pure: height, time and randomness arrive as arguments. Routes have one hop until the network issue: the payee is
our channel partner. `PayCode` has the numbers that Core Lightning's tools act on.
"""

from enum import IntEnum

from msgspec import Struct

from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import failure as failures
from protocol.bolt4 import failure_onion, payload, sphinx
from protocol.bolt4.failure import Failure
from protocol.bolt11.decode import decode
from protocol.bolt11.invoice import InvalidInvoice, Invoice
from protocol.errors import CommandRefused, MalformedMessage
from protocol.secret import Secret

BLOCKS_OF_PATIENCE = 3
"""Added to the payee's `min_final_cltv_expiry_delta`: blocks may be found while the HTLC is on its way."""


class PayCode(IntEnum):
    ALREADY_PAID_OTHERWISE = 201
    UNREADABLE_FAILURE = 202
    REFUSED_BY_PAYEE = 203
    NO_ROUTE = 205
    EXPIRED = 207
    OTHER = 209
    INVALID_PARAMETER = -32602


class Hop(Struct, frozen=True):
    """The one HTLC of an attempt and what opens a failure of it."""

    amount_msat: Msat
    cltv_expiry: BlockHeight
    onion: bytes
    shared_secrets: tuple[Secret, ...]


def read_invoice(text: str, *, prefix: str) -> Invoice:
    """Refused with the decoder's own sentences; `prefix` is that of our chain, such as "bcrt"."""
    try:
        return decode(text, expect_prefix=prefix)
    except InvalidInvoice as error:
        raise CommandRefused(
            error.sentence, what_to_do=error.what_to_do, code=PayCode.INVALID_PARAMETER
        ) from error
    except MalformedMessage as error:
        raise CommandRefused(
            str(error), what_to_do="Ask the recipient for a new invoice.", code=PayCode.INVALID_PARAMETER
        ) from error


def amount_to_pay(invoice: Invoice, asked: Msat | None) -> Msat:
    """The invoice's amount, or the one asked for where the invoice leaves it open."""
    if invoice.amount_msat is None:
        if asked is None:
            raise CommandRefused(
                "the invoice leaves the amount open",
                what_to_do="Give amount_msat.",
                code=PayCode.INVALID_PARAMETER,
            )
        if asked <= 0:
            raise CommandRefused(
                "an amount of 0 cannot be paid",
                what_to_do="Give an amount_msat above 0.",
                code=PayCode.INVALID_PARAMETER,
            )
        return asked
    if asked is not None and asked != invoice.amount_msat:
        raise CommandRefused(
            f"the invoice asks for {invoice.amount_msat} msat, {asked} msat were given",
            what_to_do="Leave amount_msat out.",
            code=PayCode.INVALID_PARAMETER,
        )
    return invoice.amount_msat


def check_payable(invoice: Invoice, *, our_node_id: bytes, now: float) -> None:
    if invoice.payee == our_node_id:
        raise CommandRefused(
            "this invoice is our own", what_to_do="Pay it from another node.", code=PayCode.NO_ROUTE
        )
    if invoice.expires_at <= now:
        raise CommandRefused(
            f"the invoice expired {int(now - invoice.expires_at)} seconds ago",
            what_to_do="Ask the recipient for a new invoice.",
            code=PayCode.EXPIRED,
        )


def build_hop(invoice: Invoice, amount: Msat, *, height: BlockHeight, session_key: Secret) -> Hop:
    """The HTLC for a payee that is our channel partner: amount and expiry are what the onion says."""
    expiry = BlockHeight(height + invoice.min_final_cltv_expiry_delta + BLOCKS_OF_PATIENCE)
    final = payload.encode_final(
        payload.FinalPayload(
            amt_to_forward=amount,
            outgoing_cltv_value=expiry,
            payment_secret=invoice.payment_secret,
            total_msat=amount,
            payment_metadata=invoice.payment_metadata,
        )
    )
    onion = sphinx.build(session_key, [(invoice.payee, final)], invoice.payment_hash)
    return Hop(amount, expiry, onion.packet, onion.shared_secrets)


def shared_secrets_again(session_key: Secret, payee: bytes) -> tuple[Secret, ...]:
    """The secrets of an attempt of an earlier run; they depend on the session key and the route only."""
    return sphinx.build(session_key, [(payee, bytes(2))], b"").shared_secrets


def read_failure(
    reason: bytes, malformed_code: int | None, shared_secrets: tuple[Secret, ...]
) -> CommandRefused:
    """What a failed HTLC means to the person who pays."""
    if malformed_code is not None:
        try:
            return _refusal(failures.from_malformed(malformed_code, reason))
        except MalformedMessage as error:
            return _unreadable(str(error))
    opened = failure_onion.unwrap(shared_secrets, reason)
    if opened is None:
        return _unreadable("the payment failed, and no node of its route owns up to the reason")
    return _refusal(opened.failure)


def _refusal(failure: Failure) -> CommandRefused:
    """One hop: whatever failed, the payee said so."""
    sentence, _, what_to_do = failure.sentence.rstrip(".").partition(". ")
    if not what_to_do:
        sentence, _, what_to_do = sentence.partition("; ")
    code = PayCode.REFUSED_BY_PAYEE if failures.is_permanent(failure) else PayCode.OTHER
    advice = f"{what_to_do[:1].upper()}{what_to_do[1:]}." if what_to_do else "Try again later."
    return CommandRefused(f"{sentence} ({failure.name})", what_to_do=advice, code=code)


def _unreadable(sentence: str) -> CommandRefused:
    return CommandRefused(
        sentence,
        what_to_do="Nothing was paid. Ask the recipient for a new invoice.",
        code=PayCode.UNREADABLE_FAILURE,
    )
