"""Failure messages, their codes and what they say to a person (BOLT 4, "Failure Messages")."""

from enum import IntEnum
from typing import ClassVar

from msgspec import Struct

from protocol.amounts import BlockHeight, Msat
from protocol.errors import MalformedMessage
from protocol.wire.bigsize import read_bigsize, write_bigsize

BADONION = 0x8000
PERM = 0x4000
NODE = 0x2000
UPDATE = 0x1000


class FailureCode(IntEnum):
    """Every code of the specification, flags included."""

    TEMPORARY_NODE_FAILURE = NODE | 2
    PERMANENT_NODE_FAILURE = PERM | NODE | 2
    REQUIRED_NODE_FEATURE_MISSING = PERM | NODE | 3
    INVALID_ONION_VERSION = BADONION | PERM | 4
    INVALID_ONION_HMAC = BADONION | PERM | 5
    INVALID_ONION_KEY = BADONION | PERM | 6
    TEMPORARY_CHANNEL_FAILURE = UPDATE | 7
    PERMANENT_CHANNEL_FAILURE = PERM | 8
    REQUIRED_CHANNEL_FEATURE_MISSING = PERM | 9
    UNKNOWN_NEXT_PEER = PERM | 10
    AMOUNT_BELOW_MINIMUM = UPDATE | 11
    FEE_INSUFFICIENT = UPDATE | 12
    INCORRECT_CLTV_EXPIRY = UPDATE | 13
    EXPIRY_TOO_SOON = UPDATE | 14
    INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS = PERM | 15
    FINAL_INCORRECT_CLTV_EXPIRY = 18
    FINAL_INCORRECT_HTLC_AMOUNT = 19
    CHANNEL_DISABLED = UPDATE | 20
    EXPIRY_TOO_FAR = 21
    INVALID_ONION_PAYLOAD = PERM | 22
    MPP_TIMEOUT = 23
    INVALID_ONION_BLINDING = BADONION | PERM | 24


class _Failure(Struct, frozen=True):
    """The fields follow the specification's table; `layout` names the wire form of each, in order."""

    code: ClassVar[int]
    layout: ClassVar[tuple[str, ...]] = ()
    sentence: ClassVar[str]

    @property
    def name(self) -> str:
        return FailureCode(self.code).name.lower()


