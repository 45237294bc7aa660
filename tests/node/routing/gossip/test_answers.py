"""What we answer to the questions of peers (checklist 60)."""

import asyncio
from itertools import chain as flat

import pytest
from msgspec.structs import replace

from node.routing.gossip.peers import JOBS
from node.routing.gossip.rates import GossipLimits
from protocol.bitcoin.network import MAINNET
from protocol.bolt7 import queries
from protocol.bolt7.checksum import checksum_of_update
from protocol.wire import bolt1, encode
from protocol.wire.bolt7_gossip import (
    QueryChannelRange,
    QueryChannelRangeTlvs,
    QueryShortChannelIdsTlvs,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
)
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import Clock, House, turns
from tests.node.routing.gossip.synth import CHAIN, NOW

ONE = synth.channel(1, 2, 700)
TWO = synth.channel(2, 3, 701)


async def knowing(house: Make, *, leaf: bool = False) -> House:
    one = await house(leaf=leaf)
    one.chain.confirm(ONE, TWO)
    one.up(9)
    one.up(8)
    await turns()
    for public in (ONE, TWO):
        await one.told(9, public.frame, public.update(0), public.update(1, NOW + 1))
    await one.told(9, synth.node(1), synth.node(2))
    return one


async def answers(one: House, *frames: bytes) -> list[bytes]:
    one.peers.sent.clear()
    await one.told(8, *frames)
    await turns(60)
    return one.peers.frames_to(8)


def ids(*wanted: tuple[int, int], flags: bool = True) -> bytes:
    return encode(queries.ids_query(CHAIN, wanted, flags=flags))


END = encode(ReplyShortChannelIdsEnd(CHAIN, 0))


async def test_without_flags_everything_is_told_nodes_last_and_once(house: Make):
    """checklist 60: kept; node 2 has two of the channels."""
    one = await knowing(house)
    found = await answers(one, ids((ONE.place, 31), (TWO.place, 31), flags=False))
    assert found[0] == ONE.frame and found[-1] == END
    assert found[1:3] == [ONE.update(0), ONE.update(1, NOW + 1)]
    assert sorted(found[3:5]) == sorted([synth.node(1), synth.node(2)])
    assert found[5:-1] == [TWO.frame, TWO.update(0), TWO.update(1, NOW + 1)]


@pytest.mark.parametrize(
    ("flag", "frame"),
    [(1, ONE.frame), (2, ONE.update(0)), (4, ONE.update(1, NOW + 1))],
)
async def test_flags_choose(house: Make, flag: int, frame: bytes):
    """checklist 60: one bit, one message."""
    one = await knowing(house)
    assert await answers(one, ids((ONE.place, flag))) == [frame, END]


async def test_unknown_channels_get_an_end_and_nothing_more(house: Make):
    one = await knowing(house)
    assert await answers(one, ids((5, 31))) == [END]


async def test_flags_that_do_not_match_are_told_with_a_warning(house: Make):
    """checklist 60, broken."""
    one = await knowing(house)
    query = queries.ids_query(CHAIN, [(ONE.place, 1), (TWO.place, 1)], flags=True)
    broken = replace(query, tlvs=QueryShortChannelIdsTlvs(query_flags=(1,)))
    await answers(one, encode(broken))
    warned = [m for m in one.peers.said_to(8) if isinstance(m, bolt1.Warning)]
    assert [m.data for m in warned] == [b"1 query flags for 2 channels"]


async def test_range_with_timestamps_and_checksums(house: Make):
    """checklist 60: both columns, and none that was not asked for."""
    one = await knowing(house)
    query = QueryChannelRange(CHAIN, 700, 100, QueryChannelRangeTlvs(query_option=3))
    await answers(one, encode(query))
    (found,) = one.peers.said_to(8)
    assert isinstance(found, ReplyChannelRange)
    assert found.encoded_short_ids == (ONE.place, TWO.place)
    assert (found.first_blocknum, found.number_of_blocks, found.sync_complete) == (700, 100, 1)
    assert found.tlvs.timestamps is not None and found.tlvs.checksums is not None
    first_time, first_sum = found.tlvs.timestamps[0], found.tlvs.checksums[0]
    assert (first_time.timestamp_node_id_1, first_time.timestamp_node_id_2) == (NOW, NOW + 1)
    assert first_sum.checksum_node_id_1 == checksum_of_update(ONE.update(0))
    assert first_sum.checksum_node_id_2 == checksum_of_update(ONE.update(1, NOW + 1))
    await answers(one, encode(QueryChannelRange(CHAIN, 701, 1)))
    (found,) = one.peers.said_to(8)
    assert isinstance(found, ReplyChannelRange)
    assert found.encoded_short_ids == (TWO.place,) and found.tlvs.timestamps is None


