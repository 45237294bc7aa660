"""Field types of the wire, to stand in `Annotated[...]` (BOLT 1, "Fundamental Types").

A message declares `cltv_expiry: Annotated[int, U32]`. Types of fixed width are `Fixed`: the compiler joins
neighbours into one `struct.Struct`. All others read and write themselves. Every reader takes the whole
buffer, a position and an end, and raises `MalformedMessage` or answers the value and the position after it.
"""

from dataclasses import dataclass
from struct import Struct
from typing import Any, Literal, Protocol

from protocol.errors import MalformedMessage
from protocol.secret import Secret
from protocol.wire.bigsize import read_bigsize, write_bigsize


class Field(Protocol):
    """What a TLV record, an array element or a message field can be made of."""

    def read(self, data: bytes, pos: int, end: int) -> tuple[Any, int]: ...

    def write(self, value: Any) -> bytes: ...


@dataclass(frozen=True)
class Fixed:
    """A value of fixed width; `code` is its letter in the `struct` module."""

    code: str
    size: int
    form: Literal["int", "bytes", "point", "secret"] = "bytes"

    def read(self, data: bytes, pos: int, end: int) -> tuple[Any, int]:
        stop = pos + self.size
        if stop > end:
            raise MalformedMessage(f"{self.size} bytes are needed, {end - pos} are left")
        (value,) = Struct(">" + self.code).unpack_from(data, pos)
        if self.form == "point" and value[0] not in (2, 3):
            raise MalformedMessage(f"{value.hex()} is not a compressed point")
        return (Secret(value) if self.form == "secret" else value), stop

    def write(self, value: Any) -> bytes:
        raw = value.reveal() if self.form == "secret" else value
        if self.form != "int":
            check_fixed_bytes(self, raw)
        return Struct(">" + self.code).pack(raw)


def check_fixed_bytes(field: Fixed, value: bytes) -> None:
    """`struct` pads and cuts byte strings without a word, so their length is checked before."""
    if len(value) != field.size:
        raise ValueError(f"{field.size} bytes are needed, not {len(value)}")
    if field.form == "point" and value[0] not in (2, 3):
        raise ValueError(f"{value.hex()} is not a compressed point")


