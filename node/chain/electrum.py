"""The chain from an Electrum server, believing only what it proves (Electrum protocol 1.4; `headers` has the proofs).

Headers prove themselves, and each transaction its place in a block. What cannot be proven is that nothing was left
out: a server may withhold a spend. Who has much to lose asks a bitcoind of their own, or a server of their own.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import structlog

from node.chain.backend import (
    NOTHING_LEFT_OUT,
    OTHERS_SPENDS,
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
from node.chain.blocks import HEADER_BYTES, Header, Interest, Looked
from node.chain.electrum_line import ElectrumLine, Place, ServerRefused
from node.chain.electrum_mempool import ElectrumMempool
from node.chain.fees import per_kw
from node.chain.headers import HeaderChain, LessWork, check_position, read_headers
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw
from protocol.bitcoin.network import Network
from protocol.bitcoin.transaction import OutPoint, Transaction, parse_txid, txid_hex
from protocol.errors import MalformedMessage
from protocol.hashes import sha256

log = structlog.get_logger()
POLL_SECONDS = 60.0
HEADERS_AT_ONCE = 2016
KEPT_PROOFS = 4096
TIP_NOTICE = "blockchain.headers.subscribe"
SCRIPT_NOTICE = "blockchain.scripthash.subscribe"
OLD_TIP_SECONDS = 3 * 3600
"""No block for so long happens once in many years: a server whose newest block is older has stopped."""
STEADY = ("mainnet", "signet")
"""On the other networks nobody may be mining."""
REFUSALS = (1, 2, -22, -25, -26)
"""What servers answer with when the network's rules refuse a transaction; other codes are troubles of their own."""
NOT_KNOWN = ("no such", "not found", "missing transaction")
MAX_HEIGHT = 1 << 31

History = dict[bytes, int]
"""The confirmed transactions of a script, with their height."""


