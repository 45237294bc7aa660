"""The resolution as a pure function: repeated events, events from the mempool, states on disk (BOLT 5)."""

from pathlib import Path

from msgspec.structs import replace

from node.onchain import machine, store
from node.onchain.events import (
    ClaimWanted,
    Confirmed,
    Done,
    NewBlock,
    NotSigned,
    OutputSpent,
    Publish,
    ReleaseCoins,
    Resume,
    Settle,
    Sign,
    Signed,
    SpendLost,
    Unconfirmed,
    Watch,
)
from node.onchain.state import FORGET_DEPTH
from node.storage.database import open_database
from protocol.amounts import BlockHeight, FeeratePerKw
from tests.node.onchain.test_fees import shows
from tests.node.onchain.world import World

BIG = 200_000_000
EXPIRY = 150


def test_a_preimage_in_the_mempool_is_told_at_once(world: World) -> None:
    """checklist 46: taken from an unconfirmed claim; the output still counts as unspent, since a block decides."""
    alice, _ = world.pair.ends
    payment_hash = world.offer(alice, BIG, EXPIRY)
    world.force_close(alice)
    world.mine()
    world.claim(world.bob, payment_hash)
    preimage = world.preimages[payment_hash]
    (theirs,) = [tx for tx in world.bob.published.values() if shows(tx, preimage)]
    (at,) = [spend.outpoint for spend in theirs.inputs if preimage in spend.witness]
    assert world.alice.outcome(payment_hash) is None
    world.alice.do(OutputSpent(at.txid, at.index, theirs.serialize(), None))
    ended = world.alice.outcome(payment_hash)
    assert ended is not None and ended.preimage == preimage
    assert all(output.spent is None for output in world.alice.state.outputs)


def test_events_that_come_again_change_nothing(world: World) -> None:
    alice, bob = world.pair.ends
    payment_hash = world.offer(alice, BIG, EXPIRY)
    world.force_close(bob)
    world.mine(2)
    state, env = world.alice.state, world.alice.env
    assert state.height is not None
    (spent,) = [o for o in state.outputs if o.spent is not None]
    found = world.spend_of(world.funding_outpoint)
    assert found is not None
    tx = world.chain.transaction(spent.spent.txid) if spent.spent is not None else None
    assert tx is not None and spent.spent is not None
    for event in (
        Confirmed(state.height),
        OutputSpent(spent.txid, spent.index, tx.serialize(), spent.spent.height),
        OutputSpent(b"\x01" * 32, 0, tx.serialize(), state.height),
        SpendLost(b"\x01" * 32, 0),
        ClaimWanted(77),
        Signed(99, tx.serialize(), FeeratePerKw(1000)),
        NotSigned(99, "", "nothing"),
        NewBlock(),
    ):
        after = machine.step(state, event, env)
        assert not after.save and after.state == state, event
    assert world.alice.outcome(payment_hash) is None


def test_a_restart_says_everything_again(world: World) -> None:
    """checklist 52: what was told of HTLCs, what was signed, what is watched, and that all is done."""
    alice, bob = world.pair.ends
    world.offer(alice, BIG, EXPIRY)
    world.force_close(bob)
    world.mine_until_done(world.alice)
    resolved = machine.step(world.alice.state, Resume(), world.alice.env)
    said = [type(effect) for effect in resolved.effects]
    assert said[:2] == [Settle, Done] and set(said[2:]) <= {Watch, ReleaseCoins}
    world.mine(FORGET_DEPTH)
    assert world.alice.state.final and not world.alice.watched
    again = machine.step(world.alice.state, Resume(), world.alice.env)
    assert not again.save
    assert [type(effect) for effect in again.effects] == [Settle, Done]


def test_a_commitment_that_left_the_chain_is_waited_for(world: World) -> None:
    """checklist 51: nothing is due while its block is gone, and all of it when it is back."""
    world.force_close(world.pair.alice)
    world.mine()
    state, env = world.bob.state, world.bob.env
    gone = machine.step(state, Unconfirmed(), env).state
    assert gone.height is None and all(output.height is None for output in gone.outputs)
    (again,) = machine.step(replace(gone, claims=()), NewBlock(), env).effects
    assert again == Publish(gone.facts.tx, f"resolution of channel {gone.facts.channel_id.hex()}")
    back = machine.step(replace(gone, claims=()), Confirmed(BlockHeight(env.height)), env).state
    assert any(isinstance(e, Sign) for e in machine.step(back, NewBlock(), env).effects)


async def test_a_state_is_read_as_it_was_written(tmp_path: Path, world: World) -> None:
    alice, bob = world.pair.ends
    world.offer(alice, BIG, EXPIRY)
    world.offer(bob, BIG, EXPIRY)
    world.force_close(bob)
    world.mine(3)
    database = open_database(tmp_path / "node.db", create=True)
    row = (1, b"\x01" * 32, b"\x02" * 33, b"\x80", "normal", 5)
    await database.writer.submit([("INSERT INTO channels VALUES (?, ?, ?, ?, ?, ?)", [row])], now=True)
    for state in (world.alice.state, world.bob.state):
        await database.writer.submit(store.put(1, state), now=True)
        assert store.load(database.writer) == [(1, state)]
    database.close()
