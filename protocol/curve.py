"""Everything on secp256k1, through coincurve's bundled libsecp256k1 (SEC 1; BIP 340).

Points are 33 compressed bytes, x-only keys 32, secrets 32, ECDSA signatures 64 bytes compact as on the wire
(BOLT 1, "Fundamental Types"). A point or secret that is not valid raises `InvalidKey`; verification answers
True or False and never raises. The library calls release the GIL, so batches may run on threads.
"""

from collections.abc import Sequence

from coincurve._libsecp256k1 import ffi, lib  # the one place that touches coincurve's private module
from coincurve.context import GLOBAL_CONTEXT

from protocol.errors import MalformedMessage

ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_ctx = GLOBAL_CONTEXT.ctx
_COMPRESSED = 258  # SECP256K1_EC_COMPRESSED
_parsed: dict[bytes, object] = {}
_PARSED_LIMIT = 4096


class InvalidKey(MalformedMessage):
    """Not a point of the curve, or not a secret in 1..order-1."""


def _parse(point: bytes) -> object:
    if len(point) != 33:
        raise InvalidKey(f"a public key has 33 bytes, not {len(point)}")
    parsed = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ec_pubkey_parse(_ctx, parsed, point, 33):
        raise InvalidKey(f"{point.hex()} is not a point of secp256k1")
    return parsed


def _parse_cached(point: bytes) -> object:
    """For keys that are used again and again (funding keys, HTLC keys of one commitment, node ids)."""
    parsed = _parsed.get(point)
    if parsed is None:
        parsed = _parse(point)
        if len(_parsed) >= _PARSED_LIMIT:
            _parsed.clear()
        _parsed[point] = parsed
    return parsed


def _serialize(parsed: object) -> bytes:
    out = ffi.new("unsigned char[33]")
    length = ffi.new("size_t *", 33)
    lib.secp256k1_ec_pubkey_serialize(_ctx, out, length, parsed, _COMPRESSED)
    return bytes(ffi.buffer(out, 33))


def is_point(point: bytes) -> bool:
    try:
        _parse(point)
    except InvalidKey:
        return False
    return True


def is_secret(secret: bytes) -> bool:
    return len(secret) == 32 and bool(lib.secp256k1_ec_seckey_verify(_ctx, secret))


def _need_secret(secret: bytes) -> None:
    if not is_secret(secret):
        raise InvalidKey("a private key must be a number between 1 and the order of the curve")


def point_of(secret: bytes) -> bytes:
    """The public key of a secret."""
    _need_secret(secret)
    parsed = ffi.new("secp256k1_pubkey *")
    lib.secp256k1_ec_pubkey_create(_ctx, parsed, secret)
    return _serialize(parsed)


def add_points(points: Sequence[bytes]) -> bytes:
    parsed = [_parse(point) for point in points]
    out = ffi.new("secp256k1_pubkey *")
    array = ffi.new("secp256k1_pubkey *[]", parsed)
    if not lib.secp256k1_ec_pubkey_combine(_ctx, out, array, len(parsed)):
        raise InvalidKey("the sum of these points is the point at infinity")
    return _serialize(out)


def negate_point(point: bytes) -> bytes:
    parsed = _parse(point)
    lib.secp256k1_ec_pubkey_negate(_ctx, parsed)
    return _serialize(parsed)


def _need_scalar(scalar: bytes) -> None:
    """libsecp256k1 reads 32 bytes whatever it is given."""
    if len(scalar) != 32:
        raise InvalidKey(f"a scalar has 32 bytes, not {len(scalar)}")


def multiply_point(point: bytes, scalar: bytes) -> bytes:
    _need_scalar(scalar)
    parsed = _parse(point)
    if not lib.secp256k1_ec_pubkey_tweak_mul(_ctx, parsed, scalar):
        raise InvalidKey("the scalar is out of range")
    return _serialize(parsed)


