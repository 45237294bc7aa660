"""The way of a feerate to its ceiling (BOLT 5; checklist 52)."""

import pytest

from node.onchain.budget import CURVE_BLOCKS, climb
from protocol.amounts import FeeratePerKw

MARKET, TOP = FeeratePerKw(1000), FeeratePerKw(64_000)


def test_the_market_is_followed_until_the_curve_begins() -> None:
    assert climb(MARKET, TOP, CURVE_BLOCKS) == climb(MARKET, TOP, 100) == MARKET


def test_it_climbs_slowly_at_first_and_reaches_the_ceiling_at_the_deadline() -> None:
    rates = [climb(MARKET, TOP, left) for left in range(CURVE_BLOCKS, -1, -1)]
    assert rates == sorted(rates)
    assert rates[3] < 2 * MARKET and rates[6] < 4 * MARKET and rates[-1] == TOP


@pytest.mark.parametrize("left", [-5, 0, 1, 11, 200])
def test_it_never_passes_the_ceiling_whatever_the_market_asks(left: int) -> None:
    assert climb(FeeratePerKw(90_000), TOP, left) == TOP
    assert climb(MARKET, TOP, left) <= TOP


def test_without_a_ceiling_the_market_decides() -> None:
    assert climb(MARKET, None, 0) == MARKET
