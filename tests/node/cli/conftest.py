"""A gateway in the directory of a network, as the client finds it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.node.rpc.support import Gateway


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    directory = tmp_path / "regtest"
    directory.mkdir()
    gateway = Gateway(directory)
    await gateway.start()
    yield gateway
    await gateway.stop()
