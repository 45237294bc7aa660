"""invoice, listinvoices, waitinvoice, waitanyinvoice, delinvoice, receivable, decode."""

from typing import Any

from node.rpc.errors import Code, RpcError, invalid_params
from node.rpc.params import (
    REQUIRED,
    Arguments,
    Param,
    boolean,
    hex_bytes,
    integer,
    label,
    msat_or_any,
    not_offered,
    one_of,
    text,
)
from node.rpc.table import Context, Method, Result
from protocol.amounts import MAX_HTLC_CLTV, format_scid
from protocol.bitcoin.address import address_of
from protocol.bitcoin.network import Network
from protocol.bolt11.decode import decode as decode_bolt11
from protocol.bolt11.invoice import FallbackAddress, HopHint, Invoice
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.payments import (
    CreateInvoice,
    DeleteInvoice,
    GetReceivable,
    InvoiceRow,
    Invoices,
    ListInvoices,
    Receivable,
    WaitAnyInvoice,
    WaitInvoice,
)
from protocol.errors import CommandRefused, MalformedMessage
from protocol.hashes import sha256

WEEK = 604_800
FOR_EVER = 10 * 365 * 86_400.0
"""Longer than any invoice lives: `waitinvoice` answers at its expiry at the latest."""
WARNING_SECONDS = 5.0
_STATUS = {"accepted": "unpaid", "cancelled": "expired"}
"""Of hold invoices, in Core Lightning's three words."""
_KINDS = {20: "P2WPKH", 32: "P2WSH"}


async def invoice(context: Context, arguments: Arguments) -> Result:
    description: str = arguments["description"]
    request = CreateInvoice(
        amount_msat=arguments["amount_msat"],
        label=arguments["label"],
        description=description,
        expiry=arguments["expiry"],
        description_hash=sha256(description.encode()) if arguments["deschashonly"] else None,
        cltv=arguments["cltv"],
        expose_private=arguments["exposeprivatechannels"],
    )
    row: InvoiceRow = await context.bus.request("payments", request)
    result: Result = {
        "bolt11": row.bolt11,
        "payment_hash": row.payment_hash.hex(),
        "payment_secret": row.payment_secret.hex(),
        "expires_at": row.expires_at,
    }
    result.update(await _warnings(context, row, exposed=arguments["exposeprivatechannels"]))
    return result


async def _warnings(context: Context, row: InvoiceRow, *, exposed: bool | None) -> Result:
    """As Core Lightning names them: an invoice may be made before anybody can pay it."""
    warnings: Result = {}
    try:
        found: Receivable = await context.bus.request("payments", GetReceivable(), deadline=WARNING_SECONDS)
    except (CommandRefused, OutcomeUnknown):
        return warnings  # the invoice is made: that is what counts
    if row.amount_msat is not None and row.amount_msat > found.total_msat:
        warnings["warning_capacity"] = f"{found.total_msat} msat can come in now: {found.reason}"
    if exposed and not decode_bolt11(row.bolt11).route_hints:
        warnings["warning_private_unused"] = (
            "no private channel could be told of: its peer told no fees, or is away"
        )
    return warnings


def exposing(value: Any) -> bool:
    """A list of channels exposes all of them: which is best is seen when the invoice is made."""
    return (
        boolean(value) if isinstance(value, bool | str) and value in (True, False, "true", "false") else True
    )


async def waitanyinvoice(context: Context, arguments: Arguments) -> Result:
    seconds = arguments["timeout"]
    request = WaitAnyInvoice(arguments["lastpay_index"], None if seconds is None else float(seconds))
    deadline = FOR_EVER if seconds is None else seconds + 10.0
    row: InvoiceRow = await context.bus.request("payments", request, deadline=deadline)
    return invoice_object(row)


async def delinvoice(context: Context, arguments: Arguments) -> Result:
    request = DeleteInvoice(arguments["label"], arguments["status"], arguments["desconly"])
    row: InvoiceRow = await context.bus.request("payments", request)
    return invoice_object(row)


async def receivable(context: Context, _arguments: Arguments) -> Result:
    """Not one of Core Lightning's."""
    found: Receivable = await context.bus.request("payments", GetReceivable())
    return {
        "receivable_msat": found.total_msat,
        "largest_msat": found.largest_msat,
        "reason": found.reason,
    }


async def listinvoices(context: Context, arguments: Arguments) -> Result:
    given = [name for name in ("label", "invstring", "payment_hash") if arguments[name] is not None]
    if len(given) > 1:
        raise invalid_params(f"give one of label, invstring and payment_hash, not {' and '.join(given)}")
    request = ListInvoices(arguments["label"], arguments["payment_hash"], arguments["invstring"])
    found: Invoices = await context.bus.request("payments", request)
    return {"invoices": [invoice_object(row) for row in found.invoices]}


async def waitinvoice(context: Context, arguments: Arguments) -> Result:
    row: InvoiceRow = await context.bus.request(
        "payments", WaitInvoice(arguments["label"]), deadline=FOR_EVER
    )
    if row.status == "expired":
        raise RpcError(
            Code.INVOICE_EXPIRED_DURING_WAIT,
            f"the invoice {row.label!r} expired unpaid; make a new one",
            invoice_object(row),
        )
    return invoice_object(row)


