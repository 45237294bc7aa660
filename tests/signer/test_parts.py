"""A payment in parts over two channels of one signer, and a stolen node that wants the preimage for less (BOLT 4,
"Basic Multi-Part Payments"; DESIGN, "The signer contract")."""

from pathlib import Path

import pytest

from protocol.amounts import FeeratePerKw
from protocol.bolt3.commitment import Side, build
from protocol.bus.messages import signer as contract
from protocol.hashes import sha256
from signer.service import SignerService
from tests.signer.support import PASSPHRASE, Node, World, htlc, make_service

OURS = 600_000_000
AMOUNT = 50_000_000
FIRST, SECOND = 30_000_000, 20_000_000


class Two:
    """An invoice of 50,000 sat: 30,000 stand as HTLC 0 of channel `a`, 20,000 as HTLC 4 of channel `b`."""

    def __init__(self, service: SignerService, *, stands: bool = True, second: int = SECOND) -> None:
        self.a = World(service)
        self.b = World(service, beside=self.a, place=1)
        self.made = self.a.invoice(AMOUNT)
        self.hash = self.made.payment_hash
        self.in_a = (htlc(False, 0, FIRST, self.hash),)
        self.in_b = (htlc(False, 4, second, self.hash),)
        self.a.both_move(1, OURS, self.in_a)
        if stands:
            self.b.both_move(1, OURS, self.in_b)

    def from_a(self, *ids: int, a: tuple[int, ...] = (0,)) -> contract.ReleasePreimage:
        return contract.ReleasePreimage(self.hash, a, None, ((self.b.channel_id, ids or (4,)),))

    def from_b(self) -> contract.ReleasePreimage:
        return contract.ReleasePreimage(self.hash, (4,), None, ((self.a.channel_id, (0,)),))


@pytest.fixture
def two(service: SignerService) -> Two:
    return Two(service)


def test_htlcs_of_two_channels_pay_one_invoice_together(two: Two) -> None:
    """checklist 37"""
    (released,) = two.a.grants(two.from_a())
    assert isinstance(released, contract.PreimageReleased) and sha256(released.preimage) == two.hash
    assert two.b.grants(two.from_b()) == (released,)
    two.a.both_move(2, OURS + FIRST)
    two.b.both_move(2, OURS + SECOND)


def test_neither_channel_alone_is_enough(two: Two) -> None:
    assert two.a.refuses(contract.ReleasePreimage(two.hash, (0,))) == "release-amount"
    assert two.b.refuses(contract.ReleasePreimage(two.hash, (4,))) == "release-amount"


def test_the_other_channel_owes_its_part_from_the_same_moment(two: Two) -> None:
    """Attack: the preimage left for both, and the other channel fails its part."""
    two.a.grants(two.from_a())
    assert two.b.refuses(two.b.validate(2, OURS)) == "balance-claim"
    assert two.b.refuses(two.b.sign(2, OURS)) == "balance-claim"
    assert two.a.refuses(two.a.sign(2, OURS)) == "balance-claim"
    two.b.grants(two.b.sign(2, OURS + SECOND))


