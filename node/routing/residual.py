"""Multi-part plans as a min-cost flow in plain Python: cheapest ways one after the other, with the way back open.

Each search finds the cheapest way for more money beside what is planned so far, and fills it to its narrowest
place. It may also take back what was planned for a channel, if that money is better off elsewhere; so the sum is the
cheapest for straight costs after each search, and there are about as many searches as ways, however large the
amount. Potentials keep all costs above zero, as in the textbooks (successive shortest paths, Johnson), so that each
search is Dijkstra's and may stop at us. Base fees are spread as if each part carried its share of the amount;
`shares` then looks at the ways as they are.
"""

from heapq import heappop, heappush
from math import inf, log
from typing import NamedTuple

from node.routing.core import Edge
from node.routing.cost import CostParameters, fading
from node.routing.query import Budget, Query
from node.routing.shares import Way, most_of, settle
from protocol.bus.messages.routing import FirstHop, Route

EXPECTED_PARTS = 3
"""What a part costs whatever it carries, base fees and hops, is spread as if there were so many."""
SMALLEST = 128
"""Of so many shares of the amount a channel must be able to carry one."""
PIECES = 6
"""A channel's risk is straight within one of so many shares of the amount, or within `STRAIGHT` of what it may hold."""
STRAIGHT = 0.2
MARGIN = 1_000
"""One of so many shares of the amount, and so many msat, are planned for beside it."""
MOST_SEARCHES = 24
MILLION = 1_000_000
_HOP = 1e-9
"""Of two ways that cost the same the shorter one; and so nothing goes round in a circle."""
_ENOUGH = 1.0
"""Msat that are as good as nothing, where amounts are floats."""


class _Hop(NamedTuple):
    """On the way from us: along the channel, or back over money that was planned for it."""

    edge: Edge
    next: int
    along: bool


class _Load:
    """What is planned for a direction, counted where it arrives."""

    __slots__ = ("amount", "edge", "head", "pieces")

    def __init__(self, edge: Edge, head: int, pieces: list[tuple[float, float]]) -> None:
        self.edge = edge
        self.head = head
        self.amount = 0.0
        self.pieces = pieces
        """(up to where, cost of an msat), the cheapest first."""

    def more(self) -> tuple[float, float]:
        """(how much more at this cost, the cost)."""
        for end, cost in self.pieces:
            if end - self.amount > _ENOUGH:
                return end - self.amount, cost
        return 0.0, inf

    def less(self) -> tuple[float, float]:
        """(how much can be taken back at this cost, the cost): the dearest first."""
        begin, start, cost = 0.0, 0.0, inf
        for end, here in self.pieces:
            if self.amount - begin <= _ENOUGH:
                break
            cost, start = here, begin
            begin = end
        return (0.0, inf) if cost == inf else (self.amount - start, cost)


class ResidualEngine:
    """Needs no other package."""

    name = "residual paths"

    def find(self, query: Query, costs: CostParameters, budget: Budget, max_parts: int) -> tuple[Route, ...]:
        if query.target == query.own or not query.first:
            return ()
        # Where few parts are allowed narrow channels are of no use.
        for shares in sorted({SMALLEST, min(SMALLEST, max_parts + 1)}, reverse=True):
            ways = _Flow(query, costs, shares).solve(budget)
            routes = settle(query, costs, ways, max_parts) if ways else ()
            if routes:
                return routes
        return ()


