"""The end of a channel: shutdown, who may propose a closing transaction and when, and spends of the funding (BOLT 2,
"Channel Close"; BOLT 5, "Mutual Close", "Unilateral Close")."""

from msgspec.structs import replace

from node.channel import dance, legacy_close, simple_close
from node.channel.content import commitment_params
from node.channel.events import Drop, FundingSpent, Publish, Resolve, Save
from node.channel.state import (
    AwaitingLockIn,
    Closed,
    CloseKind,
    Closing,
    Flowing,
    Lost,
    Normal,
    Online,
    ShuttingDown,
)
from node.channel.turn import Turn
from node.onchain.recognise import whose
from protocol.amounts import FeeratePerKw
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3 import closing as bolt3_closing
from protocol.bolt3.commitment import Side
from protocol.bolt3.params import commitment_number
from protocol.bus.messages.signer import (
    SignHolderCommitment,
)
from protocol.errors import CommandRefused, PeerViolation
from protocol.wire.bolt1 import Error, Warning
from protocol.wire.bolt2_close import (
    ClosingComplete,
    ClosingSig,
    ClosingSigned,
    Shutdown,
)
from protocol.wire.bolt2_reestablish import ChannelReestablish

SIMPLE = 'BOLT 2, "Closing Negotiation: closing_complete and closing_sig"'
INITIATING = 'BOLT 2, "Closing Initiation: shutdown"'
FINAL_DEPTH = 6
"""A spend of the funding this deep is final."""


def close_wanted(turn: Turn, feerate: FeeratePerKw | None) -> None:
    """Begins a mutual close; HTLCs that run may still be settled, none is added."""
    if feerate is not None and isinstance(turn.c.phase, Normal | AwaitingLockIn | ShuttingDown):
        turn.c.close_feerate = feerate
        turn.save(Save.NOW)
    match turn.c.phase:
        case Normal() | AwaitingLockIn():
            turn.c.closer = "local"
            turn.set_phase(ShuttingDown(sent=True, theirs=None), "you asked to close this channel")
            turn.save(Save.NOW)
            owe_shutdown(turn)
        case ShuttingDown(sent=False, theirs=theirs):
            turn.set_phase(ShuttingDown(sent=True, theirs=theirs), turn.c.why)
            turn.save(Save.NOW)
            owe_shutdown(turn)
        case Closing():
            simple_close.bump(turn, feerate)
        case ShuttingDown() | Closed():
            pass
        case Lost(reason=reason):
            raise CommandRefused(reason, what_to_do="Wait until the peer closes; the funds then come back.")


def owe_shutdown(turn: Turn) -> None:
    again = turn.v.simple_close and simple_close.goes_on(turn)
    sent = isinstance(turn.c.phase, ShuttingDown) and turn.c.phase.sent
    if (sent or again) and isinstance(turn.v.link, Online):
        turn.v = replace(turn.v, shutdown_due=True)


def say_shutdown(turn: Turn) -> None:
    """Behind what the signer still owes us: an HTLC that it signs for, or that is sent again, must leave before."""
    if turn.c.stray is not None and not turn.v.stalled:
        return  # the commitments that take a stray one away come first
    if not isinstance(turn.v.flow, Flowing):
        return  # nothing changes a channel at rest; after the next connection
    if turn.v.shutdown_due and not turn.busy:
        turn.v = replace(turn.v, shutdown_due=False)
        dance.send(turn, Shutdown(turn.c.params.channel_id, turn.c.params.holder_script))


def shutdown(turn: Turn, message: Shutdown) -> None:
    params, script = turn.c.params, message.scriptpubkey
    if not bolt3_closing.is_shutdown_script(script, anysegwit=True, op_return=turn.v.simple_close):
        raise PeerViolation(f"shutdown to a script of an unknown form: {script.hex()}", clause=INITIATING)
    if params.counterparty_upfront_script and params.counterparty_upfront_script != script:
        raise PeerViolation("shutdown to another script than the upfront one", clause=INITIATING)
    phase = turn.c.phase
    if turn.v.simple_close and simple_close.goes_on(turn):
        turn.v = replace(turn.v, shutdown_heard=True)
        turn.c.peer_close_script = script
        turn.save(Save.NEXT)
    if isinstance(phase, Closing | Closed | Lost):
        return
    turn.v = replace(turn.v, shutdown_heard=True)
    changed = isinstance(phase, ShuttingDown) and phase.theirs not in (None, script)
    if changed and not turn.v.simple_close:
        raise PeerViolation("shutdown came again with another script", clause=INITIATING)
    if isinstance(phase, ShuttingDown) and phase.theirs == script and phase.sent:
        return
    if not isinstance(phase, ShuttingDown):
        turn.c.closer = "remote"
    why = turn.c.why if isinstance(phase, ShuttingDown) else "the peer asked to close this channel"
    already_sent = isinstance(phase, ShuttingDown) and phase.sent
    turn.set_phase(ShuttingDown(sent=True, theirs=script), why)
    turn.save(Save.NOW)
    if not already_sent:
        owe_shutdown(turn)


