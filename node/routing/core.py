"""The 2-core of the graph: the nodes that a path may pass through (performance.md, section 6).

Four of five nodes hang on the rest by one neighbour, directly or through others that do. A path enters them only to
end there, so a search that leaves them out loses nothing but work.
"""

from collections.abc import Sequence
from typing import TypeAlias

Edge: TypeAlias = tuple[int, int, int, int, int, int, int, int]
"""(tail node, key, fee_base_msat, fee_proportional_millionths, cltv_expiry_delta, least, most, room), in msat.

`most`: the smaller of htlc_maximum_msat and the capacity. `room`: one more than the capacity, so that even an
HTLC of the whole capacity keeps a chance above zero.
"""


def two_core(incoming: Sequence[Sequence[Edge]]) -> tuple[bytearray, dict[int, int]]:
    """1 for each node of the core; and for each other node that has links, the neighbour on its way to the core.

    Takes away nodes with one neighbour until none is left.
    """
    size = len(incoming)
    pairs = set()
    for head, edges in enumerate(incoming):
        for edge in edges:
            tail = edge[0]
            pairs.add(tail * size + head if tail < head else head * size + tail)
    degree = [0] * size
    joined = [0] * size  # the neighbours that are left, xored: with one left it is that one
    for pair in pairs:
        one, other = divmod(pair, size)
        degree[one] += 1
        degree[other] += 1
        joined[one] ^= other
        joined[other] ^= one
    core = bytearray(1 if count > 1 else 0 for count in degree)
    parent: dict[int, int] = {}
    leaves = [node for node, count in enumerate(degree) if count == 1]
    for leaf in leaves:  # grows while it is read
        if degree[leaf] != 1:
            continue
        above = joined[leaf]
        core[leaf] = 0
        parent[leaf] = above
        degree[leaf] = 0
        joined[above] ^= leaf
        degree[above] -= 1
        if degree[above] == 1:
            leaves.append(above)
        elif degree[above] == 0:
            core[above] = 0
    return core, parent
