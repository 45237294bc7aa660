"""What we may offer: reserves, the fee spike buffer, counts and amounts in flight (BOLT 2, "Adding an HTLC")."""

import os
from pathlib import Path

import pytest

from node.channel.content import content
from node.channel.events import Fail, FeerateMoved, Fulfil, Offer, Tick
from node.channel.limits import Totals
from node.channel.state import Htlc, OfferWant, State
from protocol.amounts import FeeratePerKw, Msat, Sat, to_msat
from protocol.bolt3.commitment import Side
from protocol.bolt3.fees import anchors_cost, commit_fee
from protocol.bolt4 import failure as failures
from tests.node.channel.pair import End, Pair, invoice, onion_for, open_channel
from tests.node.channel.test_dance import mirrored, offer
from tests.node.channel.test_peer_misbehaves import Strict

REASON = failures.encode(failures.IncorrectOrUnknownPaymentDetails(Msat(1), 110))
FUNDING = 1_000_000
RESERVE = 10_000


def opened(folder: Path, **options: object) -> Pair:
    pair = Pair(folder)
    open_channel(pair, **{"funding": FUNDING, "push": 500_000_000, **options})
    return pair


def spendable(end: End) -> int:
    return int(Totals(end.state.committed, end.state.htlcs).spendable())


def offer_all(pair: Pair, payer: End, *amounts: int) -> None:
    """As one turn."""
    payee = pair.other(payer)
    events = []
    for amount in amounts:
        made = invoice(payee, amount)
        onion = onion_for(payee, made, amount, 200)
        events.append(Offer(OfferWant(Msat(amount), made.payment_hash, 200, onion, os.urandom(4).hex())))
    payer.do(*events)


def lowest(pair: Pair, owner: str) -> int:
    """The least that `owner` has in any commitment that stands, in msat."""
    found = []
    for end in pair.ends:
        committed, htlcs = end.state.committed, end.state.htlcs
        ours = content(committed, htlcs, Side.HOLDER, committed.local_number)
        theirs = content(committed, htlcs, Side.COUNTERPARTY, committed.remote_number)
        mine = end.name == owner
        found += [
            ours.to_owner_msat if mine else ours.to_other_msat,
            theirs.to_other_msat if mine else theirs.to_owner_msat,
        ]
    return min(found)


@pytest.mark.parametrize("anchors", [True, False], ids=["anchors", "static_remotekey"])
@pytest.mark.parametrize("who", ["alice", "bob"])
def test_the_largest_offer_is_taken_and_a_millisatoshi_more_is_not(
    tmp_path: Path, who: str, anchors: bool
) -> None:
    """checklist 19"""
    pair = opened(tmp_path, anchors=anchors)
    payer = getattr(pair, who)
    most = spendable(payer)
    offer(pair, payer, most + 1)
    pair.quiet()
    assert payer.said.refused
    assert not payer.state.htlcs
    offer(pair, payer, most)
    pair.quiet()
    assert len(pair.other(payer).said.received) == 1
    mirrored(pair)
    assert not pair.alice.drops + pair.bob.drops
    assert lowest(pair, who) >= to_msat(Sat(RESERVE))


@pytest.mark.parametrize("anchors", [True, False], ids=["anchors", "static_remotekey"])
def test_the_opener_keeps_room_for_twice_the_feerate_and_one_more_htlc(tmp_path: Path, anchors: bool) -> None:
    """BOLT 2, Adding an HTLC: the fee spike buffer, so that the next HTLC or update_fee cannot jam the channel.

    checklist 19
    """
    pair = opened(tmp_path, anchors=anchors, feerate=2500)
    offer(pair, pair.alice, spendable(pair.alice))
    pair.quiet()
    doubled = 1000 * (commit_fee(FeeratePerKw(5000), 2, anchors) + anchors_cost(anchors))
    assert lowest(pair, "alice") >= to_msat(Sat(RESERVE)) + doubled
    assert spendable(pair.alice) == 0
    offer(pair, pair.bob, 10_000_000)
    pair.alice.do(FeerateMoved(FeeratePerKw(5000)))
    pair.quiet()
    assert len(pair.alice.said.received) == 1
    assert pair.bob.state.committed.fees[-1].feerate_per_kw == 5000
    mirrored(pair)


def test_offers_of_one_turn_are_judged_together(tmp_path: Path) -> None:
    """checklist 19"""
    pair = opened(tmp_path)
    half = spendable(pair.bob) // 2 + 1
    offer_all(pair, pair.bob, half, half, half)
    pair.quiet()
    assert len(pair.bob.said.refused) == 2
    assert len(pair.alice.said.received) == 1
    assert lowest(pair, "bob") >= to_msat(Sat(RESERVE))


