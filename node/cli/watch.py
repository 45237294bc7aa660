"""`lnp watch`: one line an event; JSON, one object a line, when piped."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from node.cli import client
from node.cli.client import Refused, Unknown

Row = dict[str, Any]


def events(path: Path, params: Any) -> Iterator[Row]:
    """Until the daemon hangs up (Unknown) or refuses (Refused)."""
    request = {"jsonrpc": "2.0", "id": "lnp:watch", "method": "watch", "params": params}
    with client.connect(path) as connection:
        connection.sendall(json.dumps(request).encode())
        buffer = b""
        while True:
            data = connection.recv(1 << 16)
            if not data:
                raise Unknown("the daemon hung up")
            *whole, buffer = (buffer + data).split(b"\n\n")
            for text in whole:
                reply = json.loads(text)
                if "error" in reply:
                    raise Refused(reply["error"])
                yield reply["result"]


def run(path: Path, params: Any, *, as_json: bool) -> None:
    for row in events(path, params):
        line = json.dumps(row, ensure_ascii=True) if as_json else describe(row)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


def describe(row: Row) -> str:
    when = time.strftime("%H:%M:%S", time.localtime(row["time"])) if "time" in row else "--:--:--"
    write = _WORDS.get(row["kind"])
    text = write(row) if write is not None else json.dumps(row)
    # What strangers chose (labels, reasons) must not steer the terminal.
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return f"{when} {row['seq']:>6} {row['kind']:<13} {clean}"


def _sat(msat: int | None) -> str:
    return "any amount" if msat is None else f"{msat // 1000:,} sat"


def _short(text: str) -> str:
    return f"{text[:12]}…" if len(text) > 13 else text


def _channel(row: Row) -> str:
    htlcs = row["offered_htlcs"] + row["received_htlcs"]
    away = "" if row["connected"] else " (away)"
    return (
        f"{_short(row['channel_id'])} {row['state']}{away} ours {_sat(row['to_us_msat'])}, can send "
        f"{_sat(row['spendable_msat'])}, HTLCs {htlcs}"
    )


def _payment(row: Row) -> str:
    text = f"{_short(row['payment_hash'])} {_sat(row['amount_msat'])} to {_short(row['destination'])}: "
    if row["status"] == "pending":
        until = row["unknown_until"]
        return text + "on its way" + (f", unknown until block {until:,}" if until else "")
    return text + (f"{row['status']}: {row['error']}" if row["error"] else row["status"])


def _invoice(row: Row) -> str:
    amount = row["received_msat"] if row["status"] == "paid" else row["amount_msat"]
    return f"{row['label']!r} {row['status']} {_sat(amount)}"


def _forward(row: Row) -> str:
    onto = f" to {_short(row['out_channel'])}" if row["out_channel"] else ""
    fee = f", fee {row['fee_msat']} msat" if row["fee_msat"] is not None else ""
    why = f": {row['reason']}" if row["reason"] else ""
    return f"{_sat(row['in_msat'])} from {_short(row['in_channel'])}{onto} {row['status']}{fee}{why}"


def _peer(row: Row) -> str:
    if row["connected"]:
        return f"{_short(row['node_id'])} up, {row['address']} {row['road']}"
    return f"{_short(row['node_id'])} down: {row['reason'] or 'no reason given'}"


_WORDS: dict[str, Callable[[Row], str]] = {
    "channel": _channel,
    "channel_state": lambda row: f"{_short(row['channel_id'])} {row['old']} to {row['new']}: {row['why']}",
    "payment": _payment,
    "invoice": _invoice,
    "forward": _forward,
    "peer": _peer,
    "block": lambda row: f"{row['height']:,} {row['block_hash'][-16:]}",
    "chain": lambda row: "the chain backend answers" if row["up"] else f"the chain is away: {row['reason']}",
    "signer": lambda row: f"up, {row['requests']:,} requests" if row["up"] else f"away: {row['reason']}",
    "wallet": lambda row: (
        f"{row['confirmed']:,} sat confirmed, {row['unconfirmed']:,} not yet, {row['reserved']:,} reserved"
    ),
    "coin": lambda row: f"{row['value']:,} sat in block {row['height']:,}",
    "log": lambda row: f"{row['level']} {row['event']} {row['text']}",
    "gap": lambda _row: "events were lost here: this line was too slow, or the daemon was restarted",
}
