"""Closing is one-way, and hot can only pay cold."""

import pytest

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.sighash import segwit_v0
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3 import closing, funding, scripts
from protocol.bolt3.commitment import OutputKind, Side, build
from protocol.bus.messages import signer as contract
from protocol.bus.messages.signer import MAX_CLOSING_FEE
from protocol.curve import from_der, verify_ecdsa
from protocol.hashes import sha256
from signer.service import SignerService
from tests.signer.support import CAPACITY, PREIMAGE, World, htlc

OURS = 600_000_000


def test_a_mutual_close_is_signed_as_asked(world: World) -> None:
    asked = world.close(600_000, fee=700)
    (answer,) = world.grants(asked)
    assert isinstance(answer, contract.MutualCloseSigned)
    other = Sat(CAPACITY - 600_000)
    built = closing.build(
        world.params, Sat(600_000), other, asked.holder_script, asked.counterparty_script, Sat(700)
    )
    assert verify_ecdsa(world.drawn.keys.funding_pubkey, built.digest, answer.signature)


def test_the_fee_may_be_negotiated_after_the_first_signature(world: World) -> None:
    world.grants(world.close(600_000, fee=700), world.close(600_000, fee=900))
    assert world.state.frozen == "mutual_close"


def test_no_htlc_may_be_left(world: World) -> None:
    offered = (htlc(True, 0, 10_000_000),)
    world.peer_moves(1, OURS - 10_000_000, offered)
    assert world.refuses(world.close(600_000)) == "close-htlcs"
    world.peer_moves(2, OURS)
    world.grants(world.close(600_000))


def test_a_version_with_an_htlc_forbids_a_close(world: World) -> None:
    world.grants(world.sign(1, OURS), world.sign(1, OURS - 10_000_000, (htlc(True, 0, 10_000_000),)))
    assert world.refuses(world.close(600_000)) == "close-htlcs"


def test_a_close_gives_us_at_least_our_lowest_balance(world: World) -> None:
    assert world.refuses(world.close(599_999)) == "close-amounts"
    assert world.refuses(world.close(600_000, to_counterparty=399_998)) == "close-amounts"
    assert world.refuses(world.close(600_000, to_counterparty=400_001)) == "close-amounts"
    world.grants(world.close(600_000))


def test_a_version_with_more_for_us_does_not_stop_a_close(world: World) -> None:
    """After a crash it may be one that the peer never saw."""
    world.grants(world.sign(1, OURS + 5_000_000), world.sign(1, OURS))
    assert world.refuses(world.close(599_999)) == "close-amounts"
    world.grants(world.close(600_000))


def test_a_balance_that_was_paid_away_is_not_asked_back(world: World) -> None:
    spent = 10_000_000
    world.both_move(1, OURS - spent, (htlc(True, 0, spent),))
    world.grants(contract.LearnPreimage(PREIMAGE))
    world.both_move(2, OURS - spent)
    world.grants(world.close(590_000))


@pytest.mark.parametrize("holder_is_opener", [True, False])
def test_the_fee_of_a_close_is_bounded(service: SignerService, holder_is_opener: bool) -> None:
    world = World(service, holder_is_opener=holder_is_opener)
    ours = world.opening[0] // 1000
    assert world.refuses(world.close(ours, fee=MAX_CLOSING_FEE + 1)) == "close-fee"
    assert world.refuses(world.close(ours, fee=-1)) == "close-fee"
    world.grants(world.close(ours, fee=MAX_CLOSING_FEE))


def test_a_close_pays_a_script_of_the_cold_branch_only(world: World) -> None:
    stranger = p2wpkh(world.peer_id)
    receive = world.service.keys.wallet_script(0, 0)
    never_drawn = world.service.keys.wallet_script(2, 50)
    for script in (stranger, receive, never_drawn):
        assert world.refuses(world.close(600_000, script=script)) == "cold-script"
    another = world.node.ask(contract.NewChannel(b"\x09" * 32, world.peer_id))
    assert isinstance(another, contract.ChannelDrawn)
    assert another.shutdown_script != world.drawn.shutdown_script
    world.grants(world.close(600_000, script=another.shutdown_script))


