"""After a reconnection: what each side last had, and what must be said again (BOLT 2, "Message Retransmission")."""

from typing import assert_never

from msgspec.structs import replace

from node.channel import closing, dance, lockin, simple_close
from node.channel.events import Connected
from node.channel.state import (
    AwaitingLockIn,
    Claim,
    Closed,
    Closing,
    Lost,
    Normal,
    Online,
    Reestablishing,
    Resend,
    ShuttingDown,
)
from node.channel.turn import Turn
from protocol.bus.messages.signer import CheckSecret
from protocol.errors import PeerViolation
from protocol.secret import Secret
from protocol.wire.bolt2_reestablish import ChannelReestablish

CLAUSE = 'BOLT 2, "Message Retransmission"'


def connected(turn: Turn, event: Connected) -> None:
    """A connection begins: whatever the peer had not signed for is forgotten."""
    turn.forget_connection()
    turn.v = replace(turn.v, simple_close=event.simple_close, can_quiesce=event.can_quiesce)
    if event.fresh:
        turn.set_link(Online(event.connection))
        lockin.opened(turn)
        return
    turn.set_link(Reestablishing(event.connection, sent=False))
    if turn.c.question is None:
        send_reestablish(turn)
    elif not turn.v.asking:
        dance.ask_again(turn)


def disconnected(turn: Turn) -> None:
    turn.forget_connection()


def send_reestablish(turn: Turn) -> None:
    link = turn.v.link
    if not isinstance(link, Reestablishing) or link.sent:
        return
    turn.set_link(Reestablishing(link.connection, sent=True))
    # An error alone does not move every peer to close (LND logs it and keeps the channel): the numbers must say it.
    if turn.c.forgotten or isinstance(turn.c.phase, Lost):
        _send_forgotten(turn)
        return
    dance.send(
        turn,
        ChannelReestablish(
            turn.c.params.channel_id,
            next_commitment_number=turn.c.local_number + 1,
            next_revocation_number=turn.c.remote_revoked,
            your_last_per_commitment_secret=Secret(turn.c.last_remote_secret),
            my_current_per_commitment_point=turn.c.local_points[0],
        ),
    )


def _send_forgotten(turn: Turn) -> None:
    """Number 0 is never due, so it asks the peer to fail the channel (BOLT 2, "Message Retransmission")."""
    dance.send(
        turn,
        ChannelReestablish(
            turn.c.params.channel_id,
            next_commitment_number=0,
            next_revocation_number=0,
            your_last_per_commitment_secret=Secret(bytes(32)),
            my_current_per_commitment_point=turn.c.local_points[0],
        ),
    )


def channel_reestablish(turn: Turn, message: ChannelReestablish) -> None:
    link = turn.v.link
    if not isinstance(link, Reestablishing) or not link.sent:
        raise PeerViolation("channel_reestablish out of turn", clause=CLAUSE)
    turn.set_link(Online(link.connection))
    match turn.c.phase:
        case AwaitingLockIn() | Normal() | ShuttingDown():
            _go_on(turn, message)
        case Closing() if turn.v.simple_close and simple_close.goes_on(turn):
            _close_again(turn, message)
        case Closing() | Closed() | Lost():
            closing.say_closed(turn)
        case _:
            assert_never(turn.c.phase)


def _go_on(turn: Turn, message: ChannelReestablish) -> None:
    if message.next_revocation_number > turn.c.local_number:
        # The proof is the secret of the last commitment that the peer calls revoked.
        claim = Claim(message.next_revocation_number - 1, message.your_last_per_commitment_secret.reveal())
        turn.v = replace(turn.v, claim=claim)
        ask_about(turn, claim)
        return
    resend = _owed(turn, message)
    if resend is None:
        closing.fail(
            turn,
            f"the peer expects commitment {message.next_commitment_number} and revocation"
            f" {message.next_revocation_number}, we are at {turn.c.remote_number} and {turn.c.local_number}",
        )
        return
    if message.next_commitment_number == 1 and turn.c.local_number == 0:
        lockin.send_again(turn)
    closing.owe_shutdown(turn)
    if resend.revocation or resend.commitment:
        turn.v = replace(turn.v, resend=resend)
        turn.ask_signer(dance.resend_operations(turn.c, turn.htlcs, resend))


def _close_again(turn: Turn, message: ChannelReestablish) -> None:
    """A closing transaction is out and may be replaced: for that the peer must know all that came before it."""
    closing.owe_shutdown(turn)
    resend = _owed(turn, message)
    if resend is not None and (resend.revocation or resend.commitment):
        turn.v = replace(turn.v, resend=resend)
        turn.ask_signer(dance.resend_operations(turn.c, turn.htlcs, resend))


def ask_about(turn: Turn, claim: Claim) -> None:
    turn.ask_signer((CheckSecret(claim.number, claim.secret),))


def _owed(turn: Turn, message: ChannelReestablish) -> Resend | None:
    """What the peer lacks; None when its numbers fit no state that a lost connection can leave."""
    committed = turn.c
    missing_commitments = committed.remote_number + 1 - message.next_commitment_number
    missing_revocations = committed.local_number - message.next_revocation_number
    most = 1 if committed.awaits_revocation else 0
    if not 0 <= missing_commitments <= most or missing_revocations not in (0, 1):
        return None
    return Resend(revocation=missing_revocations == 1, commitment=missing_commitments == 1)
