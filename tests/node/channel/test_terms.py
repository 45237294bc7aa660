"""What we take from a peer at the open (BOLT 2, "The open_channel Message", "The accept_channel Message")."""

from typing import Any

import pytest
from msgspec.structs import replace

from node.channel import terms
from node.channel.terms import Policy
from protocol import curve
from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bolt9 import ChannelType
from protocol.errors import PeerViolation
from protocol.wire.bolt2_open import AcceptChannel, AcceptChannelTlvs, OpenChannel, OpenChannelTlvs

CHAIN = b"\x06" * 32
FUNDING = Sat(1_000_000)
OURS = Policy().limits(FUNDING)
POINTS = [curve.point_of(bytes(31) + bytes((n,))) for n in range(1, 7)]
NO_POINT = b"\x02" + b"\xff" * 32
SHARED: dict[str, Any] = {
    "dust_limit_satoshis": Sat(546),
    "max_htlc_value_in_flight_msat": Msat(1_000_000_000),
    "channel_reserve_satoshis": Sat(10_000),
    "htlc_minimum_msat": Msat(1),
    "to_self_delay": 144,
    "max_accepted_htlcs": 483,
    "funding_pubkey": POINTS[0],
    "revocation_basepoint": POINTS[1],
    "payment_basepoint": POINTS[2],
    "delayed_payment_basepoint": POINTS[3],
    "htlc_basepoint": POINTS[4],
    "first_per_commitment_point": POINTS[5],
}
OFFER = OpenChannel(
    chain_hash=CHAIN,
    temporary_channel_id=bytes(32),
    funding_satoshis=FUNDING,
    push_msat=Msat(0),
    feerate_per_kw=FeeratePerKw(2500),
    channel_flags=0,
    tlvs=OpenChannelTlvs(upfront_shutdown_script=b"", channel_type=ChannelType.ANCHORS.to_bytes()),
    **SHARED,
)
ANSWER = AcceptChannel(
    temporary_channel_id=bytes(32),
    minimum_depth=3,
    tlvs=AcceptChannelTlvs(channel_type=ChannelType.ANCHORS.to_bytes()),
    **SHARED,
)
SHARED_OFFENCES: list[tuple[str, Any, str]] = [
    ("dust_limit_satoshis", 353, "dust limit"),
    ("dust_limit_satoshis", 10_001, "dust limit"),
    ("channel_reserve_satoshis", 353, "below a dust limit"),
    ("channel_reserve_satoshis", 545, "below a dust limit"),
    ("channel_reserve_satoshis", 200_001, "more than a fifth"),
    ("to_self_delay", 2017, "to_self_delay"),
    ("max_accepted_htlcs", 0, "max_accepted_htlcs"),
    ("max_accepted_htlcs", 484, "max_accepted_htlcs"),
    ("htlc_minimum_msat", 10_000_001, "htlc_minimum_msat"),
    ("max_htlc_value_in_flight_msat", 49_999_999, "too small"),
    ("funding_pubkey", NO_POINT, "not a point"),
    ("htlc_basepoint", NO_POINT, "not a point"),
    ("first_per_commitment_point", NO_POINT, "not a point"),
]


def check_answer(answer: AcceptChannel) -> None:
    terms.check_accept(answer, OURS, ChannelType.ANCHORS, funding=FUNDING, push_msat=Msat(0))


def test_fair_terms_are_taken() -> None:
    terms.check_open(OFFER, OURS, CHAIN)
    check_answer(ANSWER)


@pytest.mark.parametrize(("field", "value", "words"), SHARED_OFFENCES)
def test_terms_under_which_a_channel_cannot_work_are_refused(field: str, value: Any, words: str) -> None:
    """checklist 8"""
    with pytest.raises(PeerViolation, match=words):
        terms.check_open(replace(OFFER, **{field: value}), OURS, CHAIN)
    with pytest.raises(PeerViolation, match=words):
        check_answer(replace(ANSWER, **{field: value}))


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("chain_hash", bytes(32), "another chain"),
        ("funding_satoshis", 19_999, "not between"),
        ("funding_satoshis", 1 << 24, "not between"),
        ("push_msat", 1_000_000_001, "push_msat"),
        ("push_msat", 999_000_000, "cannot pay the commitment fee"),
        ("feerate_per_kw", 252, "feerate"),
        ("feerate_per_kw", 100_001, "feerate"),
        ("channel_flags", 1, "announce"),
        ("tlvs", OpenChannelTlvs(), "channel_type is missing"),
        ("tlvs", OpenChannelTlvs(channel_type=b"\x01"), "none that we support"),
        (
            "tlvs",
            OpenChannelTlvs(upfront_shutdown_script=b"\x51", channel_type=ChannelType.ANCHORS.to_bytes()),
            "no known form",
        ),
    ],
)
def test_an_offer_that_we_cannot_keep_is_refused(field: str, value: Any, words: str) -> None:
    """checklist 8"""
    with pytest.raises(PeerViolation, match=words):
        terms.check_open(replace(OFFER, **{field: value}), OURS, CHAIN)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("minimum_depth", 145, "minimum_depth"),
        ("tlvs", AcceptChannelTlvs(), "channel_type is missing"),
        (
            "tlvs",
            AcceptChannelTlvs(channel_type=ChannelType.STATIC_REMOTEKEY.to_bytes()),
            "another channel_type",
        ),
    ],
)
def test_an_answer_to_another_question_is_refused(field: str, value: Any, words: str) -> None:
    with pytest.raises(PeerViolation, match=words):
        check_answer(replace(ANSWER, **{field: value}))


def test_a_channel_that_begins_with_both_below_their_reserve_is_refused() -> None:
    """checklist 8: nobody would have anything to lose."""
    funding = Sat(20_000)
    ours = replace(Policy().limits(funding), reserve=Sat(15_000))
    small = replace(
        OFFER, funding_satoshis=funding, push_msat=Msat(4_000_000), channel_reserve_satoshis=Sat(4_000)
    )
    small = replace(small, feerate_per_kw=FeeratePerKw(253), max_htlc_value_in_flight_msat=Msat(20_000_000))
    with pytest.raises(PeerViolation, match="below their reserve"):
        terms.check_open(replace(small, push_msat=Msat(4_000_000)), replace(ours, reserve=Sat(16_000)), CHAIN)
    terms.check_open(small, replace(ours, reserve=Sat(1_000)), CHAIN)
