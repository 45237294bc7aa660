"""Calls of bitcoind's RPC that come while another is under way go out as one (JSON-RPC 2.0, "Batch").

A full gossip sync asks for 50,000 outputs: one by one, each would wait for the answer to the one before.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

from node.chain.json_rpc import NO_BATCHES, JsonRpc, RpcError

log = structlog.get_logger()
MOST = 100


class Together:
    """`rpc` is asked each time: it may be another one after a change of server."""

    def __init__(self, rpc: Callable[[], JsonRpc]) -> None:
        self._rpc = rpc
        self._waiting: deque[tuple[str, tuple[Any, ...], asyncio.Future[Any]]] = deque()
        self._sending: asyncio.Task[None] | None = None
        self._alone = False
        """This server takes no batches."""

    async def ask(self, method: str, *params: Any) -> Any:
        """As JsonRpc.call; all our calls may be repeated."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((method, params, answer))
        if self._sending is None:
            self._sending = asyncio.get_running_loop().create_task(self._send())
        return await answer

    def close(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
        for _, _, answer in self._waiting:
            answer.cancel()
        self._waiting.clear()

    async def _send(self) -> None:
        piece: list[tuple[str, tuple[Any, ...], asyncio.Future[Any]]] = []
        try:
            while self._waiting:
                most = 1 if self._alone else MOST
                piece = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
                piece = [one for one in piece if not one[2].done()]
                if piece:
                    await self._send_piece(piece)
        except asyncio.CancelledError:
            for _, _, answer in piece:
                answer.cancel()
            raise
        finally:
            self._sending = None

    async def _send_piece(self, piece: list[tuple[str, tuple[Any, ...], asyncio.Future[Any]]]) -> None:
        """Every future of the piece is done after it."""
        found: list[Any]
        try:
            if len(piece) == 1:
                method, params, _ = piece[0]
                found = [await self._rpc().call(method, *params)]
            else:
                found = await self._rpc().batch([(method, params) for method, params, _ in piece])
        except Exception as error:
            if len(piece) > 1 and isinstance(error, RpcError) and error.code == NO_BATCHES:
                log.info("no_batches", server=self._rpc().server, reason=error.message)
                self._alone = True
                self._waiting.extendleft(reversed(piece))
                return
            found = [error] * len(piece)  # those who asked know what to make of it
        for (_, _, answer), outcome in zip(piece, found, strict=True):
            if answer.done():
                continue
            if isinstance(outcome, Exception):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