def test_two_releases_of_one_request_are_both_owed_by_the_other_channel(service: SignerService) -> None:
    """Attack: the credit for the second payment takes the place of the credit for the first."""
    a = World(service)
    b = World(service, beside=a, place=1)
    hashes = [a.invoice(AMOUNT, bytes((n,)) * 32).payment_hash for n in (2, 3)]
    parts = [htlc(False, n, AMOUNT // 2, payment_hash) for n, payment_hash in enumerate(hashes)]
    a.both_move(1, OURS, parts)
    b.both_move(1, OURS, parts)
    a.grants(
        *(
            contract.ReleasePreimage(payment_hash, (n,), None, ((b.channel_id, (n,)),))
            for n, payment_hash in enumerate(hashes)
        )
    )
    for kept in parts:
        assert b.refuses(b.sign(2, OURS, (kept,))) == "balance-claim"
    b.both_move(2, OURS + AMOUNT)


def test_parts_of_one_amount_and_id_in_two_channels_are_two_parts(service: SignerService) -> None:
    a = World(service)
    b = World(service, beside=a, place=1)
    made = a.invoice(AMOUNT)
    part = (htlc(False, 0, AMOUNT // 2, made.payment_hash),)
    a.both_move(1, OURS, part)
    b.both_move(1, OURS, part)
    a.grants(contract.ReleasePreimage(made.payment_hash, (0,), None, ((b.channel_id, (0,)),)))


def test_a_part_that_its_peer_can_take_back_keeps_the_preimage_in(service: SignerService) -> None:
    """Attack: an HTLC that stands in some commitments of the other channel only."""
    two = Two(service, stands=False)
    assert two.a.refuses(two.from_a()) == "release-htlcs"
    two.b.holder_moves(1, OURS, two.in_b)
    assert two.a.refuses(two.from_a()) == "release-htlcs"
    two.b.grants(two.b.sign(1, OURS, two.in_b))
    assert two.a.refuses(two.from_a()) == "release-htlcs"
    two.b.grants(two.b.revocation(0))
    two.a.grants(two.from_a())


def test_a_part_that_began_to_fail_keeps_the_preimage_in(two: Two) -> None:
    """Attack: one version of the other channel lacks its HTLC already."""
    two.b.grants(two.b.sign(2, OURS))
    assert two.a.refuses(two.from_a()) == "release-htlcs"
    assert two.b.refuses(two.from_b()) == "release-htlcs"
    two.b.grants(two.b.revocation(1))
    two.b.holder_moves(2, OURS)
    assert two.a.refuses(two.from_a()) == "release-htlcs"


def test_no_htlc_counts_twice(service: SignerService) -> None:
    """Attack: the asking channel among the others, another one named twice, an id twice."""
    two = Two(service, second=SECOND - 1)
    a, b = two.a.channel_id, two.b.channel_id
    for others in (((a, (0,)),), ((b, (4,)), (b, (4,))), ((b, (4,)), (a, (0,)))):
        assert two.a.refuses(contract.ReleasePreimage(two.hash, (0,), None, others)) == "release-channel"
    assert two.a.refuses(two.from_a(4, 4)) == "release-amount"
    assert two.a.refuses(two.from_a(4, a=(0, 0))) == "release-amount"


def test_channels_and_htlcs_that_are_not_there_count_for_nothing(two: Two) -> None:
    """Attack: invented ones, one of another hash, one that we offered, none at all."""
    nowhere = contract.ReleasePreimage(two.hash, (0,), None, ((b"\x07" * 32, (4,)),))
    assert two.a.refuses(nowhere) == "release-channel"
    assert two.a.refuses(two.from_a(5)) == "release-htlcs"
    assert two.a.refuses(two.from_a(4, 5)) == "release-htlcs"
    assert (
        two.a.refuses(contract.ReleasePreimage(two.hash, (0,), None, ((two.b.channel_id, ()),)))
        == "release-htlcs"
    )
    more = (*two.in_b, htlc(False, 5, AMOUNT), htlc(True, 0, AMOUNT, two.hash))
    two.b.both_move(2, OURS - AMOUNT, more)
    assert two.a.refuses(two.from_a(5)) == "release-htlcs"
    assert two.a.refuses(two.from_a(4, 0)) == "release-htlcs"
    two.a.grants(two.from_a())


def test_a_channel_that_may_be_an_old_state_counts_for_nothing(two: Two) -> None:
    """Attack: restore a state in which the HTLC still stood."""
    two.a.node.ask(contract.MarkStale(two.b.drawn.channel))
    assert two.a.refuses(two.from_a()) == "release-stale"


def test_a_refused_set_leaves_no_trace_in_any_channel(two: Two) -> None:
    before = two.b.state
    assert two.a.refuses(two.from_a(4, 5)) == "release-htlcs"
    assert two.b.state is before
    two.b.both_move(2, OURS)
    assert two.a.refuses(two.from_a()) == "release-htlcs"


def test_a_release_over_channels_is_repeated_when_its_htlcs_are_gone(two: Two) -> None:
    first = two.a.grants(two.from_a())
    two.a.both_move(2, OURS + FIRST)
    two.b.both_move(2, OURS + SECOND)
    assert two.a.grants(two.from_a()) == first
    assert two.b.grants(two.from_b()) == first
    assert two.b.grants(contract.ReleasePreimage(two.hash, (4,))) == first
    assert two.a.refuses(two.from_a(5)) == "release-htlcs"


def test_the_other_channel_fulfils_even_when_the_first_is_on_chain_by_then(two: Two) -> None:
    two.a.grants(two.from_a(), contract.SignHolderCommitment())
    two.b.grants(two.from_b(), two.b.sign(2, OURS + SECOND))


def test_evidence_over_two_channels_is_credited_in_both(two: Two) -> None:
    """A hold invoice of elsewhere, or a keysend: nothing to reach, and all of it is ours."""
    preimage = b"\x61" * 32
    parts = (htlc(False, 1, FIRST, sha256(preimage)),)
    two.a.both_move(2, OURS, (*two.in_a, *parts))
    two.b.both_move(2, OURS, (*two.in_b, *parts))
    others = ((two.b.channel_id, (1,)),)
    two.a.grants(contract.ReleasePreimage(sha256(preimage), (1,), preimage, others))
    assert two.b.refuses(two.b.sign(3, OURS, two.in_b)) == "balance-claim"


# On the chain.


def swept(two: Two, others: contract.OtherParts, *, feerate: int = 500) -> contract.Reply:
    """The peer of `b` published its newest commitment; our claim of its HTLC 4."""
    number = two.b.state.counterparty_signed
    content = two.b.state.counterparty[number][0].content
    commitment = build(two.b.params, Side.COUNTERPARTY, content, two.b.peer_point(number))
    output = next(output for output in commitment.htlcs if output.htlc.id == 4)
    named = contract.SweptHtlc(False, 4, two.hash, output.htlc.cltv_expiry, None, others)
    wanted = contract.SweepInput(
        "their_offered_with_preimage", commitment.txid, output.index, output.value, number, named
    )
    return two.b.node.ask(contract.SignSweep(two.b.drawn.channel, (wanted,), FeeratePerKw(feerate)))


def test_a_part_is_claimed_on_chain_together_with_the_other_channels(two: Two) -> None:
    """checklist 37, 45: the peer of one channel is gone before any preimage left; the other owes its part from then
    on."""
    alone = swept(two, ())
    assert isinstance(alone, contract.Refused) and alone.tag == "release-amount"
    assert not two.b.state.frozen and two.a.state.released == frozenset()
    together = swept(two, ((two.a.channel_id, (0,)),))
    assert isinstance(together, contract.SweepSigned)
    assert two.a.refuses(two.a.sign(2, OURS)) == "balance-claim"
    two.a.grants(contract.ReleasePreimage(two.hash, (0,)), two.a.sign(2, OURS + FIRST))


def test_a_claim_on_chain_counts_no_htlc_that_can_be_taken_back(two: Two) -> None:
    """Attack: close one channel, and claim while the other one fails its part."""
    two.a.grants(two.a.sign(2, OURS))
    reply = swept(two, ((two.a.channel_id, (0,)),))
    assert isinstance(reply, contract.Refused) and reply.tag == "release-htlcs"


def test_a_claim_on_chain_counts_no_htlc_of_another_hash(two: Two) -> None:
    """Attack: a payment that we pass on stands beside the part, and makes up for what is missing."""
    two.b.both_move(2, OURS, (*two.in_b, htlc(False, 5, FIRST)))
    reply = swept(two, ())
    assert isinstance(reply, contract.Refused) and reply.tag == "release-amount"


def test_a_claim_on_chain_counts_no_second_htlc_that_only_one_commitment_has(two: Two) -> None:
    """Attack: the rest of the amount stands in the commitment that the peer publishes, and not in ours."""
    two.b.grants(two.b.sign(2, OURS, (*two.in_b, htlc(False, 5, FIRST, two.hash))))
    reply = swept(two, ())
    assert isinstance(reply, contract.Refused) and reply.tag == "release-amount"


def test_a_claim_on_chain_is_made_again_at_a_higher_fee_when_the_other_part_is_settled(two: Two) -> None:
    others = ((two.a.channel_id, (0,)),)
    assert isinstance(swept(two, others), contract.SweepSigned)
    two.a.both_move(2, OURS + FIRST)
    assert isinstance(swept(two, others, feerate=900), contract.SweepSigned)


def test_a_claim_that_was_refused_for_its_fee_leaves_the_other_channel_as_it_is(two: Two) -> None:
    """The preimage did not leave, so nothing is owed, and no state of before comes back."""
    reply = swept(two, ((two.a.channel_id, (0,)),), feerate=15_000)
    assert isinstance(reply, contract.Refused) and reply.tag == "close-fee"
    before = two.a.state
    two.b.invoice(1, b"\x09" * 32)
    assert two.a.state is before and before.released == frozenset()
    two.a.both_move(2, OURS)


def test_after_a_release_the_other_part_is_claimed_on_chain_alone(two: Two) -> None:
    two.a.grants(two.from_a())
    two.a.both_move(2, OURS + FIRST)
    assert isinstance(swept(two, ()), contract.SweepSigned)


def test_both_channels_on_chain_before_any_preimage_left_claim_both(two: Two) -> None:
    two.a.grants(contract.SignHolderCommitment())
    assert isinstance(swept(two, ((two.a.channel_id, (0,)),)), contract.SweepSigned)
    staged = contract.StagedHtlc(False, 0)
    reply = two.a.node.ask(contract.SignSecondStage(two.a.drawn.channel, 1, (staged,)))
    assert (
        isinstance(reply, contract.Refused) and reply.tag == "fee-coins"
    )  # no rule of a release stands against it


# Durability.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_service(tmp_path / "signer", in_memory=False).close()
    return tmp_path / "signer"


def test_what_both_channels_owe_outlives_the_signer(folder: Path) -> None:
    service = SignerService(folder, PASSPHRASE)
    two = Two(service)
    first = two.a.grants(two.from_a())
    assert two.b.service._channels[two.b.drawn.channel].durable is two.b.state
    service.close()
    two.a.service = two.b.service = SignerService(folder, PASSPHRASE)
    two.a.node = two.b.node = Node(two.a.service)
    assert {key[0] for key in two.b.state.released} == {4}
    assert two.b.refuses(two.b.sign(2, OURS)) == "balance-claim"
    assert two.b.grants(two.from_b()) == first
    two.a.service.close()


def test_a_release_that_could_not_be_saved_is_in_no_channel(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = SignerService(folder, PASSPHRASE)
    two = Two(service)

    def fails() -> None:
        raise OSError("no space left")

    monkeypatch.setattr(service.storage, "commit", fails)
    reply = two.a.node.ask(contract.ChannelRequest(two.a.drawn.channel, (two.from_a(),)))
    assert isinstance(reply, contract.NotNow)
    monkeypatch.undo()
    assert two.a.state.released == two.b.state.released == frozenset()
    two.b.both_move(2, OURS)
    assert two.a.refuses(two.from_a()) == "release-htlcs"
    service.close()
