"""What attempts taught us: bounds of the liquidity in a direction, what is in flight, and nodes that fail.

Pure: time arrives as an argument, and what is to be kept leaves as rows. An attempt that came past a channel
showed that it can carry the amount; one that failed there for lack of liquidity showed that it cannot. Both fade
(`cost.fading`). When a payment succeeds, its amount has moved to the other side, and both directions' bounds move
along. Losing all of this costs a few failed attempts.
"""

from collections.abc import Callable, Iterable

from node.routing.cost import NO_BOUND, Note, fading
from protocol.bolt4.failure import NODE, PERM, FailureCode
from protocol.bus.messages.routing import RouteHop

FAILING_NODE = 0.3
"""The chance that a node works after it said that it has a passing problem."""
BROKEN_NODE = 0.01
SUSPECT_NODE = 0.8
"""For each node of a path on which nobody owned up to the failure, or for those that attribution data names."""
FORGOTTEN = 0.02
"""What fades below this is dropped."""
MOST_ENTRIES = 50_000

_ABOUT_LIQUIDITY = (FailureCode.TEMPORARY_CHANNEL_FAILURE,)
_ABOUT_TERMS = (
    FailureCode.FEE_INSUFFICIENT,
    FailureCode.INCORRECT_CLTV_EXPIRY,
    FailureCode.AMOUNT_BELOW_MINIMUM,
    FailureCode.EXPIRY_TOO_SOON,
)
"""These say nothing of liquidity or health: the next attempt of the same payment uses the terms they bring."""

ScoreRow = tuple[int, int, int, float]
"""(key, at least, less than, when)"""
NodeRow = tuple[bytes, float, float]
"""(node id, chance, when)"""


