"""Multi-part plans as a min-cost flow (an extra: ortools with numpy), after Pickhardt and Richter.

Every usable direction becomes a few arcs, each dearer than the one before, since the risk of a channel grows faster
than the amount in it. The solver knows no base fees, no htlc_minimum_msat and no amounts that grow along the way:
its flow is taken apart into ways, and `shares` makes parts of them that hold.
"""

from math import log

import numpy as np
from ortools.graph.python import min_cost_flow

from node.routing.columns import Column, Columns, ColumnStore, usable
from node.routing.core import Edge
from node.routing.cost import MIN_CHANCE, CostParameters, chance, fading
from node.routing.query import Budget, Query, Step
from node.routing.shares import Way, settle
from protocol.bus.messages.routing import FirstHop, Route

UNITS = 512
"""The amount is shared out in so many units."""
PIECES = 4
"""Arcs for a direction, at most."""
STRAIGHT = 0.2
"""Up to this share of a channel one arc is enough."""
ROUNDS = 4
EXPECTED_PARTS = 3
"""What a part costs whatever it carries, base fees and hops, is spread as if there were so many."""
_SCALE = 64
"""Costs are whole numbers: so many parts of a msat, for a unit."""
_DEAREST = 1 << 40
_FEE_MARGIN = 0.99
"""Of what our channel can send, this much may be planned for: fees come on top."""


class FlowEngine:
    name = "min-cost flow"

    def __init__(self, store: ColumnStore) -> None:
        self._store = store

    def find(self, query: Query, costs: CostParameters, budget: Budget, max_parts: int) -> tuple[Route, ...]:
        if query.target == query.own or not query.first:
            return ()
        columns = self._store.read(query)
        fee_factor, pieces = 1.0, PIECES
        for _ in range(ROUNDS):
            budget.spend(query.size)
            ways = _Network(query, costs, columns, fee_factor, pieces).solve()
            if not ways:
                return ()
            routes = settle(query, costs, ways, max_parts)
            if routes:
                return routes
            # Too many parts, or too dear: straight costs put more on the best ways, and then fees count for more.
            fee_factor *= 1 if pieces > 1 else 4
            pieces = 1
        return ()


