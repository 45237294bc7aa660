"""After a loss our own commitment may stand in the chain: what a node may learn and have signed to bring its balance
home, and what a stolen node must not win by it (DESIGN, "Closing is one-way"; BOLT 3, "Commitment Transaction
Outputs").
"""

from pathlib import Path

import pytest

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.sighash import segwit_v0
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.commitment import OutputKind, Side, build
from protocol.bolt3.content import MAX_COMMITMENT_NUMBER
from protocol.bolt3.keys import derive_public_key
from protocol.bus.messages import signer as contract
from protocol.curve import from_der, verify_ecdsa
from signer.service import SignerService
from tests.signer.support import Node, World, make_service

MINE = 600_000_000
RATE = FeeratePerKw(1000)


@pytest.fixture
def restored(world: World, tmp_path: Path) -> Node:
    """A signer of the same seed that has nothing but the words and the backup."""
    blob = world.node.ask(contract.SealBackup(b""))
    assert isinstance(blob, contract.BackupSealed)
    node = Node(make_service(tmp_path / "restored"))
    assert node.ask(contract.RestoreBackup(blob.blob)) == contract.BackupRestored((world.drawn.channel,))
    return node


def asked(world: World, node: Node, number: int) -> contract.Reply:
    return node.ask(contract.FindHolderPoint(world.drawn.channel, number))


def delayed(world: World, number: int, *, kind: str = "to_local") -> contract.SweepInput:
    """Our delayed output of commitment `number`, as the signer that was lost would have built it."""
    content = world.content(Side.HOLDER, number, MINE)
    commitment = build(world.params, Side.HOLDER, content, world.holder_point(number))
    output = commitment.output(OutputKind.TO_LOCAL)
    assert output is not None
    return contract.SweepInput(kind, commitment.txid, output.index, output.value, number)


def frozen_of(node: Node) -> str:
    (channel,) = node.service._channels.values()
    assert channel.state is not None
    return channel.state.frozen


def lawless(world: World) -> tuple[contract.Operation, ...]:
    """Everything that signs a commitment or a close, or gives a secret away."""
    ours = world.content(Side.HOLDER, 0, MINE)
    return (
        contract.SignCounterparty(0, world.content(Side.COUNTERPARTY, 0, MINE)),
        contract.ValidateHolder(0, ours, (world.peer_signs(ours),)),
        contract.RevokeHolder(0),
        contract.RevokeHolder(7),
        contract.SignHolderCommitment(),
        world.close(600_000),
    )


# The attacker.


def test_a_point_and_a_sweep_open_no_way_to_a_secret_or_a_commitment(world: World, restored: Node) -> None:
    """checklist 30: a node that is in other hands asks for everything that a restored node may ask for."""
    for number in (0, 7, 8):
        assert isinstance(asked(world, restored, number), contract.HolderPointFound)
        sweep = contract.SignSweep(world.drawn.channel, (delayed(world, number),), RATE)
        assert isinstance(restored.ask(sweep), contract.SweepSigned)
    for operation in lawless(world):
        answer = restored.ask(contract.ChannelRequest(world.drawn.channel, (operation,)))
        assert isinstance(answer, contract.ChannelAnswer), operation
        assert isinstance(answer.stopped, contract.Refused), operation
        assert answer.stopped.tag in ("frozen", "stale")
        assert not answer.results
    assert frozen_of(restored) == "stale"


@pytest.mark.parametrize("number", [0, 1, 7, MAX_COMMITMENT_NUMBER])
def test_nothing_but_the_point_is_given(world: World, restored: Node, number: int) -> None:
    """checklist 23: the secret behind it is what revokes; none of its bytes may be in the answer."""
    reply = asked(world, restored, number)
    channel = world.service._channels[world.drawn.channel]
    assert reply == contract.HolderPointFound(channel.point(number))
    said = contract.encode(reply)
    keys = channel.secrets
    hidden = [channel.secret(n) for n in (number, max(0, number - 1))]
    hidden += [keys.commitment_seed.reveal(), channel.delayed_secret(channel.point(number))]
    hidden += [keys.delayed_payment.reveal(), keys.funding.reveal(), keys.revocation.reveal()]
    assert not any(secret in said for secret in hidden)


def test_a_channel_that_lives_tells_no_point_and_sweeps_nothing(world: World) -> None:
    """The points of a living channel go to the peer in their order, with the revocation before."""
    for number in (0, 1, 2):
        reply = asked(world, world.node, number)
        assert isinstance(reply, contract.Refused)
        assert reply.tag == "holder-point"
    for kind in ("to_local", "second_stage_output"):
        refused = world.node.ask(
            contract.SignSweep(world.drawn.channel, (delayed(world, 0, kind=kind),), RATE)
        )
        assert isinstance(refused, contract.Refused)
        assert refused.tag == "sweep-number"
    world.both_move(1, MINE)  # and it goes on


