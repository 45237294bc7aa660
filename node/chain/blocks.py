"""Reading blocks: header, transactions, and a quick look whether anything in them concerns us."""

from collections.abc import Iterable

from msgspec import Struct

from protocol.bitcoin.transaction import Reader, Transaction
from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256

HEADER_BYTES = 80


class Header(Struct, frozen=True):
    block_hash: bytes
    previous: bytes
    time: int


def header_of(raw: bytes) -> Header:
    """Raises MalformedMessage."""
    if len(raw) < HEADER_BYTES:
        raise MalformedMessage("a block is shorter than its header")
    head = raw[:HEADER_BYTES]
    return Header(double_sha256(head), head[4:36], int.from_bytes(head[68:72], "little"))


def transactions_of(raw: bytes) -> list[Transaction]:
    """Raises MalformedMessage unless `raw` is exactly one block."""
    reader = Reader(raw)
    reader.take(HEADER_BYTES)
    found = [reader.transaction() for _ in range(reader.compact())]
    if reader.left:
        raise MalformedMessage(f"{reader.left} bytes follow the block")
    return found


def concerns(raw: bytes, needles: Iterable[bytes]) -> bool:
    """Whether any of these scripts or outpoints may be in the block: far cheaper than to parse all of it."""
    return any(needle in raw for needle in needles)
