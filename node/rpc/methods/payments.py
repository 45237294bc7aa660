"""xpay, pay, keysend, xkeysend, previewpay, listpays."""

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
    number,
    one_of,
    text,
)
from node.rpc.table import Context, Method, Result
from protocol.amounts import MAX_HTLC_CLTV, Msat, ShortChannelId, parse_scid
from protocol.bolt11.decode import decode as decode_bolt11
from protocol.bolt11.invoice import HopHint
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.payments import (
    Keysend,
    ListPayments,
    Pay,
    PaymentRow,
    Payments,
    PayPreview,
    PreviewPay,
)
from protocol.errors import MalformedMessage

RETRY_FOR = 60
SLACK_SECONDS = 1.0
"""Beyond `retry_for`, in which a payment that failed at its very end can still say so."""
EXEMPT_FEE = Msat(5000)
_PARTIAL = not_offered("a payment is made whole by this node")


async def xpay(context: Context, arguments: Arguments) -> Result:
    row = await _pay(context, arguments, arguments["invstring"])
    return {
        "payment_preimage": _preimage(row),
        "failed_parts": row.failed_parts,
        "successful_parts": row.parts,
        "amount_msat": row.amount_msat,
        "amount_sent_msat": row.amount_sent_msat,
    }


async def pay(context: Context, arguments: Arguments) -> Result:
    row = await _pay(context, arguments, arguments["bolt11"])
    return {
        "destination": row.destination.hex(),
        "payment_hash": row.payment_hash.hex(),
        "created_at": row.created,
        "parts": row.parts,
        "amount_msat": row.amount_msat,
        "amount_sent_msat": row.amount_sent_msat,
        "payment_preimage": _preimage(row),
        "status": row.status,
    }


async def _pay(context: Context, arguments: Arguments, bolt11: str) -> PaymentRow:
    channels, nodes = arguments.get("exclude") or ((), ())
    request = Pay(
        bolt11,
        amount_msat=arguments["amount_msat"],
        max_fee_msat=_max_fee(arguments, bolt11),
        label=arguments["label"],
        retry_for=arguments["retry_for"],
        max_delay=arguments["maxdelay"],
        excluded=channels,
        excluded_nodes=nodes,
    )
    return await _until_final(context, request, request.retry_for)


async def _until_final(context: Context, request: Pay | Keysend, retry_for: int) -> PaymentRow:
    try:
        row: PaymentRow = await context.bus.request("payments", request, deadline=retry_for + SLACK_SECONDS)
    except OutcomeUnknown as error:
        raise RpcError(
            Code.PAY_IN_PROGRESS,
            f"the payment is still on its way after {retry_for} seconds, and its end is unknown"
            f"{await _until_block(context, request)}. See listpays; paying the invoice again waits for the same"
            " payment and never pays twice",
            OUTCOME_UNKNOWN,
        ) from error
    return row


async def _until_block(context: Context, request: Pay | Keysend) -> str:
    bolt11 = request.bolt11 if isinstance(request, Pay) else None
    found: Payments = await context.bus.request("payments", ListPayments(bolt11=bolt11, status="pending"))
    known = [row.unknown_until for row in found.payments if row.unknown_until is not None]
    return f" until block {max(known)}" if known else ""


def _max_fee(arguments: Arguments, bolt11: str) -> Msat | None:
    """`maxfee`, or what `maxfeepercent` and `exemptfee` come to; a fee up to the latter is always allowed."""
    percent, exempt = arguments.get("maxfeepercent"), arguments.get("exemptfee")
    given: Msat | None = arguments["maxfee"]
    if percent is None and exempt is None:
        return given
    if given is not None:
        raise invalid_params("maxfee: should be left out when maxfeepercent or exemptfee is given")
    amount = arguments["amount_msat"]
    if amount is None and bolt11:
        try:
            amount = decode_bolt11(bolt11).amount_msat
        except MalformedMessage as error:
            raise invalid_params(f"bolt11: {error}") from error
    share = int((amount or 0) * (0.5 if percent is None else percent) / 100)
    return Msat(max(share, EXEMPT_FEE if exempt is None else exempt))


