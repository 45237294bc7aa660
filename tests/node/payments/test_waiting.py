"""Waiting for an invoice: until it is paid or cannot be paid any more, and not a moment before (Core Lightning's
`waitinvoice` and `waitanyinvoice`). Deleting invoices."""

import asyncio

import pytest
from msgspec.structs import replace

from protocol.amounts import Msat
from protocol.bus.messages.channel import HtlcResolved
from protocol.bus.messages.payments import (
    CancelHold,
    CreateInvoice,
    DeleteInvoice,
    InvoiceRow,
    ListInvoices,
    SettleHold,
    WaitAnyInvoice,
    WaitInvoice,
)
from protocol.errors import CommandRefused
from tests.node.payments import test_being_paid, test_hold
from tests.node.payments.support import CHANNEL, PREIMAGE, House


async def test_who_waits_for_a_hold_invoice_is_not_told_of_money_that_may_still_go_back(house: House):
    """A shop that takes `accepted` for the end hands over the goods before it is paid."""
    invoice = await house.ask(test_hold.ASK)
    await test_hold.hear(house, test_hold.part(invoice))
    waiting = house.asking(WaitInvoice(invoice.label))
    await house.settle()
    assert not waiting.done()
    await house.ask(SettleHold(PREIMAGE))
    await test_hold.hear(house, HtlcResolved(CHANNEL, 0, invoice.payment_hash, True))
    assert (await asyncio.wait_for(waiting, 5)).status == "paid"


async def test_an_invoice_that_expires_while_it_is_being_paid_is_waited_for(house: House):
    """Told that it has expired, a shop would ask for the money once more."""
    invoice = await house.ask(replace(test_being_paid.ASK, expiry=60))
    await test_being_paid.receive(house, test_being_paid.part(invoice))
    house.now += 61
    waiting = house.asking(WaitInvoice(invoice.label))
    await house.settle()
    assert not waiting.done()
    test_being_paid.resolve(house, invoice)
    assert (await asyncio.wait_for(waiting, 5)).status == "paid"


async def pay(house: House, label: str, htlc_id: int) -> InvoiceRow:
    invoice = await house.ask(CreateInvoice(Msat(10_000), label, "a story"))
    await test_hold.hear(
        house,
        test_hold.part(invoice, htlc_id=htlc_id),
        HtlcResolved(CHANNEL, htlc_id, invoice.payment_hash, True),
    )
    return invoice


async def test_waiting_for_any_invoice_goes_through_them_in_order(house: House):
    waiting = house.asking(WaitAnyInvoice(0))
    await pay(house, "first", 0)
    assert (await waiting).label == "first"
    await pay(house, "second", 1)
    assert (await house.ask(WaitAnyInvoice(0))).label == "first"
    assert (await house.ask(WaitAnyInvoice(1))).label == "second"
    with pytest.raises(CommandRefused) as refused:
        await house.ask(WaitAnyInvoice(2, 0.01))
    assert refused.value.code == 904


async def test_a_deleted_invoice_is_gone_and_its_index_is_not_used_again(house: House):
    await pay(house, "first", 0)
    with pytest.raises(CommandRefused) as refused:
        await house.ask(DeleteInvoice("first", "unpaid"))
    assert refused.value.code == 906
    assert (await house.ask(DeleteInvoice("first", "paid"))).label == "first"
    await house.on_disk()
    assert (await house.ask(ListInvoices())).invoices == ()
    await house.restart()
    await pay(house, "second", 1)
    assert (await house.ask(WaitAnyInvoice(1))).pay_index == 2


async def test_an_unpaid_invoice_that_was_deleted_can_no_longer_be_paid(house: House):
    invoice = await house.ask(CreateInvoice(Msat(10_000), "x", "a story"))
    await house.ask(DeleteInvoice("x", "unpaid", description_only=True))
    await house.on_disk()
    assert (await house.ask(ListInvoices())).invoices[0].description == ""
    await house.ask(DeleteInvoice("x", "unpaid"))
    await test_hold.hear(house, test_hold.part(invoice))
    assert house.channel.decisions == [test_hold.details()]


async def test_an_invoice_that_is_being_paid_is_not_deleted(house: House):
    invoice = await house.ask(CreateInvoice(Msat(10_000), "x", "a story"))
    await test_hold.hear(house, test_hold.part(invoice))
    with pytest.raises(CommandRefused):
        await house.ask(DeleteInvoice("x", "unpaid"))


async def test_waiting_for_a_cancelled_hold_ends(house: House):
    await house.ask(test_hold.ASK)
    await house.ask(CancelHold(test_hold.HASH))
    await house.on_disk()
    assert (await house.ask(WaitInvoice("bond"))).status == "cancelled"


async def test_who_waits_for_a_hold_hears_at_once_that_it_was_cancelled(house: House):
    """Otherwise only at its expiry, which may be a week away."""
    await house.ask(test_hold.ASK)
    waiting = house.asking(WaitInvoice("bond"))
    anybody = house.asking(WaitAnyInvoice(0, 60))
    await house.settle()
    await house.ask(CancelHold(test_hold.HASH))
    await house.on_disk()
    assert (await asyncio.wait_for(waiting, 5)).status == "cancelled"
    assert not anybody.done(), "nothing was paid"
