"""Where our node says that it can be reached (BOLT 7, "The `node_announcement` Message"; checklist 58)."""

import base64
from pathlib import Path

import pytest

from node.routing.gossip.presence import PAUSE_SECONDS, SETTLE_SECONDS
from node.routing.gossip.store import FILE
from protocol.bolt7 import addresses
from protocol.bolt7.addresses import Address, onion_checksum
from protocol.bus.messages.peer import Road
from protocol.wire.bolt7_gossip import NodeAnnouncement
from protocol.wire.message import decode
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import POLICY, Clock, House, own_info, turns
from tests.node.routing.gossip.synth import node_id

PUBLIC = synth.channel(50, 1, 700)


def onion(number: int) -> str:
    key = bytes([number]) * 32
    return base64.b32encode(key + onion_checksum(key) + b"\3").decode().lower() + ".onion"


CLEAR = addresses.of_host("203.0.113.7", 9735)
FIRST, SECOND = (Address(addresses.TOR_V3, onion(number), 9735) for number in (1, 2))


def road(*found: Address, state: str = "up") -> Road:
    return Road("tor", state, addresses=tuple(f"{one.host}:{one.port}" for one in found))


async def announced(house: Make, *roads: Road, clear: bool = True, **more: object) -> House:
    """A node with a public channel, so that it may speak of itself."""
    one = await house(50, start=False, addresses=addresses.encode((CLEAR,)) if clear else b"", **more)
    one.peers.roads = roads
    one.signer.peer_of[own_info(50, 1, PUBLIC).handle] = 1
    info = own_info(50, 1, PUBLIC)
    one.channels.infos[info.channel_id] = info
    one.payments.policies[info.channel_id] = POLICY
    one.chain.confirm(PUBLIC)
    await one.start()
    one.up(9)
    await turns()
    await one.told(9, PUBLIC.frame)
    await minute(one)
    return one


async def minute(one: House, seconds: float = 60) -> None:
    await one.tick(seconds)
    await turns(40)


def said(one: House) -> NodeAnnouncement | None:
    frame = one.gossip.store.node(node_id(50))
    found = None if frame is None else decode(frame)
    assert found is None or isinstance(found, NodeAnnouncement)
    return found


def told(one: House) -> set[Address]:
    found = said(one)
    assert found is not None
    return set(addresses.parse(found.addresses).addresses)


async def test_the_onion_address_is_told_beside_those_of_the_settings(house: Make):
    """checklist 58"""
    one = await announced(house, Road("tcp", "up"), road(FIRST))
    assert told(one) == {CLEAR, FIRST}


async def test_a_node_that_is_onion_only_never_tells_a_clear_address(
    house: Make, capsys: pytest.CaptureFixture[str]
):
    """checklist 58: whatever the settings and the roads say."""
    other = Road("mesh", "up", addresses=("198.51.100.1:9735", "example.org:1", "nonsense"))
    one = await announced(house, other, road(FIRST), onion_only=True)
    assert told(one) == {FIRST}
    assert "clear_address_not_announced" in capsys.readouterr().out


async def test_clear_addresses_of_roads_are_not_told_by_anybody(house: Make):
    one = await announced(house, Road("tcp", "up", addresses=("198.51.100.1:9735",)))
    assert told(one) == {CLEAR}


async def test_a_new_onion_address_is_told_but_not_too_often(house: Make):
    """checklist 58: made again when it changes."""
    one = await announced(house, road(FIRST), clear=False)
    first = said(one)
    one.peers.roads = (road(SECOND),)
    await minute(one)
    assert told(one) == {FIRST}, "others do not take one each minute"
    await minute(one, PAUSE_SECONDS)
    assert told(one) == {SECOND}
    second = said(one)
    assert first is not None and second is not None and second.timestamp > first.timestamp
    count = len(one.signer.asked)
    await minute(one, PAUSE_SECONDS)
    assert len(one.signer.asked) == count, "no news, nothing signed"


async def test_a_road_that_is_down_takes_no_address_back(house: Make):
    one = await announced(house, road(FIRST), clear=False)
    one.peers.roads = (road(state="down"),)
    for _ in range(3):
        await minute(one, PAUSE_SECONDS)
    assert told(one) == {FIRST}
    one.peers.roads = (road(),)
    await minute(one, PAUSE_SECONDS)
    assert told(one) == {FIRST}


async def test_at_a_start_the_onion_address_is_waited_for_a_little(house: Make):
    one = await announced(house, road(state="starting"), clear=False)
    assert said(one) is None
    one.peers.roads = (road(FIRST),)
    await minute(one)
    assert told(one) == {FIRST}


async def test_the_wait_for_an_onion_address_ends(house: Make):
    one = await announced(house, road(state="starting"))
    assert said(one) is None
    await minute(one, SETTLE_SECONDS)
    assert told(one) == {CLEAR}


async def test_after_a_restart_an_address_that_is_on_its_way_is_not_taken_back(
    house: Make, tmp_path: Path, clock: Clock
):
    path = tmp_path / FILE
    one = await announced(house, road(FIRST), clear=False, path=path)
    await one.stop()
    clock.forward(PAUSE_SECONDS)
    again = await announced(house, road(state="starting"), clear=False, path=path)
    assert told(again) == {FIRST}
    again.peers.roads = (road(FIRST),)
    await minute(again)
    assert told(again) == {FIRST} and not any("Node" in type(r).__name__ for r in again.signer.asked)
