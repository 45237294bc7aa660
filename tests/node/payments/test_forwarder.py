"""Forwarding over the bus: what is offered onward, answered upstream and saved; and that nothing is lost or doubled."""

import pytest
from msgspec.structs import replace

from protocol.amounts import BlockHeight, Msat, ShortChannelId
from protocol.bolt4 import failure as failures
from protocol.bolt4 import payload as payloads
from protocol.bolt4.failure import (
    Failure,
    FailureCode,
    FeeInsufficient,
    InvalidOnionHmac,
    PermanentChannelFailure,
    TemporaryChannelFailure,
    UnknownNextPeer,
)
from protocol.bolt4.payload import ForwardPayload
from protocol.bus.messages.channel import (
    ChannelInfo,
    FailHtlc,
    FulfilHtlc,
    HtlcFailed,
    HtlcFulfilled,
    HtlcInfo,
    HtlcReceived,
    HtlcRefused,
    HtlcResolved,
    OfferHtlc,
    forward_origin,
)
from protocol.bus.messages.forwards import GetEarnings, ListForwards, SetPolicy
from protocol.bus.messages.routing import ListPolicies
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from tests.node.payments.support import (
    CHANNEL,
    HEIGHT,
    NOW,
    OTHER_CHANNEL,
    PAYEE_ID,
    PREIMAGE,
    STRANGER_ID,
    House,
    channel_info,
)

THIRD_CHANNEL = b"\xc3" * 32
IN_SCID, OUT_SCID, SECOND_SCID, ALIAS = 1 << 40, 2 << 40, 3 << 40, 2**63 + 5
AMOUNT, FEE = 10_000_000, 1100
OUT_EXPIRY = HEIGHT + 60
FORWARDS = "SELECT status, out_channel, out_msat, fee_msat, failure_code FROM forwards ORDER BY id"
OFFERED = ("offered", OTHER_CHANNEL, AMOUNT, FEE, None)
ORIGIN = forward_origin(CHANNEL, 0)


def incoming_channel(*htlcs: HtlcReceived) -> ChannelInfo:
    standing = tuple(
        HtlcInfo(False, h.htlc_id, h.amount_msat, h.payment_hash, h.cltv_expiry, "SENT_ADD_ACK_REVOCATION")
        for h in htlcs
    )
    return replace(channel_info(CHANNEL, peer=STRANGER_ID), short_channel_id=IN_SCID, htlcs=standing)


def outgoing(channel_id: bytes = OTHER_CHANNEL, scid: int = OUT_SCID, **given: object) -> ChannelInfo:
    info = channel_info(channel_id, peer=PAYEE_ID, spendable=50_000_000)
    return replace(info, short_channel_id=scid, **given)


def htlc(
    htlc_id: int = 0,
    *,
    scid: int = OUT_SCID,
    amount: int = AMOUNT,
    fee: int = FEE,
    expiry: int = OUT_EXPIRY + 40,
    key: bytes | None = None,
) -> HtlcReceived:
    onward = ForwardPayload(ShortChannelId(scid), Msat(amount), BlockHeight(OUT_EXPIRY))
    return HtlcReceived(
        CHANNEL,
        htlc_id,
        Msat(amount + fee),
        sha256(PREIMAGE),
        expiry,
        payloads.encode_forward(onward),
        False,
        b"the next onion",
        b"\x02" + bytes(31) + bytes([htlc_id]) if key is None else key,
    )


@pytest.fixture(autouse=True)
def channels(house: House) -> None:
    house.channel.channels = (incoming_channel(htlc()), outgoing())


async def hear(house: House, *events: object) -> None:
    for event in events:
        house.bus.publish(event)
        await house.settle()
    await house.on_disk()


def failed(failure: Failure, htlc_id: int = 0) -> FailHtlc:
    return FailHtlc(CHANNEL, htlc_id, failures.encode(failure))


FULFIL = FulfilHtlc(CHANNEL, 0, PREIMAGE)
FULFILLED = HtlcFulfilled(ORIGIN, OTHER_CHANNEL, 4, PREIMAGE)
OFFER = OfferHtlc(OTHER_CHANNEL, Msat(AMOUNT), sha256(PREIMAGE), OUT_EXPIRY, b"the next onion", ORIGIN)


async def test_an_htlc_is_offered_onward_as_its_onion_says_under_the_name_of_the_incoming_one(house: House):
    """checklist 35"""
    await hear(house, htlc())
    assert house.channel.offers == [OFFER]
    assert house.channel.decisions == []
    assert house.rows(FORWARDS) == [OFFERED]


