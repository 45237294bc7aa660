"""Forwards over a restart: nothing is lost, doubled or told otherwise (BOLT 4; issue 5, "upstream safety")."""

import pytest

from protocol.bus.messages.channel import (
    FailHtlc,
    HtlcFailed,
    HtlcFulfilled,
    HtlcRefused,
    forward_origin,
)
from protocol.bus.messages.forwards import GetFeesCollected
from tests.node.payments.support import CHANNEL, OTHER_CHANNEL, PREIMAGE, House
from tests.node.payments.test_forwarder import (
    FEE,
    FORWARDS,
    FULFIL,
    FULFILLED,
    OFFER,
    OFFERED,
    ORIGIN,
    hear,
    htlc,
    incoming_channel,
    outgoing,
)


@pytest.fixture(autouse=True)
def channels(house: House) -> None:
    house.channel.channels = (incoming_channel(htlc()), outgoing())


async def restarted(
    house: House, *origins: tuple[str, str, bytes | None, bytes | None, int | None], stands: bool = True
) -> None:
    await house.on_disk()
    await house.stop()
    house.database.close()
    house.reopen(origins=origins)
    house.channel.channels = (incoming_channel(htlc()) if stands else incoming_channel(), outgoing())
    await house.start()
    await house.on_disk()


async def test_one_that_is_under_way_is_not_offered_again(house: House):
    await hear(house, htlc())
    await restarted(house, (ORIGIN, "pending", None, None, None))
    await hear(house, htlc())
    assert house.channel.offers == []
    assert house.channel.decisions == []
    await hear(house, FULFILLED)
    assert house.channel.decisions == [FULFIL]


async def test_one_that_was_settled_while_we_were_down_is_fulfilled_without_being_asked(house: House):
    """Also when the incoming channel is on chain by then and says nothing again."""
    await hear(house, htlc())
    await restarted(house, (ORIGIN, "fulfilled", PREIMAGE, None, None))
    assert house.channel.decisions == [FULFIL]
    assert house.rows(FORWARDS)[0][0] == "settled"
    await hear(house, htlc())
    assert house.channel.decisions == [FULFIL] * 2
    assert house.channel.offers == []


async def test_one_that_was_settled_and_saved_is_fulfilled_again_while_the_incoming_one_stands(house: House):
    """Our row was saved, and the channel had no time to save the fulfil."""
    await hear(house, htlc(), FULFILLED)
    await restarted(house, (ORIGIN, "fulfilled", PREIMAGE, None, None))
    assert house.channel.decisions == [FULFIL]


async def test_one_that_failed_while_we_were_down_is_failed_when_it_is_said_again(house: House):
    await hear(house, htlc())
    await restarted(house, (ORIGIN, "failed", None, b"sealed", None))
    await hear(house, htlc())
    assert house.channel.decisions == [FailHtlc(CHANNEL, 0, b"sealed", from_next=True)]
    assert house.channel.offers == []
    assert house.rows(FORWARDS)[0][0] == "failed"


async def test_one_that_no_channel_ever_had_is_judged_anew(house: House):
    """The offer was on its way to the channel when we stopped: nothing was sent."""
    await hear(house, htlc())
    await restarted(house)
    assert house.channel.decisions == []
    await hear(house, htlc())
    assert house.channel.offers == [OFFER]
    assert house.rows(FORWARDS) == [OFFERED]


async def test_one_that_was_never_sent_and_is_gone_is_closed_in_the_books(house: House):
    await hear(house, htlc())
    await restarted(house, stands=False)
    assert house.rows(FORWARDS)[0][0] == "failed"
    assert house.channel.decisions == []


async def test_a_refusal_after_a_restart_waits_for_the_htlc_to_be_said_again(house: House):
    await hear(house, htlc())
    await restarted(house, (ORIGIN, "pending", None, None, None))
    await hear(house, HtlcRefused(ORIGIN, "the signer refused", "."))
    assert house.channel.offers == house.channel.decisions == []
    await hear(house, htlc())
    assert house.channel.offers == [OFFER]


@pytest.mark.parametrize("paid", [True, False])
async def test_after_a_restart_the_time_of_arrival_and_the_data_are_known(house: House, paid: bool):
    """checklist 39: the one from the row of the forward, the other from the channel that was told."""
    await hear(house, htlc())
    house.now += 60
    outcome = (
        (ORIGIN, "fulfilled", PREIMAGE, None, None) if paid else (ORIGIN, "failed", None, b"sealed", None)
    )
    await house.stop()
    house.database.close()
    house.reopen(origins=(outcome,))
    house.channel.channels = (incoming_channel(htlc()), outgoing())
    house.channel.attributions = ((ORIGIN, b"data"),)
    await house.start()
    await hear(house, htlc())
    (decision,) = {repr(one): one for one in house.channel.decisions}.values()
    assert (decision.hold_time, decision.attribution) == (600, b"data")


async def test_an_htlc_of_an_earlier_run_without_a_row_counts_as_not_held(house: House):
    """checklist 39: 0 is what BOLT 4 lets a node say that does not know."""
    await house.stop()
    house.database.close()
    house.reopen(origins=())
    house.channel.channels = (incoming_channel(htlc(7)), outgoing())
    await house.start()
    await hear(house, htlc(0), htlc(7))
    house.now += 100
    for number in (0, 7):
        await hear(house, HtlcFailed(forward_origin(CHANNEL, number), OTHER_CHANNEL, number, b"sealed"))
    assert [(d.htlc_id, d.hold_time) for d in house.channel.decisions] == [(0, 1_000), (7, 0)]


async def test_the_fees_of_all_time_are_known_without_looking_at_every_forward(
    house: House, monkeypatch: pytest.MonkeyPatch
):
    """Whoever watches a node asks for them again and again, and a busy forwarder has millions."""
    await hear(
        house, htlc(), FULFILLED, htlc(1), HtlcFailed(forward_origin(CHANNEL, 1), OTHER_CHANNEL, 5, b"sealed")
    )
    assert (await house.ask(GetFeesCollected())).fee_msat == FEE
    await restarted(house, stands=False)
    read = house.database.writer.read
    asked: list[str] = []
    monkeypatch.setattr(
        house.database.writer, "read", lambda sql, *rest: asked.append(sql) or read(sql, *rest)
    )
    assert (await house.ask(GetFeesCollected())).fee_msat == FEE
    origin = forward_origin(CHANNEL, 2)
    await hear(
        house,
        htlc(2),
        HtlcFulfilled(origin, OTHER_CHANNEL, 6, PREIMAGE),
        HtlcFulfilled(origin, OTHER_CHANNEL, 6, PREIMAGE),
    )
    assert (await house.ask(GetFeesCollected())).fee_msat == 2 * FEE
    assert not [sql for sql in asked if "sum(" in sql]
