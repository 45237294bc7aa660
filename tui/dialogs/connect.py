"""Connect to a peer by id@host:port."""

from textual import on, work
from textual.app import ComposeResult
from textual.widgets import Input

from tui.dialogs.base import Dialog, entry
from tui.line import RpcRefused


class ConnectDialog(Dialog[None]):
    TITLE_TEXT = "Connect to a peer"

    def fields(self) -> ComposeResult:
        yield entry("peer", "id@host:port")

    def on_mount(self) -> None:
        self.query_one(Input).focus()
        self.tell()
        self.say("")
        self.hint("enter connects · esc closes")

    @on(Input.Submitted)
    def submitted(self, event: Input.Submitted) -> None:
        if event.value.strip():
            self.say("connecting…")
            self._connect(event.value.strip())

    @work(exclusive=True, group="connect")
    async def _connect(self, peer: str) -> None:
        try:
            await self.tui.line.rpc("connect", [peer])
        except RpcRefused as error:
            self.say(str(error), "$error")
            return
        self.dismiss(None)
