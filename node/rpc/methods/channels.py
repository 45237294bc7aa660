"""fundchannel, close, listpeerchannels."""

from typing import Any

from node.rpc.methods import ask, fees
from node.rpc.params import (
    REQUIRED,
    Arguments,
    Param,
    boolean,
    feerate,
    hex_bytes,
    ignored,
    integer,
    msat,
    node_id,
    not_offered,
    sat_or_all,
    short_channel_id,
    text,
)
from node.rpc.table import Context, Method, Result
from protocol.amounts import Msat, ShortChannelId, format_scid
from protocol.bitcoin.transaction import txid_hex
from protocol.bolt9 import BY_BIT, ChannelType
from protocol.bus.messages.channel import ChannelClosed, ChannelFunded, ChannelInfo, CloseChannel, FundChannel
from protocol.bus.messages.routing import ChannelPolicy

FUNDING_SECONDS = 600.0
MORE_SECONDS = 120.0


async def fundchannel(context: Context, arguments: Arguments) -> Result:
    request = FundChannel(
        peer=arguments["id"],
        amount=arguments["amount"],
        feerate_per_kw=await fees.resolve(context, arguments["feerate"]),
        push_msat=arguments["push_msat"],
        minconf=arguments["minconf"],
        announce=arguments["announce"],
        mindepth=arguments["mindepth"],
        channel_type=arguments["channel_type"],
        top_up=arguments["topup"],
    )
    funded: ChannelFunded = await context.bus.request("channel", request, deadline=FUNDING_SECONDS)
    return {
        "tx": funded.tx.hex(),
        "txid": txid_hex(funded.txid),
        "outnum": funded.outnum,
        "channel_id": funded.channel_id.hex(),
        "channel_type": channel_type_object(funded.channel_type),
    }


async def close(context: Context, arguments: Arguments) -> Result:
    timeout = arguments["unilateraltimeout"]
    rate = await fees.resolve(context, arguments["feerate"])
    request = CloseChannel(arguments["id"], timeout, rate)
    closed: ChannelClosed = await context.bus.request(
        "channel", request, deadline=(timeout or CloseChannel("").unilateral_timeout) + MORE_SECONDS
    )
    result: Result = {"type": closed.kind}
    if closed.tx:
        tx, txid = closed.tx.hex(), txid_hex(closed.txid)
        result.update(tx=tx, txid=txid, txs=[tx], txids=[txid])
    return result


async def listpeerchannels(context: Context, arguments: Arguments) -> Result:
    found = await ask.channels(context, arguments["id"])
    scid, channel_id = arguments["short_channel_id"], arguments["channel_id"]
    wanted = tuple(
        channel
        for channel in found
        if scid in (None, channel.short_channel_id, channel.alias_local)
        and channel_id in (None, channel.channel_id)
    )
    ours, theirs = await ask.policies(context, wanted)
    return {
        "channels": [
            channel_object(channel, context.facts.node_id)
            | fees_object(ours.get(channel.channel_id), theirs.get(channel.channel_id))
            for channel in wanted
        ]
    }


def fees_object(ours: ChannelPolicy | None, theirs: ChannelPolicy | None) -> dict[str, Any]:
    """What each side asks for an HTLC that leaves through the channel on its side."""
    result: dict[str, Any] = {}
    if ours is not None:
        result["fee_base_msat"] = ours.fee_base_msat
        result["fee_proportional_millionths"] = ours.fee_proportional_millionths
    updates = {
        side: {
            "htlc_minimum_msat": policy.htlc_minimum_msat,
            "htlc_maximum_msat": policy.htlc_maximum_msat,
            "cltv_expiry_delta": policy.cltv_expiry_delta,
            "fee_base_msat": policy.fee_base_msat,
            "fee_proportional_millionths": policy.fee_proportional_millionths,
        }
        for side, policy in (("local", ours), ("remote", theirs))
        if policy is not None
    }
    if updates:
        result["updates"] = updates
    return result


