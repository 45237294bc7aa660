"""After a reconnection: what each side last had, and what must be said again (BOLT 2, "Message Retransmission")."""

from typing import assert_never

from msgspec.structs import replace

from node.channel import closing, dance, lockin
from node.channel.events import Connected, Save
from node.channel.state import (
    AwaitingLockIn,
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
from protocol.errors import PeerViolation
from protocol.secret import Secret
from protocol.wire.bolt2_reestablish import ChannelReestablish

CLAUSE = 'BOLT 2, "Message Retransmission"'


def connected(turn: Turn, event: Connected) -> None:
    """A connection begins: whatever the peer had not signed for is forgotten."""
    turn.forget_connection()
    if event.fresh:
        turn.set_link(Online(event.connection))
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


def channel_reestablish(turn: Turn, message: ChannelReestablish) -> None:
    link = turn.v.link
    if not isinstance(link, Reestablishing) or not link.sent:
        raise PeerViolation("channel_reestablish out of turn", clause=CLAUSE)
    if _is_ahead(turn, message):
        return
    resend = Resend(revocation=_owes_revocation(turn, message), commitment=_owes_commitment(turn, message))
    turn.set_link(Online(link.connection))
    match turn.c.phase:
        case AwaitingLockIn() | Normal() | ShuttingDown():
            if message.next_commitment_number == 1 and turn.c.local_number == 0:
                lockin.send_again(turn)
            closing.send_shutdown_again(turn)
        case Closing() | Closed() | Lost():
            closing.say_closed(turn)
            return
        case _:
            assert_never(turn.c.phase)
    if resend.revocation or resend.commitment:
        turn.v = replace(turn.v, resend=resend)
        turn.ask_signer(dance.resend_operations(turn.c, turn.htlcs, resend))
        return
    closing.negotiate(turn)


def _is_ahead(turn: Turn, message: ChannelReestablish) -> bool:
    """Whether the peer knows a later state than we do: then ours must never be published."""
    ahead = (
        message.next_revocation_number > turn.c.local_number
        or message.next_commitment_number > turn.c.remote_number + 1
    )
    if not ahead:
        return False
    reason = (
        f"the peer is ahead of us (it expects commitment {message.next_commitment_number} and revocation"
        f" {message.next_revocation_number}; we are at {turn.c.remote_number} and {turn.c.local_number})"
    )
    turn.set_phase(Lost(reason), reason)
    turn.save(Save.NOW)
    closing.ask_peer_to_close(turn, reason)
    return True


def _owes_commitment(turn: Turn, message: ChannelReestablish) -> bool:
    expected = message.next_commitment_number
    if expected == turn.c.remote_number + 1:
        return False
    if expected == turn.c.remote_number and turn.c.awaits_revocation:
        return True
    raise PeerViolation(
        f"the peer expects commitment {expected}, we signed up to {turn.c.remote_number}", clause=CLAUSE
    )


def _owes_revocation(turn: Turn, message: ChannelReestablish) -> bool:
    expected = message.next_revocation_number
    if expected == turn.c.local_number:
        return False
    if expected == turn.c.local_number - 1:
        return True
    raise PeerViolation(
        f"the peer expects revocation {expected}, we revoked {turn.c.local_number}", clause=CLAUSE
    )
