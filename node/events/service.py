"""The event service: hears what the others publish, numbers it, and answers those who watch (DESIGN, section 5).

What happens once is told at once. What changes often (channels, coins, the signer's counters) is only marked
here, and asked for a few times a second while somebody watches: so a thousand payments a second cost the node
nothing but the marks, and a row is never older than what made it.
"""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Any, ClassVar

import structlog

from node.events import rows
from node.events.ring import CAPACITY, Ring
from protocol.amounts import BlockHeight
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import channel, events, forwards, payments, peer, rpc, wallet
from protocol.bus.messages.chain import ChainAway, ChainBack, GetTip, ScriptPaid, Tip, TipChanged
from protocol.bus.messages.events import (
    MAX_WAIT_SECONDS,
    BlockNow,
    ChainLink,
    CoinSeen,
    EventPage,
    EventsSince,
    GetSnapshot,
    Happening,
    LogLine,
    PeerRow,
    SignerRow,
    Snapshot,
)
from protocol.bus.messages.node import Counters, GetCounters
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused

log = structlog.get_logger()
FLUSH_SECONDS = 0.25
WATCHED_SECONDS = 40.0
"""Longer than the longest wait of a watcher, so that one who comes back finds no hole."""
SIGNER_SECONDS = 2.0
ROWS_SHOWN = 200
LOGS_SHOWN = 500
MAX_WATCHERS = 64
MAX_LOG_QUEUE = 1_000
MAX_PEERS_MARKED = 5_000


