"""Our own channels and node: announced together with the peer, updated, refreshed, disabled (checklist 57, 59, 61)."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from node.routing.gossip.own import AWAY_SECONDS, REFRESH_SECONDS
from protocol.amounts import Msat, scid
from protocol.bolt7 import announcement as bolt7
from protocol.bus.messages import routing
from protocol.bus.messages import signer as contract
from protocol.wire import bolt1, encode
from protocol.wire.bolt7_gossip import (
    AnnouncementSignatures,
    ChannelAnnouncement,
    ChannelUpdate,
    NodeAnnouncement,
)
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import POLICY, TIP, Clock, join, own_info, turns, until
from tests.node.routing.gossip.living import (
    ALIAS,
    OTHER,
    PEER,
    PUBLIC,
    US,
    change,
    connect,
    heard,
    living,
    the_id,
    theirs,
)
from tests.node.routing.gossip.synth import NOW, node_id

# announcement_signatures (61).


async def test_signatures_go_both_ways_and_make_an_announcement(house: Make):
    """checklist 61: kept; the message that both sides build is right in all four signatures."""
    one = await living(house)
    one.up(OTHER)
    await connect(one)
    (sent,) = heard(one, AnnouncementSignatures)
    assert isinstance(sent, AnnouncementSignatures) and sent.short_channel_id == PUBLIC.place
    assert PUBLIC.place not in one.graph.channels
    await one.told(PEER, theirs())
    await until(lambda: PUBLIC.place in one.graph.channels)
    frame = one.gossip.store.channel(PUBLIC.place)
    assert frame == PUBLIC.frame


async def test_own_gossip_ignores_filters_and_comes_in_order(house: Make):
    """checklist 59: to everybody at once, the announcement before the update, before the node."""
    one = await living(house)
    one.up(OTHER)
    await connect(one)
    await one.told(PEER, theirs())
    await until(lambda: heard(one, NodeAnnouncement, OTHER))
    kinds = [type(message) for message in one.peers.said_to(OTHER)]
    wanted = (ChannelAnnouncement, ChannelUpdate, NodeAnnouncement)
    assert tuple(kind for kind in kinds if kind in wanted) == wanted
    (update,) = heard(one, ChannelUpdate, OTHER)
    assert isinstance(update, ChannelUpdate)
    assert (update.message_flags, update.short_channel_id) == (bolt7.MUST_BE_ONE, PUBLIC.place)


@pytest.mark.parametrize(
    "changes",
    [
        {"funding_confirmations": 5},
        {"announce": False},
        {"state": "CHANNELD_AWAITING_LOCKIN"},
        {"state": "CHANNELD_SHUTTING_DOWN"},
        {"short_channel_id": None},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_no_signatures_before_their_time(house: Make, changes: dict[str, object]):
    """checklist 61, broken: too few confirmations, not agreed, no channel_ready, shutdown sent."""
    one = await living(house, **changes)
    await connect(one)
    await one.told(PEER, theirs())
    await turns(50)
    assert heard(one, AnnouncementSignatures) == []
    assert PUBLIC.place not in one.graph.channels


async def test_signatures_of_an_early_peer_wait_for_our_view(house: Make):
    """checklist 61: deferred, not refused."""
    one = await living(house, funding_confirmations=5)
    await connect(one)
    await one.told(PEER, theirs())
    assert PUBLIC.place not in one.graph.channels and heard(one, bolt1.Warning) == []
    channel_id = next(iter(one.channels.infos))
    one.channels.infos[channel_id] = replace(one.channels.infos[channel_id], funding_confirmations=6)
    await one.block(TIP + 1)
    await until(lambda: PUBLIC.place in one.graph.channels)
    assert len(heard(one, AnnouncementSignatures)) == 1


async def test_signatures_again_on_reconnect_until_the_peers_came(house: Make):
    """checklist 61: once on each connection, and no more when both have them."""
    one = await living(house)
    for connection in (1, 2, 3):
        await connect(one, connection=connection)
        await change(one)
        assert len(heard(one, AnnouncementSignatures)) == connection
        one.down(PEER, connection)
        await change(one, reestablished=False)
    await connect(one, connection=4)
    one.hears(PEER, theirs(), connection=4)
    await until(lambda: PUBLIC.place in one.graph.channels)
    one.down(PEER, 4)
    await connect(one, connection=5)
    assert len(heard(one, AnnouncementSignatures)) == 4


async def test_a_peer_that_lost_ours_gets_them_again_but_not_for_ever(house: Make):
    """checklist 61: its signatures are answered with ours once a connection, so two nodes never play ping-pong."""
    one = await living(house)
    await connect(one)
    await one.told(PEER, theirs())
    await until(lambda: PUBLIC.place in one.graph.channels)
    one.down(PEER)
    await connect(one, connection=2)
    for _ in range(5):
        one.hears(PEER, theirs(), connection=2)
        await one.quiet()
        await turns(40)
    assert len(heard(one, AnnouncementSignatures)) == 2


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (theirs(scid(800, 1, 3)), b"another short_channel_id"),
        (theirs(number=US), b"do not sign"),
    ],
    ids=["place", "signature"],
)
async def test_wrong_signatures_of_the_peer_are_warned(house: Make, frame: bytes, words: bytes):
    """checklist 61, broken."""
    one = await living(house)
    await connect(one)
    await one.told(PEER, frame)
    await until(lambda: heard(one, bolt1.Warning))
    (warning,) = heard(one, bolt1.Warning)
    assert isinstance(warning, bolt1.Warning) and words in warning.data
    assert PUBLIC.place not in one.graph.channels
    await one.told(PEER, theirs())
    await until(lambda: PUBLIC.place in one.graph.channels)


async def test_signatures_for_a_channel_of_another_peer_are_warned(house: Make):
    one = await living(house)
    one.up(OTHER)
    await connect(one)
    await one.told(OTHER, theirs())
    assert len(heard(one, bolt1.Warning, OTHER)) == 1 and PUBLIC.place not in one.graph.channels


async def test_two_nodes_announce_their_channel_to_each_other(house: Make):
    """checklist 61: both services, with the first signatures lost on the way and repeated on the next connection."""
    one, two = await living(house), await living(house, PEER, US)
    for channel_id in list(two.channels.infos):  # one channel has one id at both ends
        info = two.channels.infos.pop(channel_id)
        two.channels.infos[the_id()] = replace(info, channel_id=the_id())
        two.payments.policies = {the_id(): POLICY}
    await two.gossip._own_channels(None)
    two.gossip.own.gone([bytes([PEER, US]) * 16])
    two.gossip.own.set_policy(the_id(), POLICY)
    one.peers.lose = lambda frame: frame[1] == 3
    join(one, two)
    await turns()
    for house_ in (one, two):
        await change(house_)
    assert PUBLIC.place not in two.graph.channels
    one.peers.lose = lambda _frame: False
    join(one, two, connection=2)
    await turns()
    for house_ in (one, two):
        await change(house_)
    await until(lambda: len(one.graph.policies) == 2 and len(two.graph.policies) == 2)
    assert one.graph.channels == two.graph.channels
    assert one.graph.policies == two.graph.policies
    answer = await one.bus.request("gossip", routing.PeerPolicy(the_id()))
    assert answer.policy == POLICY


# channel_update of ours (57).


async def test_private_peer_gets_our_update_under_its_alias(house: Make):
    """checklist 57: dont_forward, the alias that the peer gave us, and to nobody else."""
    one = await living(house, announce=False, alias_remote=ALIAS)
    one.up(OTHER)
    await connect(one)
    (update,) = heard(one, ChannelUpdate)
    assert isinstance(update, ChannelUpdate)
    assert update.message_flags == bolt7.MUST_BE_ONE | bolt7.DONT_FORWARD
    assert update.short_channel_id == ALIAS
    assert update.htlc_maximum_msat == min(POLICY.htlc_maximum_msat, 900_000_000)
    assert heard(one, ChannelUpdate, OTHER) == [] and one.graph.policies == {}
    raw = await one.bus.request("gossip", routing.OwnUpdate(the_id()))
    assert raw.raw == encode(update)


async def test_update_promises_no_more_than_the_peer_takes(house: Make):
    """checklist 57: the smallest of policy, capacity and the peer's limit in flight."""
    one = await living(house, announce=False, max_in_flight_msat=Msat(5_000))
    await connect(one)
    (update,) = heard(one, ChannelUpdate)
    assert isinstance(update, ChannelUpdate) and update.htlc_maximum_msat == 5_000


