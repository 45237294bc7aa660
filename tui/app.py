"""The terminal UI: one store fed by one event stream, painted at most four times a second (DESIGN, section 5)."""

import time
from collections.abc import Callable, Iterable
from typing import ClassVar

from textual.app import App, SystemCommand
from textual.binding import Binding, BindingType
from textual.screen import Screen

from tui.dialogs.base import Dialog
from tui.dialogs.open import OpenDialog
from tui.dialogs.pay import PayDialog
from tui.dialogs.prompt import PromptDialog
from tui.dialogs.quit import QuitDialog
from tui.feed import feed
from tui.line import Line
from tui.screens.base import NodeScreen
from tui.screens.channels import ChannelsScreen
from tui.screens.home import HomeScreen
from tui.screens.logs import LogsScreen
from tui.screens.payments import PaymentsScreen
from tui.screens.peers import PeersScreen
from tui.screens.receive import ReceiveScreen
from tui.screens.signer import SignerScreen
from tui.store import Store
from tui.widgets.top import SCREENS

PAINT_SECONDS = 0.25


class LnpTui(App[None]):
    TITLE = "lnp-tui"
    CSS_PATH = "widgets/table.tcss"
    ENABLE_COMMAND_PALETTE = True
    MODES: ClassVar = {
        "home": HomeScreen,
        "channels": ChannelsScreen,
        "payments": PaymentsScreen,
        "receive": ReceiveScreen,
        "peers": PeersScreen,
        "signer": SignerScreen,
        "logs": LogsScreen,
    }
    DEFAULT_MODE = "home"
    # Lower case is safe or can be undone; UPPER case moves money.
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(digit, f"go('{name}')", title, show=False, id=f"screen.{name}")
            for digit, name, title in SCREENS
        ),
        Binding("P", "pay", "Pay", id="app.pay"),
        Binding("r", "receive", "Receive", id="app.receive"),
        Binding("O", "open", "Open", id="app.open"),
        Binding("colon", "prompt", "Run", key_display=":", id="app.prompt"),
        Binding("question_mark", "show_help_panel", "Help", key_display="?", id="app.help"),
        Binding("q", "ask_quit", "Leave", id="app.quit"),
    ]

    def __init__(
        self,
        make_line: Callable[[], Line],
        *,
        clock: Callable[[], float] = time.time,
        paint_seconds: float = PAINT_SECONDS,
        theme: str = "textual-dark",
    ) -> None:
        super().__init__()
        self._make_line = make_line
        self._paint_seconds = paint_seconds
        self._wanted_theme = theme
        self.store = Store(clock)
        self.line: Line

    def on_mount(self) -> None:
        self.theme = self._wanted_theme
        # A link belongs to the loop that runs it, so it is made here.
        self.line = self._make_line()
        self.run_worker(feed(self.line, self.store), name="feed", group="feed", exit_on_error=True)
        self.set_interval(self._paint_seconds, self.paint)

    def on_unmount(self) -> None:
        self.line.close()

    def paint(self) -> None:
        """The one place where the store reaches the screen."""
        changed = self.store.take_changed()
        if not changed and self.store.up:
            return
        with self.batch_update():
            for screen in self.screen_stack[-2:]:
                if isinstance(screen, NodeScreen | Dialog):
                    screen.repaint(changed)

    def action_go(self, name: str) -> None:
        if len(self.screen_stack) == 1:
            self.switch_mode(name)

    def action_pay(self) -> None:
        self._open_dialog(PayDialog())

    def action_open(self) -> None:
        self._open_dialog(OpenDialog())

    def action_prompt(self) -> None:
        self._open_dialog(PromptDialog())

    def action_ask_quit(self) -> None:
        self._open_dialog(QuitDialog())

    def action_receive(self) -> None:
        if len(self.screen_stack) == 1:
            self.switch_mode("receive")

    def _open_dialog(self, dialog: Dialog[None]) -> None:
        if len(self.screen_stack) == 1:
            self.push_screen(dialog)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        yield from super().get_system_commands(screen)
        for digit, name, title in SCREENS:
            yield SystemCommand(title, f"The screen of key {digit}", lambda name=name: self.action_go(name))
        yield SystemCommand("Pay", "Pay an invoice (P)", self.action_pay)
        yield SystemCommand("Open a channel", "With a peer, from coins on chain (O)", self.action_open)
        yield SystemCommand("Run a method", "Any method of the node's RPC (:)", self.action_prompt)
