"""Asking peers: one question of each kind, answers that fit, deadlines, and who is asked (checklist 60)."""

import pytest

from node.routing.gossip import sync
from node.routing.gossip.syncers import ACTIVE, FULL_SYNCS, RECENT_BLOCKS, ROTATE_SECONDS, Syncers
from protocol.amounts import ShortChannelId, scid
from protocol.bitcoin.network import MAINNET
from protocol.bolt7 import queries
from protocol.errors import PeerViolation
from protocol.wire import encode
from protocol.wire.bolt7_gossip import (
    ChannelUpdateChecksums,
    ChannelUpdateTimestamps,
    GossipTimestampFilter,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyChannelRangeTlvs,
    ReplyShortChannelIdsEnd,
)
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import FEATURES, House, join, turns, until
from tests.node.routing.gossip.synth import CHAIN, NOW, node_id

OLD = NOW - 86_400
"""From before the filter that a new connection begins with, so that only questions bring it."""


def machine(*, extended: bool = True) -> sync.PeerSync:
    return sync.PeerSync(CHAIN, extended=extended)


def reply(first: int, blocks: int, complete: int, *ids: int, **tlvs: object) -> ReplyChannelRange:
    return ReplyChannelRange(
        CHAIN,
        first,
        blocks,
        complete,
        tuple(ShortChannelId(one) for one in ids),
        ReplyChannelRangeTlvs(**tlvs),  # type: ignore[arg-type]
    )


def everything(*_: object) -> int:
    return queries.ASK_ALL


# The machine.


def test_extended_peers_are_asked_for_timestamps_and_checksums():
    """checklist 60: the option only for who offers gossip_queries_ex."""
    assert machine().ask_range(5, 10, 0.0).tlvs.query_option == 3
    assert machine(extended=False).ask_range(5, 10, 0.0).tlvs.query_option is None


def test_one_question_at_a_time():
    """checklist 60: kept by refusing ourselves the second."""
    one = machine()
    one.ask_range(0, 100, 0.0)
    with pytest.raises(RuntimeError):
        one.ask_range(0, 100, 0.0)
    one.want(scid(1, 1, 1))
    assert one.ask_ids(lambda _: True, 0.0) is None
    assert one.range_reply(reply(0, 100, 1), everything, 0.0)
    assert one.ask_ids(lambda _: True, 0.0) is not None
    one.want(scid(2, 1, 1))
    assert one.ask_ids(lambda _: True, 0.0) is None
    assert one.ids_end(ReplyShortChannelIdsEnd(CHAIN, 1))
    assert one.ask_ids(lambda _: True, 0.0) is not None


def test_replies_add_up_until_complete():
    """checklist 60: complete only with the last; blocks may be shared by two replies."""
    one = machine()
    one.ask_range(100, 50, 0.0)
    assert not one.range_reply(reply(100, 11, 0, scid(100, 1, 0), scid(110, 1, 0)), everything, 0.0)
    assert not one.range_reply(reply(110, 5, 0, scid(110, 2, 0)), everything, 0.0)
    assert one.range_reply(reply(115, 35, 1, scid(149, 1, 0)), everything, 0.0)
    assert list(one.wanted) == [scid(100, 1, 0), scid(110, 1, 0), scid(110, 2, 0), scid(149, 1, 0)]


def test_canned_replies_may_exceed_the_question():
    """checklist 60: what lies outside of it is left alone."""
    one = machine()
    one.ask_range(150, 10, 0.0)
    ids = (scid(149, 1, 0), scid(155, 1, 0), scid(160, 1, 0))
    assert one.range_reply(reply(0, 1000, 1, *ids), everything, 0.0)
    assert list(one.wanted) == [scid(155, 1, 0)]


@pytest.mark.parametrize(
    "answers",
    [
        [reply(101, 50, 1)],
        [reply(0, 100, 1)],
        [reply(100, 20, 0, scid(100, 1, 0)), reply(100, 20, 0)],
        [reply(100, 20, 0, scid(100, 1, 0)), reply(150, 20, 0)],
        [reply(100, 50, 1, scid(101, 1, 0), scid(100, 1, 0))],
        [reply(100, 50, 1, scid(101, 1, 0), scid(101, 1, 0))],
        [reply(100, 50, 1, scid(101, 1, 0), timestamps=(ChannelUpdateTimestamps(1, 1),) * 2)],
        [reply(100, 50, 1, scid(101, 1, 0), checksums=())],
        [ReplyChannelRange(MAINNET.chain_hash, 100, 50, 1, ())],
    ],
    ids=["gap", "before", "back", "behind", "descending", "twice", "timestamps", "checksums", "chain"],
)
def test_replies_that_do_not_fit_are_violations(answers: list[ReplyChannelRange]):
    """checklist 60, broken."""
    one = machine()
    one.ask_range(100, 50, 0.0)
    *fitting, broken = answers
    for answer in fitting:
        assert not one.range_reply(answer, everything, 0.0)
    with pytest.raises(PeerViolation):
        one.range_reply(broken, everything, 0.0)


