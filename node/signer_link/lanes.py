"""Round trips to the signer by kind of question, and what it refused, for people (DESIGN, "The signer contract")."""

import time
from collections import deque
from collections.abc import Callable

from protocol.bus.messages.events import LaneRow, RefusalRow
from protocol.bus.messages.signer import (
    ChannelRequest,
    MakeInvoice,
    PeelOnions,
    Refused,
    Reply,
    Request,
    SignMessage,
    StaticKeyStep,
)

LANES: dict[type, str] = {
    ChannelRequest: "commitments",
    PeelOnions: "onions",
    StaticKeyStep: "handshakes",
    MakeInvoice: "invoices",
    SignMessage: "texts",
}
OTHER = "the rest"
REFUSALS_KEPT = 20


class _Lane:
    __slots__ = ("answered", "last", "total", "worst")

    def __init__(self) -> None:
        self.answered = 0
        self.last = self.total = self.worst = 0.0


class LaneBook:
    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lanes: dict[str, _Lane] = {}
        self._refusals: deque[RefusalRow] = deque(maxlen=REFUSALS_KEPT)
        self.refused = 0

    def answered(self, lane: str, seconds: float, reply: Reply) -> None:
        """One addition a lane: this runs for each commitment of each payment."""
        entry = self._lanes.get(lane)
        if entry is None:
            entry = self._lanes[lane] = _Lane()
        entry.answered += 1
        entry.last = seconds
        entry.total += seconds
        entry.worst = max(entry.worst, seconds)
        if isinstance(reply, Refused):
            self.refused += 1
            self._refusals.append(RefusalRow(self._clock(), reply.tag, reply.rule, reply.next_step))

    def rows(self) -> tuple[LaneRow, ...]:
        return tuple(
            LaneRow(
                name,
                lane.answered,
                round(lane.last * 1000, 2),
                round(lane.total / lane.answered * 1000, 2),
                round(lane.worst * 1000, 2),
            )
            for name, lane in sorted(self._lanes.items())
        )

    def refusals(self) -> tuple[RefusalRow, ...]:
        return tuple(self._refusals)


def lane_of(request: Request) -> str:
    return LANES.get(type(request), OTHER)
