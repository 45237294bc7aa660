"""A link and its session, joined: bytes in, events out, one write a turn, and bounds on what may wait."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import structlog

from node.peer.events import Event
from node.peer.limits import Budget, PeerLimits
from node.peer.session import Session
from protocol.transport import Link, LinkClosed, LinkProfile

log = structlog.get_logger()
_WATCH_FROM = 64 * 1024
"""Bytes waiting from which it is worth a task to see whether the peer takes them."""

_GOSSIP_AT_ONCE = 32 * 1024
"""Gossip between two waits for the link: what a channel message may have to stand behind."""

OnEvent = Callable[["Connection", Event], None]
Run = Callable[[Coroutine[Any, Any, Any]], object]


class Connection:
    """Owned by the peer service, which hears every event through `on_event` and calls `close` at the end."""

    def __init__(
        self,
        link: Link,
        session: Session,
        *,
        number: int,
        outbound: bool,
        address: str,
        limits: PeerLimits,
        clock: Callable[[], float],
        run: Run,
        on_event: OnEvent,
        on_lost: Callable[["Connection", str], None],
    ) -> None:
        self.session = session
        self.number = number
        self.outbound = outbound
        self.address = address
        self.opened = clock()
        self.node_id: bytes | None = None
        self.features = b""
        self.ready = False
        self.why_closed: str | None = None
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when both sides sent init, or when the connection is over before that."""
        self._link = link
        self._limits = limits
        self._clock = clock
        self._run = run
        self._on_event = on_event
        self._on_lost = on_lost
        self._received = Budget(
            rate=limits.receive_bytes_per_second, burst=limits.receive_burst, now=self.opened
        )
        self._all = Budget(rate=limits.flood_bytes_per_second, burst=limits.flood_burst, now=self.opened)
        self._dropped = 0
        self._paused = False
        self._waiting = 0
        self._watched = False
        self._gossip: deque[tuple[tuple[bytes, ...], asyncio.Future[bool]]] = deque()
        self._pumping = False

    @property
    def profile(self) -> LinkProfile:
        return self._link.profile

    def start(self) -> None:
        self._link.start(self._on_data, self._lost)
        self.flush()

    def _on_data(self, data: bytes) -> None:
        now = self._clock()
        events = self.session.receive(data, now)
        # Too much gossip is dropped by the session. Who stops reading would hold up the channels' messages as well.
        others = len(data) - self.session.take_gossip_bytes()
        fits = self._received.spend(others, now)
        if not (self._all.spend(len(data), now) and fits) and not self._paused:
            self._paused = True
            self._link.pause_reading()
        self.perform(events)

    def perform(self, events: list[Event]) -> None:
        for event in events:
            if self.why_closed is not None:
                return
            self._on_event(self, event)
        self.flush()

    def flush(self) -> None:
        """Everything that the session has to say, in one piece."""
        output = self.session.take_output()
        if not output or self.why_closed is not None:
            return
        self._link.send(output)
        self._waiting += len(output)
        if self._waiting > self._limits.unread_bytes:
            self._lost("the peer does not read what we send")
        elif self._waiting > _WATCH_FROM and not self._watched:
            self._watched = True
            self._run(self._watch())

    async def _watch(self) -> None:
        """Runs while the peer may be behind, to know how much waits for it."""
        try:
            while self._waiting > _WATCH_FROM:
                handed_over = self._waiting
                await self._link.drain()
                self._waiting -= handed_over
        except LinkClosed:
            pass
        finally:
            self._watched = False

    # Gossip goes out after everything else, at the pace of the peer.

    def send_gossip(self, frames: tuple[bytes, ...]) -> "asyncio.Future[bool]":
        """Done with True when the link took the frames, with False when the connection ended before."""
        taken: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        if self.why_closed is not None or not frames:
            taken.set_result(self.why_closed is None)
            return taken
        self._gossip.append((frames, taken))
        if not self._pumping:
            self._pumping = True
            self._run(self._pump())
        return taken

    async def _pump(self) -> None:
        try:
            while self._gossip and self.why_closed is None:
                frames, taken = self._gossip[0]
                for piece in _pieces(frames):
                    # Only now are they encrypted, so a channel message that comes up meanwhile goes first.
                    await self._link.drain()
                    if self.why_closed is not None:
                        return
                    self.session.send(piece)
                    self.flush()
                    await asyncio.sleep(0)
                if self._gossip:
                    self._gossip.popleft()
                _settle(taken, True)
        except LinkClosed:
            pass
        finally:
            self._pumping = False
            if self.why_closed is not None:
                self._drop_gossip()

    def _drop_gossip(self) -> None:
        while self._gossip:
            _settle(self._gossip.popleft()[1], False)

    def tick(self, now: float) -> None:
        if self._paused and not self._received.is_overdrawn(now) and not self._all.is_overdrawn(now):
            self._paused = False
            self._link.resume_reading()
        dropped = self.session.gossip_dropped
        if dropped and not self._dropped:
            log.warning(
                "gossip_flood",
                node_id="" if self.node_id is None else self.node_id.hex(),
                dropped=dropped,
                what_follows="Gossip beyond this peer's budget is dropped; its channels go on.",
            )
        self._dropped = dropped
        self.perform(self.session.tick(now))

    def _lost(self, reason: str) -> None:
        if self.why_closed is None:
            self._on_lost(self, reason)

    def close(self, reason: str) -> None:
        """Sends what waits and closes. The session is over at once; the link may need a moment."""
        if self.why_closed is not None:
            return
        output = self.session.take_output()
        self.why_closed = reason
        self.session.end(reason)
        if output:
            self._link.send(output)
        self._link.close(reason)
        self._drop_gossip()
        if not self.outcome.done():
            self.outcome.set_result(None)


def _settle(taken: "asyncio.Future[bool]", value: bool) -> None:
    if not taken.done():
        taken.set_result(value)


def _pieces(frames: tuple[bytes, ...]) -> Iterator[tuple[bytes, ...]]:
    piece: list[bytes] = []
    size = 0
    for frame in frames:
        piece.append(frame)
        size += len(frame)
        if size >= _GOSSIP_AT_ONCE:
            yield tuple(piece)
            piece, size = [], 0
    if piece:
        yield tuple(piece)
