"""Output descriptors of single-key watch-only wallets: `wpkh` and `tr` (BIP 380, 382, 386, 389).

A descriptor here never holds a private key: a text with one is refused.
"""

import re
from dataclasses import dataclass, field

from protocol import curve
from protocol.bitcoin import taproot
from protocol.bitcoin.keys import ExtendedKey, format_path, parse_child
from protocol.bitcoin.network import Network
from protocol.bitcoin.script import p2wpkh
from protocol.errors import MalformedMessage

_INPUT_CHARSET = (
    "0123456789()[],'/*abcdefgh@:$%{}IJKLMNOPQRSTUVWXYZ&+-.;<=>?!^_|~ijklmnopqrstuvwxyzABCDEFGH`#\"\\ "
)
_CHECKSUM_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_GENERATOR = (0xF5DEE51989, 0xA9FDCA3312, 0x1BAB10E32D, 0x3706B1677A, 0x644D626FFD)
_MULTIPATH = "/<0;1>/*"


def _polymod(checksum: int, symbol: int) -> int:
    top = checksum >> 35
    checksum = (checksum & 0x7FFFFFFFF) << 5 ^ symbol
    for bit, generator in enumerate(_GENERATOR):
        if top >> bit & 1:
            checksum ^= generator
    return checksum


def checksum(text: str) -> str:
    """The eight characters of BIP 380, "Checksum"."""
    state, group, count = 1, 0, 0
    for character in text:
        position = _INPUT_CHARSET.find(character)
        if position < 0:
            raise MalformedMessage(f"{character!r} may not stand in a descriptor")
        state = _polymod(state, position & 31)
        group = group * 3 + (position >> 5)
        count += 1
        if count == 3:
            state = _polymod(state, group)
            group = count = 0
    if count:
        state = _polymod(state, group)
    for _ in range(8):
        state = _polymod(state, 0)
    state ^= 1
    return "".join(_CHECKSUM_CHARSET[state >> 5 * (7 - n) & 31] for n in range(8))


def with_checksum(text: str) -> str:
    return f"{text}#{checksum(text)}"


def strip_checksum(text: str, *, required: bool = False) -> str:
    """The descriptor without its checksum, which is checked when it is there."""
    body, mark, given = text.partition("#")
    if not mark:
        if required:
            raise MalformedMessage("this descriptor has no checksum")
        checksum(body)
        return body
    if len(given) != 8 or checksum(body) != given:
        raise MalformedMessage("the checksum of this descriptor is wrong: check it for a typing error")
    return body


@dataclass(frozen=True, slots=True)
class KeyOrigin:
    """Where a key comes from: the master key's fingerprint and the path from there."""

    fingerprint: bytes
    path: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"[{'/'.join([self.fingerprint.hex(), *filter(None, [format_path(self.path)])])}]"

    @classmethod
    def parse(cls, text: str) -> "KeyOrigin":
        """The text between the brackets."""
        fingerprint, slash, path = text.partition("/")
        if not re.fullmatch("[0-9a-fA-F]{8}", fingerprint):
            raise MalformedMessage("a key origin starts with a fingerprint of eight hex digits")
        return cls(bytes.fromhex(fingerprint), tuple(map(parse_child, path.split("/"))) if slash else ())


@dataclass(frozen=True, slots=True)
class KeyExpression:
    """A public key, or an extended public key with a path and perhaps a last step for each address."""

    key: bytes | ExtendedKey
    origin: KeyOrigin | None = None
    path: tuple[int, ...] = ()
    wildcard: str = field(default="", repr=False)
    """`*`, `*h` or nothing."""

    @classmethod
    def parse(cls, text: str, network: Network) -> "KeyExpression":
        """BIP 380, "Key expressions". Private keys are refused like anything else that is not allowed."""
        origin, key = None, text
        if text.startswith("["):
            inside, bracket, key = text[1:].partition("]")
            if not bracket:
                raise MalformedMessage("a key origin ends with a bracket")
            origin = KeyOrigin.parse(inside)
        head, slash, tail = key.partition("/")
        if re.fullmatch("0[23][0-9a-fA-F]{64}|04[0-9a-fA-F]{128}", head):
            public_key = bytes.fromhex(head)
            if slash or (len(public_key) == 33 and not curve.is_point(public_key)):
                raise MalformedMessage("this public key is not valid, or has a path that it cannot have")
            return cls(public_key, origin)
        extended = ExtendedKey.from_string(head, network)
        if extended.is_private:
            raise MalformedMessage("this descriptor holds a private key: give its public half instead")
        steps = tail.split("/") if slash else []
        wildcard = steps.pop() if steps and steps[-1] in ("*", "*h", "*'") else ""
        return cls(extended, origin, tuple(map(parse_child, steps)), wildcard.replace("'", "h"))


@dataclass(frozen=True, slots=True)
class _Descriptor:
    """An account: `xpub` with receive addresses on branch 0 and change on branch 1."""

    xpub: ExtendedKey
    origin: KeyOrigin | None = None

    def __post_init__(self) -> None:
        if self.xpub.is_private:
            raise ValueError("a watch-only descriptor takes the public half: call neuter() first")

    def public_key(self, branch: int, index: int) -> bytes:
        return self.xpub.child(branch).child(index).public_key()

    def key_origin(self, branch: int, index: int) -> KeyOrigin:
        """For a PSBT: from the master key, or from the account where its origin is not known."""
        if self.origin is None:
            return KeyOrigin(self.xpub.fingerprint(), (branch, index))
        return KeyOrigin(self.origin.fingerprint, (*self.origin.path, branch, index))

    def _text(self, function: str, branch: int | None) -> str:
        tail = _MULTIPATH if branch is None else f"/{branch}/*"
        return with_checksum(f"{function}({self.origin or ''}{self.xpub.to_string()}{tail})")


class WpkhDescriptor(_Descriptor):
    """BIP 84 accounts."""

    __slots__ = ()

    def script_pubkey(self, branch: int, index: int) -> bytes:
        return p2wpkh(self.public_key(branch, index))

    def to_string(self, branch: int | None = None) -> str:
        """With its checksum; both branches at once (BIP 389) unless one is named."""
        return self._text("wpkh", branch)


class TrDescriptor(_Descriptor):
    """BIP 86 accounts: key path only."""

    __slots__ = ()

    def script_pubkey(self, branch: int, index: int) -> bytes:
        return taproot.script_pubkey(self.public_key(branch, index)[1:])

    def to_string(self, branch: int | None = None) -> str:
        """With its checksum; both branches at once (BIP 389) unless one is named."""
        return self._text("tr", branch)


def parse(text: str, network: Network) -> WpkhDescriptor | TrDescriptor:
    """Reads what `to_string()` writes for both branches; the checksum may be missing."""
    body = strip_checksum(text.strip())
    matched = re.fullmatch(r"(wpkh|tr)\((.+)/<0;1>/\*\)", body)
    if matched is None:
        raise MalformedMessage("only wpkh(KEY/<0;1>/*) and tr(KEY/<0;1>/*) are known here")
    key = KeyExpression.parse(matched[2], network)
    if isinstance(key.key, bytes) or key.path or key.wildcard:
        raise MalformedMessage("the key of this descriptor must be an extended public key without a path")
    kind = WpkhDescriptor if matched[1] == "wpkh" else TrDescriptor
    return kind(key.key, key.origin)


__all__ = [
    "KeyExpression",
    "KeyOrigin",
    "TrDescriptor",
    "WpkhDescriptor",
    "checksum",
    "parse",
    "strip_checksum",
    "with_checksum",
]
