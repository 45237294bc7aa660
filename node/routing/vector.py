"""Single paths with numpy and scipy (an extra): all weights at once, then Dijkstra's search in C.

The weights are those of the amount that arrives, since scipy cannot let it grow along the way. So the path that
it finds is priced exactly afterwards; a channel that turns out not to fit is left out and the search repeated.
What this shape does not cover, payments to ourselves and hints in the middle of the graph, the heap engine does.
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from node.routing.columns import Column, ColumnStore, path_weights
from node.routing.core import Edge
from node.routing.cost import MIN_CHANCE, CostParameters
from node.routing.query import Budget, Query, Step, Unfit
from node.routing.single import HeapEngine
from protocol.bus.messages.routing import Route

RETRIES = 8
_PEERS = 4
"""Of our peers the nearest so many are tried before a search is repeated."""

_Matrix = tuple[Column, Column, Column]
"""The weights, the tails, and where the row of each head begins."""


class VectorEngine:
    name = "scipy"

    def __init__(self, heap: HeapEngine, store: ColumnStore) -> None:
        self._store = store
        self._heap = heap

    def find(
        self, query: Query, costs: CostParameters, budget: Budget, *, limit: bool = True
    ) -> Route | Unfit | None:
        if query.target == query.own or any(head >= 0 for head in query.hinted) or not query.first:
            return self._heap.find(query, costs, budget, limit=limit)
        columns = self._store.read(query)
        weights = path_weights(query, costs, columns)
        for _ in range(RETRIES):
            budget.spend(query.size // 20)  # a search in C costs about as much as so many nodes here
            matrix = _with_strangers(query, costs, (weights, columns.tail, columns.pointers))
            found = self._search(query, columns.slot, matrix, limit=limit)
            if isinstance(found, Route):
                return found
            entry = None if found is None or found.key is None else columns.entry(found.key)
            if entry is None or not np.isfinite(weights[entry]):
                break
            weights[entry] = np.inf
        # Weights are approximate at the edges of what fits: the exact search has the last word.
        return self._heap.find(query, costs, budget, limit=limit)

    def _search(self, query: Query, slots: Column, matrix: _Matrix, *, limit: bool) -> Route | Unfit | None:
        total = query.size + len(query.strangers)
        target = _row(query, query.target)
        distances, nearer = dijkstra(
            csr_array(matrix, shape=(total, total)), indices=target, return_predecessors=True
        )
        problem: Unfit | None = None
        for distance, peer in sorted((float(distances[_row(query, peer)]), peer) for peer in query.first)[
            :_PEERS
        ]:
            if not np.isfinite(distance):
                break
            steps = _steps(query, _row(query, peer), target, nearer, slots, matrix)
            carried = query.amount
            for edge, _ in reversed(steps):
                carried += edge[2] + carried * edge[3] // 1_000_000
            first = query.first_hop(peer, carried)
            if first is None:
                continue
            route = query.price(first, steps, query.amount, limit=limit)
            if isinstance(route, Route):
                return route
            problem = problem or route
        return problem


def _steps(query: Query, row: int, target: int, nearer: Column, slots: Column, matrix: _Matrix) -> list[Step]:
    """The path as directions of the graph: of parallel channels the one that the search took."""
    weights, tails, pointers = matrix
    steps: list[Step] = []
    while row != target:
        head = int(nearer[row])
        low, high = int(pointers[head]), int(pointers[head + 1])
        entry = low + int(np.argmin(np.where(tails[low:high] == row, weights[low:high], np.inf)))
        node = _node(query, head)
        steps.append((_edge(query, node, entry - low, slots, entry), node))
        row = head
    return steps


def _edge(query: Query, head: int, number: int, slots: Column, entry: int) -> Edge:
    if head < 0:
        return query.incoming[head][number]
    key = query.graph.key_of(int(slots[entry]))
    return next(edge for edge in query.edges_into(head) if edge[1] == key)


def _row(query: Query, node: int) -> int:
    """Nodes that the graph does not know come last."""
    return node if node >= 0 else query.size - 1 - node


def _node(query: Query, row: int) -> int:
    return row if row < query.size else query.size - 1 - row


def _with_strangers(query: Query, costs: CostParameters, matrix: _Matrix) -> _Matrix:
    if not query.strangers:
        return matrix
    weights, tails, pointers = matrix
    more_weights, more_tails, ends = [], [], []
    amount, weight = query.amount, costs.weight(query.amount)
    for number in range(len(query.strangers)):
        for edge in query.incoming[-1 - number]:
            works = query.chance(edge, amount)
            cost = (
                edge[2] + amount * edge[3] / 1e6 + costs.per_hop(amount) + edge[4] * costs.per_block(amount)
            )
            fits = edge[0] not in query.closed and edge[5] <= amount <= edge[6] and works >= MIN_CHANCE
            more_weights.append(max(cost - weight * np.log(works), 1e-3) if fits else np.inf)
            more_tails.append(_row(query, edge[0]))
        ends.append(int(pointers[-1]) + len(more_weights))
    return (
        np.concatenate((weights, np.array(more_weights, dtype=np.float64))),
        np.concatenate((tails, np.array(more_tails, dtype=np.int32))),
        np.concatenate((pointers, np.array(ends, dtype=np.int32))),
    )
