"""listforwards, setchannel, earnings."""

import time
from collections.abc import Iterable
from typing import Any

from node.rpc.errors import Code, RpcError
from node.rpc.methods import ask
from node.rpc.params import (
    REQUIRED,
    Arguments,
    Param,
    integer,
    msat,
    not_offered,
    one_of,
    short_channel_id,
    text,
)
from node.rpc.table import Context, Method, Result
from protocol.amounts import MAX_HTLC_CLTV, ShortChannelId, format_scid, parse_scid
from protocol.bolt4.failure import FailureCode
from protocol.bus.messages.channel import ChannelInfo
from protocol.bus.messages.forwards import (
    Earned,
    Earnings,
    ForwardRow,
    Forwards,
    GetEarnings,
    ListForwards,
    SetPolicy,
)
from protocol.bus.messages.routing import Policies

SPANS = {"hour": 3600, "day": 86_400, "week": 7 * 86_400, "month": 30 * 86_400}
NO_SCID = "0x0x0"
"""Of a channel that is closed and forgotten."""


async def listforwards(context: Context, arguments: Arguments) -> Result:
    names = _Names(await ask.channels(context))
    request = ListForwards(
        arguments["status"],
        names.channel(arguments["in_channel"]),
        names.channel(arguments["out_channel"]),
        newest=arguments["limit"],
    )
    found: Forwards = await context.bus.request("payments", request)
    return {"forwards": [forward_object(row, names) for row in found.forwards]}


class _Names:
    """Short channel ids of our channels, both ways."""

    def __init__(self, channels: Iterable[ChannelInfo]) -> None:
        self._by_id: dict[bytes, int] = {}
        self._by_scid: dict[int, bytes] = {}
        for channel in channels:
            for scid in (channel.alias_local, channel.short_channel_id):
                if scid is not None:
                    self._by_id[channel.channel_id] = scid
                    self._by_scid[scid] = channel.channel_id

    def channel(self, scid: int | None) -> bytes | None:
        """One that is not ours matches nothing."""
        return None if scid is None else self._by_scid.get(scid, bytes(32))

    def scid(self, channel_id: bytes | None, named: int | None = None) -> str:
        found = self._by_id.get(channel_id) if channel_id is not None else None
        chosen = named if found is None else found
        return NO_SCID if chosen is None else format_scid(ShortChannelId(chosen))


def forward_object(row: ForwardRow, names: _Names) -> dict[str, Any]:
    result: dict[str, Any] = {
        "in_channel": names.scid(row.in_channel),
        "in_htlc_id": row.in_htlc,
        "in_msat": row.in_msat,
        "status": row.status,
        "style": "tlv",
        "received_time": round(row.received, 3),
        "payment_hash": row.payment_hash.hex(),
    }
    if row.out_channel is not None or row.out_scid is not None:
        result["out_channel"] = names.scid(row.out_channel, row.out_scid)
    optional = {
        "out_htlc_id": row.out_htlc,
        "out_msat": row.out_msat,
        "fee_msat": row.fee_msat,
        "resolved_time": None if row.resolved is None else round(row.resolved, 3),
        "failcode": row.failure_code,
        "failreason": _reason(row),
    }
    result.update((name, value) for name, value in optional.items() if value is not None)
    return result


def _reason(row: ForwardRow) -> str | None:
    if row.failure_code is not None and row.failure_code in FailureCode.__members__.values():
        return f"WIRE_{FailureCode(row.failure_code).name}"
    return row.reason


async def setchannel(context: Context, arguments: Arguments) -> Result:
    chosen = _chosen(arguments["id"], await ask.channels(context))
    request = SetPolicy(
        tuple(channel.channel_id for channel in chosen),
        fee_base_msat=arguments["feebase"],
        fee_proportional_millionths=arguments["feeppm"],
        htlc_minimum_msat=arguments["htlcmin"],
        htlc_maximum_msat=arguments["htlcmax"],
        cltv_expiry_delta=arguments["cltv"],
        grace_seconds=arguments["enforcedelay"],
    )
    found: Policies = await context.bus.request("payments", request)
    policies = dict(found.policies)
    return {"channels": [_policy_object(channel, policies) for channel in chosen]}