async def test_no_update_without_news_and_one_on_each_connection(house: Make):
    """checklist 57: nothing redundant is signed."""
    one = await living(house, announce=False)
    for connection in (1, 2):
        await connect(one, connection=connection)
        await change(one)
        one.down(PEER, connection)
        await change(one, reestablished=False)
    first, second = heard(one, ChannelUpdate)
    assert first == second
    assert sum(isinstance(r, contract.SignChannelUpdate) for r in one.signer.asked) == 1


@pytest.mark.parametrize("announce", [True, False])
async def test_nothing_is_said_anew_after_a_restart(house: Make, tmp_path: Path, announce: bool):
    """checklist 57: the update from before is told again as it is; signatures are not asked for."""
    said: list[object] = []
    for connection in (1, 2):
        one = await living(house, path=tmp_path / "gossip.db", announce=announce)
        await connect(one, connection=connection)
        if announce and connection == 1:
            await one.told(PEER, theirs())
            await until(lambda: one.graph.nodes)  # noqa: B023  awaited here
        await until(lambda: heard(one, ChannelUpdate))  # noqa: B023
        said.append(heard(one, ChannelUpdate)[-1])
        if connection == 2:
            assert one.signer.asked == []
        await one.stop()
    assert said[0] == said[1]


async def test_a_new_policy_is_told_with_a_newer_time(house: Make):
    """checklist 57: also twice within one second."""
    one = await living(house, announce=False)
    await connect(one)
    for fee in (5, 6):
        changed = replace(POLICY, fee_base_msat=Msat(fee))
        one.bus.publish(routing.PolicyChanged(the_id(), changed))
        await turns(40)
    updates = [u for u in heard(one, ChannelUpdate) if isinstance(u, ChannelUpdate)]
    assert [u.fee_base_msat for u in updates] == [1000, 5, 6]
    assert [u.timestamp for u in updates] == [NOW, NOW + 1, NOW + 2]


