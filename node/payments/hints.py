"""Route hints of our invoices: private channels by their aliases (BOLT 11, "`r` field"; checklist 12)."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from node.payments.channels import NORMAL
from protocol.amounts import Msat
from protocol.bus.messages.channel import ChannelInfo
from protocol.bus.messages.payments import Receivable
from protocol.bus.messages.routing import ChannelPolicy

MAX_HINTS = 4
Hint = tuple[tuple[bytes, int, int, int, int], ...]
"""As `MakeInvoice` has it: hops of (node id, short channel id, base msat, millionths, cltv delta)."""
PeerPolicyOf = Callable[[bytes], Awaitable[ChannelPolicy | None]]


async def route_hints(
    channels: Iterable[ChannelInfo], policy_of: PeerPolicyOf, *, expose: bool | None
) -> tuple[Hint, ...]:
    """The private channels through which most can come in. `expose` None: only when no public one can be used."""
    usable = [channel for channel in channels if channel.state == NORMAL and channel.peer_connected]
    if expose is False or (expose is None and any(channel.announce for channel in usable)):
        return ()
    private = [channel for channel in usable if not channel.announce and _name(channel) is not None]
    private.sort(key=lambda channel: -channel.receivable_msat)
    private = private[:MAX_HINTS]
    policies = await asyncio.gather(*(policy_of(channel.channel_id) for channel in private))
    return tuple(
        (
            (
                channel.peer,
                _name(channel) or 0,
                policy.fee_base_msat,
                policy.fee_proportional_millionths,
                policy.cltv_expiry_delta,
            ),
        )
        for channel, policy in zip(private, policies, strict=True)
        if policy is not None and policy.enabled  # without it nobody knows what the peer asks for
    )


def _name(channel: ChannelInfo) -> int | None:
    """What the peer calls it when it forwards to us: the alias that it chose, never the real one if that is secret."""
    if channel.alias_remote is not None:
        return channel.alias_remote
    return None if channel.scid_alias_only else channel.short_channel_id


def receivable(channels: Iterable[ChannelInfo]) -> Receivable:
    """How much could come in now, and what sets this limit."""
    channels = tuple(channels)
    usable = [c for c in channels if c.state == NORMAL and c.peer_connected and c.reestablished]
    if not channels:
        return Receivable(Msat(0), Msat(0), "there is no channel: nothing can come in before one is open")
    if not usable:
        states = ", ".join(sorted({_state(channel) for channel in channels}))
        return Receivable(Msat(0), Msat(0), f"no channel is usable now ({states})")
    total = sum(channel.receivable_msat for channel in usable)
    best = max(usable, key=lambda channel: channel.receivable_msat)
    if len(usable) < len(channels):
        reason = f"{len(channels) - len(usable)} of {len(channels)} channels are not usable now"
    elif best.receivable_msat == 0:
        reason = "the peers have nothing on their side beyond the reserve that they must keep"
    else:
        reason = (
            f"the peer's side of channel {best.channel_id.hex()}, less its reserve of {best.their_reserve} sat and"
            " what a commitment costs, is the largest single amount"
        )
    return Receivable(Msat(total), best.receivable_msat, reason)


def _state(channel: ChannelInfo) -> str:
    if channel.state != NORMAL:
        return channel.state
    return "reestablishing" if channel.peer_connected else "the peer is not connected"
