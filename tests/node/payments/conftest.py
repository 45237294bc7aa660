"""The house of payments: started, and closed at the end."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.node.payments.support import House


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.start()
    yield house
    await house.close()
