"""Whether the funding outputs of public channels still stand (BOLT 7; checklist 56): a few looks with each block.

The chain tells of spends only for what is watched, and a watch for each of 50,000 outputs would cost more than they
are worth. A channel that somebody disabled is looked at first: closing it begins so.
"""

from collections.abc import Awaitable, Callable

from node.routing.gossip import judge
from node.routing.gossip.book import Book
from node.routing.gossip.intake import ChainUnavailable, Intake
from node.routing.gossip.relay import Relay
from protocol.bus.messages.chain import OutputAt

LOOKS_PER_BLOCK = 10
SUSPECTS = 500
SUSPECTS_PER_BLOCK = 20


class Outputs:
    def __init__(
        self,
        book: Book,
        intake: Intake,
        relay: Relay,
        output_of: Callable[[int], Awaitable[OutputAt | None]],
    ) -> None:
        self._book = book
        self._intake = intake
        self._relay = relay
        self._output_of = output_of
        self._suspects: dict[int, None] = {}
        self._next = 0
        self._looking = False

    def suspect(self, scid: int) -> None:
        if len(self._suspects) < SUSPECTS:
            self._suspects[scid] = None

    def forget_old(self, height: int) -> None:
        """What was spent 72 blocks ago was a close and no splice."""
        for scid, spent in list(self._book.spent.items()):
            if judge.forget_spent(spent, height):
                self._intake.drop_channel(scid)

    async def look(self, height: int) -> None:
        """First channels that are said to be closing or spent, then all in turn."""
        if self._looking:
            return
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
        except ChainUnavailable:
            pass  # with the next block
        finally:
            self._looking = False

    async def _look_at(self, scid: int, height: int) -> None:
        found = await self._output_of(scid)
        if scid not in self._book:
            return
        if found is None or not found.unspent:
            self._book.spent.setdefault(scid, height)
            self._relay.forget(scid)
        else:
            self._book.spent.pop(scid, None)  # the block with the spend left the chain
