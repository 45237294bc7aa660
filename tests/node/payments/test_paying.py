"""Payments over the bus: what is offered, answered and saved; and that no invoice is paid twice."""

import asyncio
from collections.abc import Callable

import msgspec
import pytest

from protocol.amounts import Msat
from protocol.bolt4 import failure_onion, sphinx
from protocol.bolt4.failure import IncorrectOrUnknownPaymentDetails
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.channel import HtlcFailed, HtlcFulfilled, HtlcRefused, OfferHtlc
from protocol.bus.messages.payments import ListPayments, Pay
from protocol.bus.messages.peer import PeerDown
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from tests.node.payments.support import (
    CHANNEL,
    HEIGHT,
    NOW,
    OTHER_CHANNEL,
    PAYEE_ID,
    PAYEE_KEY,
    PREIMAGE,
    STRANGER_ID,
    House,
    channel_info,
    invoice_text,
)

PAYMENTS = "SELECT status, amount_sent_msat, preimage, error FROM payments ORDER BY created"
ATTEMPTS = "SELECT part, channel, status, failure FROM attempts ORDER BY part"


async def offered(house: House, request: Pay) -> tuple["asyncio.Task[object]", OfferHtlc]:
    """The running payment and the offer that it made."""
    before = len(house.channel.offers)
    task = house.asking(request)
    await house.settle()
    assert len(house.channel.offers) == before + 1
    return task, house.channel.offers[-1]


def fulfil(house: House, offer: OfferHtlc, preimage: bytes = PREIMAGE) -> None:
    house.bus.publish(HtlcFulfilled(offer.origin, offer.channel_id, 0, preimage))


def refusal_of_payee(offer: OfferHtlc) -> bytes:
    secret = sphinx.peel(PAYEE_KEY, offer.onion, offer.payment_hash).shared_secret
    return failure_onion.create(secret, IncorrectOrUnknownPaymentDetails(offer.amount_msat, HEIGHT))


async def test_a_payment_is_offered_answered_with_the_preimage_and_saved(house: House):
    task, offer = await offered(house, Pay(invoice_text()))
    assert (offer.channel_id, offer.amount_msat, offer.payment_hash) == (CHANNEL, 10_000, sha256(PREIMAGE))
    fulfil(house, offer)
    row = await task
    assert (row.status, row.preimage, row.amount_sent_msat, row.destination) == (
        "complete",
        PREIMAGE,
        10_000,
        PAYEE_ID,
    )
    await house.on_disk()
    assert house.rows(PAYMENTS) == [("complete", 10_000, PREIMAGE, None)]
    assert house.rows(ATTEMPTS) == [(0, CHANNEL, "complete", None)]


async def test_the_attempt_is_saved_before_the_offer_can_leave(house: House):
    """The channel's save of the offer stands behind ours in the one queue."""
    seen = []

    def told() -> None:
        saved = house.database.writer.submit([], now=True)
        saved.add_done_callback(lambda _: seen.extend(house.rows("SELECT origin, status FROM attempts")))

    house.channel.on_told = told
    task, offer = await offered(house, Pay(invoice_text()))
    await house.on_disk()
    assert seen == [(offer.origin, "pending")]
    fulfil(house, offer)
    await task


async def test_whoever_pays_a_pending_invoice_joins_the_payment(house: House):
    first, offer = await offered(house, Pay(invoice_text()))
    second = house.asking(Pay(invoice_text()))
    await house.settle()
    assert len(house.channel.offers) == 1
    fulfil(house, offer)
    assert await first == await second


@pytest.mark.parametrize("saved", [True, False])
async def test_a_paid_invoice_answers_the_finished_payment_and_offers_nothing(house: House, saved: bool):
    task, offer = await offered(house, Pay(invoice_text()))
    fulfil(house, offer)
    paid = await task
    if saved:
        await house.on_disk()
    again = await house.ask(Pay(invoice_text()))
    assert (again.id, again.preimage, again.parts) == (paid.id, PREIMAGE, 1)
    assert len(house.channel.offers) == 1


async def test_the_same_hash_with_another_amount_is_refused(house: House):
    text = invoice_text(amount=None)
    task, offer = await offered(house, Pay(text, Msat(5000)))
    with pytest.raises(CommandRefused, match="5000 msat") as pending:
        await house.ask(Pay(text, Msat(6000)))
    fulfil(house, offer)
    await task
    with pytest.raises(CommandRefused, match="complete already") as complete:
        await house.ask(Pay(text, Msat(6000)))
    assert pending.value.code == complete.value.code == 201


