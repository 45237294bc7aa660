"""How much a peer may cost us: budgets that refill with time, and the sizes at which patience ends."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """Bounds on one peer and on all who have not said who they are."""

    half_open: int = 64
    """Connections in their handshake; when one more comes in, the oldest of those that came in goes."""
    peers: int = 1000
    """Beyond this only peers with channels get in; those whom we dial always do."""
    redials: int = 16
    """How many lost peers are dialled at the same time; Tor lets no more than 32 circuits wait."""
    unread_bytes: int = 16 * 1024 * 1024
    """A peer that lets more than this wait for it is dropped."""
    receive_bytes_per_second: int = 8 * 1024 * 1024
    """Beyond this we read no further for a moment, so that the peer waits. About 4000 payments a second."""
    receive_burst: int = 32 * 1024 * 1024
    gossip_bytes_per_second: int = 1024 * 1024
    """Beyond this gossip is dropped, and the connection goes on. A full sync from one peer has 40 MB, as fast as we
    ask for it."""
    gossip_burst: int = 64 * 1024 * 1024
    flood_bytes_per_second: int = 64 * 1024 * 1024
    """Of everything: decrypting what is dropped costs too, and the other peers have to get their turn."""
    flood_burst: int = 256 * 1024 * 1024
    answers_per_second: float = 2.0
    """Pings and gossip queries that we answer."""
    answers_burst: int = 60


USUAL_LIMITS = PeerLimits()


class Budget:
    """Refills at `rate` a second up to `burst`. The caller gives the time, in seconds of any steady clock."""

    __slots__ = ("_at", "_burst", "_left", "_rate")

    def __init__(self, *, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = now

    def spend(self, amount: float, now: float) -> bool:
        """Takes the amount in any case; False when that was more than there was."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - amount
        self._at = now
        return self._left >= 0

    def take(self, amount: float, now: float) -> bool:
        """Takes nothing when there is not enough: what is dropped is not owed."""
        if self.is_overdrawn(now) or self._left < amount:
            return False
        self._left -= amount
        return True

    def is_overdrawn(self, now: float) -> bool:
        return not self.spend(0, now)
