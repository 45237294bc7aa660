"""The commitment dance: commitment_signed, revoke_and_ack and the one open question to the signer (BOLT 2,
"Committing Updates So Far", "Completing the Transition to the Updated State")."""

from typing import assert_never

from msgspec.structs import replace

from node.channel import updates
from node.channel.attributions import after_its_end, attributed, is_forward
from node.channel.content import content
from node.channel.events import Peel, Save, Send
from node.channel.state import (
    Committed,
    FailWant,
    FeeStep,
    FulfilWant,
    Htlc,
    Htlcs,
    Normal,
    Online,
    Question,
    Resend,
    ShuttingDown,
)
from node.channel.turn import Turn
from protocol import curve
from protocol.bolt3.commitment import Side
from protocol.bolt4 import failure as failures
from protocol.bolt4 import payload as payloads
from protocol.bolt4.failure_onion import FailureKeys, create, wrap
from protocol.bolt4.sphinx import InvalidOnionPayload as BadPayload
from protocol.bus.messages import channel as said
from protocol.bus.messages.signer import (
    AcceptRevocation,
    AcceptSecondPoint,
    Forward,
    LearnPreimage,
    OnionToPeel,
    Operation,
    OtherParts,
    Peeled,
    PeerSignatures,
    ReleasePreimage,
    RevokeHolder,
    SignCounterparty,
    Unpeelable,
    ValidateHolder,
)
from protocol.errors import PeerViolation
from protocol.secret import Secret
from protocol.wire.bolt2_update import (
    CommitmentSigned,
    RevokeAndAck,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
    attribution_tlvs,
)
from protocol.wire.message import Message

COMMITTING = 'BOLT 2, "Committing Updates So Far"'
REVOKING = 'BOLT 2, "Completing the Transition to the Updated State"'


def commitment_signed(turn: Turn, message: CommitmentSigned) -> None:
    """The peer signed our next commitment: ask the signer to validate it, revoke the last one, and sign on."""
    if not isinstance(turn.c.phase, Normal | ShuttingDown):
        raise PeerViolation("commitment_signed before channel_ready or after the close", clause=COMMITTING)
    number = turn.c.local_number + 1
    updates.cover_staged(turn, number)
    _cover_acknowledged(turn, number)
    updates.check_commitment(turn, number)
    signatures = (PeerSignatures(message.signature, message.htlc_signature),)
    turn.c.question = Question(validate=signatures)
    _prepare_commitment(turn, number)
    peel(turn, [row for row in turn.htlcs.values() if not row.offered and row.local_from == number])
    _ask(turn)


def _cover_acknowledged(turn: Turn, number: int) -> None:
    """Our updates that the peer acknowledged are in the commitment that it signs now."""
    acknowledged = turn.c.remote_revoked
    for row in list(turn.htlcs.values()):
        if row.offered:
            start = row.remote_from
            if row.local_from is None and start is not None and start <= acknowledged:
                turn.put(replace(row, local_from=number))
        elif row.local_to is None and row.remote_to is not None and row.remote_to <= acknowledged:
            turn.put(replace(row, local_to=number))
    turn.c.fees = tuple(
        FeeStep(step.feerate_per_kw, number, step.remote_from)
        if step.local_from is None and step.remote_from is not None and step.remote_from <= acknowledged
        else step
        for step in turn.c.fees
    )


def _prepare_commitment(turn: Turn, local_number: int) -> None:
    """Puts all that is due into the peer's next commitment, if we may sign one, and into the question.

    `local_number`: the commitment of ours that stands when the peer reads it; its updates are acknowledged.
    """
    if turn.c.awaits_revocation or turn.v.stalled or not isinstance(turn.v.link, Online):
        return
    number = turn.c.remote_number + 1
    due = False
    for row in list(turn.htlcs.values()):
        if row.offered:
            if row.remote_to is None and row.local_to is not None and row.local_to <= local_number:
                turn.put(replace(row, remote_to=number))
                due = True
        elif row.remote_from is None and row.local_from is not None and row.local_from <= local_number:
            turn.put(replace(row, remote_from=number))
            due = True
    for index, step in enumerate(turn.c.fees):
        if step.remote_from is None and step.local_from is not None and step.local_from <= local_number:
            changed = FeeStep(step.feerate_per_kw, step.local_from, number)
            turn.c.fees = (*turn.c.fees[:index], changed, *turn.c.fees[index + 1 :])
            due = True
    taken, release, parts = updates.take_wants(turn, number)
    if turn.c.stray is not None and not (due or taken):
        due = True
        updates.repeat_feerate(turn, number)
    if due or taken:
        turn.c.remote_number = number
        question = turn.c.question or Question()
        turn.c.question = replace(question, sign=True, release=release, others=parts)


