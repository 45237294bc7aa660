"""Two commitments of the peer may be valid at a time, and some spends are none that we know (BOLT 5, "Unilateral Close
Handling: Remote Commitment Transaction", "General Requirements"; checklist 45)."""

from node.channel.events import CloseWanted, Fulfil
from node.onchain.state import Kind
from tests.node.onchain.test_unilateral import due, has
from tests.node.onchain.world import World

BIG = 200_000_000
EXPIRY = 140


def half_offered(world: World, *, delivered: bool) -> bytes:
    """Alice signed the peer's next commitment; the peer validated it (or never got it); alice heard no more."""
    alice, bob = world.pair.ends
    payment_hash = world.offer_unheard(alice, BIG, EXPIRY)
    assert alice.answer()
    if delivered:
        assert world.pair.deliver(alice, 100)
        while bob.asks or bob.peels:
            bob.answer()
    alice.out.waiting.clear()
    bob.out.waiting.clear()
    return payment_hash


def test_the_next_commitment_of_the_peer_is_resolved_like_the_current_one(world: World) -> None:
    """checklist 15, 45"""
    payment_hash = half_offered(world, delivered=True)
    world.force_close(world.pair.bob)
    world.mine()
    assert world.alice.state.facts.kind is Kind.THEIRS_NEXT
    world.mine_until_done(world.alice)
    ended = world.alice.outcome(payment_hash)
    assert ended is not None and not ended.paid
    assert has(world, world.alice) == due(world, world.alice, gave=BIG, won=BIG, untrimmed=1)


def test_an_htlc_that_only_the_other_valid_commitment_has_is_failed_when_this_one_is_deep(
    world: World,
) -> None:
    """checklist 44"""
    payment_hash = half_offered(world, delivered=False)
    world.force_close(world.pair.bob)
    world.mine()
    assert world.alice.state.facts.kind is Kind.THEIRS
    world.mine(4)
    assert world.alice.outcome(payment_hash) is None
    world.mine()
    ended = world.alice.outcome(payment_hash)
    assert ended is not None and not ended.paid
    world.mine_until_done(world.alice)
    assert has(world, world.alice) == due(world, world.alice, gave=0, won=0, untrimmed=0)


def test_a_fulfilled_htlc_that_is_gone_counts_as_paid_and_one_still_there_is_claimed(world: World) -> None:
    """Bob showed the preimage; alice's older commitment still holds the HTLC, her next one does not."""
    alice, bob = world.pair.ends
    payment_hash = world.offer(alice, BIG, EXPIRY)
    bob.do(Fulfil(0))
    bob.answer()
    world.pair.deliver(bob, 100)  # fulfil and commitment_signed; alice's answer is lost
    world.force_close(alice)
    world.mine()
    assert world.bob.state.facts.kind in (Kind.THEIRS, Kind.THEIRS_NEXT)
    world.mine_until_done(*world.watchers)
    for watcher in world.watchers:
        ended = watcher.outcome(payment_hash)
        assert ended is not None and ended.paid
    assert has(world, world.bob) == due(world, world.bob, gave=0, won=BIG, untrimmed=1)


def test_a_mutual_close_needs_nothing_but_depth(world: World) -> None:
    """checklist 45"""
    world.pair.alice.do(CloseWanted())
    world.pair.quiet()
    world.chain.submit(world.pair.alice.published[0])
    world.mine(5)
    assert world.alice.state.facts.kind is Kind.MUTUAL
    assert not world.alice.done
    world.mine()
    assert world.alice.done and world.bob.done
    assert not world.alice.published and not world.alice.warnings


def test_a_spend_that_nobody_agreed_to_is_told_to_the_user(world: World) -> None:
    """BOLT 5, General Requirements: must warn of potentially lost funds. checklist 45"""
    from protocol.amounts import Sat
    from protocol.bolt3 import closing
    from protocol.curve import sign_ecdsa

    (ours,) = world.pair.alice.signer._channels.values()
    (theirs,) = world.pair.bob.signer._channels.values()
    assert ours.params is not None
    script = world.pair.alice.signer.keys.wallet_script(0, 0)
    built = closing.build(
        ours.params, Sat(1_000_000), Sat(9_000_000), script, script[:-1] + b"\0", Sat(5_000)
    )
    tx = built.signed(
        sign_ecdsa(ours.secrets.funding.reveal(), built.digest),
        sign_ecdsa(theirs.secrets.funding.reveal(), built.digest),
    )
    world.chain.submit(tx)
    world.mine()
    assert world.alice.state.facts.kind is Kind.UNKNOWN
    assert "other hands" in world.alice.warnings[0]


def test_after_a_loss_of_data_our_balance_comes_back(world: World) -> None:
    """checklist 30, 49: the node remembers the state before a payment, the peer publishes the one after it."""
    alice, bob = world.pair.ends
    old = alice.state
    world.offer(alice, BIG, EXPIRY)
    bob.do(Fulfil(0))
    world.pair.quiet()
    world.force_close(bob)
    alice.state = old
    alice.database.db.execute("DELETE FROM htlcs")
    world.mine_until_done(world.alice)
    assert world.alice.state.facts.kind is Kind.FUTURE
    assert "does not remember" in world.alice.warnings[0]
    assert has(world, world.alice) == due(world, world.alice, gave=BIG, won=0, untrimmed=0)
