"""Results as a person reads them in a terminal: tables for lists, a card for the node.

Labels, descriptions and reasons come from strangers. They are shown as plain text, without markup or control
characters.
"""

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console, RenderableType
from rich.json import JSON
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

BAR = 20
_STATUS_STYLE = {"paid": "green", "complete": "green", "expired": "dim", "failed": "red", "pending": "yellow"}


def render(method: str, result: Any, console: Console) -> None:
    view = _VIEWS.get(method)
    if view is None or not isinstance(result, dict):
        console.print(JSON.from_data(result))
        return
    for part in view(result):
        console.print(part)


def plain(value: object, style: str = "") -> Text:
    """What control characters would do to a terminal is not for a stranger to choose."""
    text = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))
    return Text(text, style=style)


def sats(msat: int) -> str:
    whole, rest = divmod(msat, 1000)
    return f"{whole:,}.{rest:03d}" if rest else f"{whole:,}"


def bar(local_msat: int, total_msat: int, width: int = BAR) -> Text:
    """Ours on the left, theirs on the right. A side with anything at all shows at least one cell."""
    if total_msat <= 0:
        return Text("·" * width, style="dim")
    cells = round(width * local_msat / total_msat)
    if local_msat > 0:
        cells = max(1, cells)
    if local_msat < total_msat:
        cells = min(width - 1, cells)
    return Text.assemble(("█" * cells, "green"), ("░" * (width - cells), "blue"))


