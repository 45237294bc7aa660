"""`python -m tests.bench.lnd_pair`: the load of `make bench` on two LNDs instead of ours, for comparison.

One channel, 100 payments in flight, one process each, on the embedded chain; LND is the one that `make interop`
builds, with its own defaults for the database (bbolt, synced with each commit). What steers it is a thread for each
payment in flight with a connection of its own; what that costs is counted apart.
"""

import argparse
import http.client
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from msgspec import Struct

from node.demo.stack import Chain, wait_for
from tests.bench.measure import cpu_seconds
from tests.interop.network_world import b64
from tests.interop.peers.base import NotInstalled
from tests.interop.peers.lnd_peer import Lnd

CAPACITY = 16_000_000
AMOUNT_MSAT = 1_000_000
IN_FLIGHT = 100
PAYMENTS = 500


class LndPair(Struct, frozen=True):
    """CPU in milliseconds for each payment."""

    rate: float
    median_ms: float
    payer_cpu: float
    payee_cpu: float


class _Line:
    """One connection that is kept open."""

    def __init__(self, port: int) -> None:
        self._line = http.client.HTTPConnection("127.0.0.1", port, timeout=120)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self._line.request("POST", path, json.dumps(body).encode())
        lines = self._line.getresponse().read().splitlines()
        last: dict[str, Any] = json.loads(lines[-1])
        if "error" in last or "code" in last:
            raise RuntimeError(f"{path}: {last}")
        found: dict[str, Any] = last.get("result", last)
        return found


def _open(chain: Chain, payer: Lnd, payee: Lnd) -> None:
    payer.fund(2 * CAPACITY)
    payer.connect(payee.node_id, payee.address)
    wait_for("the connection", lambda: payer.connected(payee.node_id))
    payer.post(
        "/v1/channels",
        node_pubkey=b64(payee.node_id),
        local_funding_amount=str(CAPACITY),
        sat_per_vbyte="2",
        private=True,
    )
    wait_for("the funding", lambda: chain.call("getrawmempool"))
    chain.mine(6)
    wait_for("the channel", lambda: all(_usable(lnd) for lnd in (payer, payee)))


def _usable(lnd: Lnd) -> bool:
    return any(view.usable for view in lnd.channels())


def _load(payer: Lnd, payee: Lnd, count: int, workers: int) -> LndPair:
    waiting: Iterator[str] = iter(_invoices(payee, count, workers))
    latencies: list[float] = []

    def worker(_: int) -> None:
        line = _Line(payer.rest_port)
        for (
            bolt11
        ) in waiting:  # next() on a list's iterator is one step of the interpreter: no two get the same
            began = time.monotonic()
            order = {"payment_request": bolt11, "timeout_seconds": 60, "fee_limit_msat": "0", "max_parts": 1}
            end = line.post("/v2/router/send", {**order, "no_inflight_updates": True})
            if end["status"] != "SUCCEEDED":
                raise RuntimeError(f"LND did not pay: {end['failure_reason']}")
            latencies.append(time.monotonic() - began)

    wait_for("the line to be quiet", lambda: not _pending(payer, payee))
    before = cpu_seconds(payer.program.pid), cpu_seconds(payee.program.pid)
    began = time.monotonic()
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(worker, range(workers)))
    seconds = time.monotonic() - began
    wait_for("the last HTLC to settle", lambda: not _pending(payer, payee))
    after = cpu_seconds(payer.program.pid), cpu_seconds(payee.program.pid)
    return LndPair(
        rate=count / seconds,
        median_ms=sorted(latencies)[len(latencies) // 2] * 1000,
        payer_cpu=(after[0] - before[0]) / count * 1000,
        payee_cpu=(after[1] - before[1]) / count * 1000,
    )


def _invoices(payee: Lnd, count: int, workers: int) -> list[str]:
    def some(numbers: range) -> list[str]:
        line = _Line(payee.rest_port)
        order = {"value_msat": str(AMOUNT_MSAT), "memo": "bench"}
        return [line.post("/v1/invoices", order)["payment_request"] for _ in numbers]

    with ThreadPoolExecutor(workers) as pool:
        parts = pool.map(some, (range(start, count, workers) for start in range(workers)))
        return [bolt11 for part in parts for bolt11 in part]


def _pending(*lnds: Lnd) -> int:
    return sum(view.pending for lnd in lnds for view in lnd.channels())


def run(payments: int = PAYMENTS, in_flight: int = IN_FLIGHT, best_of: int = 1) -> LndPair:
    """Raises NotInstalled where LND is not built. Takes about 20 seconds beside the payments."""
    Lnd.install()
    folder = Path(tempfile.mkdtemp(prefix="lnp-lnd-pair-"))
    chain = Chain(folder)
    nodes: list[Lnd] = []
    try:
        chain.start()
        for name in ("payer", "payee"):
            (folder / name).mkdir()
            nodes.append(Lnd(folder / name, chain))
            nodes[-1].extra = ("--debuglevel=error",)
            nodes[-1].start()
        payer, payee = nodes
        _open(chain, payer, payee)
        _load(payer, payee, 50, 20)
        return max(
            (_load(payer, payee, payments, in_flight) for _ in range(best_of)), key=lambda one: one.rate
        )
    finally:
        for lnd in nodes:
            lnd.stop()
        chain.stop()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--payments", type=int, default=PAYMENTS)
    parser.add_argument("--in-flight", type=int, default=IN_FLIGHT)
    parser.add_argument("--best-of", type=int, default=3)
    options = parser.parse_args()
    try:
        found = run(options.payments, options.in_flight, options.best_of)
    except NotInstalled as error:
        print(f"no LND here: {error}")
        return
    print(
        f"LND pair: {found.rate:.0f} payments/s with {options.in_flight} in flight, median {found.median_ms:.0f} ms, "
        f"CPU {found.payer_cpu + found.payee_cpu:.1f} ms a payment ({found.payer_cpu:.1f} payer, "
        f"{found.payee_cpu:.1f} payee)"
    )


if __name__ == "__main__":
    main()
