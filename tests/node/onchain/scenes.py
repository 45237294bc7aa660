"""A close with every kind of HTLC in it, cut off at any point of the dance, and what everybody is owed then.

The base of a scene stands in both commitments: for each payer one HTLC that is claimed, one that lapses, and two that
are trimmed. Then, at once and both ways, one is fulfilled, one is failed and one is offered; after so many moves the
line is cut and somebody publishes. So each HTLC is caught in each of its states.
"""

import itertools

from msgspec import Struct

from node.channel.events import CloseWanted, Fail, Fulfil
from node.onchain.state import FORGET_DEPTH, Kind
from protocol.amounts import FeeratePerKw, Msat
from protocol.bolt4 import failure as failures
from tests.node.channel.pair import End
from tests.node.onchain.world import COIN, COINS, Copy, Watcher, World

BASE = 140
RACES = (
    "insufficient fee",
    "bad-txns-inputs-missingorspent",
    "non-BIP68-final",
    "replacement-adds-unconfirmed",
)
MOVES = 16
"""After so many the dance is over."""
RISE = 200


class Scene(Struct, frozen=True):
    """`how`: "newest", "revoked" or "mutual" is published, by `publisher`, after `cut` moves of the dance."""

    anchors: bool
    how: str
    publisher: str
    cut: int
    rising: bool
    reorg: bool

    @property
    def mempool(self) -> bool:
        """In every second one the mempool is told as well."""
        return self.cut % 2 == 0

    def __str__(self) -> str:
        words = [self.how, self.publisher, str(self.cut), "anchors" if self.anchors else "static"]
        return "-".join(words + ["rising"] * self.rising + ["reorg"] * self.reorg)


def all_scenes() -> list[Scene]:
    both = (False, True)
    ends = ("alice", "bob")
    found = [
        Scene(anchors, how, end, cut, rising, reorg)
        for how, cuts in (("newest", MOVES + 1), ("revoked", 5), ("mutual", 1))
        for anchors, end, cut, rising, reorg in itertools.product(both, ends, range(cuts), both, both)
    ]
    return sorted(found, key=str)


class Told(Struct):
    """An HTLC of a scene. `fate`: "claimed", "lapses", "fulfilled", "failed" or "new"."""

    payer: End
    amount_msat: int
    payment_hash: bytes
    fate: str


def play(world: World, scene: Scene) -> frozenset[Kind]:
    """To the last output and a hundred blocks beyond. Answers how the two ends saw the spend."""
    world.mempool_is_told = scene.mempool
    if scene.how == "mutual":
        return _mutual(world)
    told = _base(world)
    publisher = getattr(world.pair, scene.publisher)
    if scene.how == "revoked":
        return _revoked(world, scene, told, publisher)
    _change(world, told)
    for _ in range(scene.cut):
        _move(world)
    _cut(world)
    copy = world.copy(publisher)
    tx = world.force_close(publisher)
    assert tx.txid == copy.tx.txid
    world.tolerated = RACES if scene.reorg else ()
    world.mine()
    kinds = frozenset(watcher.state.facts.kind for watcher in world.watchers)
    for htlc in told:
        if htlc.fate == "claimed":
            world.claim(world.of(world.pair.other(htlc.payer)), htlc.payment_hash)
    _to_the_end(world, scene, world.watchers)
    _everybody_heard(world, told, copy, publisher)
    _everybody_got(world, told, copy, publisher)
    return kinds


def _base(world: World) -> list[Told]:
    """Amounts differ, so that no HTLC is taken for another; some have one expiry and can share a second stage."""
    told = []
    for n, payer in enumerate(world.pair.ends):
        for m, (fate, amount, expiry) in enumerate(
            (
                ("claimed", 50_000_000, BASE + 6),
                ("claimed", 200_000, BASE + 6),
                ("lapses", 60_000_000, BASE + 6),
                ("lapses", 250_000, BASE + 9),
                ("fulfilled", 70_000_000, BASE + 7),
                ("failed", 80_000_000, BASE + 6),
            )
        ):
            exact = amount + 2000 * n + 5000 * m
            told.append(Told(payer, exact, world.offer(payer, exact, expiry), fate))
    return told


