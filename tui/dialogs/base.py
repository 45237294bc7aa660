"""What the dialogs share: a box with a card, fields, what the node says, and the keys that work now."""

from typing import TYPE_CHECKING, ClassVar, TypeVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Input

from tui import words
from tui.store import Store
from tui.widgets.card import Card, Part

if TYPE_CHECKING:
    from tui.app import LnpTui

R = TypeVar("R")


class Dialog(ModalScreen[R]):
    CSS_PATH = "dialog.tcss"
    AUTO_FOCUS = ""
    TITLE_TEXT: ClassVar[str]
    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape", "back", "Back", id="dialog.back")]

    def compose(self) -> ComposeResult:
        box = VerticalScroll(id="box", can_focus=False)
        box.border_title = self.TITLE_TEXT
        with box:
            yield from self.fields()
            yield Card(id="card")
            yield Card(id="says")
            yield Card(id="hint")

    def fields(self) -> ComposeResult:
        yield from ()

    @property
    def tui(self) -> "LnpTui":
        from tui.app import LnpTui  # the app knows the dialogs, so it cannot be imported above

        app = self.app
        if not isinstance(app, LnpTui):
            raise TypeError("a dialog of ours runs in our app")
        return app

    @property
    def store(self) -> Store:
        return self.tui.store

    @property
    def shown(self) -> bool:
        """False once it was dismissed; what it started goes on."""
        return self in self.app.screen_stack

    def repaint(self, changed: set[str]) -> None:
        """Called by the app when the store moved."""

    def tell(self, *parts: Part) -> None:
        self._card("#card", parts)

    def say(self, text: str, style: str = "$text-muted") -> None:
        self._card("#says", ((words.plain(text), style),) if text else ())

    def hint(self, text: str) -> None:
        self._card("#hint", ((text, "$text-muted"),))

    def hide_fields(self, *, hidden: bool) -> None:
        for entry in self.query(Input):
            entry.display = not hidden
            entry.disabled = hidden  # a hidden field must not take the key that confirms
        if hidden:
            self.set_focus(None)
            self.call_after_refresh(self._leave_fields)
        else:
            self.query(Input).first().focus()

    def _leave_fields(self) -> None:
        if isinstance(self.focused, Input) and self.focused.disabled:
            self.set_focus(None)

    def action_back(self) -> None:
        self.dismiss(None)

    def _card(self, selector: str, parts: tuple[Part, ...]) -> None:
        for card in self.query(selector).results(Card):
            card.display = bool(parts)
            card.show(*parts)
            card.refresh(layout=True)
        # On a low terminal the last words are the ones to see: what the node said, and the keys.
        self.call_after_refresh(self._show_end)

    def _show_end(self) -> None:
        if self.focused is None:
            self.query_one("#box").scroll_end(animate=False)


def entry(name: str, placeholder: str) -> Input:
    field = Input(placeholder=placeholder, id=name, compact=True)
    field.border_title = name
    return field
