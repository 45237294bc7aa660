"""Searches that miss nothing, for small networks: what the engines of routing are measured against.

They share the knowledge with the engines (the graph, the bounds learned, what our channels can spend, the model of
chance) and nothing of how to search.
"""

from collections.abc import Iterator
from heapq import heappop, heappush
from math import log

from msgspec import Struct

from node.routing.cost import MIN_CHANCE, NO_BOUND, CostParameters, Note, chance
from node.routing.graph import Graph
from protocol.bus.messages.routing import FindRoutes, Route


class Knowledge(Struct):
    """What a node knew when it asked for a route."""

    graph: Graph
    own: bytes
    notes: dict[int, Note]
    suspects: dict[bytes, float]
    """Nodes that may fail, each with the chance that it works."""
    now: float


class Way(Struct, frozen=True):
    """A usable direction of a channel."""

    tail: bytes
    head: bytes
    key: int
    base: int
    ppm: int
    delta: int
    least: int
    most: int
    room: int


def ways(knowledge: Knowledge, request: FindRoutes) -> dict[bytes, list[Way]]:
    """By the node they lead to; none out of our own node, whose channels come with the request."""
    found: dict[bytes, list[Way]] = {}
    banned = {(int(scid), direction) for scid, direction in request.excluded}
    for channel in knowledge.graph.channels_of():
        for direction, policy in enumerate(channel.policies):
            tail, head = channel.node_ids[direction], channel.node_ids[1 - direction]
            if policy is None or not policy.enabled or tail == knowledge.own:
                continue
            if (channel.short_channel_id, direction) in banned or tail in request.excluded_nodes:
                continue
            way = Way(
                tail,
                head,
                channel.short_channel_id << 1 | direction,
                policy.fee_base_msat,
                policy.fee_proportional_millionths,
                policy.cltv_expiry_delta,
                policy.htlc_minimum_msat,
                min(policy.htlc_maximum_msat, channel.capacity_sat * 1000),
                channel.capacity_sat * 1000 + 1,
            )
            found.setdefault(head, []).append(way)
    return found


class Best(Struct, frozen=True):
    cost: float
    fee_msat: int


def best_path(knowledge: Knowledge, request: FindRoutes, costs: CostParameters) -> Best | None:
    """The single path with the least cost, by all ways of arriving that no other beats in cost, amount *and* delay.

    Cutting a loop out of a walk lowers all three, so what is found is a path without loops.
    """
    into = ways(knowledge, request)
    amount = request.amount_msat
    weight, per_hop, per_block = costs.weight(amount), costs.per_hop(amount), costs.per_block(amount)
    kept: dict[bytes, list[tuple[float, int, int]]] = {}
    heap: list[tuple[float, int, int, bytes]] = [(0.0, amount, request.final_delay, request.destination)]
    best: Best | None = None
    while heap:
        cost, carried, delay, node = heappop(heap)
        labels = kept.setdefault(node, [])
        if any(c <= cost and a <= carried and d <= delay for c, a, d in labels):
            continue
        labels.append((cost, carried, delay))
        for hop in request.first_hops:
            fits = (
                hop.peer == node and hop.htlc_minimum_msat <= carried <= hop.spendable_msat and hop.slots > 0
            )
            direction = 0 if knowledge.own < hop.peer else 1
            if fits and (hop.short_channel_id, direction) not in request.excluded:
                return Best(cost, carried - amount)  # the heap gives the cheapest first
        for way in into.get(node, ()):
            if not way.least <= carried <= way.most:
                continue
            works = chance(knowledge.notes.get(way.key), carried, way.room, knowledge.now)
            if works <= 0 or (way.key in knowledge.notes and works < MIN_CHANCE):
                continue
            fee = way.base + carried * way.ppm // 1_000_000
            suspect = knowledge.suspects.get(way.tail, 1.0)
            if carried + fee - amount > request.max_fee_msat or delay + way.delta > request.max_delay:
                continue
            if suspect < MIN_CHANCE:
                continue
            risk = weight * (log(works) + (log(suspect) if suspect < 0.999 else 0.0)) if weight else 0.0
            further = cost + fee + per_hop + per_block * way.delta - risk
            heappush(heap, (further, carried + fee, delay + way.delta, way.tail))
    return best


def cost_of(knowledge: Knowledge, request: FindRoutes, costs: CostParameters, route: Route) -> float:
    """The cost of a route that an engine found, reckoned here."""
    amount = request.amount_msat
    total = float(route.hops[0].amount_msat - amount)
    total += costs.per_hop(amount) * (len(route.hops) - 1)
    total += costs.per_block(amount) * (route.hops[0].delay - request.final_delay)
    for before, hop in zip(route.hops, route.hops[1:], strict=False):
        key = hop.short_channel_id << 1 | hop.direction
        channel = knowledge.graph.channel(hop.short_channel_id)
        assert channel is not None
        room = channel.capacity_sat * 1000 + 1
        works = chance(knowledge.notes.get(key), hop.amount_msat, room, knowledge.now)
        suspect = knowledge.suspects.get(before.node_id, 1.0)
        total -= costs.weight(amount) * (log(works) + (log(suspect) if suspect < 0.999 else 0.0))
    return total


