"""What shares a second stage must not hold up what it shares it with (BOLT 5, "HTLC Output Handling"; checklist 43, 47,
52)."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.channel.events import Offer
from node.channel.state import OfferWant
from node.onchain.events import ClaimWanted
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw, Msat
from tests.node.channel.pair import End, invoice, onion_for
from tests.node.onchain.test_fees import empty_block
from tests.node.onchain.test_unilateral import due, has
from tests.node.onchain.world import World
from tests.support import need

BIG = 200_000_000
EXPIRY = 150


@pytest.fixture
def anchored(tmp_path: Path) -> Iterator[World]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = World(tmp_path, anchors=True)
    yield made
    made.close()


def half_of_an_invoice(world: World, payer: End) -> bytes:
    """One part of BIG, of an invoice over twice as much: the signer gives no preimage for it."""
    payee = world.pair.other(payer)
    made = invoice(payee, 2 * BIG)
    onion = onion_for(payee, made, BIG, EXPIRY)
    payer.do(Offer(OfferWant(Msat(BIG), made.payment_hash, EXPIRY, onion, "part 0")))
    world.pair.quiet()
    return made.payment_hash


def test_a_preimage_that_the_signer_does_not_give_holds_up_no_other_htlc(anchored: World) -> None:
    """checklist 43, 47: the payer sends half of one invoice besides what it pays in full, and lets the channel close.
    If both went to the signer in one request for ever, it would refuse both, and take the paid one back as well."""
    world = anchored
    alice, bob = world.pair.ends
    half_of_an_invoice(world, bob)
    paid = world.offer(bob, BIG + 1000, EXPIRY)
    commitment = world.force_close(alice)
    world.alice.published_commitment(commitment)
    for htlc in world.alice.state.facts.htlcs:
        world.alice.do(ClaimWanted(htlc.id))
    world.mine(2)
    assert set(world.alice.refused) == {"release-amount"}
    world.mine_until_done(*world.watchers)
    ended = world.alice.outcome(paid)
    assert ended is not None and ended.paid
    assert has(world, world.alice) == due(world, world.alice, gave=0, won=BIG + 1000, untrimmed=2)


def test_htlcs_that_are_not_worth_their_fee_do_not_drag_a_good_one_down(anchored: World) -> None:
    """The peer routes many small HTLCs over us with the expiry of a good one and lets all of them lapse. In one
    second stage with it, their fee would be more than a quarter of everything: the good one would be left too, and
    the peer, who has its preimage, takes it when we have failed it upstream. checklist 43, 52"""
    world = anchored
    alice, _ = world.pair.ends
    small, good = 400_000, 5_000_000
    for _ in range(30):
        world.offer(alice, small, EXPIRY)
    lapsed = world.offer(alice, good, EXPIRY)
    world.alice.rates = (FEERATE_FLOOR,) * 3
    world.force_close(alice)
    world.mine_until_done(world.alice)
    ended = world.alice.outcome(lapsed)
    assert ended is not None and not ended.paid
    assert [o.value for o in world.alice.state.outputs if o.given_up] == [400] * 30
    gave = 30 * small + good
    assert has(world, world.alice) == due(world, world.alice, gave=gave, won=good, untrimmed=31)


def test_small_htlcs_do_not_keep_the_feerate_of_a_good_one_below_the_market(anchored: World) -> None:
    """The ceiling of a second stage is that of all its HTLCs over their weight: many small ones would hold a large one
    below what miners take, until its preimage is worth more to the peer than to us. checklist 43, 52"""
    world = anchored
    alice, _ = world.pair.ends
    small, good = 2_000_000, 100_000_000
    for _ in range(30):
        world.offer(alice, small, EXPIRY)
    world.offer(alice, good, EXPIRY)
    world.force_close(alice)
    world.mine_to(EXPIRY - 1)
    world.alice.rates = (FeeratePerKw(8000),) * 3
    world.mine()
    (large,) = [o for o in world.alice.state.outputs if o.value == good // 1000]
    (claim,) = [c for c in world.alice.state.claims if large.at in c.outputs]
    assert claim.tx_feerate >= 8000
    world.mine_until_done(world.alice)


def test_a_good_htlc_parts_from_small_ones_when_the_market_rises(anchored: World) -> None:
    """checklist 43, 52: the same, when the fee spike comes after the second stage was sent."""
    world = anchored
    alice, _ = world.pair.ends
    small, good = 3_000_000, 100_000_000
    for _ in range(10):
        world.offer(alice, small, EXPIRY)
    world.offer(alice, good, EXPIRY)
    world.force_close(alice)
    world.mine_to(EXPIRY - 1)
    empty_block(world, world.alice)
    (large,) = [o for o in world.alice.state.outputs if o.value == good // 1000]
    (shared,) = [c for c in world.alice.state.claims if large.at in c.outputs]
    assert len(shared.outputs) == 11 and shared.tx_feerate == 1000
    world.tolerated = ("insufficient fee",)
    world.alice.rates = (FeeratePerKw(8000),) * 3
    empty_block(world, world.alice)
    (claim,) = [c for c in world.alice.state.claims if large.at in c.outputs]
    assert claim.outputs == (large.at,)
    assert claim.tx_feerate >= 8000 and not claim.refused
    assert shared.id in world.alice.released
    world.mine_until_done(world.alice)