class TemporaryNodeFailure(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.TEMPORARY_NODE_FAILURE
    sentence: ClassVar[str] = "A node on the route has a passing problem; try again or go round it."


class PermanentNodeFailure(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.PERMANENT_NODE_FAILURE
    sentence: ClassVar[str] = "A node on the route is out of service; go round it."


class RequiredNodeFeatureMissing(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.REQUIRED_NODE_FEATURE_MISSING
    sentence: ClassVar[str] = (
        "A node on the route requires a feature that our payment did not use; go round it."
    )


class InvalidOnionVersion(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.INVALID_ONION_VERSION
    layout: ClassVar[tuple[str, ...]] = ("sha256",)
    sentence: ClassVar[str] = "A node on the route does not know the version of our onion; go round it."
    sha256_of_onion: bytes


class InvalidOnionHmac(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.INVALID_ONION_HMAC
    layout: ClassVar[tuple[str, ...]] = ("sha256",)
    sentence: ClassVar[str] = "The onion was changed on its way; try another route."
    sha256_of_onion: bytes


class InvalidOnionKey(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.INVALID_ONION_KEY
    layout: ClassVar[tuple[str, ...]] = ("sha256",)
    sentence: ClassVar[str] = "A node on the route could not read the key of our onion; try another route."
    sha256_of_onion: bytes


class TemporaryChannelFailure(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.TEMPORARY_CHANNEL_FAILURE
    layout: ClassVar[tuple[str, ...]] = ("update",)
    sentence: ClassVar[str] = (
        "A channel on the route cannot carry this amount now; try another route or less."
    )
    channel_update: bytes = b""


class PermanentChannelFailure(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.PERMANENT_CHANNEL_FAILURE
    sentence: ClassVar[str] = "A channel on the route is closed; try another route."


class RequiredChannelFeatureMissing(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.REQUIRED_CHANNEL_FEATURE_MISSING
    sentence: ClassVar[str] = (
        "A channel on the route requires a feature that our payment did not use; avoid it."
    )


class UnknownNextPeer(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.UNKNOWN_NEXT_PEER
    sentence: ClassVar[str] = "A node on the route is not connected to the next one; try another route."


class AmountBelowMinimum(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.AMOUNT_BELOW_MINIMUM
    layout: ClassVar[tuple[str, ...]] = ("u64", "update")
    sentence: ClassVar[str] = "The amount is below what a channel on the route carries; try another route."
    htlc_msat: Msat
    channel_update: bytes = b""


class FeeInsufficient(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.FEE_INSUFFICIENT
    layout: ClassVar[tuple[str, ...]] = ("u64", "update")
    sentence: ClassVar[str] = (
        "A channel on the route asks a higher fee than it announced to us; pay it or avoid it."
    )
    htlc_msat: Msat
    channel_update: bytes = b""


class IncorrectCltvExpiry(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.INCORRECT_CLTV_EXPIRY
    layout: ClassVar[tuple[str, ...]] = ("u32", "update")
    sentence: ClassVar[str] = "A channel on the route asks for a longer time lock than it announced to us."
    cltv_expiry: BlockHeight
    channel_update: bytes = b""


class ExpiryTooSoon(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.EXPIRY_TOO_SOON
    layout: ClassVar[tuple[str, ...]] = ("update",)
    sentence: ClassVar[str] = "The time lock was too close when a node on the route saw it; try again."
    channel_update: bytes = b""


class IncorrectOrUnknownPaymentDetails(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.INCORRECT_OR_UNKNOWN_PAYMENT_DETAILS
    layout: ClassVar[tuple[str, ...]] = ("u64", "u32")
    sentence: ClassVar[str] = (
        "The recipient does not expect this payment: it is paid, expired, unknown, or of another amount. "
        "Ask for a new invoice."
    )
    htlc_msat: Msat
    height: BlockHeight


class FinalIncorrectCltvExpiry(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.FINAL_INCORRECT_CLTV_EXPIRY
    layout: ClassVar[tuple[str, ...]] = ("u32",)
    sentence: ClassVar[str] = "The last node before the recipient shortened the time lock; try another route."
    cltv_expiry: BlockHeight


class FinalIncorrectHtlcAmount(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.FINAL_INCORRECT_HTLC_AMOUNT
    layout: ClassVar[tuple[str, ...]] = ("u64",)
    sentence: ClassVar[str] = "The last node before the recipient lowered the amount; try another route."
    incoming_htlc_amt: Msat


class ChannelDisabled(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.CHANNEL_DISABLED
    layout: ClassVar[tuple[str, ...]] = ("u16", "update")
    sentence: ClassVar[str] = "A channel on the route is switched off for now; try another route."
    disabled_flags: int = 0
    channel_update: bytes = b""


class ExpiryTooFar(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.EXPIRY_TOO_FAR
    sentence: ClassVar[str] = "The time lock is longer than a node on the route accepts; try a shorter route."


class InvalidOnionPayload(_Failure, frozen=True):
    """`type` in the specification; 0 when no one field is to blame."""

    code: ClassVar[int] = FailureCode.INVALID_ONION_PAYLOAD
    layout: ClassVar[tuple[str, ...]] = ("bigsize", "u16")
    sentence: ClassVar[str] = "A node on the route did not understand our instructions; try another route."
    tlv_type: int
    offset: int


class MppTimeout(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.MPP_TIMEOUT
    sentence: ClassVar[str] = "Not all parts of the payment arrived in time; try again."


class InvalidOnionBlinding(_Failure, frozen=True):
    code: ClassVar[int] = FailureCode.INVALID_ONION_BLINDING
    layout: ClassVar[tuple[str, ...]] = ("sha256",)
    sentence: ClassVar[str] = "The payment failed inside the recipient's blinded path; try another path."
    sha256_of_onion: bytes


class UnknownFailure(Struct, frozen=True):
    """A code that we do not know, or one whose data is cut short; kept so that its flags still count."""

    code: int
    data: bytes = b""

    name: ClassVar[str] = "unknown_failure"

    @property
    def sentence(self) -> str:
        return f"A node on the route gave an unknown reason (code {self.code:#06x}); try another route."


Failure = (
    TemporaryNodeFailure
    | PermanentNodeFailure
    | RequiredNodeFeatureMissing
    | InvalidOnionVersion
    | InvalidOnionHmac
    | InvalidOnionKey
    | TemporaryChannelFailure
    | PermanentChannelFailure
    | RequiredChannelFeatureMissing
    | UnknownNextPeer
    | AmountBelowMinimum
    | FeeInsufficient
    | IncorrectCltvExpiry
    | ExpiryTooSoon
    | IncorrectOrUnknownPaymentDetails
    | FinalIncorrectCltvExpiry
    | FinalIncorrectHtlcAmount
    | ChannelDisabled
    | ExpiryTooFar
    | InvalidOnionPayload
    | MppTimeout
    | InvalidOnionBlinding
    | UnknownFailure
)

_KNOWN: dict[int, type[_Failure]] = {known.code: known for known in _Failure.__subclasses__()}
_INTEGER_SIZE = {"u16": 2, "u32": 4, "u64": 8}


def encode(failure: Failure) -> bytes:
    """`failure_code` and its data, as it stands in `failuremsg`."""
    parts = [failure.code.to_bytes(2, "big")]
    if isinstance(failure, UnknownFailure):
        return parts[0] + failure.data
    for name, form in zip(failure.__struct_fields__, failure.layout, strict=True):
        value = getattr(failure, name)
        if form == "update":
            parts.append(len(value).to_bytes(2, "big") + value)
        elif form == "sha256":
            parts.append(value)
        elif form == "bigsize":
            parts.append(write_bigsize(value))
        else:
            parts.append(value.to_bytes(_INTEGER_SIZE[form], "big"))
    return b"".join(parts)


def decode(message: bytes) -> Failure:
    """Extra bytes after the data are ignored, as BOLT 4 asks ("Receiving Failure Codes")."""
    if len(message) < 2:
        raise MalformedMessage("a failure message has at least 2 bytes")
    code = int.from_bytes(message[:2], "big")
    known = _KNOWN.get(code)
    if known is None:
        return UnknownFailure(code, message[2:])
    at, values = 2, []
    for form in known.layout:
        value, at = _read(message, at, form)
        values.append(value)
    return known(*values)  # type: ignore[return-value]  # every subclass of _Failure stands in the union


def _read(message: bytes, at: int, form: str) -> tuple[int | bytes, int]:
    if form == "bigsize":
        return read_bigsize(message, at, len(message))
    if form == "update":
        size, at = int.from_bytes(_take(message, at, 2), "big"), at + 2
        return _take(message, at, size), at + size
    if form == "sha256":
        return _take(message, at, 32), at + 32
    size = _INTEGER_SIZE[form]
    return int.from_bytes(_take(message, at, size), "big"), at + size


def _take(message: bytes, at: int, size: int) -> bytes:
    part = message[at : at + size]
    if len(part) != size:
        raise MalformedMessage("a failure message ends before its data is complete")
    return part


def from_malformed(failure_code: int, sha256_of_onion: bytes) -> Failure:
    """What a forwarding node reports when its peer answered with `update_fail_malformed_htlc` (BOLT 2)."""
    if not failure_code & BADONION:
        raise MalformedMessage(f"the code {failure_code:#06x} of a malformed HTLC has no BADONION flag")
    return decode(failure_code.to_bytes(2, "big") + sha256_of_onion)


def is_permanent(failure: Failure) -> bool:
    return bool(failure.code & PERM)


def blames_node(failure: Failure) -> bool:
    """Whether the whole node is to be avoided, not only a channel of it."""
    return bool(failure.code & NODE)
