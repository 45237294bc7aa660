"""Building and peeling the onion packet (BOLT 4, "Packet Construction" and "Onion Decryption").

Whether an onion was seen before (a replay) is for the caller to find out.
"""

import hmac
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from msgspec import Struct

from protocol import curve
from protocol.bolt4.failure import FailureCode
from protocol.errors import CommandRefused, MalformedMessage
from protocol.hashes import sha256
from protocol.secret import Secret
from protocol.wire.bigsize import read_bigsize, write_bigsize

PAYLOADS_SIZE = 1300
PACKET_SIZE = 1 + 33 + PAYLOADS_SIZE + 32
_HMAC = 32
_FINAL_HMAC = bytes(_HMAC)
_NONCE = bytes(16)  # counter and nonce are zero: a key is used for one packet only


class OnionError(MalformedMessage):
    """An onion that we cannot take; the subclass says how the HTLC is failed."""


class BadOnion(OnionError):
    """There is no shared secret to trust, so the answer is `update_fail_malformed_htlc` with these values."""

    failure_code: FailureCode

    def __init__(self, sentence: str, packet: bytes) -> None:
        super().__init__(sentence)
        self.sha256_of_onion = sha256(packet)


class InvalidOnionVersion(BadOnion):
    failure_code = FailureCode.INVALID_ONION_VERSION


class InvalidOnionHmac(BadOnion):
    failure_code = FailureCode.INVALID_ONION_HMAC


class InvalidOnionKey(BadOnion):
    failure_code = FailureCode.INVALID_ONION_KEY


class InvalidOnionPayload(OnionError):
    """The payload is not understood; the answer is an ordinary failure with the TLV type and its offset.

    `shared_secret` is set when peeling itself fails, since the caller then has no `Peeled` to take it from.
    """

    failure_code = FailureCode.INVALID_ONION_PAYLOAD

    def __init__(
        self, sentence: str, tlv_type: int = 0, offset: int = 0, shared_secret: Secret | None = None
    ) -> None:
        super().__init__(sentence)
        self.tlv_type = tlv_type
        self.offset = offset
        self.shared_secret = shared_secret


class Onion(Struct, frozen=True):
    """What the sender keeps: the packet for the first hop, and the secrets that open returned failures."""

    packet: bytes
    shared_secrets: tuple[Secret, ...]


class Peeled(Struct, frozen=True):
    """One layer taken off; `next_packet` is None at the final node."""

    payload: bytes
    next_packet: bytes | None
    shared_secret: Secret


def derive_key(key_type: bytes, shared_secret: bytes) -> bytes:
    """BOLT 4, "Key Generation": the key type is the HMAC key, the secret is the message."""
    return hmac.digest(key_type, shared_secret, "sha256")


def apply_stream(key: bytes, data: bytes) -> bytes:
    """`data` XOR the ChaCha20 stream of `key`."""
    return Cipher(algorithms.ChaCha20(key, _NONCE), mode=None).encryptor().update(data)


def build(
    session_key: Secret | bytes,
    hops: Sequence[tuple[bytes, bytes]],
    associated_data: bytes,
    *,
    payloads_size: int = PAYLOADS_SIZE,
) -> Onion:
    """An onion over `(node_id, payload)` hops; the payloads are TLV streams without their length.

    The session key must be random and never used again. A node id that is no point raises `InvalidKey`.
    """
    if not hops:
        raise ValueError("an onion needs at least one hop")
    if any(len(payload) < 2 for _, payload in hops):
        raise ValueError("a payload has at least 2 bytes; lengths 0 and 1 are reserved")
    first_key = session_key.reveal() if isinstance(session_key, Secret) else session_key
    frame_sizes = [_frame_size(payload) for _, payload in hops]
    if sum(frame_sizes) > payloads_size:
        raise CommandRefused(
            f"the onion for {len(hops)} hops needs {sum(frame_sizes)} bytes and has {payloads_size}",
            what_to_do="Use a route with fewer hops, or ask for an invoice with less payment metadata.",
        )
    first_point, secrets = _shared_secrets(first_key, [node_id for node_id, _ in hops])
    rho_keys = [derive_key(b"rho", secret) for secret in secrets]
    filler = _filler(rho_keys[:-1], frame_sizes, payloads_size)

    payloads = apply_stream(derive_key(b"pad", first_key), bytes(payloads_size))
    next_hmac = _FINAL_HMAC
    for i in range(len(hops) - 1, -1, -1):
        payload = hops[i][1]
        shifted = b"".join(
            (write_bigsize(len(payload)), payload, next_hmac, payloads[: payloads_size - frame_sizes[i]])
        )
        payloads = apply_stream(rho_keys[i], shifted)
        if filler and i == len(hops) - 1:
            payloads = payloads[: -len(filler)] + filler
        next_hmac = hmac.digest(derive_key(b"mu", secrets[i]), payloads + associated_data, "sha256")
    packet = b"".join((b"\x00", first_point, payloads, next_hmac))
    return Onion(packet, tuple(Secret(secret) for secret in secrets))


