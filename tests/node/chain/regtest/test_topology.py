"""Families of unconfirmed transactions: Bitcoin Core's limits, and BIP 431 (version 3)."""

import pytest

pytest.importorskip("pbk")

from node.chain.regtest import RegtestChain, Rejected
from protocol.bitcoin.transaction import OutPoint, Transaction
from tests.node.chain.regtest.wallet import SCRIPT, confirmed_coin, spend

BULKY = b"\x6a\x4d"
"""OP_RETURN OP_PUSHDATA2"""


def refused(chain: RegtestChain, tx: Transaction) -> str:
    with pytest.raises(Rejected) as error:
        chain.submit(tx)
    return str(error.value)


def bulk(vbytes: int) -> bytes:
    """An output script without value that makes a transaction larger."""
    return BULKY + vbytes.to_bytes(2, "little") + bytes(vbytes)


def chain_of(
    chain: RegtestChain, length: int, outputs: int = 1, version: int = 2
) -> list[tuple[Transaction, int]]:
    """Unconfirmed, each the child of the one before; with the value of its outputs."""
    outpoint, amount = confirmed_coin(chain, 4_000_000)
    made = []
    for _ in range(length):
        each = (amount - 20_000) // outputs
        tx = spend([(outpoint, amount)], [(each, SCRIPT)] * outputs, version=version)
        chain.submit(tx)
        made.append((tx, each))
        outpoint, amount = OutPoint(tx.txid, 0), each
    return made


def child(
    of: tuple[Transaction, int], index: int = 0, *, size: int = 0, version: int = 2, fee: int = 1_500
) -> Transaction:
    tx, amount = of
    outputs = [(amount - fee - 4 * size, SCRIPT)] + ([(0, bulk(size))] if size else [])
    return spend([(OutPoint(tx.txid, index), amount)], outputs, version=version)


def test_a_family_has_at_most_25_generations(chain: RegtestChain) -> None:
    made = chain_of(chain, 24)
    last = child(made[-1])
    chain.submit(last)
    too_deep = child((last, last.outputs[0].value), fee=1_000)
    assert refused(chain, too_deep) == ("too-long-mempool-chain, too many unconfirmed ancestors [limit: 25]")
    chain.generate(1)
    chain.submit(too_deep)


def test_a_parent_has_at_most_24_children_and_one_small_one_more(chain: RegtestChain) -> None:
    """The last one is the CPFP carve-out: a flood by one party cannot pin what the other must bump."""
    (parent,) = chain_of(chain, 1, outputs=26)
    for index in range(24):
        chain.submit(child(parent, index))
    large = child(parent, 24, size=10_000)
    assert "too many descendants" in refused(chain, large)
    chain.submit(child(parent, 24))
    assert "too many descendants" in refused(chain, child(parent, 25))


def test_a_family_is_at_most_101_kilobytes(chain: RegtestChain) -> None:
    (parent,) = chain_of(chain, 1, outputs=3)
    chain.submit(child(parent, 0, size=60_000))
    assert "exceeds descendant size limit" in refused(chain, child(parent, 1, size=50_000))
    chain.submit(child(parent, 1, size=40_000))
    fat = child(parent, 2, size=0)
    chain.submit(fat)
    heavy = spend([(OutPoint(fat.txid, 0), fat.outputs[0].value)], [(100_000, SCRIPT), (0, bulk(65_000))])
    assert "too-long-mempool-chain" in refused(chain, heavy)


def test_version_3_and_others_do_not_mix_while_unconfirmed(chain: RegtestChain) -> None:
    """BIP 431 rule 2."""
    three = chain_of(chain, 1, version=3)[0]
    assert "cannot spend from version=3" in refused(chain, child(three))
    chain.generate(1)
    chain.submit(child(three))
    chain.generate(1)
    two = chain_of(chain, 1)[0]
    assert "cannot spend from non-version=3" in refused(chain, child(two, version=3))


def test_version_3_has_one_parent_and_one_generation(chain: RegtestChain) -> None:
    """BIP 431 rule 3."""
    parent = chain_of(chain, 1, version=3)[0]
    first = child(parent, version=3)
    chain.submit(first)
    grandchild = child((first, first.outputs[0].value), version=3, fee=1_000)
    assert "would have too many ancestors" in refused(chain, grandchild)


def test_version_3_is_small_and_its_child_smaller(chain: RegtestChain) -> None:
    """BIP 431 rules 4 and 5."""
    coin, amount = confirmed_coin(chain, 4_000_000)
    large = spend([(coin, amount)], [(3_000_000, SCRIPT), (0, bulk(10_000))], version=3)
    assert "is too big" in refused(chain, large)
    fits = spend([(coin, amount)], [(3_900_000, SCRIPT), (0, bulk(9_000))], version=3)
    chain.submit(fits)
    wide = child((fits, 3_900_000), version=3, size=900)
    assert "child tx" in refused(chain, wide) and "is too big" in refused(chain, wide)
    chain.submit(child((fits, 3_900_000), version=3, size=700))


def test_a_version_3_child_replaces_its_sibling_when_it_pays_more(chain: RegtestChain) -> None:
    """BIP 431 rule 6: whoever fills the one place cheaply does not hold it."""
    parent = chain_of(chain, 1, outputs=2, version=3)[0]
    theirs = child(parent, 0, version=3, fee=1_500)
    chain.submit(theirs)
    assert "insufficient fee" in refused(chain, child(parent, 1, version=3, fee=1_550))
    ours = child(parent, 1, version=3, fee=3_000)
    chain.submit(ours)
    assert set(chain.mempool.entries) == {parent[0].txid, ours.txid}
