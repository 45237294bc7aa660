"""Whether the funding outputs of public channels still stand (BOLT 7; checklist 56).

A chain that reads whole blocks is told of all those outputs once, and says of each block which of them it spends.
Where the chain cannot say that, a few are looked at with each block: first those that somebody disabled, since closing
a channel begins so, then all in turn.
"""

from collections.abc import Awaitable, Callable

import structlog

from node.routing.gossip import judge
from node.routing.gossip.book import Book
from node.routing.gossip.intake import ChainUnavailable, Intake
from node.routing.gossip.relay import Relay
from node.routing.gossip.store import GossipStore
from protocol.bus.messages.chain import OutputAt, SpendsWatched, UnwatchSpends, WatchSpends

log = structlog.get_logger()
LOOKS_PER_BLOCK = 10
SUSPECTS = 500
SUSPECTS_PER_BLOCK = 20
AGAIN_BLOCKS = 6
"""After a start so many blocks are read again: some may have been replaced while we were away."""
MARK = "spends"


class Outputs:
    """`watch` raises ChainUnavailable."""

    def __init__(
        self,
        book: Book,
        intake: Intake,
        relay: Relay,
        store: GossipStore,
        *,
        output_of: Callable[[int], Awaitable[OutputAt | None]],
        watch: Callable[[WatchSpends], Awaitable[SpendsWatched]],
        unwatch: Callable[[UnwatchSpends], None],
    ) -> None:
        self._book = book
        self._intake = intake
        self._relay = relay
        self._store = store
        self._output_of = output_of
        self._watch = watch
        self._unwatch = unwatch
        self._suspects: dict[int, None] = {}
        self._next = 0
        self._looking = False
        self._able = True
        """The chain tells of spends, or may do so."""
        self._told = False
        """It does."""
        self._unsure = 0
        """Channels that are to be looked at in turn although it does."""
        self._new: list[int] = []
        """Channels whose outputs the chain was not told of."""
        self._gone: list[bytes] = []
        self._tips = (0, 0)
        """Up to which block the spends of new channels are known: an output was unspent when it was looked at, which
        was after the telling before the last one."""
        self._tried = -1
        self._telling = False

    # What the chain tells.

    def begin(self) -> None:
        """The graph is loaded; `intake.tip` is known if the chain is there."""
        tip = self._intake.tip
        known = self._store.mark(MARK)
        since = tip if known is None else min(tip or known, max(0, known - AGAIN_BLOCKS))
        for scid, height in self._store.spent():
            if scid in self._book and height <= since:
                self._book.spent[scid] = height
            else:
                self._store.put_spent(scid, None)  # it is told again, if it is still so
        self._tips = (since, tip)
        self._new = list(self._book.rows)

    def added(self, scid: int) -> None:
        if self._able:
            self._new.append(scid)

    def gone(self, scid: int) -> None:
        """The book still has it."""
        if self._able:
            self._gone.append(self._book.outpoint(scid))

    @property
    def has_news(self) -> bool:
        """Something for the chain that it can be told now."""
        ready = self._able and not self._telling and self._intake.tip not in (0, self._tried)
        return bool(self._gone) or (bool(self._new) and ready)

    async def tell(self) -> None:
        """Tells the chain what came and went. After a failure it is tried again with the next block."""
        tip = self._intake.tip
        if self._gone:
            gone, self._gone = b"".join(self._gone), []
            self._unwatch(UnwatchSpends(gone))
        if not self._new or not self.has_news:
            return
        self._telling = True
        new, self._new = self._new, []
        outpoints = b"".join(self._book.outpoint(scid) for scid in new if scid in self._book)
        try:
            watched = await self._watch(WatchSpends(outpoints, self._tips[0] or tip))
        except ChainUnavailable as error:
            log.info("spends_not_watched", reason=str(error))
            self._new += new
            self._tried = tip
            return
        finally:
            self._telling = False
        self._able = watched.able
        if not watched.able:
            self._new.clear()
            return
        if not watched.complete:
            self._unsure = len(self._book)
        self._told = True
        self._tips = (self._tips[1], tip)
        self._store.put_mark(MARK, min(tip, watched.height))

    def spent(self, height: int, outpoints: tuple[bytes, ...]) -> None:
        for outpoint in outpoints:
            scid = self._book.at_outpoint(outpoint)
            if scid is not None:
                self._spent(scid, height)
        self._store.put_mark(MARK, height)

    def unspent(self, height: int, outpoints: tuple[bytes, ...]) -> None:
        """The block left the chain."""
        for outpoint in outpoints:
            scid = self._book.at_outpoint(outpoint)
            if scid is not None:
                self._book.spent.pop(scid, None)
                self._store.put_spent(scid, None)
        self._store.put_mark(MARK, height - 1)

    def _spent(self, scid: int, height: int) -> None:
        if scid not in self._book.spent:
            self._book.spent[scid] = height
            self._store.put_spent(scid, height)
        self._relay.forget(scid)

    # With each block.

    def suspect(self, scid: int) -> None:
        if len(self._suspects) < SUSPECTS:
            self._suspects[scid] = None

    def forget_old(self, height: int) -> None:
        """What was spent 72 blocks ago was a close and no splice."""
        for scid, spent in list(self._book.spent.items()):
            if judge.forget_spent(spent, height):
                self._intake.drop_channel(scid)

    async def look(self, height: int) -> None:
        """First channels that are said to be closing or spent, then all in turn; none that the chain tells of."""
        if self._told and self._unsure <= 0:
            self._suspects.clear()
        elif not self._looking:
            await self._look(height)

    async def _look(self, height: int) -> None:
        self._looking = True
        try:
            suspects = list(self._suspects)[:SUSPECTS_PER_BLOCK]
            known = self._book.sorted_ids()
            count = min(LOOKS_PER_BLOCK, len(known))
            turn = [known[(self._next + step) % len(known)] for step in range(count)]
            self._next = (self._next + count) % max(1, len(known))
            for scid in dict.fromkeys([*suspects, *turn, *self._book.spent]):
                self._suspects.pop(scid, None)
                if scid in self._book:
                    await self._look_at(scid, height)
            self._unsure -= count
        except ChainUnavailable:
            pass  # with the next block
        finally:
            self._looking = False

    async def _look_at(self, scid: int, height: int) -> None:
        found = await self._output_of(scid)
        if scid not in self._book:
            return
        if found is None or not found.unspent:
            self._spent(scid, height)
        elif not self._told:
            self._book.spent.pop(scid, None)  # the block with the spend left the chain
            self._store.put_spent(scid, None)
