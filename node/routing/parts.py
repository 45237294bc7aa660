"""One part or several: plans of more than one way to find them, and the best that can be made of them.

A min-cost flow (`residual`, or `flow` where its package is installed) knows best which channels to fill, and spreads
what a part costs whatever it carries. Going path by path, with the liquidity of the earlier ones taken, weighs that
exactly and fills a dear path as readily as a cheap one: a part that finds no path is made smaller until it does, or
until the parts that are left could not carry the rest. `shares.improve` has the ways of both to choose from.
"""

from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

from node.routing.cost import CostParameters
from node.routing.query import Budget, Query, Unfit, WorkExhausted
from node.routing.residual import ResidualEngine
from node.routing.shares import improve
from protocol.bus.messages.routing import Route

SMALL = 5
"""A part below one of so many shares of the amount is looked at once more by itself."""
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
    """One part if that is likely to arrive, else several; `large` plans those as a flow."""

    def __init__(self, finder: _Finder, large: _Large | None = None) -> None:
        self.finder = finder
        self.larges = (ResidualEngine(),) if large is None else (large, ResidualEngine())
        self.name = finder.name

    def find(self, query: Query, costs: CostParameters, budget: Budget, max_parts: int) -> tuple[Route, ...]:
        largest = max((hop.spendable_msat for hops in query.first.values() for hop in hops), default=0)
        single = self._single(query, costs, budget) if largest >= query.amount else None
        if single is not None and (max_parts == 1 or costs.fees_only or single.probability >= LIKELY):
            return (single,)
        if max_parts == 1 or largest <= 0:
            return () if single is None else (single,)
        plans: list[tuple[Route, ...]] = [] if single is None else [(single,)]
        try:
            for plan in self._several(query, costs, budget, max_parts, largest):
                if plan:
                    plans.append(plan)
        except WorkExhausted:
            if not plans:
                raise
        plan = improve(query, costs, plans, max_parts)
        with suppress(WorkExhausted):
            plans = [plan, *self._small_ones_again(query, costs, budget, plan)]
        return improve(query, costs, plans, max_parts) if len(plans) > 1 else plan

    def _small_ones_again(
        self, query: Query, costs: CostParameters, budget: Budget, plan: tuple[Route, ...]
    ) -> Iterator[tuple[Route, ...]]:
        """The plan with another way for a part whose base fees weigh more than the flow took them to weigh."""
        for number, route in enumerate(plan):
            if route.amount_msat > query.amount // SMALL:
                continue
            others = (*plan[:number], *plan[number + 1 :])
            left = query.max_fee - sum(other.fee_msat for other in others)
            rest = query.after(others, amount=route.amount_msat, max_fee=left)
            found = self.finder.find(rest, costs, budget)
            if isinstance(found, Route) and found.fee_msat < route.fee_msat:
                yield (*others, found)

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
        self, query: Query, costs: CostParameters, budget: Budget, max_parts: int, largest: int
    ) -> Iterator[tuple[Route, ...]]:
        for large in self.larges:
            plan = large.find(query, costs, budget, max_parts)
            if plan:
                break
        yield plan
        size = min(largest, -(-query.amount // 2))
        plan = self._split(query, costs, budget, max_parts, size)
        if not plan and largest > size:
            plan = self._split(query, costs, budget, max_parts, min(largest, query.amount - 1))
        yield plan

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
