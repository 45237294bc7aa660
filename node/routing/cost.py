"""What a path costs beside its fees: the chance that it fails, and the time that money is locked.

The chance comes from a deliberately simple model. Of a channel we know nothing of, every split of its capacity
between the two ends is equally likely, so an HTLC of `amount` fits with (capacity + 1 - amount) / (capacity + 1).
What attempts teach narrows that range from below or above (see `liquidity`), and inside the range all splits stay
equally likely. Channels with all money on one side are more common than this says; after one failure the bounds
say so more clearly than a refined prior would. Chances multiply along a path, so their logarithms add up, and
that makes them a cost that a shortest-path search can use.
"""

from math import log

from msgspec import Struct

HALF_LIFE = 6 * 3600.0
"""Seconds in which half of what we learned is forgotten: balances move."""
MIN_CHANCE = 0.02
"""Below this a channel is not tried at all; after a failure that lasts for minutes, not days."""
NO_BOUND = 1 << 63

Note = tuple[int, int, float, int]
"""What is known of a direction: (at least, less than, when, in flight), in msat and seconds."""


class CostParameters(Struct, frozen=True):
    """In msat, so that all add up to the fees. All zero asks for the lowest fees and nothing else.

    `attempt_cost_msat`, `attempt_cost_ppm`: what a failed attempt is worth to us, for itself and for the amount
    it carries; a path with chance p costs -ln(p) times that. `delay_cost_ppb`: for each block that the amount may
    be locked, in billionths of it (50 are a quarter of a percent in a year). `hop_failure`: the chance that a hop
    fails for reasons that have nothing to do with amounts.
    """

    attempt_cost_msat: int = 10_000
    attempt_cost_ppm: int = 500
    delay_cost_ppb: int = 50
    hop_failure: float = 0.003

    @property
    def fees_only(self) -> bool:
        return not (
            self.attempt_cost_msat or self.attempt_cost_ppm or self.delay_cost_ppb or self.hop_failure
        )

    def weight(self, amount: int) -> float:
        """What one unit of -ln(chance) costs in a payment of this amount."""
        return self.attempt_cost_msat + amount * self.attempt_cost_ppm / 1e6

    def per_hop(self, amount: int) -> float:
        return self.weight(amount) * -log(1 - self.hop_failure)

    def per_block(self, amount: int) -> float:
        return amount * self.delay_cost_ppb / 1e9


FEES_ONLY = CostParameters(0, 0, 0, 0.0)


def fading(when: float, now: float, half_life: float = HALF_LIFE) -> float:
    """How much of what was learned then still counts, from 1 down to 0."""
    age = now - when
    return 1.0 if age <= 0 else 2.0 ** (-age / half_life)


def is_taught(note: Note) -> bool:
    """Whether attempts taught us something of it: what is only in flight there makes no channel worth leaving out."""
    return note[0] > 0 or note[1] < NO_BOUND


def chance(note: Note | None, amount: int, room: int, now: float) -> float:
    """The chance that a direction carries this amount more; `room` is its capacity and one."""
    if note is None:
        return (room - amount) / room if amount < room else 0.0
    at_least, less_than, when, in_flight = note
    wanted = amount + in_flight
    kept = fading(when, now)
    low = at_least * kept
    if wanted <= low:
        return 1.0
    high = float(room) if less_than >= room else room - (room - less_than) * kept
    if wanted >= high:
        return 0.0
    return (high - wanted) / (high - low) if high > low else 0.0
