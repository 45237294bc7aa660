"""What a payer allows: how long the money may be locked, and which ways it may take, also after a restart."""

from typing import Any

import pytest

from protocol.amounts import Msat
from protocol.bolt4.failure import TemporaryChannelFailure
from protocol.bus.messages.payments import Keysend, Pay, PreviewPay
from protocol.errors import CommandRefused
from tests.node.payments.router import (
    AMOUNT,
    FEE,
    FIRST,
    LAST,
    SECOND,
    RouterStandIn,
    failing,
    fulfil,
    in_parts,
    restarted,
    started,
)
from tests.node.payments.support import HEIGHT, PAYEE_ID, STRANGER_ID, House, invoice_text


async def test_a_channel_partner_gets_no_htlc_that_locks_the_money_for_longer_than_allowed(house: House):
    """BOLT 4, "max_htlc_cltv": a partner whose invoice asks for years, and who then is silent, would have it for years.
    Neither closing the channel nor waiting gives it back before the HTLC expires."""
    for request in (
        Pay(invoice_text(final_delay=2014)),
        Pay(invoice_text(final_delay=65_535)),
        Pay(invoice_text(), max_delay=20),
        PreviewPay(invoice_text(final_delay=2014)),
        Keysend(PAYEE_ID, Msat(AMOUNT), final_delay=2014),
        Keysend(PAYEE_ID, Msat(AMOUNT), max_delay=24),
    ):
        with pytest.raises(CommandRefused, match="are allowed") as refused:
            await house.ask(request)
        assert refused.value.code == 206
    assert house.channel.offers == []
    longest = await started(house, Pay(invoice_text(final_delay=2013)))
    shortest = await started(house, Pay(invoice_text(preimage=b"\x01" * 32), max_delay=21))
    assert [offer.cltv_expiry - HEIGHT for offer in house.channel.offers] == [2016, 21]
    for offer, preimage in zip(house.channel.offers, (b"\x66" * 32, b"\x01" * 32), strict=True):
        fulfil(house, offer, preimage)
    assert {(await one).status for one in (longest, shortest)} == {"complete"}


async def test_a_route_that_locks_the_money_for_longer_than_allowed_is_not_used(
    house: House, router: RouterStandIn
):
    """The stand-in's route takes 40 blocks more than what it was asked for at the end: 28 here, then 29."""
    router.plans = [((AMOUNT, FIRST),)] * 2
    with pytest.raises(CommandRefused, match="68 blocks, 67 are allowed") as refused:
        await house.ask(Pay(in_parts(), max_delay=67))
    assert (refused.value.code, house.channel.offers) == (206, [])
    task = await started(house, Pay(in_parts(), max_delay=68))
    (offer,) = house.channel.offers
    assert offer.cltv_expiry == HEIGHT + 68
    fulfil(house, offer)
    await task


@pytest.mark.parametrize(
    "ruled_out", [{"max_delay": 70}, {"excluded": ((int(LAST), 0),)}, {"excluded_nodes": (STRANGER_ID,)}]
)
async def test_after_a_restart_no_route_is_longer_or_over_other_ways_than_the_payer_said(
    house: House, router: RouterStandIn, ruled_out: dict[str, Any]
):
    """Without it, a payment of an earlier run goes on with 2016 blocks and over nodes that were ruled out."""
    router.plans = [((4000, FIRST), (6000, SECOND))]
    task = await started(house, Pay(in_parts(), max_fee_msat=Msat(50), **ruled_out))
    task.cancel()
    first, second = house.channel.offers
    router = await restarted(house, router, first.origin, second.origin)
    house.bus.publish(failing(second, TemporaryChannelFailure()))
    await house.settle()
    (asked,) = router.asked
    assert {name: getattr(asked, name) for name in ruled_out} == ruled_out
    assert (asked.amount_msat, asked.max_fee_msat) == (6000, 50 - FEE)
    await router.stop()
