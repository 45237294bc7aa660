"""Fees, trimming and dust (BOLT 3, "Fees", "Dust Limits")."""

import pytest

from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bolt3.fees import (
    anchors_cost,
    commit_fee,
    dust_threshold,
    htlc_success_fee,
    htlc_timeout_fee,
    is_trimmed,
    trim_limits,
)

RATE = FeeratePerKw(5_000)


def test_the_example_of_the_specification() -> None:
    """Offered HTLCs of 5000 and 1000 sat, received ones of 7000 and 800, a dust limit of 546 sat. checklist 17"""
    assert htlc_timeout_fee(RATE, False) == 3315
    assert htlc_success_fee(RATE, False) == 3515
    htlcs = [(True, 5_000_000), (True, 1_000_000), (False, 7_000_000), (False, 800_000)]
    trimmed = [is_trimmed(offered, Msat(amount), Sat(546), RATE, False) for offered, amount in htlcs]
    assert trimmed == [False, True, False, True]
    assert commit_fee(RATE, trimmed.count(False), False) == 5340


def test_second_stages_are_free_with_anchors() -> None:
    """checklist 17"""
    assert htlc_timeout_fee(RATE, True) == htlc_success_fee(RATE, True) == 0
    assert trim_limits(Sat(546), RATE, True) == (546_000, 546_000)


def test_commitments_weigh_what_appendix_a_says() -> None:
    """checklist 17"""
    per_weight = FeeratePerKw(1_000)
    assert [commit_fee(per_weight, count, False) for count in (0, 1, 10)] == [724, 896, 2444]
    assert [commit_fee(per_weight, count, True) for count in (0, 1, 10)] == [1124, 1296, 2844]
    assert commit_fee(FeeratePerKw(253), 0, False) == 183  # 183.172, rounded down
    assert (anchors_cost(False), anchors_cost(True)) == (0, 660)


@pytest.mark.parametrize(("offered", "limit"), [(True, 546 + 3315), (False, 546 + 3515)])
def test_an_htlc_at_the_limit_stays_and_one_below_in_whole_satoshis_goes(offered: bool, limit: int) -> None:
    """checklist 17"""
    for amount_msat, trimmed in (
        (1000 * limit, False),
        (1000 * limit + 999, False),
        (1000 * limit - 1, True),
    ):
        assert is_trimmed(offered, Msat(amount_msat), Sat(546), RATE, False) is trimmed


@pytest.mark.parametrize(
    ("script", "threshold"),
    [
        ("76a914" + "00" * 20 + "88ac", 546),
        ("a914" + "00" * 20 + "87", 540),
        ("0014" + "00" * 20, 294),
        ("0020" + "00" * 32, 330),
        ("5120" + "00" * 32, 354),
        ("6028" + "00" * 40, 354),
        ("51024e73", 240),
        ("6a0401020304", 0),
    ],
)
def test_dust_thresholds_are_those_of_the_table(script: str, threshold: int) -> None:
    """checklist 54"""
    assert dust_threshold(bytes.fromhex(script)) == threshold
