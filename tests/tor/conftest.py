"""One private Tor network for a whole run, and two nodes that have nothing but it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.demo import tor_network
from node.demo.stack import Stack
from node.demo.tor_network import TorNetwork
from tests.support import need
from tests.tor.stacks import two_nodes


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TorNetwork]:
    need("tor", tor_network.missing() is None, tor_network.missing() or "")
    with tor_network.running(tmp_path_factory.mktemp("tor")) as started:
        print(f"the private Tor network was up in {started.seconds:.0f} s")
        yield started


@pytest.fixture(scope="module")
def stack(network: TorNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with _short(tmp_path_factory) as folder, two_nodes(network, folder) as started:
        yield started


@contextmanager
def _short(factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A unix socket's path has at most 107 bytes."""
    yield factory.mktemp("n")
