"""What the mempool tells before a block does: preimages, and commitments that need our help (BOLT 5, "HTLC Output
Handling", "Failing a Channel"; checklist 46, 48)."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.onchain.events import OutputSpent
from node.onchain.state import Kind, Role
from protocol.amounts import FeeratePerKw
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.htlc_tx import with_witness
from protocol.hashes import sha256
from tests.node.onchain.test_fees import empty_block
from tests.node.onchain.test_unilateral import due, has
from tests.node.onchain.world import World
from tests.support import need

BIG = 200_000_000
EXPIRY = 150


@pytest.fixture(params=[False, True], ids=["static_remotekey", "anchors"])
def told(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = World(tmp_path, anchors=request.param)
    made.mempool_is_told = True
    yield made
    made.close()


def look(world: World) -> None:
    for watcher in world.watchers:
        watcher.look_into_mempool()


def test_a_claim_that_no_block_has_gives_its_preimage(told: World) -> None:
    """checklist 46: at first sight, and once; the block that comes later changes nothing of it."""
    alice, _ = told.pair.ends
    payment_hash = told.offer(alice, BIG, EXPIRY)
    told.force_close(alice)
    told.mine()
    told.claim(told.bob, payment_hash)
    assert told.alice.outcome(payment_hash) is None
    look(told)
    ended = told.alice.outcome(payment_hash)
    assert ended is not None and ended.preimage == told.preimages[payment_hash]
    told.mine_until_done(*told.watchers)
    assert told.alice.times_told[True, 0] == 1
    assert has(told, told.alice) == due(told, told.alice, gave=BIG, won=0, untrimmed=1)


def test_a_preimage_comes_even_before_the_commitment_is_in_a_block(told: World) -> None:
    """checklist 46: commitment and HTLC-success wait together; with anchors the success must wait for its parent."""
    alice, bob = told.pair.ends
    payment_hash = told.offer(alice, BIG, EXPIRY)
    copy = told.copy(bob)
    told.force_close(bob)
    look(told)
    assert told.alice.state.facts.kind is Kind.THEIRS and told.alice.state.height is None
    success = copy.htlc_transaction(0, offered=False, preimage=told.preimages[payment_hash])
    if told.anchors:
        told.chain.generate_block([copy.tx])
        told.mined.add(copy.tx.txid)
        told.alice.look()
        (output,) = [o for o in told.alice.state.outputs if o.role is Role.THEIR_RECEIVED]
        # It pays nothing by itself; whoever shows it to us shows the preimage.
        told.alice.do(OutputSpent(output.txid, output.index, success.serialize(), None))
    else:
        told.chain.submit(success)
        look(told)
        assert told.alice.state.height is None
        assert told.alice.times_told[True, 0] == 1
        told.mine()  # the channel counts as closed from here on, and hears it once more
        assert told.alice.times_told[True, 0] == 2
    ended = told.alice.outcome(payment_hash)
    assert ended is not None and ended.preimage == told.preimages[payment_hash]


def test_a_claim_that_is_never_mined_still_paid(told: World) -> None:
    """checklist 46: the payer was told; the output comes back after its expiry, which is our gain."""
    alice, _ = told.pair.ends
    payment_hash = told.offer(alice, BIG, EXPIRY)
    told.force_close(alice)
    told.mine()
    told.claim(told.bob, payment_hash)
    look(told)
    told.bob.offline = True
    told.chain.mempool.entries.clear()
    told.chain.mempool._spenders.clear()
    told.mempool_is_told = False
    told.mine_until_done(told.alice)
    ended = told.alice.outcome(payment_hash)
    assert ended is not None and ended.paid and told.alice.times_told[True, 0] == 1
    assert has(told, told.alice) == due(told, told.alice, gave=BIG, won=BIG, untrimmed=1)


def test_a_spend_without_the_preimage_says_nothing(told: World) -> None:
    """checklist 46: 32 bytes that hash to something else, a timeout, a spend of another output."""
    alice, _ = told.pair.ends
    payment_hash = told.offer(alice, BIG, EXPIRY)
    told.force_close(alice)
    told.mine()
    told.claim(told.bob, payment_hash)
    preimage = told.preimages[payment_hash]
    (theirs,) = [tx for tx in told.bob.published.values() if any(preimage in i.witness for i in tx.inputs)]
    (spend,) = theirs.inputs
    wrong = tuple(sha256(b"wrong") if item == preimage else item for item in spend.witness)
    false = with_witness(theirs, 0, wrong)
    at = spend.outpoint
    for event in (
        OutputSpent(at.txid, at.index, false.serialize(), None),
        OutputSpent(at.txid, at.index + 7, theirs.serialize(), None),
    ):
        told.alice.do(event)
        assert told.alice.outcome(payment_hash) is None


@pytest.fixture
def anchored(tmp_path: Path) -> Iterator[World]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = World(tmp_path, anchors=True)
    yield made
    made.close()


def test_the_peers_commitment_is_raised_through_our_anchor_on_it(anchored: World) -> None:
    """checklist 48: an HTLC of ours has a deadline, and the peer's commitment pays less than the market asks."""
    alice, bob = anchored.pair.ends
    payment_hash = anchored.offer(alice, BIG, EXPIRY)
    commitment = anchored.force_close(bob)
    anchored.alice.rates = (FeeratePerKw(5000), FeeratePerKw(4000), FeeratePerKw(3000))
    anchored.alice.look_into_mempool()
    (claim,) = anchored.alice.state.claims
    child = Transaction.parse(claim.tx or b"")
    assert anchored.chain.mempool.children_of(commitment) == {child.txid}
    fees = anchored.fee_of(child) + anchored.fee_of(commitment)
    assert 3900 <= fees * 1000 // (child.weight + commitment.weight) <= 4020
    anchored.alice.rates = (FeeratePerKw(1000),) * 3
    anchored.mine_until_done(anchored.alice)
    assert anchored.chain.confirmations(child.txid) > 0
    ended = anchored.alice.outcome(payment_hash)
    assert ended is not None and not ended.paid
    gained = 330
    expected = due(anchored, anchored.alice, gave=BIG, won=BIG, untrimmed=1) + gained
    assert has(anchored, anchored.alice) == expected


