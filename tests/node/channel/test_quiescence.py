"""A channel that comes to rest (BOLT 2, "Channel Quiescence"; checklist 24)."""

from pathlib import Path

import pytest

from node.channel.events import CloseWanted, Fail, FeerateMoved, FromPeer, Fulfil, Offer, QuiesceWanted
from node.channel.quiescence import PATIENCE
from node.channel.state import Asked, Flowing, OfferWant, Offline, Online, Quiescent, SaidStfu, WantsQuiet
from protocol.amounts import FeeratePerKw, Msat
from protocol.bolt4 import failure as failures
from protocol.errors import CommandRefused
from protocol.wire.bolt2_close import Shutdown
from protocol.wire.bolt2_quiescence import Stfu
from protocol.wire.bolt2_update import CommitmentSigned, UpdateAddHtlc, UpdateFee
from protocol.wire.message import Message, decode
from tests.node.channel.pair import End, Pair, open_channel
from tests.node.channel.test_dance import balances, mirrored, offer

HASH = b"\x09" * 32
REASON = failures.encode(failures.TemporaryNodeFailure())


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    open_channel(made, push=3_000_000_000)
    return made


def stfu(end: End, initiator: int) -> Stfu:
    return Stfu(end.state.committed.params.channel_id, initiator)


def waiting(end: End) -> list[Message]:
    return [message for frame in end.out.waiting if isinstance(message := decode(frame), Message)]


def lead(pair: Pair) -> tuple[bool, bool]:
    flows = [end.state.volatile.flow for end in pair.ends]
    assert all(isinstance(flow, Quiescent) for flow in flows), flows
    one, two = (flow.we_lead for flow in flows if isinstance(flow, Quiescent))
    return one, two


@pytest.mark.parametrize("who", ["alice", "bob"])
def test_who_asks_for_rest_gets_it_and_leads(pair: Pair, who: str) -> None:
    """checklist 24"""
    end: End = getattr(pair, who)
    end.do(QuiesceWanted())
    assert waiting(end) == [stfu(end, 1)]
    pair.deliver(end)
    assert waiting(pair.other(end)) == [stfu(end, 0)]
    pair.quiet()
    assert lead(pair) == (who == "alice", who == "bob")


def test_when_both_ask_at_once_the_opener_leads(pair: Pair) -> None:
    """checklist 24"""
    for end in pair.ends:
        end.do(QuiesceWanted())
    assert waiting(pair.bob) == [stfu(pair.bob, 1)]
    pair.quiet()
    assert lead(pair) == (True, False)


def test_stfu_waits_until_none_of_our_updates_is_pending(pair: Pair) -> None:
    """checklist 24"""
    offer(pair, pair.alice, 50_000_000)
    pair.alice.do(QuiesceWanted())
    pair.alice.answer()
    assert not any(isinstance(message, Stfu) for message in waiting(pair.alice))
    assert isinstance(pair.alice.state.volatile.flow, WantsQuiet)
    pair.quiet()
    assert lead(pair) == (True, False)
    row = pair.alice.state.htlcs[True, 0]
    assert row.local_from is not None
    mirrored(pair)


def test_an_answer_waits_until_none_of_our_updates_is_pending(pair: Pair) -> None:
    """checklist 24"""
    offer(pair, pair.bob, 50_000_000)
    pair.bob.answer()
    pair.bob.do(FromPeer(stfu(pair.bob, 1)))
    assert isinstance(pair.bob.state.volatile.flow, Asked)
    assert not any(isinstance(message, Stfu) for message in waiting(pair.bob))
    pair.alice.do(QuiesceWanted())  # she had said so
    pair.alice.out.waiting.clear()
    pair.quiet()
    assert isinstance(pair.bob.state.volatile.flow, Quiescent)


def test_no_update_leaves_after_stfu(pair: Pair) -> None:
    """checklist 24"""
    pair.alice.do(QuiesceWanted())
    assert isinstance(pair.alice.state.volatile.flow, SaidStfu)
    pair.alice.do(
        FeerateMoved(FeeratePerKw(3000)),
        Offer(OfferWant(Msat(50_000_000), HASH, 200, bytes(1366), "payment/1")),
    )
    assert not pair.alice.asks
    pair.quiet()
    assert pair.alice.said.refused  # it would wait for nobody knows how long
    pair.alice.do(Offer(OfferWant(Msat(50_000_000), HASH, 200, bytes(1366), "payment/2")))
    assert len(pair.alice.said.refused) == 2
    assert not pair.alice.asks


def test_the_peer_s_updates_are_committed_while_our_stfu_waits_for_its_own(pair: Pair) -> None:
    """commitment_signed and revoke_and_ack are no updates."""
    pair.alice.do(QuiesceWanted())
    offer(pair, pair.bob, 50_000_000)
    pair.quiet()
    assert lead(pair) == (True, False)
    assert pair.alice.said.received
    mirrored(pair)


