"""The onion packet (BOLT 4, "Packet Construction", "Onion Decryption")."""

import hashlib
import hmac
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import curve
from protocol.bolt4 import sphinx
from protocol.bolt4.failure import FailureCode
from protocol.bolt4.sphinx import (
    BadOnion,
    InvalidOnionHmac,
    InvalidOnionKey,
    InvalidOnionPayload,
    InvalidOnionVersion,
    OnionError,
    build,
    peel,
)
from protocol.errors import CommandRefused
from protocol.secret import Secret
from tests.support import vectors

SESSION_KEY = bytes([0x41]) * 32
ASSOCIATED_DATA = bytes([0x42]) * 32
NODE_SECRETS = [bytes([0x41 + i]) * 32 for i in range(5)]
NODE_IDS = [curve.point_of(secret) for secret in NODE_SECRETS]
# The published five-hop case (bolt04/onion-test.json): payloads, and the SHA-256 of the packet it must give.
PAYLOADS = [
    bytes.fromhex("02023a98040205dc06080000000000000001"),
    bytes.fromhex("020236b00402057806080000000000000002fd02013c")
    + bytes.fromhex("0102030405060708090a0b0c0d0e0f" * 4),
    bytes.fromhex("020230d4040204e206080000000000000003"),
    bytes.fromhex("02022710040203e806080000000000000004"),
    bytes.fromhex(
        "02022710040203e8082224a33562c54507a9334e79f0dc4f17d407e6d7c61f0e2f3d0d38599502f617042710fd012de02a"
    )
    + bytes([0x2A]) * 223,
]
PACKET_SHA256 = "92e0742510440ed2368e1c03aed09d49a2e4cb4409c88ee0ad02a35c4a4b495a"


def onion(payloads: list[bytes] | None = None) -> sphinx.Onion:
    return build(SESSION_KEY, list(zip(NODE_IDS, payloads or PAYLOADS, strict=False)), ASSOCIATED_DATA)


def broken(packet: bytes, at: int, value: int | None = None) -> bytes:
    return packet[:at] + bytes((packet[at] ^ 1 if value is None else value,)) + packet[at + 1 :]


def test_the_published_onion_is_built_byte_for_byte() -> None:
    packet = onion().packet
    assert len(packet) == sphinx.PACKET_SIZE
    assert hashlib.sha256(packet).hexdigest() == PACKET_SHA256


def test_the_published_onion_file_is_built_and_peeled_by_each_hop() -> None:
    case: dict[str, Any] = vectors("bolt04/onion-test.json")
    generate = case["generate"]
    associated_data = bytes.fromhex(generate["associated_data"])
    hops = []
    for hop in generate["hops"]:
        framed = bytes.fromhex(hop["payload"])  # the file's payloads carry their length
        hops.append((bytes.fromhex(hop["pubkey"]), framed[3:] if framed[0] == 0xFD else framed[1:]))
    assert [payload for _, payload in hops] == PAYLOADS
    packet = build(bytes.fromhex(generate["session_key"]), hops, associated_data).packet
    assert packet.hex() == case["onion"]
    for secret, (_, payload) in zip(case["decode"], hops, strict=True):
        peeled = peel(bytes.fromhex(secret), packet, associated_data)
        assert peeled.payload == payload
        packet = peeled.next_packet or b""
    assert packet == b""


def test_sender_and_hops_share_the_same_secrets() -> None:
    made = onion()
    packet = made.packet
    for secret, shared in zip(NODE_SECRETS, made.shared_secrets, strict=True):
        peeled = peel(Secret(secret), packet, ASSOCIATED_DATA)
        assert peeled.shared_secret == shared
        packet = peeled.next_packet or b""


@pytest.mark.parametrize("key", [bytes(32), b"\xff" * 32, b"\x01"])
def test_a_node_secret_that_is_none_is_not_blamed_on_the_sender(key: bytes) -> None:
    """Otherwise each HTLC would be failed with `invalid_onion_key`, and nobody would hear that the key is wrong."""
    with pytest.raises(ValueError, match="node secret"):
        peel(key, onion().packet, ASSOCIATED_DATA)


@given(st.integers(1, 20), st.data())
def test_every_hop_reads_its_own_payload(count: int, data: st.DataObject) -> None:
    payloads = [data.draw(st.binary(min_size=2, max_size=30)) for _ in range(count)]
    if data.draw(st.booleans()):  # fill the packet to its last byte
        room = 1300 - sum(len(payload) + 33 for payload in payloads)
        payloads[-1] += bytes(room - 2 if len(payloads[-1]) + room > 0xFE else 0)
    secrets = [curve.multiply_secret(NODE_SECRETS[0], (i + 1).to_bytes(32, "big")) for i in range(count)]
    made = build(
        SESSION_KEY, [(curve.point_of(s), p) for s, p in zip(secrets, payloads, strict=True)], ASSOCIATED_DATA
    )
    packet: bytes | None = made.packet
    for secret, payload in zip(secrets, payloads, strict=True):
        assert packet is not None and len(packet) == sphinx.PACKET_SIZE
        peeled = peel(secret, packet, ASSOCIATED_DATA)
        assert peeled.payload == payload
        packet = peeled.next_packet
    assert packet is None


