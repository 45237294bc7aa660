"""Blocks from a bitcoind, over its RPC and ZMQ notices (Bitcoin Core's RPC reference and doc/zmq.md).

btcd speaks nearly the same: what it lacks is found out by asking, done another way or said in `cannot`.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog
import zmq

from node.chain.backend import (
    FEE_ESTIMATES,
    MEMPOOL_SPENDS,
    OLD_BLOCKS,
    PACKAGES,
    BackendAway,
    BackendUnusable,
    BlockRef,
    Found,
    Outcome,
    Placed,
    Unspent,
    send_one_by_one,
)
from node.chain.bitcoind_answers import bytes_of, field, hash_of, is_missing, package_refusal
from node.chain.blocks import Interest, Looked, check_block, header_of, look_into, transactions_of
from node.chain.fees import per_kw
from node.chain.json_rpc import JsonRpc, RpcError
from node.chain.together import Together
from node.chain.txids import BlockTxids, joined_txids
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw, Sat
from protocol.bitcoin.network import Network
from protocol.bitcoin.transaction import OutPoint, Transaction, txid_hex
from protocol.bus.zmq_socket import LoopSocket
from protocol.errors import MalformedMessage

log = structlog.get_logger()
POLL_SECONDS = 10.0
WARMING_UP = -28
NOT_FOUND = -5
OUT_OF_RANGE = -8
ALREADY_IN_CHAIN = -27
MISC_ERROR = -1
REFUSALS = (-22, -25, -26)
HEADERS_AHEAD = 2
"""A block that was just announced may be under way; more of them, and the backend lags."""
SILENT_BLOCKS = 3
OUTPOINTS_AT_ONCE = 500
HEX_IN_THREAD = 200_000
"""Digits of a block from which it is worth a thread to look into it."""
ESTIMATEFEE_MOST = 25
FETCHED_AT_ONCE = 200
"""Spenders that are fetched in one look into the mempool; the others come with the next one."""
KNOWN = ("already", "missingorspent")
"""In what is said of a parent that may be in a block."""


class Bitcoind:
    """A login is `user:password`, or the path of the cookie file. `certificate`: see JsonRpc."""

    def __init__(
        self,
        url: str,
        *,
        network: Network,
        login: str | Path,
        zmq_endpoint: str = "",
        certificate: str = "",
        poll_seconds: float = POLL_SECONDS,
    ) -> None:
        self.name = "bitcoind"
        self.cannot: frozenset[str] = frozenset()
        self._network = network
        self._rpc = JsonRpc(url, lambda: _read_login(login), certificate=certificate)
        self._together = Together(lambda: self._rpc)
        self._txids = BlockTxids(self._together, self._block_with_txids)
        self._zmq_endpoint = zmq_endpoint
        self._poll_seconds = poll_seconds
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._link: LoopSocket | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._needles: frozenset[bytes] = frozenset()
        """Outpoints whose spending transaction is looked out for among the notices."""
        self._spenders: dict[bytes, Transaction] = {}
        self._missing: set[str] = set()
        """Methods that this server does not have."""
        self._last_tip = b""
        self._untold = 0
        """New blocks since the last notice of one."""
        self._poll: asyncio.TimerHandle | None = None

    async def check(self) -> None:
        genesis = hash_of(await self._call("getblockhash", 0))
        if genesis != self._network.chain_hash:
            raise BackendUnusable(
                f"{self.name} at {self._rpc.url} is not on {self._network.name}: its first block is "
                f"{txid_hex(genesis)}. Give the address of a bitcoind on {self._network.name}."
            )
        self._missing.clear()
        self._txids.clear()
        about = await self._optional("getnetworkinfo")
        self.name = self._rpc.server = "btcd" if about is None else "bitcoind"
        gaps = {PACKAGES} if about is None else set()
        info = await self._call("getblockchaininfo")
        if isinstance(info, dict) and info.get("pruned"):
            gaps.add(OLD_BLOCKS)
            if OLD_BLOCKS not in self.cannot:
                log.warning(
                    "chain_pruned", what_to_do="Old channels and coins cannot be searched: use prune=0."
                )
        self.cannot = frozenset(gaps)

    async def tip(self) -> BlockRef:
        info = await self._call("getblockchaininfo")
        height, block_hash = field(info, "blocks", int), hash_of(info.get("bestblockhash"))
        time = info.get("time")
        if not isinstance(time, int):
            time = field(await self._call("getblockheader", txid_hex(block_hash), True), "time", int)
        self._notice_silence(block_hash)
        self._txids.tip = height
        return BlockRef(BlockHeight(height), block_hash, time, self._why_behind(info, height))

    def _why_behind(self, info: dict[str, Any], height: int) -> str:
        headers = info.get("headers")
        if isinstance(headers, int) and headers > height + HEADERS_AHEAD:
            return f"{self.name} has {height} of {headers} blocks"
        # On regtest this only says that nobody has mined lately.
        if info.get("initialblockdownload") is True and self._network.name != "regtest":
            return f"{self.name} is still downloading the chain, at block {height}"
        return ""

    async def block_hash(self, height: int) -> bytes | None:
        try:
            return hash_of(await self._rpc.call("getblockhash", height))
        except RpcError as error:
            if error.code == OUT_OF_RANGE or "out of range" in error.message:
                return None
            raise self._explain(error) from error

    async def block(self, block_hash: bytes) -> bytes:
        return bytes_of(await self._call("getblock", txid_hex(block_hash), 0))

    async def look(self, height: int, block_hash: bytes, interest: Interest) -> Looked | None:
        """The whole block, or nothing but its header when it has none of the needles."""
        raw = await self._call("getblock", txid_hex(block_hash), 0, none_for=NOT_FOUND)
        if raw is None:
            return None
        with self._checking():
            if isinstance(raw, str) and len(raw) > HEX_IN_THREAD:
                # 4 MB of transactions take 100 ms: the loop goes on in between.
                return await asyncio.to_thread(lambda: look_into(bytes_of(raw), block_hash, interest))
            return look_into(bytes_of(raw), block_hash, interest)

    async def output_at(self, height: int, tx_index: int, output_index: int) -> Placed | None:
        """Only for an output that no block has spent: the others need the whole block, which nobody wants to wait for.

        Look-ups that come together go out together, and those in one block ask for its txids once.
        """
        try:
            txid = await self._txids.at(height, tx_index)
        except RpcError as error:
            raise self._explain(error) from error
        unspent = None if txid is None else await self.output_status(txid, output_index)
        if txid is None or unspent is None:
            return None
        return Placed(txid, unspent.value, unspent.script, True)

    async def _transactions_in(self, block_hash: bytes) -> list[Transaction]:
        raw = await self.block(block_hash)
        with self._checking():
            return await asyncio.to_thread(_checked_transactions, raw, block_hash)

    async def output_status(self, txid: bytes, index: int) -> Unspent | None:
        try:
            found = await self._together.ask("gettxout", txid_hex(txid), index, False)
        except RpcError as error:
            raise self._explain(error) from error
        if found is None:
            return None
        script = field(found, "scriptPubKey", dict)
        return Unspent(
            Sat(round(field(found, "value", (int, float)) * 100_000_000)),
            bytes_of(script.get("hex")),
            field(found, "confirmations", int),
            hash_of(found.get("bestblock")),
        )

    async def transaction(self, txid: bytes, height: int | None = None) -> Found | None:
        """Old ones are found with txindex=1, or in the block at `height`."""
        found = await self._call("getrawtransaction", txid_hex(txid), 1, none_for=NOT_FOUND)
        if found is None and height is not None:
            return await self._transaction_in(txid, height)
        if found is None:
            return None
        raw = self._right(txid, bytes_of(field(found, "hex", str))).serialize()
        if not found.get("blockhash"):
            return Found(raw, None)
        header = await self._call("getblockheader", found["blockhash"], True)
        return Found(raw, BlockHeight(field(header, "height", int)))

    async def _transaction_in(self, txid: bytes, height: int) -> Found | None:
        block_hash = await self.block_hash(height)
        if block_hash is None:
            return None
        tx = next((tx for tx in await self._transactions_in(block_hash) if tx.txid == txid), None)
        return None if tx is None else Found(tx.serialize(), BlockHeight(height))

    async def _block_with_txids(self, block_hash: bytes) -> bytes | None:
        """The txids of a block, joined; None when it is not known any more."""
        answer = await self._call("getblock", txid_hex(block_hash), 1, none_for=NOT_FOUND)
        if answer is None:
            return None
        with self._checking():
            return await asyncio.to_thread(joined_txids, answer, block_hash)

    def _right(self, txid: bytes, raw: bytes) -> Transaction:
        with self._checking():
            tx = Transaction.parse(raw)
            if tx.txid != txid:
                raise MalformedMessage(f"another transaction than {txid_hex(txid)}")
        return tx

    @contextmanager
    def _checking(self) -> Iterator[None]:
        """What does not hold together is a broken disk or a lie: it is not believed, and asked for again."""
        try:
            yield
        except MalformedMessage as error:
            raise BackendAway(
                f"{self.name} at {self._rpc.url} answers what cannot be: {error}. We do not believe it and ask again; "
                "if that lasts, check its disk and its log."
            ) from error

    # What the network is told, and what it asks.

    async def broadcast(self, raw: bytes) -> Outcome:
        try:
            await self._rpc.call("sendrawtransaction", raw.hex())
        except RpcError as error:
            if error.code == ALREADY_IN_CHAIN or "already" in error.message:
                return Outcome(True, "")
            if error.code in REFUSALS:
                return Outcome(False, error.message)
            raise self._explain(error) from error
        return Outcome(True, "")

    async def submit_package(self, parents: Sequence[bytes], child: bytes) -> Outcome:
        if PACKAGES in self.cannot:
            return await send_one_by_one(self.broadcast, parents, child)
        try:
            answer = await self._rpc.call("submitpackage", [raw.hex() for raw in (*parents, child)])
        except RpcError as error:
            if is_missing(error):
                self.cannot |= {PACKAGES}
                return await send_one_by_one(self.broadcast, parents, child)
            if error.code in REFUSALS:
                return Outcome(False, error.message)
            raise self._explain(error) from error
        reason, parent_errors = package_refusal(answer, txid_hex(Transaction.parse(child).txid))
        if reason and any(word in error for error in parent_errors for word in KNOWN):
            return await self.broadcast(child)  # a parent that is in a block is no part of a package any more
        return Outcome(not reason, reason)

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None:
        answer = await self._optional("estimatesmartfee", target_blocks)
        if answer is None:
            rate = await self._plain_estimate(target_blocks)
        else:
            rate = answer.get("feerate") if isinstance(answer, dict) else None
        return per_kw(rate)

    async def mempool_minimum(self) -> FeeratePerKw:
        info = await self._optional("getmempoolinfo")  # btcd's has no minimum in it
        return per_kw(info.get("mempoolminfee") if isinstance(info, dict) else None) or FEERATE_FLOOR

    async def _plain_estimate(self, target_blocks: int) -> Any:
        """btcd's own estimate, which it refuses to give until it has seen enough blocks and transactions."""
        try:
            answer = await self._optional("estimatefee", min(target_blocks, ESTIMATEFEE_MOST))
        except BackendUnusable:
            answer = None
        self.cannot = self.cannot - {FEE_ESTIMATES} if answer else self.cannot | {FEE_ESTIMATES}
        return answer

    # Spends in the mempool.

    async def mempool_spenders(self, watched: Mapping[OutPoint, bytes]) -> Sequence[Transaction]:
        """The server is asked who spends these outputs: its mempool itself is never read."""
        self._look_out_for(frozenset(outpoint.serialize() for outpoint in watched))
        asked = [{"txid": txid_hex(outpoint.txid), "vout": outpoint.index} for outpoint in watched]
        spenders: dict[bytes, None] = {}
        for first in range(0, len(asked), OUTPOINTS_AT_ONCE):
            rows = await self._optional("gettxspendingprevout", asked[first : first + OUTPOINTS_AT_ONCE])
            if rows is None:
                self.cannot |= {MEMPOOL_SPENDS}
                log.warning("no_mempool_watch", server=self.name, what_to_do="Use Bitcoin Core 24 or newer.")
                return ()
            for row in rows if isinstance(rows, list) else ():
                if isinstance(row, dict) and row.get("spendingtxid"):
                    spenders[hash_of(row["spendingtxid"])] = None
        self._spenders = {txid: tx for txid, tx in self._spenders.items() if txid in spenders}
        new = [txid for txid in spenders if txid not in self._spenders]
        if len(new) > FETCHED_AT_ONCE:
            log.warning("many_spends_in_mempool", count=len(new), fetched_now=FETCHED_AT_ONCE)
        for txid in new[:FETCHED_AT_ONCE]:
            raw = await self._call("getrawtransaction", txid_hex(txid), 0, none_for=NOT_FOUND)
            if raw is not None:  # it may have been replaced meanwhile
                self._spenders[txid] = self._right(txid, bytes_of(raw))
        return tuple(self._spenders.values())

    def _look_out_for(self, needles: frozenset[bytes]) -> None:
        """Notices of transactions are many: they are subscribed to only while some are waited for."""
        if self._socket is not None and bool(needles) != bool(self._needles):
            self._socket.setsockopt(zmq.SUBSCRIBE if needles else zmq.UNSUBSCRIBE, b"rawtx")
        self._needles = needles

    # Notices.

    def subscribe(self, changed: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()

        def heard(frames: list[bytes]) -> None:
            if frames[0] == b"hashblock":
                self._untold = 0
                changed()
            elif len(frames) > 1 and any(needle in frames[1] for needle in self._needles):
                changed()

        if self._zmq_endpoint:
            self._context = zmq.Context()
            self._socket = self._context.socket(zmq.SUB)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.setsockopt(zmq.SUBSCRIBE, b"hashblock")
            self._socket.connect(self._zmq_endpoint)
            self._link = LoopSocket(self._socket, heard)

        def poll() -> None:
            # Notices can be lost, or ZMQ may not be switched on: looking again finds every block in the end.
            changed()
            self._poll = loop.call_later(self._poll_seconds, poll)

        self._poll = loop.call_later(self._poll_seconds, poll)

    def _notice_silence(self, tip: bytes) -> None:
        """Blocks that only polling found, although notices were asked for. One may come before its notice."""
        if tip == self._last_tip:
            return
        self._last_tip = tip
        self._untold += 1
        if self._zmq_endpoint and self._untold == SILENT_BLOCKS:
            log.warning(
                "zmq_silent",
                endpoint=self._zmq_endpoint,
                poll_seconds=self._poll_seconds,
                what_to_do="Set zmqpubhashblock (and zmqpubrawtx) in bitcoin.conf to this address; until then we poll.",
            )

    async def close(self) -> None:
        if self._poll is not None:
            self._poll.cancel()
        self._together.close()
        if self._link is not None:
            self._link.close()
            self._socket = None
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
            raise self._explain(error) from error

    async def _optional(self, method: str, *params: Any) -> Any:
        """None when the server has no such method, which it is asked once."""
        if method in self._missing:
            return None
        try:
            return await self._rpc.call(method, *params)
        except RpcError as error:
            if not is_missing(error):
                raise self._explain(error) from error
            self._missing.add(method)
            return None

    def _explain(self, error: RpcError) -> BackendAway | BackendUnusable:
        if error.code == WARMING_UP:
            return BackendAway(f"{self.name} is starting: {error.message}. We try again.")
        if error.code == MISC_ERROR and "not fully downloaded" in error.message:
            return BackendAway(f"{self.name} has not downloaded a block yet that we need. We try again.")
        if error.code == MISC_ERROR and "prune" in error.message:
            return BackendUnusable(
                f"{self.name} has thrown away a block that this node has not read. "
                "Set prune=0 and reindex, or use another bitcoind."
            )
        return BackendUnusable(f"{self.name} says: {error}. See its log.")


def _checked_transactions(raw: bytes, block_hash: bytes) -> list[Transaction]:
    header, transactions = header_of(raw), transactions_of(raw)
    if header.block_hash != block_hash:
        raise MalformedMessage(f"another block than {txid_hex(block_hash)}")
    check_block(header, transactions)
    return transactions


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