def _is_clear(turn: Turn) -> bool:
    """No HTLC and no update is left on either side, so the balances are final."""
    return (
        isinstance(turn.c.phase, ShuttingDown)
        and turn.c.phase.sent
        and turn.c.phase.theirs is not None
        and isinstance(turn.v.link, Online)
        and not turn.htlcs
        and not turn.v.staged
        and not turn.busy
        and not turn.v.shutdown_due
        and turn.c.stray is None
        and turn.v.shutdown_heard
        and not turn.c.awaits_revocation
        and len(turn.c.fees) == 1
    )


def negotiate(turn: Turn) -> None:
    """The opener proposes a fee as soon as the channel is clear; with option_simple_close both propose one."""
    if turn.v.simple_close:
        if not turn.v.close_proposed and not turn.busy and _may_close_simply(turn):
            simple_close.propose(turn)
        return
    if not _is_clear(turn) or turn.v.negotiation is not None:
        return
    legacy_close.begin(turn)


def closing_signed(turn: Turn, message: ClosingSigned) -> None:
    if isinstance(turn.c.phase, Closing | Closed | Lost):
        return  # agreed before the connection was lost; the peer sees the transaction on the chain
    if turn.v.simple_close:
        raise PeerViolation("closing_signed where option_simple_close was negotiated", clause=SIMPLE)
    negotiate(turn)
    legacy_close.closing_signed(turn, message)


def simple(turn: Turn, message: ClosingComplete | ClosingSig) -> None:
    if not turn.v.simple_close:
        raise PeerViolation("option_simple_close was not negotiated", clause=SIMPLE)
    if isinstance(turn.c.phase, Closing | Closed | Lost) and not simple_close.goes_on(turn):
        return
    if not _may_close_simply(turn):
        raise PeerViolation("a closing transaction before the channel is clear", clause=SIMPLE)
    if isinstance(message, ClosingComplete):
        simple_close.closing_complete(turn, message)
    else:
        simple_close.closing_sig(turn, message)


def _may_close_simply(turn: Turn) -> bool:
    if simple_close.goes_on(turn):
        online = isinstance(turn.v.link, Online)
        return online and turn.v.shutdown_heard and not turn.v.shutdown_due
    return _is_clear(turn)


def is_in_doubt(turn: Turn) -> bool:
    """The peer has said where the channel stands, and we do not know yet whether that shows our state to be old: its
    numbers wait for an answer of our signer, or the signer looks at its proof."""
    return turn.v.claim is not None or any(isinstance(m, ChannelReestablish) for m in turn.v.inbox)


def force_close(turn: Turn, why: str) -> None:
    """Publishes our newest commitment, whatever else is under way; while that may be an old one, nothing happens. A
    deadline says it again at the next block."""
    if is_in_doubt(turn):
        return
    phase = turn.c.phase
    if isinstance(phase, Closed) or (isinstance(phase, Closing) and phase.tx):
        return
    if isinstance(phase, Lost):
        raise CommandRefused(
            f"our state may be old ({phase.reason}); publishing it would lose the channel's money",
            what_to_do="Wait until the peer closes; the funds then come back.",
        )
    turn.c.closer = turn.c.closer or "local"
    turn.set_phase(Closing(CloseKind.OURS, b""), why)
    turn.c.question = None  # pre-empted: whichever commitment the signer calls newest is the one to publish
    turn.v = replace(turn.v, asking=False, resend=None, claim=None, closing_fee=None)
    turn.save(Save.NOW)
    ask_for_commitment(turn)


def ask_for_commitment(turn: Turn) -> None:
    """After a force close was decided: the signer hands out our newest commitment, and freezes the channel.

    That comes first: a revocation that the signer will not accept must not stand in the way.
    """
    if turn.c.phase == Closing(CloseKind.OURS, b"") and not turn.v.asking:
        turn.ask_signer((SignHolderCommitment(), *dance.preamble(turn.c)))


def commitment_signed_by_us(turn: Turn, _number: int, transaction: bytes) -> None:
    if turn.c.phase != Closing(CloseKind.OURS, b""):
        return  # another transaction was faster
    turn.c.phase = Closing(CloseKind.OURS, transaction)
    turn.save(Save.NOW)
    turn.do(Publish(transaction))


