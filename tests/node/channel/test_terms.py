"""What we take from a peer at the open (BOLT 2, "The open_channel Message", "The accept_channel Message")."""

from typing import Any

import pytest
from msgspec.structs import replace

from node.channel import terms
from node.channel.terms import Policy
from protocol import curve
from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bolt9 import OUR_INIT, ChannelType, FeatureSet
from protocol.errors import CommandRefused, PeerViolation
from protocol.wire.bolt2_open import AcceptChannel, AcceptChannelTlvs, OpenChannel, OpenChannelTlvs

CHAIN = b"\x06" * 32
FUNDING = Sat(1_000_000)
OURS = Policy().limits(FUNDING)
SMALL = FeatureSet.of(12, 23, 47)
"""Of a peer that knows no large channel."""
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
    """checklist 8"""
    terms.check_open(OFFER, OURS, CHAIN, features=OUR_INIT)
    check_answer(ANSWER)


@pytest.mark.parametrize(("field", "value", "words"), SHARED_OFFENCES)
def test_terms_under_which_a_channel_cannot_work_are_refused(field: str, value: Any, words: str) -> None:
    """checklist 8"""
    with pytest.raises(PeerViolation, match=words):
        terms.check_open(replace(OFFER, **{field: value}), OURS, CHAIN, features=SMALL)
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
        terms.check_open(replace(OFFER, **{field: value}), OURS, CHAIN, features=SMALL)


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


def offered(kind: ChannelType, *, announce: bool = False) -> OpenChannel:
    tlvs = OpenChannelTlvs(upfront_shutdown_script=b"", channel_type=kind.to_bytes())
    return replace(OFFER, tlvs=tlvs, channel_flags=int(announce))


def test_a_large_channel_is_taken_of_a_peer_that_offers_them_too() -> None:
    """BOLT 2: 2^24 sat and more only where both sides set option_support_large_channel."""
    large = replace(OFFER, funding_satoshis=Sat(1 << 24), channel_reserve_satoshis=Sat(170_000))
    ours = Policy().limits(Sat(1 << 24))
    terms.check_open(large, ours, CHAIN, features=OUR_INIT)
    with pytest.raises(PeerViolation, match="not between 20000 and 16777215"):
        terms.check_open(large, ours, CHAIN, features=SMALL)
    assert terms.largest_funding(SMALL) == (1 << 24) - 1


def test_an_announced_channel_is_taken_and_undefined_flags_are_ignored() -> None:
    announced = offered(ChannelType.ANCHORS, announce=True)
    terms.check_open(announced, OURS, CHAIN, features=OUR_INIT)
    odd = replace(announced, channel_flags=0xFE)
    terms.check_open(odd, OURS, CHAIN, features=OUR_INIT)
    assert terms.is_announced(announced)
    assert not terms.is_announced(odd)


def test_a_type_that_hides_the_real_id_is_only_for_unannounced_channels() -> None:
    """checklist 12"""
    terms.check_open(offered(ChannelType.ANCHORS_ALIAS), OURS, CHAIN, features=OUR_INIT)
    with pytest.raises(PeerViolation, match="announced"):
        terms.check_open(offered(ChannelType.ANCHORS_ALIAS, announce=True), OURS, CHAIN, features=OUR_INIT)


@pytest.mark.parametrize("kind", [ChannelType.ANCHORS_ZEROCONF, ChannelType.STATIC_REMOTEKEY_ALIAS_ZEROCONF])
def test_zeroconf_is_taken_only_of_a_peer_that_a_person_trusts(kind: ChannelType) -> None:
    """checklist 13"""
    terms.check_open(offered(kind), OURS, CHAIN, features=OUR_INIT, trusted=True)
    with pytest.raises(PeerViolation, match="does not trust you"):
        terms.check_open(offered(kind), OURS, CHAIN, features=OUR_INIT)


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [
        (ChannelType.ANCHORS, FeatureSet.of(12)),
        (ChannelType.ANCHORS_ALIAS, FeatureSet.of(12, 23)),
        (ChannelType.ANCHORS_ZEROCONF, FeatureSet.of(12, 23, 47)),
    ],
)
def test_a_type_of_features_that_were_not_negotiated_is_refused(
    kind: ChannelType, lacking: FeatureSet
) -> None:
    with pytest.raises(PeerViolation, match="not negotiated"):
        terms.check_open(offered(kind), OURS, CHAIN, features=lacking, trusted=True)


