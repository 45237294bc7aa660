"""The chain object: mining, coins, blocks from elsewhere, and the kernel's verdicts."""

from pathlib import Path
from time import perf_counter

import pytest

pytest.importorskip("pbk")

from node.chain.regtest import BlockRefused, RegtestChain, Rejected
from node.chain.regtest.chain import BlockConnected, BlockDisconnected, ChainEvent, TransactionAccepted
from node.chain.regtest.faucet import FaucetEmpty
from node.chain.regtest.index import Block
from node.chain.regtest.miner import build_block, merkle_root, subsidy
from protocol.amounts import Sat
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import OutPoint, TxOut
from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, confirmed_coin, spend


def test_a_new_chain_starts_with_mature_coins_on_the_right_genesis(chain: RegtestChain) -> None:
    assert chain.height == 110
    assert chain.block(0).hash == REGTEST.chain_hash
    assert chain.fund(SCRIPT, Sat(1_000_000)).txid in chain.mempool


def test_a_hundred_blocks_are_quick(chain: RegtestChain) -> None:
    """A generous bound: this takes 0.04 s where nothing else runs."""
    start = perf_counter()
    assert len(chain.generate(100)) == 100
    assert perf_counter() - start < 2
    assert chain.height == 210


def test_subsidy_halves_every_150_blocks() -> None:
    assert [subsidy(h) for h in (1, 149, 150, 300, 150 * 64)] == [
        50 * 10**8,
        50 * 10**8,
        25 * 10**8,
        125 * 10**7,
        0,
    ]


def test_merkle_root_of_an_odd_level_repeats_its_last() -> None:
    a, b, c = bytes(32), b"\x01" * 32, b"\x02" * 32
    left, right = double_sha256(a + b), double_sha256(c + c)
    assert merkle_root([a, b, c]) == double_sha256(left + right)
    assert merkle_root([a]) == a


