"""`house(number)` starts a gossip service with its stand-ins; all are stopped at the end."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from tests.node.routing.gossip.house import Clock, House

Make = Callable[..., Awaitable[House]]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def house(clock: Clock) -> AsyncIterator[Make]:
    made: list[House] = []

    async def make(number: int = 50, *, start: bool = True, **more: Any) -> House:
        one = House(number, clock, **more)
        made.append(one)
        return await one.start() if start else one

    yield make
    for one in made:
        await one.stop()
