"""Payments in parts over other nodes: what is offered, retried, told to routing, and never more than the amount."""

import asyncio

import pytest

from node.payments import engine
from protocol.amounts import BlockHeight, Msat, ShortChannelId
from protocol.bolt4 import payload, sphinx
from protocol.bolt4.failure import (
    FeeInsufficient,
    IncorrectOrUnknownPaymentDetails,
    MppTimeout,
    PermanentNodeFailure,
    TemporaryChannelFailure,
)
from protocol.bus.messages.channel import HtlcRefused, OfferHtlc
from protocol.bus.messages.payments import ListPayments, Pay
from protocol.bus.messages.routing import (
    AttemptEnded,
    AttemptStarted,
)
from protocol.errors import CommandRefused
from tests.node.payments.router import (
    AMOUNT,
    FEE,
    FIRST,
    LAST,
    MPP,
    OTHER_LAST,
    PEER_ID,
    PEER_KEY,
    SECOND,
    RouterStandIn,
    failing,
    fulfil,
    in_parts,
    restarted,
    started,
)
from tests.node.payments.support import (
    CHANNEL,
    HEIGHT,
    OTHER_CHANNEL,
    PAYEE_KEY,
    PREIMAGE,
    SECRET,
    STRANGER_ID,
    House,
    invoice_text,
)
from tests.node.wallet.support import until


async def comes_back_and_waits(house: House, router: RouterStandIn, part: OfferHtlc) -> None:
    """A part fails, and the question for another one stays open until the router's gate is."""
    router.gate = asyncio.Event()
    house.bus.publish(failing(part, TemporaryChannelFailure()))
    await house.settle()


async def test_each_hop_is_told_its_part_and_the_payee_the_total(house: House, router: RouterStandIn):
    """checklist 36, 37: total_msat is the same in all parts."""
    router.plans = [((4000, FIRST), (6000, SECOND))]
    task = await started(house, Pay(in_parts()))
    assert [(o.channel_id, o.amount_msat) for o in house.channel.offers] == [
        (CHANNEL, 4000 + FEE),
        (OTHER_CHANNEL, 6000 + FEE),
    ]
    for offer, amount in zip(house.channel.offers, (4000, 6000), strict=True):
        at_peer = sphinx.peel(PEER_KEY, offer.onion, offer.payment_hash)
        onward = payload.decode_forward(at_peer.payload)
        expiry = HEIGHT + 18 + 3 + 7
        assert onward == payload.ForwardPayload(LAST, Msat(amount), BlockHeight(expiry))
        assert offer.cltv_expiry == expiry + 40
        assert at_peer.next_packet is not None
        final = payload.decode_final(sphinx.peel(PAYEE_KEY, at_peer.next_packet, offer.payment_hash).payload)
        assert final == payload.FinalPayload(Msat(amount), BlockHeight(expiry), SECRET, Msat(AMOUNT))
    (asked,) = router.asked
    assert (asked.max_parts, asked.final_delay, asked.max_fee_msat) == (16, 28, 5000)
    assert [type(event) for event in router.told] == [AttemptStarted, AttemptStarted]
    fulfil(house, house.channel.offers[0])
    row = await task
    assert (row.status, row.parts, row.amount_sent_msat) == ("complete", 2, AMOUNT + 2 * FEE)
    fulfil(house, house.channel.offers[1])
    await house.on_disk()
    assert house.rows("SELECT status, amount_sent_msat FROM payments") == [("complete", AMOUNT + 2 * FEE)]
    assert house.rows("SELECT status FROM attempts") == [("complete",), ("complete",)]


async def test_routing_is_told_what_the_payer_ruled_out(house: House, router: RouterStandIn):
    router.plans = [((AMOUNT, FIRST),)]
    ruled_out = {"max_delay": 50, "excluded": ((int(LAST), 0),), "excluded_nodes": (STRANGER_ID,)}
    task = await started(house, Pay(in_parts(), **ruled_out))
    (asked,) = router.asked
    assert {name: getattr(asked, name) for name in ruled_out} == ruled_out
    assert asked.final_delay == 50 // 2  # of the 7 blocks that hide where it ends only 4 are left
    with pytest.raises(CommandRefused, match="65 blocks, 50 are allowed"):
        await task  # the stand-in has only one route, and it is longer


async def test_an_invoice_without_basic_mpp_is_asked_for_in_one_part(house: House, router: RouterStandIn):
    """checklist 37: several parts only where the payee offers them."""
    router.plans = [((AMOUNT, FIRST),)]
    task = await started(house, Pay(invoice_text()))
    assert router.asked[0].max_parts == 1
    fulfil(house, house.channel.offers[0])
    await task


