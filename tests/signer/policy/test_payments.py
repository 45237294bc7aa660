"""When a preimage leaves: tests in which a stolen node would forward our income away."""

from protocol.bus.messages import signer as contract
from protocol.hashes import sha256
from tests.signer.support import HASH, World, htlc, make_invoice_request

OURS = 600_000_000
AMOUNT = 50_000_000


def release(payment_hash: bytes, *ids: int) -> contract.ReleasePreimage:
    return contract.ReleasePreimage(payment_hash, ids)


def test_only_preimages_of_our_invoices_are_released(world: World) -> None:
    world.both_move(1, OURS, (htlc(False, 0, AMOUNT),))
    assert world.refuses(release(HASH, 0)) == "release-unknown"


def test_a_preimage_stays_until_the_htlc_stands_in_every_commitment(world: World) -> None:
    made = world.invoice(AMOUNT)
    received = (htlc(False, 0, AMOUNT, made.payment_hash),)
    assert world.refuses(release(made.payment_hash, 0)) == "release-htlcs"
    world.grants(world.validate(1, OURS, received))
    assert world.refuses(release(made.payment_hash, 0)) == "release-htlcs"
    world.grants(contract.RevokeHolder(0), world.sign(1, OURS, received))
    assert world.refuses(release(made.payment_hash, 0)) == "release-htlcs"
    world.grants(world.revocation(0), release(made.payment_hash, 0))


def test_a_version_without_the_htlc_keeps_the_preimage_in(world: World) -> None:
    """The peer could publish that version, and the HTLC would never have been there."""
    made = world.invoice(AMOUNT)
    received = (htlc(False, 0, AMOUNT, made.payment_hash),)
    world.holder_moves(1, OURS, received)
    world.grants(world.sign(1, OURS), world.sign(1, OURS, received), world.revocation(0))
    assert world.refuses(release(made.payment_hash, 0)) == "release-htlcs"
    world.peer_moves(2, OURS, received)
    world.grants(release(made.payment_hash, 0))


def test_an_htlc_that_differs_between_versions_keeps_the_preimage_in(world: World) -> None:
    made = world.invoice(AMOUNT)
    received = (htlc(False, 0, AMOUNT, made.payment_hash),)
    world.holder_moves(1, OURS, received)
    other_expiry = (htlc(False, 0, AMOUNT, made.payment_hash, 100),)
    world.grants(world.sign(1, OURS, other_expiry), world.revocation(0))
    assert world.refuses(release(made.payment_hash, 0)) == "release-htlcs"


def test_an_htlc_that_we_offered_or_with_another_hash_earns_nothing(world: World) -> None:
    made = world.invoice(AMOUNT)
    world.both_move(1, OURS - AMOUNT, (htlc(True, 0, AMOUNT, made.payment_hash), htlc(False, 1, AMOUNT)))
    assert world.refuses(release(made.payment_hash, 0)) == "release-htlcs"
    assert world.refuses(release(made.payment_hash, 1)) == "release-htlcs"
    assert world.refuses(release(made.payment_hash)) == "release-htlcs"


def test_the_htlcs_reach_the_amount_of_the_invoice(world: World) -> None:
    made = world.invoice(AMOUNT)
    parts = (htlc(False, 0, AMOUNT - 1, made.payment_hash), htlc(False, 1, 1, made.payment_hash))
    world.both_move(1, OURS, parts)
    assert world.refuses(release(made.payment_hash, 0)) == "release-amount"
    assert world.refuses(release(made.payment_hash, 0, 0)) == "release-amount"
    world.grants(release(made.payment_hash, 0, 1))
    assert world.refuses(world.sign(2, OURS + AMOUNT - 1)) == "balance-claim"
    world.grants(world.sign(2, OURS + AMOUNT))


def test_an_invoice_without_amount_takes_any(world: World) -> None:
    made = world.invoice(None)
    world.both_move(1, OURS, (htlc(False, 0, 1, made.payment_hash),))
    world.grants(release(made.payment_hash, 0))


def test_a_release_is_repeated_even_when_its_htlcs_are_gone(world: World) -> None:
    made = world.invoice(AMOUNT)
    world.both_move(1, OURS, (htlc(False, 0, AMOUNT, made.payment_hash),))
    first = world.grants(release(made.payment_hash, 0))
    world.both_move(2, OURS + AMOUNT)
    assert world.grants(release(made.payment_hash, 0)) == first
    assert world.refuses(release(made.payment_hash, 1)) == "release-htlcs"


def test_a_refused_release_is_not_remembered(world: World) -> None:
    made = world.invoice(AMOUNT)
    world.both_move(1, OURS, (htlc(False, 0, AMOUNT - 1, made.payment_hash),))
    for _ in range(2):
        assert world.refuses(release(made.payment_hash, 0)) == "release-amount"


def test_an_invoice_repeats_and_does_not_change(world: World) -> None:
    first = world.invoice(AMOUNT)
    assert world.invoice(AMOUNT) == first
    other = world.invoice(AMOUNT, b"\x03" * 32)
    assert other.payment_hash != first.payment_hash and other.payment_secret != first.payment_secret
    assert first.payment_secret != first.payment_hash and sha256(first.payment_secret) != first.payment_hash
    reply = world.node.ask(make_invoice_request(b"\x02" * 32, AMOUNT + 1))
    assert isinstance(reply, contract.Refused) and reply.tag == "invoice-changed"
