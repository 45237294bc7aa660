"""A forward said again, gone or changed while we ask others about it; and how much of a channel one peer holds."""

import asyncio
from typing import ClassVar

import pytest
from msgspec.structs import replace

from node.payments import forward_store
from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import failure as failures
from protocol.bolt4.failure import (
    ExpiryTooSoon,
    Failure,
    FeeInsufficient,
    InvalidOnionPayload,
    TemporaryChannelFailure,
    UnknownNextPeer,
)
from protocol.bus.messages.chain import TipChanged
from protocol.bus.messages.channel import (
    FailHtlc,
    HtlcFailed,
    HtlcFulfilled,
    HtlcReceived,
    HtlcRefused,
    HtlcResolved,
    forward_origin,
)
from protocol.bus.messages.forwards import GetEarnings, ListForwards, SetPolicy
from protocol.bus.messages.routing import OwnUpdate, OwnUpdateIs
from protocol.bus.service import Service, handles
from protocol.hashes import sha256
from tests.node.payments.support import CHANNEL, NOW, OTHER_CHANNEL, PREIMAGE, House
from tests.node.payments.test_forwarder import (
    AMOUNT,
    FEE,
    FULFILLED,
    OFFER,
    ORIGIN,
    OUT_SCID,
    SECOND_SCID,
    THIRD_CHANNEL,
    failed,
    hear,
    htlc,
    incoming_channel,
    outgoing,
)
from tests.node.payments.test_forwarder_restarts import restarted
from tests.node.wallet.support import until


class GossipStandIn(Service):
    """Has an update for every channel, and gives it when the gate is open."""

    name: ClassVar[str] = "gossip"

    def __init__(self, house: House) -> None:
        super().__init__(house.bus)
        self.gate = asyncio.Event()

    @handles(OwnUpdate)
    async def own_update(self, request: OwnUpdate) -> OwnUpdateIs:
        await self.gate.wait()
        return OwnUpdateIs(update_of(request.named))


def update_of(scid: int) -> bytes:
    return bytes(2 + 64 + 32) + scid.to_bytes(8, "big") + b"the rest"


@pytest.fixture(autouse=True)
def channels(house: House) -> None:
    house.channel.channels = (incoming_channel(htlc()), outgoing(), outgoing(THIRD_CHANNEL, SECOND_SCID))


def list_at_once(house: House) -> None:
    house.payments._channels._refreshed_at = float("-inf")


async def test_an_htlc_said_again_goes_onward_once_though_another_channel_could_carry_it(house: House):
    """Who takes it twice is paid twice, and we once."""
    await hear(house, htlc())
    list_at_once(house)
    await hear(house, htlc())
    assert house.channel.offers == [OFFER]
    assert house.channel.decisions == []


async def test_an_htlc_said_again_while_we_list_the_channels_goes_onward_once(house: House):
    house.bus.publish(htlc())
    house.bus.publish(htlc())
    await house.on_disk()
    assert house.channel.offers == [OFFER]


async def test_an_htlc_that_is_gone_when_the_channels_are_listed_goes_nowhere(house: House):
    """Its channel went on chain meanwhile: what we paid onward would be lost."""
    house.bus.publish(htlc())
    house.bus.publish(HtlcResolved(CHANNEL, 0, sha256(PREIMAGE), False))
    await house.on_disk()
    assert house.channel.offers == house.channel.decisions == []


async def test_an_htlc_said_again_while_we_ask_for_the_update_of_its_failure_is_only_failed(house: House):
    """checklist 35: it would satisfy the new policy, and failing it then would be a gift to the next node."""
    gossip = GossipStandIn(house)
    await gossip.start()
    await hear(house, htlc(fee=FEE - 1))
    await house.ask(SetPolicy((OTHER_CHANNEL, THIRD_CHANNEL), fee_base_msat=Msat(0)))
    await hear(house, htlc(fee=FEE - 1))
    gossip.gate.set()
    await hear(house)
    assert house.channel.offers == []
    failure = FeeInsufficient(Msat(AMOUNT + FEE - 1), update_of(OUT_SCID))
    assert house.channel.decisions == [FailHtlc(CHANNEL, 0, failures.encode(failure))]
    await gossip.stop()


