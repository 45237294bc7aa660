"""The graph: what gossip tells is what searches and listings read, at every moment."""

from hypothesis import given
from hypothesis import strategies as st

from node.routing.cost import FEES_ONLY
from node.routing.graph import Graph, NodeFacts
from node.routing.query import Budget
from node.routing.single import HeapEngine
from node.routing.sink import GraphSink
from protocol.bus.messages.routing import Route
from tests.node.routing import mainnet
from tests.node.routing.support import US, at, cheapest, first, node, put, query, shape, ways


def test_it_is_what_gossip_writes_to():
    sink: GraphSink = Graph()
    sink.put_channel(1, node(1), node(2), 100, b"\1")
    assert isinstance(sink, Graph) and sink.channels == 1


def test_a_policy_leads_from_the_node_that_set_it():
    """BOLT 7: direction 0 is set by the node whose id sorts first."""
    graph = Graph()
    put(graph, 1, 1, 2, base=7, ppm=11, cltv=13)
    (edge,) = graph.incoming[graph.index_of(node(2)) or 0]
    assert graph.id_of(edge[0]) == node(1) and shape(edge) == (7, 11, 13)
    assert graph.incoming[graph.index_of(node(1)) or 0] == []


def test_a_policy_without_its_channel_is_not_kept():
    graph = Graph()
    graph.put_policy(at(1), 0, 1, 1, 0, 40, 0, 1000, 0, 0)
    assert graph.channels == 0 and graph.policy(at(1), 0) is None


def test_a_newer_policy_replaces_the_older_in_place():
    graph = Graph()
    put(graph, 1, 1, 2, base=7)
    into = graph.incoming[graph.index_of(node(2)) or 0]
    put(graph, 1, 1, 2, base=9, timestamp=2)
    assert [edge[2] for edge in into] == [9]
    policy = graph.policy(at(1), 0)
    assert policy is not None and (policy.timestamp, policy.fee_base_msat) == (2, 9)


def test_a_disabled_direction_is_listed_but_not_searched_and_comes_back():
    graph = Graph()
    put(graph, 1, 1, 2)
    put(graph, 1, 1, 2, flags=2)
    assert graph.incoming[graph.index_of(node(2)) or 0] == []
    policy = graph.policy(at(1), 0)
    assert policy is not None and not policy.enabled
    put(graph, 1, 1, 2)
    assert ways(cheapest(query(graph, 2, 1000, first(1)))) == [900, 1]


def test_what_a_search_holds_is_never_shortened_under_it():
    graph = Graph()
    put(graph, 1, 1, 3)
    put(graph, 2, 2, 3)
    held = graph.incoming[graph.index_of(node(3)) or 0]
    graph.drop_channel(at(1))
    assert len(held) == 2 and len(graph.incoming[graph.index_of(node(3)) or 0]) == 1


def test_the_capacity_bounds_what_a_policy_promises():
    graph = Graph()
    key = put(graph, 1, 1, 2, most=5_000_000_000, capacity=1_000)
    edge, _ = graph.edge(key) or ((), 0)
    assert edge[6:] == (1_000_000, 1_000_001)


def test_without_a_known_capacity_htlc_maximum_stands_for_it():
    graph = Graph()
    key = put(graph, 1, 1, 2, most=5_000, capacity=0)
    edge, _ = graph.edge(key) or ((), 0)
    assert edge[6:] == (5_000, 5_001) and graph.room_of(key) == 5_001


def test_a_dropped_channel_is_gone_with_its_policies_and_its_place_is_used_again():
    graph = Graph()
    key = put(graph, 1, 1, 2)
    put(graph, 1, 2, 1)
    graph.drop_channel(at(1))
    assert graph.channels == 0 and graph.edge(key) is None and graph.channel(at(1)) is None
    assert list(graph.nodes()) == []
    put(graph, 5, 3, 4)
    facts = graph.channel(at(5))
    assert facts is not None and facts.node_ids == (node(3), node(4)) and facts.policies[1] is None
    graph.drop_channel(at(77))  # never known: nothing happens
    assert graph.channels == 1


