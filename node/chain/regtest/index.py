"""What the kernel cannot tell: coins, where a transaction is, who spent what; reorganisations step by step.

Everything is held in memory and rebuilt from the block files at start (some thousand blocks take a second).
"""

from bisect import insort
from dataclasses import dataclass

from protocol.bitcoin.transaction import OutPoint, Reader, Transaction, TxOut
from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256

COINBASE_MATURITY = 100
MEDIAN_TIME_SPAN = 11


@dataclass(frozen=True, slots=True)
class Coin:
    output: TxOut
    height: int
    coinbase: bool


@dataclass(frozen=True)
class Block:
    """A parsed block; `hash` in internal order."""

    raw: bytes
    hash: bytes
    transactions: tuple[Transaction, ...]

    @property
    def header(self) -> bytes:
        return self.raw[:80]

    @property
    def time(self) -> int:
        return int.from_bytes(self.raw[68:72], "little")

    @classmethod
    def parse(cls, raw: bytes) -> "Block":
        reader = Reader(raw)
        header = reader.take(80)
        transactions = tuple(reader.transaction() for _ in range(reader.compact()))
        if reader.left:
            raise MalformedMessage(f"{reader.left} bytes follow the block")
        return cls(raw, double_sha256(header), transactions)


@dataclass(frozen=True, slots=True)
class Entry:
    """One block of the active chain, with what is needed to take it off again."""

    hash: bytes
    header: bytes
    txids: tuple[bytes, ...]
    undo: tuple[tuple[OutPoint, Coin], ...]

    @property
    def time(self) -> int:
        return int.from_bytes(self.header[68:72], "little")


def is_unspendable(script_pubkey: bytes) -> bool:
    return script_pubkey[:1] == b"\x6a" or len(script_pubkey) > 10_000


class ChainIndex:
    """The active chain by height and hash, its unspent coins, and every transaction in it."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.coins: dict[OutPoint, Coin] = {}
        self._heights: dict[bytes, int] = {}
        self._places: dict[bytes, tuple[int, int]] = {}
        self._spenders: dict[OutPoint, bytes] = {}
        self._by_script: dict[bytes, dict[OutPoint, Coin]] = {}

    @property
    def height(self) -> int:
        return len(self.entries) - 1

    @property
    def tip_hash(self) -> bytes:
        return self.entries[-1].hash

    def height_of(self, block_hash: bytes) -> int | None:
        return self._heights.get(block_hash)

    def place_of(self, txid: bytes) -> tuple[int, int] | None:
        """Block height and position of a confirmed transaction."""
        return self._places.get(txid)

    def spender_of(self, outpoint: OutPoint) -> bytes | None:
        """The id of the confirmed transaction that spent this output."""
        return self._spenders.get(outpoint)

    def coins_of(self, script_pubkey: bytes) -> dict[OutPoint, Coin]:
        return self._by_script.get(script_pubkey, {})

    def median_time(self, height: int) -> int:
        """Median of the eleven block times that end at `height` (BIP 113)."""
        times: list[int] = []
        for entry in self.entries[max(0, height - MEDIAN_TIME_SPAN + 1) : height + 1]:
            insort(times, entry.time)
        return times[len(times) // 2]

    def _add(self, outpoint: OutPoint, coin: Coin) -> None:
        self.coins[outpoint] = coin
        self._by_script.setdefault(coin.output.script_pubkey, {})[outpoint] = coin

    def _remove(self, outpoint: OutPoint) -> Coin | None:
        coin = self.coins.pop(outpoint, None)
        if coin is not None:
            script_pubkey = coin.output.script_pubkey
            del self._by_script[script_pubkey][outpoint]
            if not self._by_script[script_pubkey]:
                del self._by_script[script_pubkey]
        return coin

    def connect(self, block: Block) -> None:
        height = len(self.entries)
        undo: list[tuple[OutPoint, Coin]] = []
        for position, tx in enumerate(block.transactions):
            self._places[tx.txid] = (height, position)
            if position:
                for spent in tx.inputs:
                    coin = self._remove(spent.outpoint)
                    if coin is None:
                        raise RuntimeError(f"the index lost the coin {spent.outpoint}")
                    undo.append((spent.outpoint, coin))
                    self._spenders[spent.outpoint] = tx.txid
            if height == 0:
                continue  # nobody can spend the output of the genesis block
            for n, output in enumerate(tx.outputs):
                if not is_unspendable(output.script_pubkey):
                    self._add(OutPoint(tx.txid, n), Coin(output, height, position == 0))
        txids = tuple(tx.txid for tx in block.transactions)
        self.entries.append(Entry(block.hash, block.header, txids, tuple(undo)))
        self._heights[block.hash] = height

    def disconnect(self, block: Block) -> None:
        """Takes off the tip, which must be `block`."""
        entry = self.entries.pop()
        if entry.hash != block.hash:
            raise RuntimeError("only the tip can be disconnected")
        del self._heights[entry.hash]
        undo = list(entry.undo)
        for tx in reversed(block.transactions):
            del self._places[tx.txid]
            for n in range(len(tx.outputs)):
                self._remove(OutPoint(tx.txid, n))
            if tx is not block.transactions[0]:
                for spent in reversed(tx.inputs):
                    outpoint, coin = undo.pop()
                    self._add(outpoint, coin)
                    del self._spenders[spent.outpoint]
