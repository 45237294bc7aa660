"""Split brain with a peer that never returns, on a real chain: what comes home is at least what the newest state that
we could still revoke gives us (issue 4; checklist 29, 43, 49). All points run in `make soak`; here a sample."""

import importlib.util
import os
from pathlib import Path

import pytest

from node.channel.events import ForceCloseWanted, Fulfil
from node.channel.state import Closing
from node.onchain.state import Kind
from protocol.bitcoin.transaction import Transaction
from tests.node.channel.pair import End
from tests.node.channel.split_brain import Split, SplitEnd, worth
from tests.node.channel.test_crash_copies import Plan, move, pay
from tests.node.channel.test_split_brain import MATRIX, alone, ledger
from tests.support import need

SOAK = os.environ.get("LNP_HYPOTHESIS") == "soak"
SAMPLE = [
    ("pay there", "alice", 1),
    ("pay both ways", "alice", 3),
    ("pay both ways", "bob", 4),
    ("fail", "bob", 5),
    ("fee", "alice", 2),
    ("reestablish", "bob", 3),
    ("close with a payment", "alice", 1),
]
MOST = 20
"""More saves than an end makes in any dialogue."""
EVERY = [(name, who, place) for name in MATRIX for who in ("alice", "bob") for place in range(MOST)]
DUST = 354_000


def recorded(world: object, plan: Plan) -> dict[str, list[Split]]:
    """The dialogue over the channel of this chain."""
    from tests.node.onchain.world import World

    assert isinstance(world, World)
    ends = [_noting(end) for end in world.pair.ends]
    ends[0].peer, ends[1].peer = ends[1], ends[0]
    world.pair.alice, world.pair.bob = ends
    world.pair.simple_close = plan.simple_close
    plan.begin(world.pair)
    while move(world.pair, plan):
        pass
    return {end.name: end.notes for end in ends}


def _noting(end: End) -> SplitEnd:
    made = SplitEnd.__new__(SplitEnd)
    made.__dict__.update(end.__dict__)
    made.recording, made.notes, made.before_signing = True, [], None
    return made


@pytest.mark.parametrize(("name", "who", "place"), EVERY if SOAK else SAMPLE)
@pytest.mark.parametrize("anchors", [True, False] if SOAK else [True], ids=lambda a: "anchors" if a else "")
def test_what_is_ours_comes_home(tmp_path: Path, name: str, who: str, place: int, anchors: bool) -> None:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    from tests.node.onchain.world import World

    plan = MATRIX[name]
    world = World(tmp_path, anchors=anchors)
    notes = recorded(world, plan)[who]
    if place < len(notes):
        comes_home(world, notes[place].dead(asked=True), plan)
    else:
        assert SOAK, "the sample names a save that there is not"
    world.close()


def comes_home(world: object, victim: SplitEnd, plan: Plan) -> None:
    from tests.node.onchain.world import COIN, COINS, Watcher, World

    assert isinstance(world, World)
    if victim.name == "alice":
        world.pair.alice = victim
    else:
        world.pair.bob = victim
    watcher = Watcher(world, victim)
    world.alice.offline = world.bob.offline = True
    if victim.name == "alice":
        world.alice = watcher
    else:
        world.bob = watcher
    alone(victim)
    if isinstance(victim.state.committed.phase, Closing):
        return
    if plan.fulfils:  # payments say again what they want
        wanted = [r.id for r in victim.state.htlcs.values() if not r.offered and r.remote_to is None and r.um]
        victim.do(*[Fulfil(htlc_id) for htlc_id in wanted])
    floor = worth(victim.state)
    assert floor >= ledger(victim)
    dust = sum(row.amount_msat for row in victim.state.htlcs.values() if row.amount_msat < DUST)
    victim.do(ForceCloseWanted("the peer never returned"))
    alone(victim)
    tx = Transaction.parse(victim.published[-1])
    world.chain.submit(tx)
    world.mine_until_done(watcher, most=130)
    assert watcher.state.facts.kind in (Kind.OURS, Kind.OURS_LOST)
    cost = 10_000_000 - sum(output.value for output in tx.outputs) + 660
    home = watcher.income() + watcher.coins_left() + world.fees_of(watcher) - COINS * COIN
    opener = cost if victim.name == "alice" else 0
    stages = 0 if world.anchors else 2_000
    assert home >= (floor - dust) // 1000 - opener - len(tx.outputs) - stages


@pytest.mark.parametrize("anchors", [True, False], ids=["anchors", "static_remotekey"])
def test_a_signer_that_is_two_ahead_publishes_what_its_node_does_not_know(
    tmp_path: Path, anchors: bool
) -> None:
    """The answer to the first question was not durable, the second was asked while it was being saved: the commitment
    that the signer calls newest has a number that the node has no point for. All comes home all the same."""
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    from tests.node.onchain.test_unilateral import due, has
    from tests.node.onchain.world import World

    world = World(tmp_path, anchors=anchors)
    alice, bob = world.pair.ends
    world.offer(bob, 200_000_000, 160)  # of this one Bob's node knows
    base = bob.state.committed.local_number
    pay(alice, bob, 50_000_000)
    alice.answer()
    world.pair.deliver(alice, 10)
    while bob.answer():
        pass
    pay(alice, bob, 10_000_000)
    world.pair.deliver(bob, 10)
    while alice.answer():
        pass
    bob.lose_save = True
    world.pair.deliver(alice, 10)
    assert bob.died
    world.pair.disconnect()
    bob.crash(lose_next=True)
    assert bob.numbers().holder_revoked == base + 2
    world.alice.offline = True
    bob.do(ForceCloseWanted("the peer never returned"))
    alone(bob)
    world.chain.submit(Transaction.parse(bob.published[-1]))
    world.mine_until_done(world.bob)
    assert world.bob.state.facts.kind is Kind.OURS_LOST
    assert not world.bob.refused
    assert has(world, world.bob) == due(world, world.bob, gave=200_000_000, won=200_000_000, untrimmed=0)
    world.close()