def invoice_object(row: InvoiceRow) -> dict[str, Any]:
    result: dict[str, Any] = {
        "label": row.label,
        "bolt11": row.bolt11,
        "payment_hash": row.payment_hash.hex(),
        "description": row.description,
        "status": _STATUS.get(row.status, row.status),
        "expires_at": row.expires_at,
    }
    if row.amount_msat is not None:
        result["amount_msat"] = row.amount_msat
    if row.status == "paid":
        result["pay_index"] = row.pay_index
        result["amount_received_msat"] = row.received_msat
        result["paid_at"] = row.paid_at
        if row.preimage is not None:
            result["payment_preimage"] = row.preimage.hex()
    return result


async def decode(context: Context, arguments: Arguments) -> Result:
    try:
        read = decode_bolt11(arguments["string"])
    except MalformedMessage as error:
        raise invalid_params(f"string: {error}") from error
    return decoded_object(read, context.facts.network)


def decoded_object(read: Invoice, network: Network) -> dict[str, Any]:
    result: dict[str, Any] = {
        "type": "bolt11 invoice",
        "valid": True,
        "currency": read.prefix,
        "created_at": read.timestamp,
        "expiry": read.expiry,
        "payee": read.payee.hex(),
        "payment_hash": read.payment_hash.hex(),
        "payment_secret": read.payment_secret.hex(),
        "min_final_cltv_expiry": read.min_final_cltv_expiry_delta,
        "signature": read.signature.hex(),
    }
    if read.amount_msat is not None:
        result["amount_msat"] = read.amount_msat
    if read.description is not None:
        result["description"] = read.description
    if read.description_hash is not None:
        result["description_hash"] = read.description_hash.hex()
    if read.features:
        result["features"] = _bit_field(read.features).hex()
    if read.payment_metadata is not None:
        result["payment_metadata"] = read.payment_metadata.hex()
    if read.fallback_addresses:
        result["fallbacks"] = [_fallback(address, network) for address in read.fallback_addresses]
    if read.route_hints:
        result["routes"] = [[_hop(hop) for hop in hint] for hint in read.route_hints]
    return result


def _hop(hop: HopHint) -> dict[str, Any]:
    return {
        "pubkey": hop.node_id.hex(),
        "short_channel_id": format_scid(hop.short_channel_id),
        "fee_base_msat": hop.fee_base_msat,
        "fee_proportional_millionths": hop.fee_proportional_millionths,
        "cltv_expiry_delta": hop.cltv_expiry_delta,
    }


def _fallback(fallback: FallbackAddress, network: Network) -> dict[str, Any]:
    script = fallback.script_pubkey()
    result: dict[str, Any] = {"hex": script.hex()}
    kinds = {17: "P2PKH", 18: "P2SH", 0: _KINDS.get(len(fallback.program)), 1: "P2TR"}
    kind = kinds.get(fallback.version)
    if kind is not None:
        result["type"] = kind
    address = address_of(script, network)
    if address is not None:
        result["addr"] = address
    return result


def _bit_field(bits: frozenset[int]) -> bytes:
    value = sum(1 << bit for bit in bits)
    return value.to_bytes((value.bit_length() + 7) // 8, "big")


METHODS = (
    Method(
        "invoice",
        (
            Param("amount_msat", msat_or_any, REQUIRED),
            Param("label", label, REQUIRED),
            Param("description", text, REQUIRED),
            Param("expiry", integer(1, 2**32), WEEK),
            Param("fallbacks", not_offered("fallback addresses are not offered"), None),
            Param("preimage", not_offered("the signer draws the preimage"), None),
            Param("exposeprivatechannels", exposing, None),
            Param("cltv", integer(1, MAX_HTLC_CLTV), None),
            Param("deschashonly", boolean, False),
        ),
        invoice,
        "Make an invoice over an amount, or any.",
        "payment",
    ),
    Method(
        "listinvoices",
        (
            Param("label", label, None),
            Param("invstring", text, None),
            Param("payment_hash", hex_bytes(32), None),
            Param("offer_id", not_offered("offers come later"), None),
            Param("index", not_offered("all are listed, by age"), None),
            Param("start", not_offered("all are listed, by age"), None),
            Param("limit", not_offered("all are listed, by age"), None),
        ),
        listinvoices,
        "Invoices, all or the one that is named.",
        "payment",
    ),
    Method(
        "waitinvoice",
        (Param("label", label, REQUIRED),),
        waitinvoice,
        "Wait until an invoice is paid or expires.",
        "payment",
        waits=True,
    ),
    Method(
        "waitanyinvoice",
        (Param("lastpay_index", integer(0), 0), Param("timeout", integer(0), None)),
        waitanyinvoice,
        "Wait for the first invoice that is paid after the one with this pay_index.",
        "payment",
        waits=True,
    ),
    Method(
        "delinvoice",
        (
            Param("label", label, REQUIRED),
            Param("status", one_of("paid", "expired", "unpaid"), REQUIRED),
            Param("desconly", boolean, False),
        ),
        delinvoice,
        "Delete an invoice of which the status is as you say.",
        "payment",
    ),
    Method(
        "receivable",
        (),
        receivable,
        "How much could come in now, and what sets this limit.",
        "payment",
    ),
    Method("decode", (Param("string", text, REQUIRED),), decode, "What a BOLT 11 invoice says.", "utility"),
)
