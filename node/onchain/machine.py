"""The resolution of one closed channel as a pure function: state, event and what is known of the world in; state and
effects out (BOLT 5, whole; checklist 43-52).

Everything may be told twice, and nothing is forgotten by a restart: `Resume` says again what was owed. A step that
changes the state is saved before its effects leave.
"""

from typing import assert_never

from msgspec.structs import replace

from node.onchain import planning
from node.onchain.events import (
    ClaimWanted,
    CoinsFound,
    Confirmed,
    Done,
    Env,
    Event,
    FindPoint,
    NewBlock,
    NotSigned,
    OutputSpent,
    PeerPointKnown,
    Publish,
    ReleaseCoins,
    Resume,
    Settle,
    Signed,
    SpendLost,
    Step,
    Unconfirmed,
    Warn,
)
from node.onchain.recognise import outputs_of, preimage_in, second_stage_of
from node.onchain.settle import is_understood
from node.onchain.state import (
    Claim,
    Facts,
    HtlcFact,
    Kind,
    Role,
    Spent,
    State,
)
from node.onchain.turn import Turn
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw
from protocol.bitcoin.transaction import Transaction, txid_hex

TOO_DEAR = ("close-fee", "sweep-too-small")
"""The signer's words for a fee that is out of proportion."""


def begin(facts: Facts, env: Env, before: State | None = None) -> Step:
    """A spend of the funding was seen, or our commitment published. What it means begins with `Confirmed`.

    `before`: what was planned for another spend, which lost. What was told of HTLCs stays told.
    """
    turn = Turn(State(facts, None), env)
    turn.save = True
    if before is not None:
        turn.state = before
        planning.drop_claims(turn, tuple(at for claim in before.claims for at in claim.outputs))
        turn.state = State(facts, None, told=before.told, next_claim=before.next_claim)
    if facts.kind is Kind.UNKNOWN:
        turn.do(
            Warn(
                f"the funding was spent by {txid_hex(facts.txid)}, which is no commitment and no close that we agreed"
                " to: its key may be in other hands. Check the signer before you open further channels."
            )
        )
    if facts.kind is Kind.FUTURE:
        turn.do(
            Warn(
                f"the peer published commitment {facts.number}, which this node does not remember. Our balance in it"
                " comes back; HTLCs in it cannot be claimed."
            )
        )
    return turn.step()


def step(state: State, event: Event, env: Env) -> Step:
    turn = Turn(state, env)
    if state.final and not isinstance(event, Resume):
        return turn.step()
    match event:
        case Confirmed(height=height):
            _confirmed(turn, height)
        case Unconfirmed():
            _unconfirmed(turn)
        case PeerPointKnown(point=point):
            _point_known(turn, point)
        case OutputSpent():
            _output_spent(turn, event)
        case SpendLost(txid=txid, index=index):
            _spend_lost(turn, (txid, index))
        case NewBlock():
            planning.new_block(turn)
        case ClaimWanted(htlc_id=htlc_id, preimage=preimage):
            _claim_wanted(turn, htlc_id, preimage)
        case Signed():
            _signed(turn, event)
        case NotSigned():
            _not_signed(turn, event)
        case CoinsFound():
            _coins_found(turn, event)
        case Resume():
            _resume(turn)
        case _:
            assert_never(event)
    return turn.step()


# The spend of the funding.


def _confirmed(turn: Turn, height: BlockHeight) -> None:
    if turn.state.height == height:
        return
    outputs = tuple(replace(o, height=height) if o.txid == turn.facts.txid else o for o in turn.state.outputs)
    turn.become(replace(turn.state, height=height, outputs=outputs))
    if not is_understood(turn.state):
        turn.do(FindPoint(turn.facts.number))
    elif all(output.role is Role.ANCHOR for output in outputs):
        _find_outputs(turn, height)


def _find_outputs(turn: Turn, height: BlockHeight) -> None:
    """The anchor has done its work, or was never needed."""
    planning.drop_claims(turn, tuple(o.at for o in turn.state.outputs))
    turn.become(replace(turn.state, outputs=outputs_of(turn.facts, height)))
    for output in turn.state.outputs:
        turn.watch(output)


def _unconfirmed(turn: Turn) -> None:
    """Our claims stay: they are good again when the same transaction is mined again."""
    outputs = tuple(replace(o, height=None) if o.txid == turn.facts.txid else o for o in turn.state.outputs)
    turn.become(replace(turn.state, height=None, outputs=outputs))


def _point_known(turn: Turn, point: bytes) -> None:
    if is_understood(turn.state):
        return
    turn.become(replace(turn.state, facts=replace(turn.facts, point=point)))
    if turn.state.height is not None:
        _find_outputs(turn, turn.state.height)
        planning.plan(turn)


# Spends of our outputs.


