"""Questions that several methods put to the services, with the type of each answer."""

from node.rpc.table import Context
from protocol.bus.messages.channel import ChannelInfo, Channels, ListChannels
from protocol.bus.messages.peer import ListPeers, ListRoads, PeerInfo, Peers, Road, Roads


async def channels(context: Context, peer: bytes | None = None) -> tuple[ChannelInfo, ...]:
    answer: Channels = await context.bus.request("channel", ListChannels(peer))
    return answer.channels


async def peers(context: Context, node_id: bytes | None = None) -> tuple[PeerInfo, ...]:
    answer: Peers = await context.bus.request("peer", ListPeers(node_id))
    return answer.peers


async def roads(context: Context) -> tuple[Road, ...]:
    answer: Roads = await context.bus.request("peer", ListRoads())
    return answer.roads
