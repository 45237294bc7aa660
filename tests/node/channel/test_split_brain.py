"""Split brain: the signer has saved and its node has not, at every such point of every dialogue, against a peer that
repeats, a peer that says something else, and a peer that never returns (issue 4; BOLT 2, "Message Retransmission").

Nobody loses money, and the channel goes on wherever the peer does.
"""

import asyncio
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from node.channel.events import CloseWanted, Disconnected, FeerateMoved, ForceCloseWanted, Tick
from node.channel.handover import running
from node.channel.state import AwaitingLockIn, CloseKind, Closing, Lost, Normal, ShuttingDown
from node.onchain.deadlines import OFFERED_GRACE, must_close
from protocol.amounts import BlockHeight, FeeratePerKw
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.params import commitment_number
from tests.node.channel.pair import End, Pair
from tests.node.channel.split_brain import Split, SplitEnd, newest_commitment, record, together, worth
from tests.node.channel.test_crash_copies import (
    DIALOGUES,
    FUNDING,
    PUSH,
    Plan,
    check,
    learn_of_close,
    lock_in,
    move,
    pay,
)
from tests.node.channel.test_dance import mirrored

SOAK = os.environ.get("LNP_HYPOTHESIS") == "soak"
EXPIRY = 200
"""Of the HTLCs of the dialogues."""
START = {"alice": 1000 * FUNDING - PUSH, "bob": PUSH}


def cut_and_come_back(pair: Pair) -> None:
    """The line breaks in the middle of a round, with HTLCs of both, and is there again."""
    pay(pair.alice, pair.bob, 50_000_000)
    pay(pair.bob, pair.alice, 30_000_000)
    for _ in range(7):
        move(pair, MATRIX["reestablish"])
    pair.disconnect()
    pair.connect()


def fee_alone(pair: Pair) -> None:
    pair.alice.do(FeerateMoved(FeeratePerKw(2500)))


def bob_closes(pair: Pair) -> None:
    pair.bob.do(CloseWanted())


MATRIX = {name: plan for name, plan in DIALOGUES.items() if name != "open"} | {
    "fee alone": Plan(fee_alone),
    "close by the other": Plan(bob_closes, closes=True),
    "reestablish": Plan(cut_and_come_back),
}
"""Those of the crash copies and a few more. At the open nothing runs between signer and node that could split: see the
last test."""
OTHERS: dict[str, Callable[[SplitEnd, SplitEnd], None]] = {
    "nothing": lambda _peer, _victim: None,
    "another HTLC": lambda peer, victim: pay(peer, victim, 7_000_000),
    "several": lambda peer, victim: pay(peer, victim, 1_000_000, 400_000, 2_000_000),
    "another fee": lambda peer, _victim: fee_of(peer, 3100),
    "an HTLC and a fee": lambda peer, victim: (pay(peer, victim, 7_000_000), fee_of(peer, 700))[0],
}
"""What the peer says in place of the updates that it had signed for and that were never acknowledged."""


def fee_of(peer: End, feerate: int) -> None:
    if peer.name == "alice":  # the opener alone may
        peer.do(FeerateMoved(FeeratePerKw(feerate)))


@contextmanager
def at(split: Split, what: str) -> Iterator[None]:
    try:
        yield
    except AssertionError as error:
        error.add_note(f"{split.name} dies in its save {split.place}; {what}")
        raise


_recorded: dict[str, list[Split]] = {}


@pytest.fixture
def splits(request: pytest.FixtureRequest, tmp_path: Path) -> list[Split]:
    """Of one dialogue, which is played once for all columns."""
    name = request.param
    if name not in _recorded:
        _recorded.clear()
        _recorded[name] = record(tmp_path, MATRIX[name])
    return _recorded[name]


every_dialogue = pytest.mark.parametrize(
    ("name", "splits"), [(name, name) for name in MATRIX], indirect=["splits"], ids=list(MATRIX)
)


def comes_to_rest(pair: Pair, plan: Plan) -> None:
    for _ in range(20):
        pair.quiet()
        if isinstance(pair.alice.state.committed.phase, AwaitingLockIn):
            lock_in(pair)
            pair.quiet()
        if not plan.settle(pair):
            return
    raise AssertionError("the two ends never come to rest")


# 1. The peer repeats.


@every_dialogue
def test_a_peer_that_repeats(name: str, splits: list[Split]) -> None:
    """checklist 27, 29: as if nothing had happened, and the next payment passes."""
    plan = MATRIX[name]
    assert len(splits) > 2
    for split in splits:
        for asked in (True, False):
            with at(split, f"the signer {'was' if asked else 'was not'} asked"):
                victim, peer = split.dead(asked=asked), split.peer.open()
                peer.do(Disconnected())
                pair = together(victim, peer, plan)
                pair.connect()
                comes_to_rest(pair, plan)
                check(pair, plan)
                goes_on(pair)


# 2. The peer says something else.


@every_dialogue
def test_a_peer_that_says_something_else(name: str, splits: list[Split]) -> None:
    """checklist 26, 27: it signs other updates for the same number, or none; the victim's signer knows two versions."""
    plan = MATRIX[name]
    tried = 0
    for split in splits:
        for asked in (True, False):
            for what, say in OTHERS.items():
                victim = split.dead(asked=asked)
                peer = split.other_peer(victim)
                if peer is None:
                    break
                if not SOAK and not asked and what not in ("nothing", "another HTLC"):
                    continue
                tried += 1
                with at(split, f"the signer {'was' if asked else 'was not'} asked; the peer says {what}"):
                    pair = together(victim, peer, plan)
                    pair.connect()
                    say(peer, victim)
                    comes_to_rest(pair, plan)
                    nothing_is_lost(pair, plan, victim)
                    goes_on(pair)
    # Where nothing but closing messages is signed, there is nothing in whose place something else could come.
    assert tried or name in ("close", "simple close", "close by the other")


