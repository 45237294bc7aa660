"""Signer: the line to it, round trips by lane, counters, and what it refused, as far as the node knows."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Container

from tui import words
from tui.screens.base import NodeScreen
from tui.store import Store
from tui.widgets.card import Card, Part, pair
from tui.widgets.table import Column, Table

LANES = (
    Column("lane", 0, lambda row, _: row.name),
    Column("answers", 11, lambda row, _: f"{row.answered:,}", right=True),
    Column("last ms", 9, lambda row, _: f"{row.last_ms:,.2f}", right=True),
    Column("mean ms", 9, lambda row, _: f"{row.mean_ms:,.2f}", right=True),
    Column("worst ms", 9, lambda row, _: f"{row.worst_ms:,.2f}", right=True),
)
REFUSALS = (
    Column("when", 8, lambda row, _: words.clock(row.time)),
    Column("rule", 22, lambda row, _: [(words.plain(row.tag), "bad")]),
    Column("what it said", 0, lambda row, _: words.plain(f"{row.rule} {row.next_step}")),
)


class SignerScreen(NodeScreen):
    CSS_PATH: ClassVar = ["base.tcss", "signer.tcss"]
    TITLE_NAME = "signer"
    SECTIONS = frozenset({"signer"})

    def body(self) -> ComposeResult:
        with Container(id="signer-parts"):
            yield Card("Link", id="signer-link")
            lanes = Table(LANES, lambda row: row.name, empty="Nothing was asked yet.", id="lanes")
            lanes.border_title = "Round trips"
            lanes.add_class("titled")
            yield lanes
        refusals = Table(
            REFUSALS, lambda row: (row.time, row.tag), empty="Nothing was refused.", id="refusals"
        )
        refusals.border_title = "Refusals"
        refusals.add_class("titled")
        yield refusals

    def on_mount(self) -> None:
        self.query_one("#lanes", Table).focus()

    def paint(self, store: Store) -> None:
        row = store.signer
        if row is None:
            return
        lines: list[Part] = []
        lines += pair("state", "up" if row.up else "away", "bold $success" if row.up else "bold $error")
        if not row.up:
            lines += pair("why", words.plain(row.reason))
        lines += pair("where", words.plain(row.endpoint))
        lines += pair("keys of", words.short(row.node_id.hex(), 40) or "not seen yet")
        lines += pair("requests", f"{row.requests:,} since the node started, {row.open} open")
        lines += pair("refused", f"{row.refused:,}", "$error" if row.refused else "$success")
        lines += pair("commits", f"{store.durable_commits:,} durable, when this screen connected")
        self.query_one("#signer-link", Card).show(*lines)
        self.query_one("#lanes", Table).show(row.lanes)
        self.query_one("#refusals", Table).show(row.refusals[::-1])
