"""What is due after a block, and what becomes of it (BOLT 5; checklist 43, 48, 50, 51, 52)."""

from msgspec.structs import replace

from node.onchain import claims
from node.onchain.budget import PENALTIES, STAGED, ceiling_of
from node.onchain.deadlines import first_block
from node.onchain.events import Done, FindPoint, Forget, NeedCoins, Publish, ReleaseCoins, Settle, Sign
from node.onchain.recognise import feerate_of, outputs_of, own_anchor
from node.onchain.settle import is_resolved, is_understood, outcome_of
from node.onchain.state import (
    FINAL_DEPTH,
    FORGET_DEPTH,
    Claim,
    HtlcFact,
    HtlcKey,
    Kind,
    Output,
    Role,
)
from node.onchain.turn import Turn
from protocol.amounts import BlockHeight, FeeratePerKw, Sat
from protocol.bitcoin.transaction import Transaction

LOST = "of no use without the peer's signature for it, which was lost with our state"
"""Why an HTLC of a commitment of ours that we do not remember is left."""


def new_block(turn: Turn) -> None:
    if turn.state.height is not None and not is_understood(turn.state):
        turn.do(FindPoint(turn.facts.number))
        return
    settle(turn)
    if turn.state.height is None:
        _raise_commitment(turn)
        return
    plan(turn)
    if not turn.state.resolved and is_resolved(turn.state, turn.env.height, FINAL_DEPTH):
        turn.become(replace(turn.state, resolved=True))
        turn.do(Done())
    if is_resolved(turn.state, turn.env.height, FORGET_DEPTH):
        turn.become(replace(turn.state, final=True))
        for output in turn.state.outputs:
            turn.unwatch(output)


def find_outputs(turn: Turn, height: BlockHeight | None) -> None:
    """Also of a commitment that is in no block yet: a preimage may come from the mempool before it."""
    found = outputs_of(turn.facts, height)
    turn.become(replace(turn.state, outputs=tuple(with_ceiling(turn, output) for output in found)))
    for output in turn.state.outputs:
        turn.watch(output)


def with_ceiling(turn: Turn, output: Output) -> Output:
    if output.role is Role.LOST_HTLC:
        return replace(output, given_up=LOST)
    return replace(output, ceiling=ceiling_of(output.role, output.value, turn.facts))


def _anchor(turn: Turn) -> Output | None:
    """The way to raise a commitment: at most for a quarter of what it holds for us."""
    known = [o for o in turn.state.outputs if o.role is Role.ANCHOR]
    if known:
        return None if known[0].given_up else known[0]
    own = own_anchor(turn.facts)
    stake = Sat(sum(o.value for o in turn.state.outputs if o.txid == turn.facts.txid))
    return None if own is None else replace(own, ceiling=ceiling_of(Role.ANCHOR, stake, turn.facts))


def _raise_commitment(turn: Turn) -> None:
    """checklist 48: the commitment is in no block, so our anchor pays for it where its own fee is too low.

    The peer's is raised while an HTLC of ours has a deadline; else it may take its time. It is said again to
    the mempool too: once the peer sent it, it serves us better than ours, without delay and second stages.
    """
    theirs = turn.facts.kind in (Kind.THEIRS, Kind.THEIRS_NEXT)
    if theirs:
        turn.do(Publish(turn.facts.tx, label(turn)))
    own = _anchor(turn)
    if own is None:
        return
    known = [claim for claim in turn.state.claims if own.at in claim.outputs]
    if known:
        _refresh(turn, known[0])
        return
    if theirs and claims.blocks_left((own,), turn.htlcs, turn.facts, turn.env) is None:
        return
    rate = claims.wanted_rate((own,), turn.htlcs, turn.facts, turn.env)
    if rate <= feerate_of(turn.facts):
        return
    if all(o.at != own.at for o in turn.state.outputs):
        turn.become(replace(turn.state, outputs=(*turn.state.outputs, own)))
    _begin_claim(turn, (own.at,), rate)


def settle(turn: Turn) -> None:
    if not is_understood(turn.state):
        return
    told = {outcome.key for outcome in turn.state.told}
    for htlc in turn.facts.htlcs:
        if not htlc.live or htlc.key in told:
            continue
        outcome = outcome_of(turn.state, htlc, turn.env.height)
        if outcome is not None:
            turn.become(replace(turn.state, told=(*turn.state.told, outcome)))
            turn.do(Settle(outcome))


