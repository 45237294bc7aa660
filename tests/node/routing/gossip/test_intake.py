"""Gossip that comes in: what is taken, what is dropped before it costs anything, and what is the peer's fault."""

import asyncio
from random import Random

import pytest
from msgspec.structs import replace

from node.routing.gossip.judge import STALE_SECONDS
from node.routing.gossip.rates import GossipLimits
from node.routing.gossip.verify import Verifier
from protocol.amounts import Msat, Sat
from protocol.bitcoin.network import MAINNET
from protocol.bolt7 import announcement as bolt7
from protocol.bolt7 import queries
from protocol.wire import bolt1, decode, encode
from protocol.wire import bolt7_gossip as wire
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import TIP, Clock, House, turns, until
from tests.node.routing.gossip.synth import NOW, node_id

ONE = synth.channel(1, 2, 700)
OTHER = synth.channel(2, 3, 701)


async def ready(house: Make, *known: synth.Public, **more: object) -> House:
    one = await house(**more)
    one.chain.confirm(*known)
    one.up(9)
    await turns()
    return one


def warnings(one: House, number: int = 9) -> list[str]:
    return [
        message.data.decode() for message in one.peers.said_to(number) if isinstance(message, bolt1.Warning)
    ]


def counts(one: House) -> dict[str, int]:
    found = one.gossip.intake.counts
    return {name: getattr(found, name) for name in found.__slots__ if getattr(found, name)}


# Announcements (56).


async def test_announced_channel_is_taken_after_signatures_and_chain(house: Make):
    """checklist 56: kept."""
    one = await ready(house, ONE)
    await one.told(9, ONE.frame)
    assert one.chain.asked == [ONE.place]
    assert one.graph.channels[ONE.place][:3] == (*sorted((node_id(1), node_id(2))), synth.CAPACITY)
    assert one.gossip.store.channel(ONE.place) == ONE.frame
    assert warnings(one) == []


@pytest.mark.parametrize("at", [2, 66, 130, 194])
async def test_a_wrong_signature_costs_no_question_to_the_chain(house: Make, at: int):
    """checklist 56, broken: each of the four; the peer is warned."""
    one = await ready(house, ONE)
    await one.told(9, ONE.frame[:at] + bytes([ONE.frame[at] ^ 1]) + ONE.frame[at + 1 :])
    assert (one.chain.asked, one.graph.channels) == ([], {})
    assert warnings(one) == ["a channel_announcement with a wrong signature"]


async def test_output_that_pays_others_or_is_spent_or_absent_is_ignored(house: Make):
    """checklist 56, broken: script, spent, nothing there. None of it is the peer's fault, and it is not asked twice."""
    one = await ready(house)
    third = synth.channel(3, 4, 702)
    one.chain.outputs[ONE.place] = OTHER.output
    one.chain.outputs[OTHER.place] = replace(OTHER.output, unspent=False)
    await one.told(9, ONE.frame, OTHER.frame, third.frame)
    assert one.graph.channels == {} and warnings(one) == []
    assert len(one.chain.asked) == 3
    await one.told(9, ONE.frame, OTHER.frame, third.frame)
    assert len(one.chain.asked) == 3


async def test_six_confirmations_and_a_little_patience(house: Make):
    """checklist 56: five are too few; the announcement waits for the block instead of being lost."""
    young = synth.channel(1, 2, TIP - 4)
    far = synth.channel(1, 3, TIP + 20)
    one = await ready(house, young, far)
    await one.told(9, young.frame, far.frame)
    assert (one.chain.asked, one.graph.channels) == ([], {})
    await one.block(TIP + 1)
    await until(lambda: young.place in one.graph.channels)
    assert far.place not in one.graph.channels


async def test_channel_is_forgotten_72_blocks_after_its_spend(house: Make):
    """checklist 56: until then it stays (a splice may follow), takes only disabling updates and is not relayed."""
    one = await ready(house, ONE)
    await one.told(9, ONE.frame, ONE.update(0))
    one.chain.spend(ONE)
    await one.block(TIP + 1)
    assert one.gossip.book.spent == {ONE.place: TIP + 1}
    assert len(one.gossip.relay.take().channels) == 0
    await one.told(9, ONE.update(0, NOW + 1), ONE.update(1, NOW + 1, disabled=True))
    assert (ONE.place, 1) in one.graph.policies
    assert one.gossip.book.timestamp(ONE.place, 0) == NOW
    await one.block(TIP + 72)
    assert ONE.place in one.graph.channels
    await one.block(TIP + 73)
    assert one.graph.channels == {} and ONE.place not in one.gossip.book


