"""The graph as numpy columns, for the engines that are installed as an extra: the usable directions, by their heads.

They are made of a copy of the graph's tables, and again when channels came or went: ten milliseconds. New terms of a
channel are taken over one by one. Amounts are floats here: enough to search by, never to pay by.
"""

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from node.routing.core import Edge
from node.routing.cost import MIN_CHANCE, CostParameters, chance
from node.routing.graph import Graph
from node.routing.query import Query

Column: TypeAlias = "np.ndarray[Any, np.dtype[Any]]"
_ROW = np.dtype(
    {
        "names": ["cltv", "base", "ppm", "least", "most"],
        "formats": ["<u2", "<u4", "<u4", "<u8", "<u8"],
        "offsets": [6, 8, 12, 16, 24],
        "itemsize": 32,
    }
)
_USABLE = 2


class Columns(NamedTuple):
    """One entry for each usable direction. `pointers`: where those that lead to a node begin, as in a CSR matrix."""

    graph: Graph
    structure: int
    size: int
    slot: Column
    at_slot: Column
    """The entry of each of the graph's slots, -1 for one that is not usable."""
    tail: Column
    head: Column
    pointers: Column
    base: Column
    ppm: Column
    cltv: Column
    least: Column
    most: Column
    room: Column

    def entry(self, key: int) -> int | None:
        slot = self.graph.slot(key)
        if slot is None or slot >= len(self.at_slot):
            return None
        found = int(self.at_slot[slot])
        return None if found < 0 else found


class ColumnStore:
    """The columns of the newest graph that was asked for. Belongs to one thread."""

    def __init__(self) -> None:
        self._made: Columns | None = None
        self._applied = 0
        """So many of the graph's edits are in the columns."""

    def read(self, query: Query) -> Columns:
        """As the query sees them: terms that a failure told of are laid over."""
        made = self._newest(query)
        found = [
            (entry, edge) for key, edge in query.replaced.items() if (entry := made.entry(key)) is not None
        ]
        if not found:
            return made
        made = made._replace(**{name: getattr(made, name).copy() for name in _TERMS})
        for entry, edge in found:
            _set(made, entry, edge)
        return made

    def _newest(self, query: Query) -> Columns:
        graph, made = query.graph, self._made
        if made is not None and made.graph is graph and made.structure == graph.structure:
            edited = graph.edited
            upto = len(edited)
            if made.size == query.size and all(_edit(made, key) for key in edited[self._applied : upto]):
                self._applied = upto
                return made
        self._applied = len(graph.edited)
        self._made = _make(graph, query.size)
        return self._made


def _edit(made: Columns, key: int) -> bool:
    """Takes over the terms that a direction has now. False: it was not usable before, so it has no entry."""
    entry, found = made.entry(key), made.graph.edge(key)
    if entry is None:
        return found is None
    if found is None:
        made.most[entry] = -1.0  # nothing fits
    else:
        _set(made, entry, found[0])
    return True


def _set(made: Columns, entry: int, edge: Edge) -> None:
    for name, value in zip(_TERMS, edge[2:7], strict=True):
        getattr(made, name)[entry] = value


_TERMS = ("base", "ppm", "cltv", "least", "most")


def _make(graph: Graph, size: int) -> Columns:
    while True:
        structure = graph.structure
        one, other, capacities, _ = graph.layout()
        rows, state = graph.rows()
        # The event loop may have changed the graph between the copies: then they do not belong together.
        if graph.structure == structure and len(state) == 2 * len(one):
            break
    ends = np.array(one, dtype=np.int32), np.array(other, dtype=np.int32)
    tails, heads = np.empty(2 * len(one), np.int32), np.empty(2 * len(one), np.int32)
    tails[0::2], tails[1::2] = ends
    heads[0::2], heads[1::2] = ends[1], ends[0]
    usable = np.frombuffer(state, dtype=np.uint8) == _USABLE
    usable &= (tails < size) & (heads < size)
    slots = np.flatnonzero(usable)
    slots = slots[np.argsort(heads[slots], kind="stable")]
    at_slot = np.full(len(state), -1, dtype=np.int32)
    at_slot[slots] = np.arange(len(slots), dtype=np.int32)
    table = np.frombuffer(rows, dtype=_ROW)[slots]
    most = table["most"].astype(np.float64)
    capacity = np.array(capacities, dtype=np.float64)[slots >> 1] * 1000
    capacity = np.where(capacity > 0, capacity, most)
    head = heads[slots]
    pointers = np.concatenate(([0], np.cumsum(np.bincount(head, minlength=size)))).astype(np.int32)
    return Columns(
        graph,
        structure,
        size,
        slots,
        at_slot,
        tails[slots],
        head,
        pointers,
        table["base"].astype(np.float64),
        table["ppm"].astype(np.float64),
        table["cltv"].astype(np.float64),
        table["least"].astype(np.float64),
        np.minimum(most, capacity),
        capacity + 1,
    )


def usable(query: Query, columns: Columns, least_amount: float, most_amount: float) -> Column:
    """Which directions this query may use for amounts in this range, by policies, exclusions and the core."""
    gates = np.frombuffer(bytes(query.gates()), dtype=np.uint8)
    fits = (gates[columns.tail] > 0) & (columns.least <= most_amount) & (columns.most >= least_amount)
    for key in query.banned:
        entry = columns.entry(key)
        if entry is not None:
            fits[entry] = False
    return fits


def path_weights(query: Query, costs: CostParameters, columns: Columns) -> Column:
    """What each direction adds to a path that carries the amount; infinite for what cannot be used."""
    amount = float(query.amount)
    weights = columns.base + columns.ppm * (amount / 1e6)
    weight = costs.weight(query.amount)
    fits = usable(query, columns, amount, amount)
    if not costs.fees_only:
        weights += columns.cltv * costs.per_block(query.amount)
        weights += costs.per_hop(query.amount)
    if weight:
        weights -= weight * np.log(np.maximum(1 - amount / columns.room, 1e-300))
    for key, note in list(query.notes.items()):
        entry = columns.entry(key)
        if entry is None:
            continue
        room = float(columns.room[entry])
        works = chance(note, query.amount, int(room), query.now)
        if works < MIN_CHANCE:
            fits[entry] = False
        elif weight:
            weights[entry] += weight * (np.log(max(1 - amount / room, 1e-300)) - np.log(works))
    for node, loss in query.suspects.items():
        if weight:
            weights[columns.tail == node] += weight * loss
    # A weight of nothing would be no entry of a sparse matrix.
    return np.where(fits, np.maximum(weights, 1e-3), np.inf)