def say_closed(turn: Turn) -> None:
    """A peer that does not know yet learns that the channel is failed."""
    if isinstance(turn.c.phase, Lost):
        ask_peer_to_close(turn, turn.c.phase.reason)
    elif not (isinstance(turn.c.phase, Closing) and turn.c.phase.kind is CloseKind.MUTUAL):
        dance.send(turn, Error(turn.c.params.channel_id, b"this channel is closed on chain"))


def ask_peer_to_close(turn: Turn, reason: str) -> None:
    dance.send(turn, Error(turn.c.params.channel_id, f"please close this channel: {reason}".encode("ascii")))


def warn(turn: Turn, sentence: str) -> None:
    """Tells the peer what it did wrong, without failing the channel, and hangs up."""
    text = sentence.encode("ascii", "replace")
    turn.do(Drop(sentence, (Warning(turn.c.params.channel_id, text),)))


def fail(turn: Turn, sentence: str) -> None:
    """The channel cannot go on: the peer hears it, and our commitment is published."""
    force_close(turn, sentence)
    dance.send(turn, Error(turn.c.params.channel_id, sentence.encode("ascii", "replace")))


def claim_judged(turn: Turn, *, is_ours: bool) -> None:
    """The peer said that we revoked what we do not remember; the signer knows whether it can prove that."""
    claim = turn.v.claim
    turn.v = replace(turn.v, claim=None)
    if claim is None:
        return
    if not is_ours:
        fail(turn, f"the peer claims without proof that we revoked commitment {claim.number}")
        return
    reason = (
        f"the peer proved that we revoked commitment {claim.number}; we know of {turn.c.local_number} before"
    )
    turn.set_phase(Lost(reason), reason)
    turn.save(Save.NOW)
    ask_peer_to_close(turn, reason)


def violated(turn: Turn, violation: PeerViolation) -> None:
    """The peer broke a rule: it hears which, and the connection ends. The channel stays as it was saved."""
    warn(turn, str(violation))
    turn.forget_connection()


def funding_spent(turn: Turn, event: FundingSpent) -> None:
    """Something spends the funding, in the mempool (no height) or in a block."""
    tx = Transaction.parse(event.tx)
    phase = turn.c.phase
    kind = _kind_of(turn, tx)
    final = event.height is not None and event.depth >= FINAL_DEPTH
    if isinstance(phase, Closed):
        return
    if kind is CloseKind.MUTUAL:
        dance.finish_rows(turn, closed=True)
    if event.height is not None:
        turn.do(Resolve(event.tx, event.height))
    if final and kind is CloseKind.MUTUAL:
        turn.set_phase(Closed(kind, tx.txid), turn.c.why)
        turn.save(Save.NOW)
        return
    closing = Closing(kind, event.tx, event.height)
    if closing == phase:
        return
    turn.set_phase(closing, _why_spent(turn, tx, kind))
    turn.save(Save.NOW)


def _why_spent(turn: Turn, tx: Transaction, kind: CloseKind) -> str:
    number = commitment_number(commitment_params(turn.c.params), tx.inputs[0].sequence, tx.locktime)
    if kind is CloseKind.THEIRS and number is not None and number < turn.c.remote_revoked:
        return f"the peer published commitment {number}, which it had revoked: everything in it is taken"
    if isinstance(turn.c.phase, Closing | ShuttingDown):
        return turn.c.why
    return f"the funding was spent: {kind.value}"


def _kind_of(turn: Turn, tx: Transaction) -> CloseKind:
    if isinstance(turn.c.phase, Closing) and turn.c.phase.kind is CloseKind.UNKNOWN:
        known = Transaction.parse(turn.c.phase.tx).txid == tx.txid
        if known:
            return CloseKind.UNKNOWN
    spend = tx.inputs[0]
    if spend.sequence >> 24 == 0x80 and tx.locktime >> 24 == 0x20:
        phase = turn.c.phase
        ours = isinstance(phase, Closing) and phase.kind is CloseKind.OURS and phase.tx
        if ours and Transaction.parse(phase.tx).txid == tx.txid:  # type: ignore[union-attr]
            return CloseKind.OURS
        # Published before we lost the state in which we had asked for it.
        lost = whose(commitment_params(turn.c.params), tx) is Side.HOLDER
        return CloseKind.OURS if lost else CloseKind.THEIRS
    agreed = turn.c.forgotten or isinstance(turn.c.phase, ShuttingDown | Closing)
    return CloseKind.MUTUAL if agreed else CloseKind.UNKNOWN
