"""`make bench`: two nodes with separate signers and durable writes; a table, and `out/bench.json`.

Aims, not limits: wall time on a shared machine varies threefold, so CPU per payment and the load stand beside it.
"""

import argparse
import os
import tempfile
from pathlib import Path

import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from node.demo.stack import Node, Stack, wait_for
from tests.bench import commitments, forward, gossip, lnd_pair, paths
from tests.bench.load import Load, run_load
from tests.bench.measure import fdatasync_ms, help_cpu_seconds, memory_mb
from tests.interop.peers.base import NotInstalled

ROOT = Path(__file__).resolve().parents[2]
CAPACITY = 16_000_000
IN_FLIGHT = 100
DUST_MSAT = 1_000
MORE_CHANNELS = 9


class Figure(Struct, frozen=True):
    name: str
    value: float
    unit: str
    aim: str = ""


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


def figures(load: Load, lone: Load, nodes: list[Node]) -> list[Figure]:
    payer, payee = load.shares
    found = [
        Figure(f"payments, one channel, {IN_FLIGHT} in flight", load.rate, "1/s", "400"),
        Figure("CPU per payment, four processes, in flight", load.cpu, "ms", "2.5"),
        Figure("  payer daemon", payer.cpu, "ms"),
        Figure("  payer signer", payer.signer_cpu, "ms"),
        Figure("  payee daemon", payee.cpu, "ms"),
        Figure("  payee signer", payee.signer_cpu, "ms"),
        Figure("latency in flight, median", load.median_ms, "ms"),
        Figure("latency of a lone payment, median", lone.median_ms, "ms", "15"),
    ]
    for side, alone, busy in zip(("payer", "payee"), lone.shares, load.shares, strict=True):
        found += [
            Figure(f"durable commits, lone payment, {side}", alone.commits, "", "3"),
            Figure(f"signer requests, lone payment, {side}", alone.requests, "", "4"),
            Figure(f"durable commits per payment in flight, {side}", busy.commits, ""),
            Figure(f"signer requests per payment in flight, {side}", busy.requests, ""),
        ]
    found.append(Figure("memory of a node", max(memory_mb(n.daemon.pid) for n in nodes), "MB", "120"))
    found.append(Figure("memory of a signer", max(memory_mb(n.signer.pid) for n in nodes), "MB", "60"))
    return found


def best_load(path: list[Node], options: argparse.Namespace, prefix: str, **more: int) -> Load:
    runs = [
        run_load(path, options.payments, IN_FLIGHT, f"{prefix}{number}-", **more)
        for number in range(options.best_of)
    ]
    return max(runs, key=lambda run: run.rate)


def lnd_rows() -> list[tuple[str, float, str, str]]:
    """Nothing where LND is not built (`make peers`)."""
    try:
        found = lnd_pair.run()
    except NotInstalled:
        return []
    cpu = found.payer_cpu + found.payee_cpu
    return [
        (f"LND pair: payments, one channel, {lnd_pair.IN_FLIGHT} in flight", found.rate, "1/s", ""),
        ("LND pair: CPU per payment, two processes", cpu, "ms", ""),
        ("LND pair: latency in flight, median", found.median_ms, "ms", ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, default=1500)
    parser.add_argument("--lone", type=int, default=60)
    parser.add_argument("--best-of", type=int, default=3)
    options = parser.parse_args()
    console = Console()
    with tempfile.TemporaryDirectory(prefix="lnp-bench-") as name, Stack(Path(name)) as stack:
        console.print("two nodes with their signers, and a chain")
        stack.start()
        open_channel(stack)
        path = list(stack.nodes.values())
        run_load(path, 100, 20, "warm")
        best = best_load(path, options, "load")
        lone = run_load(path, options.lone, 1, "lone")
        found = figures(best, lone, path)
        dust = best_load(path, options, "dust", amount_msat=DUST_MSAT)
        found.append(Figure("the same with 1 sat each (dust)", dust.rate, "1/s", "500"))
        found.append(Figure("  CPU per payment, four processes", dust.cpu, "ms"))
        for _ in range(MORE_CHANNELS):
            open_channel(stack)
        many = best_load(path, options, "many")
        found.append(Figure(f"payments over {1 + MORE_CHANNELS} channels", many.rate, "1/s", "600"))
        found.append(Figure("  CPU per payment, four processes", many.cpu, "ms"))
        found.append(Figure("CPU of lnp --help", help_cpu_seconds(), "s", "0.3"))
        found.append(Figure("fdatasync of 4 KB here, median", fdatasync_ms(Path(name)), "ms"))
    for what, part in (
        ("three nodes in a row", forward.rows),
        ("rounds of a channel", commitments.rows),
        ("paths in the real graph", paths.rows),
        ("gossip", gossip.rows),
        ("two LNDs under the same load", lnd_rows),
    ):
        console.print(what)
        found += [Figure(*row) for row in part()]
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
