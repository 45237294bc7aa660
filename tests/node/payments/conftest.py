"""The house of payments, and a router beside it: started, and closed at the end."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio
from msgspec.structs import replace

from tests.node.payments.router import FIRST, PEER_ID, SECOND, RouterStandIn
from tests.node.payments.support import OTHER_CHANNEL, House, channel_info


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.start()
    yield house
    await house.close()


@pytest_asyncio.fixture
async def router(house: House) -> AsyncIterator[RouterStandIn]:
    """Two channels of ours lead to its first node."""
    house.channel.channels = (
        replace(channel_info(peer=PEER_ID), short_channel_id=FIRST),
        replace(channel_info(OTHER_CHANNEL, peer=PEER_ID), short_channel_id=SECOND),
    )
    router = RouterStandIn(house)
    await router.start()
    yield router
    await router.stop()
