"""Order of commitments and revocations, version sets, points, signatures of the peer, the freeze."""

import pytest

from protocol.bolt3.commitment import Side
from protocol.bus.messages import signer as contract
from protocol.bus.messages.signer import MAX_VERSIONS
from protocol.curve import ORDER, point_of
from signer.service import SignerService
from tests.signer.support import World, htlc

OURS = 600_000_000


def high_s(signature: bytes) -> bytes:
    return signature[:32] + (ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")


def test_no_commitment_of_ours_is_skipped_or_validated_after_its_revocation(world: World) -> None:
    assert world.refuses(world.validate(2, OURS)) == "validate-order"
    world.holder_moves(1, OURS)
    assert world.refuses(world.validate(0, OURS, feerate=2000)) == "validate-order"
    world.grants(world.validate(2, OURS))
    assert world.refuses(world.validate(3, OURS)) == "validate-order"


def test_our_first_commitment_is_number_0(service: SignerService) -> None:
    """Number 1 has no version before it to be held against: it could give half of ours away."""
    world = World(service, opened=False)
    world.node.ask(world.setup)
    assert world.refuses(world.validate(1, OURS // 2)) == "validate-order"
    world.grants(world.validate(0, OURS))
    assert world.refuses(world.validate(1, OURS // 2)) == "balance-claim"


def test_a_secret_leaves_only_when_the_next_commitment_is_validated(world: World) -> None:
    assert world.refuses(contract.RevokeHolder(0)) == "revoke-order"
    world.grants(world.validate(1, OURS))
    assert world.refuses(contract.RevokeHolder(1)) == "revoke-order"
    (revoked,) = world.grants(contract.RevokeHolder(0))
    assert isinstance(revoked, contract.Revoked)
    assert point_of(revoked.secret) == world.drawn.points[0]
    assert revoked.next_point == world.holder_point(2)
    assert world.refuses(contract.RevokeHolder(1)) == "revoke-order"


def test_a_released_secret_is_released_again(world: World) -> None:
    world.holder_moves(1, OURS)
    world.holder_moves(2, OURS)
    first, second = world.grants(contract.RevokeHolder(0), contract.RevokeHolder(1))
    assert isinstance(first, contract.Revoked) and isinstance(second, contract.Revoked)
    assert [point_of(first.secret), point_of(second.secret)] == [world.holder_point(0), world.holder_point(1)]
    assert world.refuses(contract.RevokeHolder(2)) == "revoke-order"
    assert world.refuses(contract.RevokeHolder(-1)) == "revoke-order"


def test_the_peers_commitments_are_signed_in_turn(world: World) -> None:
    assert world.refuses(world.sign(2, OURS)) == "sign-order"
    world.grants(world.sign(1, OURS))
    assert world.refuses(world.sign(2, OURS)) == "sign-order"
    world.grants(world.revocation(0))
    assert world.refuses(world.sign(0, OURS)) == "sign-order"
    world.grants(world.sign(2, OURS))
    assert world.refuses(world.sign(1, OURS, feerate=2000)) == "sign-order"


def test_a_commitment_is_signed_at_a_known_point_only(service: SignerService) -> None:
    world = World(service, opened=False)
    world.node.ask(world.setup)
    world.grants(world.validate(0, OURS), world.sign(0, OURS))
    assert world.refuses(world.sign(1, OURS)) == "sign-point"
    world.grants(contract.AcceptSecondPoint(world.peer_point(1)), world.sign(1, OURS))


def test_our_first_commitment_is_validated_before_the_peer_gets_a_second(service: SignerService) -> None:
    world = World(service, opened=False)
    world.node.ask(world.setup)
    world.grants(world.sign(0, OURS), contract.AcceptSecondPoint(world.peer_point(1)))
    assert world.refuses(world.sign(1, OURS)) == "holder-first"
    world.grants(world.validate(0, OURS), world.sign(1, OURS))


@pytest.mark.parametrize("side", list(Side))
def test_a_number_has_at_most_eight_versions_and_each_can_be_repeated(world: World, side: Side) -> None:
    make = world.validate if side is Side.HOLDER else world.sign
    first = world.grants(make(1, OURS, feerate=1000))
    for step in range(1, MAX_VERSIONS):
        world.grants(make(1, OURS, feerate=1000 + step))
    assert world.refuses(make(1, OURS, feerate=5000)) == "version-set-full"
    assert world.grants(make(1, OURS, feerate=1000)) == first
    assert len(world.state.side(side)[1]) == MAX_VERSIONS


def test_a_repeated_validation_makes_no_version(world: World) -> None:
    operation = world.validate(1, OURS)
    world.grants(operation)
    state = world.state
    world.grants(operation)
    assert world.state is state


def test_a_known_content_with_a_bad_signature_is_still_the_peers_fault(world: World) -> None:
    operation = world.validate(1, OURS)
    world.grants(operation)
    bad = contract.PeerSignatures(bytes(64), ())
    assert world.faults(contract.ValidateHolder(1, operation.content, (bad,))) == "peer-signature"


def test_a_request_for_one_number_does_not_carry_the_content_of_another(world: World) -> None:
    signed = world.sign(1, OURS)
    assert world.refuses(contract.SignCounterparty(0, signed.content)) == "number"
    validated = world.validate(1, OURS)
    assert world.refuses(contract.ValidateHolder(0, validated.content, validated.signatures)) == "number"


@pytest.mark.parametrize("count", [0, 2])
def test_there_is_one_set_of_signatures_for_each_funding(world: World, count: int) -> None:
    good = world.validate(1, OURS)
    wrong = contract.ValidateHolder(1, good.content, good.signatures * count)
    assert world.refuses(wrong) == "fundings"


@pytest.mark.parametrize("anchors", [True, False])
def test_every_signature_of_the_peer_is_checked_before_anything_is_revoked(
    service: SignerService, anchors: bool
) -> None:
    world = World(service, anchors=anchors)
    htlcs = (htlc(True, 0, 10_000_000), htlc(True, 1, 11_000_000))
    good = world.validate(1, OURS - 21_000_000, htlcs)
    signatures = good.signatures[0]
    assert len(signatures.htlcs) == 2
    first, second = signatures.htlcs
    wrong = [
        (bytes(64), (first, second)),
        (high_s(signatures.commitment), (first, second)),
        (signatures.commitment, (second, first)),
        (signatures.commitment, (first,)),
        (signatures.commitment, (first, second, second)),
        (signatures.commitment, (first, high_s(second))),
    ]
    for commitment, of_htlcs in wrong:
        bad = contract.PeerSignatures(commitment, of_htlcs)
        assert world.faults(contract.ValidateHolder(1, good.content, (bad,))) == "peer-signature"
    assert world.refuses(contract.RevokeHolder(0)) == "revoke-order"
    world.grants(good, contract.RevokeHolder(0))


def test_a_revocation_is_accepted_in_turn_and_with_a_signed_successor(world: World) -> None:
    assert world.refuses(world.revocation(0)) == "revocation-order"
    world.grants(world.sign(1, OURS))
    assert world.refuses(world.revocation(1)) == "revocation-order"
    world.grants(world.revocation(0))
    assert world.state.counterparty_revoked == 1
    assert list(world.state.counterparty) == [1]


def test_the_secret_of_a_revocation_belongs_to_the_point_that_was_signed_at(world: World) -> None:
    world.grants(world.sign(1, OURS))
    next_point = world.peer_point(2)
    for secret in (world.peer_secret(1), bytes(32), b"\xff" * 32):
        assert world.faults(contract.AcceptRevocation(0, secret, next_point)) == "revocation-secret"
    world.grants(contract.AcceptRevocation(0, world.peer_secret(0), next_point))


def test_the_secrets_of_the_peer_follow_from_each_other(world: World) -> None:
    """A peer that gives points of unrelated secrets cannot make us store what we could not find again."""
    strange = b"\x42" * 32
    world.grants(world.sign(1, OURS), contract.AcceptRevocation(0, world.peer_secret(0), point_of(strange)))
    world.grants(world.sign(2, OURS), world.revocation(1))
    world.grants(world.sign(3, OURS))
    # Number 2 is the first whose place in the chain must lead to secrets before it: bucket 0, so it fits anywhere;
    # number 3 must lead to it.
    world.grants(contract.AcceptRevocation(2, strange, world.peer_point(4)), world.sign(4, OURS))
    assert world.faults(world.revocation(3)) == "revocation-chain"


def test_the_next_point_of_a_revocation_is_a_point(world: World) -> None:
    world.grants(world.sign(1, OURS))
    bad = contract.AcceptRevocation(0, world.peer_secret(0), b"\x02" + b"\xff" * 32)
    assert world.faults(bad) == "next-point"


def test_a_revocation_is_repeated_with_the_same_values_only(world: World) -> None:
    world.grants(world.sign(1, OURS), world.revocation(0), world.revocation(0))
    other_point = contract.AcceptRevocation(0, world.peer_secret(0), world.peer_point(5))
    other_secret = contract.AcceptRevocation(0, world.peer_secret(1), world.peer_point(2))
    assert world.faults(other_point) == "changed-repeat"
    assert world.faults(other_secret) == "changed-repeat"
    for number in (2, 3, 4):
        world.grants(world.sign(number, OURS), world.revocation(number - 1))
    world.grants(*[world.revocation(number) for number in range(4)])


def test_the_second_point_is_given_once(world: World) -> None:
    world.grants(contract.AcceptSecondPoint(world.peer_point(1)))
    assert world.faults(contract.AcceptSecondPoint(world.peer_point(2))) == "changed-repeat"
    world.peer_moves(1, OURS)
    world.peer_moves(2, OURS)
    world.grants(contract.AcceptSecondPoint(world.peer_point(1)))
    assert world.faults(contract.AcceptSecondPoint(world.peer_point(2))) == "changed-repeat"


def test_the_second_point_is_a_point(service: SignerService) -> None:
    world = World(service, opened=False)
    world.node.ask(world.setup)
    assert world.faults(contract.AcceptSecondPoint(b"\x05" * 33)) == "next-point"


@pytest.mark.parametrize("kind", ["mutual", "force"])
def test_a_closed_channel_makes_no_new_state(world: World, kind: str) -> None:
    """Else a newer state revokes the one that was just published, or an older one is played against a close."""
    validated, signed = world.validate(1, OURS), world.sign(1, OURS)
    world.grants(validated, signed)
    made = world.invoice()
    world.grants(world.close(600_000) if kind == "mutual" else contract.SignHolderCommitment())
    assert world.refuses(world.validate(1, OURS, feerate=2000)) == "frozen"
    assert world.refuses(world.sign(1, OURS, feerate=2000)) == "frozen"
    assert world.refuses(contract.RevokeHolder(0)) == "frozen"
    assert world.refuses(contract.ReleasePreimage(made.payment_hash, (0,))) == "frozen"
    # What had left before leaves again, and what only the peer gives up is taken.
    world.grants(
        validated, signed, world.revocation(0), world.close(600_000), contract.SignHolderCommitment()
    )


def test_the_list_of_a_request_stops_at_the_first_refusal_and_keeps_what_stood_before(world: World) -> None:
    answer = world.answer(world.validate(1, OURS), contract.RevokeHolder(1), contract.RevokeHolder(0))
    assert answer.results == (contract.Validated(),)
    assert isinstance(answer.stopped, contract.Refused)
    assert (world.state.holder_validated, world.state.holder_revoked) == (1, 0)


def test_a_secret_is_checked_and_never_told(world: World) -> None:
    """Data-loss protection: a peer that knows a secret proves that we revoked; a guess tells nothing more."""
    world.holder_moves(1, OURS)
    (revoked,) = world.grants(contract.RevokeHolder(0))
    assert isinstance(revoked, contract.Revoked)
    asked = [(0, revoked.secret), (1, revoked.secret), (0, bytes(32)), (-1, bytes(32)), (1 << 48, bytes(32))]
    before = world.state
    answers = world.grants(*[contract.CheckSecret(number, secret) for number, secret in asked])
    assert answers == tuple(
        contract.SecretChecked(number == 0 and secret != bytes(32)) for number, secret in asked
    )
    assert world.state is before
