"""Failures on their way back (BOLT 4, "Returning Errors")."""

import hashlib
import hmac
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import failure_onion
from protocol.bolt4.failure import (
    IncorrectOrUnknownPaymentDetails,
    TemporaryNodeFailure,
    UnknownFailure,
    UnknownNextPeer,
)
from protocol.bolt4.failure_onion import Attributed, create, failure_keys, unwrap, wrap
from protocol.bolt4.sphinx import apply_stream
from protocol.secret import Secret
from tests.support import vectors

# The published case (bolt04/onion-error-test.json): 2002 from the fifth hop, as the sender gets it.
SHARED_SECRETS = [
    Secret(bytes.fromhex(secret))
    for secret in (
        "53eb63ea8a3fec3b3cd433b85cd62a4b145e1dda09391b348c4e1cd36a03ea66",
        "a6519e98832a0b179f62123b3567c106db99ee37bef036e783263602f3488fae",
        "3a6b412548762f0dbccce5c7ae7bb8147d1caf9b5471c34120b30bc9c04891cc",
        "21e13c2d7cfe7e18836df50872466117a295783ab8aab0e7ecc8c725503ad02d",
        "b5756b9b542727dbafc6765a49488b023a725d631af688fc031217e90770c328",
    )
]
PACKET_SHA256 = "3ba4a39c222872dbe9d2a583aedb40d6baf29fc46c4379152997939d5144115c"


def returned(hop_index: int, failure: Any = None) -> bytes:
    packet = create(SHARED_SECRETS[hop_index], failure or UnknownNextPeer())
    for secret in reversed(SHARED_SECRETS[:hop_index]):
        packet = wrap(secret, packet)
    return packet


def test_the_published_failure_is_created_wrapped_and_found() -> None:
    packet = returned(4, TemporaryNodeFailure())
    assert hashlib.sha256(packet).hexdigest() == PACKET_SHA256
    assert unwrap(SHARED_SECRETS, packet) == Attributed(4, TemporaryNodeFailure())


def test_the_published_failure_file() -> None:
    """checklist 33"""
    case: dict[str, Any] = vectors("bolt04/onion-error-test.json")
    hops = case["generate"]["hops"]
    assert [bytes.fromhex(hop["hop_shared_secret"]) for hop in hops] == [s.reveal() for s in SHARED_SECRETS]
    for hop, secret in zip(hops, SHARED_SECRETS, strict=True):
        assert failure_keys(secret).ammag.reveal().hex() == hop["ammag_key"]
    packet = bytes.fromhex(case["errorpacket"])
    assert returned(4, TemporaryNodeFailure()) == packet
    assert unwrap(SHARED_SECRETS, packet) == Attributed(4, TemporaryNodeFailure())


def test_the_published_long_failure_is_passed_back_and_read() -> None:
    """bolt04/attributable_errors.json, without attribution data: 1060 bytes, a TLV after the failure."""
    case: dict[str, Any] = vectors("bolt04/attributable_errors.json")["failure"]
    secrets = [Secret(bytes.fromhex(hop["shared_secret"])) for hop in reversed(case["hops"])]
    packet = bytes.fromhex(case["raw_error_packet"])
    for hop in case["hops"]:
        packet = wrap(Secret(bytes.fromhex(hop["shared_secret"])), packet)
        assert packet.hex() == hop["error_packet"]
    expected = IncorrectOrUnknownPaymentDetails(Msat(100), BlockHeight(800000))
    assert unwrap(secrets, packet) == Attributed(4, expected)


def test_packet_hides_the_length_of_the_message() -> None:
    """checklist 33"""
    assert {
        len(returned(i, failure)) for i in (0, 4) for failure in (None, UnknownFailure(1, bytes(254)))
    } == {292}
    assert len(returned(0, UnknownFailure(1, bytes(255)))) == 293


def test_failure_keys_stand_in_for_the_shared_secret() -> None:
    for secret in SHARED_SECRETS:
        keys = failure_keys(secret)
        assert create(keys, UnknownNextPeer()) == create(secret, UnknownNextPeer())
        assert wrap(keys, bytes(292)) == wrap(secret, bytes(292))
    assert "hidden" in repr(failure_keys(SHARED_SECRETS[0]))


@given(st.integers(0, 26), st.integers(0, 26), st.binary(max_size=300))
def test_failing_hop_is_found_wherever_it_stands(last: int, at: int, data: bytes) -> None:
    """checklist 33"""
    hop_index = min(at, last)
    secrets = [Secret(bytes((i + 1,)) * 32) for i in range(last + 1)]
    failure = UnknownFailure(0x4FFF, data)
    packet = create(secrets[hop_index], failure)
    for secret in reversed(secrets[:hop_index]):
        packet = wrap(secret, packet)
    assert unwrap(secrets, packet) == Attributed(hop_index, failure)


def test_changed_packet_names_nobody() -> None:
    """checklist 33"""
    packet = bytearray(returned(2))
    packet[100] ^= 1
    assert unwrap(SHARED_SECRETS, bytes(packet)) is None


def test_failure_of_a_node_that_is_not_on_the_route_names_nobody() -> None:
    assert unwrap(SHARED_SECRETS[:3], returned(4)) is None
    # Nor does the constant key of the rounds after the last hop.
    assert unwrap([], create(Secret(bytes(32)), UnknownNextPeer())) is None


def test_the_time_to_read_a_failure_does_not_tell_how_far_away_it_was_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """checklist 33: a node of the route could else measure when we try again, and count its distance to us."""
    rounds = []
    monkeypatch.setattr(
        failure_onion, "apply_stream", lambda *given: rounds.append(1) or apply_stream(*given)
    )
    for hops, packet in ((5, returned(0)), (5, returned(4)), (1, returned(0)), (5, bytes(292))):
        rounds.clear()
        unwrap(SHARED_SECRETS[:hops], packet)
        assert len(rounds) == 27


def test_route_longer_than_the_rounds_is_our_bug() -> None:
    with pytest.raises(ValueError, match="27"):
        unwrap([Secret(bytes(32))] * 28, bytes(292))


@pytest.mark.parametrize(
    ("body", "failure"),
    [
        ("", UnknownFailure(0)),
        ("ffff" + "400f00", UnknownFailure(0x400F, b"\x00")),
        ("0003" + "400f00", UnknownFailure(0x400F, b"\x00")),
        ("0000" + "0000", UnknownFailure(0)),
    ],
)
def test_hop_that_garbles_its_failure_is_still_named(body: str, failure: UnknownFailure) -> None:
    keys, raw = failure_keys(SHARED_SECRETS[0]), bytes.fromhex(body)
    packet = apply_stream(keys.ammag.reveal(), hmac.digest(keys.um.reveal(), raw, "sha256") + raw)
    assert unwrap(SHARED_SECRETS, packet) == Attributed(0, failure)


@given(st.binary(max_size=400))
def test_any_bytes_are_passed_back_and_name_nobody(raw: bytes) -> None:
    """checklist 33"""
    assert len(wrap(SHARED_SECRETS[0], raw)) == len(raw)
    assert unwrap(SHARED_SECRETS, raw) is None