class Electrum:
    """A ChainBackend. `look` asks for the histories of scripts, once for each tip, and for what is new in them."""

    name = "the Electrum server"

    def __init__(
        self,
        place: Place,
        *,
        network: Network,
        poll_seconds: float = POLL_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.cannot: frozenset[str] = frozenset({NOTHING_LEFT_OUT, OTHERS_SPENDS, PACKAGES})
        self._network = network
        self._clock = clock
        self._poll_seconds = poll_seconds
        self._line = ElectrumLine(place, heard=self._heard, lost=self._look_again)
        self._changed: Callable[[], None] | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._headers = HeaderChain()
        self._headers_lock = asyncio.Lock()
        self._asked_at: bytes = b""
        """The tip at which the histories below were asked for."""
        self._histories: dict[bytes, History] = {}
        self._statuses: dict[bytes, str] = {}
        self._by_height: dict[int, set[bytes]] = {}
        self._proven: dict[tuple[bytes, bytes], tuple[int, Transaction]] = {}
        self._mempool = ElectrumMempool(self._status, self._unconfirmed, self._get)

    async def check(self) -> None:
        first = await self._bytes("blockchain.block.header", 0)
        try:
            read_headers(first, 0, self._network)
        except MalformedMessage as error:
            raise BackendUnusable(
                f"the Electrum server at {self._line.place} is not on {self._network.name}: {error}. "
                f"Give the address of one that is on {self._network.name}."
            ) from error

    # Headers.

    async def tip(self) -> BlockRef:
        answer = await self._call(TIP_NOTICE)
        height = self._whole(answer.get("height") if isinstance(answer, dict) else None)
        async with self._headers_lock:
            await self._follow(height, self._hex(answer.get("hex")))
            top = BlockHeight(self._headers.high)
            header = self._known(top)
        behind = ""
        if self._network.name in STEADY and self._clock() - header.time > OLD_TIP_SECONDS:
            behind = f"the Electrum server's newest block, {top}, is more than three hours old"
        return BlockRef(top, header.block_hash, header.time, behind)

    async def _follow(self, height: int, raw: bytes) -> None:
        """Moves the window to the server's tip, over a fork as far back as the window reaches."""
        chain = self._headers
        announced = self._proof(read_headers, raw, height, self._network)
        if chain.high == height and announced == [chain.at(height)]:
            return
        if chain.high < 0:
            start = max(0, height - HEADERS_AT_ONCE + 1)
        else:
            start = min(chain.high + 1, height)
        step = 1
        while True:
            headers = await self._fetch(start, height)
            if chain.fits(start, headers):
                break
            if start <= chain.low:
                raise self._lie(f"a chain that leaves the known one before block {chain.low}")
            start, step = max(chain.low, start - step), step * 2
        try:
            chain.replace(start, headers)
        except LessWork as error:
            raise BackendAway(
                f"the Electrum server at {self._line.place} offers {error}. We wait until it has caught up; "
                "if that lasts, use another server."
            ) from error

    async def _fetch(self, start: int, end: int) -> list[Header]:
        """From `start` to `end`, both included."""
        headers: list[Header] = []
        while (first := start + len(headers)) <= end:
            count = min(HEADERS_AT_ONCE, end - first + 1)
            answer = await self._call("blockchain.block.headers", first, count)
            raw = self._hex(answer.get("hex") if isinstance(answer, dict) else None)
            if not raw or len(raw) > HEADER_BYTES * count:
                raise self._lie(f"not the headers {first} to {end} that it has announced")
            piece: list[Header] = self._proof(read_headers, raw, first, self._network)
            if headers and piece[0].previous != headers[-1].block_hash:
                raise self._lie(f"header {first} does not follow header {first - 1}")
            headers += piece
        return headers

    async def _header(self, height: int) -> Header | None:
        """From the window, which grows downwards as far as it is asked for."""
        async with self._headers_lock:
            chain = self._headers
            if 0 <= height < chain.low:
                headers = await self._fetch(height, chain.low - 1)
                self._proof(chain.prepend, height, headers)
            return chain.at(height)

    def _known(self, height: int) -> Header:
        header = self._headers.at(height)
        if header is None:
            raise BackendAway("no header of the chain is known yet. We try again.")
        return header

    async def block_hash(self, height: int) -> bytes | None:
        header = await self._header(height)
        return None if header is None else header.block_hash

    # Transactions in blocks.

    async def look(self, height: int, block_hash: bytes, interest: Interest) -> Looked | None:
        header = await self._header(height)
        if header is None or header.block_hash != block_hash:
            return None
        if not await self._ask_histories(interest.scripts):
            return None
        wanted = self._by_height.get(height, ())
        proven = await asyncio.gather(*(self._prove(txid, height, header) for txid in wanted))
        return Looked(header, tuple(sorted(proven, key=lambda placed: placed[0])))

    async def _ask_histories(self, scripts: frozenset[bytes]) -> bool:
        """False when the server's chain changed meanwhile: then the answers may be about another one."""
        tip = self._headers.high
        at = self._known(tip).block_hash
        if at != self._asked_at:
            asked: Iterable[bytes] = scripts
            for script in self._histories.keys() - scripts:
                del self._histories[script]
                self._statuses.pop(script, None)
        else:
            asked = scripts - self._histories.keys()
            if not asked:
                return True
        await asyncio.gather(*(self._ask_history(script) for script in asked))
        again = await self._bytes("blockchain.block.header", tip)
        if self._proof(read_headers, again, tip, self._network)[0].block_hash != at:
            self._asked_at = b""
            self._look_again()
            return False
        self._asked_at = at
        self._by_height = {}
        for history in self._histories.values():
            for txid, height in history.items():
                self._by_height.setdefault(height, set()).add(txid)
        return True

    async def _ask_history(self, script: bytes) -> None:
        """The status is a short answer; the history itself is asked for when it is another one."""
        script_hash = txid_hex(sha256(script))
        status = await self._status(script_hash)
        if status is None:
            self._histories[script] = {}
            self._statuses.pop(script, None)
        elif script not in self._histories or self._statuses.get(script) != status:
            self._histories[script], _, self._statuses[script] = await self._history(script_hash)

    async def _status(self, script_hash: str) -> str | None:
        status = await self._call(SCRIPT_NOTICE, script_hash)
        if status is not None and not isinstance(status, str):
            raise self._nonsense("a status")
        return status

    async def _unconfirmed(self, script_hash: str) -> tuple[frozenset[bytes], str]:
        _, pending, status = await self._history(script_hash)
        return pending, status

    async def _history(self, script_hash: str) -> tuple[History, frozenset[bytes], str]:
        """What is confirmed, what is not, and the status of both, which is not always the one told before."""
        answer = await self._call("blockchain.scripthash.get_history", script_hash)
        if not isinstance(answer, list):
            raise self._nonsense("a history")
        found: History = {}
        pending: set[bytes] = set()
        said = []
        for entry in answer:
            txid, height = (entry.get("tx_hash"), entry.get("height")) if isinstance(entry, dict) else ("", 0)
            if not isinstance(height, int):
                raise self._nonsense("a height")
            said.append(f"{txid}:{height}:")
            if height > 0:
                found[self._txid(txid)] = height
            else:  # 0 and -1: in the mempool
                pending.add(self._txid(txid))
        return found, frozenset(pending), sha256("".join(said).encode()).hex()

    async def _prove(self, txid: bytes, height: int, header: Header) -> tuple[int, Transaction]:
        """A transaction and its position in the block of this header."""
        known = self._proven.get((header.block_hash, txid))
        if known is not None:
            return known
        tx = await self._get(txid)
        if tx is None:
            raise self._lie(f"that {txid_hex(txid)} is in block {height}, but does not give it")
        answer = await self._call("blockchain.transaction.get_merkle", txid_hex(txid), height)
        if not isinstance(answer, dict):
            raise self._nonsense("a Merkle branch")
        return self._check(tx, answer.get("pos"), answer.get("merkle"), header)

    def _check(self, tx: Transaction, position: Any, merkle: Any, header: Header) -> tuple[int, Transaction]:
        if not isinstance(merkle, list):
            raise self._nonsense("a Merkle branch")
        branch = [self._txid(node) for node in merkle]
        placed = self._whole(position), tx
        self._proof(check_position, tx, placed[0], branch, header)
        if len(self._proven) >= KEPT_PROOFS:
            del self._proven[next(iter(self._proven))]
        self._proven[header.block_hash, tx.txid] = placed
        return placed

    async def _get(self, txid: bytes) -> Transaction | None:
        try:
            answer = await self._line.call("blockchain.transaction.get", txid_hex(txid))
        except ServerRefused as error:
            if any(words in error.message.lower() for words in NOT_KNOWN):
                return None
            raise self._explain(error) from error
        tx: Transaction = self._proof(Transaction.parse, self._hex(answer))
        if tx.txid != txid:
            raise self._lie(f"another transaction than {txid_hex(txid)}")
        return tx

    async def output_at(self, height: int, tx_index: int, output_index: int) -> Placed | None:
        tx = await self._transaction_at(height, tx_index)
        if tx is None or output_index >= len(tx.outputs):
            return None
        unspent = await self.output_status(tx.txid, output_index)
        output = tx.outputs[output_index]
        return Placed(tx.txid, output.value, output.script_pubkey, unspent is not None)

    async def _transaction_at(self, height: int, tx_index: int) -> Transaction | None:
        header = await self._header(height)
        if header is None:
            return None
        try:
            answer = await self._line.call("blockchain.transaction.id_from_pos", height, tx_index, True)
        except ServerRefused as error:
            if error.code == 1 or "no tx at position" in error.message:
                return None
            raise self._explain(error) from error
        if not isinstance(answer, dict):
            raise self._nonsense("a position")
        tx = await self._get(self._txid(answer.get("tx_hash")))
        if tx is None:
            raise self._lie(f"that block {height} has a transaction which it does not give")
        return self._check(tx, tx_index, answer.get("merkle"), header)[1]

    async def transaction(self, txid: bytes, height: int | None = None) -> Found | None:
        """Any server finds it by itself, so the hint is not needed."""
        tx = await self._get(txid)
        if tx is None:
            return None
        for output in tx.outputs:
            history, _, _ = await self._history(txid_hex(sha256(output.script_pubkey)))
            if txid in history:
                await self._prove_at(txid, history[txid])
                return Found(tx.serialize(), BlockHeight(history[txid]))
        return Found(tx.serialize(), None)

    async def _prove_at(self, txid: bytes, height: int) -> tuple[int, Transaction]:
        header = await self._header(height)
        if header is None:
            raise BackendAway("a block came while the chain was searched. We try again.")
        return await self._prove(txid, height, header)

    async def output_status(self, txid: bytes, index: int) -> Unspent | None:
        """From the history of its script: every transaction there is proven, and may be the spender."""
        tx = await self._get(txid)
        if tx is None or index >= len(tx.outputs):
            return None
        output, outpoint = tx.outputs[index], OutPoint(txid, index)
        top = self._headers.high
        at = self._known(top).block_hash
        history, _, _ = await self._history(txid_hex(sha256(output.script_pubkey)))
        height = history.get(txid)
        if height is None or height > top:
            return None
        placed = await asyncio.gather(*(self._prove_at(*entry) for entry in history.items()))
        if any(spent.outpoint == outpoint for _, other in placed for spent in other.inputs):
            return None
        return Unspent(output.value, output.script_pubkey, top - height + 1, at)

    # What the network is told, and what it asks.

    async def broadcast(self, raw: bytes) -> Outcome:
        try:
            answer = await self._line.call("blockchain.transaction.broadcast", raw.hex())
        except ServerRefused as error:
            if "already" in error.message:
                return Outcome(True, "")
            if error.code in REFUSALS:
                return Outcome(False, error.message)
            raise self._explain(error) from error
        if answer != txid_hex(self._proof(Transaction.parse, raw).txid):
            raise self._lie("another id than that of the transaction which we sent")
        return Outcome(True, "")

    async def submit_package(self, parents: Sequence[bytes], child: bytes) -> Outcome:
        return await send_one_by_one(self.broadcast, parents, child)

    async def mempool_spenders(self, watched: Mapping[OutPoint, bytes]) -> Sequence[Transaction]:
        return await self._mempool.spenders(watched)

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None:
        return per_kw(await self._call("blockchain.estimatefee", target_blocks))  # -1: it has none

    async def mempool_minimum(self) -> FeeratePerKw:
        """What the server always asks for; it does not tell how full its mempool is."""
        return per_kw(await self._call("blockchain.relayfee")) or FEERATE_FLOOR

    # Notices.

    def subscribe(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        loop = asyncio.get_running_loop()

        def poll() -> None:
            # Also the sign of life that keeps the line open, and the discovery that it is not.
            changed()
            self._poll = loop.call_later(self._poll_seconds, poll)

        self._poll = loop.call_later(self._poll_seconds, poll)

    def _heard(self, method: str) -> None:
        if method == TIP_NOTICE or (method == SCRIPT_NOTICE and self._mempool.is_used):
            self._look_again()

    def _look_again(self) -> None:
        if self._changed is not None:
            self._changed()

    async def close(self) -> None:
        self._changed = None
        if self._poll is not None:
            self._poll.cancel()
        await self._line.close()

    # Reading answers.

    async def _call(self, method: str, *params: Any) -> Any:
        try:
            return await self._line.call(method, *params)
        except ServerRefused as error:
            raise self._explain(error) from error

    async def _bytes(self, method: str, *params: Any) -> bytes:
        return self._hex(await self._call(method, *params))

    def _proof(self, check: Callable[..., Any], *arguments: Any) -> Any:
        """What `check` returns; what does not prove itself is treated as a lie."""
        try:
            return check(*arguments)
        except LessWork:
            raise
        except MalformedMessage as error:
            raise self._lie(str(error)) from error

    def _lie(self, what: str) -> BackendAway:
        log.warning("electrum_lie", server=str(self._line.place), what=what)
        return BackendAway(
            f"the Electrum server at {self._line.place} answers what it does not prove: {what}. "
            "We do not believe it and ask again; if that lasts, use another server."
        )

    def _nonsense(self, what: str) -> BackendAway:
        return self._lie(f"{what} in a form that we do not know")

    def _explain(self, error: ServerRefused) -> BackendAway:
        return BackendAway(
            f"the Electrum server at {self._line.place} says: {error.message} (code {error.code}). "
            "We try again; if that lasts, use another server."
        )

    def _whole(self, value: Any) -> int:
        if not isinstance(value, int) or not 0 <= value < MAX_HEIGHT:
            raise self._nonsense("a number")
        return value

    def _hex(self, text: Any) -> bytes:
        try:
            return bytes.fromhex(text)
        except (ValueError, TypeError) as error:
            raise self._nonsense("bytes") from error

    def _txid(self, text: Any) -> bytes:
        try:
            return parse_txid(text)
        except (ValueError, TypeError) as error:
            raise self._nonsense("a hash") from error
