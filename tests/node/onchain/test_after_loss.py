"""Our own commitment in the chain, when everything but the words and a backup is lost (BOLT 5, "Unilateral Close
Handling: Local Commitment Transaction"; checklist 30, 49)."""

import importlib.util
from pathlib import Path

import pytest

from node.channel import static
from node.channel.content import commitment_params
from node.channel.events import CloseWanted, Fulfil, FundingSpent
from node.channel.state import CloseKind, Closing, State, Volatile
from node.onchain.recognise import whose
from node.onchain.state import Kind, Role
from node.onchain.story import story
from protocol.amounts import BlockHeight
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.commitment import Side
from protocol.bus.messages import signer as sign
from signer.service import SignerService
from tests.node.channel.pair import PASSPHRASE, End
from tests.node.channel.saved import Database
from tests.node.onchain.test_unilateral import BIG, EXPIRY, due, has
from tests.node.onchain.world import CAPACITY, COIN, COINS, DELAY, Watcher, World
from tests.support import need


def loses_everything(world: World, end: End) -> Watcher:
    """But the words and a backup, with which node and signer begin anew. Nothing was written down on the way."""
    sealed = end.call(sign.SealBackup(b""))
    record = static.record(end.state.committed)
    assert isinstance(sealed, sign.BackupSealed) and record is not None
    end.signer.close()
    end.signer = SignerService(end.folder, PASSPHRASE, in_memory=True)
    end.hello()
    assert end.call(sign.RestoreBackup(sealed.blob)) == sign.BackupRestored(
        (end.state.committed.params.handle,)
    )
    end.database = Database()
    end.begin(State(static.restored(record), {}, Volatile()))
    fresh = Watcher(world, end)
    fresh.seen = 101
    if end is world.pair.alice:
        world.alice = fresh
    else:
        world.bob = fresh
    return fresh


@pytest.mark.parametrize("who", ["alice", "bob"])
@pytest.mark.parametrize("after", [0, 1, DELAY + 40])
def test_our_delayed_balance_comes_home(world: World, who: str, after: int) -> None:
    """checklist 30, 49: lost while it was on its way, right after its block, and long after its delay."""
    end = getattr(world.pair, who)
    world.force_close(end)
    if after:
        world.mine()
        world.of(end).offline = True  # nothing was swept before the loss
        world.mine(after - 1)
    lost = loses_everything(world, end)
    world.mine()
    assert lost.state.facts.kind is Kind.OURS_LOST
    world.mine_until_done(lost)
    (warning,) = lost.warnings
    assert "our own commitment" in warning and f"after {DELAY} blocks" in warning
    assert has(world, lost) == due(world, lost, gave=0, won=0, untrimmed=0)
    assert not lost.refused
    assert not any(output.given_up for output in lost.state.outputs)


def test_a_crash_at_every_save_and_a_reorganisation_on_the_way_lose_nothing(world: World) -> None:
    world.force_close(world.pair.alice)
    lost = loses_everything(world, world.pair.alice)
    lost.crashes = True
    world.mine(3)
    world.reorganise(3)
    world.mine_until_done(lost)
    assert has(world, lost) == due(world, lost, gave=0, won=0, untrimmed=0)


