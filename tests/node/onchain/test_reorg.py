"""Any step on chain may be undone (BOLT 5, "General Nomenclature"; checklist 51)."""

import pytest
from msgspec.structs import replace

from node.onchain import machine
from node.onchain.events import ClaimWanted
from node.onchain.state import Kind, Outcome
from tests.node.onchain.test_revoked import all_of_it, cheat
from tests.node.onchain.test_unilateral import due, has
from tests.node.onchain.world import World

BIG = 200_000_000
EXPIRY = 140


@pytest.mark.parametrize("every", [3, 7])
def test_a_close_survives_reorganisations_at_any_step(world: World, every: int) -> None:
    """Every few blocks the last two are replaced by empty ones, so each transaction is mined again."""
    alice, bob = world.pair.ends
    claimed = {alice: world.offer(alice, BIG, EXPIRY), bob: world.offer(bob, BIG + 1000, EXPIRY)}
    lapsed = {alice: world.offer(alice, BIG + 2000, EXPIRY), bob: world.offer(bob, BIG + 3000, EXPIRY)}
    # The old form of a transaction returns to the mempool, and our new one may pay no more than that.
    world.tolerated = ("insufficient fee", "bad-txns-inputs-missingorspent", "non-BIP68-final")
    world.force_close(alice)
    world.mine()
    for payer in (alice, bob):
        world.claim(world.of(world.pair.other(payer)), claimed[payer])
    for n in range(120):
        if all(watcher.done for watcher in world.watchers):
            break
        world.mine()
        if n % every == every - 1:
            world.reorganise(2)
    for payer in (alice, bob):
        payee, watcher = world.of(world.pair.other(payer)), world.of(payer)
        for side in (payee, watcher):
            paid, failed = side.outcome(claimed[payer]), side.outcome(lapsed[payer])
            assert paid is not None and paid.paid
            assert failed is not None and not failed.paid
        won = (BIG + 2000 if payer is alice else BIG + 3000) + (BIG + 1000 if payer is alice else BIG)
        gave = 2 * BIG + (2000 if payer is alice else 4000)
        world.mined.update(
            tx.txid for h in range(world.chain.height) for tx in world.chain.block(h + 1).transactions
        )
        # A sweep that was mined twice in two forms was published in both; only what is in the chain counts.
        assert has(world, watcher) == due(world, watcher, gave=gave, won=won, untrimmed=4)


def test_a_failure_waits_until_no_reorganisation_can_undo_it(world: World) -> None:
    """checklist 44: the payer is told after six blocks, counted anew when they are replaced."""
    alice, bob = world.pair.ends
    lapsed = world.offer(alice, BIG, EXPIRY)
    world.tolerated = ("insufficient fee", "non-BIP68-final", "bad-txns-inputs-missingorspent")
    world.force_close(bob)
    world.mine_to(EXPIRY)
    world.mine(5)
    assert world.alice.outcome(lapsed) is None
    world.reorganise(5)
    assert world.alice.outcome(lapsed) is None
    world.mine(5)
    assert world.alice.outcome(lapsed) is None
    world.mine(2)
    ended = world.alice.outcome(lapsed)
    assert ended is not None and not ended.paid


def test_another_commitment_may_win_after_a_reorganisation(world: World) -> None:
    """checklist 45, 51: ours is replaced by the peer's; what was planned for the first is forgotten."""
    alice, bob = world.pair.ends
    payment_hash = world.offer(alice, BIG, EXPIRY)
    theirs = world.copy(bob)
    world.force_close(alice)
    world.mine(2)
    assert world.alice.state.facts.kind is Kind.OURS
    fork = world.chain.height - 2
    world.chain.reorg(2, transactions=[theirs.tx])
    world.mined.add(theirs.tx.txid)
    for watcher in world.watchers:
        watcher.lost(fork)
        watcher.look()
    assert world.alice.state.facts.kind is Kind.THEIRS
    assert world.bob.state.facts.kind is Kind.OURS
    world.mine_until_done(world.alice)
    ended = world.alice.outcome(payment_hash)
    assert ended is not None and not ended.paid
    assert has(world, world.alice) == due(world, world.alice, gave=BIG, won=BIG, untrimmed=1)


def test_a_penalty_survives_a_reorganisation(world: World) -> None:
    """checklist 50, 51"""
    copy, _, _ = cheat(world)
    world.bob.offline = True
    world.tolerated = ("insufficient fee", "non-BIP68-final", "bad-txns-inputs-missingorspent")
    world.chain.submit(copy.tx)
    world.mine(2)
    world.reorganise(2)
    world.mine(2)
    world.reorganise(1)
    world.mine_until_done(world.alice)
    world.mined.update(
        tx.txid for h in range(world.chain.height) for tx in world.chain.block(h + 1).transactions
    )
    assert world.alice.income() == all_of_it(world, copy, world.alice)


def test_what_was_learned_on_one_commitment_counts_on_the_one_that_wins(world: World) -> None:
    """checklist 46, 51: payments are told once what to claim. If it were forgotten with the commitment that lost, the
    peer would take back what it paid us, and what was told upstream would be told another way."""
    alice, bob = world.pair.ends
    gave, won = world.offer(alice, BIG, EXPIRY), world.offer(bob, BIG + 1000, EXPIRY)
    theirs = world.copy(bob)
    world.tolerated = ("insufficient fee", "bad-txns-inputs-missingorspent", "non-BIP68-final")
    world.force_close(alice)
    world.mine()
    elsewhere = ((b"\x07" * 32, (5,)),)
    world.alice.do(ClaimWanted(0, world.preimages[won], elsewhere))
    world.claim(world.bob, gave)
    world.mine()
    told = world.alice.state.told
    assert [outcome.preimage for outcome in told] == [world.preimages[gave]]
    last_claim = world.alice.state.next_claim
    fork = world.chain.height - 2
    world.chain.reorg(2, transactions=[theirs.tx])
    world.mined.add(theirs.tx.txid)
    world.alice.lost(fork)
    world.alice.look()
    assert world.alice.state.facts.kind is Kind.THEIRS
    known = {htlc.payment_hash: htlc for htlc in world.alice.state.facts.htlcs}
    assert known[gave].preimage == world.preimages[gave] and known[won].preimage == world.preimages[won]
    assert known[won].claim and known[won].others == elsewhere
    assert world.alice.state.told == told
    earlier = replace(world.alice.state, told=(Outcome(True, 99, False),))
    begun = machine.begin(replace(earlier.facts, txid=bytes(32)), world.alice.env, earlier)
    assert begun.state.told == earlier.told
    # Coins are lent for a claim by its number: one that is used twice frees the coins of the other.
    assert all(claim.id >= last_claim for claim in world.alice.state.claims)
    world.bob.offline = True
    world.mine_until_done(world.alice)
    ended = world.alice.outcome(won)
    assert ended is not None and ended.paid
