"""The signer that most tests use: new keys, database in memory, a channel of 1,000,000 sat, 600,000 of them ours."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from signer.service import SignerService
from tests.signer.road import Road
from tests.signer.support import World, make_service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[SignerService]:
    made = make_service(tmp_path / "signer")
    yield made
    made.close()


@pytest.fixture
def world(service: SignerService) -> World:
    return World(service)


@pytest.fixture
def road(service: SignerService) -> Road:
    return Road(service)
