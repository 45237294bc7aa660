"""The end of a channel: shutdown, the legacy fee negotiation, and spends of the funding (BOLT 2, "Channel Close";
BOLT 5, "Mutual Close", "Unilateral Close")."""

from msgspec.structs import replace

from node.channel import dance, simple_close
from node.channel.content import commitment_params
from node.channel.events import Drop, FundingSpent, Publish, Resolve, Save, Send
from node.channel.state import (
    AwaitingLockIn,
    Closed,
    CloseKind,
    Closing,
    Flowing,
    Lost,
    Negotiation,
    Normal,
    Online,
    ShuttingDown,
)
from node.channel.turn import Turn
from node.onchain.recognise import whose
from protocol import curve
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw, Sat, floor_sat
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3 import closing as bolt3_closing
from protocol.bolt3.commitment import Side
from protocol.bolt3.params import commitment_number
from protocol.bus.messages.signer import (
    MAX_CLOSING_FEE,
    MAX_CLOSING_FEE_SHARE,
    SignHolderCommitment,
    SignMutualClose,
)
from protocol.errors import CommandRefused, PeerViolation
from protocol.wire.bolt1 import Error, Warning
from protocol.wire.bolt2_close import (
    ClosingComplete,
    ClosingSig,
    ClosingSigned,
    ClosingSignedTlvs,
    FeeRange,
    Shutdown,
)

NEGOTIATING = 'BOLT 2, "Closing Negotiation: closing_signed"'
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
    low, high, ideal = _range(turn)
    turn.v = replace(turn.v, negotiation=Negotiation(low, high))
    if turn.c.params.holder_is_opener:
        ask_to_close(turn, ideal)


def _scripts(turn: Turn) -> tuple[bytes, bytes]:
    assert isinstance(turn.c.phase, ShuttingDown) and turn.c.phase.theirs is not None  # noqa: S101, PT018
    return turn.c.params.holder_script, turn.c.phase.theirs


