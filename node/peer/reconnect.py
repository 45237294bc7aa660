"""When to dial a kept peer again: soon at first, then less often, never in step with others (no BOLT says when)."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from protocol.transport import LinkProfile


@dataclass
class _Kept:
    wait: float | None
    """The next wait; None when waiting begins anew."""
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
        self._kept.setdefault(node_id, _Kept(None, now))

    def forget(self, node_id: bytes) -> None:
        self._kept.pop(node_id, None)

    def due(self, now: float) -> list[bytes]:
        return [node_id for node_id, kept in self._kept.items() if kept.due <= now]

    def lost(self, node_id: bytes, now: float, profile: LinkProfile, *, lasted: float = 0.0) -> None:
        """A dial failed, or a connection ended after `lasted` seconds. `profile`: of the road to this peer."""
        kept = self._kept.get(node_id)
        if kept is None:
            return
        wait = kept.wait
        if wait is None or lasted >= profile.steady_after:
            wait = profile.first_reconnect
        kept.due = now + wait * (0.5 + self._random())
        kept.wait = min(2 * wait, profile.longest_reconnect)

    def hurry(self, now: float) -> None:
        """A road is open again: what was waited for in vain is tried again now, and no long waits remain."""
        for kept in self._kept.values():
            kept.wait, kept.due = None, min(kept.due, now)
