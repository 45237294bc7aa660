"""Several transactions offered together (Bitcoin Core's doc/policy/packages.md): a child pays for its parents.

Each is tried alone first; what pays too little by itself is judged again with its child, by the feerate of both.
Without version 3 a parent must still pay the fixed minimum of relay, as in Core before cluster mempool.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from node.chain.regtest import policy
from node.chain.regtest.mempool import Mempool, MempoolEntry
from node.chain.regtest.policy import Rejected
from protocol.bitcoin.transaction import Transaction

MAX_COUNT = 25
MAX_WEIGHT = 404_000
NOT_VALIDATED = "package-not-validated"
FAILED = "transaction failed"
TOO_MUCH = "max feerate exceeded"


@dataclass(frozen=True, slots=True)
class PackageMember:
    """`error` None: it is in the mempool, as `entry`. `together`: whose fees and sizes were added up for it."""

    tx: Transaction
    error: str | None = None
    entry: MempoolEntry | None = None
    together: tuple[MempoolEntry, ...] = ()


@dataclass(frozen=True, slots=True)
class PackageResult:
    """`message` as Core says it: "success", or why not all of it was taken."""

    message: str
    members: tuple[PackageMember, ...]
    replaced: tuple[bytes, ...] = ()

    @property
    def error(self) -> str | None:
        """What became of the child, which is the last."""
        if not self.members:
            return self.message
        return self.members[-1].error


def check_form(transactions: Sequence[Transaction]) -> None:
    """Raises Rejected for what is no package at all."""
    if len(transactions) > MAX_COUNT:
        raise Rejected("package-too-many-transactions")
    if len(transactions) > 1 and sum(tx.weight for tx in transactions) > MAX_WEIGHT:
        raise Rejected("package-too-large")
    ids = [tx.txid for tx in transactions]
    if len(set(ids)) != len(ids):
        raise Rejected("package-contains-duplicates")
    for at, tx in enumerate(transactions):
        if any(spent.outpoint.txid in ids[at:] for spent in tx.inputs):
            raise Rejected("package-not-sorted")
    spent = [tx_in.outpoint for tx in transactions for tx_in in tx.inputs]
    if len(set(spent)) != len(spent):
        raise Rejected("conflict-in-package")


def is_child_with_parents(transactions: Sequence[Transaction]) -> bool:
    """The last spends every other one, and those do not spend each other."""
    *parents, child = transactions
    ids = {tx.txid for tx in parents}
    spent_by_child = {spent.outpoint.txid for spent in child.inputs}
    return ids <= spent_by_child and not any(
        spent.outpoint.txid in ids for tx in parents for spent in tx.inputs
    )


def submit(
    pool: Mempool, transactions: Sequence[Transaction], *, now: int, max_feerate: int = 0
) -> PackageResult:
    """Takes what can be taken; the package must be a child with its parents. Nothing, if a fee is a slip:
    `max_feerate` is in sat per 1000 virtual bytes, 0 for any.
    """
    try:
        check_form(transactions)
    except Rejected as error:
        return PackageResult(str(error), ())
    with pool.trial() as keep:
        result = _take(pool, transactions, now)
        slips = [
            member.tx.txid
            for member in result.members
            if member.together and member.entry and max_feerate
            if member.entry.fee > policy.fee_at(max_feerate, member.tx.vsize)
        ]
        if not slips:
            keep()
            return result
    return PackageResult(
        FAILED,
        tuple(PackageMember(tx, TOO_MUCH if tx.txid in slips else NOT_VALIDATED) for tx in transactions),
    )


def _take(pool: Mempool, transactions: Sequence[Transaction], now: int) -> PackageResult:
    members: dict[bytes, PackageMember] = {}
    waiting: list[Transaction] = []
    replaced: list[bytes] = []
    for tx in transactions:
        known = pool.entries.get(tx.txid)
        if known is not None:
            members[tx.txid] = PackageMember(tx, entry=known)
            continue
        ids = {each.txid for each in waiting}
        if any(spent.outpoint.txid in ids for spent in tx.inputs):
            members[tx.txid] = PackageMember(tx, NOT_VALIDATED)
            waiting.append(tx)
            continue
        try:
            verdict = pool.accept(tx, now=now)
        except Rejected as error:
            members[tx.txid] = PackageMember(tx, str(error))
            if error.reconsiderable:
                waiting.append(tx)
        else:
            members[tx.txid] = PackageMember(tx, entry=verdict.entry, together=(verdict.entry,))
            replaced += verdict.replaced
    if len(waiting) > 1:
        replaced += _together(pool, waiting, members, now)
    errors = [member.error for member in members.values() if member.error]
    return PackageResult(FAILED if errors else "success", tuple(members.values()), tuple(replaced))


def _together(
    pool: Mempool, waiting: Sequence[Transaction], members: dict[bytes, PackageMember], now: int
) -> tuple[bytes, ...]:
    try:
        verdict = pool.accept_group(waiting, now=now)
    except Rejected as error:
        for tx in waiting:
            members[tx.txid] = PackageMember(tx, str(error))
        return ()
    for entry in verdict.entries:
        members[entry.tx.txid] = PackageMember(entry.tx, entry=entry, together=verdict.entries)
    return verdict.replaced


def probe(pool: Mempool, transactions: Sequence[Transaction], *, now: int) -> list[PackageMember]:
    """What acceptance one after the other would say; after the first failure nothing is said of the rest.

    Raises Rejected for what is no package. Changes nothing.
    """
    check_form(transactions)
    members = []
    with pool.trial():
        for tx in transactions:
            try:
                if len(transactions) > 1 and pool.conflicts_of(tx):
                    raise Rejected("bip125-replacement-disallowed")
                entry = pool.accept(tx, now=now).entry
            except Rejected as error:
                missing = error.reason == "bad-txns-inputs-missingorspent"
                members.append(PackageMember(tx, "missing-inputs" if missing else str(error)))
                break
            members.append(PackageMember(tx, entry=entry, together=(entry,)))
    return members