def maybe_commit(turn: Turn) -> None:
    """Signs the peer's next commitment if the line is free and anything is due."""
    if turn.busy or not isinstance(turn.c.phase, Normal | ShuttingDown):
        return
    _prepare_commitment(turn, turn.c.local_number)
    if turn.c.question is None and turn.v.accept_due and turn.c.unaccepted is not None:
        turn.c.question = Question()
    if turn.c.question is not None:
        turn.v = replace(turn.v, accept_due=False)
        _ask(turn)


def _ask(turn: Turn) -> None:
    turn.save(Save.NOW)
    ask_again(turn)


def ask_again(turn: Turn) -> None:
    """Asks the open question; the same state asks the same, byte for byte."""
    turn.ask_signer(operations(turn.c, turn.htlcs))


def preamble(committed: Committed) -> list[Operation]:
    """What the signer was not told yet; it leads whatever is asked next."""
    told: list[Operation] = []
    second = committed.remote_points[1]
    if committed.remote_revoked == 0 and second is not None:
        told.append(AcceptSecondPoint(second))
    if committed.unaccepted is not None:
        told.append(committed.unaccepted)
    told.extend(LearnPreimage(preimage) for preimage in committed.unlearned)
    return told


def operations(committed: Committed, htlcs: Htlcs) -> tuple[Operation, ...]:
    question = committed.question or Question()
    ops = preamble(committed)
    if question.validate is not None:
        number = committed.local_number + 1
        if question.validate:
            ours = content(committed, htlcs, Side.HOLDER, number)
            ops.append(ValidateHolder(number, ours, question.validate))
        ops.append(RevokeHolder(committed.local_number))
    for payment_hash, ids in releases(htlcs, question).items():
        known = next((preimage for n in ids if (preimage := htlcs[False, n].preimage)), None)
        ops.append(ReleasePreimage(payment_hash, tuple(ids), known, _others(question, ids)))
    if question.sign:
        ops.append(_signing(committed, htlcs))
    return tuple(ops)


def _signing(committed: Committed, htlcs: Htlcs) -> SignCounterparty:
    """The peer's newest commitment, with where its new HTLCs come from when they pass on others."""
    number = committed.remote_number
    forwards = []
    for row in htlcs.values():
        if row.offered and row.remote_from == number and row.origin is not None:
            incoming = said.parse_forward_origin(row.origin)
            if incoming is not None:
                forwards.append(Forward(row.id, *incoming))
    forwards.sort(key=lambda forward: forward.htlc_id)
    return SignCounterparty(number, content(committed, htlcs, Side.COUNTERPARTY, number), tuple(forwards))


def _others(question: Question, ids: list[int]) -> OtherParts:
    """All HTLCs of one hash belong to one payment, and each was said with what was known of it then."""
    if not question.others:
        return ()
    by_channel: dict[bytes, set[int]] = {}
    for htlc_id in ids:
        for channel_id, theirs in question.others.get(htlc_id, ()):
            by_channel.setdefault(channel_id, set()).update(theirs)
    return tuple((channel_id, tuple(sorted(by_channel[channel_id]))) for channel_id in sorted(by_channel))


def releases(htlcs: Htlcs, question: Question) -> dict[bytes, list[int]]:
    """The HTLCs to be fulfilled, by their hash: one preimage each."""
    by_hash: dict[bytes, list[int]] = {}
    for htlc_id in question.release:
        by_hash.setdefault(htlcs[False, htlc_id].payment_hash, []).append(htlc_id)
    return by_hash


def resend_operations(committed: Committed, htlcs: Htlcs, resend: Resend) -> tuple[Operation, ...]:
    """What the peer lacks after a reconnection: granted before, so granted again."""
    ops = preamble(committed)
    if resend.revocation:
        ops.append(RevokeHolder(committed.local_number - 1))
    if resend.commitment:
        ops.append(_signing(committed, htlcs))
    return tuple(ops)


