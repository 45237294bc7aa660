"""Rows of payments, attempts and invoices as values, read and written (DESIGN, "Throughput")."""

import msgspec

from node.payments.store import INVOICE_COLUMNS, Row, Writer
from protocol.amounts import Msat
from protocol.bus.messages.payments import InvoiceRow, PartRow, PaymentRow
from protocol.secret import Secret

CLAIMING = "claiming"
"""An invoice whose HTLCs we have decided to fulfil; people see it as unpaid until we are paid."""
LAST_PAY_INDEX = "last_pay_index"
_PAYMENT = (
    "id, payment_hash, bolt11, destination, amount_msat, amount_sent_msat, status, created, completed, preimage, "
    "error, label, kind"
)


def payment_to_row(
    payment: PaymentRow, *, group_id: int, max_fee: int, retry_until: int, goal: bytes | None
) -> Row:
    return (
        payment.id,
        payment.payment_hash,
        payment.bolt11,
        payment.destination,
        payment.amount_msat,
        payment.amount_sent_msat,
        payment.status,
        payment.created,
        payment.completed,
        payment.preimage,
        payment.error,
        payment.label,
        payment.kind,
        group_id,
        max_fee,
        retry_until,
        goal,
    )


def _payment(row: Row) -> PaymentRow:
    payment_id, payment_hash, bolt11, destination, amount, sent, *rest = row
    status, created, completed, preimage, error, label, kind, parts = rest
    return PaymentRow(
        id=payment_id,
        payment_hash=bytes(payment_hash),
        bolt11=bolt11 or "",
        destination=bytes(destination),
        amount_msat=Msat(amount),
        amount_sent_msat=Msat(sent),
        status=status,
        created=created,
        completed=completed,
        preimage=None if preimage is None else bytes(preimage),
        error=error,
        label=label,
        parts=parts,
        kind=kind,
    )


def read_payments(
    writer: Writer,
    *,
    payment_hash: bytes | None = None,
    bolt11: str | None = None,
    status: str | None = None,
    newest: int | None = None,
) -> list[PaymentRow]:
    """By age; with `newest` only so many of the youngest."""
    where, params = _where(payment_hash=payment_hash, bolt11=bolt11, status=status)
    parts = "(SELECT count(*) FROM attempts WHERE attempts.payment_id = payments.id AND attempts.status <> 'failed')"
    sql = f"SELECT {_PAYMENT}, {parts} FROM payments{where} ORDER BY created"  # noqa: S608 - constant text
    if newest is not None:
        found = writer.read(f"{sql} DESC LIMIT ?", (*params, newest))
        return [_payment(row) for row in reversed(found)]
    return [_payment(row) for row in writer.read(sql, params)]


class PendingAttempt(msgspec.Struct, frozen=True):
    """An attempt whose end is not known, with what a new run needs of it."""

    payment_id: str
    part: int
    origin: str
    channel: bytes
    amount_msat: Msat
    fee_msat: Msat
    session_key: Secret
    route: bytes
    part_id: int
    cltv_expiry: int
    created: int


class Terms(msgspec.Struct, frozen=True):
    """How far a payment may go."""

    group_id: int
    max_fee_msat: int | None
    retry_until: int | None
    goal: bytes | None


def read_pending_attempts(writer: Writer) -> list[PendingAttempt]:
    sql = (
        "SELECT payment_id, part, origin, channel, amount_msat, fee_msat, session_key, route, part_id, cltv_expiry, "
        "created FROM attempts WHERE status = 'pending' ORDER BY payment_id, part"
    )
    return [
        PendingAttempt(
            payment, part, origin, bytes(channel), amount, fee, Secret(bytes(key)), bytes(route), *rest
        )
        for payment, part, origin, channel, amount, fee, key, route, *rest in writer.read(sql)
    ]


def read_payment(writer: Writer, payment_id: str) -> tuple[PaymentRow, Terms] | None:
    sql = (
        f"SELECT {_PAYMENT}, 0, group_id, max_fee_msat, retry_until, goal "  # noqa: S608 - constant text
        "FROM payments WHERE id = ?"
    )
    found = writer.read(sql, (payment_id,))
    if not found:
        return None
    *row, group_id, max_fee, retry_until, goal = found[0]
    return _payment(tuple(row)), Terms(group_id, max_fee, retry_until, None if goal is None else bytes(goal))


def read_parts_tried(writer: Writer, payment_id: str) -> tuple[int, int]:
    """How many attempts there were, and what those that were paid took with them, fees included."""
    sql = (
        "SELECT coalesce(max(part) + 1, 0), "
        "coalesce(sum(CASE WHEN status = 'complete' THEN amount_msat + fee_msat ELSE 0 END), 0) "
        "FROM attempts WHERE payment_id = ?"
    )
    tried, sent = writer.read(sql, (payment_id,))[0]
    return int(tried), int(sent)