def _table(*columns: str) -> Table:
    """A column whose name ends in `>` is of numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left")
    return table


def _when(seconds: int | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _short(text: str) -> str:
    return text if len(text) <= 19 else f"{text[:8]}…{text[-8:]}"


def _empty(rows: list[Any], what: str) -> list[RenderableType]:
    return [] if rows else [Text(what, style="dim")]


def _getinfo(result: dict[str, Any]) -> list[RenderableType]:
    table = Table.grid(padding=(0, 2))
    table.add_row(Text("node id", style="bold"), plain(result["id"]))
    table.add_row(
        Text("network", style="bold"), plain(f"{result['network']} at block {result['blockheight']:,}")
    )
    channels = (
        f"{result['num_active_channels']} active, {result['num_pending_channels']} pending, "
        f"{result['num_inactive_channels']} inactive"
    )
    table.add_row(Text("channels", style="bold"), plain(channels))
    table.add_row(Text("peers", style="bold"), plain(f"{result['num_peers']} connected"))
    for address in result.get("address", []):
        table.add_row(Text("address", style="bold"), plain(f"{address['address']}:{address['port']}"))
    for road in result.get("roads", []):
        table.add_row(Text("road", style="bold"), _road(road))
    for warning in result.get("warning_channels", []):
        table.add_row(Text("warning", style="bold yellow"), plain(warning))
    table.add_row(Text("version", style="bold"), plain(result["version"]))
    return [Panel(table, title=plain(result["alias"]), title_align="left", expand=False)]


def _road(road: dict[str, Any]) -> Text:
    words = [f"{road['name']} {road['state']}"]
    if "inbound" in road:
        words.append(f"our onion is {road['inbound']}" if road["name"] == "tor" else road["inbound"])
    if "what" in road:
        words.append(road["what"])
    style = {"up": "green", "starting": "yellow"}.get(road["state"], "red")
    return plain("; ".join(words), "yellow" if "what" in road and style == "green" else style)


def _listpeers(result: dict[str, Any]) -> list[RenderableType]:
    table = _table("peer", "state", "channels>", "road", "address")
    for peer in result["peers"]:
        state = Text("connected", style="green") if peer["connected"] else Text("away", style="yellow")
        address = ", ".join(peer.get("netaddr", []))
        table.add_row(
            plain(peer["id"]), state, str(peer["num_channels"]), plain(peer.get("road", "")), plain(address)
        )
    return _empty(result["peers"], "No peers. `lnp connect ID@HOST:PORT` makes one.") or [table]


def _listpeerchannels(result: dict[str, Any]) -> list[RenderableType]:
    table = _table("channel", "peer", "state", "ours sat>", "", "theirs sat>", "can send>", "can receive>")
    for channel in result["channels"]:
        total, ours = channel["total_msat"], channel["to_us_msat"]
        usable = channel["state"] == "CHANNELD_NORMAL" and channel["peer_connected"]
        state = channel["state"] if channel["peer_connected"] else f"{channel['state']} (away)"
        table.add_row(
            plain(channel.get("short_channel_id") or _short(channel["channel_id"])),
            plain(_short(channel["peer_id"])),
            plain(state, "green" if usable else "yellow"),
            sats(ours),
            bar(ours, total),
            sats(total - ours),
            sats(channel["spendable_msat"]),
            sats(channel["receivable_msat"]),
        )
    return _empty(result["channels"], "No channels. `lnp fundchannel ID SATOSHI` opens one.") or [table]


def _listfunds(result: dict[str, Any]) -> list[RenderableType]:
    coins = _table("coin", "sat>", "status", "address")
    for output in result["outputs"]:
        status = f"{output['status']}, reserved" if output["reserved"] else output["status"]
        coins.add_row(
            plain(f"{_short(output['txid'])}:{output['output']}"),
            sats(output["amount_msat"]),
            plain(status),
            plain(output.get("address", "")),
        )
    free = sum(
        o["amount_msat"] for o in result["outputs"] if o["status"] == "confirmed" and not o["reserved"]
    )
    ours = sum(channel["our_amount_msat"] for channel in result["channels"])
    summary = f"{sats(free)} sat on chain and free, {sats(ours)} sat in {len(result['channels'])} channels"
    parts: list[RenderableType] = [Text(summary, style="bold")]
    if "warning_rescan" in result:
        parts.append(Text(result["warning_rescan"], style="bold yellow"))
    if result["outputs"]:
        parts.append(coins)
    if result["channels"]:
        table = _table("channel", "peer", "ours sat>", "of sat>", "state")
        for channel in result["channels"]:
            table.add_row(
                plain(channel.get("short_channel_id") or _short(channel["channel_id"])),
                plain(_short(channel["peer_id"])),
                sats(channel["our_amount_msat"]),
                sats(channel["amount_msat"]),
                plain(channel["state"]),
            )
        parts.append(table)
    return parts


def _listinvoices(result: dict[str, Any]) -> list[RenderableType]:
    table = _table("label", "sat>", "status", "received sat>", "expires or paid", "description")
    for invoice in result["invoices"]:
        amount, received = invoice.get("amount_msat"), invoice.get("amount_received_msat")
        table.add_row(
            plain(invoice["label"]),
            "any" if amount is None else sats(amount),
            plain(invoice["status"], _STATUS_STYLE.get(invoice["status"], "")),
            "" if received is None else sats(received),
            _when(invoice.get("paid_at") or invoice["expires_at"]),
            plain(invoice.get("description", "")),
        )
    return _empty(result["invoices"], "No invoices. `lnp invoice AMOUNT LABEL DESCRIPTION` makes one.") or [
        table
    ]


def _listpays(result: dict[str, Any]) -> list[RenderableType]:
    table = _table("created", "sat>", "status", "to", "label", "why")
    for payment in result["pays"]:
        table.add_row(
            _when(payment["created_at"]),
            sats(payment.get("amount_msat", 0)),
            plain(payment["status"], _STATUS_STYLE.get(payment["status"], "")),
            plain(_short(payment.get("destination", ""))),
            plain(payment.get("label", "")),
            plain(payment.get("error", "")),
        )
    return _empty(result["pays"], "No payments.") or [table]


_ABOUT = {
    "happened": "What happened",
    "because": "Why",
    "now": "Now",
    "next": "What the node will do",
    "you": "What you can do",
}


def _why(result: dict[str, Any]) -> list[RenderableType]:
    parts: list[RenderableType] = [plain(result["title"], "bold")]
    for about, title in _ABOUT.items():
        lines = [line for line in result["lines"] if line["about"] == about]
        if not lines:
            continue
        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(style="dim", no_wrap=True)
        table.add_column()
        for line in lines:
            block = f"block {line['blockheight']:,}" if "blockheight" in line else ""
            table.add_row(
                plain(" ".join(filter(None, (block, _when(line.get("time")))))), plain(line["text"])
            )
        parts += [Text(title, style="bold"), table]
    return parts


def _help(result: dict[str, Any]) -> list[RenderableType]:
    table = _table("command", "what it does")
    for method in sorted(result["help"], key=lambda entry: (entry["category"], entry["command"])):
        table.add_row(plain(method["command"], "bold"), plain(method["description"]))
    return [table]


_VIEWS: dict[str, Callable[[dict[str, Any]], list[RenderableType]]] = {
    "getinfo": _getinfo,
    "listpeers": _listpeers,
    "listpeerchannels": _listpeerchannels,
    "listfunds": _listfunds,
    "listinvoices": _listinvoices,
    "listpays": _listpays,
    "why": _why,
    "help": _help,
}
