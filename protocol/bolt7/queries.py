"""Questions about gossip and how a long answer is split (BOLT 7, "Query Messages")."""

from collections.abc import Iterator, Sequence

from protocol.amounts import ShortChannelId
from protocol.wire.bolt7_gossip import (
    ChannelUpdateChecksums,
    ChannelUpdateTimestamps,
    QueryChannelRange,
    QueryShortChannelIds,
    QueryShortChannelIdsTlvs,
    ReplyChannelRange,
    ReplyChannelRangeTlvs,
)

WANT_TIMESTAMPS = 1
WANT_CHECKSUMS = 2

ASK_ANNOUNCEMENT = 1
ASK_UPDATE_1 = 2
ASK_UPDATE_2 = 4
ASK_NODE_1 = 8
ASK_NODE_2 = 16
ASK_ALL = 31

LAST_BLOCK = 0xFFFFFFFF
IDS_IN_REPLY = 2_000
"""With timestamps and checksums 24 bytes each: 48 KB, well inside the 65,535 of a message."""
IDS_IN_QUERY = 1_000
"""Each is answered with about 1.3 KB at most; larger answers would only wait in queues."""


def end_of(query: QueryChannelRange) -> int:
    """The block after the last one that is asked for. A range may not run over the end of the numbers."""
    return min(query.first_blocknum + query.number_of_blocks, LAST_BLOCK + 1)


def split_range(
    query: QueryChannelRange, ids: Sequence[int], most: int = IDS_IN_REPLY
) -> Iterator[tuple[int, int, int, Sequence[int]]]:
    """(first block, number of blocks, sync_complete, ids) of each reply. `ids` are ascending and in the range.

    Replies follow on each other without a gap, and the last ends where the query ends. Channels of one block may be
    spread over two replies: then the second begins with the block in which the first ended.
    """
    first, end = query.first_blocknum, end_of(query)
    at = 0
    while len(ids) - at > most:
        part = ids[at : at + most]
        at += most
        last_block = part[-1] >> 40
        yield first, last_block - first + 1, 0, part
        first = last_block if ids[at] >> 40 == last_block else last_block + 1
    yield first, min(end - first, LAST_BLOCK), 1, ids[at:]


def range_reply(
    query: QueryChannelRange,
    part: tuple[int, int, int, Sequence[int]],
    timestamps: tuple[ChannelUpdateTimestamps, ...] | None,
    checksums: tuple[ChannelUpdateChecksums, ...] | None,
) -> ReplyChannelRange:
    first, number, complete, ids = part
    return ReplyChannelRange(
        query.chain_hash,
        first,
        number,
        complete,
        tuple([ShortChannelId(one) for one in ids]),
        ReplyChannelRangeTlvs(timestamps=timestamps, checksums=checksums),
    )


def ids_query(chain_hash: bytes, wanted: Sequence[tuple[int, int]], *, flags: bool) -> QueryShortChannelIds:
    """`wanted`: (short channel id, what to ask of it), ascending. Without `flags` all of each is asked."""
    tlvs = QueryShortChannelIdsTlvs(query_flags=tuple(ask for _, ask in wanted) if flags else None)
    return QueryShortChannelIds(chain_hash, tuple(ShortChannelId(one) for one, _ in wanted), tlvs)
