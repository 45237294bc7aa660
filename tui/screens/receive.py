"""Receive: invoices, paid and open, and the QR of the one that was just made or chosen."""

from typing import ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal

from protocol.bus.messages.events import InvoiceNow
from tui import words
from tui.dialogs.invoice import InvoiceDialog
from tui.line import RpcRefused
from tui.screens.base import NodeScreen
from tui.store import Store
from tui.widgets.card import Card, Part, pair
from tui.widgets.qr import Qr
from tui.widgets.table import Cell, Column, Table

LOOK = {"paid": "good", "expired": "dim", "unpaid": "warn"}


def amount(row: InvoiceNow, _width: int) -> Cell:
    return "any" if row.amount_msat is None else words.sats(row.amount_msat)


COLUMNS = (
    Column("status", 7, lambda row, _: [(row.status, LOOK.get(row.status, ""))]),
    Column("amount sat", 13, amount, right=True),
    Column("label", 0, lambda row, _: words.plain(row.label)),
    Column("expires", 16, lambda row, _: words.date(row.expires_at), from_width=60),
    Column("paid", 16, lambda row, _: words.date(row.paid_at), from_width=90),
)


class ReceiveScreen(NodeScreen):
    CSS_PATH: ClassVar = ["base.tcss", "receive.tcss"]
    TITLE_NAME = "receive"
    SECTIONS = frozenset({"invoices", "channels"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "New invoice", id="receive.new"),
        Binding("f", "big", "Full-screen QR", id="receive.big"),
        Binding("y", "copy", "Copy", id="receive.copy"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._bolt11 = ""
        self._of: bytes | None = None

    def body(self) -> ComposeResult:
        with Horizontal(id="receive-parts"):
            yield Table(
                COLUMNS,
                lambda row: row.payment_hash,
                empty="No invoices yet. n makes one.",
                id="invoice-table",
            )
            yield Qr(id="qr")
        yield Card("Invoice", id="invoice-detail")

    def on_mount(self) -> None:
        self.query_one(Table).focus()

    def paint(self, store: Store) -> None:
        rows = sorted(store.invoices.values(), key=lambda row: (-row.expires_at, row.payment_hash))
        self.query_one(Table).show(rows)
        self._detail(store)

    @on(Table.Moved)
    def moved(self) -> None:
        row: InvoiceNow | None = self.query_one(Table).row
        if row is not None and row.payment_hash != self._of:
            self._of, self._bolt11 = row.payment_hash, ""
            self._fetch(row.payment_hash)
        self._detail(self.store)

    @work(exclusive=True, group="invoice")
    async def _fetch(self, payment_hash: bytes) -> None:
        """The text of an invoice is not part of the event stream: it is asked for when it is shown."""
        try:
            answer = await self.tui.line.rpc("listinvoices", {"payment_hash": payment_hash.hex()})
        except RpcRefused:
            return  # the next move asks again
        for found in answer["invoices"]:
            self._bolt11 = str(found["bolt11"])
        self._detail(self.store)

    @work
    async def action_new(self) -> None:
        made = await self.app.push_screen_wait(InvoiceDialog())
        if made is None:
            return
        self._of, self._bolt11 = bytes.fromhex(made["payment_hash"]), made["bolt11"]
        self._detail(self.store)

    def action_big(self) -> None:
        self.set_class(not self.has_class("big"), "big")
        self.call_after_refresh(self._detail, self.store)

    def action_copy(self) -> None:
        if self._bolt11:
            self.app.copy_to_clipboard(self._bolt11)
            self.app.notify("The invoice is on the clipboard.")

    def _detail(self, store: Store) -> None:
        row = store.invoices.get(self._of) if self._of is not None else None
        lines: list[Part] = []
        if row is not None:
            over = "any amount" if row.amount_msat is None else f"{words.sats(row.amount_msat)} sat"
            got = f", received {words.sats(row.received_msat)} sat" if row.received_msat is not None else ""
            style = {"paid": "$success", "unpaid": "$warning"}.get(row.status, "$text-muted")
            lines += pair("invoice", f"{words.plain(row.label)} over {over}")
            lines += pair("status", f"{row.status}{got}", style)
            if row.description:
                lines += pair("description", words.plain(row.description))
        room = sum(c.receivable_msat for c in store.channels.values() if c.usable)
        if row is not None and row.status == "unpaid" and (row.amount_msat or 0) > room:
            lines += pair(
                "too large", f"all channels together can receive {words.sats(room)} sat now", "$error"
            )
        lines.append(self._bolt11)
        self.query_one("#invoice-detail", Card).show(*lines)
        self.query_one(Qr).show(self._bolt11)
