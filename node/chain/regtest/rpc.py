"""JSON-RPC over HTTP/1.1 on the loopback interface, as bitcoind serves it: Basic auth, cookie, batches."""

import asyncio
import base64
import hmac
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from node.chain.regtest.rpc_values import METHOD_NOT_FOUND, RpcError

log = structlog.get_logger(__name__)

MAX_HEADER_BYTES = 16_384
MAX_BODY_BYTES = 32 * 1024 * 1024
PARSE_ERROR = -32700
INVALID_REQUEST = -32600
INTERNAL_ERROR = -32603
_REASONS = {
    200: "OK",
    400: "Bad Request",
    401: "Unauthorized",
    404: "Not Found",
    405: "Method Not Allowed",
    413: "Content Too Large",
    500: "Internal Server Error",
}

Call = Callable[[object, object], Any]


class _BadHttp(Exception):
    def __init__(self, status: int) -> None:
        super().__init__(_REASONS[status])
        self.status = status


class RpcServer:
    """`start` listens, writes the cookie file and returns the port; `close` ends both."""

    def __init__(
        self, call: Call, cookie_path: Path, *, user: str | None = None, password: str | None = None
    ) -> None:
        self._call = call
        self._cookie_path = cookie_path
        self._logins = [f"__cookie__:{secrets.token_hex(32)}"]
        if user is not None and password is not None:
            self._logins.append(f"{user}:{password}")
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.StreamWriter] = set()

    async def start(self, port: int) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=MAX_HEADER_BYTES)
        self._write_cookie()
        return int(self._server.sockets[0].getsockname()[1])

    def _write_cookie(self) -> None:
        part = self._cookie_path.with_suffix(".part")
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(self._logins[0])
        part.replace(self._cookie_path)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._clients):
                writer.close()
            await self._server.wait_closed()
        self._cookie_path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # the client went away, or sent no HTTP
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether the connection stays open."""
        head = await reader.readuntil(b"\r\n\r\n")
        try:
            request, headers = _parse_head(head)
            size = _content_length(headers)
        except _BadHttp as error:
            await self._answer(writer, error.status, None, keep=False)
            return False
        body = await reader.readexactly(size)
        keep = headers.get("connection", "").lower() != "close" and request.endswith("HTTP/1.1")
        if not self._is_authorized(headers.get("authorization", "")):
            await self._answer(writer, 401, None, keep=keep)
        elif not request.startswith("POST "):
            await self._answer(writer, 405, None, keep=keep)
        else:
            status, result = self._handle(body)
            await self._answer(writer, status, result, keep=keep)
        return keep

    def _is_authorized(self, header: str) -> bool:
        kind, _, encoded = header.partition(" ")
        if kind.lower() != "basic":
            return False
        try:
            given = base64.b64decode(encoded, validate=True)
        except ValueError:
            return False
        return any(hmac.compare_digest(given, login.encode()) for login in self._logins)

    async def _answer(self, writer: asyncio.StreamWriter, status: int, result: Any, *, keep: bool) -> None:
        body = b"" if result is None else json.dumps(result).encode() + b"\n"
        lines = [
            f"HTTP/1.1 {status} {_REASONS[status]}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            f"Connection: {'keep-alive' if keep else 'close'}",
        ]
        if status == 401:
            lines.append('WWW-Authenticate: Basic realm="jsonrpc"')
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()

    def _handle(self, body: bytes) -> tuple[int, Any]:
        try:
            request = json.loads(body)
        except ValueError:
            return 500, _failure(None, PARSE_ERROR, "Parse error")
        if isinstance(request, list):
            return 200, [self._one(item)[1] for item in request]
        return self._one(request)

    def _one(self, request: Any) -> tuple[int, Any]:
        if not isinstance(request, dict) or "method" not in request:
            return 400, _failure(None, INVALID_REQUEST, "Invalid Request object")
        request_id = request.get("id")
        version_2 = request.get("jsonrpc") == "2.0"
        params = request.get("params")
        try:
            result = self._call(request["method"], [] if params is None else params)
        except RpcError as error:
            status = 404 if error.code == METHOD_NOT_FOUND else 500
            failure = _failure(request_id, error.code, str(error), version_2=version_2)
            return 200 if version_2 else status, failure
        except Exception as error:
            # A bug of ours must answer this request and leave the chain running for the others.
            log.exception("rpc_failed", method=request["method"])
            return 500, _failure(request_id, INTERNAL_ERROR, repr(error), version_2=version_2)
        if version_2:
            return 200, {"jsonrpc": "2.0", "result": result, "id": request_id}
        return 200, {"result": result, "error": None, "id": request_id}


def _failure(request_id: object, code: int, message: str, *, version_2: bool = False) -> dict[str, Any]:
    error = {"code": code, "message": message}
    if version_2:
        return {"jsonrpc": "2.0", "error": error, "id": request_id}
    return {"result": None, "error": error, "id": request_id}


def _parse_head(head: bytes) -> tuple[str, dict[str, str]]:
    request, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    if not request.endswith(("HTTP/1.1", "HTTP/1.0")):
        raise _BadHttp(400)
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise _BadHttp(400)
        headers[name.strip().lower()] = value.strip()
    return request, headers


def _content_length(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        raise _BadHttp(400)
    text = headers.get("content-length", "0")
    if not (text.isascii() and text.isdigit()):
        raise _BadHttp(400)
    if int(text) > MAX_BODY_BYTES:
        raise _BadHttp(413)
    return int(text)
