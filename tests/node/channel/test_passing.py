"""The rule machine with two channels: HTLCs that pass through the middle node, under loss, crashes and an absent
signer (BOLT 2, "Forwarding HTLCs"; DESIGN, "The signer contract").

Beside what the machine of one channel asks for: whoever forwards never pays on without being paid, and never keeps what
was failed. Each onward HTLC has exactly one incoming one.
"""

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from node.channel.content import content
from node.channel.events import (
    CloseWanted,
    Fail,
    FeerateMoved,
    Fulfil,
    FundingConfirmed,
    FundingReorganised,
    FundingSpent,
    Offer,
    Tick,
)
from node.channel.limits import Totals
from node.channel.state import CloseKind, Closing, Normal, OfferWant, Offline, ShuttingDown
from node.channel.terms import Policy
from protocol.amounts import BlockHeight, FeeratePerKw, Msat, scid
from protocol.bolt3.commitment import Side
from protocol.bolt4 import attribution, failure_onion, sphinx
from protocol.bolt4 import failure as failures
from protocol.bus.messages import channel as said
from tests.node.channel.pair import End, invoice, onion_for, open_channel
from tests.node.channel.passing import IN_EXPIRY, OUT_EXPIRY, Row, onion_over

FUNDING = 1_000_000
FEE = 2_000
FEERATES = [253, 500, 1000, 1900, 2500]
REASON = failures.encode(failures.IncorrectOrUnknownPaymentDetails(Msat(1), 110))
WHO = st.integers(0, 3)
ROUTES = ["alice to carol", "alice to carol", "carol to alice", "alice to bob", "bob to carol"]
TROUBLES = [
    "line lost",
    "signer away",
    "signer back",
    "signer starts again",
    "block",
    "reorg",
    "crash",
    "crash, what waits is lost",
    "crash in the next save",
    "crash in the next save, the signer was asked",
]


class Payment:
    def __init__(self, payer: End, payee: End, amount: int, fee: int, number: int, origin: str) -> None:
        self.payer = payer
        self.payee = payee
        self.amount = amount
        self.fee = fee
        self.origin = origin
        self.number = number
        self.onion: sphinx.Onion | None = None
        self.fulfils: bool | None = None
        self.forgotten = False


