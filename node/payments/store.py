"""What payments write, in which order, and the turn's outbox (DESIGN, "Throughput": save, then send).

What a turn saves goes to the writer as one unit, and what it says leaves behind it: the channel's own save of the
offer stands later in the same queue, so an attempt is on disk before any byte of it can reach the peer.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

Row = tuple[Any, ...]  # what a database column may hold

INVOICE_COLUMNS = (
    "label, payment_hash, payment_secret, bolt11, amount_msat, description, expires_at, status, received_msat, "
    "paid_at, pay_index, preimage, hold, created"
)
INSERT_PAYMENT = (
    "INSERT INTO payments (id, payment_hash, bolt11, destination, amount_msat, amount_sent_msat, status, created, "
    "completed, preimage, error, label, kind, group_id, max_fee_msat, retry_until, goal) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
INSERT_ATTEMPT = (
    "INSERT INTO attempts (payment_id, part, origin, channel, amount_msat, fee_msat, session_key, route, status, "
    "part_id, cltv_expiry, created) VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?, ?, ?)"
)
END_ATTEMPT = (
    "UPDATE attempts SET status = ?, failure = ?, ended = ?, failed_at = ?, failure_code = ?, "
    "hold_times = ? WHERE origin = ?"
)
END_PAYMENT = (
    "UPDATE payments SET status = ?, amount_sent_msat = ?, completed = ?, preimage = ?, error = ? "
    "WHERE id = ?"
)
INSERT_INVOICE = (
    f"INSERT INTO invoices ({INVOICE_COLUMNS}) "  # noqa: S608 - our own column names
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
SET_INVOICE = (
    "UPDATE invoices SET status = ?, received_msat = ?, paid_at = ?, pay_index = ?, preimage = ? "
    "WHERE payment_hash = ?"
)
DESCRIBE_INVOICE = "UPDATE invoices SET description = ? WHERE payment_hash = ?"
DELETE_INVOICE = "DELETE FROM invoices WHERE payment_hash = ?"
PUT_FORWARD = (
    "INSERT INTO forwards (in_channel, in_htlc, in_msat, in_expiry, payment_hash, onion_key, out_channel, out_scid, "
    "out_htlc, out_msat, fee_msat, status, received, resolved, failure_code, reason) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (in_channel, in_htlc) DO UPDATE SET out_channel = excluded.out_channel, status = excluded.status, "
    "out_msat = excluded.out_msat, fee_msat = excluded.fee_msat, out_scid = excluded.out_scid, "
    "resolved = excluded.resolved, failure_code = excluded.failure_code, reason = excluded.reason"
)
"""Again for another channel to the same peer, and for one that is judged anew after a restart."""
END_FORWARD = (
    "UPDATE forwards SET status = ?, out_htlc = ?, resolved = ?, failure_code = ?, reason = ? "
    "WHERE in_channel = ? AND in_htlc = ?"
)
SET_POLICY = "INSERT OR REPLACE INTO policies (channel, policy, previous, previous_until) VALUES (?, ?, ?, ?)"
SET_META = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
_ORDER = (
    INSERT_PAYMENT,
    INSERT_ATTEMPT,
    END_ATTEMPT,
    END_PAYMENT,
    INSERT_INVOICE,
    SET_INVOICE,
    DESCRIBE_INVOICE,
    DELETE_INVOICE,
    PUT_FORWARD,
    END_FORWARD,
    SET_POLICY,
    SET_META,
)
"""Within a unit: what is changed was inserted before; parents come before children."""


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
            if len(unit) != len(rows):
                raise AssertionError("a statement has no place in the order")  # it would be lost in silence
            saved = self._writer.submit(unit, now=now)
            saved.add_done_callback(lambda future: _run(acts, future))
        for service, message in messages:
            self._send(service, message)


def _run(acts: list[Callable[[], None]], saved: "asyncio.Future[None]") -> None:
    if saved.cancelled() or saved.exception() is not None:
        return  # the writer stops the node, and reconciling at the next start decides
    for act in acts:
        act()
