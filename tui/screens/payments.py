"""Payments: what we paid and tried to pay, what is on its way, and until when its outcome is open."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult

from protocol.bus.messages.events import HtlcRow, PaymentNow
from tui import words
from tui.screens.base import NodeScreen
from tui.store import Store
from tui.widgets.card import Card, Part, pair
from tui.widgets.table import Cell, Column, Table

LOOK = {"complete": ("✔", "good"), "failed": ("✘", "bad"), "pending": ("…", "warn")}


def outcome(row: PaymentNow, _width: int) -> Cell:
    text = words.payment_outcome(row)
    if row.status == "failed":
        text = f"failed: {row.error or 'no reason'}"
    return [(words.plain(text), LOOK.get(row.status, ("", ""))[1])]


COLUMNS = (
    Column("", 1, lambda row, _: [LOOK.get(row.status, ("?", "dim"))]),
    Column("when", 16, lambda row, _: words.date(row.created)),
    Column("amount sat", 13, lambda row, _: words.sats(row.amount_msat), right=True),
    Column("fee", 7, lambda row, _: words.sats(row.fee_msat), right=True, from_width=90),
    Column("to", 15, lambda row, width: words.short(row.destination.hex(), width)),
    Column("outcome", 0, outcome),
    Column("label", 18, lambda row, _: words.plain(row.label or ""), from_width=115),
)


class PaymentsScreen(NodeScreen):
    CSS_PATH: ClassVar = ["base.tcss", "payments.tcss"]
    TITLE_NAME = "payments"
    SECTIONS = frozenset({"payments", "channels", "block"})

    def body(self) -> ComposeResult:
        yield Table(COLUMNS, lambda row: row.id, empty="Nothing was paid yet. P pays.", id="payment-table")
        yield Card("Payment", id="payment-detail")

    def on_mount(self) -> None:
        self.query_one(Table).focus()

    def paint(self, store: Store) -> None:
        rows = sorted(store.payments.values(), key=lambda row: (-row.created, row.id))
        self.query_one(Table).show(rows)
        self._detail(store)

    @on(Table.Moved)
    def moved(self) -> None:
        self._detail(self.store)

    def _detail(self, store: Store) -> None:
        row: PaymentNow | None = self.query_one(Table).row
        card = self.query_one("#payment-detail", Card)
        card.show(*(detail(row, store) if row is not None else ()))


def htlcs_of(store: Store, payment_hash: bytes) -> list[tuple[bytes, HtlcRow]]:
    """The HTLCs that we offered for a payment, with their channels."""
    return [
        (channel.channel_id, htlc)
        for channel in store.channels.values()
        for htlc in channel.htlcs
        if htlc.offered and htlc.payment_hash == payment_hash
    ]


def detail(row: PaymentNow, store: Store) -> list[Part]:
    lines: list[Part] = []
    lines += pair("hash", row.payment_hash.hex())
    lines += pair("to", row.destination.hex())
    lines += pair("amount", f"{words.sats(row.amount_msat)} sat, fee {words.sats(row.fee_msat)} sat")
    took = "" if row.completed is None else f", ended {words.date(row.completed)}"
    lines += pair("began", f"{words.date(row.created)}{took}")
    if row.label:
        lines += pair("label", words.plain(row.label))
    style = {"complete": "$success", "failed": "$error"}.get(row.status, "$warning")
    lines += pair("outcome", words.payment_outcome(row), style)
    if row.error:
        lines += pair("why", words.plain(row.error))
    height = store.block.height if store.block is not None else 0
    for channel_id, htlc in htlcs_of(store, row.payment_hash):
        left = words.blocks(htlc.cltv_expiry - height)
        lines += pair(
            f"HTLC #{htlc.id}",
            f"over {words.short(channel_id.hex())}: {htlc.state.lower().replace('_', ' ')}; resolved within {left}",
            "$warning",
        )
    return lines
