"""A peer that sends gossip beyond its budget: gossip is dropped, and messages of channels pass (checklist 59)."""

import asyncio
from typing import Any

import pytest

from node.peer.connection import Connection
from node.peer.events import Event, ForChannels, ForGossip
from node.peer.limits import USUAL_LIMITS, Budget, PeerLimits
from node.peer.session import FRAME_OVERHEAD
from tests.node.peer.test_gossip_priority import GOSSIP, Wire, channel_message
from tests.node.peer.test_session import INIT
from tests.node.peer.wiring import RawPeer, listener

SIZE = len(GOSSIP) + FRAME_OVERHEAD
BURST = 100
LIMITS = PeerLimits(
    receive_bytes_per_second=1_000,
    receive_burst=4_000,
    gossip_bytes_per_second=10 * SIZE,
    gossip_burst=BURST * SIZE,
    flood_bytes_per_second=100_000,
    flood_burst=2_000_000,
)


class Flooded:
    """A connection with a clock in the test's hand, and what its owner hears."""

    def __init__(self, limits: PeerLimits = LIMITS) -> None:
        self.now = 0.0
        self.paused: list[bool] = []
        self.channels: list[bytes] = []
        self.gossip = 0
        self.peer = RawPeer(listener(gossip=True, limits=limits))
        self.peer.sends(INIT)
        self.peer.hears()
        wire = Wire()
        wire.pause_reading = lambda: self.paused.append(True)  # type: ignore[method-assign]
        wire.resume_reading = lambda: self.paused.append(False)  # type: ignore[method-assign]
        self.connection = Connection(
            wire,
            self.peer.end.session,
            number=1,
            outbound=False,
            address="test",
            limits=limits,
            clock=lambda: self.now,
            run=asyncio.get_running_loop().create_task,
            on_event=self._heard,
            on_lost=lambda one, reason: one.close(reason),
        )
        self.peer.end.session.take_gossip_bytes()

    def _heard(self, _one: Connection, event: Event) -> None:
        if isinstance(event, ForChannels):
            self.channels += event.frames
        elif isinstance(event, ForGossip):
            self.gossip += len(event.frames)

    def sends(self, *frames: bytes, cut: int = 65_536) -> None:
        data = b"".join(self.peer.encryptor.encrypt(frame) for frame in frames)
        for at in range(0, len(data), cut):
            self.connection._on_data(data[at : at + cut])


@pytest.mark.parametrize("cut", [65_536, 1_000, 97])
async def test_channel_messages_pass_through_a_flood_of_gossip_in_their_order(cut: int):
    """However the line cuts it: none is lost, none is late, and we never stop reading."""
    one = Flooded()
    sent = [channel_message(number) for number in range(50)]
    for message in sent:
        one.sends(*(GOSSIP,) * 100, message, cut=cut)
        assert one.channels[-1] == message, "at once, not when the budget refills"
    assert one.channels == sent
    assert one.gossip == BURST and one.peer.end.session.gossip_dropped == 50 * 100 - BURST
    assert one.paused == []
    assert one.connection.why_closed is None


async def test_the_budget_of_gossip_refills_and_what_was_dropped_is_not_owed():
    one = Flooded()
    one.sends(*(GOSSIP,) * 1_000)
    assert one.gossip == BURST
    one.now = 2.0
    one.sends(*(GOSSIP,) * 1_000)
    assert one.gossip == BURST + 20
    one.now = 1_000.0
    one.sends(*(GOSSIP,) * 1_000)
    assert one.gossip == 2 * BURST + 20


async def test_too_many_channel_messages_still_make_us_wait():
    """The budget that protects us from channels is spent by them alone."""
    one = Flooded()
    one.sends(*(GOSSIP,) * 5_000)
    assert one.paused == []
    one.sends(*(b"\0\x88" + bytes(500),) * 10)
    assert one.paused == [True] and len(one.channels) == 10
    one.now = 0.5
    one.connection.tick(one.now)
    assert one.paused == [True]
    one.now = 10.0
    one.connection.tick(one.now)
    assert one.paused == [True, False]


async def test_signatures_of_our_own_announcement_are_not_dropped_with_gossip():
    """announcement_signatures belong to a channel, although the gossip service reads them."""
    one = Flooded()
    one.sends(*(GOSSIP,) * 500, b"\x01\x03" + bytes(168))
    assert one.gossip == BURST + 1


async def test_a_flood_that_would_starve_other_peers_is_read_slower():
    one = Flooded()
    for _ in range(15):
        one.sends(*(GOSSIP,) * 1_000)
    assert one.paused == [True]
    one.now = 30.0
    one.connection.tick(one.now)
    assert one.paused == [True, False]


async def test_a_flood_is_said_once(capsys: pytest.CaptureFixture[str]):
    one = Flooded()
    one.sends(*(GOSSIP,) * 500)
    for _ in range(3):
        one.connection.tick(one.now)
    one.sends(*(GOSSIP,) * 500)
    one.connection.tick(one.now)
    assert capsys.readouterr().out.count("gossip_flood") == 1


def test_what_does_not_fit_a_budget_takes_nothing_of_it():
    budget = Budget(rate=1, burst=10, now=0.0)
    assert budget.take(8, 0.0) and not budget.take(3, 0.0) and budget.take(2, 0.0)
    assert not budget.take(1, 0.5) and budget.take(1, 1.0)


def test_a_full_sync_fits_the_usual_budget():
    """50,000 channels are 39 MB on the line: a peer that answers us is not cut short."""
    frames: Any = 50_000 * 3 + 17_000
    assert USUAL_LIMITS.gossip_burst > 39_000_000 + frames * FRAME_OVERHEAD