def test_the_miner_takes_the_fees(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    chain.submit(spend([coin], [(90_000, SCRIPT)]))
    chain.generate(1)
    coinbase = chain.block(chain.height).transactions[0]
    assert coinbase.outputs[0].value == subsidy(chain.height) + 10_000


def test_coin_is_seen_until_it_is_spent(chain: RegtestChain) -> None:
    outpoint, amount = confirmed_coin(chain)
    coin = chain.coin(outpoint)
    assert coin is not None
    assert (coin.output, coin.height, coin.coinbase) == (TxOut(Sat(amount), SCRIPT), 111, False)
    chain.submit(spend([(outpoint, amount)], [(90_000, SCRIPT)]))
    assert chain.coin(outpoint) is None
    assert chain.coin(outpoint, include_mempool=False) is not None
    chain.generate(1)
    assert chain.coin(outpoint, include_mempool=False) is None


def test_the_faucet_pays_many_and_more_than_one_coinbase_holds(chain: RegtestChain) -> None:
    tx = chain.pay([TxOut(Sat(6_000_000_000), SCRIPT), TxOut(Sat(40_000), ELSEWHERE)])
    assert len(tx.inputs) >= 2
    assert [o.value for o in tx.outputs[:2]] == [6_000_000_000, 40_000]
    chain.generate(1)
    assert chain.coin(OutPoint(tx.txid, 1)) is not None


def test_an_empty_faucet_says_so_and_spends_nothing(chain: RegtestChain) -> None:
    with pytest.raises(FaucetEmpty, match="mine more blocks"):
        chain.fund(SCRIPT, Sat(10**15))
    assert not chain.mempool.entries


def test_a_block_that_breaks_consensus_is_refused_with_the_kernels_reason(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    before = chain.tip_hash
    with pytest.raises(BlockRefused, match="bad-txns-in-belowout"):
        chain.generate_block([spend([coin], [(100_001, SCRIPT)])])
    good = spend([coin], [(90_000, SCRIPT)])
    forged = spend([coin], [(80_000, SCRIPT)])
    forged = type(forged)(2, good.inputs, forged.outputs)
    with pytest.raises(BlockRefused, match="block-script-verify-flag-failed"):
        chain.generate_block([forged])
    assert chain.tip_hash == before
    chain.generate_block([good])
    assert chain.confirmations(good.txid) == 1


def test_a_block_from_elsewhere_is_followed_and_a_bad_one_is_not(chain: RegtestChain) -> None:
    time = chain.index.entries[-1].time + 1
    raw = build_block(chain.tip_hash, chain.height + 1, time, SCRIPT, tag=b"elsewhere")
    assert chain.submit_block(raw) == chain.tip_hash
    with pytest.raises(BlockRefused):
        chain.submit_block(raw[:36] + bytes(32) + raw[68:])
    with pytest.raises(MalformedMessage):
        chain.submit_block(raw + b"\0")
    assert chain.height == 111


def test_a_shorter_branch_changes_nothing(chain: RegtestChain) -> None:
    tip = chain.tip_hash
    fork = chain.index.entries[-3]
    chain.submit_block(build_block(fork.hash, chain.height - 1, fork.time + 1, SCRIPT, tag=b"short"))
    assert chain.tip_hash == tip


def test_reorganisation_tells_each_step_in_order(chain: RegtestChain) -> None:
    seen: list[tuple[str, int, bool]] = []

    def listen(event: ChainEvent) -> None:
        match event:
            case BlockConnected(_, height, is_tip):
                seen.append(("on", height, is_tip))
            case BlockDisconnected(_, height):
                seen.append(("off", height, False))
            case TransactionAccepted():
                seen.append(("tx", 0, False))

    chain.listeners.append(listen)
    chain.reorg(2)
    assert seen == [
        ("off", 110, False),
        ("off", 109, False),
        ("on", 109, False),
        ("on", 110, False),
        ("on", 111, True),
    ]


def test_the_index_after_a_reorganisation_equals_a_fresh_one(tmp_path: Path) -> None:
    with RegtestChain(tmp_path) as chain:
        for n in range(5):
            chain.fund(SCRIPT, Sat(100_000 + n))
            chain.generate(1)
        chain.reorg(4, 6)
        chain.generate(2)
        lived = (chain.index.entries, chain.index.coins, chain.index.coins_of(SCRIPT))
    with RegtestChain(tmp_path) as chain:
        assert (chain.index.entries, chain.index.coins, chain.index.coins_of(SCRIPT)) == lived


@pytest.mark.parametrize(("depth", "count"), [(0, 1), (111, 112), (2, 2)])
def test_reorganisation_that_cannot_win_is_not_begun(chain: RegtestChain, depth: int, count: int) -> None:
    tip = chain.tip_hash
    with pytest.raises(ValueError, match=r"reorganisation|branch"):
        chain.reorg(depth, count)
    assert chain.tip_hash == tip


def test_one_data_directory_serves_one_process(tmp_path: Path) -> None:
    with RegtestChain(tmp_path), pytest.raises(RuntimeError, match="does another process use it"):
        RegtestChain(tmp_path)


def test_block_round_trip(chain: RegtestChain) -> None:
    chain.fund(SCRIPT, Sat(50_000))
    chain.generate(1)
    block = chain.block(chain.height)
    assert block.hash == double_sha256(block.header) == chain.tip_hash
    assert Block.parse(block.raw) == block
    assert chain.block_by_hash(block.hash) == block
    assert chain.block_by_hash(bytes(32)) is None
    with pytest.raises(IndexError):
        chain.block(-1)


def test_transaction_is_found_in_mempool_and_chain(chain: RegtestChain) -> None:
    outpoint = chain.fund(SCRIPT, Sat(50_000))
    tx = chain.transaction(outpoint.txid)
    assert tx is not None
    chain.generate(3)
    assert chain.transaction(outpoint.txid) == tx
    assert chain.confirmations(outpoint.txid) == 3
    assert chain.transaction(bytes(32)) is None


def test_reject_text_joins_reason_and_detail() -> None:
    assert str(Rejected("dust")) == "dust"
    assert str(Rejected("min relay fee not met", "1 < 2")) == "min relay fee not met, 1 < 2"
