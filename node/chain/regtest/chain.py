"""`RegtestChain`: a whole regtest chain in one object, for tests in process and for `lnp-regtest`.

Not possible with the kernel: invalidateblock. `reorg` mines a longer branch instead, which is what a network
would do.
"""

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from node.chain.regtest import faucet, package, template
from node.chain.regtest.index import Block, ChainIndex, Coin
from node.chain.regtest.kernel import BlockRefused, Kernel
from node.chain.regtest.mempool import Mempool
from node.chain.regtest.miner import build_block
from node.chain.regtest.policy import Rejected
from protocol.amounts import Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, TxOut
from protocol.errors import MalformedMessage

FIRST_BLOCKS = 110


@dataclass(frozen=True, slots=True)
class BlockConnected:
    block: Block
    height: int
    is_tip: bool
    """False for all but the last block of a reorganisation's new branch."""


@dataclass(frozen=True, slots=True)
class BlockDisconnected:
    block: Block
    height: int


@dataclass(frozen=True, slots=True)
class TransactionAccepted:
    tx: Transaction


ChainEvent = BlockConnected | BlockDisconnected | TransactionAccepted


def _now() -> int:
    return int(time.time())


class RegtestChain:
    """Kernel, index, mempool, miner and faucet over one data directory. Not for use from two threads."""

    def __init__(
        self,
        datadir: Path | str,
        *,
        first_blocks: int = FIRST_BLOCKS,
        full_rbf: bool = True,
        clock: Callable[[], int] = _now,
    ) -> None:
        self._datadir = Path(datadir)
        self._clock = clock
        self._tags = itertools.count(time.time_ns())
        self.listeners: list[Callable[[ChainEvent], None]] = []
        self._kernel = Kernel(self._datadir)
        self.index = ChainIndex()
        self.mempool = Mempool(self.index, full_rbf=full_rbf)
        self.block_floor = 0
        """What a package must pay to be mined, in sat per 1000 virtual bytes."""
        for height in range(self._kernel.height + 1):
            self.index.connect(Block.parse(self._kernel.block_at(height)))
        self.mempool.load(self._datadir / "mempool.json")
        if self.height < first_blocks:
            self.generate(first_blocks - self.height)

    def __enter__(self) -> "RegtestChain":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Saves the mempool and lets go of the data directory."""
        self.mempool.save(self._datadir / "mempool.json")
        self._kernel.close()

    @property
    def height(self) -> int:
        return self.index.height

    @property
    def tip_hash(self) -> bytes:
        return self.index.tip_hash

    def block(self, height: int) -> Block:
        """Raises IndexError outside the chain."""
        if not 0 <= height <= self.height:
            raise IndexError(f"the chain has blocks 0 to {self.height}, not {height}")
        return Block.parse(self._kernel.block_at(height))

    def block_by_hash(self, block_hash: bytes) -> Block | None:
        height = self.index.height_of(block_hash)
        return None if height is None else self.block(height)

    def transaction(self, txid: bytes) -> Transaction | None:
        """From the mempool or the chain."""
        if txid in self.mempool:
            return self.mempool.entries[txid].tx
        place = self.index.place_of(txid)
        return None if place is None else self.block(place[0]).transactions[place[1]]

    def confirmations(self, txid: bytes) -> int:
        """0 in the mempool and for an unknown transaction."""
        place = self.index.place_of(txid)
        return 0 if place is None else self.height - place[0] + 1

    def coin(self, outpoint: OutPoint, *, include_mempool: bool = True) -> Coin | None:
        """An unspent output, as gettxout sees it."""
        if not include_mempool:
            return self.index.coins.get(outpoint)
        if self.mempool.spender_of(outpoint) is not None:
            return None
        return self.mempool.coin(outpoint)

    def submit(self, raw: bytes | Transaction) -> bytes:
        """The txid of a transaction that the mempool took; raises Rejected with Core's reason."""
        if isinstance(raw, Transaction):
            tx = raw
        else:
            try:
                tx = Transaction.parse(raw)
            except MalformedMessage as error:
                raise Rejected("TX decode failed", str(error)) from error
        self.mempool.accept(tx, now=self._clock())
        self._tell(TransactionAccepted(tx))
        return tx.txid

    def submit_package(
        self, transactions: Sequence[Transaction], *, max_feerate: int = 0
    ) -> package.PackageResult:
        """A child and its parents, parents first, judged by what they pay together."""
        before = set(self.mempool.entries)
        result = package.submit(self.mempool, transactions, now=self._clock(), max_feerate=max_feerate)
        for tx in transactions:
            if tx.txid in self.mempool and tx.txid not in before:
                self._tell(TransactionAccepted(tx))
        return result

    def test_package(self, transactions: Sequence[Transaction]) -> list[package.PackageMember]:
        """What would be said of them, one after the other. Raises Rejected."""
        return package.probe(self.mempool, transactions, now=self._clock())

    def would_accept(self, tx: Transaction) -> Sat:
        """The fee of a transaction that the mempool would take; raises Rejected."""
        return self.mempool.examine(tx, now=self._clock()).entry.fee

    def pay(self, outputs: Sequence[TxOut], *, fee_per_vb: int = faucet.FEE_PER_VB) -> Transaction:
        """A payment by the faucet, in the mempool; the outputs stand in this order, change last."""
        tx = self.prepare(outputs, fee_per_vb=fee_per_vb)
        self.submit(tx)
        return tx

    def prepare(self, outputs: Sequence[TxOut], *, fee_per_vb: int = faucet.FEE_PER_VB) -> Transaction:
        """A payment by the faucet that is not submitted; its coins are not reserved."""
        return faucet.payment(self.index, self.mempool, list(outputs), fee_per_vb=fee_per_vb)

    def fund(self, script_pubkey: bytes, amount: Sat) -> OutPoint:
        """Coins for a test: an unconfirmed output of the faucet. Mine a block to confirm it."""
        return OutPoint(self.pay([TxOut(amount, script_pubkey)]).txid, 0)

    def generate(
        self, count: int, script_pubkey: bytes | None = None, *, time: int | None = None
    ) -> list[bytes]:
        """Mines `count` blocks with what the mempool holds; their hashes."""
        return [
            self._mine(script_pubkey, template.choose(self.mempool, floor=self.block_floor), time)
            for _ in range(count)
        ]

    def generate_block(
        self,
        transactions: Sequence[Transaction],
        script_pubkey: bytes | None = None,
        *,
        time: int | None = None,
    ) -> bytes:
        """One block with exactly these transactions, past any policy. Raises BlockRefused."""
        return self._mine(script_pubkey, list(transactions), time)

    def submit_block(self, raw: bytes) -> bytes:
        """A block from elsewhere. Raises BlockRefused or MalformedMessage."""
        block = Block.parse(raw)
        self._kernel.submit(raw)
        self._follow()
        return block.hash

    def reorg(
        self, depth: int, count: int | None = None, transactions: Sequence[Transaction] = ()
    ) -> list[bytes]:
        """Replaces the last `depth` blocks by `count` (one more, if not given) without their transactions.

        What was confirmed there returns to the mempool, unless `transactions`, which the first new block
        holds, spends the same coins. Returns the new hashes.
        """
        count = depth + 1 if count is None else count
        if not 0 < depth <= self.height:
            raise ValueError(f"a reorganisation can replace 1 to {self.height} blocks, not {depth}")
        if count <= depth:
            raise ValueError(f"the new branch needs more than {depth} blocks to win")
        fork = self.height - depth
        previous, hashes = self.index.entries[fork].hash, []
        block_time = self.index.entries[-1].time + 1
        fees = self._fees_at(fork, transactions)
        for n in range(count):
            chosen, due = (transactions, fees) if n == 0 else ((), 0)
            raw = build_block(
                previous,
                fork + 1 + n,
                block_time + n,
                faucet.SCRIPT_PUBKEY,
                chosen,
                fees=due,
                tag=self._next_tag(),
            )
            previous = self.submit_block(raw)
            hashes.append(previous)
        return hashes

    def _fees_at(self, height: int, transactions: Sequence[Transaction]) -> int:
        """Fees that a block after `height` may claim for transactions whose coins exist there or in them."""
        created = {OutPoint(tx.txid, n): o for tx in transactions for n, o in enumerate(tx.outputs)}
        undone = {o: c.output for entry in self.index.entries[height + 1 :] for o, c in entry.undo}
        fees = 0
        for tx in transactions:
            for spent in tx.inputs:
                coin = self.mempool.coin(spent.outpoint)
                output = coin.output if coin else undone.get(spent.outpoint) or created.get(spent.outpoint)
                fees += output.value if output else 0
            fees -= sum(output.value for output in tx.outputs)
        return max(fees, 0)

    def _next_tag(self) -> bytes:
        return next(self._tags).to_bytes(8, "little")

    def _mine(self, script_pubkey: bytes | None, transactions: list[Transaction], time: int | None) -> bytes:
        if time is None:
            time = max(self._clock(), self.index.median_time(self.height) + 1)
        raw = build_block(
            self.tip_hash,
            self.height + 1,
            time,
            faucet.SCRIPT_PUBKEY if script_pubkey is None else script_pubkey,
            transactions,
            fees=self._fees_at(self.height, transactions),
            tag=self._next_tag(),
        )
        return self.submit_block(raw)

    def _follow(self) -> None:
        """Brings index and mempool to the kernel's tip: off the old branch, then along the new."""
        lost: list[Transaction] = []
        reorganised = False
        while self.height > self._kernel.height or self.tip_hash != self._kernel.hash_at(self.height):
            block = self._stored(self.index.entries[-1].hash)
            self.index.disconnect(block)
            reorganised = True
            lost[:0] = block.transactions[1:]
            self._tell(BlockDisconnected(block, self.height + 1))
        while self.height < self._kernel.height:
            block = Block.parse(self._kernel.block_at(self.height + 1))
            self.index.connect(block)
            self.mempool.connect(block)
            self._tell(BlockConnected(block, self.height, self.height == self._kernel.height))
        if reorganised:
            self.mempool.revalidate(lost, now=self._clock())

    def _stored(self, block_hash: bytes) -> Block:
        return Block.parse(self._kernel.block_with(block_hash))

    def _tell(self, event: ChainEvent) -> None:
        for listener in self.listeners:
            listener(event)


__all__ = [
    "BlockConnected",
    "BlockDisconnected",
    "BlockRefused",
    "ChainEvent",
    "RegtestChain",
    "Rejected",
    "TransactionAccepted",
]
