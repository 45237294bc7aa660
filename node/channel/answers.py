"""What the signer's answer to the open question leads to: messages to the peer, or an offer that was never made."""

from typing import assert_never

from msgspec.structs import replace

from node.channel import closing, dance, legacy_close, onchain, simple_close, updates
from node.channel.events import Save
from node.channel.state import (
    Closing,
    FailWant,
    FeeStep,
    FulfilWant,
    Htlc,
    OfferWant,
    Online,
    Question,
    Reestablishing,
    Want,
)
from node.channel.turn import Turn
from protocol.bus.messages.signer import (
    ChannelAnswer,
    CounterpartySigned,
    HolderCommitmentSigned,
    HtlcIsBuried,
    MutualCloseSigned,
    NotNow,
    PeerFault,
    PreimageLearned,
    PreimageReleased,
    Refused,
    Result,
    RevocationAccepted,
    Revoked,
    SecondPointAccepted,
    SecretChecked,
    Validated,
)
from protocol.errors import CommandRefused, PeerViolation
from protocol.hashes import sha256
from protocol.wire.message import Message

STANDS_NOT_EVERYWHERE = "release-htlcs"
"""The signer remembers an unrevoked commitment of the peer that lacks the HTLC; after the next round it is gone."""
NOTHING_TO_BURY = "buried-htlc"
"""No commitment that the signer knows has the HTLC any more, so it holds nothing against its incoming one."""
VALIDATED_AND_GONE = "validate-order"
"""The signer validated this commitment before a crash of ours, and has revoked it since: it knows it no more."""


def signer_answered(turn: Turn, answer: ChannelAnswer | Refused | NotNow) -> None:
    turn.v = replace(turn.v, asking=False)
    match answer:
        case NotNow():
            return  # the shell asks again
        case Refused():
            _stall(turn, answer)
        case ChannelAnswer():
            _granted(turn, answer)
        case _:
            assert_never(answer)


def _stall(turn: Turn, refusal: Refused) -> None:
    turn.v = replace(turn.v, stalled=f"{refusal.rule} ({refusal.tag}): {refusal.seen}. {refusal.next_step}")


def _granted(turn: Turn, answer: ChannelAnswer) -> None:
    resend, question = turn.v.resend, turn.c.question
    turn.v = replace(turn.v, resend=None)
    revocation: Message | None = None
    commitment: Message | None = None
    for result in answer.results:
        match result:
            case Revoked(secret=secret, next_point=next_point):
                if resend is None:
                    turn.c.local_number += 1
                    turn.c.local_points = (turn.c.local_points[1], next_point)
                revocation = dance.revocation_message(turn.c, secret, next_point)
            case CounterpartySigned(signatures=signatures):
                commitment = dance.commitment_message(turn.c, signatures)
            case _:
                _note(turn, result)
    turn.save(Save.NEXT)
    match answer.stopped:
        case None:
            turn.c.question = None
        case Refused() as refusal:
            _refused(turn, question, refusal, answer.results)
        case PeerFault() as fault:
            _at_fault(turn, question, fault)
            return
    if resend is not None:
        _send_again(turn, revocation, commitment)
    else:
        _send_new(turn, revocation, commitment)
    dance.finish_rows(turn)
    if isinstance(turn.v.link, Reestablishing) and not turn.v.link.sent and turn.c.question is None:
        _reestablish_now(turn)


def _at_fault(turn: Turn, question: Question | None, fault: PeerFault) -> None:
    turn.v = replace(turn.v, close_asked=None)
    if isinstance(turn.c.phase, Closing):
        return  # our commitment was asked for first, so it is signed
    if question is not None:
        _forget_commitment(turn, question)
    if turn.c.unaccepted is not None:
        # A revocation that we could not punish with; it was counted, so no reconnection mends it.
        closing.fail(turn, f"{fault.sentence} ({fault.clause})")
    else:
        closing.violated(turn, PeerViolation(fault.sentence, clause=fault.clause))


def _reestablish_now(turn: Turn) -> None:
    from node.channel import reestablish  # here, because that module answers with this one

    reestablish.send_reestablish(turn)


def _note(turn: Turn, result: Result) -> None:
    """Results that change the books but send no message of the dance."""
    match result:
        case RevocationAccepted():
            dance.revocation_accepted(turn)
        case PreimageLearned():
            turn.c.unlearned = turn.c.unlearned[1:]
        case SecretChecked(is_ours=is_ours):
            closing.claim_judged(turn, is_ours=is_ours)
        case PreimageReleased(preimage=preimage):
            _fill_preimages(turn, preimage)
        case MutualCloseSigned(signature=signature):
            if turn.v.close_asked is not None:
                simple_close.our_signature(turn, turn.v.close_asked, signature)
            else:
                legacy_close.our_signature(turn, signature)
        case HtlcIsBuried():
            onchain.buried(turn)
        case HolderCommitmentSigned(number=number, transaction=transaction):
            closing.commitment_signed_by_us(turn, number, transaction)
        case Validated() | Revoked() | CounterpartySigned() | SecondPointAccepted():
            pass
        case _:
            assert_never(result)


def _fill_preimages(turn: Turn, preimage: bytes) -> None:
    payment_hash = sha256(preimage)
    for row in list(turn.htlcs.values()):
        if not row.offered and row.preimage == b"" and row.payment_hash == payment_hash:
            turn.put(replace(row, preimage=preimage))


def _send_new(turn: Turn, revocation: Message | None, commitment: Message | None) -> None:
    """revoke_and_ack first: our commitment_signed covers what it acknowledges."""
    messages: list[Message] = []
    if revocation is not None:
        messages.append(revocation)
        turn.c.commitment_sent_last = False
    if commitment is not None:
        messages += [*dance.update_messages(turn.c, turn.htlcs), commitment]
        turn.c.commitment_sent_last = True
    if isinstance(turn.v.link, Online):
        dance.send(turn, *messages)