def tweak_point(point: bytes, scalar: bytes) -> bytes:
    """`point + scalar*G`."""
    _need_scalar(scalar)
    parsed = _parse(point)
    if not lib.secp256k1_ec_pubkey_tweak_add(_ctx, parsed, scalar):
        raise InvalidKey("the tweak leads to no valid point")
    return _serialize(parsed)


def add_secrets(secret: bytes, tweak: bytes) -> bytes:
    _need_secret(secret)
    _need_scalar(tweak)
    out = ffi.new("unsigned char[32]", secret)
    if not lib.secp256k1_ec_seckey_tweak_add(_ctx, out, tweak):
        raise InvalidKey("the tweak leads to no valid private key")
    return bytes(ffi.buffer(out, 32))


def multiply_secret(secret: bytes, scalar: bytes) -> bytes:
    _need_secret(secret)
    _need_scalar(scalar)
    out = ffi.new("unsigned char[32]", secret)
    if not lib.secp256k1_ec_seckey_tweak_mul(_ctx, out, scalar):
        raise InvalidKey("the scalar is out of range")
    return bytes(ffi.buffer(out, 32))


def negate_secret(secret: bytes) -> bytes:
    _need_secret(secret)
    out = ffi.new("unsigned char[32]", secret)
    lib.secp256k1_ec_seckey_negate(_ctx, out)
    return bytes(ffi.buffer(out, 32))


def ecdh(secret: bytes, point: bytes) -> bytes:
    """SHA-256 of the compressed product (BOLT 8, "Handshake State"; BOLT 4, "Shared Secret")."""
    _need_secret(secret)
    out = ffi.new("unsigned char[32]")
    if not lib.secp256k1_ecdh(_ctx, out, _parse(point), secret, ffi.NULL, ffi.NULL):
        raise InvalidKey("no shared secret comes of these keys")
    return bytes(ffi.buffer(out, 32))


def sign_ecdsa(secret: bytes, digest: bytes) -> bytes:
    """RFC 6979, low-S, 64 bytes compact."""
    _check_digest(digest)
    _need_scalar(secret)
    signature = ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ecdsa_sign(_ctx, signature, digest, secret, ffi.NULL, ffi.NULL):
        raise InvalidKey("this private key cannot sign")
    out = ffi.new("unsigned char[64]")
    lib.secp256k1_ecdsa_signature_serialize_compact(_ctx, out, signature)
    return bytes(ffi.buffer(out, 64))


def verify_ecdsa(point: bytes, digest: bytes, signature: bytes) -> bool:
    """False for a wrong or high-S signature, and for bytes that are no key or no signature."""
    if len(signature) != 64 or len(digest) != 32:
        return False
    parsed = ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ecdsa_signature_parse_compact(_ctx, parsed, signature):
        return False
    try:
        key = _parse_cached(point)
    except InvalidKey:
        return False
    return bool(lib.secp256k1_ecdsa_verify(_ctx, parsed, digest, key))


def _check_digest(digest: bytes) -> None:
    if len(digest) != 32:
        raise ValueError(f"a digest has 32 bytes, not {len(digest)}")


def to_der(signature: bytes) -> bytes:
    parsed = ffi.new("secp256k1_ecdsa_signature *")
    if len(signature) != 64 or not lib.secp256k1_ecdsa_signature_parse_compact(_ctx, parsed, signature):
        raise MalformedMessage("not a compact signature")
    out = ffi.new("unsigned char[80]")
    length = ffi.new("size_t *", 80)
    lib.secp256k1_ecdsa_signature_serialize_der(_ctx, out, length, parsed)
    return bytes(ffi.buffer(out, length[0]))


def from_der(der: bytes) -> bytes:
    """DER (without a sighash byte) to 64 bytes compact."""
    parsed = ffi.new("secp256k1_ecdsa_signature *")
    if not lib.secp256k1_ecdsa_signature_parse_der(_ctx, parsed, der, len(der)):
        raise MalformedMessage("not a DER signature")
    out = ffi.new("unsigned char[64]")
    lib.secp256k1_ecdsa_signature_serialize_compact(_ctx, out, parsed)
    return bytes(ffi.buffer(out, 64))


