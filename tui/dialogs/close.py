"""Close a channel: what it would mean, together by default; alone only with a typed word (BOLT 2, BOLT 5)."""

from typing import Any, ClassVar

from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from protocol.bus.messages.events import ChannelRow
from tui import words
from tui.dialogs.base import Dialog, entry
from tui.line import RpcRefused
from tui.widgets.card import Part, pair

WORD = "force"
ALONE_AT_ONCE = 1
PREVIEW, TYPING, CLOSING, OVER = "preview", "typing", "closing", "over"


class CloseDialog(Dialog[None]):
    TITLE_TEXT = "Close a channel"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("Y", "together", "Close together", id="close.together"),
        Binding("F", "alone", "Close alone", id="close.alone"),
    ]

    def __init__(self, row: ChannelRow) -> None:
        super().__init__()
        self._row = row
        self._stage = PREVIEW

    def fields(self) -> ComposeResult:
        yield entry("word", f"type {WORD} and enter")

    def on_mount(self) -> None:
        self._go(PREVIEW)

    def action_together(self) -> None:
        if self._stage == PREVIEW:
            self._close({"id": self._row.channel_id.hex()})

    def action_alone(self) -> None:
        if self._stage == PREVIEW:
            self._go(TYPING)

    @on(Input.Submitted)
    def typed(self, event: Input.Submitted) -> None:
        if event.value.strip().lower() == WORD:
            self._close({"id": self._row.channel_id.hex(), "unilateraltimeout": ALONE_AT_ONCE})
        else:
            self.say(f"Only the word {WORD} closes alone.", "$error")

    def action_back(self) -> None:
        if self._stage == TYPING:
            self._go(PREVIEW)
        else:
            self.dismiss(None)

    def _close(self, params: dict[str, Any]) -> None:
        self._go(CLOSING)
        self.app.run_worker(self._run_close(params), group="close")

    async def _run_close(self, params: dict[str, Any]) -> None:
        try:
            closed = await self.tui.line.rpc("close", params, confirmed=True)
        except RpcRefused as error:
            head = "Outcome unknown" if error.unknown else "Not closed"
            self._end(f"{head}: {error}", "bold $warning" if error.unknown else "bold $error")
        else:
            self._end(f"Closed ({closed['type']}): transaction {closed.get('txid', 'none')}", "bold $success")

    def _end(self, text: str, style: str) -> None:
        self._stage = OVER
        if self.shown:
            self.say(text, style)
            self.hint("esc closes this")
        else:
            self.app.notify(words.plain(text), title="Close a channel", markup=False)

    def _parts(self) -> list[Part]:
        row = self._row
        lines: list[Part] = []
        lines += pair("channel", f"{words.scid(row.short_channel_id)} {words.short(row.channel_id.hex())}")
        lines += pair("peer", f"{row.peer.hex()} {'connected' if row.connected else 'away'}")
        lines += pair("state", words.state(row.state))
        lines += pair("ours", f"{words.sats(row.to_us_msat)} sat, less the fee", "bold $success")
        count = row.offered_htlcs + row.received_htlcs
        if count:
            lines += pair("HTLCs", f"{count}: they are resolved before the close is agreed", "$warning")
        lines += pair("pays to", "the signer's cold descriptor")
        who = "we pay the fee" if row.opener_is_us else "the peer pays the fee"
        lines += pair("together", f"{who}; one transaction, no waiting. Alone after 48 h without agreement")
        lines += pair(
            "alone", f"our money is locked for {words.blocks(row.our_to_self_delay)} after it confirms"
        )
        if not row.connected:
            lines += pair("note", "the peer is away: closing together waits for it", "$warning")
        return lines

    def _go(self, stage: str) -> None:
        self._stage = stage
        self.hide_fields(hidden=stage != TYPING)
        self.tell(*self._parts())
        if stage == CLOSING:
            self.say("closing: the peer and the signer are asked…", "$warning")
            self.hint("esc hides; it goes on")
        elif stage == TYPING:
            self.say("Closing alone costs more and locks the money up.", "$warning")
            self.hint("esc goes back")
        else:
            self.say("")
            self.hint("Y closes together · F closes alone · esc leaves it open")
