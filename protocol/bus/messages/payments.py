"""What the payment service says and hears: invoices and payments (BOLT 11)."""

from msgspec import Struct

from protocol.amounts import Msat


class CreateInvoice(Struct, frozen=True, tag="pay.invoice"):
    amount_msat: Msat | None
    label: str
    description: str
    expiry: int = 604_800
    description_hash: bytes | None = None
    cltv: int | None = None


class InvoiceRow(Struct, frozen=True, tag="pay.invoice_row"):
    """`status`: "unpaid", "paid" or "expired"."""

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


class Pay(Struct, frozen=True, tag="pay.pay"):
    """Pays an invoice. Answered with `PaymentRow` when final; a deadline leaves it running ("outcome unknown")."""

    bolt11: str
    amount_msat: Msat | None = None
    max_fee_msat: Msat | None = None
    label: str | None = None
    retry_for: int = 60


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