def test_route_that_does_not_fit_is_refused() -> None:
    fits = [(NODE_IDS[0], bytes(1300 - 32 - 3))]
    assert peel(NODE_SECRETS[0], build(SESSION_KEY, fits, b"").packet, b"").payload == fits[0][1]
    with pytest.raises(CommandRefused, match="fewer hops"):
        build(SESSION_KEY, [(NODE_IDS[0], bytes(1300 - 32 - 2))], b"")


def test_payload_of_a_reserved_length_is_not_built() -> None:
    with pytest.raises(ValueError, match="reserved"):
        build(SESSION_KEY, [(NODE_IDS[0], b"\x00")], b"")
    with pytest.raises(ValueError, match="at least one hop"):
        build(SESSION_KEY, [], b"")


def test_node_id_that_is_no_point_is_not_built() -> None:
    with pytest.raises(curve.InvalidKey):
        build(SESSION_KEY, [(b"\x02" + bytes([0xFF]) * 32, bytes(2))], b"")


@pytest.mark.parametrize(
    ("change", "error", "code"),
    [
        (lambda p: broken(p, 0, 1), InvalidOnionVersion, 0xC004),
        (lambda p: broken(p, 1, 5), InvalidOnionKey, 0xC006),
        (lambda p: p[:2] + bytes([0xFF]) * 32 + p[34:], InvalidOnionKey, 0xC006),
        (lambda p: broken(p, 34), InvalidOnionHmac, 0xC005),
        (lambda p: broken(p, 1365), InvalidOnionHmac, 0xC005),
        (lambda p: p[:66], InvalidOnionHmac, 0xC005),
        (lambda p: p[:34], InvalidOnionHmac, 0xC005),
        (lambda p: p[:33], InvalidOnionKey, 0xC006),
        (lambda p: p[:1], InvalidOnionKey, 0xC006),
        (lambda p: b"", InvalidOnionVersion, 0xC004),
    ],
)
def test_changed_packet_is_answered_with_its_code_and_hash(
    change: Callable[[bytes], bytes], error: type[BadOnion], code: int
) -> None:
    """checklist 32"""
    packet = change(onion().packet)
    with pytest.raises(error) as caught:
        peel(NODE_SECRETS[0], packet, ASSOCIATED_DATA)
    assert caught.value.failure_code == FailureCode(code)
    assert caught.value.sha256_of_onion == hashlib.sha256(packet).digest()


def test_other_associated_data_is_a_wrong_hmac() -> None:
    """checklist 32"""
    with pytest.raises(InvalidOnionHmac):
        peel(NODE_SECRETS[0], onion().packet, bytes(32))


def test_onion_for_another_node_is_a_wrong_hmac() -> None:
    with pytest.raises(InvalidOnionHmac):
        peel(NODE_SECRETS[1], onion().packet, ASSOCIATED_DATA)


@pytest.mark.parametrize(
    "start",
    ["00", "01", "fd0005", "fd04f2", "fe00010000", "ffffffffffffffffff"],
)
def test_impossible_payload_length_is_an_ordinary_failure_with_its_shared_secret(start: str) -> None:
    """The HMAC is right, so the sender wrote it, and gets an encrypted `invalid_onion_payload`."""
    shared = curve.ecdh(NODE_SECRETS[0], curve.point_of(SESSION_KEY))
    clear = bytes.fromhex(start).ljust(1300, b"\x00")
    payloads = sphinx.apply_stream(sphinx.derive_key(b"rho", shared), clear)
    mu = sphinx.derive_key(b"mu", shared)
    packet = b"\x00" + curve.point_of(SESSION_KEY) + payloads + hmac_of(mu, payloads)
    with pytest.raises(InvalidOnionPayload) as caught:
        peel(NODE_SECRETS[0], packet, b"")
    assert caught.value.shared_secret == Secret(shared)
    assert (caught.value.tlv_type, caught.value.offset) == (0, 0)


def hmac_of(key: bytes, data: bytes) -> bytes:
    return hmac.digest(key, data, "sha256")


def test_shared_secrets_do_not_print() -> None:
    made = onion()
    peeled = peel(NODE_SECRETS[0], made.packet, ASSOCIATED_DATA)
    assert made.shared_secrets[0].reveal().hex() not in repr(made) + repr(peeled)
    assert "hidden" in repr(peeled)


@given(
    st.binary(max_size=1500) | st.binary(min_size=1366, max_size=1366).map(lambda raw: b"\x00\x02" + raw[2:])
)
def test_any_bytes_raise_an_onion_error_or_nothing(raw: bytes) -> None:
    with pytest.raises(OnionError):
        peel(NODE_SECRETS[0], raw, ASSOCIATED_DATA)


@given(st.integers(0, 1365), st.integers(1, 255))
def test_any_changed_byte_is_noticed(at: int, difference: int) -> None:
    packet = onion().packet
    with pytest.raises(BadOnion):
        peel(NODE_SECRETS[0], broken(packet, at, packet[at] ^ difference), ASSOCIATED_DATA)