def nothing_is_lost(pair: Pair, plan: Plan, victim: SplitEnd) -> None:
    for end in pair.ends:
        assert not end.drops, end.drops[0].reason
        assert not end.state.volatile.stalled, end.state.volatile.stalled
    phases = [end.state.committed.phase for end in pair.ends]
    if plan.closes and not all(isinstance(phase, Normal) for phase in phases):
        learn_of_close(pair)
        assert all(
            isinstance(end.state.committed.phase, Closing)
            and end.state.committed.phase.kind is CloseKind.MUTUAL
            for end in pair.ends
        )
    else:
        assert all(isinstance(phase, Normal) for phase in phases)
    assert not any(end.state.htlcs for end in pair.ends)
    mirrored(pair)
    assert sum(end.state.committed.settled_local for end in pair.ends) == 1000 * FUNDING
    assert victim.state.committed.settled_local >= ledger(victim)


def ledger(end: SplitEnd) -> int:
    """What payments were told: less what was paid, plus what was received; each offer ended in one way."""
    rows = end.database.read("SELECT offered, origin, payment_hash, amount_msat FROM htlcs")
    paid = {event.origin for event in end.said.fulfilled}
    failed = {event.origin for event in end.said.failed + end.said.refused}
    assert not paid & failed
    credited = {event.payment_hash for event in end.said.resolved if event.fulfilled}
    total = START[end.name]
    for offered, origin, payment_hash, amount in rows:
        if offered and origin in paid:
            total -= amount
        if not offered and payment_hash in credited:
            total += amount
    return total


def goes_on(pair: Pair) -> None:
    """A payment each way, and the money is where it belongs."""
    if not all(isinstance(end.state.committed.phase, Normal) for end in pair.ends):
        return
    before = [end.state.committed.settled_local for end in pair.ends]
    known = [len(end.said.fulfilled) for end in pair.ends]
    pay(pair.alice, pair.bob, 3_000_000)
    pay(pair.bob, pair.alice, 1_000_000)
    comes_to_rest(pair, Plan(lambda _: None))
    assert [len(end.said.fulfilled) for end in pair.ends] == [count + 1 for count in known]
    after = [end.state.committed.settled_local for end in pair.ends]
    assert after == [before[0] - 2_000_000, before[1] + 2_000_000]
    assert not any(end.state.htlcs or end.drops for end in pair.ends)
    mirrored(pair)


# 3. The peer never returns.


@every_dialogue
def test_a_peer_that_never_returns(name: str, splits: list[Split]) -> None:
    """checklist 29, 43: it waits while nothing is at stake, closes when an HTLC is, and publishes what the signer calls
    newest, which holds at least what is ours by the node's books. (On a chain: `test_split_brain_chain`.)"""
    for split in splits:
        for asked in (True, False):
            with at(split, f"the signer {'was' if asked else 'was not'} asked"):
                victim = split.dead(asked=asked)
                alone(victim)
                phase = victim.state.committed.phase
                assert not isinstance(phase, Lost)
                if isinstance(phase, Closing):
                    continue  # the close that both had signed is out
                waits_or_must_close(victim)
                floor = worth(victim.state)
                assert floor >= ledger(victim)
                victim.do(ForceCloseWanted("the peer never returned"))
                alone(victim)
                number, ours = newest_commitment(victim)
                assert ours >= floor
                tx = Transaction.parse(victim.published[-1])
                (channel,) = victim.signer._channels.values()
                assert channel.params is not None
                assert commitment_number(channel.params, tx.inputs[0].sequence, tx.locktime) == number
                assert channel.state is not None and channel.state.frozen == "force_close"


def alone(end: End) -> None:
    end.do(Tick())
    while end.answer():
        pass
    assert not end.state.volatile.stalled, end.state.volatile.stalled
    assert not end.drops


def waits_or_must_close(end: SplitEnd) -> None:
    state = end.state

    def why(height: int) -> str | None:
        return must_close(running(state.committed, state.htlcs, state.volatile), BlockHeight(height))

    assert not end.published
    assert isinstance(state.committed.phase, Normal | ShuttingDown)
    assert why(end.env.height) is None
    late = why(EXPIRY + OFFERED_GRACE)
    # What we offer comes back by the chain alone; what we were paid must be taken before it expires.
    at_stake = any(row.offered or row.preimage is not None for row in state.htlcs.values())
    stands = bool(running(state.committed, state.htlcs, state.volatile))
    assert (late is not None) == (at_stake and stands), late
    if not at_stake:
        assert why(1_000_000) is None


def test_at_the_open_the_last_question_may_be_lost_too(tmp_path: Path) -> None:
    """The signer hears the peer's second point before the node has saved channel_ready."""
    from tests.node.channel.pair import open_both

    ends = SplitEnd("alice", tmp_path), SplitEnd("bob", tmp_path)
    ends[0].peer, ends[1].peer = ends[1], ends[0]
    pair = Pair.of(*ends)
    asyncio.run(open_both(pair, push=PUSH))
    pair.connect()
    for end in ends:
        end.recording = True
    lock_in(pair)
    pair.quiet()
    assert ends[0].notes and ends[1].notes
    for split in [*ends[0].notes, *ends[1].notes]:
        for asked in (True, False):
            with at(split, f"the signer {'was' if asked else 'was not'} asked"):
                victim, peer = split.dead(asked=asked), split.peer.open()
                peer.do(Disconnected())
                twins = together(victim, peer, Plan(lock_in))
                twins.connect()
                lock_in(twins)
                comes_to_rest(twins, Plan(lock_in))
                goes_on(twins)
