"""Transactions and their serialisation (BIP 144), ids and weights (BIP 141).

`Txid` bytes are in internal order (as they are hashed and sent); `txid_hex` and `parse_txid` convert to and
from the reversed text that people read.
"""

import struct
from dataclasses import dataclass
from functools import cached_property

from protocol.amounts import Sat
from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256

MAX_TRANSACTION_BYTES = 4_000_000


def txid_hex(txid: bytes) -> str:
    return txid[::-1].hex()


def parse_txid(text: str) -> bytes:
    """Raises ValueError unless the text is 64 hex digits."""
    if len(text) != 64:
        raise ValueError(f"{text!r} is not a transaction id: 64 hex digits are needed")
    return bytes.fromhex(text)[::-1]


def compact_size(value: int) -> bytes:
    if value < 0xFD:
        return bytes((value,))
    if value <= 0xFFFF:
        return b"\xfd" + struct.pack("<H", value)
    if value <= 0xFFFFFFFF:
        return b"\xfe" + struct.pack("<I", value)
    return b"\xff" + struct.pack("<Q", value)


def var_bytes(data: bytes) -> bytes:
    return compact_size(len(data)) + data


@dataclass(frozen=True, slots=True, order=True)
class OutPoint:
    txid: bytes
    index: int

    def serialize(self) -> bytes:
        return self.txid + self.index.to_bytes(4, "little")

    def __str__(self) -> str:
        return f"{txid_hex(self.txid)}:{self.index}"


@dataclass(frozen=True, slots=True)
class TxIn:
    outpoint: OutPoint
    script_sig: bytes = b""
    sequence: int = 0xFFFFFFFF
    witness: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class TxOut:
    value: Sat
    script_pubkey: bytes

    def serialize(self) -> bytes:
        return struct.pack("<q", self.value) + var_bytes(self.script_pubkey)


@dataclass(frozen=True)
class Transaction:
    version: int
    inputs: tuple[TxIn, ...]
    outputs: tuple[TxOut, ...]
    locktime: int = 0

    def serialize(self, *, witness: bool = True) -> bytes:
        """With `witness`, the BIP 144 form if any input has a witness; else the form that the txid hashes."""
        segwit = witness and any(i.witness for i in self.inputs)
        parts = [struct.pack("<i", self.version)]
        if segwit:
            parts.append(b"\x00\x01")
        parts.append(compact_size(len(self.inputs)))
        for i in self.inputs:
            parts.append(i.outpoint.serialize() + var_bytes(i.script_sig) + i.sequence.to_bytes(4, "little"))
        parts.append(compact_size(len(self.outputs)))
        parts.extend(o.serialize() for o in self.outputs)
        if segwit:
            for i in self.inputs:
                parts.append(compact_size(len(i.witness)))
                parts.extend(var_bytes(item) for item in i.witness)
        parts.append(self.locktime.to_bytes(4, "little"))
        return b"".join(parts)

    @cached_property
    def txid(self) -> bytes:
        return double_sha256(self.serialize(witness=False))

    @cached_property
    def wtxid(self) -> bytes:
        return double_sha256(self.serialize())

    @cached_property
    def weight(self) -> int:
        return 3 * len(self.serialize(witness=False)) + len(self.serialize())

    @property
    def vsize(self) -> int:
        return (self.weight + 3) // 4

    @classmethod
    def parse(cls, raw: bytes) -> "Transaction":
        """Raises MalformedMessage unless `raw` is exactly one transaction."""
        reader = Reader(raw)
        tx = reader.transaction()
        if reader.left:
            raise MalformedMessage(f"{reader.left} bytes follow the transaction")
        return tx


class Reader:
    """Reads Bitcoin's little-endian serialisation; anything short or oversized raises MalformedMessage."""

    __slots__ = ("_at", "_raw")

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._raw) - self._at

    @property
    def at(self) -> int:
        return self._at

    def take(self, count: int) -> bytes:
        end = self._at + count
        if count < 0 or end > len(self._raw):
            raise MalformedMessage(f"{count} bytes are needed, {self.left} are left")
        piece = self._raw[self._at : end]
        self._at = end
        return piece

    def integer(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def compact(self) -> int:
        first = self.integer(1)
        if first < 0xFD:
            return first
        size = {0xFD: 2, 0xFE: 4, 0xFF: 8}[first]
        value = self.integer(size)
        if value < (0xFD, 0x10000, 0x100000000)[(2, 4, 8).index(size)]:
            raise MalformedMessage("a length is not in its shortest form")
        return value

    def var_bytes(self) -> bytes:
        return self.take(self.compact())

    def _count(self, smallest: int) -> int:
        count = self.compact()
        if count * smallest > self.left:
            raise MalformedMessage(f"{count} items are announced, too many for the bytes that follow")
        return count

    def transaction(self) -> Transaction:
        version = int.from_bytes(self.take(4), "little", signed=True)
        segwit = self._raw[self._at : self._at + 2] == b"\x00\x01"
        if segwit:
            self.take(2)
        bare = []
        for _ in range(self._count(41)):
            outpoint = OutPoint(self.take(32), self.integer(4))
            bare.append((outpoint, self.var_bytes(), self.integer(4)))
        outputs = []
        for _ in range(self._count(9)):
            value = int.from_bytes(self.take(8), "little", signed=True)
            outputs.append(TxOut(Sat(value), self.var_bytes()))
        witnesses: list[tuple[bytes, ...]] = [()] * len(bare)
        if segwit:
            witnesses = [tuple(self.var_bytes() for _ in range(self._count(1))) for _ in bare]
            if not any(witnesses):
                raise MalformedMessage("a witness is announced and there is none")
        inputs = tuple(TxIn(o, s, q, w) for (o, s, q), w in zip(bare, witnesses, strict=True))
        return Transaction(version, inputs, tuple(outputs), self.integer(4))
