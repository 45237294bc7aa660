"""`close-htlcs` where a crash between signer and node has left a version that nobody will ever revoke (DESIGN, "Version
sets" and "Closing is one-way")."""

import pytest

from protocol.bus.messages import signer as contract
from tests.signer.road import IN, OURS, Road
from tests.signer.support import HASH, PREIMAGE, World, htlc

MINE = 600_000_000
AMOUNT = 50_000_000
RECEIVED = htlc(False, 0, AMOUNT)
OFFERED = htlc(True, 0, AMOUNT)


def close(world: World, sat: int = 600_000) -> contract.SignMutualClose:
    return world.close(sat)


def test_what_the_peer_offered_and_then_forgot_does_not_hold_a_close(world: World) -> None:
    """checklist 26: it signed our commitment with the HTLC, our node lost that, and the peer signs without it."""
    world.holder_moves(1, MINE, (RECEIVED,))
    world.grants(close(world))
    assert world.state.frozen == "mutual_close"


def test_the_close_pays_no_less_than_every_version(world: World) -> None:
    world.holder_moves(1, MINE, (RECEIVED,))
    assert world.refuses(close(world, 599_999)) == "close-amounts"


def test_what_stands_in_a_commitment_of_the_peer_holds_it(world: World) -> None:
    """That one the peer can publish, with an HTLC that both may claim."""
    world.both_move(1, MINE, (RECEIVED,))
    assert world.refuses(close(world)) == "close-htlcs"
    world.grants(world.sign(2, MINE))  # two versions of theirs, one of which has it still
    assert world.refuses(close(world)) == "close-htlcs"


def test_what_we_offered_holds_it_even_if_only_we_hold_it(world: World) -> None:
    """It fails: theirs gives it back already, and the lowest balance would leave it to the peer."""
    world.both_move(1, MINE - AMOUNT, (OFFERED,))
    world.peer_moves(2, MINE)
    assert world.refuses(close(world)) == "close-htlcs"
    world.holder_moves(2, MINE)
    world.grants(close(world))


def test_what_was_released_holds_it_even_if_only_we_hold_it(world: World) -> None:
    """Theirs credits it, ours holds it to be claimed: the lowest balance would leave it to the peer."""
    made = world.invoice(AMOUNT)
    paid = htlc(False, 0, AMOUNT, made.payment_hash)
    world.both_move(1, MINE, (paid,))
    world.grants(contract.ReleasePreimage(made.payment_hash, (0,)))
    world.peer_moves(2, MINE + AMOUNT)
    assert world.refuses(close(world)) == "close-htlcs"
    world.holder_moves(2, MINE + AMOUNT)
    world.grants(close(world, 650_000))


def test_what_was_passed_on_holds_it_even_if_only_we_hold_it(road: Road) -> None:
    """Attack: the next peer took the onward HTLC; the peer before credits it in its own commitment only, and closes at
    ours, the lowest."""
    road.passed_on()
    road.paid_onward()
    road.a.peer_moves(2, OURS + IN)
    assert road.a.refuses(road.a.close(OURS // 1000)) == "close-htlcs"
    road.a.holder_moves(2, OURS + IN)
    road.a.grants(road.a.close((OURS + IN) // 1000))


@pytest.mark.parametrize("same", [True, False])
def test_only_the_same_htlc_in_theirs_counts(world: World, same: bool) -> None:
    """The id is used again for another offer, which is over; that of the lost version is not confused with it."""
    world.holder_moves(1, MINE, (RECEIVED,))
    world.grants(world.validate(1, MINE, (htlc(False, 0, AMOUNT, bytes(32)),)))
    if same:
        world.grants(world.sign(1, MINE, (RECEIVED,)))
        assert world.refuses(close(world)) == "close-htlcs"
    else:
        world.grants(close(world))


def test_a_preimage_that_came_from_elsewhere_counts_as_released(world: World) -> None:
    world.both_move(1, MINE, (RECEIVED,))
    world.grants(contract.ReleasePreimage(HASH, (0,), PREIMAGE))
    world.peer_moves(2, MINE + AMOUNT)
    assert world.refuses(close(world)) == "close-htlcs"
