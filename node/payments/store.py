"""Rows of payments, attempts and invoices, and the turn's outbox (DESIGN, "Throughput": save, then send).

What a turn saves goes to the writer as one unit, and what it says leaves behind it: the channel's own save of the
offer stands later in the same queue, so an attempt is on disk before any byte of it can reach the peer.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from protocol.amounts import Msat
from protocol.bus.messages.payments import InvoiceRow, PaymentRow
from protocol.secret import Secret

Row = tuple[Any, ...]  # what a database column may hold

_PAYMENT = (
    "id, payment_hash, bolt11, destination, amount_msat, amount_sent_msat, status, created, completed, preimage, "
    "error, label"
)
_INVOICE = (
    "label, payment_hash, payment_secret, bolt11, amount_msat, description, expires_at, status, received_msat, "
    "paid_at, pay_index"
)
INSERT_PAYMENT = (
    "INSERT INTO payments (id, payment_hash, bolt11, destination, amount_msat, amount_sent_msat, status, created, "
    "completed, preimage, error, label) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_ATTEMPT = (
    "INSERT INTO attempts (payment_id, part, origin, channel, amount_msat, fee_msat, session_key, route, status) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending')"
)
END_ATTEMPT = "UPDATE attempts SET status = ?, failure = ? WHERE origin = ?"
END_PAYMENT = (
    "UPDATE payments SET status = ?, amount_sent_msat = ?, completed = ?, preimage = ?, error = ? "
    "WHERE id = ?"
)
INSERT_INVOICE = (
    "INSERT INTO invoices (label, payment_hash, payment_secret, bolt11, amount_msat, description, expires_at, "
    "status, received_msat, paid_at, pay_index, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
SET_INVOICE = (
    "UPDATE invoices SET status = ?, received_msat = ?, paid_at = ?, pay_index = ? WHERE payment_hash = ?"
)
_ORDER = (INSERT_PAYMENT, INSERT_ATTEMPT, END_ATTEMPT, END_PAYMENT, INSERT_INVOICE, SET_INVOICE)
"""Within a unit: what is changed was inserted before; parents come before children."""

CLAIMING = "claiming"
"""An invoice whose HTLCs we have decided to fulfil; people see it as unpaid until we are paid."""


class Writer(Protocol):
    """The part of the storage writer that payments use."""

    def submit(self, unit: list[tuple[str, Sequence[Row]]], *, now: bool) -> "asyncio.Future[None]": ...

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[Row]: ...


class Desk:
    """Collects what one turn saves and says. `flush` hands it over: first the rows, then the messages."""

    def __init__(self, writer: Writer, send: Callable[[str, object], None], wake: Callable[[], None]) -> None:
        self._writer = writer
        self._send = send
        self._wake = wake
        self._rows: dict[str, list[Row]] = {}
        self._messages: list[tuple[str, object]] = []
        self._when_saved: list[Callable[[], None]] = []
        self._now = False

    def save(self, sql: str, row: Row, *, now: bool = False) -> None:
        self._rows.setdefault(sql, []).append(row)
        self._now |= now
        self._wake()

    def tell(self, service: str, message: object) -> None:
        self._messages.append((service, message))
        self._wake()

    def when_saved(self, act: Callable[[], None]) -> None:
        """`act` runs once everything that was saved up to here is on disk; never when writing has failed."""
        self._when_saved.append(act)
        self._wake()

    def flush(self) -> None:
        rows, self._rows = self._rows, {}
        messages, self._messages = self._messages, []
        acts, self._when_saved = self._when_saved, []
        now, self._now = self._now, False
        if rows or acts:
            unit: list[tuple[str, Sequence[Row]]] = [(sql, rows[sql]) for sql in _ORDER if sql in rows]
            saved = self._writer.submit(unit, now=now)
            saved.add_done_callback(lambda future: _run(acts, future))
        for service, message in messages:
            self._send(service, message)


def _run(acts: list[Callable[[], None]], saved: "asyncio.Future[None]") -> None:
    if saved.cancelled() or saved.exception() is not None:
        return  # the writer stops the node, and reconciling at the next start decides
    for act in acts:
        act()


def payment_to_row(payment: PaymentRow) -> Row:
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
    )


def _payment(row: Row) -> PaymentRow:
    payment_id, payment_hash, bolt11, destination, amount, sent, *rest = row
    status, created, completed, preimage, error, label, parts = rest
    return PaymentRow(
        id=payment_id,
        payment_hash=bytes(payment_hash),
        bolt11=bolt11,
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


def read_pending_attempts(writer: Writer) -> list[tuple[str, int, str, bytes, Secret]]:
    """(payment id, part, origin, channel, session key) of each attempt whose end is not known."""
    sql = "SELECT payment_id, part, origin, channel, session_key FROM attempts WHERE status = 'pending' ORDER BY part"
    return [
        (payment_id, part, origin, bytes(channel), Secret(bytes(session_key)))
        for payment_id, part, origin, channel, session_key in writer.read(sql)
    ]


def read_parts_tried(writer: Writer, payment_id: str) -> int:
    sql = "SELECT coalesce(max(part) + 1, 0) FROM attempts WHERE payment_id = ?"
    return int(writer.read(sql, (payment_id,))[0][0])


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
        created,
    )


def _invoice(row: Row) -> InvoiceRow:
    (
        label,
        payment_hash,
        secret,
        bolt11,
        amount,
        description,
        expires_at,
        status,
        received,
        paid_at,
        pay_index,
    ) = row
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
    sql = f"SELECT {_INVOICE} FROM invoices{where} ORDER BY created"  # noqa: S608 - constant text
    if newest is not None:
        found = writer.read(f"{sql} DESC LIMIT ?", (*params, newest))
        return [_invoice(row) for row in reversed(found)]
    return [_invoice(row) for row in writer.read(sql, params)]


def read_open_invoices(writer: Writer, now: float) -> list[InvoiceRow]:
    """Those that an HTLC may still pay."""
    sql = f"SELECT {_INVOICE} FROM invoices WHERE status = ? OR (status = 'unpaid' AND expires_at > ?)"  # noqa: S608
    return [_invoice(row) for row in writer.read(sql, (CLAIMING, int(now)))]


def read_last_pay_index(writer: Writer) -> int:
    return int(writer.read("SELECT coalesce(max(pay_index), 0) FROM invoices")[0][0])


def _where(**columns: object) -> tuple[str, Row]:
    given = {name: value for name, value in columns.items() if value is not None}
    text = " AND ".join(f"{name} = ?" for name in given)  # the names are ours, the values are parameters
    return (f" WHERE {text}" if given else ""), tuple(given.values())
