"""What is signed once a channel is on chain, with a stolen node as the attacker (BOLT 5; DESIGN, "The signer
contract": rules are mechanism)."""

import pytest
from msgspec.structs import replace

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.script import p2wsh
from protocol.bitcoin.sighash import SIGHASH_ALL, segwit_v0
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.commitment import Commitment, CommitmentHtlc, HtlcOutput, OutputKind, Side, build
from protocol.bus.messages import signer as contract
from protocol.bus.messages.signer import MAX_CLOSING_FEE
from protocol.curve import from_der, verify_ecdsa
from protocol.hashes import sha256
from signer.service import SignerService
from tests.signer.support import HASH, PREIMAGE, World, htlc

OURS = 600_000_000
AMOUNT = 50_000_000
EXPIRY = 500


@pytest.fixture(params=[True, False], ids=["anchors", "static_remotekey"])
def world(request: pytest.FixtureRequest, service: SignerService) -> World:
    return World(service, anchors=request.param)


def tag(reply: contract.Reply) -> str:
    assert isinstance(reply, contract.Refused), reply
    return reply.tag


def sweep(world: World, *inputs: contract.SweepInput, rate: int = 1000) -> contract.Reply:
    return world.node.ask(contract.SignSweep(world.drawn.channel, inputs, FeeratePerKw(rate)))


def signed(reply: contract.Reply) -> Transaction:
    assert isinstance(reply, contract.SweepSigned | contract.SecondStageSigned), reply
    return Transaction.parse(reply.transaction)


def theirs(world: World, number: int, to_holder: int, *htlcs: CommitmentHtlc) -> Commitment:
    content = world.content(Side.COUNTERPARTY, number, to_holder, htlcs)
    return build(world.params, Side.COUNTERPARTY, content, world.peer_point(number))


def only(commitment: Commitment, *, offered: bool) -> HtlcOutput:
    """`offered` by the owner of the commitment."""
    return next(output for output in commitment.htlcs if output.htlc.offered is offered)


def claim(
    commitment: Commitment, kind: str, *, offered_by_us: bool, preimage: bytes | None = None, number: int = 1
) -> contract.SweepInput:
    output = only(commitment, offered=not offered_by_us)
    item = output.htlc
    named = contract.SweptHtlc(offered_by_us, item.id, item.payment_hash, item.cltv_expiry, preimage)
    return contract.SweepInput(kind, commitment.txid, output.index, output.value, number, named)


def with_htlcs(world: World) -> Commitment:
    """An HTLC each way in every commitment. Answers the peer's."""
    htlcs = (htlc(True, 0, AMOUNT), htlc(False, 0, AMOUNT))
    world.both_move(1, OURS - AMOUNT, htlcs)
    return theirs(world, 1, OURS - AMOUNT, *htlcs)


def pays_cold(world: World, tx: Transaction) -> bool:
    return all(world.service._books.is_cold(output.script_pubkey) for output in tx.outputs)


# Claims from the peer's commitment.


def test_htlcs_on_the_peers_commitment_come_to_cold(world: World) -> None:
    commitment = with_htlcs(world)
    taken = signed(sweep(world, claim(commitment, "their_received_after_timeout", offered_by_us=True)))
    assert taken.locktime == EXPIRY and pays_cold(world, taken)
    wanted = claim(commitment, "their_offered_with_preimage", offered_by_us=False, preimage=PREIMAGE)
    taken = signed(sweep(world, wanted))
    assert PREIMAGE in taken.inputs[0].witness and pays_cold(world, taken)


def test_a_claim_ends_the_channel(world: World) -> None:
    """Attack: claim a received HTLC, which shows its preimage, and then let the channel go on and fail the HTLC."""
    commitment = with_htlcs(world)
    signed(
        sweep(world, claim(commitment, "their_offered_with_preimage", offered_by_us=False, preimage=PREIMAGE))
    )
    assert world.state.frozen
    assert world.refuses(world.sign(2, OURS)) == "frozen"
    assert world.refuses(world.validate(2, OURS)) == "frozen"
    assert world.refuses(contract.RevokeHolder(1)) == "frozen"
    world.grants(contract.SignHolderCommitment())  # a reorganisation may call for it