def test_the_peers_commitment_may_take_its_time_while_nothing_of_ours_runs_out(anchored: World) -> None:
    """checklist 48: without an HTLC of ours there is no deadline, and no coin is spent."""
    anchored.force_close(anchored.pair.bob)
    anchored.alice.rates = (FeeratePerKw(5000), FeeratePerKw(4000), FeeratePerKw(3000))
    anchored.alice.look_into_mempool()
    empty_block(anchored, anchored.alice)
    assert anchored.alice.state.facts.kind is Kind.THEIRS
    assert not anchored.alice.state.claims and not anchored.alice.coins


def test_when_both_commitments_are_in_mempools_the_peers_is_raised(anchored: World) -> None:
    """checklist 45, 48: it frees our balance at once and needs no second stages; ours is left to itself, and the coin
    that was to pay for it is free again. Whichever is mined counts."""
    alice, bob = anchored.pair.ends
    anchored.offer(alice, BIG, EXPIRY)
    theirs = anchored.copy(bob)
    ours = anchored.force_close(alice)
    anchored.alice.rates = (FeeratePerKw(5000), FeeratePerKw(4000), FeeratePerKw(3000))
    anchored.alice.published_commitment(ours)
    (first,) = anchored.alice.state.claims
    anchored.chain.mempool.entries.clear()
    anchored.chain.mempool._spenders.clear()
    anchored.chain.submit(theirs.tx)
    anchored.alice.look_into_mempool()
    (second,) = anchored.alice.state.claims
    assert anchored.alice.state.facts.kind is Kind.THEIRS
    assert first.id in anchored.alice.released
    (at,) = second.outputs
    assert at[0] == theirs.tx.txid
    child = Transaction.parse(second.tx or b"")
    assert child.txid in anchored.chain.mempool
    # A miner never saw any of it, and mines ours.
    anchored.chain.generate_block([ours])
    anchored.mined.add(ours.txid)
    anchored.tolerated = ("insufficient fee", "bad-txns-inputs-missingorspent")
    anchored.alice.look()
    assert anchored.alice.state.facts.kind is Kind.OURS
    assert second.id in anchored.alice.released and child.txid in anchored.alice.forgotten
    anchored.alice.rates = (FeeratePerKw(1000),) * 3
    anchored.mine_until_done(anchored.alice)
    assert has(anchored, anchored.alice) == due(anchored, anchored.alice, gave=BIG, won=BIG, untrimmed=1)


def test_a_commitment_below_what_relays_goes_out_with_its_child(anchored: World) -> None:
    """checklist 48: parent and child leave as one package, so that the parent's own fee does not matter."""
    alice, _ = anchored.pair.ends
    anchored.offer(alice, BIG, EXPIRY)
    ours = anchored.force_close(alice)
    anchored.alice.rates = (FeeratePerKw(5000), FeeratePerKw(4000), FeeratePerKw(3000))
    anchored.chain.mempool.set_floor(8_000)
    assert ours.txid not in anchored.chain.mempool
    anchored.alice.published_commitment(ours)
    (claim,) = anchored.alice.state.claims
    assert ours.txid in anchored.chain.mempool
    assert Transaction.parse(claim.tx or b"").txid in anchored.chain.mempool
