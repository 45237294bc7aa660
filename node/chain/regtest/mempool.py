"""Unconfirmed transactions: acceptance, alone or in a group, eviction, and what a block does to them.

The rules stand beside it: `policy` and `script_policy` for one transaction, `topology` for its family, `replacement`
for what it conflicts with, `fee_market` for what it must pay, `package` for several that are offered together.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.chain.regtest import policy, replacement, script_policy, topology
from node.chain.regtest.fee_market import FeeMarket, score
from node.chain.regtest.index import Block, ChainIndex, Coin
from node.chain.regtest.kernel import failing_input
from node.chain.regtest.policy import Rejected
from protocol.amounts import Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, txid_hex

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


@dataclass(frozen=True, slots=True)
class GroupVerdict:
    entries: tuple[MempoolEntry, ...]
    replaced: tuple[bytes, ...]


class Mempool:
    """Entries by txid, parents before children. `full_rbf` as Core does since version 28."""

    def __init__(self, index: ChainIndex, *, full_rbf: bool = True) -> None:
        self._index = index
        self._full_rbf = full_rbf
        self.market = FeeMarket()
        self.entries: dict[bytes, MempoolEntry] = {}
        self._spenders: dict[OutPoint, bytes] = {}

    def __contains__(self, txid: bytes) -> bool:
        return txid in self.entries

    def __iter__(self) -> Iterator[MempoolEntry]:
        return iter(self.entries.values())

    def spender_of(self, outpoint: OutPoint) -> bytes | None:
        return self._spenders.get(outpoint)

    def transaction(self, txid: bytes) -> Transaction:
        return self.entries[txid].tx

    def conflicts_of(self, tx: Transaction) -> set[bytes]:
        """Those that spend one of its coins."""
        return {self._spenders[i.outpoint] for i in tx.inputs if i.outpoint in self._spenders}

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
        """Raises Rejected. A transaction `from_block` returns after a reorganisation without fee and family rules."""
        conflicts = self._check_replaceable(tx)
        entry, siblings = self._judge(tx, conflicts, now=now, from_block=from_block)
        replaced = conflicts | siblings
        if replaced:
            replaced = self._check_replacement(tx, entry.fee, replaced)
        if not from_block:
            topology.check_limits(tx, self, replaced)
        return Verdict(entry, tuple(replaced))

    def accept(self, tx: Transaction, *, now: int, from_block: bool = False) -> Verdict:
        verdict = self.examine(tx, now=now, from_block=from_block)
        for txid in verdict.replaced:
            self._drop(txid)
        self._insert(verdict.entry)
        self._trim()
        if tx.txid not in self.entries:
            raise Rejected("mempool full")
        return verdict

    def accept_group(self, transactions: Sequence[Transaction], *, now: int) -> GroupVerdict:
        """All of them or none: what matters is what they pay together. Raises Rejected."""
        with self.trial() as keep:
            verdict = self._take_group(transactions, now)
            self._trim()
            if any(tx.txid not in self.entries for tx in transactions):
                raise Rejected("mempool full")
            keep()
        return verdict

    @contextmanager
    def trial(self) -> Iterator[Callable[[], None]]:
        """Whatever happens inside is undone, unless what it gives is called: then it stays."""
        before = self._state()
        stays = False

        def keep() -> None:
            nonlocal stays
            stays = True

        try:
            yield keep
        finally:
            if not stays:
                self._restore(before)

    def set_floor(self, rate_per_kvb: int) -> None:
        """Others pay so much now: what pays less falls out."""
        self.market.floor = rate_per_kvb
        self._evict_below(rate_per_kvb)

    def _take_group(self, transactions: Sequence[Transaction], now: int) -> GroupVerdict:
        conflicts = set[bytes]().union(*(self._check_replaceable(tx) for tx in transactions))
        has_ancestors = any(self.ancestors_of(tx) for tx in transactions)
        evicted = self.with_descendants(conflicts)
        old = [self.entries[txid] for txid in evicted]
        for txid in evicted:
            self._drop(txid)
        entries = []
        for tx in transactions:
            entry, siblings = self._judge(tx, set(), now=now, in_group=True)
            if siblings:
                raise Rejected("TRUC-violation", "a sibling cannot be replaced by a package")
            topology.check_limits(tx, self, ())
            self._insert(entry)
            entries.append(entry)
        fees = [entry.fee for entry in entries]
        self._check_feerate(sum(fees), sum(tx.vsize for tx in transactions))
        if old:
            replacement.check_package(transactions, fees, has_ancestors, old)
        return GroupVerdict(tuple(entries), tuple(evicted))

    def _judge(
        self,
        tx: Transaction,
        conflicts: set[bytes],
        *,
        now: int,
        from_block: bool = False,
        in_group: bool = False,
    ) -> tuple[MempoolEntry, set[bytes]]:
        """What can be said of the transaction itself; and the siblings that it would replace (BIP 431)."""
        policy.check_sane(tx)
        policy.check_standard(tx)
        policy.check_final(tx, self._index)
        self._check_unknown(tx)
        coins = self._coins(tx)
        policy.check_sequence_locks(tx, coins, self._index)
        fee = policy.check_amounts(tx, coins, self._index)
        policy.check_inputs_standard(tx, coins)
        siblings: set[bytes] = set()
        if not from_block:
            needed = policy.fee_at(policy.MIN_RELAY_FEE_PER_KVB, tx.vsize)
            if fee < needed and tx.version != topology.TRUC_VERSION:
                raise Rejected("min relay fee not met", f"{fee} < {needed}")
            siblings = topology.check_truc(tx, self, conflicts)
            policy.check_dust_is_ephemeral(tx, fee, [self.transaction(txid) for txid in self.parents_of(tx)])
            if not in_group:
                self._check_feerate(fee, tx.vsize)
        self._check_scripts(tx, coins)
        return MempoolEntry(tx, fee, now, self._index.height), siblings

    def _check_feerate(self, fee: int, vsize: int) -> None:
        for reason, rate in (
            ("mempool min fee not met", self.market.minimum),
            ("min relay fee not met", policy.MIN_RELAY_FEE_PER_KVB),
        ):
            needed = policy.fee_at(rate, vsize)
            if fee < needed:
                raise Rejected(reason, f"{fee} < {needed}", reconsiderable=True)

    def _check_replaceable(self, tx: Transaction) -> set[bytes]:
        conflicts = self.conflicts_of(tx)
        if not self._full_rbf and not all(self.entries[txid].signals_replacement for txid in conflicts):
            raise Rejected("txn-mempool-conflict")
        return conflicts

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
        parents = set[bytes]().union(*(self.parents_of(self.entries[txid].tx) for txid in conflicts))
        evicted = self.with_descendants(conflicts)
        replacement.check_pays(
            f"rejecting replacement {txid_hex(tx.txid)}",
            fee,
            tx.vsize,
            [self.entries[txid] for txid in conflicts],
            [self.entries[txid] for txid in evicted],
        )
        replacement.check_parents(self.parents_of(tx), parents)
        return evicted

    def _check_scripts(self, tx: Transaction, coins: list[Coin]) -> None:
        spent = [coin.output for coin in coins]
        index = failing_input(tx, spent)
        if index is not None:
            where = f"input {index} of {txid_hex(tx.txid)}, spending {tx.inputs[index].outpoint}"
            raise Rejected("mandatory-script-verify-flag-failed (the script refuses this spend)", where)
        script_policy.check_scripts(tx, spent)

    def _insert(self, entry: MempoolEntry) -> None:
        self.entries[entry.tx.txid] = entry
        for spent in entry.tx.inputs:
            self._spenders[spent.outpoint] = entry.tx.txid

    def _state(self) -> tuple[dict[bytes, MempoolEntry], dict[OutPoint, bytes], int]:
        return dict(self.entries), dict(self._spenders), self.market.rolling

    def _restore(self, state: tuple[dict[bytes, MempoolEntry], dict[OutPoint, bytes], int]) -> None:
        self.entries, self._spenders, self.market.rolling = state

    def _score(self, txid: bytes) -> tuple[int, int]:
        entry = self.entries[txid]
        family = (self.entries[each] for each in self.with_descendants([txid]))
        return score((entry.fee, entry.tx.vsize), ((each.fee, each.tx.vsize) for each in family))

    def _trim(self) -> None:
        """The worst paying families go until there is room; from then on that is not enough any more."""
        total = sum(entry.tx.vsize for entry in self)
        while total > self.market.max_vsize:
            scores = {txid: self._score(txid) for txid in self.entries}
            worst = min(scores, key=lambda txid: scores[txid][0] / scores[txid][1])
            self.market.pushed_out(*scores[worst])
            for txid in self.with_descendants([worst]):
                total -= self.entries[txid].tx.vsize
                self._drop(txid)

    def _evict_below(self, rate_per_kvb: int) -> None:
        for txid in list(self.entries):
            if txid in self.entries:
                fee, vsize = self._score(txid)
                if fee < policy.fee_at(rate_per_kvb, vsize):
                    for each in self.with_descendants([txid]):
                        self._drop(each)

    def _drop(self, txid: bytes) -> None:
        entry = self.entries.pop(txid)
        for spent in entry.tx.inputs:
            del self._spenders[spent.outpoint]

    def connect(self, block: Block) -> None:
        """Forgets what the block holds and what it made impossible."""
        self.market.block_came()
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
