"""Any close, with any HTLCs, in any weather: everybody gets what is theirs (BOLT 5, whole).

A scene is drawn: the HTLCs, who publishes what, which of them are claimed, whether the fee market rises, whether
blocks are replaced, whether the nodes crash. The model is the balance sheet: what the commitment owes to each side,
and that payer and payee agree on each HTLC.
"""

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from node.channel.events import Fulfil
from protocol.amounts import FeeratePerKw
from tests.node.onchain.world import COIN, COINS, Copy, Watcher, World
from tests.support import need

BASE = 125
EXAMPLES = 400 if os.environ.get("LNP_HYPOTHESIS") == "soak" else 25
RACES = (
    "insufficient fee",
    "bad-txns-inputs-missingorspent",
    "non-BIP68-final",
    "replacement-adds-unconfirmed",
)


class Drawn(Struct, frozen=True):
    """`by_alice`: alice offers it. `claimed`: the payee has payments' word before its expiry."""

    by_alice: bool
    amount_msat: int
    expiry: int
    claimed: bool


drawn_htlcs = st.lists(
    st.builds(
        Drawn,
        by_alice=st.booleans(),
        amount_msat=st.sampled_from([100_000, 5_000_000, 60_000_000, 60_000_000, 200_000_000]),
        expiry=st.integers(BASE + 8, BASE + 14),
        claimed=st.booleans(),
    ),
    max_size=6,
)


class Scene(Struct):
    anchors: bool
    htlcs: list[Drawn]
    publisher: str
    revoked: bool
    rising: bool
    reorg_every: int
    crashes: bool


scenes = st.builds(
    Scene,
    anchors=st.booleans(),
    htlcs=drawn_htlcs,
    publisher=st.sampled_from(["alice", "bob"]),
    revoked=st.booleans(),
    rising=st.booleans(),
    reorg_every=st.sampled_from([0, 0, 4, 9]),
    crashes=st.booleans(),
)


@settings(max_examples=EXAMPLES)
@given(scenes)
def test_everybody_gets_what_is_theirs(scene: Scene) -> None:
    """checklist 43-52"""
    need("kernel", find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder), anchors=scene.anchors)
        try:
            play(world, scene)
        finally:
            world.close()


def play(world: World, scene: Scene) -> None:
    ends = {True: world.pair.alice, False: world.pair.bob}
    hashes = [(h, world.offer(ends[h.by_alice], h.amount_msat, h.expiry)) for h in scene.htlcs]
    publisher = getattr(world.pair, scene.publisher)
    copy = world.copy(publisher)
    if scene.revoked:
        world.offer(world.pair.alice, 30_000_000, BASE + 10)  # the state moves on
        for h, payment_hash in hashes[::2]:
            payee = ends[not h.by_alice]
            (row,) = [r for r in payee.state.htlcs.values() if r.payment_hash == payment_hash]
            payee.do(Fulfil(row.id))
            world.pair.quiet()
        world.of(publisher).offline = True
        world.chain.submit(copy.tx)
    else:
        world.force_close(publisher)
    watchers = [w for w in world.watchers if not w.offline]
    for watcher in watchers:
        watcher.crashes = scene.crashes
    world.tolerated = RACES if scene.reorg_every else ()
    world.mine()
    if not scene.revoked:
        for h, payment_hash in hashes:
            if h.claimed:
                world.claim(world.of(ends[not h.by_alice]), payment_hash)
    for n in range(150):
        if all(watcher.done for watcher in watchers):
            break
        if scene.rising:
            rate = FeeratePerKw(min(4000, 1000 + 200 * n))
            for watcher in watchers:
                watcher.rates = (FeeratePerKw(2 * rate), rate, rate)
        world.mine()
        if scene.reorg_every and n % scene.reorg_every == scene.reorg_every - 1:
            world.reorganise(2)
    assert all(watcher.done for watcher in watchers), [watcher.state for watcher in watchers]
    for height in range(world.chain.height + 1):
        world.mined.update(tx.txid for tx in world.chain.block(height).transactions)
    if scene.revoked:
        taken(world, copy, watchers[0])
    else:
        shared(world, scene, hashes, copy)


def taken(world: World, copy: Copy, watcher: Watcher) -> None:
    """All of it, but what is not worth its fee."""
    values = sum(output.value for output in copy.tx.outputs if output.value != 330)
    left = sum(output.value for output in watcher.state.outputs if output.given_up)
    assert watcher.income() == values - left - world.fees_of(watcher)


def shared(world: World, scene: Scene, hashes: list[tuple[Drawn, bytes]], copy: Copy) -> None:
    """What the commitment owes to each side, its HTLCs by who won them, less the fees of each."""
    due = {world.alice: 0, world.bob: 0}
    owner = world.of(getattr(world.pair, scene.publisher))
    other = world.bob if owner is world.alice else world.alice
    for output in copy.commitment.outputs:
        if output.kind.value == "to_local":
            due[owner] += output.value
        elif output.kind.value == "to_remote":
            due[other] += output.value
    untrimmed = {output.htlc.payment_hash for output in copy.commitment.htlcs}
    for h, payment_hash in hashes:
        payer, payee = (world.alice, world.bob) if h.by_alice else (world.bob, world.alice)
        one, two = payer.outcome(payment_hash), payee.outcome(payment_hash)
        assert one is not None and two is not None
        assert one.paid is two.paid is (h.claimed and payment_hash in untrimmed)
        if payment_hash in untrimmed:
            due[payee if one.paid else payer] += h.amount_msat // 1000
        if one.paid:
            assert one.preimage == world.preimages[payment_hash]
    for watcher, amount in due.items():
        left = sum(output.value for output in watcher.state.outputs if output.given_up)
        has = watcher.income() + watcher.coins_left() - COINS * COIN
        assert has == amount - left - world.fees_of(watcher)
