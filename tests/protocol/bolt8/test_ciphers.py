"""Frames, key rotation and tampering (BOLT 8, "Lightning Message Specification")."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bolt8.ciphers import ROTATION, BrokenFrame, Decryptor, Encryptor
from protocol.secret import Secret
from tests.protocol.bolt8.cases import FRAMES, HANDSHAKE
from tests.support import vectors

KEY = Secret(bytes.fromhex(HANDSHAKE["sk"]))
OTHER_KEY = Secret(bytes.fromhex(HANDSHAKE["rk"]))
CK = Secret(bytes.fromhex(HANDSHAKE["ck"]))
MESSAGES_A_KEY = ROTATION // 2


def test_published_frames_across_two_rotations():
    """checklist 1: the key changes after 1000 nonces, which are 500 messages."""
    sender = Encryptor(KEY, CK)
    frames = [sender.encrypt(b"hello") for _ in range(1002)]
    for number, frame in FRAMES.items():
        assert frames[number].hex() == frame


def test_all_published_frames():
    """checklist 1"""
    data = vectors("bolt08/messages.json")
    sender = Encryptor(Secret(bytes.fromhex(data["sk"])), Secret(bytes.fromhex(data["ck"])))
    frames = [sender.encrypt(bytes.fromhex(data["plaintext"])) for _ in range(data["repeat"])]
    assert len(data["ciphertexts"]) == 6
    for number, frame in data["ciphertexts"].items():
        assert frames[int(number)].hex() == frame


def test_many_frames_in_one_piece_come_out_in_order_across_rotations():
    """checklist 1"""
    sender, receiver = Encryptor(KEY, CK), Decryptor(KEY, CK)
    messages = [number.to_bytes(4, "big") * (number % 7) for number in range(1600)]
    stream = b"".join(sender.encrypt(message) for message in messages)
    assert receiver.feed(stream) == messages


@given(st.lists(st.binary(max_size=300), max_size=12), st.integers(1, 400), st.integers())
def test_frames_cut_anywhere_come_out_whole(messages, largest, seed):
    sender, receiver = Encryptor(KEY, CK), Decryptor(KEY, CK)
    stream = b"".join(sender.encrypt(message) for message in messages)
    cut = random.Random(seed)
    got, pos = [], 0
    while pos < len(stream):
        size = cut.randint(1, largest)
        got += receiver.feed(stream[pos : pos + size])
        pos += size
    assert got == messages


def test_the_largest_message_passes_byte_by_byte_and_one_byte_more_is_refused():
    """checklist 3"""
    sender, receiver = Encryptor(KEY, CK), Decryptor(KEY, CK)
    frame = sender.encrypt(b"m" * 65535)
    got = [message for byte in frame for message in receiver.feed(bytes((byte,)))]
    assert got == [b"m" * 65535]
    with pytest.raises(ValueError, match="65535"):
        sender.encrypt(bytes(65536))


@pytest.mark.parametrize("at", [0, 17, 18, 30])
def test_a_changed_byte_ends_the_stream_for_good(at):
    """checklist 1"""
    sender, receiver = Encryptor(KEY, CK), Decryptor(KEY, CK)
    frame = bytearray(sender.encrypt(b"pay me"))
    frame[at] ^= 1
    with pytest.raises(BrokenFrame):
        receiver.feed(bytes(frame))
    with pytest.raises(BrokenFrame):
        receiver.feed(sender.encrypt(b"next"))


def test_a_repeated_or_skipped_frame_does_not_open():
    """checklist 1"""
    sender, receiver, other = Encryptor(KEY, CK), Decryptor(KEY, CK), Decryptor(KEY, CK)
    first, second = sender.encrypt(b"one"), sender.encrypt(b"two")
    assert receiver.feed(first) == [b"one"]
    with pytest.raises(BrokenFrame):
        receiver.feed(first)
    with pytest.raises(BrokenFrame):
        other.feed(second)


def test_an_unfinished_frame_is_kept_and_nothing_more():
    """A peer cannot make us hold more than one frame."""
    sender, receiver = Encryptor(KEY, CK), Decryptor(KEY, CK)
    stream = sender.encrypt(b"a" * 1000) + sender.encrypt(b"b" * 1000)
    assert receiver.feed(stream[:-1]) == [b"a" * 1000]
    assert len(receiver._kept) == 1000 + 16 - 1
    assert receiver.feed(stream[-1:]) == [b"b" * 1000]
    assert len(receiver._kept) == 0


def test_each_direction_changes_its_key_by_its_own_count():
    """checklist 1: who hears 600 messages has said none, so its first one is under its first key."""
    ours, theirs = Encryptor(KEY, CK), Encryptor(OTHER_KEY, CK)
    heard_there, heard_here = Decryptor(KEY, CK), Decryptor(OTHER_KEY, CK)
    for _ in range(MESSAGES_A_KEY + 100):
        assert heard_there.feed(ours.encrypt(b"update")) == [b"update"]
    assert heard_here.feed(theirs.encrypt(b"first")) == [b"first"]
    assert ours.encrypt(b"") != theirs.encrypt(b"")


class _Late(Encryptor):
    """Begins its nonces again without another key, which would tell what was said."""

    def _rotate(self) -> None:
        self._nonce = 0


@pytest.mark.parametrize("last", [MESSAGES_A_KEY - 1, MESSAGES_A_KEY])
def test_a_peer_that_changes_its_key_early_or_never_is_not_heard(last):
    """checklist 1"""
    sender = Encryptor(KEY, CK) if last < MESSAGES_A_KEY else _Late(KEY, CK)
    receiver = Decryptor(KEY, CK)
    for _ in range(last):
        assert receiver.feed(sender.encrypt(b"update")) == [b"update"]
    if last < MESSAGES_A_KEY:
        sender._rotate()
    with pytest.raises(BrokenFrame):
        receiver.feed(sender.encrypt(b"update"))


def test_a_length_is_sealed_apart_and_judged_before_its_message_comes():
    """checklist 1: nobody waits for 65535 bytes that a stranger announced."""
    sender, receiver = Encryptor(KEY, CK), Decryptor(KEY, CK)
    frame = bytearray(sender.encrypt(b"pay me"))
    assert len(frame) == 2 + 16 + 6 + 16
    frame[0] ^= 0xFF
    with pytest.raises(BrokenFrame):
        receiver.feed(bytes(frame[:18]))
