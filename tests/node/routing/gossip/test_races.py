"""What comes a moment earlier or later than usual, or while something else waits, is not lost (BOLT 7)."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from protocol.amounts import Msat
from protocol.bus.messages import chain, routing
from protocol.bus.messages import channel as channels
from protocol.bus.messages import signer as contract
from protocol.bus.service import handles
from protocol.errors import CommandRefused
from protocol.wire import bolt1, decode
from protocol.wire import bolt7_gossip as wire
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import POLICY, Channels, turns, until
from tests.node.routing.gossip.living import (
    ALIAS,
    OTHER,
    PEER,
    built,
    connect,
    heard,
    living,
    the_id,
    theirs,
)
from tests.node.routing.gossip.synth import node_id

ONE = synth.channel(1, 2, 700)
TWO = synth.channel(2, 3, 701)


# Our own channels.


class Busy(Channels):
    """Refuses the first questions."""

    refusals = 0

    @handles(channels.ListChannels)
    def list_channels(self, request: channels.ListChannels) -> channels.Channels:
        if self.refusals:
            self.refusals -= 1
            raise CommandRefused("it is busy", what_to_do="Wait.")
        return super().list_channels(request)


@pytest.mark.parametrize("when", ["at the start", "later"])
async def test_our_channels_are_asked_for_again_when_nobody_could_tell_of_them(house: Make, when: str):
    """Nobody says a second time that they were touched."""
    one = await built(house, announce=False)
    infos = one.channels.infos
    one.bus.detach("channel", one.channels._inbox)
    one.channels = busy = Busy(one.bus)
    if when == "at the start":
        busy.infos, busy.refusals = infos, 1
    await one.start()
    if when == "later":
        busy.infos, busy.refusals = infos, 1
        one.bus.publish(channels.ChannelsTouched((the_id(),)))
        await turns()
        await one.tick()
    assert busy.refusals == 0 and one.gossip.own.channels == {}
    await one.tick(1.0)
    assert list(one.gossip.own.channels) == [the_id()]


async def test_the_policy_of_a_new_channel_is_asked_for_again(house: Make):
    """The payments may be slower than the channels with what is new."""
    one = await built(house, announce=False)
    one.payments.policies.clear()
    await one.start()
    await connect(one)
    assert one.gossip.own.lacks_policy()
    one.payments.policies[the_id()] = POLICY
    await one.tick(61.0)
    await turns(40)
    assert heard(one, wire.ChannelUpdate)


async def test_a_peer_that_comes_while_the_graph_loads_hears_all_that_is_ours(house: Make, tmp_path: Path):
    """As after each start: the peers of before are there before the graph is."""
    path = tmp_path / "gossip"
    first = await living(house, path=path)
    await connect(first)
    await first.told(PEER, theirs())
    await until(lambda: first.graph.policies)
    await first.tick(2.0)
    await first.stop()
    again = await built(house, path=path)
    again.up(OTHER)
    await again.start()
    await turns(60)
    kinds = {type(message) for message in again.peers.said_to(OTHER)}
    assert {wire.ChannelAnnouncement, wire.ChannelUpdate} <= kinds


async def test_an_update_by_alias_that_was_overtaken_by_a_new_policy_is_not_kept(house: Make):
    """Who is refused for too low a fee must learn the fee of now."""
    one = await living(house, announce=False, alias_local=ALIAS, alias_remote=synth.channel(1, 2, 9).place)
    await connect(one)
    signer, hold = one.signer.call, asyncio.Event()

    async def slow(request: contract.Request) -> contract.Reply:
        reply = await signer(request)
        if isinstance(request, contract.SignChannelUpdate) and request.short_channel_id == ALIAS:
            await hold.wait()
        return reply

    one.signer.call = slow  # type: ignore[method-assign]
    asked = asyncio.create_task(one.bus.request("gossip", routing.OwnUpdate(the_id(), ALIAS)))
    await turns()
    dearer = replace(POLICY, fee_base_msat=Msat(4_321))
    one.bus.publish(routing.PolicyChanged(the_id(), dearer))
    await turns(40)
    hold.set()
    await asked
    newest = await one.bus.request("gossip", routing.OwnUpdate(the_id(), ALIAS))
    message = decode(newest.raw)
    assert isinstance(message, wire.ChannelUpdate) and message.fee_base_msat == 4_321


async def test_no_two_updates_of_a_channel_are_signed_with_one_timestamp(house: Make):
    """The signer refuses the second, although one goes by alias and was asked for while the other was signed."""
    one = await living(house, announce=False, alias_local=ALIAS, alias_remote=synth.channel(1, 2, 9).place)
    await connect(one)
    one.clock.forward(60)
    signer, hold = one.signer.call, asyncio.Event()

    async def slow(request: contract.Request) -> contract.Reply:
        reply = await signer(request)
        if isinstance(request, contract.SignChannelUpdate) and request.short_channel_id != ALIAS:
            await hold.wait()
        return reply

    one.signer.call = slow  # type: ignore[method-assign]
    dearer = replace(POLICY, fee_base_msat=Msat(4_321))
    one.bus.publish(routing.PolicyChanged(the_id(), dearer))
    await turns()
    await one.bus.request("gossip", routing.OwnUpdate(the_id(), ALIAS))
    hold.set()
    await turns(40)
    times = [r.timestamp for r in one.signer.asked if isinstance(r, contract.SignChannelUpdate)]
    assert len(times) == 3 and len(set(times)) == 3


# Of peers.


async def test_a_forged_update_is_not_held_against_who_brings_the_announcement(house: Make):
    one = await house()
    one.chain.confirm(ONE)
    for number in (8, 9):
        one.up(number)
    await turns()
    await one.told(8, synth.update(ONE.place, 0, 7))
    await one.told(9, ONE.frame)
    assert ONE.place in one.graph.channels and one.graph.policies == {}
    assert heard(one, bolt1.Warning, 9) == [] and one.gossip.talk.peers[node_id(9)].bad == 0


async def test_a_node_announcement_that_ends_in_its_addresses_costs_a_warning_and_no_more(house: Make):
    """The peer's later words are still heard."""
    one = await house()
    one.chain.confirm(ONE, TWO)
    one.up(9)
    await turns()
    good = synth.node(1)
    bad = good[:-2] + b"\xff\xff"
    await one.told(9, ONE.frame, bad)
    assert len(heard(one, bolt1.Warning, 9)) == 1
    await one.told(9, good, TWO.frame)
    await until(lambda: TWO.place in one.graph.channels)
    assert node_id(1) in one.graph.nodes


async def test_updates_that_were_quicker_count_though_who_announced_the_channel_went_away(house: Make):
    """It had sent another announcement as well, and left while the chain was asked for that."""
    one = await house()
    one.chain.confirm(ONE, TWO)
    for number in (8, 9):
        one.up(number)
    await turns()
    ask, hold = one.gossip.intake._output_of, {ONE.place: asyncio.Event(), TWO.place: asyncio.Event()}

    async def slow(scid: int) -> chain.OutputAt | None:
        if scid in hold:
            await hold[scid].wait()
        return await ask(scid)

    one.gossip.intake._output_of = slow
    one.hears(9, ONE.frame, TWO.frame)
    await turns()
    one.hears(8, ONE.update(0))
    await turns()
    hold[ONE.place].set()
    await until(lambda: ONE.place in one.graph.channels)
    assert one.graph.policies == {}
    one.down(9)
    await turns()
    one.hears(8, synth.node(1))
    await turns(40)
    assert (ONE.place, 0) in one.graph.policies
