"""`python -m tests.bench.paths`: path finding on the real graph, CPU time for each query; also part of `make bench`.

Aims are those of issue 5. Without the optional packages, or without the graph beside this checkout, less is measured.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

from node.routing.cost import FEES_ONLY, CostParameters
from node.routing.engines import has
from node.routing.graph import Graph
from node.routing.parts import SplittingEngine
from node.routing.query import Budget, Query
from node.routing.single import HeapEngine
from protocol.bus.messages.routing import Route
from tests.bench.measure import memory_mb
from tests.node.routing import mainnet

Row = tuple[str, float, str, str]
"""name, value, unit, aim"""

FULL = CostParameters()
AMOUNT = 50_000_000
LARGE_AMOUNT = 1_000_000_000
WORK = 10**9


def rows(count: int = 60) -> list[Row]:
    if not mainnet.present():
        return []
    graph = Graph()
    mainnet.read().load(graph)
    # One peer, and any: a search among several hubs ends early, at the nearest.
    single = mainnet.queries(graph, AMOUNT, count, peers=1, hubs=None)
    heap = HeapEngine()
    found = [
        *_load(),
        _median("path, fees alone, no extras", "25", single, lambda q: heap.find(q, FEES_ONLY, Budget(WORK))),
        _median("path, full cost, no extras", "60", single, lambda q: heap.find(q, FULL, Budget(WORK))),
    ]
    large = mainnet.queries(graph, LARGE_AMOUNT, max(count // 5, 6), spendable=0.4)
    split = SplittingEngine(heap)
    found.append(
        _median(
            "plan of 3 parts or more, no extras",
            "300",
            large,
            lambda q: split.find(q, FULL, Budget(WORK), 16),
        )
    )
    found.append(
        _median("the same for fees alone", "300", large, lambda q: split.find(q, FEES_ONLY, Budget(WORK), 16))
    )
    if has("numpy", "scipy", "ortools"):
        found += _with_extras(graph, heap, single, large)
    found.append(("load average beside path finding", os.getloadavg()[0], "", ""))
    return found


def _with_extras(graph: Graph, heap: HeapEngine, single: list[Query], large: list[Query]) -> list[Row]:
    from node.routing.columns import ColumnStore
    from node.routing.flow import FlowEngine
    from node.routing.vector import VectorEngine

    store = ColumnStore()
    vector, flow = VectorEngine(heap, store), FlowEngine(store)
    split = SplittingEngine(vector, large=flow)

    def after_gossip(query: Query) -> Any:
        graph.structure += 1  # as with a channel that came or went since the last search
        return vector.find(query, FULL, Budget(WORK))

    vector.find(single[0], FULL, Budget(WORK))
    return [
        _median(
            "path, fees alone, numpy and scipy",
            "5",
            single,
            lambda q: vector.find(q, FEES_ONLY, Budget(WORK)),
        ),
        _median(
            "path, full cost, numpy and scipy", "5", single, lambda q: vector.find(q, FULL, Budget(WORK))
        ),
        _median("path, full cost, numpy and scipy, a channel new", "", single, after_gossip),
        _median(
            "flow of 3 parts or more, ortools alone",
            "",
            large,
            lambda q: flow.find(q, FULL, Budget(WORK), 16),
        ),
        _median(
            "plan of 3 parts or more, ortools", "200", large, lambda q: split.find(q, FULL, Budget(WORK), 16)
        ),
    ]


def _median(name: str, aim: str, queries: Iterable[Query], find: Callable[[Query], Any]) -> Row:
    """CPU of those that found something, in milliseconds."""
    times = []
    for query in queries:
        began = time.process_time()
        found = find(query)
        passed = time.process_time() - began
        if isinstance(found, Route) or (isinstance(found, tuple) and len(found) >= 3):
            times.append(passed * 1000)
    if not times:
        raise RuntimeError(f"{name}: nothing was found")
    return name, statistics.median(times), "ms CPU", aim


def _load() -> list[Row]:
    """In a process of its own, so that the memory is the graph's alone."""
    output = subprocess.run(
        [sys.executable, "-m", "tests.bench.paths", "--load"], check=True, capture_output=True, text=True
    ).stdout
    seconds, megabytes = json.loads(output)
    return [
        ("mainnet graph, packed, to ready for searches", seconds, "s CPU", "0.6"),
        ("memory of the mainnet graph", megabytes, "MB", "60"),
    ]


def load() -> tuple[float, float]:
    packed = mainnet.read()
    gc.collect()
    before = memory_mb(os.getpid())
    graph = Graph()
    began = time.process_time()
    packed.load(graph)
    graph.core()
    return time.process_time() - began, memory_mb(os.getpid()) - before


def main() -> None:
    if "--load" in sys.argv:
        print(json.dumps(load()))
        return
    for name, value, unit, aim in rows():
        print(f"{name:50} {value:9.2f} {unit:7}" + (f" (aim {aim})" if aim else ""))


if __name__ == "__main__":
    main()