def peel(node_secret: Secret | bytes, packet: bytes, associated_data: bytes) -> Peeled:
    """Take off our layer. Raises `BadOnion` or `InvalidOnionPayload`, and nothing else, for any bytes."""
    if packet[:1] != b"\x00":
        raise InvalidOnionVersion("this onion has a version that we do not know", packet)
    key = node_secret.reveal() if isinstance(node_secret, Secret) else node_secret
    if not curve.is_secret(key):
        raise ValueError("the node secret is not a private key")  # ours, not the packet's fault
    ephemeral = packet[1:34]
    try:
        secret = curve.ecdh(key, ephemeral)
    except curve.InvalidKey as error:
        raise InvalidOnionKey("the onion's ephemeral key is not a point of the curve", packet) from error
    payloads = packet[34:-_HMAC]
    expected = hmac.digest(derive_key(b"mu", secret), payloads + associated_data, "sha256")
    if not hmac.compare_digest(expected, packet[-_HMAC:]):
        raise InvalidOnionHmac("the onion's HMAC is wrong: it was changed, or is for other data", packet)

    size = len(payloads)
    clear = apply_stream(derive_key(b"rho", secret), payloads + bytes(size))
    try:
        length, start = read_bigsize(clear, 0, size)
    except MalformedMessage as error:
        raise InvalidOnionPayload(str(error), shared_secret=Secret(secret)) from error
    end = start + length
    if length < 2 or end + _HMAC > size:  # 0 and 1 are reserved
        raise InvalidOnionPayload("the payload's length is not possible", shared_secret=Secret(secret))
    next_hmac = clear[end : end + _HMAC]
    next_packet = None
    if next_hmac != _FINAL_HMAC:
        try:
            next_key = curve.multiply_point(ephemeral, sha256(ephemeral + secret))
        except curve.InvalidKey as error:
            raise InvalidOnionKey("the onion's ephemeral key cannot be blinded", packet) from error
        next_packet = b"".join((b"\x00", next_key, clear[end + _HMAC : end + _HMAC + size], next_hmac))
    return Peeled(clear[start:end], next_packet, Secret(secret))


def _shared_secrets(session_key: bytes, node_ids: list[bytes]) -> tuple[bytes, list[bytes]]:
    """The first ephemeral point and every hop's secret (BOLT 4, "Blinding Ephemeral Onion Keys")."""
    first_point = point = curve.point_of(session_key)
    key = session_key
    secrets: list[bytes] = []
    for node_id in node_ids:
        if secrets:
            key = curve.multiply_secret(key, sha256(point + secrets[-1]))
            point = curve.point_of(key)
        secrets.append(curve.ecdh(key, node_id))
    return first_point, secrets


def _filler(rho_keys: list[bytes], frame_sizes: list[int], payloads_size: int) -> bytes:
    """The padding that the hops before the last will have added (BOLT 4, "Filler Generation")."""
    filler = b""
    for rho, added in zip(rho_keys, frame_sizes, strict=False):  # the last hop adds none
        before = payloads_size - len(filler)
        filler = apply_stream(rho, bytes(before) + filler + bytes(added))[before:]
    return filler


def _frame_size(payload: bytes) -> int:
    return len(write_bigsize(len(payload))) + len(payload) + _HMAC
