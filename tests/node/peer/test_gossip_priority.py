"""Gossip never delays messages of channels, counted in turns of the loop and in bytes that stand before them."""

import asyncio
from itertools import pairwise
from pathlib import Path
from typing import Any

from node.peer.connection import _GOSSIP_AT_ONCE, Connection
from node.peer.events import ForChannels, ForGossip
from node.peer.limits import USUAL_LIMITS
from protocol.bus.local import LocalBus
from protocol.bus.messages import peer as peers
from protocol.bus.service import Service, hears
from protocol.wire import bolt7_gossip, encode
from tests.node.peer.network import Make
from tests.node.peer.test_session import INIT
from tests.node.peer.wiring import ALICE_KEY, BOB_KEY, PROFILE, RawPeer, listener
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.house import Clock, House, turns
from tests.node.routing.gossip.synth import NOW, node_id

GOSSIP = b"\x01\x02" + bytes(136)
QUERY = encode(bolt7_gossip.QueryChannelRange(synth.CHAIN, 0, 100))


def channel_message(number: int) -> bytes:
    return b"\0\x88" + number.to_bytes(4, "big")


def live() -> RawPeer:
    peer = RawPeer(listener(gossip=True))
    peer.sends(INIT)
    peer.hears()
    return peer


def test_channel_messages_are_told_before_gossip_that_came_first():
    peer = live()
    peer.end.events.clear()
    peer.sends(GOSSIP, channel_message(1), GOSSIP, QUERY, channel_message(2))
    kinds = [type(event) for event in peer.end.events]
    assert kinds == [ForChannels, ForGossip]
    assert peer.end.frames == [channel_message(1), channel_message(2)]
    gossip = peer.end.events[1]
    assert isinstance(gossip, ForGossip) and gossip.frames == (GOSSIP, GOSSIP, QUERY)
    assert peer.hears() == [], "the gossip service answers, not the session"


def test_what_came_before_a_bad_message_is_told():
    peer = live()
    peer.sends(GOSSIP, b"\0\x04bad")
    assert any(isinstance(event, ForGossip) for event in peer.end.events)
    assert peer.end.ended is not None


class Wire:
    """A link whose peer takes bytes only when the test lets it."""

    profile = PROFILE
    peer_address = "test"

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.free = asyncio.Semaphore(0)

    def start(self, _on_data: Any, _on_closed: Any) -> None:
        pass

    def send(self, data: bytes) -> None:
        self.writes.append(data)

    async def drain(self) -> None:
        await self.free.acquire()

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def close(self, _reason: str = "") -> None:
        pass


def connection(peer: RawPeer, wire: Wire) -> Connection:
    return Connection(
        wire,
        peer.end.session,
        number=1,
        outbound=False,
        address="test",
        limits=USUAL_LIMITS,
        clock=lambda: 0.0,
        run=asyncio.get_running_loop().create_task,
        on_event=lambda _one, _event: None,
        on_lost=lambda one, reason: one.close(reason),
    )


def numbers(peer: RawPeer, wire: Wire) -> list[int]:
    """Types of all that was written since the last time, in order."""
    data, wire.writes = b"".join(wire.writes), []
    kinds = []
    for frame in peer.decryptor.feed(data):
        kinds.append(frame[0] << 8 | frame[1])
    return kinds


async def test_gossip_goes_out_behind_channel_messages_and_at_the_peers_pace():
    peer, wire = live(), Wire()
    one = connection(peer, wire)
    taken = one.send_gossip((GOSSIP,) * 1_000)
    await turns()
    assert numbers(peer, wire) == [], "the peer takes nothing, so no gossip stands in its way"
    one.session.send((channel_message(1),))
    one.flush()
    assert numbers(peer, wire) == [136]
    wire.free.release()
    await turns()
    first = numbers(peer, wire)
    assert 0 < len(first) * len(GOSSIP) <= _GOSSIP_AT_ONCE + len(GOSSIP)
    one.session.send((channel_message(2),))
    one.flush()
    assert numbers(peer, wire) == [136], "only one piece of gossip was before it"
    assert not taken.done()
    for _ in range(10):
        wire.free.release()
    assert await taken is True
    assert numbers(peer, wire) == [258] * (1_000 - len(first))


