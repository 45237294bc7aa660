"""Home: balances, liquidity, what needs attention, and what happened last."""

from typing import ClassVar

from textual.app import ComposeResult
from textual.containers import Container

from protocol.bus.messages.events import ChannelRow
from tui import words
from tui.attention import alerts
from tui.screens.base import NodeScreen
from tui.store import Store
from tui.widgets.card import Card, Part, pair

CLOSING = frozenset({"CLOSINGD_COMPLETE", "AWAITING_UNILATERAL", "CLOSED", "ONCHAIN"})
NAME = 13


class HomeScreen(NodeScreen):
    CSS_PATH: ClassVar = ["base.tcss", "home.tcss"]
    TITLE_NAME = "home"
    SECTIONS = frozenset(
        {"channels", "wallet", "block", "chain", "signer", "payments", "invoices", "peers", "events"}
    )

    def body(self) -> ComposeResult:
        with Container(id="upper"):
            yield Card("Balance", id="balance")
            yield Card("Liquidity", id="liquidity")
            yield Card("Needs attention", id="attention")
        yield Card("Last events", id="events")

    def paint(self, store: Store) -> None:
        live = [row for row in store.channels.values() if row.state not in CLOSING]
        self._balance(store, live)
        self._liquidity(live)
        self._attention(store)
        self._events(store)

    def _balance(self, store: Store, live: list[ChannelRow]) -> None:
        open_rows = [row for row in live if row.state == "CHANNELD_NORMAL"]
        wallet = store.wallet
        lines: list[Part] = []
        lines += pair("Lightning", _sat(sum(row.to_us_msat for row in open_rows)), "bold $success")
        lines += pair("  can send", _sat(sum(row.spendable_msat for row in open_rows)))
        lines += pair("  can receive", _sat(sum(row.receivable_msat for row in open_rows)))
        lines += pair("  in HTLCs", _sat(sum(row.offered_msat for row in live)))
        lines += pair("  opening", _sat(sum(row.to_us_msat for row in live if row not in open_rows)))
        closing = (
            row
            for row in store.channels.values()
            if row.state in ("CLOSINGD_COMPLETE", "AWAITING_UNILATERAL")
        )
        lines += pair("  closing", _sat(sum(row.to_us_msat for row in closing)))
        if wallet is not None:
            lines += pair("On chain", _sat(wallet.confirmed * 1000), "bold $success")
            lines += pair("  unconfirmed", _sat(wallet.unconfirmed * 1000))
            lines += pair("  reserved", _sat(wallet.reserved * 1000))
        self.query_one("#balance", Card).show(*lines)

    def _liquidity(self, live: list[ChannelRow]) -> None:
        card = self.query_one("#liquidity", Card)
        size = card.content_size
        if not live:
            card.show(("No channels yet. O opens one.", "$text-muted"))
            return
        # Both numbers where there is room, else ours alone.
        wide = size.width >= NAME + 24 + 12
        width = max(6, size.width - NAME - 1 - (24 if wide else 12))
        lines: list[Part] = []
        by_size = sorted(live, key=lambda row: (-row.capacity, row.channel_id))
        room = max(1, size.height - 1)
        for row in by_size[:room]:
            ours, theirs = words.bar(row.to_us_msat, row.capacity * 1000, width)
            style = "$success" if row.usable else "$text-muted"
            lines += [
                (f"{words.short(row.peer.hex(), NAME):<{NAME}} ", "" if row.usable else "$text-muted"),
                (ours, style),
                (theirs, "$secondary" if row.usable else "$text-muted"),
                f" {words.whole_sats(row.to_us_msat):>11}" + (f"/{row.capacity:>11,}\n" if wide else "\n"),
            ]
        if len(by_size) > room:
            lines.append((f"and {len(by_size) - room} more: 2 shows all", "$text-muted"))
        card.show(*lines)

    def _attention(self, store: Store) -> None:
        found = alerts(store)
        lines: list[Part] = []
        for alert in found:
            lines += [("⚠ ", alert.style), words.plain(alert.text)]
            lines.append((f" {words.plain(alert.advice)}\n", "$text-muted") if alert.advice else "\n")
        self.query_one("#attention", Card).show(*(lines or [("✔ nothing", "$success")]))

    def _events(self, store: Store) -> None:
        card = self.query_one("#events", Card)
        room = max(1, card.content_size.height)
        lines: list[Part] = []
        for event in list(store.events)[-room:][::-1]:
            lines += [(f"{words.clock(event.time)} ", "$text-muted"), words.describe(event), "\n"]
        card.show(*(lines or [("Nothing since this screen connected.", "$text-muted")]))


def _sat(msat: int) -> str:
    return f"{words.whole_sats(msat):>14} sat"
