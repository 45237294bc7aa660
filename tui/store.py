"""The one store: what the node said last, row by row, fed by the one event stream (STYLE, section 11).

Rows replace rows. Nothing is added up or guessed here that the node did not say.
"""

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import msgspec

from protocol.bus.messages.events import (
    BlockNow,
    ChainLink,
    ChannelMoved,
    ChannelRow,
    CoinSeen,
    Event,
    ForwardNow,
    InvoiceNow,
    LogLine,
    PaymentNow,
    PeerRow,
    SignerRow,
    Snapshot,
    WalletNow,
    is_notable,
)

EVENTS_KEPT = 200
LOGS_KEPT = 2_000
ROWS_KEPT = 1_000


class Store:
    """`changed` collects the names of the sections that moved since the last repaint."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.ready = False
        """Whether anything was ever heard."""
        self.up = False
        self.problem = ""
        self.heard_at = clock()
        self.run = b""
        self.seq = 0
        self.info: dict[str, Any] = {}
        self.block: BlockNow | None = None
        self.synced = False
        self.chain = ChainLink(True)
        self.signer: SignerRow | None = None
        self.wallet: WalletNow | None = None
        self.channels: dict[bytes, ChannelRow] = {}
        self.payments: dict[str, PaymentNow] = {}
        self.invoices: dict[bytes, InvoiceNow] = {}
        self.peers: dict[bytes, PeerRow] = {}
        self.durable_commits = 0
        self.events: deque[Event] = deque(maxlen=EVENTS_KEPT)
        self.logs: deque[Event] = deque(maxlen=LOGS_KEPT)
        self.changed: set[str] = {"all"}

    # From the line.

    def replace(self, snapshot: Snapshot) -> None:
        self.run, self.seq = snapshot.run, snapshot.seq
        self.info = msgspec.json.decode(snapshot.getinfo)
        self.block, self.synced, self.chain = snapshot.block, snapshot.synced, snapshot.chain
        self.signer, self.wallet = snapshot.signer, snapshot.wallet
        self.channels = {row.channel_id: row for row in snapshot.channels}
        self.payments = {row.id: row for row in snapshot.payments}
        self.invoices = {row.payment_hash: row for row in snapshot.invoices}
        self.peers = {row.node_id: row for row in snapshot.peers}
        self.durable_commits = snapshot.durable_commits
        self.logs = deque(snapshot.logs, maxlen=LOGS_KEPT)
        self.events = deque(snapshot.recent, maxlen=EVENTS_KEPT)
        self.ready = True
        self.heard("all")

    def apply(self, events: Sequence[Event], last: int) -> None:
        for event in events:
            self._apply(event)
        self.seq = last
        self.heard("link")

    def heard(self, section: str) -> None:
        self.up, self.problem = True, ""
        self.heard_at = self.clock()
        self.changed.add(section)

    def lost(self, problem: str) -> None:
        self.up, self.problem = False, problem
        self.changed.add("link")

    @property
    def age(self) -> float:
        return max(0.0, self.clock() - self.heard_at)

    def take_changed(self) -> set[str]:
        changed, self.changed = self.changed, set()
        return changed

    def _apply(self, event: Event) -> None:
        what = event.what
        match what:
            case ChannelRow():
                self.channels[what.channel_id] = what
                self.changed.add("channels")
            case PaymentNow():
                _put(self.payments, what.id, what)
                self.changed.add("payments")
            case InvoiceNow():
                _put(self.invoices, what.payment_hash, what)
                self.changed.add("invoices")
            case PeerRow():
                _put(self.peers, what.node_id, what)
                self.changed.add("peers")
            case BlockNow():
                self.block, self.synced = what, True
                self.changed.add("block")
            case ChainLink():
                self.chain = what
                self.changed.add("chain")
            case SignerRow():
                self.signer = what
                self.changed.add("signer")
            case WalletNow():
                self.wallet = what
                self.changed.add("wallet")
            case LogLine():
                self.logs.append(event)
                self.changed.add("logs")
            case ChannelMoved() | CoinSeen() | ForwardNow():
                pass
            case _:
                assert_never(what)
        if is_notable(event):
            self.events.append(event)
            self.changed.add("events")


def _put(rows: dict[Any, Any], key: Any, row: object) -> None:
    rows[key] = row
    if len(rows) > ROWS_KEPT:
        del rows[next(iter(rows))]
