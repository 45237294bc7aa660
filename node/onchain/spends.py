"""Spends of the outputs that we watch: ours, the peer's, from the mempool and from blocks, and spends that a
reorganisation undid (BOLT 5, "HTLC Output Handling"; checklist 46, 47, 50, 51)."""

from msgspec.structs import replace

from node.onchain import planning
from node.onchain.events import OutputSpent
from node.onchain.recognise import preimage_in, second_stage_of
from node.onchain.state import HtlcFact, Output, Role, Spent
from node.onchain.turn import Turn
from protocol.bitcoin.transaction import Transaction


def output_spent(turn: Turn, event: OutputSpent) -> None:
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
        planning.settle(turn)  # a block decides the rest
        return
    spent = Spent(tx.txid, event.height, preimage)
    if output.spent != spent:
        if output.spent is not None and output.spent.txid != tx.txid:
            _drop_children(turn, output.spent.txid)
        turn.put_output(replace(output, spent=spent))
        planning.drop_claims(turn, (output.at,))
        child = second_stage_of(turn.facts, output, tx, event.height)
        if child is not None:
            _put_child(turn, planning.with_ceiling(turn, child))
    planning.settle(turn)


def _put_child(turn: Turn, child: Output) -> None:
    """Once, or again at another height, when its transaction was mined anew."""
    known = next((o for o in turn.state.outputs if o.at == child.at), None)
    if known is None:
        turn.become(replace(turn.state, outputs=(*turn.state.outputs, child)))
        turn.watch(child)
    else:
        turn.put_output(replace(known, height=child.height))


def _keep_preimage(turn: Turn, htlc: HtlcFact, preimage: bytes) -> None:
    known = tuple(
        replace(h, preimage=preimage) if h.offered and h.payment_hash == htlc.payment_hash else h
        for h in turn.facts.htlcs
    )
    turn.become(replace(turn.state, facts=replace(turn.facts, htlcs=known)))


def spend_lost(turn: Turn, at: tuple[bytes, int]) -> None:
    output = next((o for o in turn.state.outputs if o.at == at), None)
    if output is None or output.spent is None:
        return
    _drop_children(turn, output.spent.txid)
    turn.put_output(replace(output, spent=None))


def _drop_children(turn: Turn, txid: bytes) -> None:
    gone = tuple(o for o in turn.state.outputs if o.txid == txid and o.txid != turn.facts.txid)
    if gone:
        planning.drop_claims(turn, tuple(o.at for o in gone))
        for output in gone:
            turn.unwatch(output)
        turn.become(replace(turn.state, outputs=tuple(o for o in turn.state.outputs if o not in gone)))