def _change(world: World, told: list[Told]) -> None:
    """Nothing of it has left for the other end yet."""
    for htlc in list(told):
        payee = world.pair.other(htlc.payer)
        assert payee.state is not None
        rows = [r.id for r in payee.state.htlcs.values() if r.payment_hash == htlc.payment_hash]
        if htlc.fate == "fulfilled":
            payee.do(Fulfil(rows[0]))
        elif htlc.fate == "failed":
            reason = failures.IncorrectOrUnknownPaymentDetails(Msat(htlc.amount_msat), 110)
            payee.do(Fail(rows[0], failures.encode(reason)))
    for n, payer in enumerate(world.pair.ends):
        amount = 90_000_000 + 1000 * n
        told.append(Told(payer, amount, world.offer_unheard(payer, amount, BASE + 8), "new"))


def _move(world: World) -> None:
    """The signers answer one question each, and one message goes each way."""
    for end in world.pair.ends:
        end.answer()
        world.pair.deliver(end, 1)


def _cut(world: World) -> None:
    for end in world.pair.ends:
        end.out.waiting.clear()
        end.asks.clear()
        end.peels.clear()


def _to_the_end(world: World, scene: Scene, watchers: tuple[Watcher, ...]) -> None:
    for n in range(150):
        if all(watcher.done for watcher in watchers):
            break
        if scene.rising:
            rate = FeeratePerKw(min(4000, 1000 + RISE * n))
            for watcher in watchers:
                watcher.rates = (FeeratePerKw(2 * rate), rate, rate)
        world.mine()
        if scene.reorg and n % 5 == 4:
            world.reorganise(2)
    assert all(watcher.done for watcher in watchers), [w.state for w in watchers if not w.done]
    world.mine(FORGET_DEPTH)
    for watcher in watchers:
        assert watcher.state.final and not watcher.watched and not watcher.state.claims
    for height in range(world.chain.height + 1):
        world.mined.update(tx.txid for tx in world.chain.block(height).transactions)


def _everybody_heard(world: World, told: list[Told], copy: Copy, publisher: End) -> None:
    """Each payer and payee of each HTLC once, and the two the same, and what the chain says."""
    standing = {htlc.payment_hash for htlc in copy.commitment.content.htlcs}
    untrimmed = {output.htlc.payment_hash for output in copy.commitment.htlcs}
    for watcher in world.watchers:
        _once(world, watcher)
        live = {htlc.key for htlc in watcher.state.facts.htlcs if htlc.live}
        assert live <= set(watcher.outcomes)
    for htlc in told:
        payer, payee = world.of(htlc.payer), world.of(world.pair.other(htlc.payer))
        expected = htlc.fate in ("claimed", "fulfilled")
        if htlc.payment_hash in standing and htlc.payment_hash not in untrimmed:
            expected = False
        for watcher in (payer, payee):
            outcome = _outcome(watcher, htlc.payment_hash)
            if outcome is None:
                # It never came, or it was settled in peace before the cut.
                assert htlc.payment_hash not in standing and htlc.fate in ("new", "fulfilled", "failed")
                continue
            assert outcome.paid is expected, (htlc.fate, htlc.amount_msat, watcher.end.name, outcome)
            if outcome.paid and watcher is payer:
                assert outcome.preimage == world.preimages[htlc.payment_hash]


def _once(world: World, watcher: Watcher) -> None:
    """What was told before a block had the close is said once more with that block, and in the same words."""
    keys = [outcome.key for outcome in watcher.state.told]
    assert len(set(keys)) == len(keys)
    assert all(1 <= times <= 1 + world.mempool_is_told for times in watcher.times_told.values())


def _outcome(watcher: Watcher, payment_hash: bytes):  # type: ignore[no-untyped-def]
    keys = [h.key for h in watcher.state.facts.htlcs if h.payment_hash == payment_hash and h.live]
    return watcher.outcomes[keys[0]] if keys else None


