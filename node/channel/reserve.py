"""Whether the fee reserve covers a new channel or HTLC, asked here before the signer is (DESIGN, "The fee reserve";
BOLT 5, "Failing a Channel").

The signer judges by the same numbers and has the last word; what is refused here costs no round trip, and nothing of
it is ever begun. Without a reserve service, or in mode "shadow", nothing is refused.
"""

from collections.abc import Iterable

from node.channel.state import AwaitingLockIn, Normal, ShuttingDown, State
from protocol import reserve as numbers
from protocol.amounts import Msat, Sat
from protocol.bus.bus import Bus
from protocol.bus.messages.reserve import AskRoom, ReserveChanged, ReserveRoom
from protocol.errors import CommandRefused

ENFORCE = "enforce"


async def top_up_for(bus: Bus, room: ReserveChanged | None, wanted: bool | None) -> Sat:
    """What the funding transaction of a channel with anchors should pay to the reserve. `wanted` None: only where the
    signer insists. Raises CommandRefused when the reserve is short and must not be filled."""
    if room is None or (room.mode != ENFORCE and wanted is not True):
        return Sat(0)
    asked: ReserveRoom = await bus.request("reserve", AskRoom())
    if wanted is False:
        _check(asked)
        return Sat(0)
    return asked.top_up


async def check_room(bus: Bus, room: ReserveChanged | None) -> None:
    """For a channel that a peer opens: nobody but its opener makes the funding transaction, so nothing comes along."""
    if room is not None and room.mode == ENFORCE:
        _check(await bus.request("reserve", AskRoom()))


def _check(asked: ReserveRoom) -> None:
    if asked.mode == ENFORCE and asked.short:
        raise CommandRefused(
            f"the fee reserve holds {asked.present} sat, and {asked.needed} sat are needed to cover one channel with"
            " anchors more",
            what_to_do=f"Run `lnp reserve topup`, or send {asked.top_up} sat to {asked.address}, and wait for a"
            " confirmation; or use a channel without anchors.",
        )


def check_offer(room: ReserveChanged | None, states: Iterable[State], amount_msat: Msat) -> None:
    """One HTLC more in a channel with anchors. `states`: of all channels. Raises CommandRefused.

    Rows are counted only when the reserve could be short: a full one, or one that would cover every row, asks nothing.
    """
    if room is None or room.mode != ENFORCE or not numbers.takes_slot(amount_msat):
        return
    if room.present >= numbers.MAX_RESERVE:
        return
    living = [s for s in states if s.committed.params.anchors and isinstance(s.committed.phase, _LIVES)]
    if room.present >= numbers.needed(len(living), sum(len(s.htlcs) for s in living) + 1):
        return
    slots = sum(numbers.takes_slot(row.amount_msat) for s in living for row in s.htlcs.values())
    needed = numbers.needed(len(living), slots + 1)
    if room.present < needed:
        raise CommandRefused(
            f"the fee reserve holds {room.present} sat, and {needed} sat are needed to cover one HTLC more in a channel"
            " with anchors",
            what_to_do=f"Run `lnp reserve topup`, or send {needed - room.present} sat to {room.address}, and wait for"
            " a confirmation; or pay over a channel without anchors.",
        )


_LIVES = (AwaitingLockIn, Normal, ShuttingDown)
