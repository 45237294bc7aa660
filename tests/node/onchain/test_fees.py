"""Feerates by deadline, replacements, coins for fees, and outputs that are not worth theirs (BOLT 5; checklist 47,
48, 52)."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.onchain.claims import BEFORE_ITS_HTLCS
from node.onchain.deadlines import TIMEOUT_WITHIN
from node.onchain.events import CoinsFound
from node.onchain.state import Kind, Role
from protocol.amounts import FeeratePerKw
from protocol.bitcoin.transaction import OutPoint, Transaction
from tests.node.onchain.test_unilateral import due, has
from tests.node.onchain.world import Watcher, World
from tests.support import need

BIG = 200_000_000
EXPIRY = 140


def empty_block(world: World, watcher: Watcher) -> None:
    world.chain.generate_block([])
    watcher.look()


def rates(watcher: Watcher) -> list[int]:
    return [claim.tx_feerate for claim in watcher.state.claims]


def shows(tx: Transaction, preimage: bytes) -> bool:
    return any(preimage in spend.witness for spend in tx.inputs)


def test_a_rising_market_is_followed(world: World) -> None:
    """checklist 52: a sweep without deadline follows the market by replacement, and pays what it must to be taken."""
    world.force_close(world.pair.alice)
    world.mine()
    empty_block(world, world.bob)
    assert rates(world.bob) == [1000]
    world.bob.rates = (FeeratePerKw(9000), FeeratePerKw(5000), FeeratePerKw(3000))
    empty_block(world, world.bob)
    assert rates(world.bob) == [3000]
    world.bob.rates = (FeeratePerKw(9000), FeeratePerKw(5000), FeeratePerKw(3100))
    empty_block(world, world.bob)
    assert rates(world.bob) == [3000]  # too little more to be relayed as a replacement
    world.mine_until_done(world.bob)
    assert has(world, world.bob) == due(world, world.bob, gave=0, won=0, untrimmed=0)


def test_the_nearer_the_deadline_the_more_is_paid(world: World) -> None:
    """checklist 43, 52: a claim with a preimage, while a miner takes nothing."""
    alice, _ = world.pair.ends
    payment_hash = world.offer(alice, BIG, EXPIRY)
    world.force_close(alice)
    world.mine()
    world.bob.rates = (FeeratePerKw(4000), FeeratePerKw(2000), FeeratePerKw(1000))
    world.claim(world.bob, payment_hash)
    (claim,) = [c for c in world.bob.state.claims if _roles(world.bob, c.outputs) == {Role.THEIR_OFFERED}]
    assert claim.tx_feerate == 2000
    seen = []
    while world.chain.height < EXPIRY - 1:
        empty_block(world, world.bob)
        (claim,) = [c for c in world.bob.state.claims if c.id == claim.id]
        seen.append(claim.tx_feerate)
    assert seen == sorted(seen) and seen[-6] >= 4000 and seen[-1] > 2 * 4000
    world.mine_until_done(world.bob)
    assert has(world, world.bob) == due(world, world.bob, gave=0, won=BIG, untrimmed=1)


def _roles(watcher: Watcher, outputs: tuple[tuple[bytes, int], ...]) -> set[Role]:
    return {o.role for o in watcher.state.outputs if o.at in outputs}


def test_no_fee_goes_beyond_the_ceiling(world: World) -> None:
    """checklist 52: a quarter of what is moved, known before anything is signed; the signer has the same limit, and
    need not refuse."""
    alice, _ = world.pair.ends
    payment_hash = world.offer(alice, 8_000_000, EXPIRY)
    world.force_close(alice)
    world.mine()
    world.bob.rates = (FeeratePerKw(20_000),) * 3
    world.claim(world.bob, payment_hash)
    (output,) = [o for o in world.bob.state.outputs if o.role is Role.THEIR_OFFERED]
    assert output.ceiling == 2000
    assert not world.bob.refused
    world.mine_until_done(world.bob)
    (claimed,) = [tx for tx in world.bob.published.values() if shows(tx, world.preimages[payment_hash])]
    assert world.fee_of(claimed) <= 2000
    assert world.fee_of(claimed) > 1000
    assert has(world, world.bob) == due(world, world.bob, gave=0, won=8_000_000, untrimmed=1)


def test_an_output_that_is_not_worth_its_fee_is_left_and_told(world: World) -> None:
    """The declared point: at the lowest feerate that is relayed, the fee would be more than a quarter."""
    alice, bob = world.pair.ends
    payment_hash = world.offer(alice, 1_200_000 if not world.anchors else 400_000, EXPIRY)
    world.force_close(bob)
    world.mine_to(EXPIRY)
    world.alice.rates = (FeeratePerKw(3000),) * 3
    world.mine_until_done(world.alice)
    left = [o for o in world.alice.state.outputs if o.given_up]
    if world.anchors:
        assert [o.value for o in left] == [400]
        assert "not worth" in left[0].given_up
        assert any("400 sat is left" in sentence for sentence in world.alice.warnings)
    else:
        assert not left  # 1,200 sat carry a fee of 142
    ended = world.alice.outcome(payment_hash)
    assert ended is not None and not ended.paid


def test_htlc_transactions_with_anchors_wait_for_coins(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """checklist 47: without a coin nothing can be published; the user hears it, and it goes on with one."""
    alice, _ = world.pair.ends
    payment_hash = world.offer(alice, BIG, EXPIRY)
    real = world.coins_for
    none = CoinsFound(0, (), None, "the wallet is empty")
    monkeypatch.setattr(world, "coins_for", lambda watcher, claim: _for(claim, none))
    world.force_close(alice)
    world.mine_to(EXPIRY + 3)
    if not world.anchors:
        assert not world.alice.warnings
        world.mine_until_done(world.alice)
        return
    assert any("wallet is empty" in sentence for sentence in world.alice.warnings)
    assert len(world.alice.warnings) == 1  # said once, not at each block
    monkeypatch.setattr(world, "coins_for", real)
    world.mine_until_done(world.alice)
    ended = world.alice.outcome(payment_hash)
    assert ended is not None and not ended.paid
    assert has(world, world.alice) == due(world, world.alice, gave=BIG, won=BIG, untrimmed=1)


BTCDS_WORDS = "TX rejected: orphan transaction aa references outputs of unknown or fully-spent transaction bb"


@pytest.mark.parametrize("words", ["bad-txns-inputs-missingorspent", BTCDS_WORDS], ids=["bitcoind", "btcd"])
def test_a_coin_that_is_gone_is_replaced_by_another(world: World, words: str) -> None:
    """checklist 47, 52: the wallet lent one that another transaction of ours had taken; without a new one the HTLC
    transaction would be refused for ever."""
    alice, _ = world.pair.ends
    payment_hash = world.offer(alice, BIG, EXPIRY)
    world.tolerated = ("bad-txns-inputs-missingorspent",)
    world.words_for = {"bad-txns-inputs-missingorspent": words}
    world.force_close(alice)
    world.mine_to(EXPIRY - 1)
    outpoint, position = world.places["alice"][0]
    real = world.places["alice"][1]
    world.places["alice"][0] = (OutPoint(b"\x07" * 32, 0), position)
    world.mine_until_done(world.alice)
    ended = world.alice.outcome(payment_hash)
    assert ended is not None and not ended.paid
    assert world.alice.coins == (2 if world.anchors else 0)
    if world.anchors:
        spent = {spend.outpoint for tx in world.alice.published.values() for spend in tx.inputs}
        assert real[0] in spent and outpoint not in spent
    assert has(world, world.alice) == due(world, world.alice, gave=BIG, won=BIG, untrimmed=1)


def _for(claim: int, found: CoinsFound) -> CoinsFound:
    return CoinsFound(claim, found.coins, found.change, found.why)


def test_htlcs_of_one_expiry_share_a_second_stage_and_its_coin(world: World) -> None:
    """checklist 47, 50: batched with anchors; without, each is the transaction that the peer signed."""
    alice, _ = world.pair.ends
    for n in range(4):
        world.offer(alice, BIG + 1000 * n, EXPIRY)
    world.force_close(alice)
    world.mine_until_done(world.alice)
    stages = [tx for tx in world.alice.published.values() if tx.locktime == EXPIRY]
    assert len(stages) == (1 if world.anchors else 4)
    assert world.alice.coins == (1 if world.anchors else 0)
    total = 4 * BIG + 6000
    assert has(world, world.alice) == due(world, world.alice, gave=total, won=total, untrimmed=4)


def test_a_second_stage_that_lost_one_htlc_to_its_preimage_is_made_anew(world: World) -> None:
    """checklist 46, 47: the peer claims one of three while our timeout waits in the mempool."""
    alice, _ = world.pair.ends
    hashes = [world.offer(alice, BIG + 1000 * n, EXPIRY) for n in range(3)]
    world.force_close(alice)
    world.mine_to(EXPIRY - 1)
    world.claim(world.bob, hashes[1])
    (theirs,) = [tx for tx in world.bob.published.values() if shows(tx, world.preimages[hashes[1]])]
    # It reaches a miner, and not our mempool.
    world.chain.mempool.entries.clear()
    world.chain.mempool._spenders.clear()
    world.tolerated = ("insufficient fee", "bad-txns-inputs-missingorspent")
    empty_block(world, world.alice)
    assert any(tx.locktime == EXPIRY for tx in world.alice.published.values())
    world.chain.generate_block([theirs])
    world.mined.add(theirs.txid)
    for watcher in world.watchers:
        watcher.look()
    paid = world.alice.outcome(hashes[1])
    assert paid is not None and paid.preimage == world.preimages[hashes[1]]
    world.mine_until_done(*world.watchers)
    for payment_hash in (hashes[0], hashes[2]):
        ended = world.alice.outcome(payment_hash)
        assert ended is not None and not ended.paid
    won = 2 * BIG + 2000
    gave = 3 * BIG + 3000
    assert has(world, world.alice) == due(world, world.alice, gave=gave, won=won, untrimmed=3)


def test_a_long_time_offline_is_caught_up(world: World) -> None:
    """BOLT 5: all that happened while we were away is found, and what is still ours is taken. checklist 52"""
    alice, bob = world.pair.ends
    claimed = world.offer(alice, BIG, EXPIRY)
    lapsed = world.offer(alice, BIG + 1000, EXPIRY)
    world.alice.offline = True
    world.force_close(bob)
    world.mine()
    world.claim(world.bob, claimed)
    world.mine(150)
    assert world.bob.income() > 0
    world.alice.offline = False
    world.alice.look()
    world.mine_until_done(world.alice)
    paid, failed = world.alice.outcome(claimed), world.alice.outcome(lapsed)
    assert paid is not None and paid.preimage == world.preimages[claimed]
    assert failed is not None and not failed.paid
    gave = 2 * BIG + 1000
    assert has(world, world.alice) == due(world, world.alice, gave=gave, won=BIG + 1000, untrimmed=2)


@pytest.fixture
def anchored(tmp_path: Path) -> Iterator[World]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = World(tmp_path, anchors=True)
    yield made
    made.close()


@pytest.mark.parametrize("crashes", [False, True], ids=["calm", "crashes"])
def test_our_commitment_is_raised_through_its_anchor(anchored: World, crashes: bool) -> None:
    """checklist 48: the child pays for both, more with each block that leaves them out, and less than the ceiling."""
    alice = anchored.pair.ends[0]
    anchored.offer(alice, BIG, EXPIRY)
    commitment = anchored.force_close(alice)
    anchored.alice.crashes = crashes
    anchored.alice.rates = (FeeratePerKw(5000), FeeratePerKw(4000), FeeratePerKw(3000))
    anchored.alice.published_commitment(commitment)
    paid = []
    for _ in range(EXPIRY + TIMEOUT_WITHIN - BEFORE_ITS_HTLCS - anchored.chain.height - 1):
        empty_block(anchored, anchored.alice)
        (claim,) = anchored.alice.state.claims
        child = Transaction.parse(claim.tx or b"")
        assert anchored.chain.mempool.entries[child.txid].tx == child
        fees = anchored.fee_of(child) + anchored.fee_of(commitment)
        paid.append(fees * 1000 // (child.weight + commitment.weight))
    assert paid == sorted(paid)
    assert 2980 <= paid[0] <= 4020 and paid[-1] > 6000
    anchored.alice.rates = (FeeratePerKw(1000),) * 3
    anchored.mine_until_done(anchored.alice)
    assert anchored.chain.confirmations(child.txid) > 0
    gained = 330  # the anchor came along
    assert (
        has(anchored, anchored.alice)
        == due(anchored, anchored.alice, gave=BIG, won=BIG, untrimmed=1) + gained
    )


def test_a_commitment_that_pays_enough_needs_no_anchor(anchored: World) -> None:
    """checklist 48"""
    commitment = anchored.force_close(anchored.pair.alice)
    anchored.alice.published_commitment(commitment)
    empty_block(anchored, anchored.alice)
    assert not anchored.alice.state.claims and not anchored.alice.coins
    anchored.alice.rates = (FeeratePerKw(3000),) * 3
    empty_block(anchored, anchored.alice)
    assert anchored.alice.state.claims


def test_the_anchor_is_given_up_when_the_peers_commitment_wins(anchored: World) -> None:
    """checklist 45, 48: its coins are free again."""
    theirs = anchored.copy(anchored.pair.bob)
    commitment = anchored.force_close(anchored.pair.alice)
    anchored.alice.rates = (FeeratePerKw(3000),) * 3
    anchored.alice.published_commitment(commitment)
    (claim,) = anchored.alice.state.claims
    anchored.chain.generate_block([theirs.tx])
    anchored.mined.add(theirs.tx.txid)
    anchored.alice.look()
    assert anchored.alice.state.facts.kind is Kind.THEIRS
    assert claim.id in anchored.alice.released
    assert Transaction.parse(claim.tx or b"").txid in anchored.alice.forgotten
    anchored.mine_until_done(anchored.alice)
    assert has(anchored, anchored.alice) == due(anchored, anchored.alice, gave=0, won=0, untrimmed=0)