def revoke_and_ack(turn: Turn, message: RevokeAndAck) -> None:
    """The peer revoked its oldest commitment: our updates in the next one are acknowledged."""
    if not turn.c.awaits_revocation:
        raise PeerViolation("revoke_and_ack without a commitment_signed of ours", clause=REVOKING)
    secret = message.per_commitment_secret.reveal()
    if not curve.is_secret(secret) or curve.point_of(secret) != turn.c.remote_points[0]:
        raise PeerViolation("the per_commitment_secret does not fit its point", clause=REVOKING)
    if not curve.is_point(message.next_per_commitment_point):
        raise PeerViolation("next_per_commitment_point is no point", clause=REVOKING)
    next_point = turn.c.remote_points[1]
    if next_point is None:
        raise PeerViolation("revoke_and_ack before channel_ready", clause=REVOKING)
    if turn.c.stray is not None and turn.c.remote_revoked >= turn.c.stray:
        # With that number every content of it is revoked. The signer is told at once: others may wait for it.
        turn.c.stray = None
        turn.v = replace(turn.v, accept_due=True)
    turn.c.unaccepted = AcceptRevocation(turn.c.remote_revoked, secret, message.next_per_commitment_point)
    turn.c.remote_revoked += 1
    turn.c.remote_points = (next_point, message.next_per_commitment_point)
    turn.c.last_remote_secret = secret
    turn.save(Save.NEXT)
    parked, turn.v = turn.v.parked, replace(turn.v, parked=())
    for want in parked:
        add_want(turn, want)
    for row in list(turn.htlcs.values()):
        if row.offered and row.onion is not None and row.remote_from == turn.c.remote_revoked:
            turn.put(replace(row, onion=None))  # the peer has it for good
        elif not row.offered and row.remote_from == turn.c.remote_revoked:
            announce_received(turn, row)
    finish_rows(turn)


def announce_received(turn: Turn, row: Htlc) -> None:
    """Tells payments of an incoming HTLC once it is irrevocable and peeled."""
    if row.payload is None or row.remote_to is not None or not updates.irrevocable(turn, row):
        return
    if row.failure_code is not None:
        add_want(turn, FailWant(row.id, row.payload, row.failure_code))
        return
    if row.failure is not None and row.um is not None and row.ammag is not None:
        # Decided before, here or by payments: nobody may change that.
        keys = FailureKeys(Secret(row.um), Secret(row.ammag))
        reason, told = row.failure, row.attribution
        if not reason:
            reason = create(keys, failures.TemporaryChannelFailure())
            told = attributed(row, wrap(keys, reason), 0, None, is_source=True)
        add_want(turn, FailWant(row.id, reason, attribution=told))
        return
    if turn.c.unaccepted is not None and not row.preimage and (row.next_onion is not None or _is_part(row)):
        if row.id not in turn.v.unannounced:
            turn.v = replace(turn.v, unannounced=(*turn.v.unannounced, row.id))
        turn.v = replace(turn.v, accept_due=True)
        return
    if row.preimage:
        # Decided before a crash, or when it could not leave yet.
        add_want(turn, FulfilWant(row.id, row.preimage, attribution=row.attribution))
    turn.tell(
        said.HtlcReceived(
            turn.c.params.channel_id,
            row.id,
            row.amount_msat,
            row.payment_hash,
            row.cltv_expiry,
            row.payload,
            row.next_onion is None,
            row.next_onion,
            row.onion_key or b"",
        )
    )


def _is_part(row: Htlc) -> bool:
    """Of a payment to us whose other parts may stand in other channels. Those ask the signer for this one too, and it
    counts only what it knows to stand."""
    try:
        return payloads.decode_final(row.payload or b"").total_msat > row.amount_msat
    except BadPayload:
        return False


def revocation_accepted(turn: Turn) -> None:
    turn.c.unaccepted = None
    waiting, turn.v = turn.v.unannounced, replace(turn.v, unannounced=(), accept_due=False)
    for htlc_id in waiting:
        row = turn.htlcs.get((False, htlc_id))
        if row is not None:
            announce_received(turn, row)


def add_want(turn: Turn, want: FulfilWant | FailWant) -> None:
    if want in turn.v.wants:
        return
    wants = turn.v.wants
    if isinstance(want, FulfilWant):
        # Said again when more parts of its payment are known.
        for known in wants:
            if isinstance(known, FulfilWant) and known.htlc_id == want.htlc_id:
                more = max(known.others, want.others, key=len)
                told = known.attribution or want.attribution
                promised = known.promised or want.promised
                want = FulfilWant(want.htlc_id, want.preimage or known.preimage, more, told, promised)
                wants = tuple(other for other in wants if other is not known)
    turn.v = replace(turn.v, wants=(*wants, want))


