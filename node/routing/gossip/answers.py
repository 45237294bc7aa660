"""Answers to the questions of peers, out of the store, in pieces that can be sent at the peer's pace (BOLT 7, "Query
Messages"; checklist 60)."""

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from node.routing.gossip.book import Book
from node.routing.gossip.relay import Filter
from node.routing.gossip.store import GossipStore
from protocol.bolt7 import queries
from protocol.bolt7.checksum import checksum_of_update
from protocol.errors import PeerViolation
from protocol.wire.bolt7_gossip import (
    ChannelUpdateChecksums,
    ChannelUpdateTimestamps,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyShortChannelIdsEnd,
    empty_answer,
)
from protocol.wire.message import encode

PIECE = 50
"""Channels between two turns of the loop."""
CHECKSUMS = 200
"""Checksums that are worked out between two turns: about 2 ms."""
_IDS_CLAUSE = 'BOLT 7, "The `query_short_channel_ids`/`reply_short_channel_ids_end` Messages"'
_RANGE_CLAUSE = 'BOLT 7, "The `query_channel_range` and `reply_channel_range` Messages"'

Pieces = Iterator[list[bytes]]


class Answers:
    """`full`: whether our graph is what a peer may rely on."""

    def __init__(self, chain_hash: bytes, book: Book, store: GossipStore) -> None:
        self._chain_hash = chain_hash
        self._book = book
        self._store = store
        self.full = False

    def ids(self, query: QueryShortChannelIds) -> Pieces:
        """Raises PeerViolation at once for a question that cannot be answered."""
        flags = query.tlvs.query_flags
        if flags is not None and len(flags) != len(query.encoded_short_ids):
            raise PeerViolation(
                f"{len(flags)} query flags for {len(query.encoded_short_ids)} channels", clause=_IDS_CLAUSE
            )
        if query.chain_hash != self._chain_hash:
            return iter([[encode(empty_answer(query))]])
        return self._ids(query, flags)

    def _ids(self, query: QueryShortChannelIds, flags: tuple[int, ...] | None) -> Pieces:
        told: set[bytes] = set()
        piece: list[bytes] = []
        for number, scid in enumerate(query.encoded_short_ids):
            if scid in self._book and scid not in self._book.spent:
                asked = queries.ASK_ALL if flags is None else flags[number]
                piece += self._of_channel(scid, asked)
                told_now = [node_id for node_id in self._nodes_asked(scid, asked) if node_id not in told]
                told.update(told_now)
                piece += [frame for node_id in told_now if (frame := self._node(node_id)) is not None]
            if number % PIECE == PIECE - 1:
                yield piece
                piece = []
        piece.append(encode(ReplyShortChannelIdsEnd(query.chain_hash, int(self.full))))
        yield piece

    def _of_channel(self, scid: int, asked: int) -> Iterator[bytes]:
        frames = (
            self._store.channel(scid) if asked & queries.ASK_ANNOUNCEMENT else None,
            self._store.policy(scid, 0) if asked & queries.ASK_UPDATE_1 else None,
            self._store.policy(scid, 1) if asked & queries.ASK_UPDATE_2 else None,
        )
        return (frame for frame in frames if frame is not None)

    def _nodes_asked(self, scid: int, asked: int) -> tuple[bytes, ...]:
        ends = self._book.ends(scid)
        masks = (queries.ASK_NODE_1, queries.ASK_NODE_2)
        return tuple(node_id for node_id, mask in zip(ends, masks, strict=True) if asked & mask)

    def _node(self, node_id: bytes) -> bytes | None:
        if node_id in self._book.no_relay or not self._book.node_timestamp(node_id):
            return None
        return self._store.node(node_id)

    def range(self, query: QueryChannelRange) -> Pieces:
        """Raises PeerViolation at once for a question that cannot be answered."""
        if query.number_of_blocks < 1:
            raise PeerViolation("a query_channel_range for no block", clause=_RANGE_CLAUSE)
        if query.chain_hash != self._chain_hash:
            return iter([[encode(empty_answer(query))]])
        return self._range(query)

    def _range(self, query: QueryChannelRange) -> Pieces:
        known = self._book.sorted_ids()
        first = bisect_left(known, query.first_blocknum << 40)
        last = bisect_left(known, queries.end_of(query) << 40)
        ids = [scid for scid in known[first:last] if scid not in self._book.spent]
        option = query.tlvs.query_option or 0
        for part in queries.split_range(query, ids):
            timestamps = checksums = None
            if option & queries.WANT_CHECKSUMS:
                yield from self._work_out(part[3])
                checksums = tuple(
                    [ChannelUpdateChecksums(self._sum(scid, 0), self._sum(scid, 1)) for scid in part[3]]
                )
            if option & queries.WANT_TIMESTAMPS:
                timestamps = tuple(
                    [ChannelUpdateTimestamps(self._time(scid, 0), self._time(scid, 1)) for scid in part[3]]
                )
            yield [encode(queries.range_reply(query, part, timestamps, checksums))]

    def _time(self, scid: int, direction: int) -> int:
        return self._book.timestamp(scid, direction) if scid in self._book else 0

    def _sum(self, scid: int, direction: int) -> int:
        return self.checksum(scid, direction) if scid in self._book else 0

    def checksum(self, scid: int, direction: int) -> int:
        """0 without an update. Worked out once for each update, and only when somebody asks."""
        if not self._book.timestamp(scid, direction):
            return 0
        found = self._book.checksum(scid, direction)
        if found is None:
            frame = self._store.policy(scid, direction)
            found = 0 if frame is None else checksum_of_update(frame)
            self._book.set_checksum(scid, direction, found)
        return found

    def _work_out(self, ids: Sequence[int]) -> Pieces:
        """Nothing to send yet: only a pause now and then."""
        count = 0
        for scid in ids:
            for direction in (0, 1):
                if scid in self._book and self._book.checksum(scid, direction) is None:
                    self.checksum(scid, direction)
                    count += 1
            if count >= CHECKSUMS:
                count = 0
                yield []

    def backlog(self, wanted: Filter) -> Pieces:
        """Everything in the store that a new filter lets through."""
        nodes: set[bytes] = set()
        piece: list[bytes] = []
        for number, scid in enumerate(list(self._book.sorted_ids())):
            if scid in self._book and scid not in self._book.spent:
                asked = 0
                for direction, flag in ((0, queries.ASK_UPDATE_1), (1, queries.ASK_UPDATE_2)):
                    timestamp = self._book.timestamp(scid, direction)
                    if timestamp and wanted.lets(timestamp):
                        asked |= flag | queries.ASK_ANNOUNCEMENT
                if asked:
                    piece += self._of_channel(scid, asked)
                    nodes.update(self._book.ends(scid))
            if number % PIECE == PIECE - 1:
                yield piece
                piece = []
        for node_id in nodes:
            if self._book.has_node(node_id) and wanted.lets(self._book.node_timestamp(node_id)):
                frame = self._node(node_id)
                if frame is not None:
                    piece.append(frame)
            if len(piece) >= PIECE:
                yield piece
                piece = []
        yield piece
