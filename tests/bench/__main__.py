"""`make bench`: two nodes with separate signers and durable writes; a table, and `out/bench.json`.

Aims, not limits: wall time on a shared machine varies threefold, so CPU per payment and the load stand beside it.
"""

import argparse
import asyncio
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from node.demo.stack import Node, Stack, wait_for
from tests.bench import gossip, paths
from tests.bench.measure import cost, fdatasync_ms, help_cpu_seconds, memory_mb

ROOT = Path(__file__).resolve().parents[2]
CAPACITY = 16_000_000
AMOUNT_MSAT = 1_000_000
IN_FLIGHT = 100


class Figure(Struct, frozen=True):
    name: str
    value: float
    unit: str
    aim: str = ""


async def call(socket: str, method: str, params: dict[str, Any]) -> Any:
    reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 24)
    writer.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())
    raw = await reader.readuntil(b"\n\n")
    writer.close()
    answer = json.loads(raw)
    if "error" in answer:
        raise RuntimeError(f"{method}: {answer['error']['message']}")
    return answer["result"]


async def invoices(payee: Node, count: int, prefix: str) -> list[str]:
    async def one(number: int) -> str:
        params = {"amount_msat": AMOUNT_MSAT, "label": f"{prefix}{number}", "description": "bench"}
        made: dict[str, str] = await call(str(payee.socket), "invoice", params)
        return made["bolt11"]

    texts: list[str] = []
    for start in range(0, count, 50):
        texts += await asyncio.gather(*(one(n) for n in range(start, min(start + 50, count))))
    return texts


async def pay_all(payer: Node, texts: list[str], workers: int) -> tuple[float, list[float]]:
    """Seconds for all, and the latency of each."""
    waiting = iter(texts)
    latencies: list[float] = []
    loop = asyncio.get_running_loop()

    async def worker() -> None:
        for bolt11 in waiting:
            began = loop.time()
            paid = await call(str(payer.socket), "xpay", {"invstring": bolt11})
            if not paid["payment_preimage"]:
                raise RuntimeError("paid without a preimage")
            latencies.append(loop.time() - began)

    began = loop.time()
    await asyncio.gather(*(worker() for _ in range(workers)))
    return loop.time() - began, latencies


def settled(nodes: list[Node]) -> bool:
    return not any(channel["htlcs"] for node in nodes for channel in node.channels())


def run_load(stack: Stack, count: int, workers: int, prefix: str) -> dict[str, float]:
    payer, payee = stack.nodes["alice"], stack.nodes["bob"]
    texts = asyncio.run(invoices(payee, count, prefix))
    wait_for("the line to be quiet", lambda: settled([payer, payee]))
    before = cost(payer), cost(payee)
    seconds, latencies = asyncio.run(pay_all(payer, texts, workers))
    wait_for("the last HTLC to settle", lambda: settled([payer, payee]))
    one, two = cost(payer).since(before[0]), cost(payee).since(before[1])
    return {
        "rate": count / seconds,
        "median_ms": sorted(latencies)[len(latencies) // 2] * 1000,
        "payer_cpu": one.daemon_cpu / count * 1000,
        "payer_signer_cpu": one.signer_cpu / count * 1000,
        "payee_cpu": two.daemon_cpu / count * 1000,
        "payee_signer_cpu": two.signer_cpu / count * 1000,
        "payer_commits": one.commits / count,
        "payer_requests": one.requests / count,
        "payee_commits": two.commits / count,
        "payee_requests": two.requests / count,
    }


def open_channel(stack: Stack) -> None:
    payer, payee = stack.nodes["alice"], stack.nodes["bob"]
    stack.chain.fund(payer.call("newaddr")["bech32"], 2 * CAPACITY)
    stack.chain.mine(1)
    wait_for("the coins", lambda: any(o["status"] == "confirmed" for o in payer.call("listfunds")["outputs"]))
    payer.call("connect", f"{payee.node_id}@{payee.address}")
    payer.call("fundchannel", payee.node_id, CAPACITY)
    stack.chain.mine(3)
    wait_for(
        "the channel",
        lambda: all(c["state"] == "CHANNELD_NORMAL" for n in (payer, payee) for c in n.channels()),
    )


def figures(load: dict[str, float], lone: dict[str, float], nodes: list[Node]) -> list[Figure]:
    cpu = sum(load[key] for key in ("payer_cpu", "payer_signer_cpu", "payee_cpu", "payee_signer_cpu"))
    found = [
        Figure(
            f"payments, one channel, {IN_FLIGHT} in flight", load["rate"], "1/s", "250 now, 400 in the end"
        ),
        Figure("CPU per payment, four processes, in flight", cpu, "ms", "2.5"),
        Figure("  payer daemon", load["payer_cpu"], "ms"),
        Figure("  payer signer", load["payer_signer_cpu"], "ms"),
        Figure("  payee daemon", load["payee_cpu"], "ms"),
        Figure("  payee signer", load["payee_signer_cpu"], "ms"),
        Figure("latency in flight, median", load["median_ms"], "ms"),
        Figure("latency of a lone payment, median", lone["median_ms"], "ms", "25 now, 15 in the end"),
    ]
    for side in ("payer", "payee"):
        found += [
            Figure(f"durable commits, lone payment, {side}", lone[f"{side}_commits"], "", "3"),
            Figure(f"signer requests, lone payment, {side}", lone[f"{side}_requests"], "", "4"),
            Figure(f"durable commits per payment in flight, {side}", load[f"{side}_commits"], ""),
            Figure(f"signer requests per payment in flight, {side}", load[f"{side}_requests"], ""),
        ]
    found.append(Figure("memory of a node", max(memory_mb(n.daemon.pid) for n in nodes), "MB", "120"))
    found.append(Figure("memory of a signer", max(memory_mb(n.signer.pid) for n in nodes), "MB", "60"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, default=1500)
    parser.add_argument("--lone", type=int, default=60)
    parser.add_argument("--best-of", type=int, default=3)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="lnp-bench-") as name, Stack(Path(name)) as stack:
        console.print("starting two nodes with their signers, and a chain")
        stack.start()
        open_channel(stack)
        run_load(stack, 100, 20, "warm")
        runs = []
        for number in range(options.best_of):
            runs.append(run_load(stack, options.payments, IN_FLIGHT, f"load{number}-"))
            console.print(f"  {options.payments} payments, {IN_FLIGHT} in flight: {runs[-1]['rate']:.0f}/s")
        lone = run_load(stack, options.lone, 1, "lone")
        best = max(runs, key=lambda run: run["rate"])
        found = figures(best, lone, list(stack.nodes.values()))
        found.append(Figure("CPU of lnp --help", help_cpu_seconds(), "s", "0.3"))
        found.append(Figure("fdatasync of 4 KB here, median", fdatasync_ms(Path(name)), "ms"))
        found += [Figure(*row) for row in paths.rows()]
        found += [Figure(*row) for row in gossip.rows()]
        found.append(Figure("load average", os.getloadavg()[0], ""))
    table = Table("what", "value", "unit", "aim")
    for figure in found:
        table.add_row(figure.name, f"{figure.value:.2f}", figure.unit, figure.aim)
    console.print(table)
    out = ROOT / "out"
    out.mkdir(exist_ok=True)
    plain = [{"name": f.name.strip(), "value": f.value, "unit": f.unit} for f in found]
    (out / "bench.json").write_bytes(msgspec.json.format(msgspec.json.encode(plain)))
    console.print("written to out/bench.json")


if __name__ == "__main__":
    main()
