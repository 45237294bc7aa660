"""What the chain decided of a closed channel: HTLCs that ended, and the end of all (BOLT 5, "General Nomenclature").

The resolution itself is `node.onchain`; here its results enter the rows, and payments are told.
"""

from msgspec.structs import replace

from node.channel.attributions import after_its_end, is_forward
from node.channel.dance import preamble
from node.channel.events import ResolvedOnChain, Save, SettledOnChain
from node.channel.state import Closed, Closing, Htlc
from node.channel.turn import Turn
from protocol.amounts import Msat
from protocol.bitcoin.transaction import Transaction
from protocol.bus.messages import channel as said
from protocol.bus.messages.signer import HtlcBuried


def settled(turn: Turn, event: SettledOnChain) -> None:
    """An HTLC ended for good. Told again after a restart; a row that is gone was heard of."""
    row = turn.htlcs.get((event.offered, event.htlc_id))
    if row is None:
        return
    if not isinstance(turn.c.phase, Closing):
        _seen_in_mempool(turn, row, event)
        return
    if not event.paid and row.preimage is None and is_forward(row):
        if row.id not in turn.v.burying:
            turn.v = replace(turn.v, burying=(*turn.v.burying, row.id))
        return
    del turn.htlcs[row.key]
    row = _offered(turn, row, event) if row.offered else _received(turn, row, event)
    turn.finished.append(after_its_end(row))
    turn.save(Save.NOW)


def bury(turn: Turn) -> None:
    """The signer lets the incoming HTLC of a forward fail once it knows that the chain took the onward one away."""
    if turn.v.burying and not turn.busy and not turn.v.stalled and isinstance(turn.c.phase, Closing):
        turn.ask_signer((*preamble(turn.c), HtlcBuried(turn.v.burying[0], turn.c.phase.tx)))


def buried(turn: Turn) -> None:
    if not turn.v.burying:
        return
    htlc_id, *rest = turn.v.burying
    turn.v = replace(turn.v, burying=tuple(rest))
    row = turn.htlcs.pop((True, htlc_id), None)
    if row is not None:
        row = _offered(turn, row, SettledOnChain(True, htlc_id, paid=False))
        turn.finished.append(after_its_end(row))
        turn.save(Save.NOW)
    if turn.v.resolved:
        resolved(turn, ResolvedOnChain())


def _seen_in_mempool(turn: Turn, row: Htlc, event: SettledOnChain) -> None:
    """checklist 46: the preimage goes upstream at once; the row stays, since a block or the peer decides its end."""
    if row.offered and row.preimage is None and event.preimage is not None and row.origin is not None:
        turn.tell(said.HtlcFulfilled(row.origin, turn.c.params.channel_id, row.id, event.preimage))


def _offered(turn: Turn, row: Htlc, event: SettledOnChain) -> Htlc:
    channel_id = turn.c.params.channel_id
    if not event.paid:
        if row.preimage is not None:
            return row  # the peer gave the preimage and then missed to take the money: it is paid upstream
        if row.origin is not None:
            reason = row.failure or b""
            turn.tell(
                said.HtlcFailed(row.origin, channel_id, row.id, reason, row.failure_code, row.attribution)
            )
        return row
    _moves(turn, Msat(-row.amount_msat))
    if row.preimage is None and event.preimage is not None and row.origin is not None:
        turn.tell(said.HtlcFulfilled(row.origin, channel_id, row.id, event.preimage))
    return replace(row, preimage=row.preimage or event.preimage)


def _received(turn: Turn, row: Htlc, event: SettledOnChain) -> Htlc:
    turn.tell(said.HtlcResolved(turn.c.params.channel_id, row.id, row.payment_hash, event.paid))
    if not event.paid:
        return replace(row, preimage=None)  # a preimage alone is no payment
    _moves(turn, row.amount_msat)
    return replace(row, preimage=event.preimage or row.preimage or b"")


def _moves(turn: Turn, amount: Msat) -> None:
    turn.c.settled_local = Msat(turn.c.settled_local + amount)
    turn.c.settled_remote = Msat(turn.c.settled_remote - amount)


def resolved(turn: Turn, _event: ResolvedOnChain) -> None:
    phase = turn.c.phase
    if turn.v.burying:
        turn.v = replace(turn.v, resolved=True)
        return
    if isinstance(phase, Closing) and phase.tx:
        turn.set_phase(Closed(phase.kind, Transaction.parse(phase.tx).txid), turn.c.why)
        turn.save(Save.NOW)