Over = tuple[tuple[int, float, float, int, int], ...]
"""(key, rise, base, the most that may stand there in all, in one part) of each way."""


class Path(Struct, frozen=True):
    """Carried over each way: rise * (what arrives) + base, per way; the last is what leaves us."""

    first: int
    over: Over
    rise: float
    base: float


def least_fee_in_parts(knowledge: Knowledge, request: FindRoutes) -> float | None:
    """The least sum of fees of up to `max_parts` parts, as an integer program over all paths. Fractions of a msat are
    not rounded, so it may be a few msat too low and is never too high. None: it cannot be sent."""
    spendable = {-hop.short_channel_id: hop.spendable_msat for hop in request.first_hops}
    return least_fee(list(_paths(knowledge, request)), spendable, request.amount_msat, request.max_parts)


def least_fee(paths: list[Path], spendable: dict[int, int], whole: int, max_parts: int) -> float | None:
    """`spendable`: by -short_channel_id, what our channels can send."""
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp

    if not paths:
        return None
    count, amount = len(paths), float(whole)
    # Variables: what arrives by each path in shares of the amount, then in how many parts.
    cost = np.array([(path.rise - 1) * amount for path in paths] + [path.base for path in paths])
    rows, low, high = [], [], []

    def limit(row: dict[int, float], least: float, most: float) -> None:
        line = np.zeros(2 * count)
        for at, value in row.items():
            line[at] = value
        rows.append(line)
        low.append(least)
        high.append(most)

    limit(dict.fromkeys(range(count), 1.0), 1.0, 1.0)
    limit({count + at: 1.0 for at in range(count)}, 0.0, float(max_parts))
    shared: dict[int, tuple[dict[int, float], int]] = {}
    for at, path in enumerate(paths):
        limit({at: 1.0, count + at: -1.0}, -np.inf, 0.0)
        for key, rise, base, most, part in (*path.over, (path.first, path.rise, path.base, 0, 0)):
            row, _ = shared.setdefault(key, ({}, most))
            row[at], row[count + at] = rise, base / amount
            if part < most:
                limit({at: rise, count + at: (base - part) / amount}, -np.inf, 0.0)
    for key, (row, most) in shared.items():
        limit(row, -np.inf, spendable.get(key, most) / amount)
    solved = milp(
        cost,
        constraints=LinearConstraint(np.array(rows), np.array(low), np.array(high)),
        bounds=Bounds(0, np.array([1.0] * count + [float(max_parts)] * count)),
        integrality=np.array([0] * count + [1] * count),
        options={"mip_rel_gap": 1e-6},
    )
    return float(solved.fun) if solved.success else None


def _most(knowledge: Knowledge, way: Way) -> int:
    """The most that a way takes in all parts together, by the model of chance and beside what is in flight.

    A chance that is small only for that does not forbid it: one part alone may fill a channel, so several may.
    """
    note = knowledge.notes.get(way.key)
    if note is None:
        return way.room - 1
    if note[:2] == (0, NO_BOUND):
        return way.room - 1 - note[3]
    low, high = 0, way.room - 1
    while low < high:
        middle = (low + high + 1) // 2
        if chance(note, middle, way.room, knowledge.now) >= MIN_CHANCE:
            low = middle
        else:
            high = middle - 1
    return low


def _paths(knowledge: Knowledge, request: FindRoutes) -> Iterator[Path]:
    """Every path without loops. A way's limit is the most that may stand in it by all that is known."""
    into = ways(knowledge, request)
    stack: list[tuple[bytes, frozenset[bytes], float, float, int, Over]] = [
        (request.destination, frozenset((request.destination,)), 1.0, 0.0, request.final_delay, ())
    ]
    while stack:
        node, seen, rise, base, delay, over = stack.pop()
        for hop in request.first_hops:
            if hop.peer == node and hop.spendable_msat > 0:
                yield Path(-hop.short_channel_id, over, rise, base)
        for way in into.get(node, ()):
            if way.tail in seen or delay + way.delta > request.max_delay:
                continue
            most = _most(knowledge, way)
            if most <= 0:
                continue
            here = (way.key, rise, base, most, min(most, way.most))
            factor = 1 + way.ppm / 1e6
            stack.append(
                (
                    way.tail,
                    seen | {way.tail},
                    rise * factor,
                    base * factor + way.base,
                    delay + way.delta,
                    (*over, here),
                )
            )