def _output_spent(turn: Turn, event: OutputSpent) -> None:
    output = next((o for o in turn.state.outputs if o.at == (event.txid, event.index)), None)
    if output is None:
        return
    tx = Transaction.parse(event.tx)
    htlc = turn.htlcs.get(output.htlc) if output.htlc else None
    preimage = None
    if htlc is not None and output.role not in (Role.SECOND_STAGE, Role.REVOKED_SECOND_STAGE):
        preimage = preimage_in(tx, output.txid, output.index, htlc.payment_hash)
    if preimage is not None and htlc is not None and htlc.offered:
        # BOLT 5: the preimage redeems the incoming HTLC, whatever becomes of this transaction.
        _keep_preimage(turn, htlc, preimage)
    if event.height is None:
        planning.settle(turn)
        return
    spent = Spent(tx.txid, event.height, preimage)
    if output.spent != spent:
        if output.spent is not None:
            _drop_children(turn, output.spent.txid)
        turn.put_output(replace(output, spent=spent))
        planning.drop_claims(turn, (output.at,))
        child = second_stage_of(turn.facts, output, tx, event.height)
        if child is not None and all(o.at != child.at for o in turn.state.outputs):
            turn.become(replace(turn.state, outputs=(*turn.state.outputs, child)))
            turn.watch(child)
    planning.settle(turn)


def _keep_preimage(turn: Turn, htlc: HtlcFact, preimage: bytes) -> None:
    known = tuple(
        replace(h, preimage=preimage) if h.offered and h.payment_hash == htlc.payment_hash else h
        for h in turn.facts.htlcs
    )
    turn.become(replace(turn.state, facts=replace(turn.facts, htlcs=known)))


def _spend_lost(turn: Turn, at: tuple[bytes, int]) -> None:
    output = next((o for o in turn.state.outputs if o.at == at), None)
    if output is None or output.spent is None:
        return
    _drop_children(turn, output.spent.txid)
    turn.put_output(replace(output, spent=None))


def _drop_children(turn: Turn, txid: bytes) -> None:
    gone = tuple(o.at for o in turn.state.outputs if o.txid == txid and o.txid != turn.facts.txid)
    if gone:
        planning.drop_claims(turn, gone)
        kept = tuple(o for o in turn.state.outputs if o.at not in gone)
        turn.become(replace(turn.state, outputs=kept))


# Answers.


def _claim_wanted(turn: Turn, htlc_id: int, preimage: bytes | None) -> None:
    htlc = turn.htlcs.get((False, htlc_id))
    if htlc is None or (htlc.claim and (preimage is None or htlc.preimage == preimage)):
        return
    changed = replace(htlc, claim=True, preimage=preimage or htlc.preimage)
    known = tuple(changed if h.key == changed.key else h for h in turn.facts.htlcs)
    turn.become(replace(turn.state, facts=replace(turn.facts, htlcs=known)))
    if turn.state.height is not None and is_understood(turn.state):
        planning.plan(turn)


def _signed(turn: Turn, event: Signed) -> None:
    claim = turn.claim(event.claim)
    if claim is None:
        return  # it ended meanwhile; the transaction pays us all the same, if it can be mined
    if claim.tx != event.tx:
        planning.forget(turn, claim)
    turn.put_claim(replace(claim, tx=event.tx, tx_feerate=event.feerate_per_kw, waits=""))
    turn.do(Publish(event.tx, planning.label(turn)))


def _not_signed(turn: Turn, event: NotSigned) -> None:
    claim = turn.claim(event.claim)
    if claim is None:
        return
    if event.tag in TOO_DEAR:
        _too_dear(turn, claim, event.why)
        return
    if event.tag == "fee-coins" and claim.coins:
        turn.do(ReleaseCoins(claim.id))
        claim = replace(claim, coins=(), change=None)
    if event.why != claim.waits and event.tag:
        turn.do(Warn(f"a transaction of a closed channel waits: {event.why}"))
    turn.put_claim(replace(claim, waits=event.why))


def _too_dear(turn: Turn, claim: Claim, why: str) -> None:
    """Tries a lower feerate. At the lowest that is relayed the output is not worth its fee and is left."""
    rate = FeeratePerKw(claim.feerate_per_kw * 3 // 4)
    if claim.feerate_per_kw > FEERATE_FLOOR:
        lower = FeeratePerKw(max(FEERATE_FLOOR, rate))
        claim = replace(claim, feerate_per_kw=lower, limit=lower)
        turn.put_claim(claim)
        if claim.tx is None:
            planning.ask(turn, claim)
        return
    if claim.tx is not None:
        return
    for output in turn.outputs(claim):
        turn.put_output(replace(output, given_up=f"not worth its fee: {why}"))
        turn.do(Warn(f"an output of {output.value} sat is left: {why}"))
    planning.drop_claims(turn, claim.outputs)


def _coins_found(turn: Turn, event: CoinsFound) -> None:
    claim = turn.claim(event.claim)
    if claim is None:
        turn.do(ReleaseCoins(event.claim))
        return
    if not event.coins:
        if event.why != claim.waits:
            turn.do(Warn(f"no coin can pay the fee of an HTLC transaction: {event.why}"))
        turn.put_claim(replace(claim, waits=event.why))
        return
    claim = replace(claim, coins=event.coins, change=event.change, waits="")
    turn.put_claim(claim)
    planning.ask(turn, claim)


def _resume(turn: Turn) -> None:
    for outcome in turn.state.told:
        turn.do(Settle(outcome))
    if turn.state.final:
        turn.do(Done())
        return
    if not is_understood(turn.state):
        if turn.state.height is not None:
            turn.do(FindPoint(turn.facts.number))
        return
    for output in turn.state.outputs:
        turn.watch(output)
    live = {claim.id for claim in turn.state.claims}
    for ended in range(1, turn.state.next_claim):
        if ended not in live:
            turn.do(ReleaseCoins(ended))
    for claim in turn.state.claims:
        if claim.tx is not None:
            turn.do(Publish(claim.tx, planning.label(turn)))
        else:
            planning.ask(turn, claim)
