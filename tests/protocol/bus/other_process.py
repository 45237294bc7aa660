"""The other process of `test_zmq_link`: doubles numbers, hangs when told, publishes back what it hears."""

import asyncio
import sys
from typing import Any, ClassVar

import msgspec

from protocol.bus.local import LocalBus
from protocol.bus.registry import register
from protocol.bus.service import Service, handles, hears
from protocol.bus.zmq_link import ZmqConnector
from protocol.errors import CommandRefused
from protocol.secret import Secret


@register
class Double(msgspec.Struct, frozen=True, tag="test_double"):
    number: int


@register
class Hang(msgspec.Struct, frozen=True, tag="test_hang"):
    pass


@register
class News(msgspec.Struct, frozen=True, tag="test_news"):
    number: int


@register
class Heard(msgspec.Struct, frozen=True, array_like=True, tag="test_heard"):
    number: int


class Unregistered(msgspec.Struct, frozen=True, tag="test_double"):
    pass


class Doubler(Service):
    name: ClassVar[str] = "doubler"

    @handles(Double)
    def double(self, request: Double) -> Double:
        if request.number > 1_000:
            raise CommandRefused(f"{request.number} is too large", what_to_do="Ask for less.", code=12)
        return Double(request.number * 2 // (1 if request.number else 0))

    @handles(Hang)
    async def hang(self, request: Hang) -> None:
        await asyncio.Event().wait()

    @hears(News)
    def news(self, event: News) -> None:
        self.bus.publish(Heard(event.number))


class Listener(Service):
    name: ClassVar[str] = "listener"

    def __init__(self, bus: Any) -> None:
        super().__init__(bus)
        self.heard: list[Heard] = []

    @hears(Heard)
    def on_heard(self, event: Heard) -> None:
        self.heard.append(event)


async def main(endpoint: str, server_key: str, public: str, secret: str) -> None:
    bus = LocalBus()
    service = Doubler(bus)
    await service.start()
    link = ZmqConnector(
        bus, endpoint, server_key=server_key.encode(), public=public.encode(), secret=Secret(secret.encode())
    )
    try:
        await asyncio.sleep(60)  # the test kills us long before
    finally:
        link.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:5]))
