"""Small graphs, and an exact search by trying every path, which the engines are measured against."""

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from node.routing.core import Edge
from node.routing.cost import FEES_ONLY
from node.routing.graph import Graph
from node.routing.query import Budget, Query, Step
from node.routing.single import HeapEngine
from protocol import curve
from protocol.amounts import Msat, ShortChannelId, scid
from protocol.bus.messages.routing import FirstHop, Route

PLENTY = Msat(10**12)
WORK = 10**9


def node(number: int) -> bytes:
    """A node id; a greater number sorts later."""
    return b"\x02" + number.to_bytes(32, "big")


US = node(0)
REAL_ID = curve.point_of(b"\x11" * 32)


def at(number: int) -> ShortChannelId:
    return scid(700_000, number, 0)


def put(
    graph: Graph,
    number: int,
    tail: int,
    head: int,
    *,
    base: int = 0,
    ppm: int = 0,
    cltv: int = 40,
    least: int = 0,
    most: int | None = None,
    capacity: int = 10_000_000,
    flags: int = 0,
    timestamp: int = 1,
) -> int:
    """One direction of a channel that may be new. Returns its key."""
    one, other = sorted((tail, head))
    graph.put_channel(at(number), node(one), node(other), capacity, b"")
    direction = 0 if tail < head else 1
    most = capacity * 1000 if most is None else most
    graph.put_policy(at(number), direction, timestamp, 1, flags | direction, cltv, least, most, base, ppm)
    return at(number) << 1 | direction


def first(
    peer: int, *, number: int = 900, spendable: int = PLENTY, least: int = 0, slots: int = 30
) -> FirstHop:
    return FirstHop(node(peer), at(number), Msat(spendable), Msat(least), slots)


def query(graph: Graph, destination: int, amount: int, *first_hops: FirstHop, **more: Any) -> Query:
    terms: dict[str, Any] = {"final_delay": 18, "max_fee": 10**9, "own": US, **more}
    return Query(graph, destination=node(destination), amount=amount, first_hops=first_hops, **terms)


def cheapest(asked: Query) -> Route:
    found = HeapEngine().find(asked, FEES_ONLY, Budget(WORK))
    assert isinstance(found, Route), found
    return found


def ways(route: Route) -> list[int]:
    """The channels of a route by their numbers."""
    return [hop.short_channel_id >> 16 & 0xFFFFFF for hop in route.hops]


def every_path(asked: Query, longest: int) -> Iterator[tuple[FirstHop, list[Step]]]:
    """All paths without a loop that lead from one of our channels to the target."""

    def back(head: int, steps: list[Step], seen: set[int]) -> Iterator[tuple[FirstHop, list[Step]]]:
        for hop in asked.first.get(head, ()):
            yield hop, list(reversed(steps))
        if len(steps) + 1 >= longest:
            return
        for edge in asked.edges_into(head):
            if edge[0] not in seen and edge[0] not in asked.closed:
                yield from back(edge[0], [*steps, (edge, head)], seen | {edge[0]})

    yield from back(asked.target, [], {asked.target})


def exact(asked: Query, cost: Any, longest: int = 8) -> Route | None:
    """The best of all routes by a cost of routes."""
    routes = [
        route
        for hop, steps in every_path(asked, longest)
        if isinstance(route := asked.price(hop, steps, asked.amount), Route)
    ]
    return min(routes, key=cost, default=None)


_FEES = st.tuples(st.integers(0, 3_000), st.integers(0, 5_000))


@st.composite
def graphs(draw: st.DrawFn, nodes: int = 7, channels: int = 14) -> Graph:
    """htlc_minimum_msat is met by any amount of these tests or by none: a search keeps one amount for a node."""
    graph = Graph()
    count = draw(st.integers(2, channels))
    for number in range(count):
        one = draw(st.integers(1, nodes - 1))
        other = draw(st.integers(1, nodes).filter(lambda other, one=one: other != one))
        capacity = draw(st.integers(20_000, 2_000_000))
        for tail, head in ((one, other), (other, one)):
            base, ppm = draw(_FEES)
            flags = draw(st.sampled_from((0, 0, 0, 2)))
            least = draw(st.sampled_from((0, 1_000, 1_000, 10**11)))
            cltv = draw(st.sampled_from((14, 40, 144)))
            put(
                graph,
                number,
                tail,
                head,
                base=base,
                ppm=ppm,
                cltv=cltv,
                least=least,
                capacity=capacity,
                flags=flags,
            )
    return graph


def shape(edge: Edge) -> tuple[int, int, int]:
    return edge[2], edge[3], edge[4]