def _everybody_got(world: World, told: list[Told], copy: Copy, publisher: End) -> None:
    """What the commitment owes to each side, its HTLCs by who won them, less the fees of each."""
    due = {world.alice: 0, world.bob: 0}
    owner = world.of(publisher)
    other = world.of(world.pair.other(publisher))
    for output in copy.commitment.outputs:
        if output.kind.value == "to_local":
            due[owner] += output.value
        elif output.kind.value == "to_remote":
            due[other] += output.value
    known = {htlc.payment_hash: htlc for htlc in told}
    for output in copy.commitment.htlcs:
        htlc = known[output.htlc.payment_hash]
        won = htlc.fate in ("claimed", "fulfilled")
        winner = world.pair.other(htlc.payer) if won else htlc.payer
        due[world.of(winner)] += output.value
    for watcher, amount in due.items():
        left = sum(output.value for output in watcher.state.outputs if output.given_up)
        has = watcher.income() + watcher.coins_left() - COINS * COIN
        assert has == amount + watcher.anchors_taken() - left - world.fees_of(watcher)
        _fees_are_bounded(world, watcher)


def _fees_are_bounded(world: World, watcher: Watcher) -> None:
    """No output cost more than what was written down for it when it was found."""
    ceilings = {output.at: output.ceiling for output in watcher.state.outputs}
    for txid, tx in watcher.published.items():
        spent = [(i.outpoint.txid, i.outpoint.index) for i in tx.inputs]
        bound = sum(ceilings.get(at, 0) for at in spent)
        if world.chain.confirmations(txid) and bound:
            assert world.fee_of(tx) <= bound


def _revoked(world: World, scene: Scene, told: list[Told], publisher: End) -> frozenset[Kind]:
    """Everything of it is taken, second stages of the cheat included."""
    copy = world.copy(publisher)
    _change(world, told)
    world.pair.quiet()
    victim = world.of(world.pair.other(publisher))
    world.of(publisher).offline = True
    stages = []
    if scene.cut:
        world.mine_to(BASE + 9)
        world.preimages.update(_preimages(world))
        stages = _stages(world, copy, publisher, told)[: 2 * scene.cut]
    world.chain.submit(copy.tx)
    world.tolerated = RACES
    victim.offline = bool(stages)
    world.mine()
    if stages:
        world.chain.generate_block(stages)
        victim.offline = False
        victim.look()
    _to_the_end(world, scene, (victim,))
    assert victim.state.facts.kind is Kind.REVOKED
    values = sum(output.value for output in copy.tx.outputs if output.value != 330)
    left = sum(output.value for output in victim.state.outputs if output.given_up)
    cheats = sum(world.fee_of(tx) for tx in stages if world.chain.confirmations(tx.txid))
    assert victim.income() == values - left - world.fees_of(victim) - cheats
    _once(world, victim)
    assert {htlc.key for htlc in victim.state.facts.htlcs if htlc.live} <= set(victim.outcomes)
    _fees_are_bounded(world, victim)
    return frozenset({victim.state.facts.kind})


def _preimages(world: World) -> dict[bytes, bytes]:
    return dict(world.preimages)


def _stages(world: World, copy: Copy, publisher: End, told: list[Told]) -> list:  # type: ignore[type-arg]
    known = {htlc.payment_hash: htlc for htlc in told}
    found = []
    for output in copy.commitment.htlcs:
        htlc = known[output.htlc.payment_hash]
        offered = htlc.payer is publisher
        preimage = b"" if offered else world.preimages[htlc.payment_hash]
        found.append(copy.htlc_transaction(output.htlc.id, offered=offered, preimage=preimage))
    return found


def _mutual(world: World) -> frozenset[Kind]:
    """Nothing is left to do but to count."""
    world.pair.alice.do(CloseWanted())
    world.pair.quiet()
    closing = world.pair.alice.published[0]
    world.chain.submit(closing)
    world.mine(5)
    assert not world.alice.done and not world.bob.done
    world.mine(1)
    assert world.alice.done and world.bob.done
    world.reorganise(2)
    world.mine(FORGET_DEPTH + 3)
    for watcher in world.watchers:
        assert watcher.state.final and not watcher.published and not watcher.warnings
    return frozenset(watcher.state.facts.kind for watcher in world.watchers)
