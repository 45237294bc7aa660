"""A ZeroMQ socket on the event loop, and the CURVE allowlist (ZeroMQ RFC 23 ZMTP, RFC 27 ZAP).

`zmq.asyncio` makes a future for every message. Here the socket's file descriptor is watched directly: it
signals edges only, so each wake-up drains the socket, and each send looks again, because sending can consume
the edge.
"""

import asyncio
from collections.abc import Callable

import zmq
from zmq.utils import z85
from zmq.utils.monitor import parse_monitor_message

CONNECTED = int(zmq.EVENT_HANDSHAKE_SUCCEEDED)
DISCONNECTED = int(zmq.EVENT_DISCONNECTED)
DENIED = int(
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_ROUND = 256


class LoopSocket:
    """Calls `on_message(frames)` in the loop for each message. Not for use from another thread."""

    def __init__(self, socket: "zmq.Socket[bytes]", on_message: Callable[[list[bytes]], None]) -> None:
        self._socket = socket
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._fd = int(socket.getsockopt(zmq.FD))
        self._scheduled = False
        self._loop.add_reader(self._fd, self._drain)
        self._look()  # what came before we watched made its edge already

    def send(self, frames: list[bytes]) -> bool:
        """False when there is nobody connected to send to."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            return False
        finally:
            self._look()
        return True

    def close(self, *, linger_ms: int = 0) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._fd = -1
            self._socket.close(linger_ms)

    def _look(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        receive, on_message = self._socket.recv_multipart, self._on_message
        for _ in range(_ROUND):
            if self._fd < 0:
                return
            try:
                frames = receive(zmq.NOBLOCK)
            except zmq.Again:
                return
            on_message(frames)
        self._look()  # there may be more: let the others have their turn first


def monitor(socket: "zmq.Socket[bytes]", on_event: Callable[[int], None]) -> LoopSocket:
    """Reports CONNECTED (after the CURVE handshake), DISCONNECTED and DENIED events of a socket."""
    reports = socket.get_monitor_socket(CONNECTED | DISCONNECTED | DENIED)
    return LoopSocket(reports, lambda frames: on_event(int(parse_monitor_message(frames)["event"])))


class Allowlist:
    """Lets only clients with these CURVE keys (Z85) connect to the sockets of one context.

    Make it before the first socket is bound: without it ZeroMQ lets every key in.
    """

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", keys: frozenset[bytes]) -> None:
        self._raw = frozenset(z85.decode(key) for key in keys)
        socket = context.socket(zmq.REP)
        socket.bind("inproc://zeromq.zap.01")
        self._link = LoopSocket(socket, self._judge)

    def close(self) -> None:
        self._link.close()

    def _judge(self, frames: list[bytes]) -> None:
        version, request_id = frames[0], frames[1]
        allowed = len(frames) == 7 and frames[5] == b"CURVE" and frames[6] in self._raw
        verdict = [b"200", b"OK"] if allowed else [b"400", b"this key is not on the allowlist"]
        self._link.send([version, request_id, *verdict, b"", b""])