async def test_a_part_that_fails_on_the_way_is_sent_again_and_no_more_than_it(
    house: House, router: RouterStandIn
):
    router.plans = [((4000, FIRST), (6000, SECOND)), ((6000, FIRST),)]
    task = await started(house, Pay(in_parts()))
    first, second = house.channel.offers
    house.bus.publish(failing(second, TemporaryChannelFailure()))
    await house.settle()
    assert router.asked[1].amount_msat == 6000
    assert router.asked[1].max_fee_msat == 5000 - FEE
    assert router.told[2] == AttemptEnded(second.origin, 1, 0x1007, None)
    assert len(house.channel.offers) == 3
    fulfil(house, first)
    row = await task
    assert (row.amount_sent_msat, row.parts, row.failed_parts) == (AMOUNT + 2 * FEE, 2, 1)


async def test_a_refusal_by_the_payee_ends_it_when_the_last_part_is_back(house: House, router: RouterStandIn):
    """Nobody may pay again while a part can still be claimed."""
    router.plans = [((4000, FIRST), (6000, SECOND))]
    task = await started(house, Pay(in_parts()))
    first, second = house.channel.offers
    details = IncorrectOrUnknownPaymentDetails(Msat(6000), HEIGHT)
    house.bus.publish(failing(second, details, by_payee=True))
    await house.settle()
    assert not task.done()
    joined = house.asking(Pay(in_parts()))
    await house.settle()
    assert len(house.channel.offers) == 2
    house.bus.publish(failing(first, details, by_payee=True))
    for each in (task, joined):
        with pytest.raises(CommandRefused, match=r"2x") as refused:
            await each
        assert refused.value.code == 203


async def test_a_part_claimed_after_another_failed_is_a_complete_payment(house: House, router: RouterStandIn):
    """Exact outcome: with the preimage it is paid."""
    router.plans = [((4000, FIRST), (6000, SECOND))]
    task = await started(house, Pay(in_parts()))
    first, second = house.channel.offers
    house.bus.publish(failing(second, IncorrectOrUnknownPaymentDetails(Msat(6000), HEIGHT), by_payee=True))
    await house.settle()
    fulfil(house, first)
    row = await task
    assert (row.status, row.amount_sent_msat) == ("complete", 4000 + FEE)


async def test_a_part_that_comes_back_after_the_preimage_corrects_what_was_sent(
    house: House, router: RouterStandIn
):
    router.plans = [((4000, FIRST), (6000, SECOND))]
    task = await started(house, Pay(in_parts()))
    first, second = house.channel.offers
    fulfil(house, first)
    assert (await task).amount_sent_msat == AMOUNT + 2 * FEE
    house.bus.publish(failing(second, MppTimeout(), by_payee=True))
    await house.on_disk()
    assert house.rows("SELECT status, amount_sent_msat FROM payments") == [("complete", 4000 + FEE)]
    assert len(house.channel.offers) == 2


async def test_what_stands_in_the_way_is_avoided_in_this_payment(house: House, router: RouterStandIn):
    """checklist 34: an update in a failure is for this retry; without one the channel is left out."""
    router.plans = [((AMOUNT, FIRST),)] * 4
    task = await started(house, Pay(in_parts()))
    house.bus.publish(failing(house.channel.offers[0], FeeInsufficient(Msat(AMOUNT), b"u" * 130)))
    await house.settle()
    assert router.told[-2] == AttemptEnded(house.channel.offers[0].origin, 1, 0x100C, b"u" * 130)
    assert router.asked[1].excluded == ()  # routing knows the new fee
    assert router.asked[1].payment == house.channel.offers[0].origin.partition("/")[0]
    house.bus.publish(failing(house.channel.offers[1], FeeInsufficient(Msat(AMOUNT))))
    await house.settle()
    assert router.asked[2].excluded == ((LAST, 1),)
    house.bus.publish(failing(house.channel.offers[2], PermanentNodeFailure()))
    await house.settle()
    assert router.asked[3].excluded_nodes == (PEER_ID,)
    fulfil(house, house.channel.offers[3])
    assert (await task).failed_parts == 3


async def test_a_channel_that_refuses_is_not_offered_as_a_first_hop_again(
    house: House, router: RouterStandIn
):
    router.plans = [((AMOUNT, FIRST),), ((AMOUNT, SECOND),)]
    task = await started(house, Pay(in_parts()))
    house.bus.publish(HtlcRefused(house.channel.offers[0].origin, "full", "Wait."))
    await house.settle()
    await until(lambda: len(house.channel.offers) == 2)  # a new list of channels, at most four a second
    assert [hop.short_channel_id for hop in router.asked[1].first_hops] == [SECOND]
    assert router.told[1].failed_at == 0
    fulfil(house, house.channel.offers[1])
    assert (await task).status == "complete"


