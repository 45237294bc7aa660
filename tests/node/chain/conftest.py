"""The embedded regtest chain behind its real RPC and ZMQ doors, in the process of the test."""

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node.chain.bitcoind import Bitcoind
from protocol.bitcoin.network import REGTEST
from tests.support import need


@pytest.fixture
async def regtest(tmp_path: Path) -> AsyncIterator[Any]:
    """(chain, doors)"""
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    from node.chain.regtest import RegtestChain
    from node.chain.regtest.service import RegtestService

    with RegtestChain(tmp_path / "chain") as chain:
        service = RegtestService(chain, tmp_path / "chain")
        doors = await service.start(user="lnp", password="pass word:with signs")
        yield chain, doors
        await service.close()


@pytest.fixture
async def bitcoind(regtest: Any) -> AsyncIterator[Bitcoind]:
    _, doors = regtest
    backend = make_bitcoind(doors)
    yield backend
    await backend.close()


def make_bitcoind(doors: Any, *, zmq: bool = True, poll_seconds: float = 30.0) -> Bitcoind:
    return Bitcoind(
        doors.rpc_url,
        network=REGTEST,
        login=doors.cookie_path,
        zmq_endpoint=doors.zmq_endpoint if zmq else "",
        poll_seconds=poll_seconds,
    )