async def test_a_spend_that_left_the_chain_is_forgiven(house: Make):
    """checklist 56: reorganised."""
    one = await ready(house, ONE)
    await one.told(9, ONE.frame)
    one.chain.spend(ONE)
    await one.block(TIP + 1)
    one.chain.confirm(ONE)
    await one.block(TIP + 2)
    assert one.gossip.book.spent == {}


async def test_other_chains_and_wrong_order_of_keys(house: Make):
    """checklist 56, broken: another chain is ignored, keys that do not ascend are a fault."""
    one = await ready(house, ONE)
    message = decode(ONE.frame)
    await one.told(9, encode(replace(message, chain_hash=MAINNET.chain_hash)))
    assert warnings(one) == []
    swapped = replace(message, node_id_1=message.node_id_2, node_id_2=message.node_id_1)
    await one.told(9, encode(swapped))
    assert warnings(one) == ["a channel_announcement whose node ids are not ascending"]
    assert one.graph.channels == {}


async def test_chain_that_is_away_loses_nothing_for_good(house: Make):
    one = await ready(house, ONE)
    one.chain.away = True
    await one.told(9, ONE.frame)
    assert one.graph.channels == {}
    one.chain.away = False
    await one.told(9, ONE.frame)
    assert ONE.place in one.graph.channels


async def test_questions_to_the_chain_are_bounded(house: Make):
    many = [synth.channel(1, 2, 300 + number) for number in range(30)]
    one = await ready(house, *many, limits=GossipLimits(chain_questions=4))
    await one.told(9, *(public.frame for public in many))
    await until(lambda: len(one.graph.channels) == 30)
    assert one.chain.most_open == 4


# Updates (57).


async def test_update_is_taken_and_the_newer_one_replaces_it(house: Make):
    """checklist 57: kept."""
    one = await ready(house, ONE)
    await one.told(9, ONE.frame, ONE.update(0), ONE.update(1))
    assert set(one.graph.policies) == {(ONE.place, 0), (ONE.place, 1)}
    await one.told(9, ONE.update(0, NOW + 5, fee_base_msat=Msat(7)))
    assert one.graph.policies[(ONE.place, 0)] == (NOW + 5, 1, 0, 40, 1, 990_000_000, 7, 100)
    assert one.gossip.store.policy(ONE.place, 0) == ONE.update(0, NOW + 5, fee_base_msat=Msat(7))


@pytest.mark.parametrize(
    "frame",
    [
        ONE.update(0, NOW),
        ONE.update(0, NOW - 1),
        ONE.update(0, NOW + 24 * 3600 + 60),
        ONE.update(1, NOW - STALE_SECONDS - 1),
        ONE.update(0, NOW + 1, dont_forward=True),
        ONE.update(0, NOW + 1, htlc_maximum_msat=Msat(1000 * synth.CAPACITY + 1)),
        ONE.update(0, NOW + 1, htlc_minimum_msat=Msat(990_000_001)),
    ],
    ids=["same", "older", "future", "stale", "dont_forward", "over_capacity", "inverted"],
)
async def test_update_that_breaks_a_rule_is_dropped(house: Make, frame: bytes):
    """checklist 57, broken: one by one; nobody is blamed."""
    one = await ready(house, ONE)
    await one.told(9, ONE.frame, ONE.update(0))
    before = dict(one.graph.policies)
    await one.told(9, frame)
    assert one.graph.policies == before and warnings(one) == []


async def test_update_with_a_wrong_signature_is_a_fault(house: Make):
    """checklist 57, broken: signed by the other end, and by nobody."""
    one = await ready(house, ONE)
    await one.told(9, ONE.frame)
    await one.told(9, synth.update(ONE.place, 0, ONE.origin(1)))
    assert one.graph.policies == {}
    assert warnings(one) == ["a channel_update with a wrong signature"]


async def test_update_of_an_unknown_channel_waits_in_a_small_pool(house: Make):
    """checklist 57: ignored until the announcement is known; then the newest of each side counts."""
    one = await ready(house, ONE, limits=GossipLimits(unknown_updates=2))
    await one.told(9, ONE.update(0), ONE.update(0, NOW + 2), ONE.update(0, NOW + 1), ONE.update(1))
    assert one.graph.policies == {}
    await one.told(9, ONE.frame)
    assert {key: row[0] for key, row in one.graph.policies.items()} == {
        (ONE.place, 0): NOW + 2,
        (ONE.place, 1): NOW,
    }
    for number in range(5):
        await one.told(9, synth.update(OTHER.place + number, 0, 2))
    assert len(one.gossip.intake._unknown) == 2