async def keysend(context: Context, arguments: Arguments) -> Result:
    row = await _keysend(context, arguments)
    return {
        "destination": row.destination.hex(),
        "payment_hash": row.payment_hash.hex(),
        "created_at": row.created,
        "parts": row.parts,
        "amount_msat": row.amount_msat,
        "amount_sent_msat": row.amount_sent_msat,
        "payment_preimage": _preimage(row),
        "status": row.status,
    }


async def xkeysend(context: Context, arguments: Arguments) -> Result:
    row = await _keysend(context, arguments)
    return {
        "payment_preimage": _preimage(row),
        "failed_parts": row.failed_parts,
        "successful_parts": row.parts,
        "amount_msat": row.amount_msat,
        "amount_sent_msat": row.amount_sent_msat,
    }


async def _keysend(context: Context, arguments: Arguments) -> PaymentRow:
    request = Keysend(
        arguments["destination"],
        arguments["amount_msat"],
        max_fee_msat=_max_fee(arguments, ""),
        max_delay=arguments["maxdelay"],
        label=arguments["label"],
        retry_for=arguments["retry_for"],
        records=arguments["extratlvs"],
        hints=arguments.get("routehints") or (),
    )
    return await _until_final(context, request, request.retry_for)


def records(value: Any) -> tuple[tuple[int, bytes], ...]:
    """An object of type number to hex, as Core Lightning takes it."""
    if not isinstance(value, dict):
        raise ValueError("should be an object of numbers and hex")
    return tuple(sorted((int(number), bytes.fromhex(hex_text)) for number, hex_text in value.items()))


def exclusions(value: Any) -> tuple[tuple[tuple[int, int], ...], tuple[bytes, ...]]:
    """Channels with a direction (`103x1x0/1`), and node ids."""
    if not isinstance(value, list):
        raise ValueError("should be a list of node ids and of channels with a direction, such as 103x1x0/1")
    channels, nodes = [], []
    for one in value:
        name, slash, side = text(one).partition("/")
        if slash and side in ("0", "1"):
            channels.append((int(parse_scid(name)), int(side)))
        else:
            nodes.append(node_id(one))
    return tuple(channels), tuple(nodes)


def route_hints(value: Any) -> tuple[tuple[HopHint, ...], ...]:
    if not isinstance(value, list):
        raise ValueError("should be a list of routes")
    try:
        return tuple(
            tuple(
                HopHint(
                    node_id(hop["id"]),
                    ShortChannelId(parse_scid(hop["scid"])),
                    int(hop["feebase"]),
                    int(hop["feeprop"]),
                    int(hop["expirydelta"]),
                )
                for hop in route
            )
            for route in value
        )
    except KeyError as error:
        raise ValueError(f"should give {error} for each hop") from error


def _preimage(row: PaymentRow) -> str:
    return row.preimage.hex() if row.preimage is not None else ""


async def previewpay(context: Context, arguments: Arguments) -> Result:
    """Not one of Core Lightning's: what `xpay` would do now, for people to look at before they say yes."""
    request = PreviewPay(arguments["invstring"], arguments["amount_msat"])
    found: PayPreview = await context.bus.request("payments", request)
    result: Result = {
        "destination": found.destination.hex(),
        "amount_msat": found.amount_msat,
        "fee_msat": found.fee_msat,
        "lock_blocks": found.lock_blocks,
    }
    if found.channel_id:
        result["channel_id"] = found.channel_id.hex()
    if found.already is not None:
        result["already"] = found.already
    return result


async def listpays(context: Context, arguments: Arguments) -> Result:
    request = ListPayments(arguments["bolt11"], arguments["payment_hash"], arguments["status"])
    found: Payments = await context.bus.request("payments", request)
    return {"pays": [payment_object(row) for row in found.payments]}


