"""When to dial a kept peer again: soon at first, then less often, never in step with others (no BOLT says when)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

FIRST_WAIT = 1.0
LONGEST_WAIT = 300.0
STEADY_AFTER = 60.0
"""A connection that lasted so long was a good one, and waiting begins anew."""


@dataclass
class _Kept:
    wait: float
    due: float


class Reconnects:
    """The peers that are kept. The caller gives the time and a random number from [0, 1)."""

    def __init__(self, random: Callable[[], float]) -> None:
        self._random = random
        self._kept: dict[bytes, _Kept] = {}

    def __contains__(self, node_id: bytes) -> bool:
        return node_id in self._kept

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._kept)

    def keep(self, node_id: bytes, now: float) -> None:
        self._kept.setdefault(node_id, _Kept(FIRST_WAIT, now))

    def forget(self, node_id: bytes) -> None:
        self._kept.pop(node_id, None)

    def due(self, now: float) -> list[bytes]:
        return [node_id for node_id, kept in self._kept.items() if kept.due <= now]

    def lost(self, node_id: bytes, now: float, *, lasted: float = 0.0) -> None:
        """A dial failed, or a connection ended after `lasted` seconds."""
        kept = self._kept.get(node_id)
        if kept is None:
            return
        if lasted >= STEADY_AFTER:
            kept.wait = FIRST_WAIT
        kept.due = now + kept.wait * (0.5 + self._random())
        kept.wait = min(2 * kept.wait, LONGEST_WAIT)