def test_a_claim_is_of_a_commitment_that_was_signed_and_stands(world: World) -> None:
    """Attack: have the HTLC key sign at the point of a commitment of the attacker's choice."""
    commitment = with_htlcs(world)
    good = claim(commitment, "their_received_after_timeout", offered_by_us=True)
    assert tag(sweep(world, replace(good, number=0))) == "claim-number"  # revoked
    assert tag(sweep(world, replace(good, number=2))) == "claim-number"  # never signed
    assert tag(sweep(world, replace(good, number=-1))) == "claim-number"
    assert not world.state.frozen


def test_a_claim_names_an_htlc_of_that_commitment_in_its_terms(world: World) -> None:
    commitment = with_htlcs(world)
    good = claim(commitment, "their_received_after_timeout", offered_by_us=True)
    assert good.htlc is not None
    named = good.htlc
    wrong = [
        replace(good, htlc=None),
        replace(good, txid=b"\x01" * 32),
        replace(good, index=good.index ^ 1),
        replace(good, value=Sat(good.value - 1)),
        replace(good, htlc=replace(named, id=1)),
        replace(good, htlc=replace(named, offered=False)),
        replace(good, htlc=replace(named, payment_hash=b"\x05" * 32)),
        replace(good, htlc=replace(named, cltv_expiry=EXPIRY - 1)),
        replace(good, kind="their_offered_with_preimage"),
    ]
    for item in wrong:
        assert tag(sweep(world, item)) == "claim-htlc"
    assert not world.state.frozen
    signed(sweep(world, good))


def test_evidence_that_is_none_claims_nothing(world: World) -> None:
    commitment = with_htlcs(world)
    wanted = claim(commitment, "their_offered_with_preimage", offered_by_us=False, preimage=b"\x12" * 32)
    assert tag(sweep(world, wanted)) == "claim-preimage"


def own_invoice(world: World, *, asked: int, amount: int, in_ours: bool = True) -> tuple[Commitment, bytes]:
    """A received HTLC over an invoice of this signer."""
    made = world.invoice(asked)
    item = htlc(False, 0, amount, payment_hash=made.payment_hash)
    if in_ours:
        world.both_move(1, OURS, (item,))
    else:
        world.peer_moves(1, OURS, (item,))
    return theirs(world, 1, OURS, item), made.payment_hash


def test_our_own_preimage_claims_an_htlc_that_is_ours_for_good(world: World) -> None:
    commitment, payment_hash = own_invoice(world, asked=AMOUNT, amount=AMOUNT)
    taken = signed(sweep(world, claim(commitment, "their_offered_with_preimage", offered_by_us=False)))
    assert any(sha256(item) == payment_hash for item in taken.inputs[0].witness)


def test_a_preimage_of_ours_does_not_leave_for_less_than_its_invoice(world: World) -> None:
    """Attack: a claim in place of a release, for a part of what the invoice asks."""
    commitment, _ = own_invoice(world, asked=AMOUNT, amount=AMOUNT - 1000)
    wanted = claim(commitment, "their_offered_with_preimage", offered_by_us=False)
    assert tag(sweep(world, wanted)) == "release-amount"
    assert not world.state.frozen


def test_a_preimage_of_ours_does_not_leave_for_an_htlc_that_only_one_commitment_has(world: World) -> None:
    """Attack: the peer publishes the other one, which lacks the HTLC, and has the proof of payment for nothing."""
    commitment, _ = own_invoice(world, asked=AMOUNT, amount=AMOUNT, in_ours=False)
    wanted = claim(commitment, "their_offered_with_preimage", offered_by_us=False)
    assert tag(sweep(world, wanted)) == "release-htlcs"


def test_a_preimage_that_was_released_before_claims_again(world: World) -> None:
    """The fulfil left already: also where the newest commitments no longer hold the HTLC together."""
    commitment, payment_hash = own_invoice(world, asked=AMOUNT, amount=AMOUNT)
    world.grants(contract.ReleasePreimage(payment_hash, (0,)), world.sign(2, OURS + AMOUNT))
    taken = signed(sweep(world, claim(commitment, "their_offered_with_preimage", offered_by_us=False)))
    assert any(sha256(item) == payment_hash for item in taken.inputs[0].witness)


