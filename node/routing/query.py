"""One question to an engine, with what must not be used and what is known; and the exact price of a path (BOLT 4).

A query lays its own channels over the graph: route hints and the terms that a failure told of count here only.
Nodes that the graph does not know have negative indexes, which Python lists take from their end.
"""

from collections.abc import Iterable, Mapping
from math import exp, log

from msgspec import Struct
from msgspec.structs import replace

from node.routing.core import Edge
from node.routing.cost import MIN_CHANCE, CostParameters, Note, chance, is_taught
from node.routing.graph import Graph
from protocol.amounts import MAX_HTLC_CLTV, Msat, ShortChannelId
from protocol.bolt11.invoice import HopHint
from protocol.bus.messages.routing import FirstHop, Route, RouteHop

MAX_HOPS = 20
"""So many payloads surely fit into an onion of 1300 bytes."""
SLACK = 4_096
"""Nodes that gossip may add while a search runs."""
HINT_ROOM = 10
"""A hinted channel is taken to hold so many times the amount: the payee should know, but is not always right."""
_HINT_MOST = 1 << 62

Step = tuple[Edge, int]
"""A direction and the node that it leads to."""


class WorkExhausted(Exception):
    """The search took more steps than it may."""


class Budget:
    """Nodes that may be looked at for one request: it bounds the time of all its searches together."""

    def __init__(self, nodes: int) -> None:
        self.left = nodes

    def spend(self, nodes: int) -> None:
        self.left -= nodes
        if self.left < 0:
            raise WorkExhausted


class Unfit(Struct, frozen=True):
    """A path that cannot be used as it is: the direction at fault, if there is one, and why."""

    why: str
    key: int | None = None


