"""One client of the socket: requests in, one reply each, in the order in which they are done (JSON-RPC 2.0).

A request runs as a task, so that a slow one holds up nobody. What cannot be parsed ends the connection, since
nobody knows where the next request would start.
"""

import asyncio
import select
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import msgspec

from node.rpc.encode import encode
from node.rpc.errors import Code, RpcError
from node.rpc.stream import MAX_REQUEST, JsonStream, NotJson, TooLarge

MAX_PENDING = 1000
"""A client that has asked this much is read no further until something is answered."""
Answer = Callable[[dict[str, Any]], Coroutine[Any, Any, Any]]
Run = Callable[[Coroutine[Any, Any, None]], "asyncio.Task[None]"]


class Connection(asyncio.Protocol):
    def __init__(
        self,
        answer: Answer,
        *,
        run: Run,
        ends_with_caller: Callable[[dict[str, Any]], bool],
        opened: Callable[["Connection"], None],
        closed: Callable[["Connection"], None],
    ) -> None:
        self._answer = answer
        self._run = run
        self._ends_with_caller = ends_with_caller
        self._opened = opened
        self._closed = closed
        self._stream = JsonStream()
        self._watching: set[asyncio.Task[None]] = set()
        self._pending = 0
        self._last_request_seen = False
        self._transport: asyncio.Transport | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - for the type checker
        self._transport = transport
        self._opened(self)

    def pause_writing(self) -> None:
        self._may_write.clear()

    def resume_writing(self) -> None:
        self._may_write.set()

    def connection_lost(self, _exc: Exception | None) -> None:
        """What was asked goes on, since it may move money; what only watches ends."""
        self._transport = None
        self._may_write.set()
        for task in self._watching:
            task.cancel()
        self._closed(self)

    def eof_received(self) -> bool:
        """A client may close its half and read on: the answers still go out. One that is gone is let go."""
        self._last_request_seen = True
        return self._pending > 0 and not self._is_gone()

    def _is_gone(self) -> bool:
        if self._transport is None:
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), 0)
        return any(events & select.POLLHUP for _, events in poll.poll(0))

    def data_received(self, data: bytes) -> None:
        try:
            texts = self._stream.feed(data)
        except NotJson:
            self._refuse_and_close(
                Code.PARSE_ERROR, "this is not a JSON object; send {…} and nothing between"
            )
            return
        except TooLarge:
            self._refuse_and_close(Code.INVALID_REQUEST, f"a request has at most {MAX_REQUEST} bytes")
            return
        for text in texts:
            try:
                request = msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
                self._refuse_and_close(Code.PARSE_ERROR, f"this is not JSON: {error}")
                return
            self._start(request)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _start(self, request: dict[str, Any]) -> None:
        request_id = request.get("id")
        if isinstance(request_id, bool) or not isinstance(request_id, str | int):
            self._reply(
                None, RpcError(Code.INVALID_REQUEST, "a request needs an id, a string or a whole number")
            )
            return
        self._pending += 1
        if self._pending >= MAX_PENDING and self._transport is not None:
            self._transport.pause_reading()
        task = self._run(self._serve(request, request_id))
        task.add_done_callback(self._ended)
        if self._ends_with_caller(request):
            self._watching.add(task)

    async def _serve(self, request: dict[str, Any], request_id: str | int) -> None:
        try:
            outcome = await self._answer(request)
            if not isinstance(outcome, AsyncIterator):
                self._reply(request_id, msgspec.Raw(await encode(outcome)))
                return
            async for item in outcome:
                self._reply(request_id, item)
                # A caller that does not read holds up its own stream, and nobody's memory.
                await self._may_write.wait()
        except RpcError as error:
            self._reply(request_id, error)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._watching.discard(task)
        self._pending -= 1
        if self._transport is None:
            return
        if self._pending == 0 and self._last_request_seen:
            self._transport.close()
        elif self._pending == MAX_PENDING - 1:
            self._transport.resume_reading()

    def _reply(self, request_id: str | int | None, outcome: Any) -> None:
        if self._transport is None:
            return
        reply: dict[str, Any] = {"jsonrpc": "2.0", "id": request_id}
        # Some clients take the mere presence of "error" for a failure.
        if isinstance(outcome, RpcError):
            reply["error"] = outcome.to_json()
        else:
            reply["result"] = outcome
        self._transport.write(msgspec.json.encode(reply) + b"\n\n")

    def _refuse_and_close(self, code: Code, message: str) -> None:
        self._reply(None, RpcError(code, message))
        self.close()