def sign_recoverable(secret: bytes, digest: bytes) -> tuple[bytes, int]:
    """64 bytes compact and the recovery id 0..3 (BOLT 11)."""
    _check_digest(digest)
    _need_scalar(secret)
    signature = ffi.new("secp256k1_ecdsa_recoverable_signature *")
    if not lib.secp256k1_ecdsa_sign_recoverable(_ctx, signature, digest, secret, ffi.NULL, ffi.NULL):
        raise InvalidKey("this private key cannot sign")
    out, recovery_id = ffi.new("unsigned char[64]"), ffi.new("int *")
    lib.secp256k1_ecdsa_recoverable_signature_serialize_compact(_ctx, out, recovery_id, signature)
    return bytes(ffi.buffer(out, 64)), int(recovery_id[0])


def recover(digest: bytes, signature: bytes, recovery_id: int) -> bytes | None:
    """The key that made a recoverable signature (a high S is accepted), or None."""
    if len(signature) != 64 or not 0 <= recovery_id <= 3 or len(digest) != 32:
        return None
    parsed = ffi.new("secp256k1_ecdsa_recoverable_signature *")
    if not lib.secp256k1_ecdsa_recoverable_signature_parse_compact(_ctx, parsed, signature, recovery_id):
        return None
    key = ffi.new("secp256k1_pubkey *")
    if not lib.secp256k1_ecdsa_recover(_ctx, key, parsed, digest):
        return None
    return _serialize(key)


def _keypair(secret: bytes) -> object:
    _need_secret(secret)
    keypair = ffi.new("secp256k1_keypair *")
    lib.secp256k1_keypair_create(_ctx, keypair, secret)
    return keypair


def sign_schnorr(secret: bytes, message: bytes, aux_rand: bytes = bytes(32)) -> bytes:
    """BIP 340 over a message of any length; `aux_rand` is 32 bytes."""
    out = ffi.new("unsigned char[64]")
    aux = ffi.new("unsigned char[32]", aux_rand)
    if len(message) == 32:
        lib.secp256k1_schnorrsig_sign32(_ctx, out, message, _keypair(secret), aux)
    else:
        extra = ffi.new("secp256k1_schnorrsig_extraparams *")
        extra.magic = bytes.fromhex("da6fb38c")
        extra.noncefp = ffi.NULL
        extra.ndata = aux
        lib.secp256k1_schnorrsig_sign_custom(_ctx, out, message, len(message), _keypair(secret), extra)
    return bytes(ffi.buffer(out, 64))


def _parse_xonly(key: bytes) -> object:
    """A parsed x-only key, or None."""
    parsed = ffi.new("secp256k1_xonly_pubkey *")
    if len(key) != 32 or not lib.secp256k1_xonly_pubkey_parse(_ctx, parsed, key):
        return None
    return parsed


def verify_schnorr(xonly: bytes, message: bytes, signature: bytes) -> bool:
    key = _parse_xonly(xonly)
    if key is None or len(signature) != 64:
        return False
    return bool(lib.secp256k1_schnorrsig_verify(_ctx, signature, message, len(message), key))


def tweak_xonly(xonly: bytes, tweak: bytes) -> tuple[bytes, int]:
    """The tweaked x-only key and its parity (BIP 341, "Constructing and spending Taproot outputs")."""
    _need_scalar(tweak)
    key = _parse_xonly(xonly)
    out = ffi.new("secp256k1_pubkey *")
    if key is None or not lib.secp256k1_xonly_pubkey_tweak_add(_ctx, out, key, tweak):
        raise InvalidKey("not an x-only key, or the tweak leads to no valid point")
    point = _serialize(out)
    return point[1:], point[0] & 1


def tweak_xonly_secret(secret: bytes, tweak: bytes) -> bytes:
    """The secret of `tweak_xonly` of its x-only key."""
    even = secret if point_of(secret)[0] == 2 else negate_secret(secret)
    return add_secrets(even, tweak)
