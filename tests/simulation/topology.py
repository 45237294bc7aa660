"""Shapes of networks: who has a channel with whom, how large it is, how it is split, what it costs, how far it is."""

from random import Random

from msgspec import Struct
from msgspec.structs import replace


class Edge(Struct, frozen=True):
    """A channel. `one` opened it and has what is not `pushed_msat`. `terms`: base fee and ppm that `one` and then
    `two` ask. `seconds`: one way along the line."""

    one: int
    two: int
    capacity_sat: int = 10_000_000
    pushed_msat: int = 5_000_000_000
    terms: tuple[tuple[int, int], tuple[int, int]] = ((1000, 10), (1000, 10))
    seconds: float = 0.01


class Shape(Struct, frozen=True):
    nodes: int
    edges: tuple[Edge, ...]


def line(*seconds: float, **given: int) -> Shape:
    """One node more than there are latencies."""
    edges = tuple(Edge(at, at + 1, seconds=s, **given) for at, s in enumerate(seconds))  # type: ignore[arg-type]
    return Shape(len(seconds) + 1, edges)


def scale_free(
    random: Random,
    nodes: int,
    channels: int,
    *,
    shops: int = 0,
    capacity_sat: tuple[int, int] = (1_000_000, 10_000_000),
) -> Shape:
    """Who has many channels gets more of them, as in the real network. Connected; `channels` at least `nodes` - 1.

    `shops`: so many nodes more, each with one large channel in which nearly all can come in.
    """
    pairs = [(0, 1)]
    ends = [0, 1]
    for new in range(2, nodes):
        other = random.choice(ends)
        pairs.append((new, other))
        ends += [new, other]
    while len(pairs) < channels:
        one, two = random.randrange(nodes), random.choice(ends)
        if one != two and (one, two) not in pairs and (two, one) not in pairs:
            pairs.append((one, two))
            ends += [one, two]
    edges = [_edge(random, one, two, capacity_sat) for one, two in pairs]
    for shop in range(nodes, nodes + shops):
        edge = _edge(random, shop, random.choice(ends), (15_000_000, 16_000_000))
        edges.append(replace(edge, pushed_msat=int(edge.capacity_sat * 970)))
    return Shape(nodes + shops, tuple(edges))


def _edge(random: Random, one: int, two: int, capacity_sat: tuple[int, int]) -> Edge:
    capacity = random.randrange(*capacity_sat)
    return Edge(
        one,
        two,
        capacity,
        # The opener must keep its reserve and the fee of the commitment.
        pushed_msat=int(capacity * 1000 * random.uniform(0.05, 0.9)),
        terms=(_terms(random), _terms(random)),
        seconds=round(random.uniform(0.005, 0.120), 4),
    )


def _terms(random: Random) -> tuple[int, int]:
    return random.choice((0, 100, 500, 1000)), random.choice((1, 10, 50, 100, 200, 400))