async def test_policy_of_a_channel_that_opens_later_is_asked_for(house: Make):
    """Payments tell of changes only; a new channel has the usual policy without one."""
    one = await house()
    info = own_info(one.number, PEER, PUBLIC, announce=False)
    one.signer.peer_of[info.handle] = PEER
    one.channels.infos[info.channel_id] = info
    one.payments.policies[info.channel_id] = POLICY
    await connect(one)
    assert len(heard(one, ChannelUpdate)) == 1


async def test_update_is_refreshed_before_others_prune_it(house: Make, clock: Clock):
    """checklist 57: ten days old, four before its end."""
    one = await living(house)
    await connect(one)
    await one.told(PEER, theirs())
    await until(lambda: one.graph.policies)
    await one.tick(REFRESH_SECONDS - 60)
    await turns(40)
    before = len(heard(one, ChannelUpdate))
    await one.tick(61)
    await until(lambda: len(heard(one, ChannelUpdate)) > before)
    newest = heard(one, ChannelUpdate)[-1]
    assert isinstance(newest, ChannelUpdate) and newest.timestamp == int(clock.wall)


async def test_update_of_ours_that_we_forgot_is_followed_by_a_newer_one(house: Make):
    """checklist 57: after a loss of the store the network may hold a newer one than we remember."""
    one = await living(house)
    one.up(OTHER)
    await connect(one)
    await one.told(PEER, theirs())
    await until(lambda: one.graph.policies)
    direction = bolt7.direction_of(node_id(US), node_id(PEER))
    await one.told(OTHER, synth.update(PUBLIC.place, direction, US, NOW + 500, fee_base_msat=Msat(9)))
    assert one.graph.policies[(PUBLIC.place, direction)][0] == NOW + 500
    await one.tick(60)
    await until(lambda: one.graph.policies[(PUBLIC.place, direction)][0] == NOW + 501)
    assert one.graph.policies[(PUBLIC.place, direction)][6] == POLICY.fee_base_msat


