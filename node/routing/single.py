"""The default engine: Dijkstra's search from the destination, in plain Python, with exact amounts at every node.

Amounts grow from the destination to us, so a search in this direction knows at every channel what that channel
must carry. Fees alone are exact: a smaller amount never costs more. With the full cost each node keeps its
cheapest way only, as every implementation does, so a way that costs a little more but carries less may be missed.
"""

from heapq import heappop, heappush
from math import inf, log

from node.routing.cost import MIN_CHANCE, CostParameters, chance
from node.routing.query import Budget, Query, Step, Unfit
from protocol.bus.messages.routing import FirstHop, Route

MILLION = 1_000_000


class HeapEngine:
    """Needs no other package."""

    name = "heap"

    def find(
        self, query: Query, costs: CostParameters, budget: Budget, *, limit: bool = True
    ) -> Route | Unfit | None:
        """The best single path for the whole amount. `limit` False: the cheapest even if it is too dear.

        None: there is no path. Unfit: there is one, but it breaks a limit that the search could not weigh.
        """
        search = _fees if costs.fees_only else _full
        best: Route | Unfit | None = None
        for hop_set in _rounds(query):
            found = search(hop_set, costs, budget, limit=limit)
            if found is None:
                continue
            first, steps = found
            route = query.price(first, steps, query.amount, limit=limit)
            if isinstance(route, Unfit):
                best = best or route
            elif not isinstance(best, Route) or route.fee_msat < best.fee_msat:
                best = route
        return best


def _rounds(query: Query) -> list[Query]:
    """One search is enough, but for a payment to ourselves: there each way out forbids its own way home."""
    if query.target != query.own:
        return [query]
    rounds = []
    for peer, hops in query.first.items():
        for hop in hops:
            one = query.after((), amount=query.amount, max_fee=query.max_fee)
            one.first = {peer: [hop]}
            into = [edge for edge in query.edges_into(query.target) if edge[1] >> 1 != hop.short_channel_id]
            one.incoming = {**query.incoming, query.target: into}
            rounds.append(one)
    return rounds


def _fees(
    query: Query, _costs: CostParameters, budget: Budget, *, limit: bool
) -> tuple[FirstHop, list[Step]] | None:
    """The path with the lowest fees."""
    gates = query.gates()
    best: list[float] = [inf] * query.slots
    delays = [0] * query.slots
    via: list[Step | None] = [None] * query.slots
    target, amount = query.target, query.amount
    most_sent = amount + query.max_fee if limit else inf
    max_delay, now = query.max_delay, query.now
    notes, first, special, incoming = query.notes, query.first, query.incoming, query.graph.incoming
    best[target] = amount
    delays[target] = query.final_delay
    heap: list[tuple[int, int]] = [(amount, target)]
    gates[target] = 1
    looked = 0
    while heap:
        carried, node = heappop(heap)
        if not gates[node]:
            continue
        gates[node] = 0
        if node in first:
            hop = query.first_hop(node, carried)
            if hop is not None:
                budget.spend(looked)
                return hop, _steps(via, node, target)
        looked += 1
        edges = special.get(node)
        if edges is None:
            edges = incoming[node]
        delay = delays[node]
        for edge in edges:
            tail, key, base, ppm, cltv, least, most, room = edge
            if gates[tail] and least <= carried <= most:
                total = carried + base + carried * ppm // MILLION
                if total < best[tail] and total <= most_sent and delay + cltv <= max_delay:
                    if key in notes and chance(notes[key], carried, room, now) < MIN_CHANCE:
                        continue
                    best[tail] = total
                    delays[tail] = delay + cltv
                    via[tail] = (edge, node)
                    heappush(heap, (total, tail))
    budget.spend(looked)
    return None


def _full(
    query: Query, costs: CostParameters, budget: Budget, *, limit: bool
) -> tuple[FirstHop, list[Step]] | None:
    """The path with the lowest sum of fees, failure cost and delay cost."""
    gates = query.gates()
    best = [inf] * query.slots
    amounts = [0] * query.slots
    delays = [0] * query.slots
    via: list[Step | None] = [None] * query.slots
    target, now = query.target, query.now
    most_sent = query.amount + query.max_fee if limit else inf
    max_delay = query.max_delay
    weight, hop_cost = costs.weight(query.amount), costs.per_hop(query.amount)
    block_cost = costs.per_block(query.amount)
    notes, first, special, incoming = query.notes, query.first, query.incoming, query.graph.incoming
    suspects = query.suspects
    best[target] = 0.0
    amounts[target] = query.amount
    delays[target] = query.final_delay
    heap: list[tuple[float, int]] = [(0.0, target)]
    gates[target] = 1
    looked = 0
    while heap:
        cost, node = heappop(heap)
        if not gates[node]:
            continue
        gates[node] = 0
        carried, delay = amounts[node], delays[node]
        if node in first:
            hop = query.first_hop(node, carried)
            if hop is not None:
                budget.spend(looked)
                return hop, _steps(via, node, target)
        looked += 1
        edges = special.get(node)
        if edges is None:
            edges = incoming[node]
        base_cost = cost + hop_cost
        for edge in edges:
            tail, key, base, ppm, cltv, least, most, room = edge
            if gates[tail] and least <= carried <= most:
                fee = base + carried * ppm // MILLION
                total = base_cost + fee + block_cost * cltv
                # The chance costs most to compute, so what is too dear without it goes first.
                if total >= best[tail] or carried + fee > most_sent or delay + cltv > max_delay:
                    continue
                if key in notes:
                    works = chance(notes[key], carried, room, now)
                    if works < MIN_CHANCE:
                        continue
                else:
                    works = (room - carried) / room
                total -= weight * log(works)
                if tail in suspects:
                    total += weight * suspects[tail]
                if total < best[tail]:
                    best[tail] = total
                    amounts[tail] = carried + fee
                    delays[tail] = delay + cltv
                    via[tail] = (edge, node)
                    heappush(heap, (total, tail))
    budget.spend(looked)
    return None


def _steps(via: list[Step | None], node: int, target: int) -> list[Step]:
    steps = []
    while node != target:
        step = via[node]
        if step is None:
            raise RuntimeError("a path of the search has no way on")
        steps.append(step)
        node = step[1]
    return steps
