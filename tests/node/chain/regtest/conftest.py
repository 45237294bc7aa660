"""One fresh chain for each test; it starts in about 0.1 s."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import need


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[object]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    from node.chain.regtest import RegtestChain

    with RegtestChain(tmp_path / "chain") as running:
        yield running