def test_a_foreign_hash_without_evidence_is_no_claim(world: World) -> None:
    commitment = with_htlcs(world)
    wanted = claim(commitment, "their_offered_with_preimage", offered_by_us=False)
    assert tag(sweep(world, wanted)) == "release-unknown"


# Penalties.


def revoked(world: World) -> tuple[Commitment, list[contract.SweepInput]]:
    htlcs = (htlc(True, 0, AMOUNT), htlc(False, 0, AMOUNT))
    world.both_move(1, OURS - AMOUNT, htlcs)
    commitment = theirs(world, 1, OURS - AMOUNT, *htlcs)
    world.both_move(2, OURS - AMOUNT, htlcs)
    main = commitment.output(OutputKind.TO_LOCAL)
    assert main is not None
    inputs = [contract.SweepInput("revoked_to_local", commitment.txid, main.index, main.value, 1)]
    inputs += [claim(commitment, "revoked_htlc", offered_by_us=ours) for ours in (True, False)]
    stage = commitment.htlc_transactions()[0]
    inputs.append(contract.SweepInput("revoked_second_stage", stage.txid, 0, stage.outputs[0].value, 1))
    return commitment, inputs


def test_a_revoked_commitment_is_punished_in_one_transaction(world: World) -> None:
    """checklist 50"""
    commitment, inputs = revoked(world)
    tx = signed(sweep(world, *inputs))
    assert pays_cold(world, tx) and len(tx.inputs) == 4 and world.state.frozen
    scripts = {output.script_pubkey for output in commitment.outputs}
    for spend in tx.inputs:
        assert p2wsh(spend.witness[-1]) in scripts
    assert len({spend.witness[-1] for spend in tx.inputs}) == 3  # the second stage pays as to_local does


@pytest.mark.parametrize("output", range(4))
def test_each_penalty_ends_the_channel(world: World, output: int) -> None:
    """Its funding is spent: what would come in from now on is worth nothing, and would be passed on for real."""
    _, inputs = revoked(world)
    signed(sweep(world, inputs[output]))
    assert world.refuses(world.sign(3, OURS - AMOUNT)) == "frozen"


def test_an_unrevoked_commitment_is_not_punished(world: World) -> None:
    """Attack: there is no secret for it, so there is no key; the request must not pass for another number either."""
    _, inputs = revoked(world)
    for item in inputs:
        for number in (2, 3, -1, (1 << 48) - 1, 1 << 60):
            assert tag(sweep(world, replace(item, number=number))) == "penalty-number"
    assert not world.state.frozen


def test_a_penalty_may_cost_half_and_not_more(world: World) -> None:
    _, inputs = revoked(world)
    weight = signed(sweep(world, inputs[1], rate=253)).weight
    half = inputs[1].value // 2 * 1000 // weight
    assert tag(sweep(world, inputs[1], rate=half + 4000)) == "close-fee"
    signed(sweep(world, inputs[1], rate=half - 4000))


