"""Watches chain and mempool for revoked commitments that the file knows, and punishes them (BOLT 5, "Revoked
Transaction Close Handling"; checklist 50). It needs neither node nor signer, and no key.
"""

from collections.abc import Callable, Iterable
from typing import Protocol

from node.tower.lines import Book
from protocol.bitcoin.transaction import OutPoint, Transaction, txid_hex
from protocol.errors import MalformedMessage

REORG_DEPTH = 6
WATCHED_BLOCKS = 2016
"""So long a published commitment is fought for: the longest delay that a peer may have to wait."""
_KNOWN = (
    "already in mempool",
    "already-in-mempool",
    "already-known",
    "already in block chain",
    "already in utxo",
)


class Chain(Protocol):
    """Transaction ids are in the order of the bytes. Raises `ChainAway`."""

    def height(self) -> int: ...

    def block(self, height: int) -> Iterable[bytes]:
        """The ids of its transactions."""

    def mempool(self) -> Iterable[bytes]: ...

    def send(self, raw: bytes) -> str:
        """Empty when it was taken, else why it was not."""


class ChainAway(Exception):
    """The chain does not answer now."""


class Case:
    """A revoked commitment that was published. `choices`: transactions that spend the same outputs stand together, the
    highest fee first; those that spend many come before those that spend one."""

    def __init__(self, txid: bytes, raws: Iterable[bytes], seen_at: int) -> None:
        self.txid = txid
        self.seen_at = seen_at
        self.taken: set[bytes] = set()
        together: dict[frozenset[OutPoint], list[tuple[int, bytes]]] = {}
        for raw in raws:
            try:
                tx = Transaction.parse(raw)
            except MalformedMessage:
                continue
            inputs = frozenset(spend.outpoint for spend in tx.inputs)
            together.setdefault(inputs, []).append((sum(out.value for out in tx.outputs), raw))
        # What pays us less pays the miners more.
        self.choices = sorted(
            ((inputs, [raw for _, raw in sorted(found)]) for inputs, found in together.items()),
            key=lambda choice: -len(choice[0]),
        )


class Watcher:
    """`look` is called again and again, and does what is due. `back`: how many blocks are read at the start."""

    def __init__(self, book: Book, chain: Chain, tell: Callable[[str], None], *, back: int = 144) -> None:
        self._book = book
        self._chain = chain
        self._tell = tell
        self._back = back
        self._next: int | None = None
        self._seen: set[bytes] = set()
        self.cases: dict[bytes, Case] = {}

    def look(self) -> None:
        """Raises ChainAway, and OSError for the file; called again it goes on."""
        grown = self._book.refresh()
        height = self._chain.height()
        first = max(0, height - self._back) if self._next is None else max(0, self._next - REORG_DEPTH)
        if grown and self._next is not None:
            first = max(0, min(first, height - self._back))  # a line may come after its commitment
        moved = self._next is None or height >= self._next
        found = False
        if moved or grown:
            for number in range(first, height + 1):
                found |= self._recognise(self._chain.block(number), height)
        pool = set(self._chain.mempool())
        found |= self._recognise(pool if grown else pool - self._seen, height)
        if moved or found:
            for case in list(self.cases.values()):
                self._punish(case)
                if height > case.seen_at + WATCHED_BLOCKS:
                    del self.cases[case.txid]
        self._seen, self._next = pool, height + 1

    def _recognise(self, txids: Iterable[bytes], height: int) -> bool:
        found = False
        for txid in txids:
            if txid not in self._book or txid in self.cases:
                continue
            penalties = self._book.penalties(txid)
            if penalties:
                self.cases[txid] = Case(txid, penalties, height)
                self._tell(f"a revoked commitment was published: {txid_hex(txid)}")
                found = True
        return found

    def _punish(self, case: Case) -> None:
        """All outputs at once where that is possible; what the cheat has moved leaves one by one."""
        covered: set[OutPoint] = set()
        for inputs, raws in case.choices:
            if inputs & covered:
                continue
            for raw in raws:
                reason = self._chain.send(raw)
                if reason and not any(word in reason.lower() for word in _KNOWN):
                    continue
                covered |= inputs
                txid = Transaction.parse(raw).txid
                if txid not in case.taken:
                    case.taken.add(txid)
                    self._tell(f"sent {txid_hex(txid)}, which takes {len(inputs)} of its outputs")
                break