def read_parts(
    writer: Writer, *, payment_hash: bytes | None = None, bolt11: str | None = None, status: str | None = None
) -> list[PartRow]:
    where, params = _where(**{"p.payment_hash": payment_hash, "p.bolt11": bolt11, "a.status": status})
    sql = (
        "SELECT p.payment_hash, p.group_id, a.part_id, p.destination, a.amount_msat, a.fee_msat, a.status, a.created, "  # noqa: S608
        "a.ended, p.preimage, p.label, p.bolt11, a.failure, a.failed_at, a.failure_code, p.created, a.hold_times "
        f"FROM attempts a JOIN payments p ON p.id = a.payment_id{where} ORDER BY p.created, p.id, a.part"
    )
    return [_part(number, row) for number, row in enumerate(writer.read(sql, params), 1)]


def _part(number: int, row: Row) -> PartRow:
    payment_hash, group_id, part_id, destination, amount, fee, status, created, ended, preimage, *rest = row
    label, bolt11, error, failed_at, code, begun, held = rest
    return PartRow(
        id=number,
        payment_hash=bytes(payment_hash),
        group_id=group_id,
        part_id=part_id,
        destination=bytes(destination),
        amount_msat=Msat(amount),
        amount_sent_msat=Msat(amount + fee),
        status=status,
        created=created or begun,
        completed=ended,
        preimage=bytes(preimage) if preimage is not None and status == "complete" else None,
        label=label,
        bolt11=bolt11 or None,
        error=error,
        failed_at=failed_at,
        failure_code=code,
        hold_times=tuple(int(one) for one in held.split(",")) if held else (),
    )


def hold_times_to_text(hold_times: tuple[int, ...]) -> str | None:
    return ",".join(map(str, hold_times)) or None


def invoice_to_row(invoice: InvoiceRow, created: int) -> Row:
    return (
        invoice.label,
        invoice.payment_hash,
        invoice.payment_secret,
        invoice.bolt11,
        invoice.amount_msat,
        invoice.description,
        invoice.expires_at,
        invoice.status,
        invoice.received_msat,
        invoice.paid_at,
        invoice.pay_index,
        invoice.preimage,
        invoice.hold,
        created,
    )


def _invoice(row: Row) -> InvoiceRow:
    label, payment_hash, secret, bolt11, amount, description, expires_at, *rest = row
    status, received, paid_at, pay_index, preimage, hold, created = rest
    return InvoiceRow(
        label=label,
        payment_hash=bytes(payment_hash),
        payment_secret=bytes(secret),
        bolt11=bolt11,
        amount_msat=None if amount is None else Msat(amount),
        description=description,
        expires_at=expires_at,
        status=status,
        received_msat=None if received is None else Msat(received),
        paid_at=paid_at,
        pay_index=pay_index,
        preimage=None if preimage is None else bytes(preimage),
        hold=hold,
        created=created,
    )


def read_invoices(
    writer: Writer,
    *,
    label: str | None = None,
    payment_hash: bytes | None = None,
    bolt11: str | None = None,
    newest: int | None = None,
) -> list[InvoiceRow]:
    """By age; with `newest` only so many of the youngest."""
    where, params = _where(label=label, payment_hash=payment_hash, bolt11=bolt11)
    sql = f"SELECT {INVOICE_COLUMNS} FROM invoices{where} ORDER BY created"  # noqa: S608 - constant text
    if newest is not None:
        found = writer.read(f"{sql} DESC LIMIT ?", (*params, newest))
        return [_invoice(row) for row in reversed(found)]
    return [_invoice(row) for row in writer.read(sql, params)]


def read_open_invoices(writer: Writer, now: float) -> list[InvoiceRow]:
    """Those that an HTLC may still pay."""
    sql = (
        f"SELECT {INVOICE_COLUMNS} FROM invoices "  # noqa: S608 - constant text
        "WHERE status IN (?, 'accepted') OR (status = 'unpaid' AND expires_at > ?)"
    )
    return [_invoice(row) for row in writer.read(sql, (CLAIMING, int(now)))]


def read_paid_after(writer: Writer, pay_index: int) -> InvoiceRow | None:
    sql = f"SELECT {INVOICE_COLUMNS} FROM invoices WHERE pay_index > ? ORDER BY pay_index LIMIT 1"  # noqa: S608
    found = writer.read(sql, (pay_index,))
    return _invoice(found[0]) if found else None


def read_last_pay_index(writer: Writer) -> int:
    """Also of invoices that were deleted: who waits for the next one counts on it."""
    (found,) = writer.read("SELECT coalesce(max(pay_index), 0) FROM invoices")[0]
    kept = writer.read("SELECT value FROM meta WHERE key = ?", (LAST_PAY_INDEX,))
    return max(int(found), int(kept[0][0]) if kept else 0)


def _where(**columns: object) -> tuple[str, Row]:
    given = {name: value for name, value in columns.items() if value is not None}
    text = " AND ".join(f"{name} = ?" for name in given)  # the names are ours, the values are parameters
    return (f" WHERE {text}" if given else ""), tuple(given.values())
