"""Hierarchical deterministic keys: derivation, neutering and the extended key texts (BIP 32, BIP 84, BIP 86)."""

import hmac
from collections.abc import Sequence

from protocol import curve
from protocol.bitcoin import base58
from protocol.bitcoin.network import Network
from protocol.errors import MalformedMessage
from protocol.hashes import hash160
from protocol.secret import Secret

HARDENED = 0x80000000
_MAX_DEPTH = 255


def parse_path(text: str) -> tuple[int, ...]:
    """`m/84h/0h/0'/1/5` to child numbers; `'` and `h` mark a hardened one. Raises MalformedMessage."""
    parts = text.split("/")
    if parts[0] == "m":
        parts = parts[1:]
    return tuple(parse_child(part) for part in parts)


def parse_child(text: str) -> int:
    hardened = text[-1:] in ("'", "h")
    digits = text[:-1] if hardened else text
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 10 or int(digits) >= HARDENED:
        raise MalformedMessage(f"{text!r} is no child number of a derivation path")
    return int(digits) + HARDENED * hardened


def format_path(path: Sequence[int]) -> str:
    """Without the leading `m/`, hardened ones marked by `h`."""
    return "/".join(f"{n - HARDENED}h" if n >= HARDENED else str(n) for n in path)


class ExtendedKey:
    """A private or public extended key. Its `repr` shows the fingerprint and never key material."""

    __slots__ = ("_chain_code", "_public_key", "_secret", "child_number", "depth", "network", "parent")

    def __init__(
        self,
        network: Network,
        key: Secret | bytes,
        chain_code: bytes,
        *,
        depth: int = 0,
        parent: bytes = bytes(4),
        child_number: int = 0,
    ) -> None:
        """`key`: the private key as a Secret, or the public key as 33 bytes."""
        self._secret = key if isinstance(key, Secret) else None
        self._public_key = curve.point_of(key.reveal()) if isinstance(key, Secret) else key
        if not curve.is_point(self._public_key):
            raise curve.InvalidKey("this extended key holds no point of secp256k1")
        self._chain_code = chain_code
        self.network = network
        self.depth = depth
        self.parent = parent
        self.child_number = child_number

    @classmethod
    def from_seed(cls, seed: Secret, network: Network) -> "ExtendedKey":
        """BIP 32, "Master key generation". A seed has 16 to 64 bytes."""
        if not 16 <= len(seed) <= 64:
            raise MalformedMessage(f"a seed has 16 to 64 bytes, not {len(seed)}")
        digest = hmac.digest(b"Bitcoin seed", seed.reveal(), "sha512")
        return cls(network, Secret(digest[:32]), digest[32:])

    @classmethod
    def from_string(cls, text: str, network: Network) -> "ExtendedKey":
        """An `xprv` or `xpub` (`tprv`, `tpub`) of this network; raises MalformedMessage."""
        data = base58.decode_check(text)
        if len(data) != 78:
            raise MalformedMessage(f"an extended key holds 78 bytes, this one {len(data)}")
        version, depth, parent = data[:4], data[4], data[5:9]
        child_number, chain_code, key = int.from_bytes(data[9:13], "big"), data[13:45], data[45:]
        if depth == 0 and (parent != bytes(4) or child_number != 0):
            raise MalformedMessage("a master key has no parent and no child number, this one claims to")
        if version == network.xprv_version:
            if key[0] != 0:
                raise MalformedMessage("an extended private key holds something else")
            material: Secret | bytes = Secret(key[1:])
        elif version == network.xpub_version:
            material = key
        else:
            raise MalformedMessage(f"this is no extended key of {network.name}")
        return cls(network, material, chain_code, depth=depth, parent=parent, child_number=child_number)

    @property
    def is_private(self) -> bool:
        return self._secret is not None

    def secret(self) -> Secret:
        if self._secret is None:
            raise ValueError("this extended key is public; its private key is not known here")
        return self._secret

    def public_key(self) -> bytes:
        return self._public_key

    def fingerprint(self) -> bytes:
        """The first four bytes of the key's identifier, as key origins name it."""
        return hash160(self._public_key)[:4]

    def neuter(self) -> "ExtendedKey":
        """The public half."""
        return ExtendedKey(
            self.network,
            self._public_key,
            self._chain_code,
            depth=self.depth,
            parent=self.parent,
            child_number=self.child_number,
        )

    def derive(self, path: str | Sequence[int]) -> "ExtendedKey":
        """A descendant: a text such as `84h/0h/0h/0/5` (an `m/` in front is allowed), or child numbers."""
        key = self
        if path in ("", "m"):
            return key
        for number in parse_path(path) if isinstance(path, str) else path:
            key = key.child(number)
        return key

    def child(self, number: int) -> "ExtendedKey":
        """BIP 32, "Child key derivation (CKD) functions"."""
        if not 0 <= number < 1 << 32:
            raise ValueError(f"{number} is no child number")
        if self.depth == _MAX_DEPTH:
            raise ValueError("a key of depth 255 has no children")
        suffix = number.to_bytes(4, "big")
        if number >= HARDENED:
            digest = hmac.digest(self._chain_code, b"\0" + self.secret().reveal() + suffix, "sha512")
        else:
            digest = hmac.digest(self._chain_code, self._public_key + suffix, "sha512")
        # A digest half that is no valid tweak (chance 1 in 2^127) raises InvalidKey, as BIP 32 asks.
        material: Secret | bytes
        if self._secret is not None:
            material = Secret(curve.add_secrets(self._secret.reveal(), digest[:32]))
        else:
            material = curve.tweak_point(self._public_key, digest[:32])
        return ExtendedKey(
            self.network,
            material,
            digest[32:],
            depth=self.depth + 1,
            parent=self.fingerprint(),
            child_number=number,
        )

    def _serialize(self, version: bytes, key: bytes) -> str:
        head = version + bytes((self.depth,)) + self.parent + self.child_number.to_bytes(4, "big")
        return base58.encode_check(head + self._chain_code + key)

    def to_string(self) -> str:
        """The public form, `xpub…` or `tpub…`, of a private key too."""
        return self._serialize(self.network.xpub_version, self._public_key)

    def to_private_string(self) -> Secret:
        """The private form, `xprv…` or `tprv…`, as ASCII bytes."""
        key = b"\0" + self.secret().reveal()
        return Secret(self._serialize(self.network.xprv_version, key).encode())

    def __repr__(self) -> str:
        kind = "private" if self.is_private else "public"
        return f"ExtendedKey({kind}, {self.network.name}, fingerprint {self.fingerprint().hex()})"

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ExtendedKey)
            and self._secret == other._secret
            and self.to_string() == other.to_string()
        )

    def __hash__(self) -> int:
        return hash((self._public_key, self._chain_code))

    def __reduce__(self) -> str:
        raise TypeError("an ExtendedKey is not pickled")