async def test_retries_end_with_the_time_and_say_why(house: House, router: RouterStandIn):
    router.plans = [((AMOUNT, FIRST),)] * 2
    task = await started(house, Pay(in_parts(), retry_for=30))
    house.now += 31
    house.bus.publish(failing(house.channel.offers[0], TemporaryChannelFailure()))
    with pytest.raises(CommandRefused, match="temporary_channel_failure") as refused:
        await task
    assert refused.value.code == 204
    assert len(house.channel.offers) == 1


@pytest.mark.parametrize(
    "parts",
    [((9000, FIRST),), ((6000, FIRST), (6000, SECOND)), ((AMOUNT, OTHER_LAST),), ()],
)
async def test_routes_that_do_not_carry_what_was_asked_are_not_used(
    house: House, router: RouterStandIn, parts: tuple[tuple[int, ShortChannelId], ...]
):
    router.plans = [parts]
    with pytest.raises(CommandRefused):
        await (await started(house, Pay(in_parts())))
    assert house.channel.offers == []


async def test_a_route_dearer_than_allowed_is_not_used(house: House, router: RouterStandIn):
    router.plans = [((AMOUNT, FIRST),)]
    with pytest.raises(CommandRefused, match="costs 10 msat, allowed are 9"):
        await (await started(house, Pay(in_parts(), max_fee_msat=Msat(9))))
    assert house.channel.offers == []


async def test_routes_dearer_together_than_what_is_left_of_the_budget_are_not_used(
    house: House, router: RouterStandIn
):
    """Each alone would be cheap enough; what is under way has taken its part already."""
    router.plans = [((4000, FIRST), (6000, SECOND)), ((3000, FIRST), (3000, SECOND))]
    task = await started(house, Pay(in_parts(), max_fee_msat=Msat(2 * FEE)))
    first, second = house.channel.offers
    house.bus.publish(failing(second, TemporaryChannelFailure()))
    await house.settle()
    assert len(house.channel.offers) == 2
    fulfil(house, first)
    await task
    router.plans = [((4000, FIRST), (6000, SECOND))]
    with pytest.raises(CommandRefused):
        await house.ask(
            Pay(invoice_text(preimage=b"\x01" * 32, features=MPP), max_fee_msat=Msat(2 * FEE - 1))
        )
    assert len(house.channel.offers) == 2


async def test_no_part_follows_when_the_payment_is_complete(house: House, router: RouterStandIn):
    """The question for another part was under way when the preimage came: whoever has it could take more."""
    router.plans = [((4000, FIRST), (6000, SECOND)), ((6000, SECOND),), ((AMOUNT, FIRST),)]
    task = await started(house, Pay(in_parts()))
    first, second = house.channel.offers
    await comes_back_and_waits(house, router, second)
    fulfil(house, first)
    assert (await task).status == "complete"
    router.gate.set()
    await house.settle()
    assert len(house.channel.offers) == 2


async def test_no_part_follows_a_refusal_by_the_payee_and_the_last_one_back_ends_it(
    house: House, router: RouterStandIn
):
    router.plans = [((3000, FIRST), (3000, SECOND), (4000, FIRST)), ((4000, FIRST),), ((7000, FIRST),)]
    task = await started(house, Pay(in_parts()))
    one, two, three = house.channel.offers
    await comes_back_and_waits(house, router, three)
    house.bus.publish(failing(two, IncorrectOrUnknownPaymentDetails(Msat(3000), HEIGHT), by_payee=True))
    await house.settle()
    router.gate.set()
    await house.settle()
    assert len(house.channel.offers) == 3 and not task.done()
    house.bus.publish(failing(one, TemporaryChannelFailure()))
    with pytest.raises(CommandRefused) as refused:
        await asyncio.wait_for(task, 5)
    assert refused.value.code == 203
    assert len(house.channel.offers) == 3


