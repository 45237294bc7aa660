"""channel_ready, aliases, trust, and a funding that comes late, elsewhere or never (BOLT 2, "The `channel_ready`
Message")."""

import asyncio
from collections.abc import Callable
from copy import copy
from pathlib import Path

import pytest
from msgspec.structs import replace

from node.channel import lockin
from node.channel.events import (
    CloseWanted,
    Connected,
    FromPeer,
    FundingConfirmed,
    FundingMissing,
    FundingReorganised,
    Offer,
)
from node.channel.state import (
    AwaitingLockIn,
    Closed,
    CloseKind,
    Closing,
    Normal,
    OfferWant,
    ShuttingDown,
    State,
)
from node.channel.view import channel_info
from protocol import curve
from protocol.amounts import BlockHeight, Msat, ShortChannelId, scid
from protocol.bolt9 import ChannelType
from protocol.bus.messages.channel import ChannelInfo, forward_origin
from protocol.wire.bolt1 import Error
from protocol.wire.bolt2_open import ChannelReady, ChannelReadyTlvs
from protocol.wire.message import decode
from tests.node.channel.pair import (
    ALICES_ALIAS,
    BOBS_ALIAS,
    End,
    Pair,
    invoice,
    onion_for,
    open_both,
    open_channel,
)

OPENED = 110
"""The height of the ends while the channel is opened."""
OTHER_POINT = curve.point_of(b"\x77" * 32)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


def fund(pair: Pair, *, kind: ChannelType = ChannelType.ANCHORS, fresh: bool = True, push: int = 0) -> None:
    """The funding is signed and in no block yet."""
    asyncio.run(open_both(pair, kind=kind, push=push))
    for end in pair.ends:
        assert end.state is not None
        end.state.committed.opened_height = BlockHeight(OPENED)
        if fresh:
            end.do(Connected(1, fresh=True))


def phases(pair: Pair) -> list[object]:
    return [end.state.committed.phase for end in pair.ends if end.state is not None]


def info(end: End) -> ChannelInfo:
    assert end.state is not None
    return channel_info(end.state, end.env.height)


def waiting(end: End, kind: type) -> list[object]:
    return [message for message in map(decode, end.out.waiting) if isinstance(message, kind)]


def ready(end: End, alias: ShortChannelId | None, point: bytes | None = None) -> FromPeer:
    """A channel_ready of the other end, once more."""
    assert end.state is not None
    committed = end.state.committed
    again = point or committed.remote_points[1]
    assert again is not None
    return FromPeer(
        ChannelReady(committed.params.channel_id, again, ChannelReadyTlvs(short_channel_id=alias))
    )


def pay(pair: Pair, payer: End, amount: int = 20_000_000) -> None:
    payee = pair.other(payer)
    made = invoice(payee, amount)
    want = OfferWant(
        Msat(amount), made.payment_hash, 200, onion_for(payee, made, amount, 200), made.payment_hash.hex()
    )
    payer.do(Offer(want))
    pair.quiet()


# When it is said.


def test_channel_ready_leaves_at_the_depth_and_not_before(pair: Pair) -> None:
    """checklist 12"""
    fund(pair)
    pair.confirm(depth=2)
    assert phases(pair) == [AwaitingLockIn(), AwaitingLockIn()]
    assert not any(end.out.waiting for end in pair.ends)
    pair.confirm(depth=3)
    pair.quiet()
    assert phases(pair) == [Normal(), Normal()]


def test_channel_ready_of_the_peer_may_come_early(pair: Pair) -> None:
    """checklist 12"""
    fund(pair)
    pair.bob.do(FundingConfirmed(BlockHeight(101), scid(101, 1, 0), 3))
    pair.deliver(pair.bob)
    assert phases(pair) == [AwaitingLockIn(received=True), AwaitingLockIn(sent=True)]
    pair.confirm()
    pair.quiet()
    assert phases(pair) == [Normal(), Normal()]


