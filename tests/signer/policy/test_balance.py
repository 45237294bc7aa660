"""The balance rules: each is kept by honest traffic and broken by a stolen node together with its peer."""

import pytest

from protocol.bolt3.commitment import Side
from protocol.bus.messages import signer as contract
from protocol.hashes import sha256
from signer.service import SignerService
from tests.signer.support import CAPACITY, HASH, PREIMAGE, World, htlc

OURS = 600_000_000
AMOUNT = 50_000_000
OTHER_PREIMAGE = b"\x22" * 32
SIDES = pytest.mark.parametrize("side", list(Side))


def moves(world: World, side: Side, number: int, to_holder: int, htlcs: tuple = ()) -> contract.Operation:
    make = world.validate if side is Side.HOLDER else world.sign
    return make(number, to_holder, htlcs)


@SIDES
def test_a_balance_cannot_be_given_to_the_peer(world: World, side: Side) -> None:
    assert world.refuses(moves(world, side, 1, OURS - 1)) == "balance-claim"
    world.grants(moves(world, side, 1, OURS))


@SIDES
def test_a_balance_may_grow(world: World, side: Side) -> None:
    world.grants(moves(world, side, 1, OURS + 1))
    assert world.state.holder_validated + world.state.counterparty_signed == 1


@SIDES
def test_offering_an_htlc_costs_its_amount_and_no_more(world: World, side: Side) -> None:
    offered = (htlc(True, 0, AMOUNT),)
    assert world.refuses(moves(world, side, 1, OURS - AMOUNT - 1, offered)) == "balance-claim"
    world.grants(moves(world, side, 1, OURS - AMOUNT, offered))


@SIDES
def test_a_received_htlc_cannot_be_paid_out_of_our_balance(world: World, side: Side) -> None:
    received = (htlc(False, 0, AMOUNT),)
    assert world.refuses(moves(world, side, 1, OURS - AMOUNT, received)) == "balance-claim"
    world.grants(moves(world, side, 1, OURS, received))


@SIDES
def test_an_offered_htlc_leaves_in_the_peers_favour_only_with_its_preimage(world: World, side: Side) -> None:
    world.both_move(1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),))
    assert world.refuses(moves(world, side, 2, OURS - AMOUNT)) == "balance-claim"
    world.grants(contract.LearnPreimage(OTHER_PREIMAGE))
    assert world.refuses(moves(world, side, 2, OURS - AMOUNT)) == "balance-claim"
    world.grants(contract.LearnPreimage(PREIMAGE), moves(world, side, 2, OURS - AMOUNT))


@SIDES
def test_an_offered_htlc_that_fails_comes_back(world: World, side: Side) -> None:
    world.both_move(1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),))
    world.grants(moves(world, side, 2, OURS))


def test_a_preimage_pays_for_its_htlcs_once(world: World) -> None:
    """Of two HTLCs with different hashes, one preimage buys one."""
    pair = (htlc(True, 0, AMOUNT), htlc(True, 1, AMOUNT, sha256(OTHER_PREIMAGE)))
    world.both_move(1, OURS - 2 * AMOUNT, pair)
    world.grants(contract.LearnPreimage(PREIMAGE))
    assert world.refuses(world.sign(2, OURS - 2 * AMOUNT)) == "balance-claim"
    world.grants(world.sign(2, OURS - AMOUNT))


def test_a_preimage_learned_before_the_htlc_was_offered_buys_nothing(world: World) -> None:
    world.grants(contract.LearnPreimage(PREIMAGE))
    world.both_move(1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),))
    assert world.refuses(world.sign(2, OURS - AMOUNT)) == "balance-claim"


def test_a_preimage_is_forgotten_with_the_last_htlc_that_has_its_hash(world: World) -> None:
    world.both_move(1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),))
    world.grants(contract.LearnPreimage(PREIMAGE))
    world.holder_moves(2, OURS - AMOUNT)
    assert world.state.learned == {HASH}
    world.peer_moves(2, OURS - AMOUNT)
    assert world.state.learned == frozenset()
    world.both_move(3, OURS - 2 * AMOUNT, (htlc(True, 1, AMOUNT),))
    assert world.refuses(world.sign(4, OURS - 2 * AMOUNT)) == "balance-claim"


def receive(world: World, amount: int = AMOUNT) -> bytes:
    """A received HTLC for an invoice of ours, committed on both sides; its preimage released. The payment hash."""
    made = world.invoice(amount)
    world.both_move(1, OURS, (htlc(False, 0, amount, made.payment_hash),))
    (released,) = world.grants(contract.ReleasePreimage(made.payment_hash, (0,)))
    assert isinstance(released, contract.PreimageReleased)
    assert sha256(released.preimage) == made.payment_hash
    return made.payment_hash


