"""From a funded channel to a usable one: channel_ready of both sides (BOLT 2, "The `channel_ready` Message")."""

from node.channel import dance
from node.channel.events import FundingConfirmed, Save
from node.channel.state import AwaitingLockIn, Normal, Online
from node.channel.turn import Turn
from protocol import curve
from protocol.errors import PeerViolation
from protocol.wire.bolt2_open import ChannelReady

CLAUSE = 'BOLT 2, "The channel_ready Message"'


def funding_confirmed(turn: Turn, event: FundingConfirmed) -> None:
    if turn.c.short_channel_id != event.short_channel_id:
        turn.c.funding_height = event.height
        turn.c.short_channel_id = event.short_channel_id
        turn.save(Save.NEXT)
    phase = turn.c.phase
    deep = event.depth >= turn.c.params.minimum_depth
    if not isinstance(phase, AwaitingLockIn) or phase.sent or not deep:
        return
    turn.save(Save.NOW)
    turn.c.phase = AwaitingLockIn(sent=True, received=phase.received)
    send_again(turn)
    _open_if_both(turn)


def funding_reorganised(turn: Turn) -> None:
    turn.c.funding_height = None
    turn.c.short_channel_id = None
    turn.save(Save.NEXT)


def send_again(turn: Turn) -> None:
    phase = turn.c.phase
    if isinstance(phase, AwaitingLockIn) and not phase.sent:
        return
    if isinstance(turn.v.link, Online):
        dance.send(turn, ChannelReady(turn.c.params.channel_id, turn.c.local_points[1]))


def channel_ready(turn: Turn, message: ChannelReady) -> None:
    """May come early, and again after a reconnection; the point may not change."""
    if not curve.is_point(message.second_per_commitment_point):
        raise PeerViolation("second_per_commitment_point is no point", clause=CLAUSE)
    if turn.c.remote_points[1] is None:
        turn.save(Save.NOW)  # also while we shut down: the peer may sign its next commitment before it knows
        turn.c.remote_points = (turn.c.remote_points[0], message.second_per_commitment_point)
    elif turn.c.remote_number == 0 and turn.c.remote_points[1] != message.second_per_commitment_point:
        raise PeerViolation("channel_ready came again with another point", clause=CLAUSE)
    phase = turn.c.phase
    if not isinstance(phase, AwaitingLockIn) or phase.received:
        return
    turn.save(Save.NOW)
    turn.c.phase = AwaitingLockIn(sent=phase.sent, received=True)
    _open_if_both(turn)


def _open_if_both(turn: Turn) -> None:
    if turn.c.phase == AwaitingLockIn(sent=True, received=True):
        turn.set_phase(Normal(), "the funding is confirmed and both sides are ready")