def finish_rows(turn: Turn, *, closed: bool = False) -> None:
    """Rows that are gone from both commitments for good leave the live table; fees that both use shrink to one.

    `closed`: a mutual close is out. We signed it when every removal was final, so what a crash took of that is known.
    """
    ours, theirs = turn.c.local_number, turn.c.remote_revoked
    if closed:
        ours = theirs = turn.c.local_number + turn.c.remote_number + 1
    for key, row in list(turn.htlcs.items()):
        if row.local_to is None or row.remote_to is None or row.local_to > ours or row.remote_to > theirs:
            continue
        if turn.c.unaccepted is not None and not closed and row.preimage is None and is_forward(row):
            # Its incoming HTLC will be failed when this one is told to be gone; our signer must know before.
            turn.v = replace(turn.v, accept_due=True)
            continue
        del turn.htlcs[key]
        turn.finished.append(after_its_end(row))
        turn.save(Save.NEXT)
        amount = row.amount_msat if not row.offered else -row.amount_msat
        if row.preimage is not None:
            turn.c.settled_local = type(turn.c.settled_local)(turn.c.settled_local + amount)
            turn.c.settled_remote = type(turn.c.settled_remote)(turn.c.settled_remote - amount)
        channel_id = turn.c.params.channel_id
        if not row.offered:
            turn.tell(said.HtlcResolved(channel_id, row.id, row.payment_hash, row.preimage is not None))
        elif row.preimage is None and row.origin is not None:
            why = row.failure or b"", row.failure_code, row.attribution
            turn.tell(said.HtlcFailed(row.origin, channel_id, row.id, *why))
    fees = turn.c.fees
    while len(fees) > 1 and _settled(fees[1], ours, theirs):
        fees = fees[1:]
    turn.c.fees = fees


def _settled(step: FeeStep, ours: int, theirs: int) -> bool:
    return (
        step.local_from is not None
        and step.remote_from is not None
        and step.local_from <= ours
        and step.remote_from <= theirs
    )


def peel(turn: Turn, rows: list[Htlc]) -> None:
    waiting = [row for row in rows if row.onion is not None and row.payload is None]
    if waiting:
        turn.do(
            Peel(
                tuple(row.id for row in waiting),
                tuple(OnionToPeel(row.onion or b"", row.payment_hash) for row in waiting),
            )
        )


def onions_peeled(turn: Turn, results: tuple[tuple[int, bytes, Peeled | Unpeelable], ...]) -> None:
    for htlc_id, packet, result in results:
        row = turn.htlcs.get((False, htlc_id))
        if row is None or row.onion != packet:
            continue  # a late answer, for an HTLC that never came to be and whose id is another's now
        match result:
            case Unpeelable(failure_code=code, sha256_of_onion=digest):
                row = replace(row, onion=None, payload=digest, failure_code=code)
            case Peeled(payload=payload, next_packet=next_packet, um=um, ammag=ammag, ammagext=ammagext):
                row = replace(
                    row,
                    onion=None,
                    payload=payload,
                    next_onion=next_packet,
                    um=um,
                    ammag=ammag,
                    ammagext=ammagext if row.ammagext is None else row.ammagext,
                )
            case _:
                assert_never(result)
        turn.put(row)
        turn.save(Save.NEXT)
        announce_received(turn, row)


def update_messages(committed: Committed, htlcs: Htlcs) -> list[Message]:
    """Our updates that commitment `remote_number` of the peer is the first to hold, adds in the order of their ids."""
    channel_id, number = committed.params.channel_id, committed.remote_number
    messages: list[Message] = []
    for step in committed.fees:
        if step.remote_from == number and committed.params.holder_is_opener:
            messages.append(UpdateFee(channel_id, step.feerate_per_kw))
    for key in sorted(htlcs):
        row = htlcs[key]
        if row.offered and row.remote_from == number:
            messages.append(
                UpdateAddHtlc(
                    channel_id, row.id, row.amount_msat, row.payment_hash, row.cltv_expiry, row.onion or b""
                )
            )
        elif not row.offered and row.remote_to == number:
            messages.append(_removal(channel_id, row))
    return messages


def _removal(channel_id: bytes, row: Htlc) -> Message:
    if row.preimage is not None:
        if not row.preimage:
            raise AssertionError(f"HTLC {row.id} is fulfilled and its preimage was never released")
        return UpdateFulfillHtlc(channel_id, row.id, Secret(row.preimage), attribution_tlvs(row.attribution))
    if row.failure_code is not None:
        return UpdateFailMalformedHtlc(channel_id, row.id, row.failure or b"", row.failure_code)
    return UpdateFailHtlc(channel_id, row.id, row.failure or b"", attribution_tlvs(row.attribution))


def commitment_message(committed: Committed, signatures: tuple[PeerSignatures, ...]) -> Message:
    only = signatures[0]
    return CommitmentSigned(committed.params.channel_id, only.commitment, only.htlcs)


def revocation_message(committed: Committed, secret: bytes, next_point: bytes) -> Message:
    return RevokeAndAck(committed.params.channel_id, Secret(secret), next_point)


def send(turn: Turn, *messages: Message) -> None:
    if messages:
        turn.do(Send(messages))
