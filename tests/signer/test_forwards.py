"""Forwards, with a stolen node as the attacker: it would pay the next peer and let the peer before keep its money
(BOLT 2, "Forwarding HTLCs"; DESIGN, "The signer contract": structure with evidence)."""

from msgspec.structs import replace

from protocol.amounts import Msat
from protocol.bus.messages import signer as contract
from protocol.hashes import sha256
from signer.service import SignerService
from tests.signer.road import IN, IN_EXPIRY, OURS, OUT, OUT_EXPIRY, Road, other_channel
from tests.signer.support import HASH, PREIMAGE, World, htlc

# The attack, and the whole lives of a forward.


def test_a_paid_onward_htlc_is_not_failed_upstream(road: Road) -> None:
    """Attack: the next peer is paid and shows the preimage, then the received HTLC is failed."""
    road.passed_on()
    assert road.refuses_to_fail() == {"onward-lives"}
    road.paid_onward()
    assert road.refuses_to_fail() == {"balance-claim"}
    assert road.a.refuses(road.a.sign(2, OURS + IN - 1)) == "balance-claim"
    road.a.both_move(2, OURS + IN)


def test_without_a_declaration_nothing_binds_the_received_htlc(road: Road) -> None:
    """What is weaker: an undeclared onward HTLC is a payment of our own to the signer."""
    road.c.grants(replace(road.offer(), forwards=()), road.c.revocation(0))
    road.fails_upstream()


def test_a_failed_onward_htlc_is_failed_upstream(road: Road) -> None:
    road.passed_on()
    road.failed_onward()
    road.fails_upstream()
    assert not road.a.service._forwards._by_out and not road.a.service._forwards._by_in
    assert road.a.service.storage.all("SELECT * FROM forward") == []


def test_the_received_htlc_stays_until_the_last_commitment_is_without_the_onward_one(road: Road) -> None:
    """Attack: each commitment of the next channel that still has the HTLC can be published and claimed."""
    road.passed_on()
    for operation in (
        road.c.validate(2, OURS),
        contract.RevokeHolder(1),
        road.c.sign(2, OURS),
    ):
        road.c.grants(operation)
        assert road.refuses_to_fail() == {"onward-lives"}
    road.c.grants(road.c.revocation(1))
    road.fails_upstream()


def test_the_preimage_credits_the_received_htlc_before_the_onward_one_leaves(road: Road) -> None:
    """checklist 20: the preimage goes on at once."""
    road.passed_on()
    road.c.grants(contract.LearnPreimage(PREIMAGE))
    release = contract.ReleasePreimage(HASH, (3,), PREIMAGE)
    assert road.a.grants(release) == (contract.PreimageReleased(PREIMAGE),)
    assert road.refuses_to_fail() == {"balance-claim"}
    road.a.both_move(2, OURS + IN)
    assert road.a.grants(release) == (contract.PreimageReleased(PREIMAGE),)
    road.c.both_move(2, OURS - OUT)


def test_evidence_from_elsewhere_lets_the_received_htlc_be_fulfilled_while_the_onward_one_stands(
    road: Road,
) -> None:
    road.passed_on()
    road.a.grants(contract.ReleasePreimage(HASH, (3,), PREIMAGE))
    road.a.both_move(2, OURS + IN)
    assert road.a.service._forwards.passed_on(road.a.drawn.channel)  # the same offer must still be answered
    road.a.both_move(3, OURS + IN)
    road.c.grants(road.offer())
    road.paid_onward()
    assert not road.a.service._forwards.passed_on(road.a.drawn.channel)


# What may be declared.


def test_an_onward_htlc_does_not_outweigh_what_was_received(road: Road) -> None:
    assert road.c.refuses(road.offer(amount_msat=Msat(IN + 1))) == "forward-amount"
    road.c.grants(road.offer(amount_msat=Msat(IN)))


def test_an_onward_htlc_expires_well_before_the_received_one(road: Road) -> None:
    latest = IN_EXPIRY - contract.MIN_FORWARD_DELTA
    assert road.c.refuses(road.offer(cltv_expiry=latest + 1)) == "forward-expiry"
    assert road.c.refuses(road.offer(cltv_expiry=IN_EXPIRY + 100)) == "forward-expiry"
    road.c.grants(road.offer(cltv_expiry=latest))


def test_an_onward_htlc_has_the_hash_of_the_received_one(road: Road) -> None:
    """Attack: the preimage of another hash pays the next peer and earns nothing."""
    assert road.c.refuses(road.offer(payment_hash=b"\x05" * 32)) == "forward-incoming"


