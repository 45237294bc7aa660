"""What we say to each peer about gossip and what it says to us (BOLT 7, "Query Messages").

Each peer has a queue and two tasks, one that works through what came and one that sends at the peer's pace. Both
give way after every small piece, so whatever gossip does, messages of channels stand no more than one piece behind.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from node.routing.gossip import judge, sync
from node.routing.gossip.announcer import Announcer
from node.routing.gossip.answers import Answers
from node.routing.gossip.book import Book
from node.routing.gossip.intake import Intake
from node.routing.gossip.peers import GOSSIP, GossipPeer
from node.routing.gossip.rates import GossipLimits
from node.routing.gossip.relay import Filter, Relay
from node.routing.gossip.store import GossipStore
from node.routing.gossip.syncers import OVERLAP_SECONDS, Syncers
from protocol.bolt7 import queries
from protocol.bolt9 import FeatureSet
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import peer as peers
from protocol.errors import CommandRefused, MalformedMessage, PeerViolation
from protocol.wire import bolt7_gossip as wire
from protocol.wire.bolt1 import ALL_CHANNELS, Warning
from protocol.wire.message import Message, decode, encode

log = structlog.get_logger()
SEND_SECONDS = 600.0
NO_FILTER = (0xFFFFFFFF, 0)
"""`first_timestamp` and range of a filter that lets nothing through."""

RANGE_COST = 5
"""Of a range question, beside one for channels."""

Run = Callable[[Coroutine[Any, Any, Any]], asyncio.Task[None]]


class Conversations:
    """`loaded` is set once the graph is there; nothing that came is worked on before."""

    def __init__(
        self,
        bus: Bus,
        *,
        run: Run,
        chain_hash: bytes,
        leaf: bool,
        book: Book,
        store: GossipStore,
        intake: Intake,
        relay: Relay,
        limits: GossipLimits,
        steady: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._run = run
        self._chain_hash = chain_hash
        self._leaf = leaf
        self._book = book
        self._store = store
        self._intake = intake
        self._relay = relay
        self._limits = limits
        self._steady = steady
        self._wall = wall
        self._answers = Answers(chain_hash, book, store)
        self._syncers = Syncers(random.random)
        self.peers: dict[bytes, GossipPeer] = {}
        self._tasks_of: dict[bytes, list[asyncio.Task[None]]] = {}
        self.loaded = asyncio.Event()

    def speak_for(self, own: Announcer, news: Callable[[], None]) -> None:
        """`news`: something came that concerns our own channels."""
        self._own, self._news = own, news

    def up(self, event: peers.PeerUp) -> None:
        self.drop(event.node_id)
        features = FeatureSet.from_bytes(event.features)
        machine = None
        if features.has("gossip_queries"):
            machine = sync.PeerSync(self._chain_hash, extended=features.has("gossip_queries_ex"))
        one = GossipPeer(
            event.node_id, event.connection, sync=machine, limits=self._limits, now=self._steady()
        )
        self.peers[event.node_id] = one
        one.send(self._own.public_frames())
        self._tasks_of[event.node_id] = [self._run(self._work(one)), self._run(self._send(one))]

    def introduce(self) -> None:
        """Our own channels are known now: who came before that was told of none."""
        for one in self.peers.values():
            one.send(self._own.public_frames())

    def down(self, event: peers.PeerDown) -> None:
        if self.connection_of(event.node_id) == event.connection:
            self.drop(event.node_id)

    def drop(self, node_id: bytes) -> None:
        self.peers.pop(node_id, None)
        for task in self._tasks_of.pop(node_id, []):
            task.cancel()

    def put(self, event: peers.GossipFromPeer) -> None:
        one = self.peers.get(event.node_id)
        if one is not None and one.connection == event.connection:
            one.put(event.frames, self._steady())

    def connection_of(self, node_id: bytes) -> int | None:
        one = self.peers.get(node_id)
        return None if one is None else one.connection

    def to_all(self, frame: bytes) -> None:
        """What is our own goes out as it is made, whatever the filters say."""
        for one in self.peers.values():
            one.send((frame,))

    def flush_relay(self) -> None:
        batch = self._relay.take()
        if len(batch):
            for one in self.peers.values():
                one.send(batch.for_peer(one.node_id, one.filter))

    def missing(self, scid: int, source: bytes) -> None:
        """A peer sent an update whose announcement we lack: it should have that too."""
        one = self.peers.get(source)
        if one is not None and one.sync is not None:
            one.sync.want(scid)

    async def _work(self, one: GossipPeer) -> None:
        await self.loaded.wait()
        while True:
            await one.arrived.wait()
            chunk = one.take(self._limits.chunk)
            if not chunk:
                continue
            one.busy = True
            if _type(chunk[0]) in GOSSIP:
                if one.sync is not None:
                    one.sync.heard(self._steady())
                for fault in await self._intake.take(chunk, one.node_id):
                    self._fault(one, fault)
            else:
                self._control(one, chunk[0])
            self._go_on(one)
            if self._store.full:
                await self._store.flush()
            one.busy = False
            await asyncio.sleep(0)

    async def _send(self, one: GossipPeer) -> None:
        await self.loaded.wait()
        while True:
            piece = one.next_piece()
            if piece is None:
                await one.to_send.wait()
                continue
            if not piece:
                await asyncio.sleep(0)
                continue
            message = peers.SendGossip(one.node_id, one.connection, piece)
            try:
                if not await self._bus.request("peer", message, deadline=SEND_SECONDS):
                    return
            except (CommandRefused, OutcomeUnknown) as error:
                log.info("gossip_not_sent", node_id=one.node_id.hex(), reason=str(error))
                return

    def _tell(self, one: GossipPeer, message: Message) -> None:
        """A question or a word of ours: small, and in the order of everything else."""
        self._bus.send("peer", peers.ToPeer(one.node_id, one.connection, (encode(message),)))

    def _fault(self, one: GossipPeer, sentence: str) -> None:
        """The first is answered with a warning; after many the peer's gossip is not heard any more.

        The connection stays: with a channel in it, gossip is no reason to lose it.
        """
        one.bad += 1
        if one.bad == 1:
            log.info("peer_broke_gossip", node_id=one.node_id.hex(), reason=sentence)
            self._tell(one, Warning(ALL_CHANNELS, sentence.encode("ascii", "replace")[:400]))
        if one.bad >= self._limits.bad_messages and not one.muted:
            log.warning("peer_muted", node_id=one.node_id.hex(), bad_messages=one.bad)
            one.muted = True
            one.active = False
            self._tell(one, wire.GossipTimestampFilter(self._chain_hash, *NO_FILTER))

    # Questions and answers.

    def _control(self, one: GossipPeer, frame: bytes) -> None:
        if _type(frame) == wire.AnnouncementSignatures.TYPE:
            try:
                self._own.signatures_came(frame, one.node_id, one.connection)
            except MalformedMessage as error:
                self._fault(one, str(error))
            self._news()
            return
        try:
            self._answer(one, decode(frame))
        except MalformedMessage as error:
            self._fault(one, str(error))
        except PeerViolation as error:
            self._fault(one, error.sentence)

    def _answer(self, one: GossipPeer, message: object) -> None:
        now = self._steady()
        match message:
            case wire.ReplyChannelRange():
                if one.sync is not None and one.sync.range_reply(message, self._lacking, now):
                    self._range_done(one)
            case wire.ReplyShortChannelIdsEnd():
                if one.sync is not None:
                    one.sync.ids_end(message)
            case wire.QueryShortChannelIds() | wire.QueryChannelRange() if self._leaf:
                one.send((encode(wire.empty_answer(message)),))
            case wire.QueryShortChannelIds():
                if self._may_ask(one, 1, now):
                    self._put_answer(one, one.answer(self._answers.ids(message)))
            case wire.QueryChannelRange():
                if self._may_ask(one, RANGE_COST, now):
                    self._put_answer(one, one.answer(self._answers.range(message)))
            case wire.GossipTimestampFilter():
                self._on_filter(one, message, now)
            case _:
                pass  # 260 is of a draft

    def _may_ask(self, one: GossipPeer, cost: int, now: float) -> bool:
        if one.questions.spend(cost, now):
            return True
        self._fault(one, "too many gossip queries in a short time")
        return False

    def _put_answer(self, one: GossipPeer, accepted: bool) -> None:
        if not accepted:
            self._fault(one, "a query came before the one before was answered")

    def _on_filter(self, one: GossipPeer, message: wire.GossipTimestampFilter, now: float) -> None:
        if message.chain_hash != self._chain_hash:
            return
        one.filter = Filter.of(message)
        one.set_backlog(None)
        past = one.filter.first < self._wall() and one.filter.end > 0
        if past and not self._leaf and one.backlogs.spend(1, now):
            one.set_backlog(self._answers.backlog(one.filter))

    def _lacking(
        self,
        scid: int,
        timestamps: wire.ChannelUpdateTimestamps | None,
        checksums: wire.ChannelUpdateChecksums | None,
    ) -> int:
        known = None
        if scid in self._book:
            known = (self._book.timestamp(scid, 0), self._book.timestamp(scid, 1))
        elif not self._intake.wants(scid) or self._own.is_ours(scid):
            return 0
        wall = self._wall()
        return sync.lacking(
            known,
            timestamps,
            lambda direction, checksum: self._answers.checksum(scid, direction) != checksum,
            checksums,
            stale_before=wall - judge.STALE_SECONDS,
            aging_before=wall - judge.STALE_SECONDS / 2,
        )

    # Our questions.

    def _go_on(self, one: GossipPeer) -> None:
        """The next piece is asked for when the last one was worked through, so answers never pile up."""
        if one.sync is None or one.waiting or one.muted:
            return
        now = self._steady()
        query = one.sync.ask_ids(self._intake.wants, now)
        if query is not None:
            one.expect(len(query.encoded_short_ids), now)
            self._tell(one, query)

    def _range_done(self, one: GossipPeer) -> None:
        machine = one.sync
        count = 0 if machine is None else len(machine.wanted)
        log.info("gossip_range_known", node_id=one.node_id.hex(), lacking=count)
        self._syncers.finished(one.asked_from, self._steady())
        self._answers.full = True

    def sync_turn(self, now: float) -> None:
        for one in self.peers.values():
            if one.sync is not None and (reason := one.sync.late(now)) is not None:
                log.info("gossip_query_late", node_id=one.node_id.hex(), reason=reason)
                one.active = False
                self._tell(one, wire.GossipTimestampFilter(self._chain_hash, *NO_FILTER))
            self._go_on(one)
        for change in self._syncers.changes(self.peers.values(), now):
            one, machine = change.peer, change.peer.sync
            one.active = change.listen
            if machine is None:
                continue
            if not change.listen:
                self._tell(one, wire.GossipTimestampFilter(self._chain_hash, *NO_FILTER))
                continue
            one.active_since = now
            first = max(0, int(self._wall()) - OVERLAP_SECONDS)
            self._tell(one, wire.GossipTimestampFilter(self._chain_hash, first, queries.LAST_BLOCK - first))
            if isinstance(machine.open, sync.Quiet):
                one.asked_from = self._syncers.first_block(self._intake.tip, now)
                blocks = queries.LAST_BLOCK - one.asked_from
                self._tell(one, machine.ask_range(one.asked_from, blocks, now))


def _type(frame: bytes) -> int:
    return frame[0] << 8 | frame[1]
