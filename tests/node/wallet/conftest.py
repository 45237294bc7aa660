"""A fresh chain of 110 blocks, a fresh signer, a running wallet."""

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import need


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Any]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    from node.chain.regtest import RegtestChain
    from tests.node.wallet.support import World
    from tests.signer.support import make_service

    service = make_service(tmp_path / "signer")
    with RegtestChain(tmp_path / "chain") as chain:
        running = World(tmp_path, chain, service)
        await running.start()
        yield running
        await running.stop()
    service.close()
