"""Follows the chain for the whole node: blocks in order, reorganisations, watches, broadcasts (DESIGN, "The chain").

While the backend is away the service goes on trying; what was asked waits. The last 144 blocks are kept in the
table `scan`, so that a reorganisation which happened while the node was off is noticed too.
"""

import asyncio
from typing import ClassVar

import structlog

from node.chain.backend import BackendAway, BackendUnusable, BlockRef, ChainBackend, Outcome
from node.chain.blocks import Looked
from node.chain.watches import Watched, Watches, parse_own
from node.storage.writer import Unit, Writer
from protocol.amounts import BlockHeight, FeeratePerKw
from protocol.bitcoin.transaction import OutPoint, Transaction, txid_hex
from protocol.bus.bus import Bus
from protocol.bus.messages.chain import (
    BlockConnected,
    BlockDisconnected,
    Broadcast,
    BroadcastResult,
    ChainAway,
    ChainBack,
    Forget,
    GetFeerate,
    GetOutputAt,
    GetTip,
    GetTransaction,
    OutputAt,
    OutputStatus,
    ScanFrom,
    Scanned,
    Tip,
    TipChanged,
    TransactionFound,
    UnwatchOutput,
    WatchOutput,
    WatchScript,
)
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused, MalformedMessage

log = structlog.get_logger()
KEPT_BLOCKS = 144
RETRY_SECONDS = 2.0
PUT_SCAN = "INSERT OR REPLACE INTO scan (height, block_hash) VALUES (?, ?)"
CUT_SCAN = "DELETE FROM scan WHERE height <= ? OR height > ?"
PUT_OWN = "INSERT OR IGNORE INTO transactions (txid, raw, label) VALUES (?, ?, ?)"
CONFIRM_OWN = "UPDATE transactions SET height = ? WHERE txid = ?"
FORGET_OWN = "DELETE FROM transactions WHERE txid = ? AND height IS NULL"
RECENT_OWN = "SELECT raw, height FROM transactions WHERE height IS NULL OR height > ?"


