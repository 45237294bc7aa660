"""Payments as they are told, listed, and found again by whoever pays: from memory while they run, then from disk."""

from typing import ClassVar

from protocol.amounts import Msat
from protocol.bolt4.failure import TemporaryChannelFailure
from protocol.bus.messages.payments import CreateInvoice, ListInvoices, ListPayments, Pay, PaymentChanged
from protocol.bus.service import Service, hears
from protocol.hashes import sha256
from tests.node.payments.router import (
    AMOUNT,
    FEE,
    FIRST,
    SECOND,
    RouterStandIn,
    failing,
    fulfil,
    in_parts,
    restarted,
    started,
)
from tests.node.payments.support import House, invoice_text

OTHER = b"\x01" * 32


async def paid(house: House, preimage: bytes) -> None:
    """An invoice over this, always of the same payee and amount; its row is on disk."""
    task = await started(house, Pay(invoice_text(preimage=preimage)))
    fulfil(house, house.channel.offers[-1], preimage)
    await task
    await house.on_disk()


async def test_a_paid_invoice_is_not_taken_for_another_of_the_same_payee_and_amount(house: House):
    """The second coffee would be "paid" with the proof of the first."""
    await paid(house, OTHER)
    task = await started(house, Pay(invoice_text()))
    assert [offer.payment_hash for offer in house.channel.offers][1:] == [sha256(b"\x66" * 32)]
    fulfil(house, house.channel.offers[1])
    assert (await task).preimage == b"\x66" * 32


async def test_the_newest_are_the_last_ones_by_age(house: House):
    for n in (1, 2, 3):
        house.now += 10
        await paid(house, bytes([n]) * 32)
        await house.ask(CreateInvoice(Msat(1), f"invoice {n}", ""))
    newest = (await house.ask(ListPayments(newest=2))).payments
    assert [row.preimage for row in newest] == [b"\x02" * 32, b"\x03" * 32]
    made = (await house.ask(ListInvoices(newest=2))).invoices
    assert [row.label for row in made] == ["invoice 2", "invoice 3"]


async def test_the_history_counts_the_parts_that_were_paid_and_not_those_that_came_back(
    house: House, router: RouterStandIn
):
    """Also after a restart, and without a block until which the outcome is open: it is known."""
    router.plans = [((4000, FIRST), (6000, SECOND)), ((6000, FIRST),)]
    task = await started(house, Pay(in_parts()))
    house.bus.publish(failing(house.channel.offers[1], TemporaryChannelFailure()))
    await house.settle()
    for offer in (house.channel.offers[0], house.channel.offers[2]):
        fulfil(house, offer)
    await task
    router = await restarted(house, router)
    (row,) = (await house.ask(ListPayments())).payments
    assert (row.status, row.parts, row.amount_sent_msat) == ("complete", 2, AMOUNT + 2 * FEE)
    assert row.unknown_until is None
    await router.stop()


class Watcher(Service):
    name: ClassVar[str] = "watcher"

    def __init__(self, house: House) -> None:
        super().__init__(house.bus)
        self.heard: list[tuple[str, int | None]] = []

    @hears(PaymentChanged)
    def payment_changed(self, event: PaymentChanged) -> None:
        self.heard.append((event.row.status, event.cltv_expiry))


async def test_people_hear_until_which_block_the_outcome_of_a_payment_is_open(house: House):
    """Who believes it has failed before that, and pays otherwise, may have paid twice."""
    watcher = Watcher(house)
    await watcher.start()
    task = await started(house, Pay(invoice_text()))
    (offer,) = house.channel.offers
    fulfil(house, offer)
    await task
    await house.on_disk()
    assert watcher.heard == [("pending", offer.cltv_expiry), ("complete", None)]
    await watcher.stop()