async def test_duplicates_fall_out_before_they_are_hashed(house: Make):
    one = await ready(house, ONE)
    everything = (ONE.frame, ONE.update(0), ONE.update(1), synth.node(1))
    await one.told(9, *everything)
    verified = one.gossip._verifier.verified
    for _ in range(10):
        await one.told(9, *everything)
    assert one.gossip._verifier.verified == verified
    assert counts(one)["duplicates"] == 40


async def test_a_channel_may_change_its_mind_ten_times_then_once_a_minute(house: Make, clock: Clock):
    """checklist 59: a burst of 10, then one a minute; forged updates use nothing up."""
    one = await ready(house, ONE)
    await one.told(9, ONE.frame)
    forged = [synth.update(ONE.place, 0, 7, NOW + number) for number in range(15)]
    await one.told(9, *forged)
    for number in range(15):
        await one.told(9, ONE.update(0, NOW + number))
    assert one.gossip.book.timestamp(ONE.place, 0) == NOW + 9
    assert counts(one)["rate_limited"] == 5
    clock.forward(61)
    await one.told(9, ONE.update(0, NOW + 20), ONE.update(1, NOW))
    await one.told(9, ONE.update(0, NOW + 21))
    assert one.gossip.book.timestamp(ONE.place, 0) == NOW + 20
    assert one.gossip.book.timestamp(ONE.place, 1) == NOW


async def test_channel_is_pruned_when_its_older_side_is_two_weeks_old(house: Make, clock: Clock):
    """checklist 57: one fresh side does not keep it; two fresh sides do. A side that never spoke counts from the
    announcement."""
    third = synth.channel(3, 4, 702)
    one = await ready(house, ONE, OTHER, third)
    for public in (ONE, OTHER):
        await one.told(9, public.frame, public.update(0), public.update(1))
    await one.told(9, third.frame, third.update(0))
    clock.forward(STALE_SECONDS - 10)
    later = int(clock.wall)
    await one.told(
        9, ONE.update(0, later), ONE.update(1, later), OTHER.update(0, later), third.update(0, later)
    )
    one.gossip.prune()
    assert len(one.graph.channels) == 3
    clock.forward(60)
    one.gossip.prune()
    assert list(one.graph.channels) == [ONE.place]
    assert one.gossip.store.policy(OTHER.place, 0) is None


# Nodes (58).


async def test_node_is_taken_when_it_has_a_channel_and_is_newer(house: Make):
    """checklist 58: kept, with trailing fields that we do not know."""
    one = await ready(house, ONE)
    frame = synth.node(1, extra=b"\x01\x02later")
    await one.told(9, ONE.frame, frame)
    assert one.graph.nodes[node_id(1)][:2] == (NOW, bolt7.padded_alias("n1"))
    assert one.gossip.store.node(node_id(1)) == frame
    await one.told(9, synth.node(1, NOW - 1))
    assert one.graph.nodes[node_id(1)][0] == NOW


async def test_node_without_a_channel_is_ignored(house: Make):
    """checklist 58, broken."""
    one = await ready(house, ONE)
    await one.told(9, ONE.frame, synth.node(3))
    assert one.graph.nodes == {} and warnings(one) == []


@pytest.mark.parametrize(
    ("addresses", "taken", "relayed", "warned"),
    [
        (b"\x01\1\2\3\4\0\1" + b"\xc8what is this", True, True, False),
        (b"\x05\x01a\0\1\x05\x01b\0\1", True, False, False),
        (b"\x01\1\2\3", False, False, True),
    ],
    ids=["unknown type", "two names", "cut off"],
)
async def test_addresses_of_a_node(house: Make, addresses: bytes, taken: bool, relayed: bool, warned: bool):
    """checklist 58: an unknown type stops parsing but not the message; two DNS names are kept from others."""
    one = await ready(house, ONE)
    await one.told(9, ONE.frame, synth.node(1, addresses=addresses))
    assert (node_id(1) in one.graph.nodes) == taken
    assert bool(one.gossip.relay.take().nodes) == relayed
    assert bool(warnings(one)) == warned


async def test_node_with_a_wrong_signature_is_a_fault(house: Make):
    """checklist 58, broken."""
    one = await ready(house, ONE)
    frame = synth.node(1)
    await one.told(9, ONE.frame, frame + b"\0")
    assert one.graph.nodes == {} and warnings(one) == ["a node_announcement with a wrong signature"]


# Bounds.


async def test_peer_that_sends_rubbish_is_muted_and_not_cut_off(house: Make):
    one = await ready(house, ONE, limits=GossipLimits(bad_messages=3))
    for _ in range(5):
        await one.told(9, b"\x01\x02short", b"\x01\x00short", b"\x01\x01short")
    assert one.gossip.talk.peers[node_id(9)].muted
    assert len(warnings(one)) == 1
    one.hears(9, ONE.frame)
    await turns(50)
    assert one.graph.channels == {}
    one.up(8)
    await turns()
    await one.told(8, ONE.frame)
    assert ONE.place in one.graph.channels