def test_a_feerate_and_an_offer_of_one_turn_are_judged_together(tmp_path: Path) -> None:
    """Each alone can be paid for, both cannot: the peer would end the connection. checklist 19, 22"""
    pair = opened(tmp_path, anchors=False)
    most = spendable(pair.alice)
    made = invoice(pair.bob, most)
    onion = onion_for(pair.bob, made, most, 200)
    want = OfferWant(Msat(most), made.payment_hash, 200, onion, "late")
    pair.alice.do(FeerateMoved(FeeratePerKw(4000)), Offer(want))
    pair.quiet()
    assert [event.origin for event in pair.alice.said.refused] == ["late"]
    assert pair.bob.state.committed.fees[-1].feerate_per_kw == 4000
    assert not pair.alice.drops + pair.bob.drops
    assert lowest(pair, "alice") >= to_msat(Sat(RESERVE))


@pytest.mark.parametrize("short", [0, 1])
def test_a_feerate_that_would_take_the_reserve_or_what_is_offered_is_not_proposed(
    tmp_path: Path, short: int
) -> None:
    """checklist 22"""
    pair = opened(tmp_path, anchors=False)
    offer(pair, pair.alice, 450_000_000)
    pair.quiet()
    has = lowest(pair, "alice") // 1000 - RESERVE
    highest = max(rate for rate in range(1000, 500_000) if commit_fee(FeeratePerKw(rate), 1, False) <= has)
    pair.alice.do(FeerateMoved(FeeratePerKw(highest + short)))
    pair.quiet()
    assert pair.bob.state.committed.fees[-1].feerate_per_kw == (1000 if short else highest)
    assert not pair.alice.drops + pair.bob.drops
    assert not pair.alice.state.volatile.stalled


def test_money_that_is_on_its_way_is_not_spent(tmp_path: Path) -> None:
    """A received HTLC is nobody's until it is irrevocably settled."""
    pair = opened(tmp_path, push=20_000_000)
    before = spendable(pair.bob)
    offer(pair, pair.alice, 300_000_000)
    pair.quiet()
    assert spendable(pair.bob) == before
    pair.bob.do(Fulfil(0))
    assert spendable(pair.bob) == before
    pair.quiet()
    assert spendable(pair.bob) == before + 300_000_000


def test_the_count_that_the_peer_accepts_is_kept(tmp_path: Path) -> None:
    """checklist 20"""
    pair = opened(tmp_path, policy=Strict())
    offer_all(pair, pair.alice, *[1_000_000] * 5)
    pair.quiet()
    assert len(pair.alice.said.refused) == 2
    assert len(pair.bob.said.received) == 3
    pair.bob.do(Fail(0, REASON))
    pair.quiet()
    offer_all(pair, pair.alice, 1_000_000, 1_000_000)
    pair.quiet()
    assert len(pair.bob.said.received) == 4
    assert not pair.bob.drops


def test_the_peer_may_fill_its_slots_again_as_soon_as_it_knows_they_are_free(tmp_path: Path) -> None:
    """It counts the HTLCs in our commitment: those that it has acknowledged as removed are out of it. checklist 20"""
    pair = opened(tmp_path, policy=Strict())
    for _ in range(4):
        offer_all(pair, pair.alice, 1_000_000, 2_000_000, 3_000_000)
        pair.quiet()
        pair.bob.do(*[Fulfil(event.htlc_id) for event in pair.bob.said.received[-3:]])
        offer_all(pair, pair.alice, 1_000_000)
        pair.quiet()
        assert not pair.alice.drops + pair.bob.drops
        mirrored(pair)
    assert len(pair.alice.said.fulfilled) == 12


def test_the_amount_in_flight_that_the_peer_accepts_is_kept(tmp_path: Path) -> None:
    """checklist 20"""
    pair = opened(tmp_path, funding=10_000_000, push=3_000_000_000, policy=Strict())
    assert spendable(pair.alice) == 1_000_000_000
    offer_all(pair, pair.alice, 600_000_000, 400_000_001, 400_000_000)
    pair.quiet()
    assert len(pair.alice.said.refused) == 1
    assert spendable(pair.alice) == 0
    assert not pair.bob.drops


def test_an_offer_below_the_minimum_of_the_peer_is_refused(tmp_path: Path) -> None:
    """checklist 18"""
    pair = opened(tmp_path, policy=Strict())
    offer_all(pair, pair.alice, 999, 1000)
    pair.quiet()
    assert len(pair.alice.said.refused) == 1
    assert len(pair.bob.said.received) == 1


