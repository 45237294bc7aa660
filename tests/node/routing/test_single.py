"""The default engine against an exact search of every path, and its limits one by one (BOLT 7; BOLT 4)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.routing.cost import FEES_ONLY, CostParameters
from node.routing.graph import Graph
from node.routing.query import Budget, Query, Unfit, WorkExhausted, path_cost
from node.routing.single import HeapEngine
from protocol.bolt11.invoice import HopHint
from protocol.bus.messages.routing import Route
from tests.node.routing.support import (
    WORK,
    at,
    cheapest,
    exact,
    first,
    graphs,
    node,
    put,
    query,
    ways,
)

FULL = CostParameters()


def line(
    *, cltv: int = 40, base: int = 1000, ppm: int = 10_000, least: int = 0, most: int | None = None
) -> Graph:
    """1 -> 2 -> 3; the second channel has the terms that are given."""
    graph = Graph()
    put(graph, 1, 1, 2, base=500, cltv=10)
    put(graph, 2, 2, 3, base=base, ppm=ppm, cltv=cltv, least=least, most=most)
    return graph


def find(asked: Query, costs: CostParameters = FEES_ONLY) -> Route | Unfit | None:
    return HeapEngine().find(asked, costs, Budget(WORK))


def test_amounts_and_delays_grow_from_the_destination_to_us():
    """BOLT 7, HTLC Fees: base + amount x ppm / 1,000,000 of what the hop passes on; each adds its delta."""
    route = cheapest(query(line(), 3, 1_000_000, first(1), final_delay=18))
    assert [(hop.node_id, hop.amount_msat, hop.delay) for hop in route.hops] == [
        (node(1), 1_011_500, 68),
        (node(2), 1_011_000, 58),
        (node(3), 1_000_000, 18),
    ]
    assert (route.amount_msat, route.fee_msat) == (1_000_000, 11_500)
    assert [hop.direction for hop in route.hops] == [0, 0, 0]


def test_our_own_channel_charges_nothing():
    graph = Graph()
    put(graph, 1, 1, 2, base=700)
    route = cheapest(query(graph, 2, 1000, first(1)))
    assert route.fee_msat == 700 and len(route.hops) == 2


def test_our_own_channels_in_the_graph_are_not_used_in_place_of_those_we_offer():
    graph = line()
    put(graph, 3, 0, 3)
    put(graph, 4, 1, 0)
    assert ways(cheapest(query(graph, 3, 1000, first(1)))) == [900, 1, 2]


@pytest.mark.parametrize(("amount", "fits"), [(4_999, False), (5_000, True), (9_000, True), (9_001, False)])
def test_htlc_minimum_and_maximum_hold_for_what_the_channel_carries(amount: int, fits: bool):
    graph = line(base=0, ppm=0, least=5_000, most=9_000)
    assert isinstance(find(query(graph, 3, amount, first(1))), Route) == fits


def test_the_maximum_counts_the_fees_of_later_hops():
    graph = Graph()
    put(graph, 1, 1, 2, most=10_000)
    put(graph, 2, 2, 3, base=1)
    assert find(query(graph, 3, 10_000, first(1))) is None
    assert isinstance(find(query(graph, 3, 9_999, first(1))), Route)


def test_the_first_hop_carries_the_fees_too():
    graph = line(base=1000, ppm=0)
    assert find(query(graph, 3, 5_000, first(1, spendable=6_499))) is None
    assert isinstance(find(query(graph, 3, 5_000, first(1, spendable=6_500))), Route)
    assert find(query(graph, 3, 5_000, first(1, least=6_501))) is None
    assert find(query(graph, 3, 5_000, first(1, slots=0))) is None


def test_of_two_channels_with_a_peer_the_one_with_most_to_spend_is_taken():
    hops = (first(1, number=900, spendable=50_000), first(1, number=901, spendable=90_000))
    assert ways(cheapest(query(line(), 3, 5_000, *hops)))[0] == 901


def test_a_path_that_locks_the_money_too_long_is_not_taken():
    asked = query(line(cltv=1000), 3, 1000, first(1), max_delay=1027)
    assert not isinstance(find(asked), Route)
    assert cheapest(query(line(cltv=1000), 3, 1000, first(1), max_delay=1028)).hops[0].delay == 1028


def test_a_dear_but_quick_path_is_found_when_the_cheap_one_takes_too_long():
    graph = line(cltv=2000, base=0, ppm=0)
    put(graph, 3, 2, 3, base=100, cltv=20)
    assert ways(cheapest(query(graph, 3, 1000, first(1), max_delay=200))) == [900, 1, 3]


def test_excluded_channels_and_nodes_are_not_used():
    graph = line(base=0, ppm=0)
    key = at(2) << 1
    put(graph, 3, 2, 3, base=100)
    put(graph, 4, 1, 4)
    put(graph, 5, 4, 3, base=900)
    assert ways(cheapest(query(graph, 3, 1000, first(1), banned=[key]))) == [900, 1, 3]
    assert ways(cheapest(query(graph, 3, 1000, first(1), closed=[node(2)]))) == [900, 4, 5]
    assert ways(cheapest(query(graph, 3, 1000, first(1), banned=[key | 1]))) == [900, 1, 2]
    ours = at(900) << 1
    assert find(query(graph, 3, 1000, first(1), banned=[ours])) is None


def test_no_more_hops_than_an_onion_holds():
    graph = Graph()
    for number in range(1, 21):
        put(graph, number, number, number + 1)
    assert len(cheapest(query(graph, 20, 1000, first(1))).hops) == 20
    assert isinstance(find(query(graph, 21, 1000, first(1))), Unfit)
    assert isinstance(find(query(graph, 10, 1000, first(1), max_hops=9)), Unfit)


def test_hints_lead_to_a_node_that_the_graph_does_not_know():
    chain = (HopHint(node(3), at(70), 100, 0, 30), HopHint(node(60), at(71), 10, 0, 5))
    route = cheapest(query(line(base=0, ppm=0), 61, 1000, first(1), hints=[chain], final_delay=9))
    assert ways(route) == [900, 1, 2, 70, 71]
    assert [hop.amount_msat for hop in route.hops] == [1610, 1110, 1110, 1010, 1000]
    assert [hop.delay for hop in route.hops] == [9 + 5 + 30 + 40 + 10, 84, 44, 14, 9]
    assert route.hops[-1].node_id == node(61) and route.hops[-2].node_id == node(60)


def test_a_hint_that_starts_at_our_peer_needs_no_graph():
    chain = (HopHint(node(50), at(70), 100, 0, 30),)
    assert ways(cheapest(query(Graph(), 61, 1000, first(50), hints=[chain]))) == [900, 70]
    assert find(query(Graph(), 61, 1000, first(49), hints=[chain])) is None


def test_what_is_announced_counts_more_than_a_hint_for_the_same_channel():
    chain = (HopHint(node(2), at(2), 5, 5, 5),)
    assert cheapest(query(line(base=1000, ppm=0), 3, 1000, first(1), hints=[chain])).fee_msat == 1500


def test_we_pay_ourselves_round_trip_and_never_by_the_channel_we_left_by():
    graph = Graph()
    put(graph, 900, 1, 0, base=1)
    put(graph, 901, 2, 0, base=50)
    put(graph, 3, 1, 2, base=5)
    hops = (first(1, number=900), first(2, number=901))
    assert ways(cheapest(query(graph, 0, 1000, hops[0]))) == [900, 3, 901]
    assert find(query(graph, 0, 1000, hops[1])) is None  # no way from 2 to 1
    put(graph, 3, 2, 1, base=7)
    assert ways(cheapest(query(graph, 0, 1000, *hops))) == [901, 3, 900]


def test_two_channels_with_one_peer_are_a_round_trip():
    graph = Graph()
    put(graph, 900, 1, 0, base=1)
    put(graph, 901, 1, 0, base=2)
    assert ways(cheapest(query(graph, 0, 1000, first(1, number=900)))) == [900, 901]


def test_a_search_ends_when_its_work_is_used_up():
    with pytest.raises(WorkExhausted):
        HeapEngine().find(query(line(), 3, 1000, first(1)), FEES_ONLY, Budget(1))


def test_known_bounds_are_kept_to():
    graph = line(base=0, ppm=0)
    put(graph, 3, 2, 3, base=100)
    key = at(2) << 1
    failed = {key: (0, 1000, 5.0, 0)}
    assert ways(cheapest(query(graph, 3, 1000, first(1), notes=failed, now=5.0))) == [900, 1, 3]
    assert ways(cheapest(query(graph, 3, 500, first(1), notes=failed, now=5.0))) == [900, 1, 2]
    years = query(graph, 3, 1000, first(1), notes=failed, now=1e8)
    assert ways(cheapest(years)) == [900, 1, 2]


def test_what_is_in_flight_is_taken_off():
    graph = line(base=0, ppm=0)
    put(graph, 3, 2, 3, base=100)
    flying = {at(2) << 1: (0, 1 << 63, 0.0, 9_999_000_000)}
    assert ways(cheapest(query(graph, 3, 2_000_000, first(1), notes=flying))) == [900, 1, 3]


def test_risk_is_weighed_against_fees():
    """A channel of the payment's size is cheap but fails; one with room costs a little."""
    graph = Graph()
    put(graph, 1, 1, 3, capacity=1_050)
    put(graph, 2, 1, 3, base=2_000, capacity=10_000_000)
    asked = query(graph, 3, 1_000_000, first(1))
    assert ways(cheapest(asked)) == [900, 1]
    careful = find(asked, FULL)
    assert isinstance(careful, Route) and ways(careful) == [900, 2] and careful.probability > 0.99


