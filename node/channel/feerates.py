"""Which feerate our commitments should have, and which of the peer's we take (BOLT 2, "Updating Fees";
checklist 22)."""

from protocol.amounts import FEERATE_CEILING, FEERATE_FLOOR, FeeratePerKw

HIGH = FeeratePerKw(100_000)
"""Below this a feerate is never called unreasonable: peers use 45,000 on regtest."""
TOO_LOW, TOO_HIGH = 10, 20
"""So many times below or above our own estimate. Estimates differ; only what nobody can mean is refused."""
RISE, FALL = 1.3, 0.6
"""A move inside these bounds is not worth a round of the dance."""
ANCHOR_MOST = FeeratePerKw(2500)
"""With anchors a commitment only has to enter the mempool; its anchor pays the rest when it must."""


def wanted(
    estimate: FeeratePerKw, *, anchors: bool, mempool_minimum: FeeratePerKw = FEERATE_FLOOR
) -> FeeratePerKw:
    """For our commitments: low with anchors, with a margin without, as those must confirm as they are."""
    rate = min(estimate, ANCHOR_MOST) if anchors else estimate * 3 // 2
    return FeeratePerKw(min(FEERATE_CEILING, max(rate, FEERATE_FLOOR, mempool_minimum)))


def is_worth_a_round(now: FeeratePerKw, then: FeeratePerKw) -> bool:
    """Hysteresis, except to come up to the floor."""
    if now == then:
        return False
    return now < FEERATE_FLOOR or then > now * RISE or then < now * FALL


def objection(rate: FeeratePerKw, estimate: FeeratePerKw, *, anchors: bool, at_risk: bool) -> str | None:
    """Why we do not take the opener's feerate; None if we do.

    `at_risk`: HTLCs stand. Without them a disagreement costs us nothing: a commitment that confirms late is no loss.
    """
    if not FEERATE_FLOOR <= rate <= FEERATE_CEILING:
        return f"a feerate of {rate} sat/kw is out of all bounds"
    if not at_risk:
        return None
    if not anchors and rate < estimate // TOO_LOW:
        return f"a feerate of {rate} sat/kw is too low for the HTLCs that stand; we see {estimate}"
    if rate > max(HIGH, estimate * TOO_HIGH):
        return f"a feerate of {rate} sat/kw is unreasonably high; we see {estimate}"
    return None