async def test_checksum_follows_the_newest_update(house: Make):
    one = await knowing(house)
    query = encode(QueryChannelRange(CHAIN, 700, 1, QueryChannelRangeTlvs(query_option=2)))
    await answers(one, query)
    await one.told(9, ONE.update(0, NOW + 9, cltv_expiry_delta=77))
    await answers(one, query)
    (found,) = one.peers.said_to(8)
    assert isinstance(found, ReplyChannelRange) and found.tlvs.checksums is not None
    newest = ONE.update(0, NOW + 9, cltv_expiry_delta=77)
    assert found.tlvs.checksums[0].checksum_node_id_1 == checksum_of_update(newest)


async def test_other_chains_get_an_empty_end(house: Make):
    """checklist 60: the honest answer about a chain that we do not know."""
    one = await knowing(house)
    other = MAINNET.chain_hash
    await answers(
        one,
        encode(QueryChannelRange(other, 0, 1000)),
        encode(queries.ids_query(other, [(ONE.place, 31)], flags=True)),
    )
    assert one.peers.said_to(8) == [
        ReplyChannelRange(other, 0, 1000, 1, ()),
        ReplyShortChannelIdsEnd(other, 0),
    ]


async def test_a_question_for_no_block_is_a_fault(house: Make):
    """checklist 60, broken."""
    one = await knowing(house)
    await answers(one, encode(QueryChannelRange(CHAIN, 5, 0)))
    assert [type(m) for m in one.peers.said_to(8)] == [bolt1.Warning]


async def test_leaf_answers_with_nothing(house: Make):
    one = await knowing(house, leaf=True)
    assert await answers(one, ids((ONE.place, 31))) == [END]


async def test_spent_channels_are_not_told(house: Make):
    """checklist 56: no rebroadcast of spent ones, by answers neither."""
    one = await knowing(house)
    one.gossip.book.spent[ONE.place] = 900
    found = await answers(
        one, ids((ONE.place, 31), (TWO.place, 1)), encode(QueryChannelRange(CHAIN, 0, 1000))
    )
    assert ONE.frame not in found and TWO.frame in found
    (ranged,) = [m for m in one.peers.said_to(8) if isinstance(m, ReplyChannelRange)]
    assert ranged.encoded_short_ids == (TWO.place,)


async def test_questions_pile_up_only_so_far(house: Make):
    """checklist 60: who asks again before the answer is warned, and we hold three at most."""
    one = await knowing(house)
    one.peers.slow = asyncio.Event()
    await one.told(8, *(ids((ONE.place, 31)) for _ in range(10)))
    peer = one.gossip.talk.peers[synth.node_id(8)]
    assert len(peer._jobs) <= JOBS
    one.peers.slow.set()
    await turns(100)
    warned = [m for m in one.peers.said_to(8) if isinstance(m, bolt1.Warning)]
    assert len(warned) == 1 and b"before" in warned[0].data


async def test_endless_questions_are_warned_and_not_answered(house: Make, clock: Clock):
    """A range costs five of the budget, which refills by two a second."""
    one = await house(limits=GossipLimits(questions_burst=11))
    one.up(8)
    await turns()
    query = encode(QueryChannelRange(CHAIN, 0, 10))

    async def replies() -> int:
        one.peers.sent.clear()
        await one.told(8, query)
        await turns(40)
        return sum(isinstance(m, ReplyChannelRange) for m in one.peers.said_to(8))

    assert [await replies() for _ in range(3)] == [1, 1, 0]
    assert [m.data for m in one.peers.said_to(8) if isinstance(m, bolt1.Warning)] == [
        b"too many gossip queries in a short time"
    ]
    clock.forward(2)
    assert await replies() == 1


async def test_a_long_answer_is_split_with_complete_at_the_end(house: Make):
    """checklist 60: 5,000 channels in replies of 2,000, ascending, complete once."""
    one = await house()
    one.up(8)
    await turns()
    places = [700_000 + number // 7 << 40 | number << 16 for number in range(5_000)]
    for number, place in enumerate(places):
        one.gossip.book.add(place, b"\2" + bytes(32), b"\3" + bytes(32), 1, NOW + number, bytes(32))
    one.peers.sent.clear()
    await one.told(8, encode(QueryChannelRange(CHAIN, 0, 0xFFFFFFFF, QueryChannelRangeTlvs(query_option=3))))
    await turns(200)
    found = [m for m in one.peers.said_to(8) if isinstance(m, ReplyChannelRange)]
    assert [len(m.encoded_short_ids) for m in found] == [2000, 2000, 1000]
    assert [m.sync_complete for m in found] == [0, 0, 1]
    assert list(flat(*(m.encoded_short_ids for m in found))) == sorted(places)
