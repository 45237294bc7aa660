"""Payments from one node to another, so many at a time, and what they cost each node on the way."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from node.demo.stack import Node, wait_for
from tests.bench.measure import cost

AMOUNT_MSAT = 1_000_000
"""Above dust: each HTLC has its own output and signatures."""


class Share(Struct, frozen=True):
    """What one node spent on each payment: CPU in milliseconds, durable commits, requests to its signer."""

    cpu: float
    signer_cpu: float
    commits: float
    requests: float

    @property
    def both_cpu(self) -> float:
        return self.cpu + self.signer_cpu


class Load(Struct, frozen=True):
    """`shares`: of each node of the path, the payer first."""

    rate: float
    median_ms: float
    shares: tuple[Share, ...]

    @property
    def cpu(self) -> float:
        return sum(share.both_cpu for share in self.shares)


async def call(socket: str, method: str, params: dict[str, Any]) -> Any:
    reader, writer = await asyncio.open_unix_connection(socket, limit=1 << 24)
    writer.write(json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode())
    raw = await reader.readuntil(b"\n\n")
    writer.close()
    answer = json.loads(raw)
    if "error" in answer:
        raise RuntimeError(f"{method}: {answer['error']['message']}")
    return answer["result"]


async def invoices(payee: Node, count: int, prefix: str, amount_msat: int) -> list[str]:
    async def one(number: int) -> str:
        params = {"amount_msat": amount_msat, "label": f"{prefix}{number}", "description": "bench"}
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


def settled(nodes: Sequence[Node]) -> bool:
    return not any(channel["htlcs"] for node in nodes for channel in node.channels())


def run_load(
    path: Sequence[Node], count: int, workers: int, prefix: str, *, amount_msat: int = AMOUNT_MSAT
) -> Load:
    """The first of `path` pays the last; those between are only measured."""
    texts = asyncio.run(invoices(path[-1], count, prefix, amount_msat))
    wait_for("the line to be quiet", lambda: settled(path))
    before = [cost(node) for node in path]
    seconds, latencies = asyncio.run(pay_all(path[0], texts, workers))
    wait_for("the last HTLC to settle", lambda: settled(path))
    spent = [cost(node).since(was) for node, was in zip(path, before, strict=True)]
    shares = tuple(
        Share(
            one.daemon_cpu / count * 1000,
            one.signer_cpu / count * 1000,
            one.commits / count,
            one.requests / count,
        )
        for one in spent
    )
    return Load(count / seconds, sorted(latencies)[len(latencies) // 2] * 1000, shares)
