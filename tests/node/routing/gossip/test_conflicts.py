"""Two announcements for one output, and two updates of one second (BOLT 7, "The `channel_announcement` Message")."""

import pytest
from msgspec.structs import replace

from node.routing.gossip import conflicts
from protocol import curve
from protocol.bolt7 import announcement as bolt7
from protocol.bus.messages.channel import ChannelInfo
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import House, own_info, turns
from tests.node.routing.gossip.synth import NOW, Public, node_id, secret

ONE = synth.channel(1, 2, 700)
OF_LIAR = synth.channel(1, 5, 701)
OTHER = synth.channel(5, 6, 702)
LATER = synth.channel(3, 6, 703)


def conflicting(public: Public, a: int, b: int, *, signed: bool = True) -> bytes:
    """The same output, by the same keys, between the nodes `a` and `b`."""
    both = synth.ends(public.place, public.a, public.b)
    ends = replace(both, local_node_id=node_id(a), remote_node_id=node_id(b))
    digest = bolt7.digest_of_announcement(bolt7.channel_announcement(ends))
    keys = [synth._funding_secret(public.place, number) for number in (public.a, public.b)]
    one, other = (
        bolt7.EndSignatures(curve.sign_ecdsa(secret(node), digest), curve.sign_ecdsa(key, digest))
        for node, key in zip((a, b) if signed else (a, 99), keys, strict=True)
    )
    return bolt7.channel_announcement(ends, one, other)


async def ready(house: Make) -> House:
    one = await house()
    one.chain.confirm(ONE, OF_LIAR, OTHER, LATER)
    one.up(9)
    await turns()
    for public in (ONE, OF_LIAR, OTHER):
        await one.told(9, public.frame, public.update(0))
    assert len(one.graph.channels) == 3
    return one


async def test_nodes_that_announce_one_output_twice_are_not_believed(house: Make):
    """SHOULD blacklist all four nodes and forget their channels."""
    one = await ready(house)
    await one.told(9, conflicting(ONE, 3, 4))
    assert list(one.graph.channels) == [OTHER.place], "of those who signed no lie"
    await one.told(9, LATER.frame, ONE.frame, OF_LIAR.frame, conflicting(ONE, 3, 4))
    assert list(one.graph.channels) == [OTHER.place]
    assert one.gossip.intake.counts.faults == 0, "who passes it on did no wrong"
    await one.tick(60)
    assert len(one.gossip.relay.take()) == 0


async def test_one_end_that_is_another_is_a_conflict_too(house: Make):
    one = await ready(house)
    await one.told(9, conflicting(ONE, 1, 3))
    assert list(one.graph.channels) == [OTHER.place]


async def test_a_conflict_that_is_not_signed_by_all_harms_nobody_but_its_sender(house: Make):
    one = await ready(house)
    await one.told(9, conflicting(ONE, 3, 4, signed=False))
    assert len(one.graph.channels) == 3 and one.gossip.intake.counts.faults == 1
    await one.told(9, LATER.frame)
    assert LATER.place in one.graph.channels


async def test_a_conflict_that_cannot_be_read_is_the_fault_of_its_sender(house: Make):
    one = await ready(house)
    await one.told(9, conflicting(ONE, 3, 4) + b"\xfd")
    assert len(one.graph.channels) == 3 and one.gossip.intake.counts.faults == 1
    await one.told(9, LATER.frame)
    assert LATER.place in one.graph.channels, "its gossip is still worked through"


async def test_an_announcement_with_other_keys_is_no_conflict(house: Make):
    """Its output is not this one: it could be signed by anybody."""
    one = await ready(house)
    stranger = synth.channel(3, 4, 700)
    assert stranger.place == ONE.place
    await one.told(9, stranger.frame)
    assert len(one.graph.channels) == 3 and one.gossip.intake.counts.ignored == 1


async def test_a_channel_with_us_is_not_forgotten_for_what_its_peer_did(house: Make):
    one = await ready(house)
    ours = synth.channel(50, 1, 704)
    info: ChannelInfo = own_info(50, 1, ours)
    one.gossip.own.seen([info])
    one.chain.confirm(ours)
    await one.told(9, ours.frame)
    assert ours.place in one.graph.channels
    await one.told(9, conflicting(ONE, 3, 4))
    assert sorted(one.graph.channels) == [OTHER.place, ours.place]


async def test_the_list_of_those_not_believed_is_bounded(house: Make, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(conflicts, "MOST", 2)
    one = await ready(house)
    await one.told(9, conflicting(ONE, 3, 4))
    assert len(one.gossip.intake._conflicts._liars) == 2


async def test_of_two_updates_of_one_second_the_first_stays(house: Make):
    """BOLT 7: MAY blacklist for it; we only ignore the second, which may be the fault of a restored node."""
    one = await ready(house)
    kept = one.graph.policies[(ONE.place, 0)]
    before = one.gossip.intake.counts.duplicates
    await one.told(9, ONE.update(0, NOW, fee_base_msat=7))
    assert one.graph.policies[(ONE.place, 0)] == kept
    assert one.gossip.intake.counts.duplicates == before + 1
    await one.told(9, ONE.update(0, NOW + 1, fee_base_msat=7))
    assert one.graph.policies[(ONE.place, 0)] != kept
