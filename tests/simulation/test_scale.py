"""Two hundred real nodes in one process, each with a real signer, on the CPU time of a test."""

import os
import time

from tests.simulation.books import Books, audit, balances
from tests.simulation.net import Net, simulate
from tests.simulation.scenes import SECONDS
from tests.simulation.topology import scale_free
from tests.simulation.traffic import storm

SOAK = os.environ.get("LNP_HYPOTHESIS") == "soak"
NODES, CHANNELS, PAYMENTS = (200, 400, 500) if SOAK else (100, 200, 150)
TURNS_A_PAYMENT = 1_500
"""Of the loop. CPU time is printed and not asserted: it depends on who else is on the machine."""


def test_a_large_network_pays_and_settles():
    async def scene(net: Net) -> tuple[Books, float, int]:
        built = time.process_time()
        before = await balances(net)
        turns = net.loop.turns
        orders = await storm(net, net.random, "payment", PAYMENTS, 30.0)
        await net.rest()
        return await audit(net, orders, before), built, net.loop.turns - turns

    began = time.process_time()
    books, built, turns = simulate(3, lambda random: scale_free(random, NODES, CHANNELS), scene, **SECONDS)
    ended = time.process_time()
    print(
        f"{NODES} nodes, {CHANNELS} channels: built in {built - began:.1f} s of CPU, {PAYMENTS} payments "
        f"in {ended - built:.1f} s ({1000 * (ended - built) / PAYMENTS:.0f} ms each, "
        f"{books.forwards / max(1, books.paid):.1f} forwards each), {turns} turns, {books}"
    )
    assert books.paid + books.failed == PAYMENTS
    assert books.success >= 0.85
    assert turns <= TURNS_A_PAYMENT * PAYMENTS
