"""A channel on a real chain, with and without anchors."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import need


@pytest.fixture(params=[False, True], ids=["static_remotekey", "anchors"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[object]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    from tests.node.onchain.world import World

    made = World(tmp_path, anchors=request.param)
    yield made
    made.close()
