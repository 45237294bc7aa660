"""sendpay, waitsendpay, listsendpays: parts of a payment along routes that the caller chose."""

from typing import Any

from node.rpc.errors import OUTCOME_UNKNOWN, Code, RpcError, invalid_params
from node.rpc.params import (
    REQUIRED,
    Arguments,
    Param,
    hex_bytes,
    ignored,
    integer,
    label,
    msat,
    node_id,
    not_offered,
    one_of,
    text,
)
from node.rpc.table import Context, Method, Result
from protocol.amounts import MAX_HTLC_CLTV, ShortChannelId, parse_scid
from protocol.bolt4.failure import FailureCode
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.payments import ListParts, PartRow, Parts, SendPart, WaitPart
from protocol.bus.messages.routing import RouteHop

FOR_EVER = 10 * 365 * 86_400.0
UNREADABLE, BY_PAYEE, TRY_OTHER_ROUTE = 202, 203, 204
_PERM = 0x4000


async def sendpay(context: Context, arguments: Arguments) -> Result:
    hops = _hops(context, arguments["route"])
    total = arguments["amount_msat"]
    part_id = arguments["partid"] or 0
    if total is None:
        if part_id:
            raise invalid_params("missing required parameter: amount_msat (the total, since partid is given)")
        total = hops[-1].amount_msat
    row: PartRow = await context.bus.request(
        "payments",
        SendPart(
            arguments["payment_hash"],
            hops,
            total,
            payment_secret=arguments["payment_secret"],
            payment_metadata=arguments["payment_metadata"],
            part_id=part_id,
            group_id=arguments["groupid"] or 1,
            label=arguments["label"],
            bolt11=arguments["bolt11"] or "",
        ),
    )
    result = part_object(row)
    if row.status == "pending":
        result["message"] = "Monitor status with listpays or waitsendpay"
    return result


async def waitsendpay(context: Context, arguments: Arguments) -> Result:
    seconds = arguments["timeout"]
    request = WaitPart(arguments["payment_hash"], arguments["partid"] or 0, arguments["groupid"])
    try:
        row: PartRow = await context.bus.request(
            "payments", request, deadline=FOR_EVER if seconds is None else float(seconds)
        )
    except OutcomeUnknown as error:
        raise RpcError(
            Code.PAY_IN_PROGRESS, "the payment is still on its way: wait again", OUTCOME_UNKNOWN
        ) from error
    if row.status == "failed":
        raise _failure(row)
    return part_object(row)


def _failure(row: PartRow) -> RpcError:
    data: dict[str, Any] = part_object(row)
    if row.failed_at is not None and row.failed_at >= 0:
        data["erring_index"] = row.failed_at
    if row.failure_code is None:
        code = UNREADABLE if row.failed_at == -1 else TRY_OTHER_ROUTE
    else:
        data["failcode"] = row.failure_code
        known = row.failure_code in FailureCode.__members__.values()
        data["failcodename"] = f"WIRE_{FailureCode(row.failure_code).name}" if known else "unknown"
        code = BY_PAYEE if row.failure_code & _PERM and row.failed_at == row.hops else TRY_OTHER_ROUTE
    return RpcError(code, row.error or "the payment failed", data)


async def listsendpays(context: Context, arguments: Arguments) -> Result:
    request = ListParts(arguments["payment_hash"], arguments["bolt11"], arguments["status"])
    found: Parts = await context.bus.request("payments", request)
    return {"payments": [part_object(row) for row in found.parts]}


def part_object(row: PartRow) -> dict[str, Any]:
    result: dict[str, Any] = {
        "created_index": row.id,
        "id": row.id,
        "groupid": row.group_id,
        "payment_hash": row.payment_hash.hex(),
        "status": row.status,
        "created_at": row.created,
        "amount_msat": row.amount_msat,
        "amount_sent_msat": row.amount_sent_msat,
        "destination": row.destination.hex(),
    }
    optional = {
        "partid": row.part_id or None,
        "completed_at": row.completed,
        "payment_preimage": None if row.preimage is None else row.preimage.hex(),
        "label": row.label,
        "bolt11": row.bolt11,
        "hold_times_ms": [100 * held for held in row.hold_times] or None,
    }
    result.update((name, value) for name, value in optional.items() if value is not None)
    return result


def _hops(context: Context, route: list[Any]) -> tuple[RouteHop, ...]:
    hops = []
    start = context.facts.node_id
    for number, hop in enumerate(route):
        try:
            end = node_id(hop["id"])
            channel = ShortChannelId(parse_scid(text(hop["channel"])))
            amount, delay = msat(hop["amount_msat"]), integer(1, MAX_HTLC_CLTV)(hop["delay"])
        except (KeyError, TypeError, ValueError) as error:
            raise invalid_params(
                f"route: hop {number} needs id, channel, amount_msat and delay ({error})"
            ) from error
        hops.append(RouteHop(end, channel, 0 if start < end else 1, amount, delay))
        start = end
    return tuple(hops)


def route(value: Any) -> list[Any]:
    if not isinstance(value, list) or not 1 <= len(value) <= 20:
        raise ValueError("should be a list of 1 to 20 hops")
    return value


METHODS = (
    Method(
        "sendpay",
        (
            Param("route", route, REQUIRED),
            Param("payment_hash", hex_bytes(32), REQUIRED),
            Param("label", label, None),
            Param("amount_msat", msat, None),
            Param("bolt11", text, None),
            Param("payment_secret", hex_bytes(32), None),
            Param("partid", integer(0), None),
            Param("localinvreqid", not_offered("offers come later"), None),
            Param("groupid", integer(1), None),
            Param(
                "payment_metadata",
                lambda value: bytes.fromhex(text(value)),
                None,
            ),
            Param("description", ignored, None),
        ),
        sendpay,
        "Send one part of a payment along a route of yours.",
        "payment",
        moves_money=True,
    ),
    Method(
        "waitsendpay",
        (
            Param("payment_hash", hex_bytes(32), REQUIRED),
            Param("timeout", integer(0), None),
            Param("partid", integer(0), None),
            Param("groupid", integer(1), None),
        ),
        waitsendpay,
        "Wait until a part is paid or has failed.",
        "payment",
        waits=True,
    ),
    Method(
        "listsendpays",
        (
            Param("bolt11", text, None),
            Param("payment_hash", hex_bytes(32), None),
            Param("status", one_of("pending", "complete", "failed"), None),
            Param("index", not_offered("all are listed, by age"), None),
            Param("start", not_offered("all are listed, by age"), None),
            Param("limit", not_offered("all are listed, by age"), None),
        ),
        listsendpays,
        "Parts of payments, all or those that match.",
        "payment",
    ),
)