def test_who_marks_a_living_channel_stale_has_ended_it(world: World) -> None:
    """The way round the rule before: it costs the attacker the channel, which from then on revokes nothing."""
    world.both_move(1, MINE)
    assert world.node.ask(contract.MarkStale(world.drawn.channel)) == contract.MarkedStale()
    assert isinstance(asked(world, world.node, 2), contract.HolderPointFound)
    assert world.refuses(world.validate(2, MINE)) == "frozen"
    assert world.refuses(contract.RevokeHolder(1)) == "frozen"
    assert world.refuses(contract.SignHolderCommitment()) == "stale"
    assert world.refuses(world.sign(2, MINE)) == "frozen"


@pytest.mark.parametrize("number", [-1, MAX_COMMITMENT_NUMBER + 1, 1 << 63])
def test_number_that_no_commitment_has_is_refused(world: World, restored: Node, number: int) -> None:
    reply = asked(world, restored, number)
    assert isinstance(reply, contract.Refused)
    assert reply.tag == "holder-point"
    wanted = contract.SweepInput("to_local", b"\xcd" * 32, 0, Sat(500_000), number)
    refused = restored.ask(contract.SignSweep(world.drawn.channel, (wanted,), RATE))
    assert isinstance(refused, contract.Refused)
    assert refused.tag == "sweep-number"


def test_a_stale_channel_signs_no_second_stage(world: World, restored: Node) -> None:
    """The peer's signatures for them are gone with the versions; there is nothing to be built."""
    staged = contract.SignSecondStage(world.drawn.channel, 0, (contract.StagedHtlc(True, 0),))
    refused = restored.ask(staged)
    assert isinstance(refused, contract.Refused)
    assert refused.tag == "sweep-number"
    assert world.node.ask(contract.MarkStale(world.drawn.channel)) == contract.MarkedStale()
    refused = world.node.ask(staged)
    assert isinstance(refused, contract.Refused)
    assert refused.tag == "sweep-number"


def test_one_output_has_one_value_after_a_restore_too(world: World, restored: Node) -> None:
    """Two values would let two signatures be joined into one transaction that pays all to the miners."""
    wanted = delayed(world, 7)
    first = restored.ask(contract.SignSweep(world.drawn.channel, (wanted,), RATE))
    assert isinstance(first, contract.SweepSigned)
    more = contract.SweepInput(wanted.kind, wanted.txid, wanted.index, Sat(wanted.value + 1), wanted.number)
    refused = restored.ask(contract.SignSweep(world.drawn.channel, (more,), RATE))
    assert isinstance(refused, contract.Refused)
    assert refused.tag == "sweep-output"


# The honest node.


@pytest.mark.parametrize("anchors", [True, False])
@pytest.mark.parametrize("kind", ["to_local", "second_stage_output"])
def test_our_delayed_output_of_any_number_comes_home_after_a_restore(
    service: SignerService, tmp_path: Path, kind: str, anchors: bool
) -> None:
    """checklist 30, 49: with the key of that number, after its delay, to a cold script."""
    world = World(service, anchors=anchors)
    sealed = world.node.ask(contract.SealBackup(b""))
    assert isinstance(sealed, contract.BackupSealed)
    node = Node(make_service(tmp_path / "restored"))
    node.ask(contract.RestoreBackup(sealed.blob))
    wanted = delayed(world, 9, kind=kind)
    reply = node.ask(contract.SignSweep(world.drawn.channel, (wanted,), RATE))
    assert isinstance(reply, contract.SweepSigned)
    tx = Transaction.parse(reply.transaction)
    (spend,) = tx.inputs
    assert (spend.outpoint.txid, spend.outpoint.index) == (wanted.txid, wanted.index)
    assert spend.sequence == world.params.holder.to_self_delay
    signature, branch, script = spend.witness
    assert branch == b""
    content = world.content(Side.HOLDER, 9, MINE)
    output = build(world.params, Side.HOLDER, content, world.holder_point(9)).output(OutputKind.TO_LOCAL)
    assert output is not None
    assert script == output.witness_script
    key = derive_public_key(world.drawn.keys.delayed_payment_basepoint, world.holder_point(9))
    assert verify_ecdsa(key, segwit_v0(tx, 0, script, wanted.value), from_der(signature[:-1]))
    (paid,) = tx.outputs
    assert node.service._books.is_cold(paid.script_pubkey)


def test_a_force_close_that_the_signer_remembers_is_swept_as_before(world: World) -> None:
    """A signer that was not lost knows the commitment, and holds the node to it."""
    world.holder_moves(1, MINE)
    world.grants(contract.SignHolderCommitment())
    assert world.node.ask(contract.MarkStale(world.drawn.channel)) == contract.MarkedStale()
    assert asked(world, world.node, 1) == contract.HolderPointFound(world.holder_point(1))
    old = world.node.ask(contract.SignSweep(world.drawn.channel, (delayed(world, 0),), RATE))
    assert isinstance(old, contract.Refused)
    assert old.tag == "sweep-number"
    now = world.node.ask(contract.SignSweep(world.drawn.channel, (delayed(world, 1),), RATE))
    assert isinstance(now, contract.SweepSigned)