def test_a_force_close_can_be_published(world: World) -> None:
    htlcs = (htlc(True, 0, 10_000_000), htlc(False, 0, 20_000_000))
    world.holder_moves(1, OURS - 10_000_000, htlcs)
    (answer,) = world.grants(contract.SignHolderCommitment())
    assert isinstance(answer, contract.HolderCommitmentSigned)
    assert answer.number == 1 and world.state.frozen == "force_close"
    tx = Transaction.parse(answer.transaction)
    keys = sorted((world.drawn.keys.funding_pubkey, world.peer.public.funding_pubkey))
    _, first, second, script = tx.inputs[0].witness
    assert script == funding.witness_script(*keys)
    digest = segwit_v0(tx, 0, script, CAPACITY)
    for key, signature in zip(keys, (first, second), strict=True):
        assert signature[-1] == 1
        assert verify_ecdsa(key, digest, from_der(signature[:-1]))
    assert len(tx.outputs) == 6  # two balances, two anchors, two HTLCs


def test_a_force_close_is_of_the_newest_validated_commitment(world: World) -> None:
    world.grants(world.validate(1, OURS))
    first = world.grants(contract.SignHolderCommitment())
    assert isinstance(first[0], contract.HolderCommitmentSigned) and first[0].number == 1
    assert world.grants(contract.SignHolderCommitment()) == first


def test_there_is_no_force_close_without_a_commitment(service: SignerService) -> None:
    world = World(service, opened=False)
    world.node.ask(world.setup)
    assert world.refuses(contract.SignHolderCommitment()) == "nothing-validated"


# Sweeps.


def force_closed(world: World) -> contract.SweepInput:
    """Our delayed output of commitment 0."""
    (answer,) = world.grants(contract.SignHolderCommitment())
    assert isinstance(answer, contract.HolderCommitmentSigned)
    content = world.content(Side.HOLDER, 0, OURS)
    commitment = build(world.params, Side.HOLDER, content, world.holder_point(0))
    output = commitment.output(OutputKind.TO_LOCAL)
    assert output is not None
    assert Transaction.parse(answer.transaction).txid == commitment.txid
    return contract.SweepInput("to_local", commitment.txid, output.index, output.value, 0)


def sweep(world: World, *inputs: contract.SweepInput, feerate: int = 1000) -> contract.Reply:
    return world.node.ask(contract.SignSweep(world.drawn.channel, inputs, FeeratePerKw(feerate)))


def tag(reply: contract.Reply) -> str:
    assert isinstance(reply, contract.Refused), reply
    return reply.tag


def test_our_delayed_output_goes_to_a_fresh_cold_script(world: World) -> None:
    wanted = force_closed(world)
    reply = sweep(world, wanted)
    assert isinstance(reply, contract.SweepSigned)
    tx = Transaction.parse(reply.transaction)
    assert [output.script_pubkey for output in tx.outputs] == [world.service.keys.wallet_script(2, 1)]
    assert tx.inputs[0].sequence == 144
    signature, branch, script = tx.inputs[0].witness
    assert branch == b""
    known = scripts.commitment_scripts(world.drawn.keys, world.peer.public, 144, True, world.holder_point(0))
    assert script == known.to_local
    digest = segwit_v0(tx, 0, script, wanted.value)
    assert verify_ecdsa(known.keys.local_delayedpubkey, digest, from_der(signature[:-1]))
    assert sweep(world, wanted) == reply


def test_another_sweep_goes_to_another_script(world: World) -> None:
    wanted = force_closed(world)
    first, second = sweep(world, wanted), sweep(world, wanted, feerate=2000)
    assert isinstance(first, contract.SweepSigned) and isinstance(second, contract.SweepSigned)
    paid = {Transaction.parse(reply.transaction).outputs[0].script_pubkey for reply in (first, second)}
    assert len(paid) == 2


