"""The last events of this run by number, in a ring; who falls behind it is told so (STYLE, section 3)."""

from collections import deque
from collections.abc import Callable

from protocol.bus.messages.events import MAX_PAGE, Event, EventPage, Happening

CAPACITY = 5_000


class Ring:
    def __init__(self, run: bytes, capacity: int = CAPACITY) -> None:
        self.run = run
        self.last = 0
        self._kept: deque[Event] = deque(maxlen=capacity)

    def add(self, time: float, what: Happening) -> Event:
        self.last += 1
        event = Event(self.last, time, what)
        self._kept.append(event)
        return event

    def since(self, run: bytes, seq: int, most: int) -> EventPage:
        """What followed `seq`, oldest first; a gap when some of it is lost, or another run numbered it."""
        other_run = run not in (b"", self.run)
        if other_run or seq > self.last or (seq < self.last and not self._reaches(seq)):
            return EventPage(self.run, (), self.last, gap=True)
        waiting = self.last - seq
        first = len(self._kept) - waiting
        take = max(1, min(most, MAX_PAGE))
        found = tuple(self._kept[index] for index in range(first, min(first + take, len(self._kept))))
        return EventPage(self.run, found, found[-1].seq if found else self.last)

    def newest(self, wanted: Callable[[Event], bool], most: int) -> tuple[Event, ...]:
        """Of those that are wanted, oldest first."""
        found: list[Event] = []
        for event in reversed(self._kept):
            if wanted(event):
                found.append(event)
                if len(found) == most:
                    break
        return tuple(reversed(found))

    def _reaches(self, seq: int) -> bool:
        return seq >= 0 and bool(self._kept) and self._kept[0].seq <= seq + 1
