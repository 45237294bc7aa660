"""Payments in parts over other nodes: what is offered, retried, told to routing, and never more than the amount."""

import asyncio
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from node.payments import engine
from node.payments.send import Goal, build_route
from protocol import curve
from protocol.amounts import BlockHeight, Msat, ShortChannelId
from protocol.bolt4 import failure_onion, payload, sphinx
from protocol.bolt4.failure import (
    Failure,
    FeeInsufficient,
    IncorrectOrUnknownPaymentDetails,
    MppTimeout,
    PermanentNodeFailure,
    TemporaryChannelFailure,
)
from protocol.bus.messages.channel import HtlcFailed, HtlcFulfilled, HtlcRefused, OfferHtlc
from protocol.bus.messages.payments import Keysend, ListParts, ListPayments, Pay, SendPart, WaitPart
from protocol.bus.messages.routing import (
    AttemptEnded,
    AttemptStarted,
    FindRoutes,
    Route,
    RouteHop,
    Routes,
    ShadowDelay,
)
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from protocol.secret import Secret
from tests.node.payments.support import (
    CHANNEL,
    HEIGHT,
    OTHER_CHANNEL,
    OUR_ID,
    PAYEE_ID,
    PAYEE_KEY,
    PREIMAGE,
    SECRET,
    STRANGER_ID,
    House,
    channel_info,
    invoice_text,
)
from tests.node.wallet.support import until

PEER_KEY = b"\x44" * 32
PEER_ID = curve.point_of(PEER_KEY)
FIRST, SECOND, LAST, OTHER_LAST = (ShortChannelId(n << 40) for n in (1, 2, 3, 4))
FEE = 10
AMOUNT = 10_000


class RouterStandIn(Service):
    """Answers from a table: the parts that each question is answered with, by amount."""

    name: ClassVar[str] = "routing"

    def __init__(self, house: House) -> None:
        super().__init__(house.bus)
        self.asked: list[FindRoutes] = []
        self.told: list[AttemptStarted | AttemptEnded] = []
        self.plans: list[tuple[tuple[int, ShortChannelId], ...]] = []
        """For each question the parts: amount, and the first channel."""
        self.gate: asyncio.Event | None = None

    @handles(FindRoutes)
    async def find(self, request: FindRoutes) -> Routes:
        self.asked.append(request)
        if self.gate is not None:
            await self.gate.wait()
        if not self.plans:
            raise CommandRefused("no route in the table", what_to_do="Wait.", code=205)
        parts = self.plans.pop(0)
        return Routes(tuple(route(amount, first, request.final_delay) for amount, first in parts), 1.0)

    @handles(ShadowDelay)
    def shadow(self, _request: ShadowDelay) -> int:
        return 7

    @hears(AttemptStarted, AttemptEnded)
    def hear(self, event: AttemptStarted | AttemptEnded) -> None:
        self.told.append(event)


def route(amount: int, first: ShortChannelId, delay: int, fee: int = FEE) -> Route:
    hops = (
        RouteHop(PEER_ID, first, 0, Msat(amount + fee), delay + 40),
        RouteHop(PAYEE_ID, LAST, 1, Msat(amount), delay),
    )
    return Route(hops, Msat(amount), Msat(fee), 1.0, "by the table")


@pytest.fixture
async def router(house: House):
    house.channel.channels = (
        replace(channel_info(peer=PEER_ID), short_channel_id=FIRST),
        replace(channel_info(OTHER_CHANNEL, peer=PEER_ID), short_channel_id=SECOND),
    )
    router = RouterStandIn(house)
    await router.start()
    yield router
    await router.stop()


MPP = frozenset({8, 14, 17})


def in_parts(amount: int = AMOUNT) -> str:
    return invoice_text(amount=amount, features=MPP)


async def started(house: House, request: object) -> "asyncio.Task[object]":
    task = house.asking(request)
    await house.settle()
    return task


def fulfil(house: House, offer: OfferHtlc, preimage: bytes = PREIMAGE) -> None:
    house.bus.publish(HtlcFulfilled(offer.origin, offer.channel_id, 0, preimage))


