"""All engines on small graphs: each part exact, the whole within the limits, and none much dearer than another."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.routing import engines
from node.routing.cost import FEES_ONLY, CostParameters
from node.routing.engines import Engine, Engines, explained
from node.routing.graph import Graph
from node.routing.parts import SplittingEngine
from node.routing.query import Budget, Query, Unfit, path_cost, plan_cost
from node.routing.single import HeapEngine
from protocol.bolt11.invoice import HopHint
from protocol.bus.messages.routing import FirstHop, Route
from tests.node.routing.support import WORK, at, exact, first, graphs, node, put, query, ways
from tests.support import need

FULL = CostParameters()
NAMES = ("heap", "scipy", "min-cost flow")


def engine(name: str) -> Engine:
    heap = HeapEngine()
    if name == "heap":
        return SplittingEngine(heap)
    need("paths", engines.has("numpy", "scipy", "ortools"), "numpy, scipy and ortools are not installed")
    from node.routing.columns import ColumnStore
    from node.routing.flow import FlowEngine
    from node.routing.vector import VectorEngine

    store = ColumnStore()
    vector = VectorEngine(heap, store)
    return SplittingEngine(vector) if name == "scipy" else FlowEngine(store)


def diamond(capacity: int = 1_000) -> Graph:
    """1 -> 2 -> 9 and 1 -> 3 -> 9, all channels of the same size, and the second way a little dearer."""
    graph = Graph()
    for number, (tail, head, base) in enumerate(((1, 2, 0), (2, 9, 0), (1, 3, 10), (3, 9, 10)), 1):
        put(graph, number, tail, head, base=base, capacity=capacity)
    return graph


def check(asked: Query, parts: Iterable[Route], max_parts: int) -> tuple[Route, ...]:
    """Whatever found them: together they pay the amount, and no channel is asked for more than it takes."""
    routes = tuple(parts)
    assert sum(route.amount_msat for route in routes) == asked.amount
    assert len(routes) <= max_parts
    assert sum(route.fee_msat for route in routes) <= asked.max_fee
    load: dict[int, int] = {}
    for route in routes:
        assert route.hops[0].delay <= asked.max_delay and route.hops[-1].delay == asked.final_delay
        for before, hop in zip(route.hops, route.hops[1:], strict=False):
            key = hop.short_channel_id << 1 | hop.direction
            load[key] = load.get(key, 0) + hop.amount_msat
            found = asked.graph.edge(key)
            if found is not None:
                _, _, base, ppm, cltv, least, most, room = asked.replaced.get(key, found[0])
                assert least <= hop.amount_msat <= most and load[key] < room
                assert before.amount_msat - hop.amount_msat == base + hop.amount_msat * ppm // 1_000_000
                assert before.delay - hop.delay == cltv
        key = route.hops[0].short_channel_id
        load[-key] = load.get(-key, 0) + route.hops[0].amount_msat
    for hops in asked.first.values():
        for ours in hops:
            assert load.get(-ours.short_channel_id, 0) <= ours.spendable_msat
    return routes


@pytest.mark.parametrize("name", NAMES)
def test_what_no_single_path_carries_goes_in_parts(name: str):
    asked = query(diamond(), 9, 1_500_000, first(1))
    assert engine(name).find(asked, FULL, Budget(WORK), 1) == ()
    routes = check(asked, engine(name).find(asked, FULL, Budget(WORK), 16), 16)
    assert {way for route in routes for way in ways(route)} == {900, 1, 2, 3, 4}


@pytest.mark.parametrize("name", NAMES)
def test_our_channels_are_used_together(name: str):
    graph = diamond(10_000)
    asked = query(graph, 9, 1_500_000, first(2, number=901, spendable=800_000), first(3, spendable=800_000))
    routes = check(asked, engine(name).find(asked, FULL, Budget(WORK), 4), 4)
    assert {ways(route)[0] for route in routes} == {900, 901}


@pytest.mark.parametrize("name", NAMES)
def test_no_parts_are_found_where_nothing_carries_the_amount(name: str):
    asked = query(diamond(), 9, 2_500_000, first(1))
    assert engine(name).find(asked, FULL, Budget(WORK), 16) == ()


@pytest.mark.parametrize("name", NAMES)
def test_parts_keep_the_fee_limit_of_the_whole(name: str):
    graph = diamond()
    asked = query(graph, 9, 1_500_000, first(1), max_fee=19)
    assert engine(name).find(asked, FULL, Budget(WORK), 16) == ()
    asked = query(graph, 9, 1_500_000, first(1), max_fee=20)
    check(asked, engine(name).find(asked, FULL, Budget(WORK), 2), 2)


@pytest.mark.parametrize("name", NAMES)
def test_bounds_and_exclusions_hold_for_all_parts(name: str):
    graph = diamond()
    put(graph, 5, 1, 4, capacity=5_000, base=500)
    put(graph, 6, 4, 9, capacity=5_000, base=500)
    notes = {at(2) << 1: (0, 100_000, 0.0, 0)}
    asked = query(graph, 9, 1_500_000, first(1), notes=notes, banned=[at(3) << 1])
    routes = check(asked, engine(name).find(asked, FULL, Budget(WORK), 16), 16)
    carried = sum(hop.amount_msat for route in routes for hop in route.hops if hop.short_channel_id == at(2))
    assert carried < 100_000 and not any(3 in ways(route) for route in routes)


@pytest.mark.parametrize("name", NAMES)
def test_parts_lead_through_hints(name: str):
    graph = diamond(10_000)
    chains = [(HopHint(node(2), at(70), 5, 0, 9),), (HopHint(node(3), at(71), 5, 0, 9),)]
    asked = query(graph, 60, 1_500_000, first(1), hints=chains)
    routes = check(asked, engine(name).find(asked, FULL, Budget(WORK), 16), 16)
    assert all(route.hops[-1].node_id == node(60) for route in routes)
    assert all(route.hops[-2].amount_msat - route.hops[-1].amount_msat == 5 for route in routes)


@pytest.mark.parametrize("name", NAMES)
def test_terms_that_a_failure_told_of_are_used(name: str):
    graph = diamond(10_000)
    found = graph.edge(at(2) << 1)
    assert found is not None
    edge = found[0]
    dearer = (edge[0], edge[1], 700, *edge[3:])
    asked = query(graph, 9, 1_000, first(1), replaced={edge[1]: dearer})
    (route,) = check(asked, engine(name).find(asked, FULL, Budget(WORK), 2), 2)
    assert ways(route) == [900, 3, 4]


@pytest.mark.parametrize("name", NAMES)
def test_a_direct_channel_with_the_payee_needs_no_graph(name: str):
    asked = query(Graph(), 9, 1_000, first(9))
    (route,) = check(asked, engine(name).find(asked, FULL, Budget(WORK), 2), 2)
    assert ways(route) == [900] and route.fee_msat == 0


def test_a_likely_single_path_is_not_split():
    asked = query(diamond(100_000), 9, 1_000_000, first(1))
    assert len(SplittingEngine(HeapEngine()).find(asked, FULL, Budget(WORK), 16)) == 1


def test_an_unlikely_single_path_is_split_when_that_is_better():
    asked = query(diamond(), 9, 950_000, first(1))
    routes = SplittingEngine(HeapEngine()).find(asked, FULL, Budget(WORK), 16)
    single = HeapEngine().find(asked, FULL, Budget(WORK))
    assert isinstance(single, Route) and len(routes) == 2
    assert plan_cost(asked, FULL, routes) < path_cost(asked, FULL, single)


def test_small_graphs_never_import_an_extra():
    ours = Engines()
    assert not ours.due(engines.LARGE - 1)
    assert ours.for_graph(engines.LARGE - 1).name == "heap"


def test_without_the_extras_the_default_serves_large_graphs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(engines, "has", lambda *_packages: False)
    ours = Engines()
    ours.load()
    assert ours.for_graph(10**6).name == "heap"


def test_the_default_serves_large_graphs_until_the_extras_are_loaded():
    need("paths", engines.has("numpy", "scipy"), "numpy and scipy are not installed")
    ours = Engines()
    assert ours.due(engines.LARGE) and not ours.due(engines.LARGE)
    assert ours.for_graph(engines.LARGE).name == "heap"
    ours.load()
    assert ours.for_graph(engines.LARGE).name == "scipy"
    assert ours.for_graph(engines.LARGE - 1).name == "heap"


def test_a_route_says_why_it_was_chosen():
    asked = query(diamond(), 9, 1_000, first(1))
    (route,) = SplittingEngine(HeapEngine()).find(asked, FULL, Budget(WORK), 1)
    why = explained(route, "heap", 1).why
    assert "3 channels" in why and "0 msat" in why and "98 blocks" in why and "heap" in why and "%" in why


_AMOUNTS = st.integers(2_000, 60_000_000)


@settings(max_examples=60)
@given(graphs(), _AMOUNTS, st.integers(2, 7))
def test_scipy_finds_what_the_exact_search_finds(graph: Graph, amount: int, payee: int):
    """Fees at most 1.02 of the optimum on the same knowledge (and a msat, for amounts are whole)."""
    asked = query(graph, payee, amount, first(1))
    best = exact(asked, lambda route: route.fee_msat)
    found = engine("scipy").find(asked, FEES_ONLY, Budget(WORK), 1)
    assert bool(found) == (best is not None)
    if best is not None:
        assert found[0].fee_msat <= 1.02 * best.fee_msat + 1


@settings(max_examples=60)
@given(
    graphs(),
    st.integers(100_000, 900_000_000),
    st.integers(2, 7),
    st.integers(1, 8),
    st.sampled_from(NAMES),
    st.integers(0, 10**7),
)
def test_every_plan_can_be_paid_as_it_stands(
    graph: Graph, amount: int, payee: int, max_parts: int, name: str, max_fee: int
):
    hops: tuple[FirstHop, ...] = (first(1, spendable=amount), first(2, number=901, spendable=amount // 2))
    asked = query(graph, payee, amount, *hops, max_fee=max_fee)
    routes = engine(name).find(asked, FULL, Budget(WORK), max_parts)
    if routes:
        check(asked, routes, max_parts)


_CHANGES = st.lists(
    st.tuples(
        st.integers(0, 16),
        st.integers(1, 6),
        st.integers(2, 7),
        st.integers(0, 9_000),
        st.sampled_from((0, 2, None)),
    ).filter(lambda change: change[1] != change[2]),
    max_size=12,
)


@settings(max_examples=60)
@given(graphs(), _CHANGES, _AMOUNTS, st.integers(2, 7), st.sampled_from((2, 4_096)))
def test_what_gossip_changes_between_searches_is_seen_by_all(
    graph: Graph, changes: list[tuple[int, int, int, int, int | None]], amount: int, payee: int, edits: int
):
    """New terms, channels that go and come, directions off and on, and more of them than are remembered one by one."""
    scipy, heap = engine("scipy"), engine("heap")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("node.routing.graph._EDITS", edits)
        for number, one, other, base, flags in changes:
            if flags is None:
                graph.drop_channel(at(number))
            else:
                put(graph, number, one, other, base=base, flags=flags)
            asked = query(graph, payee, amount, first(1))
            found = scipy.find(asked, FEES_ONLY, Budget(WORK), 1)
            same = heap.find(asked, FEES_ONLY, Budget(WORK), 1)
            assert [route.fee_msat for route in found] == pytest.approx(
                [r.fee_msat for r in same], abs=1, rel=0.02
            )


def test_a_price_names_the_channel_at_fault():
    graph = diamond()
    asked = query(graph, 9, 1_000, first(1))
    found = asked.price(first(1), [], 1_000)
    assert isinstance(found, Route)  # a path of our channel alone
    edge = graph.edge(at(1) << 1)
    assert edge is not None
    refused = asked.price(first(1), [edge], 2_000_000)
    assert isinstance(refused, Unfit) and refused.key == at(1) << 1
