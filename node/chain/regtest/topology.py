"""How long chains of unconfirmed transactions may be (Bitcoin Core's limits before cluster mempool), and BIP 431.

BIP 431, "Topologically Restricted Until Confirmation": version 3 transactions have at most one unconfirmed parent or
one child, and may replace a sibling.
"""

from collections.abc import Collection
from typing import Protocol

from node.chain.regtest.policy import Rejected
from protocol.bitcoin.transaction import Transaction, txid_hex

MAX_ANCESTORS = 25
MAX_DESCENDANTS = 25
MAX_FAMILY_VSIZE = 101_000
CARVE_OUT_VSIZE = 10_000
"""CPFP carve-out: one more descendant, not larger than this, with a single unconfirmed ancestor."""
TRUC_VERSION = 3
TRUC_MAX_VSIZE = 10_000
TRUC_CHILD_MAX_VSIZE = 1_000


class Family(Protocol):
    """What the rules ask of the mempool."""

    def transaction(self, txid: bytes) -> Transaction: ...

    def ancestors_of(self, tx: Transaction) -> set[bytes]: ...

    def with_descendants(self, txids: Collection[bytes]) -> set[bytes]: ...


def check_limits(tx: Transaction, pool: Family, replaced: Collection[bytes]) -> None:
    """Every count includes the transaction itself. Raises Rejected."""
    ancestors = pool.ancestors_of(tx)
    if len(ancestors) + 1 > MAX_ANCESTORS:
        raise _too_long(f"too many unconfirmed ancestors [limit: {MAX_ANCESTORS}]")
    vsizes = {txid: pool.transaction(txid).vsize for txid in ancestors}
    if sum(vsizes.values()) + tx.vsize > MAX_FAMILY_VSIZE:
        raise _too_long(f"exceeds ancestor size limit [limit: {MAX_FAMILY_VSIZE}]")
    carve_out = len(ancestors) == 1 and tx.vsize <= CARVE_OUT_VSIZE
    for txid in ancestors:
        family = pool.with_descendants([txid]) - set(replaced)
        if len(family) + 1 > MAX_DESCENDANTS + carve_out:
            raise _too_long(f"too many descendants for tx {txid_hex(txid)} [limit: {MAX_DESCENDANTS}]")
        vsize = sum(pool.transaction(each).vsize for each in family) + tx.vsize
        if vsize > MAX_FAMILY_VSIZE + CARVE_OUT_VSIZE * carve_out:
            raise _too_long(
                f"exceeds descendant size limit for tx {txid_hex(txid)} [limit: {MAX_FAMILY_VSIZE}]"
            )


def check_truc(tx: Transaction, pool: Family, conflicts: Collection[bytes]) -> set[bytes]:
    """BIP 431 rules 2 to 6; the sibling that this transaction would replace, if there is one. Raises Rejected."""
    ancestors = pool.ancestors_of(tx)
    parents = {txid for spent in tx.inputs if (txid := spent.outpoint.txid) in ancestors}
    is_truc = tx.version == TRUC_VERSION
    for txid in parents:
        parent = pool.transaction(txid)
        if (parent.version == TRUC_VERSION) != is_truc:
            mine, other = ("version=3", "non-version=3") if is_truc else ("non-version=3", "version=3")
            raise _violation(f"{mine} tx {_name(tx)} cannot spend from {other} tx {_name(parent)}")
    if not is_truc:
        return set()
    if tx.vsize > TRUC_MAX_VSIZE:
        raise _violation(f"version=3 tx {_name(tx)} is too big: {tx.vsize} > {TRUC_MAX_VSIZE} virtual bytes")
    if not ancestors:
        return set()
    if len(ancestors) > 1:
        raise _violation(f"tx {_name(tx)} would have too many ancestors")
    if tx.vsize > TRUC_CHILD_MAX_VSIZE:
        raise _violation(
            f"version=3 child tx {_name(tx)} is too big: {tx.vsize} > {TRUC_CHILD_MAX_VSIZE} virtual bytes"
        )
    (parent_id,) = ancestors
    siblings = pool.with_descendants([parent_id]) - {parent_id} - set(conflicts)
    if len(siblings) > 1:  # only after a reorganisation, which knows no such limits
        raise _violation(f"tx {_name(pool.transaction(parent_id))} would exceed descendant count limit")
    return siblings


def _name(tx: Transaction) -> str:
    return f"{txid_hex(tx.txid)} (wtxid={txid_hex(tx.wtxid)})"


def _too_long(detail: str) -> Rejected:
    return Rejected("too-long-mempool-chain", detail)


def _violation(detail: str) -> Rejected:
    return Rejected("TRUC-violation", detail)