def _range(turn: Turn) -> tuple[Sat, Sat, Sat]:
    """Lowest, highest and preferred fee. Who does not pay it accepts whatever the network relays."""
    scripts = _scripts(turn)
    ideal = bolt3_closing.closing_fee(turn.c.close_feerate or turn.env.feerate_per_kw, *scripts)
    low = bolt3_closing.closing_fee(FEERATE_FLOOR, *scripts)
    if turn.c.params.holder_is_opener:
        balance = floor_sat(turn.c.settled_local)
        high = Sat(min(max(3 * ideal, low), balance))
    else:
        high = floor_sat(turn.c.settled_remote)
    # What the signer would refuse is not offered, or the negotiation would stall on it.
    high = Sat(min(high, MAX_CLOSING_FEE, turn.c.params.capacity // MAX_CLOSING_FEE_SHARE))
    return low, high, Sat(max(low, min(ideal, high)))


def _build(turn: Turn, fee: Sat, *, without_theirs: bool) -> bolt3_closing.Closing:
    ours, theirs = _scripts(turn)
    return bolt3_closing.build(
        commitment_params(turn.c.params),
        floor_sat(turn.c.settled_local),
        floor_sat(turn.c.settled_remote),
        ours,
        theirs,
        fee,
        omit=Side.COUNTERPARTY if without_theirs else None,
    )


def _is_dust_to_peer(turn: Turn, fee: Sat) -> bool:
    """The peer leaves its output out of the transaction that it signs: it is below its own limit."""
    params = turn.c.params
    left = floor_sat(turn.c.settled_remote) - (0 if params.holder_is_opener else fee)
    return left < params.counterparty.dust_limit


def ask_to_close(turn: Turn, fee: Sat, *, without_theirs: bool | None = None) -> None:
    """`without_theirs`: as in what the peer signed; None for a proposal of ours."""
    ours, theirs = _scripts(turn)
    if without_theirs is None:
        without_theirs = _is_dust_to_peer(turn, fee)
    operation = SignMutualClose(
        floor_sat(turn.c.settled_local),
        floor_sat(turn.c.settled_remote),
        ours,
        theirs,
        fee,
        without_counterparty=without_theirs,
    )
    if turn.v.negotiation is not None:
        turn.v = replace(turn.v, negotiation=replace(turn.v.negotiation, without_theirs=without_theirs))
    turn.v = replace(turn.v, closing_fee=fee)
    turn.ask_signer((*dance.preamble(turn.c), operation))


def our_signature(turn: Turn, signature: bytes) -> None:
    """The signer signed the close: propose it, or complete what the peer proposed."""
    fee, negotiation = turn.v.closing_fee, turn.v.negotiation
    turn.v = replace(turn.v, closing_fee=None)
    if fee is None or negotiation is None or not isinstance(turn.v.link, Online):
        return  # the connection was lost meanwhile: the negotiation begins anew
    fee_range = FeeRange(negotiation.low, negotiation.high)
    message = ClosingSigned(turn.c.params.channel_id, fee, signature, ClosingSignedTlvs(fee_range=fee_range))
    if negotiation.accepted is not None:
        _complete(turn, fee, signature, negotiation.accepted)
    else:
        turn.v = replace(turn.v, negotiation=replace(negotiation, proposed=fee, our_signature=signature))
    turn.do(Send((message,)))


def _complete(turn: Turn, fee: Sat, ours: bytes, theirs: bytes) -> None:
    closing, _ = _signed_by_peer(turn, fee, theirs)
    tx = closing.signed(ours, theirs).serialize()
    turn.set_phase(Closing(CloseKind.MUTUAL, tx), turn.c.why)
    turn.save(Save.NOW)
    turn.do(Publish(tx))


def _signed_by_peer(turn: Turn, fee: Sat, signature: bytes) -> tuple[bolt3_closing.Closing, bool]:
    """What this is a signature for, and whether the peer's output is left out of it: that is the peer's to choose
    (BOLT 3, "Legacy Closing Transaction")."""
    key = turn.c.params.counterparty_keys.funding_pubkey
    for without_theirs in (False, True):
        try:
            closing = _build(turn, fee, without_theirs=without_theirs)
        except PeerViolation:  # the fee cannot be paid, or nothing is left
            if without_theirs:
                break
            raise
        if curve.verify_ecdsa(key, closing.digest, signature):
            return closing, without_theirs
    raise PeerViolation("the signature on the closing transaction is wrong", clause=NEGOTIATING)


def closing_signed(turn: Turn, message: ClosingSigned) -> None:
    if isinstance(turn.c.phase, Closing | Closed | Lost):
        return  # agreed before the connection was lost; the peer sees the transaction on the chain
    if turn.v.simple_close:
        raise PeerViolation("closing_signed where option_simple_close was negotiated", clause=SIMPLE)
    negotiate(turn)
    negotiation = turn.v.negotiation
    if negotiation is None or turn.busy:
        raise PeerViolation("closing_signed before the channel is clear", clause=NEGOTIATING)
    fee = message.fee_satoshis
    _, without_theirs = _signed_by_peer(turn, fee, message.signature)
    same = fee == negotiation.proposed and without_theirs == negotiation.without_theirs
    if same and negotiation.our_signature is not None:
        _complete(turn, fee, negotiation.our_signature, message.signature)
        return
    if negotiation.low <= fee <= negotiation.high:
        turn.v = replace(turn.v, negotiation=replace(negotiation, accepted=message.signature))
        ask_to_close(turn, fee, without_theirs=without_theirs)
        return
    turn.v = replace(turn.v, negotiation=replace(negotiation, heard=fee))
    fee_range = message.tlvs.fee_range
    if fee_range is None:
        ask_to_close(turn, _between(negotiation, fee))
        return
    if negotiation.heard is not None:
        raise PeerViolation(f"a closing fee of {fee} sat again outside of our range", clause=NEGOTIATING)
    low = max(negotiation.low, fee_range.min_fee_satoshis)
    high = min(negotiation.high, fee_range.max_fee_satoshis)
    if low > high:
        raise PeerViolation(
            f"no closing fee suits both: we pay {negotiation.low}..{negotiation.high} sat, the peer"
            f" {fee_range.min_fee_satoshis}..{fee_range.max_fee_satoshis}",
            clause=NEGOTIATING,
        )
    ask_to_close(turn, Sat(max(low, min(high, fee))))


def _between(negotiation: Negotiation, fee: Sat) -> Sat:
    """Strictly between the peer's fee and our last one, so that each round comes nearer. Raises PeerViolation where
    the peer does not move, or nothing between is a fee that we pay."""
    last, heard = negotiation.proposed, negotiation.heard
    if last is None:
        return Sat(max(negotiation.low, min(negotiation.high, fee)))
    if heard is not None and not min(heard, last) < fee < max(heard, last):
        raise PeerViolation(
            f"a closing fee of {fee} sat is not between the last ones, {heard} and {last}", clause=NEGOTIATING
        )
    answer = Sat(max(negotiation.low, min(negotiation.high, (fee + last) // 2)))
    if not min(fee, last) < answer < max(fee, last):
        raise PeerViolation(
            f"no closing fee suits both: we pay {negotiation.low}..{negotiation.high} sat, the peer wants {fee}",
            clause=NEGOTIATING,
        )
    return answer


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


def force_close(turn: Turn, why: str) -> None:
    """Publishes our newest commitment, whatever else is under way."""
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