@pytest.mark.parametrize(
    ("wrong", "failure"),
    [
        (replace(htlc(), payload=b"\x02\x01\x01"), None),
        (replace(htlc(), next_onion=None), UnknownNextPeer()),
    ],
)
async def test_an_onion_without_terms_or_without_another_one_goes_nowhere(
    house: House, wrong: HtlcReceived, failure: Failure | None
):
    """checklist 32"""
    await hear(house, wrong)
    assert house.channel.offers == []
    (decision,) = house.channel.decisions
    assert isinstance(decision, FailHtlc)
    told = failures.decode(decision.failure)
    assert told == failure or (failure is None and isinstance(told, InvalidOnionPayload))


async def test_an_onion_that_was_refused_or_is_long_over_is_no_less_a_replay(house: House):
    """checklist 32: over a restart too. With the same onion somebody would learn where it goes."""
    refused, over = b"\x03" * 33, b"\x04" * 33
    await hear(house, htlc(0, key=over), FULFILLED, HtlcResolved(CHANNEL, 0, sha256(PREIMAGE), True))
    await hear(house, htlc(1, key=refused, fee=0), htlc(2, key=refused))
    assert house.channel.decisions[-1] == failed(TemporaryChannelFailure(), 2)
    await restarted(house, stands=False)
    await hear(house, htlc(3, key=over), htlc(4, key=refused))
    assert house.channel.offers == []
    assert house.channel.decisions == [failed(TemporaryChannelFailure(), n) for n in (3, 4)]


async def test_an_onion_is_remembered_no_longer_than_its_htlc_may_be_alive(house: House):
    """checklist 32: else whoever sends us HTLCs fills our memory, for as long as the node runs. A copy that comes later
    fails by its own expiry."""
    key, first = b"\x03" * 33, htlc(0, key=b"\x03" * 33)
    await hear(house, first, htlc(1, key=key))
    assert house.channel.decisions == [failed(TemporaryChannelFailure(), 1)]
    await hear(house, TipChanged(BlockHeight(first.cltv_expiry), bytes(32), 0), htlc(2, key=key))
    assert isinstance(failures.decode(house.channel.decisions[-1].failure), ExpiryTooSoon)
    assert len(house.channel.offers) == 1


async def test_what_came_back_earned_nothing(house: House):
    """Nor does it count for the peer that sent it: who lets all of it fail would else earn a good name with us."""
    await hear(house, htlc(), HtlcFailed(ORIGIN, OTHER_CHANNEL, 4, b"sealed"), htlc(1, fee=0))
    assert [row.status for row in (await house.ask(ListForwards())).forwards] == ["failed", "local_failed"]
    assert (await house.ask(GetEarnings(0, NOW + 100, 1000))).earned == ()
    assert forward_store.read_earned_by_channel(house.database.writer, 0) == []


async def test_a_start_asks_for_the_forwards_that_are_under_way_and_not_for_all_of_the_past(house: House):
    await hear(house, htlc(), FULFILLED, HtlcResolved(CHANNEL, 0, sha256(PREIMAGE), True), htlc(1))
    await restarted(house, stands=False)
    assert house.channel.origins_asked == (forward_origin(CHANNEL, 1),)


async def test_a_forward_whose_onion_key_is_not_known_does_not_keep_the_node_from_starting(house: House):
    """One of an earlier version, or one whose onion nobody could read."""
    await hear(house, htlc(key=b""))
    await restarted(house, (ORIGIN, "pending", None, None, None))
    await hear(house, htlc(key=b""), htlc(1, key=b""))
    assert len(house.channel.offers) == 1  # the second, which is no copy of the first


async def test_forwards_are_listed_as_they_are_now_and_the_newest_last(house: House):
    await hear(house, htlc(), htlc(1, fee=0), htlc(2))
    house.bus.publish(FULFILLED)
    settled = (await house.ask(ListForwards(status="settled"))).forwards  # "offered" on disk still
    assert [row.in_htlc for row in settled] == [0]
    assert [row.in_htlc for row in (await house.ask(ListForwards(status="offered"))).forwards] == [2]
    assert [row.in_htlc for row in (await house.ask(ListForwards(newest=2))).forwards] == [1, 2]


