"""A crash at every point of every dialogue: node and signer start again from copies of their databases (BOLT 2,
"Message Retransmission"; DESIGN, "Version sets").

Each dialogue is moved one message or answer at a time. After each move both databases of both ends are copied,
one end or both start again from the copy with a fresh machine and a signer opened from its file, and that copy
must come to a lawful end: nobody accuses, nobody force closes, each payment has one end and the money is there.
"""

import asyncio
import shutil
import sqlite3
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from node.channel.events import (
    CloseWanted,
    Disconnected,
    Fail,
    FeerateMoved,
    Fulfil,
    FundingConfirmed,
    FundingSpent,
    Offer,
)
from node.channel.state import AwaitingLockIn, CloseKind, Closing, Normal, OfferWant, ShuttingDown
from protocol.amounts import BlockHeight, FeeratePerKw, Msat, scid
from protocol.bolt4 import failure as failures
from signer.service import DATABASE, SignerService
from tests.node.channel.pair import (
    PASSPHRASE,
    End,
    Pair,
    invoice,
    onion_for,
    open_both,
    open_channel,
)
from tests.node.channel.saved import Database
from tests.node.channel.test_dance import mirrored

REASON = failures.encode(failures.IncorrectOrUnknownPaymentDetails(Msat(1), 110))
FUNDING = 10_000_000
PUSH = 3_000_000_000


class Plan:
    """A dialogue: how it begins, and what payments do with each HTLC that arrives."""

    def __init__(
        self,
        begin: Callable[[Pair], None],
        *,
        fulfils: bool = True,
        closes: bool = False,
        simple_close: bool = False,
    ) -> None:
        self.begin = begin
        self.fulfils = fulfils
        self.closes = closes
        self.simple_close = simple_close

    def settle(self, pair: Pair) -> bool:
        """Payments answer what they heard; after a crash they hear and say it again."""
        moved = False
        for end in pair.ends:
            waiting = [r for r in end.state.htlcs.values() if not r.offered and r.remote_to is None and r.um]
            told = {event.htlc_id for event in end.said.received}
            wanted = [row.id for row in waiting if row.id in told]
            before = end.state
            if wanted:
                end.do(*[Fulfil(n) if self.fulfils else Fail(n, REASON) for n in wanted])
            moved |= end.state.committed is not before.committed
        return moved


def pay(payer: End, payee: End, *amounts: int) -> None:
    events = []
    for amount in amounts:
        made = invoice(payee, amount)
        onion = onion_for(payee, made, amount, 200)
        events.append(Offer(OfferWant(Msat(amount), made.payment_hash, 200, onion, made.payment_hash.hex())))
    payer.do(*events)


def both_pay(pair: Pair) -> None:
    pay(pair.alice, pair.bob, 50_000_000)
    pay(pair.bob, pair.alice, 20_000_000, 100_000)


def pay_and_move_fee(pair: Pair) -> None:
    pay(pair.bob, pair.alice, 20_000_000)
    pair.alice.do(FeerateMoved(FeeratePerKw(2500)))


def pay_and_close(pair: Pair) -> None:
    pay(pair.alice, pair.bob, 50_000_000)
    pair.bob.do(CloseWanted())


def lock_in(pair: Pair) -> None:
    for end in pair.ends:
        end.do(FundingConfirmed(BlockHeight(101), scid(101, 1, 0), 3))


DIALOGUES = {
    "open": Plan(lock_in),
    "pay there": Plan(lambda pair: pay(pair.alice, pair.bob, 50_000_000)),
    "pay back": Plan(lambda pair: pay(pair.bob, pair.alice, 50_000_000)),
    "pay both ways": Plan(both_pay),
    "fail": Plan(both_pay, fulfils=False),
    "fee": Plan(pay_and_move_fee),
    "close": Plan(lambda pair: pair.alice.do(CloseWanted()), closes=True),
    "close with a payment": Plan(pay_and_close, closes=True),
    "simple close": Plan(lambda pair: pair.alice.do(CloseWanted()), closes=True, simple_close=True),
    "simple close with a payment": Plan(pay_and_close, closes=True, simple_close=True),
}


def copy_of(end: End, folder: Path) -> End:
    """The same end over copied databases, still alive: its questions and ears are as they were."""
    folder.mkdir(parents=True)
    source = Path(end.folder)
    for name in source.iterdir():
        if not name.name.startswith(DATABASE):
            shutil.copy(name, folder / name.name)
    with sqlite3.connect(folder / DATABASE) as file:
        end.signer.storage._connection.backup(file)
    file.close()
    twin = End(end.name, SignerService(folder, PASSPHRASE), folder)
    twin.signer.storage._connection.execute(
        "PRAGMA synchronous = OFF"
    )  # a copy need not survive this machine
    twin.database = Database.copy_of(end.database)
    twin.state, twin.saved, twin.durable = end.state, end.saved, end.durable
    twin.asks, twin.peels = deque(end.asks), deque(end.peels)
    twin.said = type(end.said)(*(list(getattr(end.said, name)) for name in end.said.__struct_fields__))
    twin.published = list(end.published)
    return twin