def test_htlcs_of_it_are_told_to_be_lost_and_the_balance_comes_home_all_the_same(world: World) -> None:
    """The peer's signatures for our second stages were in the database. What we received goes back to the peer, what we
    offered goes to it with the preimage."""
    alice, bob = world.pair.ends
    paid = world.offer(alice, BIG, EXPIRY)
    world.offer(bob, BIG + 1000, EXPIRY)
    world.force_close(alice)
    lost = loses_everything(world, alice)
    world.mine()
    world.claim(world.bob, paid)
    world.mine_until_done(lost, world.bob)
    left = [output for output in lost.state.outputs if output.role is Role.LOST_HTLC]
    assert sorted(output.value for output in left) == [BIG // 1000, BIG // 1000 + 1]
    assert all("signature" in output.given_up for output in left)
    told = " ".join(line.text for line in story(lost.state, BlockHeight(world.chain.height)))
    assert "published before this node lost its state" in told
    assert not lost.refused  # the signer was not even asked
    assert has(world, lost) == due(world, lost, gave=BIG, won=0, untrimmed=2)
    # Bob lost nothing: paid with the preimage, and back after the expiry.
    assert has(world, world.bob) == due(world, world.bob, gave=BIG + 1000, won=2 * BIG + 1000, untrimmed=2)


def test_a_second_stage_that_left_before_the_loss_is_swept(world: World) -> None:
    """checklist 49, 52: HTLC-timeout and HTLC-success were mined; their outputs wait for the same delay."""
    alice, bob = world.pair.ends
    world.offer(alice, BIG, EXPIRY)
    won = world.offer(bob, BIG + 1000, EXPIRY + 5)
    world.mine_to(EXPIRY - 4)
    world.force_close(alice)
    world.mine()
    world.claim(world.alice, won)
    world.mine_to(EXPIRY + 1)
    staged = [o for o in world.alice.state.outputs if o.role is Role.SECOND_STAGE]
    assert len(staged) == 2
    assert all(o.spent is None for o in staged)
    before, published = world.alice.coins_left(), world.alice.published
    lost = loses_everything(world, alice)
    lost.published.update(published)  # fees that it had paid
    world.mine_until_done(lost)
    assert not lost.refused
    assert lost.coins_left() == before
    again = [o for o in lost.state.outputs if o.role is Role.SECOND_STAGE]
    assert {o.at for o in again} == {o.at for o in staged}
    assert all(o.spent is not None for o in again)
    assert has(world, lost) == due(world, lost, gave=BIG, won=2 * BIG + 1000, untrimmed=2)


def test_the_commitment_of_the_peer_is_still_known_for_the_peers(world: World) -> None:
    """checklist 30: who is not the owner of the commitment has no delay."""
    world.force_close(world.pair.bob)
    world.alice.offline = True
    world.mine()
    lost = loses_everything(world, world.pair.alice)
    world.mine_until_done(lost)
    assert lost.state.facts.kind is Kind.FUTURE
    assert has(world, lost) == due(world, lost, gave=0, won=0, untrimmed=0)


@pytest.mark.parametrize("publisher", ["alice", "bob"])
@pytest.mark.parametrize("anchors", [False, True])
def test_a_commitment_without_the_other_sides_balance_is_told_apart(
    tmp_path: Path, publisher: str, anchors: bool
) -> None:
    """Only Alice has money. Then her commitment has no undelayed balance: without anchors the script of her delayed one
    decides, and for Bob, who cannot find his, nothing in it is his."""
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    world = World(tmp_path, anchors=anchors, push=0)
    owner = getattr(world.pair, publisher)
    other = world.pair.other(owner)
    tx = world.force_close(owner)
    params = commitment_params(owner.state.committed.params)
    certain = anchors or publisher == "bob"
    assert whose(params, tx) is (Side.HOLDER if certain else None)
    assert whose(params.mirror(), tx) is (Side.COUNTERPARTY if certain else None)
    world.mine()
    lost, stranger = loses_everything(world, owner), loses_everything(world, other)
    world.mine_until_done(lost, stranger)
    assert lost.state.facts.kind is Kind.OURS_LOST
    assert stranger.state.facts.kind is Kind.FUTURE
    assert has(world, world.alice) - COINS * COIN > (CAPACITY - 10_000)
    assert has(world, world.bob) == COINS * COIN
    assert not any("our own" in warning for warning in stranger.warnings)
    world.close()


def test_an_old_database_knows_our_newer_commitment_for_ours(world: World) -> None:
    """checklist 30: a copy of the node's database was put back after the force close; the signer is intact."""
    alice, bob = world.pair.ends
    old_state, old_rows = alice.state, Database.copy_of(alice.database)
    world.offer(alice, BIG, EXPIRY)
    bob.do(Fulfil(0))
    world.pair.quiet()
    world.force_close(alice)
    alice.state, alice.database = old_state, old_rows
    world.mine_until_done(world.alice)
    assert world.alice.state.facts.kind is Kind.OURS_LOST
    assert has(world, world.alice) == due(world, world.alice, gave=BIG, won=0, untrimmed=0)


def test_an_old_database_hears_the_preimage_of_an_htlc_that_it_remembers(world: World) -> None:
    """checklist 46: it cannot take it back itself, but what waits upstream must not fail before the peer is paid."""
    alice = world.pair.alice
    payment_hash = world.offer(alice, BIG, EXPIRY)
    old_state, old_rows = alice.state, Database.copy_of(alice.database)
    for _ in range(2):  # two rounds later our number is one that the old state does not know
        world.offer(alice, BIG + 5000, EXPIRY)
    world.force_close(alice)
    alice.state, alice.database = old_state, old_rows
    world.mine(7)
    assert world.alice.state.facts.kind is Kind.OURS_LOST
    assert world.alice.outcome(payment_hash) is None
    world.claim(world.bob, payment_hash)
    world.mine(2)
    ended = world.alice.outcome(payment_hash)
    assert ended is not None and ended.paid and ended.preimage == world.preimages[payment_hash]


def test_the_channel_calls_it_our_own_close(world: World) -> None:
    tx = world.force_close(world.pair.alice)
    world.mine()
    loses_everything(world, world.pair.alice)
    world.pair.alice.do(FundingSpent(tx.serialize(), BlockHeight(world.chain.height), 1))
    phase = world.pair.alice.state.committed.phase
    assert isinstance(phase, Closing)
    assert phase.kind is CloseKind.OURS
    # Told again, with the phase that it has now: still one whose point only the signer knows.
    fresh = Watcher(world, world.pair.alice)
    fresh._begin(Transaction.parse(tx.serialize()))
    assert fresh.state.facts.kind is Kind.OURS_LOST
    assert fresh.state.facts.point is None


def test_an_old_database_takes_back_what_its_signer_can_still_sign_for(world: World) -> None:
    """checklist 43, 52: the signer is intact, so the peer's signatures for the second stages are there."""
    alice = world.pair.alice
    world.offer(alice, BIG, EXPIRY)
    old_state, old_rows = alice.state, Database.copy_of(alice.database)
    world.offer(alice, BIG + 5000, EXPIRY)  # of this one it knows nothing
    world.offer(alice, BIG + 6000, EXPIRY)
    world.force_close(alice)
    alice.state, alice.database = old_state, old_rows
    world.mine_until_done(world.alice)
    assert has(world, world.alice) == due(world, world.alice, gave=3 * BIG + 11_000, won=BIG, untrimmed=3)


def test_an_old_database_with_a_stale_signer_leaves_htlcs_and_takes_the_balance(world: World) -> None:
    """checklist 30: both are old copies; the signer refuses second stages, once, and the rest goes on."""
    alice = world.pair.alice
    world.offer(alice, BIG, EXPIRY)
    old_state, old_rows = alice.state, Database.copy_of(alice.database)
    old_signer = alice.signer.storage._connection.serialize()
    world.offer(alice, BIG + 5000, EXPIRY)
    world.offer(alice, BIG + 6000, EXPIRY)
    world.force_close(alice)
    alice.state, alice.database = old_state, old_rows
    alice.signer.storage._connection.deserialize(old_signer)
    alice.signer._load()
    alice.hello()
    world.mine_until_done(world.alice)
    assert set(world.alice.refused) <= {"sweep-number"}
    assert len(world.alice.refused) == 1
    assert has(world, world.alice) == due(world, world.alice, gave=3 * BIG + 11_000, won=0, untrimmed=3)


def test_a_close_by_agreement_before_the_loss_alarms_nobody(world: World) -> None:
    """checklist 45: besides commitments the signer signs nothing else that spends a funding."""
    world.pair.alice.do(CloseWanted())
    world.pair.quiet()
    tx = Transaction.parse(world.pair.alice.published[0])
    world.chain.submit(tx)
    lost = loses_everything(world, world.pair.alice)
    world.mine_until_done(lost)
    assert lost.state.facts.kind is Kind.MUTUAL
    assert not lost.warnings
    world.pair.alice.do(FundingSpent(tx.serialize(), BlockHeight(world.chain.height), 1))
    assert world.pair.alice.state.committed.phase.kind is CloseKind.MUTUAL
