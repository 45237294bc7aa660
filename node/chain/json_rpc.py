"""A small JSON-RPC client over HTTP/1.1 with one kept connection (RFC 9112; bitcoind's `-server`, btcd's with TLS)."""

import asyncio
import base64
import ssl
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from node.chain.backend import BackendAway, BackendUnusable

MAX_BODY_BYTES = 64 * 1024 * 1024
MAX_HEADER_BYTES = 65_536
TIMEOUT_SECONDS = 60.0
HANDSHAKE_SECONDS = 15.0
NO_BATCHES = -32600
"""What JSON-RPC calls an invalid request."""


class RpcError(Exception):
    """The server understood, and answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code
        self.message = message


class _Failure(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Reply(msgspec.Struct):
    id: int | None = None
    result: Any = None
    error: _Failure | None = None


_decode = msgspec.json.Decoder(_Reply).decode
_decode_many = msgspec.json.Decoder(list[_Reply]).decode


def _outcome(reply: _Reply) -> Any:
    return reply.result if reply.error is None else RpcError(reply.error.code, reply.error.message)


class JsonRpc:
    """`login` is asked at every connection, because a cookie changes when the server restarts.

    `https://` is for btcd: `certificate` is the file with the one that it made for itself, as `rpc.cert`.
    """

    def __init__(self, url: str, login: Callable[[], str], *, certificate: str = "") -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.port:
            raise ValueError(f"{url!r} is not a URL like http://127.0.0.1:8332")
        self.url = url
        self.server = "bitcoind"
        """What it is called in sentences."""
        self._secure = parts.scheme == "https"
        self._certificate = certificate
        self._host, self._port, self._path = parts.hostname, parts.port, parts.path or "/"
        self._login = login
        self._next_id = 0
        self._lock = asyncio.Lock()
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._said = ""
        """The login of the connection that stands."""
        self._authorization = ""

    async def call(self, method: str, *params: Any) -> Any:
        """Raises RpcError, BackendAway or BackendUnusable. JSON of unknown shape: the caller looks at it."""
        status, answer = await self._post(msgspec.json.encode(self._request(method, params)))
        return self._result(status, answer)

    async def batch(self, calls: Sequence[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        """Several at once; an item that failed is a RpcError. Raises RpcError for a server that takes no batches."""
        first = self._next_id + 1
        requests = [self._request(method, params) for method, params in calls]
        status, answer = await self._post(msgspec.json.encode(requests))
        try:
            replies = _decode_many(answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            self._result(status, answer)  # which tells a wrong login or a busy server
            raise RpcError(NO_BATCHES, "the answer to a batch is no list") from None
        found = {reply.id: reply for reply in replies}
        if found.keys() != set(range(first, first + len(calls))):
            raise RpcError(NO_BATCHES, "the answers to a batch are not those that it asked for")
        return [_outcome(found[first + at]) for at in range(len(calls))]

    def _request(self, method: str, params: Sequence[Any]) -> dict[str, Any]:
        self._next_id += 1
        return {"jsonrpc": "1.0", "id": self._next_id, "method": method, "params": params}

    async def _post(self, body: bytes) -> tuple[int, bytes]:
        async with self._lock:
            kept = self._streams is not None
            try:
                try:
                    status, answer = await self._timed_exchange(body)
                except (ConnectionError, asyncio.IncompleteReadError):
                    if not kept:
                        raise
                    # The server closes idle connections: once more on a new one. All our calls may be repeated.
                    self._drop()
                    status, answer = await self._timed_exchange(body)
                if status == 401 and self._login() != self._said:
                    # It restarted, and made a new cookie after we had read the old one.
                    self._drop()
                    status, answer = await self._timed_exchange(body)
            except ssl.SSLCertVerificationError as error:
                self._drop()
                raise BackendUnusable(
                    f"the certificate of {self.server} at {self.url} is not the expected one: {error.verify_message}. "
                    "Set bitcoind.cert to its file rpc.cert; if that changed and nobody renewed it, somebody stands "
                    "in between."
                ) from error
            except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError) as error:
                self._drop()
                raise BackendAway(
                    f"{self.server} at {self.url} does not answer ({_why(error)}). Start it, or correct its address."
                ) from error
            except BaseException:
                self._drop()  # cancelled in the middle: what follows on this connection is not ours
                raise
        return status, answer

    def close(self) -> None:
        self._drop()

    async def _timed_exchange(self, body: bytes) -> tuple[int, bytes]:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            if self._streams is None:
                self._said = self._login()
                self._authorization = f"Basic {base64.b64encode(self._said.encode()).decode()}"
                options: dict[str, Any] = {"limit": MAX_HEADER_BYTES}
                if self._secure:
                    options |= {"ssl": self._context(), "ssl_handshake_timeout": HANDSHAKE_SECONDS}
                self._streams = await asyncio.open_connection(self._host, self._port, **options)
            return await self._exchange(*self._streams, body)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes
    ) -> tuple[int, bytes]:
        head = (
            f"POST {self._path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: {self._authorization}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        words = lines[0].split(" ")
        headers = {
            name.strip().lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines[1:])
        }
        closes = headers.get("connection", "").lower() == "close"
        size = headers.get("content-length", "")
        sized = size.isdigit() and int(size) <= MAX_BODY_BYTES
        if len(words) < 2 or not words[1].isdigit() or not (sized or (closes and not size)):
            raise BackendUnusable(f"{self.url} does not speak bitcoind's RPC. Check the address and port.")
        answer = await reader.readexactly(int(size)) if sized else await _read_to_end(reader)
        if closes:
            self._drop()
        return int(words[1]), answer

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._certificate or None)
        except (OSError, ssl.SSLError) as error:
            raise BackendUnusable(
                f"the certificate {self._certificate} cannot be read: {error}. Set bitcoind.cert to the file rpc.cert."
            ) from error

    def _result(self, status: int, answer: bytes) -> Any:
        if status in (401, 403):
            self._drop()
            raise BackendUnusable(
                f"{self.server} at {self.url} refuses our login. Check its cookie file, or user and password."
            )
        try:
            reply = _decode(answer)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            if status == 503:
                raise BackendAway(f"{self.server} at {self.url} is too busy. We try again.") from error
            raise BackendUnusable(f"{self.url} does not speak bitcoind's RPC (HTTP {status}).") from error
        if reply.error is not None:
            raise RpcError(reply.error.code, reply.error.message)
        return reply.result

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    """A body whose end is that of the connection, as btcd sends it."""
    pieces = []
    total = 0
    while piece := await reader.read(MAX_HEADER_BYTES):
        total += len(piece)
        if total > MAX_BODY_BYTES:
            raise ConnectionError("its answer has no end")
        pieces.append(piece)
    return b"".join(pieces)


def _why(error: BaseException) -> str:
    return str(error) or type(error).__name__