def copied(pair: Pair, folder: Path) -> Pair:
    twins = Pair.of(copy_of(pair.alice, folder / "alice"), copy_of(pair.bob, folder / "bob"))
    twins.connections, twins.simple_close = pair.connections, pair.simple_close
    return twins


@pytest.mark.parametrize("dead", ["alice", "bob", "both"])
@pytest.mark.parametrize("name", DIALOGUES)
def test_a_copy_taken_at_any_point_goes_on(tmp_path: Path, name: str, dead: str) -> None:
    """checklist 27, 28, 29"""
    plan = DIALOGUES[name]
    pair = Pair(tmp_path)
    pair.simple_close = plan.simple_close
    if name == "open":
        asyncio.run(open_both(pair, push=PUSH))
        pair.connect()
    else:
        open_channel(pair, push=PUSH)
    plan.begin(pair)
    points = 0
    while True:
        twins = copied(pair, tmp_path / f"copy{points}")
        goes_on(twins, plan, dead, lose_next=points % 3 != 0)
        for end in twins.ends:
            end.signer.close()
        shutil.rmtree(tmp_path / f"copy{points}")
        points += 1
        if not move(pair, plan):
            break
    assert points > 4
    check(pair, plan)


def move(pair: Pair, plan: Plan) -> bool:
    for end in pair.ends:
        if end.answer() or pair.deliver(end):
            return True
    return plan.settle(pair)


def goes_on(pair: Pair, plan: Plan, dead: str, *, lose_next: bool) -> None:
    for end in pair.ends:
        if dead in (end.name, "both"):
            end.crash(lose_next=lose_next)
        else:
            end.do(Disconnected())
    pair.connect()
    for _ in range(10):
        pair.quiet()
        if isinstance(pair.alice.state.committed.phase, AwaitingLockIn):
            lock_in(pair)
            pair.quiet()
        if not plan.settle(pair):
            break
    check(pair, plan)


def check(pair: Pair, plan: Plan) -> None:
    close_lost = plan.closes and all(isinstance(end.state.committed.phase, Normal) for end in pair.ends)
    if plan.closes and not close_lost:
        learn_of_close(pair)
    for end in pair.ends:
        assert not end.drops, end.drops[0].reason
        assert not end.state.volatile.stalled
        assert not end.state.htlcs
        phase = end.state.committed.phase
        if plan.closes and not close_lost:
            assert isinstance(phase, Closing)
            assert phase.kind is CloseKind.MUTUAL
        else:
            assert isinstance(phase, Normal)
    mirrored(pair)
    moved = 0
    for payer in pair.ends:
        payee = pair.other(payer)
        credited = {event.payment_hash.hex() for event in payee.said.resolved if event.fulfilled}
        paid = {event.origin for event in payer.said.fulfilled}
        assert paid == credited
        assert not paid & {event.origin for event in payer.said.failed + payer.said.refused}
        rows = payer.database.read("SELECT origin, amount_msat, done FROM htlcs WHERE offered = 1")
        assert all(done for _, _, done in rows)
        sign = 1 if payer is pair.alice else -1
        moved += sign * sum(amount for origin, amount, _ in rows if origin in paid)
    assert pair.alice.state.committed.settled_local == FUNDING * 1000 - PUSH - moved
    assert pair.bob.state.committed.settled_local == PUSH + moved


def learn_of_close(pair: Pair) -> None:
    """The last closing_signed may be lost for ever: the chain tells the other end."""
    published = [tx for end in pair.ends for tx in end.published]
    for end in pair.ends:
        phase = end.state.committed.phase
        if isinstance(phase, Closing) and phase.tx:
            published.append(phase.tx)
    assert published, "nobody has a closing transaction"
    for end in pair.ends:
        if isinstance(end.state.committed.phase, ShuttingDown):
            end.do(FundingSpent(published[0], None, 0))


def test_a_second_question_whose_save_was_lost_does_not_wedge_the_channel(tmp_path: Path) -> None:
    """The signer stands two commitments ahead of the node: the answer to the first question was not durable, the
    second was asked while it was being saved."""
    pair = Pair(tmp_path)
    open_channel(pair, push=PUSH)
    pay(pair.alice, pair.bob, 50_000_000)
    pair.alice.answer()
    pair.deliver(pair.alice, 10)
    bob = pair.bob
    assert bob.asks or bob.peels
    while bob.answer():
        pass
    pay(pair.alice, pair.bob, 10_000_000)
    pair.deliver(pair.bob, 10)
    while pair.alice.answer():
        pass
    bob.lose_save = True
    pair.deliver(pair.alice, 10)
    assert bob.died
    pair.disconnect()
    bob.crash(lose_next=True)
    assert bob.numbers().holder_revoked == bob.state.committed.local_number + 2
    pair.connect()
    plan = DIALOGUES["pay there"]
    for _ in range(5):
        pair.quiet()
        plan.settle(pair)
    check(pair, plan)