async def test_how_long_an_htlc_was_held_is_remembered_no_longer_than_it_stands(house: House):
    """Else each HTLC that comes takes a little memory for ever, and to send us one costs nothing if it fails."""
    arrivals = house.payments._arrivals
    await hear(house, htlc())
    house.now += 1
    assert arrivals.held((CHANNEL, 0)) == 10
    await hear(house, FULFILLED, HtlcResolved(CHANNEL, 0, sha256(PREIMAGE), True))
    assert arrivals.held((CHANNEL, 0)) == 0


async def test_a_refusal_of_one_that_was_said_again_after_a_restart_sends_it_on_anew(house: House):
    """Nobody would say it a third time, and it would stand until its channel is closed."""
    await hear(house, htlc())
    await restarted(house, (ORIGIN, "pending", None, None, None))
    await hear(house, htlc(), HtlcRefused(ORIGIN, "the signer refused", "."))
    assert house.channel.offers == [OFFER]


async def test_what_no_channel_can_carry_is_given_up_after_one_new_list(house: House):
    house.channel.channels = (incoming_channel(htlc()), outgoing(spendable_msat=Msat(AMOUNT - 1)))
    house.bus.publish(htlc())
    await until(lambda: house.channel.decisions)
    assert house.channel.decisions == [failed(TemporaryChannelFailure())]
    assert house.channel.lists == 2


# Admission.

SETTLED = HtlcFulfilled(ORIGIN, OTHER_CHANNEL, 4, PREIMAGE)
FAILED = HtlcFailed(ORIGIN, OTHER_CHANNEL, 4, b"sealed")
REFUSED = HtlcRefused(ORIGIN, "the channel is full", "Wait.")


@pytest.fixture
def narrow(house: House) -> None:
    """Four HTLCs fit into it, two of them of peers that we do not know."""
    house.channel.channels = (incoming_channel(), outgoing(peer_max_accepted_htlcs=4))


def offered(house: House) -> list[str]:
    return [offer.origin for offer in house.channel.offers]


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("end", [SETTLED, FAILED, REFUSED])
async def test_a_peer_gets_no_more_of_a_channel_than_it_may_hold_until_some_of_it_ends(
    house: House, end: object
):
    """DESIGN, "Channel jamming": one that holds HTLCs must not keep all others out."""
    await hear(house, htlc(0), htlc(1), htlc(2))
    assert offered(house) == [forward_origin(CHANNEL, n) for n in (0, 1)]
    assert house.channel.decisions == [failed(TemporaryChannelFailure(), 2)]
    list_at_once(house)
    await hear(house, end)
    list_at_once(house)
    await hear(house, htlc(3), htlc(4))
    assert offered(house)[2:] == [forward_origin(CHANNEL, 3)]


async def test_what_was_under_way_before_a_restart_still_counts_against_its_peer(house: House):
    """Else a restart opened the channel to whoever jams it."""
    await hear(house, htlc(0))
    await house.stop()
    house.database.close()
    house.reopen(origins=((ORIGIN, "pending", None, None, None),))
    house.channel.channels = (incoming_channel(htlc()), outgoing(peer_max_accepted_htlcs=4))
    await house.start()
    await hear(house, htlc(1), htlc(2))
    assert offered(house) == [forward_origin(CHANNEL, 1)]
    list_at_once(house)
    await hear(house, SETTLED)
    await hear(house, htlc(3))
    assert offered(house) == [forward_origin(CHANNEL, n) for n in (1, 3)]


async def test_what_a_peer_earned_us_before_a_restart_is_remembered(house: House):
    """It outweighs what its next HTLCs could cost: FEE for each 90 s of 100 blocks."""
    await hear(house, htlc(0, fee=FEE * 6000), SETTLED, HtlcResolved(CHANNEL, 0, sha256(PREIMAGE), True))
    house.now += 20 * 86_400
    await house.stop()
    house.database.close()
    house.reopen(origins=())
    house.channel.channels = (incoming_channel(), outgoing(peer_max_accepted_htlcs=4))
    await house.start()
    await hear(house, *(htlc(n) for n in (1, 2, 3)))
    assert len(house.channel.offers) == 3
