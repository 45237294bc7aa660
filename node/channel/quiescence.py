"""A channel that comes to rest: stfu of both sides (BOLT 2, "Channel Quiescence"; checklist 24).

Nothing builds on it yet (splicing will); a peer that asks for rest gets it, and the connection ends when that lasts
too long while payments wait.
"""

from typing import assert_never

from msgspec.structs import replace

from node.channel import dance
from node.channel.events import Drop, Later, QuietTooLong
from node.channel.state import Asked, Flowing, Normal, Online, Quiescent, SaidStfu, WantsQuiet
from node.channel.turn import Turn
from node.channel.updates import irrevocable
from protocol.errors import CommandRefused, PeerViolation
from protocol.wire.bolt2_quiescence import Stfu

CLAUSE = 'BOLT 2, "Channel Quiescence"'
PATIENCE = 60.0


def wanted(turn: Turn) -> None:
    """We want the channel to rest. Raises CommandRefused when that cannot be."""
    if not turn.v.can_quiesce or not isinstance(turn.v.link, Online):
        raise CommandRefused(
            "the peer is not connected, or cannot bring a channel to rest",
            what_to_do="Wait until it is back, or leave the channel as it is.",
        )
    if not isinstance(turn.c.phase, Normal):
        raise CommandRefused("the channel is not in use", what_to_do="Use another channel.")
    if isinstance(turn.v.flow, Flowing):
        turn.v = replace(turn.v, flow=WantsQuiet())


def say(turn: Turn) -> None:
    """Our stfu leaves as soon as no update of ours is pending on either side."""
    flow = turn.v.flow
    if isinstance(flow, Flowing | SaidStfu | Quiescent) or turn.busy or _own_pending(turn):
        return
    asked = isinstance(flow, Asked)
    dance.send(turn, Stfu(turn.c.params.channel_id, 0 if asked else 1))
    if asked:
        _rests(turn, we_lead=False)
    else:
        turn.v = replace(turn.v, flow=SaidStfu())


def stfu(turn: Turn, message: Stfu) -> None:
    if not turn.v.can_quiesce:
        raise PeerViolation("option_quiesce was not negotiated", clause=CLAUSE)
    if not isinstance(turn.c.phase, Normal):
        raise PeerViolation("stfu in a channel that is not in use", clause=CLAUSE)
    if message.initiator not in (0, 1):
        raise PeerViolation(f"initiator {message.initiator} of stfu is neither 0 nor 1", clause=CLAUSE)
    if _peer_pending(turn):
        raise PeerViolation("stfu while updates of its sender are pending", clause=CLAUSE)
    match turn.v.flow:
        case Asked() | Quiescent():
            raise PeerViolation("stfu came twice", clause=CLAUSE)
        case SaidStfu():
            # Both asked at once: the opener leads.
            _rests(turn, we_lead=message.initiator == 0 or turn.c.params.holder_is_opener)
        case Flowing() | WantsQuiet():
            if message.initiator == 0:
                raise PeerViolation("stfu answers one that we never sent", clause=CLAUSE)
            turn.v = replace(turn.v, flow=Asked())
        case _:
            assert_never(turn.v.flow)


def check_may_update(turn: Turn) -> None:
    """Raises PeerViolation when the peer said stfu before this update."""
    if isinstance(turn.v.flow, Asked | Quiescent):
        raise PeerViolation("an update after stfu", clause=CLAUSE)


def _rests(turn: Turn, *, we_lead: bool) -> None:
    turn.v = replace(turn.v, flow=Quiescent(we_lead))
    assert isinstance(turn.v.link, Online)  # noqa: S101 - stfu came or went on it
    turn.do(Later(PATIENCE, QuietTooLong(turn.v.link.connection)))


def too_long(turn: Turn, event: QuietTooLong) -> None:
    """The connection is the only way out of it; payments that wait may not."""
    link = turn.v.link
    same = isinstance(link, Online) and link.connection == event.connection
    if same and isinstance(turn.v.flow, Quiescent) and (turn.htlcs or turn.v.wants):
        turn.do(Drop(f"the channel rested for {PATIENCE:.0f} seconds while payments wait"))
        turn.forget_connection()


def _own_pending(turn: Turn) -> bool:
    if turn.c.awaits_revocation or turn.c.stray is not None:
        return True
    if turn.c.params.holder_is_opener and len(turn.c.fees) > 1:
        return True
    return any(
        (row.offered and not irrevocable(turn, row)) or (not row.offered and row.remote_to is not None)
        for row in turn.htlcs.values()
    )


def _peer_pending(turn: Turn) -> bool:
    if turn.v.staged or (not turn.c.params.holder_is_opener and len(turn.c.fees) > 1):
        return True
    return any(
        (not row.offered and not irrevocable(turn, row)) or (row.offered and row.local_to is not None)
        for row in turn.htlcs.values()
    )
