"""Ping, pong, and commitments that are not revoked in time (BOLT 1, "The ping and pong Messages")."""

import pytest

from node.peer.limits import PeerLimits
from protocol.wire import bolt1, encode
from tests.node.peer.test_session import raw_live
from tests.node.peer.wiring import PROFILE, connected, exchange


def test_ping_is_answered_with_the_length_that_it_asks_for():
    """checklist 5"""
    peer = raw_live()
    peer.sends(encode(bolt1.Ping(7)), encode(bolt1.Ping(65531)))
    assert [len(pong.ignored) for pong in peer.hears() if isinstance(pong, bolt1.Pong)] == [7, 65531]


@pytest.mark.parametrize("size", [65532, 65535])
def test_ping_that_asks_for_too_much_is_not_answered(size: int):
    """checklist 5"""
    peer = raw_live()
    peer.sends(encode(bolt1.Ping(size)))
    assert (peer.hears(), peer.end.ended) == ([], None)


def test_ping_that_announces_more_than_it_has_ends_the_session():
    """checklist 5"""
    peer = raw_live()
    peer.sends(encode(bolt1.Ping(7, bytes(4)))[:-1])
    assert peer.end.ended is not None and peer.end.ended.startswith("ping: ")
    assert not any(isinstance(message, bolt1.Pong) for message in peer.hears())


def test_pong_of_another_length_is_no_reason_to_go():
    """checklist 5: nobody asked for it, and it fails nothing."""
    peer = raw_live()
    peer.sends(encode(bolt1.Pong(bytes(31))))
    assert (peer.hears(), peer.end.ended, peer.end.frames) == ([], None, [])


def test_flood_of_pings_ends_the_session():
    """checklist 5"""
    peer = raw_live(limits=PeerLimits(answers_burst=3, answers_per_second=1))
    for _ in range(3):
        peer.sends(encode(bolt1.Ping(1)))
    peer.sends(encode(bolt1.Ping(1)), now=1.0)  # one second gives one more
    assert peer.end.ended is None
    peer.sends(encode(bolt1.Ping(1)), now=1.0)
    assert peer.end.ended == "too many pings and queries in a short time"


def test_quiet_peer_is_pinged_and_ended_when_it_stays_silent():
    """checklist 5: the connection ends, and no channel is failed for it."""
    peer = raw_live()
    peer.end.tick(PROFILE.ping_interval - 1)
    assert peer.hears() == []
    pinged = PROFILE.ping_interval
    peer.end.tick(pinged)
    (ping,) = peer.hears()
    assert isinstance(ping, bolt1.Ping) and ping.num_pong_bytes < 65532
    peer.end.tick(pinged + PROFILE.pong_wait - 1)
    assert peer.end.ended is None
    peer.end.tick(pinged + PROFILE.pong_wait + 1)
    assert peer.end.ended is not None and "silent" in peer.end.ended
    assert peer.hears() == [], "no error leaves, so no channel fails"


def test_any_traffic_shows_that_the_peer_lives():
    """A late pong is no reason to go while other messages come. checklist 5"""
    peer = raw_live()
    pinged = PROFILE.ping_interval
    peer.end.tick(pinged)
    peer.sends(b"\0\x88something", now=pinged + 1)
    peer.end.tick(pinged + PROFILE.pong_wait + 5)
    assert peer.end.ended is None


CHANNEL = bytes([7]) * 32
COMMITMENT_SIGNED, REVOKE_AND_ACK, ERROR = (b"\0\x84", b"\0\x85", b"\0\x11")


def test_a_commitment_that_is_not_revoked_in_time_ends_the_session():
    """The peer answers pings, but a channel stands still: both say again what they owe after a new connection."""
    peer = raw_live()
    peer.end.session.send((COMMITMENT_SIGNED + CHANNEL,))
    late = PROFILE.revocation_wait + 1
    peer.sends(b"\0\x88traffic", now=late - 2)
    peer.end.tick(late - 1.5)
    assert peer.end.ended is None
    peer.end.tick(late)
    assert peer.end.ended is not None and "revoke_and_ack" in peer.end.ended


@pytest.mark.parametrize("answer", [REVOKE_AND_ACK + CHANNEL, ERROR + CHANNEL + b"\0\0"])
def test_a_commitment_that_was_answered_is_waited_for_no_more(answer: bytes):
    peer = raw_live()
    peer.end.session.send((COMMITMENT_SIGNED + CHANNEL,))
    peer.sends(answer, now=1.0)
    peer.sends(b"\0\x88traffic", now=PROFILE.revocation_wait)
    peer.end.tick(PROFILE.revocation_wait + 5)
    assert peer.end.ended is None


def test_a_channel_that_we_gave_up_is_waited_for_no_more():
    peer = raw_live()
    peer.end.session.send((COMMITMENT_SIGNED + CHANNEL, ERROR + CHANNEL + b"\0\0"))
    peer.sends(b"\0\x88traffic", now=PROFILE.revocation_wait)
    peer.end.tick(PROFILE.revocation_wait + 5)
    assert peer.end.ended is None


def test_the_revocation_of_another_channel_does_not_count():
    peer = raw_live()
    peer.end.session.send((COMMITMENT_SIGNED + CHANNEL,))
    peer.sends(REVOKE_AND_ACK + bytes(32), now=PROFILE.revocation_wait)
    peer.end.tick(PROFILE.revocation_wait + 1)
    assert peer.end.ended is not None


def test_peers_keep_each_other_alive_for_an_hour():
    alice, bob = connected()
    for now in range(0, 3600, 5):
        alice.tick(now)
        bob.tick(now)
        exchange(alice, bob, now)
    assert alice.session.is_live and bob.session.is_live
