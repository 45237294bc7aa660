"""Follows the chain for the whole node: blocks in order, reorganisations, watches, broadcasts (DESIGN, "The chain").

While the backend is away the service goes on trying; what was asked waits. The last 144 blocks are kept in the
table `scan`, so that a reorganisation which happened while the node was off is noticed too.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import ClassVar

import structlog
from msgspec.structs import replace

from node.chain.backend import (
    MEMPOOL_SPENDS,
    OTHERS_SPENDS,
    BackendAway,
    BackendUnusable,
    BlockRef,
    ChainBackend,
)
from node.chain.blocks import Looked
from node.chain.fees import FeeSource, OtherSources
from node.chain.questions import Questions, no_backend
from node.chain.sending import UNCONFIRM_OWN, Sending
from node.chain.spends import Spends
from node.chain.watches import Watched, Watches
from node.storage.writer import Unit, Writer
from protocol.amounts import BlockHeight, FeeratePerKw
from protocol.bitcoin.transaction import OutPoint, txid_hex
from protocol.bus.bus import Bus
from protocol.bus.messages.chain import (
    SPENDS_BACK,
    BlockConnected,
    BlockDisconnected,
    Broadcast,
    BroadcastResult,
    ChainAway,
    ChainBack,
    ChainStatus,
    Forget,
    GetChainStatus,
    GetTip,
    OutputStatus,
    ScanFrom,
    Scanned,
    ScanProgress,
    SpendsWatched,
    Tip,
    TipChanged,
    UnwatchOutput,
    UnwatchSpends,
    WatchOutput,
    WatchScript,
    WatchSpends,
)
from protocol.bus.service import handles, hears
from protocol.errors import CommandRefused, MalformedMessage

log = structlog.get_logger()
KEPT_BLOCKS = 144
RETRY_SECONDS = 2.0
PUT_SCAN = "INSERT OR REPLACE INTO scan (height, block_hash) VALUES (?, ?)"
CUT_SCAN = "DELETE FROM scan WHERE height <= ? OR height > ?"
SEARCHED_AT_ONCE = 32
"""Blocks that a search looks into before a new block gets its turn."""


class ChainService(Questions):
    name: ClassVar[str] = "chain"

    def __init__(
        self,
        bus: Bus,
        backend: ChainBackend,
        writer: Writer,
        *,
        fallback_feerate: FeeratePerKw | None = None,
        fee_sources: Sequence[FeeSource] = (),
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        super().__init__(bus, backend, OtherSources(fee_sources, clock=time.monotonic), fallback_feerate)
        self._writer = writer
        self._retry_seconds = retry_seconds
        self._watches = Watches()
        self._spends = Spends()
        self._sending = Sending(backend, writer, self._watches)
        self._hashes: dict[int, bytes] = {}
        self._tip = -1
        self._tip_known = asyncio.Event()
        self._changed = asyncio.Event()
        self._lock = asyncio.Lock()  # blocks and pieces of searches are worked on one after the other
        self._checked = False
        self._cannot: frozenset[str] | None = None
        self._synced = False
        self._untold = False
        """Whether blocks came or went since the last TipChanged."""
        self._away = ""
        self._unread = ""
        """Why the mempool could not be read."""

    async def start(self) -> None:
        """The first look at the chain happens in the background: the node can start without its backend."""
        for height, block_hash in self._writer.read("SELECT height, block_hash FROM scan ORDER BY height"):
            self._hashes[height] = bytes(block_hash)
            self._tip = height
        if self._hashes:
            self._tip_known.set()
        self._sending.load(self._tip - KEPT_BLOCKS)
        self._backend.subscribe(self._changed.set)
        self._changed.set()
        self._fees.ask()
        self.run(self._follow())
        await super().start()

    async def stop(self) -> None:
        await super().stop()
        await self._fees.close()
        await self._backend.close()

    # Following the tip.

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                if not self._checked:
                    await self._check()
                async with self._lock:
                    await self._sync()
                await self._look_into_mempool()
                self._tell_gaps()
                self._came_back()
            except (BackendAway, BackendUnusable, MalformedMessage) as error:
                self._checked = False  # what comes back may be another one
                self._went_away(str(error))
                await asyncio.sleep(self._retry_seconds)
                self._changed.set()
            except Exception as error:
                # Whatever it is: a node that no longer follows the chain loses money, so we go on.
                log.error("bug", service="chain", error=repr(error), exc_info=True)
                await asyncio.sleep(self._retry_seconds)
                self._changed.set()

    async def _check(self) -> None:
        await self._backend.check()
        self._checked = True
        self._tell_gaps()

    def _tell_gaps(self) -> None:
        """When they are known, and when another one was met."""
        if self._cannot != self._backend.cannot:
            self._cannot = self._backend.cannot
            log.info("chain_backend", name=self._backend.name, cannot=", ".join(sorted(self._cannot)))

    async def _sync(self) -> None:
        target = await self._backend.tip()
        if self._tip < 0:
            await self._begin_at(target)
        if self._hashes[self._tip] != target.block_hash:
            fork = await self._fork(target)
            if fork is None:
                self._lags(
                    f"{self._backend.name} is at block {target.height}, and block {self._tip} is known here"
                )
                return
            self._untold = True
            while self._tip > fork:
                self._disconnect()
            while self._hashes[self._tip] != target.block_hash:
                if not await self._connect_next():
                    return  # the chain changed under our feet: its notice comes
        was_synced = self._synced
        self._lags(target.behind)
        self._synced = not target.behind
        if self._untold or (self._synced and not was_synced):
            self._untold = False
            self._announce(target)
            await self._sending.again()

    async def _fork(self, target: BlockRef) -> int | None:
        """The newest block of ours that is in the backend's chain; None when that one only lags behind ours.

        Nothing of ours is given up before it is found: another chain, or a network that the backend was moved to,
        must not cost us what we know of the right one.
        """
        oldest = min(self._hashes)
        if await self._backend.block_hash(self._tip) == self._hashes[self._tip]:
            return self._tip
        await self._check()
        if target.height < oldest or self._hashes.get(target.height) == target.block_hash:
            return None
        for height in range(self._tip - 1, oldest - 1, -1):
            if await self._backend.block_hash(height) == self._hashes[height]:
                return height
        raise BackendUnusable(
            f"the chain was replaced from below block {oldest}, deeper than {KEPT_BLOCKS} blocks. "
            f"Check that {self._backend.name} follows the right chain; if it does, run `lnpd` with a new database "
            "only after its channels were recovered."
        )

    def _lags(self, behind: str) -> None:
        """An empty sentence: it does not. Told when it begins, not at every block of it."""
        if behind and not self._behind:
            log.warning("chain_behind", reason=behind, what_to_do="Wait until it has caught up.")
        self._behind = behind
        if behind:
            self._synced = False

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
        self._tip -= 1
        log.warning("block_disconnected", height=height, block_hash=txid_hex(block_hash))
        self._writer.submit(
            [("DELETE FROM scan WHERE height = ?", [(height,)]), (UNCONFIRM_OWN, [(height,)])], now=False
        )
        lost = self._watches.disconnect(height)
        self.bus.publish(BlockDisconnected(height, block_hash))
        unspent = self._spends.disconnect(height)
        if unspent is not None:
            self.bus.publish(unspent)
        for event in lost:
            self.bus.publish(event)

    async def _connect_next(self) -> bool:
        """False when there is no next block on top of ours."""
        height = BlockHeight(self._tip + 1)
        block_hash = await self._backend.block_hash(height)
        if block_hash is None:
            return False
        interest = replace(self._watches.interest(), spends=self._spends.wanted)
        looked = await self._backend.look(height, block_hash, interest)
        if looked is None or looked.header.previous != self._hashes[self._tip]:
            return False
        self._tip = height
        self._hashes[height] = block_hash
        self._hashes.pop(height - KEPT_BLOCKS, None)
        for old in (self._watches.own_confirmed, self._watches.own_overtaken):
            old.pop(height - KEPT_BLOCKS, None)
        rows: Unit = [(PUT_SCAN, [(height, block_hash)]), (CUT_SCAN, [(height - KEPT_BLOCKS, height)])]
        self.bus.publish(BlockConnected(height, block_hash, looked.header.time))
        if self._spends.wanted:
            self.bus.publish(self._spends.connect(height, looked.spent, self._tip))
        self._writer.submit(rows + self._look_into(height, looked), now=False)
        return True

    def _look_into(self, height: BlockHeight, looked: Looked) -> Unit:
        """Says what was paid to watched scripts; returns what to save about our own transactions."""
        paid, confirmed, overtaken = self._watches.connect(height, looked.transactions)
        for event in paid:
            self.bus.publish(event)
        return self._sending.connected(height, confirmed, overtaken)

    async def _look_into_mempool(self) -> None:
        watched = self._watches.for_mempool()
        if not watched or MEMPOOL_SPENDS in self._backend.cannot:
            return
        try:
            spenders = await self._backend.mempool_spenders(watched)
        except (BackendAway, BackendUnusable, MalformedMessage) as error:
            # The blocks decide; what stands in the mempool only helps to be early. It is looked at again when told to.
            if str(error) != self._unread:
                self._unread = str(error)
                log.warning("mempool_not_read", reason=self._unread)
            return
        self._unread = ""
        for tx in spenders:
            for event in self._watches.seen(tx):
                log.info(
                    "spend_in_mempool", outpoint=str(OutPoint(event.txid, event.index)), by=txid_hex(tx.txid)
                )
                self.bus.publish(event)

    def _announce(self, tip: BlockRef) -> None:
        self.bus.publish(TipChanged(tip.height, tip.block_hash, tip.time))
        self._fees.ask()
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

    @handles(Broadcast)
    async def broadcast(self, request: Broadcast) -> BroadcastResult:
        return await self._sending.send(request)

    @hears(Forget)
    def forget(self, message: Forget) -> None:
        self._sending.forget(message.txid)

    # Watches.

    @handles(WatchOutput)
    async def watch_output(self, request: WatchOutput) -> OutputStatus:
        outpoint = OutPoint(request.txid, request.index)
        watched = self._watches.watch_output(outpoint, request.script, mempool=request.mempool)
        await self._tip_known.wait()
        while watched.height is None:
            try:
                await self._find(outpoint, watched, request.since)
                break
            except BackendUnusable as error:
                raise no_backend(error) from error
            except BackendAway as error:
                # The channel that asks must not lose its watch because of a restart of the backend.
                self._went_away(str(error))
                self._changed.set()
                await asyncio.sleep(self._retry_seconds)
        for event in self._watches.said_of(outpoint, watched, BlockHeight(self._tip)):
            self.bus.publish(event)
        if request.mempool:
            self._changed.set()
        return self._watches.status(outpoint, watched)

    async def _find(self, outpoint: OutPoint, watched: Watched, since: int) -> None:
        """Where an output was confirmed and spent. The backend's UTXO set tells whether a search is needed."""
        async with self._lock:
            unspent = await self._backend.output_status(outpoint.txid, outpoint.index)
            if unspent is not None and unspent.at == self._hashes[self._tip]:
                if unspent.script != watched.script:
                    raise CommandRefused(
                        f"the output {outpoint} has another script than was given",
                        what_to_do="Check the script: an output that pays somebody else cannot be watched as ours.",
                    )
                at = self._tip - unspent.confirmations + 1
                await self._look_at(at, at)
                return
        await self._search(since or max(0, self._tip - KEPT_BLOCKS + 1))

    async def _search(self, first: int, *, tell: bool = False) -> int:
        """Every block from `first` to the tip, also one that comes meanwhile; the height of the last one."""
        at = first
        while True:
            async with self._lock:
                last = min(at + SEARCHED_AT_ONCE - 1, self._tip)
                if last < at:
                    return self._tip
                await self._look_at(at, last)
                at = last + 1
            if tell:
                self.bus.publish(ScanProgress(BlockHeight(last), BlockHeight(self._tip)))

    async def _look_at(self, first: int, last: int) -> None:
        """With the lock held."""
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
        try:
            last = BlockHeight(await self._search(request.height, tell=True))
        except (BackendAway, BackendUnusable) as error:
            raise no_backend(error) from error
        for event in self._watches.standing(last, however_deep=True):
            self.bus.publish(event)
        return Scanned(request.height, last)

    # Spends of others' outputs.

    @handles(WatchSpends)
    async def watch_spends(self, request: WatchSpends) -> SpendsWatched:
        await self._tip_known.wait()
        if OTHERS_SPENDS in self._backend.cannot:
            return SpendsWatched(BlockHeight(self._tip), able=False)
        self._spends.watch(request.outpoints)
        first = max(request.since, self._tip - SPENDS_BACK, -1) + 1
        complete = first == request.since + 1
        try:
            height = await self._search_spends(first)
        except BackendAway as error:
            raise no_backend(error) from error
        except BackendUnusable as error:
            log.warning("spends_not_read", from_height=first, reason=str(error))
            height, complete = self._tip, False
        return SpendsWatched(BlockHeight(height), complete=complete)

    async def _search_spends(self, first: int) -> int:
        """Blocks that were read before these outputs were watched; a new block gets its turn between any two."""
        at = first
        while True:
            async with self._lock:
                if at > self._tip:
                    return self._tip
                block_hash = self._hashes.get(at) or await self._backend.block_hash(at)
                looked = None
                if block_hash is not None:
                    looked = await self._backend.look(at, block_hash, self._spends.interest)
                if looked is None:
                    raise BackendAway("the chain changed while it was searched. We try again.")
                if looked.spent:
                    self.bus.publish(self._spends.connect(BlockHeight(at), looked.spent, self._tip))
                at += 1

    @hears(UnwatchSpends)
    def unwatch_spends(self, message: UnwatchSpends) -> None:
        self._spends.unwatch(message.outpoints)

    # Questions.

    @handles(GetTip)
    async def get_tip(self, _request: GetTip) -> Tip:
        await self._tip_known.wait()
        return Tip(BlockHeight(self._tip), self._hashes[self._tip], self._synced)

    @handles(GetChainStatus)
    def get_chain_status(self, _request: GetChainStatus) -> ChainStatus:
        return ChainStatus(
            self._backend.name,
            tuple(sorted(self._backend.cannot)),
            BlockHeight(self._tip) if self._tip >= 0 else None,
            self._synced,
            self._away,
            self._behind,
        )
