"""Plays one seed and prints what came of it: `python -m tests.simulation.replay SEED [nodes channels payments deaths]`.

For a seed that a test printed, and for the test that holds two processes against each other.
"""

import sys

from tests.simulation.net import simulate
from tests.simulation.scenes import SECONDS, deadly
from tests.simulation.topology import scale_free

SMALL = (4, 5, 12, 4)


def main(arguments: list[str]) -> None:
    given = [int(argument) for argument in arguments]
    seed, nodes, channels, payments, deaths = (*given, *SMALL[len(given) - 1 :])
    played = simulate(
        seed,
        lambda random: scale_free(random, nodes, channels, shops=2),
        lambda net: deadly(net, payments=payments, deaths=deaths),
        **SECONDS,
    )
    print("\n".join(played.story))
    print(played.books)
    print(seed, played.digest)


if __name__ == "__main__":
    main(sys.argv[1:])