class EventService(Service):
    """`signer` tells how the line to the signer is; the daemon knows."""

    name: ClassVar[str] = "events"

    def __init__(
        self,
        bus: Bus,
        *,
        signer: Callable[[], SignerRow],
        clock: Callable[[], float] = time.time,
        run: bytes | None = None,
        capacity: int = CAPACITY,
    ) -> None:
        super().__init__(bus)
        self._signer = signer
        self._clock = clock
        self._ring = Ring(run if run is not None else secrets.token_bytes(8), capacity)
        self._waiting: list[asyncio.Future[None]] = []
        self._logs: deque[LogLine] = deque(maxlen=MAX_LOG_QUEUE)
        self._log_wake_due = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._touched: set[bytes] = set()
        self._peers: dict[bytes, str] = {}
        self._coins_changed = False
        self._flushing = False
        self._watched_until = float("-inf")
        self._told: dict[object, Happening] = {}
        """The last row of each thing, so that one that did not change is not told again."""
        self._told_seq = 0
        self._chain = ChainLink(True)
        self._block = BlockNow(BlockHeight(0), b"", 0)

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        await super().start()

    def after_turn(self) -> None:
        if self._logs:
            self._log_wake_due = False
            while self._logs:
                self._add(self._logs.popleft())
        if self._ring.last != self._told_seq:
            self._told_seq = self._ring.last
            waiting, self._waiting = self._waiting, []
            for one in waiting:
                if not one.done():
                    one.set_result(None)
        self._flush_soon()

    def log_line(self, level: str, event: str, text: str) -> None:
        """From any thread. More than fits between two turns is dropped, the oldest first."""
        self._logs.append(LogLine(level, event, text))
        loop = self._loop
        if loop is None or self._log_wake_due or loop.is_closed():
            return
        self._log_wake_due = True
        loop.call_soon_threadsafe(self.wake)

    # Who watches.

    @handles(EventsSince)
    async def since(self, request: EventsSince) -> EventPage:
        self._watched()
        page = self._ring.since(request.run, request.seq, request.most)
        wait = min(request.wait_seconds, MAX_WAIT_SECONDS)
        if page.events or page.gap or wait <= 0:
            return page
        if len(self._waiting) >= MAX_WATCHERS:
            raise CommandRefused(
                f"{MAX_WATCHERS} programs watch this node already",
                what_to_do="Close some of them, or ask without waiting.",
            )
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(news)
        await asyncio.wait([news], timeout=wait)
        if news in self._waiting:
            self._waiting.remove(news)
        self._watched()
        return self._ring.since(request.run, request.seq, request.most)

    @handles(GetSnapshot)
    async def snapshot(self, _request: GetSnapshot) -> Snapshot:
        """The number is taken first: what changes while we ask is told again as an event, and does no harm."""
        self._watched()
        seq = self._ring.last
        ask = self.bus.request
        listed: channel.Channels = await ask("channel", channel.ListChannels())
        paid: payments.Payments = await ask("payments", payments.ListPayments(newest=ROWS_SHOWN))
        made: payments.Invoices = await ask("payments", payments.ListInvoices(newest=ROWS_SHOWN))
        coins: wallet.Coins = await ask("wallet", wallet.ListCoins())
        met: peer.Peers = await ask("peer", peer.ListPeers())
        counters: Counters = await ask("channel", GetCounters())
        tip = await self._tip()
        getinfo = await ask("rpc", rpc.RunRpc("getinfo"))
        open_until = rows.expiries(listed.channels)
        return Snapshot(
            run=self._ring.run,
            seq=seq,
            time=self._clock(),
            getinfo=getinfo.result if isinstance(getinfo, rpc.RpcDone) else b"{}",
            block=self._block,
            synced=tip is not None and tip.synced,
            chain=self._chain,
            signer=self._signer(),
            wallet=rows.wallet_row(coins.coins),
            channels=tuple(rows.channel_row(info) for info in listed.channels),
            payments=tuple(rows.payment_row(row, open_until.get(row.payment_hash)) for row in paid.payments),
            invoices=tuple(rows.invoice_row(row) for row in made.invoices),
            peers=tuple(rows.peer_row(info, self._why_away(info.node_id)) for info in met.peers),
            durable_commits=counters.durable_commits,
            logs=self._ring.newest(lambda event: isinstance(event.what, LogLine), LOGS_SHOWN),
            recent=self._ring.newest(events.is_notable, ROWS_SHOWN),
        )

    async def _tip(self) -> Tip | None:
        try:
            tip: Tip = await self.bus.request("chain", GetTip(), deadline=2.0)
        except (CommandRefused, OutcomeUnknown):
            return None
        if tip.height != self._block.height:
            self._block = BlockNow(tip.height, tip.block_hash, 0)
        return tip

    def _watched(self) -> None:
        """The first watcher after a while finds what was marked since told as events; the timers start."""
        now = asyncio.get_running_loop().time()
        began = now > self._watched_until
        self._watched_until = now + WATCHED_SECONDS
        if began:
            self.run(self._look_at_signer())
            self._flush_soon()

    # What the others say.

    @hears(payments.PaymentChanged)
    def payment_changed(self, event: payments.PaymentChanged) -> None:
        self._add(rows.payment_row(event.row, event.cltv_expiry))

    @hears(payments.InvoiceChanged)
    def invoice_changed(self, event: payments.InvoiceChanged) -> None:
        self._add(rows.invoice_row(event.row))

    @hears(forwards.ForwardChanged)
    def forward_changed(self, event: forwards.ForwardChanged) -> None:
        self._add(rows.forward_row(event.row))

    @hears(channel.ChannelsTouched)
    def channels_touched(self, event: channel.ChannelsTouched) -> None:
        self._touched.update(event.channel_ids)

    @hears(channel.ChannelStateChanged)
    def channel_state(self, event: channel.ChannelStateChanged) -> None:
        self._touched.add(event.channel_id)
        self._add(events.ChannelMoved(event.channel_id, event.old, event.new, event.why, event.height))

    @hears(peer.PeerUp)
    def peer_up(self, event: peer.PeerUp) -> None:
        self._mark_peer(event.node_id, "")

    @hears(peer.PeerDown)
    def peer_down(self, event: peer.PeerDown) -> None:
        self._mark_peer(event.node_id, event.reason)

    def _mark_peer(self, node_id: bytes, reason: str) -> None:
        if len(self._peers) < MAX_PEERS_MARKED or node_id in self._peers:
            self._peers[node_id] = reason

    @hears(TipChanged)
    def tip_changed(self, event: TipChanged) -> None:
        self._coins_changed = True
        self._block = BlockNow(event.height, event.block_hash, event.time)
        self._add(self._block)

    @hears(ChainAway)
    def chain_away(self, event: ChainAway) -> None:
        self._chain = ChainLink(False, event.reason)
        self._add(self._chain)

    @hears(ChainBack)
    def chain_back(self, _event: ChainBack) -> None:
        self._chain = ChainLink(True)
        self._add(self._chain)

    @hears(ScriptPaid)
    def script_paid(self, event: ScriptPaid) -> None:
        self._add(CoinSeen(event.txid, event.index, event.value, event.height))

    @hears(wallet.WalletChanged)
    def wallet_changed(self, _event: wallet.WalletChanged) -> None:
        self._coins_changed = True

    @hears(SignerLink)
    def signer_link(self, _event: SignerLink) -> None:
        self._add(self._signer())

    # Rows that are asked for.

    def _flush_soon(self) -> None:
        marked = self._touched or self._peers or self._coins_changed
        if self._flushing or not marked or self._loop is None or self._loop.time() > self._watched_until:
            return
        self._flushing = True
        self.run(self._flush())

    async def _flush(self) -> None:
        try:
            await asyncio.sleep(FLUSH_SECONDS)
            await self._ask_for_rows()
        finally:
            self._flushing = False
            self.wake()

    async def _ask_for_rows(self) -> None:
        touched, self._touched = self._touched, set()
        met, self._peers = self._peers, {}
        coins_changed, self._coins_changed = self._coins_changed, False
        try:
            await self._ask(touched, met, coins_changed)
        except (CommandRefused, OutcomeUnknown) as error:
            log.warning("events_not_asked", reason=str(error))
            self._touched |= touched
            self._peers = met | self._peers
            self._coins_changed |= coins_changed

    async def _ask(self, touched: set[bytes], met: dict[bytes, str], coins_changed: bool) -> None:
        if touched:
            wanted = channel.ListChannels(channel_ids=tuple(touched))
            listed: channel.Channels = await self.bus.request("channel", wanted)
            for info in listed.channels:
                self._tell(info.channel_id, rows.channel_row(info))
        for node_id, reason in met.items():
            await self._ask_for_peer(node_id, reason)
        if coins_changed:
            coins: wallet.Coins = await self.bus.request("wallet", wallet.ListCoins())
            self._tell("wallet", rows.wallet_row(coins.coins))

    async def _ask_for_peer(self, node_id: bytes, reason: str) -> None:
        found: peer.Peers = await self.bus.request("peer", peer.ListPeers(node_id))
        if not found.peers:
            gone = PeerRow(node_id, False, False, "", "", int(self._clock()), reason)
            self._tell(("peer", node_id), gone)
            self._told.pop(("peer", node_id), None)  # a stranger; there may be any number of them
        for info in found.peers:
            self._tell(("peer", node_id), rows.peer_row(info, reason))

    async def _look_at_signer(self) -> None:
        """Its counters move with every payment; nobody needs them oftener than this."""
        loop = asyncio.get_running_loop()
        while loop.time() < self._watched_until:
            self._tell("signer", self._signer())
            self.wake()
            await asyncio.sleep(SIGNER_SECONDS)

    def _why_away(self, node_id: bytes) -> str:
        row = self._told.get(("peer", node_id))
        return row.reason if isinstance(row, PeerRow) else ""

    def _tell(self, key: Any, row: Happening) -> None:
        if self._told.get(key) != row:
            self._told[key] = row
            self._add(row)

    def _add(self, what: Happening) -> None:
        self._ring.add(self._clock(), what)