def test_channel_ready_is_said_again_while_both_numbers_are_1_and_no_longer(pair: Pair) -> None:
    """checklist 28"""
    open_channel(pair)
    pair.disconnect()
    pair.connect()
    pair.deliver(pair.alice)
    assert len(waiting(pair.bob, ChannelReady)) == 1
    pair.quiet()
    pay(pair, pair.alice)
    pair.disconnect()
    pair.connect()
    pair.deliver(pair.alice)
    assert waiting(pair.bob, ChannelReady) == []


def test_a_channel_that_closes_before_its_depth_does_not_say_that_it_is_ready(pair: Pair) -> None:
    fund(pair, fresh=False)
    pair.connect()
    pair.quiet()
    pair.alice.do(CloseWanted())
    pair.disconnect()
    pair.connect()
    pair.deliver(pair.bob)
    assert pair.alice.state is not None
    assert isinstance(pair.alice.state.committed.phase, ShuttingDown)
    assert waiting(pair.alice, ChannelReady) == []


# Aliases.


def test_both_sides_learn_the_alias_of_the_other(pair: Pair) -> None:
    """checklist 12"""
    open_channel(pair)
    assert (info(pair.alice).alias_local, info(pair.alice).alias_remote) == (ALICES_ALIAS, BOBS_ALIAS)
    assert (info(pair.bob).alias_local, info(pair.bob).alias_remote) == (BOBS_ALIAS, ALICES_ALIAS)
    assert info(pair.alice).alias_local != info(pair.alice).short_channel_id


def test_an_alias_outlives_a_crash(pair: Pair) -> None:
    """checklist 12: it is remembered for ever."""
    open_channel(pair)
    for end in pair.ends:
        end.database.write([], now=True)
        end.crash()
    assert (info(pair.alice).alias_local, info(pair.alice).alias_remote) == (ALICES_ALIAS, BOBS_ALIAS)


def test_channel_ready_may_come_again_with_another_alias(pair: Pair) -> None:
    """checklist 12: the newest serves route hints, the others are kept, and there is an end to it."""
    open_channel(pair)
    first, second = scid(6_000_000, 1, 1), scid(6_000_000, 2, 1)
    pair.alice.do(ready(pair.alice, first), ready(pair.alice, second), ready(pair.alice, first))
    assert pair.alice.state is not None
    assert pair.alice.state.committed.aliases_remote == (BOBS_ALIAS, second, first)
    assert info(pair.alice).alias_remote == first
    assert not pair.alice.drops
    for n in range(100):
        pair.alice.do(ready(pair.alice, scid(7_000_000, n, 0)))
    aliases = pair.alice.state.committed.aliases_remote
    assert (len(aliases), aliases[-1]) == (lockin.KEPT_ALIASES, scid(7_000_000, 99, 0))


def test_channel_ready_without_an_alias_takes_none_away(pair: Pair) -> None:
    open_channel(pair)
    pair.alice.do(ready(pair.alice, None))
    assert info(pair.alice).alias_remote == BOBS_ALIAS


def test_channel_ready_with_another_point_breaks_the_rule(pair: Pair) -> None:
    """checklist 12"""
    open_channel(pair)
    pair.alice.do(ready(pair.alice, scid(6_000_000, 1, 1), OTHER_POINT))
    assert "another point" in pair.alice.drops[0].reason
    assert info(pair.alice).alias_remote == BOBS_ALIAS


@pytest.mark.parametrize("kind", [ChannelType.ANCHORS, ChannelType.ANCHORS_ALIAS])
def test_others_are_told_whether_the_real_id_may_be_used(pair: Pair, kind: ChannelType) -> None:
    """checklist 12: with type bit 46 it takes no incoming HTLC and stands in no invoice."""
    open_channel(pair, kind=kind)
    for end in pair.ends:
        assert info(end).scid_alias_only is kind.scid_alias
        assert info(end).channel_type == kind.bits
        assert info(end).short_channel_id == scid(101, 1, 0)


def test_gossip_finds_what_an_announcement_is_made_of(pair: Pair) -> None:
    asyncio.run(open_both(pair, announce=True))
    for end in pair.ends:
        assert end.state is not None
        params = end.state.committed.params
        shown = info(end)
        assert shown.announce
        assert shown.handle == params.handle
        assert shown.local_funding_pubkey == info(pair.other(end)).remote_funding_pubkey
        assert shown.local_funding_pubkey == params.holder_keys.funding_pubkey


