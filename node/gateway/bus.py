"""The bus that the outside sees: it carries what stands in one table, one way, and nothing else (DESIGN, section 5).

A link between processes joins two buses whole, which is right between parts of one node and wrong towards a
program of a user. So the gateway's link ends on a bus of its own, on which only the gateway lives. Whoever is
connected can ask for what the table names. It can neither reach another service, nor add one, nor say or hear
anything one-way.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import structlog

from protocol.bus import registry
from protocol.bus.bus import Hearer, Port
from protocol.bus.local import LocalBus
from protocol.bus.messages import events, rpc
from protocol.errors import CommandRefused

log = structlog.get_logger()
GATEWAY = "gateway"
ADMITTED: Mapping[type, str] = MappingProxyType(
    {
        events.EventsSince: "events",
        events.GetSnapshot: "events",
        rpc.ListMethods: "rpc",
        rpc.RunRpc: "rpc",
    }
)
"""Each request that may come in, and the service inside that answers it."""
ANSWERS = (events.EventPage, events.Snapshot, rpc.MethodTable, rpc.RpcDone, rpc.RpcFailed)
MAX_OPEN = 256
MAX_DEADLINE = 86_400.0


def register() -> None:
    """What may cross. A message that was never registered cannot even be read from the line."""
    for kind in (*ADMITTED, *ANSWERS):
        registry.register(kind)


class GateBus(LocalBus):
    def __init__(self) -> None:
        super().__init__()
        self._open = 0

    async def request(self, service_name: str, message: object, *, deadline: float = 30.0) -> Any:
        if service_name != GATEWAY or type(message) not in ADMITTED:
            log.warning("gateway_refused", service=service_name[:40], message=type(message).__name__)
            raise CommandRefused(
                "this request is not one of the gateway's",
                what_to_do="Use a program of the same version as the node.",
            )
        if self._open >= MAX_OPEN:
            raise CommandRefused(f"{MAX_OPEN} requests wait already", what_to_do="Wait for some of them.")
        self._open += 1
        try:
            return await super().request(
                service_name, message, deadline=max(0.0, min(deadline, MAX_DEADLINE))
            )
        finally:
            self._open -= 1

    def send(self, service_name: str, message: object) -> None:
        log.warning("gateway_refused", service=service_name[:40], message=type(message).__name__)

    def publish_from(self, source: Hearer, event: object) -> None:
        log.warning("gateway_refused", service="", message=type(event).__name__)

    def join(self, ports: dict[str, Port], heard: Iterable[type], hearer: Hearer) -> None:
        """What the other end offers or wants to hear is left aside: it comes to ask."""
