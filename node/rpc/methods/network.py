"""listnodes, listchannels, getroutes, getroute: what the graph holds, and the ways through it."""

import asyncio
import re
from base64 import b32encode
from functools import partial
from ipaddress import IPv6Address
from typing import Any

from node.rpc.errors import invalid_params
from node.rpc.methods import ask
from node.rpc.params import (
    REQUIRED,
    Arguments,
    Param,
    ignored,
    integer,
    msat,
    node_id,
    short_channel_id,
)
from node.rpc.table import Context, Method, Result
from protocol.amounts import MAX_HTLC_CLTV, Msat, ShortChannelId, format_scid, parse_scid
from protocol.bus.messages.channel import ChannelInfo
from protocol.bus.messages.routing import (
    FindRoutes,
    FirstHop,
    GossipChannel,
    GossipChannels,
    GossipNode,
    GossipNodes,
    ListGossipChannels,
    ListGossipNodes,
    Route,
    Routes,
)

SEARCH_SECONDS = 60.0
MAX_PARTS = 100
DEFAULT_CLTV = 9
ANY_FEE = Msat(1 << 62)
_IPV4, _IPV6, _TOR3, _DNS = 1, 2, 4, 5
_SIZES = {_IPV4: ("ipv4", 4), _IPV6: ("ipv6", 16), 3: ("torv2", 10), _TOR3: ("torv3", 35)}


async def listnodes(context: Context, arguments: Arguments) -> Result:
    found: GossipNodes = await context.bus.request("routing", ListGossipNodes(arguments["id"]))
    return {"nodes": await asyncio.to_thread(lambda: [_node(node) for node in found.nodes])}


def _node(node: GossipNode) -> dict[str, Any]:
    result: dict[str, Any] = {"nodeid": node.node_id.hex()}
    if node.last_timestamp is None:
        return result
    result["last_timestamp"] = node.last_timestamp
    result["alias"] = node.alias.rstrip(b"\0").decode(errors="replace")
    result["color"] = node.color.hex()
    result["features"] = node.features.hex()
    result["addresses"] = addresses(node.addresses)
    return result


def addresses(raw: bytes) -> list[dict[str, Any]]:
    """The addresses of a node_announcement (BOLT 7); what follows a type that we do not know cannot be read."""
    found: list[dict[str, Any]] = []
    at = 0
    while at < len(raw):
        kind = raw[at]
        name, size = _SIZES.get(kind, ("dns", raw[at + 1] + 1 if kind == _DNS and at + 1 < len(raw) else -1))
        body, port = raw[at + 1 : at + 1 + size], raw[at + 1 + size : at + 3 + size]
        if size < 0 or len(port) < 2:
            break
        found.append({"type": name, "address": _host(kind, body), "port": int.from_bytes(port, "big")})
        at += 3 + size
    return found


def _host(kind: int, body: bytes) -> str:
    if kind == _IPV4:
        return ".".join(str(byte) for byte in body)
    if kind == _IPV6:
        return str(IPv6Address(body))
    if kind == _DNS:
        return body[1:].decode("ascii", errors="replace")
    return b32encode(body).decode().lower().rstrip("=") + ".onion"


async def listchannels(context: Context, arguments: Arguments) -> Result:
    given = {name: arguments[name] for name in ("short_channel_id", "source", "destination")}
    if sum(value is not None for value in given.values()) > 1:
        raise invalid_params("listchannels takes one of short_channel_id, source and destination")
    found: GossipChannels = await context.bus.request("routing", ListGossipChannels(**given))
    return {"channels": await asyncio.to_thread(lambda: [_channel(channel) for channel in found.channels])}


def _channel(channel: GossipChannel) -> dict[str, Any]:
    return {
        "source": channel.source.hex(),
        "destination": channel.destination.hex(),
        "short_channel_id": format_scid(channel.short_channel_id),
        "direction": channel.direction,
        "public": True,
        "amount_msat": channel.amount_msat,
        "message_flags": channel.message_flags,
        "channel_flags": channel.channel_flags,
        "active": channel.active,
        "last_update": channel.last_update,
        "base_fee_millisatoshi": channel.base_fee_msat,
        "fee_per_millionth": channel.fee_per_millionth,
        "delay": channel.delay,
        "htlc_minimum_msat": channel.htlc_minimum_msat,
        "htlc_maximum_msat": channel.htlc_maximum_msat,
        "features": channel.features.hex(),
    }


async def getroutes(context: Context, arguments: Arguments) -> Result:
    source: bytes = arguments["source"]
    found = await _find(
        context,
        source,
        partial(
            FindRoutes,
            destination=arguments["destination"],
            amount_msat=arguments["amount_msat"],
            final_delay=arguments["final_cltv"],
            max_fee_msat=arguments["maxfee_msat"],
            max_delay=arguments["maxdelay"],
            max_parts=arguments["maxparts"],
        ),
    )
    return {
        "routes": [_route(route, source, arguments["final_cltv"]) for route in found.routes],
        "probability_ppm": int(found.probability * 1_000_000),
    }


