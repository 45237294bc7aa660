"""Open a channel: peer and amount, a preview of fee and what is left, confirm, and what became of it (BOLT 2)."""

from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from tui import words
from tui.dialogs.base import Dialog, entry
from tui.line import RpcRefused
from tui.widgets.card import Part, pair

ASK, PREVIEW, OPENING, OVER = "ask", "preview", "opening", "over"
FUNDING_WEIGHT = 616
"""One P2WPKH input, the funding output and change: what the fee is about, before the wallet chose coins."""


class OpenDialog(Dialog[None]):
    TITLE_TEXT = "Open a channel"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("Y", "confirm", "Open", id="open.confirm")]

    def __init__(self) -> None:
        super().__init__()
        self._stage = ASK
        self._params: list[Any] = []

    def fields(self) -> ComposeResult:
        yield entry("peer", "id@host:port, or the id of a connected peer")
        yield entry("amount", "sat, or all")

    def on_mount(self) -> None:
        self._go(ASK)

    @on(Input.Submitted)
    def submitted(self) -> None:
        peer = self.query_one("#peer", Input).value.strip()
        amount = self.query_one("#amount", Input).value.replace(",", "").strip()
        if not peer or not amount:
            self.query_one("#amount" if peer else "#peer", Input).focus()
            return
        self.say("connecting, and asking for feerates…")
        self._look(peer, amount)

    @work(exclusive=True, group="look")
    async def _look(self, peer: str, amount: str) -> None:
        """Connecting is harmless, and a wrong address is better known before the money moves."""
        try:
            connected = await self.tui.line.rpc("connect", [peer])
            rates = await self.tui.line.rpc("feerates", ["perkw"])
        except RpcRefused as error:
            self.say(str(error), "$error")
            return
        if amount != "all" and not amount.isdigit():
            self.say(f"{amount!r} is no amount in sat: write digits, or all", "$error")
            return
        self._params = [connected["id"], amount]
        self._go(PREVIEW)
        self.tell(*self._card_parts(connected, amount, rates["perkw"].get("opening")))

    def _card_parts(self, connected: dict[str, Any], amount: str, rate: int | None) -> list[Part]:
        wallet = self.store.wallet
        have = wallet.confirmed if wallet is not None else 0
        lines: list[Part] = []
        asked = "all that is confirmed" if amount == "all" else f"{int(amount):,} sat"
        lines += pair("open with", connected["id"])
        lines += pair("amount", asked, "bold $success")
        lines += pair("type", "anchors, private")
        if rate is not None:
            fee = FUNDING_WEIGHT * rate // 1000
            lines += pair("fee", f"about {fee:,} sat at {rate:,} sat per kw, more with more coins")
            if amount != "all":
                left = have - int(amount) - fee
                text = f"about {left:,} sat" if left >= 0 else f"{-left:,} sat are missing"
                lines += pair("left on chain", text, "" if left >= 0 else "$error")
        lines += pair("closes pay to", "the signer's cold descriptor")
        signer = self.store.signer
        up = signer is not None and signer.up
        lines += pair("signer", "up" if up else "away: nothing can be opened", "$success" if up else "$error")
        return lines

    def action_confirm(self) -> None:
        if self._stage == PREVIEW:
            self._go(OPENING)
            self.app.run_worker(self._open(), group="open")

    async def _open(self) -> None:
        try:
            made = await self.tui.line.rpc("fundchannel", self._params, confirmed=True)
        except RpcRefused as error:
            head = "Outcome unknown" if error.unknown else "Not opened"
            self._end(f"{head}: {error}", "bold $warning" if error.unknown else "bold $error")
        else:
            self._end(f"The funding transaction {made['txid']} was sent.", "bold $success")

    def _end(self, text: str, style: str) -> None:
        self._stage = OVER
        if self.shown:
            self.say(text, style)
            self.hint("esc closes")
        else:
            self.app.notify(words.plain(text), title="Open a channel", markup=False)

    def action_back(self) -> None:
        if self._stage == PREVIEW:
            self._go(ASK)
        else:
            self.dismiss(None)

    def _go(self, stage: str) -> None:
        self._stage = stage
        self.hide_fields(hidden=stage != ASK)
        self.say("")
        if stage == ASK:
            self.tell()
            self.hint("enter connects and shows what it would take · esc closes")
        elif stage == PREVIEW:
            self.hint("Y opens · esc goes back")
        else:
            self.say("opening: the peer and the signer are asked…", "$warning")
            self.hint("esc hides; it goes on")