class _Flow:
    """`shares`: what cannot carry one of so many shares of the amount is left out."""

    def __init__(self, query: Query, costs: CostParameters, shares: int) -> None:
        amount = query.amount
        self._query = query
        self._gates = bytes(query.gates())
        self._potential = [0.0] * query.slots
        self._loads: dict[int, _Load] = {}
        self._back: dict[int, dict[int, _Load]] = {}
        """By the node where it leaves, what is planned for directions out of it."""
        self._prices: dict[int, float] = {}
        """Of directions of which more is known than their terms: the cost of an msat more."""
        self._free: dict[int, float] = {
            hop.short_channel_id: float(hop.spendable_msat) for hops in query.first.values() for hop in hops
        }
        self._sent: dict[int, tuple[FirstHop, float]] = {}
        self._share = EXPECTED_PARTS / amount
        self._hop = costs.per_hop(amount) * self._share + _HOP
        self._block = costs.per_block(amount) / amount
        self._weight = costs.weight(amount)
        self._least = max(1, amount // shares)
        self._piece = max(1, -(-amount // PIECES))
        self._most_least = amount // EXPECTED_PARTS

    def solve(self, budget: Budget) -> list[tuple[Way, int]]:
        """A little more than the amount, if there is room for it: base fees were not counted where they take room."""
        more = self._query.amount // MARGIN + MARGIN
        left = float(self._query.amount + more)
        for _ in range(MOST_SEARCHES):
            found = self._search(budget)
            if found is None:
                break
            first, hops, grown = found
            left -= self._fill(first, hops, grown, left)
            if left <= _ENOUGH:
                break
        return self._ways() if left <= more + _ENOUGH else []

    def _search(self, budget: Budget) -> tuple[FirstHop, list[_Hop], list[float]] | None:
        """The cheapest way for more; and with each hop, how much arrives there for each msat that is delivered."""
        query, potential, prices = self._query, self._potential, self._prices
        gates = bytearray(self._gates)
        target = query.target
        best = [inf] * query.slots
        via: list[_Hop | None] = [None] * query.slots
        notes, suspects = query.notes, query.suspects
        first, special, incoming, back = query.first, query.incoming, query.graph.incoming, self._back
        share, hop_cost, block_cost, weight = self._share, self._hop, self._block, self._weight
        least_amount, most_least, piece = self._least, self._most_least, self._piece
        wide = piece / STRAIGHT
        straight = -log(1 - STRAIGHT) / STRAIGHT
        best[target] = 0.0
        heap: list[tuple[float, int]] = [(0.0, target)]
        gates[target] = 1
        settled: list[int] = []
        while heap:
            cost, node = heappop(heap)
            if not gates[node]:
                continue
            gates[node] = 0
            if node in first:
                ours = self._first(node)
                if ours is not None:
                    budget.spend(len(settled))
                    for other in settled:
                        potential[other] += best[other] - cost
                    return ours, *self._way(node, via)
            settled.append(node)
            edges = special.get(node)
            if edges is None:
                edges = incoming[node]
            here = cost + potential[node]
            for edge in edges:
                tail, key, base, ppm, cltv, least, most, room = edge
                if not gates[tail] or most < least_amount or least > most_least:
                    continue
                if key in prices:
                    total = here + prices[key]
                elif key in notes or (weight and tail in suspects):
                    prices[key] = self._pieces(edge)[0][1]
                    total = here + prices[key]
                else:
                    total = here + ppm * 1e-6 + base * share + hop_cost
                    if weight:
                        total += block_cost * cltv
                        if room > wide:
                            total += weight * straight / room
                        else:
                            width = most if most < piece else piece
                            total -= weight * log(1 - width / room) / width
                total -= potential[tail]
                if total < best[tail]:
                    best[tail] = total
                    via[tail] = _Hop(edge, node, True)
                    heappush(heap, (total, tail))
            if node in back:
                for load in back[node].values():
                    head = load.head
                    _, price = load.less()
                    total = here - price - potential[head]
                    if gates[head] and total < best[head]:
                        best[head] = total
                        via[head] = _Hop(load.edge, node, False)
                        heappush(heap, (total, head))
        budget.spend(len(settled))
        return None

    def _first(self, peer: int) -> FirstHop | None:
        """Of our channels with the peer the one with most to spend, if that is still worth a part."""
        best = max(self._query.first[peer], key=lambda hop: self._free[hop.short_channel_id])
        free = self._free[best.short_channel_id]
        return best if free >= max(self._least, best.htlc_minimum_msat) else None

    def _way(self, node: int, via: list[_Hop | None]) -> tuple[list[_Hop], list[float]]:
        hops: list[_Hop] = []
        while node != self._query.target:
            hop = via[node]
            if hop is None:
                raise RuntimeError("a way of the search does not go on")
            hops.append(hop)
            node = hop.next
        grown, now = [], 1.0
        for hop in reversed(hops):
            factor = 1 + hop.edge[3] / MILLION
            if hop.along:
                grown.append(now)
                now *= factor
            else:
                now /= factor
                grown.append(now)
        grown.reverse()
        return hops, grown

    def _pieces(self, edge: Edge) -> list[tuple[float, float]]:
        """The cost of an msat more, as straight pieces. What is known to be there is without risk."""
        tail, key, base, ppm, cltv, _, most, room = edge
        query, weight = self._query, self._weight
        limit = float(min(most, most_of(query, key, room)))
        price = ppm * 1e-6 + base * self._share + self._hop
        if limit < self._least:
            return [(0.0, inf)]
        if not weight:
            return [(limit, price)]
        price += self._block * cltv + weight * query.suspects.get(tail, 0.0) * self._share
        at_least, less_than, when, used = query.notes.get(key, (0, 1 << 63, 0.0, 0))
        kept = fading(when, query.now)
        low = at_least * kept
        high = float(room) if less_than >= room else room - (room - less_than) * kept
        pieces = []
        begin = min(max(0.0, low - used), limit)
        if begin > _ENOUGH:
            pieces.append((begin, price))
        free = high - low
        while limit - begin > _ENOUGH:
            end = min(limit, begin + max(self._piece, STRAIGHT * free))
            gone, going = max(0.0, begin + used - low), end + used - low
            risk = log((free - gone) / max(free - going, 1e-3 * free))
            pieces.append((end, price + weight * risk / (end - begin)))
            begin = end
        return pieces

    def _fill(self, ours: FirstHop, hops: list[_Hop], grown: list[float], left: float) -> float:
        """Plans as much as goes this way at the same cost; at least a msat, so that the search moves on."""
        factor = grown[0] if hops else 1.0
        if hops and hops[0].along:
            factor *= 1 + hops[0].edge[3] / MILLION
        amount = min(left, self._free[ours.short_channel_id] / factor)
        for hop, share in zip(hops, grown, strict=True):
            load = self._load(hop)
            amount = min(amount, (load.more() if hop.along else load.less())[0] / share)
        amount = max(amount, _ENOUGH)
        for hop, share in zip(hops, grown, strict=True):
            load = self._load(hop)
            load.amount += amount * share if hop.along else -amount * share
            key, tail = load.edge[1], load.edge[0]
            self._prices[key] = load.more()[1]
            if load.amount > _ENOUGH:
                self._back.setdefault(tail, {})[key] = load
            else:
                self._back.get(tail, {}).pop(key, None)
        scid = ours.short_channel_id
        self._free[scid] -= amount * factor
        _, sent = self._sent.get(scid, (ours, 0.0))
        self._sent[scid] = (ours, sent + amount * factor)
        return amount

    def _load(self, hop: _Hop) -> _Load:
        key = hop.edge[1]
        load = self._loads.get(key)
        if load is None:
            load = self._loads[key] = _Load(hop.edge, hop.next, self._pieces(hop.edge))
        return load

    def _ways(self) -> list[tuple[Way, int]]:
        """Takes the flow apart, the widest way on first, so that there are few."""
        query = self._query
        left = dict(self._sent.values())
        flows = {load: load.amount for load in self._loads.values() if load.amount > _ENOUGH}
        out: dict[int, list[_Load]] = {}
        for load in flows:
            out.setdefault(load.edge[0], []).append(load)
        found: list[tuple[Way, int]] = []
        while left:
            ours = max(left, key=left.__getitem__)
            at = query.index(ours.peer)
            # What arrives for each msat that our channel sends, and the most that it may send this way.
            scale, width = 1.0, left[ours]
            taken: dict[int, tuple[_Load, float]] = {}
            while at != query.target and at not in taken:
                widest = max(out.get(at, ()), key=flows.__getitem__, default=None)
                if widest is None or flows[widest] <= _ENOUGH:
                    break
                scale /= 1 + widest.edge[3] / MILLION
                width = min(width, flows[widest] / scale)
                taken[at] = (widest, scale)
                at = widest.head
            # Rounding may leave crumbs that lead nowhere, or round in a circle: away with them.
            for used, share in taken.values():
                flows[used] = max(0.0, flows[used] - max(width * share, _ENOUGH))
            left[ours] -= max(width, _ENOUGH)
            if at == query.target:
                steps = tuple((used.edge, used.head) for used, _ in taken.values())
                found.append((Way(ours, steps), int(width * scale)))
            elif not taken:
                left[ours] = 0.0
            if left[ours] <= _ENOUGH:
                del left[ours]
        return found
