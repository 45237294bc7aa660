"""Field types (BOLT 1, "Fundamental Types", Appendix D; BOLT 7, "Query Messages")."""

import pytest

from protocol.errors import MalformedMessage
from protocol.secret import Secret
from protocol.wire.fields import (
    POINT,
    PREFIXED,
    S8,
    S16,
    S32,
    S64,
    SECRET32,
    SHA256,
    SIGNATURE,
    TU16,
    TU32,
    TU64,
    U8,
    U16,
    U64,
    Counted,
    EncodedArray,
    Prefixed,
    RestOf,
)
from tests.support import vectors

SIGNED = {1: S8, 2: S16, 4: S32, 8: S64}


def read(field, data):
    value, pos = field.read(data, 0, len(data))
    assert pos == len(data)
    return value


@pytest.mark.parametrize(
    ("value", "hexed"),
    [(-42, "d6"), (-129, "ff7f"), (-32769, "ffff7fff"), (-(1 << 63), "8000000000000000"), (42, "2a")],
)
def test_signed_integers_are_two_s_complement(value, hexed):
    data = bytes.fromhex(hexed)
    assert read(SIGNED[len(data)], data) == value
    assert SIGNED[len(data)].write(value) == data


def test_all_published_signed_integers():
    cases = vectors("bolt01/signed_integers.json")
    assert len(cases) == 23
    for case in cases:
        data = bytes.fromhex(case["bytes"])
        assert read(SIGNED[len(data)], data) == case["value"]
        assert SIGNED[len(data)].write(case["value"]) == data


@pytest.mark.parametrize(("field", "size"), [(TU16, 2), (TU32, 4), (TU64, 8)])
def test_truncated_integers_have_no_leading_zero_and_no_byte_too_many(field, size):
    """checklist 4"""
    assert (field.write(0), read(field, b"")) == (b"", 0)
    largest = (1 << 8 * size) - 1
    assert (field.write(256), read(field, b"\x01\x00")) == (b"\x01\x00", 256)
    assert read(field, field.write(largest)) == largest
    for bad in (b"\x00", b"\x00\x01", b"\x01" * (size + 1)):
        with pytest.raises(MalformedMessage):
            read(field, bad)
    with pytest.raises(ValueError, match="fit"):
        field.write(largest + 1)


@pytest.mark.parametrize(
    ("field", "size"),
    [
        (U8, 1),
        (U16, 2),
        (U64, 8),
        (SHA256, 32),
        (SIGNATURE, 64),
        (POINT, 33),
        (SECRET32, 32),
        (PREFIXED, 516),
    ],
)
def test_a_field_cut_short_is_malformed(field, size):
    """checklist 3"""
    data = b"\x02" * 516
    assert field.read(data, 0, 516)[1] == size
    for end in {0, 1, size - 1} - {size}:
        with pytest.raises(MalformedMessage):
            field.read(data, 0, end)


def test_a_point_begins_with_2_or_3_both_ways():
    assert read(POINT, b"\x03" + bytes(32)) == b"\x03" + bytes(32)
    for first in (0, 1, 4, 255):
        with pytest.raises(MalformedMessage, match="compressed point"):
            read(POINT, bytes((first,)) + bytes(32))
        with pytest.raises(ValueError, match="compressed point"):
            POINT.write(bytes((first,)) + bytes(32))


def test_bytes_of_a_wrong_length_are_never_padded_or_cut():
    for size in (31, 33):
        with pytest.raises(ValueError, match="32 bytes"):
            SHA256.write(bytes(size))


def test_a_secret_field_hides_its_value():
    value = read(SECRET32, b"\x07" * 32)
    assert value == Secret(b"\x07" * 32)
    assert SECRET32.write(value) == b"\x07" * 32


def test_counted_items_are_all_there_or_the_field_is_malformed():
    field = Counted(SIGNATURE)
    data = b"\x00\x02" + b"a" * 64 + b"b" * 64
    assert read(field, data) == (b"a" * 64, b"b" * 64)
    assert field.write((b"a" * 64, b"b" * 64)) == data
    with pytest.raises(MalformedMessage):
        read(field, data[:-1])
    with pytest.raises(ValueError, match="each item"):
        field.write((b"a" * 63,))


def test_items_to_the_end_must_be_whole():
    assert read(RestOf(SHA256), b"c" * 64) == (b"c" * 32,) * 2
    with pytest.raises(MalformedMessage):
        read(RestOf(SHA256), b"c" * 63)


def test_encoding_0_is_read_and_zlib_is_refused():
    field = Prefixed(EncodedArray(U64))
    data = bytes.fromhex("001100000000000000008e0000000000003c69")
    assert read(field, data) == (142, 15465)
    assert field.write((142, 15465)) == data
    assert field.write(()) == b"\x00\x01\x00"
    assert read(field, b"\x00\x01\x00") == read(field, b"\x00\x00") == ()
    with pytest.raises(MalformedMessage, match="encoding 1"):
        read(field, bytes.fromhex("000901789c030000000001"))
    with pytest.raises(MalformedMessage):
        read(field, bytes.fromhex("000800000000000000 8e"))


def test_bytes_left_over_behind_a_length_are_malformed():
    with pytest.raises(MalformedMessage, match="left over"):
        read(Prefixed(U16), b"\x00\x03\x00\x01\x02")
    with pytest.raises(ValueError, match="u16 length"):
        PREFIXED.write(bytes(65536))
