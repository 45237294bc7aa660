"""Asking one peer for the gossip that we lack, as a pure machine (BOLT 7, "Query Messages"; checklist 60).

At most one question of each kind is open. A range question tells which channels the peer knows; what we lack of them
is then asked for in pieces, the next one only when the answer to the last was worked through.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from protocol.bolt7 import queries
from protocol.errors import PeerViolation
from protocol.wire.bolt7_gossip import (
    ChannelUpdateChecksums,
    ChannelUpdateTimestamps,
    QueryChannelRange,
    QueryChannelRangeTlvs,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
)

RANGE_SECONDS = 60.0
"""Without any reply to a range question."""
IDS_SECONDS = 300.0
"""LND makes a peer wait five seconds before each answer, and a thousand channels are a megabyte over Tor."""
MOST_IDS = 500_000
"""Ten times mainnet; who names more is lying."""
_CLAUSE = 'BOLT 7, "The `query_channel_range` and `reply_channel_range` Messages"'

Wants = Callable[[int, ChannelUpdateTimestamps | None, ChannelUpdateChecksums | None], int]
"""(short channel id, timestamps, checksums) to the flags of what we lack; 0 for nothing."""


@dataclass(frozen=True, slots=True)
class Quiet:
    """No question is open."""


@dataclass(slots=True)
class AskedRange:
    query: QueryChannelRange
    since: float
    next_block: int
    """Where the peer has got to."""
    ids: int = 0
    last_id: int = -1


@dataclass(slots=True)
class AskedIds:
    since: float
    asked: tuple[int, ...] = field(default=())


Open = Quiet | AskedRange | AskedIds
QUIET = Quiet()


class PeerSync:
    """`extended`: the peer knows timestamps, checksums and flags (gossip_queries_ex)."""

    def __init__(self, chain_hash: bytes, *, extended: bool) -> None:
        self._chain_hash = chain_hash
        self._extended = extended
        self.open: Open = QUIET
        self.wanted: dict[int, int] = {}
        """What we lack and this peer has, still to be asked for."""

    def ask_range(self, first_block: int, blocks: int, now: float) -> QueryChannelRange:
        if not isinstance(self.open, Quiet):
            raise RuntimeError("one question at a time: the last one is not answered yet")
        option = queries.WANT_TIMESTAMPS | queries.WANT_CHECKSUMS if self._extended else None
        query = QueryChannelRange(
            self._chain_hash, first_block, blocks, QueryChannelRangeTlvs(query_option=option)
        )
        self.open = AskedRange(query, now, first_block)
        return query

    def range_reply(self, reply: ReplyChannelRange, wants: Wants, now: float) -> bool:
        """Takes one reply; True with the last. Raises PeerViolation for one that does not fit the question."""
        state = self.open
        if not isinstance(state, AskedRange):
            return False  # late, after we gave up
        query = state.query
        if reply.chain_hash != query.chain_hash:
            raise PeerViolation("a reply_channel_range about another chain than was asked", clause=_CLAUSE)
        first, after = reply.first_blocknum, reply.first_blocknum + reply.number_of_blocks
        end = queries.end_of(query)
        if state.next_block == query.first_blocknum and state.ids == 0:
            fits = first <= query.first_blocknum < after  # canned answers may begin before and end behind
        else:
            fits = state.next_block - 1 <= first < end
        if not fits:
            raise PeerViolation(
                f"a reply_channel_range from block {first} to {after - 1} where {state.next_block} was next",
                clause=_CLAUSE,
            )
        self._take_ids(state, reply, wants, end)
        state.next_block = max(state.next_block, after)
        state.since = now
        if not reply.sync_complete:
            return False
        # Complete before the end of the range: an old meaning of that byte, or a peer that knows no more.
        self.open = QUIET
        return True

    def _take_ids(self, state: AskedRange, reply: ReplyChannelRange, wants: Wants, end: int) -> None:
        ids = reply.encoded_short_ids
        state.ids += len(ids)
        if state.ids > MOST_IDS:
            raise PeerViolation(f"more than {MOST_IDS} channels in one answer", clause=_CLAUSE)
        timestamps, checksums = reply.tlvs.timestamps, reply.tlvs.checksums
        for column, name in ((timestamps, "timestamps"), (checksums, "checksums")):
            if column is not None and len(column) != len(ids):
                raise PeerViolation(f"{len(column)} {name} for {len(ids)} channels", clause=_CLAUSE)
        first = state.query.first_blocknum
        for number, scid in enumerate(ids):
            if scid <= state.last_id:
                raise PeerViolation("short channel ids that do not ascend", clause=_CLAUSE)
            state.last_id = scid
            if not first <= scid >> 40 < end:
                continue
            asked = wants(
                scid,
                timestamps[number] if timestamps else None,
                checksums[number] if checksums else None,
            )
            if asked:
                self.wanted[scid] = asked

    def want(self, scid: int, flags: int = queries.ASK_ALL) -> None:
        """Something that we met elsewhere, such as an update of a channel that we do not know."""
        if len(self.wanted) < MOST_IDS:
            self.wanted[scid] = flags

    def ask_ids(self, still_wanted: Callable[[int], bool], now: float) -> QueryShortChannelIds | None:
        """The next piece of what is wanted, or None."""
        if not isinstance(self.open, Quiet) or not self.wanted:
            return None
        piece: list[tuple[int, int]] = []
        while self.wanted and len(piece) < queries.IDS_IN_QUERY:
            scid = next(iter(self.wanted))
            flags = self.wanted.pop(scid)
            if flags != queries.ASK_ALL or still_wanted(scid):
                piece.append((scid, flags))
        if not piece:
            return None
        piece.sort()
        self.open = AskedIds(now, tuple(scid for scid, _ in piece))
        return queries.ids_query(self._chain_hash, piece, flags=self._extended)

    def ids_end(self, reply: ReplyShortChannelIdsEnd) -> bool:
        """True when this ends our question."""
        if not isinstance(self.open, AskedIds) or reply.chain_hash != self._chain_hash:
            return False
        self.open = QUIET
        return True

    def heard(self, now: float) -> None:
        """Gossip came: the peer is at work."""
        if isinstance(self.open, AskedIds):
            self.open.since = now

    def late(self, now: float) -> str | None:
        """Gives an open question up when its time is over, and says which."""
        state = self.open
        match state:
            case Quiet():
                return None
            case AskedRange():
                limit, name = RANGE_SECONDS, "query_channel_range"
            case AskedIds():
                limit, name = IDS_SECONDS, "query_short_channel_ids"
            case _:
                assert_never(state)
        if now - state.since <= limit:
            return None
        self.open = QUIET
        self.wanted.clear()
        return f"{name} was not answered within {limit:.0f} s"


def lacking(
    known: tuple[int, int] | None,
    timestamps: ChannelUpdateTimestamps | None,
    differs: Callable[[int, int], bool],
    checksums: ChannelUpdateChecksums | None,
    *,
    stale_before: float,
    aging_before: float,
) -> int:
    """Flags of what to ask about one channel. `known`: the timestamps that we have, None for an unknown channel.

    `differs(direction, checksum)`: whether our update has another content. The same content with a newer time is
    asked for only when ours is from before `aging_before`, so that it is not pruned.
    """
    if timestamps is None:
        return queries.ASK_ALL if known is None else 0
    theirs = (timestamps.timestamp_node_id_1, timestamps.timestamp_node_id_2)
    if known is None:
        # A channel of which one side is silent for two weeks would be pruned as soon as it came.
        alive = all(one == 0 or one >= stale_before for one in theirs) and any(theirs)
        return queries.ASK_ALL if alive else 0
    sums = (
        (checksums.checksum_node_id_1, checksums.checksum_node_id_2)
        if checksums is not None
        else (None, None)
    )
    flags = 0
    for direction, flag in ((0, queries.ASK_UPDATE_1), (1, queries.ASK_UPDATE_2)):
        newer = theirs[direction] > known[direction] and theirs[direction] >= stale_before
        total = sums[direction]
        if newer and (known[direction] < aging_before or total is None or differs(direction, total)):
            flags |= flag
    return flags
