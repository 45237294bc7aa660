"""A market that rises: what falls out of the mempool, what miners take, and in which order."""

import pytest

pytest.importorskip("pbk")

from node.chain.regtest import RegtestChain, Rejected
from node.chain.regtest.methods import Methods
from protocol.bitcoin.transaction import OutPoint, Transaction
from tests.node.chain.regtest.wallet import SCRIPT, confirmed_coin, spend


def paying(chain: RegtestChain, *fees: int) -> list[Transaction]:
    """Unrelated transactions, in the mempool."""
    coins = [confirmed_coin(chain) for _ in fees]
    made = [spend([coin], [(100_000 - fee, SCRIPT)]) for coin, fee in zip(coins, fees, strict=True)]
    for tx in made:
        chain.submit(tx)
    return made


def test_a_rising_floor_pushes_out_what_pays_less_with_its_children(chain: RegtestChain) -> None:
    poor, rich = paying(chain, 200, 5_000)
    child = spend([(OutPoint(poor.txid, 0), 99_800)], [(99_500, SCRIPT)])
    chain.submit(child)
    chain.mempool.set_floor(20_000)
    assert set(chain.mempool.entries) == {rich.txid}
    with pytest.raises(Rejected, match="mempool min fee not met"):
        chain.submit(poor)
    chain.mempool.set_floor(0)
    chain.submit(poor)


def test_a_parent_stays_while_its_child_pays_for_it(chain: RegtestChain) -> None:
    (poor,) = paying(chain, 200)
    child = spend([(OutPoint(poor.txid, 0), 99_800)], [(90_000, SCRIPT)])
    chain.submit(child)
    chain.mempool.set_floor(20_000)
    assert set(chain.mempool.entries) == {poor.txid, child.txid}


def test_a_full_mempool_pushes_out_the_poorest_and_asks_for_more(chain: RegtestChain) -> None:
    made = paying(chain, 300, 2_000)
    rpc = Methods(chain, stop=lambda: None)
    coin = confirmed_coin_without_mining(chain)
    rpc.setmempoolsize(2 * made[0].vsize + 20)
    newest = spend([coin], [(95_000, SCRIPT)])
    chain.submit(newest)
    assert set(chain.mempool.entries) == {made[1].txid, newest.txid}
    asked = 300 * 1000 // made[0].vsize + 1000
    assert rpc.getmempoolinfo()["mempoolminfee"] == asked / 100_000_000
    with pytest.raises(Rejected, match="mempool min fee not met"):
        chain.submit(made[0])
    for _ in range(4):
        chain.generate(1)
    assert rpc.getmempoolinfo()["mempoolminfee"] == 1e-5


def confirmed_coin_without_mining(chain: RegtestChain) -> tuple[OutPoint, int]:
    """The block holds the funding alone, so that the mempool stays as it is."""
    paid = chain.prepare([spend([(OutPoint(bytes(32), 0), 0)], [(100_000, SCRIPT)]).outputs[0]])
    chain.generate_block([paid])
    return OutPoint(paid.txid, 0), 100_000


def test_a_transaction_that_a_full_mempool_would_drop_at_once_is_refused(chain: RegtestChain) -> None:
    (rich,) = paying(chain, 5_000)
    coin = confirmed_coin_without_mining(chain)
    chain.mempool.market.max_vsize = rich.vsize + 20
    with pytest.raises(Rejected, match="mempool full"):
        chain.submit(spend([coin], [(99_500, SCRIPT)]))
    assert set(chain.mempool.entries) == {rich.txid}


def test_a_miner_takes_the_best_paying_packages_first(chain: RegtestChain) -> None:
    poor, middle, rich = paying(chain, 200, 2_000, 3_000)
    child = spend([(OutPoint(poor.txid, 0), 99_800)], [(80_000, SCRIPT)])
    chain.submit(child)
    chain.generate(1)
    mined = [tx.txid for tx in chain.block(chain.height).transactions[1:]]
    assert mined == [poor.txid, child.txid, rich.txid, middle.txid], "20,000 for two is the best"


def test_a_miner_leaves_what_pays_less_than_others(chain: RegtestChain) -> None:
    poor, rich = paying(chain, 200, 3_000)
    rpc = Methods(chain, stop=lambda: None)
    rpc.setblockfloor(10_000)
    chain.generate(1)
    assert chain.confirmations(rich.txid) == 1 and poor.txid in chain.mempool
    child = spend([(OutPoint(poor.txid, 0), 99_800)], [(90_000, SCRIPT)])
    chain.submit(child)
    chain.generate(1)
    assert chain.confirmations(poor.txid) == chain.confirmations(child.txid) == 1


def test_an_estimate_is_never_below_what_the_mempool_takes(chain: RegtestChain) -> None:
    rpc = Methods(chain, stop=lambda: None)
    assert rpc.estimatesmartfee(6)["feerate"] == 2e-5
    rpc.setminfeerate(30_000)
    assert rpc.estimatesmartfee(6)["feerate"] == 3e-4


def test_the_faucet_pays_what_the_market_asks(chain: RegtestChain) -> None:
    chain.mempool.set_floor(30_000)
    coin, _ = confirmed_coin(chain)
    assert chain.confirmations(coin.txid) == 1
