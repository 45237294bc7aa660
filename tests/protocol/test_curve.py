"""The curve adapter: BIP 340's vectors, ECDSA forms, and what it says about bytes that are no keys."""

import csv
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import curve
from protocol.errors import MalformedMessage
from protocol.hashes import sha256
from tests.support import vector_path

ONE = (1).to_bytes(32, "big")
SECRET = sha256(b"secret")
POINT = curve.point_of(SECRET)
secrets = st.integers(1, curve.ORDER - 1).map(lambda n: n.to_bytes(32, "big"))


def test_own_bip340_case() -> None:
    secret = (3).to_bytes(32, "big")
    signature = curve.sign_schnorr(secret, bytes(32))
    assert signature.hex() == (
        "e907831f80848d1069a5371b402410364bdf1c5f8307b0084c55f1ce2dca8215"
        "25f66a4a85ea8b71e482a74f382d2ce5ebeee8fdb2172f477df4900d310536c0"
    )
    assert curve.verify_schnorr(curve.point_of(secret)[1:], bytes(32), signature)
    assert not curve.verify_schnorr(curve.point_of(secret)[1:], ONE, signature)


def test_published_schnorr_signatures() -> None:
    with vector_path("bips/bip340/test-vectors.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        public_key, message = bytes.fromhex(row["public key"]), bytes.fromhex(row["message"])
        signature = bytes.fromhex(row["signature"])
        if row["secret key"]:
            secret, aux = bytes.fromhex(row["secret key"]), bytes.fromhex(row["aux_rand"])
            assert curve.point_of(secret)[1:] == public_key
            assert curve.sign_schnorr(secret, message, aux) == signature
        assert curve.verify_schnorr(public_key, message, signature) is (row["verification result"] == "TRUE")
    assert len(rows) == 19


@given(secrets, st.binary(min_size=32, max_size=32))
def test_ecdsa_round_trip_in_both_forms(secret: bytes, digest: bytes) -> None:
    signature = curve.sign_ecdsa(secret, digest)
    assert len(signature) == 64
    assert int.from_bytes(signature[32:], "big") <= curve.ORDER // 2
    assert curve.verify_ecdsa(curve.point_of(secret), digest, signature)
    assert curve.from_der(curve.to_der(signature)) == signature


def test_high_s_is_refused() -> None:
    digest = sha256(b"message")
    signature = curve.sign_ecdsa(SECRET, digest)
    high = (curve.ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    assert curve.verify_ecdsa(POINT, digest, signature)
    assert not curve.verify_ecdsa(POINT, digest, signature[:32] + high)


@given(secrets, st.binary(min_size=32, max_size=32))
def test_recovery_finds_the_key(secret: bytes, digest: bytes) -> None:
    signature, recovery_id = curve.sign_recoverable(secret, digest)
    assert curve.recover(digest, signature, recovery_id) == curve.point_of(secret)
    assert curve.recover(digest, signature, recovery_id ^ 1) != curve.point_of(secret)
    assert curve.recover(digest, signature, 4) is None
    assert curve.recover(digest, bytes(64), 0) is None


@given(secrets, secrets)
def test_points_follow_their_secrets(a: bytes, b: bytes) -> None:
    point = curve.point_of(a)
    assert curve.multiply_point(point, b) == curve.point_of(curve.multiply_secret(a, b))
    assert curve.ecdh(a, curve.point_of(b)) == curve.ecdh(b, point)
    assert curve.negate_point(point) == curve.point_of(curve.negate_secret(a))
    if (int.from_bytes(a, "big") + int.from_bytes(b, "big")) % curve.ORDER:
        total = curve.point_of(curve.add_secrets(a, b))
        assert curve.tweak_point(point, b) == curve.add_points([point, curve.point_of(b)]) == total


def test_the_point_at_infinity_is_no_key() -> None:
    with pytest.raises(curve.InvalidKey):
        curve.add_points([POINT, curve.negate_point(POINT)])
    with pytest.raises(curve.InvalidKey):
        curve.tweak_point(POINT, curve.negate_secret(SECRET))
    with pytest.raises(curve.InvalidKey):
        curve.add_secrets(SECRET, curve.negate_secret(SECRET))


@pytest.mark.parametrize("number", [0, curve.ORDER, curve.ORDER + 1, (1 << 256) - 1])
def test_secret_out_of_range_is_invalid(number: int) -> None:
    secret = number.to_bytes(32, "big")
    assert not curve.is_secret(secret)
    for use in (curve.point_of, curve.negate_secret):
        with pytest.raises(curve.InvalidKey):
            use(secret)
    with pytest.raises(curve.InvalidKey):
        curve.sign_ecdsa(secret, bytes(32))


@pytest.mark.parametrize(
    "point",
    [
        b"",
        b"\x02" * 32,
        b"\x04" + bytes(32),
        b"\x02" + b"\xff" * 32,
        b"\x02" + bytes(31) + b"\x05",
        POINT + b"\0",
    ],
)
def test_bytes_that_are_no_point(point: bytes) -> None:
    assert not curve.is_point(point)
    assert not curve.verify_ecdsa(point, bytes(32), curve.sign_ecdsa(SECRET, bytes(32)))
    with pytest.raises(MalformedMessage):
        curve.ecdh(SECRET, point)


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=40))
def test_verification_never_raises(signature: bytes, key: bytes, digest: bytes) -> None:
    assert curve.verify_ecdsa(key, digest, signature) is False
    assert curve.verify_schnorr(key, digest, signature) is False
    try:
        assert len(curve.from_der(signature)) == 64
    except MalformedMessage:
        pass


@given(secrets, secrets)
def test_xonly_tweak_and_its_secret_agree(secret: bytes, tweak: bytes) -> None:
    even = secret if curve.point_of(secret)[0] == 2 else curve.negate_secret(secret)
    if (int.from_bytes(even, "big") + int.from_bytes(tweak, "big")) % curve.ORDER == 0:
        with pytest.raises(curve.InvalidKey):
            curve.tweak_xonly(curve.point_of(secret)[1:], tweak)
        return
    xonly, parity = curve.tweak_xonly(curve.point_of(secret)[1:], tweak)
    tweaked = curve.point_of(curve.tweak_xonly_secret(secret, tweak))
    assert (tweaked[1:], tweaked[0] & 1) == (xonly, parity)


@given(st.binary(max_size=70))
def test_schnorr_messages_of_any_length(message: bytes) -> None:
    signature = curve.sign_schnorr(SECRET, message)
    assert curve.verify_schnorr(POINT[1:], message, signature)
    assert not curve.verify_schnorr(POINT[1:], message + b"\0", signature)


@pytest.mark.parametrize(
    "call",
    [
        lambda short: curve.multiply_point(curve.point_of(bytes(31) + b"\x01"), short),
        lambda short: curve.tweak_point(curve.point_of(bytes(31) + b"\x01"), short),
        lambda short: curve.add_secrets(bytes(31) + b"\x01", short),
        lambda short: curve.multiply_secret(bytes(31) + b"\x01", short),
        lambda short: curve.tweak_xonly(curve.point_of(bytes(31) + b"\x01")[1:], short),
        lambda short: curve.sign_ecdsa(short, bytes(32)),
        lambda short: curve.sign_recoverable(short, bytes(32)),
    ],
)
def test_a_short_scalar_is_refused_before_the_library_reads_past_it(call: Callable[[bytes], object]) -> None:
    with pytest.raises(curve.InvalidKey):
        call(b"\x01" * 31)
