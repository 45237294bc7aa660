"""What the peer says of its side of a channel with us, to us alone and in public (checklist 57)."""

import pytest

from protocol.amounts import Msat, ShortChannelId
from protocol.bolt7 import announcement as bolt7
from protocol.bus.messages import routing
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import until
from tests.node.routing.gossip.living import ALIAS, OTHER, PEER, PUBLIC, US, connect, living, the_id, theirs
from tests.node.routing.gossip.synth import NOW, node_id

PEERS_SIDE = bolt7.direction_of(node_id(PEER), node_id(US))


@pytest.mark.parametrize("place", [PUBLIC.place, ALIAS], ids=["real", "alias"])
async def test_the_peers_update_of_a_private_channel_is_kept(house: Make, place: ShortChannelId):
    """checklist 57: of a channel of ours, known to nobody else."""
    one = await living(house, announce=False, alias_local=ALIAS)
    await connect(one)
    frame = synth.update(place, PEERS_SIDE, PEER, NOW, dont_forward=True, fee_base_msat=Msat(77))
    await one.told(PEER, frame)
    answer = await one.bus.request("gossip", routing.PeerPolicy(the_id()))
    assert answer.policy is not None and answer.policy.fee_base_msat == 77
    assert one.graph.policies == {} and len(one.gossip.relay) == 0


@pytest.mark.parametrize("broken", ["source", "signature", "direction", "older", "future"])
async def test_updates_of_others_for_our_private_channel_are_not_kept(house: Make, broken: str):
    """checklist 57, broken."""
    one = await living(house, announce=False)
    one.up(OTHER)
    await connect(one)
    first = synth.update(PUBLIC.place, PEERS_SIDE, PEER, NOW, dont_forward=True, fee_base_msat=Msat(1))
    await one.told(PEER, first)
    who, side, signer, when = PEER, PEERS_SIDE, PEER, NOW + 1
    if broken == "source":
        who = OTHER
    elif broken == "signature":
        signer = OTHER
    elif broken == "direction":
        side, signer = 1 - PEERS_SIDE, PEER
    elif broken == "older":
        when = NOW - 1
    else:
        when = NOW + 3 * 86_400
    await one.told(who, synth.update(PUBLIC.place, side, signer, when, fee_base_msat=Msat(2)))
    answer = await one.bus.request("gossip", routing.PeerPolicy(the_id()))
    assert answer.policy is not None and answer.policy.fee_base_msat == 1


async def test_the_peers_public_update_counts_though_it_was_quicker_than_our_announcement(house: Make):
    """checklist 57: a peer says it once, so it stands as soon as the channel is public; others hear it from us."""
    one = await living(house)
    one.up(OTHER)
    await connect(one)
    await one.told(PEER, synth.update(PUBLIC.place, PEERS_SIDE, PEER, NOW, fee_base_msat=Msat(77)))
    assert one.graph.policies == {}
    await one.told(PEER, theirs())
    await until(lambda: (PUBLIC.place, PEERS_SIDE) in one.graph.policies)
    assert len(one.gossip.relay) == 1


async def test_the_peers_public_update_counts_though_it_came_with_the_announcement(house: Make):
    """As in the answer to a query, after our own graph was lost."""
    one = await living(house)
    one.chain.confirm(PUBLIC)
    await connect(one)
    await one.told(PEER, PUBLIC.frame, synth.update(PUBLIC.place, PEERS_SIDE, PEER, NOW))
    await until(lambda: (PUBLIC.place, PEERS_SIDE) in one.graph.policies)


async def test_what_the_peer_says_to_us_alone_stays_ours_when_the_channel_is_announced(house: Make):
    """checklist 57, broken."""
    one = await living(house)
    await connect(one)
    await one.told(PEER, synth.update(PUBLIC.place, PEERS_SIDE, PEER, NOW, dont_forward=True))
    await one.told(PEER, theirs())
    await until(lambda: (PUBLIC.place, 1 - PEERS_SIDE) in one.graph.policies)
    assert (PUBLIC.place, PEERS_SIDE) not in one.graph.policies
