"""What the fee reserve must hold."""

from hypothesis import given
from hypothesis import strategies as st

from protocol.bolt3 import fees
from protocol.reserve import (
    CHILD_WEIGHT,
    MAX_RESERVE,
    PER_CHANNEL,
    PER_HTLC,
    RESERVE_FEERATE,
    needed,
    takes_slot,
)

SMALL = st.integers(0, 500)


def test_the_numbers_of_the_docstring() -> None:
    assert (CHILD_WEIGHT, PER_CHANNEL, PER_HTLC, MAX_RESERVE) == (718, 9_210, 6_370, 250_000)
    assert RESERVE_FEERATE == 5_000
    commitment = fees.commit_fee(RESERVE_FEERATE, 0, True)
    assert commitment + fees.fee_of_weight(CHILD_WEIGHT, RESERVE_FEERATE) == PER_CHANNEL


def test_nothing_needs_nothing() -> None:
    assert needed(0, 0) == 0


def test_channels_and_htlcs_add_up_to_the_cap() -> None:
    assert needed(2, 3) == 2 * 9_210 + 3 * 6_370
    assert needed(10, 24) < MAX_RESERVE
    assert needed(10, 25) == needed(500, 500) == MAX_RESERVE


@given(SMALL, SMALL)
def test_more_never_needs_less(channels: int, slots: int) -> None:
    assert needed(channels, slots) <= needed(channels + 1, slots)
    assert needed(channels, slots) <= needed(channels, slots + 1) <= MAX_RESERVE


def test_an_htlc_that_is_not_worth_its_second_stage_takes_no_slot() -> None:
    assert takes_slot(6_370_000)
    assert not takes_slot(6_369_999)