def test_a_node_that_fails_is_gone_round():
    graph = line(base=0, ppm=0)
    put(graph, 4, 1, 4)
    put(graph, 5, 4, 3, base=100)
    asked = query(graph, 3, 1000, first(1), suspects=[(node(2), 0.3)])
    found = find(asked, FULL)
    assert isinstance(found, Route) and ways(found) == [900, 4, 5]
    broken = query(graph, 3, 1000, first(1), suspects=[(node(2), 0.01)])
    assert ways(cheapest(broken)) == [900, 4, 5]


_AMOUNTS = st.integers(2_000, 60_000_000)


@settings(max_examples=150)
@given(graphs(), _AMOUNTS, st.integers(2, 7), st.integers(18, 500))
def test_fees_are_those_of_the_exact_search(graph: Graph, amount: int, payee: int, max_delay: int):
    """At most 1.02 of the optimum on the same knowledge; here it is the optimum, unless the delay limit binds."""
    asked = query(graph, payee, amount, first(1), max_delay=2016)
    best = exact(asked, lambda route: route.fee_msat)
    found = find(asked)
    assert isinstance(found, Route) == (best is not None)
    if isinstance(found, Route) and best is not None:
        assert found.fee_msat == best.fee_msat
    limited = query(graph, payee, amount, first(1), max_delay=max_delay)
    held = find(limited)
    assert not isinstance(held, Route) or held.hops[0].delay <= max_delay


