"""Queries: the published messages, and how a long answer is split."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.amounts import parse_scid, scid
from protocol.bitcoin.network import REGTEST
from protocol.bolt7 import queries
from protocol.errors import MalformedMessage
from protocol.wire import decode, encode
from protocol.wire.bolt7_gossip import (
    ChannelUpdateChecksums,
    ChannelUpdateTimestamps,
    QueryChannelRange,
    QueryChannelRangeTlvs,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyChannelRangeTlvs,
)
from tests.support import vectors

CHAIN = bytes.fromhex("0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206")
OURS = (
    "01080f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e22060001ddde000005dc0100190000000000000"
    "0304300000000000778d6000000000046e1c1011900000282c1000e77c5000778ad00490ab00000b57800955bff031800000457"
    "000008ae00000d050000115c000015b300001a0a"
)
"""One case of the published file, so that a lone clone checks it too."""


def test_reply_with_timestamps_and_checksums():
    expected = ReplyChannelRange(
        CHAIN,
        122_334,
        1500,
        1,
        (parse_scid("0x0x12355"), parse_scid("0x7x30934"), parse_scid("0x70x57793")),
        ReplyChannelRangeTlvs(
            timestamps=(
                ChannelUpdateTimestamps(164_545, 948_165),
                ChannelUpdateTimestamps(489_645, 4_786_864),
                ChannelUpdateTimestamps(46_456, 9_788_415),
            ),
            checksums=(
                ChannelUpdateChecksums(1111, 2222),
                ChannelUpdateChecksums(3333, 4444),
                ChannelUpdateChecksums(5555, 6666),
            ),
        ),
    )
    assert decode(bytes.fromhex(OURS)) == expected
    assert encode(expected).hex() == OURS


def test_published_queries_without_zlib():
    """checklist 60: encoding 0 both ways."""
    seen = 0
    for case in vectors("bolt07/extended-queries.json"):
        if "COMPRESSED_ZLIB" in str(case["msg"]):
            continue
        frame, said = bytes.fromhex(case["hex"]), case["msg"]
        message = decode(frame)
        assert encode(message) == frame  # type: ignore[arg-type]
        assert isinstance(message, QueryChannelRange | ReplyChannelRange | QueryShortChannelIds)
        assert message.chain_hash.hex() == said["chainHash"]
        if not isinstance(message, QueryChannelRange):
            ids = tuple(parse_scid(text) for text in said["shortChannelIds"]["array"])
            assert message.encoded_short_ids == ids
        if not isinstance(message, QueryShortChannelIds):
            assert (message.first_blocknum, message.number_of_blocks) == (
                said["firstBlockNum"],
                said["numberOfBlocks"],
            )
        seen += 1
    assert seen == 5


def test_published_queries_with_zlib_are_refused():
    """checklist 60, broken: an encoding that is not used any more."""
    refused = 0
    for case in vectors("bolt07/extended-queries.json"):
        if "COMPRESSED_ZLIB" in str(case["msg"]):
            with pytest.raises(MalformedMessage, match="encoding 1"):
                decode(bytes.fromhex(case["hex"]))
            refused += 1
    assert refused == 5


def test_flags_are_bigsize_in_their_shortest_form():
    """checklist 60: one byte for each flag of a channel; a longer form of the same number is refused."""
    query = queries.ids_query(REGTEST.chain_hash, [(1, 31), (2, 1)], flags=True)
    frame = encode(query)
    assert frame.endswith(b"\x01\x03\x00\x1f\x01")
    with pytest.raises(MalformedMessage):
        decode(frame[:-5] + b"\x01\x05\x00\xfd\x00\x1f\x01")
    assert queries.ids_query(REGTEST.chain_hash, [(1, 31)], flags=False).tlvs.query_flags is None


def asked(first: int, number: int) -> QueryChannelRange:
    return QueryChannelRange(REGTEST.chain_hash, first, number, QueryChannelRangeTlvs())


@given(
    st.lists(st.integers(0, 60), max_size=60),
    st.integers(0, 40),
    st.integers(1, 40),
    st.integers(1, 7),
)
def test_replies_cover_the_range_in_order_and_end_once(
    heights: list[int], first: int, number: int, most: int
):
    """checklist 60: split by blocks, complete only at the end, each reply within the question, nothing lost."""
    ids = sorted(
        {scid(height, at, 0) for at, height in enumerate(heights) if first <= height < first + number}
    )
    parts = list(queries.split_range(asked(first, number), ids, most))
    assert [complete for _, _, complete, _ in parts] == [0] * (len(parts) - 1) + [1]
    assert [one for part in parts for one in part[3]] == ids
    assert parts[0][0] == first
    assert parts[-1][0] + parts[-1][1] >= first + number
    for (begin, count, _, inside), after in zip(parts, [*parts[1:], None], strict=True):
        assert len(inside) <= most
        assert all(begin <= one >> 40 < begin + count for one in inside)
        if after is not None:
            assert begin <= after[0] <= begin + count, "no gap, and never back"


def test_a_question_for_all_blocks_is_answered_within_32_bits():
    query = asked(0, 0xFFFFFFFF)
    (part,) = queries.split_range(query, [])
    reply = queries.range_reply(query, part, None, None)
    assert decode(encode(reply)) == reply and reply.number_of_blocks == 0xFFFFFFFF
    late = asked(800_000, 0xFFFFFFFF)
    (part,) = queries.split_range(late, [])
    assert part[0] + part[1] == 0xFFFFFFFF + 1