@SIDES
def test_a_released_preimage_must_be_credited(world: World, side: Side) -> None:
    receive(world)
    assert world.refuses(moves(world, side, 2, OURS)) == "balance-claim"
    assert world.refuses(moves(world, side, 2, OURS + AMOUNT - 1)) == "balance-claim"
    world.grants(moves(world, side, 2, OURS + AMOUNT))


@SIDES
def test_a_preimage_buys_the_offered_htlc_and_not_the_received_one_of_its_hash(
    world: World, side: Side
) -> None:
    """One payment both ways through this channel, in equal terms: what comes in is credited all the same."""
    offered, received = htlc(True, 0, AMOUNT), htlc(False, 0, AMOUNT)
    world.both_move(1, OURS - AMOUNT, (offered, received))
    world.grants(contract.LearnPreimage(PREIMAGE))
    world.grants(contract.ReleasePreimage(HASH, (0,), PREIMAGE))
    assert world.refuses(moves(world, side, 2, OURS - AMOUNT)) == "balance-claim"
    world.grants(moves(world, side, 2, OURS - AMOUNT, (received,)))
    world.grants(moves(world, side, 2, OURS))


@SIDES
def test_an_htlc_that_stays_is_not_bought(world: World, side: Side) -> None:
    """Else its amount leaves our balance once with each commitment that keeps it."""
    offered = (htlc(True, 0, AMOUNT),)
    world.both_move(1, OURS - AMOUNT, offered)
    world.grants(contract.LearnPreimage(PREIMAGE))
    assert world.refuses(moves(world, side, 2, OURS - 2 * AMOUNT, offered)) == "balance-claim"
    world.grants(moves(world, side, 2, OURS - AMOUNT, offered))


@SIDES
def test_a_released_htlc_may_stay_while_the_peer_is_slow(world: World, side: Side) -> None:
    payment_hash = receive(world)
    world.grants(moves(world, side, 2, OURS, (htlc(False, 0, AMOUNT, payment_hash),)))


@SIDES
def test_an_unreleased_received_htlc_may_fail(world: World, side: Side) -> None:
    made = world.invoice(AMOUNT)
    world.both_move(1, OURS, (htlc(False, 0, AMOUNT, made.payment_hash),))
    world.grants(moves(world, side, 2, OURS))


def test_another_htlc_with_a_released_hash_may_fail(world: World) -> None:
    """Somebody pays an invoice twice: the second HTLC was not what the preimage was released for."""
    payment_hash = receive(world)
    world.both_move(2, OURS + AMOUNT, (htlc(False, 1, AMOUNT, payment_hash),))
    world.both_move(3, OURS + AMOUNT)


def test_a_released_htlc_that_was_credited_cannot_stand_for_another(world: World) -> None:
    """An id that comes back is no claim: the peer could reclaim that HTLC."""
    payment_hash = receive(world)
    world.both_move(2, OURS + AMOUNT)
    assert world.state.released == frozenset()
    again = (htlc(False, 0, AMOUNT, payment_hash),)
    assert world.refuses(world.sign(3, OURS, again)) == "balance-claim"


@SIDES
def test_a_commitment_follows_from_one_version_of_the_number_before(world: World, side: Side) -> None:
    """What follows from none of them is refused; what the peer could publish anyway is the floor."""
    world.grants(moves(world, side, 1, OURS + 5_000))
    world.grants(moves(world, side, 1, OURS + 2_000))
    world.grants(contract.RevokeHolder(0) if side is Side.HOLDER else world.revocation(0))
    assert world.refuses(moves(world, side, 2, OURS + 1_999)) == "balance-claim"
    world.grants(moves(world, side, 2, OURS + 2_000))


@SIDES
def test_one_path_cannot_borrow_a_preimage_from_another(world: World, side: Side) -> None:
    """Two versions with one HTLC each: whoever shows both preimages gets the price of one of them."""
    other = htlc(True, 1, AMOUNT, sha256(OTHER_PREIMAGE))
    world.grants(moves(world, side, 1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),)))
    world.grants(moves(world, side, 1, OURS - AMOUNT, (other,)))
    world.grants(contract.RevokeHolder(0) if side is Side.HOLDER else world.revocation(0))
    world.grants(contract.LearnPreimage(PREIMAGE), contract.LearnPreimage(OTHER_PREIMAGE))
    assert world.refuses(moves(world, side, 2, OURS - 2 * AMOUNT)) == "balance-claim"
    world.grants(moves(world, side, 2, OURS - AMOUNT))


