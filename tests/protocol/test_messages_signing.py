"""Messages signed with a node key, as LND and Core Lightning do it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import curve
from protocol.errors import MalformedMessage
from protocol.messages_signing import decode, digest, encode, signer_of

# Signatures that owners of nodes have published, with their node ids; Core Lightning checks the same.
PUBLISHED = [
    (
        "is this compatible?",
        "rbgfioj114mh48d8egqx8o9qxqw4fmhe8jbeeabdioxnjk8z3t1ma1hu1fiswpakgucwwzwo6ofycffbsqusqdimugbh41n1g698hr9t",
        "02b80cabdf82638aac86948e4c06e82064f547768dcef977677b9ea931ea75bab5",
    ),
    (
        "hi",
        "rnrphcjswusbacjnmmmrynh9pqip7sy5cx695h6mfu64iac6qmcmsd8xnsyczwmpqp9shqkth3h4jmkgyqu5z47jfn1q7gpxtaqpx4xg",
        "02de60d194e1ca5947b59fe8e2efd6aadeabfb67f2e89e13ae1a799c1e08e4a43b",
    ),
    (
        "hi",
        "ry8bbsopmduhxy3dr5d9ekfeabdpimfx95kagdem7914wtca79jwamtbw4rxh69hg7n6x9ty8cqk33knbxaqftgxsfsaeprxkn1k48p3",
        "022b8ece90ee891cbcdac0c1cc6af46b73c47212d8defbce80265ac81a6b794931",
    ),
]
SECRET = bytes([0x41]) * 32


@pytest.mark.parametrize(("message", "text", "node_id"), PUBLISHED)
def test_published_signature_names_its_node(message: str, text: str, node_id: str) -> None:
    found = signer_of(message.encode(), text)
    assert found is not None and found.hex() == node_id
    assert encode(*decode(text)) == text


@given(st.binary(max_size=200))
def test_own_signature_names_us_for_this_message_only(message: bytes) -> None:
    text = encode(*curve.sign_recoverable(SECRET, digest(message)))
    assert len(text) == 104
    assert signer_of(message, text) == curve.point_of(SECRET)
    assert signer_of(message + b"x", text) != curve.point_of(SECRET)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PUBLISHED[0][1][:-1], "copy all of it"),
        (PUBLISHED[0][1] + "y", "copy all of it"),
        ("l" + PUBLISHED[0][1][1:], "zbase32"),
        ("y" * 104, "not made by a Lightning node"),
    ],
)
def test_wrong_text_says_what_to_do(text: str, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        decode(text)


def test_signature_of_a_wrong_size_is_not_written() -> None:
    with pytest.raises(ValueError, match="64 bytes"):
        encode(bytes(63), 0)
    with pytest.raises(ValueError, match="recovery id"):
        encode(bytes(64), 4)


ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"


def is_well_formed(text: str) -> bool:
    """104 characters of zbase32 whose first 8 bits are 31 to 34, said in another way than the code does."""
    if len(text) != 104 or set(text) - set(ALPHABET):
        return False
    bits = "".join(f"{ALPHABET.index(character):05b}" for character in text[:2])
    return int(bits[:8], 2) in (31, 32, 33, 34)


zbase32 = st.text(st.sampled_from(ALPHABET), min_size=103, max_size=103)


@given(st.text(max_size=110) | zbase32.map("r".__add__) | zbase32.map("d".__add__) | zbase32.map("l".__add__))
def test_any_text_is_read_or_malformed(text: str) -> None:
    try:
        signature, recovery_id = decode(text)
    except MalformedMessage:
        assert not is_well_formed(text)
    else:
        assert is_well_formed(text)
        assert encode(signature, recovery_id) == text