async def test_gossip_for_a_connection_that_ends_is_dropped():
    peer, wire = live(), Wire()
    one = connection(peer, wire)
    taken = one.send_gossip((GOSSIP,))
    await turns()
    one.close("over")
    assert await taken is False
    assert await one.send_gossip((GOSSIP,)) is False


class Channels(Service):
    """Notes in which turn of the loop each message came."""

    name = "channel_under_test"

    def __init__(self, bus: LocalBus, turn: list[int]) -> None:
        super().__init__(bus)
        self.turn = turn
        self.heard: list[tuple[int, int]] = []

    @hears(peers.FromPeer)
    def from_peer(self, message: peers.FromPeer) -> None:
        self.heard.append((int.from_bytes(message.frame[2:6], "big"), self.turn[0]))


async def run_of(path: Path | None, *, flood: int) -> list[int]:
    """Turns from the sending of each channel message to its hearing, under a flood of gossip."""
    house = House(70, Clock(), path=path)
    turn = [0]
    channels = Channels(house.bus, turn)
    await house.start()
    await channels.start()
    house.up(9)
    await turns()
    public = synth.channel(1, 2, 700)
    house.chain.confirm(public)
    updates = [public.update(0, NOW + number) for number in range(200)]
    sent: dict[int, int] = {}
    for number in range(20):
        if flood:
            house.hears(9, public.frame, *updates, *(b"\x01\x02" + bytes(136),) * flood)
        sent[number] = turn[0]
        house.bus.send(channels.name, peers.FromPeer(node_id(9), 1, channel_message(number)))
        for _ in range(3):
            await asyncio.sleep(0)
            turn[0] += 1
    heard = channels.heard
    assert [number for number, _ in heard] == list(range(20)), "in their order, none lost"
    await channels.stop()
    await house.stop()
    return [at - sent[number] for number, at in heard]


async def test_flood_of_gossip_costs_channel_messages_no_turn(tmp_path: Path):
    """Each is heard in the turn in which it is heard without any gossip."""
    quiet = await run_of(None, flood=0)
    flooded = await run_of(tmp_path / "gossip.db", flood=2_000)
    assert flooded == quiet


async def test_a_turn_of_gossip_reads_no_more_than_a_chunk():
    """However much waits: the limit is what a channel message may have to stand behind."""
    house = await House(70, Clock()).start()
    house.up(9)
    await turns()
    house.hears(9, *(b"\x01\x02" + bytes(136),) * 3_000)
    await asyncio.sleep(0)
    counts, chunk = house.gossip.intake.counts, house.gossip._limits.chunk
    seen = [counts.frames]
    while counts.frames < 3_000:
        await asyncio.sleep(0)
        seen.append(counts.frames)
    assert max(b - a for a, b in pairwise(seen)) == chunk
    await house.stop()


class Gossip(Service):
    """Stands where the gossip service stands."""

    name = "gossip"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.heard: list[peers.GossipFromPeer] = []
        self.came = asyncio.Event()

    @hears(peers.GossipFromPeer)
    def from_peer(self, message: peers.GossipFromPeer) -> None:
        self.heard.append(message)
        self.came.set()


async def test_gossip_goes_from_service_to_service_over_a_real_line(make: Make):
    """The peer service hands gossip to its service and sends what that one has to say."""
    alice, bob = await make(ALICE_KEY), await make(BOB_KEY)
    services = []
    for node in (alice, bob):
        node.peers._gossip = True  # before any connection
        gossip = Gossip(node.bus)
        await gossip.start()
        services.append(gossip)
    address = bob.peers.addresses[0]
    await alice.bus.request("peer", peers.Connect(bob.id, address))
    frames = tuple(b"\x01\x02" + bytes([number]) * 400 for number in range(200))
    assert await alice.bus.request("peer", peers.SendGossip(bob.id, 1, frames)) is True
    assert await alice.bus.request("peer", peers.SendGossip(bob.id, 99, frames)) is False
    async with asyncio.timeout(10):
        while sum(len(message.frames) for message in services[1].heard) < 200:
            services[1].came.clear()
            await services[1].came.wait()
    got = tuple(frame for message in services[1].heard for frame in message.frames)
    assert got == frames and services[1].heard[0].node_id == alice.id
    for gossip in services:
        await gossip.stop()
