"""The gossip service: the public graph as peers tell it, our own part in it, and what others hear of both (BOLT 7)."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import structlog
from msgspec import Struct

from node.routing.gossip import judge
from node.routing.gossip.announcer import Announcer
from node.routing.gossip.book import Book
from node.routing.gossip.conversations import Conversations
from node.routing.gossip.intake import ChainUnavailable, Intake
from node.routing.gossip.outputs import Outputs
from node.routing.gossip.presence import NodeFace, Presence, Signer
from node.routing.gossip.rates import GossipLimits
from node.routing.gossip.relay import FLUSH_SECONDS, Relay
from node.routing.gossip.store import GossipStore
from node.routing.gossip.verify import Verifier
from node.routing.sink import GraphSink
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import chain, channel, peer, routing
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused

log = structlog.get_logger()
CHAIN_SECONDS = 60.0
SEARCH_SECONDS = 900.0
"""Two weeks of blocks may have to be read again after the node was off."""
MINUTE = 60.0
HOUR = 3600.0


class GossipSettings(Struct, frozen=True):
    """`leaf`: nothing of others is passed on, and questions about them get an empty answer."""

    face: NodeFace
    leaf: bool = False


class GossipService(Service):
    name: ClassVar[str] = "gossip"

    def __init__(
        self,
        bus: Bus,
        *,
        node_id: bytes,
        chain_hash: bytes,
        signer: Signer,
        path: Path | None,
        sink: GraphSink,
        settings: GossipSettings,
        limits: GossipLimits = GossipLimits(),  # noqa: B008  frozen
        steady: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        tick_seconds: float = 1.0,
    ) -> None:
        """`path`: the file of the store, None for memory. `tick_seconds` 0: somebody else calls `tick`."""
        super().__init__(bus)
        self._node_id = node_id
        self._limits = limits
        self._steady = steady
        self._wall = wall
        self._tick_seconds = tick_seconds
        self._sink = sink
        self.book = Book()
        self.store = GossipStore(path, chain_hash)
        self._verifier = Verifier()
        self.intake = Intake(
            chain_hash=chain_hash,
            book=self.book,
            store=self.store,
            sink=sink,
            verifier=self._verifier,
            output_of=self._output_of,
            taken=self,
            wall=wall,
            limits=limits,
        )
        self.relay = Relay(leaf=settings.leaf, most=limits.staged)
        self.talk = Conversations(
            bus,
            run=self.run,
            chain_hash=chain_hash,
            leaf=settings.leaf,
            book=self.book,
            store=self.store,
            intake=self.intake,
            relay=self.relay,
            limits=limits,
            steady=steady,
            wall=wall,
        )
        self._presence = Presence(
            node_id=node_id,
            face=settings.face,
            signer=signer,
            store=self.store,
            intake=self.intake,
            steady=steady,
            wall=wall,
        )
        self.own = Announcer(
            bus,
            node_id=node_id,
            chain_hash=chain_hash,
            presence=self._presence,
            signer=signer,
            book=self.book,
            store=self.store,
            intake=self.intake,
            connection_of=self.talk.connection_of,
            steady=steady,
            wall=wall,
        )
        self._own_news = asyncio.Event()
        self.talk.speak_for(self.own, self._own_news.set)
        self._outputs = Outputs(
            self.book,
            self.intake,
            self.relay,
            self.store,
            output_of=self._output_of,
            watch=self._watch_spends,
            unwatch=lambda message: bus.send("chain", message),
        )
        self._touched: set[bytes] = set()
        self._all_touched = False
        """Nobody could tell us of our channels yet."""
        self._flushed = self._minute = self._hour = steady()

    async def start(self) -> None:
        await super().start()
        self.run(self._begin())
        if self._tick_seconds:
            self.run(self._ticking())

    async def stop(self) -> None:
        await super().stop()
        self._verifier.close()
        await self.store.close()

    async def _begin(self) -> None:
        """The graph loads in the background, then we speak of our own channels whenever there is news."""
        began = time.process_time()
        self._sink.begin_bulk()
        try:
            for _ in self.store.load(self.book, self._sink):
                await asyncio.sleep(0)
        finally:
            self._sink.end_bulk()
        cpu_ms = round(1000 * (time.process_time() - began))
        log.info("graph_loaded", channels=len(self.book), cpu_ms=cpu_ms)
        with contextlib.suppress(CommandRefused, OutcomeUnknown):
            tip = await self.bus.request("chain", chain.GetTip(), deadline=600)
            self.intake.tip = max(self.intake.tip, tip.height)
        self._outputs.begin()
        self.talk.loaded.set()
        await self._ask_roads()
        await self._own_channels(None)
        while True:
            await self.own.work()
            await self._own_news.wait()
            self._own_news.clear()

    # Peers.

    @hears(peer.PeerUp)
    def peer_up(self, event: peer.PeerUp) -> None:
        self.talk.up(event)

    @hears(peer.PeerDown)
    def peer_down(self, event: peer.PeerDown) -> None:
        self.talk.down(event)

    @hears(peer.GossipFromPeer)
    def gossip_from_peer(self, event: peer.GossipFromPeer) -> None:
        self.talk.put(event)

    # What the intake tells.

    def channel_taken(self, scid: int, frame: bytes, source: bytes) -> None:
        self._outputs.added(scid)
        if source == self._node_id:
            self.talk.to_all(frame)
        else:
            self.relay.channel(scid, frame, source)
        self.own.announced(scid)

    def update_taken(self, scid: int, direction: int, timestamp: int, frame: bytes, source: bytes) -> None:
        if source == self._node_id:
            self.talk.to_all(frame)
        else:
            self.relay.update(scid, direction, timestamp, frame, source)

    def node_taken(self, node_id: bytes, timestamp: int, frame: bytes, source: bytes) -> None:
        if source == self._node_id:
            self.talk.to_all(frame)
        else:
            self.relay.node(node_id, timestamp, frame, source)

    def is_ours(self, scid: int) -> bool:
        return self.own.is_ours(scid)

    def channel_gone(self, scid: int) -> None:
        self._outputs.gone(scid)
        self.relay.forget(scid)

    def channel_missing(self, scid: int, source: bytes) -> None:
        self.talk.missing(scid, source)

    def perhaps_spent(self, scid: int) -> None:
        self._outputs.suspect(scid)

    def own_update(self, scid: int, frame: bytes, source: bytes) -> bool:
        return self.own.peer_update(scid, frame, source)

    # Time and blocks.

    async def _ticking(self) -> None:
        while True:
            await asyncio.sleep(self._tick_seconds)
            await self.tick()

    async def tick(self) -> None:
        now = self._steady()
        if not self.talk.loaded.is_set():
            return
        if self._all_touched:
            await self._own_channels(None)
        elif self._touched:
            touched, self._touched = self._touched, set()
            await self._own_channels(tuple(touched))
        if self._outputs.has_news:
            self.run(self._outputs.tell())
        self.talk.sync_turn(now)
        if now - self._flushed >= FLUSH_SECONDS:
            self._flushed = now
            self.talk.flush_relay()
        if now - self._minute >= MINUTE:
            self._minute = now
            await self._ask_roads()
            await self._ask_policies()
            self.own.tick()
            self._own_news.set()
        if now - self._hour >= HOUR:
            self._hour = now
            self.prune()
        await self.store.flush()

    def prune(self) -> None:
        """Channels of which one side was silent for two weeks; our own stay."""
        before = int(self._wall()) - judge.STALE_SECONDS
        stale = [scid for scid in self.book.stale(before) if not self.own.is_ours(scid)]
        for scid in stale:
            self.intake.drop_channel(scid)
        if stale:
            log.info("gossip_pruned", channels=len(stale), left=len(self.book))

    @hears(chain.TipChanged)
    def tip_changed(self, event: chain.TipChanged) -> None:
        self.intake.tip = event.height
        if self.talk.loaded.is_set():
            self._outputs.forget_old(event.height)
            self.run(self._new_block(event.height))

    async def _new_block(self, height: int) -> None:
        for frame, source in self.intake.grown_up():
            await self.intake.take([frame], source)
        waiting = tuple(one.info.channel_id for one in self.own.channels.values() if one.info.announce)
        if waiting:
            await self._own_channels(waiting)  # they may be deep enough now
        await self._outputs.look(height)

    @hears(chain.OutpointsSpent)
    def outpoints_spent(self, event: chain.OutpointsSpent) -> None:
        self._outputs.spent(event.height, event.outpoints)

    @hears(chain.OutpointsUnspent)
    def outpoints_unspent(self, event: chain.OutpointsUnspent) -> None:
        self._outputs.unspent(event.height, event.outpoints)

    async def _watch_spends(self, request: chain.WatchSpends) -> chain.SpendsWatched:
        try:
            found: chain.SpendsWatched = await self.bus.request("chain", request, deadline=SEARCH_SECONDS)
        except (CommandRefused, OutcomeUnknown) as error:
            raise ChainUnavailable(str(error)) from error
        return found

    async def _output_of(self, scid: int) -> chain.OutputAt | None:
        question = chain.GetOutputAt(judge.height_of(scid), scid >> 16 & 0xFFFFFF, scid & 0xFFFF)
        try:
            found: chain.OutputAt | None = await self.bus.request("chain", question, deadline=CHAIN_SECONDS)
        except (CommandRefused, OutcomeUnknown) as error:
            raise ChainUnavailable(str(error)) from error
        return found

    # Our node and our channels.

    async def _ask_roads(self) -> None:
        """By which addresses others reach us now."""
        with contextlib.suppress(CommandRefused, OutcomeUnknown):
            found: peer.Roads = await self.bus.request("peer", peer.ListRoads())
            self._presence.heard(found.roads)

    async def _own_channels(self, channel_ids: tuple[bytes, ...] | None) -> None:
        try:
            known = await self.bus.request("channel", channel.ListChannels(channel_ids=channel_ids))
        except (CommandRefused, OutcomeUnknown) as error:
            log.info("own_channels_not_known", reason=str(error))
            self._touched.update(channel_ids or ())  # with the next tick: nobody tells us of them again
            self._all_touched |= channel_ids is None
            return
        self.own.seen(known.channels)
        listed = {info.channel_id for info in known.channels}
        self.own.gone([one for one in channel_ids or () if one not in listed])
        if channel_ids is None:
            self._all_touched = False
            self.talk.introduce()
        await self._ask_policies()
        self._own_news.set()

    async def _ask_policies(self) -> None:
        if self.own.lacks_policy():
            # Of a channel that is new; a change is told by itself.
            with contextlib.suppress(CommandRefused, OutcomeUnknown):
                policies = await self.bus.request("payments", routing.ListPolicies())
                for channel_id, policy in policies.policies:
                    self.own.set_policy(channel_id, policy)

    @hears(channel.ChannelsTouched)
    def channels_touched(self, event: channel.ChannelsTouched) -> None:
        self._touched.update(event.channel_ids)

    @hears(SignerLink)
    def signer_link(self, event: SignerLink) -> None:
        if event.up:
            self.own.tick()
            self._own_news.set()

    @hears(routing.PolicyChanged)
    def policy_changed(self, event: routing.PolicyChanged) -> None:
        self.own.set_policy(event.channel_id, event.policy)
        self._own_news.set()

    @handles(routing.OwnUpdate)
    async def own_update_asked(self, request: routing.OwnUpdate) -> routing.OwnUpdateIs:
        return routing.OwnUpdateIs(await self.own.own_update(request.channel_id, request.named))

    @handles(routing.PeerPolicy)
    def peer_policy(self, request: routing.PeerPolicy) -> routing.PeerPolicyIs:
        return routing.PeerPolicyIs(self.own.peer_policy(request.channel_id))
