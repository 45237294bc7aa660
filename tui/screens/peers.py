"""Peers and roads: who is connected over what, where others reach us, connect and disconnect."""

from typing import Any, ClassVar

from textual import on, work
from textual.app import ComposeResult
from textual.binding import Binding, BindingType

from protocol.bus.messages.events import PeerRow
from tui import words
from tui.dialogs.connect import ConnectDialog
from tui.line import RpcRefused
from tui.screens.base import NodeScreen
from tui.store import Store
from tui.widgets.card import Card, Part, pair
from tui.widgets.table import Column, Table

COLUMNS = (
    Column("", 1, lambda row, _: [("●", "good") if row.connected else ("○", "warn")]),
    Column("peer", 20, lambda row, width: words.short(row.node_id.hex(), width)),
    Column("road", 5, lambda row, _: row.road or ("tcp" if row.connected else "")),
    Column("way", 4, lambda row, _: ("out" if row.outbound else "in") if row.connected else ""),
    Column("address", 0, lambda row, _: words.plain(row.address or row.reason)),
    Column("last seen", 16, lambda row, _: words.date(row.last_seen or None), from_width=90),
)


class PeersScreen(NodeScreen):
    CSS_PATH: ClassVar = ["base.tcss", "peers.tcss"]
    TITLE_NAME = "peers"
    SECTIONS = frozenset({"peers", "channels"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("c", "connect", "Connect", id="peers.connect"),
        Binding("d", "disconnect", "Disconnect", id="peers.disconnect"),
        Binding("y", "copy", "Copy our address", id="peers.copy"),
    ]

    def body(self) -> ComposeResult:
        yield Table(
            COLUMNS, lambda row: row.node_id, empty="No peers yet. c connects to one.", id="peer-table"
        )
        yield Card("Peer", id="peer-detail")
        yield Card("Roads: where others reach us", id="roads")

    def on_mount(self) -> None:
        self.query_one(Table).focus()

    def paint(self, store: Store) -> None:
        rows = sorted(store.peers.values(), key=lambda row: (not row.connected, row.node_id))
        self.query_one(Table).show(rows)
        self._detail(store)
        self.query_one("#roads", Card).show(*roads(store.info))

    @on(Table.Moved)
    def moved(self) -> None:
        self._detail(self.store)

    @work
    async def action_connect(self) -> None:
        await self.app.push_screen_wait(ConnectDialog())

    @work(exclusive=True, group="disconnect")
    async def action_disconnect(self) -> None:
        row: PeerRow | None = self.query_one(Table).row
        if row is None or not row.connected:
            return
        try:
            await self.tui.line.rpc("disconnect", {"id": row.node_id.hex()})
        except RpcRefused as error:
            self.app.notify(words.plain(error), severity="error", markup=False)

    def action_copy(self) -> None:
        reach = addresses(self.store.info)
        if reach:
            self.app.copy_to_clipboard(f"{self.store.info['id']}@{reach[0]}")
            self.app.notify("Our address is on the clipboard.")

    def _detail(self, store: Store) -> None:
        card = self.query_one("#peer-detail", Card)
        row: PeerRow | None = self.query_one(Table).row
        if row is None:
            card.show()
            return
        mine = [channel for channel in store.channels.values() if channel.peer == row.node_id]
        lines: list[Part] = []
        lines += pair("peer", row.node_id.hex())
        if row.connected:
            way = "we dialled" if row.outbound else "it dialled us"
            lines += pair("connection", f"{row.road or 'tcp'} {words.plain(row.address)}, {way}", "$success")
        else:
            lines += pair("connection", words.plain(row.reason or "away"), "$warning")
        held = sum(channel.capacity for channel in mine)
        noun = "channel" if len(mine) == 1 else "channels"
        lines += pair("channels", f"{len(mine)} {noun}, {held:,} sat together")
        card.show(*lines)


def addresses(info: dict[str, Any]) -> list[str]:
    """What peers may dial: the announced addresses, or where we listen."""
    return [
        f"{found['address']}:{found['port']}" for found in info.get("address") or info.get("binding") or ()
    ]


def roads(info: dict[str, Any]) -> list[Part]:
    """What `getinfo` says of our addresses and roads."""
    lines: list[Part] = []
    for road in info.get("roads", ()):
        good = road.get("state") == "up"
        text = " ".join(str(road[name]) for name in ("state", "inbound", "sentence") if road.get(name))
        lines += pair(
            words.plain(road.get("name", "")), words.plain(text), "$success" if good else "$warning"
        )
    for title, key in (("announced", "address"), ("listening", "binding")):
        for found in info.get(key, ()):
            lines += pair(title, words.plain(f"{info['id']}@{found['address']}:{found['port']}"))
    return lines or [("Nobody can dial us: set `listen` in lnp.toml.", "$text-muted")]
