"""Plans in several parts against the least fees there are: an integer program over all paths of small networks."""

from collections.abc import Iterator
from random import Random

import pytest

from node.routing import engines
from node.routing.cost import FEES_ONLY
from node.routing.engines import Engine
from node.routing.graph import Graph
from node.routing.parts import SplittingEngine
from node.routing.query import Budget, Query
from node.routing.residual import ResidualEngine
from node.routing.single import HeapEngine
from tests.node.routing.support import WORK, at, every_path, first, put, query, ways
from tests.node.routing.test_engines import check, engine
from tests.simulation.exact import Path, least_fee
from tests.support import need

ALL = "all extras"
AIM = 1.02
BASE = 1_100
NODES = 7
PAYEE = 6


def planner(name: str) -> Engine:
    """The engines as they serve: the flow by ortools never stands alone."""
    if name != ALL:
        return engine(name)
    scipy, flow = engine("scipy"), engine("min-cost flow")
    return SplittingEngine(scipy.finder, large=flow)  # type: ignore[attr-defined]


def network(random: Random) -> Graph:
    """Channels of 100,000 to 2 million sat with the terms that are common."""
    graph = Graph()
    for number in range(11):
        one, other = random.sample(range(1, NODES), 2)
        capacity = random.randrange(100_000, 2_000_000)
        for tail, head in ((one, other), (other, one)):
            base, ppm = random.choice((0, 0, 100, 1000)), random.choice((0, 1, 10, 50, 200, 500, 1500))
            put(graph, number, tail, head, base=base, ppm=ppm, capacity=capacity)
    return graph


def question(random: Random) -> Query:
    amount = random.randrange(100_000_000, 3_000_000_000)
    peers = random.sample(range(1, PAYEE), 2)
    hops = [
        first(peer, number=900 + n, spendable=int(amount * random.uniform(0.3, 1.2)))
        for n, peer in enumerate(peers)
    ]
    return query(network(random), PAYEE, amount, *hops, max_fee=10**10)


def paths(asked: Query) -> Iterator[Path]:
    for hop, steps in every_path(asked, NODES):
        rise, base, over = 1.0, 0.0, []
        for edge, _ in reversed(steps):
            over.append((edge[1], rise, base, edge[7] - 1, edge[6]))
            factor = 1 + edge[3] / 1e6
            rise, base = rise * factor, base * factor + edge[2]
        yield Path(-hop.short_channel_id, tuple(over), rise, base)


def least(asked: Query, max_parts: int) -> float | None:
    spendable = {-hop.short_channel_id: hop.spendable_msat for hops in asked.first.values() for hop in hops}
    return least_fee(list(paths(asked)), spendable, asked.amount, max_parts)


@pytest.mark.parametrize("name", ["heap", "scipy", ALL])
def test_parts_cost_at_most_1_02_of_the_least_fees(name: str):
    """Where no single path will do. Each plan too, but for a base fee more or less, which no flow can weigh."""
    need("paths", engines.has("numpy", "scipy", "ortools"), "numpy, scipy and ortools are not installed")
    asking = planner(name)
    planned, fees, least_fees = 0, 0, 0.0
    for seed in range(120):
        asked = question(Random(seed))
        best = least(asked, 16)
        routes = asking.find(asked, FEES_ONLY, Budget(WORK), 16)
        assert bool(routes) == (best is not None), seed
        if best is None or len(routes) == 1:
            continue
        check(asked, routes, 16)
        here = sum(route.fee_msat for route in routes)
        assert best - 20 <= here <= AIM * best + BASE, seed
        planned, fees, least_fees = planned + 1, fees + here, least_fees + best
    assert planned >= 50
    assert fees <= AIM * least_fees


def test_going_path_by_path_alone_would_be_seen():
    """The rule can fail: halves, each along its cheapest path, cost more than that."""
    need("paths", engines.has("scipy"), "scipy is not installed")
    halves = SplittingEngine(HeapEngine())
    fees, least_fees = 0, 0.0
    for seed in range(120):
        asked = question(Random(seed))
        routes = halves._split(asked, FEES_ONLY, Budget(WORK), 16, -(-asked.amount // 2))
        best = least(asked, 16) if routes else None
        if best is not None:
            fees += sum(route.fee_msat for route in routes)
            least_fees += best
    assert fees > 1.1 * least_fees


@pytest.mark.parametrize("name", ["heap", "scipy", ALL])
def test_few_parts_are_enough_where_few_are_allowed(name: str):
    """Five ways, the cheaper the narrower: the more parts are allowed, the less it costs."""
    graph = Graph()
    for way in range(5):
        put(graph, way, 1, 2 + way, ppm=100 * way, capacity=1_000 * (way + 1))
        put(graph, 10 + way, 2 + way, 9, capacity=1_000 * (way + 1))
    fees = []
    for max_parts in (2, 3, 4, 5):
        asked = query(graph, 9, 7_500_000, first(1))
        routes = check(asked, planner(name).find(asked, FEES_ONLY, Budget(WORK), max_parts), max_parts)
        fees.append(sum(route.fee_msat for route in routes))
    assert fees == [2_400, 1_550, 1_250, 1_250]


def test_money_planned_for_a_channel_is_taken_back_when_another_needs_it_more():
    """The cheapest way leads over the channel between 2 and 3; both channels can be filled only without it."""
    graph = Graph()
    put(graph, 1, 1, 2, ppm=10, capacity=1_000)
    put(graph, 2, 2, 3, capacity=1_000)
    put(graph, 3, 3, 9, ppm=10, capacity=1_000)
    put(graph, 4, 1, 3, ppm=300, capacity=1_000)
    put(graph, 5, 2, 9, ppm=300, capacity=1_000)
    asked = query(graph, 9, 1_900_000, first(1, number=900, spendable=2_000_000))
    routes = check(asked, ResidualEngine().find(asked, FEES_ONLY, Budget(WORK), 16), 16)
    carried = {tuple(ways(route)): route.amount_msat for route in routes}
    assert carried[900, 1, 5] + carried[900, 4, 3] >= 1_800_000
    assert carried.get((900, 1, 2, 3), 0) <= 100_000


def test_a_part_that_is_not_worth_its_base_fees_is_left_out():
    graph = Graph()
    for number, (tail, head) in enumerate(((1, 2), (2, 9), (1, 3), (3, 9))):
        put(graph, number, tail, head, base=0, ppm=100 + number, capacity=1_000)
    put(graph, 7, 1, 4, base=900, capacity=1_000)
    put(graph, 8, 4, 9, capacity=1_000)
    asked = query(graph, 9, 1_500_000, first(1))
    routes = check(asked, ResidualEngine().find(asked, FEES_ONLY, Budget(WORK), 16), 16)
    assert len(routes) == 2 and not any(7 in ways(route) for route in routes)


def test_two_parts_may_fill_a_channel_as_one_may():
    """All of the payee's channel is needed, and none of ours has enough: a small chance, but it is there."""
    graph = Graph()
    put(graph, 1, 1, 2, capacity=1_000)
    put(graph, 2, 2, 9, capacity=1_000)
    put(graph, 3, 3, 2, capacity=1_000)
    hops = (first(1, number=900, spendable=600_000), first(3, number=901, spendable=600_000))
    asked = query(graph, 9, 1_000_000, *hops)
    check(asked, ResidualEngine().find(asked, FEES_ONLY, Budget(WORK), 2), 2)
    taught = {at(2) << 1: (0, 1_000_001, 0.0, 0)}
    assert not ResidualEngine().find(
        query(graph, 9, 1_000_000, *hops, notes=taught), FEES_ONLY, Budget(WORK), 2
    )