async def test_the_row_is_on_disk_before_the_offer_can_be(house: House):
    seen = []

    def told() -> None:
        saved = house.database.writer.submit([], now=True)
        saved.add_done_callback(lambda _: seen.extend(house.rows(FORWARDS)))

    house.channel.on_told = told
    await hear(house, htlc())
    assert seen == [OFFERED]


async def test_the_preimage_goes_upstream_at_once(house: House):
    """checklist 15: an update_fulfill_htlc need not wait for anything."""
    await hear(house, htlc(), FULFILLED)
    assert house.channel.decisions == [FULFIL]
    assert house.rows(FORWARDS)[0][0] == "settled"
    (row,) = (await house.ask(ListForwards())).forwards
    assert (row.status, row.out_htlc, row.fee_msat, row.resolved) == ("settled", 4, FEE, NOW)


async def test_a_preimage_that_does_not_fit_settles_nothing(house: House):
    await hear(house, htlc(), replace(FULFILLED, preimage=bytes(32)))
    assert house.channel.decisions == []
    await hear(house, FULFILLED)
    assert house.channel.decisions == [FULFIL]


async def test_nothing_is_failed_while_the_onward_htlc_may_be_claimed(house: House):
    """Neither time nor blocks nor a repetition make us give up what the next node may still take."""
    await hear(house, htlc(), htlc())
    house.now += 10**6
    await hear(house, htlc())
    assert house.channel.decisions == []
    assert len(house.channel.offers) == 1


async def test_a_failure_of_the_next_hops_is_wrapped_and_passed_back(house: House):
    """checklist 33: every hop wraps."""
    await hear(house, htlc(), HtlcFailed(ORIGIN, OTHER_CHANNEL, 4, b"sealed"))
    assert house.channel.decisions == [FailHtlc(CHANNEL, 0, b"sealed", from_next=True)]
    assert house.rows(FORWARDS)[0][0] == "failed"


async def test_a_malformed_failure_of_the_next_node_becomes_an_ordinary_one(house: House):
    """checklist 32"""
    digest = sha256(b"the next onion")
    told = HtlcFailed(ORIGIN, OTHER_CHANNEL, 4, digest, FailureCode.INVALID_ONION_HMAC)
    await hear(house, htlc(), told)
    assert house.channel.decisions == [failed(InvalidOnionHmac(digest))]


async def test_a_malformed_failure_without_badonion_is_not_repeated(house: House):
    """checklist 32"""
    await hear(house, htlc(), HtlcFailed(ORIGIN, OTHER_CHANNEL, 4, bytes(32), FailureCode.MPP_TIMEOUT))
    assert house.channel.decisions == [failed(TemporaryChannelFailure())]


async def test_an_htlc_that_timed_out_on_chain_is_failed_by_ourselves(house: House):
    """checklist 44: nobody behind the closed channel can say why."""
    await hear(house, htlc(), HtlcFailed(ORIGIN, OTHER_CHANNEL, 4, b""))
    assert house.channel.decisions == [failed(PermanentChannelFailure())]


async def test_any_channel_to_the_same_peer_carries_it(house: House):
    """checklist 35: non-strict forwarding, also when the channel itself refuses."""
    house.channel.channels = (
        incoming_channel(htlc()),
        outgoing(spendable_msat=Msat(AMOUNT - 1)),
        outgoing(THIRD_CHANNEL, SECOND_SCID),
    )
    await hear(house, htlc())
    assert [offer.channel_id for offer in house.channel.offers] == [THIRD_CHANNEL]


async def test_a_refused_offer_is_made_to_another_channel_and_then_given_up(house: House):
    """checklist 35"""
    house.channel.channels = (incoming_channel(htlc()), outgoing(), outgoing(THIRD_CHANNEL, SECOND_SCID))
    refused = HtlcRefused(ORIGIN, "the channel is full", "Wait.")
    await hear(house, htlc(), refused)
    assert [offer.channel_id for offer in house.channel.offers] == [OTHER_CHANNEL, THIRD_CHANNEL]
    assert [offer.origin for offer in house.channel.offers] == [ORIGIN, ORIGIN]
    await hear(house, refused)
    assert house.channel.decisions == [failed(TemporaryChannelFailure())]
    assert house.rows(FORWARDS)[0][0] == "local_failed"


