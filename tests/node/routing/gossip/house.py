"""Gossip services on buses of their own, joined by hand; chain, channels, payments and signer are stand-ins."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from node.routing.gossip.announcer import NodeFace
from node.routing.gossip.rates import GossipLimits
from node.routing.gossip.service import GossipService, GossipSettings
from node.signer_link.client import SignerAway
from protocol import curve
from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat
from protocol.bolt7 import announcement as bolt7
from protocol.bolt9 import FeatureSet
from protocol.bus.local import LocalBus
from protocol.bus.messages import chain, routing
from protocol.bus.messages import channel as channels
from protocol.bus.messages import peer as peers
from protocol.bus.messages import signer as contract
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused
from protocol.wire import decode
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.synth import CHAIN, Public, node_id, secret

TIP = 1_000
FEATURES = FeatureSet.of(7, 11).to_bytes()


@dataclass
class Clock:
    """One for all houses of a test; the wall and the steady clock go together."""

    steady: float = 1_000.0
    wall: float = float(synth.NOW)

    def forward(self, seconds: float) -> None:
        self.steady += seconds
        self.wall += seconds


@dataclass
class Graph:
    """What the graph was told."""

    channels: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    policies: dict[tuple[int, int], tuple[Any, ...]] = field(default_factory=dict)
    nodes: dict[bytes, tuple[Any, ...]] = field(default_factory=dict)
    bulk: list[str] = field(default_factory=list)

    def put_channel(self, scid: int, *rest: Any) -> None:
        self.channels[scid] = rest

    def put_policy(self, scid: int, direction: int, *rest: Any) -> None:
        assert scid in self.channels, "a channel before its policies"
        self.policies[(scid, direction)] = rest

    def put_node(self, node_id: bytes, *rest: Any) -> None:
        self.nodes[node_id] = rest

    def drop_channel(self, scid: int) -> None:
        del self.channels[scid]
        for direction in (0, 1):
            self.policies.pop((scid, direction), None)

    def begin_bulk(self) -> None:
        self.bulk.append("begin")

    def end_bulk(self) -> None:
        self.bulk.append("end")


def parts(joined: bytes) -> list[bytes]:
    assert len(joined) % 36 == 0
    return [joined[at : at + 36] for at in range(0, len(joined), 36)]


class Chain(Service):
    name = "chain"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.outputs: dict[int, chain.OutputAt] = {}
        self.asked: list[int] = []
        self.open = 0
        self.most_open = 0
        self.away = False
        self.hold: asyncio.Event | None = None
        self.able = False
        """Whether it has whole blocks, and so tells of spends."""
        self.complete = True
        self.watched: set[bytes] = set()
        self.since: list[int] = []

    @handles(chain.WatchSpends)
    def watch_spends(self, request: chain.WatchSpends) -> chain.SpendsWatched:
        if self.away:
            raise CommandRefused("the backend is away", what_to_do="Wait.")
        self.since.append(request.since)
        if self.able:
            self.watched.update(parts(request.outpoints))
        return chain.SpendsWatched(BlockHeight(TIP), self.able, self.complete)

    @hears(chain.UnwatchSpends)
    def unwatch_spends(self, message: chain.UnwatchSpends) -> None:
        self.watched.difference_update(parts(message.outpoints))

    @handles(chain.GetTip)
    def tip(self, _request: chain.GetTip) -> chain.Tip:
        return chain.Tip(BlockHeight(TIP), bytes(32), True)

    @handles(chain.GetOutputAt)
    async def output_at(self, request: chain.GetOutputAt) -> chain.OutputAt | None:
        place = request.height << 40 | request.tx_index << 16 | request.output_index
        self.asked.append(place)
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        try:
            await asyncio.sleep(0)
            if self.hold is not None:
                await self.hold.wait()
            if self.away:
                raise CommandRefused("the backend is away", what_to_do="Wait.")
            return self.outputs.get(place)
        finally:
            self.open -= 1

    def confirm(self, *public: Public) -> None:
        for one in public:
            self.outputs[one.place] = one.output

    def spend(self, one: Public) -> None:
        self.outputs[one.place] = replace(one.output, unspent=False)


class Channels(Service):
    name = "channel"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.infos: dict[bytes, channels.ChannelInfo] = {}

    @handles(channels.ListChannels)
    def list_channels(self, request: channels.ListChannels) -> channels.Channels:
        wanted = self.infos if request.channel_ids is None else request.channel_ids
        return channels.Channels(tuple(self.infos[one] for one in wanted if one in self.infos))


class Payments(Service):
    name = "payments"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.policies: dict[bytes, routing.ChannelPolicy] = {}

    @handles(routing.ListPolicies)
    def list_policies(self, _request: routing.ListPolicies) -> routing.Policies:
        return routing.Policies(tuple(self.policies.items()))


class Signer:
    """Signs with the key of a node of `synth`, without the rules of the real one (tests/signer has those)."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: list[contract.Request] = []
        self.away = False
        self.instead: contract.Reply | None = None
        self.peer_of: dict[bytes, int] = {}

    async def call(self, request: contract.Request) -> contract.Reply:
        await asyncio.sleep(0)
        if self.away:
            raise SignerAway("it is away")
        self.asked.append(request)
        if self.instead is not None:
            return self.instead
        key = secret(self.number)
        match request:
            case contract.SignChannelAnnouncement():
                peer = next(n for n in range(100) if node_id(n) == request.counterparty_node_id)
                both = synth.end_signatures(request.short_channel_id, self.number, peer)
                return contract.ChannelAnnouncementSigned(both.node_signature, both.bitcoin_signature)
            case contract.SignChannelUpdate():
                names = bolt7.UpdateFields.__struct_fields__
                fields = bolt7.UpdateFields(**{name: getattr(request, name) for name in names})
                peer = self.peer_of[request.channel]
                direction = bolt7.direction_of(node_id(self.number), node_id(peer))
                digest = bolt7.digest_of_signed(bolt7.channel_update(fields, CHAIN, direction))
                return contract.ChannelUpdateSigned(curve.sign_ecdsa(key, digest))
            case contract.SignNodeAnnouncement():
                names = bolt7.NodeFields.__struct_fields__
                node = bolt7.NodeFields(**{name: getattr(request, name) for name in names})
                digest = bolt7.digest_of_signed(bolt7.node_announcement(node, node_id(self.number)))
                return contract.NodeAnnouncementSigned(curve.sign_ecdsa(key, digest))
            case _:
                raise AssertionError(f"the gossip service asked for {type(request).__name__}")


