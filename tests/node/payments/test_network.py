"""Three real nodes in a row: A pays C through B. Nothing is lost, and nothing is paid twice."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from node.routing.liquidity import Liquidity
from protocol.amounts import Msat
from protocol.bolt4.failure import FailureCode
from protocol.bolt11.decode import decode as read_invoice
from protocol.bus.messages.forwards import ListForwards, SetPolicy
from protocol.bus.messages.payments import Keysend, ListInvoices, ListPayments, Pay, PaymentRow, SettleHold
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from protocol.wire.bolt2_update import UpdateAddHtlc
from protocol.wire.message import decode, encode
from tests.node.payments.network import Net
from tests.support import need

AMOUNT = 50_000_000
FEE = 1000 + AMOUNT * 10 // 1_000_000


@pytest.fixture(autouse=True)
def kernel() -> None:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")


@pytest_asyncio.fixture
async def net(tmp_path: Path) -> AsyncIterator[Net]:
    net = Net(tmp_path, ("a-b", "b-c"))
    await net.start()
    yield net
    await net.stop()


async def moved(net: Net, before: list[int]) -> list[int]:
    """What each node has more than before, once no HTLC stands."""
    for node in net.nodes.values():
        await node.quiet()
    return [await node.to_us() - then for node, then in zip(net.nodes.values(), before, strict=True)]


async def balances(net: Net) -> list[int]:
    return [await node.to_us() for node in net.nodes.values()]


async def test_a_payment_passes_through_the_node_in_the_middle_and_pays_its_fee(net: Net):
    """checklist 35: A pays, B earns, C is paid; the route comes from the hint with the alias in the invoice."""
    before = [await net[name].to_us() for name in "abc"]
    invoice = await net["c"].invoice(AMOUNT, "coffee")
    paid = await net["a"].ask(Pay(invoice.bolt11))
    assert (paid.status, paid.amount_sent_msat, paid.parts) == ("complete", AMOUNT + FEE, 1)
    for name in "abc":
        await net[name].quiet()
    after = [await net[name].to_us() for name in "abc"]
    assert [now - then for then, now in zip(before, after, strict=True)] == [-AMOUNT - FEE, FEE, AMOUNT]
    (row,) = (await net["b"].ask(ListForwards())).forwards
    assert (row.status, row.in_msat, row.out_msat, row.fee_msat) == ("settled", AMOUNT + FEE, AMOUNT, FEE)


async def test_a_failure_of_the_recipient_comes_back_to_the_payer(net: Net):
    """checklist 33: wrapped by B, unwrapped by A, and said to be C's."""
    invoice = await net["c"].invoice(AMOUNT, "coffee")
    net["c"].payments._receiver.open.clear()
    with pytest.raises(CommandRefused, match="incorrect_or_unknown_payment_details") as refused:
        await net["a"].ask(Pay(invoice.bolt11))
    assert refused.value.code == 203
    for name in "abc":
        await net[name].quiet()
    (row,) = (await net["b"].ask(ListForwards())).forwards
    assert row.status == "failed"


async def test_what_the_node_in_the_middle_refuses_is_said_by_it(net: Net):
    """checklist 35: B asks more than its hint said, so A is told, by B, and gives up with no other way."""
    invoice = await net["c"].invoice(AMOUNT, "coffee")
    for channel in await net["b"].list_channels():
        await net["b"].ask(SetPolicy((channel.channel_id,), fee_base_msat=Msat(5_000_000), grace_seconds=0))
    with pytest.raises(CommandRefused, match="fee_insufficient") as refused:
        await net["a"].ask(Pay(invoice.bolt11))
    assert refused.value.code in (204, 205)
    await net["a"].quiet()


