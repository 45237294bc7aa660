"""Hypothesis strategies made from the declarations of messages, so that a new message is tested at once."""

from typing import Any

from hypothesis import strategies as st

from protocol.secret import Secret
from protocol.wire import Message
from protocol.wire.compiler import declared_fields
from protocol.wire.fields import (
    BigSize,
    Counted,
    EncodedArray,
    Fixed,
    Prefixed,
    Rest,
    RestOf,
    TruncatedInt,
)
from protocol.wire.message import Nested
from protocol.wire.tlv import TlvStream


def of_field(field: Any) -> st.SearchStrategy[Any]:
    match field:
        case Fixed(form="int"):
            bits = 8 * field.size
            low = -(1 << bits - 1) if field.code.islower() else 0
            return st.integers(low, low + (1 << bits) - 1)
        case Fixed(form="point"):
            return st.builds(bytes.__add__, st.sampled_from([b"\x02", b"\x03"]), filled(32))
        case Fixed(form="secret"):
            return filled(field.size).map(Secret)
        case Fixed():
            return filled(field.size)
        case TruncatedInt():
            return st.integers(0, (1 << 8 * field.size) - 1)
        case BigSize():
            return st.integers(0, (1 << 64) - 1)
        case Rest():
            return st.binary(max_size=40)
        case Prefixed():
            return of_field(field.inner)
        case Counted() | RestOf() | EncodedArray():
            return st.lists(of_field(field.item), max_size=4).map(tuple)
        case Nested():
            return of_struct(field.record)
    raise NotImplementedError(field)


def filled(size: int) -> st.SearchStrategy[bytes]:
    """Fixed-size bytes: short random ones repeated where the field is long, to keep examples small."""
    if size <= 64:
        return st.binary(min_size=size, max_size=size)
    return st.binary(min_size=8, max_size=8).map(lambda seed: (seed * (size // 8 + 1))[:size])


def of_stream(cls: type[TlvStream]) -> st.SearchStrategy[TlvStream]:
    known = {name: st.none() | of_field(field) for name, field in cls.known_records.values()}
    odd = (
        (st.integers(0, 130) | st.integers(0, (1 << 63) - 1))
        .map(lambda n: 2 * n + 1)
        .filter(lambda n: n not in cls.known_records)
    )
    unknown = st.dictionaries(odd, st.binary(max_size=20), max_size=3).map(lambda d: tuple(sorted(d.items())))
    return st.builds(cls, **known, unknown=unknown)


def of_struct(cls: type) -> st.SearchStrategy[Any]:
    parts = {
        name: of_stream(field) if isinstance(field, type) else of_field(field)
        for name, field in declared_fields(cls)
    }
    return st.builds(cls, **parts)


def messages(types: dict[int, type[Message]]) -> st.SearchStrategy[Message]:
    return st.one_of([of_struct(cls) for cls in types.values()])