def payment_object(row: PaymentRow) -> dict[str, Any]:
    result: dict[str, Any] = {
        "bolt11": row.bolt11,
        "destination": row.destination.hex(),
        "payment_hash": row.payment_hash.hex(),
        "status": row.status,
        "created_at": row.created,
        "amount_msat": row.amount_msat,
    }
    if row.label is not None:
        result["label"] = row.label
    if row.completed is not None:
        result["completed_at"] = row.completed
    if row.status != "failed":
        result["amount_sent_msat"] = row.amount_sent_msat if row.preimage is not None else row.amount_msat
    if row.preimage is not None:
        result["preimage"] = row.preimage.hex()
        result["number_of_parts"] = row.parts
    if row.error is not None:
        result["error"] = row.error
    if row.unknown_until is not None:
        result["unknown_until_block"] = row.unknown_until
    return result


_AMOUNT = Param("amount_msat", msat, None)
_RETRY = Param("retry_for", integer(1, 10_000_000), RETRY_FOR)
_MAX_FEE = Param("maxfee", msat, None)
_MAX_DELAY = Param("maxdelay", integer(1, MAX_HTLC_CLTV), MAX_HTLC_CLTV)
_EXTRA = Param("extratlvs", records, ())
METHODS = (
    Method(
        "xpay",
        (
            Param("invstring", text, REQUIRED),
            _AMOUNT,
            _MAX_FEE,
            Param("layers", not_offered("there are no layers here"), None),
            _RETRY,
            Param("partial_msat", _PARTIAL, None),
            _MAX_DELAY,
            Param("payer_note", ignored, None),
            Param("label", label, None),
        ),
        xpay,
        "Pay a BOLT 11 invoice. Paying one again waits for the same payment.",
        "payment",
        moves_money=True,
    ),
    Method(
        "pay",
        (
            Param("bolt11", text, REQUIRED),
            _AMOUNT,
            Param("label", label, None),
            Param("riskfactor", ignored, None),
            Param("maxfeepercent", number, None),
            _RETRY,
            _MAX_DELAY,
            Param("exemptfee", msat, None),
            Param("localinvreqid", not_offered("offers come later"), None),
            Param("exclude", exclusions, None),
            _MAX_FEE,
            Param("description", ignored, None),
            Param("partial_msat", _PARTIAL, None),
        ),
        pay,
        "Pay a BOLT 11 invoice, as xpay does, with the older form of the answer.",
        "payment",
        moves_money=True,
    ),
    Method(
        "keysend",
        (
            Param("destination", node_id, REQUIRED),
            Param("amount_msat", msat, REQUIRED),
            Param("label", label, None),
            Param("maxfeepercent", number, None),
            _RETRY,
            _MAX_DELAY,
            Param("exemptfee", msat, None),
            Param("routehints", route_hints, None),
            _EXTRA,
            _MAX_FEE,
        ),
        keysend,
        "Pay a node without an invoice.",
        "payment",
        moves_money=True,
    ),
    Method(
        "xkeysend",
        (
            Param("destination", node_id, REQUIRED),
            Param("amount_msat", msat, REQUIRED),
            Param("label", label, None),
            _MAX_FEE,
            Param("layers", not_offered("there are no layers here"), None),
            _RETRY,
            _MAX_DELAY,
            _EXTRA,
        ),
        xkeysend,
        "Pay a node without an invoice, with the answer of xpay.",
        "payment",
        moves_money=True,
    ),
    Method(
        "previewpay",
        (Param("invstring", text, REQUIRED), _AMOUNT),
        previewpay,
        "What paying an invoice would take now: fee, lock time, channel. Nothing is paid.",
        "payment",
    ),
    Method(
        "listpays",
        (
            Param("bolt11", text, None),
            Param("payment_hash", hex_bytes(32), None),
            Param("status", one_of("pending", "complete", "failed"), None),
            Param("index", not_offered("all are listed, by age"), None),
            Param("start", not_offered("all are listed, by age"), None),
            Param("limit", not_offered("all are listed, by age"), None),
        ),
        listpays,
        "Payments that we made or tried, all or those that match.",
        "payment",
    ),
)
