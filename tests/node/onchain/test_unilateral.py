"""Our commitment and the peer's, to the last output (BOLT 5, "Unilateral Close Handling").

Alice opened. Each test has both views at once: what is *ours* for one end is *theirs* for the other.
"""

import pytest

from node.channel.events import Offer
from node.channel.state import OfferWant
from node.onchain.state import Kind
from protocol.amounts import FeeratePerKw, Msat
from protocol.bolt3.fees import commit_fee
from tests.node.channel.pair import invoice, onion_for
from tests.node.onchain.world import CAPACITY, COIN, COINS, PUSH, Watcher, World

BIG = 200_000_000
DUST = 100_000
RATE = FeeratePerKw(1000)
EXPIRY = 160


def has(world: World, watcher: Watcher) -> int:
    return watcher.income() + watcher.coins_left()


def due(world: World, watcher: Watcher, *, gave: int, won: int, untrimmed: int) -> int:
    """In satoshis, from the balances of the open: less what it offered, plus the HTLCs that it won, less the fees."""
    alice = watcher is world.alice
    msat = (1000 * CAPACITY - PUSH if alice else PUSH) - gave
    cost = commit_fee(RATE, untrimmed, world.anchors) + (660 if world.anchors else 0)
    return msat // 1000 - (cost if alice else 0) + won // 1000 + COINS * COIN - world.fees_of(watcher)


def test_a_close_without_htlcs_brings_both_balances_home(world: World) -> None:
    """checklist 45, 49: our delayed output, and to_remote on the peer's commitment."""
    world.force_close(world.pair.alice)
    world.mine_until_done(world.alice, world.bob)
    assert world.alice.state.facts.kind is Kind.OURS
    assert world.bob.state.facts.kind is Kind.THEIRS
    for watcher in world.watchers:
        assert has(world, watcher) == due(world, watcher, gave=0, won=0, untrimmed=0)
        assert len(watcher.published) == 1
        assert not watcher.warnings


@pytest.mark.parametrize("crashes", [False, True], ids=["calm", "crashes"])
@pytest.mark.parametrize("publisher", ["alice", "bob"])
def test_every_htlc_of_a_close_ends_as_it_must(world: World, publisher: str, crashes: bool) -> None:
    """checklist 43, 44, 46, 47, 51, 52: both directions, claimed, timed out and trimmed; who is paid hears it at once,
    who is not when it is deep. With `crashes` each end dies between every save and its effects."""
    alice, bob = world.pair.ends
    claimed = {alice: world.offer(alice, BIG, EXPIRY), bob: world.offer(bob, BIG + 1000, EXPIRY)}
    lapsed = {alice: world.offer(alice, BIG + 2000, EXPIRY), bob: world.offer(bob, BIG + 3000, EXPIRY + 5)}
    dust = {alice: world.offer(alice, DUST, EXPIRY), bob: world.offer(bob, DUST, EXPIRY)}
    for watcher in world.watchers:
        watcher.crashes = crashes
    world.force_close(getattr(world.pair, publisher))
    world.mine()
    for payer in (alice, bob):
        payee = world.of(world.pair.other(payer))
        world.claim(payee, claimed[payer])
    world.mine(2)
    for payer in (alice, bob):
        payee, watcher = world.of(world.pair.other(payer)), world.of(payer)
        paid = watcher.outcome(claimed[payer])
        assert paid is not None and paid.preimage == world.preimages[claimed[payer]]
        assert payee.outcome(claimed[payer]) is None  # not deep yet
        assert watcher.outcome(lapsed[payer]) is None
        assert watcher.outcome(dust[payer]) is not None  # in no commitment: told at once
    world.mine_until_done(*world.watchers)
    for payer in (alice, bob):
        payee, watcher = world.of(world.pair.other(payer)), world.of(payer)
        ended = payee.outcome(claimed[payer])
        assert ended is not None and ended.paid
        for payment_hash in (lapsed[payer], dust[payer]):
            for side in (payee, watcher):
                ended = side.outcome(payment_hash)
                assert ended is not None and not ended.paid
        won = (BIG + 2000 if payer is alice else BIG + 3000) + (BIG + 1000 if payer is alice else BIG)
        gave = 2 * BIG + DUST + (2000 if payer is alice else 4000)
        assert has(world, watcher) == due(world, watcher, gave=gave, won=won, untrimmed=4)
        assert not watcher.refused


@pytest.mark.parametrize("publisher", ["alice", "bob"])
def test_parts_that_differ_in_nothing_but_their_id_have_an_output_each(world: World, publisher: str) -> None:
    """Taken for one, the other output would be left to the peer. checklist 43"""
    alice, bob = world.pair.ends
    made = invoice(bob, 2 * BIG)
    onion = onion_for(bob, made, BIG, EXPIRY)
    wants = [OfferWant(Msat(BIG), made.payment_hash, EXPIRY, onion, f"part {n}") for n in range(2)]
    alice.do(*[Offer(want) for want in wants])
    world.pair.quiet()
    world.force_close(getattr(world.pair, publisher))
    world.mine_until_done(world.alice)
    assert {key: outcome.paid for key, outcome in world.alice.outcomes.items()} == {
        (True, 0): False,
        (True, 1): False,
    }
    assert has(world, world.alice) == due(world, world.alice, gave=2 * BIG, won=2 * BIG, untrimmed=2)
