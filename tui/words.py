"""Amounts, times and names as people read them; text of strangers without what could steer a terminal."""

import time

from protocol.amounts import ShortChannelId, format_scid
from protocol.bus.messages.events import (
    BlockNow,
    ChainLink,
    ChannelMoved,
    ChannelRow,
    CoinSeen,
    Event,
    ForwardNow,
    InvoiceNow,
    LogLine,
    PaymentNow,
    PeerRow,
    SignerRow,
    WalletNow,
)

BLOCK_MINUTES = 10
STATES = {
    "CHANNELD_AWAITING_LOCKIN": "opening",
    "CHANNELD_NORMAL": "open",
    "CHANNELD_SHUTTING_DOWN": "shutting down",
    "CLOSINGD_SIGEXCHANGE": "agreeing on the close",
    "CLOSINGD_COMPLETE": "closed together, confirming",
    "AWAITING_UNILATERAL": "closing alone",
    "CLOSED": "closed",
    "ONCHAIN": "on chain",
}


def plain(text: object) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def sats(msat: int) -> str:
    whole, rest = divmod(msat, 1000)
    return f"{whole:,}.{rest:03d}" if rest else f"{whole:,}"


def whole_sats(msat: int) -> str:
    return f"{msat // 1000:,}"


def short(text: str, most: int = 16) -> str:
    """Both ends of an id: people compare those."""
    if len(text) <= most:
        return text
    head = (most - 1 + 1) // 2
    return f"{text[:head]}…{text[-(most - 1 - head) :]}"


def state(name: str) -> str:
    return STATES.get(name, name.lower().replace("_", " "))


def scid(value: int | None) -> str:
    return "" if value is None else format_scid(ShortChannelId(value))


def duration(seconds: float) -> str:
    seconds = int(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3_600:
        return f"{seconds // 60} min"
    if seconds < 48 * 3_600:
        return f"{seconds // 3_600} h"
    return f"{seconds // 86_400} d"


def blocks(count: int) -> str:
    """A number of blocks, and about how long that is."""
    noun = "block" if count == 1 else "blocks"
    return f"{count:,} {noun} (about {duration(max(0, count) * BLOCK_MINUTES * 60)})"


def clock(seconds: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(seconds))


def date(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def bar(local: int, total: int, width: int) -> tuple[str, str]:
    """Ours and theirs. A side with anything at all shows at least one cell."""
    if total <= 0:
        return "", "·" * width
    cells = round(width * local / total)
    if local > 0:
        cells = max(1, cells)
    if local < total:
        cells = min(width - 1, cells)
    return "█" * cells, "░" * (width - cells)


def payment_outcome(row: PaymentNow) -> str:
    """Never "failed" while it may still succeed."""
    if row.status == "complete":
        return "paid"
    if row.status == "failed":
        return "failed"
    return f"unknown until block {row.unknown_until:,}" if row.unknown_until else "unknown yet"


def describe(event: Event) -> str:
    """One line for an event."""
    return plain(_describe(event))


def _describe(event: Event) -> str:
    what = event.what
    match what:
        case PaymentNow():
            told = f"payment of {whole_sats(what.amount_msat)} sat to {short(what.destination.hex())}"
            ending = f": {what.error}" if what.error else ""
            return f"{told} {payment_outcome(what)}{ending}"
        case InvoiceNow():
            amount = what.received_msat if what.status == "paid" else what.amount_msat
            over = "any amount" if amount is None else f"{whole_sats(amount)} sat"
            return f"invoice {what.label} over {over} {what.status}"
        case ChannelMoved():
            why = f": {what.why}" if what.why else ""
            return f"channel {short(what.channel_id.hex())} is {state(what.new)}{why}"
        case ForwardNow():
            fee = "" if what.fee_msat is None else f", fee {sats(what.fee_msat)} sat"
            ending = f": {what.reason}" if what.reason else ""
            status = what.status.replace("_", " ")
            return f"forward of {whole_sats(what.in_msat)} sat {status}{fee}{ending}"
        case PeerRow():
            if what.connected:
                return f"peer {short(what.node_id.hex())} up over {what.road or 'tcp'}"
            return f"peer {short(what.node_id.hex())} down: {what.reason or 'no reason given'}"
        case BlockNow():
            return f"block {what.height:,}"
        case ChainLink():
            return "the chain backend answers" if what.up else f"the chain backend is away: {what.reason}"
        case CoinSeen():
            return f"coin of {what.value:,} sat in block {what.height:,}"
        case LogLine():
            return f"{what.level}: {what.event} {what.text}"
        case SignerRow():
            return "the signer answers" if what.up else f"the signer is away: {what.reason}"
        case WalletNow():
            return f"{what.confirmed:,} sat on chain"
        case ChannelRow():
            return f"channel {short(what.channel_id.hex())}"
