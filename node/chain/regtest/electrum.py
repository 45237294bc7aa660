"""The chain as an Electrum server: JSON-RPC, one line a message, on a loopback port (Electrum protocol 1.4)."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any, assert_never

import structlog

from node.chain.regtest import policy
from node.chain.regtest.chain import BlockConnected, BlockDisconnected, ChainEvent, TransactionAccepted
from node.chain.regtest.electrum_calls import (
    BAD_REQUEST,
    Calls,
    ElectrumError,
    header_view,
    parse_script_hash,
)
from node.chain.regtest.methods import Methods
from node.chain.regtest.rpc_values import METHOD_NOT_FOUND, RpcError
from node.chain.regtest.script_history import ScriptHistory
from node.chain.regtest.views import btc

log = structlog.get_logger(__name__)

VERSION = "lnp-regtest 0.1"
PROTOCOL = "1.4"
MAX_LINE = 4 * 1024 * 1024
MAX_BACKLOG = 16 * 1024 * 1024
"""Notices for a client that does not read them are not kept for ever."""


class ElectrumServer:
    """`start` listens and returns the port; `close` ends it. A listener for `RegtestChain.listeners`."""

    def __init__(self, methods: Methods) -> None:
        self._methods = methods
        self._chain = methods.chain
        self._history = ScriptHistory(self._chain)
        self._calls = Calls(methods, self._history)
        self._sessions: set[_Session] = set()
        self._server: asyncio.Server | None = None
        self._telling: asyncio.Handle | None = None

    async def start(self, port: int) -> int:
        self._chain.listeners.append(self)
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port, limit=MAX_LINE)
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        if self._server is None:
            return
        self._chain.listeners.remove(self)
        if self._telling is not None:
            self._telling.cancel()
        self._server.close()
        for session in list(self._sessions):
            session.writer.close()
        await self._server.wait_closed()

    def __call__(self, event: ChainEvent) -> None:
        match event:
            case BlockConnected():
                self._history.connected(event)
            case BlockDisconnected():
                self._history.disconnected(event)
            case TransactionAccepted():
                pass
            case _:
                assert_never(event)
        # Once for all that happens together: a reorganisation is not told block by block.
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = None
        for session in list(self._sessions):
            session.tell_changes()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session = _Session(self._calls, self._history, writer)
        self._sessions.add(session)
        try:
            while line := await reader.readline():
                session.answer(line)
                await writer.drain()
        except (ConnectionError, ValueError):
            pass  # the client went away, or sent a line without an end
        finally:
            self._sessions.discard(session)
            writer.close()


class _Session:
    """One client: its subscriptions, and what it was last told of each."""

    def __init__(self, calls: Calls, history: ScriptHistory, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self._calls = calls
        self._history = history
        self._told_tip: bytes | None = None
        self._told: dict[bytes, str | None] = {}
        self._table: dict[str, Callable[..., Any]] = {
            **calls.table(),
            "server.version": self._version,
            "server.features": self._features,
            "server.ping": lambda: None,
            "server.banner": lambda: "",
            "server.donation_address": lambda: "",
            "server.peers.subscribe": list,
            "blockchain.relayfee": lambda: btc(policy.MIN_RELAY_FEE_PER_KVB),
            "blockchain.headers.subscribe": self._subscribe_headers,
            "blockchain.scripthash.subscribe": self._subscribe_script,
            "blockchain.scripthash.unsubscribe": self._unsubscribe_script,
        }

    def answer(self, line: bytes) -> None:
        try:
            request = json.loads(line)
        except ValueError:
            self._send(_failure(None, -32700, "this line is no JSON"))
            return
        if isinstance(request, list):
            answers = [self._one(item) for item in request]
            self._send([answer for answer in answers if answer is not None])
        else:
            answer = self._one(request)
            if answer is not None:
                self._send(answer)

    def _one(self, request: Any) -> dict[str, Any] | None:
        if not isinstance(request, dict) or not isinstance(request.get("method"), str):
            return _failure(None, -32600, "a request is an object with a method")
        request_id, name = request.get("id"), request["method"]
        try:
            result = self._call(name, request.get("params") or [])
        except ElectrumError as error:
            return _failure(request_id, error.code, str(error))
        except RpcError as error:
            return _failure(request_id, BAD_REQUEST, f"daemon error: {error}")
        except Exception as error:
            # A bug of ours must answer this request and leave the chain running for the others.
            log.exception("electrum_call_failed", method=name)
            return _failure(request_id, -32603, repr(error))
        return {"jsonrpc": "2.0", "id": request_id, "result": result} if "id" in request else None

    def _call(self, name: str, params: Any) -> Any:
        method = self._table.get(name)
        if method is None:
            raise ElectrumError(METHOD_NOT_FOUND, f"unknown method {name!r}")
        return self._calls.bound(method, params, name)()

    def _send(self, message: Any) -> None:
        if self.writer.transport.get_write_buffer_size() > MAX_BACKLOG:
            self.writer.transport.abort()
        else:
            self.writer.write(json.dumps(message).encode() + b"\n")

    def tell_changes(self) -> None:
        if self._told_tip not in (None, self._calls.chain.tip_hash):
            self._notice("blockchain.headers.subscribe", [self._subscribe_headers()])
        for script_hash, told in list(self._told.items()):
            status = self._history.status(script_hash)
            if status != told:
                self._told[script_hash] = status
                self._notice("blockchain.scripthash.subscribe", [script_hash[::-1].hex(), status])

    def _notice(self, method: str, params: list[Any]) -> None:
        self._send({"jsonrpc": "2.0", "method": method, "params": params})

    # What needs the session

    def _version(self, client_name: str = "", protocol_version: str | Sequence[str] = PROTOCOL) -> list[str]:
        """One version, or a lowest and a highest one. 1.4 serves whoever would also take 1.4.2."""
        asked = [protocol_version] * 2 if isinstance(protocol_version, str) else list(protocol_version)
        numbers = [_numbers(version) for version in asked]
        if len(numbers) != 2 or not numbers[0] <= _numbers(PROTOCOL) <= (*numbers[1], 99):
            raise ElectrumError(
                BAD_REQUEST, f"unsupported protocol version {protocol_version}: use {PROTOCOL}"
            )
        return [VERSION, PROTOCOL]

    def _features(self) -> dict[str, Any]:
        return {
            "genesis_hash": self._calls.chain.index.entries[0].hash[::-1].hex(),
            "hosts": {},
            "protocol_max": PROTOCOL,
            "protocol_min": PROTOCOL,
            "pruning": None,
            "server_version": VERSION,
            "hash_function": "sha256",
        }

    def _subscribe_headers(self) -> dict[str, Any]:
        chain = self._calls.chain
        self._told_tip = chain.tip_hash
        return header_view(chain, chain.height)

    def _subscribe_script(self, scripthash: str) -> str | None:
        script_hash = parse_script_hash(scripthash)
        status = self._told[script_hash] = self._history.status(script_hash)
        return status

    def _unsubscribe_script(self, scripthash: str) -> bool:
        script_hash = parse_script_hash(scripthash)
        if script_hash not in self._told:
            return False
        del self._told[script_hash]
        return True


def _numbers(version: object) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in str(version).split("."))
    except ValueError:
        raise ElectrumError(BAD_REQUEST, f"{version!r} is no protocol version") from None


def _failure(request_id: object, code: int, message: str) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": message}}
