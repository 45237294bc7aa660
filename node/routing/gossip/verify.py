"""Signatures of gossip in batches on two threads (BOLT 7). libsecp256k1 releases the interpreter while it computes, so
the event loop goes on; handing over a single signature would cost more than it gives."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from protocol.bolt7.announcement import Check

THREADS = 2
INLINE = 8
"""Up to so many are verified on the spot: about 0.4 ms."""
SPLIT_FROM = 40
"""From here on each thread gets at least twenty."""

Group = tuple[Check, ...]


def hold(groups: Sequence[Group]) -> list[bool]:
    """Whether all signatures of a group are right, for each group."""
    return [all(check.holds() for check in group) for group in groups]


class Verifier:
    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="gossip-verify")
        self.verified = 0

    async def all_hold(self, groups: Sequence[Group]) -> list[bool]:
        count = sum(map(len, groups))
        self.verified += count
        if count <= INLINE:
            return hold(groups)
        loop = asyncio.get_running_loop()
        if count < SPLIT_FROM or len(groups) < THREADS:
            return await loop.run_in_executor(self._pool, hold, groups)
        middle = len(groups) // 2
        halves = await asyncio.gather(
            loop.run_in_executor(self._pool, hold, groups[:middle]),
            loop.run_in_executor(self._pool, hold, groups[middle:]),
        )
        return halves[0] + halves[1]

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
