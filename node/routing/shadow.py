"""Shadow routes: blocks on top of the payee's, so that nodes on the path cannot tell how near it is (BOLT 7,
"Recommendations for Routing").
"""

from random import Random

from node.routing.graph import Graph

STEPS = 3
MOST_BLOCKS = 432
"""Three days: an offset that holds up more would be worse than being recognised."""
_USUAL = (40, 80, 144)
"""The deltas that most nodes ask for, where the graph does not tell."""


def shadow_delay(graph: Graph, destination: bytes, random: Random) -> int:
    """The blocks of a random walk that goes on from the destination, as if the path did.

    Where nobody knows the destination's channels the walk starts anywhere: it must look like the others' paths.
    """
    at = graph.index_of(destination)
    if at is None or not graph.incoming[at]:
        if not graph.size:
            return random.choice(_USUAL)
        at = random.randrange(graph.size)
    blocks = 0
    for step in range(STEPS):
        edges = graph.incoming[at]
        if not edges:
            break
        neighbour, key = random.choice(edges)[:2]
        onward = graph.policy(key >> 1, 1 - (key & 1))
        delta = onward.cltv_expiry_delta if onward is not None else random.choice(_USUAL)
        if blocks + delta > MOST_BLOCKS:
            break
        blocks += delta
        at = neighbour
        if step and random.random() < 0.5:
            break
    return blocks or random.choice(_USUAL)
