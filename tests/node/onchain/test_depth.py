"""When a spend is acted on, and when it is forgotten (BOLT 5, "General Nomenclature"; checklist 44, 51).

Six blocks for what cannot wait: the incoming HTLC expires soon after. A hundred until the outputs are left alone.
"""

from node.onchain.events import Done, Unwatch
from node.onchain.state import FINAL_DEPTH, FORGET_DEPTH, Role
from protocol.bitcoin.transaction import OutPoint
from tests.node.onchain.test_unilateral import due, has
from tests.node.onchain.world import World

BIG = 200_000_000
EXPIRY = 150
RACES = ("insufficient fee", "bad-txns-inputs-missingorspent", "non-BIP68-final")


def test_a_channel_is_resolved_at_six_and_forgotten_at_a_hundred(world: World) -> None:
    """checklist 51"""
    assert (FINAL_DEPTH, FORGET_DEPTH) == (6, 100)
    world.force_close(world.pair.alice)
    world.mine_until_done(world.alice)
    sweep = max(output.spent.height for output in world.alice.state.outputs if output.spent)
    assert world.chain.height == sweep + FINAL_DEPTH - 1
    assert world.alice.watched
    world.mine_to(sweep + FORGET_DEPTH - 2)
    assert world.alice.watched and not world.alice.state.final
    world.mine()
    assert world.alice.state.final and not world.alice.watched


def test_a_reorganisation_deeper_than_six_blocks_is_survived(world: World) -> None:
    """checklist 51: the channel counts as closed, and eleven blocks are replaced in which its sweep stood. It is
    made again; who was told is not told anything else."""
    payment_hash = world.offer(world.pair.alice, BIG, EXPIRY)
    world.tolerated = RACES
    world.force_close(world.pair.alice)
    world.mine_until_done(*world.watchers)
    told = dict(world.alice.outcomes)
    world.mine(4)
    world.chain.reorg(11)
    world.chain.mempool.entries.clear()
    world.chain.mempool._spenders.clear()
    for watcher in world.watchers:
        watcher.lost(world.chain.height - 12)
        watcher.look()
    (delayed,) = [o for o in world.alice.state.outputs if o.role is Role.SECOND_STAGE]
    assert OutPoint(delayed.txid, delayed.index) in world.alice.watched
    world.mine(FORGET_DEPTH + 20)
    world.mined.update(
        tx.txid for h in range(world.chain.height) for tx in world.chain.block(h + 1).transactions
    )
    assert world.alice.state.final and world.bob.state.final
    assert world.alice.outcomes == told and not told[True, 0].paid
    assert world.alice.outcome(payment_hash) == told[True, 0]
    assert has(world, world.alice) == due(world, world.alice, gave=BIG, won=BIG, untrimmed=1)


def test_what_is_forgotten_is_not_worked_on(world: World) -> None:
    """checklist 51: after a hundred blocks nothing is done any more, and the end is said again at a start."""
    from node.onchain import machine
    from node.onchain.events import NewBlock, Resume, SpendLost

    world.force_close(world.pair.alice)
    world.mine_until_done(world.alice)
    world.mine(FORGET_DEPTH)
    state, env = world.alice.state, world.alice.env
    (output,) = state.outputs
    for event in (NewBlock(), SpendLost(output.txid, output.index)):
        step = machine.step(state, event, env)
        assert not step.save and not step.effects
    assert machine.step(state, Resume(), env).effects == (Done(),)
    assert Unwatch(output.txid, output.index) not in step.effects
