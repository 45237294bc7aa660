"""Whom an error, a warning and a malformed message reach, and whom not (BOLT 1, "The `error` and `warning` Messages",
"Lightning Message Format")."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from node.channel.events import Connected, Disconnected, FromPeer
from node.channel.openings import HungUp, Opening
from node.channel.state import Closing, Normal
from protocol import curve
from protocol.bus.messages import peer as peers
from protocol.wire.bolt1 import ALL_CHANNELS, Error, Warning
from protocol.wire.bolt2_close import Shutdown
from protocol.wire.bolt2_open import AcceptChannel
from protocol.wire.message import Message, decode, encode
from tests.node.channel.pair import Pair, open_channel
from tests.node.channel.test_openings import Host, created, offer
from tests.node.channel.test_openings import bob as bob  # a fixture
from tests.node.channel.test_peer_ends import is_force_closed
from tests.node.channel.test_peer_misbehaves import channel_id, goes_on, hear
from tests.node.channel.test_service_start import CHANNEL, PEER, REESTABLISH, Starting, _Channel

OTHER_CHANNEL = b"\xc2" * 32
STRANGERS_CHANNEL = b"\xc3" * 32
STRANGER = curve.point_of(b"\x33" * 32)
NOT_ASCII = b"\x1b[31mpay \xff me"


class Node:
    """A channel service with two channels of PEER and one of STRANGER, who are both connected."""

    def __init__(self, starting: Starting) -> None:
        self.starting = starting
        self.one = starting.channel
        self.two, self.strangers = _Channel(), _Channel()
        self.two.channel_id, self.strangers.channel_id = OTHER_CHANNEL, STRANGERS_CHANNEL
        self.strangers.peer = STRANGER
        channels = starting.service._channels
        channels[OTHER_CHANNEL], channels[STRANGERS_CHANNEL] = self.two, self.strangers  # type: ignore[assignment]
        self.sent: list[tuple[bytes, Message]] = []
        starting.service.send_frames = self._send  # type: ignore[method-assign]

    def _send(self, node_id: bytes, frames: tuple[bytes, ...]) -> None:
        said = [decode(frame) for frame in frames]
        self.sent += [(node_id, message) for message in said if isinstance(message, Message)]

    @property
    def dropped(self) -> list[peers.DropPeer]:
        return self.starting.peers.dropped

    async def hears(self, *frames: bytes, sender: bytes = PEER) -> None:
        for frame in frames:
            self.starting.bus.send("channel", peers.FromPeer(sender, 1, frame))
        await self.starting.turns()

    @property
    def told(self) -> list[list[Message]]:
        """What each channel heard of its peer."""
        return [
            [event.message for event in channel.told if isinstance(event, FromPeer)]
            for channel in (self.one, self.two, self.strangers)
        ]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    starting = Starting(tmp_path)
    made = Node(starting)
    async with starting:
        await starting.ready()
        for peer in (PEER, STRANGER):
            starting.bus.publish(peers.PeerUp(peer, 1, b""))
        await starting.turns()
        yield made


# Whom they reach.


async def test_an_error_for_all_channels_reaches_those_of_its_sender_and_no_other(node: Node) -> None:
    """checklist 6"""
    error = Error(ALL_CHANNELS, b"I am done with you")
    await node.hears(encode(error))
    assert node.told == [[error], [error], []]


async def test_an_error_for_one_channel_reaches_that_one(node: Node) -> None:
    """checklist 6"""
    error = Error(OTHER_CHANNEL, b"I am done with this")
    await node.hears(encode(error))
    assert node.told == [[], [error], []]


@pytest.mark.parametrize("kind", [Error, Warning])
async def test_an_error_for_an_unknown_channel_is_ignored(
    node: Node, kind: type[Error] | type[Warning]
) -> None:
    """checklist 6: no channel hears it, nothing is answered, and the connection stays."""
    await node.hears(encode(kind(b"\xee" * 32, b"no such channel")))
    assert node.told == [[], [], []]
    assert (node.sent, node.dropped) == ([], [])
    assert node.starting.service._connections[PEER] == 1


async def test_nobody_fails_the_channel_of_another(node: Node) -> None:
    """checklist 6: the ids of public channels are no secret."""
    await node.hears(encode(Error(CHANNEL, b"it is over")), encode(Error(ALL_CHANNELS, b"")), sender=STRANGER)
    assert node.told == [[], [], [Error(ALL_CHANNELS, b"")]]
    assert node.dropped == []


async def test_a_warning_for_all_channels_reaches_none(node: Node) -> None:
    """checklist 6: it never fails a channel."""
    await node.hears(encode(Warning(ALL_CHANNELS, b"careful")))
    assert node.told == [[], [], []]
    assert node.dropped == []


async def test_another_message_of_an_unknown_channel_is_answered_with_an_error(node: Node) -> None:
    """checklist 6: its sender has a channel that we do not know."""
    await node.hears(encode(Shutdown(b"\xee" * 32, b"")))
    ((told, error),) = node.sent
    assert told == PEER
    assert isinstance(error, Error)
    assert error.channel_id == b"\xee" * 32


# What they do there.


def test_an_error_for_all_channels_fails_a_channel(tmp_path: Path) -> None:
    """checklist 6"""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000)
    hear(pair.alice, Error(ALL_CHANNELS, b"I am done with you"))
    is_force_closed(pair.alice)


def test_what_is_not_text_is_not_printed(tmp_path: Path) -> None:
    """checklist 6: a person reads it in a terminal."""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000)
    hear(pair.alice, Error(channel_id(pair), NOT_ASCII))
    is_force_closed(pair.alice)
    why = pair.alice.state.committed.why
    assert why.isascii()
    assert why.isprintable()
    assert NOT_ASCII.hex() in why


def test_a_warning_for_all_channels_changes_nothing(tmp_path: Path) -> None:
    """checklist 6"""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000)
    before = pair.alice.state.committed
    hear(pair.alice, Warning(ALL_CHANNELS, b"I am done with you"))
    assert pair.alice.state.committed == before
    goes_on(pair)


async def test_an_opening_goes_by_its_temporary_id(bob: Host) -> None:
    """checklist 6: an error with that id ends it, before funding_signed; one with another id does not."""
    bob.hear(offer(1))
    await bob.until_sent(AcceptChannel)
    bob.hear(Error(b"\xee" * 32, b"of another"))
    bob.hear(created(1))
    (error,) = await bob.until_sent(Error)
    assert error.channel_id == offer(1).temporary_channel_id
    assert b"signature" in error.data, "the opening was still there"
    bob.hear(offer(2))
    await bob.until_sent(AcceptChannel, 2)
    bob.hear(Error(offer(2).temporary_channel_id, b"changed my mind"))
    await asyncio.gather(*bob.tasks)
    assert len(bob.sent) == 3, "the second one ended without a word"
    assert not bob.saved
    bob.hear(created(2))
    bob.hear(offer(2))
    await bob.until_sent(AcceptChannel, 3)


async def test_an_error_for_all_channels_ends_what_is_being_opened(node: Node) -> None:
    """checklist 6"""
    openings = node.starting.service.openings
    one, other = (Opening(openings, peer, b"\x01" * 32) for peer in (PEER, STRANGER))
    openings._open = {(PEER, b"\x01" * 32): one, (STRANGER, b"\x01" * 32): other}
    await node.hears(encode(Error(ALL_CHANNELS, b"I am done with you")))
    with pytest.raises(HungUp, match="I am done with you"):
        await one.receive(AcceptChannel)
    assert other.inbox.empty()
    openings._open.clear()


# A connection that ends, and what ends it.


async def test_a_peer_that_stays_silent_loses_its_connection_and_no_channel(
    node: Node, tmp_path: Path
) -> None:
    """checklist 5: a pong that never came is told to the channels as a lost connection, which fails none."""
    node.starting.bus.publish(peers.PeerDown(PEER, 1, "the peer was silent and did not answer a ping"))
    await node.starting.turns()
    ends = [
        [e for e in c.told if isinstance(e, Connected | Disconnected)] for c in (node.one, node.strangers)
    ]
    assert ends == [[Connected(1), Disconnected()], [Connected(1)]]


def test_a_lost_connection_fails_no_channel(tmp_path: Path) -> None:
    """checklist 5"""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000)
    for _ in range(3):
        pair.disconnect()
        pair.connect()
    pair.quiet()
    assert not any(isinstance(end.state.committed.phase, Closing) or end.published for end in pair.ends)
    assert isinstance(pair.alice.state.committed.phase, Normal)
    goes_on(pair)


GOOD = encode(REESTABLISH)
MALFORMED = {
    "cut short": GOOD[:-1],
    "of its type alone": GOOD[:2],
    "an unknown even record": GOOD + b"\x02\x00",
    "records that fall": GOOD + b"\x0b\x00\x09\x00",
    "the same record twice": GOOD + b"\x09\x00\x09\x00",
    "a known record of another length": GOOD + b"\x01\x02\x00\x00",
    "a record cut short": GOOD + b"\x09\x02\x00",
    "a type that is not minimal": GOOD + b"\xfd\x00\x09\x00",
}


@pytest.mark.parametrize("frame", MALFORMED.values(), ids=MALFORMED.keys())
async def test_a_malformed_channel_message_ends_the_connection(node: Node, frame: bytes) -> None:
    """checklist 3, 4: no channel hears it, and the warning is about none."""
    await node.hears(frame)
    (drop,) = node.dropped
    assert (drop.node_id, drop.connection) == (PEER, 1)
    assert drop.reason.startswith("malformed message: channel_reestablish: ")
    warning = decode(drop.frames[0])
    assert isinstance(warning, Warning)
    assert warning.channel_id == ALL_CHANNELS
    assert node.told == [[], [], []]


async def test_a_channel_message_with_unknown_odd_records_is_heard(node: Node) -> None:
    """checklist 3, 4"""
    await node.hears(GOOD, GOOD + b"\x09\x00\xfd\x01\x01\x01\xff")
    assert [type(message) for message in node.told[0]] == [type(REESTABLISH)] * 2
    assert node.dropped == []
