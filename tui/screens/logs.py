"""Logs: the daemon's lines as they come, by level and by words."""

from typing import ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from protocol.bus.messages.events import Event, LogLine
from tui import words
from tui.screens.base import NodeScreen
from tui.store import Store
from tui.widgets.card import Card
from tui.widgets.table import Cell, Column, Table

LEVELS = ("info", "warning", "error")
LOOK = {"info": "dim", "warning": "warn", "error": "bad", "critical": "bad"}


def _line(event: Event) -> LogLine:
    if not isinstance(event.what, LogLine):
        raise TypeError("the log holds log lines")
    return event.what


def level(event: Event, _width: int) -> Cell:
    name = _line(event).level
    return [("warn" if name == "warning" else name, LOOK.get(name, ""))]


COLUMNS = (
    Column("when", 8, lambda event, _: words.clock(event.time)),
    Column("", 5, level),
    Column("event", 22, lambda event, _: [(words.plain(_line(event).event), "strong")]),
    Column("", 0, lambda event, _: words.plain(_line(event).text)),
)


class LogsScreen(NodeScreen):
    CSS_PATH: ClassVar = ["base.tcss", "logs.tcss"]
    TITLE_NAME = "logs"
    SECTIONS = frozenset({"logs"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("l", "level", "Level", id="logs.level"),
        Binding("slash", "filter", "Filter", id="logs.filter"),
        Binding("escape", "clear", "Clear filter", show=False, id="logs.clear"),
    ]

    def __init__(self) -> None:
        super().__init__()
        self._least = 0
        self._words = ""

    def body(self) -> ComposeResult:
        yield Table(COLUMNS, lambda event: event.seq, empty="No such line.", follow=True, id="log-table")
        yield Card(id="log-line", classes="titled")
        yield Input(placeholder="words that a line must have", id="log-filter")

    def on_mount(self) -> None:
        self.query_one(Table).focus()
        self.query_one(Input).display = False

    def paint(self, store: Store) -> None:
        rows = [event for event in store.logs if self._wanted(_line(event))]
        self.query_one(Table).show(rows)
        self._whole()

    @on(Table.Moved)
    def _whole(self) -> None:
        event: Event | None = self.query_one(Table).row
        card = self.query_one("#log-line", Card)
        card.border_title = f"{LEVELS[self._least]} and above" + (
            f", with {self._words!r}" if self._words else ""
        )
        if event is None:
            card.show()
        else:
            line = _line(event)
            card.show((f"{line.event} ", "bold"), words.plain(line.text))

    def action_level(self) -> None:
        self._least = (self._least + 1) % len(LEVELS)
        self.paint(self.store)

    def action_filter(self) -> None:
        entry = self.query_one(Input)
        entry.display = True
        entry.focus()

    def action_clear(self) -> None:
        self._words = ""
        entry = self.query_one(Input)
        entry.value, entry.display = "", False
        self.query_one(Table).focus()
        self.paint(self.store)

    @on(Input.Changed)
    def filter_changed(self, event: Input.Changed) -> None:
        self._words = event.value.strip().lower()
        self.paint(self.store)

    @on(Input.Submitted)
    def filter_done(self) -> None:
        self.query_one(Input).display = bool(self._words)
        self.query_one(Table).focus()

    def _wanted(self, line: LogLine) -> bool:
        rank = LEVELS.index(line.level) if line.level in LEVELS else len(LEVELS)
        text = f"{line.event} {line.text}".lower()
        return rank >= self._least and all(word in text for word in self._words.split())
