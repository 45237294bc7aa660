"""The policy of feerates (BOLT 2, "Updating Fees"; checklist 22)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from node.channel import feerates
from node.channel.events import FeerateMoved, FromPeer
from node.channel.state import Offline, Online
from protocol.amounts import FEERATE_CEILING, FEERATE_FLOOR, FeeratePerKw
from protocol.wire.bolt2_update import UpdateFee
from tests.node.channel.pair import Pair, open_channel
from tests.node.channel.test_dance import mirrored, offer

RATES = st.integers(0, 2_000_000).map(FeeratePerKw)


@given(RATES, RATES, st.booleans())
def test_what_we_propose_is_never_below_the_floor_nor_above_the_ceiling(
    estimate: FeeratePerKw, minimum: FeeratePerKw, anchors: bool
) -> None:
    """checklist 22"""
    rate = feerates.wanted(estimate, anchors=anchors, mempool_minimum=minimum)
    assert FEERATE_FLOOR <= rate <= FEERATE_CEILING


def test_the_minimum_of_the_mempool_is_a_floor() -> None:
    """checklist 22: also above what an anchor would have to pay for."""
    assert feerates.wanted(FeeratePerKw(300), anchors=True, mempool_minimum=FeeratePerKw(900)) == 900
    assert feerates.wanted(FeeratePerKw(9000), anchors=True, mempool_minimum=FeeratePerKw(4000)) == 4000


def test_with_anchors_we_aim_low_and_without_we_keep_a_margin() -> None:
    """checklist 22"""
    assert feerates.wanted(FeeratePerKw(40_000), anchors=True) == 2500
    assert feerates.wanted(FeeratePerKw(40_000), anchors=False) == 60_000


@pytest.mark.parametrize(
    ("now", "then", "worth"),
    [
        (1000, 1000, False),
        (1000, 1200, False),
        (1000, 1301, True),
        (1000, 700, False),
        (1000, 599, True),
        (200, 253, True),
    ],
)
def test_a_small_move_is_not_worth_a_round(now: int, then: int, worth: bool) -> None:
    """checklist 22"""
    assert feerates.is_worth_a_round(FeeratePerKw(now), FeeratePerKw(then)) is worth


@pytest.mark.parametrize(
    ("rate", "anchors", "at_risk", "taken"),
    [
        (253, False, False, True),
        (253, True, True, True),
        (253, False, True, False),
        (1000, False, True, True),
        (252, False, False, False),
        (100_000, False, True, True),
        (200_001, False, True, False),
        (200_001, False, False, True),
        (500_001, True, False, False),
    ],
)
def test_a_disagreement_matters_only_while_htlcs_stand(
    rate: int, anchors: bool, at_risk: bool, taken: bool
) -> None:
    """checklist 22: our estimate is 10,000 sat/kw."""
    found = feerates.objection(FeeratePerKw(rate), FeeratePerKw(10_000), anchors=anchors, at_risk=at_risk)
    assert (found is None) is taken


def quiet_pair(folder: Path, *, anchors: bool = False) -> Pair:
    pair = Pair(folder)
    open_channel(pair, push=3_000_000_000, anchors=anchors)
    return pair


def low_fee(pair: Pair) -> UpdateFee:
    return UpdateFee(pair.bob.state.committed.params.channel_id, FeeratePerKw(300))


def test_a_low_feerate_is_taken_while_nothing_is_at_risk(tmp_path: Path) -> None:
    """checklist 22: it never closes a channel."""
    pair = quiet_pair(tmp_path)
    pair.bob.env = replace(pair.bob.env, feerate_per_kw=FeeratePerKw(10_000))
    pair.alice.do(FeerateMoved(FeeratePerKw(300)))
    pair.quiet()
    assert not pair.bob.drops
    assert pair.bob.state.committed.fees[-1].feerate_per_kw == 300
    mirrored(pair)


def test_a_low_feerate_while_htlcs_stand_costs_the_connection(tmp_path: Path) -> None:
    """checklist 22: a warning, and the channel stays as it was."""
    pair = quiet_pair(tmp_path)
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    pair.bob.env = replace(pair.bob.env, feerate_per_kw=FeeratePerKw(10_000))
    pair.bob.do(FromPeer(low_fee(pair)))
    assert isinstance(pair.bob.state.volatile.link, Offline)
    assert "too low" in pair.bob.drops[-1].reason
    assert not pair.bob.published


def test_with_anchors_a_low_feerate_is_taken_all_the_same(tmp_path: Path) -> None:
    pair = quiet_pair(tmp_path, anchors=True)
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    pair.bob.env = replace(pair.bob.env, feerate_per_kw=FeeratePerKw(10_000))
    pair.bob.do(FromPeer(low_fee(pair)))
    assert isinstance(pair.bob.state.volatile.link, Online)


def test_only_the_opener_proposes(tmp_path: Path) -> None:
    """checklist 22"""
    pair = quiet_pair(tmp_path)
    pair.bob.do(FeerateMoved(FeeratePerKw(2000)))
    assert not pair.bob.asks
    pair.alice.do(FromPeer(low_fee(pair)))
    assert "did not open" in pair.alice.drops[-1].reason