def test_a_penalty_pays_no_fee_for_what_was_ours_anyway(world: World) -> None:
    """Attack: half of our own output goes to a miner, since a penalty stands beside it."""
    _, inputs = revoked(world)
    both = (inputs[1], contract.SweepInput("to_remote", b"\x01" * 32, 3, Sat(AMOUNT // 1000)))
    weight = signed(sweep(world, *both, rate=253)).weight
    quarter = AMOUNT // 2000 * 1000 // weight
    assert tag(sweep(world, *both, rate=quarter + 1000)) == "close-fee"
    signed(sweep(world, *both, rate=quarter - 1000))


def test_a_penalty_output_has_one_value(world: World) -> None:
    """Attack: two lies about the amounts, joined into one transaction with a high fee."""
    _, inputs = revoked(world)
    signed(sweep(world, inputs[0]))
    assert tag(sweep(world, replace(inputs[0], value=Sat(inputs[0].value - 1)))) == "sweep-output"


def test_a_penalty_on_an_htlc_needs_its_terms(world: World) -> None:
    _, inputs = revoked(world)
    assert tag(sweep(world, replace(inputs[1], htlc=None))) == "claim-htlc"


# Second stages of our own commitment.


def closed(world: World, *htlcs: CommitmentHtlc) -> Commitment:
    world.both_move(1, OURS - sum(h.amount_msat for h in htlcs if h.offered), htlcs)
    world.grants(contract.SignHolderCommitment())
    content = world.state.holder[1][-1].content
    return build(world.params, Side.HOLDER, content, world.holder_point(1))


def coin(value: int = 30_000, index: int = 0, branch: int = 0) -> contract.WalletCoin:
    return contract.WalletCoin(b"\x31" * 32, index, Sat(value), branch, 4)


def stage(world: World, *htlcs: contract.StagedHtlc, **changes: object) -> contract.Reply:
    coins = (coin(),) if world.params.anchors else ()
    change = (1, 7) if world.params.anchors else None
    request = contract.SignSecondStage(world.drawn.channel, 1, htlcs, coins, change, FeeratePerKw(1000))
    return world.node.ask(replace(request, **changes))  # type: ignore[arg-type]


def test_second_stages_pay_our_delayed_output(world: World) -> None:
    """checklist 47"""
    commitment = closed(world, htlc(True, 0, AMOUNT), htlc(False, 0, AMOUNT))
    for wanted in (contract.StagedHtlc(True, 0), contract.StagedHtlc(False, 0, PREIMAGE)):
        tx = signed(stage(world, wanted))
        assert tx.outputs[0].script_pubkey == commitment.scripts.to_local_script_pubkey
        assert tx.locktime == (EXPIRY if wanted.offered else 0)
        others = [output.script_pubkey for output in tx.outputs[1:]]
        assert others == ([world.service.keys.wallet_script(1, 7)] if world.params.anchors else [])
        assert (PREIMAGE in tx.inputs[0].witness) is not wanted.offered
        swept = contract.SweepInput("second_stage_output", tx.txid, 0, tx.outputs[0].value, 1)
        assert pays_cold(world, signed(sweep(world, swept)))


def test_second_stages_are_of_the_commitment_that_was_published(world: World) -> None:
    """Attack: a signature for a commitment that could still be revoked would let the peer take its output."""
    world.both_move(1, OURS - AMOUNT, (htlc(True, 0, AMOUNT),))
    wanted = contract.StagedHtlc(True, 0)
    swept = contract.SweepInput("second_stage_output", b"\x01" * 32, 0, Sat(AMOUNT // 1000), 1)
    assert tag(stage(world, wanted)) == "sweep-number"
    assert tag(sweep(world, swept)) == "sweep-number"
    world.grants(contract.SignHolderCommitment())
    assert tag(stage(world, wanted, number=0)) == "sweep-number"
    assert tag(stage(world, wanted, number=2)) == "sweep-number"
    signed(stage(world, wanted))


def test_second_stages_are_of_the_version_that_was_published(world: World) -> None:
    item = htlc(True, 0, AMOUNT)
    for rate in (1000, 2000):
        world.grants(world.validate(1, OURS - AMOUNT, (item,), FeeratePerKw(rate)))
    (closing,) = world.grants(contract.SignHolderCommitment())
    assert isinstance(closing, contract.HolderCommitmentSigned)
    published = Transaction.parse(closing.transaction).txid
    assert signed(stage(world, contract.StagedHtlc(True, 0))).inputs[0].outpoint.txid == published
    raised = raise_fee(world)
    if world.params.anchors:
        assert isinstance(raised, contract.AnchorSigned)
        assert Transaction.parse(raised.transaction).inputs[0].outpoint.txid == published


def test_a_second_stage_is_signed_whole_by_us(world: World) -> None:
    """Attack: whoever sees it in the mempool attaches inputs and outputs; the peer's own signature would let him."""
    commitment = closed(world, htlc(True, 0, AMOUNT))
    tx = signed(stage(world, contract.StagedHtlc(True, 0)))
    (output,) = commitment.htlcs
    ours = tx.inputs[0].witness[2]
    assert ours[-1] == SIGHASH_ALL
    digest = segwit_v0(tx, 0, output.witness_script, output.value)
    assert verify_ecdsa(commitment.scripts.keys.local_htlcpubkey, digest, from_der(ours[:-1]))


def test_second_stages_are_of_htlcs_that_stand_there(world: World) -> None:
    closed(world, htlc(True, 0, AMOUNT), htlc(True, 1, 100_000))
    assert tag(stage(world, contract.StagedHtlc(True, 2))) == "claim-htlc"
    assert tag(stage(world, contract.StagedHtlc(False, 0, PREIMAGE))) == "claim-htlc"
    assert tag(stage(world, contract.StagedHtlc(True, 1))) == "claim-htlc"  # trimmed


def test_success_needs_the_preimage(world: World) -> None:
    closed(world, htlc(False, 0, AMOUNT))
    assert tag(stage(world, contract.StagedHtlc(False, 0, b"\x12" * 32))) == "claim-preimage"
    assert tag(stage(world, contract.StagedHtlc(False, 0))) == "release-unknown"


def test_only_htlcs_of_one_lock_time_go_together_and_only_with_anchors(world: World) -> None:
    other = sha256(b"\x22" * 32)
    closed(world, htlc(True, 0, AMOUNT), htlc(True, 1, AMOUNT, other), htlc(True, 2, AMOUNT, HASH, 501))
    first, second, later = (contract.StagedHtlc(True, n) for n in range(3))
    if world.params.anchors:
        assert len(signed(stage(world, first, second)).inputs) == 3
    else:
        assert tag(stage(world, first, second)) == "stage-together"
        assert tag(stage(world, first, coins=(coin(),))) == "stage-together"
    assert tag(stage(world, first, later)) == "stage-together"
    assert tag(stage(world, first, first)) == "stage-together"
    assert tag(stage(world)) == "stage-together"


def test_coins_for_fees_are_of_the_hot_branches_and_reach(service: SignerService) -> None:
    """Attack: burn cold coins, or name places that are none."""
    world = World(service)
    closed(world, htlc(True, 0, AMOUNT))
    wanted = contract.StagedHtlc(True, 0)
    assert tag(stage(world, wanted, coins=(coin(branch=2),))) == "fee-coins"
    assert tag(stage(world, wanted, change=(2, 0))) == "fee-coins"
    assert tag(stage(world, wanted, change=(1, 1 << 31))) == "fee-coins"
    assert tag(stage(world, wanted, coins=(coin(), coin()))) == "fee-coins"
    assert tag(stage(world, wanted, coins=(coin(100),))) == "fee-coins"
    assert tag(stage(world, wanted, coins=(), change=None)) == "fee-coins"
    assert len(signed(stage(world, wanted, coins=(coin(), coin(index=1)))).inputs) == 3


def test_the_fee_of_a_second_stage_is_bounded_by_its_htlcs(service: SignerService) -> None:
    """Attack: burn the wallet's coins. At most a quarter of the HTLCs and MAX_CLOSING_FEE for each."""
    world = World(service)
    closed(world, htlc(True, 0, AMOUNT))
    wanted = contract.StagedHtlc(True, 0)
    assert AMOUNT // 4000 < MAX_CLOSING_FEE
    assert tag(stage(world, wanted, feerate_per_kw=FeeratePerKw(20_000))) == "close-fee"
    assert tag(stage(world, wanted, change=None)) == "close-fee"  # all of the coin would be fee
    assert tag(stage(world, wanted, coins=(coin(14_000),), change=None)) == "close-fee"  # the coin is no HTLC
    signed(stage(world, wanted, coins=(coin(12_000),), change=None))


def test_the_fee_of_a_large_second_stage_is_bounded_for_each_htlc(service: SignerService) -> None:
    world = World(service)
    closed(world, htlc(True, 0, 8 * AMOUNT))
    wanted = contract.StagedHtlc(True, 0)
    assert 2 * AMOUNT // 1000 > MAX_CLOSING_FEE
    assert tag(stage(world, wanted, coins=(coin(MAX_CLOSING_FEE + 1),), change=None)) == "close-fee"
    signed(stage(world, wanted, coins=(coin(MAX_CLOSING_FEE),), change=None))


def test_change_that_nobody_relays_goes_to_the_fee(service: SignerService) -> None:
    world = World(service)
    closed(world, htlc(True, 0, AMOUNT))
    wanted = contract.StagedHtlc(True, 0)
    fee = 30_000 - signed(stage(world, wanted)).outputs[1].value
    for left, outputs in ((293, 1), (294, 2)):
        tx = signed(stage(world, wanted, coins=(coin(fee + left, index=left),)))
        assert len(tx.outputs) == outputs


def test_a_coin_has_one_value(service: SignerService) -> None:
    """Attack: two lies about coins, joined into one transaction with a high fee."""
    world = World(service)
    closed(world, htlc(True, 0, AMOUNT))
    wanted = contract.StagedHtlc(True, 0)
    signed(stage(world, wanted))
    assert tag(stage(world, wanted, coins=(coin(29_000),))) == "sweep-output"


def test_the_same_second_stage_is_signed_the_same(world: World) -> None:
    closed(world, htlc(True, 0, AMOUNT))
    assert stage(world, contract.StagedHtlc(True, 0)) == stage(world, contract.StagedHtlc(True, 0))


# Our anchor.


def raise_fee(world: World, **changes: object) -> contract.Reply:
    request = contract.SignAnchor(world.drawn.channel, 1, (coin(),), (1, 7), FeeratePerKw(3000))
    return world.node.ask(replace(request, **changes))  # type: ignore[arg-type]


def test_our_anchor_pays_for_our_commitment(service: SignerService) -> None:
    """checklist 48"""
    world = World(service)
    commitment = closed(world, htlc(True, 0, AMOUNT))
    reply = raise_fee(world)
    assert isinstance(reply, contract.AnchorSigned)
    tx = Transaction.parse(reply.transaction)
    anchor = commitment.output(OutputKind.TO_LOCAL_ANCHOR)
    assert anchor is not None and tx.inputs[0].outpoint.index == anchor.index
    (change,) = tx.outputs
    assert change.script_pubkey == world.service.keys.wallet_script(1, 7)
    fees = 30_000 + 330 - change.value + commitment.fee
    assert abs(fees * 1000 // (tx.weight + 4 * len(commitment.raw) + 224) - 3000) < 20


def test_the_anchor_is_of_the_commitment_that_was_published(service: SignerService) -> None:
    """Attack: have the funding key sign while the channel lives."""
    world = World(service)
    assert tag(raise_fee(world)) == "sweep-number"
    closed(world)
    assert tag(raise_fee(world, number=0)) == "sweep-number"


def test_what_is_the_peers_pays_for_no_anchor(service: SignerService) -> None:
    """Attack: burn the wallet's coins for a commitment that gives us little."""
    world = World(service, holder_is_opener=False, push_msat=40_000_000)
    world.grants(contract.SignHolderCommitment())
    rich = (coin(500_000),)
    assert tag(raise_fee(world, number=0, coins=rich, feerate_per_kw=FeeratePerKw(10_000))) == "close-fee"
    assert isinstance(raise_fee(world, number=0, coins=rich), contract.AnchorSigned)


def test_there_is_no_anchor_without_anchors(service: SignerService) -> None:
    world = World(service, anchors=False)
    closed(world)
    assert tag(raise_fee(world)) == "anchor"


def test_coins_for_an_anchor_are_hot_and_bounded(service: SignerService) -> None:
    """Attack: burn the wallet's coins, or the cold ones."""
    world = World(service)
    closed(world, htlc(True, 0, AMOUNT))
    assert tag(raise_fee(world, coins=())) == "fee-coins"
    assert tag(raise_fee(world, coins=(coin(branch=2),))) == "fee-coins"
    assert tag(raise_fee(world, change=(2, 0))) == "fee-coins"
    assert tag(raise_fee(world, coins=(coin(500),))) == "fee-coins"
    rich = (coin(500_000),)
    assert tag(raise_fee(world, coins=rich, feerate_per_kw=FeeratePerKw(60_000))) == "close-fee"
    raised = raise_fee(world, coins=rich)
    assert isinstance(raised, contract.AnchorSigned)
    assert tag(raise_fee(world, coins=(coin(400_000),))) == "sweep-output"


# The peer's points.


def test_points_of_the_peer_are_found_for_known_numbers_only(world: World) -> None:
    """checklist 50: also of revoked commitments, out of their secrets."""
    _, _ = revoked(world)
    for number in range(4):
        reply = world.node.ask(contract.FindPeerPoint(world.drawn.channel, number))
        assert reply == contract.PeerPointFound(world.peer_point(number))
    for number in (4, -1, 1 << 48):
        assert tag(world.node.ask(contract.FindPeerPoint(world.drawn.channel, number))) == "sign-point"
