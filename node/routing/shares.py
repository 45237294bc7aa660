"""How much each part of a payment carries, when the ways are known: exact amounts, limits and fees (BOLT 4, BOLT 7).

Searches for several parts reckon with straight costs and spread what a part costs whatever it carries. Here the
ways that they found are looked at as they are: what rounding left over is placed, the dear way gives to the cheap
one, and a part that is not worth its base fees is dropped.
"""

from math import log
from typing import NamedTuple

from node.routing.cost import MIN_CHANCE, CostParameters, Note, chance, fading, is_taught
from node.routing.query import Query, Step, plan_cost
from protocol.bus.messages.routing import FirstHop, Route

MILLION = 1_000_000
_UNKNOWN: Note = (0, 1 << 63, 0.0, 0)
_STEPS = (1.0, 0.5, 0.25)
"""What one part gives to another: all that fits, or a share, since risk grows faster than the amount."""
_MOVES = 60
_GAIN = 1e-3
"""A move that saves less than this part of the cost is not worth its time."""


class Way(NamedTuple):
    """Our channel, and what follows it."""

    first: FirstHop
    steps: tuple[Step, ...]


def most_of(query: Query, key: int, room: int) -> int:
    """What a direction is planned to carry at most in all parts together, by what attempts taught."""
    note = query.notes.get(key)
    if note is None:
        return room - 1
    if not is_taught(note):
        return room - 1 - note[3]
    at_least, less_than, when, in_flight = note
    kept = fading(when, query.now)
    low = at_least * kept
    high = float(room) if less_than >= room else room - (room - less_than) * kept
    likely = high - MIN_CHANCE * (high - low) if high > low else low
    return int(likely) - in_flight


def settle(
    query: Query, costs: CostParameters, found: list[tuple[Way, int]], max_parts: int
) -> tuple[Route, ...]:
    """Routes for the whole amount along these ways, beginning with the shares that a search gave them. None when the
    ways do not carry it in so many parts."""
    found = [(way, share) for way, share in found if _may_be_used(query, way)]
    split = _Split(query, costs, [way for way, _ in found])
    shares = split.placed([share for _, share in found], query.amount)
    if shares is None:
        return ()
    while sum(1 for share in shares if share) > max_parts:
        fewer = split.without_one(shares, anyhow=True)
        if fewer is None:
            return ()
        shares = fewer
    shares = split.improved(shares)
    return _routes(query, [(way, share) for (way, _), share in zip(found, shares, strict=True) if share])


def improve(
    query: Query, costs: CostParameters, plans: list[tuple[Route, ...]], max_parts: int
) -> tuple[Route, ...]:
    """The cheapest of these plans, or a cheaper one with ways of all of them. None when there is no plan."""
    ways: dict[Way, int] = {}
    shares: list[dict[int, int]] = []
    for plan in plans:
        here: dict[int, int] = {}
        for route in plan:
            way = _way_of(query, route)
            if way is not None:
                number = ways.setdefault(way, len(ways))
                here[number] = here.get(number, 0) + route.amount_msat
        shares.append(here)
    split = _Split(query, costs, list(ways))
    best = min(plans, key=lambda plan: plan_cost(query, costs, plan), default=())
    for here in shares:
        placed = split.placed([here.get(number, 0) for number in range(len(ways))], query.amount)
        if placed is None:
            continue
        placed = split.improved(placed)
        if sum(1 for share in placed if share) <= max_parts:
            routes = _routes(query, [(way, share) for way, share in zip(ways, placed, strict=True) if share])
            if routes and plan_cost(query, costs, routes) < plan_cost(query, costs, best):
                best = routes
    return best


def _way_of(query: Query, route: Route) -> Way | None:
    """None when a channel went while we searched."""
    name = route.hops[0].short_channel_id
    first = next((hop for hops in query.first.values() for hop in hops if hop.short_channel_id == name), None)
    steps: list[Step] = []
    for hop in route.hops[1:]:
        head = query.index(hop.node_id)
        key = hop.short_channel_id << 1 | hop.direction
        edge = next((edge for edge in query.edges_into(head) if edge[1] == key), None)
        if edge is None:
            return None
        steps.append((edge, head))
    return None if first is None else Way(first, tuple(steps))


def _may_be_used(query: Query, way: Way) -> bool:
    delay = query.final_delay + sum(edge[4] for edge, _ in way.steps)
    return len(way.steps) + 1 <= query.max_hops and delay <= query.max_delay


def _routes(query: Query, parts: list[tuple[Way, int]]) -> tuple[Route, ...]:
    routes: list[Route] = []
    for way, amount in parts:
        rest = query.after(routes, amount=amount, max_fee=query.max_fee)
        hops = rest.first.get(query.index(way.first.peer), ())
        first = next((hop for hop in hops if hop.short_channel_id == way.first.short_channel_id), None)
        if first is None or first.slots <= 0:
            return ()
        route = rest.price(first, list(way.steps), amount, limit=False)
        if not isinstance(route, Route):
            return ()
        routes.append(route)
    return tuple(routes) if sum(route.fee_msat for route in routes) <= query.max_fee else ()