@dataclass(frozen=True)
class TruncatedInt:
    """An unsigned integer without leading zeros; its length is that of the enclosing record."""

    size: int

    def read(self, data: bytes, pos: int, end: int) -> tuple[int, int]:
        if end - pos > self.size:
            raise MalformedMessage(f"a truncated integer of at most {self.size} bytes has {end - pos}")
        if pos < end and data[pos] == 0:
            raise MalformedMessage("a truncated integer begins with a zero byte")
        return int.from_bytes(data[pos:end], "big"), end

    def write(self, value: int) -> bytes:
        if value < 0 or value.bit_length() > 8 * self.size:
            raise ValueError(f"{value} does not fit into {self.size} bytes")
        return value.to_bytes((value.bit_length() + 7) // 8, "big")


@dataclass(frozen=True)
class BigSize:
    def read(self, data: bytes, pos: int, end: int) -> tuple[int, int]:
        return read_bigsize(data, pos, end)

    def write(self, value: int) -> bytes:
        return write_bigsize(value)


@dataclass(frozen=True)
class Rest:
    """All bytes up to the end (`...*byte`)."""

    def read(self, data: bytes, pos: int, end: int) -> tuple[bytes, int]:
        return data[pos:end], end

    def write(self, value: bytes) -> bytes:
        return value


@dataclass(frozen=True)
class Prefixed:
    """A u16 length, then `inner` in exactly that many bytes."""

    inner: Field

    def read(self, data: bytes, pos: int, end: int) -> tuple[Any, int]:
        if pos + 2 > end:
            raise MalformedMessage("the bytes end where a length should stand")
        stop = pos + 2 + (data[pos] << 8 | data[pos + 1])
        if stop > end:
            raise MalformedMessage(f"{stop - pos - 2} bytes are announced, {end - pos - 2} are left")
        value, read_to = self.inner.read(data, pos + 2, stop)
        if read_to != stop:
            raise MalformedMessage(f"{stop - read_to} bytes are left over inside a field")
        return value, stop

    def write(self, value: Any) -> bytes:
        body = self.inner.write(value)
        if len(body) > 0xFFFF:
            raise ValueError(f"{len(body)} bytes do not fit behind a u16 length")
        return len(body).to_bytes(2, "big") + body


@dataclass(frozen=True)
class Counted:
    """A u16 count, then that many byte strings of one fixed size (`num_htlcs*signature`)."""

    item: Fixed

    def read(self, data: bytes, pos: int, end: int) -> tuple[tuple[bytes, ...], int]:
        if pos + 2 > end:
            raise MalformedMessage("the bytes end where a count should stand")
        size = self.item.size
        start = pos + 2
        stop = start + size * (data[pos] << 8 | data[pos + 1])
        if stop > end:
            raise MalformedMessage(f"{stop - start} bytes of items are announced, {end - start} are left")
        return tuple([data[at : at + size] for at in range(start, stop, size)]), stop

    def write(self, value: tuple[bytes, ...]) -> bytes:
        body = b"".join(value)
        if len(value) > 0xFFFF or any(len(item) != self.item.size for item in value):
            raise ValueError(f"each item must have {self.item.size} bytes, and at most 65535 items fit")
        return len(value).to_bytes(2, "big") + body


@dataclass(frozen=True)
class RestOf:
    """Items up to the end (`...*chain_hash`)."""

    item: Field

    def read(self, data: bytes, pos: int, end: int) -> tuple[tuple[Any, ...], int]:
        items = []
        while pos < end:
            item, pos = self.item.read(data, pos, end)
            items.append(item)
        return tuple(items), end

    def write(self, value: tuple[Any, ...]) -> bytes:
        return b"".join([self.item.write(item) for item in value])


@dataclass(frozen=True)
class EncodedArray:
    """An encoding byte, then items up to the end (BOLT 7, "Query Messages").

    Only encoding 0 is left in the specification. Zlib (1) is refused: it let a small message unpack to a huge
    one. Some peers send an empty array with no encoding byte at all; that reads as empty.
    """

    item: Field

    def read(self, data: bytes, pos: int, end: int) -> tuple[tuple[Any, ...], int]:
        if pos == end:
            return (), end
        if data[pos] != 0:
            raise MalformedMessage(f"array encoding {data[pos]} is not used any more, only 0 is")
        return RestOf(self.item).read(data, pos + 1, end)

    def write(self, value: tuple[Any, ...]) -> bytes:
        return b"\x00" + RestOf(self.item).write(value)


@dataclass(frozen=True)
class Tlv:
    """In `Annotated[X | None, Tlv(number, field)]`: a record of a TLV stream."""

    type: int
    field: Field


U8 = Fixed("B", 1, "int")
U16 = Fixed("H", 2, "int")
U32 = Fixed("I", 4, "int")
U64 = Fixed("Q", 8, "int")
S8 = Fixed("b", 1, "int")
S16 = Fixed("h", 2, "int")
S32 = Fixed("i", 4, "int")
S64 = Fixed("q", 8, "int")
TU16 = TruncatedInt(2)
TU32 = TruncatedInt(4)
TU64 = TruncatedInt(8)
BIGSIZE = BigSize()


def fixed_bytes(size: int) -> Fixed:
    return Fixed(f"{size}s", size)


SHA256 = fixed_bytes(32)
CHAIN_HASH = fixed_bytes(32)
CHANNEL_ID = fixed_bytes(32)
SIGNATURE = fixed_bytes(64)
SHORT_CHANNEL_ID = U64
POINT = Fixed("33s", 33, "point")
"""33 bytes that begin with 2 or 3; whether they are on the curve is checked where they are used."""
SECRET32 = Fixed("32s", 32, "secret")
"""32 bytes that are kept in a `Secret`, so that no log line shows them."""
REST = Rest()
PREFIXED = Prefixed(REST)
"""`u16` length, then bytes."""
