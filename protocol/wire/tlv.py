"""TLV streams: declaration, decoding and encoding (BOLT 1, "Type-Length-Value Format").

A namespace is a frozen struct whose fields are optional and carry their type number:

    @tlv_stream
    class InitTlvs(TlvStream, frozen=True):
        networks: Annotated[tuple[bytes, ...] | None, Tlv(1, RestOf(CHAIN_HASH))] = None

Unknown odd records are kept in `unknown`, so a stream that was read is written back byte for byte. Streams
stand on few hot messages, so they are driven by a table and not compiled.
"""

from typing import Any, ClassVar, TypeVar, get_type_hints

import msgspec

from protocol.errors import MalformedMessage
from protocol.wire.bigsize import read_bigsize, write_bigsize
from protocol.wire.fields import Field, Tlv


class TlvStream(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The records of one stream; a field that is None is absent."""

    unknown: tuple[tuple[int, bytes], ...] = ()
    known_records: ClassVar[dict[int, tuple[str, Field]]] = {}


_S = TypeVar("_S", bound=TlvStream)


def tlv_stream(cls: type[_S]) -> type[_S]:
    """Read the type numbers from the annotations of a namespace, once."""
    records: dict[int, tuple[str, Field]] = {}
    for name, hint in get_type_hints(cls, include_extras=True).items():
        marks = [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, Tlv)]
        if not marks:
            continue
        (mark,) = marks
        if mark.type in records:
            raise TypeError(f"{cls.__name__} declares record type {mark.type} twice")
        records[mark.type] = (name, mark.field)
    declared = {name for name, _ in records.values()}
    if declared != set(cls.__struct_fields__) - {"unknown"}:
        raise TypeError(f"every field of {cls.__name__} needs Annotated[..., Tlv(number, field)]")
    cls.known_records = dict(sorted(records.items()))
    return cls


@tlv_stream
class Extension(TlvStream, frozen=True):
    """The stream of a message that defines no records of its own (BOLT 1, "Lightning Message Format")."""


def read_stream(cls: type[_S], data: bytes, pos: int, end: int) -> tuple[_S, int]:
    """The stream that fills the bytes from `pos` to `end`."""
    records = cls.known_records
    values: dict[str, Any] = {}
    unknown = []
    previous = -1
    while pos < end:
        number, pos = read_bigsize(data, pos, end)
        if number <= previous:
            raise MalformedMessage(f"TLV record {number} follows record {previous}, types must rise")
        previous = number
        length, pos = read_bigsize(data, pos, end)
        stop = pos + length
        if stop > end:
            raise MalformedMessage(f"TLV record {number} announces {length} bytes, {end - pos} are left")
        record = records.get(number)
        if record is not None:
            name, field = record
            value, read_to = field.read(data, pos, stop)
            if read_to != stop:
                raise MalformedMessage(f"TLV record {number} ({name}) is {stop - read_to} bytes too long")
            values[name] = value
        elif number & 1:
            unknown.append((number, data[pos:stop]))
        else:
            raise MalformedMessage(f"TLV record {number} is unknown and even, so it must be understood")
        pos = stop
    return cls(**values, unknown=tuple(unknown)), end


def write_stream(stream: TlvStream) -> bytes:
    found: list[tuple[int, bytes]] = []
    for number, (name, field) in stream.known_records.items():
        value = getattr(stream, name)
        if value is not None:
            found.append((number, field.write(value)))
    if stream.unknown:
        for number, _ in stream.unknown:
            if number in stream.known_records or not number & 1:
                raise ValueError(f"record {number} cannot stand among the unknown odd records")
        found.extend(stream.unknown)
        found.sort(key=lambda record: record[0])
        if len({number for number, _ in found}) != len(found):
            raise ValueError("a TLV record type stands twice among the unknown records")
    return b"".join([write_bigsize(number) + write_bigsize(len(raw)) + raw for number, raw in found])


def decode_stream(cls: type[_S], data: bytes) -> _S:
    """A whole byte string as one stream; MalformedMessage when it breaks a rule."""
    return read_stream(cls, data, 0, len(data))[0]
