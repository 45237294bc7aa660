"""xpay, pay, listpays."""

from typing import Any

from node.rpc.errors import OUTCOME_UNKNOWN, Code, RpcError
from node.rpc.params import (
    REQUIRED,
    Arguments,
    Param,
    hex_bytes,
    ignored,
    integer,
    label,
    msat,
    not_offered,
    number,
    one_of,
    text,
)
from node.rpc.table import Context, Method, Result
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.payments import (
    ListPayments,
    Pay,
    PaymentRow,
    Payments,
    PayPreview,
    PreviewPay,
)

RETRY_FOR = 60
_PARTS = not_offered("a payment is made in one piece")


async def xpay(context: Context, arguments: Arguments) -> Result:
    row = await _pay(context, arguments, arguments["invstring"])
    return {
        "payment_preimage": _preimage(row),
        "failed_parts": 0,
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
    retry_for = arguments["retry_for"]
    request = Pay(
        bolt11,
        amount_msat=arguments["amount_msat"],
        max_fee_msat=arguments["maxfee"],
        label=arguments["label"],
        retry_for=retry_for,
    )
    try:
        row: PaymentRow = await context.bus.request("payments", request, deadline=float(retry_for))
    except OutcomeUnknown as error:
        raise RpcError(
            Code.PAY_IN_PROGRESS,
            f"the payment is still on its way after {retry_for} seconds. See listpays; paying the invoice again "
            "waits for the same payment and never pays twice",
            OUTCOME_UNKNOWN,
        ) from error
    return row


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
    return result


_AMOUNT = Param("amount_msat", msat, None)
_RETRY = Param("retry_for", integer(1, 10_000_000), RETRY_FOR)
_MAX_FEE = Param("maxfee", msat, None)
METHODS = (
    Method(
        "xpay",
        (
            Param("invstring", text, REQUIRED),
            _AMOUNT,
            _MAX_FEE,
            Param("layers", ignored, None),
            _RETRY,
            Param("partial_msat", _PARTS, None),
            Param("maxdelay", ignored, None),
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
            Param("maxdelay", ignored, None),
            Param("exemptfee", ignored, None),
            Param("localinvreqid", not_offered("offers come later"), None),
            Param("exclude", ignored, None),
            _MAX_FEE,
            Param("description", ignored, None),
            Param("partial_msat", _PARTS, None),
        ),
        pay,
        "Pay a BOLT 11 invoice, as xpay does, with the older form of the answer.",
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
