"""Feature bits, init checks and channel types (BOLT 9; BOLT 1, "The init Message")."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.bolt9 import (
    BY_NAME,
    FEATURES,
    OUR_INIT,
    OUR_INVOICE,
    OUR_NODE,
    ChannelType,
    FeatureSet,
    check_peer_init,
    negotiated,
)
from protocol.errors import PeerViolation

LND_LIKE = FeatureSet.of(0, 5, 7, 8, 12, 14, 17, 19, 23, 25, 27, 35, 39, 44, 47)


@pytest.mark.parametrize(
    ("bits", "hexed"),
    [
        ((), ""),
        ((0,), "01"),
        ((12,), "1000"),
        ((12, 22), "401000"),
        ((7, 8), "0180"),
        ((63,), "80" + "00" * 7),
    ],
)
def test_bit_0_is_the_low_bit_of_the_last_byte_and_the_form_is_the_shortest(bits, hexed):
    assert FeatureSet.of(*bits).to_bytes().hex() == hexed
    assert FeatureSet.from_bytes(bytes.fromhex(hexed)).bits() == bits


@given(st.sets(st.integers(0, 700)))
def test_what_is_written_is_read_back(bits):
    features = FeatureSet.of(*bits)
    assert FeatureSet.from_bytes(features.to_bytes()) == features
    assert features.bits() == tuple(sorted(bits))
    assert all(bit in features for bit in bits)


def test_padding_does_not_change_a_set_and_two_maps_count_as_one():
    assert FeatureSet.from_bytes(b"\x00\x00\x01") == FeatureSet.of(0)
    assert FeatureSet.of(1) | FeatureSet.of(8) == FeatureSet.of(1, 8)


def test_odd_offers_and_even_requires_and_both_together_require():
    assert FeatureSet.of(23).has("option_anchors")
    assert not FeatureSet.of(23).requires("option_anchors")
    assert FeatureSet.of(22).requires("option_anchors")
    assert FeatureSet.of(22, 23).requires("option_anchors")
    assert not FeatureSet.of(21, 24).has("option_anchors")


def test_unknown_even_bits_are_found_and_odd_ones_are_not():
    known = FeatureSet.of(0, 23)
    assert FeatureSet.of(0, 1, 22, 100, 101, 103, 1000).unknown_even(known) == (100, 1000)
    assert FeatureSet.of(*range(1, 200, 2)).unknown_even(known) == ()


def test_the_table_has_no_bit_twice_and_rests_only_on_known_names():
    assert all(feature.bit % 2 == 0 for feature in FEATURES)
    assert len({feature.bit for feature in FEATURES}) == len(FEATURES) == len(BY_NAME)
    assert all(name in BY_NAME for feature in FEATURES for name in feature.needs)


def test_our_init_is_known_closed_and_never_sets_both_bits_of_a_pair():
    assert OUR_INIT.bits() == (0, 5, 7, 8, 11, 12, 14, 17, 19, 23, 27, 35, 37, 43, 44, 47, 51, 61)
    assert OUR_INIT.missing_dependency() is None
    assert len({bit // 2 for bit in OUR_INIT.bits()}) == len(OUR_INIT.bits())
    assert OUR_INIT.within("I") == OUR_INIT


def test_our_init_carries_what_every_peer_demands():
    """LDK and Eclair want 0, 8, 12, 14, 44; Electrum 4.3.4 wants 6 or 7 and takes no even bit but these."""
    for bit in (0, 8, 12, 14, 44):
        assert bit in OUR_INIT
    assert 6 in OUR_INIT or 7 in OUR_INIT
    assert {bit for bit in OUR_INIT.bits() if bit % 2 == 0} <= {0, 6, 8, 12, 14, 16, 26, 44, 150}


def test_contexts_pick_the_bits_of_invoices_and_channel_types():
    assert OUR_INIT.within("9") == FeatureSet.of(8, 14, 17, 37)
    assert OUR_INIT.within("T") == FeatureSet.of(12, 23, 47, 51)


def test_a_usual_peer_is_accepted():
    check_peer_init(OUR_INIT, LND_LIKE)
    check_peer_init(OUR_INIT, OUR_INIT)


def test_a_peer_that_no_longer_sets_assumed_bits_is_accepted():
    check_peer_init(OUR_INIT, FeatureSet.of(17, 23))
    check_peer_init(OUR_INIT, FeatureSet())


@pytest.mark.parametrize(
    ("bits", "named"),
    [((28,), "28 .option_dual_fund"), ((22, 998), "998 .unknown"), ((2,), "2 .unknown")],
)
def test_a_peer_that_requires_what_we_lack_is_refused_by_name(bits, named):
    with pytest.raises(PeerViolation, match=named):
        check_peer_init(OUR_INIT, FeatureSet.of(*bits))


def test_a_peer_may_require_what_we_offer():
    check_peer_init(OUR_INIT, FeatureSet.of(6, 16, 22, 26))


def test_a_missing_dependency_is_refused_by_name():
    with pytest.raises(PeerViolation, match=r"option_simple_close.*option_shutdown_anysegwit"):
        check_peer_init(OUR_INIT, FeatureSet.of(61))
    check_peer_init(OUR_INIT, FeatureSet.of(27, 61))


def test_a_feature_that_we_require_must_be_offered_by_the_peer():
    ours = OUR_INIT | FeatureSet.of(22)
    with pytest.raises(PeerViolation, match="option_anchors"):
        check_peer_init(ours, FeatureSet.of(0, 8, 12, 14, 44))
    check_peer_init(ours, FeatureSet.of(23))


def test_negotiated_means_both_or_required_by_us():
    assert negotiated(FeatureSet.of(23), FeatureSet.of(22), "option_anchors")
    assert not negotiated(FeatureSet.of(23), FeatureSet.of(12), "option_anchors")
    assert not negotiated(FeatureSet(), FeatureSet.of(23), "option_anchors")
    assert negotiated(FeatureSet.of(12), FeatureSet(), "option_static_remotekey")


def test_channel_types_are_compared_exactly():
    assert ChannelType.parse(bytes.fromhex("1000")) is ChannelType.STATIC_REMOTEKEY
    assert ChannelType.parse(bytes.fromhex("401000")) is ChannelType.ANCHORS
    for other in ("", "00401000", "801000", "c01000", "400000", "2000", "4000401000", "404000401000"):
        assert ChannelType.parse(bytes.fromhex(other)) is None
    assert [member.to_bytes().hex() for member in ChannelType] == [
        "1000",
        "401000",
        "400000001000",
        "400000401000",
        "04000000001000",
        "04000000401000",
        "04400000001000",
        "04400000401000",
    ]


def test_a_channel_type_is_made_of_a_basic_one_and_its_variations():
    """checklist 12: {12} and {12,22}, each with 46 and 50 or not, and nothing else."""
    made = [
        ChannelType.of(anchors=anchors, scid_alias=alias, zeroconf=zeroconf)
        for anchors in (False, True)
        for alias in (False, True)
        for zeroconf in (False, True)
    ]
    assert set(made) == set(ChannelType)
    for kind in ChannelType:
        assert ChannelType.parse(kind.to_bytes()) is kind
        assert ChannelType.of_bits(kind.bits) is kind
        assert (kind.anchors, kind.scid_alias, kind.zeroconf) == tuple(
            bit in kind.bits for bit in (22, 46, 50)
        )
    for bits in ((), (46,), (22,), (12, 23), (12, 22, 44)):
        assert ChannelType.of_bits(bits) is None


def test_a_channel_type_needs_the_features_that_it_names():
    assert ChannelType.STATIC_REMOTEKEY.needs() == ()
    assert ChannelType.ANCHORS_ALIAS_ZEROCONF.needs() == (
        "option_anchors",
        "option_scid_alias",
        "option_zeroconf",
    )


@pytest.mark.parametrize(
    "name",
    [
        "option_upfront_shutdown_script",
        "option_support_large_channel",
        "option_attribution_data",
        "option_provide_storage",
        "option_scid_alias",
        "option_zeroconf",
    ],
)
def test_what_old_peers_lack_is_offered_and_never_required(name):
    """Electrum 4.3.4 leaves for an even bit that it does not know; an odd one changes nothing for it."""
    assert OUR_INIT.has(name)
    assert not OUR_INIT.requires(name)
    old = FeatureSet.of(0, 6, 8, 12, 14, 16, 26, 44)
    assert not negotiated(OUR_INIT, old, name)
    check_peer_init(OUR_INIT, old)


def test_what_invoices_and_the_announcement_say_agrees_with_init():
    """An invoice and the announcement promise nothing that a connection does not, but keysend, which has no place in
    init; and both carry only bits of their own context."""
    assert OUR_INIT.within("9") == OUR_INVOICE
    assert OUR_NODE.within("I") == OUR_INIT.within("N")
    assert OUR_NODE.within("N") == OUR_NODE and 55 in OUR_NODE and 55 not in OUR_INIT
    assert OUR_NODE.missing_dependency() is None and OUR_INVOICE.missing_dependency() is None
    assert 17 in OUR_INVOICE and 17 in OUR_NODE
    assert 37 in OUR_INVOICE and 37 in OUR_NODE and 37 in OUR_INIT