# Before the funding is confirmed.


@pytest.mark.parametrize("kind", [ChannelType.ANCHORS_ZEROCONF, ChannelType.ANCHORS_ALIAS_ZEROCONF])
def test_a_zeroconf_channel_is_used_at_once_and_the_block_fixes_its_id(pair: Pair, kind: ChannelType) -> None:
    """checklist 13"""
    fund(pair, kind=kind)
    pair.quiet()
    assert phases(pair) == [Normal(), Normal()]
    assert [info(end).short_channel_id for end in pair.ends] == [None, None]
    assert info(pair.alice).alias_remote == BOBS_ALIAS
    pay(pair, pair.alice)
    assert len(pair.bob.said.received) == 1
    pair.confirm(depth=1)
    pair.quiet()
    assert [info(end).short_channel_id for end in pair.ends] == [scid(101, 1, 0)] * 2
    assert "confirmed and both sides are ready" in info(pair.bob).why


def test_a_person_sees_what_a_zeroconf_channel_rests_on(pair: Pair) -> None:
    """checklist 13: it hurts nobody but us who trusted, and that is said."""
    fund(pair, kind=ChannelType.ANCHORS_ZEROCONF)
    pair.quiet()
    assert "the peer trusts us" in info(pair.alice).why
    assert "all that we received in this channel is lost" in info(pair.bob).why
    assert info(pair.bob).zeroconf


def test_without_consent_nothing_is_paid_before_the_funding_is_confirmed(pair: Pair) -> None:
    """checklist 13"""
    fund(pair)
    pair.quiet()
    assert phases(pair) == [AwaitingLockIn(), AwaitingLockIn()]
    pay(pair, pair.alice)
    assert [refused.sentence for refused in pair.alice.said.refused] == ["the channel is not open yet"]
    assert not info(pair.alice).zeroconf


def test_a_zeroconf_channel_that_lost_its_connection_says_it_after_the_next(pair: Pair) -> None:
    fund(pair, kind=ChannelType.ANCHORS_ZEROCONF, fresh=False)
    for end in pair.ends:
        end.crash()
    pair.connect()
    pair.quiet()
    assert phases(pair) == [Normal(), Normal()]


def test_nobody_elses_payment_rests_on_our_trust(pair: Pair) -> None:
    """checklist 13: a forward into a channel that the peer can take back could end nowhere."""
    fund(pair, kind=ChannelType.ANCHORS_ZEROCONF, push=3_000_000_000)
    pair.quiet()
    forward = OfferWant(Msat(1_000_000), bytes(32), 200, bytes(1366), forward_origin(b"\x0f" * 32, 7))
    pair.bob.do(Offer(forward))
    assert "only our own payments" in pair.bob.said.refused[0].sentence
    pay(pair, pair.bob)
    assert len(pair.alice.said.received) == 1
    pair.confirm(depth=1)
    pair.bob.do(Offer(forward))
    assert len(pair.bob.said.refused) == 1


# The block leaves the chain.


def reorganise(pair: Pair) -> None:
    for end in pair.ends:
        end.do(FundingReorganised())


def test_a_funding_that_left_the_chain_comes_back_with_another_id(pair: Pair) -> None:
    """checklist 51: until then nothing new is offered, and no id is told."""
    open_channel(pair)
    reorganise(pair)
    assert info(pair.alice).short_channel_id is None
    assert "left the chain" in info(pair.alice).why
    assert (info(pair.alice).spendable_msat, info(pair.alice).receivable_msat) == (0, 0)
    pay(pair, pair.alice)
    assert "left the chain" in pair.alice.said.refused[0].sentence
    for end in pair.ends:
        end.do(FundingConfirmed(BlockHeight(105), scid(105, 7, 0), 1))
    pair.quiet()
    assert info(pair.alice).short_channel_id == scid(105, 7, 0)
    assert "confirmed" in info(pair.alice).why
    pay(pair, pair.alice)
    assert len(pair.bob.said.received) == 1


