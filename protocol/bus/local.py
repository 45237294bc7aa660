"""The bus of one process: objects are handed over by reference, one queue a service (DESIGN, "A service").

A message costs about a microsecond: no task, no copy, no codec. Whatever waits for a service is handled
in one callback of the event loop, which is the *turn* that services batch by.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

import structlog

from protocol.bus.bus import Hearer, Hosted, OutcomeUnknown, Port, ServiceFailed
from protocol.errors import CommandRefused

log = structlog.get_logger()


class _Ask:
    __slots__ = ("answer", "message")

    def __init__(self, message: object, answer: asyncio.Future[Any]) -> None:
        self.message = message
        self.answer = answer


class LocalInbox:
    """The queue of one service, drained by at most one callback a loop turn."""

    def __init__(self, service: Hosted, bus: "LocalBus") -> None:
        self._service = service
        self._bus = bus
        self._queue: deque[object] = deque()
        self._heard = service.hearers()
        self._handled = service.handlers()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._scheduled = True  # until the service is started nothing is drained

    def put(self, message: object, /) -> None:
        self._queue.append(message)
        if not self._scheduled:
            self._schedule()

    def ask(self, message: object, answer: asyncio.Future[Any], _deadline: float, /) -> None:
        self.put(_Ask(message, answer))

    def wake(self) -> None:
        if not self._scheduled:
            self._schedule()

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._schedule()

    def close(self) -> None:
        """Nothing is handled any more. What was never begun is refused, so that it may be asked again."""
        self._scheduled = True
        self._loop = None
        self._bus.detach(self._service.name, self)
        for item in self._queue:
            if isinstance(item, _Ask) and not item.answer.done():
                item.answer.set_exception(_not_running(self._service.name))
        self._queue.clear()

    def _schedule(self) -> None:
        if self._loop is not None:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        if self._loop is None:
            return
        self._scheduled = False
        queue = self._queue
        for _ in range(len(queue)):
            if not queue:
                return  # a handler closed the service
            item = queue.popleft()
            kind = type(item)
            if kind is _Ask:
                self._serve(item)  # type: ignore[arg-type]  # the identity test above is the fast isinstance
                continue
            hear = self._heard.get(kind)
            if hear is None:
                log.error("message_not_heard", service=self._service.name, message=kind.__name__)
                continue
            try:
                hear(item)
            except Exception as error:
                self._report(item, error)
        try:
            self._service.after_turn()
        except Exception as error:
            self._report("after_turn", error)

    def _serve(self, ask: _Ask) -> None:
        entry = self._handled.get(type(ask.message))
        if entry is None:
            name = type(ask.message).__name__
            refusal = CommandRefused(
                f"the service {self._service.name} does not know the request {name}",
                what_to_do="Check that both programs are of the same version.",
            )
            _fail(ask.answer, refusal)
            return
        method, is_async = entry
        if is_async:
            task = self._service.run(self._serve_async(ask, method))
            task.add_done_callback(lambda _: _abandon(ask.answer, self._service.name))
            return
        try:
            reply = method(ask.message)
        except Exception as error:
            self._fail(ask, error)
        else:
            if not ask.answer.done():
                ask.answer.set_result(reply)

    async def _serve_async(self, ask: _Ask, method: Callable[[Any], Any]) -> None:
        try:
            reply = await method(ask.message)
        except Exception as error:
            self._fail(ask, error)
        else:
            if not ask.answer.done():
                ask.answer.set_result(reply)

    def _fail(self, ask: _Ask, error: Exception) -> None:
        """A refusal and an unknown outcome travel to the caller as they are; anything else is a bug here."""
        if isinstance(error, CommandRefused | OutcomeUnknown):
            _fail(ask.answer, error)
            return
        self._report(ask.message, error)
        name = type(ask.message).__name__
        _fail(
            ask.answer,
            ServiceFailed(
                f"the service {self._service.name} failed on {name}: {error!r}",
                what_to_do="Look for event=bug in the log and report it.",
            ),
        )

    def _report(self, item: object, error: Exception) -> None:
        name = item if isinstance(item, str) else type(item).__name__
        log.error("bug", service=self._service.name, message=name, error=repr(error), exc_info=True)


class LocalBus:
    """The bus of one process. Links to other processes `join` their services to it, and `leave`."""

    def __init__(self) -> None:
        self._ports: dict[str, Port] = {}
        self._hearers: dict[type, list[Hearer]] = {}
        self._watchers: list[Callable[[], None]] = []

    async def request(self, service_name: str, message: object, *, deadline: float = 30.0) -> Any:
        port = self._ports.get(service_name)
        if port is None:
            raise _not_running(service_name)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        timer = loop.call_later(deadline, _expire, answer, service_name, type(message).__name__, deadline)
        try:
            port.ask(message, answer, deadline)
            return await answer
        finally:
            timer.cancel()

    def send(self, service_name: str, message: object) -> None:
        port = self._ports.get(service_name)
        if port is None:
            log.error(
                "message_lost", service=service_name, message=type(message).__name__, reason="not running"
            )
            return
        port.put(message)

    def publish(self, event: object) -> None:
        for hearer in self._hearers.get(type(event), ()):
            hearer.put(event)

    def attach(self, service: Hosted) -> LocalInbox:
        if service.name in self._ports:
            raise ValueError(f"there is already a service named {service.name} on this bus")
        inbox = LocalInbox(service, self)
        self._ports[service.name] = inbox
        for kind in service.hearers():
            self._hearers.setdefault(kind, []).append(inbox)
        self._changed()
        return inbox

    def detach(self, name: str, inbox: LocalInbox) -> None:
        if self._ports.get(name) is inbox:
            del self._ports[name]
            self._forget(inbox)
            self._changed()

    # What a link uses.

    def join(self, ports: dict[str, Port], heard: Iterable[type], hearer: Hearer) -> None:
        """Adds services that live elsewhere, and what they hear. A name that is taken here stays as it is."""
        for name, port in ports.items():
            self._ports.setdefault(name, port)
        for kind in heard:
            self._hearers.setdefault(kind, []).append(hearer)
        self._changed()

    def leave(self, ports: dict[str, Port], hearer: Hearer) -> None:
        for name, port in ports.items():
            if self._ports.get(name) is port:
                del self._ports[name]
        self._forget(hearer)
        self._changed()

    def names(self, *, without: dict[str, Port]) -> list[str]:
        return [name for name, port in self._ports.items() if without.get(name) is not port]

    def heard(self, *, without: Hearer) -> list[type]:
        return [kind for kind, hearers in self._hearers.items() if any(one is not without for one in hearers)]

    def publish_from(self, source: Hearer, event: object) -> None:
        """An event that came over a link goes to everybody but that link."""
        for hearer in self._hearers.get(type(event), ()):
            if hearer is not source:
                hearer.put(event)

    def watch(self, changed: Callable[[], None]) -> None:
        """`changed` is called whenever a service or an event type comes or goes."""
        self._watchers.append(changed)

    def unwatch(self, changed: Callable[[], None]) -> None:
        self._watchers.remove(changed)

    def _forget(self, hearer: Hearer) -> None:
        self._hearers = {
            kind: left
            for kind, hearers in self._hearers.items()
            if (left := [one for one in hearers if one is not hearer])
        }

    def _changed(self) -> None:
        for watcher in tuple(self._watchers):
            watcher()


def _fail(answer: asyncio.Future[Any], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _abandon(answer: asyncio.Future[Any], service: str) -> None:
    """The handler ended without an answer: its service was stopped in the middle."""
    _fail(answer, OutcomeUnknown(f"the service {service} was stopped before it answered"))


def _expire(answer: asyncio.Future[Any], service: str, message: str, deadline: float) -> None:
    _fail(
        answer,
        OutcomeUnknown(
            f"the service {service} did not answer {message} within {deadline:g} s",
            what_to_do="It may still have been done: look before asking again.",
        ),
    )


def _not_running(service: str) -> CommandRefused:
    return CommandRefused(
        f"the service {service} is not running",
        what_to_do="Wait until the node has started, or look in the log why it stopped.",
    )