async def test_an_alias_of_ours_is_a_name_and_with_alias_only_the_real_one_is_not(house: House):
    """checklist 12: the alias is remembered for incoming forwards; with type bit 46 the real scid lets nothing in."""
    house.channel.channels = (
        incoming_channel(htlc()),
        outgoing(alias_local=ALIAS, scid_alias_only=True),
    )
    await hear(house, htlc(0, scid=ALIAS), htlc(1, scid=OUT_SCID))
    assert [offer.origin for offer in house.channel.offers] == [ORIGIN]
    assert house.channel.decisions == [failed(UnknownNextPeer(), 1)]
    rows = (await house.ask(ListForwards())).forwards
    assert [row.out_scid for row in rows] == [ALIAS, OUT_SCID]


async def test_unknown_channels_and_bad_terms_are_refused_and_noted(house: House):
    """checklist 35"""
    await hear(house, htlc(0, scid=99), htlc(1, fee=FEE - 1), htlc(2, amount=10**9, fee=10**6))
    assert house.channel.offers == []
    assert house.channel.decisions == [
        failed(UnknownNextPeer(), 0),
        failed(FeeInsufficient(Msat(AMOUNT + FEE - 1)), 1),
        failed(TemporaryChannelFailure(), 2),
    ]
    assert [row[0] for row in house.rows(FORWARDS)] == ["local_failed"] * 3
    assert (await house.ask(ListForwards(status="settled"))).forwards == ()


async def test_a_peer_that_is_away_is_a_passing_failure(house: House):
    house.channel.channels = (incoming_channel(htlc()), outgoing(peer_connected=False))
    await hear(house, htlc())
    assert house.channel.decisions == [failed(TemporaryChannelFailure())]


async def test_nothing_is_passed_on_from_a_channel_that_goes_on_chain(house: House):
    """What we would pay onward could not be got back in peace."""
    incoming = replace(incoming_channel(htlc()), state="ONCHAIN")
    house.channel.channels = (incoming, outgoing())
    await hear(house, htlc())
    assert house.channel.offers == []
    assert house.channel.decisions == [failed(TemporaryChannelFailure())]


async def test_an_onion_that_came_before_is_refused_and_the_same_htlc_said_again_is_not(house: House):
    """checklist 32: replays of a shared secret are refused, over a restart too."""
    key = b"\x03" * 33
    await hear(house, htlc(0, key=key), htlc(1, key=key))
    assert [offer.origin for offer in house.channel.offers] == [ORIGIN]
    assert house.channel.decisions == [failed(TemporaryChannelFailure(), 1)]
    standing = house.channel.channels
    await house.stop()
    house.database.close()
    house.reopen(origins=())
    house.channel.channels = standing
    await house.start()
    await hear(house, htlc(0, key=key), htlc(2, key=key))
    assert [offer.origin for offer in house.channel.offers] == [
        ORIGIN
    ]  # never sent before, so it is offered now
    assert house.channel.decisions == [failed(TemporaryChannelFailure(), 2)]


async def test_many_forwards_ask_for_the_channels_once(house: House):
    house.channel.channels = (incoming_channel(), outgoing(spendable_msat=Msat(10**9)))
    for number in range(50):
        house.bus.publish(htlc(number, amount=1_000_000))
    await house.on_disk()
    assert len(house.channel.offers) == 50
    assert house.channel.lists == 1


async def test_what_came_free_since_the_last_list_is_seen_before_an_htlc_is_given_up(house: House):
    house.channel.channels = (incoming_channel(), outgoing(spendable_msat=Msat(AMOUNT)))
    await hear(house, htlc(0))
    house.payments._channels._refreshed_at = float("-inf")
    await hear(house, htlc(1))
    assert len(house.channel.offers) == 2
    assert house.channel.lists == 2


async def test_policies_are_set_kept_and_the_old_one_stays_good_for_ten_minutes(house: House):
    """checklist 35"""
    policies = await house.ask(SetPolicy((OTHER_CHANNEL,), fee_base_msat=Msat(5000)))
    ((_, policy), *_) = policies.policies
    assert policy.fee_base_msat == 5000
    await house.on_disk()
    standing = house.channel.channels
    await house.stop()
    house.database.close()
    house.reopen(origins=())
    house.channel.channels = standing
    await house.start()
    assert dict((await house.ask(ListPolicies())).policies)[OTHER_CHANNEL] == policy
    await hear(house, htlc(0))
    assert len(house.channel.offers) == 1
    house.now += 601
    await hear(house, htlc(1), htlc(2, fee=5100))
    assert house.channel.decisions == [failed(FeeInsufficient(Msat(AMOUNT + FEE)), 1)]
    assert len(house.channel.offers) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"cltv_expiry_delta": 33},
        {"cltv_expiry_delta": 2017},
        {"htlc_maximum_msat": Msat(100_000_001)},
        {"htlc_minimum_msat": Msat(99_000_001)},
        {"fee_base_msat": Msat(2**32)},
    ],
)
async def test_a_policy_that_would_be_unsafe_or_cannot_be_said_is_refused(
    house: House, wrong: dict[str, int]
):
    with pytest.raises(CommandRefused) as refused:
        await house.ask(SetPolicy((OTHER_CHANNEL,), **wrong))
    assert refused.value.code == -32602


