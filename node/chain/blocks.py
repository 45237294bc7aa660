"""Reading blocks: header, transactions, and a quick look whether anything in them concerns us."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from msgspec import Struct

from protocol.bitcoin.transaction import Reader, Transaction, txid_hex
from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256

HEADER_BYTES = 80


class Header(Struct, frozen=True):
    block_hash: bytes
    previous: bytes
    merkle_root: bytes
    time: int
    bits: int
    """The target of the proof of work, in its short form."""


class Interest(Struct, frozen=True):
    """What makes a transaction concern us, said twice: a backend uses the half that it can look for."""

    needles: frozenset[bytes]
    """A block without any of these bytes (scripts, outpoints) does not concern us."""
    scripts: frozenset[bytes]
    """All that concerns us pays to one of these scripts, or spends from it."""
    spends: AbstractSet[bytes] = frozenset()
    """Outpoints of others of which only the spending matters, serialised. It may grow while it is looked into."""


class Looked(Struct, frozen=True):
    """A block's header, and at least those of its transactions that concern us, in order, with their position."""

    header: Header
    transactions: tuple[tuple[int, Transaction], ...]
    spent: tuple[bytes, ...] = ()
    """Those of `Interest.spends` that it spends; from a backend with whole blocks alone."""


def header_of(raw: bytes) -> Header:
    """Raises MalformedMessage."""
    if len(raw) < HEADER_BYTES:
        raise MalformedMessage("a block is shorter than its header")
    head = raw[:HEADER_BYTES]
    time, bits = int.from_bytes(head[68:72], "little"), int.from_bytes(head[72:76], "little")
    return Header(double_sha256(head), head[4:36], head[36:68], time, bits)


def transactions_of(raw: bytes) -> list[Transaction]:
    """Raises MalformedMessage unless `raw` is exactly one block."""
    reader = Reader(raw)
    reader.take(HEADER_BYTES)
    found = [reader.transaction() for _ in range(reader.compact())]
    if reader.left:
        raise MalformedMessage(f"{reader.left} bytes follow the block")
    return found


def check_block(header: Header, transactions: list[Transaction]) -> None:
    """Raises MalformedMessage unless these are the transactions that the header commits to."""
    check_txids(header, [tx.txid for tx in transactions])


def check_txids(header: Header, txids: Sequence[bytes]) -> None:
    """The same for the ids of all its transactions, in order."""
    level = list(txids)
    if len(set(level)) != len(level):
        raise MalformedMessage(
            "a block has a transaction twice"
        )  # which can be done without changing the root
    while len(level) > 1:
        if len(level) % 2:
            level.append(level[-1])
        level = [double_sha256(level[at] + level[at + 1]) for at in range(0, len(level), 2)]
    if level != [header.merkle_root]:
        raise MalformedMessage(
            f"the transactions of block {txid_hex(header.block_hash)} are not those of its header"
        )


def concerns(raw: bytes, needles: Iterable[bytes]) -> bool:
    """Whether any of these scripts or outpoints may be in the block: far cheaper than to parse all of it."""
    return any(needle in raw for needle in needles)


def look_into(raw: bytes, block_hash: bytes, interest: Interest) -> Looked:
    """For a backend that has whole blocks. Raises MalformedMessage, also for another block."""
    header = header_of(raw)
    if header.block_hash != block_hash:
        raise MalformedMessage(f"the backend gave another block than {txid_hex(block_hash)}")
    spent = spent_in(raw, interest.spends) if interest.spends else ()
    if not concerns(raw, interest.needles):
        return Looked(header, (), spent)
    transactions = transactions_of(raw)
    check_block(header, transactions)
    return Looked(header, tuple(enumerate(transactions)), spent)


def spent_in(raw: bytes, wanted: AbstractSet[bytes]) -> tuple[bytes, ...]:
    """Which of these serialised outpoints the block spends. Raises MalformedMessage.

    A walk over the bytes: to make objects of all transactions costs several times as much.
    """
    found = []
    try:
        count, at = _compact(raw, HEADER_BYTES)
        for _ in range(count):
            at += 4
            segwit = raw[at] == 0  # the marker stands where the number of inputs would, which is never 0
            inputs, at = _compact(raw, at + 2 if segwit else at)
            for _ in range(inputs):
                outpoint = raw[at : at + 36]
                if outpoint in wanted:
                    found.append(outpoint)
                size, at = _compact(raw, at + 36)
                at += size + 4
            outputs, at = _compact(raw, at)
            for _ in range(outputs):
                size, at = _compact(raw, at + 8)
                at += size
            if segwit:
                for _ in range(inputs):
                    items, at = _compact(raw, at)
                    for _ in range(items):
                        size, at = _compact(raw, at)
                        at += size
            at += 4
    except IndexError as error:
        raise MalformedMessage("a block ends inside a transaction") from error
    if at != len(raw):
        raise MalformedMessage("a block ends before or after its last transaction")
    return tuple(found)


def _compact(raw: bytes, at: int) -> tuple[int, int]:
    """A compact size and what follows it."""
    first = raw[at]
    if first < 0xFD:
        return first, at + 1
    size = 1 << first - 0xFC
    return int.from_bytes(raw[at + 1 : at + 1 + size], "little"), at + 1 + size
