"""What the payment service says and hears: invoices and payments (BOLT 11). What is forwarded: `forwards`."""

from msgspec import Struct

from protocol.amounts import MAX_HTLC_CLTV, Msat
from protocol.bolt11.invoice import HopHint
from protocol.bus.messages.routing import RouteHop


class CreateInvoice(Struct, frozen=True, tag="pay.invoice"):
    amount_msat: Msat | None
    label: str
    description: str
    expiry: int = 604_800
    description_hash: bytes | None = None
    cltv: int | None = None
    expose_private: bool | None = None
    """Whether private channels stand in it as route hints; None: only when there is no other channel."""
    hold_hash: bytes | None = None
    """A hold invoice over this payment hash: somebody else has the preimage and says when it is settled."""
    hold: bool = False
    """A hold invoice whose preimage the signer keeps."""


class InvoiceRow(Struct, frozen=True, tag="pay.invoice_row"):
    """`status`: "unpaid", "paid" or "expired"; a hold invoice may also be "accepted" or "cancelled"."""

    label: str
    payment_hash: bytes
    payment_secret: bytes
    bolt11: str
    amount_msat: Msat | None
    description: str
    expires_at: int
    status: str
    received_msat: Msat | None = None
    paid_at: int | None = None
    pay_index: int | None = None
    preimage: bytes | None = None
    hold: int = 0
    """0: none. 1: a hold invoice whose preimage the signer has; 2: one whose preimage somebody else has."""
    created: int = 0
    htlcs: tuple["HeldHtlc", ...] = ()
    """Of a hold invoice: what waits for the word to settle."""


class HeldHtlc(Struct, frozen=True, array_like=True):
    channel_id: bytes
    htlc_id: int
    amount_msat: Msat
    cltv_expiry: int


class InvoiceChanged(Struct, frozen=True, tag="pay.invoice_changed"):
    """Event: an invoice was made, or paid, and that is saved."""

    row: InvoiceRow


class ListInvoices(Struct, frozen=True, tag="pay.list_invoices"):
    """`newest`: no more than so many, the youngest."""

    label: str | None = None
    payment_hash: bytes | None = None
    bolt11: str | None = None
    newest: int | None = None


class Invoices(Struct, frozen=True, tag="pay.invoices"):
    invoices: tuple[InvoiceRow, ...]


class WaitInvoice(Struct, frozen=True, tag="pay.wait_invoice"):
    """Answered when the invoice is paid or expired."""

    label: str


class WaitAnyInvoice(Struct, frozen=True, tag="pay.wait_any"):
    """Answered with the first invoice that was paid after `last_pay_index`. `seconds` None waits for ever."""

    last_pay_index: int = 0
    seconds: float | None = None


class DeleteInvoice(Struct, frozen=True, tag="pay.delete_invoice"):
    """Refused unless it has this status. `description_only`: it stays, without its description."""

    label: str
    status: str
    description_only: bool = False


class SettleHold(Struct, frozen=True, tag="pay.settle_hold"):
    """One of the two. Without the preimage the signer must have it."""

    preimage: bytes | None = None
    payment_hash: bytes | None = None


class CancelHold(Struct, frozen=True, tag="pay.cancel_hold"):
    payment_hash: bytes


class GetReceivable(Struct, frozen=True, tag="pay.get_receivable"):
    """How much could come in now."""


class Receivable(Struct, frozen=True, tag="pay.receivable"):
    """`total_msat`: over all channels together. `largest_msat`: in one piece. `reason`: what sets this limit."""

    total_msat: Msat
    largest_msat: Msat
    reason: str


class Pay(Struct, frozen=True, tag="pay.pay"):
    """Pays an invoice. Answered with `PaymentRow` when final; a deadline leaves it running ("outcome unknown")."""

    bolt11: str
    amount_msat: Msat | None = None
    max_fee_msat: Msat | None = None
    label: str | None = None
    retry_for: int = 60
    max_delay: int = MAX_HTLC_CLTV
    excluded: tuple[tuple[int, int], ...] = ()
    """Channels with a direction that must not be used."""
    excluded_nodes: tuple[bytes, ...] = ()


