"""LND's channel acceptor: without one it refuses zero-conf channels. REST offers it as a WebSocket (RFC 6455)."""

import base64
import contextlib
import json
import secrets
import socket
import struct
import threading
from typing import Any

TEXT, CLOSE, PING = 1, 8, 9
ENDING = "\r\n\r\n"


class Acceptor:
    """Says yes to every channel, and to zero-conf where it is asked for. Ends with LND, or when it is closed."""

    def __init__(self, port: int) -> None:
        self._line = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._rest = b""
        self._greet(port)
        self._line.settimeout(None)
        self._thread = threading.Thread(target=self._answer_all, daemon=True)
        self._thread.start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._line.shutdown(socket.SHUT_RDWR)
        self._line.close()
        self._thread.join(10)

    def _greet(self, port: int) -> None:
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        lines = (
            "GET /v1/channels/acceptor?method=POST HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        )
        self._line.sendall(("\r\n".join(lines) + ENDING).encode())
        while ENDING.encode() not in self._rest:
            self._more()
        head, _, self._rest = self._rest.partition(ENDING.encode())
        if b" 101 " not in head.split(b"\r\n")[0]:
            raise ConnectionError(f"LND gives no channel acceptor: {head!r}")

    def _answer_all(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                opcode, data = self._frame()
                if opcode == CLOSE:
                    return
                if opcode == PING:
                    self._send(10, data)
                elif opcode == TEXT:
                    self._answer(json.loads(data)["result"])

    def _answer(self, asked: dict[str, Any]) -> None:
        reply: dict[str, Any] = {"accept": True, "pending_chan_id": asked["pending_chan_id"]}
        if asked["wants_zero_conf"]:
            reply["zero_conf"] = True
        self._send(TEXT, json.dumps(reply).encode())

    def _send(self, opcode: int, data: bytes) -> None:
        """A client masks what it sends; a mask of zeros is a mask."""
        size = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + struct.pack(">H", len(data))
        self._line.sendall(bytes([0x80 | opcode]) + size + bytes(4) + data)

    def _frame(self) -> tuple[int, bytes]:
        first, size = self._take(2)
        if size == 126:
            (size,) = struct.unpack(">H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack(">Q", self._take(8))
        return first & 15, self._take(size)

    def _take(self, count: int) -> bytes:
        while len(self._rest) < count:
            self._more()
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def _more(self) -> None:
        piece = self._line.recv(1 << 16)
        if not piece:
            raise ConnectionError("LND ended the channel acceptor")
        self._rest += piece