def test_a_delayed_output_is_swept_after_its_force_close_only(world: World) -> None:
    """The delayed key of a commitment that could still be revoked signs nothing."""
    wanted = contract.SweepInput("to_local", b"\x01" * 32, 0, Sat(100_000), 0)
    assert tag(sweep(world, wanted)) == "sweep-number"
    world.grants(world.validate(1, OURS), contract.SignHolderCommitment())
    assert tag(sweep(world, wanted)) == "sweep-number"


def test_a_swept_output_is_the_one_of_the_commitment(world: World) -> None:
    good = force_closed(world)
    wrong = [
        contract.SweepInput("to_local", b"\x01" * 32, good.index, good.value, 0),
        contract.SweepInput("to_local", good.txid, good.index ^ 1, good.value, 0),
        contract.SweepInput("to_local", good.txid, good.index, Sat(good.value - 1), 0),
    ]
    for item in wrong:
        assert tag(sweep(world, item)) == "sweep-output"
    assert tag(sweep(world, good, good)) == "sweep-output"
    assert tag(sweep(world)) == "sweep-output"


@pytest.mark.parametrize("anchors", [True, False])
def test_our_output_on_the_peers_commitment_goes_to_cold(service: SignerService, anchors: bool) -> None:
    world = World(service, anchors=anchors)
    reply = sweep(world, contract.SweepInput("to_remote", b"\x01" * 32, 3, Sat(500_000)))
    assert isinstance(reply, contract.SweepSigned)
    tx = Transaction.parse(reply.transaction)
    assert tx.outputs[0].script_pubkey == world.service.keys.wallet_script(2, 1)
    key = world.drawn.keys.payment_basepoint
    signature, tail = tx.inputs[0].witness
    if anchors:
        code = scripts.to_remote_anchors(key)
        assert tail == code and tx.inputs[0].sequence == 1
    else:
        code = b"\x76\xa9\x14" + p2wpkh(key)[2:] + b"\x88\xac"
        assert tail == key
    assert verify_ecdsa(key, segwit_v0(tx, 0, code, 500_000), from_der(signature[:-1]))


def test_an_output_cannot_be_given_two_values(world: World) -> None:
    """Two signatures with different lies about the amounts could be joined into one high-fee transaction."""
    first = contract.SweepInput("to_remote", b"\x01" * 32, 3, Sat(500_000))
    second = contract.SweepInput("to_remote", b"\x01" * 32, 3, Sat(400_000))
    assert isinstance(sweep(world, first), contract.SweepSigned)
    assert tag(sweep(world, second)) == "sweep-output"
    assert isinstance(sweep(world, first, feerate=1500), contract.SweepSigned)


def test_the_fee_of_a_sweep_is_bounded(world: World) -> None:
    wanted = contract.SweepInput("to_remote", b"\x01" * 32, 3, Sat(100_000))
    assert tag(sweep(world, wanted, feerate=80_000)) == "close-fee"
    assert tag(sweep(world, wanted, feerate=1_000_000)) == "sweep-too-small"
    assert isinstance(sweep(world, wanted), contract.SweepSigned)
    assert world.service.storage.counter("cold") == 2  # a refusal uses no index up


def test_the_fee_of_a_large_sweep_is_bounded_for_each_output(world: World) -> None:
    wanted = contract.SweepInput("to_remote", b"\x01" * 32, 3, Sat(500_000))
    reply = sweep(world, wanted)
    assert isinstance(reply, contract.SweepSigned)
    most = 1000 * MAX_CLOSING_FEE // Transaction.parse(reply.transaction).weight
    assert tag(sweep(world, wanted, feerate=most + 2000)) == "close-fee"
    assert isinstance(sweep(world, wanted, feerate=most - 2000), contract.SweepSigned)


def test_an_unknown_kind_of_output_is_not_swept(world: World) -> None:
    assert tag(sweep(world, contract.SweepInput("funding", b"\x01" * 32, 0, CAPACITY))) == "sweep-kind"


def test_the_cold_branch_is_the_one_of_the_account(world: World) -> None:
    assert world.drawn.shutdown_script == world.service.keys.wallet_script(2, 0)
    assert sha256(world.drawn.shutdown_script) != sha256(world.service.keys.wallet_script(1, 0))
