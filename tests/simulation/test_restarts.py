"""What the simulations found, each as small as it gets. A seed that fails there earns a test here."""

import asyncio

import pytest

from protocol.bus.messages import payments as pay
from tests.simulation.books import Order, audit, balances
from tests.simulation.net import Net, simulate
from tests.simulation.topology import line
from tests.simulation.traffic import carry_out


@pytest.mark.parametrize(
    "moment",
    [0.05, 0.15, 0.25, 0.35, 0.45],
)
def test_what_waits_for_its_save_does_not_leave_on_the_next_connection(moment: float):
    """BOLT 2, "Message Retransmission": channel_reestablish comes first. The disk is slow, and the line comes back
    before the commit is done; what was owed on the old line comes again behind channel_reestablish only.
    Found as seed 1009 of 6 10 120 40."""

    async def scene(net: Net) -> None:
        before = await balances(net)
        payer, payee = net.nodes
        one = Order("one", payer, payee, 1_000_000, await payee.invoice(1_000_000, "one"))
        paying = asyncio.ensure_future(carry_out(net, one))
        await asyncio.sleep(moment)
        net.cut_line(payer, payee)
        net.connect_all()
        await paying
        await net.rest()
        await audit(net, [one], before)
        assert net.trouble == []

    # Nearly always a save is under way, so that some of these moments fall into one.
    simulate(1, line(0.01), scene, disk_seconds=0.1)


def test_a_payment_is_told_to_have_failed_only_when_no_restart_can_take_it_up_again():
    """Whoever is told that nothing was paid may pay in another way. Found as seed 1018 of 6 10 120 40: the payer died
    49 ms after the answer, woke up with the payment pending, tried again, and paid."""

    async def scene(net: Net) -> None:
        before = await balances(net)
        payer, _, payee = net.nodes
        one = Order("one", payer, payee, 1_000_000, await payee.invoice(1_000_000, "one"))
        await payee.ask(pay.DeleteInvoice("one", "unpaid"))
        await carry_out(net, one)
        assert isinstance(one.answer, str)
        rows = payer.disk.execute("SELECT status FROM payments").fetchall()
        assert rows == [("failed",)], rows
        await net.rest()
        assert await balances(net) == before

    simulate(1, line(0.01, 0.01), scene)
