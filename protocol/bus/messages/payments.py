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


class ListInvoices(Struct, frozen=True, tag="pay.list_invoices"):
    label: str | None = None
    payment_hash: bytes | None = None
    bolt11: str | None = None


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


class ListPayments(Struct, frozen=True, tag="pay.list"):
    bolt11: str | None = None
    payment_hash: bytes | None = None
    status: str | None = None


class Payments(Struct, frozen=True, tag="pay.payments"):
    payments: tuple[PaymentRow, ...]


class SignText(Struct, frozen=True, tag="pay.sign_text"):
    text: str