@pytest.mark.parametrize(("amount", "expiry"), [(0, 200), (1_000_000, 500_000_000)])
def test_an_offer_of_nothing_or_until_a_time_never_leaves(tmp_path: Path, amount: int, expiry: int) -> None:
    """checklist 18: the one we refuse ourselves, the other our signer."""
    pair = opened(tmp_path)
    made = invoice(pair.bob, None)
    onion = onion_for(pair.bob, made, amount, expiry)
    pair.alice.do(Offer(OfferWant(Msat(amount), made.payment_hash, expiry, onion, "bad")))
    pair.quiet()
    assert [event.origin for event in pair.alice.said.refused] == ["bad"]
    assert not pair.alice.state.htlcs
    offer(pair, pair.alice, 1)
    pair.quiet()
    assert [(event.htlc_id, event.amount_msat) for event in pair.bob.said.received] == [(0, 1)]


def test_nothing_is_offered_that_the_other_side_could_not_pay_the_fee_for(tmp_path: Path) -> None:
    """BOLT 2, Adding an HTLC: who did not open checks that the opener can pay for one more output. checklist 19"""
    pair = opened(tmp_path, push=987_500_000, feerate=1000, anchors=False)
    assert spendable(pair.alice) < 1_000_000
    assert spendable(pair.bob) > 0
    offer_all(pair, pair.bob, *[1_000_000] * 40)
    pair.quiet()
    assert pair.bob.said.refused
    assert pair.alice.said.received
    assert lowest(pair, "alice") >= to_msat(Sat(RESERVE))
    mirrored(pair)


def test_what_the_opener_has_on_its_way_pays_no_fee(tmp_path: Path) -> None:
    """BOLT 2, Adding an HTLC: it may end as ours, and the fee is due before. checklist 19"""
    pair = opened(tmp_path, push=600_000_000, feerate=1000, anchors=False)
    offer(pair, pair.alice, spendable(pair.alice))
    pair.quiet()
    offer_all(pair, pair.bob, *[1_000_000] * 40)
    pair.quiet()
    assert pair.bob.said.refused
    assert lowest(pair, "alice") >= to_msat(Sat(RESERVE))
    mirrored(pair)


def test_a_feerate_and_offers_in_the_same_turn_are_paid_together(tmp_path: Path) -> None:
    """The feerate is proposed first; what may be offered beside it is judged at the new one."""
    pair = opened(tmp_path, anchors=True, feerate=1000)
    most = spendable(pair.alice)
    pair.alice.do(FeerateMoved(FeeratePerKw(20_000)))
    offer(pair, pair.alice, most)
    pair.quiet()
    assert not pair.alice.state.volatile.stalled
    assert not pair.bob.drops
    made = invoice(pair.bob, most)
    want = OfferWant(Msat(most), made.payment_hash, 200, onion_for(pair.bob, made, most, 200), "both")
    pair.alice.do(FeerateMoved(FeeratePerKw(40_000)), Offer(want))
    pair.quiet()
    assert not pair.alice.state.volatile.stalled
    assert not pair.bob.drops
    assert lowest(pair, "alice") >= to_msat(Sat(RESERVE))
    mirrored(pair)


def test_a_feerate_that_we_could_not_pay_is_not_proposed(tmp_path: Path) -> None:
    """Else the signer refuses, and the channel stands still over a wish that nobody needs. checklist 22"""
    pair = opened(tmp_path, push=950_000_000, feerate=1000)
    pair.alice.do(FeerateMoved(FeeratePerKw(60_000)))
    pair.quiet()
    assert not pair.alice.state.volatile.stalled
    assert [step.feerate_per_kw for step in pair.alice.state.committed.fees] == [1000]
    offer(pair, pair.bob, 1_000_000)
    pair.quiet()
    assert pair.alice.said.received


def test_the_last_of_many_feerates_is_proposed(tmp_path: Path) -> None:
    pair = opened(tmp_path)
    pair.disconnect()
    for rate in range(1000, 2000, 10):
        pair.alice.do(FeerateMoved(FeeratePerKw(rate)))
    assert len(pair.alice.state.volatile.wants) == 1
    pair.connect()
    pair.quiet()
    assert [step.feerate_per_kw for step in pair.bob.state.committed.fees] == [1990]


@pytest.mark.parametrize("anchors", [True, False], ids=["anchors", "static_remotekey"])
def test_both_sides_may_add_all_they_have_at_once(tmp_path: Path, anchors: bool) -> None:
    """Neither knows of the other's HTLC: both commitments must still be payable and signable."""
    pair = opened(tmp_path, anchors=anchors, feerate=2500)
    for end in pair.ends:
        offer(pair, end, spendable(end))
    pair.alice.do(FeerateMoved(FeeratePerKw(5000)))
    pair.quiet()
    for end in pair.ends:
        assert not end.drops
        assert not end.state.volatile.stalled
        assert len(end.said.received) == 1
    mirrored(pair)
    for end in pair.ends:
        end.do(Fulfil(0))
    pair.quiet()
    assert not pair.alice.state.htlcs
    assert not pair.bob.state.htlcs
    mirrored(pair)