def test_a_funding_that_left_the_chain_before_the_depth_waits_anew(pair: Pair) -> None:
    """checklist 51"""
    fund(pair)
    pair.confirm(depth=2)
    reorganise(pair)
    assert info(pair.alice).funding_confirmations == 0
    for end in pair.ends:
        end.do(FundingConfirmed(BlockHeight(104), scid(104, 1, 0), 1))
    assert not any(waiting(end, ChannelReady) for end in pair.ends)
    for end in pair.ends:
        end.do(FundingConfirmed(BlockHeight(104), scid(104, 1, 0), 3))
    pair.quiet()
    assert phases(pair) == [Normal(), Normal()]
    assert info(pair.bob).short_channel_id == scid(104, 1, 0)


def test_a_zeroconf_channel_goes_on_when_the_block_leaves_the_chain(pair: Pair) -> None:
    open_channel(pair, kind=ChannelType.ANCHORS_ZEROCONF)
    reorganise(pair)
    pay(pair, pair.alice)
    assert len(pair.bob.said.received) == 1


# The funding never comes.


def at(end: End, height: int) -> None:
    end.env = replace(end.env, height=BlockHeight(height))
    end.do(FundingMissing())


def test_the_fundee_forgets_a_funding_that_never_came(pair: Pair) -> None:
    """checklist 10: after 2016 blocks, and the peer is told."""
    fund(pair)
    at(pair.bob, OPENED + lockin.FORGET_AFTER - 1)
    assert phases(pair)[1] == AwaitingLockIn()
    at(pair.bob, OPENED + lockin.FORGET_AFTER)
    assert phases(pair)[1] == Closed(CloseKind.NEVER_FUNDED, b"")
    assert len(waiting(pair.bob, Error)) == 1
    assert info(pair.bob).state == "CLOSED"
    assert "2016 blocks" in info(pair.bob).why
    assert not pair.bob.published


def test_the_opener_never_forgets_its_own_coins(pair: Pair) -> None:
    """checklist 10"""
    fund(pair)
    at(pair.alice, OPENED + 10 * lockin.FORGET_AFTER)
    assert phases(pair)[0] == AwaitingLockIn()


def test_a_funding_that_is_in_the_chain_is_not_forgotten(pair: Pair) -> None:
    fund(pair)
    pair.confirm(depth=1)
    at(pair.bob, OPENED + lockin.FORGET_AFTER)
    assert phases(pair)[1] == AwaitingLockIn()


def test_a_zeroconf_channel_in_which_we_were_paid_is_not_forgotten(pair: Pair) -> None:
    """checklist 13: what we hold there may still come true."""
    fund(pair, kind=ChannelType.ANCHORS_ZEROCONF)
    pair.quiet()
    pay(pair, pair.alice)
    at(pair.bob, OPENED + lockin.FORGET_AFTER)
    assert phases(pair)[1] == Normal()


def test_a_channel_whose_age_is_not_known_is_given_the_whole_time(pair: Pair) -> None:
    fund(pair)
    assert pair.bob.state is not None
    pair.bob.state.committed.opened_height = None
    at(pair.bob, 5_000)
    at(pair.bob, 5_000 + lockin.FORGET_AFTER - 1)
    assert phases(pair)[1] == AwaitingLockIn()
    at(pair.bob, 5_000 + lockin.FORGET_AFTER)
    assert phases(pair)[1] == Closed(CloseKind.NEVER_FUNDED, b"")


def with_phase(end: End, change: Callable[[], object]) -> State:
    assert end.state is not None
    committed = copy(end.state.committed)
    committed.phase = change()  # type: ignore[assignment]
    return State(committed, end.state.htlcs, end.state.volatile)


def test_a_close_of_what_was_never_funded_is_forgotten_too(pair: Pair) -> None:
    """checklist 10: its commitment can never be mined, and would be sent again for ever."""
    fund(pair)
    pair.bob.state = with_phase(pair.bob, lambda: Closing(CloseKind.OURS, b"\x01"))
    at(pair.bob, OPENED + lockin.FORGET_AFTER)
    assert phases(pair)[1] == Closed(CloseKind.NEVER_FUNDED, b"")