async def test_the_same_hash_for_another_payee_is_not_taken_for_paid(house: House):
    """Whoever relays an invoice can make one of his own with its payment hash."""
    task, offer = await offered(house, Pay(invoice_text()))
    with pytest.raises(CommandRefused) as pending:
        await house.ask(Pay(invoice_text(b"\x33" * 32)))
    fulfil(house, offer)
    await task
    with pytest.raises(CommandRefused) as complete:
        await house.ask(Pay(invoice_text(b"\x33" * 32)))
    assert pending.value.code == complete.value.code == 201


async def test_a_pay_call_that_passes_its_deadline_leaves_the_payment_running(house: House):
    with pytest.raises(OutcomeUnknown):
        await house.bus.request("payments", Pay(invoice_text()), deadline=0.01)
    (pending,) = (await house.ask(ListPayments())).payments
    assert pending.status == "pending"
    task = house.asking(Pay(invoice_text()))
    await house.settle()
    fulfil(house, house.channel.offers[0])
    assert (await task).status == "complete"
    assert len(house.channel.offers) == 1


async def test_a_failure_of_the_payee_ends_the_payment_and_a_new_try_is_allowed(house: House):
    task, offer = await offered(house, Pay(invoice_text()))
    house.bus.publish(HtlcFailed(offer.origin, CHANNEL, 0, refusal_of_payee(offer)))
    with pytest.raises(CommandRefused) as refused:
        await task
    assert refused.value.code == 203
    await house.on_disk()
    ((status, sent, preimage, error),) = house.rows(PAYMENTS)
    assert (status, sent, preimage) == ("failed", 0, None)
    assert "incorrect_or_unknown_payment_details" in error
    again, second = await offered(house, Pay(invoice_text()))
    assert second.origin != offer.origin
    assert second.onion != offer.onion
    fulfil(house, second)
    assert (await again).status == "complete"


async def test_who_is_told_of_a_failure_finds_it_on_disk(house: House):
    """After a crash it would be tried again, and who was told may have paid otherwise by then."""
    task, offer = await offered(house, Pay(invoice_text()))
    house.bus.publish(HtlcFailed(offer.origin, CHANNEL, 0, refusal_of_payee(offer)))
    with pytest.raises(CommandRefused):
        await task
    assert house.rows("SELECT status FROM payments") == [("failed",)]


async def test_an_htlc_that_timed_out_on_chain_says_that_the_channel_closed(house: House):
    task, offer = await offered(house, Pay(invoice_text()))
    house.bus.publish(HtlcFailed(offer.origin, CHANNEL, 0, b""))
    with pytest.raises(CommandRefused, match="permanent_channel_failure") as refused:
        await task
    assert refused.value.code == 204


async def test_a_refused_offer_is_made_to_another_channel(house: House):
    house.channel.channels = (channel_info(), channel_info(OTHER_CHANNEL, spendable=500_000))
    task, offer = await offered(house, Pay(invoice_text()))
    again = asyncio.Event()
    house.channel.on_told = again.set
    house.bus.publish(HtlcRefused(offer.origin, "the channel is closing", "Wait."))
    await asyncio.wait_for(again.wait(), 5)
    second = house.channel.offers[1]
    assert house.channel.lists == 2  # ours was wrong about the first channel
    assert (offer.channel_id, second.channel_id) == (CHANNEL, OTHER_CHANNEL)
    assert second.origin == offer.origin[:-1] + "1"
    fulfil(house, second)
    assert (await task).status == "complete"
    await house.on_disk()
    assert house.rows(ATTEMPTS) == [
        (0, CHANNEL, "failed", "the channel is closing"),
        (1, OTHER_CHANNEL, "complete", None),
    ]


async def test_a_refusal_by_the_last_channel_is_the_answer(house: House):
    task, offer = await offered(house, Pay(invoice_text()))
    house.bus.publish(HtlcRefused(offer.origin, "the channel holds 483 HTLCs", "Wait until some settle."))
    with pytest.raises(CommandRefused, match=r"483 HTLCs\. Wait until some settle") as refused:
        await task
    assert refused.value.code == 205


async def test_a_start_asks_for_what_is_under_way_and_not_for_all_of_the_past(house: House):
    task, offer = await offered(house, Pay(invoice_text()))
    fulfil(house, offer)
    await task
    _, second = await offered(house, Pay(invoice_text(preimage=b"\x55" * 32)))
    await house.on_disk()
    await house.restart(origins=((second.origin, "pending", None, None, None),))
    assert house.channel.origins_asked == (second.origin,)


def timers(house: House) -> list[float]:
    return [seconds for seconds, _ in house.timers]


