"""How a forward ends: on the chain, or with evidence; and what of it a crash leaves (BOLT 5; BOLT 2, "Removing an
HTLC")."""

import pytest
from msgspec.structs import replace

from protocol.bitcoin.transaction import OutPoint
from protocol.bus.messages import signer as contract
from tests.signer.road import IN, IN_EXPIRY, OURS, OUT, OUT_EXPIRY, Road, other_channel
from tests.signer.support import HASH, PREIMAGE, World, htlc

# Burial.


def test_a_buried_onward_htlc_frees_the_received_one(road: Road) -> None:
    """checklist 46"""
    road.passed_on()
    assert road.c.grants(road.bury()) == (contract.HtlcIsBuried(),)
    assert road.c.state.frozen
    assert road.c.grants(road.bury()) == (contract.HtlcIsBuried(),)
    assert road.c.refuses(road.c.sign(2, OURS)) == "frozen"
    road.c.grants(contract.SignHolderCommitment())
    road.fails_upstream()


def test_burial_needs_a_spend_of_this_channels_funding(road: Road) -> None:
    """Attack: any bytes, or another channel's end."""
    road.passed_on()
    for spend in (b"", b"nonsense", road.spend(OutPoint(b"\x01" * 32, 0)), road.spend() + b"\x00"):
        assert road.c.refuses(contract.HtlcBuried(5, spend)) == "buried-spend"
    assert (
        road.c.refuses(contract.HtlcBuried(5, road.spend(road.a.params.funding_outpoint))) == "buried-spend"
    )
    assert road.refuses_to_fail() == {"onward-lives"} and not road.c.state.frozen


def test_only_offered_htlcs_that_stand_are_buried(road: Road) -> None:
    road.passed_on()
    assert road.c.refuses(road.bury(6)) == "buried-htlc"
    assert road.a.refuses(contract.HtlcBuried(3, road.spend(road.a.params.funding_outpoint))) == "buried-htlc"


def test_an_htlc_whose_preimage_came_is_not_buried(road: Road) -> None:
    """Attack: say that it timed out after the next peer has taken it."""
    road.passed_on()
    road.c.grants(contract.LearnPreimage(PREIMAGE))
    assert road.c.refuses(road.bury()) == "buried-paid"
    assert road.refuses_to_fail() == {"balance-claim"}


def test_one_burial_ends_one_htlc(road: Road) -> None:
    """Attack: one HTLC timed out on the chain, and the received HTLC of its neighbour, which did not, is failed."""
    fourth = htlc(False, 4, IN, HASH, IN_EXPIRY)
    road.a.both_move(2, OURS, (road.received, fourth))
    pair = (road.onward, htlc(True, 6, OUT, HASH, OUT_EXPIRY))
    sources = (road.forward(5, 3), road.forward(6, 4))
    road.c.grants(road.c.sign(1, OURS - 2 * OUT, pair, forwards=sources), road.bury(5))
    assert road.a.refuses(road.a.sign(3, OURS)) == "onward-lives"
    road.a.grants(road.a.sign(3, OURS, (fourth,)))


def test_a_preimage_after_burial_is_owed_again_while_the_received_htlc_stands(road: Road) -> None:
    """A reorganisation turned the chain's decision."""
    road.passed_on()
    road.c.grants(road.bury(), contract.LearnPreimage(PREIMAGE))
    assert road.refuses_to_fail() == {"balance-claim"}
    road.a.both_move(2, OURS + IN)


def test_a_preimage_after_burial_does_not_stop_a_channel_that_has_begun_to_fail_the_htlc(road: Road) -> None:
    road.passed_on()
    road.c.grants(road.bury())
    road.a.holder_moves(2, OURS)
    road.c.grants(contract.LearnPreimage(PREIMAGE))
    road.a.peer_moves(2, OURS)


def test_a_closing_channel_takes_no_new_declaration(road: Road) -> None:
    """Also not for a content that was signed before."""
    offer = road.offer()
    road.c.grants(replace(offer, forwards=()), contract.SignHolderCommitment())
    assert road.c.refuses(offer) == "frozen"
    road.c.grants(replace(offer, forwards=()))


def test_a_buried_htlc_may_be_passed_on_again(road: Road) -> None:
    d, second = other_channel(road)
    road.passed_on()
    road.c.grants(road.bury())
    d.grants(second)
    assert road.refuses_to_fail() == {"onward-lives"}


# Evidence.


def test_evidence_must_be_the_preimage(road: Road) -> None:
    assert road.a.refuses(contract.ReleasePreimage(HASH, (3,), b"\x12" * 32)) == "claim-preimage"
    assert road.a.refuses(contract.ReleasePreimage(HASH, (3,))) == "release-unknown"
    for ids in ((), (4,), (3, 4)):
        assert road.a.refuses(contract.ReleasePreimage(HASH, ids, PREIMAGE)) == "release-htlcs"
    road.a.grants(contract.ReleasePreimage(HASH, (3,), PREIMAGE))
    assert road.a.refuses(road.a.sign(2, OURS)) == "balance-claim"


def test_evidence_releases_only_what_stands_everywhere(world: World) -> None:
    received = (htlc(False, 0, IN),)
    release = contract.ReleasePreimage(HASH, (0,), PREIMAGE)
    world.holder_moves(1, OURS, received)
    assert world.refuses(release) == "release-htlcs"
    world.peer_moves(1, OURS, received)
    world.grants(release)


def test_evidence_does_not_pass_by_the_amount_of_an_invoice(world: World) -> None:
    """Attack: a stolen node that learned our preimage releases it for a part."""
    made = world.invoice(IN)
    world.both_move(
        1, OURS, (htlc(False, 0, IN - 1, made.payment_hash), htlc(False, 1, 1, made.payment_hash))
    )
    whole = contract.ReleasePreimage(made.payment_hash, (0, 1))
    (released,) = world.grants(whole)
    assert isinstance(released, contract.PreimageReleased)
    world.both_move(2, OURS + IN)
    world.both_move(3, OURS + IN, (htlc(False, 2, 1, made.payment_hash),))
    partly = contract.ReleasePreimage(made.payment_hash, (2,), released.preimage)
    assert world.refuses(partly) == "release-amount"


def test_evidence_is_not_taken_in_a_closing_channel(road: Road) -> None:
    road.a.grants(contract.SignHolderCommitment())
    assert road.a.refuses(contract.ReleasePreimage(HASH, (3,), PREIMAGE)) == "frozen"


# What is kept.


def test_a_bug_in_a_request_leaves_no_declaration(road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> object:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("signer.operations._bury", broken)
        request = contract.ChannelRequest(road.c.drawn.channel, (road.offer(), road.bury()))
        reply = road.c.node.ask(request)
    assert isinstance(reply, contract.Refused) and reply.tag == "internal"
    assert not road.a.service._forwards.passed_on(road.a.drawn.channel)
    road.fails_upstream()


def test_a_declaration_survives_in_the_file(road: Road) -> None:
    road.passed_on()
    forwards = road.a.service._forwards
    before = (forwards._by_out, forwards._by_in)
    road.a.service._load()
    forwards = road.a.service._forwards
    assert (forwards._by_out, forwards._by_in) == before and before[0]
