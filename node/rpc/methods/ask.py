"""Questions that several methods put to the services, with the type of each answer."""

import asyncio

from node.rpc.table import Context
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.chain import ChainStatus, GetChainStatus
from protocol.bus.messages.channel import ChannelInfo, Channels, ListChannels
from protocol.bus.messages.forwards import FeesCollected, GetFeesCollected
from protocol.bus.messages.peer import ListPeers, ListRoads, PeerInfo, Peers, Road, Roads
from protocol.bus.messages.routing import ChannelPolicy, ListPolicies, PeerPolicy, PeerPolicyIs, Policies
from protocol.errors import CommandRefused

SECONDS = 2.0
"""What a page that lists many things waits for one of them."""


async def channels(context: Context, peer: bytes | None = None) -> tuple[ChannelInfo, ...]:
    answer: Channels = await context.bus.request("channel", ListChannels(peer))
    return answer.channels


async def peers(context: Context, node_id: bytes | None = None) -> tuple[PeerInfo, ...]:
    answer: Peers = await context.bus.request("peer", ListPeers(node_id))
    return answer.peers


async def roads(context: Context) -> tuple[Road, ...]:
    answer: Roads = await context.bus.request("peer", ListRoads())
    return answer.roads


async def fees_collected(context: Context) -> int | None:
    """What forwarding has earned since the node began; None while payments do not answer."""
    try:
        answer: FeesCollected = await context.bus.request("payments", GetFeesCollected(), deadline=SECONDS)
    except (CommandRefused, OutcomeUnknown):
        return None
    return answer.fee_msat


async def chain_status(context: Context) -> ChainStatus | None:
    try:
        status: ChainStatus = await context.bus.request("chain", GetChainStatus(), deadline=SECONDS)
    except (CommandRefused, OutcomeUnknown):
        return None
    return status


async def policies(
    context: Context, channels: tuple[ChannelInfo, ...]
) -> tuple[dict[bytes, ChannelPolicy], dict[bytes, ChannelPolicy]]:
    """What we and our peers ask for HTLCs in these channels, by channel id, as far as it is known."""
    ours: dict[bytes, ChannelPolicy] = {}
    if not channels:
        return ours, {}
    try:
        listed: Policies = await context.bus.request("payments", ListPolicies(), deadline=SECONDS)
        ours = dict(listed.policies)
    except (CommandRefused, OutcomeUnknown):
        pass
    found = await asyncio.gather(*(_of_peer(context, channel.channel_id) for channel in channels))
    theirs = {
        channel.channel_id: policy
        for channel, policy in zip(channels, found, strict=True)
        if policy is not None
    }
    return ours, theirs


async def _of_peer(context: Context, channel_id: bytes) -> ChannelPolicy | None:
    try:
        known: PeerPolicyIs = await context.bus.request("gossip", PeerPolicy(channel_id), deadline=SECONDS)
    except (CommandRefused, OutcomeUnknown):
        return None
    return known.policy
