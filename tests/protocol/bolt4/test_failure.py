"""Failure messages (BOLT 4, "Failure Messages")."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import failure as f
from protocol.bolt4.failure import Failure, FailureCode, UnknownFailure
from protocol.errors import MalformedMessage

HASH = bytes(range(32))
KNOWN: list[tuple[Failure, str, str]] = [
    (f.TemporaryNodeFailure(), "2002", "temporary_node_failure"),
    (f.PermanentNodeFailure(), "6002", "permanent_node_failure"),
    (f.RequiredNodeFeatureMissing(), "6003", "required_node_feature_missing"),
    (f.InvalidOnionVersion(HASH), "c004" + HASH.hex(), "invalid_onion_version"),
    (f.InvalidOnionHmac(HASH), "c005" + HASH.hex(), "invalid_onion_hmac"),
    (f.InvalidOnionKey(HASH), "c006" + HASH.hex(), "invalid_onion_key"),
    (f.TemporaryChannelFailure(), "10070000", "temporary_channel_failure"),
    (f.TemporaryChannelFailure(b"\xaa\xbb"), "10070002aabb", "temporary_channel_failure"),
    (f.PermanentChannelFailure(), "4008", "permanent_channel_failure"),
    (f.RequiredChannelFeatureMissing(), "4009", "required_channel_feature_missing"),
    (f.UnknownNextPeer(), "400a", "unknown_next_peer"),
    (f.AmountBelowMinimum(Msat(7)), "100b00000000000000070000", "amount_below_minimum"),
    (f.FeeInsufficient(Msat(7), b"\xcc"), "100c00000000000000070001cc", "fee_insufficient"),
    (f.IncorrectCltvExpiry(BlockHeight(800000)), "100d000c35000000", "incorrect_cltv_expiry"),
    (f.ExpiryTooSoon(), "100e0000", "expiry_too_soon"),
    (
        f.IncorrectOrUnknownPaymentDetails(Msat(100), BlockHeight(800000)),
        "400f0000000000000064000c3500",
        "incorrect_or_unknown_payment_details",
    ),
    (f.FinalIncorrectCltvExpiry(BlockHeight(800000)), "0012000c3500", "final_incorrect_cltv_expiry"),
    (f.FinalIncorrectHtlcAmount(Msat(100)), "00130000000000000064", "final_incorrect_htlc_amount"),
    (f.ChannelDisabled(), "101400000000", "channel_disabled"),
    (f.ExpiryTooFar(), "0015", "expiry_too_far"),
    (f.InvalidOnionPayload(0x1234, 5), "4016fd12340005", "invalid_onion_payload"),
    (f.MppTimeout(), "0017", "mpp_timeout"),
    (f.InvalidOnionBlinding(HASH), "c018" + HASH.hex(), "invalid_onion_blinding"),
]


@pytest.mark.parametrize(("failure", "raw", "name"), KNOWN)
def test_each_failure_has_its_code_and_layout(failure: Failure, raw: str, name: str) -> None:
    assert f.encode(failure).hex() == raw
    assert f.decode(bytes.fromhex(raw)) == failure
    assert failure.name == name


def test_every_code_of_the_specification_has_a_class_and_a_sentence() -> None:
    assert {failure.code for failure, _, _ in KNOWN} == set(FailureCode)
    sentences = {failure.sentence for failure, _, _ in KNOWN}
    assert len(sentences) == len(FailureCode)
    assert all(sentence.endswith(".") and len(sentence) > 30 for sentence in sentences)


@pytest.mark.parametrize(("failure", "raw", "_name"), KNOWN)
def test_extra_bytes_are_ignored(failure: Failure, raw: str, _name: str) -> None:
    """checklist 33"""
    assert f.decode(bytes.fromhex(raw + "fd84d10101")) == failure


@pytest.mark.parametrize("raw", [raw for _, raw, _ in KNOWN if len(raw) > 4])
def test_failure_that_is_cut_short_is_refused(raw: str) -> None:
    with pytest.raises(MalformedMessage):
        f.decode(bytes.fromhex(raw)[:-1])


@pytest.mark.parametrize("raw", ["", "20"])
def test_failure_without_a_code_is_refused(raw: str) -> None:
    with pytest.raises(MalformedMessage, match="2 bytes"):
        f.decode(bytes.fromhex(raw))


def test_unknown_code_is_kept_with_its_data_and_flags() -> None:
    failure = f.decode(bytes.fromhex("6fff0102"))
    assert failure == UnknownFailure(0x6FFF, b"\x01\x02")
    assert f.encode(failure).hex() == "6fff0102"
    assert f.is_permanent(failure) and f.blames_node(failure)
    assert "0x6fff" in failure.sentence


def test_flags_say_how_long_and_how_far() -> None:
    assert f.is_permanent(f.UnknownNextPeer()) and not f.blames_node(f.UnknownNextPeer())
    assert f.blames_node(f.TemporaryNodeFailure()) and not f.is_permanent(f.TemporaryNodeFailure())


def test_malformed_htlc_of_a_peer_becomes_our_failure() -> None:
    """checklist 32"""
    assert f.from_malformed(0xC005, HASH) == f.InvalidOnionHmac(HASH)
    assert f.from_malformed(0x8077, HASH) == UnknownFailure(0x8077, HASH)
    with pytest.raises(MalformedMessage, match="BADONION"):
        f.from_malformed(0x400A, HASH)


@given(
    st.binary(max_size=60)
    | st.builds(
        lambda code, rest: code.to_bytes(2, "big") + rest,
        st.sampled_from(FailureCode),
        st.binary(max_size=60),
    )
)
def test_any_bytes_are_read_or_malformed(raw: bytes) -> None:
    try:
        failure = f.decode(raw)
    except MalformedMessage:
        assert len(raw) < 2 or int.from_bytes(raw[:2], "big") in set(FailureCode)
    else:
        assert raw.startswith(f.encode(failure))
