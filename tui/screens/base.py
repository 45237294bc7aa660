"""What every screen has: the top lines, its body, the last event, the keys; painted from the store."""

from pathlib import PurePath
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.containers import Container
from textual.screen import Screen
from textual.widgets import Footer

from tui import words
from tui.store import Store
from tui.widgets.card import Card
from tui.widgets.top import Top

if TYPE_CHECKING:
    from tui.app import LnpTui

WIDE = 110
TALL = 34


class NodeScreen(Screen[None]):
    """A screen says what it shows (`body`) and paints it (`paint`) when one of its `sections` moved."""

    CSS_PATH: ClassVar[str | PurePath | list[str | PurePath] | None] = "base.tcss"
    TITLE_NAME: ClassVar[str]
    SECTIONS: ClassVar[frozenset[str]]
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (WIDE, "-wide")]  # noqa: RUF012 - as Textual declares it
    VERTICAL_BREAKPOINTS = [(0, "-low"), (TALL, "-tall")]  # noqa: RUF012

    def compose(self) -> ComposeResult:
        yield Top(self.TITLE_NAME)
        with Container(id="body"):
            yield from self.body()
        yield Card(id="last")
        yield Footer(show_command_palette=False, compact=True)

    def body(self) -> ComposeResult:
        raise NotImplementedError

    def paint(self, store: Store) -> None:
        raise NotImplementedError

    @property
    def tui(self) -> "LnpTui":
        app = self.app
        from tui.app import LnpTui  # the app knows the screens, so it cannot be imported above

        if not isinstance(app, LnpTui):
            raise TypeError("a screen of ours runs in our app")
        return app

    @property
    def store(self) -> Store:
        return self.tui.store

    def on_screen_resume(self) -> None:
        self.repaint({"all"})

    def on_resize(self) -> None:
        self.call_after_refresh(self.repaint, {"all"})

    def repaint(self, changed: set[str]) -> None:
        """Called by the app, at most four times a second."""
        if not self.is_mounted:
            return
        store = self.store
        self.query_one(Top).paint(store)
        self.set_class(not store.up, "stale")
        if store.ready and ("all" in changed or changed & self.SECTIONS):
            self.paint(store)
        if store.events:
            event = store.events[-1]
            self.query_one("#last", Card).show(
                (f" {words.clock(event.time)} ", "$text-muted"), words.describe(event)
            )
