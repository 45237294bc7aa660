"""How much gossip we take: of each peer, and about each channel and node (BOLT 7, "Rebroadcasting")."""

from collections.abc import Hashable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GossipLimits:
    """Every queue and pool of the gossip service ends at one of these."""

    messages_per_second: float = 50.0
    messages_burst: float = 4_000.0
    bytes_per_second: float = 16 * 1024.0
    bytes_burst: float = 2 * 1024 * 1024.0
    """Of one peer, for what we did not ask it for. Mainnet has about 6 messages a second."""
    queue_frames: int = 20_000
    queue_bytes: int = 8 * 1024 * 1024
    """Frames of one peer that wait; what comes on top is dropped, and asked for again by the next sync."""
    chunk: int = 100
    """Frames that are read in one turn of the loop."""
    update_burst: float = 10.0
    updates_per_second: float = 1 / 60
    """Of one direction of a channel, or of one node."""
    rated: int = 20_000
    """Channels whose rate is remembered."""
    chain_questions: int = 16
    """Funding outputs that are looked up at the same time."""
    unknown_updates: int = 2_000
    young_announcements: int = 200
    rejected: int = 20_000
    bad_messages: int = 20
    """Wrong signatures and the like; then the gossip of this connection is not heard any more."""
    questions_per_second: float = 2.0
    questions_burst: float = 200.0
    """Of one peer; a full sync from us takes about a hundred. A question for a range counts five times."""
    staged: int = 20_000
    """Messages that wait for the next flush."""
    outgoing_bytes: int = 2 * 1024 * 1024
    """Relayed gossip that waits for one peer; what comes on top is not sent to it."""
    channels: int = 250_000
    """Five times mainnet. What is announced on top is not taken."""


class Bucket:
    """A budget of one kind that refills with time; `grant` adds what we asked for ourselves."""

    __slots__ = ("_at", "_burst", "_rate", "left")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate, self._burst = rate, burst
        self.left = burst
        self._at = now

    def _refill(self, now: float) -> None:
        if self.left < self._burst:
            self.left = min(self._burst, self.left + max(0.0, now - self._at) * self._rate)
        self._at = now

    def has(self, amount: float, now: float) -> bool:
        self._refill(now)
        return self.left >= amount

    def spend(self, amount: float, now: float) -> bool:
        """Takes nothing when there is not enough."""
        if not self.has(amount, now):
            return False
        self.left -= amount
        return True

    def grant(self, amount: float, now: float) -> None:
        self._refill(now)
        self.left += amount

    def is_full(self, now: float) -> bool:
        self._refill(now)
        return self.left >= self._burst


class Rates:
    """A bucket for each of many things, made when it is first spent from, forgotten when it is full again."""

    def __init__(self, rate: float, burst: float, most: int) -> None:
        self._rate, self._burst, self._most = rate, burst, most
        self._buckets: dict[Hashable, Bucket] = {}

    def __len__(self) -> int:
        return len(self._buckets)

    def allows(self, key: Hashable, now: float) -> bool:
        """Whether `spend` would say yes."""
        bucket = self._buckets.get(key)
        return bucket is None or bucket.has(1.0, now)

    def spend(self, key: Hashable, now: float) -> bool:
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._most:
                self._forget(now)
            bucket = self._buckets[key] = Bucket(self._rate, self._burst, now)
        return bucket.spend(1.0, now)

    def _forget(self, now: float) -> None:
        """Full ones first; if all are in use, the older half: a flood must not take memory without end."""
        kept = {key: bucket for key, bucket in self._buckets.items() if not bucket.is_full(now)}
        if len(kept) >= self._most:
            kept = dict(list(kept.items())[len(kept) // 2 :])
        self._buckets = kept