async def test_an_onion_that_the_last_node_cannot_read_comes_back_as_an_ordinary_failure(net: Net):
    """checklist 32: C answers with update_fail_malformed_htlc, B tells A in an onion of its own."""
    before = await balances(net)
    invoice = await net["c"].invoice(AMOUNT, "coffee")
    net["b"].on_the_line = _spoil_onion
    with pytest.raises(CommandRefused, match="invalid_onion_hmac"):
        await net["a"].ask(Pay(invoice.bolt11))
    assert await moved(net, before) == [0, 0, 0]
    (row,) = (await net["b"].ask(ListForwards())).forwards
    assert (row.status, row.failure_code) == ("failed", FailureCode.INVALID_ONION_HMAC)


def _spoil_onion(frame: bytes) -> bytes:
    """The last byte of an update_add_htlc without TLVs is of the onion's HMAC."""
    message = decode(frame)
    if not isinstance(message, UpdateAddHtlc):
        return frame
    onion = message.onion_routing_packet
    return encode(replace(message, onion_routing_packet=onion[:-1] + bytes([onion[-1] ^ 1])))


async def test_a_hold_invoice_is_settled_with_a_preimage_from_elsewhere(net: Net):
    """Node and signer of C learn the preimage only when it is settled; until then all HTLCs wait."""
    before = await balances(net)
    preimage = b"\x33" * 32
    invoice = await net["c"].invoice(AMOUNT, "bond", hold_hash=sha256(preimage))
    paying = asyncio.create_task(net["a"].ask(Pay(invoice.bolt11)))
    async with asyncio.timeout(20):
        while (await net["c"].ask(ListInvoices())).invoices[0].status != "accepted":  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    assert not paying.done()
    await net["b"].restart()
    await net.usable()
    await net["c"].ask(SettleHold(preimage))
    assert (await paying).preimage == preimage
    assert await moved(net, before) == [-AMOUNT - FEE, FEE, AMOUNT]


async def test_a_payment_without_an_invoice_reaches_the_node_behind_the_next(net: Net):
    """bLIP 3"""
    before = await balances(net)
    hints = read_invoice((await net["c"].invoice(AMOUNT, "for its hint")).bolt11).route_hints
    paid = await net["a"].ask(Keysend(net["c"].node_id, Msat(AMOUNT), final_delay=40, hints=hints))
    assert paid.status == "complete"
    assert await moved(net, before) == [-AMOUNT - FEE, FEE, AMOUNT]
    rows = (await net["c"].ask(ListInvoices())).invoices
    assert [row.status for row in rows if not row.bolt11] == ["paid"]


async def test_parts_over_two_channels_arrive_as_one_payment(tmp_path: Path):
    """checklist 37: each first channel alone is too small; C claims both parts together."""
    net = Net(tmp_path, ("a-b", "a-b", "b-c"))
    await net.start(a_b=9_000_000_000)
    before = await balances(net)
    amount = 1_200_000_000
    invoice = await net["c"].invoice(amount, "a bicycle")
    paid = await net["a"].ask(Pay(invoice.bolt11))
    assert (paid.status, paid.parts) == ("complete", 2)
    fee = 2 * 1000 + amount * 10 // 1_000_000
    # Each part's fee is rounded down, so two uneven ones may cost a msat less.
    assert await moved(net, before) in ([-amount - one, one, amount] for one in (fee, fee - 1))
    (row,) = (await net["c"].ask(ListInvoices())).invoices
    assert (row.status, row.received_msat) == ("paid", amount)
    await net.stop()


async def test_a_next_node_that_dies_costs_nobody_but_its_channel(net: Net):
    """checklist 43, 44: B takes the HTLC back on chain when it expired, and only then fails A's."""
    a, b, c = (net[name] for name in "abc")
    before = await a.to_us()
    invoice = await c.invoice(AMOUNT, "coffee")
    c.is_cut = True  # from now on it hears and says nothing
    paying = asyncio.create_task(a.ask(Pay(invoice.bolt11), deadline=60))
    async with asyncio.timeout(20):
        while not any(htlc.offered for channel in await b.list_channels() for htlc in channel.htlcs):  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    (incoming,) = [h for channel in await b.list_channels() for h in channel.htlcs if not h.offered]
    async with asyncio.timeout(60):
        while not paying.done() and net.chain.height < incoming.cltv_expiry:
            await net.mine(1)
    with pytest.raises(CommandRefused, match="permanent_channel_failure"):
        await paying
    await a.quiet()
    assert await a.to_us() == before
    (row,) = (await b.ask(ListForwards())).forwards
    assert row.status == "failed"