class Peers(Service):
    """Carries messages to the houses that are joined, and keeps what goes to others."""

    name = "peer"

    def __init__(self, bus: LocalBus, house: "House") -> None:
        super().__init__(bus)
        self.house = house
        self.others: dict[bytes, House] = {}
        self.sent: list[tuple[bytes, bytes]] = []
        """(node id, frame) of everything, in order."""
        self.slow: asyncio.Event | None = None
        self.lose: Callable[[bytes], bool] = lambda _frame: False
        self.roads: tuple[peers.Road, ...] = ()

    @handles(peers.ListRoads)
    def list_roads(self, _request: peers.ListRoads) -> peers.Roads:
        return peers.Roads(self.roads)

    @hears(peers.ToPeer)
    def to_peer(self, message: peers.ToPeer) -> None:
        self.carry(message.node_id, message.frames)

    @handles(peers.SendGossip)
    async def send_gossip(self, message: peers.SendGossip) -> bool:
        if self.slow is not None:
            await self.slow.wait()
        self.carry(message.node_id, message.frames)
        return True

    def carry(self, to: bytes, frames: tuple[bytes, ...]) -> None:
        self.sent += [(to, frame) for frame in frames]
        other = self.others.get(to)
        arriving = tuple(frame for frame in frames if frame[0] == 1 and not self.lose(frame))
        if other is not None and arriving:
            event = peers.GossipFromPeer(self.house.id, self.house.connections[to], arriving)
            other.bus.send("gossip", event)

    def said_to(self, number: int) -> list[Any]:
        return [decode(frame) for to, frame in self.sent if to == node_id(number)]

    def frames_to(self, number: int) -> list[bytes]:
        return [frame for to, frame in self.sent if to == node_id(number)]