def channel_object(channel: ChannelInfo, our_node_id: bytes) -> dict[str, Any]:
    result: dict[str, Any] = {
        "peer_id": channel.peer.hex(),
        "peer_connected": channel.peer_connected,
        "reestablished": channel.reestablished,
        "channel_type": channel_type_object(channel.channel_type),
        "feerate": {"perkw": channel.feerate_per_kw, "perkb": channel.feerate_per_kw * 4},
        "state": channel.state,
        "channel_id": channel.channel_id.hex(),
        "funding_txid": txid_hex(channel.funding_txid),
        "funding_outnum": channel.funding_outnum,
        "close_to": channel.close_to.hex(),
        "private": not channel.announce,
        "opener": "local" if channel.opener_is_us else "remote",
        "features": ["option_static_remotekey", *(["option_anchors"] if channel.anchors else [])],
        "to_us_msat": channel.to_us_msat,
        "min_to_us_msat": channel.min_to_us_msat,
        "max_to_us_msat": channel.max_to_us_msat,
        "total_msat": channel.capacity * 1000,
        "dust_limit_msat": channel.dust_limit * 1000,
        "our_max_htlc_value_in_flight_msat": channel.max_in_flight_msat,
        "their_reserve_msat": channel.their_reserve * 1000,
        "our_reserve_msat": channel.our_reserve * 1000,
        "spendable_msat": channel.spendable_msat,
        "receivable_msat": channel.receivable_msat,
        "minimum_htlc_in_msat": channel.minimum_htlc_in_msat,
        "minimum_htlc_out_msat": channel.peer_htlc_minimum,
        "their_to_self_delay": channel.their_to_self_delay,
        "our_to_self_delay": channel.our_to_self_delay,
        "max_accepted_htlcs": channel.max_accepted_htlcs,
        "status": [channel.why] if channel.why else [],
        "htlcs": [
            {
                "direction": "out" if htlc.offered else "in",
                "id": htlc.id,
                "amount_msat": htlc.amount_msat,
                "expiry": htlc.cltv_expiry,
                "payment_hash": htlc.payment_hash.hex(),
                "state": htlc.state,
            }
            for htlc in channel.htlcs
        ],
    }
    if channel.short_channel_id is not None:
        result["short_channel_id"] = format_scid(ShortChannelId(channel.short_channel_id))
        result["direction"] = 0 if our_node_id < channel.peer else 1
    if channel.closer is not None:
        result["closer"] = channel.closer
    alias = {
        side: format_scid(ShortChannelId(value))
        for side, value in (("local", channel.alias_local), ("remote", channel.alias_remote))
        if value is not None
    }
    if alias:
        result["alias"] = alias
    return result


def channel_type_object(bits: tuple[int, ...]) -> dict[str, Any]:
    return {"bits": list(bits), "names": [f"{BY_BIT[bit].name.removeprefix('option_')}/even" for bit in bits]}


def channel_type(value: Any) -> tuple[int, ...]:
    if isinstance(value, list) and all(type(bit) is int and 0 <= bit < 64 for bit in value):
        kind = ChannelType.of_bits(value)
        if kind is not None:
            return kind.bits
    raise ValueError(
        "should be [12, 22] (anchors) or [12], each with 46 (alias only) or 50 (zeroconf) if it is wanted"
    )


def selector(value: Any) -> str:
    """A peer id, a channel id, or a short channel id."""
    name = text(value)
    for kind in (node_id, hex_bytes(32), short_channel_id):
        try:
            kind(name)
        except ValueError:
            continue
        return name.lower()
    raise ValueError("should be a peer id, a channel id, or a short channel id")


# Hot can only pay cold: where closes pay to is fixed when the channel is opened.
_COLD_ONLY = not_offered("closes pay to the signer's cold descriptor only")
METHODS = (
    Method(
        "fundchannel",
        (
            Param("id", node_id, REQUIRED),
            Param("amount", sat_or_all, REQUIRED),
            Param("feerate", feerate, None),
            Param("announce", boolean, True),
            Param("minconf", integer(0, 1000), 1),
            Param("push_msat", msat, Msat(0)),
            Param("close_to", _COLD_ONLY, None),
            Param("request_amt", not_offered("liquidity ads are not offered"), None),
            Param("compact_lease", not_offered("liquidity ads are not offered"), None),
            Param("utxos", not_offered("the wallet chooses the coins"), None),
            Param("mindepth", integer(0, 144), None),
            Param("reserve", not_offered("the reserve is 1% of the channel"), None),
            Param("channel_type", channel_type, None),
            Param("topup", boolean, None),
        ),
        fundchannel,
        "Open a channel with a connected peer; amount in satoshi, or all. mindepth 0: use it before it is confirmed. "
        "topup: whether the funding may fill the fee reserve where that is short (usual: if the signer insists).",
        "channels",
        moves_money=True,
    ),
    Method(
        "close",
        (
            Param("id", selector, REQUIRED),
            Param("unilateraltimeout", integer(0, 10_000_000), CloseChannel("").unilateral_timeout),
            Param("destination", _COLD_ONLY, None),
            Param("fee_negotiation_step", ignored, None),
            Param("wrong_funding", not_offered("only the agreed funding is closed"), None),
            Param("force_lease_closed", boolean, False),
            Param("feerange", not_offered("the range follows the channel's own rules"), None),
            Param("feerate", feerate, None),
        ),
        close,
        "Close a channel; after unilateraltimeout seconds without agreement, alone (0: never). Asked again with a "
        "higher feerate it replaces the closing transaction that is out, if the peer knows option_simple_close.",
        "channels",
        moves_money=True,
    ),
    Method(
        "listpeerchannels",
        (
            Param("id", node_id, None),
            Param("short_channel_id", short_channel_id, None),
            Param("channel_id", hex_bytes(32), None),
        ),
        listpeerchannels,
        "Our channels: balances, limits, state and HTLCs.",
        "channels",
    ),
)
