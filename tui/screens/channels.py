"""Channels: a table with local and remote bars, and the detail of the one under the cursor."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from protocol.bus.messages.events import ChannelRow
from tui import words
from tui.dialogs.close import CloseDialog
from tui.screens.base import NodeScreen
from tui.store import Store
from tui.widgets.card import Card, Part, pair
from tui.widgets.table import Cell, Column, Table

ORDER = ("CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN")


def light(row: ChannelRow, _width: int) -> Cell:
    if row.usable:
        return [("●", "good")]
    if row.state == "CHANNELD_AWAITING_LOCKIN":
        return [("◐", "warn")]
    if row.state == "CHANNELD_NORMAL":
        return [("○", "warn")]
    return [("▼", "dim")]


def bar(row: ChannelRow, width: int) -> Cell:
    ours, theirs = words.bar(row.to_us_msat, row.capacity * 1000, width)
    return [(ours, "local" if row.usable else "dim"), (theirs, "remote" if row.usable else "dim")]


def htlcs(row: ChannelRow, _width: int) -> Cell:
    count = row.offered_htlcs + row.received_htlcs
    return [(str(count), "warn")] if count else [("0", "dim")]


COLUMNS = (
    Column("", 1, light),
    Column("peer", 12, lambda row, width: words.short(row.peer.hex(), width)),
    Column("local sat", 12, lambda row, _: words.whole_sats(row.to_us_msat), right=True),
    Column("", 0, bar),
    Column(
        "remote sat", 12, lambda row, _: words.whole_sats(row.capacity * 1000 - row.to_us_msat), right=True
    ),
    Column("HTLC", 4, htlcs, right=True),
    Column("can send", 12, lambda row, _: words.whole_sats(row.spendable_msat), right=True, from_width=100),
    Column(
        "can receive", 12, lambda row, _: words.whole_sats(row.receivable_msat), right=True, from_width=115
    ),
    Column("state", 10, lambda row, _: words.state(row.state)),
    Column("channel", 14, lambda row, _: words.scid(row.short_channel_id), from_width=100),
)


class ChannelsScreen(NodeScreen):
    CSS_PATH: ClassVar = ["base.tcss", "channels.tcss"]
    TITLE_NAME = "channels"
    SECTIONS = frozenset({"channels", "block"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("X", "close", "Close", id="channels.close"),
    ]

    def body(self) -> ComposeResult:
        yield Table(
            COLUMNS, lambda row: row.channel_id, empty="No channels yet. O opens one.", id="channel-table"
        )
        yield Card("Channel", id="channel-detail")

    def on_mount(self) -> None:
        self.query_one(Table).focus()

    def paint(self, store: Store) -> None:
        rows = sorted(store.channels.values(), key=_order)
        self.query_one(Table).show(rows)
        self._detail(store)

    @on(Table.Moved)
    def moved(self) -> None:
        self._detail(self.store)

    def action_close(self) -> None:
        row = self.query_one(Table).row
        if row is not None:
            self.app.push_screen(CloseDialog(row))

    def _detail(self, store: Store) -> None:
        card = self.query_one("#channel-detail", Card)
        row: ChannelRow | None = self.query_one(Table).row
        if row is None:
            card.show()
            return
        card.show(*detail(row, store.block.height if store.block is not None else 0))


def detail(row: ChannelRow, height: int) -> list[Part]:
    lines: list[Part] = []
    lines += pair("channel", f"{words.scid(row.short_channel_id) or 'no number yet'}  {row.channel_id.hex()}")
    lines += pair("peer", f"{row.peer.hex()} {'connected' if row.connected else 'away'}")
    kind = "anchors" if row.anchors else "static_remotekey"
    opener = "we opened it" if row.opener_is_us else "the peer opened it"
    lines += pair("state", f"{words.state(row.state)}, {kind}, {opener}")
    if row.why:
        lines += pair("why", words.plain(row.why), "$warning")
    lines += pair("can send", f"{words.sats(row.spendable_msat)} sat, above a reserve of {row.our_reserve:,}")
    lines += pair(
        "can receive", f"{words.sats(row.receivable_msat)} sat, their reserve {row.their_reserve:,}"
    )
    lines += pair(
        "commitment",
        f"ours {row.local_number:,}, theirs {row.remote_number:,}, {row.feerate_per_kw:,} sat per kw, "
        f"our delay {words.blocks(row.our_to_self_delay)}",
    )
    lines += pair(
        "funding", f"{row.funding_txid[::-1].hex()}:{row.funding_outnum}, {row.funding_confirmations} deep"
    )
    for htlc in row.htlcs:
        way = "→ out" if htlc.offered else "← in"
        left = words.blocks(htlc.cltv_expiry - height)
        lines += [
            (f"{way:<6} ", "$warning"),
            f"#{htlc.id} {words.sats(htlc.amount_msat)} sat  {words.short(htlc.payment_hash.hex())}  until block "
            f"{htlc.cltv_expiry:,}, {left}  {htlc.state.lower().replace('_', ' ')}\n",
        ]
    hidden = row.offered_htlcs + row.received_htlcs - len(row.htlcs)
    if hidden > 0:
        lines.append((f"and {hidden} more HTLCs\n", "$text-muted"))
    return lines


def _order(row: ChannelRow) -> tuple[int, int, bytes]:
    rank = ORDER.index(row.state) if row.state in ORDER else len(ORDER)
    return rank, -row.capacity, row.channel_id
