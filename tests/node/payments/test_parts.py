"""Parts along routes that the caller chose (`sendpay`, `waitsendpay`): never more than the total, and nobody retries
them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from node.payments.send import Goal, build_route
from protocol import curve
from protocol.amounts import Msat, ShortChannelId
from protocol.bolt4 import payload, sphinx
from protocol.bolt4.failure import (
    TemporaryChannelFailure,
)
from protocol.bus.messages.payments import ListParts, Pay, SendPart, WaitPart
from protocol.bus.messages.routing import (
    RouteHop,
)
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from protocol.secret import Secret
from tests.node.payments.router import (
    AMOUNT,
    FEE,
    FIRST,
    LAST,
    MPP,
    OTHER_LAST,
    SECOND,
    RouterStandIn,
    failing,
    fulfil,
    restarted,
    route,
    started,
)
from tests.node.payments.support import (
    HEIGHT,
    PREIMAGE,
    SECRET,
    STRANGER_ID,
    House,
    channel_info,
    invoice_text,
)

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


async def test_only_a_part_that_was_paid_shows_the_proof_that_it_was(house: House, router: RouterStandIn):
    await house.ask(part(6000, part_id=1))
    await house.ask(part(4000, part_id=2, first=SECOND))
    await house.settle()
    first, second = house.channel.offers
    fulfil(house, first)
    house.bus.publish(failing(second, TemporaryChannelFailure()))
    await house.on_disk()
    listed = (await house.ask(ListParts(payment_hash=HASH))).parts
    assert [(one.part_id, one.status, one.preimage) for one in listed] == [
        (1, "complete", PREIMAGE),
        (2, "failed", None),
    ]


NOBODY = replace(part().hops[0], node_id=b"\x02" + b"\xff" * 32)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(part(), payment_metadata=bytes(1300)),  # more than an onion holds
        replace(part(), hops=(part().hops[0], NOBODY, part().hops[1])),  # the id is no point of the curve
    ],
)
async def test_a_part_for_which_no_onion_can_be_made_leaves_the_invoice_free_to_be_paid(
    house: House, router: RouterStandIn, wrong: SendPart
):
    """Otherwise it would count as being under way, with nothing that could ever end, until the node is started anew."""
    router.plans = [((AMOUNT, FIRST),)]
    with pytest.raises(CommandRefused):
        await house.ask(wrong)
    assert house.channel.offers == []
    paying = await started(house, Pay(invoice_text()))
    fulfil(house, house.channel.offers[0])
    assert (await paying).status == "complete"


async def test_such_a_part_does_not_make_others_of_its_payment_forgotten(house: House, router: RouterStandIn):
    """With the first part on its way, and nobody who remembers it, the whole could be paid once more."""
    await house.ask(part(6000, part_id=1, payment_metadata=bytes(600)))
    second = part(4000, part_id=2, payment_metadata=bytes(600))
    with pytest.raises(CommandRefused, match="onion"):
        await house.ask(replace(second, hops=(*[second.hops[0]] * 19, second.hops[1])))
    router.plans = [((AMOUNT, FIRST),)]
    with pytest.raises(CommandRefused, match="under way"):
        await house.ask(Pay(invoice_text()))
    await house.settle()
    assert len(house.channel.offers) == 1


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
