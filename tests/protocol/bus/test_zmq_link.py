"""Two processes on one bus, over ZeroMQ with CURVE."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import zmq
from structlog.testing import capture_logs

from protocol.bus import registry
from protocol.bus.bus import OutcomeUnknown, ServiceFailed
from protocol.bus.local import LocalBus
from protocol.bus.messages import chain, channel, payments, peer, wallet
from protocol.bus.zmq_link import ZmqConnector, ZmqListener
from protocol.errors import CommandRefused, MalformedMessage
from protocol.secret import Secret
from tests.protocol.bus.other_process import Double, Hang, Heard, Listener, News, Unregistered

SERVER_PUBLIC, SERVER_SECRET = zmq.curve_keypair()
CLIENT_PUBLIC, CLIENT_SECRET = zmq.curve_keypair()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - another process is awaited
            await asyncio.sleep(0.005)


@pytest.fixture
async def hub() -> AsyncIterator[tuple[LocalBus, ZmqListener]]:
    bus = LocalBus()
    listener = ZmqListener(
        bus,
        "tcp://127.0.0.1:*",
        public=SERVER_PUBLIC,
        secret=Secret(SERVER_SECRET),
        clients=frozenset({CLIENT_PUBLIC}),
    )
    yield bus, listener
    listener.close()


@pytest.fixture
async def other(hub: tuple[LocalBus, ZmqListener]) -> AsyncIterator[subprocess.Popen[bytes]]:
    bus, listener = hub
    keys = [key.decode() for key in (SERVER_PUBLIC, CLIENT_PUBLIC, CLIENT_SECRET)]
    process = subprocess.Popen(  # noqa: ASYNC220 - it only starts here; nothing waits for it
        [sys.executable, "-m", "tests.protocol.bus.other_process", listener.endpoint, *keys]
    )
    try:
        await until(lambda: "doubler" in bus._ports)
        yield process
    finally:
        process.kill()
        process.wait()


async def test_request_refusal_and_bug_cross_the_link(hub: Any, other: Any) -> None:
    bus, _ = hub
    assert await bus.request("doubler", Double(21)) == Double(42)
    with pytest.raises(CommandRefused, match="too large") as caught:
        await bus.request("doubler", Double(5_000))
    assert caught.value.code == 12 and caught.value.what_to_do == "Ask for less."
    with pytest.raises(ServiceFailed, match="ZeroDivisionError"):
        await bus.request("doubler", Double(0))


async def test_sends_keep_their_order_and_events_go_to_those_who_hear_them(hub: Any, other: Any) -> None:
    bus, _ = hub
    listener = Listener(bus)
    await listener.start()
    await until(lambda: News in bus._hearers)
    for number in range(50):
        bus.send("doubler", News(number))
    bus.publish(News(50))
    await until(lambda: len(listener.heard) == 51)
    assert listener.heard == [Heard(number) for number in range(51)], "the other publishes each one back"
    await listener.stop()


async def test_a_killed_peer_leaves_the_outcome_unknown_and_takes_its_services_along(
    hub: Any, other: Any
) -> None:
    bus, _ = hub
    pending = asyncio.ensure_future(bus.request("doubler", Hang(), deadline=60.0))
    await asyncio.sleep(0)
    assert await bus.request("doubler", Double(1)) == Double(2)
    other.kill()
    with pytest.raises(OutcomeUnknown, match="lost"):
        await asyncio.wait_for(pending, 20)
    with pytest.raises(CommandRefused, match="not running"):
        await bus.request("doubler", Double(1))


async def test_a_loss_that_zeromq_tells_of_too_early_is_found_all_the_same(hub: Any, other: Any) -> None:
    """The event comes from ZeroMQ's thread, and the socket may take what is sent for a moment longer."""
    bus, listener = hub
    pending = asyncio.ensure_future(bus.request("doubler", Hang(), deadline=60.0))
    await asyncio.sleep(0)
    assert await bus.request("doubler", Double(1)) == Double(2)
    send, looks = listener._link.send, []

    def late(frames: list[bytes]) -> bool:
        looks.append(frames)
        return True if len(looks) < 3 else send(frames)

    listener._link.send = late
    other.kill()
    with pytest.raises(OutcomeUnknown, match="lost"):
        await asyncio.wait_for(pending, 20)
    assert len(looks) == 3


async def test_a_late_answer_over_the_link_is_unknown_too(hub: Any, other: Any) -> None:
    with pytest.raises(OutcomeUnknown):
        await hub[0].request("doubler", Hang(), deadline=0.05)


async def test_the_services_of_the_listener_can_be_asked_from_the_connector(hub: Any) -> None:
    hub_bus, listener = hub
    heard = Listener(hub_bus)
    await heard.start()
    bus = LocalBus()
    link = _connect(bus, listener.endpoint, CLIENT_PUBLIC, CLIENT_SECRET)
    await until(lambda: "listener" in bus._ports)
    bus.send("listener", Heard(3))
    await until(lambda: heard.heard == [Heard(3)])
    link.close()
    with pytest.raises(CommandRefused, match="not running"):
        await bus.request("listener", Double(1))
    await heard.stop()


async def test_a_key_that_is_not_on_the_allowlist_is_refused(hub: Any) -> None:
    _, listener = hub
    public, secret = zmq.curve_keypair()
    bus = LocalBus()
    with capture_logs() as logs:
        link = _connect(bus, listener.endpoint, public, secret)
        await until(lambda: {"link_denied", "link_refused"} <= {line["event"] for line in logs})
    assert link._peer is None and listener._peers == {}
    link.close()


async def test_a_wrong_server_key_is_refused_by_us(hub: Any) -> None:
    _, listener = hub
    wrong, _ = zmq.curve_keypair()
    with capture_logs() as logs:
        link = ZmqConnector(
            LocalBus(),
            listener.endpoint,
            server_key=wrong,
            public=CLIENT_PUBLIC,
            secret=Secret(CLIENT_SECRET),
        )
        await until(lambda: any(line["event"] == "link_refused" for line in logs))
    assert link._peer is None and listener._peers == {}
    link.close()


def _connect(bus: LocalBus, endpoint: str, public: bytes, secret: bytes) -> ZmqConnector:
    return ZmqConnector(bus, endpoint, server_key=SERVER_PUBLIC, public=public, secret=Secret(secret))


def test_only_registered_messages_cross() -> None:
    with pytest.raises(TypeError, match="register"):
        registry.pack(Unregistered())
    with pytest.raises(TypeError, match="same tag"):
        registry.register(Unregistered)
    with pytest.raises(TypeError, match="text tag"):
        registry.register(int)


def test_the_messages_of_all_services_can_cross_together() -> None:
    for module in (chain, channel, payments, peer, wallet):
        registry.register_module(module)
    assert registry.unpack(*registry.pack(chain.GetFeerate(6))) == chain.GetFeerate(6)


def test_what_a_link_cannot_read_is_malformed() -> None:
    assert registry.unpack(*registry.pack(Double(7))) == Double(7)
    assert registry.unpack(*registry.pack(None)) is None
    assert registry.unpack(*registry.pack(253)) == 253
    for tag, body in [("test_double", b"\xc1"), ("test_double", b""), ("nonsense", b"\x80"), ("", b"\x80")]:
        with pytest.raises(MalformedMessage):
            registry.unpack(tag, body)
