"""Nobody can jam a channel by holding HTLCs, and honest traffic is not slowed."""

from node.payments.admission import GOOD_SECONDS, Admission, Held
from protocol.amounts import Msat

ALICE, MALLORY, OUT, OTHER = b"a" * 33, b"m" * 33, b"o" * 32, b"p" * 32
VALUE = 1_000_000_000


def take(
    admission: Admission, peer: bytes, amount: int = 1000, *, fee: int = 10, out: bytes = OUT
) -> Held | None:
    return admission.admit(
        peer, out, amount=Msat(amount), fee=fee, blocks=100, slots=40, value=Msat(VALUE), now=0.0
    )


def fill(admission: Admission, peer: bytes) -> list[Held]:
    held = []
    while (one := take(admission, peer)) is not None:
        held.append(one)
    return held


def test_one_peer_without_reputation_cannot_take_all_slots_of_the_general_part():
    admission = Admission()
    assert len(fill(admission, MALLORY)) == 15
    assert len(fill(admission, ALICE)) == 5  # the rest of the general half
    assert take(admission, b"c" * 33) is None
    assert take(admission, MALLORY, out=OTHER) is not None  # another channel is another matter


def test_a_peer_that_earned_more_than_its_htlcs_could_cost_enters_the_protected_part():
    admission = Admission()
    fill(admission, MALLORY)
    risk = 10 * round(100 * 600 / GOOD_SECONDS)
    admission.remember([(ALICE, 6 * risk, 0.0)])
    assert len(fill(admission, ALICE)) == 6
    assert take(admission, MALLORY) is None


def test_what_is_given_back_can_be_taken_again():
    admission = Admission()
    held = fill(admission, MALLORY)
    admission.release(held[0], paid=False, seconds=1.0, now=1.0)
    assert take(admission, MALLORY) is not None
    assert take(admission, MALLORY) is None


def test_the_protected_part_is_no_larger_for_the_best_reputation():
    admission = Admission()
    admission.remember([(ALICE, 10**9, 0.0)])
    fill(admission, MALLORY)
    assert len(fill(admission, ALICE)) == 5 + 20


def test_both_parts_together_hold_no_more_than_the_channel_may_carry():
    admission = Admission()
    admission.remember([(ALICE, 10**9, 0.0)])
    for peer in (MALLORY, ALICE):
        assert take(admission, peer, VALUE // 2) is not None
    assert take(admission, ALICE, 1) is None


def test_a_fifth_of_the_value_is_kept_from_peers_without_reputation():
    admission = Admission()
    assert take(admission, MALLORY, VALUE // 2) is not None
    assert take(admission, ALICE, VALUE * 3 // 10) is not None
    assert take(admission, ALICE, 1) is None


def test_slots_value_and_risk_are_free_again_for_everybody_when_an_htlc_ends():
    admission = Admission()
    held = [*fill(admission, MALLORY), *fill(admission, ALICE)]
    admission.release(held[0], paid=False, seconds=1.0, now=0.0)
    assert take(admission, b"c" * 33) is not None
    for peer in (MALLORY, ALICE):
        whole = take(admission, peer, VALUE, out=OTHER)
        assert whole is not None
        admission.release(whole, paid=False, seconds=1.0, now=0.0)
    risk = 10 * round(100 * 600 / GOOD_SECONDS)
    admission.remember([(b"d" * 33, risk, 0.0)])
    for _ in range(2):
        one = take(admission, b"d" * 33)
        assert one is not None and one.protected
        admission.release(one, paid=False, seconds=1.0, now=0.0)


def test_paid_fast_earns_the_fee_failed_fast_nothing_and_slow_costs():
    admission = Admission()
    for paid, seconds, expected in (
        (True, 1.0, 10),
        (False, 1.0, 10),
        (True, 3 * GOOD_SECONDS, 0),
        (False, 91.0, -10),
    ):
        held = take(admission, ALICE)
        assert held is not None
        admission.release(held, paid=paid, seconds=seconds, now=0.0)
        assert admission.reputation(ALICE, 0.0) == expected


def test_reputation_fades():
    admission = Admission()
    admission.remember([(ALICE, 1000, 0.0)])
    assert admission.reputation(ALICE, 14 * 86_400.0) == 500


def test_a_single_htlc_may_be_as_large_as_the_channel_but_many_together_may_not():
    admission = Admission()
    assert take(admission, ALICE, VALUE) is not None
    assert take(admission, MALLORY, 1000) is None
    other = Admission()
    assert take(other, MALLORY, VALUE // 2) is not None
    assert take(other, MALLORY, VALUE // 4) is None
    assert take(other, ALICE, VALUE // 4) is not None
