"""Where a peer ends the channel, or tries to: errors, numbers that do not fit, proofs, and the close (BOLT 1, "error";
BOLT 2, "Message Retransmission", "Channel Close")."""

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from node.channel.events import (
    CloseWanted,
    FeerateMoved,
    ForceCloseWanted,
    Fulfil,
    FundingConfirmed,
    Tick,
)
from node.channel.state import CloseKind, Closing, Lost, Normal, ShuttingDown, State
from protocol import curve
from protocol.amounts import BlockHeight, FeeratePerKw, Sat, scid
from protocol.bitcoin.script import p2wpkh
from protocol.errors import CommandRefused
from protocol.secret import Secret
from protocol.wire.bolt1 import Error
from protocol.wire.bolt2_close import ClosingSigned, Shutdown
from protocol.wire.bolt2_open import ChannelReady
from protocol.wire.bolt2_reestablish import ChannelReestablish
from protocol.wire.bolt2_update import (
    CommitmentSigned,
    RevokeAndAck,
    UpdateAddHtlc,
)
from protocol.wire.message import decode
from tests.node.channel.pair import End, Pair, open_both, open_channel
from tests.node.channel.test_dance import offer
from tests.node.channel.test_peer_misbehaves import JUNK, POINT, Strict, add, channel_id, hear, offend

CONFIRMED = FundingConfirmed(BlockHeight(101), scid(101, 1, 0), 3)


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    """An HTLC of alice (id 0) and one of bob (id 0) are irrevocably committed."""
    made = Pair(tmp_path)
    open_channel(made, push=3_000_000_000, policy=Strict())
    offer(made, made.alice, 50_000_000)
    offer(made, made.bob, 20_000_000)
    made.quiet()
    return made


# The end of the channel, by the word of the BOLT.


def is_force_closed(end: End) -> None:
    while end.answer():
        pass
    phase = end.state.committed.phase
    assert isinstance(phase, Closing)
    assert phase.kind is CloseKind.OURS
    assert end.published == [phase.tx]


def test_an_error_of_the_peer_publishes_our_commitment(pair: Pair) -> None:
    """checklist 6"""
    hear(pair.alice, Error(channel_id(pair), b"I am done"))
    is_force_closed(pair.alice)
    assert "I am done" in pair.alice.state.committed.why


def test_an_error_is_heard_while_the_signer_has_our_question(pair: Pair) -> None:
    """DESIGN, The shapes: a force close pre-empts the question. checklist 6"""
    offer(pair, pair.alice, 1_000_000)
    assert pair.alice.state.committed.question is not None
    hear(pair.alice, Error(channel_id(pair), b"I am done"))
    assert isinstance(pair.alice.state.committed.phase, Closing)
    is_force_closed(pair.alice)


def test_a_signer_that_cannot_answer_is_not_asked_in_a_circle(pair: Pair) -> None:
    hear(pair.alice, Error(channel_id(pair), b"I am done"))
    pair.alice.answer(not_now=True)
    assert not pair.alice.asks
    pair.alice.signer_is_back()
    is_force_closed(pair.alice)


def test_a_secret_outside_the_chain_fails_the_channel(tmp_path: Path) -> None:
    """BOLT 2: a revocation that the secrets before do not follow from would leave us nothing to punish with.

    checklist 23
    """
    pair = Pair(tmp_path)
    alice = pair.alice
    asyncio.run(open_both(pair, push=3_000_000_000))
    pair.connect()
    pair.quiet()
    alice.do(CONFIRMED)
    forged = b"\x09" * 32
    hear(alice, ChannelReady(channel_id(pair), curve.point_of(forged)))
    offer(pair, alice, 1_000_000)
    alice.answer()
    handle = pair.bob.state.committed.params.handle
    first = pair.bob.signer._channels[handle].secret(0)
    hear(alice, RevokeAndAck(channel_id(pair), Secret(first), POINT))
    offer(pair, alice, 1_000_000)
    alice.answer()
    hear(alice, RevokeAndAck(channel_id(pair), Secret(forged), POINT))
    assert not alice.drops
    offer(pair, alice, 1_000_000)
    is_force_closed(alice)
    assert isinstance(decode(alice.out.waiting[-1]), Error)


