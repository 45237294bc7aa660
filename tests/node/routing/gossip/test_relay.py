"""Passing gossip on: to whom, when, and in which order (checklist 59)."""

import asyncio

from node.routing.gossip.rates import GossipLimits
from node.routing.gossip.relay import FLUSH_SECONDS
from protocol.bitcoin.network import MAINNET
from protocol.wire import encode
from protocol.wire.bolt7_gossip import GossipTimestampFilter
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import House, turns, until
from tests.node.routing.gossip.synth import CHAIN, NOW

ONE = synth.channel(1, 2, 700)
TWO = synth.channel(2, 3, 701)
GOSSIP = (0, 1, 2)


def filter_of(first: int, count: int = 0xFFFFFFFF, chain_hash: bytes = CHAIN) -> bytes:
    return encode(GossipTimestampFilter(chain_hash, first, min(count, 0xFFFFFFFF - first)))


async def ready(house: Make, **more: object) -> House:
    one = await house(**more)
    one.chain.confirm(ONE, TWO)
    for number in (8, 9):
        one.up(number)
    await turns()
    return one


def told(one: House, number: int = 8) -> list[bytes]:
    return [frame for frame in one.peers.frames_to(number) if frame[0] == 1 and frame[1] in GOSSIP]


async def test_nothing_is_relayed_before_the_filter(house: Make):
    """checklist 59, broken by a peer that never asks; kept by one that does."""
    one = await ready(house)
    await one.told(9, ONE.frame, ONE.update(0))
    await one.tick(FLUSH_SECONDS)
    assert told(one) == []
    await one.told(8, filter_of(NOW + 1))
    await one.told(9, ONE.update(0, NOW + 5))
    await one.tick(FLUSH_SECONDS)
    assert told(one) == [ONE.update(0, NOW + 5)]


async def test_gossip_goes_out_once_a_minute_and_together(house: Make):
    """checklist 59: whenever it came; only the newest of a direction."""
    one = await ready(house)
    await one.told(8, filter_of(NOW))
    await one.told(9, ONE.frame, ONE.update(0))
    await one.tick(FLUSH_SECONDS - 1)
    await one.told(9, ONE.update(0, NOW + 3))
    assert told(one) == []
    await one.tick(1)
    assert told(one) == [ONE.frame, ONE.update(0, NOW + 3)]
    await one.tick(FLUSH_SECONDS)
    assert len(told(one)) == 2


async def test_announcement_goes_before_what_hangs_on_it(house: Make):
    """checklist 59: announcements, then updates, then nodes, in whatever order they came."""
    one = await ready(house)
    await one.told(8, filter_of(NOW - 100))
    await one.told(9, TWO.frame, TWO.update(1), synth.node(2), ONE.frame, ONE.update(0), synth.node(1))
    await one.tick(FLUSH_SECONDS)
    assert told(one) == [
        TWO.frame,
        ONE.frame,
        TWO.update(1),
        ONE.update(0),
        synth.node(2),
        synth.node(1),
    ]


async def test_announcement_without_an_update_waits_for_one(house: Make):
    """checklist 59: MUST NOT be sent without."""
    one = await ready(house)
    await one.told(8, filter_of(NOW))
    await one.told(9, ONE.frame)
    await one.tick(FLUSH_SECONDS)
    assert told(one) == []
    await one.told(9, ONE.update(1))
    await one.tick(FLUSH_SECONDS)
    assert told(one) == [ONE.frame, ONE.update(1)]


async def test_filter_bounds_timestamps_on_both_sides(house: Make):
    """checklist 59: from first, up to but not with the end; the announcement counts as its update."""
    one = await ready(house)
    await one.told(8, filter_of(NOW + 1, 10))
    await one.told(9, ONE.frame, ONE.update(0), TWO.frame, TWO.update(0, NOW + 1), TWO.update(1, NOW + 11))
    await one.tick(FLUSH_SECONDS)
    assert told(one) == [TWO.frame, TWO.update(0, NOW + 1)]


async def test_a_new_filter_replaces_the_old_one(house: Make):
    one = await ready(house)
    await one.told(8, filter_of(NOW))
    await one.told(8, filter_of(0xFFFFFFFF, 0))
    await one.told(9, ONE.frame, ONE.update(0))
    await one.tick(FLUSH_SECONDS)
    assert told(one) == []


async def test_filter_for_another_chain_lets_nothing_through(house: Make):
    one = await ready(house)
    await one.told(8, filter_of(0, chain_hash=MAINNET.chain_hash))
    await one.told(9, ONE.frame, ONE.update(0))
    await one.tick(FLUSH_SECONDS)
    assert told(one) == []


async def test_who_told_us_does_not_hear_it_again(house: Make):
    one = await ready(house)
    for number in (8, 9):
        await one.told(number, filter_of(NOW + 1))
    await one.told(9, ONE.frame, ONE.update(0, NOW + 2))
    await one.tick(FLUSH_SECONDS)
    assert (len(told(one, 8)), len(told(one, 9))) == (2, 0)


async def test_a_filter_into_the_past_brings_what_we_hold(house: Make):
    """checklist 59: all that the filter lets through, announcements first, without waiting for a flush."""
    one = await ready(house)
    await one.told(9, ONE.frame, ONE.update(0, NOW - 500), TWO.frame, TWO.update(0, NOW - 100), synth.node(2))
    await one.told(8, filter_of(NOW - 200))
    await until(lambda: len(told(one)) == 3)
    assert told(one) == [TWO.frame, TWO.update(0, NOW - 100), synth.node(2)]


async def test_a_filter_repeated_does_not_bring_everything_again_and_again(house: Make):
    one = await ready(house)
    await one.told(9, ONE.frame, ONE.update(0))
    for _ in range(10):
        await one.told(8, filter_of(0))
        await turns(50)
    assert told(one).count(ONE.frame) == 2


async def test_leaf_relays_none(house: Make):
    """checklist 59, and the config of a leaf."""
    one = await ready(house, leaf=True)
    await one.told(8, filter_of(0))
    await one.told(9, ONE.frame, ONE.update(0), synth.node(1))
    await one.tick(FLUSH_SECONDS)
    await turns(50)
    assert told(one) == [] and ONE.place in one.graph.channels


async def test_what_waits_for_a_flush_is_bounded(house: Make):
    one = await ready(house, limits=GossipLimits(staged=3))
    await one.told(8, filter_of(NOW))
    await one.told(9, ONE.frame, ONE.update(0), ONE.update(1), TWO.frame, TWO.update(0), TWO.update(1))
    assert len(one.gossip.relay) == 3


async def test_what_waits_for_a_slow_peer_is_bounded(house: Make):
    one = await ready(house, limits=GossipLimits(outgoing_bytes=1_000))
    one.peers.slow = asyncio.Event()
    peer = one.gossip.talk.peers[synth.node_id(8)]
    peer.send([ONE.frame] * 50)
    await turns()
    peer.send([ONE.frame] * 50)
    assert peer._urgent_bytes <= 1_000
    one.peers.slow.set()
    await turns(100)
    assert len(told(one)) == 4
