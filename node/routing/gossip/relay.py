"""Passing gossip on: none before the peer's filter, together once a minute, announcements before what hangs on them
(BOLT 7, "Rebroadcasting" and "The `gossip_timestamp_filter` Message"; checklist 59)."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from protocol.wire.bolt7_gossip import GossipTimestampFilter

FLUSH_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Filter:
    """What a peer wants to hear: timestamps from `first` up to, but not with, `end`."""

    first: int
    end: int

    @classmethod
    def of(cls, message: GossipTimestampFilter) -> "Filter":
        return cls(message.first_timestamp, message.first_timestamp + message.timestamp_range)

    def lets(self, timestamp: int) -> bool:
        return self.first <= timestamp < self.end


@dataclass(frozen=True, slots=True)
class Staged:
    timestamp: int
    frame: bytes
    source: bytes
    """Who told us; it need not hear it again."""


@dataclass(slots=True)
class Batch:
    """What one flush sends, in the order in which it is sent."""

    channels: dict[int, Staged] = field(default_factory=dict)
    updates: dict[tuple[int, int], Staged] = field(default_factory=dict)
    nodes: dict[bytes, Staged] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.channels) + len(self.updates) + len(self.nodes)

    def for_peer(self, node_id: bytes, wanted: Filter | None) -> Iterator[bytes]:
        if wanted is None:
            return
        for part in (self.channels, self.updates, self.nodes):
            for staged in part.values():
                if staged.source != node_id and wanted.lets(staged.timestamp):
                    yield staged.frame


class Relay:
    """`leaf`: nothing of others is passed on at all."""

    def __init__(self, *, leaf: bool, most: int) -> None:
        self._leaf = leaf
        self._most = most
        self._staged = Batch()
        self._without_update: dict[int, Staged] = {}

    def __len__(self) -> int:
        return len(self._staged)

    def channel(self, scid: int, frame: bytes, source: bytes) -> None:
        """An announcement is told when its first update is: before, nobody could use it."""
        if self._leaf:
            return
        if len(self._without_update) >= self._most:
            del self._without_update[next(iter(self._without_update))]
        self._without_update[scid] = Staged(0, frame, source)

    def update(self, scid: int, direction: int, timestamp: int, frame: bytes, source: bytes) -> None:
        announced = self._without_update.pop(scid, None)
        if self._leaf or self._is_full():
            return
        if announced is not None:
            self._staged.channels[scid] = Staged(timestamp, announced.frame, announced.source)
        self._staged.updates[(scid, direction)] = Staged(timestamp, frame, source)

    def node(self, node_id: bytes, timestamp: int, frame: bytes, source: bytes) -> None:
        if not self._leaf and not self._is_full():
            self._staged.nodes[node_id] = Staged(timestamp, frame, source)

    def _is_full(self) -> bool:
        """What does not fit is not told by us; peers have others, and may ask."""
        return len(self._staged) >= self._most

    def forget(self, scid: int) -> None:
        """Its output is spent."""
        self._without_update.pop(scid, None)
        self._staged.channels.pop(scid, None)

    def take(self) -> Batch:
        """All that gathered since the last flush."""
        batch, self._staged = self._staged, Batch()
        return batch