def reconnected(pair: Pair, **changed: object) -> None:
    """Bob's channel_reestablish reaches alice with other values."""
    pair.disconnect()
    pair.connect()
    message = decode(pair.bob.out.waiting.popleft())
    assert isinstance(message, ChannelReestablish)
    hear(pair.alice, replace(message, **changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"next_commitment_number": 0},
        {"next_commitment_number": 1, "next_revocation_number": 0},
        {"next_commitment_number": 90},
        {"next_revocation_number": 0},
    ],
    ids=["asks us to", "lost its data", "unknown commitment", "old revocation"],
)
def test_numbers_that_fit_no_state_end_the_channel(pair: Pair, changed: dict[str, int]) -> None:
    """BOLT 2, Message Retransmission: a peer that lost its data gets its money by our closing. checklist 27"""
    settle(pair)
    reconnected(pair, **changed)
    is_force_closed(pair.alice)
    assert any(isinstance(decode(frame), Error) for frame in pair.alice.out.waiting)


def test_a_commitment_that_the_peer_has_revoked_is_not_said_again(pair: Pair) -> None:
    """checklist 27: no lost connection leaves that behind, so one of us has lost its data."""
    settle(pair)
    assert not pair.alice.state.committed.awaits_revocation
    reconnected(pair, next_commitment_number=pair.alice.state.committed.remote_number)
    is_force_closed(pair.alice)


def settle(pair: Pair) -> None:
    for end in pair.ends:
        end.do(Fulfil(0))
    pair.quiet()


@pytest.mark.parametrize("ahead", [1, 2, 5, 1 << 40, (1 << 64) - 1])
def test_a_peer_that_says_we_are_behind_must_prove_it(pair: Pair, ahead: int) -> None:
    """Else any peer could forbid us to close, and take our HTLCs when they expire. checklist 30"""
    settle(pair)
    number = min(pair.alice.state.committed.local_number + ahead, (1 << 64) - 1)
    reconnected(pair, next_revocation_number=number, your_last_per_commitment_secret=Secret(b"\x05" * 32))
    is_force_closed(pair.alice)


def test_a_closed_channel_is_not_reopened_by_such_a_claim(pair: Pair) -> None:
    """checklist 30"""
    hear(pair.alice, Error(channel_id(pair), b"I am done"))
    is_force_closed(pair.alice)
    phase = pair.alice.state.committed.phase
    reconnected(pair, next_revocation_number=90)
    assert pair.alice.state.committed.phase == phase


def test_a_node_that_really_is_behind_never_publishes(pair: Pair) -> None:
    """An old copy of our database: the peer proves it with a secret, and we ask it to close. checklist 30"""
    put_back(pair, pair.alice.state)
    pair.deliver(pair.bob)
    while pair.alice.answer():
        pass
    assert isinstance(pair.alice.state.committed.phase, Lost)
    assert any(isinstance(decode(frame), Error) for frame in pair.alice.out.waiting)
    with pytest.raises(CommandRefused):
        pair.alice.do(ForceCloseWanted("please"))
    hear(pair.alice, Error(channel_id(pair), b"as you wish"))
    assert isinstance(pair.alice.state.committed.phase, Lost)
    assert not pair.alice.published


def put_back(pair: Pair, old: State) -> None:
    """Alice's node runs on an old copy of its database, and the line to bob is up."""
    for _ in range(3):
        offer(pair, pair.alice, 1_000_000)
        pair.quiet()
        pair.bob.do(Fulfil(pair.bob.said.received[-1].htlc_id))
        pair.quiet()
    pair.disconnect()
    pair.alice.state = old
    pair.alice.do(Tick())
    pair.alice.asks.clear()
    pair.disconnect()
    pair.connect()


