"""The client side of the RPC socket, and what may become of a call (operators.md 1.2).

The one thing that a money tool must not blur: *refused* is not *unknown*. Once the request has left, silence
means that it may have been carried out.
"""

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

SOCKET_NAME = "lightning-rpc"
OUTCOME_UNKNOWN = "unknown"
PAY_IN_PROGRESS = 200
USAGE_CODES = (-32602, -32601)
_TICK_SECONDS = 0.1


class NoDaemon(Exception):
    """Nothing listens: nothing was asked."""


class Unknown(Exception):
    """The request left, and no answer came."""


class Refused(Exception):
    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error.get("message", error)))
        self.error = error

    @property
    def code(self) -> int:
        code = self.error.get("code", -1)
        return code if isinstance(code, int) else -1

    @property
    def is_usage(self) -> bool:
        return self.code in USAGE_CODES

    @property
    def is_unknown(self) -> bool:
        data = self.error.get("data")
        told = isinstance(data, dict) and data.get("outcome") == OUTCOME_UNKNOWN
        return told or self.code == PAY_IN_PROGRESS


def call(
    path: Path,
    method: str,
    params: list[Any] | dict[str, Any],
    *,
    timeout: float | None = None,
    progress: Callable[[float], None] | None = None,
) -> Any:
    """The result. `progress` is told the seconds that have passed, ten times a second."""
    request = {"jsonrpc": "2.0", "id": f"lnp:{method}#{os.getpid()}", "method": method, "params": params}
    with connect(path) as connection:
        try:
            connection.sendall(json.dumps(request).encode())
            reply = _read(connection, timeout, progress)
        except KeyboardInterrupt as error:
            raise Unknown("you stopped waiting") from error
        except OSError as error:
            raise Unknown(f"the connection broke ({error})") from error
    if "error" in reply:
        raise Refused(reply["error"])
    return reply.get("result")


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with _short_name(path) as name:
            connection.connect(name)
    except OSError as error:
        connection.close()
        raise NoDaemon(f"no daemon answers at {path} ({error.strerror or error})") from error
    return connection


def _read(
    connection: socket.socket, timeout: float | None, progress: Callable[[float], None] | None
) -> dict[str, Any]:
    """One object and a blank line; our objects hold no raw line ends."""
    began = time.monotonic()
    buffer = bytearray()
    while not buffer.endswith(b"\n\n"):
        passed = time.monotonic() - began
        if timeout is not None and passed >= timeout:
            raise Unknown(f"no answer came within {timeout:g} seconds")
        if progress is not None:
            progress(passed)
        if not select.select([connection], [], [], _TICK_SECONDS)[0]:
            continue
        data = connection.recv(1 << 16)
        if not data:
            raise Unknown("the daemon hung up before it answered")
        buffer += data
    reply = json.loads(buffer)
    if not isinstance(reply, dict):
        raise Unknown("the answer is not one of a Lightning daemon")
    return reply


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