def test_a_received_htlc_is_passed_on_only_when_it_stands_everywhere(service: SignerService) -> None:
    """Attack: the peer before publishes the commitment that lacks it."""
    a = World(service)
    c = World(service, beside=a, place=1)
    received = (htlc(False, 3, IN, HASH, IN_EXPIRY),)
    onward = (htlc(True, 5, OUT, HASH, OUT_EXPIRY),)
    offer = c.sign(1, OURS - OUT, onward, forwards=(contract.Forward(5, a.channel_id, 3),))
    for operation in (
        a.validate(1, OURS, received),
        contract.RevokeHolder(0),
        a.sign(1, OURS, received),
        a.revocation(0),
    ):
        assert c.refuses(offer) == "forward-incoming"
        a.grants(operation)
    c.grants(offer)


def test_sources_that_are_none_are_refused(road: Road) -> None:
    for wrong in (
        road.forward(from_htlc=4),
        road.forward(channel=b"\x01" * 32),
        road.forward(channel=road.c.channel_id),
        road.forward(channel=road.a.drawn.channel + bytes(16)),
    ):
        assert road.c.refuses(road.offer(wrong)) == "forward-incoming"
    assert road.c.refuses(road.offer(road.forward(htlc_id=6))) == "forward-htlc"
    assert road.c.refuses(road.offer(road.forward(), road.forward())) == "forward-htlc"


def test_an_htlc_that_we_received_is_no_offer(road: Road) -> None:
    """Attack: a declaration for an HTLC that the next peer offered, so that our received one hangs."""
    turned = road.c.sign(1, OURS, (htlc(False, 5, OUT, HASH, OUT_EXPIRY),), forwards=(road.forward(),))
    assert road.c.refuses(turned) == "forward-htlc"


def test_a_closing_channel_passes_nothing_on(road: Road) -> None:
    road.a.grants(contract.SignHolderCommitment())
    assert road.c.refuses(road.offer()) == "forward-incoming"


def test_income_of_our_own_invoice_is_not_passed_on(service: SignerService) -> None:
    """Attack: send what we are paid to a friend."""
    a = World(service)
    c = World(service, beside=a, place=1)
    made = a.invoice(IN)
    a.both_move(1, OURS, (htlc(False, 3, IN, made.payment_hash, IN_EXPIRY),))
    onward = (htlc(True, 5, OUT, made.payment_hash, OUT_EXPIRY),)
    offer = c.sign(1, OURS - OUT, onward, forwards=(contract.Forward(5, a.channel_id, 3),))
    assert c.refuses(offer) == "forward-own"


def test_an_htlc_that_was_offered_before_is_not_declared_later(road: Road) -> None:
    road.c.grants(replace(road.offer(), forwards=()), road.c.revocation(0))
    again = road.c.sign(2, OURS - OUT, (road.onward,), forwards=(road.forward(),))
    assert road.c.refuses(again) == "forward-htlc"


# One onward HTLC at a time.


def test_one_received_htlc_pays_for_one_onward_htlc(road: Road) -> None:
    """Attack: pass it on twice; both are claimed with one preimage."""
    d, second = other_channel(road)
    road.c.grants(road.offer())
    assert d.refuses(second) == "forward-twice"
    road.c.grants(road.c.revocation(0))
    road.c.holder_moves(1, OURS - OUT, (road.onward,))
    assert d.refuses(second) == "forward-twice"
    road.failed_onward()
    d.grants(second)
    assert road.refuses_to_fail() == {"onward-lives"}


def test_two_offers_of_one_content_do_not_share_a_source(road: Road) -> None:
    twins = (road.onward, htlc(True, 6, OUT, HASH, OUT_EXPIRY))
    both = (road.forward(5), road.forward(6))
    assert road.c.refuses(road.c.sign(1, OURS - 2 * OUT, twins, forwards=both)) == "forward-twice"
    # A refused declaration leaves nothing behind.
    road.c.grants(road.offer())


def test_a_received_htlc_that_was_paid_for_is_not_passed_on_again(road: Road) -> None:
    """Attack: the preimage is known to the friend, so a second onward HTLC is a gift."""
    road.passed_on()
    road.paid_onward()
    d, second = other_channel(road)
    assert d.refuses(second) == "forward-twice"


