"""Nodes die at random moments: no payment is lost or duplicated, nothing hangs, and no msat comes or goes.

The books of all nodes are audited when all are back and at rest (`books`). A seed replays to the byte:
`python -m tests.simulation.replay SEED NODES CHANNELS PAYMENTS DEATHS`.
"""

import asyncio
import os
import sqlite3
from random import Random

import pytest

from node.storage.writer import Unit
from tests.simulation import node
from tests.simulation.books import Order, audit, balances
from tests.simulation.disk import LoopWriter
from tests.simulation.net import Net, simulate
from tests.simulation.scenes import SECONDS, Deadly, deadly
from tests.simulation.topology import line, scale_free
from tests.simulation.traffic import carry_out

SOAK = os.environ.get("LNP_HYPOTHESIS") == "soak"
RUN = os.environ.get("PYTEST_XDIST_TESTRUNUID") or os.urandom(8).hex()
"""The same in all processes of a run, which must agree on the names of the tests."""
SEEDS = [Random(RUN + str(n)).randrange(2**32) for n in range(300)] if SOAK else [1, 2, 3, 5, 8]


def play(seed: int, nodes: int, channels: int, payments: int, deaths: int) -> Deadly:
    print(f"python -m tests.simulation.replay {seed} {nodes} {channels} {payments} {deaths}")
    return simulate(
        seed,
        lambda random: scale_free(random, nodes, channels, shops=2),
        lambda net: deadly(net, payments=payments, deaths=deaths),
        **SECONDS,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_no_payment_is_lost_or_duplicated_when_nodes_die(seed: int):
    """Checklist 59 and 60: who pays and who passes on resume after a restart without paying twice."""
    played = play(seed, 6, 10, 100, 30)
    deaths = sum(" dies " in line for line in played.story)
    assert deaths >= 20
    assert played.books.paid >= 10, played.books
    assert played.books.forwards >= 5, played.books


def test_a_larger_network_lives_through_a_hundred_deaths():
    size = (40, 80, 600, 120) if SOAK else (20, 40, 200, 100)
    played = play(11, *size)
    assert played.books.paid > 40, played.books


def test_what_died_is_told_from_what_was_only_slow():
    """Nobody dies: everything is answered, nothing needs a block."""
    played = play(4, 6, 10, 100, 0)
    assert played.books.success > 0.8, played.books
    assert played.blocks == 0


class LyingWriter(LoopWriter):
    """Tells at once, and writes a second later."""

    def __init__(self, db: sqlite3.Connection, *, seconds: float) -> None:
        super().__init__(db, seconds=1.0)

    def submit(self, unit: Unit, *, now: bool) -> asyncio.Future[None]:
        super().submit(unit, now=now)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


def test_a_disk_that_lies_is_found_out(monkeypatch: pytest.MonkeyPatch):
    """The audit, the peers or the signers notice if saves are told of before they are made."""
    monkeypatch.setattr(node, "LoopWriter", LyingWriter)
    with pytest.raises(AssertionError):
        play(1, 6, 10, 100, 30)


def one_payment(*, forge: str) -> None:
    """A payment over a forwarder, and then a lie in somebody's books."""

    async def scene(net: Net) -> None:
        before = await balances(net)
        payer, forwarder, payee = net.nodes
        one = Order("the one", payer, payee, 1_000_000, await payee.invoice(1_000_000, "the one"))
        await carry_out(net, one)
        await net.rest()
        await audit(net, [one], before)
        statement, at = {
            "lost": ("UPDATE invoices SET status = 'unpaid'", payee),
            "unpaid": ("UPDATE payments SET status = 'failed'", payer),
            "pending": ("UPDATE payments SET status = 'pending'", payer),
            "fee": ("UPDATE payments SET amount_sent_msat = amount_sent_msat - 1", payer),
            "forward": ("UPDATE forwards SET status = 'offered'", forwarder),
            "income": ("UPDATE invoices SET received_msat = 1", payee),
        }[forge]
        assert at.disk.execute(statement).rowcount == 1
        await audit(net, [one], before)

    simulate(1, line(0.01, 0.01), scene)


@pytest.mark.parametrize("forge", ["lost", "unpaid", "pending", "fee", "forward", "income"])
def test_the_audit_finds_a_lie_in_one_of_the_books(forge: str):
    with pytest.raises(AssertionError):
        one_payment(forge=forge)
