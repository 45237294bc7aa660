"""Multi-part plans from a single-path search: path by path, with the liquidity of the earlier ones taken.

A part that finds no path is made smaller until it does, or until the parts that are left could not carry the rest.
Simple, needs no other package, and close to the optimum as long as few parts share channels.
"""

from typing import Protocol

from node.routing.cost import CostParameters
from node.routing.query import Budget, Query, Unfit, WorkExhausted, path_cost
from protocol.bus.messages.routing import Route

LIKELY = 0.5
"""A single path with at least this chance is taken without a look at more parts."""
TRIMS = (0.97, 0.7)
"""A part that does not fit is first trimmed by what fees may take, then more and more."""


class _Finder(Protocol):
    @property
    def name(self) -> str: ...

    def find(
        self, query: Query, costs: CostParameters, budget: Budget, *, limit: bool = True
    ) -> Route | Unfit | None: ...


class _Large(Protocol):
    @property
    def name(self) -> str: ...

    def find(
        self, query: Query, costs: CostParameters, budget: Budget, max_parts: int
    ) -> tuple[Route, ...]: ...


class SplittingEngine:
    """One part if that is likely to arrive, else several; `large` plans those if it is there."""

    def __init__(self, finder: _Finder, large: _Large | None = None) -> None:
        self.finder = finder
        self.large = large
        self.name = finder.name

    def find(self, query: Query, costs: CostParameters, budget: Budget, max_parts: int) -> tuple[Route, ...]:
        single = self._single(query, costs, budget)
        if single is not None and (max_parts == 1 or costs.fees_only or single.probability >= LIKELY):
            return (single,)
        if max_parts == 1:
            return ()
        plans: list[tuple[Route, ...]] = [] if single is None else [(single,)]
        try:
            plans += [plan for plan in self._several(query, costs, budget, max_parts) if plan]
        except WorkExhausted:
            if not plans:
                raise
        return min(plans, key=lambda plan: plan_cost(query, costs, plan), default=())

    def _single(self, query: Query, costs: CostParameters, budget: Budget) -> Route | None:
        found = self.finder.find(query, costs, budget)
        if isinstance(found, Route):
            return found
        if costs.fees_only:
            return _delays_first(self.finder, query, budget) if isinstance(found, Unfit) else None
        # Fees alone may find what keeps the limit, when risk and delay made another way look better.
        found = self.finder.find(query, CostParameters(0, 0, 0, 0.0), budget)
        if isinstance(found, Route):
            return found
        return _delays_first(self.finder, query, budget)

    def _several(
        self, query: Query, costs: CostParameters, budget: Budget, max_parts: int
    ) -> list[tuple[Route, ...]]:
        plans = [] if self.large is None else [self.large.find(query, costs, budget, max_parts)]
        largest = max((hop.spendable_msat for hops in query.first.values() for hop in hops), default=0)
        if largest <= 0:
            return plans
        size = min(largest, -(-query.amount // 2))
        plan = self._split(query, costs, budget, max_parts, size)
        if not plan and largest > size:
            plan = self._split(query, costs, budget, max_parts, min(largest, query.amount - 1))
        return [*plans, plan]

    def _split(
        self, query: Query, costs: CostParameters, budget: Budget, max_parts: int, size: int
    ) -> tuple[Route, ...]:
        routes: list[Route] = []
        left, fee_left = query.amount, query.max_fee
        trims = 0
        while left:
            size = min(size, left)
            if size * (max_parts - len(routes)) < left:
                return ()
            part = query.after(routes, amount=size, max_fee=fee_left * size // left)
            found = self.finder.find(part, costs, budget)
            if not isinstance(found, Route) and not costs.fees_only:
                found = self.finder.find(part, CostParameters(0, 0, 0, 0.0), budget)
            if isinstance(found, Route):
                routes.append(found)
                left -= size
                fee_left -= found.fee_msat
                continue
            size = int(size * TRIMS[min(trims, len(TRIMS) - 1)])
            trims += 1
            if size <= 0:
                return ()
        return tuple(routes)


def _delays_first(finder: _Finder, query: Query, budget: Budget) -> Route | None:
    """The path that locks the money for the shortest time: the last resort when others take too long."""
    found = finder.find(query, CostParameters(0, 0, 1_000_000_000, 0.0), budget)
    return found if isinstance(found, Route) else None


def plan_cost(query: Query, costs: CostParameters, plan: tuple[Route, ...]) -> float:
    """All parts must arrive, so their chances multiply and the failure of any costs the whole attempt."""
    if costs.fees_only:
        return float(sum(route.fee_msat for route in plan))
    return sum(path_cost(query, costs, route) for route in plan)
