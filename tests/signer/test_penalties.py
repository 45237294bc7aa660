"""Penalties that are signed before they are needed (BOLT 5, "Revoked Transaction Close Handling"; checklist 50)."""

import pytest
from msgspec.structs import replace

from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bitcoin.script import p2wsh
from protocol.bitcoin.sighash import segwit_v0
from protocol.bitcoin.transaction import Transaction, TxOut
from protocol.bolt3.commitment import Commitment, CommitmentContent, OutputKind, Side, build
from protocol.bus.messages import signer as contract
from protocol.bus.messages.signer import MAX_CLOSING_FEE
from protocol.bus.messages.signer_onchain import MAX_PENALTY_FEERATES
from protocol.curve import from_der, verify_ecdsa
from protocol.hashes import sha256
from signer.service import SignerService
from tests.signer.support import World, htlc

OURS = 600_000_000
AMOUNT = 50_000_000
RATES = (FeeratePerKw(1000), FeeratePerKw(10_000))


@pytest.fixture(params=[True, False], ids=["anchors", "static_remotekey"])
def world(request: pytest.FixtureRequest, service: SignerService) -> World:
    return World(service, anchors=request.param)


def cheated(world: World) -> tuple[Commitment, CommitmentContent]:
    """A commitment with an HTLC each way that the peer has revoked."""
    htlcs = (htlc(True, 0, AMOUNT), htlc(False, 0, AMOUNT), htlc(True, 1, 1_000))
    world.both_move(1, OURS - AMOUNT - 1000, htlcs)
    content = world.content(Side.COUNTERPARTY, 1, OURS - AMOUNT - 1000, htlcs)
    world.both_move(2, OURS - AMOUNT - 1000, htlcs)
    return build(world.params, Side.COUNTERPARTY, content, world.peer_point(1)), content


def ask(world: World, content: CommitmentContent, *rates: int) -> contract.Reply:
    feerates = tuple(FeeratePerKw(rate) for rate in rates) or RATES
    return world.node.ask(contract.SignPenalties(world.drawn.channel, content, feerates))


def signed(reply: contract.Reply) -> list[Transaction]:
    assert isinstance(reply, contract.PenaltiesSigned), reply
    return [Transaction.parse(raw) for raw in reply.transactions]


def tag(reply: contract.Reply) -> str:
    assert isinstance(reply, contract.Refused), reply
    return reply.tag


def spends(commitment: Commitment, tx: Transaction) -> bool:
    """Each input spends an output of this commitment, or of its second stages, with a valid signature of the
    revocation key."""
    outputs: dict[tuple[bytes, int], TxOut] = {
        (commitment.txid, output.index): TxOut(output.value, output.script_pubkey)
        for output in commitment.outputs
    }
    for stage in commitment.htlc_transactions():
        outputs[stage.txid, 0] = stage.outputs[0]
    key = commitment.scripts.keys.revocationpubkey
    for index, spend in enumerate(tx.inputs):
        spent = outputs.get((spend.outpoint.txid, spend.outpoint.index))
        script = spend.witness[-1]
        if spent is None or p2wsh(script) != spent.script_pubkey:
            return False
        digest = segwit_v0(tx, index, script, spent.value)
        if not verify_ecdsa(key, digest, from_der(spend.witness[0][:-1])):
            return False
    return True


def test_each_feerate_takes_all_and_each_output_alone(world: World) -> None:
    commitment, content = cheated(world)
    reply = ask(world, content)
    assert isinstance(reply, contract.PenaltiesSigned) and reply.commitment_txid == commitment.txid
    transactions = signed(reply)
    mine = {
        output.index
        for output in commitment.outputs
        if output.kind in (OutputKind.TO_LOCAL, OutputKind.OFFERED_HTLC, OutputKind.RECEIVED_HTLC)
    }
    assert len(mine) == 3  # the third HTLC is trimmed; to_remote and the anchors are ours or nobody's
    half = len(transactions) // 2
    for one in (transactions[:half], transactions[half:]):
        indexes = [{spend.outpoint.index for spend in tx.inputs} for tx in one]
        assert indexes[0] == mine
        assert sorted(indexes[1:4], key=min) == [{index} for index in sorted(mine)]
        stages = {spend.outpoint.txid for tx in one[4:] for spend in tx.inputs}
        fixed = {stage.txid for stage in commitment.htlc_transactions()}
        assert stages == (set() if world.params.anchors else fixed)
    assert all(spends(commitment, tx) for tx in transactions)


def test_all_goes_to_one_cold_script_without_drawing_another(world: World) -> None:
    _, content = cheated(world)
    before = world.service.storage.counter("cold")
    transactions = signed(ask(world, content))
    assert {output.script_pubkey for tx in transactions for output in tx.outputs} == {
        world.drawn.shutdown_script
    }
    assert world.service.storage.counter("cold") == before