def test_minimum_depth_0_goes_with_a_zeroconf_type_and_with_no_other() -> None:
    """checklist 13"""

    def answer(kind: ChannelType, depth: int) -> None:
        said = replace(ANSWER, minimum_depth=depth, tlvs=AcceptChannelTlvs(channel_type=kind.to_bytes()))
        terms.check_accept(said, OURS, kind, funding=FUNDING, push_msat=Msat(0))

    answer(ChannelType.ANCHORS_ZEROCONF, 0)
    answer(ChannelType.ANCHORS, 1)
    with pytest.raises(PeerViolation, match="asks for 0"):
        answer(ChannelType.ANCHORS_ZEROCONF, 1)
    with pytest.raises(PeerViolation, match="nobody here asked"):
        answer(ChannelType.ANCHORS, 0)


@pytest.mark.parametrize(
    ("features", "announce", "zeroconf", "kind"),
    [
        (OUR_INIT, True, False, ChannelType.ANCHORS),
        (OUR_INIT, False, False, ChannelType.ANCHORS_ALIAS),
        (OUR_INIT, True, True, ChannelType.ANCHORS_ZEROCONF),
        (OUR_INIT, False, True, ChannelType.ANCHORS_ALIAS_ZEROCONF),
        (FeatureSet.of(12, 23), False, False, ChannelType.ANCHORS),
        (FeatureSet.of(0, 6, 8, 12, 14, 16, 26, 44), False, False, ChannelType.STATIC_REMOTEKEY),
    ],
)
def test_the_best_type_that_both_can_is_proposed(
    features: FeatureSet, announce: bool, zeroconf: bool, kind: ChannelType
) -> None:
    """The last one is Electrum 4.3.4, which knows neither anchors nor aliases."""
    chosen = terms.choose_type(features, anchors=True, announce=announce, zeroconf=zeroconf, bits=None)
    assert chosen is kind


@pytest.mark.parametrize(
    ("features", "announce", "zeroconf", "bits", "words"),
    [
        (FeatureSet.of(12), True, False, (12, 22), "does not offer option_anchors"),
        (FeatureSet.of(12, 23), False, True, None, "does not offer option_zeroconf"),
        (OUR_INIT, True, False, (12, 22, 46), "cannot be announced"),
        (OUR_INIT, True, False, (12, 22, 50), "go together"),
        (OUR_INIT, True, True, (12, 22), "go together"),
        (OUR_INIT, True, False, (12, 24), "none that we support"),
    ],
)
def test_a_type_that_cannot_be_is_not_proposed(
    features: FeatureSet, announce: bool, zeroconf: bool, bits: tuple[int, ...] | None, words: str
) -> None:
    with pytest.raises(CommandRefused, match=words):
        terms.choose_type(features, anchors=True, announce=announce, zeroconf=zeroconf, bits=bits)


def test_a_channel_that_begins_with_both_below_their_reserve_is_refused() -> None:
    """checklist 8: nobody would have anything to lose."""
    funding = Sat(20_000)
    ours = replace(Policy().limits(funding), reserve=Sat(15_000))
    small = replace(
        OFFER, funding_satoshis=funding, push_msat=Msat(4_000_000), channel_reserve_satoshis=Sat(4_000)
    )
    small = replace(small, feerate_per_kw=FeeratePerKw(253), max_htlc_value_in_flight_msat=Msat(20_000_000))
    with pytest.raises(PeerViolation, match="below their reserve"):
        terms.check_open(small, replace(ours, reserve=Sat(16_000)), CHAIN, features=OUR_INIT)
    terms.check_open(small, replace(ours, reserve=Sat(1_000)), CHAIN, features=OUR_INIT)
