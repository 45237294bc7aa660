"""Shadow blocks look like a path that goes on (BOLT 7, "Recommendations for Routing")."""

from random import Random

import pytest

from node.routing.graph import Graph
from node.routing.shadow import MOST_BLOCKS, shadow_delay
from tests.node.routing.support import node, put


def ring(cltv: int) -> Graph:
    graph = Graph()
    for number in range(1, 6):
        put(graph, number, number, number % 5 + 1, cltv=cltv)
        put(graph, number, number % 5 + 1, number, cltv=cltv)
    return graph


def test_the_blocks_are_those_of_a_walk_on_from_the_destination():
    walks = {shadow_delay(ring(37), node(1), Random(seed)) for seed in range(50)}
    assert walks == {74, 111}


def test_the_walk_uses_the_deltas_of_those_it_leaves():
    graph = Graph()
    put(graph, 1, 1, 2, cltv=77)
    put(graph, 1, 2, 1, cltv=33)
    assert shadow_delay(graph, node(1), Random(1)) in (77, 77 + 33, 77 + 33 + 77)


@pytest.mark.parametrize("seed", range(10))
def test_they_never_lock_money_for_long(seed: int):
    assert 0 < shadow_delay(ring(200), node(1), Random(seed)) <= MOST_BLOCKS
    assert 0 < shadow_delay(ring(2000), node(1), Random(seed)) <= 144


def test_a_destination_outside_of_the_graph_gets_them_too():
    assert shadow_delay(ring(37), node(99), Random(3)) in (74, 111)
    assert shadow_delay(Graph(), node(99), Random(3)) in (40, 80, 144)