async def test_earnings_are_counted_by_span_and_channel(house: House):
    await hear(house, htlc(), FULFILLED)
    found = await house.ask(GetEarnings(NOW - 100, NOW + 100, 50))
    ((start, channel, count, out, fee),) = [
        (e.start, e.channel_id, e.count, e.out_msat, e.fee_msat) for e in found.earned
    ]
    assert (start, channel, count, out, fee) == (NOW, OTHER_CHANNEL, 1, AMOUNT, FEE)
    for since, until, count in ((NOW + 1, NOW + 100, 0), (NOW - 1, NOW, 0), (NOW, NOW + 1, 1)):
        earned = (await house.ask(GetEarnings(since, until, 0))).earned
        assert [span.start for span in earned] == [since] * count


async def test_a_resolved_one_is_forgotten_and_does_not_touch_an_invoice_of_the_same_hash(house: House):
    await hear(house, htlc(), FULFILLED, HtlcResolved(CHANNEL, 0, sha256(PREIMAGE), True))
    assert house.payments._forwarder._live == {}
    assert house.payments._forwarder._by_origin == {}
    await hear(house, FULFILLED)
    assert house.channel.decisions == [FULFIL]


async def test_an_incoming_htlc_that_ends_first_leaves_the_onward_one_watched(house: House):
    """It happens when a channel was on chain for too long. What the next node still gives is passed on and noted."""
    await hear(house, htlc(), HtlcResolved(CHANNEL, 0, sha256(PREIMAGE), False))
    assert house.channel.decisions == []
    await hear(house, FULFILLED)
    assert house.channel.decisions == [FULFIL]
    assert house.rows(FORWARDS)[0][0] == "settled"
    assert house.payments._forwarder._live == {}


async def test_an_offer_that_is_refused_after_its_incoming_htlc_is_gone_is_made_to_no_other_channel(
    house: House,
):
    """Below the dust limit it goes with its channel, long before its expiry. Nobody would pay us for it."""
    third = outgoing(THIRD_CHANNEL, SECOND_SCID)
    house.channel.channels = (incoming_channel(htlc()), outgoing(), third)
    await hear(house, htlc())
    (first,) = house.channel.offers
    await hear(house, HtlcResolved(CHANNEL, 0, sha256(PREIMAGE), False))
    await hear(house, HtlcRefused(ORIGIN, "the channel is closed", "Use another."))
    assert house.channel.offers == [first]
    assert house.rows(FORWARDS)[0][0] == "failed"
    assert house.payments._forwarder._live == {}


async def test_what_the_next_hop_says_of_hold_times_goes_upstream_with_ours(house: House):
    """checklist 39: 1.25 s passed between the two."""
    data = b"data of the next hop"
    await hear(house, htlc(), htlc(1))
    house.now += 1.25
    await hear(house, replace(FULFILLED, attribution=data))
    sealed = HtlcFailed(forward_origin(CHANNEL, 1), OTHER_CHANNEL, 5, b"sealed", attribution=data)
    await hear(house, sealed)
    assert house.channel.decisions == [
        replace(FULFIL, hold_time=12, attribution=data),
        FailHtlc(CHANNEL, 1, b"sealed", from_next=True, hold_time=12, attribution=data),
    ]


async def test_a_failure_of_our_own_takes_over_no_data(house: House):
    """checklist 39: what the next node cannot read, and what timed out on chain, begins with us."""
    data = b"data of the next hop"
    digest = sha256(b"the next onion")
    await hear(house, htlc(), htlc(1), htlc(2, scid=7 << 40))
    house.now += 0.5
    told = HtlcFailed(ORIGIN, OTHER_CHANNEL, 4, digest, FailureCode.INVALID_ONION_HMAC, data)
    await hear(house, told, HtlcFailed(forward_origin(CHANNEL, 1), OTHER_CHANNEL, 5, b"", attribution=data))
    assert house.channel.decisions == [
        failed(UnknownNextPeer(), 2),
        replace(failed(InvalidOnionHmac(digest)), hold_time=5),
        replace(failed(PermanentChannelFailure(), 1), hold_time=5),
    ]
