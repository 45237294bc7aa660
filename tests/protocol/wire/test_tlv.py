"""TLV streams (BOLT 1, "Type-Length-Value Format", Appendix B)."""

from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.amounts import Msat, ShortChannelId
from protocol.errors import MalformedMessage
from protocol.wire.fields import POINT, SHORT_CHANNEL_ID, TU32, TU64, U16, U64, Tlv
from protocol.wire.message import Nested, Record
from protocol.wire.tlv import TlvStream, decode_stream, tlv_stream, write_stream
from tests.protocol.wire.strategies import of_stream
from tests.support import vectors


class NodeAndAmounts(Record, frozen=True):
    node_id: Annotated[bytes, POINT]
    amount_msat_1: Annotated[Msat, U64]
    amount_msat_2: Annotated[Msat, U64]


@tlv_stream
class N1(TlvStream, frozen=True):
    tlv1: Annotated[Msat | None, Tlv(1, TU64)] = None
    tlv2: Annotated[ShortChannelId | None, Tlv(2, SHORT_CHANNEL_ID)] = None
    tlv3: Annotated[NodeAndAmounts | None, Tlv(3, Nested(NodeAndAmounts))] = None
    tlv4: Annotated[int | None, Tlv(254, U16)] = None


@tlv_stream
class N2(TlvStream, frozen=True):
    tlv1: Annotated[Msat | None, Tlv(0, TU64)] = None
    tlv2: Annotated[int | None, Tlv(11, TU32)] = None


NAMESPACES = {"n1": [N1], "n2": [N2], "any": [N1, N2], "either": [N1, N2]}
NODE = bytes.fromhex("023da092f6980e58d2c037173180e9a465476026ee50f96695963e8efe436f54eb")
REFUSED = [
    ("fd", "type cut short"),
    ("fd000100", "type not minimal"),
    ("0ffd2602", "value cut short"),
    ("0ffd000100", "length not minimal"),
    ("1200", "unknown even"),
    ("010100", "leading zero"),
    ("020701010101010101", "too short"),
    ("0209010101010101010101", "too long"),
    ("0331" + "04" + NODE[1:].hex() + "00" * 16, "not a point"),
    ("0208000000000000022601012a", "falling types"),
    ("0208000000000000023102080000000000000451", "the same type twice"),
    ("1f001f012a", "an unknown type twice"),
]


@pytest.mark.parametrize(("hexed", "why"), REFUSED)
def test_a_stream_that_breaks_a_rule_is_refused(hexed, why):
    """checklist 4"""
    with pytest.raises(MalformedMessage):
        decode_stream(N1, bytes.fromhex(hexed))


def test_known_records_are_read_and_written():
    """checklist 4"""
    stream = N1(tlv1=Msat(256), tlv3=NodeAndAmounts(NODE, Msat(1), Msat(2)))
    data = bytes.fromhex("01020100" + "0331" + NODE.hex() + "0000000000000001" + "0000000000000002")
    assert decode_stream(N1, data) == stream
    assert write_stream(stream) == data


def test_an_absent_record_and_an_empty_one_are_two_things():
    """checklist 4"""
    assert decode_stream(N1, b"") == N1(tlv1=None)
    assert decode_stream(N1, b"\x01\x00") == N1(tlv1=Msat(0))
    assert write_stream(N1()) == b""


def test_all_published_streams():
    """checklist 4"""
    cases = vectors("bolt01/tlv.json")["cases"]
    assert len(cases) == 57
    for case in cases:
        data = bytes.fromhex(case["stream"])
        for namespace in NAMESPACES[case["namespace"]]:
            if not case["valid"]:
                with pytest.raises(MalformedMessage):
                    decode_stream(namespace, data)
                continue
            stream = decode_stream(namespace, data)
            assert write_stream(stream) == data
            if "values" in case:
                got = getattr(stream, case["record"])
                wanted = list(case["values"].values())
                if isinstance(got, NodeAndAmounts):
                    assert [got.node_id.hex(), got.amount_msat_1, got.amount_msat_2] == wanted
                elif case["record"] == "tlv2" and namespace is N1:
                    height, tx, out = (int(part) for part in str(wanted[0]).split("x"))
                    assert got == height << 40 | tx << 16 | out
                else:
                    assert [got] == wanted


@given(of_stream(N1))
def test_any_stream_is_read_back_and_reencodes_to_the_same_bytes(stream):
    """checklist 4"""
    data = write_stream(stream)
    assert decode_stream(N1, data) == stream
    assert write_stream(decode_stream(N1, data)) == data


@given(st.binary(max_size=60))
def test_random_bytes_are_refused_or_reencode_to_the_same_bytes(data):
    """checklist 4: what is not minimal would come out shorter."""
    for namespace in (N1, N2):
        try:
            stream = decode_stream(namespace, data)
        except MalformedMessage:
            continue
        assert write_stream(stream) == data


@pytest.mark.parametrize("unknown", [((1, b""),), ((6, b""),), ((9, b""), (9, b""))])
def test_known_even_or_repeated_types_cannot_hide_among_the_unknown(unknown):
    """checklist 4"""
    with pytest.raises(ValueError, match="unknown"):
        write_stream(N1(unknown=unknown))


def test_a_namespace_declares_each_type_once_and_each_field_with_a_type():
    with pytest.raises(TypeError, match="twice"):

        @tlv_stream
        class Twice(TlvStream, frozen=True):
            one: Annotated[int | None, Tlv(1, U16)] = None
            two: Annotated[int | None, Tlv(1, U16)] = None

    with pytest.raises(TypeError, match="every field"):

        @tlv_stream
        class Bare(TlvStream, frozen=True):
            one: int | None = None
