"""What the graph holds, as `listnodes` and `listchannels` show it (BOLT 7)."""

from collections.abc import Iterable

from node.routing.graph import ChannelFacts, Graph, NodeFacts
from protocol.amounts import Msat, Sat, ShortChannelId, to_msat
from protocol.bus.messages.routing import (
    GossipChannel,
    GossipChannels,
    GossipNode,
    GossipNodes,
    ListGossipChannels,
    ListGossipNodes,
)


def nodes(graph: Graph, request: ListGossipNodes) -> GossipNodes:
    """Nodes with a channel, since only those were announced by more than a signature."""
    if request.node_id is None:
        return GossipNodes(tuple(_node(*found) for found in graph.nodes()))
    facts = graph.node(request.node_id)
    return GossipNodes(() if facts is None else (_node(request.node_id, facts),))


def _node(node_id: bytes, facts: NodeFacts) -> GossipNode:
    return GossipNode(node_id, facts.timestamp, facts.alias, facts.color, facts.features, facts.addresses)


def channels(graph: Graph, request: ListGossipChannels) -> GossipChannels:
    """One entry for each direction that was told of, by the filters that are given; all of them must fit."""
    found: Iterable[ChannelFacts]
    if request.short_channel_id is not None:
        one = graph.channel(request.short_channel_id)
        found = () if one is None else (one,)
    else:
        end = request.source if request.source is not None else request.destination
        found = graph.channels_of(end)
    return GossipChannels(
        tuple(
            direction
            for facts in found
            for number in (0, 1)
            if (direction := _direction(facts, number)) is not None
            and request.source in (None, direction.source)
            and request.destination in (None, direction.destination)
        )
    )


def _direction(facts: ChannelFacts, number: int) -> GossipChannel | None:
    policy = facts.policies[number]
    if policy is None:
        return None
    return GossipChannel(
        source=facts.node_ids[number],
        destination=facts.node_ids[1 - number],
        short_channel_id=ShortChannelId(facts.short_channel_id),
        direction=number,
        amount_msat=to_msat(Sat(facts.capacity_sat)),
        message_flags=policy.message_flags,
        channel_flags=policy.channel_flags,
        active=policy.enabled,
        last_update=policy.timestamp,
        base_fee_msat=policy.fee_base_msat,
        fee_per_millionth=policy.fee_proportional_millionths,
        delay=policy.cltv_expiry_delta,
        htlc_minimum_msat=Msat(policy.htlc_minimum_msat),
        htlc_maximum_msat=Msat(policy.htlc_maximum_msat),
        features=facts.features,
    )