def plan(turn: Turn) -> None:
    """Begins what became due, and refreshes what is not confirmed yet."""
    htlcs = turn.htlcs
    _split(turn, htlcs)
    before = {claim.id for claim in turn.state.claims}
    claimed = {at for claim in turn.state.claims for at in claim.outputs}
    due = [o for o in turn.state.outputs if o.at not in claimed and _is_due(turn, o, htlcs)]
    for members in claims.groups(due, htlcs, turn.facts, turn.env):
        chosen = [o for o in due if o.at in members]
        _begin_claim(turn, members, claims.wanted_rate(chosen, htlcs, turn.facts, turn.env))
    for claim in turn.state.claims:
        if claim.id in before:
            _refresh(turn, claim)


def _begin_claim(turn: Turn, members: tuple[tuple[bytes, int], ...], rate: FeeratePerKw) -> None:
    claim = Claim(turn.state.next_claim, members, rate)
    turn.become(replace(turn.state, claims=(*turn.state.claims, claim), next_claim=turn.state.next_claim + 1))
    ask(turn, claim)


def _is_due(turn: Turn, output: Output, htlcs: dict[HtlcKey, HtlcFact]) -> bool:
    if output.spent is not None or output.given_up:
        return False
    htlc = htlcs.get(output.htlc) if output.htlc else None
    first = first_block(output, htlc, turn.facts.params)
    return first is not None and turn.env.height >= first


def _split(turn: Turn, htlcs: dict[HtlcKey, HtlcFact]) -> None:
    """Penalties that were batched part when time runs out; what has a deadline, when some of it holds back the rest."""
    for claim in turn.state.claims:
        outputs = turn.outputs(claim)
        left = claims.blocks_left(outputs, htlcs, turn.facts, turn.env)
        if len(outputs) < 2 or left is None:
            continue
        late = outputs[0].role in PENALTIES and left <= claims.SECURITY_DELAY
        if late or len(claims.parted(outputs, htlcs, turn.facts, turn.env)) > 1:
            drop_claims(turn, claim.outputs)


def part(turn: Turn, claim: Claim) -> None:
    """Each of its outputs gets a transaction of its own, so that one of them does not hold up the rest."""
    for output in turn.outputs(claim):
        turn.put_output(replace(output, alone=True))
    drop_claims(turn, claim.outputs)
    plan(turn)


def _refresh(turn: Turn, claim: Claim) -> None:
    outputs = turn.outputs(claim)
    if any(o.height is None and o.role is not Role.ANCHOR for o in outputs):
        return  # what it spends was reorganised away and comes back
    rate = claims.next_rate(claim, outputs, turn.htlcs, turn.facts, turn.env)
    fixed = outputs[0].role in STAGED and not turn.facts.params.anchors
    if claim.tx is not None and (rate == claim.tx_feerate or fixed):
        publish(turn, claim)
        return
    claim = replace(claim, feerate_per_kw=rate)
    turn.put_claim(claim)
    ask(turn, claim)


def ask(turn: Turn, claim: Claim) -> None:
    outputs = turn.outputs(claim)
    if claims.needs_coins(outputs, turn.facts) and not claim.coins:
        value = claims.coins_for(outputs, turn.htlcs, turn.facts, claim.feerate_per_kw)
        turn.do(NeedCoins(claim.id, value))
        return
    turn.do(Sign(claim.id, claims.request(claim, outputs, turn.htlcs, turn.facts)))


def publish(turn: Turn, claim: Claim) -> None:
    if claim.tx is None:
        return
    lifts = any(o.role is Role.ANCHOR for o in turn.outputs(claim))
    turn.do(Publish(claim.tx, label(turn), (turn.facts.tx,) if lifts else ()))


def label(turn: Turn) -> str:
    return f"resolution of channel {turn.facts.channel_id.hex()}"


def drop_claims(turn: Turn, spent: tuple[tuple[bytes, int], ...]) -> None:
    """A claim ends when any of its outputs is spent: by itself, or by somebody who made it impossible. What it leaves
    is claimed anew at the end of the block."""
    ended = [c for c in turn.state.claims if not set(spent).isdisjoint(c.outputs)]
    for claim in ended:
        if claim.coins:
            turn.do(ReleaseCoins(claim.id))
        forget(turn, claim)
    if ended:
        kept = tuple(c for c in turn.state.claims if c not in ended)
        turn.become(replace(turn.state, claims=kept))


def forget(turn: Turn, claim: Claim) -> None:
    if claim.tx is not None:
        turn.do(Forget(Transaction.parse(claim.tx).txid))