def _chosen(name: str, channels: tuple[ChannelInfo, ...]) -> tuple[ChannelInfo, ...]:
    """A short channel id, a channel id, a peer id, or "all"."""
    open_ones = tuple(channel for channel in channels if channel.state.startswith("CHANNELD_"))
    if name == "all":
        return open_ones
    try:
        scid: int | None = parse_scid(name)
    except ValueError:
        scid = None
    found = tuple(
        channel
        for channel in open_ones
        if name.lower() in (channel.channel_id.hex(), channel.peer.hex())
        or (scid is not None and scid in (channel.short_channel_id, channel.alias_local))
    )
    if not found:
        raise RpcError(
            Code.GENERIC, f"there is no open channel {name}: give its short channel id, its id, or its peer"
        )
    return found


def _policy_object(channel: ChannelInfo, policies: dict[bytes, Any]) -> dict[str, Any]:
    policy = policies[channel.channel_id]
    result = {
        "peer_id": channel.peer.hex(),
        "channel_id": channel.channel_id.hex(),
        "fee_base_msat": policy.fee_base_msat,
        "fee_proportional_millionths": policy.fee_proportional_millionths,
        "ignore_fee_limits": False,
        "minimum_htlc_out_msat": policy.htlc_minimum_msat,
        "maximum_htlc_out_msat": policy.htlc_maximum_msat,
        "cltv_expiry_delta": policy.cltv_expiry_delta,
    }
    if channel.short_channel_id is not None:
        result["short_channel_id"] = format_scid(ShortChannelId(channel.short_channel_id))
    return result


async def earnings(context: Context, arguments: Arguments) -> Result:
    """Not one of Core Lightning's: what forwarding earned, by span, the newest last."""
    names = _Names(await ask.channels(context))
    span = SPANS[arguments["period"]]
    until = int(time.time()) + 1
    since = until - span * arguments["count"]
    found: Earnings = await context.bus.request("payments", GetEarnings(since, until, span))
    return earnings_object(found.earned, since, span, arguments["count"], names)


def earnings_object(earned: tuple[Earned, ...], since: int, span: int, count: int, names: _Names) -> Result:
    spans = []
    for start in range(since, since + span * count, span):
        inside = [one for one in earned if one.start == start]
        spans.append(
            {
                "start": start,
                "end": start + span,
                "forwards": sum(one.count for one in inside),
                "out_msat": sum(one.out_msat for one in inside),
                "fee_msat": sum(one.fee_msat for one in inside),
                "channels": [
                    {
                        "out_channel": names.scid(one.channel_id),
                        "forwards": one.count,
                        "out_msat": one.out_msat,
                        "fee_msat": one.fee_msat,
                    }
                    for one in inside
                ],
            }
        )
    return {"earnings": spans, "total_fee_msat": sum(one.fee_msat for one in earned)}


METHODS = (
    Method(
        "listforwards",
        (
            Param("status", one_of("offered", "settled", "failed", "local_failed"), None),
            Param("in_channel", short_channel_id, None),
            Param("out_channel", short_channel_id, None),
            Param("index", not_offered("they are listed by age"), None),
            Param("start", not_offered("they are listed by age"), None),
            Param("limit", integer(1), None),
        ),
        listforwards,
        "HTLCs that we passed on or refused, all or those that match; with limit the newest.",
        "channels",
    ),
    Method(
        "setchannel",
        (
            Param("id", text, REQUIRED),
            Param("feebase", msat, None),
            Param("feeppm", integer(0, 2**32 - 1), None),
            Param("htlcmin", msat, None),
            Param("htlcmax", msat, None),
            Param("enforcedelay", integer(0), None),
            Param("ignorefeelimits", not_offered("there are no such limits here"), None),
            Param("cltv", integer(1, MAX_HTLC_CLTV), None),
        ),
        setchannel,
        "Set what others pay for HTLCs that leave through a channel of ours.",
        "channels",
    ),
    Method(
        "earnings",
        (Param("period", one_of(*SPANS), "day"), Param("count", integer(1, 1000), 7)),
        earnings,
        "What forwarding earned, by hour, day, week or month.",
        "channels",
    ),
)
