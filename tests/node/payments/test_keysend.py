"""Payments without an invoice, sent and taken (bLIP 3, "Spontaneous payments")."""

import pytest

from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import payload as payloads
from protocol.bolt4 import sphinx
from protocol.bolt4.payload import FinalPayload
from protocol.bus.messages.channel import FulfilHtlc, HtlcReceived, HtlcResolved
from protocol.bus.messages.payments import CreateInvoice, Keysend, ListInvoices, ListPayments
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from tests.node.payments.router import AMOUNT, FIRST, PEER_KEY, RouterStandIn, fulfil, started
from tests.node.payments.support import CHANNEL, HEIGHT, OUR_ID, PAYEE_ID, PAYEE_KEY, PREIMAGE, House
from tests.node.payments.test_hold import EXPIRY, HASH, details, hear

# Sent.


async def test_a_keysend_carries_its_preimage_in_the_last_payload(house: House, router: RouterStandIn):
    """bLIP 3"""
    router.plans = [((AMOUNT, FIRST),)]
    task = await started(house, Keysend(PAYEE_ID, Msat(AMOUNT), records=((65537, b"hi"),)))
    (offer,) = house.channel.offers
    at_peer = sphinx.peel(PEER_KEY, offer.onion, offer.payment_hash)
    assert at_peer.next_packet is not None
    last = sphinx.peel(PAYEE_KEY, at_peer.next_packet, offer.payment_hash)
    final = payloads.decode_final(last.payload)
    assert final.keysend_preimage is not None
    assert sha256(final.keysend_preimage) == offer.payment_hash
    assert last.payload.endswith(b"hi") or b"hi" in last.payload
    fulfil(house, offer, final.keysend_preimage)
    row = await task
    assert (row.kind, row.preimage, row.bolt11) == ("keysend", final.keysend_preimage, "")


@pytest.mark.parametrize("wrong", [Keysend(OUR_ID, Msat(AMOUNT)), Keysend(PAYEE_ID, Msat(0))])
async def test_a_keysend_to_ourselves_or_of_nothing_is_refused(
    house: House, router: RouterStandIn, wrong: Keysend
):
    router.plans = [((AMOUNT, FIRST),)]
    with pytest.raises(CommandRefused) as refused:
        await house.ask(wrong)
    assert refused.value.code == -32602
    assert house.channel.offers == []


async def test_a_keysend_under_way_is_kept_over_a_restart(house: House, router: RouterStandIn):
    router.plans = [((AMOUNT, FIRST),)]
    task = await started(house, Keysend(PAYEE_ID, Msat(AMOUNT)))
    task.cancel()
    (offer,) = house.channel.offers
    await house.on_disk()
    await router.stop()
    await house.restart(origins=((offer.origin, "pending", None, None, None),))
    (row,) = (await house.ask(ListPayments())).payments
    assert (row.status, row.kind) == ("pending", "keysend")


# Taken.


def spontaneous(
    amount: int = 5000,
    *,
    htlc_id: int = 0,
    preimage: bytes = PREIMAGE,
    hash_: bytes = HASH,
    total: int | None = None,
    expiry: int = EXPIRY,
) -> HtlcReceived:
    final = FinalPayload(
        Msat(amount),
        BlockHeight(expiry),
        None if total is None else bytes(32),
        Msat(total or amount),
        None,
        preimage,
    )
    return HtlcReceived(CHANNEL, htlc_id, Msat(amount), hash_, expiry, payloads.encode_final(final), True)


async def test_a_payment_without_invoice_is_taken_with_its_own_preimage_and_once(house: House):
    """bLIP 3"""
    await hear(house, spontaneous(), spontaneous(htlc_id=1))
    assert house.channel.decisions == [FulfilHtlc(CHANNEL, 0, PREIMAGE), details(5000, 1)]
    await hear(house, HtlcResolved(CHANNEL, 0, HASH, True))
    (row,) = (await house.ask(ListInvoices())).invoices
    assert (row.status, row.received_msat, row.description) == ("paid", 5000, "keysend")
    await hear(house, spontaneous(htlc_id=2))
    assert house.channel.decisions[-1] == details(5000, 2)


async def test_a_payment_without_invoice_that_is_cut_off_is_taken_again_after_a_restart(house: House):
    await hear(house, spontaneous())
    await house.restart()
    await hear(house, spontaneous())
    assert house.channel.decisions == [FulfilHtlc(CHANNEL, 0, PREIMAGE)]


async def test_a_second_one_with_the_same_preimage_is_unknown_while_the_first_is_being_saved(house: House):
    """Two rows of one hash cannot be written, and a writer that fails stops the node."""
    house.bus.publish(spontaneous())
    house.bus.publish(HtlcResolved(CHANNEL, 0, HASH, True))
    house.bus.publish(spontaneous(htlc_id=1))
    await house.on_disk()
    assert house.channel.decisions == [FulfilHtlc(CHANNEL, 0, PREIMAGE), details(5000, 1)]


@pytest.mark.parametrize(
    "wrong",
    [
        spontaneous(preimage=bytes(32)),
        spontaneous(total=6000),
        spontaneous(expiry=HEIGHT + 21),
    ],
)
async def test_a_payment_without_invoice_that_does_not_fit_is_unknown(house: House, wrong: HtlcReceived):
    """checklist 36: all unknown causes give the same failure."""
    await hear(house, wrong)
    assert house.channel.decisions == [details(5000)]
    assert (await house.ask(ListInvoices())).invoices == ()


async def test_an_invoice_of_ours_is_not_paid_by_a_keysend(house: House):
    """checklist 36: the payment secret is needed where it was given."""
    invoice = await house.ask(CreateInvoice(Msat(5000), "x", ""))
    preimage = house.signer.preimages[invoice.payment_hash]
    await hear(house, spontaneous(preimage=preimage, hash_=invoice.payment_hash))
    assert house.channel.decisions == [details(5000)]