@settings(max_examples=150)
@given(
    graphs(),
    _AMOUNTS,
    st.integers(2, 7),
    st.dictionaries(st.integers(0, 13), st.tuples(st.integers(0, 10**8), st.integers(1, 10**9)), max_size=6),
)
def test_the_full_cost_is_at_most_two_percent_above_the_exact_search(
    graph: Graph, amount: int, payee: int, learned: dict[int, tuple[int, int]]
):
    notes = {at(number) << 1: (low, max(low + 1, high), 0.0, 0) for number, (low, high) in learned.items()}
    asked = query(graph, payee, amount, first(1), notes=notes)
    best = exact(asked, lambda route: path_cost(asked, FULL, route))
    found = find(asked, FULL)
    assert isinstance(found, Route) == (best is not None)
    if isinstance(found, Route) and best is not None:
        assert path_cost(asked, FULL, found) <= 1.02 * path_cost(asked, FULL, best) + 1


@given(graphs(), _AMOUNTS, st.integers(2, 7))
def test_every_route_can_be_paid_as_it_stands(graph: Graph, amount: int, payee: int):
    """Each forwarder gets what its policy asks, and no channel carries what it does not take (checklist 35)."""
    found = find(query(graph, payee, amount, first(1)), FULL)
    if not isinstance(found, Route):
        return
    assert found.hops[0].amount_msat - amount == found.fee_msat
    for before, hop in zip(found.hops, found.hops[1:], strict=False):
        policy = graph.policy(hop.short_channel_id, hop.direction)
        assert policy is not None and policy.enabled
        fee = policy.fee_base_msat + hop.amount_msat * policy.fee_proportional_millionths // 1_000_000
        assert before.amount_msat - hop.amount_msat == fee
        assert before.delay - hop.delay == policy.cltv_expiry_delta
        assert policy.htlc_minimum_msat <= hop.amount_msat <= policy.htlc_maximum_msat