def test_a_channel_that_comes_again_with_other_ends_forgets_its_policies():
    graph = Graph()
    put(graph, 1, 1, 2)
    graph.put_channel(at(1), node(1), node(3), 10_000_000, b"")
    assert graph.policy(at(1), 0) is None and graph.incoming[graph.index_of(node(2)) or 0] == []


def test_a_channel_that_comes_again_unchanged_keeps_its_policies():
    graph = Graph()
    key = put(graph, 1, 1, 2)
    graph.put_channel(at(1), node(1), node(2), 10_000_000, b"")
    assert graph.edge(key) is not None


def test_nodes_are_told_at_any_time_and_listed_once_they_have_a_channel():
    graph = Graph()
    graph.put_node(node(1), 5, b"first", b"\1\2\3", b"\x02", b"")
    assert graph.node(node(1)) is None
    put(graph, 1, 1, 2)
    assert graph.node(node(1)) == NodeFacts(5, b"first", b"\1\2\3", b"\x02", b"")
    assert dict(graph.nodes()) == {node(1): graph.node(node(1)), node(2): NodeFacts()}


def test_channels_of_one_node_are_those_at_either_end():
    graph = Graph()
    for number, (one, other) in enumerate(((1, 2), (2, 3), (3, 4))):
        put(graph, number, one, other)
    assert [facts.short_channel_id for facts in graph.channels_of(node(2))] == [at(0), at(1)]
    assert len(list(graph.channels_of())) == 3 and list(graph.channels_of(node(9))) == []


def _two_core(links: set[tuple[int, int]]) -> set[int]:
    near: dict[int, set[int]] = {}
    for one, other in links:
        near.setdefault(one, set()).add(other)
        near.setdefault(other, set()).add(one)
    while True:
        leaves = [leaf for leaf, others in near.items() if len(others) < 2]
        if not leaves:
            return set(near)
        for leaf in leaves:
            for other in near.pop(leaf):
                near.get(other, set()).discard(leaf)


_LINKS = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 12)).filter(lambda link: link[0] != link[1]), max_size=30
)


@given(_LINKS, _LINKS)
def test_the_core_is_the_2_core_at_first_and_never_less(
    links: list[tuple[int, int]], later: list[tuple[int, int]]
):
    graph = Graph()
    for number, (tail, head) in enumerate(links):
        put(graph, number, tail, head)
    core = graph.core()
    assert {graph.id_of(i) for i, inside in enumerate(core) if inside} == {
        node(number) for number in _two_core({(min(link), max(link)) for link in links})
    }
    for number, (tail, head) in enumerate(later, len(links)):
        put(graph, number, tail, head)
    core = graph.core()
    inside = {graph.id_of(i) for i, flag in enumerate(core) if flag}
    assert inside >= {
        node(number) for number in _two_core({(min(link), max(link)) for link in links + later})
    }


@given(_LINKS, _LINKS, st.integers(1, 12), st.integers(1, 12))
def test_no_path_is_lost_by_pruning(
    links: list[tuple[int, int]], later: list[tuple[int, int]], peer: int, payee: int
):
    """Also with links that came after the core was computed, and where both ends hang on trees."""
    graph = Graph()
    for number, (tail, head) in enumerate(links):
        put(graph, number, tail, head)
    graph.core()
    for number, (tail, head) in enumerate(later, len(links)):
        put(graph, number, tail, head)
    reached, waiting = {peer}, [peer]
    while waiting:
        here = waiting.pop()
        for tail, head in links + later:
            if tail == here and head not in reached:
                reached.add(head)
                waiting.append(head)
    asked = query(graph, payee, 1000, first(peer), own=US)
    found = HeapEngine().find(asked, FEES_ONLY, Budget(10**9))
    assert isinstance(found, Route) == (payee in reached)


def test_the_real_graph_has_the_published_size():
    """../shared/graph: 17,324 nodes, 50,808 channels, 65,810 usable directions, a 2-core of 3,594 nodes."""
    graph = Graph()
    mainnet.read().load(graph)
    assert (graph.size, graph.channels) == (17_324, 50_808)
    assert sum(len(edges) for edges in graph.incoming) == 65_810
    assert sum(graph.core()) == 3_594
