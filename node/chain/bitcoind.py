"""Blocks from a bitcoind, over its RPC and ZMQ notices (Bitcoin Core's RPC reference and doc/zmq.md)."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog
import zmq

from node.chain.backend import (
    BackendAway,
    BackendUnusable,
    BlockRef,
    Found,
    Outcome,
    Unspent,
)
from node.chain.blocks import Interest, Looked, look_into, transactions_of
from node.chain.json_rpc import JsonRpc, RpcError
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw, Sat
from protocol.bitcoin.network import Network
from protocol.bitcoin.transaction import Transaction, parse_txid, txid_hex
from protocol.bus.zmq_socket import LoopSocket

log = structlog.get_logger()
POLL_SECONDS = 10.0
WARMING_UP = -28
NOT_FOUND = -5
OUT_OF_RANGE = -8
ALREADY_IN_CHAIN = -27
MISC_ERROR = -1
REFUSALS = (-22, -25, -26)


class Bitcoind:
    """A login is `user:password`, or the path of the cookie file."""

    name = "bitcoind"

    def __init__(
        self,
        url: str,
        *,
        network: Network,
        login: str | Path,
        zmq_endpoint: str = "",
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.cannot: frozenset[str] = frozenset()
        self._network = network
        self._rpc = JsonRpc(url, lambda: _read_login(login))
        self._zmq_endpoint = zmq_endpoint
        self._poll_seconds = poll_seconds
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._link: LoopSocket | None = None
        self._poll: asyncio.TimerHandle | None = None

    async def check(self) -> None:
        genesis = _hash(await self._call("getblockhash", 0))
        if genesis != self._network.chain_hash:
            raise BackendUnusable(
                f"bitcoind at {self._rpc.url} is not on {self._network.name}: its first block is "
                f"{txid_hex(genesis)}. Give the address of a bitcoind on {self._network.name}."
            )
        info = await self._call("getblockchaininfo")
        if isinstance(info, dict) and info.get("pruned"):
            self.cannot = frozenset({"old blocks"})
            log.warning("chain_pruned", what_to_do="Old channels and coins cannot be searched: use prune=0.")

    async def tip(self) -> BlockRef:
        block_hash = _hash(await self._call("getbestblockhash"))
        header = await self._call("getblockheader", txid_hex(block_hash))
        return BlockRef(BlockHeight(_field(header, "height", int)), block_hash, _field(header, "time", int))

    async def block_hash(self, height: int) -> bytes | None:
        found = await self._call("getblockhash", height, none_for=OUT_OF_RANGE)
        return None if found is None else _hash(found)

    async def block(self, block_hash: bytes) -> bytes:
        return _bytes(await self._call("getblock", txid_hex(block_hash), 0))

    async def look(self, height: int, block_hash: bytes, interest: Interest) -> Looked | None:
        """The whole block, or nothing but its header when it has none of the needles."""
        return look_into(await self.block(block_hash), block_hash, interest)

    async def transaction_at(self, height: int, tx_index: int) -> Transaction | None:
        block_hash = await self.block_hash(height)
        if block_hash is None:
            return None
        transactions = transactions_of(await self.block(block_hash))
        return transactions[tx_index] if tx_index < len(transactions) else None

    async def output_status(self, txid: bytes, index: int) -> Unspent | None:
        found = await self._call("gettxout", txid_hex(txid), index, False)
        if found is None:
            return None
        script = _field(found, "scriptPubKey", dict)
        return Unspent(
            Sat(round(_field(found, "value", (int, float)) * 100_000_000)),
            _bytes(script.get("hex")),
            _field(found, "confirmations", int),
            _hash(found.get("bestblock")),
        )

    async def transaction(self, txid: bytes) -> Found | None:
        found = await self._call("getrawtransaction", txid_hex(txid), True, none_for=NOT_FOUND)
        if found is None:
            return None
        raw = _bytes(_field(found, "hex", str))
        if found.get("blockhash") is None:
            return Found(raw, None)
        header = await self._call("getblockheader", found["blockhash"])
        return Found(raw, BlockHeight(_field(header, "height", int)))

    async def broadcast(self, raw: bytes) -> Outcome:
        try:
            await self._rpc.call("sendrawtransaction", raw.hex())
        except RpcError as error:
            if error.code == ALREADY_IN_CHAIN or "already" in error.message:
                return Outcome(True, "")
            if error.code in REFUSALS:
                return Outcome(False, error.message)
            raise _explain(error) from error
        return Outcome(True, "")

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None:
        """bitcoind counts in BTC per 1000 virtual bytes, the BOLTs in satoshi per 1000 weight units."""
        answer = await self._call("estimatesmartfee", target_blocks)
        rate = answer.get("feerate") if isinstance(answer, dict) else None
        if not isinstance(rate, int | float) or rate <= 0:
            return None
        return FeeratePerKw(max(FEERATE_FLOOR, round(rate * 100_000_000 / 4)))

    def subscribe(self, changed: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        if self._zmq_endpoint:
            self._context = zmq.Context()
            socket = self._context.socket(zmq.SUB)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.SUBSCRIBE, b"hashblock")
            socket.connect(self._zmq_endpoint)
            self._link = LoopSocket(socket, lambda _frames: changed())

        def poll() -> None:
            # Notices can be lost, or ZMQ may not be switched on: looking again finds every block in the end.
            changed()
            self._poll = loop.call_later(self._poll_seconds, poll)

        self._poll = loop.call_later(self._poll_seconds, poll)

    async def close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
        if self._link is not None:
            self._link.close()
        if self._context is not None:
            self._context.term()
            self._context = None
        self._rpc.close()

    async def _call(self, method: str, *params: Any, none_for: int | None = None) -> Any:
        """JSON of unknown shape. The error code `none_for` is answered with None."""
        try:
            return await self._rpc.call(method, *params)
        except RpcError as error:
            if error.code == none_for:
                return None
            raise _explain(error) from error


def _read_login(login: str | Path) -> str:
    if isinstance(login, str):
        return login
    try:
        return login.read_text().strip()
    except FileNotFoundError as error:
        raise BackendAway(f"there is no cookie file {login}. Start bitcoind, or correct the path.") from error
    except OSError as error:
        raise BackendUnusable(
            f"the cookie file {login} cannot be read: {error.strerror}. Give this user the right to."
        ) from error


def _explain(error: RpcError) -> BackendAway | BackendUnusable:
    if error.code == WARMING_UP:
        return BackendAway(f"bitcoind is starting: {error.message}. We try again.")
    if error.code == MISC_ERROR and "prune" in error.message:
        return BackendUnusable(
            "bitcoind has thrown away a block that this node has not read. "
            "Set prune=0 and reindex, or use another bitcoind."
        )
    return BackendUnusable(f"bitcoind says: {error}. See its log.")


def _nonsense(what: str) -> BackendUnusable:
    return BackendUnusable(
        f"bitcoind answers {what} in a form that we do not know. Check its version (24 or newer)."
    )


def _field(answer: Any, name: str, kind: type | tuple[type, ...]) -> Any:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, kind):
        raise _nonsense(name)
    return value


def _hash(text: Any) -> bytes:
    try:
        return parse_txid(text)
    except (ValueError, TypeError) as error:
        raise _nonsense("a hash") from error


def _bytes(text: Any) -> bytes:
    try:
        return bytes.fromhex(text)
    except (ValueError, TypeError) as error:
        raise _nonsense("bytes") from error
