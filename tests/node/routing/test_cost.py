"""Chances and costs: the simple model, by its own sentences."""

from math import isclose, log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.routing.cost import FEES_ONLY, HALF_LIFE, NO_BOUND, CostParameters, chance, fading

ROOM = 1_000_001


def test_of_an_unknown_channel_every_split_is_equally_likely():
    assert isclose(chance(None, 250_000, ROOM, 0.0), 0.75, rel_tol=1e-5)
    assert 0 < chance(None, 1_000_000, ROOM, 0.0) < 1e-5
    assert chance(None, 1_000_001, ROOM, 0.0) == 0.0


def test_what_passed_passes_again_and_what_failed_fails_again():
    note = (300_000, 500_000, 10.0, 0)
    assert chance(note, 300_000, ROOM, 10.0) == 1.0
    assert chance(note, 500_000, ROOM, 10.0) == 0.0
    assert isclose(chance(note, 400_000, ROOM, 10.0), 0.5)


def test_what_is_in_flight_counts_as_wanted_too():
    assert chance((300_000, 500_000, 10.0, 100_000), 400_000, ROOM, 10.0) == 0.0
    assert chance((300_000, 500_000, 10.0, 100_000), 200_000, ROOM, 10.0) == 1.0


def test_bounds_fade_to_what_we_knew_before():
    note = (300_000, 500_000, 0.0, 0)
    assert isclose(chance(note, 400_000, ROOM, HALF_LIFE), (750_000.5 - 400_000) / (750_000.5 - 150_000))
    assert isclose(
        chance(note, 400_000, ROOM, 100 * HALF_LIFE), chance(None, 400_000, ROOM, 0.0), rel_tol=1e-6
    )
    assert fading(0.0, HALF_LIFE) == 0.5 and fading(10.0, 0.0) == 1.0


@given(
    st.integers(0, 10**9),
    st.integers(1, 10**9),
    st.integers(0, 10**8),
    st.integers(0, 10**9),
    st.integers(1, 10**9),
    st.floats(0, 1e7),
)
def test_a_chance_is_one_and_falls_with_the_amount(
    low: int, width: int, flying: int, amount: int, room: int, age: float
):
    note = (low, low + width, 0.0, flying)
    one, more = chance(note, amount, room, age), chance(note, amount + 1, room, age)
    assert 0.0 <= more <= one <= 1.0


def test_the_cost_of_an_attempt_grows_with_the_amount():
    costs = CostParameters(
        attempt_cost_msat=10_000, attempt_cost_ppm=500, delay_cost_ppb=50, hop_failure=0.01
    )
    assert costs.weight(1_000_000_000) == 10_000 + 500_000
    assert isclose(costs.per_hop(0), -10_000 * log(0.99))
    assert isclose(costs.per_block(1_000_000_000), 50)
    assert not costs.fees_only and FEES_ONLY.fees_only


@pytest.mark.parametrize("field", ["attempt_cost_msat", "attempt_cost_ppm", "delay_cost_ppb", "hop_failure"])
def test_fees_only_means_nothing_else_counts(field: str):
    nothing = {"attempt_cost_msat": 0, "attempt_cost_ppm": 0, "delay_cost_ppb": 0, "hop_failure": 0.0}
    assert not CostParameters(**{**nothing, field: 1 if field != "hop_failure" else 0.1}).fees_only


def test_no_bound_is_above_any_channel():
    assert NO_BOUND > 21_000_000 * 10**11
