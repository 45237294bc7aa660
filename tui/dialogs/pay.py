"""Pay: decode, preview of fee and lock time, confirm, then live until the end is known (BOLT 11).

While an HTLC stands the last word is "unknown until block N", never "failed".
"""

from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widgets import Input

from protocol.bus.messages.events import PaymentNow
from tui import words
from tui.dialogs.base import Dialog, entry
from tui.line import RpcRefused
from tui.screens.payments import htlcs_of
from tui.widgets.card import Part, pair

ASK, PREVIEW, PAYING = "ask", "preview", "paying"


class PayDialog(Dialog[None]):
    TITLE_TEXT = "Pay"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("Y", "confirm", "Pay", id="pay.confirm")]

    def __init__(self) -> None:
        super().__init__()
        self._stage = ASK
        self._decoded: dict[str, Any] = {}
        self._preview: dict[str, Any] = {}
        self._refusal = ""
        self._unknown = ""

    def fields(self) -> ComposeResult:
        yield entry("invoice", "paste an invoice: lnbc…")
        yield entry("amount", "sat; only where the invoice leaves it open")

    def on_mount(self) -> None:
        self._go(ASK)

    @on(Input.Submitted)
    def submitted(self) -> None:
        text = "".join(self.query_one("#invoice", Input).value.split())
        if text:
            self.say("asking the node…")
            self._look(text, self.query_one("#amount", Input).value.replace(",", "").strip())

    @work(exclusive=True, group="look")
    async def _look(self, bolt11: str, sat: str) -> None:
        params: dict[str, Any] = {"invstring": bolt11}
        if sat:
            params["amount_msat"] = f"{sat}sat"
        try:
            self._decoded = await self.tui.line.rpc("decode", {"string": bolt11})
            self._preview = await self.tui.line.rpc("previewpay", params)
        except RpcRefused as error:
            self.say(str(error), "$error")
            return
        self._params = params
        self._go(PREVIEW)

    def action_confirm(self) -> None:
        if self._stage != PREVIEW:
            return
        self._go(PAYING)
        # Of the app, not of this dialog: hiding the dialog must not stop us from hearing the end.
        self.app.run_worker(self._pay(), group="pay")

    async def _pay(self) -> None:
        try:
            await self.tui.line.rpc("xpay", self._params, confirmed=True)
        except RpcRefused as error:
            if error.unknown:
                self._unknown = str(error)
            else:
                self._refusal = str(error)
        if self.shown:
            self.repaint({"all"})
        else:
            self.app.notify(words.plain(self._ending()), title="Pay", markup=False)

    def action_back(self) -> None:
        if self._stage == PREVIEW:
            self._go(ASK)
        else:
            self.dismiss(None)

    def repaint(self, changed: set[str]) -> None:
        if self._stage == PAYING and self.shown:
            self._paint_payment()

    def _go(self, stage: str) -> None:
        self._stage = stage
        self.hide_fields(hidden=stage != ASK)
        self.say("")
        if stage == ASK:
            self.tell()
            self.hint("enter shows what it would take · esc closes")
        elif stage == PREVIEW:
            self.tell(*self._card_parts())
            already = self._preview.get("already")
            if already == "complete":
                self.say("This invoice is paid already. Paying it again pays nothing.", "$warning")
            self.hint("Y pays · esc goes back")
        else:
            self._paint_payment()

    def _card_parts(self) -> list[Part]:
        decoded, preview = self._decoded, self._preview
        height = self.store.block.height if self.store.block is not None else 0
        lines: list[Part] = []
        lines += pair("pay", f"{words.sats(preview['amount_msat'])} sat", "bold $success")
        lines += pair("to", preview["destination"])
        lines += pair("for", words.plain(decoded.get("description", "")) or "no description")
        lines += pair("expires", words.date(decoded["created_at"] + decoded["expiry"]))
        lines += pair("fee", f"{words.sats(preview['fee_msat'])} sat")
        lock = int(preview["lock_blocks"])
        lines += pair("lock time", f"at most {words.blocks(lock)}, until block {height + lock:,}")
        if "channel_id" in preview:
            lines += pair("over", f"channel {words.short(preview['channel_id'])}")
        signer = self.store.signer
        up = signer is not None and signer.up
        lines += pair("signer", "up" if up else "away: nothing can be paid", "$success" if up else "$error")
        return lines

    def _row(self) -> PaymentNow | None:
        wanted = str(self._decoded.get("payment_hash", ""))
        rows = [row for row in self.store.payments.values() if row.payment_hash.hex() == wanted]
        return max(rows, key=lambda row: (row.status == "complete", row.created), default=None)

    def _paint_payment(self) -> None:
        row = self._row()
        lines = self._card_parts()
        if row is not None:
            height = self.store.block.height if self.store.block is not None else 0
            for channel_id, htlc in htlcs_of(self.store, row.payment_hash):
                left = words.blocks(htlc.cltv_expiry - height)
                lines += pair(
                    f"HTLC #{htlc.id}",
                    f"over {words.short(channel_id.hex())}: {htlc.state.lower().replace('_', ' ')}; "
                    f"resolved within {left}",
                    "$warning",
                )
        self.tell(*lines)
        text = self._ending()
        paid = row is not None and row.status == "complete"
        self.say(text, "bold $success" if paid else "bold $error" if self._refusal else "bold $warning")
        self.hint("esc closes; a payment on its way goes on" if not paid else "esc closes")

    def _ending(self) -> str:
        row = self._row()
        if row is not None and row.status == "complete":
            took = f" in {row.completed - row.created} s" if row.completed is not None else ""
            return f"Paid {words.sats(row.amount_msat)} sat, fee {words.sats(row.fee_msat)} sat{took}."
        if self._refusal:
            return f"Not paid: {self._refusal}"
        if row is not None and row.unknown_until:
            return f"On its way: outcome unknown until block {row.unknown_until:,}."
        return self._unknown or "On its way: outcome unknown yet."