class Keysend(Struct, frozen=True, tag="pay.keysend"):
    """Pays a node that made no invoice: the preimage travels in the onion (bLIP 3). Answered as `Pay` is.

    `max_delay`: blocks for which the money may be locked.
    """

    destination: bytes
    amount_msat: Msat
    max_fee_msat: Msat | None = None
    max_delay: int = MAX_HTLC_CLTV
    label: str | None = None
    retry_for: int = 60
    final_delay: int = 22
    records: tuple[tuple[int, bytes], ...] = ()
    """Further records of the last onion payload: type and value."""
    hints: tuple[tuple[HopHint, ...], ...] = ()


class SendPart(Struct, frozen=True, tag="pay.send_part"):
    """One HTLC along a route that the caller chose. Answered with `PartRow` once it is on its way.

    `total_msat`: of all parts of the group. The same part again answers what became of the first.
    """

    payment_hash: bytes
    hops: tuple[RouteHop, ...]
    total_msat: Msat
    payment_secret: bytes | None = None
    payment_metadata: bytes | None = None
    part_id: int = 0
    group_id: int = 1
    label: str | None = None
    bolt11: str = ""


class WaitPart(Struct, frozen=True, tag="pay.wait_part"):
    """Answered with `PartRow` when the part is complete, or refused with why it failed."""

    payment_hash: bytes
    part_id: int = 0
    group_id: int | None = None


class ListParts(Struct, frozen=True, tag="pay.list_parts"):
    payment_hash: bytes | None = None
    bolt11: str | None = None
    status: str | None = None


class PartRow(Struct, frozen=True, tag="pay.part"):
    """One HTLC of a payment. `id` rises with each that was ever made."""

    id: int
    payment_hash: bytes
    group_id: int
    part_id: int
    destination: bytes
    amount_msat: Msat
    amount_sent_msat: Msat
    status: str
    created: int
    completed: int | None = None
    preimage: bytes | None = None
    label: str | None = None
    bolt11: str | None = None
    error: str | None = None
    failed_at: int | None = None
    """As in `AttemptEnded`."""
    failure_code: int | None = None
    hops: int = 1
    hold_times: tuple[int, ...] = ()
    """How long each node said that it held it, the nearest first, in units of 100 ms (BOLT 4, attribution data)."""


class Parts(Struct, frozen=True, tag="pay.parts"):
    parts: tuple[PartRow, ...]


class PaymentRow(Struct, frozen=True, tag="pay.payment"):
    """`status`: "pending", "complete" or "failed"."""

    id: str
    payment_hash: bytes
    bolt11: str
    destination: bytes
    amount_msat: Msat
    amount_sent_msat: Msat
    status: str
    created: int
    completed: int | None
    preimage: bytes | None
    error: str | None
    label: str | None
    parts: int
    failed_parts: int = 0
    unknown_until: int | None = None
    """While it is pending: at this block the last of its HTLCs expires, and then the end is known."""
    kind: str = "invoice"
    """"invoice", "keysend", or "manual" for parts along given routes."""


class PaymentChanged(Struct, frozen=True, tag="pay.changed"):
    """Event: a payment began, or ended. `cltv_expiry`: while its HTLC stands the outcome is open, until this block."""

    row: PaymentRow
    cltv_expiry: int | None = None


class PreviewPay(Struct, frozen=True, tag="pay.preview"):
    """What `Pay` would do now, without doing it. Refused as `Pay` would be."""

    bolt11: str
    amount_msat: Msat | None = None


class PayPreview(Struct, frozen=True, tag="pay.previewed"):
    """`lock_blocks`: for so long the money may be held up when something goes wrong on the way."""

    destination: bytes
    amount_msat: Msat
    fee_msat: Msat
    lock_blocks: int
    channel_id: bytes
    already: str | None
    """The status of a payment with this hash that is there already."""


class ListPayments(Struct, frozen=True, tag="pay.list"):
    """`newest`: no more than so many, the youngest."""

    bolt11: str | None = None
    payment_hash: bytes | None = None
    status: str | None = None
    newest: int | None = None


class Payments(Struct, frozen=True, tag="pay.payments"):
    payments: tuple[PaymentRow, ...]


class SignText(Struct, frozen=True, tag="pay.sign_text"):
    text: str
