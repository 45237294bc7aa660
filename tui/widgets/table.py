"""A table of fixed columns that renders the lines in view and no others (STYLE, section 11).

Rows are frozen values: a line is rendered again only when its row is another object, or the cursor moved. So five
hundred channels that change twenty times a second cost what is on the screen.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, ClassVar

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Region, Size
from textual.message import Message
from textual.scroll_view import ScrollView
from textual.strip import Strip

Span = tuple[str, str]
"""Text and the name of a style: "" or one of `STYLES`."""
Cell = str | list[Span]
STYLES = ("good", "warn", "bad", "dim", "local", "remote", "strong")
GAP = 1


class Column:
    """`width` 0 takes what is left. `from_width`: shown in tables at least so wide."""

    def __init__(
        self,
        title: str,
        width: int,
        cell: Callable[[Any, int], Cell],
        *,
        right: bool = False,
        from_width: int = 0,
    ) -> None:
        self.title = title
        self.width = width
        self.cell = cell
        self.right = right
        self.from_width = from_width


class Table(ScrollView, can_focus=True):
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="table.up"),
        Binding("down,j", "move(1)", "Down", show=False, id="table.down"),
        Binding("pageup", "page(-1)", "Page up", show=False, id="table.page_up"),
        Binding("pagedown", "page(1)", "Page down", show=False, id="table.page_down"),
        Binding("home,g", "edge(-1)", "First", show=False, id="table.first"),
        Binding("end,G", "edge(1)", "Last", show=False, id="table.last"),
        Binding("enter", "choose", "Detail", show=False, id="table.choose"),
    ]
    COMPONENT_CLASSES: ClassVar[set[str]] = {
        "table--head",
        "table--cursor",
        *(f"table--{name}" for name in STYLES),
    }

    class Moved(Message):
        """The cursor stands on another row."""

        def __init__(self, table: "Table", row: Any) -> None:
            super().__init__()
            self.table = table
            self.row = row

        @property
        def control(self) -> "Table":
            return self.table

    class Chosen(Moved):
        """Enter on a row."""

    def __init__(
        self,
        columns: Sequence[Column],
        key: Callable[[Any], Hashable],
        *,
        empty: str,
        follow: bool = False,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._columns = columns
        self._key = key
        self._empty = empty
        self._follow = follow
        self._rows: Sequence[Any] = ()
        self._at = 0
        self._lines: dict[Hashable, tuple[Any, int, bool, Strip]] = {}

    @property
    def row(self) -> Any | None:
        return self._rows[self._at] if 0 <= self._at < len(self._rows) else None

    @property
    def rows(self) -> Sequence[Any]:
        return self._rows

    def show(self, rows: Sequence[Any]) -> None:
        """The cursor stays on its row, wherever that is now."""
        before = self.row
        at_end = self._follow and self._at >= len(self._rows) - 1
        held = self._key(before) if before is not None else None
        self._rows = rows
        if at_end:
            self._at = len(rows) - 1
        elif held is not None:
            same = self._at < len(rows) and self._key(rows[self._at]) == held
            if not same:
                self._at = next((n for n, row in enumerate(rows) if self._key(row) == held), self._at)
        self._at = max(0, min(self._at, len(rows) - 1))
        size = Size(self.size.width, len(rows) + 1)
        if size != self.virtual_size:
            self.virtual_size = size
            if len(self._lines) > 4 * max(100, len(rows)):
                self._lines.clear()
        if at_end:
            self._scroll_to_cursor()
        now = self.row
        if now is not before:
            self.post_message(self.Moved(self, now))
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            return self._head(width)
        index = self.scroll_offset.y + y - 1
        if index >= len(self._rows):
            return self._message(width) if not self._rows and y == 1 else Strip.blank(width, self.rich_style)
        row = self._rows[index]
        key, current = self._key(row), index == self._at
        look = (2 if self.has_focus else 1) if current else 0
        known = self._lines.get(key)
        stamp = width * 4 + look
        if known is not None and known[0] is row and known[1] == stamp:
            return known[3]
        strip = self._line(row, width, current)
        self._lines[key] = (row, stamp, current, strip)
        return strip

    def action_move(self, by: int) -> None:
        self._go(self._at + by)

    def action_page(self, by: int) -> None:
        self._go(self._at + by * max(1, self.size.height - 2))

    def action_edge(self, side: int) -> None:
        self._go(0 if side < 0 else len(self._rows) - 1)

    def action_choose(self) -> None:
        if self.row is not None:
            self.post_message(self.Chosen(self, self.row))

    def on_click(self, event: events.Click) -> None:
        index = self.scroll_offset.y + event.y - 1
        if event.y > 0 and index < len(self._rows):
            self._go(index)

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._lines.clear()

    def on_resize(self) -> None:
        self.virtual_size = Size(self.size.width, len(self._rows) + 1)

    def _go(self, at: int) -> None:
        at = max(0, min(at, len(self._rows) - 1))
        if at == self._at or not self._rows:
            return
        self._at = at
        self._scroll_to_cursor()
        self.refresh()
        self.post_message(self.Moved(self, self.row))

    def _scroll_to_cursor(self) -> None:
        self.scroll_to_region(Region(0, self._at + 1, 1, 1), animate=False, force=True)
        top = self.scroll_offset.y
        if self._at < top:  # the head covers the first line
            self.scroll_to(y=self._at, animate=False, force=True)

    def _shown(self, width: int) -> list[tuple[Column, int]]:
        columns = [column for column in self._columns if width >= column.from_width]
        left = width - sum(column.width + GAP for column in columns) + GAP
        return [(column, column.width or max(4, left)) for column in columns]

    def _head(self, width: int) -> Strip:
        style = self.get_component_rich_style("table--head")
        cells = []
        for column, size in self._shown(width):
            title = column.title.rjust(size) if column.right else column.title
            cells.append(Segment(set_cell_size(title, size), style))
            cells.append(Segment(" " * GAP, style))
        return Strip(cells).adjust_cell_length(width, style)

    def _message(self, width: int) -> Strip:
        style = self.get_component_rich_style("table--dim")
        return Strip([Segment(set_cell_size(self._empty, width), style)], width)

    def _line(self, row: Any, width: int, current: bool) -> Strip:
        under = self.get_component_rich_style("table--cursor") if current else self.rich_style
        segments: list[Segment] = []
        for column, size in self._shown(width):
            cell = column.cell(row, size)
            spans = [(cell, "")] if isinstance(cell, str) else cell
            segments += self._fit(spans, size, column.right, under)
            segments.append(Segment(" " * GAP, under))
        return Strip(segments).adjust_cell_length(width, under)

    def _fit(self, spans: list[Span], size: int, right: bool, under: Style) -> list[Segment]:
        """Exactly `size` cells."""
        made: list[Segment] = []
        left = size
        for text, name in spans:
            length = cell_len(text)
            if length > left:
                text = set_cell_size(text, max(0, left - 1)) + ("…" if left > 0 else "")
                length = left
            made.append(Segment(text, under + self._style(name) if name else under))
            left -= length
            if left <= 0:
                break
        blank = Segment(" " * left, under)
        return [blank, *made] if right else [*made, blank]

    def _style(self, name: str) -> Style:
        found = self.get_component_rich_style(f"table--{name}", partial=True)
        return Style(color=found.color, bold=found.bold)