@SIDES
def test_a_forgotten_version_does_not_stop_honest_traffic(world: World, side: Side) -> None:
    """An HTLC added beside a forgotten version, and fulfilled one number later."""
    world.grants(moves(world, side, 1, OURS))
    world.grants(moves(world, side, 1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),)))
    world.grants(contract.RevokeHolder(0) if side is Side.HOLDER else world.revocation(0))
    assert world.refuses(moves(world, side, 2, OURS - AMOUNT)) == "balance-claim"
    world.grants(contract.LearnPreimage(PREIMAGE), moves(world, side, 2, OURS - AMOUNT))


@SIDES
def test_a_new_version_of_a_number_without_predecessor_is_held_against_its_siblings(
    world: World, side: Side
) -> None:
    world.grants(moves(world, side, 1, OURS + 5_000))
    world.grants(contract.RevokeHolder(0) if side is Side.HOLDER else world.revocation(0))
    assert world.refuses(moves(world, side, 1, OURS)) == "balance-claim"
    world.grants(moves(world, side, 1, OURS + 6_000))


@SIDES
def test_an_htlc_keeps_its_terms(world: World, side: Side) -> None:
    world.both_move(1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),))
    later = (htlc(True, 0, AMOUNT, expiry=900),)
    smaller = (htlc(True, 0, AMOUNT - 1),)
    other = (htlc(True, 0, AMOUNT, sha256(OTHER_PREIMAGE)),)
    assert world.refuses(moves(world, side, 2, OURS - AMOUNT, later)) == "htlc-changed"
    assert world.refuses(moves(world, side, 2, OURS - AMOUNT + 1, smaller)) == "htlc-changed"
    assert world.refuses(moves(world, side, 2, OURS - AMOUNT, other)) == "htlc-changed"
    world.grants(moves(world, side, 2, OURS - AMOUNT, (htlc(True, 0, AMOUNT),)))


@SIDES
def test_an_id_taken_back_before_it_was_committed_may_come_again(world: World, side: Side) -> None:
    """A crash between signer and node: the node offers another HTLC under the id of the one that it forgot."""
    first, second = (htlc(True, 0, AMOUNT),), (htlc(True, 0, 2 * AMOUNT, sha256(OTHER_PREIMAGE), 700),)
    world.grants(moves(world, side, 1, OURS - AMOUNT, first))
    world.grants(moves(world, side, 1, OURS - 2 * AMOUNT, second))
    world.grants(contract.RevokeHolder(0) if side is Side.HOLDER else world.revocation(0))
    world.grants(moves(world, side, 2, OURS - 2 * AMOUNT, second))


@SIDES
def test_an_id_comes_again_in_a_sibling_when_the_number_before_is_revoked(world: World, side: Side) -> None:
    world.grants(moves(world, side, 1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),)))
    world.grants(contract.RevokeHolder(0) if side is Side.HOLDER else world.revocation(0))
    world.grants(moves(world, side, 1, OURS - 2 * AMOUNT, (htlc(True, 0, 2 * AMOUNT),)))


@SIDES
@pytest.mark.parametrize("holder_is_opener", [True, False])
def test_the_first_commitments_are_those_of_the_open(
    service: SignerService, side: Side, holder_is_opener: bool
) -> None:
    world = World(service, holder_is_opener=holder_is_opener, opened=False)
    world.node.ask(world.setup)
    ours = world.opening[0]
    assert ours == (OURS if holder_is_opener else 400_000_000)
    for wrong in (ours + 1, ours - 1):
        assert world.refuses(moves(world, side, 0, wrong)) == "opening-balance"
    with_htlc = (htlc(True, 0, AMOUNT),)
    assert world.refuses(moves(world, side, 0, ours - AMOUNT, with_htlc)) == "opening-balance"
    world.grants(moves(world, side, 0, ours))


@SIDES
def test_a_commitment_shares_out_exactly_the_capacity(world: World, side: Side) -> None:
    operation = moves(world, side, 1, OURS)
    assert isinstance(operation, contract.ValidateHolder | contract.SignCounterparty)
    for change in (-1, 1):
        content = operation.content
        more = type(content)(
            content.number, content.feerate_per_kw, content.to_owner_msat, content.to_other_msat + change, ()
        )
        bad: contract.Operation
        if isinstance(operation, contract.ValidateHolder):
            bad = contract.ValidateHolder(1, more, operation.signatures)
        else:
            bad = contract.SignCounterparty(1, more)
        assert world.refuses(bad) == "content"
    assert content.to_owner_msat + content.to_other_msat == 1000 * CAPACITY
