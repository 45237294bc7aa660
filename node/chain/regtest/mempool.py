"""Unconfirmed transactions: acceptance, replacement (BIP 125 rules 2 to 5), and what a block does to them.

Package relay, ancestor limits and the version 3 topology rules are not here: a chain of unconfirmed parents
of any length is accepted, and each transaction pays its own minimum.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from node.chain.regtest import policy, script_policy
from node.chain.regtest.index import Block, ChainIndex, Coin
from node.chain.regtest.kernel import failing_input
from node.chain.regtest.policy import Rejected
from protocol.amounts import Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, txid_hex

MAX_REPLACED = 100
MAX_BIP125_SEQUENCE = 0xFFFFFFFD


@dataclass(frozen=True, slots=True)
class MempoolEntry:
    tx: Transaction
    fee: Sat
    time: int
    height: int

    @property
    def signals_replacement(self) -> bool:
        return self.tx.version == 3 or any(i.sequence <= MAX_BIP125_SEQUENCE for i in self.tx.inputs)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What acceptance would do: the entry, and the entries that it replaces."""

    entry: MempoolEntry
    replaced: tuple[bytes, ...]


class Mempool:
    """Entries by txid, parents before children. `full_rbf` as Core does since version 28."""

    def __init__(self, index: ChainIndex, *, full_rbf: bool = True) -> None:
        self._index = index
        self._full_rbf = full_rbf
        self.entries: dict[bytes, MempoolEntry] = {}
        self._spenders: dict[OutPoint, bytes] = {}

    def __contains__(self, txid: bytes) -> bool:
        return txid in self.entries

    def __iter__(self) -> Iterator[MempoolEntry]:
        return iter(self.entries.values())

    def spender_of(self, outpoint: OutPoint) -> bytes | None:
        return self._spenders.get(outpoint)

    def coin(self, outpoint: OutPoint) -> Coin | None:
        """A coin of the chain or of the mempool, spent in the mempool or not."""
        confirmed = self._index.coins.get(outpoint)
        if confirmed is not None:
            return confirmed
        parent = self.entries.get(outpoint.txid)
        if parent is None or outpoint.index >= len(parent.tx.outputs):
            return None
        return Coin(parent.tx.outputs[outpoint.index], self._index.height + 1, False)

    def parents_of(self, tx: Transaction) -> set[bytes]:
        return {i.outpoint.txid for i in tx.inputs if i.outpoint.txid in self.entries}

    def children_of(self, tx: Transaction) -> set[bytes]:
        outpoints = (OutPoint(tx.txid, n) for n in range(len(tx.outputs)))
        return {self._spenders[o] for o in outpoints if o in self._spenders}

    def ancestors_of(self, tx: Transaction) -> set[bytes]:
        found: set[bytes] = set()
        waiting = self.parents_of(tx)
        while waiting:
            txid = waiting.pop()
            if txid not in found:
                found.add(txid)
                waiting |= self.parents_of(self.entries[txid].tx)
        return found

    def with_descendants(self, txids: Iterable[bytes]) -> set[bytes]:
        found: set[bytes] = set()
        waiting = set(txids)
        while waiting:
            txid = waiting.pop()
            if txid not in found:
                found.add(txid)
                waiting |= self.children_of(self.entries[txid].tx)
        return found

    def examine(self, tx: Transaction, *, now: int, from_block: bool = False) -> Verdict:
        """Raises Rejected. A transaction `from_block` returns after a reorganisation without fee rules."""
        policy.check_sane(tx)
        policy.check_standard(tx)
        policy.check_final(tx, self._index)
        self._check_unknown(tx)
        conflicts = {self._spenders[i.outpoint] for i in tx.inputs if i.outpoint in self._spenders}
        if not self._full_rbf and not all(self.entries[txid].signals_replacement for txid in conflicts):
            raise Rejected("txn-mempool-conflict")
        coins = self._coins(tx)
        policy.check_sequence_locks(tx, coins, self._index)
        fee = policy.check_amounts(tx, coins, self._index)
        policy.check_inputs_standard(tx, coins)
        needed = policy.fee_at(policy.MIN_RELAY_FEE_PER_KVB, tx.vsize)
        if fee < needed and not from_block:
            raise Rejected("min relay fee not met", f"{fee} < {needed}")
        replaced = self._check_replacement(tx, fee, conflicts) if conflicts else set[bytes]()
        self._check_scripts(tx, coins)
        return Verdict(MempoolEntry(tx, fee, now, self._index.height), tuple(replaced))

    def accept(self, tx: Transaction, *, now: int, from_block: bool = False) -> Verdict:
        verdict = self.examine(tx, now=now, from_block=from_block)
        for txid in verdict.replaced:
            self._drop(txid)
        self.entries[tx.txid] = verdict.entry
        for spent in tx.inputs:
            self._spenders[spent.outpoint] = tx.txid
        return verdict

    def _check_unknown(self, tx: Transaction) -> None:
        known = self.entries.get(tx.txid)
        if known is not None:
            same = known.tx.wtxid == tx.wtxid
            raise Rejected("txn-already-in-mempool" if same else "txn-same-nonwitness-data-in-mempool")
        if any(OutPoint(tx.txid, n) in self._index.coins for n in range(len(tx.outputs))):
            raise Rejected("txn-already-known")

    def _coins(self, tx: Transaction) -> list[Coin]:
        coins = []
        for spent in tx.inputs:
            coin = self.coin(spent.outpoint)
            if coin is None:
                raise Rejected("bad-txns-inputs-missingorspent")
            coins.append(coin)
        return coins

    def _check_replacement(self, tx: Transaction, fee: int, conflicts: set[bytes]) -> set[bytes]:
        if not conflicts.isdisjoint(self.ancestors_of(tx)):
            raise Rejected("bad-txns-spends-conflicting-tx")
        head = f"rejecting replacement {txid_hex(tx.txid)}"
        for txid in conflicts:
            old = self.entries[txid]
            if fee * old.tx.vsize <= old.fee * tx.vsize:
                detail = f"new feerate {fee}/{tx.vsize} <= old feerate {old.fee}/{old.tx.vsize}"
                raise Rejected("insufficient fee", f"{head}; {detail}")
        known_parents = set[bytes]().union(*(self.parents_of(self.entries[txid].tx) for txid in conflicts))
        if not self.parents_of(tx) <= known_parents:
            raise Rejected("replacement-adds-unconfirmed")
        evicted = self.with_descendants(conflicts)
        if len(evicted) > MAX_REPLACED:
            detail = f"{head}; too many potential replacements ({len(evicted)} > {MAX_REPLACED})"
            raise Rejected("too many potential replacements", detail)
        old_fees = sum(self.entries[txid].fee for txid in evicted)
        if fee < old_fees:
            detail = f"{head}, less fees than conflicting txs; {fee} < {old_fees}"
            raise Rejected("insufficient fee", detail)
        bandwidth = policy.fee_at(policy.INCREMENTAL_FEE_PER_KVB, tx.vsize)
        if fee - old_fees < bandwidth:
            detail = f"{head}, not enough additional fees to relay; {fee - old_fees} < {bandwidth}"
            raise Rejected("insufficient fee", detail)
        return evicted

    def _check_scripts(self, tx: Transaction, coins: list[Coin]) -> None:
        spent = [coin.output for coin in coins]
        index = failing_input(tx, spent)
        if index is not None:
            where = f"input {index} of {txid_hex(tx.txid)}, spending {tx.inputs[index].outpoint}"
            raise Rejected("mandatory-script-verify-flag-failed (the script refuses this spend)", where)
        script_policy.check_scripts(tx, spent)

    def _drop(self, txid: bytes) -> None:
        entry = self.entries.pop(txid)
        for spent in entry.tx.inputs:
            del self._spenders[spent.outpoint]

    def connect(self, block: Block) -> None:
        """Forgets what the block holds and what it made impossible."""
        for tx in block.transactions[1:]:
            if tx.txid in self.entries:
                self._drop(tx.txid)
            conflicts = {self._spenders[i.outpoint] for i in tx.inputs if i.outpoint in self._spenders}
            for txid in self.with_descendants(conflicts):
                self._drop(txid)

    def revalidate(self, returned: Iterable[Transaction], *, now: int) -> None:
        """After a reorganisation: transactions of lost blocks come back first, then the old entries."""
        before = list(self.entries.values())
        self.entries.clear()
        self._spenders.clear()
        for tx in returned:
            self._try(tx, now)
        for entry in before:
            self._try(entry.tx, entry.time)

    def _try(self, tx: Transaction, now: int) -> None:
        try:
            self.accept(tx, now=now, from_block=True)
        except Rejected:
            pass  # it lost its coins, or it is confirmed again

    def save(self, path: Path) -> None:
        rows = [[entry.tx.serialize().hex(), entry.time] for entry in self]
        part = path.with_suffix(".part")
        part.write_text(json.dumps(rows))
        os.replace(part, path)

    def load(self, path: Path) -> None:
        """Offers each saved transaction again; those that the chain no longer allows are left out."""
        if not path.exists():
            return
        for raw, time in json.loads(path.read_text()):
            self._try(Transaction.parse(bytes.fromhex(raw)), int(time))