@pytest.mark.parametrize("together", [True, False])
def test_an_error_right_behind_the_proof_publishes_nothing(pair: Pair, together: bool) -> None:
    """checklist 30: an honest peer shows the proof and fails the channel in one breath, while our signer still looks at
    the secret. A commitment of ours, sent for that error, would be a revoked one: it takes everything."""
    put_back(pair, pair.alice.state)
    error = Error(channel_id(pair), b"the peer expects commitment 7, we are at 24")
    proof = decode(pair.bob.out.waiting.popleft())
    assert isinstance(proof, ChannelReestablish)
    if together:
        hear(pair.alice, proof, error, error)
    else:
        hear(pair.alice, proof)
        hear(pair.alice, error)
        hear(pair.alice, error)
    pair.alice.do(ForceCloseWanted("an HTLC is due"))
    assert len(pair.alice.state.volatile.inbox) == 1, "it waits, and only once"
    while pair.alice.answer():
        pass
    assert isinstance(pair.alice.state.committed.phase, Lost)
    assert not pair.alice.published


def test_an_error_behind_a_false_proof_publishes(pair: Pair) -> None:
    """checklist 6, 30: it only waits for the signer's word."""
    settle(pair)
    number = pair.alice.state.committed.local_number + 1
    reconnected(pair, next_revocation_number=number, your_last_per_commitment_secret=Secret(b"\x05" * 32))
    hear(pair.alice, Error(channel_id(pair), b"I am done"))
    assert not isinstance(pair.alice.state.committed.phase, Closing)
    is_force_closed(pair.alice)


def test_an_error_behind_numbers_that_wait_for_our_signer_publishes_nothing_yet(pair: Pair) -> None:
    """checklist 30: an old copy may have an open question, which is asked first; the peer's numbers wait behind it."""
    offer(pair, pair.alice, 1_000_000)
    assert pair.alice.state.committed.question is not None
    pair.disconnect()
    pair.connect()
    pair.deliver(pair.bob)
    hear(pair.alice, Error(channel_id(pair), b"I am done"))
    pair.alice.do(ForceCloseWanted("an HTLC is due"))
    assert not isinstance(pair.alice.state.committed.phase, Closing)
    is_force_closed(pair.alice)


def test_the_proof_that_we_are_behind_outlives_a_crash(pair: Pair) -> None:
    """Else an HTLC whose time has come would publish what the peer can punish, before it is here to prove it again.

    checklist 30
    """
    old = pair.alice.state
    settle(pair)
    pair.disconnect()
    pair.alice.state = pair.alice.durable = old
    pair.connect()
    pair.deliver(pair.bob)
    while pair.alice.answer():
        pass
    assert isinstance(pair.alice.state.committed.phase, Lost)
    durable = pair.alice.durable
    assert durable is not None
    assert isinstance(durable.committed.phase, Lost)


# Closing.


@pytest.fixture
def clear(tmp_path: Path) -> Pair:
    made = Pair(tmp_path)
    open_channel(made, push=3_000_000_000)
    return made


def test_no_htlc_is_added_after_shutdown(clear: Pair) -> None:
    """checklist 53"""
    clear.bob.do(CloseWanted())
    clear.deliver(clear.bob)
    assert isinstance(clear.alice.state.committed.phase, ShuttingDown)
    while clear.alice.answer():
        pass
    hear(clear.alice, add(clear, 0))
    assert "after shutdown" in clear.alice.drops[0].reason
    clear.alice.drops.clear()
    closes(clear)


def closes(pair: Pair) -> None:
    pair.disconnect()
    pair.connect()
    pair.quiet()
    for end in pair.ends:
        assert not end.drops
        phase = end.state.committed.phase
        assert isinstance(phase, Closing)
        assert phase.kind is CloseKind.MUTUAL
    assert pair.alice.published == pair.bob.published


def until_proposed(pair: Pair) -> ClosingSigned:
    pair.alice.do(CloseWanted())
    for _ in range(20):
        if pair.alice.out.waiting:
            message = decode(pair.alice.out.waiting[-1])
            if isinstance(message, ClosingSigned):
                pair.alice.out.waiting.pop()
                return message
        if not (pair.alice.answer() or pair.bob.answer() or pair.deliver(pair.alice)):
            pair.deliver(pair.bob)
    raise AssertionError("no closing_signed came")


