"""What the fee reserve must hold (BOLT 3, "Fees"; BOLT 5, "Failing a Channel"; DESIGN, "The fee reserve").

With anchors a commitment pays a low fee, and second stages none: to be mined in time they need coins that are there
when a channel closes at night. Node and signer reckon with the same numbers.

The feerate is 20 sat/vB: what a busy day asks, not the worst hour ever seen; there the fees of a close are bounded by
what it saves, and the node can still add coins of the wallet. Then

* a channel needs one child that lifts its commitment through the anchor: 1,124 + 718 weight units, 9,210 sat;
* an HTLC needs its output, its second stage, and a coin with change to pay for it: 1,274 weight units, 6,370 sat. One
  worth less than that is not worth its fee, so it takes no slot.

All channels do not close in the same hour, and what lies hot should stay small; so the sum is capped. 250,000 sat
close ten channels with about twenty-five HTLCs between them.
"""

from protocol.amounts import FeeratePerKw, Sat
from protocol.bolt3.fees import (
    COMMITMENT_WEIGHT_ANCHORS,
    HTLC_OUTPUT_WEIGHT,
    HTLC_SUCCESS_WEIGHT_ANCHORS,
    INPUT_WEIGHT,
    SEGWIT_MARKER_WEIGHT,
    fee_of_weight,
)

RESERVE_FEERATE = FeeratePerKw(5_000)
MAX_RESERVE = Sat(250_000)
_OUTER_WEIGHT = 4 * 10 + SEGWIT_MARKER_WEIGHT
"""Version, counts and lock time."""
_COIN_WEIGHT = INPUT_WEIGHT + 1 + 73 + 34
_CHANGE_WEIGHT = 4 * 31
_ANCHOR_WEIGHT = INPUT_WEIGHT + 1 + 74 + 41
CHILD_WEIGHT = _OUTER_WEIGHT + _ANCHOR_WEIGHT + _COIN_WEIGHT + _CHANGE_WEIGHT
PER_CHANNEL = fee_of_weight(COMMITMENT_WEIGHT_ANCHORS + CHILD_WEIGHT, RESERVE_FEERATE)
PER_HTLC = fee_of_weight(
    HTLC_OUTPUT_WEIGHT + HTLC_SUCCESS_WEIGHT_ANCHORS + _COIN_WEIGHT + _CHANGE_WEIGHT, RESERVE_FEERATE
)


def takes_slot(amount_msat: int) -> bool:
    """Whether an HTLC in a channel with anchors counts: whether it is worth what its second stage costs."""
    return amount_msat >= 1000 * PER_HTLC


def needed(channels: int, slots: int) -> Sat:
    """For so many channels with anchors, and so many HTLCs in flight in them that count."""
    return Sat(min(MAX_RESERVE, channels * PER_CHANNEL + slots * PER_HTLC))
