"""The channel as one pure function: state, event and what is known of the world in; state, effects and save out.

A peer that breaks a rule raises PeerViolation inside and comes out as effects: by BOLT 2 and BOLT 1 most
offences are answered with a warning and a closed connection, so that the channel lives on; a bad signature or
revocation fails the channel. A command that we refuse comes out as CommandRefused.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar, assert_never

from msgspec.structs import replace

from node.channel import (
    answers,
    closing,
    dance,
    legacy_close,
    lockin,
    onchain,
    quiescence,
    reestablish,
    simple_close,
    updates,
)
from node.channel.attributions import attributed
from node.channel.events import (
    CloseWanted,
    Connected,
    Disconnected,
    Env,
    Event,
    Fail,
    FeerateMoved,
    ForceCloseWanted,
    FromPeer,
    Fulfil,
    FundingConfirmed,
    FundingMissing,
    FundingReorganised,
    FundingSpent,
    Offer,
    OnionsPeeled,
    QuiesceWanted,
    QuietTooLong,
    ResolvedOnChain,
    Save,
    SettledOnChain,
    SignerAnswered,
    SignerAsked,
    SignerIsAhead,
    Step,
    Tick,
)
from node.channel.limits import Full
from node.channel.state import (
    FailWant,
    FeeWant,
    FulfilWant,
    Lost,
    Normal,
    Offline,
    Online,
    ShuttingDown,
    State,
)
from node.channel.turn import Turn
from protocol.bolt4 import failure as failures
from protocol.bolt4.failure_onion import FailureKeys, create, wrap
from protocol.errors import CommandRefused, PeerViolation
from protocol.secret import Secret
from protocol.wire.bolt1 import Error, Warning, printable
from protocol.wire.bolt2_close import ClosingComplete, ClosingSig, ClosingSigned, Shutdown
from protocol.wire.bolt2_open import ChannelReady
from protocol.wire.bolt2_quiescence import Stfu
from protocol.wire.bolt2_reestablish import ChannelReestablish
from protocol.wire.bolt2_update import (
    CommitmentSigned,
    RevokeAndAck,
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
)
from protocol.wire.message import Message

_T = TypeVar("_T")
MAX_INBOX = 3000
MAX_WANTS = 2000
_REMOVALS = UpdateFulfillHtlc | UpdateFailHtlc | UpdateFailMalformedHtlc


def step(state: State, event: Event, env: Env) -> Step:
    return steps(state, [event], env)


def steps(state: State, events: Sequence[Event], env: Env) -> Step:
    """One turn: events that fell together, one save. Raises CommandRefused for a command that we refuse, and
    nothing else on purpose. What a peer did wrong undoes the event that did it, and no other."""
    turn = Turn(state, env)
    for event in events:
        _guarded(turn, _apply, event)
    _settle(turn)
    return turn.finish()


def _guarded(turn: Turn, apply: Callable[[Turn, _T], None], what: _T) -> None:
    mark = turn.mark()
    try:
        apply(turn, what)
    except PeerViolation as violation:
        turn.back_to(mark)
        closing.violated(turn, violation)


def _settle(turn: Turn) -> None:
    """What is due once the events are in: queued messages, our next commitment, the closing negotiation."""
    updates.refuse_late_offers(turn)
    closing.say_shutdown(turn)
    while turn.v.inbox and not turn.busy:
        message, *rest = turn.v.inbox
        turn.v = replace(turn.v, inbox=tuple(rest))
        _guarded(turn, _message, message)
        updates.refuse_late_offers(turn)
        closing.say_shutdown(turn)
    dance.maybe_commit(turn)
    quiescence.say(turn)
    closing.negotiate(turn)
    onchain.bury(turn)


def _apply(turn: Turn, event: Event) -> None:
    match event:
        case Connected():
            reestablish.connected(turn, event)
        case Disconnected():
            reestablish.disconnected(turn)
        case FromPeer(message=message):
            _from_peer(turn, message)
        case Offer() | Fulfil() | Fail() | FeerateMoved():
            _wish(turn, event)
        case SignerAnswered(ask=ask, answer=answer):
            if turn.v.asking and ask == turn.v.asks:  # else: nobody waits for it any more
                answers.signer_answered(turn, answer)
        case OnionsPeeled(results=results):
            dance.onions_peeled(turn, results)
        case FundingConfirmed():
            lockin.funding_confirmed(turn, event)
        case FundingReorganised():
            lockin.funding_reorganised(turn)
        case FundingMissing():
            lockin.funding_missing(turn)
        case FundingSpent():
            closing.funding_spent(turn, event)
        case SettledOnChain():
            onchain.settled(turn, event)
        case ResolvedOnChain():
            onchain.resolved(turn, event)
        case CloseWanted(feerate_per_kw=rate):
            closing.close_wanted(turn, rate)
        case ForceCloseWanted(why=why):
            closing.force_close(turn, why)
        case SignerAsked():
            _ask_signer_again(turn)
        case SignerIsAhead(number=number):
            turn.c.stray = number
            turn.save(Save.NEXT)
        case QuiesceWanted():
            quiescence.wanted(turn)
        case QuietTooLong():
            quiescence.too_long(turn, event)
        case Tick():
            _resume(turn)
        case _:
            assert_never(event)


def _wish(turn: Turn, event: Offer | Fulfil | Fail | FeerateMoved) -> None:
    match event:
        case Offer(want=want):
            try:
                updates.check_may_offer(turn)
                updates.check_forward(turn, want.origin)
                if not isinstance(turn.v.link, Online):
                    raise CommandRefused(
                        "the peer is not connected", what_to_do="Wait until it is, or use another channel."
                    )
                if updates.is_known_origin(turn, want.origin):
                    return  # said twice: an origin is offered once
                if len(turn.v.wants) >= MAX_WANTS:
                    raise Full("too many payments wait", what_to_do="Try again in a moment.")
            except CommandRefused as refusal:
                updates.refuse(turn, want.origin, refusal)
                return
            turn.v = replace(turn.v, wants=(*turn.v.wants, want))
        case Fulfil(htlc_id=htlc_id, preimage=preimage, others=others):
            row = turn.htlcs.get((False, htlc_id))
            is_final = row is not None and row.next_onion is None
            told = attributed(row, b"", event.hold_time, event.attribution, is_source=is_final)
            if preimage is None or updates.keep_preimage(turn, htlc_id, preimage, told):
                dance.add_want(turn, FulfilWant(htlc_id, preimage, others, told, event.promised))
        case Fail(htlc_id=htlc_id, failure=failure, from_next=from_next):
            row = turn.htlcs.get((False, htlc_id))
            if row is None or row.um is None or row.ammag is None:
                return
            keys = FailureKeys(Secret(row.um), Secret(row.ammag))
            reason = wrap(keys, failure) if from_next else create(keys, failures.decode(failure))
            packet = failure if from_next else wrap(keys, reason)
            told = attributed(row, packet, event.hold_time, event.attribution, is_source=not from_next)
            dance.add_want(turn, FailWant(htlc_id, reason, attribution=told))
        case FeerateMoved(feerate_per_kw=rate):
            if turn.c.params.holder_is_opener and isinstance(turn.c.phase, Normal):
                wants = [want for want in turn.v.wants if not isinstance(want, FeeWant)]
                turn.v = replace(turn.v, wants=(*wants, FeeWant(rate)))
        case _:
            assert_never(event)


def _from_peer(turn: Turn, message: Message) -> None:
    """Messages wait while the signer has our question; a preimage is taken at once all the same."""
    if isinstance(turn.v.link, Offline):
        return  # we hung up on this connection
    if isinstance(message, Warning):
        return
    if isinstance(message, Error):
        if not closing.is_in_doubt(turn):
            _error(turn, message)
        elif not any(isinstance(other, Error) for other in turn.v.inbox):
            turn.v = replace(turn.v, inbox=(*turn.v.inbox, message))
        return
    if not turn.busy and not turn.v.inbox:
        _message(turn, message)
        return
    if len(turn.v.inbox) >= MAX_INBOX:
        raise PeerViolation("too many messages while we wait for our signer", clause="BOLT 2")
    if isinstance(message, UpdateFulfillHtlc) and not any(
        isinstance(other, _REMOVALS) and other.id == message.id for other in turn.v.inbox
    ):
        updates.learn_early(turn, message)
    turn.v = replace(turn.v, inbox=(*turn.v.inbox, message))


def _message(turn: Turn, message: Message) -> None:
    if isinstance(message, Error):
        _error(turn, message)
        return
    if isinstance(message, ChannelReestablish):
        reestablish.channel_reestablish(turn, message)
        return
    if not isinstance(turn.v.link, Online):
        raise PeerViolation("a channel message before channel_reestablish", clause=reestablish.CLAUSE)
    match message:
        case (
            UpdateAddHtlc() | UpdateFulfillHtlc() | UpdateFailHtlc() | UpdateFailMalformedHtlc() | UpdateFee()
        ):
            quiescence.check_may_update(turn)
            updates.stage(turn, message)
        case Stfu():
            quiescence.stfu(turn, message)
        case CommitmentSigned():
            dance.commitment_signed(turn, message)
        case RevokeAndAck():
            dance.revoke_and_ack(turn, message)
        case ChannelReady():
            lockin.channel_ready(turn, message)
        case Shutdown():
            closing.shutdown(turn, message)
        case ClosingSigned():
            closing.closing_signed(turn, message)
        case ClosingComplete() | ClosingSig():
            closing.simple(turn, message)
        case _:
            raise PeerViolation(f"{type(message).__name__} is not expected here", clause="BOLT 2")


def _error(turn: Turn, message: Error) -> None:
    """The peer failed the channel: it will not go on, so our commitment is published (BOLT 1, "error").

    Not where ours may be old: then this is the answer that we asked the peer for.
    """
    if isinstance(turn.c.phase, Lost):
        return
    closing.force_close(turn, f"the peer sent an error: {printable(message.data)[:200]}")


def _ask_signer_again(turn: Turn) -> None:
    turn.v = replace(turn.v, stalled="")
    if turn.v.asking:
        return
    if turn.c.question is not None:
        dance.ask_again(turn)
    elif (resend := turn.v.resend) is not None:
        turn.ask_signer(dance.resend_operations(turn.c, turn.htlcs, resend))
    elif (claim := turn.v.claim) is not None:
        reestablish.ask_about(turn, claim)
    elif (fee := turn.v.closing_fee) is not None:
        without_theirs = turn.v.negotiation is not None and turn.v.negotiation.without_theirs
        legacy_close.ask_to_close(turn, fee, without_theirs=without_theirs)
    elif (close := turn.v.close_asked) is not None:
        simple_close.ask(turn, close)
    else:
        closing.ask_for_commitment(turn)


def _resume(turn: Turn) -> None:
    """After a start: what was open is asked and said again."""
    _ask_signer_again(turn)
    received = [row for row in turn.htlcs.values() if not row.offered]
    dance.peel(turn, received)
    for row in received:
        dance.announce_received(turn, row)
    if isinstance(turn.c.phase, Normal | ShuttingDown):
        dance.finish_rows(turn)  # nothing but what waits for the signer is left to finish here
