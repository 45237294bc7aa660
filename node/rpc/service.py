"""The RPC gateway: a unix socket that speaks the Core Lightning dialect, and asks the services on the bus."""

import asyncio
import contextlib
import difflib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import structlog

from node.rpc.catalogue import METHODS
from node.rpc.connection import Connection
from node.rpc.encode import encode
from node.rpc.errors import OUTCOME_UNKNOWN, Code, RpcError, invalid_params
from node.rpc.params import bind
from node.rpc.table import Context, Method, NodeFacts
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages.rpc import ListMethods, MethodInfo, MethodTable, RpcDone, RpcFailed, RunRpc
from protocol.bus.service import Service, handles
from protocol.errors import CommandRefused

log = structlog.get_logger()
SOCKET_NAME = "lightning-rpc"
NOT_ON_THE_BUS = frozenset({"watch"})
BACKLOG = 1024
"""A unix socket whose queue is full refuses at once, so a burst of clients must fit."""


class RpcService(Service):
    """`directory` is that of the network; `stop_node` is called once the answer to `stop` was written."""

    name: ClassVar[str] = "rpc"

    def __init__(self, bus: Bus, *, directory: Path, facts: NodeFacts, stop_node: Callable[[], None]) -> None:
        super().__init__(bus)
        self.path = directory / SOCKET_NAME
        self._context = Context(bus, facts, METHODS, stop_node)
        self._connections: set[Connection] = set()
        self._server: asyncio.AbstractServer | None = None

    async def start(self) -> None:
        listening = _listen(self.path)
        self._server = await asyncio.get_running_loop().create_unix_server(
            self._connection, sock=listening, backlog=BACKLOG
        )
        await super().start()
        log.info("rpc_ready", socket=str(self.path))

    async def stop(self) -> None:
        """Takes no more requests, ends those that run, and hangs up."""
        if self._server is not None:
            self._server.close()
        await super().stop()
        for connection in tuple(self._connections):
            connection.close()
        self.path.unlink(missing_ok=True)

    async def answer(self, request: dict[str, Any]) -> Any:
        """The result of one request, or RpcError."""
        method = self._method(request.get("method"))
        arguments = bind(method.name, method.params, request.get("params"))
        try:
            result = await method.handler(self._context, arguments)
        except CommandRefused as error:
            raise RpcError(error.code, str(error)) from error
        except OutcomeUnknown as error:
            raise RpcError(Code.GENERIC, str(error), OUTCOME_UNKNOWN) from error
        except RpcError:
            raise
        except Exception as error:
            log.error("bug", service=self.name, method=method.name, error=repr(error), exc_info=True)
            raise RpcError(
                Code.INTERNAL,
                f"{method.name} failed on a bug of ours ({error!r}): look in the log, and report it",
            ) from error
        wanted = request.get("filter")
        return result if wanted is None or not isinstance(result, dict) else keep(result, wanted)

    # The same methods over the bus, for the terminal UI.

    @handles(ListMethods)
    def list_methods(self, _request: ListMethods) -> MethodTable:
        return MethodTable(
            tuple(
                MethodInfo(method.name, method.usage, method.help, method.moves_money)
                for method in METHODS.values()
                if method.name not in NOT_ON_THE_BUS
            )
        )

    @handles(RunRpc)
    async def run_rpc(self, request: RunRpc) -> RpcDone | RpcFailed:
        try:
            params = msgspec.json.decode(request.params)
            if request.method in NOT_ON_THE_BUS:
                raise invalid_params(f"{request.method} is a stream of the socket; here there is EventsSince")
            if self._method(request.method).moves_money and not request.confirmed:
                raise RpcError(
                    Code.NOT_CONFIRMED,
                    f"{request.method} moves money and was not confirmed; nothing was done",
                )
            result = await self.answer({"method": request.method, "params": params})
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            return RpcFailed(Code.PARSE_ERROR, f"the parameters are not JSON: {error}", False)
        except RpcError as error:
            return RpcFailed(error.code, error.message, error.data == OUTCOME_UNKNOWN)
        return RpcDone(await encode(result))

    def _method(self, name: object) -> Method:
        method = METHODS.get(name) if isinstance(name, str) else None
        if method is None:
            near = difflib.get_close_matches(str(name), METHODS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "`help` lists all."
            raise RpcError(Code.METHOD_NOT_FOUND, f"unknown command {str(name)[:80]!r}: {hint}")
        return method

    def _connection(self) -> Connection:
        return Connection(
            self.answer,
            run=self.run,
            ends_with_caller=_only_watches,
            opened=self._connections.add,
            closed=self._connections.discard,
        )


def _only_watches(request: dict[str, Any]) -> bool:
    name = request.get("method")
    method = METHODS.get(name) if isinstance(name, str) else None
    return method is not None and method.waits


def keep(result: Any, wanted: Any) -> Any:
    """The part of a result that the caller's `filter` names: objects by key, lists by the pattern of an item."""
    if isinstance(wanted, dict) and isinstance(result, dict):
        return {key: keep(result[key], inner) for key, inner in wanted.items() if key in result}
    if isinstance(wanted, list) and len(wanted) == 1 and isinstance(result, list):
        return [keep(item, wanted[0]) for item in result]
    if wanted is True:
        return result
    raise RpcError(Code.INVALID_PARAMS, "filter: use true, {key: …} for objects, and a list of one for lists")


def _listen(path: Path) -> socket.socket:
    """Only our own user may connect, from the first moment on. What an earlier run left is replaced: the lock on
    the database says that it is dead."""
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        with _short_name(path) as name:
            listening.bind(name)
    except OSError:
        listening.close()
        raise
    finally:
        os.umask(before)
    listening.setblocking(False)
    return listening


@contextlib.contextmanager
def _short_name(path: Path) -> Iterator[str]:
    """A socket's name has some 100 bytes; a longer path is reached by way of its open directory."""
    if len(os.fsencode(path)) < 100:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_DIRECTORY | os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
