"""Asks before the interface ends; the node goes on."""

from typing import ClassVar

from textual.binding import Binding, BindingType

from tui.dialogs.base import Dialog


class QuitDialog(Dialog[None]):
    TITLE_TEXT = "Leave"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("y,enter", "leave", "Leave", id="quit.leave")]

    def on_mount(self) -> None:
        self.tell("Leave the interface? The node goes on, and so does what it is doing.")
        self.say("")
        self.hint("y leaves · esc stays")

    def action_leave(self) -> None:
        self.app.exit()
