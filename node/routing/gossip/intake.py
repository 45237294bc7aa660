"""From frames that came to a larger book, store and graph (BOLT 7; checklist 56 to 58).

A chunk goes through in steps: what we have already falls out before it is hashed; announcements are verified, then
looked up in the chain; then come the updates and nodes that may hang on them. What costs (threads, chain) is awaited,
so the loop serves channels in between.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, assert_never

from node.routing.gossip import judge
from node.routing.gossip.book import Book
from node.routing.gossip.conflicts import Conflicts
from node.routing.gossip.judge import Fault, Ignore, Later, Take, TakeNode
from node.routing.gossip.rates import GossipLimits, Rates
from node.routing.gossip.store import GossipStore, put_node
from node.routing.gossip.verify import Group, Verifier
from node.routing.sink import GraphSink
from protocol.bolt7 import announcement as bolt7
from protocol.bolt7 import layout
from protocol.bus.messages.chain import OutputAt
from protocol.errors import MalformedMessage
from protocol.wire.bolt7_gossip import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement
from protocol.wire.message import decode


class ChainUnavailable(Exception):
    """Nobody can say now what an output looks like: the announcement is asked for again later."""


OutputOf = Callable[[int], Awaitable[OutputAt | None]]
"""What a short channel id points at; raises ChainUnavailable."""


class Taken(Protocol):
    """Hears what is new: for relaying, and for whoever lacks an announcement."""

    def channel_taken(self, scid: int, frame: bytes, source: bytes) -> None: ...

    def update_taken(
        self, scid: int, direction: int, timestamp: int, frame: bytes, source: bytes
    ) -> None: ...

    def node_taken(self, node_id: bytes, timestamp: int, frame: bytes, source: bytes) -> None: ...

    def is_ours(self, scid: int) -> bool: ...

    def channel_gone(self, scid: int) -> None:
        """The book still has it."""

    def channel_missing(self, scid: int, source: bytes) -> None:
        """An update came whose announcement we never saw."""

    def perhaps_spent(self, scid: int) -> None:
        """A side disabled the channel: it is worth a look into the chain."""

    def own_update(self, scid: int, frame: bytes, source: bytes) -> bool:
        """True when `scid` is a channel of ours by one of its names: then it was dealt with."""


@dataclass(slots=True)
class Counts:
    """Since the start, for people and for tests."""

    frames: int = 0
    duplicates: int = 0
    ignored: int = 0
    rate_limited: int = 0
    channels: int = 0
    updates: int = 0
    nodes: int = 0
    faults: int = 0


@dataclass(slots=True)
class _Chunk:
    source: bytes
    announcements: list[tuple[ChannelAnnouncement, bytes]] = field(default_factory=list)
    updates: list[bytes] = field(default_factory=list)
    nodes: list[bytes] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    conflicts: list[bytes] = field(default_factory=list)
    pooled: list[bytes] = field(default_factory=list)
    """Those of the updates that came before, from whomever."""


class Intake:
    def __init__(
        self,
        *,
        chain_hash: bytes,
        book: Book,
        store: GossipStore,
        sink: GraphSink,
        verifier: Verifier,
        output_of: OutputOf,
        taken: Taken,
        wall: Callable[[], float],
        limits: GossipLimits,
    ) -> None:
        self._chain_hash = chain_hash
        self._book = book
        self._store = store
        self._sink = sink
        self._verifier = verifier
        self._output_of = output_of
        self._taken = taken
        self._wall = wall
        self._limits = limits
        self._chain_slots = asyncio.Semaphore(limits.chain_questions)
        self._rates = Rates(limits.updates_per_second, limits.update_burst, limits.rated)
        self._checking: set[int] = set()
        self._young: dict[int, tuple[ChannelAnnouncement, bytes, bytes]] = {}
        self._unknown: dict[tuple[int, int], tuple[int, bytes]] = {}
        self._announced: set[int] = set()
        """Channels of which updates may wait in `_unknown`. Who brought one may be gone before they are taken."""
        self._rejected: dict[int, None] = {}
        self._conflicts = Conflicts()
        self.counts = Counts()
        self.tip = 0

    def wants(self, scid: int) -> bool:
        """Whether an announcement of this channel would be looked at."""
        return scid not in self._book and scid not in self._checking and scid not in self._rejected

    async def take(self, frames: Sequence[bytes], source: bytes) -> list[str]:
        """Works through frames of one peer. The sentences are what the peer did wrong."""
        chunk = _Chunk(source)
        self._sort(frames, chunk)
        waiting: set[int] = {message.short_channel_id for message, _ in chunk.announcements}
        try:
            if chunk.announcements:
                await self._take_announcements(chunk)
        finally:
            self._checking -= waiting
            self._announced |= waiting
        for frame in chunk.conflicts:
            try:
                await self._take_conflict(frame, chunk)
            except MalformedMessage as error:
                chunk.faults.append(str(error))
        self._add_pooled(chunk)
        if chunk.updates or chunk.nodes:
            await self._take_signed(chunk)
        self.counts.faults += len(chunk.faults)
        return chunk.faults

    def _sort(self, frames: Sequence[bytes], chunk: _Chunk) -> None:
        """Duplicates fall out here, told by a few fields of the raw frame."""
        counts = self.counts
        counts.frames += len(frames)
        for frame in frames:
            kind = frame[1]
            try:
                if kind == 2:
                    self._sort_update(frame, chunk)
                elif kind == 0:
                    self._sort_announcement(frame, chunk)
                else:
                    timestamp, node_id = layout.node_head(frame)
                    if self._book.has_node(node_id) and timestamp <= self._book.node_timestamp(node_id):
                        counts.duplicates += 1
                    else:
                        chunk.nodes.append(frame)
            except MalformedMessage as error:
                chunk.faults.append(str(error))

    def _sort_announcement(self, frame: bytes, chunk: _Chunk) -> None:
        scid = layout.announced_scid(frame)
        if scid in self._book and layout.announcement_ids(frame)[2:] != self._book.ends(scid):
            chunk.conflicts.append(frame)
            return
        if not self.wants(scid) or scid in self._young:
            self.counts.duplicates += 1
            return
        if len(self._book) >= self._limits.channels:
            self.counts.ignored += 1
            return
        message = decode(frame)
        if not isinstance(message, ChannelAnnouncement):
            return
        if self._conflicts.names_liar(message):
            self.counts.ignored += 1
            self._reject(scid)
            return
        verdict = judge.announcement(message, chain_hash=self._chain_hash, tip=self.tip)
        match verdict:
            case Take():
                self._checking.add(scid)
                chunk.announcements.append((message, frame))
            case Later():
                if len(self._young) < self._limits.young_announcements:
                    self._young[scid] = (message, frame, chunk.source)
            case Ignore():
                self.counts.ignored += 1
            case Fault():
                chunk.faults.append(verdict.sentence)
            case _:
                assert_never(verdict)

    def _sort_update(self, frame: bytes, chunk: _Chunk) -> None:
        head = layout.update_head(frame)
        scid, direction = head.short_channel_id, head.channel_flags & 1
        if scid in self._book:
            if head.timestamp <= self._book.timestamp(scid, direction):
                self.counts.duplicates += 1
                return
        elif self._taken.own_update(scid, frame, chunk.source):
            return
        elif head.message_flags & bolt7.DONT_FORWARD:
            self.counts.ignored += 1
            return
        chunk.updates.append(frame)

    # Announcements: signatures, then the chain.

    async def _take_announcements(self, chunk: _Chunk) -> None:
        groups: list[Group] = [bolt7.checks_of_announcement(*pair) for pair in chunk.announcements]
        good = await self._verifier.all_hold(groups)
        questions = []
        for (message, frame), holds in zip(chunk.announcements, good, strict=True):
            if holds:
                questions.append(self._look_up(message, frame, chunk.source))
            else:
                chunk.faults.append("a channel_announcement with a wrong signature")
        await asyncio.gather(*questions)

    async def _look_up(self, message: ChannelAnnouncement, frame: bytes, source: bytes) -> None:
        scid = message.short_channel_id
        try:
            async with self._chain_slots:
                found = await self._output_of(scid)
        except ChainUnavailable:
            return
        verdict = judge.output(message, found)
        if isinstance(verdict, Take) and found is not None and not self._conflicts.names_liar(message):
            self.add_channel(message, frame, found.value, found.txid, source)
            return
        self.counts.ignored += 1
        self._reject(scid)

    def _reject(self, scid: int) -> None:
        self._rejected[scid] = None
        if len(self._rejected) > self._limits.rejected:
            del self._rejected[next(iter(self._rejected))]

    async def _take_conflict(self, frame: bytes, chunk: _Chunk) -> None:
        """An announcement of a channel that we know between other nodes: who signed both is not believed any more."""
        message = decode(frame)
        kept = None if not isinstance(message, ChannelAnnouncement) else self._kept(message)
        if not isinstance(message, ChannelAnnouncement) or kept is None:
            self.counts.ignored += 1
            return
        (holds,) = await self._verifier.all_hold([bolt7.checks_of_announcement(message, frame)])
        if not holds:
            chunk.faults.append("a channel_announcement with a wrong signature")
            return
        if message.short_channel_id not in self._book:
            return
        self._reject(message.short_channel_id)
        for node_id in self._conflicts.found(kept, message):
            for scid in self._book.channels_of(node_id):
                if not self._taken.is_ours(scid):
                    self.drop_channel(scid)

    def _kept(self, message: ChannelAnnouncement) -> ChannelAnnouncement | None:
        """What we hold of the same output, if the other message speaks of that and is whole."""
        verdict = judge.announcement(message, chain_hash=self._chain_hash, tip=self.tip)
        frame = self._store.channel(message.short_channel_id) if isinstance(verdict, Take) else None
        kept = None if frame is None else decode(frame)
        if not isinstance(kept, ChannelAnnouncement):
            return None
        return kept if judge.funding_script(kept) == judge.funding_script(message) else None

    def add_channel(
        self, message: ChannelAnnouncement, frame: bytes, capacity: int, txid: bytes, source: bytes
    ) -> None:
        """Every check is done."""
        scid = message.short_channel_id
        if scid in self._book:
            return
        seen = int(self._wall())
        one, two = self._book.add(scid, message.node_id_1, message.node_id_2, capacity, seen, txid)
        self._store.put_channel(scid, capacity, seen, txid, frame)
        self._sink.put_channel(scid, one, two, capacity, message.features)
        self.counts.channels += 1
        self._taken.channel_taken(scid, frame, source)

    # Updates and nodes.

    def _add_pooled(self, chunk: _Chunk) -> None:
        """Updates that came before their announcement."""
        announced, self._announced = self._announced, set()
        if not self._unknown:
            return
        for scid in announced:
            if scid in self._book:
                for direction in (0, 1):
                    pooled = self._unknown.pop((scid, direction), None)
                    if pooled is not None:
                        chunk.pooled.append(pooled[1])
        chunk.updates += chunk.pooled

    def pooled(self, scid: int) -> list[bytes]:
        """Updates that came for a channel that was not known."""
        keys = ((scid, 0), (scid, 1))
        return [kept[1] for key in keys if (kept := self._unknown.get(key)) is not None]

    def _pool(self, head: layout.UpdateHead, frame: bytes, source: bytes) -> None:
        key = (head.short_channel_id, head.channel_flags & 1)
        kept = self._unknown.get(key)
        if kept is not None and kept[0] >= head.timestamp:
            return
        if kept is None and len(self._unknown) >= self._limits.unknown_updates:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[key] = (head.timestamp, frame)
        if self.wants(head.short_channel_id):
            self._taken.channel_missing(head.short_channel_id, source)

    async def _take_signed(self, chunk: _Chunk) -> None:
        groups: list[Group] = []
        updates: list[tuple[ChannelUpdate, bytes]] = []
        nodes: list[tuple[NodeAnnouncement, bytes, bool]] = []
        now = self._wall()
        for frame in chunk.updates:
            message = self._judge_update(frame, chunk, now)
            if message is not None:
                ends = self._book.ends(message.short_channel_id)
                groups.append((bolt7.check_of_update(message, frame, ends[message.channel_flags & 1]),))
                updates.append((message, frame))
        for frame in chunk.nodes:
            found = self._judge_node(frame, chunk, now)
            if found is not None:
                groups.append((bolt7.check_of_node(found[0], frame),))
                nodes.append((found[0], frame, found[1]))
        good = await self._verifier.all_hold(groups)
        # Only now is a rate charged: forged messages must not use up what the true ones may.
        for (message, frame), holds in zip(updates, good[: len(updates)], strict=True):
            if holds and self._charge((message.short_channel_id, message.channel_flags & 1), now):
                self.add_update(message, frame, chunk.source)
            elif not holds and frame not in chunk.pooled:  # of those nobody knows any more who sent them
                chunk.faults.append("a channel_update with a wrong signature")
        for (node, frame, relay), holds in zip(nodes, good[len(updates) :], strict=True):
            if holds and self._charge(node.node_id, now):
                self.add_node(node, frame, chunk.source, relay=relay)
            elif not holds:
                chunk.faults.append("a node_announcement with a wrong signature")

    def _charge(self, key: Hashable, now: float) -> bool:
        if self._rates.spend(key, now):
            return True
        self.counts.rate_limited += 1
        return False

    def _judge_update(self, frame: bytes, chunk: _Chunk, now: float) -> ChannelUpdate | None:
        head = layout.update_head(frame)
        scid, direction = head.short_channel_id, head.channel_flags & 1
        if scid not in self._book:
            self._pool(head, frame, chunk.source)
            return None
        message = decode(frame)
        if not isinstance(message, ChannelUpdate):
            return None
        verdict = judge.update(
            message,
            chain_hash=self._chain_hash,
            kept=self._book.timestamp(scid, direction),
            capacity_sat=self._book.capacity(scid),
            spent=scid in self._book.spent,
            now=now,
        )
        if not isinstance(verdict, Take):
            self.counts.ignored += 1
            return None
        if not self._rates.allows((scid, direction), now):
            self.counts.rate_limited += 1
            return None
        return message

    def _judge_node(self, frame: bytes, chunk: _Chunk, now: float) -> tuple[NodeAnnouncement, bool] | None:
        try:
            message = decode(frame)
        except MalformedMessage as error:
            chunk.faults.append(str(error))
            return None
        if not isinstance(message, NodeAnnouncement):
            return None
        known = self._book.has_node(message.node_id)
        kept = self._book.node_timestamp(message.node_id) if known else 0
        verdict = judge.node(message, known=known, kept=kept, now=now)
        match verdict:
            case TakeNode():
                if self._rates.allows(message.node_id, now):
                    return message, verdict.relay
                self.counts.rate_limited += 1
            case Ignore():
                self.counts.ignored += 1
            case Fault():
                chunk.faults.append(verdict.sentence)
            case _:
                assert_never(verdict)
        return None

    def add_update(self, message: ChannelUpdate, frame: bytes, source: bytes) -> None:
        """Its signature is right. Another copy, or a newer one, may have come in while it was verified."""
        scid, direction, timestamp = (
            message.short_channel_id,
            message.channel_flags & 1,
            message.timestamp,
        )
        if scid not in self._book or timestamp <= self._book.timestamp(scid, direction):
            return
        self._book.set_timestamp(scid, direction, timestamp)
        self._store.put_policy(scid, direction, frame)
        self._sink.put_policy(
            scid,
            direction,
            timestamp,
            message.message_flags,
            message.channel_flags,
            message.cltv_expiry_delta,
            message.htlc_minimum_msat,
            message.htlc_maximum_msat,
            message.fee_base_msat,
            message.fee_proportional_millionths,
        )
        self.counts.updates += 1
        if message.channel_flags & bolt7.DISABLED:
            self._taken.perhaps_spent(scid)
        self._taken.update_taken(scid, direction, timestamp, frame, source)

    def add_node(self, message: NodeAnnouncement, frame: bytes, source: bytes, *, relay: bool) -> None:
        node_id = message.node_id
        if not self._book.has_node(node_id) or message.timestamp <= self._book.node_timestamp(node_id):
            return
        self._book.set_node_timestamp(node_id, message.timestamp)
        self._store.put_node(node_id, frame)
        put_node(self._sink, self._book.shared(node_id), message)
        self.counts.nodes += 1
        if relay:
            self._book.no_relay.discard(node_id)
            self._taken.node_taken(node_id, message.timestamp, frame, source)
        else:
            self._book.no_relay.add(node_id)

    # Leaving, and what waits for blocks.

    def drop_channel(self, scid: int) -> None:
        self._taken.channel_gone(scid)
        self._store.drop_channel(scid, self._book.drop(scid))
        self._sink.drop_channel(scid)

    def grown_up(self) -> list[tuple[bytes, bytes]]:
        """(frame, source) of announcements that had too few confirmations and have enough now."""
        ready = [
            scid
            for scid, (message, _, _) in self._young.items()
            if not isinstance(judge.announcement(message, chain_hash=self._chain_hash, tip=self.tip), Later)
        ]
        return [self._young.pop(scid)[1:] for scid in ready]
