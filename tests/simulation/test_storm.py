"""A storm of payments on a scale-free network: how many arrive, in how many attempts, and what a second one gains.

Amounts go from dust to what takes several parts; nothing is known of balances at first.
"""

import os
from random import Random

import pytest
from msgspec import Struct

from protocol.bus.messages import payments as pay
from tests.simulation.books import Books, Order, audit, balances
from tests.simulation.net import Net, simulate
from tests.simulation.scenes import SECONDS
from tests.simulation.topology import scale_free
from tests.simulation.traffic import DUST, LARGE, SMALL, carry_out, order, storm

SOAK = os.environ.get("LNP_HYPOTHESIS") == "soak"
NODES, SHOPS, CHANNELS = 42, 8, 90
COUNT = 150
"""More large ones than about so many would ask for more than the shops can receive."""
SEEDS = range(2, 8) if SOAK else (2,)
MIDDLING = ((100_000_000, 900_000_000),)
"""As large as many a balance: without knowledge every second attempt fails."""


class Round(Struct):
    attempts: int
    arrived: int
    count: int


def attempts_of(net: Net) -> int:
    """Of all payments that were ever made."""
    return sum(node.writer.read("SELECT count(*) FROM attempts")[0][0] for node in net.nodes)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_storm_of_payments_of_all_sizes_leaves_sound_books(seed: int):
    """Dust, small, and in several parts, all at once."""

    async def scene(net: Net) -> Books:
        before = await balances(net)
        orders = await storm(net, net.random, "payment", COUNT, 20.0, (DUST, SMALL, LARGE, LARGE))
        await net.rest()
        assert all(one.answer for one in orders), "everybody was answered"
        return await audit(net, orders, before)

    books = simulate(seed, lambda random: scale_free(random, NODES, CHANNELS, shops=SHOPS), scene, **SECONDS)
    print(f"success {books.success:.1%}", books)
    assert books.success >= 0.75
    assert books.in_parts >= 2
    assert books.forwards >= COUNT


def test_the_second_round_needs_fewer_attempts_than_the_first():
    """The same payments twice. The payees have deleted their invoices, so that each payment comes back from where it
    arrives: no balance moves, and what differs is what the first round taught (`AttemptEnded`)."""

    async def scene(net: Net) -> tuple[Round, Round]:
        random = Random(net.random.random())
        wanted = [one for n in range(COUNT // 2) if (one := await order(net, random, f"plan {n}", MIDDLING))]
        before = await balances(net)
        rounds = (await _round(net, wanted, "first"), await _round(net, wanted, "second"))
        assert await balances(net) == before
        return rounds

    first, second = simulate(
        5,
        lambda random: scale_free(random, NODES, CHANNELS, shops=SHOPS, capacity_sat=(1_000_000, 3_000_000)),
        scene,
        **SECONDS,
    )
    print(
        f"{first.attempts / first.arrived:.2f} attempts, then {second.attempts / second.arrived:.2f}",
        first,
        second,
    )
    assert first.attempts > 1.05 * first.arrived, "without knowledge some attempts fail"
    assert second.attempts / second.arrived < first.attempts / first.arrived
    assert second.arrived >= first.arrived


async def _round(net: Net, wanted: list[Order], name: str) -> Round:
    """One after the other. Arrived is what the payee itself refused."""
    began = attempts_of(net)
    again: list[Order] = []
    for number, one in enumerate(wanted):
        label = f"{name} {number}"
        invoice = await one.payee.invoice(one.amount_msat, label)
        await one.payee.ask(pay.DeleteInvoice(label, "unpaid"))
        again.append(Order(label, one.payer, one.payee, one.amount_msat, invoice))
    for one in again:
        await carry_out(net, one)
        await net.rest()
    arrived = sum("incorrect_or_unknown_payment_details" in str(one.answer) for one in again)
    return Round(attempts_of(net) - began, arrived, len(again))
