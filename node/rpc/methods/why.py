"""why: what happened to a channel, a payment or a sweep, and what comes of it (issue 4, item 5)."""

import time
from collections.abc import Iterable
from typing import Any

from node.rpc.errors import Code, RpcError
from node.rpc.methods import ask
from node.rpc.params import REQUIRED, Arguments, Param, text
from node.rpc.table import Context, Method, Result
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.chain import GetTip, Tip
from protocol.bus.messages.channel import ChannelInfo, HtlcInfo
from protocol.bus.messages.payments import (
    InvoiceRow,
    Invoices,
    ListInvoices,
    ListParts,
    ListPayments,
    PartRow,
    Parts,
    PaymentRow,
    Payments,
)
from protocol.bus.messages.why import (
    BECAUSE,
    HAPPENED,
    NEXT,
    NOW,
    PARTS,
    YOU,
    Answer,
    Line,
    ListWarnings,
    Warned,
    Warnings,
    Why,
    time_of,
)
from protocol.errors import CommandRefused

TIP_SECONDS = 2.0
PARTS_TOLD = 10


async def why(context: Context, arguments: Arguments) -> Result:
    selector = arguments["selector"].strip().lower()
    answer: Answer | None = await context.bus.request("channel", Why(selector))
    if answer is None and _is_hash(selector):
        answer = await _payment(context, bytes.fromhex(selector))
    if answer is None:
        raise RpcError(
            Code.INVALID_PARAMS,
            f"{selector[:80]!r} is no channel, payment or sweep of this node. `lnp listpeerchannels`, `lnp listpays`"
            " and `lnp listinvoices` show their ids",
        )
    return answer_object(answer)


async def warnings(context: Context) -> tuple[Warned, ...]:
    """Empty while the channel service does not answer: `getinfo` must."""
    try:
        found: Warnings = await context.bus.request("channel", ListWarnings(), deadline=TIP_SECONDS)
    except (CommandRefused, OutcomeUnknown):
        return ()
    return found.warnings


def answer_object(answer: Answer) -> dict[str, Any]:
    """`text`: the same for whoever reads it without a table."""
    lines = [_line_object(line) for line in answer.lines]
    words = [answer.title, *(f"{line['about']}: {line['text']}{_when(line)}" for line in lines)]
    return {
        "lines": lines,
        "kind": answer.kind,
        "subject": answer.subject,
        "title": answer.title,
        "text": "\n".join(words),
    }


def _line_object(line: Line) -> dict[str, Any]:
    found: dict[str, Any] = {"about": line.about, "text": line.text}
    if line.height is not None:
        found["blockheight"] = line.height
    if line.at is not None:
        found["time"] = line.at
    return found


def _when(line: dict[str, Any]) -> str:
    words = []
    if "blockheight" in line:
        words.append(f"block {line['blockheight']}")
    if "time" in line:
        words.append(time.strftime("%Y-%m-%d %H:%M", time.localtime(line["time"])))
    return f" ({', about '.join(words) if len(words) == 2 else words[0]})" if words else ""


def _is_hash(selector: str) -> bool:
    return len(selector) == 64 and all(c in "0123456789abcdef" for c in selector)


# Payments, out and in.


async def _payment(context: Context, payment_hash: bytes) -> Answer | None:
    request = ListPayments(payment_hash=payment_hash)
    paid: Payments = await context.bus.request("payments", request)
    made: Invoices = await context.bus.request("payments", ListInvoices(payment_hash=payment_hash))
    if not paid.payments and not made.invoices:
        return None
    parts: Parts = await context.bus.request("payments", ListParts(payment_hash))
    tip: Tip = await context.bus.request("chain", GetTip())
    now = time.time()
    lines: list[Line] = []
    for row in paid.payments:
        lines += _sent(row)
    for invoice in made.invoices:
        lines += _received(invoice, now)
    lines += _tried(parts.parts)
    for channel in await ask.channels(context):
        lines += [
            _htlc(channel, htlc, tip, now) for htlc in channel.htlcs if htlc.payment_hash == payment_hash
        ]
    lines.sort(key=lambda line: PARTS.index(line.about))
    status = paid.payments[-1].status if paid.payments else made.invoices[-1].status
    title = f"payment {payment_hash.hex()}: {status}"
    return Answer("payment", payment_hash.hex(), title, tuple(lines))


def _sent(row: PaymentRow) -> list[Line]:
    lines = [
        Line(HAPPENED, f"we began to pay {row.amount_msat} msat to {row.destination.hex()}", at=row.created)
    ]
    match row.status:
        case "complete":
            fee = row.amount_sent_msat - row.amount_msat
            lines.append(
                Line(
                    HAPPENED, f"it arrived, for a fee of {fee} msat; the preimage proves it", at=row.completed
                )
            )
        case "failed":
            lines.append(Line(HAPPENED, "it failed: nothing was paid", at=row.completed))
            lines.append(Line(BECAUSE, row.error or "the reason was not kept"))
            lines.append(Line(YOU, "Pay the invoice again: nothing can be paid twice."))
        case _:
            lines.append(Line(NOW, "its end is not known yet: an HTLC is on the way"))
            lines.append(Line(YOU, "Wait. Paying the invoice again is safe and waits for the same payment."))
    return lines


def _received(row: InvoiceRow, now: float) -> list[Line]:
    lines = [Line(HAPPENED, f"we made the invoice {row.label!r}", at=row.created or None)]
    match row.status:
        case "paid":
            lines.append(Line(HAPPENED, f"{row.received_msat} msat came in", at=row.paid_at))
        case "expired":
            lines.append(Line(BECAUSE, "nobody paid it before it expired", at=row.expires_at))
            lines.append(Line(YOU, "Make a new invoice."))
        case "accepted":
            lines.append(Line(NOW, "its HTLCs are here and wait for the word to settle"))
        case _:
            lines.append(Line(NEXT, "it can be paid until it expires", at=row.expires_at))
    return lines


def _tried(parts: Iterable[PartRow]) -> list[Line]:
    """The newest of them, each with what was said of it."""
    lines = []
    for part in list(parts)[-PARTS_TOLD:]:
        fee = part.amount_sent_msat - part.amount_msat
        text = f"part {part.id} of {part.amount_msat} msat for a fee of {fee} msat: {part.status}"
        about = HAPPENED
        if part.error:
            text, about = f"{text}: {part.error}", BECAUSE
        if part.hold_times:
            held = ", ".join(f"{one / 10:.1f} s" for one in part.hold_times)
            text = f"{text}; its nodes say that they held it for {held}"
        lines.append(Line(about, text, at=part.completed or part.created))
    return lines


def _htlc(channel: ChannelInfo, htlc: HtlcInfo, tip: Tip, now: float) -> Line:
    way = "out through" if htlc.offered else "in through"
    text = (
        f"an HTLC of {htlc.amount_msat} msat {way} channel {channel.channel_id.hex()} ({htlc.state}) ends at the"
        f" latest at block {htlc.cltv_expiry}; `lnp why {channel.channel_id.hex()}` tells how"
    )
    return Line(NEXT, text, htlc.cltv_expiry, time_of(htlc.cltv_expiry, tip.height, now))


METHODS = (
    Method(
        "why",
        (Param("selector", text, REQUIRED),),
        why,
        "Why a channel, a payment (its hash) or a sweep (its txid) is as it is, and what comes of it.",
        "utility",
    ),
)
