"""The line to the node: its gateway over CURVE, and nothing else (DESIGN, "The outside face")."""

import asyncio
from typing import Any, Protocol

import msgspec

from protocol.bus import registry
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.local import LocalBus
from protocol.bus.messages import events, rpc
from protocol.bus.zmq_link import ZmqConnector
from protocol.errors import CommandRefused
from protocol.pairing import Pairing
from protocol.secret import Secret

GATEWAY = "gateway"
SNAPSHOT_SECONDS = 30.0
RPC_SECONDS = 3_600.0
ANEW_SECONDS = 3.0


class RpcRefused(Exception):
    """What the node said instead of a result. `unknown`: it may have been done."""

    def __init__(self, code: int, message: str, *, unknown: bool = False) -> None:
        super().__init__(message)
        self.code = code
        self.unknown = unknown


class Line(Protocol):
    """What the interface needs of a node; a test has one of its own."""

    @property
    def up(self) -> bool: ...

    async def wait_up(self) -> None: ...

    async def snapshot(self) -> events.Snapshot: ...

    async def since(self, run: bytes, seq: int, wait: float) -> events.EventPage: ...

    async def methods(self) -> tuple[rpc.MethodInfo, ...]: ...

    async def rpc(self, method: str, params: Any = (), *, confirmed: bool = False) -> Any: ...

    def close(self) -> None: ...


class NodeLine:
    """Connects by itself, and again. Made inside the event loop that uses it."""

    def __init__(self, pairing: Pairing, *, secret: bytes | None = None) -> None:
        for module in (events, rpc):
            registry.register_module(module)
        self._pairing = pairing
        self._secret = Secret(secret if secret is not None else pairing.client_secret.encode())
        self._bus = LocalBus()
        self._came = asyncio.Event()
        self._bus.watch(self._changed)
        self._link = self._connect()

    def _connect(self) -> ZmqConnector:
        return ZmqConnector(
            self._bus,
            self._pairing.endpoint,
            server_key=self._pairing.server_key.encode(),
            public=self._pairing.client_public.encode(),
            secret=self._secret,
        )

    @property
    def up(self) -> bool:
        return self._came.is_set()

    async def wait_up(self) -> None:
        """ZeroMQ connects again by itself, but not after a refusal, and we may be paired in the next second."""
        while not self._came.is_set():
            try:
                await asyncio.wait_for(self._came.wait(), ANEW_SECONDS)
            except TimeoutError:
                self._link.close()
                self._link = self._connect()

    async def snapshot(self) -> events.Snapshot:
        found: events.Snapshot = await self._ask(events.GetSnapshot(), SNAPSHOT_SECONDS)
        return found

    async def since(self, run: bytes, seq: int, wait: float) -> events.EventPage:
        request = events.EventsSince(run, seq, wait)
        page: events.EventPage = await self._ask(request, wait + SNAPSHOT_SECONDS)
        return page

    async def methods(self) -> tuple[rpc.MethodInfo, ...]:
        table: rpc.MethodTable = await self._ask(rpc.ListMethods(), SNAPSHOT_SECONDS)
        return table.methods

    async def rpc(self, method: str, params: Any = (), *, confirmed: bool = False) -> Any:
        """The result as JSON values. Raises RpcRefused, and nothing else."""
        request = rpc.RunRpc(method, msgspec.json.encode(params), confirmed)
        try:
            answer: rpc.RpcDone | rpc.RpcFailed = await self._ask(request, RPC_SECONDS)
        except CommandRefused as error:
            raise RpcRefused(error.code, str(error)) from error
        except OutcomeUnknown as error:
            raise RpcRefused(-1, str(error), unknown=True) from error
        if isinstance(answer, rpc.RpcFailed):
            raise RpcRefused(answer.code, answer.message, unknown=answer.outcome_unknown)
        return msgspec.json.decode(answer.result)

    def close(self) -> None:
        self._link.close()

    async def _ask(self, request: object, deadline: float) -> Any:  # as Bus.request, whose reply has no type
        return await self._bus.request(GATEWAY, request, deadline=deadline)

    def _changed(self) -> None:
        if GATEWAY in self._bus.names(without={}):
            self._came.set()
        else:
            self._came.clear()