def test_unasked_replies_are_nothing():
    one = machine()
    assert not one.range_reply(reply(0, 100, 1, scid(1, 1, 1)), everything, 0.0)
    assert not one.ids_end(ReplyShortChannelIdsEnd(CHAIN, 1))
    assert one.wanted == {}


def test_what_is_wanted_is_asked_in_pieces_and_ascending():
    """checklist 60."""
    one = machine()
    for number in range(queries.IDS_IN_QUERY + 5):
        one.want(scid(500 - number % 400, number, 0), 1)
    first = one.ask_ids(lambda _: True, 0.0)
    assert first is not None and len(first.encoded_short_ids) == queries.IDS_IN_QUERY
    assert list(first.encoded_short_ids) == sorted(first.encoded_short_ids)
    assert first.tlvs.query_flags == (1,) * queries.IDS_IN_QUERY
    assert len(encode(first)) < 65_535
    one.ids_end(ReplyShortChannelIdsEnd(CHAIN, 1))
    second = one.ask_ids(lambda _: True, 0.0)
    assert second is not None and len(second.encoded_short_ids) == 5


def test_what_others_brought_meanwhile_is_not_asked():
    one = machine()
    one.want(scid(1, 1, 0))
    one.want(scid(2, 1, 0))
    query = one.ask_ids(lambda place: place != scid(1, 1, 0), 0.0)
    assert query is not None and query.encoded_short_ids == (scid(2, 1, 0),)


@pytest.mark.parametrize("kind", ["range", "ids"])
def test_silence_ends_a_question(kind: str):
    """checklist 60: on the clock of the test."""
    one = machine()
    if kind == "range":
        one.ask_range(0, 100, 10.0)
        limit = sync.RANGE_SECONDS
    else:
        one.want(5)
        one.ask_ids(lambda _: True, 10.0)
        limit = sync.IDS_SECONDS
    assert one.late(10.0 + limit) is None
    assert one.late(10.1 + limit) is not None
    assert one.late(99_999.0) is None and isinstance(one.open, sync.Quiet)


def test_an_answer_under_way_is_not_late():
    one = machine()
    one.want(5)
    one.ask_ids(lambda _: True, 0.0)
    one.heard(250.0)
    assert one.late(500.0) is None


T, C = ChannelUpdateTimestamps, ChannelUpdateChecksums
STALE, AGING = NOW - 14 * 86_400, NOW - 7 * 86_400


@pytest.mark.parametrize(
    ("known", "timestamps", "checksums", "asked"),
    [
        (None, None, None, 31),
        ((NOW, NOW), None, None, 0),
        (None, T(NOW, NOW), None, 31),
        (None, T(NOW, 0), None, 31),
        (None, T(NOW, STALE - 1), None, 0),
        (None, T(0, 0), None, 0),
        ((NOW, NOW), T(NOW, NOW), C(1, 1), 0),
        ((NOW - 5, NOW), T(NOW, NOW), None, 2),
        ((NOW - 5, NOW - 5), T(NOW, NOW), C(7, 1), 4),
        ((NOW - 5, NOW - 5), T(NOW, NOW), C(7, 7), 0),
        ((AGING - 1, NOW), T(NOW, NOW), C(7, 7), 2),
        ((0, NOW), T(NOW, NOW), C(7, 7), 2),
        ((NOW - 30 * 86_400, NOW), T(STALE - 5, NOW), C(1, 7), 0),
    ],
    ids=[
        "unknown",
        "known, no times",
        "new",
        "one side",
        "zombie",
        "no update",
        "equal",
        "newer",
        "other content",
        "same content",
        "same, but ours is old",
        "side that we lack",
        "older than two weeks",
    ],
)
def test_only_what_is_lacking_is_asked(
    known: tuple[int, int] | None, timestamps: T | None, checksums: C | None, asked: int
):
    """checklist 60: timestamps and checksums save what we have."""
    found = sync.lacking(
        known, timestamps, lambda _, total: total != 7, checksums, stale_before=STALE, aging_before=AGING
    )
    assert found == asked


# Two services.