class Passing(RuleBasedStateMachine):
    ANCHORS = True
    PUSH = 500_000_000

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.payments: dict[bytes, Payment] = {}
        self.closing = False
        self.resting = False
        """At rest nothing waits for the other channel any more."""

    @initialize()
    def open(self) -> None:
        self.row = Row(Path(self.folder.name))
        self.push = self.PUSH
        for pair in self.row.pairs:
            open_channel(pair, anchors=self.ANCHORS, push=self.push, funding=FUNDING, policy=Policy())

    def after(self) -> None:
        self.row.forward()
        while died := [end for end in self.row.ends if end.died]:
            self.kill(died[0], lose_next=True)

    def kill(self, end: End, *, lose_next: bool) -> None:
        self.row.kill(end, lose_next=lose_next)
        dead = self.row.middle if end in self.row.middle else (end,)
        live = {row.origin for one in dead for row in one.state.htlcs.values()}
        for payment in self.payments.values():
            answered = {
                e.origin
                for kind in (
                    payment.payer.said.fulfilled,
                    payment.payer.said.failed,
                    payment.payer.said.refused,
                )
                for e in kind
            }
            if payment.payer in dead and payment.origin not in live | answered:
                payment.forgotten = True

    # What people and payments do.

    @rule(
        route=st.sampled_from(ROUTES),
        size=st.sampled_from(["tiny", "dust", "small", "small", "third", "all"]),
        broken=st.integers(0, 6),
        count=st.integers(1, 3),
    )
    def pay(self, route: str, size: str, broken: int, count: int) -> None:
        payer, payee = self.ends_of(route)
        spendable = Totals(payer.state.committed, payer.state.htlcs).spendable()
        amount = {"tiny": 1, "dust": 300_000, "small": 3_000_000, "third": spendable // 3, "all": spendable}[
            size
        ]
        payer.do(*[self.offer(payer, payee, max(1, amount), readable=broken > 0) for _ in range(count)])
        self.after()

    def ends_of(self, route: str) -> tuple[End, End]:
        row = self.row
        return {
            "alice to carol": (row.alice, row.carol),
            "carol to alice": (row.carol, row.alice),
            "alice to bob": (row.alice, row.left),
            "bob to carol": (row.right, row.carol),
        }[route]

    def offer(self, payer: End, payee: End, amount: int, *, readable: bool) -> Offer:
        made = invoice(payee, amount)
        origin = os.urandom(6).hex()
        passes = self.row.pair_of(payer) is not self.row.pair_of(payee)
        fee = FEE if passes else 0
        payment = Payment(payer, payee, amount, fee, len(self.payments), origin)
        self.payments[made.payment_hash] = payment
        if not passes:
            onion = onion_for(payee, made, amount, OUT_EXPIRY)
            return Offer(OfferWant(Msat(amount), made.payment_hash, OUT_EXPIRY, onion, origin))
        payment.onion = onion_over(self.row.left, payee, made, onward=amount, readable=readable)
        return Offer(
            OfferWant(Msat(amount + fee), made.payment_hash, IN_EXPIRY, payment.onion.packet, origin)
        )

    @rule(who=WHO, fails=st.integers(0, 3), count=st.integers(1, 6))
    def decide(self, who: int, fails: int, count: int) -> None:
        end = self.row.ends[who]
        events: list[Fulfil | Fail] = []
        for received in end.said.received:
            payment = self.payments[received.payment_hash]
            if received.final and payment.fulfils is None and len(events) < count:
                payment.fulfils = fails != 3
                events.append(self.decision(received.htlc_id, payment))
        if events:
            end.do(*events)
            self.after()

    @staticmethod
    def decision(htlc_id: int, payment: Payment) -> Fulfil | Fail:
        return Fulfil(htlc_id) if payment.fulfils else Fail(htlc_id, REASON)

    @rule(rate=st.sampled_from(FEERATES), right=st.booleans())
    def feerate(self, rate: int, right: bool) -> None:
        (self.row.right if right else self.row.alice).do(FeerateMoved(FeeratePerKw(rate)))
        self.after()

    # What the lines and the signers do.

    @rule(moves=st.lists(st.tuples(WHO, st.integers(0, 5)), min_size=1, max_size=20))
    def some_things_move(self, moves: list[tuple[int, int]]) -> None:
        """0 and 1: the signer answers; above: so many messages less one arrive as one turn."""
        self.connect()
        for who, what in moves:
            end = self.row.ends[who]
            if what < 2:
                end.answer()
            else:
                self.row.pair_of(end).deliver(end, what - 1)
            self.after()

    @rule()
    def everything_moves(self) -> None:
        self.connect()
        self.quiet()

    def quiet(self) -> None:
        for _ in range(200):
            before = sum(len(end.said.received) + end.saves for end in self.row.ends)
            for pair in self.row.pairs:
                pair.quiet()
            self.after()
            if sum(len(end.said.received) + end.saves for end in self.row.ends) == before and not any(
                end.asks or end.peels or end.out.waiting for end in self.row.ends
            ):
                return
        raise AssertionError("the three nodes never come to rest")

    def connect(self) -> None:
        for pair in self.row.pairs:
            if isinstance(pair.alice.state.volatile.link, Offline):
                pair.connect()
                self.after()

    # Trouble.

    @rule(who=WHO, what=st.sampled_from(TROUBLES))
    def trouble(self, who: int, what: str) -> None:
        end = self.row.ends[who]
        match what:
            case "line lost":
                self.row.pair_of(end).disconnect()
            case "signer away":
                end.answer(not_now=True)
            case "signer back":
                end.signer_is_back()
            case "signer starts again":
                end.signer._load()
                end.hello()
                if end in self.row.middle:
                    self.row._one_session()
            case "block":
                end.do(Tick())
            case "reorg":
                if isinstance(end.state.committed.phase, Normal):
                    end.do(FundingReorganised())
                    end.do(FundingConfirmed(BlockHeight(102), scid(102, 1, 0), 3))
            case "crash":
                self.kill(end, lose_next=False)
            case "crash, what waits is lost":
                self.kill(end, lose_next=True)
            case "crash in the next save":
                end.lose_save = False
            case "crash in the next save, the signer was asked":
                end.lose_save = True
        self.after()

    @rule(who=WHO, really=st.integers(0, 40))
    def close(self, who: int, really: int) -> None:
        if really == 11 and not self.closing:
            self.closing = True
            self.row.ends[who].do(CloseWanted())
            self.after()

    # What must hold.

    @invariant()
    def nobody_accuses_and_no_signer_refuses(self) -> None:
        for end in self.row.ends:
            assert not end.drops, (end.name, end.drops)
            stalled = end.state.volatile.stalled
            waits = end in self.row.middle and "(onward-lives)" in stalled and not self.resting
            assert not stalled or waits, (end.name, stalled)
            phase = end.state.committed.phase
            assert isinstance(phase, Normal | ShuttingDown | Closing), (end.name, phase)
            if isinstance(phase, Closing):
                assert phase.kind is CloseKind.MUTUAL, (end.name, end.state.committed.why)

    @invariant()
    def commitments_are_mirrored(self) -> None:
        for pair in self.row.pairs:
            for end in pair.ends:
                ours, other = end.state, pair.other(end).state
                number = ours.committed.local_number
                if not other.committed.remote_revoked <= number <= other.committed.remote_number:
                    continue  # the other end crashed and does not know yet
                mine = content(ours.committed, ours.htlcs, Side.HOLDER, number)
                theirs = content(other.committed, other.htlcs, Side.COUNTERPARTY, number)
                assert mine.feerate_per_kw == theirs.feerate_per_kw
                assert (mine.to_owner_msat, mine.to_other_msat) == (
                    theirs.to_owner_msat,
                    theirs.to_other_msat,
                )
                assert set(mine.htlcs) == set(theirs.htlcs)
                total = mine.to_owner_msat + mine.to_other_msat + sum(htlc.amount_msat for htlc in mine.htlcs)
                assert total == FUNDING * 1000

    @invariant()
    def the_database_is_the_memory(self) -> None:
        for end in self.row.ends:
            loaded = end.database.state()
            assert loaded is not None
            assert loaded.committed == end.state.committed
            assert loaded.htlcs == dict(end.state.htlcs)

    @invariant()
    def whoever_forwards_is_paid_before_and_gives_back_after(self) -> None:
        """The incoming HTLC may be failed only when the onward one is gone, fulfilled only when it was fulfilled."""
        for half in self.row.middle:
            onward = {row.origin: row for row in half.twin.state.htlcs.values() if row.offered}
            for row in half.state.htlcs.values():
                if row.offered or row.remote_to is None:
                    continue
                passed = onward.get(said.forward_origin(half.state.committed.params.channel_id, row.id))
                if row.failure is not None or row.failure_code is not None:
                    assert passed is None, "failed, and the next hop may still claim"
                if row.preimage is not None and passed is not None:
                    assert passed.preimage == row.preimage

    def teardown(self) -> None:
        if hasattr(self, "row"):
            self.come_to_rest()
        self.folder.cleanup()

    def come_to_rest(self) -> None:
        for end in self.row.ends:
            end.lose_save = None
        for turn in range(20):
            self.connect()
            for end in self.row.ends:
                end.signer_is_back()
            self.quiet()
            settled = [self.settle(end) for end in self.row.ends]
            if not any(settled):
                break
            assert turn < 15, "the three nodes never come to rest"
        self.resting = True
        self.nobody_accuses_and_no_signer_refuses()
        self.commitments_are_mirrored()
        self.the_database_is_the_memory()
        self.every_payment_has_one_end_and_the_sums_are_right()

    def settle(self, end: End) -> bool:
        """Payments decide what is left, and say again what a crash made the channel forget."""
        events: list[Fulfil | Fail] = []
        for row in end.state.htlcs.values():
            payment = self.payments[row.payment_hash]
            if (
                row.offered
                or row.remote_to is not None
                or payment.payee is not end
                or row.failure_code is not None
            ):
                continue
            if payment.fulfils is None:
                payment.fulfils = payment.number % 3 != 2
            events.append(self.decision(row.id, payment))
        if events:
            end.do(*events)
            self.after()
        return bool(events)

    def every_payment_has_one_end_and_the_sums_are_right(self) -> None:
        moved = dict.fromkeys(range(4), 0)
        ends = self.row.ends
        for payment in self.payments.values():
            told = {
                name
                for name in ("fulfilled", "failed", "refused")
                if payment.origin in {event.origin for event in getattr(payment.payer.said, name)}
            }
            assert len(told) == 1 or (not told and payment.forgotten), (payment.origin, told)
            if "fulfilled" in told:
                assert payment.fulfils
                moved[ends.index(payment.payer)] -= payment.amount + payment.fee
                moved[ends.index(payment.payee)] += payment.amount
                if payment.onion is not None:
                    left = payment.payer is self.row.alice
                    moved[1 if left else 2] += payment.amount + payment.fee
                    moved[2 if left else 1] -= payment.amount
            if "failed" in told and payment.onion is not None:
                self.failure_can_be_read(payment)
        first = (FUNDING * 1000 - self.push, self.push, FUNDING * 1000 - self.push, self.push)
        for index, end in enumerate(ends):
            assert not end.state.htlcs, end.name
            if isinstance(end.state.committed.phase, Normal):
                assert end.state.committed.settled_local == first[index] + moved[index], end.name
            else:
                self.closed_by_both(end)
        fees = sum(moved.values())
        assert fees == 0  # what the payers lost the payees and the middle node have
        earned = moved[1] + moved[2]
        direct = sum(
            (p.amount if p.payee in self.row.middle else -p.amount)
            for p in self.payments.values()
            if p.onion is None and p.origin in {e.origin for e in p.payer.said.fulfilled}
        )
        passed = sum(
            p.fee for p in self.payments.values() if p.origin in {e.origin for e in p.payer.said.fulfilled}
        )
        assert earned == direct + passed

    def failure_can_be_read(self, payment: Payment) -> None:
        assert payment.onion is not None
        for event in payment.payer.said.failed:
            if event.origin == payment.origin and event.malformed_code is None:
                secrets = payment.onion.shared_secrets
                opened = failure_onion.unwrap(secrets, event.reason)
                assert opened is not None and event.attribution is not None
                # checklist 39: whoever died on the way, the data of every hop is whole.
                told = attribution.read(secrets, event.reason, event.attribution, source=opened.hop_index)
                assert told.spoiled_at is None and len(told.hold_times) == opened.hop_index + 1

    def closed_by_both(self, end: End) -> None:
        pair = self.row.pair_of(end)
        published = {tx for one in pair.ends for tx in one.published}
        assert published
        if isinstance(
            end.state.committed.phase, ShuttingDown
        ):  # the last closing_signed was lost; the chain tells
            end.do(FundingSpent(next(iter(published)), None, 0))
        phase = end.state.committed.phase
        assert isinstance(phase, Closing)
        assert phase.kind is CloseKind.MUTUAL


class PassingOldType(Passing):
    ANCHORS = False


class PassingOneSided(Passing):
    PUSH = 100_000_000


class PassingOldTypeOneSided(Passing):
    ANCHORS = False
    PUSH = 100_000_000


# Four machines of 500 examples, so that two workers share the 2,000; `make soak` runs 50,000.
is_quick = settings.default is not None and settings.default.derandomize
EXAMPLES = settings(
    max_examples=500 if is_quick else 12_500, stateful_step_count=50 if is_quick else 80, deadline=None
)
TestPassing = Passing.TestCase
TestPassingOldType = PassingOldType.TestCase
TestPassingOneSided = PassingOneSided.TestCase
TestPassingOldTypeOneSided = PassingOldTypeOneSided.TestCase
for _case in (TestPassing, TestPassingOldType, TestPassingOneSided, TestPassingOldTypeOneSided):
    _case.settings = EXAMPLES
