"""What a transaction must pay to stay in a full mempool (Bitcoin Core's rolling minimum, "mempool min fee").

A test may set the floor by hand, as if strangers had filled the mempool; or make the mempool small.
"""

from collections.abc import Iterable

from node.chain.regtest import policy

DEFAULT_MAX_VSIZE = 60_000_000
HALF = 2


class FeeMarket:
    def __init__(self) -> None:
        self.floor = 0
        """Set by hand, in sat per 1000 virtual bytes: what others pay."""
        self.rolling = 0
        """What was pushed out last paid less than this; it sinks with each block."""
        self.max_vsize = DEFAULT_MAX_VSIZE

    @property
    def minimum(self) -> int:
        """The mempool's own minimum, beside the fixed one of relay; 0 while there is room."""
        return max(self.floor, self.rolling)

    @property
    def shown(self) -> int:
        """As getmempoolinfo shows it."""
        return max(self.minimum, policy.MIN_RELAY_FEE_PER_KVB)

    def pushed_out(self, fee: int, vsize: int) -> None:
        self.rolling = max(self.rolling, fee * 1000 // vsize + policy.INCREMENTAL_FEE_PER_KVB)

    def block_came(self) -> None:
        """Core lets it sink by the clock; here a block is the clock."""
        self.rolling //= HALF
        if self.rolling < policy.INCREMENTAL_FEE_PER_KVB // HALF:
            self.rolling = 0


def score(own: tuple[int, int], with_descendants: Iterable[tuple[int, int]]) -> tuple[int, int]:
    """(fee, vsize) by which an entry is judged for eviction: alone, or with what its children add, if that is more."""
    pairs = list(with_descendants)
    fee, vsize = sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
    return own if own[0] * vsize > fee * own[1] else (fee, vsize)
