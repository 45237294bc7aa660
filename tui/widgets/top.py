"""The first lines of every screen: who, where, how the links are; and the screens by their digits."""

from textual.content import Content
from textual.widgets import Static

from tui import words
from tui.store import Store

SCREENS = (
    ("1", "home", "Home"),
    ("2", "channels", "Channels"),
    ("3", "payments", "Payments"),
    ("4", "receive", "Receive"),
    ("5", "peers", "Peers"),
    ("6", "signer", "Signer"),
    ("7", "logs", "Logs"),
)


class Top(Static):
    def __init__(self, screen_name: str) -> None:
        super().__init__("", markup=False)
        self._name = screen_name
        self._last = Content("")

    def paint(self, store: Store) -> None:
        content = Content("\n").join([self._facts(store), self._tabs()])
        if content != self._last:
            self._last = content
            self.update(content, layout=False)

    def _facts(self, store: Store) -> Content:
        if not store.ready:
            return Content.assemble((" no connection yet ", "$warning"), words.plain(store.problem))
        info = store.info
        height = store.block.height if store.block is not None else 0
        parts: list[str | tuple[str, str]] = [
            (f" {words.plain(info.get('alias', ''))}", "bold"),
            f" · {words.plain(info.get('network', ''))} · block {height:,} ",
        ]
        if not store.chain.up:
            parts.append(("chain away", "$error"))
        else:
            parts.append(("synced", "$success") if store.synced else ("catching up", "$warning"))
        signer_up = store.signer is not None and store.signer.up
        parts += [" │ signer ", ("● up", "$success") if signer_up else ("● away", "$error")]
        connected = sum(peer.connected for peer in store.peers.values())
        parts.append(f" │ {connected} {'peer' if connected == 1 else 'peers'}")
        if not store.up:
            parts.append(
                (f" │ connection lost, data {words.duration(store.age)} old, trying again", "bold $error")
            )
        return Content.assemble(*parts)

    def _tabs(self) -> Content:
        parts: list[str | tuple[str, str]] = [" "]
        for digit, name, title in SCREENS:
            style = "bold $primary reverse" if name == self._name else "$text-muted"
            parts += [(f" {digit} {title} ", style), " "]
        return Content.assemble(*parts)
