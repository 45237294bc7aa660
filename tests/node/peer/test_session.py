"""The session of one connection: handshake, init, who gets which message, and every way in which it ends."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.peer.events import PeerSaid, StaticKeyNeeded
from protocol.bitcoin.network import MAINNET, REGTEST
from protocol.bolt9 import OUR_INIT, FeatureSet
from protocol.wire import bolt1, bolt7_gossip, encode
from tests.node.peer.wiring import (
    ALICE,
    BOB,
    BOB_KEY,
    PROFILE,
    RawPeer,
    connected,
    dialler,
    exchange,
    listener,
)

INIT = encode(bolt1.Init(b"", OUR_INIT.to_bytes()))


def raw_live(**more: object) -> RawPeer:
    """A raw peer on a session that is live; what the session said so far is taken."""
    peer = RawPeer(listener(**more))  # type: ignore[arg-type]
    peer.sends(INIT)
    assert peer.end.ready
    peer.hears()
    return peer


def warnings(peer: RawPeer) -> list[str]:
    return [message.data.decode() for message in peer.hears() if isinstance(message, bolt1.Warning)]


# The handshake.


def test_both_ends_learn_who_the_other_is_and_become_ready():
    alice, bob = connected()
    assert (alice.peer, bob.peer) == (BOB, ALICE)
    assert alice.ready and bob.ready
    assert alice.session.is_live and bob.session.is_live


def test_handshake_works_byte_by_byte():
    alice, bob = dialler(), listener()
    for _ in range(6):
        for byte in alice.session.take_output():
            bob.receive(bytes((byte,)))
        for byte in bob.session.take_output():
            alice.receive(bytes((byte,)))
    assert alice.ready and bob.ready


def test_nothing_is_sent_while_the_signer_is_asked():
    bob = listener()
    events = bob.session.receive(dialler().session.take_output(), 0.0)
    assert [type(event) for event in events] == [StaticKeyNeeded]
    assert bob.session.take_output() == b""


def test_bytes_before_their_turn_end_the_handshake():
    bob = listener()
    events = bob.session.receive(dialler().session.take_output() + b"\0", 0.0)
    bob.events += events
    assert bob.ended == "bytes came before their turn in the handshake"
    assert bob.session.static_key_mixed(bytes(32), bytes(32), 0.0) == []
    assert bob.session.take_output() == b""


@pytest.mark.parametrize(
    ("at", "reason"),
    [(0, "unknown version"), (1, "not a public key"), (49, "authentication tag")],
)
def test_bad_act_one_is_not_answered(at: int, reason: str):
    act = bytearray(dialler().session.take_output())
    act[at] ^= 0xFF
    bob = listener()
    bob.receive(bytes(act))
    assert bob.ended is not None and reason in bob.ended
    assert bob.session.take_output() == b""


def test_wrong_answer_of_the_listener_ends_the_dial():
    """Someone else than the node that we dialled cannot make act two."""
    alice, mallory = dialler(), listener()
    mallory.key = bytes([9]) * 32
    exchange(alice, mallory)
    assert mallory.ended is not None and "tag" in mallory.ended
    alice.receive(b"\0" + ALICE + bytes(16))
    assert alice.ended == "handshake act 2: the authentication tag is wrong"


def test_bad_act_three_ends_the_handshake():
    alice, bob = dialler(), listener()
    bob.receive(alice.session.take_output())
    alice.receive(bob.session.take_output())
    act_three = bytearray(alice.session.take_output()[:66])
    act_three[65] ^= 1
    bob.receive(bytes(act_three))
    assert bob.ended is not None and bob.ended.startswith("handshake act 3")
    assert bob.peer is None


def test_connection_to_ourselves_is_ended():
    bob = listener()
    RawPeer(bob, key=BOB_KEY)
    assert bob.ended == "this connection leads to ourselves"


def test_handshake_that_takes_too_long_is_ended():
    bob = listener()
    bob.receive(dialler().session.take_output()[:49])
    bob.tick(PROFILE.handshake_timeout)
    assert bob.ended is None
    bob.tick(PROFILE.handshake_timeout + 0.1)
    assert bob.ended == "the handshake was not finished within 11 s"


def test_peer_that_never_sends_init_is_ended():
    bob = listener()
    RawPeer(bob)
    bob.tick(PROFILE.handshake_timeout + 0.1)
    assert bob.ended is not None and "handshake" in bob.ended


# init.


def test_init_is_the_first_message_and_names_our_chain():
    """checklist 2"""
    peer = RawPeer(listener())
    (init,) = peer.hears()
    assert isinstance(init, bolt1.Init)
    assert init.features == OUR_INIT.to_bytes()
    assert init.tlvs.networks == (REGTEST.chain_hash,)


@pytest.mark.parametrize("first", [encode(bolt1.Ping(1)), b"\0\x88" + bytes(32), b"\x7f\xff", b"", b"\0"])
def test_message_before_init_ends_the_session(first: bytes):
    """checklist 2"""
    peer = RawPeer(listener())
    peer.hears()
    peer.sends(first)
    assert peer.end.ended == "another message came before init"
    assert warnings(peer) == ["another message came before init"]
    assert not peer.end.ready


def test_messages_behind_init_in_one_piece_are_read():
    """checklist 2"""
    peer = RawPeer(listener())
    peer.sends(INIT, b"\0\x88first", b"\0\x80second")
    assert peer.end.frames == [b"\0\x88first", b"\0\x80second"]


def test_second_init_ends_the_session():
    """checklist 2"""
    peer = raw_live()
    peer.sends(INIT)
    assert peer.end.ended == "init came a second time"


def test_truncated_init_ends_the_session():
    """checklist 3"""
    peer = RawPeer(listener())
    peer.sends(INIT[:-1])
    assert peer.end.ended is not None and peer.end.ended.startswith("init: ")


def test_unknown_required_feature_ends_the_session_and_an_optional_one_does_not():
    peer = RawPeer(listener())
    peer.hears()
    peer.sends(encode(bolt1.Init(b"", (OUR_INIT | FeatureSet.of(1000)).to_bytes())))
    assert peer.end.ended is not None and "1000" in peer.end.ended
    assert "1000" in warnings(peer)[0]

    peer = RawPeer(listener())
    peer.sends(encode(bolt1.Init(b"", (OUR_INIT | FeatureSet.of(1001)).to_bytes())))
    assert peer.end.ready and peer.end.ended is None


def test_features_of_both_bitmaps_count():
    """BOLT 1: globalfeatures and features are OR-ed."""
    peer = RawPeer(listener())
    peer.sends(encode(bolt1.Init(FeatureSet.of(1000).to_bytes(), OUR_INIT.to_bytes())))
    assert peer.end.ended is not None and "1000" in peer.end.ended


def test_feature_that_we_require_must_be_offered():
    ours = OUR_INIT | FeatureSet.of(22)
    peer = RawPeer(listener(features=ours))
    peer.sends(INIT)
    assert peer.end.ready  # 23 is in INIT
    peer = RawPeer(listener(features=ours))
    peer.sends(encode(bolt1.Init(b"", FeatureSet.of(0, 8, 12, 14, 44).to_bytes())))
    assert peer.end.ended is not None and "option_anchors" in peer.end.ended


def test_peer_on_another_chain_is_left_and_one_that_names_ours_too_is_kept():
    for networks, stays in (((MAINNET.chain_hash,), False), ((MAINNET.chain_hash, REGTEST.chain_hash), True)):
        peer = RawPeer(listener())
        peer.sends(encode(bolt1.Init(b"", OUR_INIT.to_bytes(), bolt1.InitTlvs(networks=networks))))
        assert peer.end.ready is stays


# Who gets which message.


@pytest.mark.parametrize("number", [2, 32, 41, 64, 81, 127, 128, 136])
def test_messages_of_channels_are_handed_on_whole_and_in_order(number: int):
    peer = raw_live()
    frame = number.to_bytes(2, "big") + b"not decoded here"
    peer.sends(frame, b"\0\x85" + frame)
    assert peer.end.frames == [frame, b"\0\x85" + frame]
    assert peer.hears() == []


@pytest.mark.parametrize("number", [3, 11, 43, 137, 513, 32769, 65535])
def test_unknown_odd_message_is_ignored(number: int):
    peer = raw_live()
    peer.sends(number.to_bytes(2, "big") + bytes(50))
    assert (peer.end.frames, peer.end.ended, peer.hears()) == ([], None, [])


@pytest.mark.parametrize("number", [0, 4, 42, 62, 82, 126, 138, 254, 266, 512, 32768, 65534])
def test_unknown_even_message_ends_the_session(number: int):
    peer = raw_live()
    peer.sends(b"\0\x88before", number.to_bytes(2, "big"), b"\0\x88behind")
    assert peer.end.ended == f"message type {number} is even and unknown to us"
    assert peer.end.frames == [b"\0\x88before"]
    assert warnings(peer) == [peer.end.ended]


@pytest.mark.parametrize("message", [b"", b"\0"])
def test_message_without_a_type_ends_the_session(message: bytes):
    """checklist 3"""
    peer = raw_live()
    peer.sends(message)
    assert peer.end.ended is not None and "2 bytes of type" in peer.end.ended


@pytest.mark.parametrize("number", [256, 257, 258, 259, 260, 262, 264, 265])
def test_gossip_is_dropped_without_being_read(number: int):
    peer = raw_live()
    peer.sends(number.to_bytes(2, "big") + b"nonsense")
    assert (peer.end.frames, peer.end.ended, peer.hears()) == ([], None, [])


@pytest.mark.parametrize("chain_hash", [REGTEST.chain_hash, MAINNET.chain_hash])
def test_gossip_queries_get_an_honest_empty_answer(chain_hash: bytes):
    peer = raw_live()
    peer.sends(
        encode(bolt7_gossip.QueryChannelRange(chain_hash, 5, 100)),
        encode(bolt7_gossip.QueryShortChannelIds(chain_hash, ())),
    )
    assert peer.hears() == [
        bolt7_gossip.ReplyChannelRange(chain_hash, 5, 100, 1, ()),
        bolt7_gossip.ReplyShortChannelIdsEnd(chain_hash, 0),
    ]


def test_truncated_query_ends_the_session():
    """checklist 3"""
    peer = raw_live()
    peer.sends(encode(bolt7_gossip.QueryChannelRange(REGTEST.chain_hash, 5, 100))[:-1])
    assert peer.end.ended is not None and peer.end.ended.startswith("query_channel_range")


def test_error_is_handed_on_and_its_text_is_printable_ascii():
    """checklist 6"""
    peer = raw_live()
    frame = encode(bolt1.Error(bytes(32), b"\x1b[31mred"))
    peer.sends(frame, encode(bolt1.Warning(bytes(32), b"sync error")))
    assert peer.end.frames[0] == frame
    said = [event for event in peer.end.events if isinstance(event, PeerSaid)]
    assert [event.kind for event in said] == ["error", "warning"]
    assert said[0].text == "(not text) 1b5b33316d726564"
    assert said[1].text == "sync error"
    assert peer.end.ended is None


def test_truncated_error_ends_the_session_and_is_not_handed_on():
    """checklist 3, 6"""
    peer = raw_live()
    peer.sends(b"\0\x11" + bytes(20))
    assert peer.end.ended is not None and peer.end.ended.startswith("error")
    assert peer.end.frames == []


# Frames, and the end.


def test_broken_frame_ends_the_session_in_silence():
    """checklist 1"""
    peer = raw_live()
    frame = bytearray(peer.encryptor.encrypt(b"\0\x88hello"))
    frame[-1] ^= 1
    peer.end.receive(bytes(frame))
    assert peer.end.ended == "the authentication tag of a frame is wrong"
    assert peer.end.session.take_output() == b""


def test_largest_message_passes_both_ways():
    """checklist 3"""
    alice, bob = connected()
    largest = b"\0\x88" + bytes(65533)
    alice.session.send((largest,))
    exchange(alice, bob)
    assert bob.frames == [largest]
    with pytest.raises(ValueError):
        alice.session.send((largest + b"\0",))


def test_all_messages_of_a_turn_are_one_piece_and_arrive_in_order():
    alice, bob = connected()
    messages = tuple(b"\0\x80" + bytes([number]) * number for number in range(100))
    alice.session.send(messages[:60])
    alice.session.send(messages[60:])
    bob.receive(alice.session.take_output())
    assert bob.frames == list(messages)
    assert alice.session.take_output() == b""


def test_nothing_is_sent_before_init_came():
    """checklist 2"""
    peer = RawPeer(listener())
    peer.hears()
    peer.end.session.send((b"\0\x88",))
    assert peer.hears() == []


def test_session_that_is_over_takes_and_gives_nothing():
    alice, bob = connected()
    bob.session.end("we go")
    alice.session.send((b"\0\x88",))
    bob.receive(alice.session.take_output())
    bob.tick(1e6)
    bob.session.send((b"\0\x88",))
    assert bob.frames == []
    assert bob.session.take_output() == b""


# Whatever a peer sends.


@given(data=st.binary(max_size=300), cut=st.integers(1, 60))
def test_random_bytes_before_the_handshake_never_raise(data: bytes, cut: int):
    for end in (dialler(), listener()):
        for at in range(0, len(data), cut):
            end.receive(data[at : at + cut])
        end.tick(100.0)
        assert end.session.is_over
        assert not end.ready


@given(data=st.binary(min_size=18, max_size=400))
def test_random_bytes_after_the_handshake_never_raise(data: bytes):
    """checklist 1"""
    peer = raw_live()
    peer.end.receive(data)
    assert peer.end.ended == "the authentication tag of a frame is wrong"


TYPES = st.one_of(
    st.sampled_from([1, 2, 16, 17, 18, 19, 128, 256, 261, 262, 263, 264, 265]), st.integers(0, 65535)
)
MESSAGES = st.builds(lambda number, body: number.to_bytes(2, "big") + body, TYPES, st.binary(max_size=100))


@given(messages=st.lists(MESSAGES | st.binary(max_size=60), max_size=20), init=st.booleans())
def test_random_messages_never_raise_and_at_worst_end_the_session(messages: list[bytes], init: bool):
    peer = RawPeer(listener())
    if init:
        peer.sends(INIT)
    for message in messages:
        peer.sends(message)
    ended = sum(1 for event in peer.end.events if type(event).__name__ == "Ended")
    assert ended == int(peer.end.session.is_over)
    assert all(len(frame) >= 2 for frame in peer.end.frames)
    peer.hears()  # what it said is well formed