class ChainService(Service):
    name: ClassVar[str] = "chain"

    def __init__(
        self,
        bus: Bus,
        backend: ChainBackend,
        writer: Writer,
        *,
        fallback_feerate: FeeratePerKw | None = None,
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        super().__init__(bus)
        self._backend = backend
        self._writer = writer
        self._fallback_feerate = fallback_feerate
        self._retry_seconds = retry_seconds
        self._watches = Watches()
        self._hashes: dict[int, bytes] = {}
        self._tip = -1
        self._tip_known = asyncio.Event()
        self._changed = asyncio.Event()
        self._lock = asyncio.Lock()  # blocks and searches are worked on one after the other
        self._synced = False
        self._away = ""
        self._refused: dict[bytes, str] = {}

    async def start(self) -> None:
        """The first look at the chain happens in the background: the node can start without its backend."""
        for height, block_hash in self._writer.read("SELECT height, block_hash FROM scan ORDER BY height"):
            self._hashes[height] = bytes(block_hash)
            self._tip = height
        if self._hashes:
            self._tip_known.set()
        for raw, height in self._writer.read(RECENT_OWN, (self._tip - KEPT_BLOCKS,)):
            tx = parse_own(bytes(raw))
            if height is None:
                self._watches.own[tx.txid] = tx
            else:
                self._watches.own_confirmed.setdefault(height, []).append(tx)
        self._backend.subscribe(self._changed.set)
        self._changed.set()
        self.run(self._follow())
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        await self._backend.close()

    # Following the tip.

    async def _follow(self) -> None:
        checked = False
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                if not checked:
                    await self._backend.check()
                    checked = True
                async with self._lock:
                    await self._sync()
                self._came_back()
            except (BackendAway, BackendUnusable, MalformedMessage) as error:
                checked = False  # what comes back may be another one
                self._went_away(str(error))
                await asyncio.sleep(self._retry_seconds)
                self._changed.set()
            except Exception as error:
                # Whatever it is: a node that no longer follows the chain loses money, so we go on.
                log.error("bug", service="chain", error=repr(error), exc_info=True)
                await asyncio.sleep(self._retry_seconds)
                self._changed.set()

    async def _sync(self) -> None:
        target = await self._backend.tip()
        if self._tip < 0:
            await self._begin_at(target)
        first_look = not self._synced
        moved = False
        while self._hashes[self._tip] != target.block_hash:
            if await self._backend.block_hash(self._tip) != self._hashes[self._tip]:
                self._disconnect()
            elif not await self._connect_next():
                return  # the chain changed under our feet: its notice comes
            moved = True
        self._synced = True
        if moved or first_look:
            self._announce(target)
            await self._broadcast_open()

    async def _begin_at(self, target: BlockRef) -> None:
        """The first start ever: nothing before the tip concerns us, but a reorganisation may reach below it."""
        for height in range(max(0, target.height - KEPT_BLOCKS + 1), target.height + 1):
            block_hash = await self._backend.block_hash(height)
            if block_hash is None:
                raise BackendAway("the chain changed while it was read. We try again.")
            self._hashes[height] = block_hash
        self._tip = target.height
        self._hashes[self._tip] = target.block_hash
        self._writer.submit([(PUT_SCAN, list(self._hashes.items()))], now=False)
        self._tip_known.set()

    def _disconnect(self) -> None:
        block_hash = self._hashes.pop(self._tip)
        height = BlockHeight(self._tip)
        if not self._hashes:
            self._hashes[height] = block_hash
            raise BackendUnusable(
                f"the chain was replaced from below block {height}, deeper than {KEPT_BLOCKS} blocks. "
                f"Check that {self._backend.name} follows the right chain; if it does, run `lnpd` with a new database "
                "only after its channels were recovered."
            )
        self._tip -= 1
        log.warning("block_disconnected", height=height, block_hash=txid_hex(block_hash))
        forget = "UPDATE transactions SET height = NULL WHERE height = ?"
        self._writer.submit(
            [("DELETE FROM scan WHERE height = ?", [(height,)]), (forget, [(height,)])], now=False
        )
        lost = self._watches.disconnect(height)
        self.bus.publish(BlockDisconnected(height, block_hash))
        for event in lost:
            self.bus.publish(event)

    async def _connect_next(self) -> bool:
        """False when there is no next block on top of ours."""
        height = BlockHeight(self._tip + 1)
        block_hash = await self._backend.block_hash(height)
        if block_hash is None:
            return False
        looked = await self._backend.look(height, block_hash, self._watches.interest())
        if looked is None or looked.header.previous != self._hashes[self._tip]:
            return False
        self._tip = height
        self._hashes[height] = block_hash
        self._hashes.pop(height - KEPT_BLOCKS, None)
        self._watches.own_confirmed.pop(height - KEPT_BLOCKS, None)
        rows: Unit = [(PUT_SCAN, [(height, block_hash)]), (CUT_SCAN, [(height - KEPT_BLOCKS, height)])]
        self.bus.publish(BlockConnected(height, block_hash, looked.header.time))
        self._writer.submit(rows + self._look_into(height, looked), now=False)
        return True

    def _look_into(self, height: BlockHeight, looked: Looked) -> Unit:
        """Says what was paid to watched scripts; returns what to save about our own transactions."""
        paid, confirmed = self._watches.connect(height, looked.transactions)
        for event in paid:
            self.bus.publish(event)
        for tx in confirmed:
            self._refused.pop(tx.txid, None)
        return [(CONFIRM_OWN, [(height, tx.txid) for tx in confirmed])] if confirmed else []

    def _announce(self, tip: BlockRef) -> None:
        self.bus.publish(TipChanged(tip.height, tip.block_hash, tip.time))
        for event in self._watches.standing(tip.height):
            self.bus.publish(event)

    def _went_away(self, reason: str) -> None:
        self._synced = False
        if reason != self._away:
            self._away = reason
            log.warning("chain_away", reason=reason)
            self.bus.publish(ChainAway(reason))

    def _came_back(self) -> None:
        if self._away:
            self._away = ""
            log.info("chain_back", height=self._tip)
            self.bus.publish(ChainBack())

    # Our own transactions.

    async def _broadcast_open(self) -> None:
        """Twice over those that are refused: a child may stand before its parent."""
        sent: set[bytes] = set()
        for _ in range(2):
            for tx in list(self._watches.own.values()):
                if tx.txid not in sent:
                    outcome = await self._backend.broadcast(tx.serialize())
                    self._note(tx, outcome)
                    if outcome.accepted:
                        sent.add(tx.txid)

    def _note(self, tx: Transaction, outcome: Outcome) -> None:
        if outcome.accepted:
            self._refused.pop(tx.txid, None)
        elif self._refused.get(tx.txid) != outcome.reason:
            self._refused[tx.txid] = outcome.reason
            log.warning("broadcast_refused", txid=txid_hex(tx.txid), reason=outcome.reason)

    @handles(Broadcast)
    async def broadcast(self, request: Broadcast) -> BroadcastResult:
        """Saved before it is sent: a crash in between sends it at the next start."""
        try:
            tx = parse_own(request.raw)
        except MalformedMessage as error:
            raise CommandRefused(
                f"this is not a transaction: {error}", what_to_do="Give the whole serialised transaction."
            ) from error
        if self._writer.read("SELECT 1 FROM transactions WHERE txid = ? AND height > 0", (tx.txid,)):
            return BroadcastResult(tx.txid, True, "")
        known = tx.txid in self._watches.own
        self._watches.own[tx.txid] = tx
        if not known:
            await self._writer.submit([(PUT_OWN, [(tx.txid, request.raw, request.label)])], now=True)
        try:
            outcome = await self._backend.broadcast(request.raw)
        except (BackendAway, BackendUnusable) as error:
            return BroadcastResult(tx.txid, False, f"not sent yet: {error}")
        self._note(tx, outcome)
        if not outcome.accepted and not request.keep and not known:
            self._watches.own.pop(tx.txid, None)
            self._refused.pop(tx.txid, None)
            await self._writer.submit([(FORGET_OWN, [(tx.txid,)])], now=True)
        return BroadcastResult(tx.txid, outcome.accepted, outcome.reason)

    @hears(Forget)
    def forget(self, message: Forget) -> None:
        if self._watches.own.pop(message.txid, None) is None:
            return
        self._refused.pop(message.txid, None)
        self._writer.submit([(FORGET_OWN, [(message.txid,)])], now=False)

    # Watches.

    @handles(WatchOutput)
    async def watch_output(self, request: WatchOutput) -> OutputStatus:
        outpoint = OutPoint(request.txid, request.index)
        watched = self._watches.watch_output(outpoint, request.script)
        await self._tip_known.wait()
        while watched.height is None:
            try:
                async with self._lock:
                    await self._find(outpoint, watched, request.since)
                break
            except BackendUnusable as error:
                raise _no_backend(error) from error
            except BackendAway as error:
                # The channel that asks must not lose its watch because of a restart of the backend.
                self._went_away(str(error))
                self._changed.set()
                await asyncio.sleep(self._retry_seconds)
        for event in self._watches.said_of(outpoint, watched, BlockHeight(self._tip)):
            self.bus.publish(event)
        return self._watches.status(outpoint, watched)

    async def _find(self, outpoint: OutPoint, watched: Watched, since: int) -> None:
        """Where an output was confirmed and spent. The backend's UTXO set tells whether a search is needed."""
        first = since or max(0, self._tip - KEPT_BLOCKS + 1)
        unspent = await self._backend.output_status(outpoint.txid, outpoint.index)
        if unspent is not None and unspent.at == self._hashes[self._tip]:
            first = self._tip - unspent.confirmations + 1
            if unspent.script != watched.script:
                raise CommandRefused(
                    f"the output {outpoint} has another script than was given",
                    what_to_do="Check the script: an output that pays somebody else cannot be watched as ours.",
                )
            await self._search(first, first)
            return
        await self._search(first, self._tip)

    async def _search(self, first: int, last: int) -> None:
        interest = self._watches.interest()
        for height in range(first, last + 1):
            block_hash = self._hashes.get(height) or await self._backend.block_hash(height)
            if block_hash is None:
                return
            looked = await self._backend.look(height, block_hash, interest)
            if looked is None:
                raise BackendAway("the chain changed while it was searched. We try again.")
            if looked.transactions:
                unit = self._look_into(BlockHeight(height), looked)
                if unit:
                    self._writer.submit(unit, now=False)
                interest = self._watches.interest()

    @hears(UnwatchOutput)
    def unwatch_output(self, message: UnwatchOutput) -> None:
        self._watches.unwatch_output(OutPoint(message.txid, message.index))

    @hears(WatchScript)
    def watch_script(self, message: WatchScript) -> None:
        self._watches.watch_script(message.script)

    @handles(ScanFrom)
    async def scan_from(self, request: ScanFrom) -> Scanned:
        await self._tip_known.wait()
        async with self._lock:
            last = BlockHeight(self._tip)
            try:
                await self._search(request.height, last)
            except (BackendAway, BackendUnusable) as error:
                raise _no_backend(error) from error
        for event in self._watches.standing(last):
            self.bus.publish(event)
        return Scanned(request.height, last)

    # Questions.

    @handles(GetTip)
    async def get_tip(self, _request: GetTip) -> Tip:
        await self._tip_known.wait()
        return Tip(BlockHeight(self._tip), self._hashes[self._tip], self._synced)

    @handles(GetFeerate)
    async def get_feerate(self, request: GetFeerate) -> FeeratePerKw:
        try:
            rate = await self._backend.feerate(request.target_blocks)
        except (BackendAway, BackendUnusable) as error:
            raise _no_backend(error) from error
        if rate is None:
            rate = self._fallback_feerate
        if rate is None:
            raise CommandRefused(
                f"{self._backend.name} has no fee estimate yet",
                what_to_do="Give a feerate yourself, or wait until it has seen some blocks.",
            )
        return rate

    @handles(GetTransaction)
    async def get_transaction(self, request: GetTransaction) -> TransactionFound | None:
        try:
            found = await self._backend.transaction(request.txid)
        except (BackendAway, BackendUnusable) as error:
            raise _no_backend(error) from error
        return None if found is None else TransactionFound(found.raw, found.height)

    @handles(GetOutputAt)
    async def get_output_at(self, request: GetOutputAt) -> OutputAt | None:
        try:
            tx = await self._backend.transaction_at(request.height, request.tx_index)
            if tx is None:
                return None
            if request.output_index >= len(tx.outputs):
                return None
            unspent = await self._backend.output_status(tx.txid, request.output_index)
        except (BackendAway, BackendUnusable) as error:
            raise _no_backend(error) from error
        output = tx.outputs[request.output_index]
        return OutputAt(tx.txid, output.value, output.script_pubkey, unspent is not None)


def _no_backend(error: Exception) -> CommandRefused:
    return CommandRefused(str(error).rstrip("."), what_to_do="Ask again when the chain is back.")
