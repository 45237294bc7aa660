"""The payload of one hop (BOLT 4, "`payload` format")."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.amounts import BlockHeight, Msat, ShortChannelId, scid
from protocol.bolt4.payload import (
    FinalPayload,
    ForwardPayload,
    decode_final,
    decode_forward,
    encode_final,
    encode_forward,
)
from protocol.bolt4.sphinx import InvalidOnionPayload
from protocol.errors import CommandRefused, MalformedMessage

FORWARD = ForwardPayload(ShortChannelId(1), Msat(15000), BlockHeight(1500))
FORWARD_HEX = "02023a98040205dc06080000000000000001"  # first hop of bolt04/onion-test.json
SECRET = bytes.fromhex("24a33562c54507a9334e79f0dc4f17d407e6d7c61f0e2f3d0d38599502f61704")
FINAL = FinalPayload(Msat(10000), BlockHeight(1000), SECRET, Msat(10000))
FINAL_HEX = f"02022710040203e80822{SECRET.hex()}2710"


def test_published_payloads_are_read_and_written() -> None:
    assert encode_forward(FORWARD).hex() == FORWARD_HEX
    assert decode_forward(bytes.fromhex(FORWARD_HEX)) == FORWARD
    assert encode_final(FINAL).hex() == FINAL_HEX
    assert decode_final(bytes.fromhex(FINAL_HEX)) == FINAL


def test_zero_amount_has_an_empty_value() -> None:
    raw = encode_forward(ForwardPayload(scid(1, 2, 3), Msat(0), BlockHeight(0)))
    assert raw.hex() == "020004000608" + "0000010000020003"
    assert decode_forward(raw).amt_to_forward == 0


def test_total_msat_is_the_amount_where_payment_data_is_missing() -> None:
    payload = decode_final(bytes.fromhex("02022710040203e8"))
    assert (payload.payment_secret, payload.total_msat) == (None, 10000)


def test_unknown_odd_record_is_skipped() -> None:
    assert decode_final(bytes.fromhex(FINAL_HEX + "1301ff" + "fd012d03aabbcc")) == FINAL
    assert decode_forward(bytes.fromhex("0101ff" + FORWARD_HEX)) == FORWARD


@pytest.mark.parametrize(
    ("raw", "tlv_type", "offset"),
    [
        ("", 6, 0),  # nothing at all: the channel is looked for first
        ("02023a98040205dc", 6, 0),  # no short_channel_id
        ("040205dc06080000000000000001", 2, 0),  # no amount
        ("02023a9806080000000000000001", 4, 0),  # no expiry
        ("02023a98040205dc060700000000000001", 6, 8),  # short_channel_id of 7 bytes
        ("0203003a98040205dc06080000000000000001", 2, 0),  # leading zero
        ("0209010000000000000000040205dc06080000000000000001", 2, 0),  # more than 64 bits
        ("02023a9804050100000000" + "06080000000000000001", 4, 4),  # more than 32 bits
        ("040205dc02023a9806080000000000000001", 2, 4),  # order
        ("02023a9802023a98040205dc06080000000000000001", 2, 4),  # twice
        (FORWARD_HEX + "0a01ff", 10, 18),  # blinded data, which we do not offer
        (FORWARD_HEX + "14", 20, 18),  # no length
        (FORWARD_HEX + "1505ff", 21, 18),  # too long
        (FORWARD_HEX + "fd001501ff", 0, 18),  # type not minimal
        (FORWARD_HEX + "15fd0001ff", 21, 18),  # length not minimal
        (f"02023a98040205dc060800000000000000010822{SECRET.hex()}2710", 8, 18),  # payment_data at a hop
    ],
)
def test_wrong_forward_payload_names_type_and_offset(raw: str, tlv_type: int, offset: int) -> None:
    with pytest.raises(InvalidOnionPayload) as caught:
        decode_forward(bytes.fromhex(raw))
    assert (caught.value.tlv_type, caught.value.offset) == (tlv_type, offset)
    assert isinstance(caught.value, MalformedMessage)


@pytest.mark.parametrize(
    ("raw", "tlv_type", "offset"),
    [
        (FORWARD_HEX, 6, 8),  # a channel at the last node
        ("0402" + "03e8" + "0822" + SECRET.hex() + "2710", 2, 0),
        ("02022710" + "0822" + SECRET.hex() + "2710", 4, 0),
        ("02022710040203e8081f" + SECRET[:31].hex(), 8, 8),
        ("0209010000000000000000" + "040203e8" + "0822" + SECRET.hex() + "2710", 2, 0),  # more than 64 bits
        ("02022710" + "04050100000000" + "0822" + SECRET.hex() + "2710", 4, 4),  # more than 32 bits
        ("02022710040203e80822" + SECRET.hex() + "0010", 8, 8),
        ("02022710040203e80829" + SECRET.hex() + "010000000000000000", 8, 8),
        ("02022710040203e812022710", 18, 8),  # total_amount_msat belongs to blinded payments
    ],
)
def test_wrong_final_payload_names_type_and_offset(raw: str, tlv_type: int, offset: int) -> None:
    with pytest.raises(InvalidOnionPayload) as caught:
        decode_final(bytes.fromhex(raw))
    assert (caught.value.tlv_type, caught.value.offset) == (tlv_type, offset)


u64 = st.integers(0, 2**64 - 1)
u32 = st.integers(0, 2**32 - 1)


@given(u64, u64, u32)
def test_forward_payload_comes_back(channel: int, amount: int, expiry: int) -> None:
    payload = ForwardPayload(ShortChannelId(channel), Msat(amount), BlockHeight(expiry))
    assert decode_forward(encode_forward(payload)) == payload


@given(u64, u32, st.binary(min_size=32, max_size=32), u64, st.none() | st.binary(max_size=700))
def test_final_payload_comes_back(
    amount: int, expiry: int, secret: bytes, total: int, metadata: bytes | None
) -> None:
    payload = FinalPayload(Msat(amount), BlockHeight(expiry), secret, Msat(total), metadata)
    assert decode_final(encode_final(payload)) == payload


mutated = st.builds(
    lambda raw, at, new: raw[: at % len(raw)] + new + raw[at % len(raw) + 1 :],
    st.sampled_from([bytes.fromhex(FORWARD_HEX), bytes.fromhex(FINAL_HEX)]),
    st.integers(0, 200),
    st.binary(max_size=3),
)


@given(st.binary(max_size=80) | mutated)
def test_any_bytes_are_read_or_refused_as_invalid_onion_payload(raw: bytes) -> None:
    for decode, encode, fields in ((decode_forward, encode_forward, 3), (decode_final, encode_final, 7)):
        try:
            payload = decode(raw)  # type: ignore[operator]
        except InvalidOnionPayload:
            continue
        else:
            assert len(payload.__struct_fields__) == fields
            assert decode(encode(payload)) == payload  # type: ignore[operator]


def test_a_keysend_preimage_and_further_records_stand_behind_the_others_in_rising_order() -> None:
    """bLIP 3"""
    others = ((2**33, b"two"), (65537, b"one"))
    payload = FinalPayload(Msat(1), BlockHeight(2), None, Msat(1), None, bytes(range(32)), others)
    raw = encode_final(payload)
    assert raw.index(b"one") < raw.index(bytes(range(32))) < raw.index(b"two")
    with pytest.raises(InvalidOnionPayload):
        decode_final(raw)  # 2**33 is an even type that nobody knows
    odd = encode_final(msgspec.structs.replace(payload, others=((65537, b"one"),)))
    assert decode_final(odd).keysend_preimage == bytes(range(32))


def test_a_preimage_is_for_the_last_node_and_has_32_bytes() -> None:
    """bLIP 3"""
    forward = ForwardPayload(ShortChannelId(1), Msat(1), BlockHeight(2))
    preimage = bytes.fromhex("ff0000000146c6616c20") + bytes(32)
    with pytest.raises(InvalidOnionPayload):
        decode_forward(encode_forward(forward) + preimage)
    final = encode_final(FinalPayload(Msat(1), BlockHeight(2), None, Msat(1)))
    with pytest.raises(InvalidOnionPayload, match="32 bytes"):
        decode_final(final + bytes.fromhex("ff0000000146c6616c1f") + bytes(31))


@pytest.mark.parametrize("others", [((8, b"x"),), ((16, b"x"),), ((65537, b"x"), (65537, b"y"))])
def test_a_further_record_with_a_type_that_is_taken_is_refused(others: tuple[tuple[int, bytes], ...]) -> None:
    payload = FinalPayload(Msat(1), BlockHeight(2), None, Msat(1), others=others)
    with pytest.raises(CommandRefused):
        encode_final(payload)
