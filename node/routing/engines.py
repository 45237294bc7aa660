"""One interface for all that finds routes, and which of them answers (performance.md, section 6).

A *finder* looks for one path, an *engine* for as many parts as it takes. What an engine returns was priced
exactly by `Query.price`, whatever the engine reckoned with.
"""

import importlib.util
from typing import Protocol

from msgspec.structs import replace

from node.routing.cost import CostParameters
from node.routing.parts import SplittingEngine
from node.routing.query import Budget, Query, Unfit
from node.routing.single import HeapEngine
from protocol.bus.messages.routing import Route

LARGE = 2_000
"""Channels from which on numpy and scipy are worth their import."""


class Finder(Protocol):
    name: str

    def find(
        self, query: Query, costs: CostParameters, budget: Budget, *, limit: bool = True
    ) -> Route | Unfit | None: ...


class Engine(Protocol):
    name: str

    def find(self, query: Query, costs: CostParameters, budget: Budget, max_parts: int) -> tuple[Route, ...]:
        """Parts that deliver the whole amount within all limits; none when it finds none."""


class Engines:
    """The default engine at once, and for large graphs what the extra offers as soon as it is loaded."""

    def __init__(self) -> None:
        self.heap = HeapEngine()
        self._default = SplittingEngine(self.heap)
        self._large: Engine | None = None
        self._asked = False

    def due(self, channels: int) -> bool:
        """True once: when the graph first is large enough for `load` to be worth its time and memory."""
        if self._asked or channels < LARGE:
            return False
        self._asked = True
        return True

    def load(self) -> None:
        """Imports the optional packages, half a second of work: in a thread, while the default engine serves."""
        self._large = _best(self.heap)

    def for_graph(self, channels: int) -> Engine:
        return self._default if channels < LARGE or self._large is None else self._large


def _best(heap: HeapEngine) -> Engine:
    if not has("numpy", "scipy"):
        return SplittingEngine(heap)
    from node.routing.columns import ColumnStore
    from node.routing.vector import VectorEngine

    store = ColumnStore()
    vector = VectorEngine(heap, store)
    if not has("ortools"):
        return SplittingEngine(vector)
    from node.routing.flow import FlowEngine

    return SplittingEngine(vector, large=FlowEngine(store))


def has(*packages: str) -> bool:
    return all(importlib.util.find_spec(package) is not None for package in packages)


def explained(route: Route, engine: str, parts: int) -> Route:
    """The route with a sentence on why it was chosen."""
    share = route.fee_msat * 100 / route.amount_msat
    how = "in one part" if parts == 1 else f"as one of {parts} parts"
    return replace(
        route,
        why=f"{route.amount_msat} msat {how} over {len(route.hops)} channels: the least sum of fee "
        f"({route.fee_msat} msat, {share:.3f} %), delay ({route.hops[0].delay} blocks) and risk (arrives with "
        f"{route.probability:.0%} as far as we know), found by {engine}",
    )
