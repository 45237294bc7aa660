"""Our anchor on the peer's commitment: it waits in a mempool with too low a fee, and our money with it (BOLT 5)."""

import pytest
from msgspec.structs import replace

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.script import p2wsh
from protocol.bitcoin.sighash import segwit_v0
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.commitment import Commitment, CommitmentContent, OutputKind, Side, build
from protocol.bus.messages import signer as contract
from protocol.curve import from_der, verify_ecdsa
from signer.service import SignerService
from tests.signer.support import World, htlc

OURS = 600_000_000
AMOUNT = 50_000_000
HTLCS = (htlc(True, 0, AMOUNT),)
COIN = contract.WalletCoin(b"\x31" * 32, 0, Sat(30_000), 0, 4)


@pytest.fixture
def world(service: SignerService) -> World:
    made = World(service)
    made.both_move(1, OURS - AMOUNT, HTLCS)
    return made


def content(world: World, number: int = 1) -> CommitmentContent:
    return world.content(Side.COUNTERPARTY, number, OURS - AMOUNT, HTLCS)


def theirs(world: World, number: int = 1) -> Commitment:
    return build(world.params, Side.COUNTERPARTY, content(world, number), world.peer_point(number))


def ask(world: World, **changes: object) -> contract.Reply:
    request = contract.SignAnchor(world.drawn.channel, 1, (COIN,), (1, 7), FeeratePerKw(3000), theirs=True)
    return world.node.ask(replace(request, **changes))  # type: ignore[arg-type]


def signed(reply: contract.Reply) -> Transaction:
    assert isinstance(reply, contract.AnchorSigned), reply
    return Transaction.parse(reply.transaction)


def tag(reply: contract.Reply) -> str:
    assert isinstance(reply, contract.Refused), reply
    return reply.tag


def test_our_anchor_pays_for_the_peers_commitment(world: World) -> None:
    """checklist 48"""
    commitment = theirs(world)
    tx = signed(ask(world))
    anchor = commitment.output(OutputKind.TO_REMOTE_ANCHOR)
    assert anchor is not None
    spend = tx.inputs[0]
    assert (spend.outpoint.txid, spend.outpoint.index) == (commitment.txid, anchor.index)
    script = spend.witness[-1]
    assert p2wsh(script) == anchor.script_pubkey
    digest = segwit_v0(tx, 0, script, anchor.value)
    assert verify_ecdsa(world.drawn.keys.funding_pubkey, digest, from_der(spend.witness[0][:-1]))
    fees = 30_000 + 330 - tx.outputs[0].value + commitment.fee
    assert abs(fees * 1000 // (tx.weight + 4 * len(commitment.raw) + 224) - 3000) < 20


def test_it_changes_nothing_and_repeats(world: World) -> None:
    """The commitment in the mempool may never confirm, and then the channel goes on."""
    before = world.state
    assert ask(world) == ask(world)
    assert world.state is before
    world.both_move(2, OURS)


def test_the_version_in_the_mempool_is_named_by_its_content(world: World) -> None:
    world.grants(world.sign(2, OURS - AMOUNT, HTLCS), world.sign(2, OURS - AMOUNT, HTLCS, FeeratePerKw(1200)))
    newest = signed(ask(world, number=2))
    first = signed(ask(world, number=2, content=content(world, 2)))
    assert first.inputs[0].outpoint.txid == theirs(world, 2).txid != newest.inputs[0].outpoint.txid
    # The one before is not revoked, so it may be published too.
    assert signed(ask(world)).inputs[0].outpoint.txid == theirs(world).txid


def test_only_commitments_that_we_signed_and_that_stand(world: World) -> None:
    """Attack: have the funding key sign over a transaction of the attacker's choice."""
    assert tag(ask(world, number=0)) == "claim-number"  # revoked
    assert tag(ask(world, number=2)) == "claim-number"  # never signed
    assert tag(ask(world, number=-1)) == "claim-number"
    assert tag(ask(world, content=content(world, 2))) == "anchor"
    other = world.content(Side.COUNTERPARTY, 1, OURS - AMOUNT, HTLCS, feerate=FeeratePerKw(999))
    assert tag(ask(world, content=other)) == "anchor"
    signed(ask(world, content=content(world)))


def test_coins_are_bounded_there_too(world: World) -> None:
    """Attack: burn the wallet's coins on a commitment of a friend."""
    rich = replace(COIN, value=Sat(900_000))
    assert tag(ask(world, coins=(rich,), feerate_per_kw=FeeratePerKw(60_000))) == "close-fee"
    assert tag(ask(world, coins=(replace(COIN, branch=2),))) == "fee-coins"
    assert tag(ask(world, change=(2, 0))) == "fee-coins"


def test_what_is_at_stake_is_ours(service: SignerService) -> None:
    """Attack: the balance of the peer is no reason to spend our coins."""
    world = World(service, push_msat=990_000_000)
    dear = FeeratePerKw(6000)
    assert tag(ask(world, number=0, feerate_per_kw=dear)) == "close-fee"
    signed(ask(world, number=0, feerate_per_kw=FeeratePerKw(1500)))


def test_there_is_no_anchor_without_anchors(service: SignerService) -> None:
    world = World(service, anchors=False)
    assert tag(ask(world, number=0)) == "anchor"
