"""Our node and LND, each with a tor of its own and nothing but onion addresses, on the real private Tor network."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from node.demo.stack import wait_for
from node.demo.tor_network import TorNetwork
from tests.interop.cases import pay_them, pay_us
from tests.interop.harness import NotInstalled, Side, World
from tests.interop.peers import lnd_build
from tests.interop.peers.base import PeerRefused
from tests.interop.peers.lnd_peer import Lnd
from tests.support import need
from tests.tor.stacks import audit_file, audited, reachable, strays

OURS, THEIRS = 0, 1
"""Which client of the network is whose."""
ONION_SECONDS = 90.0
"""LND says its onion address at once; until its descriptor is published nobody can dial it."""
LOST_SECONDS = 120.0
BACK_SECONDS = 180.0
RESTARTS = pytest.mark.skipif(
    os.environ.get("LNP_HYPOTHESIS") != "soak",
    reason="waits for LND's own redials, which may take minutes: `make soak` runs it",
)


def install_lnd() -> None:
    """An ordinary test run does not build LND for ten minutes: it takes what `make interop` has built."""
    is_required = "lnd" in os.environ.get("LNP_REQUIRE", "").split(",")
    is_built = (lnd_build.FOLDER / "recipe").exists()
    need("lnd", is_built or is_required, "LND is not built here: `make interop` builds it")
    try:
        Lnd.install()
    except NotInstalled as error:
        need("lnd", False, str(error))
        raise


# A world for each: a node that never dialled the other does not know where it is, and cannot bring it back.
@pytest.fixture(scope="module", params=["ours", "theirs"], ids=["dialled by us", "dialled by them"])
def dialler(request: pytest.FixtureRequest) -> Side:
    side: Side = request.param
    return side


@pytest.fixture(scope="module")
def world(dialler: Side, network: TorNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    install_lnd()
    made = World(Lnd, tmp_path_factory.mktemp("n") / "w")
    made.ours.use_tor(network.socks_ports[OURS], network.clients[OURS].control_port)
    made.ours.program = ("tests.tor.audited", str(audit_file(made.ours)), "node")
    assert isinstance(made.peer, Lnd)
    made.peer.extra = (
        "--tor.active",
        "--tor.v3",
        f"--tor.socks=127.0.0.1:{network.socks_ports[THEIRS]}",
        f"--tor.control=127.0.0.1:{network.clients[THEIRS].control_port}",
    )
    with made as running:
        running.fund()
        yield running


def lnd(world: World) -> Lnd:
    assert isinstance(world.peer, Lnd)
    return world.peer


def their_onion(world: World) -> str:
    """The only address that LND tells of itself."""
    (uri,) = lnd(world).get("/v1/getinfo")["uris"]
    node_id, _, address = str(uri).partition("@")
    assert node_id == world.their_id
    assert address.endswith(".onion:9735")
    return address


def dial(world: World, by: Side) -> float:
    """Seconds until both are connected."""
    theirs, ours = their_onion(world), reachable(world.ours)
    began = time.monotonic()

    def went_through() -> bool:
        if by == "ours":
            return world.ours.try_call("connect", id=f"{world.their_id}@{theirs}") is not None
        try:
            lnd(world).post("/v1/peers", addr={"pubkey": world.our_id, "host": ours}, timeout="30")
        except PeerRefused as error:
            return "already connected" in str(error)
        return True

    world.until(f"the dial by {by}", went_through, seconds=ONION_SECONDS)
    world.until("both to be connected", world.connected)
    return time.monotonic() - began


@dataclass(frozen=True)
class Channel:
    funding: str
    opener: Side


@pytest.fixture(scope="module")
def channel(dialler: Side, world: World) -> Channel:
    """Opened by the one that dialled."""
    print(f"connected by {dialler} in {dial(world, dialler):.1f} s")
    assert_all_is_onion(world, dialler)
    return Channel(world.open(dialler, push_sat=world.peer.channel_sat * 2 // 5), dialler)


def assert_all_is_onion(world: World, dialler: Side) -> None:
    (ours,) = world.ours.call("listpeers", world.their_id)["peers"]
    assert ours["road"] == "tor"
    (theirs,) = lnd(world).get("/v1/peers")["peers"]
    assert bool(theirs["inbound"]) is (dialler == "ours")
    if dialler == "ours":
        assert ours["netaddr"] == [their_onion(world)]
    else:
        assert theirs["address"] == reachable(world.ours)


def assert_it_is_back(world: World, channel: Channel) -> None:
    """By the dial of the one that dialled first: only it knows where the other is."""
    assert_all_is_onion(world, channel.opener)
    assert_nothing_closed(world, channel)
    pay_them(world, 3_000_000)
    pay_us(world, 2_000_000)


def assert_nothing_closed(world: World, channel: Channel) -> None:
    ours = world.our_channel(channel.funding)
    assert ours is not None and ours["state"] == "CHANNELD_NORMAL"
    assert [view.funding for view in world.peer.channels()] == [channel.funding]
    pending = lnd(world).get("/v1/channels/pending")
    for kind in ("pending_closing_channels", "pending_force_closing_channels", "waiting_close_channels"):
        assert pending[kind] == []
    assert world.chain.call("getrawmempool") == []


def test_paid_both_ways(world: World, channel: Channel) -> None:
    before = world.our_msat(channel.funding)
    began = time.monotonic()
    for number in range(5):
        pay_them(world, 21_000_000 + number)
        pay_us(world, 10_000_000 + number)
    print(f"ten payments in {time.monotonic() - began:.1f} s")
    world.quiet(channel.funding)
    assert world.our_msat(channel.funding) == before - 5 * 11_000_000


@RESTARTS
def test_a_restart_of_our_tor_closes_no_channel(world: World, channel: Channel, network: TorNetwork) -> None:
    ours, theirs = reachable(world.ours), their_onion(world)
    tor = network.clients[OURS]
    tor.stop()
    world.until(
        "both to notice",
        lambda: not world.usable(channel.funding) and not world.peer.connected(world.our_id),
        seconds=LOST_SECONDS,
    )
    tor.start()
    began = time.monotonic()
    wait_for("tor", lambda: tor.is_bootstrapped, seconds=90, every=0.2)
    if channel.opener == "theirs":
        dial(world, "theirs")  # by itself too, but the waits between LND's dials grow to minutes meanwhile
    world.until("the channel to be usable again", lambda: world.usable(channel.funding), seconds=BACK_SECONDS)
    print(f"{channel.opener}: usable again {time.monotonic() - began:.1f} s after tor was started")
    assert (reachable(world.ours), their_onion(world)) == (ours, theirs)
    assert_it_is_back(world, channel)


@RESTARTS
def test_a_restart_of_lnd_keeps_its_onion_and_closes_no_channel(world: World, channel: Channel) -> None:
    theirs = their_onion(world)
    world.peer.restart()
    began = time.monotonic()
    world.until("the channel to be usable again", lambda: world.usable(channel.funding), seconds=BACK_SECONDS)
    print(f"{channel.opener}: usable again {time.monotonic() - began:.1f} s after LND was up")
    assert their_onion(world) == theirs
    assert_it_is_back(world, channel)


def test_it_is_closed_together(world: World, channel: Channel) -> None:
    world.close(channel.funding, by=channel.opener)
    assert not world.peer.channels()
    world.mine(6)  # LND books a close once it is deep enough
    (closed,) = world.until("LND to book it", lambda: lnd(world).get("/v1/channels/closed")["channels"])
    assert closed["close_type"] == "COOPERATIVE_CLOSE"


def test_through_all_that_our_node_dialled_nothing_but_tor(world: World, network: TorNetwork) -> None:
    chain = urlsplit(world.chain.doors["rpc_url"]).port
    assert chain is not None
    seen = audited(world.ours)
    socks, control = network.socks_ports[OURS], network.clients[OURS].control_port
    assert ["socket.connect", f"('127.0.0.1', {socks})"] in seen
    assert strays(seen, {socks, control, chain}) == []