class Liquidity:
    """`notes` may be copied by a worker thread: its values are never changed, only replaced."""

    def __init__(self) -> None:
        self._bounds: dict[int, Note] = {}
        self._in_flight: dict[int, int] = {}
        self._running: dict[str, tuple[RouteHop, ...]] = {}
        self._nodes: dict[bytes, tuple[float, float]] = {}
        self._changed: set[int] = set()
        self._changed_nodes: set[bytes] = set()

    # What happens.

    def started(self, origin: str, hops: tuple[RouteHop, ...]) -> None:
        if origin in self._running:
            return
        self._running[origin] = hops
        for hop in hops[1:]:
            key = _key(hop)
            self._in_flight[key] = self._in_flight.get(key, 0) + hop.amount_msat

    def ended(
        self,
        origin: str,
        failed_at: int | None,
        code: int | None,
        now: float,
        room_of: Callable[[int], int | None],
        suspects: tuple[int, int] | None = None,
    ) -> tuple[RouteHop, ...]:
        """The hops of the attempt, or none when it was not known. Our own channels (hop 0) teach nothing."""
        hops = self._running.pop(origin, ())
        for hop in hops[1:]:
            self._land(hop)
        if not hops:
            return hops
        if failed_at is None:
            for hop in hops[1:]:
                self._moved(hop, now, room_of(_key(hop)))
            return hops
        if failed_at < 0:
            # Not the payee: a payment cannot go round it.
            for hop in hops[:-1] if suspects is None else hops[:-1][suspects[0] : suspects[1]]:
                self._suspect(hop.node_id, SUSPECT_NODE, now)
            return hops
        for hop in hops[1:failed_at]:
            self._carried(hop, now)
        if code is not None and 0 < failed_at < len(hops):
            self._failed(hops[failed_at], hops[failed_at - 1].node_id, code, now)
        return hops

    def _failed(self, hop: RouteHop, node_id: bytes, code: int, now: float) -> None:
        """The node before this hop said that it cannot pass the HTLC on."""
        if code in _ABOUT_TERMS:
            return
        if code & NODE or code == FailureCode.EXPIRY_TOO_FAR:
            self._suspect(node_id, BROKEN_NODE if code & PERM else FAILING_NODE, now)
        elif code in _ABOUT_LIQUIDITY:
            self._refused(hop, now)
        elif code in (FailureCode.INVALID_ONION_PAYLOAD, FailureCode.REQUIRED_CHANNEL_FEATURE_MISSING):
            self._suspect(node_id, BROKEN_NODE, now)
        else:  # disabled, gone, unknown peer, and what future codes may bring: not this way
            self._set(_key(hop), 0, 1, now)

    def _land(self, hop: RouteHop) -> None:
        key = _key(hop)
        left = self._in_flight.get(key, 0) - hop.amount_msat
        if left > 0:
            self._in_flight[key] = left
        else:
            self._in_flight.pop(key, None)

    # What is learned. Bounds count the whole balance, with what is in flight.

    def _carried(self, hop: RouteHop, now: float) -> None:
        key = _key(hop)
        low, high = self._now(key, now)
        amount = hop.amount_msat + self._in_flight.get(key, 0)
        self._set(key, max(low, amount), high if high > amount else NO_BOUND, now)

    def _refused(self, hop: RouteHop, now: float) -> None:
        key = _key(hop)
        low, high = self._now(key, now)
        amount = hop.amount_msat + self._in_flight.get(key, 0)
        self._set(key, low if low < amount else 0, min(high, amount), now)

    def _moved(self, hop: RouteHop, now: float, room: int | None) -> None:
        key, amount = _key(hop), hop.amount_msat
        low, high = self._now(key, now)
        low = max(low, amount)
        high = high if high > low else NO_BOUND
        self._set(key, low - amount, high - amount if high < NO_BOUND else (room or NO_BOUND) - amount, now)
        low, high = self._now(key ^ 1, now)
        high = high + amount if high < NO_BOUND else NO_BOUND
        self._set(key ^ 1, low + amount if room is None else min(low + amount, room - 1), high, now)

    def _now(self, key: int, now: float) -> tuple[int, int]:
        """The bounds as they have faded; an upper one fades by its own distance, for want of the capacity."""
        note = self._bounds.get(key)
        if note is None:
            return 0, NO_BOUND
        kept = fading(note[2], now)
        high = note[1]
        if high < NO_BOUND:
            high = int(high / kept) if kept > FORGOTTEN else NO_BOUND
        return int(note[0] * kept), high

    def _set(self, key: int, at_least: int, less_than: int, now: float) -> None:
        self._bounds[key] = (max(0, at_least), max(1, less_than), now, 0)
        self._changed.add(key)

    def _suspect(self, node_id: bytes, works: float, now: float) -> None:
        self._nodes[node_id] = (works * self.node_chance(node_id, now), now)
        self._changed_nodes.add(node_id)

    # What searches ask.

    def notes(self) -> dict[int, Note]:
        """A copy, with what is in flight."""
        found = dict(self._bounds)
        for key, amount in list(self._in_flight.items()):
            low, high, when, _ = found.get(key, (0, NO_BOUND, 0.0, 0))
            found[key] = (low, high, when, amount)
        return found

    def suspects(self, now: float) -> list[tuple[bytes, float]]:
        """Nodes of which we expect less than from others, each with the chance that it works."""
        return [(node_id, self.node_chance(node_id, now)) for node_id in list(self._nodes)]

    def node_chance(self, node_id: bytes, now: float) -> float:
        found = self._nodes.get(node_id)
        return 1.0 if found is None else 1 - (1 - found[0]) * fading(found[1], now)

    def running(self) -> Iterable[str]:
        return self._running.keys()

    def __len__(self) -> int:
        return len(self._bounds)

    # What is kept on disk.

    def restore(self, scores: Iterable[ScoreRow], nodes: Iterable[NodeRow]) -> None:
        for key, at_least, less_than, when in scores:
            self._bounds[key] = (at_least, NO_BOUND if less_than < 0 else less_than, when, 0)
        for node_id, works, when in nodes:
            self._nodes[node_id] = (works, when)

    def take_changes(self) -> tuple[list[ScoreRow], list[NodeRow]]:
        """Rows that changed since the last call. No upper bound is written as -1."""
        scores = [
            (key, note[0], note[1] if note[1] < NO_BOUND else -1, note[2])
            for key in self._changed
            if (note := self._bounds.get(key)) is not None
        ]
        nodes = [(key, *found) for key in self._changed_nodes if (found := self._nodes.get(key)) is not None]
        self._changed.clear()
        self._changed_nodes.clear()
        return scores, nodes

    def prune(self, now: float) -> tuple[list[int], list[bytes]]:
        """Drops what has faded, and the oldest when there is too much. Returns what was dropped."""
        stale = [key for key, note in self._bounds.items() if fading(note[2], now) < FORGOTTEN]
        excess = len(self._bounds) - len(stale) - MOST_ENTRIES
        if excess > 0:
            gone = set(stale)
            by_age = sorted((note[2], key) for key, note in self._bounds.items() if key not in gone)
            stale += [key for _, key in by_age[:excess]]
        for key in stale:
            del self._bounds[key]
        nodes = [node_id for node_id, found in self._nodes.items() if fading(found[1], now) < FORGOTTEN]
        for node_id in nodes:
            del self._nodes[node_id]
        return stale, nodes


def _key(hop: RouteHop) -> int:
    return hop.short_channel_id << 1 | hop.direction
