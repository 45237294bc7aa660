"""One invoice paid over two channels of its recipient: A reaches C through B and through D (BOLT 4, "Basic Multi-Part
Payments"; checklist 37). The signer of C gives its preimage for both parts or for none."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from node.channel.state import Limits
from node.channel.terms import Policy
from node.routing.liquidity import Liquidity
from protocol.amounts import Msat, Sat
from protocol.bus.messages.channel import HtlcReceived
from protocol.bus.messages.payments import ListInvoices, ListPayments, Pay, PaymentRow
from protocol.bus.messages.wallet import Coins, ListCoins
from protocol.errors import CommandRefused
from tests.node.payments.network import Net, Node
from tests.support import need

AMOUNT = 1_200_000_000
FEE = 2 * 1000 + AMOUNT * 10 // 1_000_000


class Narrow(Policy, frozen=True):
    def limits(self, funding: Sat) -> Limits:
        return replace(super().limits(funding), max_in_flight=Msat(800_000_000))


@pytest.fixture(autouse=True)
def kernel() -> None:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")


@pytest_asyncio.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    """No channel carries more than 800,000 sat at once."""
    net = Net(tmp_path, ("a-b", "a-d", "b-c", "d-c"))
    net.policy = Narrow(to_self_delay=8)
    await net.start()
    yield net
    await net.stop()


async def balances(net: Net) -> dict[str, int]:
    return {name: await node.to_us() for name, node in net.nodes.items()}


async def moved(net: Net, before: dict[str, int]) -> dict[str, int]:
    for node in net.nodes.values():
        await node.quiet()
    return {name: await node.to_us() - before[name] for name, node in net.nodes.items()}


async def status_of(node: Node, label: str) -> str:
    (row,) = (await node.ask(ListInvoices(label))).invoices
    return row.status


async def test_parts_over_two_channels_of_the_recipient_are_claimed_together(net: Net):
    """checklist 37"""
    before = await balances(net)
    invoice = await net["c"].invoice(AMOUNT, "a bicycle")
    paid = await net["a"].ask(Pay(invoice.bolt11))
    assert (paid.status, paid.parts, paid.amount_sent_msat) == ("complete", 2, AMOUNT + FEE)
    after = await moved(net, before)
    assert (after["a"], after["c"]) == (-AMOUNT - FEE, AMOUNT)
    assert after["b"] > 0 and after["d"] > 0 and after["b"] + after["d"] == FEE
    (row,) = (await net["c"].ask(ListInvoices())).invoices
    assert (row.status, row.received_msat) == ("paid", AMOUNT)


async def test_the_recipient_killed_at_each_durable_write_is_paid_whole_and_once(net: Net):
    """checklist 29, 37: no kill leaves one part claimed and the other one given back."""
    a, c = net["a"], net["c"]
    # A part that finds C away fails, and the one that stands at C comes back when C stops to wait for it: after a
    # minute A had given up asking. Nothing below depends on how soon that is.
    c.mpp_seconds = 1.0
    killed = 0
    for after_commits in range(1, 40):
        before = await balances(net)
        invoice = await c.invoice(AMOUNT, f"number {after_commits}")
        c.kill_at = c.commits + after_commits
        paying = asyncio.create_task(_pay(a, invoice.bolt11))
        async with asyncio.timeout(20):
            while not c.is_cut and not (paying.done() and await _is_settled(net)):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        was_killed = c.is_cut
        if was_killed:
            killed += 1
            await c.wake_up()
            await net.usable()
        paid = await paying
        after = await moved(net, before)
        assert paid.status == "complete" and paid.parts >= 2
        assert (after["a"], after["c"]) == (-paid.amount_sent_msat, AMOUNT)
        async with asyncio.timeout(20):
            while await status_of(c, invoice.label) != "paid":  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        if not was_killed:
            break
        await _pay(c, (await a.invoice(AMOUNT - 3 * FEE, f"back {after_commits}")).bolt11)
        await moved(net, before)
    assert killed >= 3
    assert "pending" not in [row.status for row in (await a.ask(ListPayments())).payments]


async def test_a_part_whose_peer_died_is_claimed_on_chain_with_the_other_ones_preimage(net: Net):
    """checklist 37, 43, 45: D says nothing any more once its HTLC stands; C takes B's part at once and D's from the
    chain before it expires. A pays once."""
    a, c, d = net["a"], net["c"], net["d"]
    invoice = await c.invoice(AMOUNT, "a bicycle")
    c.payments._receiver.received = _cutting(c, d)  # type: ignore[method-assign]
    paying = asyncio.create_task(a.ask(Pay(invoice.bolt11), deadline=100))
    await asyncio.wait_for(asyncio.shield(paying), 20)
    assert (await paying).status == "complete"
    (part,) = [h for channel in await c.list_channels() if channel.peer == d.node_id for h in channel.htlcs]
    d.is_cut = True
    async with asyncio.timeout(100):
        while await status_of(c, invoice.label) != "paid":
            await net.mine(1)
            assert net.chain.height < part.cltv_expiry + 40
    states = sorted(channel.state for channel in await c.list_channels())
    assert states == ["AWAITING_UNILATERAL", "CHANNELD_NORMAL"]
    async with asyncio.timeout(60):
        while await _on_chain(c) < 3_500_000:  # 3,000,000 sat that it had towards D, and D's part, less fees
            await net.mine(1)


async def _on_chain(node: Node) -> int:
    coins: Coins = await node.ask(ListCoins(), service="wallet")
    return sum(coin.value for coin in coins.coins if not coin.spent)


def _cutting(c: Node, d: Node) -> Callable[[HtlcReceived], None]:
    """The line between the two breaks as the last part comes in, so that it cannot be fulfilled there."""
    hear = c.payments._receiver.received

    def received(htlc: HtlcReceived) -> None:
        if c.channels._channels[htlc.channel_id].state.committed.params.peer == d.node_id:
            c.net.disconnect(d)
        hear(htlc)

    return received


async def _pay(node: Node, bolt11: str) -> PaymentRow:
    """A payment may fail because somebody is waking up; then it is made again, as a person would."""
    for _ in range(20):
        node.router.liquidity = Liquidity()
        try:
            return await node.ask(Pay(bolt11))
        except CommandRefused:
            await asyncio.sleep(0.05)
    raise AssertionError("it is never paid")


async def _is_settled(net: Net) -> bool:
    for node in net.nodes.values():
        if any(channel.htlcs for channel in await node.list_channels()):
            return False
    return True
