"""What peers give us to keep, and what they keep of ours (BOLT 1, "Peer storage"; checklist 7)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from node.peer.storage import service as storage
from node.peer.storage import table
from node.peer.storage.service import KEEP_BLOCKS, MOST_RETRIEVALS, STORE_SECONDS, PeerStorageService
from node.storage.database import open_database
from protocol import curve
from protocol.amounts import BlockHeight
from protocol.bolt9 import FeatureSet
from protocol.bus.local import LocalBus
from protocol.bus.messages import chain, channel
from protocol.bus.messages import peer as messages
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused
from protocol.wire import bolt1, decode, encode

PEER, OTHER = (curve.point_of(bytes((n,)) * 32) for n in (0x21, 0x22))
PROVIDER = FeatureSet.of(43)
FULL = bytes(range(256)) * 255 + bytes(251)


class Channels(Service):
    name: ClassVar[str] = "channel"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.states: dict[bytes, str] = {}
        self.away = False
        self.asked = 0

    @handles(channel.ListChannels)
    def list(self, request: channel.ListChannels) -> channel.Channels:
        self.asked += 1
        if self.away:
            raise CommandRefused("the channels are away", what_to_do="Wait.")
        wanted = [peer for peer in self.states if request.peer in (None, peer)]
        infos: Any = tuple(SimpleNamespace(peer=peer, state=self.states[peer]) for peer in wanted)
        return channel.Channels(infos)


class Peers(Service):
    name: ClassVar[str] = "peer"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.given: list[tuple[bytes, bytes]] = []
        self.dropped: list[str] = []

    @hears(messages.ToPeer)
    def to_peer(self, message: messages.ToPeer) -> None:
        for frame in message.frames:
            said = decode(frame)
            assert isinstance(said, bolt1.PeerStorage)
            self.given.append((message.node_id, said.blob))

    @hears(messages.DropPeer)
    def drop(self, message: messages.DropPeer) -> None:
        self.dropped.append(message.reason)


class Listener(Service):
    name: ClassVar[str] = "listener"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.back: list[messages.OurBlobCameBack] = []

    @hears(messages.OurBlobCameBack)
    def came_back(self, event: messages.OurBlobCameBack) -> None:
        self.back.append(event)


class World:
    def __init__(self, folder: Path) -> None:
        self.bus = LocalBus()
        self.path = folder / "node.db"
        self.database = open_database(self.path, create=True)
        self.now = 1000.0
        self.channels, self.peers, self.listener = Channels(self.bus), Peers(self.bus), Listener(self.bus)
        self.service = PeerStorageService(
            self.bus, self.database.writer, clock=lambda: self.now, tick_seconds=3600
        )
        self.services = (self.channels, self.peers, self.listener, self.service)
        self.connections = 0

    async def start(self) -> None:
        for service in self.services:
            await service.start()

    async def stop(self) -> None:
        for service in reversed(self.services):
            await service.stop()
        self.database.close()

    async def settle(self) -> None:
        """Everything that was said has been heard, and what was submitted is on disk."""
        for _ in range(30):
            await asyncio.sleep(0)
        await self.database.writer.submit([], now=True)
        for _ in range(5):
            await asyncio.sleep(0)

    async def up(self, peer: bytes = PEER, features: FeatureSet = PROVIDER) -> None:
        self.connections += 1
        self.bus.publish(messages.PeerUp(peer, self.connections, features.to_bytes()))
        await self.settle()

    async def down(self, peer: bytes = PEER) -> None:
        self.bus.publish(messages.PeerDown(peer, self.connections, "gone"))
        await self.settle()

    async def says(self, *frames: bytes, peer: bytes = PEER, connection: int | None = None) -> None:
        for frame in frames:
            number = self.connections if connection is None else connection
            self.bus.send("peer_storage", messages.FromPeer(peer, number, frame))
        await self.settle()

    async def stores(self, *blobs: bytes, peer: bytes = PEER) -> None:
        await self.says(*(encode(bolt1.PeerStorage(blob)) for blob in blobs), peer=peer)

    async def tip(self, height: int) -> None:
        self.bus.publish(chain.TipChanged(BlockHeight(height), bytes(32), 0))
        await self.settle()

    async def later(self, seconds: float) -> None:
        self.now += seconds
        self.service.tick()
        await self.settle()

    async def put(self, blob: bytes) -> None:
        self.bus.send("peer_storage", messages.PutOurBlob(blob))
        await self.settle()

    def kept(self, peer: bytes = PEER) -> bytes | None:
        return table.blob_of(self.database.writer, peer)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.start()
    yield made
    await made.stop()


# What we keep.


@pytest.mark.parametrize("blob", [b"", b"x", FULL])
async def test_the_blob_of_a_peer_with_a_channel_is_kept_up_to_the_largest(world: World, blob: bytes) -> None:
    """checklist 7"""
    assert len(FULL) == bolt1.LARGEST_BLOB == 65531
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.up()
    await world.stores(blob)
    assert world.kept() == blob


@pytest.mark.parametrize("state", [None, "CHANNELD_AWAITING_LOCKIN", "CLOSED"])
async def test_a_peer_without_an_open_channel_is_not_served_and_not_scolded(
    world: World, state: str | None
) -> None:
    """checklist 7: a channel that was never funded buys no storage either."""
    if state is not None:
        world.channels.states[PEER] = state
    await world.up()
    await world.stores(b"mine")
    assert (world.kept(), world.peers.dropped) == (None, [])
    for _ in range(50):
        await world.stores(b"again and again")
    assert world.channels.asked == 1, "a stranger that goes on is not even looked up"


async def test_a_stranger_that_opens_a_channel_is_served_after_the_pause(world: World) -> None:
    await world.up()
    await world.stores(b"too soon")
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.later(STORE_SECONDS)
    await world.stores(b"now")
    assert world.kept() == b"now"


async def test_the_last_blob_replaces_the_one_before_once_a_minute(world: World) -> None:
    """checklist 7: rate limited, and the last one is the one that stays."""
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.up()
    before = world.database.writer.commits
    await world.stores(*(bytes((n,)) for n in range(100)))
    assert world.kept() == b"\x00"
    await world.later(STORE_SECONDS - 1)
    assert world.kept() == b"\x00"
    await world.later(1)
    assert world.kept() == b"\x63"
    assert world.database.writer.commits - before < 10


async def test_a_reconnection_does_not_lift_the_limit(world: World) -> None:
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    for n in range(5):
        await world.up()
        await world.stores(bytes((n,)))
        await world.down()
    assert world.kept() == b"\x00"
    await world.later(STORE_SECONDS)
    assert world.kept() == b"\x04", "what came last is stored even when the peer is gone"


async def test_one_peer_does_not_wait_for_another(world: World) -> None:
    world.channels.states.update({PEER: "CHANNELD_NORMAL", OTHER: "CHANNELD_SHUTTING_DOWN"})
    await world.up()
    await world.stores(b"one")
    await world.up(OTHER)
    await world.stores(b"two", peer=OTHER)
    assert (world.kept(PEER), world.kept(OTHER)) == (b"one", b"two")


async def test_what_cannot_be_judged_now_is_judged_later(world: World) -> None:
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    world.channels.away = True
    await world.up()
    await world.stores(b"first")
    assert world.kept() is None
    world.channels.away = False
    await world.later(STORE_SECONDS)
    assert world.kept() == b"first"


async def test_what_is_just_being_stored_when_the_node_stops_is_stored(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the peer has a channel is being asked, and the answer comes too late."""
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.up()
    await world.stores(b"first")
    world.now += STORE_SECONDS
    asked = asyncio.Event()

    async def ask(_request: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(world.service, "_with_channels", ask)
    await world.later(0)
    await world.stores(b"second")
    assert asked.is_set() and world.kept() == b"first"
    await world.service.stop()
    await world.settle()
    assert world.kept() == b"second"


async def test_what_waits_is_stored_when_the_node_stops(world: World) -> None:
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.up()
    await world.stores(b"first", b"second")
    await world.service.stop()
    await world.settle()
    assert world.kept() == b"second"


async def test_a_frame_of_an_older_connection_is_dropped(world: World) -> None:
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.up()
    await world.up()
    await world.says(encode(bolt1.PeerStorage(b"old")), connection=1)
    assert world.kept() is None


async def test_a_malformed_message_ends_the_connection(world: World) -> None:
    """checklist 3, 7"""
    await world.up()
    await world.says(b"\x00\x07\xff\xff\x00")
    assert "malformed" in world.peers.dropped[0]


async def test_a_blob_outlives_the_last_channel_by_2016_blocks(world: World) -> None:
    """checklist 7"""
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.up()
    await world.stores(b"mine")
    await world.tip(500)
    world.channels.states[PEER] = "CLOSED"
    await world.tip(1000)
    await world.tip(1000 + KEEP_BLOCKS - 1)
    assert world.kept() == b"mine"
    await world.tip(1000 + KEEP_BLOCKS)
    assert world.kept() is None


async def test_a_new_channel_ends_the_count(world: World) -> None:
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.up()
    await world.stores(b"mine")
    world.channels.states[PEER] = "CLOSED"
    await world.tip(1000)
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.tip(1500)
    world.channels.states[PEER] = "CLOSED"
    await world.tip(2900)
    await world.tip(1000 + KEEP_BLOCKS)
    assert world.kept() == b"mine"
    await world.tip(2900 + KEEP_BLOCKS)
    assert world.kept() is None


async def test_nobody_loses_a_blob_because_the_channels_could_not_say(world: World) -> None:
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.up()
    await world.stores(b"mine")
    world.channels.away = True
    await world.tip(1000)
    await world.tip(1000 + KEEP_BLOCKS)
    world.channels.away = False
    await world.tip(1001 + KEEP_BLOCKS)
    assert world.kept() == b"mine"


# What others keep of ours.


async def test_our_blob_goes_to_every_provider_with_a_channel_and_again_when_it_changes(world: World) -> None:
    """checklist 7"""
    world.channels.states.update({PEER: "CHANNELD_NORMAL", OTHER: "CHANNELD_NORMAL"})
    await world.up(PEER)
    await world.up(OTHER, FeatureSet.of(44))
    await world.put(b"one")
    assert world.peers.given == [(PEER, b"one")]
    await world.put(b"one")
    assert len(world.peers.given) == 1, "it has this one already"
    await world.put(b"two")
    assert world.peers.given[1:] == [(PEER, b"two")]


async def test_our_blob_goes_out_again_on_each_connection(world: World) -> None:
    """checklist 7"""
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.put(b"one")
    await world.up()
    await world.down()
    await world.up()
    assert world.peers.given == [(PEER, b"one")] * 2


async def test_our_blob_waits_for_a_channel(world: World) -> None:
    await world.put(b"one")
    await world.up()
    assert world.peers.given == []
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    changed = channel.ChannelStateChanged(
        bytes(32), "CHANNELD_AWAITING_LOCKIN", "CHANNELD_NORMAL", "", BlockHeight(1)
    )
    world.bus.publish(changed)
    await world.settle()
    assert world.peers.given == [(PEER, b"one")]


async def test_our_blob_is_given_once_the_channels_can_say_to_whom(world: World) -> None:
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    world.channels.away = True
    await world.up()
    await world.put(b"one")
    assert world.peers.given == []
    world.channels.away = False
    await world.later(5)
    assert world.peers.given == [(PEER, b"one")]


@pytest.mark.parametrize(("size", "goes"), [(0, False), (1, True), (65531, True), (65532, False)])
async def test_our_blob_is_never_larger_than_a_message(world: World, size: int, goes: bool) -> None:
    """checklist 7"""
    world.channels.states[PEER] = "CHANNELD_NORMAL"
    await world.up()
    await world.put(bytes(size))
    assert bool(world.peers.given) is goes


async def test_our_blob_comes_back_from_anybody_and_not_without_end(world: World) -> None:
    """After a loss of everything we have no channel with the peer that has our blob; nor do we believe it."""
    await world.up(features=FeatureSet())
    for n in range(3 * MOST_RETRIEVALS):
        await world.says(encode(bolt1.PeerStorageRetrieval(bytes((n,)))))
    assert world.listener.back == [
        messages.OurBlobCameBack(PEER, bytes((n,))) for n in range(MOST_RETRIEVALS)
    ]


async def test_an_empty_blob_is_no_blob_of_ours(world: World) -> None:
    await world.up()
    await world.says(encode(bolt1.PeerStorageRetrieval(b"")))
    assert world.listener.back == []


def test_what_counts_as_open_is_said_in_the_words_of_the_channels() -> None:
    from node.channel.state import AwaitingLockIn, Closed, CloseKind
    from node.channel.turn import cln_state

    states: Callable[..., str] = cln_state
    never = {states(AwaitingLockIn(), opener=False), states(Closed(CloseKind.MUTUAL, b""), opener=False)}
    assert never == set(storage._NOT_OPEN)