async def test_channel_is_disabled_when_its_peer_stays_away_and_enabled_when_it_comes(house: Make):
    """checklist 57: not at once, since most come back soon."""
    one = await living(house)
    one.up(OTHER)
    await connect(one)
    await one.told(PEER, theirs())
    await until(lambda: one.graph.policies)
    one.down(PEER)
    await change(one, reestablished=False)
    await one.tick(AWAY_SECONDS - 1)
    await turns(40)

    def flags() -> list[int]:
        return [u.channel_flags & 2 for u in heard(one, ChannelUpdate, OTHER) if isinstance(u, ChannelUpdate)]

    assert flags() == [0]
    await one.tick(61)
    await until(lambda: flags() == [0, 2])
    await connect(one, connection=2)
    await until(lambda: flags() == [0, 2, 0])


async def test_closing_channel_is_disabled_then_spent(house: Make):
    """checklist 56, 57: told at once; 72 blocks later it is forgotten."""
    one = await living(house)
    one.up(OTHER)
    await connect(one)
    await one.told(PEER, theirs())
    await until(lambda: one.graph.policies)
    await change(one, state="CHANNELD_SHUTTING_DOWN")
    last = heard(one, ChannelUpdate, OTHER)[-1]
    assert isinstance(last, ChannelUpdate) and last.channel_flags & bolt7.DISABLED
    one.chain.spend(PUBLIC)
    await change(one, state="CLOSED")
    assert PUBLIC.place in one.gossip.book.spent
    await one.block(TIP + 72)
    assert PUBLIC.place not in one.graph.channels


async def test_signer_that_is_away_delays_and_loses_nothing(house: Make):
    one = await living(house, announce=False, state="CHANNELD_AWAITING_LOCKIN")
    one.signer.away = True
    await connect(one)
    await change(one, state="CHANNELD_NORMAL")
    assert heard(one, ChannelUpdate) == []
    one.signer.away = False
    await one.tick(60)
    await until(lambda: heard(one, ChannelUpdate))


async def test_refusal_of_the_signer_is_said_once_and_tried_again(house: Make):
    one = await living(house, announce=False, state="CHANNELD_AWAITING_LOCKIN")
    one.signer.instead = contract.Refused("gossip-time", "rule", "seen", "limit", "Compare the clocks.")
    await connect(one)
    await change(one, state="CHANNELD_NORMAL")
    await one.tick(60)
    await turns(40)
    assert heard(one, ChannelUpdate) == [] and len(one.signer.asked) >= 2
    one.signer.instead = None
    await one.tick(60)
    await until(lambda: heard(one, ChannelUpdate))


async def test_unknown_channels_have_no_policy_and_no_update(house: Make):
    one = await house()
    assert (await one.bus.request("gossip", routing.PeerPolicy(bytes(32)))).policy is None
    assert (await one.bus.request("gossip", routing.OwnUpdate(bytes(32)))).raw is None


# Our node (58).


async def test_node_without_an_announced_channel_says_nothing_of_itself(house: Make):
    """checklist 58, broken: nobody would take it."""
    one = await living(house, announce=False)
    await connect(one)
    assert not any(isinstance(r, contract.SignNodeAnnouncement) for r in one.signer.asked)


async def test_node_is_announced_once_and_to_each_peer_that_comes(house: Make):
    """checklist 58: kept; a peer that comes later hears all that is ours."""
    one = await living(house)
    await connect(one)
    await one.told(PEER, theirs())
    await until(lambda: one.graph.nodes)
    await one.tick(60)
    await turns(40)
    assert sum(isinstance(r, contract.SignNodeAnnouncement) for r in one.signer.asked) == 1
    one.up(OTHER)
    await until(lambda: heard(one, NodeAnnouncement, OTHER))
    kinds = [type(m) for m in one.peers.said_to(OTHER)]
    assert kinds[:3] == [ChannelAnnouncement, ChannelUpdate, NodeAnnouncement]