def failing(offer: OfferHtlc, failure: Failure, *, by_payee: bool = False) -> HtlcFailed:
    """As the peer, or behind it the payee, would fail it."""
    at_peer = sphinx.peel(PEER_KEY, offer.onion, offer.payment_hash)
    if not by_payee:
        return HtlcFailed(
            offer.origin, offer.channel_id, 0, failure_onion.create(at_peer.shared_secret, failure)
        )
    assert at_peer.next_packet is not None
    at_payee = sphinx.peel(PAYEE_KEY, at_peer.next_packet, offer.payment_hash)
    sealed = failure_onion.create(at_payee.shared_secret, failure)
    return HtlcFailed(offer.origin, offer.channel_id, 0, failure_onion.wrap(at_peer.shared_secret, sealed))


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
    fulfil(house, house.channel.offers[0])
    await task


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
    router.gate = asyncio.Event()
    house.bus.publish(failing(second, TemporaryChannelFailure()))
    await house.settle()
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
    router.gate = asyncio.Event()
    house.bus.publish(failing(three, TemporaryChannelFailure()))
    await house.settle()
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
    router.gate = asyncio.Event()
    house.bus.publish(failing(second, TemporaryChannelFailure()))
    await house.settle()
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


async def restarted(house: House, router: RouterStandIn, *origins: str) -> RouterStandIn:
    """With these HTLCs still on their way, and those that were complete settled."""
    await house.on_disk()
    await router.stop()
    standing = house.channel.channels
    await house.restart(origins=tuple((origin, "pending", None, None, None) for origin in origins))
    house.channel.channels = standing
    again = RouterStandIn(house)
    again.plans = [((AMOUNT, FIRST),), ((6000, FIRST),)]
    await again.start()
    return again


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


async def test_a_keysend_carries_its_preimage_in_the_last_payload(house: House, router: RouterStandIn):
    """bLIP 3"""
    router.plans = [((AMOUNT, FIRST),)]
    task = await started(house, Keysend(PAYEE_ID, Msat(AMOUNT), records=((65537, b"hi"),)))
    (offer,) = house.channel.offers
    at_peer = sphinx.peel(PEER_KEY, offer.onion, offer.payment_hash)
    assert at_peer.next_packet is not None
    last = sphinx.peel(PAYEE_KEY, at_peer.next_packet, offer.payment_hash)
    final = payload.decode_final(last.payload)
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


# Parts along given routes.

HASH = sha256(PREIMAGE)


def part(
    amount: int = AMOUNT, *, total: int = AMOUNT, part_id: int = 0, first: ShortChannelId = FIRST, **more
) -> SendPart:
    hops = route(amount, first, 21).hops
    return SendPart(HASH, hops, Msat(total), payment_secret=SECRET, part_id=part_id, **more)


async def test_a_part_goes_where_the_caller_says_and_is_waited_for(house: House, router: RouterStandIn):
    row = await house.ask(part())
    assert (row.status, row.amount_sent_msat) == ("pending", AMOUNT + FEE)
    waiting = house.asking(WaitPart(HASH))
    await house.settle()
    fulfil(house, house.channel.offers[0])
    ended = await waiting
    assert (ended.status, ended.preimage) == ("complete", PREIMAGE)
    assert (await house.ask(part())).preimage == PREIMAGE
    assert len(house.channel.offers) == 1
    await house.on_disk()
    (listed,) = (await house.ask(ListParts(payment_hash=HASH))).parts
    assert (listed.status, listed.group_id, listed.preimage) == ("complete", 1, PREIMAGE)


async def test_parts_never_add_up_to_more_than_the_total(house: House, router: RouterStandIn):
    await house.ask(part(6000, part_id=1))
    again = await house.ask(part(6000, part_id=1))
    assert again.status == "pending"
    with pytest.raises(CommandRefused, match="6000 msat are on their way"):
        await house.ask(part(6000, part_id=2))
    await house.ask(part(4000, part_id=3, first=SECOND))
    await house.settle()
    assert len(house.channel.offers) == 2
    with pytest.raises(CommandRefused) as pays:
        await house.ask(Pay(invoice_text()))  # joins nothing: the parts are somebody's own
    assert pays.value.code == 200


