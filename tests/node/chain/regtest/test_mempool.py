"""Replacement, unconfirmed chains, and what blocks and reorganisations do to the mempool."""

from pathlib import Path

import pytest

pytest.importorskip("pbk")

from node.chain.regtest import RegtestChain, Rejected
from protocol.amounts import Sat
from protocol.bitcoin.transaction import OutPoint, Transaction
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, confirmed_coin, spend


def refused(chain: RegtestChain, tx: Transaction) -> str:
    with pytest.raises(Rejected) as error:
        chain.submit(tx)
    return str(error.value)


def test_replacement_must_pay_a_higher_feerate(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    first = spend([coin], [(99_000, SCRIPT)])
    chain.submit(first)
    larger = spend([coin], [(40_000, SCRIPT), (58_900, ELSEWHERE)])
    assert "new feerate" in refused(chain, larger)
    assert refused(chain, larger).startswith("insufficient fee, rejecting replacement")
    assert first.txid in chain.mempool


def test_replacement_must_pay_for_its_own_bandwidth(chain: RegtestChain) -> None:
    """BIP 125 rule 4, at its edge."""
    coin = confirmed_coin(chain)
    first = spend([coin], [(99_000, SCRIPT)])
    chain.submit(first)
    short = spend([coin], [(99_000 - first.vsize + 1, SCRIPT)])
    assert "not enough additional fees to relay" in refused(chain, short)
    enough = spend([coin], [(99_000 - first.vsize, SCRIPT)])
    chain.submit(enough)
    assert enough.txid in chain.mempool
    assert first.txid not in chain.mempool


def test_replacement_must_pay_more_than_all_it_evicts(chain: RegtestChain) -> None:
    """BIP 125 rule 3: descendants count."""
    coin = confirmed_coin(chain)
    parent = spend([coin], [(99_800, SCRIPT)])
    child = spend([(OutPoint(parent.txid, 0), 99_800)], [(90_000, SCRIPT)])
    chain.submit(parent)
    chain.submit(child)
    assert "less fees than conflicting txs" in refused(chain, spend([coin], [(95_000, SCRIPT)]))
    winner = spend([coin], [(89_000, SCRIPT)])
    chain.submit(winner)
    assert set(chain.mempool.entries) == {winner.txid}


def test_replacement_adds_no_unconfirmed_parent(chain: RegtestChain) -> None:
    """BIP 125 rule 2."""
    coin = confirmed_coin(chain)
    chain.submit(spend([coin], [(99_000, SCRIPT)]))
    fresh = (chain.fund(SCRIPT, Sat(50_000)), 50_000)
    adding = spend([coin, fresh], [(100_000, SCRIPT)])
    assert refused(chain, adding) == "replacement-adds-unconfirmed"
    chain.generate_block([chain.mempool.entries[fresh[0].txid].tx])
    chain.submit(adding)
    assert adding.txid in chain.mempool


def fan_out(chain: RegtestChain, coins: list[tuple[OutPoint, int]], children: tuple[int, ...]) -> None:
    """Each coin is spent by a transaction that has so many children."""
    for coin, count in zip(coins, children, strict=True):
        fan = spend([coin], [(5_000, SCRIPT)] * 24)
        chain.submit(fan)
        for n in range(count):
            chain.submit(spend([(OutPoint(fan.txid, n), 5_000)], [(4_000, SCRIPT)]))


def test_replacement_evicts_at_most_100(chain: RegtestChain) -> None:
    """BIP 125 rule 5."""
    coins = [confirmed_coin(chain, 1_000_000) for _ in range(5)]
    fan_out(chain, coins, (20, 20, 20, 20, 16))
    assert len(chain.mempool.entries) == 101
    winner = spend(coins, [(100_000, SCRIPT)])
    assert refused(chain, winner).startswith("too many potential replacements")


def test_replacement_of_exactly_100_is_taken(chain: RegtestChain) -> None:
    coins = [confirmed_coin(chain, 1_000_000) for _ in range(5)]
    fan_out(chain, coins, (20, 20, 20, 20, 15))
    assert len(chain.mempool.entries) == 100
    winner = spend(coins, [(100_000, SCRIPT)])
    chain.submit(winner)
    assert set(chain.mempool.entries) == {winner.txid}


def test_a_transaction_does_not_replace_its_own_parent(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    parent = spend([coin], [(99_000, SCRIPT)])
    chain.submit(parent)
    both = spend([coin, (OutPoint(parent.txid, 0), 99_000)], [(100_000, SCRIPT)])
    assert refused(chain, both) == "bad-txns-spends-conflicting-tx"


def test_without_full_rbf_a_silent_transaction_is_not_replaced(tmp_path: Path) -> None:
    with RegtestChain(tmp_path, full_rbf=False) as chain:
        coin, signalling = confirmed_coin(chain), confirmed_coin(chain)
        chain.submit(spend([coin], [(99_000, SCRIPT)], sequence=0xFFFFFFFE))
        assert refused(chain, spend([coin], [(90_000, SCRIPT)])) == "txn-mempool-conflict"
        chain.submit(spend([signalling], [(99_000, SCRIPT)], sequence=0xFFFFFFFD))
        chain.submit(spend([signalling], [(90_000, SCRIPT)]))


def test_with_full_rbf_a_silent_transaction_is_replaced(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    chain.submit(spend([coin], [(99_000, SCRIPT)], sequence=0xFFFFFFFE))
    winner = spend([coin], [(90_000, SCRIPT)])
    assert chain.submit(winner) == winner.txid


def test_a_chain_of_25_unconfirmed_is_taken_and_mined_in_order(chain: RegtestChain) -> None:
    outpoint, amount = confirmed_coin(chain)
    txids = []
    for _ in range(25):
        amount -= 500
        tx = spend([(outpoint, amount + 500)], [(amount, SCRIPT)])
        txids.append(chain.submit(tx))
        outpoint = OutPoint(tx.txid, 0)
    chain.generate(1)
    assert [tx.txid for tx in chain.block(chain.height).transactions[1:]] == txids
    assert not chain.mempool.entries


def test_a_block_evicts_what_it_double_spends_with_descendants(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    ours = spend([coin], [(99_000, SCRIPT)])
    child = spend([(OutPoint(ours.txid, 0), 99_000)], [(90_000, SCRIPT)])
    chain.submit(ours)
    chain.submit(child)
    theirs = spend([coin], [(98_000, ELSEWHERE)])
    chain.generate_block([theirs])
    assert not chain.mempool.entries
    assert chain.confirmations(theirs.txid) == 1
    assert chain.index.spender_of(coin[0]) == theirs.txid


def test_reorganisation_returns_transactions_to_the_mempool(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    parent = spend([coin], [(99_000, SCRIPT)])
    chain.submit(parent)
    chain.generate(1)
    child = spend([(OutPoint(parent.txid, 0), 99_000)], [(90_000, SCRIPT)])
    chain.submit(child)
    chain.generate(1)
    old_tip, old_height = chain.tip_hash, chain.height
    hashes = chain.reorg(2)
    assert chain.height == old_height + 1
    assert chain.tip_hash == hashes[-1] != old_tip
    assert list(chain.mempool.entries) == [parent.txid, child.txid]
    assert chain.confirmations(parent.txid) == 0
    assert chain.coin(coin[0], include_mempool=False) is not None
    chain.generate(1)
    assert chain.confirmations(child.txid) == 1


def test_reorganisation_with_a_double_spend_keeps_the_loser_out(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    ours = spend([coin], [(99_000, SCRIPT)])
    chain.submit(ours)
    chain.generate(1)
    theirs = spend([coin], [(98_000, ELSEWHERE)])
    chain.reorg(1, 2, [theirs])
    assert ours.txid not in chain.mempool
    assert chain.transaction(ours.txid) is None
    assert chain.confirmations(theirs.txid) == 2


def test_reorganisation_drops_spends_of_lost_coinbases(chain: RegtestChain) -> None:
    chain.generate(1, SCRIPT)
    coinbase = chain.block(chain.height).transactions[0]
    chain.generate(100)
    tx = spend([(OutPoint(coinbase.txid, 0), coinbase.outputs[0].value)], [(1_000_000_000, SCRIPT)])
    chain.submit(tx)
    chain.reorg(101)
    assert tx.txid not in chain.mempool


def test_relative_lock_that_a_reorganisation_reopens_leaves_the_mempool(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    chain.generate(2)
    tx = spend([coin], [(90_000, SCRIPT)], sequence=3)
    chain.submit(tx)
    chain.reorg(3)
    assert chain.transaction(coin[0].txid) is not None
    assert tx.txid not in chain.mempool


def test_mempool_survives_a_restart(tmp_path: Path) -> None:
    with RegtestChain(tmp_path) as chain:
        coin = confirmed_coin(chain)
        parent = spend([coin], [(99_000, SCRIPT)])
        child = spend([(OutPoint(parent.txid, 0), 99_000)], [(90_000, SCRIPT)])
        chain.submit(parent)
        chain.submit(child)
        tip, height = chain.tip_hash, chain.height
    with RegtestChain(tmp_path) as chain:
        assert (chain.tip_hash, chain.height) == (tip, height)
        assert list(chain.mempool.entries) == [parent.txid, child.txid]
        chain.generate(1)
        assert chain.confirmations(child.txid) == 1
