"""What a lone payment waits for is the dance and nothing else: lines, durable commits and the signer, all counted.

BOLT 2, "Normal Operation": an HTLC is irrevocably committed after one and a half round trips (update_add_htlc with
commitment_signed, revoke_and_ack with commitment_signed, revoke_and_ack), and the preimage comes back at once over each
line. So it takes each line four times. Any timer in between would show, since virtual time is exact.
"""

import asyncio

import pytest
from msgspec import Struct

from protocol.bus.messages import payments as pay
from tests.simulation.net import Net, simulate
from tests.simulation.topology import line

TRIPS = 4
PAYER, FORWARDER, PAYEE = 3, 8, 4
"""Requests to the signer for a lone payment, from the invoice's payment to the last revocation."""
ALONG_THE_WAY = 5
"""Durable commits, and answers of the signer, that stand one behind the other for each line until the payer knows."""


class Measured(Struct):
    seconds: float
    settled: float
    commits: list[int]
    requests: list[int]
    messages: list[int]


def lone_payment(*seconds: float, amount: int = 1_000_000, **given: float) -> Measured:
    """The second payment over the line: the first found everything cold."""

    async def scene(net: Net) -> Measured:
        payer, payee = net.nodes[0], net.nodes[-1]
        for number in range(2):
            invoice = await payee.invoice(amount, f"payment {number}")
            await asyncio.sleep(5)
            before = [(node.commits, node.signer.requests, node.messages_sent) for node in net.nodes]
            began = net.loop.time()
            row = await payer.ask(pay.Pay(invoice.bolt11))
            took = net.loop.time() - began
            assert row.status == "complete"
            await net.until(net._at_rest, step=0.0001)
            settled = net.loop.time() - began
            await asyncio.sleep(1)
        after = [(node.commits, node.signer.requests, node.messages_sent) for node in net.nodes]
        spent = [[y - x for x, y in zip(*pair, strict=True)] for pair in zip(before, after, strict=True)]
        return Measured(took, settled, *(list(column) for column in zip(*spent, strict=True)))

    return simulate(1, line(*seconds), scene, **given)


@pytest.mark.parametrize("seconds", [(0.1,), (0.1, 0.1), (0.05, 0.2, 0.01), (0.02, 0.3, 0.04, 0.1)])
@pytest.mark.parametrize("amount", [100_000, 1_000_000])
def test_a_lone_payment_takes_each_line_four_times_and_no_other_time(seconds: tuple[float, ...], amount: int):
    assert lone_payment(*seconds, amount=amount).seconds == pytest.approx(TRIPS * sum(seconds), abs=1e-4)


def test_a_slow_line_at_the_end_costs_its_own_trips_only():
    """No other line waits for it: what the first two take stays the same."""
    alone = lone_payment(0.1, 0.1)
    further = lone_payment(0.1, 0.1, 0.9)
    assert further.seconds == pytest.approx(alone.seconds + TRIPS * 0.9, abs=1e-4)


@pytest.mark.parametrize("lines", [1, 2, 3])
def test_the_commits_and_answers_that_stand_in_the_way_are_counted(lines: int):
    """With a disk, or a signer, that takes 1 ms the completion tells how often it is waited for."""
    wires = (0.1,) * lines
    bare = lone_payment(*wires).seconds
    commits = (lone_payment(*wires, disk_seconds=0.001).seconds - bare) / 0.001
    answers = (lone_payment(*wires, signer_seconds=0.001).seconds - bare) / 0.001
    assert round(answers) == ALONG_THE_WAY * lines - 1
    assert round(commits) <= (ALONG_THE_WAY + 1) * lines - 1


def test_a_lone_payment_asks_each_signer_as_often_as_designed():
    """DESIGN, "Throughput": at most four requests a side."""
    measured = lone_payment(0.1, 0.1, 0.1)
    assert measured.requests == [PAYER, FORWARDER, FORWARDER, PAYEE]
    # update_add_htlc, commitment_signed, revoke_and_ack, commitment_signed, revoke_and_ack: five from either end.
    assert measured.messages == [5, 10, 10, 5]


def test_the_channels_are_quiet_one_round_trip_after_the_payer_knows():
    """The last update_fulfill_htlc was committed while it travelled: what is left is on the payer's own line."""
    measured = lone_payment(0.1, 0.05, 0.02)
    assert measured.settled == pytest.approx(measured.seconds + 2 * 0.1, abs=0.01)
