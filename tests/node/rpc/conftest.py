"""The gateway: started on a socket of its own, and stopped at the end."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.node.rpc.support import Gateway


@pytest_asyncio.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    gateway = Gateway(tmp_path)
    await gateway.start()
    yield gateway
    await gateway.stop()