async def test_gossip_beyond_the_budget_of_a_peer_is_dropped_unread(house: Make, clock: Clock):
    """checklist 59: per peer."""
    one = await ready(house, ONE, limits=GossipLimits(messages_burst=5, messages_per_second=1))
    one.up(9, features=b"")  # one that we ask nothing
    await turns()
    peer = one.gossip.talk.peers[node_id(9)]
    one.hears(9, *(ONE.update(0, NOW + number) for number in range(8)))
    await until(lambda: one.gossip.intake.counts.frames == 5)
    assert peer.dropped == 3
    clock.forward(2)
    one.hears(9, *(ONE.update(0, NOW + number) for number in range(8)))
    await until(lambda: one.gossip.intake.counts.frames == 7)
    assert peer.dropped == 9


async def test_queue_of_a_peer_is_bounded_while_the_chain_thinks(house: Make):
    one = await ready(house, ONE, limits=GossipLimits(queue_frames=50))
    one.chain.hold = asyncio.Event()
    one.hears(9, ONE.frame)
    await until(lambda: one.chain.open == 1)
    one.hears(9, *(ONE.update(0, NOW + number) for number in range(500)))
    await turns()
    peer = one.gossip.talk.peers[node_id(9)]
    assert (peer.waiting, peer.dropped) == (50, 450)
    one.chain.hold.set()
    await until(lambda: peer.waiting == 0)


async def test_capacity_is_what_the_chain_says(house: Make):
    big = synth.channel(1, 2, 705, capacity=Sat(5))
    one = await ready(house, big)
    await one.told(9, big.frame, big.update(0, htlc_maximum_msat=Msat(5001)))
    assert one.graph.channels[big.place][2] == 5 and one.graph.policies == {}


async def test_no_bytes_of_a_peer_are_a_bug(house: Make, capsys: pytest.CaptureFixture[str]):
    """Every type of gossip, cut and changed at any place: faults at most, and the graph stays true."""
    random = Random(7)
    one = await ready(
        house, ONE, limits=GossipLimits(bad_messages=10**6, messages_burst=10**6, bytes_burst=10**9)
    )
    await one.told(9, ONE.frame, ONE.update(0))
    before = (dict(one.graph.channels), dict(one.graph.policies))
    seeds = [
        OTHER.frame,
        ONE.update(1),
        synth.node(1),
        encode(wire.QueryChannelRange(synth.CHAIN, 0, 900, wire.QueryChannelRangeTlvs(query_option=3))),
        encode(queries.ids_query(synth.CHAIN, [(ONE.place, 31)], flags=True)),
        encode(wire.ReplyChannelRange(synth.CHAIN, 0, 900, 1, (ONE.place,))),
        encode(wire.GossipTimestampFilter(synth.CHAIN, 0, 0xFFFFFFFF)),
        encode(wire.AnnouncementSignatures(bytes(32), ONE.place, bytes(64), bytes(64))),
        encode(wire.ReplyShortChannelIdsEnd(synth.CHAIN, 1)),
    ]
    frames = []
    for seed in seeds:
        for _ in range(60):
            frame = bytearray(seed)
            for _ in range(random.randrange(1, 4)):
                frame[random.randrange(2, len(frame))] = random.randrange(256)
            frames.append(bytes(frame[: random.randrange(2, len(frame) + 1)]))
        frames += [seed[:2], seed[:3], seed + b"\xff" * 9]
    capsys.readouterr()
    for start in range(0, len(frames), 20):
        await one.told(9, *frames[start : start + 20])
    assert "event=bug" not in (said := capsys.readouterr().out) and "bug  " not in said
    assert (dict(one.graph.channels), dict(one.graph.policies)) == before
    await one.told(9, ONE.update(1))
    assert len(one.graph.policies) == 2, "its gossip is still worked on"


@pytest.mark.parametrize("count", [3, 30, 200])
async def test_batches_of_signatures_on_two_threads_find_the_wrong_ones(count: int):
    """Inline, on one thread, on two: the answer is the same, in order."""
    verifier = Verifier()
    groups = []
    for number in range(count):
        frame = ONE.update(0, NOW + number)
        message = decode(frame)
        assert isinstance(message, wire.ChannelUpdate)
        good = bolt7.check_of_update(message, frame, node_id(ONE.origin(0)))
        groups.append((good, good._replace(digest=bytes(32)) if number % 3 == 1 else good))
    assert await verifier.all_hold(groups) == [number % 3 != 1 for number in range(count)]
    assert verifier.verified == 2 * count
    verifier.close()
