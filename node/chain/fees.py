"""One feerate out of what several sources estimate (BOLT 2, "Updating Fees"; checklist 22).

The first source is the chain backend itself, asked each time. The others are only asked for fees, once a block and in
the background: one that is slow, away, or on another network delays nothing and is left out.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import structlog

from node.chain.backend import BackendAway, BackendUnusable
from protocol.amounts import FEERATE_CEILING, FEERATE_FLOOR, FeeratePerKw

log = structlog.get_logger()
TARGETS = (2, 6, 12, 36, 144)
"""In how many blocks a transaction should confirm: what the other sources are asked for."""
ANSWER_SECONDS = 20.0
OLD_SECONDS = 7200.0
"""After this an estimate says nothing any more."""
APART = 2
"""Of two sources the higher one counts, but not for more than this many times the lower."""


class FeeSource(Protocol):
    """A chain backend, as far as it is asked for fees."""

    name: str

    async def check(self) -> None: ...

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None: ...

    async def close(self) -> None: ...


def combine(estimates: Sequence[FeeratePerKw], *, mempool_minimum: FeeratePerKw) -> FeeratePerKw | None:
    """The middle one; of two the higher, within reason; None if there is none. Never below what the mempool takes.

    So one source that lies decides nothing beside two that do not, and beside a single other one not much.
    """
    usable = sorted(rate for rate in estimates if rate > 0)
    if not usable:
        return None
    rate = min(usable[1], usable[0] * APART) if len(usable) == 2 else usable[len(usable) // 2]
    return FeeratePerKw(min(FEERATE_CEILING, max(rate, FEERATE_FLOOR, mempool_minimum)))


def per_kw(rate: Any) -> FeeratePerKw | None:
    """From BTC per 1000 virtual bytes, as servers count. None: that is no rate."""
    if not isinstance(rate, int | float) or not 0 < rate < 1:
        return None
    return FeeratePerKw(max(FEERATE_FLOOR, round(rate * 100_000_000 / 4)))


class _Opinion(NamedTuple):
    """What one source said at that time, by target."""

    at: float
    rates: dict[int, FeeratePerKw]


class OtherSources:
    def __init__(self, sources: Sequence[FeeSource], *, clock: Callable[[], float]) -> None:
        self._sources = tuple(sources)
        self._clock = clock
        self._checked: set[int] = set()
        self._said: dict[int, _Opinion] = {}
        self._task: asyncio.Task[None] | None = None

    def ask(self) -> None:
        """Begins to ask all of them, unless that is under way."""
        if self._sources and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._ask_all())

    def estimates(self, target_blocks: int) -> list[FeeratePerKw]:
        """For the next shorter target that was asked for."""
        target = max((known for known in TARGETS if known <= target_blocks), default=TARGETS[0])
        since = self._clock() - OLD_SECONDS
        return [
            said.rates[target] for said in self._said.values() if said.at >= since and target in said.rates
        ]

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(source.close() for source in self._sources))

    async def _ask_all(self) -> None:
        await asyncio.gather(*(self._ask_one(index) for index in range(len(self._sources))))

    async def _ask_one(self, index: int) -> None:
        source = self._sources[index]
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                if index not in self._checked:
                    await source.check()
                    self._checked.add(index)
                found = {target: await source.feerate(target) for target in TARGETS}
        except (BackendAway, BackendUnusable, TimeoutError) as error:
            self._checked.discard(index)  # what comes back may be another one
            log.warning("fee_source_left_out", source=source.name, reason=str(error) or "no answer in time")
            return
        rates = {target: rate for target, rate in found.items() if rate is not None}
        self._said[index] = _Opinion(self._clock(), rates)
