"""Which peers we listen to, and how far back each is asked (BOLT 7, "Query Messages"): few at a time, in turn.

Every peer tells the same; ten of them would cost ten times the traffic and teach nothing. A rotation keeps one peer
that tells less than it knows from being our only source.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass

from node.routing.gossip.peers import GossipPeer

ACTIVE = 3
ROTATE_SECONDS = 20 * 60.0
FULL_SYNCS = 2
"""So many peers are asked for everything after a start; then what is recent is enough, for a while."""
FULL_AGAIN_SECONDS = 6 * 3600.0
RECENT_BLOCKS = 1_008
OVERLAP_SECONDS = 600


@dataclass(frozen=True, slots=True)
class Change:
    """What to do about one peer: listen and ask, or listen no more."""

    peer: GossipPeer
    listen: bool


class Syncers:
    """`random`: a number from [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._rotated = 0.0
        self._full = 0
        self._last_full = 0.0

    def changes(self, peers: Collection[GossipPeer], now: float) -> list[Change]:
        able = [peer for peer in peers if peer.sync is not None and not peer.muted]
        active = [peer for peer in able if peer.active]
        idle = [peer for peer in able if not peer.active]
        found: list[Change] = []
        if len(active) >= ACTIVE and idle and now - self._rotated >= ROTATE_SECONDS:
            self._rotated = now
            oldest = min(active, key=lambda peer: peer.active_since)
            active.remove(oldest)
            found.append(Change(oldest, False))
        while idle and len(active) < ACTIVE:
            peer = idle.pop(int(self._random() * len(idle)))
            active.append(peer)
            found.append(Change(peer, True))
        return found

    def first_block(self, tip: int, now: float) -> int:
        """From where the next peer is asked."""
        if self._full < FULL_SYNCS or now - self._last_full >= FULL_AGAIN_SECONDS:
            return 0
        return max(0, tip - RECENT_BLOCKS)

    def finished(self, first_block: int, now: float) -> None:
        if first_block == 0:
            self._full += 1
            self._last_full = now

    @property
    def ever_synced(self) -> bool:
        return self._full > 0