async def test_retries_end_though_there_is_always_another_route(
    house: House, router: RouterStandIn, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(engine, "MAX_TRIES", 3)
    router.plans = [((AMOUNT, FIRST),)] * 9
    task = await started(house, Pay(in_parts()))
    for tries in (1, 2, 3):
        assert len(house.channel.offers) == tries
        house.bus.publish(failing(house.channel.offers[-1], TemporaryChannelFailure()))
        await house.settle()
    with pytest.raises(CommandRefused, match=r"3x"):
        await asyncio.wait_for(task, 5)
    assert len({offer.origin for offer in house.channel.offers}) == len(house.channel.offers) == 3


async def test_parts_that_end_while_a_route_is_looked_for_are_counted(house: House, router: RouterStandIn):
    """The question was for 6000, and meanwhile 4000 more came back: the answer must not be used as it is."""
    router.plans = [((4000, FIRST), (6000, SECOND)), ((6000, SECOND),), ((AMOUNT, FIRST),)]
    task = await started(house, Pay(in_parts()))
    first, second = house.channel.offers
    await comes_back_and_waits(house, router, second)
    house.bus.publish(failing(first, TemporaryChannelFailure()))
    await house.settle()
    router.gate.set()
    await house.settle()
    assert [asked.amount_msat for asked in router.asked] == [AMOUNT, 6000, AMOUNT]
    assert len(house.channel.offers) == 3
    fulfil(house, house.channel.offers[2])
    assert (await task).status == "complete"


async def test_a_payment_in_parts_survives_a_restart(house: House, router: RouterStandIn):
    """One part settled, one failed and one lives: no new part is made beyond what is missing."""
    router.plans = [((4000, FIRST), (6000, SECOND))]
    task = await started(house, Pay(in_parts()))
    task.cancel()
    first, second = house.channel.offers
    await house.on_disk()
    sealed = failing(second, IncorrectOrUnknownPaymentDetails(Msat(6000), HEIGHT), by_payee=True).reason
    await router.stop()
    await house.restart(
        origins=((first.origin, "pending", None, None, None), (second.origin, "failed", None, sealed, None))
    )
    (row,) = (await house.ask(ListPayments())).payments
    assert (row.status, row.unknown_until) == ("pending", first.cltv_expiry)
    assert house.channel.offers == []
    fulfil(house, first)
    await house.on_disk()
    assert house.rows("SELECT status, amount_sent_msat FROM payments") == [("complete", 4000 + FEE)]


async def test_a_complete_payment_with_a_part_under_way_is_not_paid_again_after_a_restart(
    house: House, router: RouterStandIn
):
    router.plans = [((4000, FIRST), (6000, SECOND))]
    task = await started(house, Pay(in_parts()))
    first, second = house.channel.offers
    fulfil(house, first)
    await task
    await house.on_disk()
    await router.stop()
    await house.restart(
        origins=(
            (first.origin, "fulfilled", PREIMAGE, None, None),
            (second.origin, "pending", None, None, None),
        )
    )
    assert (await house.ask(Pay(in_parts()))).status == "complete"
    assert house.channel.offers == []
    fulfil(house, second)
    await house.on_disk()
    assert house.rows("SELECT status FROM attempts") == [("complete",), ("complete",)]


async def test_after_a_restart_the_payer_s_own_limits_hold(house: House, router: RouterStandIn):
    router.plans = [((4000, FIRST), (6000, SECOND))]
    task = await started(house, Pay(in_parts(), max_fee_msat=Msat(50), retry_for=600))
    task.cancel()
    first, second = house.channel.offers
    router = await restarted(house, router, first.origin, second.origin)
    house.now += 120
    house.bus.publish(failing(second, TemporaryChannelFailure()))
    await house.settle()
    (asked,) = router.asked
    assert (asked.amount_msat, asked.max_fee_msat) == (6000, 50 - FEE)
    await router.stop()


async def test_no_part_follows_one_that_comes_back_to_a_complete_payment_after_a_restart(
    house: House, router: RouterStandIn
):
    router.plans = [((4000, FIRST), (6000, SECOND))]
    task = await started(house, Pay(in_parts()))
    first, second = house.channel.offers
    fulfil(house, first)
    await task
    router = await restarted(house, router, second.origin)
    house.bus.publish(failing(second, TemporaryChannelFailure()))
    await house.on_disk()
    assert router.asked == house.channel.offers == []
    assert house.rows("SELECT status, amount_sent_msat FROM payments") == [("complete", 4000 + FEE)]
    await router.stop()


async def test_a_payment_that_was_between_two_tries_at_a_crash_has_failed(
    house: House, router: RouterStandIn
):
    """Nothing of it can be claimed, so it may be paid again."""
    router.plans = [((AMOUNT, FIRST),)]
    task = await started(house, Pay(in_parts()))
    router.gate = asyncio.Event()
    house.bus.publish(failing(house.channel.offers[0], TemporaryChannelFailure()))
    await house.settle()
    task.cancel()
    router = await restarted(house, router)
    (row,) = (await house.ask(ListPayments())).payments
    assert row.status == "failed"
    again = await started(house, Pay(in_parts()))
    fulfil(house, house.channel.offers[0])
    assert (await again).status == "complete"
    await router.stop()