async def test_a_payment_waits_for_a_channel_that_is_only_full_now(house: House):
    """Dust exposure, or all slots taken: what is pending settles in seconds, and the payer asked for a minute."""
    task, offer = await offered(house, Pay(invoice_text(), retry_for=60))
    again = asyncio.Event()
    house.channel.on_told = again.set
    full = HtlcRefused(offer.origin, "too much is pending in payments too small", "Wait.", passing=True)
    house.bus.publish(full)
    await _until(lambda: timers(house) == [1.0])
    assert len(house.channel.offers) == 1 and not task.done()
    house.now += 1
    house.timers.pop()[1]()
    await asyncio.wait_for(again.wait(), 5)
    second = house.channel.offers[1]
    again.clear()
    house.bus.publish(msgspec.structs.replace(full, origin=second.origin))
    await _until(lambda: timers(house) == [2.0])
    house.now += 2
    house.timers.pop()[1]()
    await asyncio.wait_for(again.wait(), 5)
    fulfil(house, house.channel.offers[2])
    assert (await task).status == "complete"


async def test_a_payment_waits_for_a_full_channel_no_longer_than_the_payer_said(house: House):
    task, offer = await offered(house, Pay(invoice_text(), retry_for=3))
    again = asyncio.Event()
    house.channel.on_told = again.set
    house.bus.publish(HtlcRefused(offer.origin, "all slots are taken", "Wait.", passing=True))
    await _until(lambda: timers(house) == [1.0])
    house.now += 1
    house.timers.pop()[1]()
    await asyncio.wait_for(again.wait(), 5)
    second = house.channel.offers[1]
    house.bus.publish(HtlcRefused(second.origin, "all slots are taken", "Wait.", passing=True))
    with pytest.raises(CommandRefused, match="all slots are taken") as refused:
        await task
    assert refused.value.code == 205 and house.timers == []


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.002)


async def test_a_preimage_that_does_not_fit_completes_nothing(house: House):
    task, offer = await offered(house, Pay(invoice_text()))
    fulfil(house, offer, b"\x00" * 32)
    await house.settle()
    assert not task.done()
    fulfil(house, offer)
    assert (await task).preimage == PREIMAGE


async def test_events_said_twice_change_nothing(house: House):
    task, offer = await offered(house, Pay(invoice_text()))
    fulfil(house, offer)
    await task
    fulfil(house, offer)
    house.bus.publish(HtlcFailed(offer.origin, CHANNEL, 0, b""))
    house.bus.publish(HtlcRefused(offer.origin, "late", "."))
    await house.on_disk()
    assert house.rows(PAYMENTS) == [("complete", 10_000, PREIMAGE, None)]
    assert len(house.channel.offers) == 1


@pytest.mark.parametrize(
    ("channels", "sentence"),
    [
        ((), "no channel with the recipient"),
        ((channel_info(peer=STRANGER_ID),), "no channel with the recipient"),
        ((channel_info(connected=False),), "not connected"),
        ((channel_info(spendable=9_999),), "can send 9999 msat now, 10000 msat are needed"),
    ],
)
async def test_without_a_channel_that_can_carry_it_the_code_is_205(house: House, channels, sentence: str):
    house.channel.channels = channels
    with pytest.raises(CommandRefused, match=sentence) as refused:
        await house.ask(Pay(invoice_text()))
    assert refused.value.code == 205
    assert house.channel.offers == []
    await house.on_disk()
    assert house.rows(PAYMENTS)[0][0] == "failed"


async def test_an_expired_invoice_is_refused_before_anything_is_saved(house: House):
    with pytest.raises(CommandRefused) as refused:
        await house.ask(Pay(invoice_text(timestamp=NOW - 7200)))
    assert refused.value.code == 207
    await house.on_disk()
    assert house.rows(PAYMENTS) == []


async def test_a_hundred_payments_in_flight_ask_for_the_channels_once(house: House):
    house.channel.channels = (channel_info(spendable=100 * 10_000),)
    preimages = [n.to_bytes(32, "big") for n in range(1, 101)]
    tasks = [house.asking(Pay(invoice_text(preimage=preimage))) for preimage in preimages]
    await house.settle()
    assert len(house.channel.offers) == 100
    assert house.channel.lists == 1
    by_hash = {sha256(preimage): preimage for preimage in preimages}
    for offer in house.channel.offers:
        fulfil(house, offer, by_hash[offer.payment_hash])
    rows = await asyncio.gather(*tasks)
    assert {row.preimage for row in rows} == set(preimages)
    assert len({offer.origin for offer in house.channel.offers}) == 100


async def test_a_peer_that_went_away_is_noticed_before_the_next_payment(house: House):
    task, offer = await offered(house, Pay(invoice_text()))
    fulfil(house, offer)
    await task
    house.channel.channels = (channel_info(connected=False),)
    house.bus.publish(PeerDown(PAYEE_ID, 1, "gone"))
    with pytest.raises(CommandRefused, match="not connected"):
        await house.ask(Pay(invoice_text(preimage=b"\x01" * 32)))


