"""Announced channels, gossip, forwarding, hints, keysend, hold invoices and probes, with LND and LDK around our node.

The tests share one network (`Web`), in the order in which they stand: the last ones restart us and close a channel.
"""

from collections.abc import Iterator

import pytest

from tests.interop.conftest import CURRENT
from tests.interop.forward_cases import Forwarding
from tests.interop.gossip_cases import Gossip
from tests.interop.harness import NotInstalled, install, world_folder
from tests.interop.network_cases import forget
from tests.interop.network_world import Web
from tests.interop.pay_cases import Ending, Holding, Paying
from tests.support import need


@pytest.fixture(scope="module")
def young(request: pytest.FixtureRequest) -> Iterator[Web]:
    """The network with the channels of `lnd` and `ldk` alone."""
    for name in ("lnd", "ldk"):
        try:
            install(name)
        except NotInstalled as error:
            need(name, False, str(error))
    made = Web(world_folder("network"))
    request.node.stash[CURRENT] = made
    with made as running:
        yield running


@pytest.fixture(scope="module")
def web(young: Web) -> Web:
    young.grow_on()
    return young


@pytest.fixture(autouse=True)
def _fresh(young: Web) -> None:
    forget(young.lnd)
    forget(young.far)


class TestGossip(Gossip):
    pass


class TestForwarding(Forwarding):
    pass


class TestPaying(Paying):
    pass


class TestHolding(Holding):
    pass


class TestEnding(Ending):
    pass