def test_no_shutdown_leaves_a_channel_at_rest(pair: Pair) -> None:
    """checklist 24"""
    pair.alice.do(QuiesceWanted())
    pair.quiet()
    pair.alice.do(CloseWanted())
    assert not any(isinstance(message, Shutdown) for message in waiting(pair.alice))
    pair.disconnect()
    pair.connect()
    pair.quiet()
    assert pair.alice.published


def accused(end: End, words: str) -> None:
    assert isinstance(end.state.volatile.link, Offline)
    assert words in end.drops[-1].reason


@pytest.mark.parametrize("update", ["add", "fee"])
def test_an_update_after_stfu_costs_the_connection(pair: Pair, update: str) -> None:
    """checklist 24"""
    pair.alice.do(QuiesceWanted())
    pair.quiet()
    channel_id = pair.alice.state.committed.params.channel_id
    message = (
        UpdateAddHtlc(channel_id, 0, Msat(1000), HASH, 200, bytes(1366))
        if update == "add"
        else UpdateFee(channel_id, FeeratePerKw(2000))
    )
    pair.bob.do(FromPeer(message))
    accused(pair.bob, "after stfu")


def test_stfu_with_a_pending_update_costs_the_connection(pair: Pair) -> None:
    """checklist 24"""
    channel_id = pair.alice.state.committed.params.channel_id
    pair.bob.do(FromPeer(UpdateAddHtlc(channel_id, 0, Msat(1000), HASH, 200, bytes(1366))))
    pair.bob.do(FromPeer(stfu(pair.alice, 1)))
    accused(pair.bob, "pending")


def test_stfu_twice_costs_the_connection(pair: Pair) -> None:
    """checklist 24"""
    pair.alice.do(QuiesceWanted())
    pair.quiet()
    pair.bob.do(FromPeer(stfu(pair.alice, 1)))
    accused(pair.bob, "twice")


def test_an_answer_that_nobody_asked_for_costs_the_connection(pair: Pair) -> None:
    """checklist 24"""
    pair.bob.do(FromPeer(stfu(pair.alice, 0)))
    accused(pair.bob, "never sent")


def test_stfu_is_a_flag(pair: Pair) -> None:
    pair.bob.do(FromPeer(stfu(pair.alice, 2)))
    accused(pair.bob, "neither")


def test_without_the_feature_stfu_costs_the_connection_and_is_never_sent(pair: Pair) -> None:
    """checklist 24"""
    pair.can_quiesce = False
    pair.disconnect()
    pair.connect()
    pair.quiet()
    with pytest.raises(CommandRefused):
        pair.alice.do(QuiesceWanted())
    pair.bob.do(FromPeer(stfu(pair.alice, 1)))
    accused(pair.bob, "not negotiated")


def test_a_rest_while_payments_wait_ends_after_a_minute(pair: Pair) -> None:
    """checklist 24"""
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    pair.alice.do(QuiesceWanted())
    pair.quiet()
    pair.bob.do(Fulfil(0))
    pair.quiet()
    assert not pair.alice.said.fulfilled
    (later,) = pair.bob.later
    assert later.seconds == PATIENCE == 60
    pair.bob.do(later.event)
    accused(pair.bob, "rested")
    pair.disconnect()
    pair.connect()
    pair.quiet()
    assert pair.alice.said.fulfilled
    assert balances(pair) == (6_950_000_000, 3_050_000_000)


def test_a_rest_without_payments_may_last(pair: Pair) -> None:
    """checklist 24"""
    pair.alice.do(QuiesceWanted())
    pair.quiet()
    pair.bob.do(pair.bob.later[0].event)
    assert not pair.bob.drops


def test_the_minute_of_an_older_connection_says_nothing(pair: Pair) -> None:
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    pair.alice.do(QuiesceWanted())
    pair.quiet()
    pair.disconnect()
    pair.connect()
    pair.quiet()
    assert all(isinstance(end.state.volatile.flow, Flowing) for end in pair.ends)
    pair.bob.do(pair.bob.later[0].event)
    assert isinstance(pair.bob.state.volatile.link, Online)


def test_a_failure_waits_for_the_end_of_the_rest(pair: Pair) -> None:
    """checklist 24"""
    offer(pair, pair.alice, 50_000_000)
    pair.quiet()
    pair.alice.do(QuiesceWanted())
    pair.quiet()
    pair.bob.do(Fail(0, REASON))
    pair.quiet()
    assert not any(isinstance(message, CommitmentSigned) for message in waiting(pair.bob))
    pair.disconnect()
    pair.connect()
    pair.quiet()
    assert pair.alice.said.failed
