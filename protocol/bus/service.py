"""A service: one class with a table of what it handles and hears (DESIGN, "A service").

It does not know whether it runs as a task, a thread, a process or a container.
"""

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, TypeVar

import structlog

from protocol.bus.bus import Bus

log = structlog.get_logger()
F = TypeVar("F", bound=Callable[..., Any])


def handles(*requests: type) -> Callable[[F], F]:
    """The method answers these requests; an async one runs as a task of its service."""

    def mark(method: F) -> F:
        method.__dict__["_bus_handles"] = requests
        return method

    return mark


def hears(*events: type) -> Callable[[F], F]:
    """The method takes these one-way messages and published events, one after the other, in order."""

    def mark(method: F) -> F:
        if inspect.iscoroutinefunction(method):
            raise TypeError(
                f"{method.__qualname__}: what hears events is a plain method; start tasks with self.run"
            )
        method.__dict__["_bus_hears"] = events
        return method

    return mark


class Service:
    """Subclasses set `name`, mark their methods, and may extend `start`, `stop` and `after_turn`."""

    name: ClassVar[str]
    _handles: ClassVar[dict[type, str]] = {}
    _hears: ClassVar[dict[type, str]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._handles = dict(cls._handles)
        cls._hears = dict(cls._hears)
        for attribute, method in vars(cls).items():
            for table, mark in ((cls._handles, "_bus_handles"), (cls._hears, "_bus_hears")):
                for kind in getattr(method, mark, ()):  # the mark that the decorators left
                    if table.get(kind, attribute) != attribute:
                        raise TypeError(f"{cls.__name__} has two methods for {kind.__name__}")
                    table[kind] = attribute

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._tasks: set[asyncio.Task[None]] = set()
        self._inbox = bus.attach(self)

    async def start(self) -> None:
        """What waits in the inbox is handled from here on. An override calls this when it is ready."""
        self._inbox.open()

    async def stop(self) -> None:
        """Ends the tasks; who still waits for an answer is told. Cancelling a task twice does no harm."""
        self._inbox.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def after_turn(self) -> None:
        """Called once after each drain of the inbox."""

    def wake(self) -> None:
        """Asks for a turn although no message came, so that `after_turn` runs soon, and once."""
        self._inbox.wake()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[None]:
        """A task that ends with the service; what it raises is logged as a bug."""
        task = asyncio.get_running_loop().create_task(self._guarded(coroutine))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            coroutine.close()  # of a task that was cancelled before its first step; else it has ended

        task.add_done_callback(ended)
        return task

    def handlers(self) -> dict[type, tuple[Callable[[Any], Any], bool]]:
        """Request type to the bound method, and whether it is async."""
        found = {kind: getattr(self, attribute) for kind, attribute in self._handles.items()}
        return {kind: (method, inspect.iscoroutinefunction(method)) for kind, method in found.items()}

    def hearers(self) -> dict[type, Callable[[Any], None]]:
        return {kind: getattr(self, attribute) for kind, attribute in self._hears.items()}

    async def _guarded(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            await coroutine
        except Exception as error:
            log.error("bug", service=self.name, task=str(coroutine), error=repr(error), exc_info=True)
