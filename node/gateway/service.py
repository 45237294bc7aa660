"""The gateway: an encrypted link for programs of the user, who ask for what the table admits (DESIGN, section 5)."""

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import structlog
import zmq

from node.gateway import keys
from node.gateway.bus import ADMITTED, GATEWAY, MAX_DEADLINE, GateBus, register
from protocol.bus.bus import Bus
from protocol.bus.service import Service, handles
from protocol.bus.zmq_link import ZmqListener
from protocol.errors import CommandRefused

log = structlog.get_logger()
SOCKET_NAME = "gateway.sock"
MAX_SOCKET_PATH = 100
LOOK_SECONDS = 1.0


def endpoints(directory: Path, configured: tuple[str, ...]) -> tuple[str, ...]:
    """Where the gateway listens: a socket in the node's directory unless the settings say otherwise."""
    return configured or (f"ipc://{directory / SOCKET_NAME}",)


class GatewayService(Service):
    """Lives on the outer bus, where it is alone, and asks on the inner one."""

    name: ClassVar[str] = GATEWAY

    def __init__(self, inside: Bus, *, directory: Path, network: str, listen: tuple[str, ...] = ()) -> None:
        self.gate = GateBus()
        super().__init__(self.gate)
        self._inside = inside
        self._directory = directory
        self._network = network
        self._wanted = endpoints(directory, listen)
        self._listeners: list[ZmqListener] = []
        self._clients: frozenset[bytes] = frozenset()

    @property
    def listening(self) -> tuple[str, ...]:
        return tuple(listener.endpoint for listener in self._listeners)

    async def start(self) -> None:
        register()
        await super().start()
        keys.keep_local(self._directory, self._wanted[0], self._network)
        self._listen()
        self.run(self._follow_clients())

    async def stop(self) -> None:
        self._hang_up()
        await super().stop()

    @handles(*ADMITTED)
    async def pass_on(self, request: object) -> Any:  # the reply is of the type that belongs to the request
        return await self._inside.request(ADMITTED[type(request)], request, deadline=MAX_DEADLINE)

    def _listen(self) -> None:
        key = keys.own_key(self._directory)
        self._clients = frozenset(keys.clients(self._directory))
        for endpoint in self._wanted:
            if endpoint.startswith("ipc://") and len(endpoint) > MAX_SOCKET_PATH + len("ipc://"):
                log.warning(
                    "gateway_not_open",
                    endpoint=endpoint,
                    what_to_do=f"A socket's path has at most {MAX_SOCKET_PATH} bytes: use a shorter --datadir, "
                    "or set gateway.listen.",
                )
                continue
            try:
                listener = ZmqListener(
                    self.gate, endpoint, public=key.public, secret=key.secret, clients=self._clients
                )
            except zmq.ZMQError as error:
                log.error(
                    "gateway_not_open",
                    endpoint=endpoint,
                    error=str(error),
                    what_to_do="Correct gateway.listen in lnp.toml, and start again.",
                )
                continue
            self._listeners.append(listener)
            log.info("gateway_open", endpoint=listener.endpoint, clients=len(self._clients))

    def _hang_up(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    async def _follow_clients(self) -> None:
        """`lnpd pair-tui` changes the list while we run. Who was taken off is cut off: all connect anew."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                if frozenset(keys.clients(self._directory)) != self._clients:
                    self._hang_up()
                    self._listen()
            except (OSError, CommandRefused) as error:
                # Whoever is taken off later must still be cut off.
                log.error("gateway_clients_not_read", error=str(error), what_to_do="Mend that file.")
