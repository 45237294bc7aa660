"""Virtual time: an event loop whose clock jumps to the next timer when nothing is ready, and randomness from a seed.

Nothing in it sleeps, no thread takes part and no socket is looked at, so a run depends on its seed and on nothing else.
"""

import asyncio
import os
import random
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, TypeVar

T = TypeVar("T")
EPOCH = 1_750_000_000.0
"""The wall clock of a simulation when it begins."""
MOST_TURNS_AT_ONCE = 2_000_000
"""Turns of the loop without the clock moving: more is a livelock."""


class Stalled(Exception):
    """Somebody waits for what can never come: nothing is ready, and no timer is set."""


class _NoSockets(selectors.SelectSelector):
    """`select` is where a loop would sleep: here the clock moves instead."""

    def __init__(self) -> None:
        super().__init__()
        self.advance: Callable[[float | None], None] = lambda _: None

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.advance(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        selector = _NoSockets()
        super().__init__(selector)
        selector.advance = self._advance
        # A nanosecond is lost in the rounding of a clock that shows years, and the timer would never be due.
        self._clock_resolution = 1e-6
        self.now = 0.0
        self.turns = 0
        self._turns_here = 0

    def time(self) -> float:
        return self.now

    def wall(self) -> float:
        """The clock that services are given as the wall's."""
        return EPOCH + self.now

    def _advance(self, timeout: float | None) -> None:
        self.turns += 1
        self._turns_here += 1
        if timeout is None:
            raise Stalled(f"at {self.now:.3f} s nothing is ready and nothing will be")
        if timeout > 0:
            self.now += timeout
            self._turns_here = 0
        elif self._turns_here > MOST_TURNS_AT_ONCE:
            raise Stalled(f"at {self.now:.3f} s there are turns without end")

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """What nodes give to a thread is done in a turn of its own, so that its order is the same in every run."""
        future: asyncio.Future[T] = self.create_future()

        def work() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:
                future.set_exception(error)

        self.call_soon(work)
        return future


@contextmanager
def seeded(seed: int) -> Iterator[Random]:
    """All that draws from the system's randomness draws from the seed meanwhile: keys, handles, session keys."""
    source = Random(seed)
    kept = os.urandom, random._urandom  # type: ignore[attr-defined]
    os.urandom = random._urandom = source.randbytes  # type: ignore[attr-defined,assignment]
    try:
        yield Random(seed ^ 0x5EED)
    finally:
        os.urandom, random._urandom = kept  # type: ignore[attr-defined]


def run(main: Callable[[VirtualLoop], Coroutine[Any, Any, T]]) -> T:
    """Runs to the end in a loop of its own."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.call_later(1.0, loop.stop)
        loop.run_forever()
        loop.close()