async def test_the_middle_node_killed_at_each_durable_write_neither_loses_nor_doubles_anything(net: Net):
    """checklist 15, 29: after every kill the payment ends, each node has what it should have, and all channels live."""
    a, b, c = (net[name] for name in "abc")
    killed = 0
    for after_commits in range(1, 30):
        before = [await node.to_us() for node in (a, b, c)]
        a.router.liquidity = (
            Liquidity()
        )  # a failure while B wakes up would keep A from trying again for hours
        invoice = await c.invoice(AMOUNT, f"number {after_commits}")
        b.kill_at = b.commits + after_commits
        paying = asyncio.create_task(a.ask(Pay(invoice.bolt11), deadline=30))
        async with asyncio.timeout(20):
            while not b.is_cut and not (paying.done() and await _is_settled(net)):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        if not b.is_cut:
            await paying
            break
        killed += 1
        await b.wake_up()
        try:
            status = (await paying).status
        except CommandRefused:
            status = "failed"
        for node in (a, b, c):
            await node.quiet()
        after = [await node.to_us() - then for node, then in zip((a, b, c), before, strict=True)]
        if status == "complete":
            assert after == [-AMOUNT - FEE, FEE, AMOUNT]
        else:
            assert after == [0, 0, 0]
        payments = (await a.ask(ListPayments(payment_hash=invoice.payment_hash))).payments
        assert [payment.status for payment in payments] == [status]
        await net.usable()
    assert killed >= 5
    statuses = [row.status for row in (await b.ask(ListForwards())).forwards]
    assert "offered" not in statuses


@pytest.mark.parametrize("name", ["a", "c"])
async def test_either_end_killed_at_each_durable_write_pays_and_is_paid_exactly_once(net: Net, name: str):
    """checklist 29, 37: whoever pays again after a kill joins or repeats the payment, and C is never paid twice."""
    a, c, victim = net["a"], net["c"], net[name]
    killed = 0
    for after_commits in range(1, 30):
        before = await balances(net)
        a.router.liquidity = Liquidity()
        invoice = await c.invoice(AMOUNT, f"number {after_commits}")
        victim.kill_at = victim.commits + after_commits
        paying = asyncio.create_task(a.ask(Pay(invoice.bolt11), deadline=30))
        async with asyncio.timeout(20):
            while not victim.is_cut and not (paying.done() and await _is_settled(net)):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        was_killed = victim.is_cut
        if was_killed:
            killed += 1
            await victim.wake_up()
            await net.usable()
        paid = await _pay_until_paid(net, invoice.bolt11)
        assert await moved(net, before) == [-AMOUNT - FEE, FEE, AMOUNT]
        assert (paid.status, paid.amount_sent_msat) == ("complete", AMOUNT + FEE)
        async with asyncio.timeout(20):
            while (await c.ask(ListInvoices(invoice.label))).invoices[0].status != "paid":  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await asyncio.gather(paying, return_exceptions=True)
        if not was_killed:
            break
    assert killed >= 3
    assert "pending" not in [row.status for row in (await a.ask(ListPayments())).payments]


async def _pay_until_paid(net: Net, bolt11: str) -> PaymentRow:
    """A payment may fail because somebody is waking up; then it is made again, as a person would."""
    for _ in range(20):
        net["a"].router.liquidity = Liquidity()
        try:
            return await net["a"].ask(Pay(bolt11))
        except CommandRefused:
            await asyncio.sleep(0.05)
    raise AssertionError("it is never paid")


async def _is_settled(net: Net) -> bool:
    for node in net.nodes.values():
        if any(channel.htlcs for channel in await node.list_channels()):
            return False
    return True
