"""From a funded channel to a usable one: channel_ready of both sides, aliases, and a funding that never comes
(BOLT 2, "The `channel_ready` Message")."""

from msgspec.structs import replace

from node.channel import dance
from node.channel.events import FundingConfirmed, Save
from node.channel.state import (
    AwaitingLockIn,
    Closed,
    CloseKind,
    Closing,
    Committed,
    Normal,
    Online,
    ShuttingDown,
)
from node.channel.turn import Turn
from protocol import curve
from protocol.amounts import BlockHeight
from protocol.errors import PeerViolation
from protocol.wire.bolt1 import Error
from protocol.wire.bolt2_open import ChannelReady, ChannelReadyTlvs

CLAUSE = 'BOLT 2, "The channel_ready Message"'
FORGET_AFTER = 2016
"""Blocks after which the side that did not open gives up on a funding that never came."""
KEPT_ALIASES = 16
"""Of the peer's. Any one of them serves a route hint, so the oldest may go."""
_CONFIRMED = "the funding is confirmed and both sides are ready"


def funding_confirmed(turn: Turn, event: FundingConfirmed) -> None:
    if turn.c.short_channel_id != event.short_channel_id:
        turn.c.funding_height = event.height
        turn.c.short_channel_id = event.short_channel_id
        if isinstance(turn.c.phase, Normal):
            turn.c.why = _CONFIRMED  # it was used before, or the funding was out of the chain for a while
        turn.save(Save.NEXT)
    if event.depth >= turn.c.params.minimum_depth:
        _ready(turn)


def funding_reorganised(turn: Turn) -> None:
    """What was promised stands: the peer may use the channel. We offer nothing new until it is back in the chain."""
    turn.c.funding_height = None
    turn.c.short_channel_id = None
    if isinstance(turn.c.phase, Normal):
        turn.c.why = "the block with the funding left the chain; waiting for the funding to confirm again"
    turn.save(Save.NEXT)


def is_unconfirmed(committed: Committed) -> bool:
    """No new HTLC is wanted: the funding is not in the chain, and nobody said that this does not matter."""
    return committed.funding_height is None and committed.params.minimum_depth > 0


def opened(turn: Turn) -> None:
    """The funding is signed, on this very connection. A zeroconf channel need not wait for anything else."""
    if turn.c.params.minimum_depth == 0:
        _ready(turn)


def _ready(turn: Turn) -> None:
    phase = turn.c.phase
    if not isinstance(phase, AwaitingLockIn) or phase.sent:
        return
    turn.save(Save.NOW)
    turn.c.phase = replace(phase, sent=True)
    send_again(turn)
    _open_if_both(turn)


def send_again(turn: Turn) -> None:
    match turn.c.phase:
        case AwaitingLockIn(sent=False):
            opened(turn)  # the connection was lost before a zeroconf channel could say it
            return
        case ShuttingDown() if not _is_deep(turn):
            return  # it would say that the funding is confirmed
        case _:
            pass
    if isinstance(turn.v.link, Online):
        tlvs = ChannelReadyTlvs(short_channel_id=turn.c.alias_local)
        dance.send(turn, ChannelReady(turn.c.params.channel_id, turn.c.local_points[1], tlvs))


def _is_deep(turn: Turn) -> bool:
    height = turn.c.funding_height
    depth = 0 if height is None else turn.env.height - height + 1
    return depth >= turn.c.params.minimum_depth


def channel_ready(turn: Turn, message: ChannelReady) -> None:
    """May come early, and again: after a reconnection, or with another alias. The point may not change."""
    if not curve.is_point(message.second_per_commitment_point):
        raise PeerViolation("second_per_commitment_point is no point", clause=CLAUSE)
    if turn.c.remote_points[1] is None:
        turn.save(Save.NOW)  # also while we shut down: the peer may sign its next commitment before it knows
        turn.c.remote_points = (turn.c.remote_points[0], message.second_per_commitment_point)
    elif turn.c.remote_number == 0 and turn.c.remote_points[1] != message.second_per_commitment_point:
        raise PeerViolation("channel_ready came again with another point", clause=CLAUSE)
    _keep_alias(turn, message)
    phase = turn.c.phase
    if not isinstance(phase, AwaitingLockIn) or phase.received:
        return
    turn.save(Save.NOW)
    turn.c.phase = replace(phase, received=True)
    _open_if_both(turn)


def _keep_alias(turn: Turn, message: ChannelReady) -> None:
    alias = message.tlvs.short_channel_id
    if alias is None or turn.c.aliases_remote[-1:] == (alias,):
        return
    older = tuple(one for one in turn.c.aliases_remote if one != alias)
    turn.c.aliases_remote = (*older, alias)[-KEPT_ALIASES:]
    turn.save(Save.NEXT)


def _open_if_both(turn: Turn) -> None:
    if turn.c.phase == AwaitingLockIn(sent=True, received=True):
        early = turn.c.funding_height is None
        turn.set_phase(
            Normal(), "both sides are ready before the funding is confirmed" if early else _CONFIRMED
        )


def is_forgettable(committed: Committed) -> bool:
    """A channel that the peer opened and never funded, and in which nothing was ever paid."""
    waits = isinstance(committed.phase, AwaitingLockIn | Normal | ShuttingDown)
    gave_up = isinstance(committed.phase, Closing) and committed.phase.height is None
    unused = committed.local_number == 0 and committed.remote_number == 0
    return (
        (waits or gave_up)
        and unused
        and committed.funding_height is None
        and not committed.params.holder_is_opener
    )


def is_overdue(committed: Committed, height: BlockHeight) -> bool:
    opened_at = committed.opened_height
    return is_forgettable(committed) and opened_at is not None and height - opened_at >= FORGET_AFTER


def funding_missing(turn: Turn) -> None:
    """Looked at after each block while the funding is not in the chain."""
    if not is_forgettable(turn.c):
        return
    if turn.c.opened_height is None:
        turn.c.opened_height = turn.env.height
        turn.save(Save.NEXT)
    elif is_overdue(turn.c, turn.env.height):
        sentence = f"the funding was not confirmed within {FORGET_AFTER} blocks"
        if isinstance(turn.v.link, Online):
            dance.send(turn, Error(turn.c.params.channel_id, sentence.encode("ascii")))
        turn.set_phase(Closed(CloseKind.NEVER_FUNDED, b""), f"{sentence}: the channel is forgotten")
        turn.save(Save.NOW)