class _Split:
    """Shares of the ways, 0 for one that is not used; all amounts in msat."""

    def __init__(self, query: Query, costs: CostParameters, ways: list[Way]) -> None:
        self._query = query
        self._ways = ways
        self._fees_only = costs.fees_only
        self._weight = costs.weight(query.amount)
        self._hop, self._block = costs.per_hop(query.amount), costs.per_block(query.amount)
        self._rates = [self._rate(way) for way in ways]
        self._limits = {edge[1]: most_of(query, edge[1], edge[7]) for way in ways for edge, _ in way.steps}

    def _rate(self, way: Way) -> float:
        rate = 1.0
        for edge, _ in way.steps:
            rate *= 1 + edge[3] / MILLION
        return rate

    def placed(self, shares: list[int], amount: int) -> list[int] | None:
        """The shares cut to what fits, and what is left over where it is cheapest."""
        result = [0] * len(shares)
        left = amount
        # The dear ways first give back what is too much.
        for number in sorted(range(len(shares)), key=self._rates.__getitem__):
            result[number] = self._fitting(result, number, min(shares[number], left))
            left -= result[number]
        return self._spread(result, left)

    def _spread(self, shares: list[int], left: int, but: int = -1, new: bool = True) -> list[int] | None:
        """`new`: ways that are not used so far may be begun."""
        if left:
            for number in sorted(range(len(shares)), key=lambda n: (not shares[n], self._rates[n])):
                if number == but or not (new or shares[number]):
                    continue
                more = self._fitting(shares, number, shares[number] + left)
                if more > shares[number]:
                    left -= more - shares[number]
                    shares = [*shares[:number], more, *shares[number + 1 :]]
                if not left:
                    break
        return None if left else shares

    def _fitting(self, shares: list[int], number: int, wanted: int) -> int:
        """So much of it can go this way beside the other parts; 0 when the least that a channel takes is more."""
        if wanted <= 0:
            return 0
        way = self._ways[number]
        loads, sent, slots = self._loads(shares, number)
        first = way.first
        if slots.get(first.short_channel_id, 0) >= first.slots:
            return 0
        carried = first.spendable_msat - sent.get(first.short_channel_id, 0)
        for edge, _ in way.steps:
            limit = self._limits[edge[1]] - loads.get(edge[1], 0)
            carried = min(_before_fee(carried, edge[2], edge[3]), limit, edge[6])
        carried = min(carried, wanted)
        if carried <= 0:
            return 0
        amount = carried
        for edge, _ in reversed(way.steps):
            if amount < edge[5]:
                return 0
            amount += edge[2] + amount * edge[3] // MILLION
        return carried if amount >= first.htlc_minimum_msat else 0

    def _loads(self, shares: list[int], but: int) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        """By direction, and by our channels what is sent and in how many parts, of all ways but one."""
        loads: dict[int, int] = {}
        sent: dict[int, int] = {}
        slots: dict[int, int] = {}
        for number, share in enumerate(shares):
            if not share or number == but:
                continue
            way, carried = self._ways[number], share
            for edge, _ in reversed(way.steps):
                loads[edge[1]] = loads.get(edge[1], 0) + carried
                carried += edge[2] + carried * edge[3] // MILLION
            ours = way.first.short_channel_id
            sent[ours] = sent.get(ours, 0) + carried
            slots[ours] = slots.get(ours, 0) + 1
        return loads, sent, slots

    def cost(self, shares: list[int]) -> float:
        """As `query.plan_cost`: a later part through the same channel is the less likely."""
        query, loads, total = self._query, dict[int, int](), 0.0
        for way, share in zip(self._ways, shares, strict=True):
            if not share:
                continue
            carried = share
            for edge, _ in reversed(way.steps):
                tail, key, base, ppm, cltv, _, _, room = edge
                if not self._fees_only:
                    low, high, when, used = query.notes.get(key, _UNKNOWN)
                    load = loads.get(key, 0)
                    works = chance((low, high, when, used + load), carried, room, query.now)
                    total += self._hop + self._block * cltv - self._weight * log(max(works, 1e-300))
                    total += self._weight * query.suspects.get(tail, 0.0)
                    loads[key] = load + carried
                carried += base + carried * ppm // MILLION
            total += carried - share
        return total

    def improved(self, shares: list[int]) -> list[int]:
        """Moves between two ways and leaves out ways, as long as that saves something."""
        best = self.cost(shares)
        for _ in range(_MOVES):
            moved = self.without_one(shares) or self._moved(shares, best)
            if moved is None:
                break
            shares, best = moved, self.cost(moved)
        return shares

    def without_one(self, shares: list[int], *, anyhow: bool = False) -> list[int] | None:
        """Without the way whose loss saves most, or costs least."""
        tried = []
        for number, share in enumerate(shares):
            if share:
                rest = [*shares[:number], 0, *shares[number + 1 :]]
                other = self._spread(rest, share, number, new=not anyhow)
                if other is not None:
                    tried.append(other)
        cheapest = min(tried, key=self.cost, default=None)
        return cheapest if cheapest is None or anyhow or self.cost(cheapest) < self.cost(shares) else None

    def _moved(self, shares: list[int], cost: float) -> list[int] | None:
        """The first move from a dear way to a cheaper one that saves enough. Straight costs ask for all that fits."""
        order = sorted((n for n in range(len(shares)) if shares[n]), key=self._rates.__getitem__)
        for giver in reversed(order):
            for taker in order:
                if taker == giver:
                    continue
                gone = [*shares[:giver], 0, *shares[giver + 1 :]]
                room = self._fitting(gone, taker, shares[taker] + shares[giver]) - shares[taker]
                for step in _STEPS[:1] if self._fees_only else _STEPS:
                    part = int(room * step)
                    if part <= 0:
                        break
                    other = list(shares)
                    other[taker] += part
                    other[giver] = self._fitting(other, giver, shares[giver] - part)
                    if other[giver] == shares[giver] - part and self.cost(other) < cost * (1 - _GAIN):
                        return other
        return None


def _before_fee(amount: int, base: int, ppm: int) -> int:
    """The most that a channel passes on when so much arrives there."""
    passed = (amount - base) * MILLION // (MILLION + ppm)
    while passed + 1 + base + (passed + 1) * ppm // MILLION <= amount:
        passed += 1
    return passed