def _send_again(turn: Turn, revocation: Message | None, commitment: Message | None) -> None:
    """In the order in which they left first (BOLT 2, "Message Retransmission")."""
    revocations = [] if revocation is None else [revocation]
    commitments = [] if commitment is None else [*dance.update_messages(turn.c, turn.htlcs), commitment]
    ordered = [*revocations, *commitments] if turn.c.commitment_sent_last else [*commitments, *revocations]
    if isinstance(turn.v.link, Online):
        dance.send(turn, *ordered)


def _refused(turn: Turn, question: Question | None, refusal: Refused, results: tuple[Result, ...]) -> None:
    """Takes back what was prepared for a signature that we do not get. What only a person can mend stalls."""
    if refusal.tag == NOTHING_TO_BURY and turn.v.burying:
        onchain.buried(turn)
        return
    if question is None or turn.c.unaccepted is not None:
        _stall(turn, refusal)
        return
    if question.validate is not None and not any(isinstance(result, Revoked) for result in results):
        if question.validate and refusal.tag == VALIDATED_AND_GONE:
            turn.c.question = replace(question, validate=())
            dance.ask_again(turn)
        else:
            _stall(turn, refusal)
        return
    turn.c.question = None
    unpaid = _refused_release(turn, question, results)
    offers, wants = _take_back_remote(turn, question)
    if unpaid:
        # The offers were not judged, so they are made again; the HTLCs stay.
        refused = [want for want in wants if isinstance(want, FulfilWant) and want.htlc_id in unpaid]
        wants = [want for want in wants if want not in refused]
        wants += [_offer_again(row) for row in offers]
        # One that we paid the next hop for is never given up.
        again = [want for want in refused if want.preimage or refusal.tag == STANDS_NOT_EVERYWHERE]
        turn.v = replace(turn.v, parked=(*turn.v.parked, *again))
    else:
        sentence = f"the signer refused: {refusal.rule} ({refusal.seen}, limit {refusal.limit})"
        for row in offers:
            if row.origin is not None:
                updates.refuse(turn, row.origin, CommandRefused(sentence, what_to_do=refusal.next_step))
        if not offers:
            _stall(turn, refusal)
    turn.v = replace(turn.v, wants=(*wants, *turn.v.wants))


def _refused_release(turn: Turn, question: Question, results: tuple[Result, ...]) -> tuple[int, ...]:
    """The HTLCs of the release at which the answer stopped; none if it stopped at the signature."""
    by_hash = dance.releases(turn.htlcs, question)
    granted = sum(isinstance(result, PreimageReleased) for result in results)
    return tuple(list(by_hash.values())[granted]) if granted < len(by_hash) else ()


def _offer_again(row: Htlc) -> OfferWant:
    return OfferWant(row.amount_msat, row.payment_hash, row.cltv_expiry, row.onion or b"", row.origin or "")


def _take_back_remote(turn: Turn, question: Question) -> tuple[list[Htlc], list[Want]]:
    """The newest commitment of the peer was not signed: as if it had never been prepared.

    Answers our offers, which are gone, and our removals as the wishes that they were.
    """
    number = turn.c.remote_number
    turn.c.remote_number = number - 1
    offers: list[Htlc] = []
    wants: list[Want] = []
    for key, row in list(turn.htlcs.items()):
        if row.remote_from == number and row.offered:
            del turn.htlcs[key]
            offers.append(row)
        elif row.remote_from == number:
            turn.put(replace(row, remote_from=None))
        elif row.remote_to == number:
            if not row.offered:
                wants.append(_removal_again(row, question))
            asked = row.preimage == b""
            turn.put(replace(row, remote_to=None, preimage=None if asked else row.preimage))
    turn.c.next_offered_id -= len(offers)
    turn.dropped += offers
    turn.c.fees = tuple(
        step if step.remote_from != number else FeeStep(step.feerate_per_kw, step.local_from, None)
        for step in turn.c.fees
        if step.remote_from != number or step.local_from is not None
    )
    return offers, wants


def _removal_again(row: Htlc, question: Question) -> Want:
    if row.preimage is not None:
        return FulfilWant(row.id, row.preimage or None, question.others.get(row.id, ()), row.attribution)
    return FailWant(row.id, row.failure or b"", row.failure_code, row.attribution)


def _forget_commitment(turn: Turn, question: Question) -> None:
    """The peer's commitment_signed was no good: its updates, and what we built on them, never were."""
    if question.sign:
        offers, wants = _take_back_remote(turn, question)
        turn.v = replace(turn.v, wants=(*wants, *turn.v.wants))
        for row in offers:
            if row.origin is not None:
                refusal = CommandRefused("the peer broke a rule", what_to_do="Try again when it is back.")
                updates.refuse(turn, row.origin, refusal)
    turn.c.question = None
    turn.save(Save.NOW)
    number = turn.c.local_number + 1
    for key, row in list(turn.htlcs.items()):
        if row.local_from == number and not row.offered:
            del turn.htlcs[key]
            turn.c.next_received_id -= 1
            turn.dropped.append(row)
        elif row.local_from == number:
            turn.put(replace(row, local_from=None))
        elif row.local_to == number:
            if row.offered:
                row = replace(row, failure=None, failure_code=None, attribution=None)
            turn.put(replace(row, local_to=None))
    turn.c.fees = tuple(
        step if step.local_from != number else FeeStep(step.feerate_per_kw, None, step.remote_from)
        for step in turn.c.fees
        if step.local_from != number or step.remote_from is not None
    )
