"""Our invoices: the signer draws what is secret in them, signs, and remembers (BOLT 11, "Data Part").

Preimage and payment secret follow from the seed and the request's id, so a repeat gives the same invoice and a
restored seed can still claim one. The payment secret is not derived from the preimage, nor the other way.
"""

import hmac

from protocol.amounts import ShortChannelId
from protocol.bitcoin.network import Network
from protocol.bolt9 import OUR_INVOICE
from protocol.bolt11 import encode
from protocol.bolt11.invoice import HopHint, InvoiceTerms
from protocol.bus.messages.signer import InvoiceMade, MakeInvoice
from protocol.curve import sign_recoverable
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from protocol.secret import Secret
from signer.refusal import Denied

FEATURES = frozenset(OUR_INVOICE.bits())


def preimage_of(invoice_secret: Secret, request_id: bytes) -> Secret:
    return Secret(hmac.digest(invoice_secret.reveal(), b"preimage" + request_id, "sha256"))


def payment_secret_of(invoice_secret: Secret, request_id: bytes) -> bytes:
    return hmac.digest(invoice_secret.reveal(), b"payment secret" + request_id, "sha256")


def make_invoice(
    network: Network, node_secret: Secret, invoice_secret: Secret, request: MakeInvoice
) -> InvoiceMade:
    payment_hash = request.payment_hash
    if payment_hash is None:
        payment_hash = sha256(preimage_of(invoice_secret, request.request_id).reveal())
    payment_secret = payment_secret_of(invoice_secret, request.request_id)
    terms = InvoiceTerms(
        prefix=network.bolt11_prefix.removeprefix("ln"),
        amount_msat=request.amount_msat,
        timestamp=request.timestamp,
        payment_hash=payment_hash,
        payment_secret=payment_secret,
        description=request.description,
        description_hash=request.description_hash,
        expiry=request.expiry,
        min_final_cltv_expiry_delta=request.min_final_cltv_expiry,
        route_hints=tuple(
            tuple(
                HopHint(node, ShortChannelId(scid), base, rate, delta)
                for node, scid, base, rate, delta in hint
            )
            for hint in request.route_hints
        ),
        features=FEATURES,
    )
    try:
        unsigned = encode.unsigned(terms)
    except (CommandRefused, OverflowError) as error:
        raise Denied(
            "invoice-terms",
            "an invoice has possible terms",
            seen=str(error),
            limit="BOLT 11",
            next_step="Change the invoice as the reason says.",
        ) from error
    signature, recovery_id = sign_recoverable(node_secret.reveal(), unsigned.digest)
    return InvoiceMade(unsigned.with_signature(signature, recovery_id), payment_hash, payment_secret)


def foreign_hash(is_own: bool) -> None:
    """`invoice-hash`: a hash that is said to be another's is not one of ours."""
    if is_own:
        raise Denied(
            "invoice-hash",
            "an invoice over a payment hash from elsewhere has a hash that no invoice of ours has",
            seen="the payment hash of an invoice of this signer",
            limit="another payment hash",
            next_step="Use a new preimage.",
        )


def invoice_changed(same: bool) -> None:
    """`invoice-changed`: one request id makes one invoice."""
    if not same:
        raise Denied(
            "invoice-changed",
            "one request id makes one invoice",
            seen="the same request id with other terms",
            limit="the terms of the first request",
            next_step="Use a new request id for a new invoice.",
        )
