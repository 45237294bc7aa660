"""What a replacement must pay (BIP 125 rules 2 to 5, and Bitcoin Core's rules for a package of two).

Rule 1, the signal, is asked only where full replacement is switched off.
"""

from collections.abc import Collection, Sequence
from typing import Protocol

from node.chain.regtest import policy
from node.chain.regtest.policy import Rejected
from protocol.bitcoin.transaction import Transaction, txid_hex

MAX_REPLACED = 100


class Paid(Protocol):
    @property
    def tx(self) -> Transaction: ...

    @property
    def fee(self) -> int: ...


def check_pays(head: str, fee: int, vsize: int, conflicts: Sequence[Paid], evicted: Sequence[Paid]) -> None:
    """`conflicts` spend the same coins, `evicted` are those and their descendants. Raises Rejected."""
    for old in conflicts:
        if fee * old.tx.vsize <= old.fee * vsize:
            detail = f"new feerate {fee}/{vsize} <= old feerate {old.fee}/{old.tx.vsize}"
            raise Rejected("insufficient fee", f"{head}; {detail}")
    if len(evicted) > MAX_REPLACED:
        detail = f"{head}; too many potential replacements ({len(evicted)} > {MAX_REPLACED})"
        raise Rejected("too many potential replacements", detail)
    old_fees = sum(old.fee for old in evicted)
    if fee < old_fees:
        detail = f"{head}, less fees than conflicting txs; {fee} < {old_fees}"
        raise Rejected("insufficient fee", detail)
    bandwidth = policy.fee_at(policy.INCREMENTAL_FEE_PER_KVB, vsize)
    if fee - old_fees < bandwidth:
        detail = f"{head}, not enough additional fees to relay; {fee - old_fees} < {bandwidth}"
        raise Rejected("insufficient fee", detail)


def check_parents(parents: Collection[bytes], parents_of_conflicts: Collection[bytes]) -> None:
    """Rule 2: an unconfirmed parent that none of the replaced had. Raises Rejected."""
    if not set(parents) <= set(parents_of_conflicts):
        raise Rejected("replacement-adds-unconfirmed")


def check_package(
    transactions: Sequence[Transaction], fees: Sequence[int], has_ancestors: bool, old: Sequence[Paid]
) -> None:
    """A parent with its child that together replace others. Raises Rejected."""
    if len(transactions) != 2:
        raise Rejected("package RBF failed: package must be 1-parent-1-child")
    if has_ancestors:
        raise Rejected("package RBF failed: new transaction cannot have mempool ancestors")
    parent, _ = transactions
    fee, vsize = sum(fees), sum(tx.vsize for tx in transactions)
    if fee * parent.vsize <= fees[0] * vsize:
        raise Rejected("package RBF failed: package feerate is less than or equal to parent feerate")
    check_pays(f"package RBF failed: {txid_hex(parent.txid)}", fee, vsize, (), old)
    # Core compares the feerate diagrams of both; what is replaced counts here as the one package that it mostly is.
    if fee * sum(each.tx.vsize for each in old) <= sum(each.fee for each in old) * vsize:
        raise Rejected("package RBF failed: insufficient feerate: does not improve feerate diagram")
