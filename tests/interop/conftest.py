"""One world for each module: a chain, our node and the peer that the module names as PEER.

These tests run only when they are asked for (`make interop`, or a path under tests/interop): they need programs
that nobody here wrote, and minutes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.faults import Faults
from tests.interop.harness import NotInstalled, Side, World, install, world_folder
from tests.interop.network_world import Web
from tests.support import need

HERE = Path(__file__).parent
CURRENT = pytest.StashKey[World | Web]()
TOLD = pytest.StashKey[bool]()
FAULTS = pytest.StashKey[Faults]()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    asked = (Path(arg.split("::")[0]).resolve() for arg in config.args)
    return None if any(path == HERE or HERE in path.parents for path in asked) else True


@pytest.fixture(scope="module")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """A module may name a `before`: what to do to the world before its programs start."""
    name = request.module.PEER
    try:
        peer = install(name)
    except NotInstalled as error:
        need(name, False, str(error))
        raise
    made = World(peer, world_folder(request.module.__name__.rpartition(".test_")[2]))
    getattr(request.module, "before", lambda _world: None)(made)
    with made as running:
        running.fund()
        request.node.stash[CURRENT] = running
        yield running


@pytest.fixture(autouse=True)
def _no_fault(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a peer does, our programs find no fault of their own."""
    yield
    stash = request.node.getparent(pytest.Module).stash
    if CURRENT in stash:
        assert stash.setdefault(FAULTS, Faults()).new(stash[CURRENT].stack.nodes.values()) == []


@dataclass(frozen=True)
class Channel:
    """The channel that a class of tests talks over."""

    funding: str
    opener: Side


@pytest.fixture(scope="class", params=["ours", "theirs"], ids=["opened by us", "opened by them"])
def channel(request: pytest.FixtureRequest, world: World) -> Iterator[Channel]:
    funding = world.open(request.param, push_sat=world.peer.channel_sat * 2 // 5)
    yield Channel(funding, request.param)
    # Two channels at once would leave it to chance over which one a payment goes.
    world.close(funding, by="ours")


@pytest.fixture(scope="class")
def trusted(world: World) -> Iterator[None]:
    """Our settings name the peer as one whose zero-conf channels are taken."""
    usual = world.ours.settings
    world.ours.settings = [*usual, f'channel.zeroconf_peers=["{world.their_id}"]']
    world.ours.daemon.stop()
    world.start_ours()
    yield
    world.ours.settings = usual


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[Any]) -> Iterator[None]:
    """What both sides look like and their logs, with the first failure of a module: others mostly follow from it."""
    report = yield
    module = item.getparent(pytest.Module)
    if report.failed and module is not None and CURRENT in module.stash and TOLD not in module.stash:
        module.stash[TOLD] = True
        running = module.stash[CURRENT]
        report.sections.append(("both sides", running.picture()))
        report.sections.append(("logs", running.logs()))
    return report