def _route(route: Route, source: bytes, final_cltv: int) -> dict[str, Any]:
    """Beside Core Lightning's fields: the fee, and the sentence on why this route was chosen."""
    path = []
    node, amount, delay = source, route.hops[0].amount_msat, route.hops[0].delay
    for hop in route.hops:
        path.append(
            {
                "short_channel_id_dir": f"{format_scid(hop.short_channel_id)}/{hop.direction}",
                "amount_in_msat": amount,
                "amount_out_msat": hop.amount_msat,
                "node_id_in": node.hex(),
                "node_id_out": hop.node_id.hex(),
                "cltv_in": delay,
                "cltv_out": hop.delay,
                "amount_msat": amount,
                "next_node_id": hop.node_id.hex(),
                "delay": delay,
            }
        )
        node, amount, delay = hop.node_id, hop.amount_msat, hop.delay
    return {
        "probability_ppm": int(route.probability * 1_000_000),
        "amount_msat": route.amount_msat,
        "final_cltv": final_cltv,
        "path": path,
        "fee_msat": route.fee_msat,
        "why": route.why,
    }


async def getroute(context: Context, arguments: Arguments) -> Result:
    channels, nodes = arguments["exclude"]
    source: bytes = arguments["fromid"] or context.facts.node_id
    found = await _find(
        context,
        source,
        partial(
            FindRoutes,
            destination=arguments["id"],
            amount_msat=arguments["amount_msat"],
            final_delay=arguments["cltv"],
            max_fee_msat=ANY_FEE,
            max_delay=MAX_HTLC_CLTV,
            max_parts=1,
            max_hops=arguments["maxhops"],
            excluded=channels,
            excluded_nodes=nodes,
        ),
    )
    return {
        "route": [
            {
                "id": hop.node_id.hex(),
                "channel": format_scid(hop.short_channel_id),
                "direction": hop.direction,
                "amount_msat": hop.amount_msat,
                "delay": hop.delay,
                "style": "tlv",
            }
            for hop in found.routes[0].hops
        ]
    }


async def _find(context: Context, source: bytes, request: "partial[FindRoutes]") -> Routes:
    """From us over our channels as they are now; from another node over those that the graph knows."""
    if source == context.facts.node_id:
        hops = tuple(_first_hop(channel) for channel in await ask.channels(context) if _may_send(channel))
        asked = request(first_hops=hops)
    else:
        asked = request(first_hops=(), source=source)
    found: Routes = await context.bus.request("routing", asked, deadline=SEARCH_SECONDS)
    return found


def _may_send(channel: ChannelInfo) -> bool:
    return (
        channel.state == "CHANNELD_NORMAL"
        and channel.reestablished
        and (channel.short_channel_id or channel.alias_local) is not None
    )


def _first_hop(channel: ChannelInfo) -> FirstHop:
    scid = channel.short_channel_id or channel.alias_local or 0
    offered = sum(1 for htlc in channel.htlcs if htlc.offered)
    return FirstHop(
        channel.peer,
        ShortChannelId(scid),
        channel.spendable_msat,
        Msat(0),
        max(0, channel.max_accepted_htlcs - offered),
    )


_DIRECTED = re.compile(r"([0-9x]+)/([01])")


def exclusions(value: Any) -> tuple[tuple[tuple[ShortChannelId, int], ...], tuple[bytes, ...]]:
    """Directed channels such as 700000x1x0/1, and nodes."""
    if not isinstance(value, list):
        raise ValueError(
            "should be a list of channels with their direction, such as 700000x1x0/1, or node ids"
        )
    channels, nodes = [], []
    for item in value:
        directed = _DIRECTED.fullmatch(item) if isinstance(item, str) else None
        if directed is not None:
            channels.append((parse_scid(directed[1]), int(directed[2])))
        else:
            nodes.append(node_id(item))
    return tuple(channels), tuple(nodes)


METHODS = (
    Method(
        "listnodes",
        (Param("id", node_id, None),),
        listnodes,
        "The nodes of the public graph, or one of them.",
        "network",
    ),
    Method(
        "listchannels",
        (
            Param("short_channel_id", short_channel_id, None),
            Param("source", node_id, None),
            Param("destination", node_id, None),
        ),
        listchannels,
        "The public channels by direction: all, one, or those of one end.",
        "network",
    ),
    Method(
        "getroutes",
        (
            Param("source", node_id, REQUIRED),
            Param("destination", node_id, REQUIRED),
            Param("amount_msat", msat, REQUIRED),
            Param("layers", ignored, None),
            Param("maxfee_msat", msat, ANY_FEE),
            Param("final_cltv", integer(0, MAX_HTLC_CLTV), DEFAULT_CLTV),
            Param("maxdelay", integer(0, MAX_HTLC_CLTV), MAX_HTLC_CLTV),
            Param("maxparts", integer(1, MAX_PARTS), MAX_PARTS),
        ),
        getroutes,
        "The routes that a payment would take, in parts if need be, and why. Layers are not used.",
        "network",
    ),
    Method(
        "getroute",
        (
            Param("id", node_id, REQUIRED),
            Param("amount_msat", msat, REQUIRED),
            Param("riskfactor", ignored, None),
            Param("cltv", integer(0, MAX_HTLC_CLTV), DEFAULT_CLTV),
            Param("fromid", node_id, None),
            Param("fuzzpercent", ignored, None),
            Param("exclude", exclusions, ((), ())),
            Param("maxhops", integer(1, 20), 20),
        ),
        getroute,
        "One route for an amount, as sendpay takes it. Risk and delay are weighed as getroutes does.",
        "network",
    ),
)