def test_the_feerates_are_those_that_were_asked(world: World) -> None:
    commitment, content = cheated(world)
    total = {output.index: output.value for output in commitment.outputs}
    transactions = signed(ask(world, content))
    for tx, rate in ((transactions[0], 1000), (transactions[len(transactions) // 2], 10_000)):
        fee = sum(total[spend.outpoint.index] for spend in tx.inputs) - tx.outputs[0].value
        assert 0 <= fee * 1000 // tx.weight - rate < rate // 50


def test_nothing_is_frozen_and_the_same_is_signed_again(world: World) -> None:
    """They are signed while the channel lives, one set for each state."""
    _, content = cheated(world)
    before = world.state
    assert ask(world, content) == ask(world, content)
    assert world.state is before
    world.both_move(3, OURS - 1000, (htlc(False, 0, AMOUNT), htlc(True, 1, 1_000)))


def test_a_commitment_that_stands_is_not_punished(world: World) -> None:
    """Attack: there is no secret for it, so there is no key."""
    _, content = cheated(world)
    for number in (2, 3, -1, (1 << 48) - 1):
        assert tag(ask(world, replace(content, number=number))) == "penalty-number"


def test_a_wrong_content_spends_nothing_that_can_exist(world: World) -> None:
    """A stolen node gains nothing by another content: no commitment has that transaction id."""
    commitment, content = cheated(world)
    wrong = replace(
        content,
        to_owner_msat=Msat(content.to_owner_msat + 1000),
        to_other_msat=Msat(content.to_other_msat - 1000),
    )
    reply = ask(world, wrong)
    assert isinstance(reply, contract.PenaltiesSigned) and reply.commitment_txid != commitment.txid
    assert not any(spends(commitment, tx) for tx in signed(reply))
    assert tag(ask(world, replace(content, to_owner_msat=Msat(0)))) == "content"


def test_what_a_fee_would_eat_is_left_out(world: World) -> None:
    commitment, content = cheated(world)
    (low, high) = (len(signed(ask(world, content, rate))) for rate in (1000, 60_000))
    assert 0 < high < low
    values = {output.index: output.value for output in commitment.outputs}
    for tx in signed(ask(world, content, 1000, 60_000)):
        if all(spend.outpoint.txid == commitment.txid for spend in tx.inputs):
            assert 2 * tx.outputs[0].value >= sum(values[spend.outpoint.index] for spend in tx.inputs)
    assert signed(ask(world, content, 5_000_000)) == []


def test_a_lie_that_was_pinned_does_not_stop_a_penalty(world: World) -> None:
    """Attack: name a wrong value in a sweep first, so that the true one is refused. The other way stays refused."""
    commitment, content = cheated(world)
    main = commitment.output(OutputKind.TO_LOCAL)
    assert main is not None
    lie = contract.SweepInput("revoked_to_local", commitment.txid, main.index, Sat(main.value - 1), 1)
    reply = world.node.ask(contract.SignSweep(world.drawn.channel, (lie,), FeeratePerKw(1000)))
    assert isinstance(reply, contract.SweepSigned)
    assert not spends(commitment, Transaction.parse(reply.transaction))
    assert all(spends(commitment, tx) for tx in signed(ask(world, content)))
    true = replace(lie, value=main.value)
    assert (
        tag(world.node.ask(contract.SignSweep(world.drawn.channel, (true,), FeeratePerKw(1000))))
        == "sweep-output"
    )


def test_feerates_are_few_and_above_zero(world: World) -> None:
    _, content = cheated(world)
    request = contract.SignPenalties(world.drawn.channel, content, ())
    assert tag(world.node.ask(request)) == "penalty-feerates"
    assert tag(ask(world, content, 0)) == "penalty-feerates"
    assert tag(ask(world, content, 1000, -1)) == "penalty-feerates"
    assert tag(ask(world, content, *range(1, MAX_PENALTY_FEERATES + 2))) == "penalty-feerates"


def test_many_outputs_are_punished_in_transactions_that_are_relayed(service: SignerService) -> None:
    world = World(service)
    htlcs = [htlc(True, n, 1_000_000, sha256(n.to_bytes(2, "big"))) for n in range(250)]
    world.both_move(1, OURS - 250_000_000, htlcs)
    content = world.content(Side.COUNTERPARTY, 1, OURS - 250_000_000, htlcs)
    world.both_move(2, OURS - 250_000_000, htlcs)
    transactions = signed(ask(world, content, 253))
    assert [len(tx.inputs) for tx in transactions[:3]] == [200, 51, 1]
    assert len(transactions) == 2 + 251 and max(tx.weight for tx in transactions) < 400_000


def test_the_fee_of_a_large_penalty_is_bounded_for_each_output(world: World) -> None:
    world.both_move(1, OURS)
    content = world.content(Side.COUNTERPARTY, 1, OURS)
    world.both_move(2, OURS)
    (cheap,) = signed(ask(world, content, 1000))
    most = 1000 * MAX_CLOSING_FEE // cheap.weight
    assert len(signed(ask(world, content, most - 2000))) == 1
    assert signed(ask(world, content, most + 2000)) == []