def test_a_close_with_a_bad_signature_is_not_taken(clear: Pair) -> None:
    """checklist 54"""
    proposed = until_proposed(clear)
    hear(clear.bob, ClosingSigned(proposed.channel_id, proposed.fee_satoshis, JUNK, proposed.tlvs))
    assert "closing transaction is wrong" in clear.bob.drops[0].reason
    assert not clear.bob.published
    clear.bob.drops.clear()
    closes(clear)


@pytest.mark.parametrize("fee", [7_000_001, 1 << 50])
def test_a_close_with_an_impossible_fee_is_not_taken(clear: Pair, fee: int) -> None:
    """checklist 54"""
    proposed = until_proposed(clear)
    hear(clear.bob, ClosingSigned(proposed.channel_id, Sat(fee), proposed.signature, proposed.tlvs))
    assert "cannot pay a closing fee" in clear.bob.drops[0].reason
    clear.bob.drops.clear()
    closes(clear)


def test_the_same_shutdown_with_another_script_is_not_taken(tmp_path: Path) -> None:
    """checklist 53"""
    pair = Pair(tmp_path)
    open_channel(pair, push=3_000_000_000)
    offer(pair, pair.alice, 1_000_000)
    pair.quiet()
    pair.bob.do(CloseWanted())
    pair.quiet()
    offend(pair, Shutdown(channel_id(pair), p2wpkh(POINT)), says="upfront")


def test_channel_ready_with_another_point_is_not_taken(clear: Pair) -> None:
    """BOLT 2, channel_ready: the second point is fixed; it comes again only after a reconnection. checklist 12"""
    offend(clear, ChannelReady(channel_id(clear), POINT), says="another point")


def test_channel_ready_is_kept_while_we_shut_down(tmp_path: Path) -> None:
    """Closed before its lock-in was known on both sides, a channel still takes what the peer had under way."""
    pair = Pair(tmp_path)
    asyncio.run(open_both(pair, push=3_000_000_000))
    pair.connect()
    pair.quiet()
    pair.alice.do(CONFIRMED)
    pair.deliver(pair.alice, 10)
    pair.bob.do(CONFIRMED)
    assert isinstance(pair.bob.state.committed.phase, Normal)
    offer(pair, pair.bob, 1_000_000)
    pair.bob.answer()
    pair.alice.do(CloseWanted())
    pair.deliver(pair.bob)  # channel_ready, in a turn of its own
    pair.quiet()
    assert not pair.alice.state.volatile.stalled
    (received,) = pair.alice.said.received
    pair.alice.do(Fulfil(received.htlc_id))
    pair.quiet()
    assert pair.alice.published == pair.bob.published
    assert pair.bob.said.fulfilled


def test_shutdown_never_comes_before_an_offer_that_is_with_the_signer(clear: Pair) -> None:
    """BOLT 2, Closing Initiation: no update_add_htlc after shutdown, also not one that is sent again. checklist 53"""
    offer(clear, clear.alice, 1_000_000)
    clear.alice.do(CloseWanted())
    assert not clear.alice.out.waiting
    clear.alice.answer()
    kinds = [type(decode(frame)) for frame in clear.alice.out.waiting]
    assert kinds == [UpdateAddHtlc, CommitmentSigned, Shutdown]
    clear.disconnect()
    clear.connect()
    clear.quiet()
    assert not clear.bob.drops
    clear.bob.do(Fulfil(0))
    clear.quiet()
    assert clear.alice.said.fulfilled
    assert clear.alice.published == clear.bob.published


def test_no_feerate_is_proposed_while_a_channel_closes(pair: Pair) -> None:
    """checklist 53"""
    pair.alice.do(CloseWanted(), FeerateMoved(FeeratePerKw(5000)))
    pair.quiet()
    assert len(pair.alice.state.committed.fees) == 1
    settle(pair)
    assert pair.alice.published == pair.bob.published
