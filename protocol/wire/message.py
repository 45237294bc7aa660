"""The message base, the registry, `encode` and `decode` (BOLT 1, "Lightning Message Format")."""

import re
import struct
from typing import ClassVar, TypeVar

import msgspec

from protocol import curve
from protocol.errors import MalformedMessage, PeerViolation
from protocol.wire.compiler import Codec, Read, Write, compile_struct, declared_fields
from protocol.wire.fields import POINT, Rest
from protocol.wire.tlv import TlvStream

LARGEST_MESSAGE = 65535
"""The length of a message is encrypted as a u16 (BOLT 8, "Encrypting and Sending Messages")."""


class Record(msgspec.Struct, frozen=True, gc=False):
    """A group of fields inside a TLV record or an array."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """A peer message; fields stand in the order of the specification's table."""

    TYPE: ClassVar[int]


class UnknownMessage(msgspec.Struct, frozen=True):
    """A type that we do not know: the caller ignores an odd one and closes the connection on an even one."""

    type: int

    @property
    def is_even(self) -> bool:
        return not self.type & 1


class Nested:
    """The field type of a `Record`, compiled like a message."""

    def __init__(self, record: type[Record]) -> None:
        self.record = record
        codec = compile_struct(record)
        self.read: Read = codec.read
        self.write: Write = codec.write


_M = TypeVar("_M", bound=Message)
_names: dict[int, str] = {}
_classes: dict[int, type[Message]] = {}
_readers: dict[int, Read] = {}
_writers: dict[type[Message], Write] = {}
_points: dict[type[Message], tuple[str, ...]] = {}


def wire_message(cls: type[_M]) -> type[_M]:
    """Compile a message and enter it under its type number."""
    if cls.TYPE in _classes:
        raise TypeError(f"{cls.__name__} and {_classes[cls.TYPE].__name__} both claim type {cls.TYPE}")
    declared = declared_fields(cls)
    last = declared[-1].field
    if not isinstance(last, Rest) and not (isinstance(last, type) and issubclass(last, TlvStream)):
        raise TypeError(f"{cls.__name__} must end in a TLV stream or in REST, so that no byte is left over")
    codec: Codec = compile_struct(cls, cls.TYPE)
    _classes[cls.TYPE] = cls
    _names[cls.TYPE] = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__).lower()
    _readers[cls.TYPE] = codec.read
    _writers[cls] = codec.write
    _points[cls] = tuple(name for name, field in declared if field is POINT)
    return cls


def message_types() -> dict[int, type[Message]]:
    """Every message that we can read, by type number."""
    return dict(_classes)


def message_name(type_number: int) -> str:
    """`update_add_htlc` for 128, or `unknown_999`."""
    return _names.get(type_number, f"unknown_{type_number}")


def encode(message: Message) -> bytes:
    """The two bytes of the type, then the fields. A field that does not fit is our own bug: ValueError."""
    try:
        data = _writers[type(message)](message)
    except (ValueError, struct.error) as error:
        raise ValueError(f"{message_name(message.TYPE)}: {error}") from error
    if len(data) > LARGEST_MESSAGE:
        raise ValueError(
            f"{message_name(message.TYPE)} would have {len(data)} bytes, at most 65535 can be sent"
        )
    return data


def decode(data: bytes) -> Message | UnknownMessage:
    """Read a whole message. Bytes that are not what they claim to be raise MalformedMessage, nothing else."""
    if len(data) < 2:
        raise MalformedMessage(f"a message has at least its 2 bytes of type, this one has {len(data)}")
    number = data[0] << 8 | data[1]
    read = _readers.get(number)
    if read is None:
        return UnknownMessage(number)
    try:
        message: Message = read(data, 2, len(data))[0]
    except MalformedMessage as error:
        raise MalformedMessage(f"{_names[number]}: {error}") from None
    return message


def require_points(message: Message, *, clause: str) -> None:
    """Every `point` field must be on the curve, or the peer broke `clause`.

    The codec checks length and prefix only; points inside TLV records are for whoever uses the record.
    """
    for name in _points[type(message)]:
        if not curve.is_point(getattr(message, name)):
            raise PeerViolation(f"{name} is not a valid public key", clause=clause)
