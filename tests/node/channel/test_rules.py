"""Two honest ends under every order of messages, answers, losses and crashes (BOLT 2, "Normal Operation").

The machine moves one thing at a time. After each move both ends must agree on every commitment that both know,
what is in the database must be what is in memory, and no end may ever accuse the other. When it is quiet,
every payment has had exactly one end, and the money is where those ends say.
"""

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from node.channel.content import content
from node.channel.events import CloseWanted, Fail, FeerateMoved, Fulfil, FundingSpent, Offer, Tick
from node.channel.limits import Totals
from node.channel.state import CloseKind, Closing, Committed, Normal, OfferWant, Offline, ShuttingDown
from node.channel.terms import Policy
from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.commitment import Side
from protocol.bolt4 import failure as failures
from protocol.hashes import sha256
from tests.node.channel.pair import End, Pair, invoice, onion_for, open_channel

SIDES = st.sampled_from(["alice", "bob"])
FEERATES = [253, 500, 1000, 1900, 2500, 5000, 20_000]
REASON = failures.encode(failures.IncorrectOrUnknownPaymentDetails(Msat(1), 110))
FUNDING = 1_000_000
TROUBLES = [
    "line lost",
    "signer away",
    "signer back",
    "signer starts again",
    "block",
    "crash",
    "crash, what waits is lost",
    "crash in the next save",
    "crash in the next save, the signer was asked",
]


class Payment:
    """What the payer's and the payee's payment service would keep about one HTLC."""

    def __init__(self, payer: End, amount: int, payment_hash: bytes, origin: str) -> None:
        self.payer = payer
        self.amount = amount
        self.payment_hash = payment_hash
        self.origin = origin
        self.fulfils = True
        self.decided = False
        self.forgotten = False
        """The payer crashed before the offer was durable: its payments find that out when they reconcile."""