def test_a_second_attempt_that_was_paid_is_owed_beside_the_first_that_failed(road: Road) -> None:
    """Attack: pass it on to a friend after another hop gave it back; the failed attempt stands for both."""
    road.passed_on()
    road.failed_onward()
    d, second = other_channel(road)
    d.grants(second, d.revocation(0))
    d.holder_moves(1, OURS - OUT, (htlc(True, 0, OUT, HASH, OUT_EXPIRY),))
    d.grants(contract.LearnPreimage(PREIMAGE))
    d.both_move(2, OURS - OUT)
    assert road.refuses_to_fail() == {"balance-claim"}
    road.a.both_move(2, OURS + IN)


def test_a_second_attempt_is_not_forgotten_when_the_first_offer_gets_another_source(road: Road) -> None:
    """Attack: the id of the failed attempt comes again for another received HTLC, and its old row goes."""
    fourth = htlc(False, 4, IN, HASH, IN_EXPIRY)
    road.a.both_move(2, OURS, (road.received, fourth))
    road.passed_on()
    road.failed_onward()
    d, second = other_channel(road)
    d.grants(second)
    road.c.grants(again(road, 3, 4))
    assert road.a.refuses(road.a.sign(3, OURS, (fourth,))) == "onward-lives"
    assert road.a.refuses(road.a.sign(3, OURS, (road.received,))) == "onward-lives"


def test_an_htlc_of_ours_in_the_terms_of_the_received_one_does_not_stand_for_it(road: Road) -> None:
    """Attack: fail the received HTLC in the content that offers one with its id, amount, hash and expiry."""
    road.passed_on()
    turned = (htlc(True, 3, IN, HASH, IN_EXPIRY),)
    assert road.a.refuses(road.a.sign(2, OURS - IN, turned)) == "onward-lives"
    assert road.a.refuses(road.a.validate(2, OURS - IN, turned)) == "onward-lives"


def test_a_preimage_binds_the_htlcs_of_its_hash_only(road: Road) -> None:
    """What the first one brought is owed; what the second gave back may fail."""
    other = sha256(b"\x22" * 32)
    fourth = htlc(False, 4, IN, other, IN_EXPIRY)
    road.a.both_move(2, OURS, (road.received, fourth))
    pair = (road.onward, htlc(True, 6, OUT, other, OUT_EXPIRY))
    sources = (road.forward(5, 3), road.forward(6, 4))
    road.c.grants(road.c.sign(1, OURS - 2 * OUT, pair, forwards=sources), road.c.revocation(0))
    road.c.holder_moves(1, OURS - 2 * OUT, pair)
    road.c.grants(contract.LearnPreimage(PREIMAGE))
    road.c.both_move(2, OURS - 2 * OUT, pair[1:])
    road.c.both_move(3, OURS - OUT)
    road.a.grants(road.a.sign(3, OURS + IN))
    assert road.a.refuses(road.a.sign(3, OURS)) == "balance-claim"


def test_parts_of_one_payment_are_each_owed(road: Road) -> None:
    """Attack: the preimage is shown for the first part; the second is passed on later, removed as bought, and its
    received part failed."""
    road.a.both_move(2, OURS, (road.received, htlc(False, 4, IN, HASH, IN_EXPIRY)))
    road.passed_on()
    road.c.grants(contract.LearnPreimage(PREIMAGE))
    twin = htlc(True, 6, OUT, HASH, OUT_EXPIRY)
    both = (road.onward, twin)
    road.c.grants(road.c.sign(2, OURS - 2 * OUT, both, forwards=(road.forward(6, 4),)), road.c.revocation(1))
    road.c.grants(road.c.validate(2, OURS - 2 * OUT, both), contract.RevokeHolder(1))
    road.c.both_move(3, OURS - 2 * OUT)
    assert road.a.refuses(road.a.validate(3, OURS)) == "balance-claim"
    assert road.a.refuses(road.a.validate(3, OURS + IN)) == "balance-claim"
    road.a.both_move(3, OURS + 2 * IN)


def test_a_preimage_does_not_bind_what_failed_before_it_came(road: Road) -> None:
    """A part that the next peer gave back and that is half failed upstream must still be able to leave."""
    road.passed_on()
    road.failed_onward()
    road.a.holder_moves(2, OURS)
    twin = (htlc(True, 6, OUT, HASH, OUT_EXPIRY),)
    road.c.both_move(3, OURS - OUT, twin)
    road.c.grants(contract.LearnPreimage(PREIMAGE))
    road.a.peer_moves(2, OURS)


