"""How long we held each incoming HTLC, which its attribution data tells (BOLT 4; checklist 39)."""

from collections.abc import Callable, Iterable

from protocol.bolt4.attribution import hold_units

Key = tuple[bytes, int]
"""Channel and id of the incoming HTLC."""


class Arrivals:
    """An HTLC that stood before this run has no time unless a row on disk kept it; then it counts as not held, as
    BOLT 4 allows a node that does not know."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at: dict[Key, float | None] = {}

    def stood(self, keys: Iterable[Key]) -> None:
        self._at.update((key, None) for key in keys)

    def was_at(self, key: Key, at: float) -> None:
        if key in self._at:
            self._at[key] = at

    def came(self, key: Key) -> None:
        self._at.setdefault(key, self._clock())

    def held(self, key: Key) -> int:
        """In units of 100 ms; 0 when it is not known."""
        at = self._at.get(key)
        return 0 if at is None else hold_units(self._clock() - at)

    def gone(self, key: Key) -> None:
        self._at.pop(key, None)
