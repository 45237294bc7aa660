"""Why there is no route, in a sentence that a person can act on; the codes are Core Lightning's."""

from node.routing.cost import FEES_ONLY
from node.routing.query import MAX_HOPS, Budget, Query, Unfit
from node.routing.single import HeapEngine
from protocol.bus.messages.routing import Route
from protocol.errors import CommandRefused

NOT_FOUND = 205
TOO_EXPENSIVE = 206
CANNOT_AFFORD = 215
NO_CAPACITY = 220
_HALVINGS = 12
_BLOCKS_FOR_EVER = 1 << 16


def no_funds(query: Query) -> CommandRefused | None:
    """What our own channels lack, if that is the reason."""
    hops = [hop for hops in query.first.values() for hop in hops]
    if not hops:
        return CommandRefused(
            f"none of {query.whose} channels can carry a payment now",
            what_to_do="Open one, wait until its peer is connected, or leave out fewer of them.",
            code=CANNOT_AFFORD,
        )
    total = sum(hop.spendable_msat for hop in hops)
    if total < query.amount:
        return CommandRefused(
            f"{query.whose} channels can send {total} msat now, {query.amount} msat was asked",
            what_to_do="Try a smaller amount, or wait until pending payments settle.",
            code=CANNOT_AFFORD,
        )
    return None


def explain(query: Query, heap: HeapEngine, budget: Budget, max_parts: int) -> CommandRefused:
    """Asks what would have to be different, the nearest reason first."""
    return (
        no_funds(query)
        or _no_way_in(query)
        or _fee_or_delay(query, heap, budget)
        or _too_much(query, heap, budget, max_parts)
    )


def exhausted(query: Query) -> CommandRefused:
    return CommandRefused(
        f"no route for {query.amount} msat was found within the work that one search may take",
        what_to_do="Try a smaller amount, or a higher fee limit.",
        code=NOT_FOUND,
    )


def _no_way_in(query: Query) -> CommandRefused | None:
    if query.edges_into(query.target) or query.target in query.first:
        return None
    name = query.id_of(query.target).hex()
    if query.target >= 0 and query.graph.incoming[query.target]:
        return CommandRefused(
            f"every channel that leads to {name} was excluded",
            what_to_do="Leave out fewer channels or nodes.",
            code=NOT_FOUND,
        )
    if query.target >= 0:
        return CommandRefused(
            f"no channel that leads to {name} is enabled", what_to_do="Try again later.", code=NOT_FOUND
        )
    more = " (the graph is still being loaded)" if query.graph.loading else ""
    return CommandRefused(
        f"{name} is not in our graph of {query.graph.channels} channels{more}, and no route hint leads to it",
        what_to_do="Wait until gossip has come in, or ask the payee for an invoice with route hints.",
        code=NOT_FOUND,
    )


def _fee_or_delay(query: Query, heap: HeapEngine, budget: Budget) -> CommandRefused | None:
    cheapest = heap.find(query, FEES_ONLY, budget, limit=False)
    if isinstance(cheapest, Route) and cheapest.fee_msat > query.max_fee:
        return CommandRefused(
            f"the cheapest route found costs {cheapest.fee_msat} msat, {query.max_fee} msat are allowed",
            what_to_do="Allow a higher fee.",
            code=TOO_EXPENSIVE,
        )
    patient = query.after((), amount=query.amount, max_fee=query.max_fee)
    patient.max_delay, patient.max_hops = _BLOCKS_FOR_EVER, MAX_HOPS
    slower = heap.find(patient, FEES_ONLY, budget, limit=False)
    if isinstance(slower, Route) and slower.hops[0].delay > query.max_delay:
        return CommandRefused(
            f"the route found may lock the money for {slower.hops[0].delay} blocks, {query.max_delay} are allowed",
            what_to_do="Allow a longer delay, or ask the payee for an invoice with a shorter final one.",
            code=TOO_EXPENSIVE,
        )
    if isinstance(slower, Route) and len(slower.hops) > query.max_hops:
        return CommandRefused(
            f"the route found has {len(slower.hops)} hops, {query.max_hops} are allowed",
            what_to_do="Allow more hops.",
            code=TOO_EXPENSIVE,
        )
    if isinstance(cheapest, Unfit):
        return CommandRefused(
            f"the only route found cannot be used: {cheapest.why}",
            what_to_do="Try a smaller amount, or another time.",
            code=NOT_FOUND,
        )
    return None


def _too_much(query: Query, heap: HeapEngine, budget: Budget, max_parts: int) -> CommandRefused:
    amount = query.amount
    for _ in range(_HALVINGS):
        amount //= 2
        if not amount:
            break
        smaller = query.after((), amount=amount, max_fee=query.max_fee)
        if isinstance(heap.find(smaller, FEES_ONLY, budget, limit=False), Route):
            parts = "in one part" if max_parts == 1 else f"in up to {max_parts} parts"
            return CommandRefused(
                f"no route carries {query.amount} msat {parts}; a part of {amount} msat would find one",
                what_to_do="Try a smaller amount, allow more parts or a higher fee, or wait and try again.",
                code=NO_CAPACITY,
            )
    payee, peers = query.id_of(query.target).hex(), f"{len(query.first)} peer{'s' * (len(query.first) != 1)}"
    return CommandRefused(
        f"no way leads from {query.whose} {peers} to {payee}, as far as the graph and what we learned from "
        "failures tell",
        what_to_do="Try again later, or open a channel with a node that is better connected.",
        code=NOT_FOUND,
    )
