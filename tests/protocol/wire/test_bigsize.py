"""BigSize (BOLT 1, Appendix A)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import MalformedMessage
from protocol.wire.bigsize import read_bigsize, write_bigsize
from tests.support import vectors

GOOD = [(0, "00"), (252, "fc"), (253, "fd00fd"), (65536, "fe00010000"), (1 << 32, "ff0000000100000000")]
BAD = ["", "fd", "fd00", "fd00fc", "fe0000ffff", "feffff", "ff00000000ffffffff", "ffffffffff"]


@pytest.mark.parametrize(("value", "hexed"), GOOD)
def test_values_have_their_published_bytes(value, hexed):
    """checklist 4"""
    data = bytes.fromhex(hexed)
    assert write_bigsize(value) == data
    assert read_bigsize(data, 0, len(data)) == (value, len(data))


@pytest.mark.parametrize("hexed", BAD)
def test_short_and_longer_than_needed_forms_are_refused(hexed):
    """checklist 4"""
    data = bytes.fromhex(hexed)
    with pytest.raises(MalformedMessage):
        read_bigsize(data, 0, len(data))


def test_all_published_cases():
    """checklist 4"""
    published = vectors("bolt01/bigsize.json")
    for case in published["encode"]:
        assert write_bigsize(case["value"]).hex() == case["bytes"]
    for case in published["decode"]:
        data = bytes.fromhex(case["bytes"])
        if "exp_error" in case:
            with pytest.raises(MalformedMessage):
                read_bigsize(data, 0, len(data))
        else:
            assert read_bigsize(data, 0, len(data)) == (case["value"], len(data))


def test_the_end_is_respected_and_not_the_length_of_the_buffer():
    with pytest.raises(MalformedMessage):
        read_bigsize(b"\xfd\x01\x00", 0, 2)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_a_value_out_of_range_is_not_written(value):
    with pytest.raises(ValueError, match="bigsize"):
        write_bigsize(value)


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=9))
def test_what_is_written_is_read_back(value, after):
    data = write_bigsize(value)
    assert read_bigsize(data + after, 0, len(data + after)) == (value, len(data))
