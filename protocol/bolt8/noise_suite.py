"""secp256k1 for the Noise library, and the static key that is not here (BOLT 8, "Handshake State").

The library asks its Diffie-Hellman class for `dh(private, public)` and feeds the result to HKDF. For the
node's own static key we hold no private half: `RemoteStatic` stands in its place, `dh` hands out the answer
that came from the signer, and `hkdf` passes that answer on unchanged, since the signer has done this HKDF.
"""

from dataclasses import dataclass
from typing import Any, Self

from noise.backends.default.backend import DefaultNoiseBackend
from noise.functions.hash import hkdf as library_hkdf
from noise.noise_protocol import NoiseProtocol

from protocol import curve
from protocol.secret import Secret

PROTOCOL_NAME = b"Noise_XK_secp256k1_ChaChaPoly_SHA256"
PROLOGUE = b"lightning"


@dataclass(frozen=True)
class MixedKeys:
    """What the signer answers: the chaining key and cipher key after the static operation."""

    chaining_key: Secret
    cipher_key: Secret


class RemoteStatic:
    """The private half of our static key, as far as this process knows it."""

    def __init__(self) -> None:
        self.answer: MixedKeys | None = None

    def take(self) -> MixedKeys:
        if self.answer is None:
            raise RuntimeError("the handshake reached the static key before its answer was given")
        answer, self.answer = self.answer, None
        return answer


class KeyPair:
    """A key as the library wants it: `private`, `public` and `public_bytes`."""

    def __init__(self, private: Secret | RemoteStatic | None, public: bytes) -> None:
        self.private = private
        self.public = public
        self.public_bytes = public

    @classmethod
    def from_public_bytes(cls, point: bytes) -> Self:
        if not curve.is_point(point):
            raise curve.InvalidKey(f"{point.hex()} is not a point of secp256k1")
        return cls(None, point)

    @classmethod
    def from_secret(cls, secret: Secret) -> Self:
        return cls(secret, curve.point_of(secret.reveal()))


class Secp256k1:
    """The DH functions of BOLT 8: SHA-256 of the compressed product."""

    dhlen = 33
    klass = KeyPair

    def generate_keypair(self) -> KeyPair:
        raise RuntimeError("ephemeral keys are given by the caller, this code knows no random source")

    def dh(self, private: Secret | RemoteStatic, public: bytes) -> bytes | MixedKeys:
        if isinstance(private, RemoteStatic):
            return private.take()
        return curve.ecdh(private.reveal(), public)


def _hkdf(chaining_key: bytes, material: Any, outputs: int, hmac_hash_fn: Any) -> Any:
    if isinstance(material, MixedKeys):
        return material.chaining_key.reveal(), material.cipher_key.reveal()
    return library_hkdf(chaining_key, material, outputs, hmac_hash_fn)


def _make_backend() -> Any:
    backend = DefaultNoiseBackend()
    backend.diffie_hellmans["secp256k1"] = Secp256k1
    backend.keypairs["secp256k1"] = KeyPair
    backend.hkdf = _hkdf
    return backend


_BACKEND = _make_backend()


def start(*, initiator: bool, static: KeyPair, ephemeral: KeyPair, remote_static: KeyPair | None) -> Any:
    """The library's handshake state for one connection."""
    protocol = NoiseProtocol(PROTOCOL_NAME, _BACKEND)
    protocol.prologue = PROLOGUE
    protocol.initiator = initiator
    protocol.keypairs = {"s": static, "e": ephemeral, "rs": remote_static, "re": None}
    protocol.initialise_handshake_state()
    return protocol.handshake_state