class Query:
    """`first`: our channels by the node that they lead to. `amount` is what one path, or all parts, deliver.

    Made in the thread that changes the graph; answered in any.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        own: bytes,
        destination: bytes,
        amount: int,
        final_delay: int,
        max_fee: int,
        first_hops: Iterable[FirstHop],
        hints: Iterable[tuple[HopHint, ...]] = (),
        banned: Iterable[int] = (),
        replaced: Mapping[int, Edge] | None = None,
        closed: Iterable[bytes] = (),
        notes: dict[int, Note] | None = None,
        suspects: Iterable[tuple[bytes, float]] = (),
        max_delay: int = MAX_HTLC_CLTV,
        max_hops: int = MAX_HOPS,
        now: float = 0.0,
        whose: str = "our",
    ) -> None:
        self.graph = graph
        self.own_id = own
        self.whose = whose
        """How a refusal names the channels of the source."""
        self.amount = amount
        self.final_delay = final_delay
        self.max_fee = max_fee
        self.max_delay = max_delay
        self.max_hops = min(max_hops, MAX_HOPS)
        self.now = now
        self.notes = {} if notes is None else notes
        self._core = graph.core()
        self.size = graph.size
        self.strangers: list[bytes] = []
        self.banned = set(banned)
        self.replaced = dict(replaced or {})
        self.target = self.index(destination)
        self.own = self.index(own)
        self.first: dict[int, list[FirstHop]] = {}
        for hop in first_hops:
            if hop.slots > 0 and self._first_key(hop) not in self.banned:
                self.first.setdefault(self.index(hop.peer), []).append(hop)
        self.hinted: dict[int, list[Edge]] = {}
        for chain in hints:
            self._add_hint(chain, destination)
        self.suspects = {
            index: -log(max(works, 1e-9))
            for node_id, works in suspects
            if (index := graph.index_of(node_id)) is not None and works < 0.999
        }
        self.closed = {self.index(node_id) for node_id in closed}
        self.closed |= {index for index, loss in self.suspects.items() if loss > -log(MIN_CHANCE)}
        self.closed -= {self.target}
        if self.own != self.target:
            self.closed.add(self.own)
        self.incoming = self._laid_over()

    def index(self, node_id: bytes) -> int:
        found = self.graph.index_of(node_id)
        if found is not None and found < self.size:
            return found
        if node_id not in self.strangers:
            self.strangers.append(node_id)
        return -1 - self.strangers.index(node_id)

    def id_of(self, index: int) -> bytes:
        return self.strangers[-1 - index] if index < 0 else self.graph.id_of(index)

    @property
    def slots(self) -> int:
        """The length of lists by node."""
        return self.size + SLACK + len(self.strangers)

    def _first_key(self, hop: FirstHop) -> int:
        return hop.short_channel_id << 1 | (0 if self.own_id < hop.peer else 1)

    def _add_hint(self, chain: tuple[HopHint, ...], destination: bytes) -> None:
        for at, hint in enumerate(chain):
            head = chain[at + 1].node_id if at + 1 < len(chain) else destination
            key = hint.short_channel_id << 1 | (0 if hint.node_id < head else 1)
            if key in self.banned or self.graph.edge(key) is not None:
                continue  # what its owner announced is as new as what the payee repeats
            edge = (
                self.index(hint.node_id),
                key,
                hint.fee_base_msat,
                hint.fee_proportional_millionths,
                hint.cltv_expiry_delta,
                0,
                _HINT_MOST,
                HINT_ROOM * self.amount + 1,
            )
            self.hinted.setdefault(self.index(head), []).append(self.replaced.get(key, edge))

    def _laid_over(self) -> dict[int, list[Edge]]:
        """For each node where this query differs from the graph: all directions that lead to it."""
        heads = {self.graph.head_of(key) for key in (*self.banned, *self.replaced)} | set(self.hinted)
        found: dict[int, list[Edge]] = {}
        for head in heads:
            if head is None:
                continue
            public = self.graph.incoming[head] if head >= 0 else []
            found[head] = [
                self.replaced.get(edge[1], edge) for edge in public if edge[1] not in self.banned
            ] + self.hinted.get(head, [])
        for stranger in range(-len(self.strangers), 0):
            found.setdefault(stranger, [])
        return found

    def edges_into(self, node: int) -> list[Edge]:
        """The directions that lead to a node, as this query sees them."""
        special = self.incoming.get(node)
        if special is not None:
            return special
        return self.graph.incoming[node] if node >= 0 else []

    def gates(self) -> bytearray:
        """1 for each node that a search may pass: the core, the ways up to it, and what this query adds."""
        gates = bytearray(self._core)
        gates = gates[: self.size] + bytes(self.slots - min(len(gates), self.size))
        ends = {self.target, *self.first}
        for head, edges in self.hinted.items():
            ends.add(head)
            ends.update(edge[0] for edge in edges)
        for end in ends:
            gates[end] = 1
            if end >= 0:
                for node in self.graph.way_up(end):
                    gates[node] = 1
        for node in self.closed:
            gates[node] = 0
        return gates

    def first_hop(self, peer: int, amount: int, last_key: int | None = None) -> FirstHop | None:
        """Of our channels with the peer the one with most to spend, if it carries the amount.

        `last_key`: how the path comes home when we pay ourselves; it must not leave by the same channel.
        """
        best: FirstHop | None = None
        for hop in self.first.get(peer, ()):
            if not hop.htlc_minimum_msat <= amount <= hop.spendable_msat or hop.slots <= 0:
                continue
            if last_key is not None and hop.short_channel_id == last_key >> 1:
                continue
            if best is None or hop.spendable_msat > best.spendable_msat:
                best = hop
        return best

    def chance(self, edge: Edge, amount: int) -> float:
        return chance(self.notes.get(edge[1]), amount, edge[7], self.now)

    def price(self, first: FirstHop, steps: list[Step], amount: int, *, limit: bool = True) -> Route | Unfit:
        """The route with exact amounts and delays, or why it cannot be used. Every engine's paths come by here.

        `limit` False: what the fee would be, whatever the most that may be paid.
        """
        if len(steps) + 1 > self.max_hops:
            return Unfit(f"it has {len(steps) + 1} hops, {self.max_hops} are the most")
        hops: list[RouteHop] = []
        works = 1.0
        carried, delay = amount, self.final_delay
        for edge, head in reversed(steps):
            tail, key, base, ppm, cltv, least, most, _ = edge
            if not least <= carried <= most:
                return Unfit(f"a channel takes from {least} to {most} msat", key)
            here = self.chance(edge, carried)
            if here < MIN_CHANCE and (here <= 0 or (key in self.notes and is_taught(self.notes[key]))):
                return Unfit("a channel is known not to carry it", key)
            works *= here
            scid = ShortChannelId(key >> 1)
            hops.append(RouteHop(self.id_of(head), scid, key & 1, Msat(carried), delay))
            if tail in self.suspects:
                works *= exp(-self.suspects[tail])
            carried += base + carried * ppm // 1_000_000
            delay += cltv
        if not first.htlc_minimum_msat <= carried <= first.spendable_msat:
            return Unfit("our channel does not carry it", self._first_key(first))
        if delay > self.max_delay:
            return Unfit(f"it may lock the money for {delay} blocks")
        key = self._first_key(first)
        hops.append(RouteHop(first.peer, first.short_channel_id, key & 1, Msat(carried), delay))
        if limit and carried - amount > self.max_fee:
            return Unfit(f"its fee is {carried - amount} msat")
        hops.reverse()
        return Route(tuple(hops), Msat(amount), Msat(carried - amount), works, "")

    def after(self, routes: Iterable[Route], *, amount: int, max_fee: int) -> "Query":
        """The same question for the rest, when these parts are on their way: their liquidity is taken."""
        rest = object.__new__(Query)
        rest.__dict__.update(self.__dict__)
        rest.amount = amount
        rest.max_fee = max_fee
        rest.notes = dict(self.notes)
        taken: dict[int, list[int]] = {}
        for route in routes:
            first = route.hops[0]
            taken.setdefault(first.short_channel_id, []).append(first.amount_msat)
            for hop in route.hops[1:]:
                key = hop.short_channel_id << 1 | hop.direction
                low, high, when, used = rest.notes.get(key, (0, 1 << 63, 0.0, 0))
                rest.notes[key] = (low, high, when, used + hop.amount_msat)
        rest.first = {
            peer: [_less(hop, taken.get(hop.short_channel_id, ())) for hop in hops]
            for peer, hops in self.first.items()
        }
        return rest


def _less(hop: FirstHop, amounts: Iterable[int]) -> FirstHop:
    taken = tuple(amounts)
    if not taken:
        return hop
    left = Msat(max(0, hop.spendable_msat - sum(taken)))
    return replace(hop, spendable_msat=left, slots=hop.slots - len(taken))


def path_cost(query: Query, costs: CostParameters, route: Route) -> float:
    """What an engine minimises, of a route that it found: to compare the answers of engines."""
    if costs.fees_only:
        return float(route.fee_msat)
    weight = costs.weight(query.amount)
    total = float(route.fee_msat) + costs.per_hop(query.amount) * (len(route.hops) - 1)
    total += costs.per_block(query.amount) * (route.hops[0].delay - query.final_delay)
    return total - weight * log(max(route.probability, 1e-300))


def plan_cost(query: Query, costs: CostParameters, plan: Iterable[Route]) -> float:
    """All parts must arrive, so their chances multiply and the failure of any costs the whole attempt."""
    return sum(path_cost(query, costs, route) for route in plan)