async def pair(house: Make, *, channels: int = 40) -> tuple[House, House, list[synth.Public]]:
    """A house that knows a network, and one that knows nothing."""
    known = list(synth.network(10, channels))
    teacher, pupil = await house(60), await house(61)
    for one in (teacher, pupil):
        one.chain.confirm(*known)
    teacher.up(9)
    await turns()
    for public in known:
        await teacher.told(9, public.frame, public.update(0, OLD), public.update(1, OLD))
    await teacher.told(9, *(synth.node(number, OLD) for number in range(10)))
    assert len(teacher.graph.channels) == channels
    return teacher, pupil, known


def said(one: House, to: int, kind: type) -> list[object]:
    return [message for message in one.peers.said_to(to) if isinstance(message, kind)]


async def test_a_new_node_learns_the_graph_of_its_peer(house: Make):
    """checklist 60: range question, ids question, answers, and the end."""
    teacher, pupil, _ = await pair(house)
    join(teacher, pupil)
    await turns()
    await pupil.tick()
    await until(lambda: len(pupil.graph.policies) == 80 and len(pupil.graph.nodes) == 10)
    assert pupil.graph.channels == teacher.graph.channels
    assert len(said(pupil, 60, QueryChannelRange)) == 1
    assert len(said(pupil, 60, QueryShortChannelIds)) == 1
    (told,) = said(pupil, 60, GossipTimestampFilter)
    assert isinstance(told, GossipTimestampFilter) and NOW - 3_600 < told.first_timestamp <= NOW
    assert pupil.gossip._verifier.verified == 40 * 4 + 80 + 10


async def test_a_second_sync_asks_for_what_changed(house: Make):
    """checklist 60: with timestamps and checksums of both sides."""
    teacher, pupil, known = await pair(house, channels=12)
    join(teacher, pupil)
    await turns()
    await pupil.tick()
    await until(lambda: len(pupil.graph.policies) == 24)
    teacher.down(61)
    pupil.down(60)
    await turns()
    await teacher.told(9, known[3].update(1, OLD + 9, cltv_expiry_delta=99), known[4].update(0, OLD + 9))
    join(teacher, pupil, connection=2)
    await turns()
    before = pupil.gossip.intake.counts.updates
    await pupil.tick()
    await until(lambda: pupil.gossip.book.timestamp(known[3].place, 1) == OLD + 9)
    asked = said(pupil, 60, QueryShortChannelIds)[-1]
    assert isinstance(asked, QueryShortChannelIds)
    assert (asked.encoded_short_ids, asked.tlvs.query_flags) == ((known[3].place,), (queries.ASK_UPDATE_2,))
    assert pupil.gossip.intake.counts.updates == before + 1, (
        "the same content with a newer time is left alone"
    )


async def test_a_peer_without_gossip_queries_is_not_asked(house: Make):
    """checklist 60, broken: who does not offer it is not worth asking."""
    one = await house()
    one.up(9, features=b"")
    await turns()
    await one.tick()
    assert one.peers.sent == []


async def test_a_peer_that_does_not_answer_is_given_up(house: Make):
    one = await house()
    one.up(9)
    await turns()
    await one.tick()
    assert len(said(one, 9, QueryChannelRange)) == 1
    await one.tick(sync.RANGE_SECONDS + 1)
    last = said(one, 9, GossipTimestampFilter)
    assert any(isinstance(m, GossipTimestampFilter) and m.timestamp_range == 0 for m in last)


async def test_answers_that_do_not_fit_are_told_with_a_warning(house: Make):
    one = await house()
    one.up(9)
    await turns()
    await one.tick()
    await one.told(9, encode(reply(7, 1, 1)))
    assert any("where 0 was next" in str(getattr(m, "data", b"")) for m in one.peers.said_to(9))


# Who is asked.


async def test_few_peers_are_listened_to_and_they_take_turns(house: Make):
    one = await house()
    for number in range(10, 16):
        one.up(number, features=FEATURES)
    await turns()
    await one.tick()

    def listening() -> set[bytes]:
        return {peer.node_id for peer in one.gossip.talk.peers.values() if peer.active}

    first = listening()
    assert len(first) == ACTIVE
    for number in range(10, 16):
        if node_id(number) in first:
            await one.told(number, encode(reply(0, queries.LAST_BLOCK, 1)))
    await one.tick(ROTATE_SECONDS)
    second = listening()
    assert len(second) == ACTIVE and len(first & second) == ACTIVE - 1


def test_everything_is_asked_of_two_then_what_is_recent():
    syncers = Syncers(lambda: 0.0)
    for _ in range(FULL_SYNCS):
        assert syncers.first_block(900_000, 100.0) == 0
        syncers.finished(0, 100.0)
    assert syncers.first_block(900_000, 200.0) == 900_000 - RECENT_BLOCKS
    assert syncers.first_block(900_000, 100.0 + 7 * 3600) == 0
