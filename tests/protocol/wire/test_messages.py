"""Every peer message: bytes by hand, published vectors, round trips and fuzzing (BOLT 1, 2 and 7)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol import curve
from protocol.amounts import FeeratePerKw, Msat, Sat, ShortChannelId, parse_scid
from protocol.errors import MalformedMessage, PeerViolation
from protocol.secret import Secret
from protocol.wire import UnknownMessage, decode, encode, message_name, message_types, require_points
from protocol.wire.bolt1 import Error, Init, InitTlvs, Ping, Pong, pong_for, printable
from protocol.wire.bolt2_close import (
    ClosingComplete,
    ClosingSig,
    ClosingSigned,
    ClosingSignedTlvs,
    ClosingTlvs,
    FeeRange,
    Shutdown,
)
from protocol.wire.bolt2_open import ChannelReady, ChannelReadyTlvs, OpenChannel, OpenChannelTlvs
from protocol.wire.bolt2_quiescence import Stfu
from protocol.wire.bolt2_reestablish import ChannelReestablish, ChannelReestablishTlvs, NextFunding
from protocol.wire.bolt2_update import (
    CommitmentSigned,
    RevokeAndAck,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFulfillHtlc,
    attribution_tlvs,
)
from protocol.wire.bolt7_gossip import (
    ChannelUpdate,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyChannelRange,
    ReplyShortChannelIdsEnd,
    empty_answer,
)
from tests.protocol.wire.strategies import messages, of_struct
from tests.support import vectors

A, B, C = b"\xaa" * 32, b"\xbb" * 32, b"\xcc" * 32
POINT = b"\x02" + b"\x11" * 32
TYPES = {
    1: "warning",
    2: "stfu",
    7: "peer_storage",
    9: "peer_storage_retrieval",
    16: "init",
    17: "error",
    18: "ping",
    19: "pong",
    32: "open_channel",
    33: "accept_channel",
    34: "funding_created",
    35: "funding_signed",
    36: "channel_ready",
    38: "shutdown",
    39: "closing_signed",
    40: "closing_complete",
    41: "closing_sig",
    128: "update_add_htlc",
    130: "update_fulfill_htlc",
    131: "update_fail_htlc",
    132: "commitment_signed",
    133: "revoke_and_ack",
    134: "update_fee",
    135: "update_fail_malformed_htlc",
    136: "channel_reestablish",
    256: "channel_announcement",
    257: "node_announcement",
    258: "channel_update",
    259: "announcement_signatures",
    261: "query_short_channel_ids",
    262: "reply_short_channel_ids_end",
    263: "query_channel_range",
    264: "reply_channel_range",
    265: "gossip_timestamp_filter",
}
BY_HAND = [
    (Ping(5, b"\x00\x00"), "0012" "0005" "0002" "0000"),
    (Pong(b"\x00"), "0013" "0001" "00"),
    (Error(A, b"no"), "0011" + "aa" * 32 + "0002" + "6e6f"),
    (Init(b"", b"\x01", InitTlvs(networks=(B,))), "0010" "0000" "0001" "01" "0120" + "bb" * 32),
    (Stfu(A, 1), "0002" + "aa" * 32 + "01"),
    (Shutdown(A, b"\x00\x14"), "0026" + "aa" * 32 + "0002" "0014"),
    (
        ClosingSigned(A, Sat(7), b"\x01" * 64, ClosingSignedTlvs(fee_range=FeeRange(Sat(1), Sat(2)))),
        "0027" + "aa" * 32 + "0000000000000007" + "01" * 64 + "0110" "0000000000000001" "0000000000000002",
    ),
    (
        ClosingComplete(A, b"\x51", b"\x52\x53", Sat(9), 8, ClosingTlvs(closer_output_only=b"\x01" * 64)),
        "0028" + "aa" * 32 + "0001" "51" "0002" "5253" "0000000000000009" "00000008" "0140" + "01" * 64,
    ),
    (
        ClosingSig(A, b"\x51", b"", Sat(9), 8, ClosingTlvs(closer_and_closee_outputs=b"\x01" * 64)),
        "0029" + "aa" * 32 + "0001" "51" "0000" "0000000000000009" "00000008" "0340" + "01" * 64,
    ),
    (
        UpdateAddHtlc(A, 1, Msat(2), B, 3, b"\x00" * 1366),
        "0080" + "aa" * 32 + "0000000000000001" "0000000000000002" + "bb" * 32 + "00000003" + "00" * 1366,
    ),
    (
        UpdateFulfillHtlc(A, 9, Secret(C)),
        "0082" + "aa" * 32 + "0000000000000009" + "cc" * 32,
    ),
    (
        UpdateFulfillHtlc(A, 9, Secret(C), attribution_tlvs(b"\x01" * 80 + b"\x02" * 840)),
        "0082" + "aa" * 32 + "0000000000000009" + "cc" * 32 + "01fd0398" + "01" * 80 + "02" * 840,
    ),
    (
        UpdateFailHtlc(A, 9, b"\x03", attribution_tlvs(b"\x01" * 80 + b"\x02" * 840)),
        "0083" + "aa" * 32 + "0000000000000009" + "0001" "03" + "01fd0398" + "01" * 80 + "02" * 840,
    ),
    (
        CommitmentSigned(A, b"\x01" * 64, (b"\x02" * 64, b"\x03" * 64)),
        "0084" + "aa" * 32 + "01" * 64 + "0002" + "02" * 64 + "03" * 64,
    ),
    (RevokeAndAck(A, Secret(B), POINT), "0085" + "aa" * 32 + "bb" * 32 + POINT.hex()),
    (
        ChannelReestablish(
            A, 1, 0, Secret(bytes(32)), POINT, ChannelReestablishTlvs(next_funding=NextFunding(C, 1))
        ),
        "0088" + "aa" * 32 + "0000000000000001" "0000000000000000" + "00" * 32 + POINT.hex()
        + "0121" + "cc" * 32 + "01",
    ),
    (
        ChannelReady(A, POINT, ChannelReadyTlvs(short_channel_id=ShortChannelId(258))),
        "0024" + "aa" * 32 + POINT.hex() + "0108" "0000000000000102",
    ),
]  # fmt: skip


def open_channel(**changes) -> OpenChannel:
    points = {
        name: curve.point_of(bytes((number,)) * 32)
        for number, name in enumerate(OpenChannel.__struct_fields__[11:17], start=1)
    }
    fields = {
        "chain_hash": A,
        "temporary_channel_id": B,
        "funding_satoshis": Sat(100_000),
        "push_msat": Msat(0),
        "dust_limit_satoshis": Sat(546),
        "max_htlc_value_in_flight_msat": Msat((1 << 64) - 1),
        "channel_reserve_satoshis": Sat(1000),
        "htlc_minimum_msat": Msat(1),
        "feerate_per_kw": FeeratePerKw(253),
        "to_self_delay": 144,
        "max_accepted_htlcs": 483,
        "channel_flags": 0,
        "tlvs": OpenChannelTlvs(upfront_shutdown_script=b"", channel_type=b"\x10\x00"),
    }
    return OpenChannel(**(fields | points | changes))


def test_every_message_of_the_plan_has_its_number_and_name():
    assert {number: message_name(number) for number in message_types()} == TYPES
    assert message_name(999) == "unknown_999"


@pytest.mark.parametrize(("message", "hexed"), BY_HAND, ids=lambda value: type(value).__name__)
def test_messages_have_exactly_these_bytes(message, hexed):
    assert encode(message).hex() == hexed
    assert decode(bytes.fromhex(hexed)) == message


def test_open_channel_keeps_the_order_of_the_table():
    data = encode(open_channel())
    assert len(data) == 2 + 32 + 32 + 6 * 8 + 4 + 2 + 2 + 6 * 33 + 1 + 2 + 4
    assert data[66:74].hex() == "00000000000186a0"
    assert data[114:118].hex() == "000000fd"
    assert data[122:155] == curve.point_of(b"\x01" * 32)
    assert data[-7:].hex() == "00" + "0000" + "01021000"
    assert decode(data) == open_channel()


@pytest.mark.parametrize("cls", message_types().values(), ids=lambda cls: cls.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_what_is_encoded_is_decoded(cls, data):
    """checklist 3, 4"""
    message = data.draw(of_struct(cls))
    raw = encode(message)
    assert int.from_bytes(raw[:2], "big") == cls.TYPE
    assert decode(raw) == message
    assert encode(decode(raw)) == raw


@settings(max_examples=300)
@given(st.sampled_from(sorted(TYPES)), st.binary(max_size=500))
def test_random_bytes_raise_malformed_message_or_nothing(number, body):
    try:
        message = decode(number.to_bytes(2, "big") + body)
    except MalformedMessage:
        return
    assert decode(encode(message)) == message


@settings(max_examples=400)
@given(messages(message_types()), st.data())
def test_mutated_messages_raise_malformed_message_or_nothing(message, data):
    raw = bytearray(encode(message))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(2, len(raw)))
        match data.draw(st.sampled_from(["change", "insert", "delete"])):
            case "insert":
                raw[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case "delete":
                del raw[at : at + data.draw(st.integers(1, 9))]
            case _ if at < len(raw):
                raw[at] = data.draw(st.integers(0, 255))
    try:
        got = decode(bytes(raw))
    except MalformedMessage:
        return
    assert decode(encode(got)) == got


@pytest.mark.parametrize("cls", message_types().values(), ids=lambda cls: cls.__name__)
@settings(max_examples=3)
@given(data=st.data())
def test_a_known_message_cut_short_is_malformed(cls, data):
    """BOLT 1: insufficient length closes the connection. Cut before the extension, every prefix is short.

    checklist 3
    """
    fixed = data.draw(of_struct(cls))
    bare = type(fixed)(**{name: getattr(fixed, name) for name in cls.__struct_fields__[:-1]})
    raw = encode(bare)
    for size in {2, 3, len(raw) // 2, len(raw) - 1} - {len(raw)}:
        with pytest.raises(MalformedMessage, match=message_name(cls.TYPE)):
            decode(raw[:size])


@pytest.mark.parametrize("data", [b"", b"\x00"])
def test_less_than_a_type_is_malformed(data):
    with pytest.raises(MalformedMessage):
        decode(data)


def test_unknown_types_are_named_and_left_to_the_caller():
    assert decode(bytes.fromhex("03e7ffff")) == UnknownMessage(999)
    assert not UnknownMessage(999).is_even
    assert decode(bytes.fromhex("03e8")) == UnknownMessage(1000)
    assert UnknownMessage(1000).is_even


@pytest.mark.parametrize(
    ("hexed", "valid"),
    [
        ("001000000000", True),
        ("001000000000c9012acb0104", True),
        ("00100000000001", False),
        ("001000000000ca012a", False),
        ("001000000000c90101c90102", False),
    ],
)
def test_the_extension_of_init_is_checked_and_kept(hexed, valid):
    """checklist 3, 4"""
    check_init_extension(hexed, valid)


def check_init_extension(hexed: str, valid: bool) -> None:
    if valid:
        assert encode(decode(bytes.fromhex(hexed))).hex() == hexed
    else:
        with pytest.raises(MalformedMessage):
            decode(bytes.fromhex(hexed))


def test_all_published_init_extensions():
    """checklist 3, 4"""
    cases = vectors("bolt01/init_extension.json")
    assert len(cases) == 5
    for case in cases:
        check_init_extension(case["message"], case["valid"])


def test_a_bad_extension_of_a_message_without_records_is_malformed_too():
    """checklist 3, 4"""
    good = encode(RevokeAndAck(A, Secret(B), POINT))
    assert decode(good + b"\x01\x00").tlvs.unknown == ((1, b""),)
    for bad in (b"\x00\x00", b"\x01", b"\x01\x02\x00", b"\x03\x00\x01\x00"):
        with pytest.raises(MalformedMessage, match="revoke_and_ack"):
            decode(good + bad)


def test_strange_bytes_behind_signed_gossip_are_kept_for_its_signature():
    update = ChannelUpdate(
        bytes(64), A, ShortChannelId(1), 2, 1, 0, 40, Msat(1), Msat(1000), 100, Msat(9), extension=b"\x00\x07"
    )
    assert decode(encode(update)) == update


@pytest.mark.parametrize(
    "message",
    [
        Shutdown(A[:31], b""),
        RevokeAndAck(A, Secret(B + b"\x00"), POINT),
        RevokeAndAck(A, Secret(B), b"\x04" + bytes(32)),
        Ping(65536),
        Ping(-1),
        Ping(0, bytes(65536)),
        CommitmentSigned(A, bytes(64), (bytes(63),)),
    ],
)
def test_a_field_that_does_not_fit_is_never_sent(message):
    with pytest.raises(ValueError, match=message_name(message.TYPE)):
        encode(message)


def test_the_largest_message_passes_and_one_byte_more_is_refused():
    """checklist 3"""
    assert len(encode(Pong(bytes(65531)))) == 65535
    with pytest.raises(ValueError, match="65535"):
        encode(Pong(bytes(65532)))


def test_a_ping_is_answered_with_the_length_it_asks_for_unless_that_is_too_long():
    """checklist 5"""
    assert pong_for(Ping(3)) == Pong(b"\x00\x00\x00")
    assert pong_for(Ping(65531)) == Pong(bytes(65531))
    assert pong_for(Ping(65532)) is None


def test_error_text_is_shown_only_when_printable():
    """checklist 6"""
    assert printable(b"funding too small") == "funding too small"
    assert printable(b"\x1b[2Jok") == "(not text) 1b5b324a6f6b"


def test_points_off_the_curve_are_a_violation_where_they_are_used():
    """checklist 8"""
    require_points(open_channel(), clause="BOLT 2")
    bad = open_channel(htlc_basepoint=b"\x02" + b"\xff" * 32)
    assert decode(encode(bad)) == bad
    with pytest.raises(PeerViolation, match="htlc_basepoint"):
        require_points(bad, clause="BOLT 2")


def test_secrets_do_not_show_in_a_printed_message():
    shown = repr(RevokeAndAck(A, Secret(B), POINT)) + repr(UpdateFulfillHtlc(A, 0, Secret(B)))
    assert repr(B)[2:-1] not in shown
    assert "Secret(hidden)" in shown


def test_queries_without_gossip_get_an_honest_and_final_end():
    assert empty_answer(QueryShortChannelIds(A, (ShortChannelId(1),))) == ReplyShortChannelIdsEnd(A, 0)
    answer = empty_answer(QueryChannelRange(A, 5, 7))
    assert answer == ReplyChannelRange(A, 5, 7, 1, ())
    assert encode(answer).hex() == "0108" + "aa" * 32 + "000000050000000701000100"


QUERY = (
    "01050f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206"
    "001900000000000000008e0000000000003c69000000000045a6c4"
)


def test_a_published_query_is_read():
    message = decode(bytes.fromhex(QUERY))
    assert isinstance(message, QueryShortChannelIds)
    assert message.encoded_short_ids == tuple(map(parse_scid, ("0x0x142", "0x0x15465", "0x69x42692")))
    assert encode(message).hex() == QUERY


def test_all_published_queries_and_zlib_is_refused():
    cases = vectors("bolt07/extended-queries.json")
    refused = 0
    for case in cases:
        data, wanted = bytes.fromhex(case["hex"]), case["msg"]
        if "789c" in case["hex"]:
            refused += 1
            with pytest.raises(MalformedMessage, match="encoding 1"):
                decode(data)
            continue
        message = decode(data)
        assert type(message).__name__ == wanted["type"]
        assert encode(message) == data
        assert message.chain_hash.hex() == wanted["chainHash"]
        if "shortChannelIds" in wanted:
            assert message.encoded_short_ids == tuple(map(parse_scid, wanted["shortChannelIds"]["array"]))
        if "timestamps" in wanted:
            pairs = [(pair["timestamp1"], pair["timestamp2"]) for pair in wanted["timestamps"]["timestamps"]]
            assert [
                (pair.timestamp_node_id_1, pair.timestamp_node_id_2) for pair in message.tlvs.timestamps
            ] == pairs
        if "firstBlockNum" in wanted:
            assert message.first_blocknum == wanted["firstBlockNum"]
            assert message.number_of_blocks == wanted["numberOfBlocks"]
    assert (len(cases), refused) == (10, 5)