def test_an_origin_is_offered_once(tmp_path: Path) -> None:
    """DESIGN, The shapes: payments may say an offer again after a crash; it is not paid twice."""
    pair = opened(tmp_path)
    made = invoice(pair.bob, 1_000_000)
    onion = onion_for(pair.bob, made, 1_000_000, 200)
    want = OfferWant(Msat(1_000_000), made.payment_hash, 200, onion, "pay:1")
    pair.alice.do(Offer(want), Offer(want))
    pair.quiet()
    pair.alice.do(Offer(want))
    pair.quiet()
    assert len(pair.bob.said.received) == 1
    assert not pair.alice.said.refused


def test_an_offer_that_the_signer_refuses_was_never_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id goes to the next offer, also in the database, and a removal beside it is not forgotten."""
    pair = opened(tmp_path)
    offer(pair, pair.bob, 1_000_000)
    pair.quiet()
    monkeypatch.setattr(Totals, "check_offer", lambda *_: None)
    made = invoice(pair.bob, 1_000_000)
    onion = onion_for(pair.bob, made, 1_000_000, 200)
    greedy = OfferWant(Msat(499_000_000), made.payment_hash, 200, onion, "greedy")
    modest = OfferWant(Msat(1_000_000), made.payment_hash, 200, onion, "modest")
    pair.alice.do(Fail(0, REASON), Offer(greedy))
    pair.alice.do(Offer(modest))
    pair.alice.answer()
    assert [event.origin for event in pair.alice.said.refused] == ["greedy"]
    assert same_as_saved(pair.alice)
    pair.quiet()
    assert [event.origin for event in pair.bob.said.failed]
    (received,) = pair.bob.said.received
    pair.bob.do(Fulfil(received.htlc_id))
    pair.quiet()
    assert [event.origin for event in pair.alice.said.fulfilled] == ["modest"]
    assert not pair.alice.state.htlcs
    mirrored(pair)


def same_as_saved(end: End) -> bool:
    loaded: State | None = end.database.state()
    assert loaded is not None
    rows: dict[tuple[bool, int], Htlc] = dict(end.state.htlcs)
    return loaded.htlcs == rows and loaded.committed == end.state.committed


def test_a_release_that_the_signer_refuses_holds_nothing_else_up(tmp_path: Path) -> None:
    """Payments asked for the preimage of an HTLC that pays too little: that HTLC waits, the rest goes on."""
    pair = opened(tmp_path)
    made = invoice(pair.bob, 5_000_000)
    onion = onion_for(pair.bob, made, 5_000_000, 200)
    pair.alice.do(Offer(OfferWant(Msat(1_000_000), made.payment_hash, 200, onion, "too little")))
    pair.quiet()
    offer(pair, pair.alice, 2_000_000)
    pair.quiet()
    made_by_alice = invoice(pair.alice, 3_000_000)
    back = onion_for(pair.alice, made_by_alice, 3_000_000, 200)
    pair.bob.do(
        Fulfil(0),
        Fulfil(1),
        Offer(OfferWant(Msat(3_000_000), made_by_alice.payment_hash, 200, back, "beside")),
    )
    pair.quiet()
    assert not pair.bob.state.volatile.stalled
    assert len(pair.alice.said.fulfilled) == 1
    assert len(pair.alice.said.received) == 1
    assert (False, 0) in pair.bob.state.htlcs
    pair.bob.do(Fail(0, REASON))
    pair.quiet()
    assert [event.origin for event in pair.alice.said.failed] == ["too little"]
    mirrored(pair)


def test_a_signer_that_is_away_during_a_resend_does_not_lose_the_revocation(tmp_path: Path) -> None:
    """While something is owed from before the connection, nothing new is begun."""
    pair = opened(tmp_path)
    offer(pair, pair.alice, 1_000_000)
    pair.alice.answer()
    pair.deliver(pair.alice, 10)
    while pair.bob.answer():
        pass
    pair.disconnect()  # bob's revoke_and_ack is lost
    pair.connect()
    pair.deliver(pair.alice)
    pair.deliver(pair.bob)
    assert pair.bob.asks
    pair.bob.answer(not_now=True)
    offer(pair, pair.bob, 1_000_000)
    assert not pair.bob.asks
    pair.bob.do(Tick())
    pair.quiet()
    for end in pair.ends:
        assert len(end.said.received) == 1
        assert not end.drops
    mirrored(pair)