def test_a_preimage_does_not_bind_what_it_did_not_buy(road: Road) -> None:
    """The next peer gave the onward HTLC back, and shows the preimage for another payment of the same hash."""
    road.passed_on()
    road.failed_onward()
    twin = (htlc(True, 6, OUT, HASH, OUT_EXPIRY),)
    road.c.both_move(3, OURS - OUT, twin)
    road.c.grants(contract.LearnPreimage(PREIMAGE))
    road.fails_upstream()


def again(road: Road, number: int, from_htlc: int) -> contract.SignCounterparty:
    """The onward HTLC once more, in the very terms of the first, after that left every commitment."""
    left = OURS if from_htlc == 4 else OURS - OUT
    return road.c.sign(number, left - OUT, (road.onward,), forwards=(road.forward(5, from_htlc),))


def test_an_offer_that_comes_again_is_judged_anew(road: Road) -> None:
    """Attack: after the first was paid, offer the same id in the same terms from the same source."""
    road.passed_on()
    road.paid_onward()
    assert road.c.refuses(again(road, 3, 3)) == "forward-twice"


def test_an_offer_that_failed_may_come_again(road: Road) -> None:
    road.a.both_move(2, OURS, (road.received, htlc(False, 4, IN, HASH, IN_EXPIRY)))
    road.passed_on()
    road.failed_onward()
    road.c.grants(again(road, 3, 4))
    forwards = road.a.service._forwards
    (onwards,) = forwards.passed_on(road.a.drawn.channel).values()
    assert [onward.incoming[0] for onward in onwards] == [4]
    assert len(road.a.service.storage.all("SELECT * FROM forward")) == 1
    road.a.both_move(3, OURS, (htlc(False, 4, IN, HASH, IN_EXPIRY),))
    assert road.a.refuses(road.a.sign(4, OURS)) == "onward-lives"


def test_a_debt_is_not_forgotten_for_a_new_offer(road: Road) -> None:
    """Attack: offer the id again from another source, so that the row of the paid one is lost."""
    road.a.both_move(2, OURS, (road.received, htlc(False, 4, IN, HASH, IN_EXPIRY)))
    road.passed_on()
    road.paid_onward()
    assert road.c.refuses(again(road, 3, 4)) == "forward-changed"


def test_an_htlc_keeps_the_source_that_it_was_declared_with(road: Road) -> None:
    road.a.both_move(2, OURS, (road.received, htlc(False, 4, IN, HASH, IN_EXPIRY)))
    offer = road.offer()
    first = road.c.grants(offer)
    assert road.c.refuses(road.offer(road.forward(from_htlc=4))) == "forward-changed"
    assert road.c.grants(offer) == first


def test_an_id_that_was_never_committed_may_come_again_for_another_source(road: Road) -> None:
    """After a crash the node may have forgotten the version, and BOLT 2 lets ids of uncommitted HTLCs return."""
    other = sha256(b"\x22" * 32)
    road.a.both_move(2, OURS, (road.received, htlc(False, 4, IN, other, IN_EXPIRY)))
    road.c.grants(road.offer())
    again = (htlc(True, 5, OUT, other, OUT_EXPIRY),)
    road.c.grants(road.c.sign(1, OURS - OUT, again, forwards=(road.forward(5, 4),)))
    received = (road.received,)
    assert road.a.refuses(road.a.sign(3, OURS, received)) == "onward-lives"
    assert road.a.refuses(road.a.sign(3, OURS)) == "onward-lives"


def test_a_channel_may_pass_on_to_itself(service: SignerService) -> None:
    """Both rules look at the same state, the one of this very request."""
    w = World(service)
    received, onward = htlc(False, 0, IN, HASH, IN_EXPIRY), htlc(True, 0, OUT, HASH, OUT_EXPIRY)
    w.both_move(1, OURS, (received,))
    w.grants(
        w.sign(2, OURS - OUT, (received, onward), forwards=(contract.Forward(0, w.channel_id, 0),)),
        w.revocation(1),
    )
    w.holder_moves(2, OURS - OUT, (received, onward))
    assert w.refuses(w.sign(3, OURS - OUT, (onward,))) == "onward-lives"
    # Both leave in one content: the version before has the onward HTLC, so the received one must wait.
    assert w.refuses(w.sign(3, OURS)) == "onward-lives"
    w.both_move(3, OURS, (received,))
    w.both_move(4, OURS)
