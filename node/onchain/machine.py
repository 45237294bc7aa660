"""The resolution of one closed channel as a pure function: state, event and what is known of the world in; state and
effects out (BOLT 5, whole; checklist 43-52).

Everything may be told twice, and nothing is forgotten by a restart: `Resume` says again what was owed. A step that
changes the state is saved before its effects leave.
"""

from typing import assert_never

from msgspec.structs import replace

from node.onchain import answers, planning, spends
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
    NotTaken,
    OutputSpent,
    PeerPointKnown,
    ReleaseCoins,
    Resume,
    Settle,
    Signed,
    SpendLost,
    Step,
    Unconfirmed,
    Warn,
)
from node.onchain.recognise import as_it_stands, commitment_scripts_of, whose
from node.onchain.settle import is_understood
from node.onchain.state import Facts, HtlcFact, Kind, Role, State
from node.onchain.turn import Turn
from protocol.amounts import BlockHeight
from protocol.bitcoin.transaction import Transaction, txid_hex


def begin(facts: Facts, env: Env, before: State | None = None) -> Step:
    """A spend of the funding was seen, in the mempool too, or our commitment published. A block makes it `Confirmed`.

    `before`: what was planned for another spend, which lost. What was told of HTLCs stays told, and a preimage that
    came with the other one still counts.
    """
    turn = Turn(State(facts, None), env)
    turn.save = True
    if before is not None:
        turn.state = before
        planning.drop_claims(turn, tuple(at for claim in before.claims for at in claim.outputs))
        for output in before.outputs:
            if output.txid != facts.txid:
                turn.unwatch(output)
        facts = _with_known(facts, before.facts)
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
    if is_understood(turn.state):
        planning.find_outputs(turn, None)
    return turn.step()


def _with_known(facts: Facts, before: Facts) -> Facts:
    """What was learned since: preimages from the mempool, and what payments want."""
    old = {htlc.key: htlc for htlc in before.htlcs}

    def known(htlc: HtlcFact) -> HtlcFact:
        was = old.get(htlc.key)
        if was is None:
            return htlc
        return replace(
            htlc,
            preimage=htlc.preimage or was.preimage,
            claim=htlc.claim or was.claim,
            others=htlc.others or was.others,
        )

    return replace(facts, htlcs=tuple(known(htlc) for htlc in facts.htlcs))


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
            spends.output_spent(turn, event)
        case SpendLost(txid=txid, index=index):
            spends.spend_lost(turn, (txid, index))
        case NewBlock():
            planning.new_block(turn)
        case ClaimWanted():
            _claim_wanted(turn, event)
        case Signed():
            answers.signed(turn, event)
        case NotSigned():
            answers.not_signed(turn, event)
        case NotTaken():
            answers.not_taken(turn, event)
        case CoinsFound():
            answers.coins_found(turn, event)
        case Resume():
            _resume(turn)
        case _:
            assert_never(event)
    return turn.step()


def _confirmed(turn: Turn, height: BlockHeight) -> None:
    if turn.state.height == height:
        return
    # The anchor has done its work, or was never needed.
    anchors = tuple(o.at for o in turn.state.outputs if o.role is Role.ANCHOR)
    planning.drop_claims(turn, anchors)
    outputs = tuple(
        replace(o, height=height) if o.txid == turn.facts.txid else o
        for o in turn.state.outputs
        if o.role is not Role.ANCHOR
    )
    if not turn.state.seen:
        # From here on the channel counts as closed, and takes what the mempool told before.
        for outcome in turn.state.told:
            turn.do(Settle(outcome))
    turn.become(replace(turn.state, height=height, outputs=outputs, seen=True))
    if not is_understood(turn.state):
        turn.do(FindPoint(turn.facts.number))
    elif not outputs:
        planning.find_outputs(turn, height)
    else:
        # Again, since they may have been spent in blocks that came while we were off.
        for output in outputs:
            turn.watch(output)


def _unconfirmed(turn: Turn) -> None:
    """Our claims stay: they are good again when the same transaction is mined again."""
    outputs = tuple(replace(o, height=None) if o.txid == turn.facts.txid else o for o in turn.state.outputs)
    turn.become(replace(turn.state, height=None, outputs=outputs))


def _point_known(turn: Turn, point: bytes) -> None:
    if is_understood(turn.state):
        return
    turn.become(replace(turn.state, facts=as_it_stands(replace(turn.facts, point=point))))
    if turn.facts.kind is Kind.OURS_LOST:
        _lost_one(turn)
    planning.find_outputs(turn, turn.state.height)
    if turn.state.height is not None:
        planning.plan(turn)


def _lost_one(turn: Turn) -> None:
    """A commitment from before the loss of our data. With our point at hand it is sure whose it is."""
    facts = turn.facts
    tx, known = Transaction.parse(facts.tx), commitment_scripts_of(facts)
    own = known is not None and any(o.script_pubkey == known.to_local_script_pubkey for o in tx.outputs)
    if not own and whose(facts.params, tx) is None:
        turn.become(replace(turn.state, facts=replace(facts, kind=Kind.FUTURE, point=None)))
        return
    turn.do(
        Warn(
            f"our own commitment {facts.number} is in the chain, and this node does not remember it. Our balance in it"
            f" comes back after {facts.params.holder.to_self_delay} blocks. HTLCs in it can be claimed only if the"
            " signer still has the peer's signatures for them."
        )
    )


def _claim_wanted(turn: Turn, wanted: ClaimWanted) -> None:
    htlc = turn.htlcs.get((False, wanted.htlc_id))
    if htlc is None:
        return
    preimage, others = wanted.preimage or htlc.preimage, wanted.others or htlc.others
    changed = replace(htlc, claim=True, preimage=preimage, others=others)
    if changed == htlc:
        return
    known = tuple(changed if h.key == changed.key else h for h in turn.facts.htlcs)
    turn.become(replace(turn.state, facts=replace(turn.facts, htlcs=known)))
    if turn.state.height is not None and is_understood(turn.state):
        planning.plan(turn)


def _resume(turn: Turn) -> None:
    for outcome in turn.state.told:
        turn.do(Settle(outcome))
    if turn.state.resolved or turn.state.final:
        turn.do(Done())
    if turn.state.final:
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
        planning.publish(turn, claim)
        if claim.feerate_per_kw > claim.tx_feerate:
            planning.ask(turn, claim)
