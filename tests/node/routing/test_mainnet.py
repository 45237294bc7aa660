"""The engines against each other on the real graph of February 2026, beside this checkout."""

from functools import cache

import pytest

from node.routing import engines
from node.routing.cost import FEES_ONLY, CostParameters
from node.routing.graph import Graph
from node.routing.query import Budget, path_cost, plan_cost
from node.routing.single import HeapEngine
from protocol.bus.messages.routing import Route
from tests.node.routing import mainnet
from tests.node.routing.support import WORK
from tests.node.routing.test_engines import check, engine
from tests.support import need

FULL = CostParameters()


@cache
def real() -> Graph:
    graph = Graph()
    mainnet.read().load(graph)
    return graph


def _needs_extras() -> None:
    need("paths", engines.has("numpy", "scipy", "ortools"), "numpy, scipy and ortools are not installed")


@pytest.mark.parametrize("costs", [FEES_ONLY, FULL], ids=["fees", "full"])
@pytest.mark.parametrize("amount", [50_000_000, 1_000_000_000])
def test_heap_and_scipy_agree(amount: int, costs: CostParameters):
    """Costs at most 1.02 of the other's, either way round."""
    need("graph", mainnet.present(), "the mainnet graph is not beside this clone")
    _needs_extras()
    heap, scipy, found = HeapEngine(), engine("scipy"), 0
    for asked in mainnet.queries(real(), amount, 12):
        one = heap.find(asked, costs, Budget(WORK))
        other = scipy.finder.find(asked, costs, Budget(WORK))  # type: ignore[attr-defined]
        assert isinstance(one, Route) == isinstance(other, Route)
        if isinstance(one, Route) and isinstance(other, Route):
            found += 1
            costs_of = path_cost(asked, costs, one), path_cost(asked, costs, other)
            assert max(costs_of) <= 1.02 * min(costs_of) + 1
    assert found >= 8


def test_all_engines_plan_parts_that_can_be_paid():
    """None of our channels carries all of it, so each plan has at least two parts."""
    need("graph", mainnet.present(), "the mainnet graph is not beside this clone")
    _needs_extras()
    planned = 0
    for asked in mainnet.queries(real(), 2_000_000_000, 4, spendable=0.6):
        costs = {}
        for name in ("heap", "scipy", "min-cost flow"):
            routes = engine(name).find(asked, FULL, Budget(WORK), 16)
            if routes:
                assert len(check(asked, routes, 16)) >= 2
                costs[name] = plan_cost(asked, FULL, routes)
        if len(costs) == 3:
            planned += 1
            assert max(costs.values()) <= 2 * min(costs.values())
    assert planned >= 3


def test_the_core_loses_no_route():
    """With and without pruning the cheapest fees are the same."""
    need("graph", mainnet.present(), "the mainnet graph is not beside this clone")
    for asked in mainnet.queries(real(), 50_000_000, 4):
        pruned = HeapEngine().find(asked, FEES_ONLY, Budget(WORK))
        asked._core = bytearray(b"\1" * asked.size)
        whole = HeapEngine().find(asked, FEES_ONLY, Budget(WORK))
        assert isinstance(pruned, Route) and isinstance(whole, Route)
        assert pruned.fee_msat == whole.fee_msat
