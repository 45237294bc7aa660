"""What is said after a reconnection, in which order, and what is not (BOLT 2, "Message Retransmission")."""

from pathlib import Path

import pytest

from node.channel.events import CloseWanted, FeerateMoved, ForceCloseWanted, FromPeer, Fulfil
from node.channel.state import Closing, Normal, Offline
from protocol.amounts import FeeratePerKw
from protocol.wire.bolt1 import Error
from protocol.wire.bolt2_close import ClosingSigned, Shutdown
from protocol.wire.bolt2_open import ChannelReady
from protocol.wire.bolt2_reestablish import ChannelReestablish
from protocol.wire.bolt2_update import CommitmentSigned, RevokeAndAck, UpdateAddHtlc, UpdateFulfillHtlc
from protocol.wire.message import Message, decode
from tests.node.channel.pair import End, Pair, open_channel
from tests.node.channel.test_dance import mirrored, offer
from tests.node.channel.test_peer_ends import closes, until_proposed


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    open_channel(made, push=3_000_000_000)
    return made


def said(end: End) -> list[type[Message]]:
    return [type(message) for frame in end.out.waiting if isinstance(message := decode(frame), Message)]


def answer_all(end: End) -> None:
    while end.answer():
        pass


def reconnected(pair: Pair, victim: End) -> None:
    """The victim has heard the peer's channel_reestablish, and nothing it says has left."""
    pair.disconnect()
    pair.connect()
    pair.deliver(pair.other(victim))
    answer_all(victim)


def revokes_and_signs(pair: Pair) -> None:
    """Bob says revoke_and_ack, then commitment_signed behind it; both are lost."""
    offer(pair, pair.alice, 50_000_000)
    answer_all(pair.alice)
    pair.deliver(pair.alice, 10)
    answer_all(pair.bob)
    assert said(pair.bob) == [RevokeAndAck, CommitmentSigned]


def signs_and_revokes(pair: Pair) -> None:
    """Bob says commitment_signed before he hears of Alice's HTLC, then revoke_and_ack; both are lost."""
    offer(pair, pair.bob, 30_000_000)
    answer_all(pair.bob)
    offer(pair, pair.alice, 50_000_000)
    answer_all(pair.alice)
    pair.deliver(pair.alice, 10)
    answer_all(pair.bob)
    assert said(pair.bob) == [UpdateAddHtlc, CommitmentSigned, RevokeAndAck]


def test_a_revocation_that_left_before_a_commitment_leaves_before_it_again(pair: Pair) -> None:
    """checklist 27"""
    revokes_and_signs(pair)
    before = list(pair.bob.out.waiting)
    reconnected(pair, pair.bob)
    assert said(pair.bob) == [ChannelReestablish, RevokeAndAck, CommitmentSigned]
    assert list(pair.bob.out.waiting)[1:] == before
    pair.quiet()
    mirrored(pair)


def test_a_commitment_that_left_before_a_revocation_leaves_before_it_again(pair: Pair) -> None:
    """checklist 26, 27: with the same updates before it, byte for byte."""
    signs_and_revokes(pair)
    before = list(pair.bob.out.waiting)
    reconnected(pair, pair.bob)
    assert said(pair.bob) == [ChannelReestablish, UpdateAddHtlc, CommitmentSigned, RevokeAndAck]
    assert list(pair.bob.out.waiting)[1:] == before
    pair.quiet()
    mirrored(pair)
    assert len(pair.alice.said.received) == len(pair.bob.said.received) == 1


def test_a_peer_that_turns_the_order_round_is_not_heard(pair: Pair) -> None:
    """checklist 27: behind the revocation its signature would have to cover our HTLC too."""
    signs_and_revokes(pair)
    reconnected(pair, pair.bob)
    frames = list(pair.bob.out.waiting)
    for frame in (frames[0], frames[3], frames[1], frames[2]):
        message = decode(frame)
        assert isinstance(message, Message)
        pair.alice.do(FromPeer(message))
        answer_all(pair.alice)
    assert "signature on our commitment" in pair.alice.drops[0].reason
    assert isinstance(pair.alice.state.committed.phase, Normal)
    assert pair.alice.state.committed.local_number == 0
    assert not pair.alice.said.received


def test_nothing_is_said_again_that_the_peer_has(pair: Pair) -> None:
    """checklist 27"""
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    reconnected(pair, pair.bob)
    assert said(pair.bob) == [ChannelReestablish]


def test_nothing_else_leaves_before_the_peer_said_channel_reestablish(pair: Pair) -> None:
    """checklist 2, 26: what is due waits for it."""
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    pair.disconnect()
    pair.connect()
    pair.bob.do(Fulfil(0), CloseWanted())
    pair.alice.do(FeerateMoved(FeeratePerKw(2000)))
    offer(pair, pair.bob, 1_000_000)
    for end in pair.ends:
        answer_all(end)
        assert said(end) == [ChannelReestablish]
    assert pair.bob.said.refused
    pair.deliver(pair.alice)
    answer_all(pair.bob)
    assert UpdateFulfillHtlc in said(pair.bob)
    assert Shutdown in said(pair.bob)
    pair.quiet()
    assert pair.alice.said.fulfilled


def test_channel_reestablish_twice_on_a_connection_is_an_offence(pair: Pair) -> None:
    """checklist 26"""
    pair.disconnect()
    pair.connect()
    message = decode(pair.bob.out.waiting[0])
    assert isinstance(message, ChannelReestablish)
    pair.alice.do(FromPeer(message), FromPeer(message))
    assert "out of turn" in pair.alice.drops[0].reason
    assert isinstance(pair.alice.state.volatile.link, Offline)
    assert isinstance(pair.alice.state.committed.phase, Normal)


def test_a_channel_ready_that_nobody_needs_any_more_is_ignored(pair: Pair) -> None:
    """checklist 28"""
    point = pair.bob.state.committed.local_points[1]
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    pair.bob.do(Fulfil(0))
    pair.quiet()
    reconnected(pair, pair.alice)
    before = pair.alice.state.committed
    pair.alice.do(FromPeer(ChannelReady(before.params.channel_id, point)))
    assert not pair.alice.drops
    assert pair.alice.state.committed.remote_points == before.remote_points
    pair.quiet()
    mirrored(pair)


@pytest.mark.parametrize("fails", [True, False])
def test_a_failed_channel_says_its_error_on_each_connection_and_a_sound_one_says_none(
    pair: Pair, fails: bool
) -> None:
    """checklist 28"""
    if fails:
        pair.alice.do(ForceCloseWanted("a person wants it"))
        answer_all(pair.alice)
    for _ in range(2):
        reconnected(pair, pair.alice)
        assert (Error in said(pair.alice)) is fails
    assert isinstance(pair.alice.state.committed.phase, Closing) is fails
    assert len(pair.alice.published) == fails


def test_the_legacy_negotiation_begins_anew_on_each_connection(pair: Pair) -> None:
    """checklist 28, 54: what was proposed before is forgotten, and a late answer to it is none."""
    first = until_proposed(pair)
    pair.disconnect()
    pair.connect()
    pair.alice.do(FromPeer(first))
    assert "before channel_reestablish" in pair.alice.drops[0].reason
    pair.alice.drops.clear()
    pair.disconnect()
    pair.connect()
    while ClosingSigned not in said(pair.alice):
        assert any(end.answer() or pair.deliver(end) for end in pair.ends)
    assert said(pair.alice).count(ClosingSigned) == 1
    closes(pair)