class Channel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.payments: dict[bytes, Payment] = {}
        self.closing = False

    @initialize(
        anchors=st.booleans(),
        push=st.sampled_from([0, 30_000_000, 500_000_000, 500_000_000]),
        most=st.sampled_from([3, 12, 483]),
        simple_close=st.booleans(),
    )
    def open(self, anchors: bool, push: int, most: int, simple_close: bool) -> None:
        self.pair = Pair(Path(self.folder.name))
        self.pair.simple_close = simple_close
        policy = Policy(max_accepted_htlcs=most)
        open_channel(self.pair, anchors=anchors, push=push, funding=FUNDING, policy=policy)
        self.pushed = push

    def end(self, name: str) -> End:
        found: End = getattr(self.pair, name)
        return found

    def after(self) -> None:
        """An end that died takes the connection with it."""
        for end in self.pair.ends:
            if end.died:
                self.kill(end, lose_next=True)

    def kill(self, end: End, *, lose_next: bool) -> None:
        self.pair.disconnect()
        end.crash(lose_next=lose_next)
        live = {row.origin for row in end.state.htlcs.values()}
        answered = {
            e.origin for kind in (end.said.fulfilled, end.said.failed, end.said.refused) for e in kind
        }
        for payment in self.payments.values():
            if payment.payer is end and payment.origin not in live | answered:
                payment.forgotten = True

    # What people and payments do.

    @rule(
        who=SIDES,
        size=st.sampled_from(["tiny", "dust", "small", "small", "third", "all", "above"]),
        whole=st.integers(0, 5),
        count=st.integers(1, 3),
    )
    def offer(self, who: str, size: str, whole: int, count: int) -> None:
        payer = self.end(who)
        spendable = Totals(payer.state.committed, payer.state.htlcs).spendable()
        amount = {
            "tiny": 1,
            "dust": 353_999,
            "small": 3_000_000,
            "third": spendable // 3,
            "all": spendable,
            "above": spendable + 1,
        }[size]
        payer.do(*[self.offer_of(payer, max(1, amount), whole=whole > 0) for _ in range(count)])
        self.after()

    def offer_of(self, payer: End, amount: int, *, whole: bool) -> Offer:
        payee = self.pair.other(payer)
        made = invoice(payee, amount)
        onion = onion_for(payee, made, amount, 200) if whole else bytes(1366)
        origin = os.urandom(6).hex()
        self.payments[made.payment_hash] = Payment(payer, amount, made.payment_hash, origin)
        return Offer(OfferWant(Msat(amount), made.payment_hash, 200, onion, origin))

    @rule(who=SIDES, fulfil=st.booleans(), count=st.integers(1, 8))
    def decide(self, who: str, fulfil: bool, count: int) -> None:
        end = self.end(who)
        events: list[Fulfil | Fail] = []
        for received in end.said.received:
            payment = self.payments[received.payment_hash]
            if not payment.decided and len(events) < count:
                payment.decided, payment.fulfils = True, fulfil
                events.append(self.decision(received.htlc_id, payment))
        if events:
            end.do(*events)
            self.after()

    @staticmethod
    def decision(htlc_id: int, payment: Payment) -> Fulfil | Fail:
        return Fulfil(htlc_id) if payment.fulfils else Fail(htlc_id, REASON)

    @rule(rate=st.sampled_from(FEERATES))
    def feerate(self, rate: int) -> None:
        self.pair.alice.do(FeerateMoved(FeeratePerKw(rate)))
        self.after()

    # What the line and the signers do.

    @rule(moves=st.lists(st.tuples(SIDES, st.integers(0, 5)), min_size=1, max_size=16))
    def some_things_move(self, moves: list[tuple[str, int]]) -> None:
        """0 and 1: the signer answers; above: so many messages less one arrive as one turn."""
        self.connect()
        for who, what in moves:
            if what < 2:
                self.end(who).answer()
            else:
                self.pair.deliver(self.end(who), what - 1)
            self.after()

    @rule()
    def everything_moves(self) -> None:
        self.connect()
        self.pair.quiet()
        self.after()

    def connect(self) -> None:
        if isinstance(self.pair.alice.state.volatile.link, Offline):
            self.pair.connect()
            self.after()

    # Trouble.

    @rule(who=SIDES, what=st.sampled_from(TROUBLES))
    def trouble(self, who: str, what: str) -> None:
        end = self.end(who)
        match what:
            case "line lost":
                self.pair.disconnect()
            case "signer away":
                end.answer(not_now=True)
            case "signer back":
                end.signer_is_back()
            case "signer starts again":
                end.signer._load()
                end.hello()
            case "block":
                end.do(Tick())
            case "crash":
                self.kill(end, lose_next=False)
            case "crash, what waits is lost":
                self.kill(end, lose_next=True)
            case "crash in the next save":
                end.lose_save = False
            case "crash in the next save, the signer was asked":
                end.lose_save = True
        self.after()

    @precondition(lambda self: not self.closing)
    @rule(who=SIDES, really=st.integers(0, 30))
    def close(self, who: str, really: int) -> None:
        if really == 11:
            self.closing = True
            self.end(who).do(CloseWanted())
            self.after()

    # What must hold.

    def described(self) -> list[object]:
        """For whoever reads a failure: where both ends stand, without the onions."""
        return [
            (
                end.name,
                c.phase,
                c.local_number,
                c.remote_number,
                c.remote_revoked,
                c.fees,
                c.question,
                v.link,
                v.asking,
            )
            for end in self.pair.ends
            for c, v in [(end.state.committed, end.state.volatile)]
        ]

    @invariant()
    def nobody_accuses(self) -> None:
        for end in self.pair.ends:
            assert not end.drops, (end.name, end.drops, self.described())
            stalled = end.state.volatile.stalled  # not even by what a lost save made us forget
            assert not stalled, stalled
            phase = end.state.committed.phase
            assert isinstance(phase, Normal | ShuttingDown | Closing), phase
            if isinstance(phase, Closing):
                assert phase.kind is CloseKind.MUTUAL, end.state.committed.why

    @invariant()
    def commitments_share_out_the_capacity_and_are_mirrored(self) -> None:
        for end in self.pair.ends:
            self.whole(end)
            ours, other = end.state, self.pair.other(end).state
            number = ours.committed.local_number
            if not other.committed.remote_revoked <= number <= other.committed.remote_number:
                continue  # the other end crashed and does not know yet
            mine = content(ours.committed, ours.htlcs, Side.HOLDER, number)
            theirs = content(other.committed, other.htlcs, Side.COUNTERPARTY, number)
            assert mine.feerate_per_kw == theirs.feerate_per_kw
            assert (mine.to_owner_msat, mine.to_other_msat) == (theirs.to_owner_msat, theirs.to_other_msat)
            assert set(mine.htlcs) == set(theirs.htlcs)

    @staticmethod
    def whole(end: End) -> None:
        committed: Committed = end.state.committed
        numbers = [(Side.HOLDER, committed.local_number)]
        numbers += [
            (Side.COUNTERPARTY, n) for n in range(committed.remote_revoked, committed.remote_number + 1)
        ]
        for side, number in numbers:
            made = content(committed, end.state.htlcs, side, number)
            total = made.to_owner_msat + made.to_other_msat + sum(htlc.amount_msat for htlc in made.htlcs)
            assert total == FUNDING * 1000
            assert made.to_owner_msat >= 0
            assert made.to_other_msat >= 0

    @invariant()
    def the_database_is_the_memory(self) -> None:
        for end in self.pair.ends:
            assert end.saved is not None
            assert end.state.committed == end.saved.committed
            assert end.state.htlcs == end.saved.htlcs
            loaded = end.database.state()
            assert loaded is not None
            assert loaded.committed == end.saved.committed
            assert loaded.htlcs == dict(end.saved.htlcs)

    @invariant()
    def a_preimage_is_known_before_it_is_credited(self) -> None:
        for end in self.pair.ends:
            for resolved in end.said.resolved:
                payment = self.payments[resolved.payment_hash]
                known = {e.origin: e.preimage for e in payment.payer.said.fulfilled}
                assert resolved.fulfilled == (payment.origin in known)
                if resolved.fulfilled:
                    assert sha256(known[payment.origin]) == resolved.payment_hash

    def teardown(self) -> None:
        if hasattr(self, "pair"):
            self.come_to_rest()
        self.folder.cleanup()

    def come_to_rest(self) -> None:
        for end in self.pair.ends:
            end.lose_save = None
        if isinstance(self.pair.alice.state.volatile.link, Offline):
            self.pair.connect()
        for turn in range(12):
            for end in self.pair.ends:
                end.signer_is_back()
            self.pair.quiet()
            settled = [self.settle(end) for end in self.pair.ends]
            if not any(settled):
                break
            assert turn < 6, "the two ends never come to rest"
        self.nobody_accuses()
        self.commitments_share_out_the_capacity_and_are_mirrored()
        self.the_database_is_the_memory()
        self.a_preimage_is_known_before_it_is_credited()
        self.every_payment_has_one_end()
        if any(not isinstance(end.state.committed.phase, Normal) for end in self.pair.ends):
            self.both_closed()

    def settle(self, end: End) -> bool:
        """Payments decide what is left, and say again what a crash made the channel forget."""
        live = [row for row in end.state.htlcs.values() if not row.offered and row.remote_to is None]
        events = []
        for row in live:
            payment = self.payments[row.payment_hash]
            if row.failure_code is None:
                payment.decided = True
                events.append(self.decision(row.id, payment))
        if events:
            end.do(*events)
        return bool(events)

    def every_payment_has_one_end(self) -> None:
        moved = {"alice": 0, "bob": 0}
        for payment in self.payments.values():
            payer = payment.payer
            ends = {
                name
                for name in ("fulfilled", "failed", "refused")
                if payment.origin in {event.origin for event in getattr(payer.said, name)}
            }
            paid = any(
                resolved.fulfilled
                for resolved in self.pair.other(payer).said.resolved
                if resolved.payment_hash == payment.payment_hash
            )
            assert len(ends) == 1 or (not ends and payment.forgotten), (
                payment.origin,
                payer.name,
                ends,
                self.described(),
            )
            assert paid == ("fulfilled" in ends)
            if paid:
                moved[payer.name] += payment.amount
        net = moved["alice"] - moved["bob"]
        for end in self.pair.ends:
            assert not end.state.htlcs
        assert self.pair.alice.state.committed.settled_local == FUNDING * 1000 - self.pushed - net
        assert self.pair.bob.state.committed.settled_local == self.pushed + net

    def both_closed(self) -> None:
        published = {tx for end in self.pair.ends for tx in end.published}
        assert len(published) >= 1
        for end in self.pair.ends:
            phase = end.state.committed.phase
            if isinstance(phase, ShuttingDown):  # the last closing_signed was lost; the chain tells
                end.do(FundingSpent(next(iter(published)), None, 0))
                phase = end.state.committed.phase
            assert isinstance(phase, Closing)
            assert phase.kind is CloseKind.MUTUAL
            tx = Transaction.parse(phase.tx)
            assert sum(output.value for output in tx.outputs) <= Sat(FUNDING)


TestChannel = Channel.TestCase
if settings.default is not None and settings.default.derandomize:  # the quick profile
    TestChannel.settings = settings(max_examples=150, stateful_step_count=60)
else:
    TestChannel.settings = settings(stateful_step_count=100)