async def test_payments_are_listed_by_hash_text_and_status(house: House):
    task, offer = await offered(house, Pay(invoice_text(), label="lunch"))
    for request in (
        ListPayments(),
        ListPayments(payment_hash=sha256(PREIMAGE)),
        ListPayments(bolt11=invoice_text().upper()),
        ListPayments(status="pending"),
    ):
        (row,) = (await house.ask(request)).payments
        assert (row.status, row.label) == ("pending", "lunch")
    fulfil(house, offer)
    await task
    assert (await house.ask(ListPayments(status="pending"))).payments == ()
    assert (await house.ask(ListPayments(payment_hash=bytes(32)))).payments == ()
    assert (await house.ask(ListPayments(status="complete"))).payments[0].preimage == PREIMAGE


# After a restart.


async def interrupted(house: House) -> OfferHtlc:
    """A payment whose run ended while it was on its way."""
    task, offer = await offered(house, Pay(invoice_text()))
    task.cancel()
    await house.on_disk()
    return offer


async def test_an_attempt_that_no_channel_knows_fails_and_may_be_paid_again(house: House):
    await interrupted(house)
    await house.restart(origins=())
    await house.on_disk()
    ((status, _, _, error),) = house.rows(PAYMENTS)
    assert status == "failed"
    assert "pay the invoice again" in error
    task, offer = await offered(house, Pay(invoice_text()))
    fulfil(house, offer)
    assert (await task).status == "complete"


async def test_an_attempt_that_is_live_is_kept_and_joined(house: House):
    offer = await interrupted(house)
    await house.restart(origins=((offer.origin, "pending", None, None, None),))
    task = house.asking(Pay(invoice_text()))
    await house.settle()
    assert house.channel.offers == []
    fulfil(house, offer)
    assert (await task).preimage == PREIMAGE
    await house.on_disk()
    assert house.rows(PAYMENTS) == [("complete", 10_000, PREIMAGE, None)]


async def test_an_attempt_that_was_fulfilled_meanwhile_is_settled(house: House):
    offer = await interrupted(house)
    await house.restart(origins=((offer.origin, "fulfilled", PREIMAGE, None, None),))
    await house.on_disk()
    assert house.rows(PAYMENTS) == [("complete", 10_000, PREIMAGE, None)]
    assert (await house.ask(Pay(invoice_text()))).preimage == PREIMAGE
    assert house.channel.offers == []


async def test_a_failure_after_a_restart_is_read_with_the_saved_session_key(house: House):
    offer = await interrupted(house)
    await house.restart(origins=((offer.origin, "failed", None, refusal_of_payee(offer), None),))
    await house.on_disk()
    ((status, _, _, error),) = house.rows(PAYMENTS)
    assert status == "failed"
    assert "incorrect_or_unknown_payment_details" in error


async def test_a_complete_payment_stays_complete_over_a_restart(house: House):
    task, offer = await offered(house, Pay(invoice_text()))
    fulfil(house, offer)
    await task
    await house.on_disk()
    await house.restart()
    assert (await house.ask(Pay(invoice_text()))).preimage == PREIMAGE
    assert house.channel.offers == []


async def test_an_attempt_refused_after_a_restart_goes_on_with_a_new_origin_and_another_channel(house: House):
    offer = await interrupted(house)
    await house.restart(origins=((offer.origin, "pending", None, None, None),))
    house.channel.channels = (channel_info(), channel_info(OTHER_CHANNEL, spendable=500_000))
    house.bus.publish(HtlcRefused(offer.origin, "the channel is closing", "Wait."))
    await house.settle()
    (second,) = house.channel.offers
    assert (second.channel_id, second.origin) == (OTHER_CHANNEL, offer.origin[:-1] + "1")
    fulfil(house, second)
    await house.on_disk()
    assert house.rows(PAYMENTS) == [("complete", 10_000, PREIMAGE, None)]


async def test_the_end_of_a_payment_that_is_told_before_the_origins_were_read_counts_once(house: House):
    """The channel says it in its own start; the inbox keeps it until ours is done."""
    offer = await interrupted(house)
    await house.stop()
    house.database.close()
    house.reopen(origins=((offer.origin, "fulfilled", PREIMAGE, None, None),))
    fulfil(house, offer)
    await house.start()
    await house.on_disk()
    assert house.rows(PAYMENTS) == [("complete", 10_000, PREIMAGE, None)]


async def test_an_invoice_that_expired_meanwhile_is_not_tried_again(house: House):
    house.channel.channels = (channel_info(), channel_info(OTHER_CHANNEL, spendable=500_000))
    task, offer = await offered(house, Pay(invoice_text()))
    house.now += 3600
    house.bus.publish(HtlcRefused(offer.origin, "the channel is closing", "Wait."))
    with pytest.raises(CommandRefused, match="expired") as refused:
        await task
    assert refused.value.code == 207
    assert len(house.channel.offers) == 1