def _unit(query: Query) -> int:
    return -(-query.amount // UNITS)


class _Network:
    """Arcs for one solve. Node numbers: the graph's, then strangers, then where all money starts."""

    def __init__(
        self,
        query: Query,
        costs: CostParameters,
        columns: Columns,
        fee_factor: float,
        pieces: int,
    ) -> None:
        self._query = query
        self._costs = costs
        self._columns = columns
        self._fee_factor = fee_factor
        self._pieces = pieces
        self._unit = _unit(query)
        self._source = query.size + len(query.strangers)
        self._need = -(-query.amount // self._unit)

    def solve(self) -> list[tuple[Way, int]]:
        entries, starts, ends, capacities, unit_costs = self._graph_arcs()
        extra = self._hinted_arcs()
        firsts = self._first_arcs()
        more = [arc[1:] for arc in extra] + [arc[1:] for arc in firsts]
        if more:
            tails, heads, room, price = (np.array(column) for column in zip(*more, strict=True))
            starts, ends = np.concatenate((starts, tails)), np.concatenate((ends, heads))
            capacities, unit_costs = np.concatenate((capacities, room)), np.concatenate((unit_costs, price))
        flow = min_cost_flow.SimpleMinCostFlow()
        flow.add_arcs_with_capacity_and_unit_cost(
            starts.astype(np.int32),
            ends.astype(np.int32),
            capacities.astype(np.int64),
            unit_costs.astype(np.int64),
        )
        flow.set_nodes_supplies(
            np.array([self._source, self._row(self._query.target)], dtype=np.int32),
            np.array([self._need, -self._need], dtype=np.int64),
        )
        if flow.solve() != flow.OPTIMAL:
            return []
        flows = flow.flows(np.arange(len(starts), dtype=np.int32))
        return self._paths(flows, entries, extra, firsts)

    def _row(self, node: int) -> int:
        return node if node >= 0 else self._query.size - 1 - node

    def _graph_arcs(self) -> tuple[Column, Column, Column, Column, Column]:
        query, columns, unit = self._query, self._columns, self._unit
        fits = usable(query, columns, float(unit), float(query.amount))
        most = np.minimum(columns.most, columns.room - 1)
        low = np.zeros(len(most))
        for key, note in list(query.notes.items()):
            entry = columns.entry(key)
            if entry is None:
                continue
            at_least, less_than, when, in_flight = note
            kept = fading(when, query.now)
            room = columns.room[entry]
            high = room if less_than >= room else room - (room - less_than) * kept
            most[entry] = min(most[entry], high - 1 - in_flight)
            low[entry] = max(0.0, at_least * kept - in_flight)
            if chance(note, unit, int(room), query.now) < MIN_CHANCE:
                fits[entry] = False
        entries = np.flatnonzero(fits)
        return self._pieces_of(entries, most[entries], low[entries])

    def _pieces_of(
        self, entries: Column, most: Column, low: Column
    ) -> tuple[Column, Column, Column, Column, Column]:
        """Each direction's risk curve as straight pieces. What is known to be there is without risk."""
        query, columns, unit = self._query, self._columns, self._unit
        costs, amount = self._costs, query.amount
        share = EXPECTED_PARTS * unit / amount
        linear = columns.base[entries] * share + columns.ppm[entries] * (unit / 1e6)
        linear *= self._fee_factor
        linear += columns.cltv[entries] * costs.per_block(unit) + costs.per_hop(amount) * share
        for node, loss in query.suspects.items():
            linear[columns.tail[entries] == node] += costs.weight(amount) * loss * share
        weight = costs.weight(amount)
        free = columns.room[entries] - low
        total = np.minimum(most // unit, self._need)
        # Where the amount is small beside what there is the curve is as good as straight.
        pieces = np.where(total * unit < STRAIGHT * free, 1, self._pieces)
        width = np.maximum(np.ceil(total / pieces), 1)
        taken = np.zeros(len(entries))
        found: list[tuple[Column, Column, Column]] = []
        for _ in range(self._pieces):
            units = np.minimum(width, total - taken)
            live = np.flatnonzero(units > 0)
            from_, to = taken[live] * unit - low[live], (taken[live] + units[live]) * unit - low[live]
            risk = np.log(np.maximum(1 - np.maximum(from_, 0) / free[live], 1e-12))
            risk -= np.log(np.maximum(1 - np.maximum(to, 0) / free[live], 1e-12))
            price = (linear[live] + weight * risk / units[live]) * _SCALE + 1
            found.append((live, units[live], np.minimum(price, _DEAREST)))
            taken[live] += units[live]
        which = entries[np.concatenate([piece[0] for piece in found])]
        return (
            which,
            columns.tail[which],
            columns.head[which],
            np.concatenate([piece[1] for piece in found]),
            np.concatenate([piece[2] for piece in found]),
        )

    def _hinted_arcs(self) -> list[tuple[tuple[Edge, int], int, int, int, int]]:
        query, unit, costs = self._query, self._unit, self._costs
        arcs = []
        for head, edges in query.hinted.items():
            for edge in edges:
                works = query.chance(edge, unit)
                if edge[0] in query.closed or works < MIN_CHANCE:
                    continue
                price = (edge[2] * unit / query.amount + edge[3] * unit / 1e6) * self._fee_factor
                price += edge[4] * costs.per_block(unit) - costs.weight(query.amount) * log(works)
                units = min(edge[6] // unit, self._need)
                arcs.append(
                    ((edge, head), self._row(edge[0]), self._row(head), units, int(price * _SCALE) + 1)
                )
        return arcs

    def _first_arcs(self) -> list[tuple[FirstHop, int, int, int, int]]:
        arcs = []
        for peer, hops in self._query.first.items():
            # Nothing is charged on the way to a peer who is the payee.
            margin = 1.0 if peer == self._query.target else _FEE_MARGIN
            for hop in hops:
                units = min(int(hop.spendable_msat * margin) // self._unit, self._need)
                if units > 0 and hop.slots > 0:
                    arcs.append((hop, self._source, self._row(peer), units, 0))
        return arcs

    def _paths(
        self,
        flows: Column,
        entries: Column,
        extra: list[tuple[tuple[Edge, int], int, int, int, int]],
        firsts: list[tuple[FirstHop, int, int, int, int]],
    ) -> list[tuple[Way, int]]:
        """Takes the flow apart, the widest way on first, so that there are few paths."""
        query, columns = self._query, self._columns
        ways: dict[int, dict[object, list[int]]] = {}
        steps: dict[object, Step | FirstHop] = {}
        for arc in np.flatnonzero(flows):
            number, units = int(arc), int(flows[arc])
            if number < len(entries):
                entry = int(entries[number])
                tail, head = int(columns.tail[entry]), int(columns.head[entry])
                label: object = entry
                if label not in steps:
                    key = query.graph.key_of(int(columns.slot[entry]))
                    edge = next((edge for edge in query.edges_into(head) if edge[1] == key), None)
                    if edge is None:
                        return []  # the channel went while we solved
                    steps[label] = (edge, head)
            elif number < len(entries) + len(extra):
                step, tail, head, _, _ = extra[number - len(entries)]
                label = ("hint", step[0][1])
                steps[label] = step
            else:
                hop, tail, head, _, _ = firsts[number - len(entries) - len(extra)]
                label = ("first", hop.short_channel_id)
                steps[label] = hop
            way = ways.setdefault(tail, {}).setdefault(label, [head, 0])
            way[1] += units
        found = []
        target = self._row(query.target)
        while ways.get(self._source):
            found.append(self._widest(ways, steps, target))
        return found

    def _widest(
        self, ways: dict[int, dict[object, list[int]]], steps: dict[object, Step | FirstHop], target: int
    ) -> tuple[Way, int]:
        at, taken, units = self._source, [], self._need
        while at != target:
            label, (head, here) = max(ways[at].items(), key=lambda way: way[1][1])
            taken.append((at, label))
            units = min(units, here)
            at = head
        first: FirstHop | None = None
        path: list[Step] = []
        for node, label in taken:
            way = ways[node][label]
            way[1] -= units
            if not way[1]:
                del ways[node][label]
            step = steps[label]
            if isinstance(step, FirstHop):
                first = step
            else:
                path.append(step)
        if first is None:
            raise RuntimeError("a flow that does not start with us")
        return Way(first, tuple(path)), units * self._unit
