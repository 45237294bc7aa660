"""What a service may do with the bus: ask, tell, publish (DESIGN, "A service").

`LocalBus` is the one implementation; `zmq_link` joins the buses of two processes, so that a service
never knows where the others live.
"""

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from protocol.errors import ProtocolError


class OutcomeUnknown(ProtocolError):
    """No answer came: the request may have been carried out, or not. One with an id may be repeated."""

    def __init__(self, sentence: str, *, what_to_do: str = "") -> None:
        super().__init__(f"{sentence}. {what_to_do}" if what_to_do else sentence)
        self.sentence = sentence
        self.what_to_do = what_to_do


class ServiceFailed(OutcomeUnknown):
    """The handler ran into a bug of ours; the log of that service has the details."""


class Port(Protocol):
    """Where the messages for one service go: its inbox here, or a link to another process."""

    def put(self, message: object, /) -> None: ...

    def ask(self, message: object, answer: asyncio.Future[Any], deadline: float, /) -> None: ...


class Hearer(Protocol):
    """Takes published events."""

    def put(self, message: object, /) -> None: ...


class Hosted(Protocol):
    """The part of a service that a bus needs; `Service` is the implementation."""

    @property
    def name(self) -> str: ...

    def after_turn(self) -> None: ...

    def run(self, coroutine: Any, /) -> asyncio.Task[None]: ...

    def handlers(self) -> dict[type, tuple[Callable[[Any], Any], bool]]: ...

    def hearers(self) -> dict[type, Callable[[Any], None]]: ...


class Inbox(Port, Protocol):
    """The queue of a service that lives in this process."""

    def open(self) -> None: ...

    def wake(self) -> None: ...

    def close(self) -> None: ...


class Bus(Protocol):
    async def request(self, service_name: str, message: object, *, deadline: float = 30.0) -> Any:
        """The reply of the service, of the type that belongs to the request (not expressed here).

        Raises what the handler refused (`CommandRefused`), or `OutcomeUnknown` when no answer came in time.
        """

    def send(self, service_name: str, message: object) -> None:
        """One way, in order. A service that is not there loses the message, and the log says so."""

    def publish(self, event: object) -> None:
        """To every service that hears events of this type."""

    def attach(self, service: Hosted) -> Inbox:
        """From here on messages for the service are kept; they are handled once it is started."""
