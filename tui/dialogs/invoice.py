"""New invoice: amount, label, description, and a warning when the channels cannot receive so much (BOLT 11)."""

import secrets
from typing import Any

from textual import on, work
from textual.app import ComposeResult
from textual.widgets import Input

from tui import words
from tui.dialogs.base import Dialog, entry
from tui.line import RpcRefused


class InvoiceDialog(Dialog[dict[str, Any] | None]):
    TITLE_TEXT = "New invoice"

    def fields(self) -> ComposeResult:
        yield entry("amount", "sat; empty for any amount")
        yield entry("description", "what the payer sees")
        yield entry("label", "your own name for it; empty makes one up")

    def on_mount(self) -> None:
        self.query_one("#amount", Input).focus()
        room = sum(row.receivable_msat for row in self.store.channels.values() if row.usable)
        self.tell(("All channels together can receive ", "$text-muted"), f"{words.sats(room)} sat now.")
        self.say("")
        self.hint("tab moves · enter makes it · esc closes")

    @on(Input.Submitted)
    def submitted(self) -> None:
        amount, description, label = (
            self.query_one(f"#{name}", Input).value.strip() for name in ("amount", "description", "label")
        )
        sat = amount.replace(",", "")
        self._make(
            {
                "amount_msat": f"{sat}sat" if sat else "any",
                "label": label or f"tui-{secrets.token_hex(4)}",
                "description": description,
            }
        )

    @work(exclusive=True, group="make")
    async def _make(self, params: dict[str, Any]) -> None:
        try:
            made = await self.tui.line.rpc("invoice", params)
        except RpcRefused as error:
            self.say(str(error), "$error")
            return
        self.dismiss(made)
