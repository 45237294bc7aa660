"""Hold invoices, as the hold plugin of Core Lightning names them: holdinvoice, settleholdinvoice, cancelholdinvoice,
listholdinvoices."""

from node.rpc.errors import invalid_params
from node.rpc.params import REQUIRED, Arguments, Param, hex_bytes, integer, label, msat, text
from node.rpc.table import Context, Method, Result
from protocol.amounts import MAX_HTLC_CLTV
from protocol.bus.messages.payments import (
    CancelHold,
    CreateInvoice,
    InvoiceRow,
    Invoices,
    ListInvoices,
    SettleHold,
)

DAY = 86_400
_STATES = {"unpaid": "unpaid", "accepted": "accepted", "paid": "paid", "cancelled": "cancelled"}


async def holdinvoice(context: Context, arguments: Arguments) -> Result:
    """Without a payment hash the signer keeps the preimage, and `settleholdinvoice` takes the hash."""
    payment_hash: bytes | None = arguments["payment_hash"]
    name = arguments["label"] or f"hold-{(payment_hash or b'').hex() or arguments['description']}"
    request = CreateInvoice(
        amount_msat=arguments["amount_msat"],
        label=name,
        description=arguments["description"],
        expiry=arguments["expiry"],
        cltv=arguments["cltv"],
        hold_hash=payment_hash,
        hold=True,
    )
    row: InvoiceRow = await context.bus.request("payments", request)
    return {"bolt11": row.bolt11, "payment_hash": row.payment_hash.hex(), "expires_at": row.expires_at}


async def settleholdinvoice(context: Context, arguments: Arguments) -> Result:
    if (arguments["preimage"] is None) == (arguments["payment_hash"] is None):
        raise invalid_params(
            "give the preimage, or the payment_hash of an invoice whose preimage the signer has"
        )
    request = SettleHold(arguments["preimage"], arguments["payment_hash"])
    return hold_object(await context.bus.request("payments", request))


async def cancelholdinvoice(context: Context, arguments: Arguments) -> Result:
    return hold_object(await context.bus.request("payments", CancelHold(arguments["payment_hash"])))


async def listholdinvoices(context: Context, arguments: Arguments) -> Result:
    request = ListInvoices(payment_hash=arguments["payment_hash"], bolt11=arguments["bolt11"])
    found: Invoices = await context.bus.request("payments", request)
    return {"holdinvoices": [hold_object(row) for row in found.invoices if row.hold]}


def hold_object(row: InvoiceRow) -> Result:
    state = "settling" if row.status == "claiming" else _STATES.get(row.status, row.status)
    result: Result = {
        "payment_hash": row.payment_hash.hex(),
        "bolt11": row.bolt11,
        "label": row.label,
        "state": state,
        "created_at": row.created,
        "expires_at": row.expires_at,
        "htlcs": [
            {
                "channel_id": htlc.channel_id.hex(),
                "htlc_id": htlc.htlc_id,
                "msat": htlc.amount_msat,
                "cltv_expiry": htlc.cltv_expiry,
                "state": state,
            }
            for htlc in row.htlcs
        ],
    }
    if row.amount_msat is not None:
        result["amount_msat"] = row.amount_msat
    if row.status == "paid":
        result["settled_at"] = row.paid_at
        if row.preimage is not None:
            result["preimage"] = row.preimage.hex()
    return result


METHODS = (
    Method(
        "holdinvoice",
        (
            Param("payment_hash", hex_bytes(32), None),
            Param("amount_msat", msat, REQUIRED),
            Param("description", text, ""),
            Param("expiry", integer(1, 2**32), DAY),
            Param("cltv", integer(1, MAX_HTLC_CLTV), None),
            Param("label", label, None),
        ),
        holdinvoice,
        "Make an invoice whose payment is held until you settle or cancel it.",
        "payment",
    ),
    Method(
        "settleholdinvoice",
        (Param("preimage", hex_bytes(32), None), Param("payment_hash", hex_bytes(32), None)),
        settleholdinvoice,
        "Take the payment that is held.",
        "payment",
    ),
    Method(
        "cancelholdinvoice",
        (Param("payment_hash", hex_bytes(32), REQUIRED),),
        cancelholdinvoice,
        "Give back the payment that is held, or refuse one that has not come.",
        "payment",
    ),
    Method(
        "listholdinvoices",
        (Param("payment_hash", hex_bytes(32), None), Param("bolt11", text, None)),
        listholdinvoices,
        "Hold invoices, all or the one that is named.",
        "payment",
    ),
)