class House:
    def __init__(
        self,
        number: int,
        clock: Clock,
        *,
        path: Path | None = None,
        leaf: bool = False,
        limits: GossipLimits | None = None,
        sink: Any = None,
        addresses: bytes = b"",
        onion_only: bool = False,
    ) -> None:
        self.number = number
        self.id = node_id(number)
        self.clock = clock
        self.bus = LocalBus()
        self.graph = Graph() if sink is None else sink
        self.chain = Chain(self.bus)
        self.channels = Channels(self.bus)
        self.payments = Payments(self.bus)
        self.peers = Peers(self.bus, self)
        self.signer = Signer(number)
        self.connections: dict[bytes, int] = {}
        face = NodeFace(bolt7.padded_alias(f"n{number}"), b"\1\2\3", addresses, b"\x08\xa0\x00", onion_only)
        self.gossip = GossipService(
            self.bus,
            node_id=self.id,
            chain_hash=CHAIN,
            signer=self.signer,
            path=path,
            sink=self.graph,
            settings=GossipSettings(face, leaf=leaf),
            limits=limits or GossipLimits(),
            steady=lambda: clock.steady,
            wall=lambda: clock.wall,
            tick_seconds=0,
        )

    async def start(self) -> "House":
        for service in (self.chain, self.channels, self.payments, self.peers, self.gossip):
            await service.start()
        await self.gossip.talk.loaded.wait()
        await turns()
        return self

    async def stop(self) -> None:
        for service in (self.gossip, self.peers, self.payments, self.channels, self.chain):
            await service.stop()

    def up(self, number: int, connection: int = 1, features: bytes = FEATURES) -> None:
        self.connections[node_id(number)] = connection
        self.bus.publish(peers.PeerUp(node_id(number), connection, features))

    def down(self, number: int, connection: int = 1) -> None:
        self.bus.publish(peers.PeerDown(node_id(number), connection, "test"))

    def hears(self, number: int, *frames: bytes, connection: int = 1) -> None:
        self.bus.send("gossip", peers.GossipFromPeer(node_id(number), connection, frames))

    async def told(self, number: int, *frames: bytes) -> None:
        """A peer says this, and it is worked through."""
        self.hears(number, *frames)
        await turns(3)
        await self.quiet()

    async def quiet(self) -> None:
        """Nothing waits in the queues, and nothing is worked on."""
        await until(lambda: not any(one.waiting or one.busy for one in self.gossip.talk.peers.values()))

    async def tick(self, seconds: float = 0.0) -> None:
        self.clock.forward(seconds)
        await self.gossip.tick()
        await turns()

    async def block(self, height: int) -> None:
        self.bus.publish(chain.TipChanged(BlockHeight(height), bytes(32), 0))
        await turns(30)


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def until(done: Callable[[], object], *, seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not done():  # noqa: ASYNC110  the loop's turns are what is counted here
            await asyncio.sleep(0)
    await turns()


def join(one: House, other: House, connection: int = 1) -> None:
    for a, b in ((one, other), (other, one)):
        a.peers.others[b.id] = b
        a.up(b.number, connection)


def own_info(us: int, peer: int, public: Public, **changes: Any) -> channels.ChannelInfo:
    """A channel of ours as the channel service shows it, ready to be announced."""
    both = synth.ends(public.place, us, peer)
    usual = channels.ChannelInfo(
        channel_id=bytes([us, peer]) * 16,
        peer=node_id(peer),
        peer_connected=True,
        reestablished=True,
        state="CHANNELD_NORMAL",
        opener_is_us=True,
        anchors=True,
        capacity=Sat(public.output.value),
        funding_txid=bytes(32),
        funding_outnum=0,
        short_channel_id=public.place,
        alias_local=None,
        alias_remote=None,
        to_us_msat=Msat(0),
        min_to_us_msat=Msat(0),
        max_to_us_msat=Msat(0),
        spendable_msat=Msat(0),
        receivable_msat=Msat(0),
        our_reserve=Sat(0),
        their_reserve=Sat(0),
        dust_limit=Sat(546),
        our_to_self_delay=144,
        their_to_self_delay=144,
        max_accepted_htlcs=483,
        minimum_htlc_in_msat=Msat(1),
        max_in_flight_msat=Msat(900_000_000),
        feerate_per_kw=FeeratePerKw(1000),
        local_number=0,
        remote_number=0,
        funding_confirmations=6,
        closer=None,
        close_to=b"",
        why="",
        htlcs=(),
        announce=True,
        handle=bytes([us]) * 16,
        local_funding_pubkey=both.local_funding_pubkey,
        remote_funding_pubkey=both.remote_funding_pubkey,
    )
    return replace(usual, **changes)


POLICY = routing.ChannelPolicy(Msat(1000), 10, 40, Msat(1), Msat(800_000_000))