async def test_parts_join_only_what_they_are_parts_of(house: House, router: RouterStandIn):
    """Under one payment hash there is one payment: whoever holds the preimage could claim two."""
    router.plans = [((AMOUNT, FIRST),)]
    paying = await started(house, Pay(invoice_text(preimage=b"\x01" * 32, features=MPP)))
    with pytest.raises(CommandRefused) as theirs:
        await house.ask(replace(part(1, part_id=1, group_id=0), payment_hash=sha256(b"\x01" * 32)))
    fulfil(house, house.channel.offers[0], b"\x01" * 32)
    await paying
    await house.ask(part(3000, part_id=1))
    with pytest.raises(CommandRefused) as group:
        await house.ask(part(3000, part_id=2, group_id=2))
    with pytest.raises(CommandRefused) as total:
        await house.ask(part(3000, part_id=2, total=2 * AMOUNT))
    fulfil(house, house.channel.offers[-1])
    await house.ask(WaitPart(HASH, part_id=1))
    with pytest.raises(CommandRefused) as complete:
        await house.ask(part(3000, part_id=2, total=2 * AMOUNT))
    assert [one.value.code for one in (theirs, group, total, complete)] == [200, 200, 201, 201]
    assert len(house.channel.offers) == 2


async def test_after_a_restart_a_part_along_a_given_route_is_not_retried_either(
    house: House, router: RouterStandIn
):
    await house.ask(part())
    await house.settle()
    (offer,) = house.channel.offers
    router = await restarted(house, router, offer.origin)
    house.bus.publish(failing(offer, TemporaryChannelFailure()))
    await house.on_disk()
    assert router.asked == house.channel.offers == []
    assert house.rows("SELECT status FROM payments") == [("failed",)]
    await router.stop()


async def test_a_failed_part_says_where_and_may_be_sent_again(house: House, router: RouterStandIn):
    await house.ask(part())
    await house.settle()
    house.bus.publish(failing(house.channel.offers[0], TemporaryChannelFailure()))
    row = await house.ask(WaitPart(HASH))
    assert (row.status, row.failed_at, row.failure_code) == ("failed", 1, 0x1007)
    await house.on_disk()
    await house.ask(part())
    await house.settle()
    assert len(house.channel.offers) == 2
    assert router.asked == []  # nobody retries it but the caller


@pytest.mark.parametrize(
    "wrong",
    [
        part(AMOUNT + 1),
        part(6000),
        replace(part(), hops=()),
        replace(part(), hops=part().hops[::-1]),
        replace(part(6000, part_id=1), payment_secret=None),
        part(first=OTHER_LAST),
        part(first=LAST),  # of a channel with another peer
        part(AMOUNT + 1, part_id=1),
        part(0, part_id=1),
        replace(part(), hops=(*[part().hops[0]] * 20, part().hops[1])),
        replace(part(), hops=(replace(part().hops[0], amount_msat=Msat(AMOUNT - 1)), part().hops[1])),
        replace(part(), hops=(replace(part().hops[0], delay=20), part().hops[1])),
        replace(part(), hops=(part().hops[0], replace(part().hops[1], delay=0))),
        replace(part(), hops=(replace(part().hops[0], delay=2017), part().hops[1])),
    ],
)
async def test_a_route_that_cannot_be_is_refused(house: House, router: RouterStandIn, wrong: SendPart):
    stranger = replace(channel_info(b"\xc3" * 32, peer=STRANGER_ID), short_channel_id=LAST)
    house.channel.channels += (stranger,)
    with pytest.raises(CommandRefused):
        await house.ask(wrong)
    assert house.channel.offers == []


@given(st.integers(1, 20), st.integers(1, 10**9))
def test_an_onion_of_any_length_is_peeled_hop_by_hop(hops: int, amount: int):
    keys = [sha256(bytes([n])) for n in range(hops)]
    nodes = [curve.point_of(key) for key in keys]
    chain = tuple(
        RouteHop(node, ShortChannelId(n), 0, Msat(amount + hops - n), 40 * (hops - n))
        for n, node in enumerate(nodes)
    )
    goal = Goal(nodes[-1], HASH, Msat(amount + 1), 18, payment_secret=SECRET)
    made = build_route(goal, chain, height=HEIGHT, session_key=Secret(b"\x77" * 32))
    assert (made.amount_msat, made.cltv_expiry) == (amount + hops, HEIGHT + 40 * hops)
    packet: bytes | None = made.onion
    for n, key in enumerate(keys):
        assert packet is not None
        peeled = sphinx.peel(key, packet, HASH)
        packet = peeled.next_packet
        if n < hops - 1:
            assert payload.decode_forward(peeled.payload).short_channel_id == n + 1
    assert packet is None
