"""Every witness that we make, run by Bitcoin's own script engine (BOLT 3, whole; BOLT 5)."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.util import find_spec

import pytest

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.script import p2wpkh
from protocol.bitcoin.sighash import SIGHASH_ALL, segwit_v0
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bolt3 import closing, funding, sweep
from protocol.bolt3.commitment import Commitment, CommitmentOutput, OutputKind, Side, build
from protocol.bolt3.htlc_tx import HtlcOutput, success_witness, timeout_witness, with_witness
from protocol.bolt3.sweep import SweepInput, build_sweep
from protocol.curve import sign_ecdsa
from tests.protocol.bolt3.channel import (
    CAPACITY,
    COUNTERPARTY,
    DELAY,
    HOLDER,
    PER_COMMITMENT_POINT,
    VECTOR_HTLCS,
    Party,
    content,
    params,
    party,
    preimage_of,
    sign_commitment,
    sign_second_stage,
)
from tests.support import need

DESTINATION = p2wpkh(HOLDER.keys.payment_basepoint)
RATE = FeeratePerKw(253)
FUNDING_OUTPUT = funding.funding_output(
    CAPACITY, HOLDER.keys.funding_pubkey, COUNTERPARTY.keys.funding_pubkey
)


def kernel_accepts(tx: Transaction, spent: list[TxOut]) -> bool:
    need("pbk", find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    import pbk
    from pbk.script import PrecomputedTransactionData

    parsed = pbk.Transaction(tx.serialize())
    outputs = [pbk.TransactionOutput(pbk.ScriptPubkey(o.script_pubkey), o.value) for o in spent]
    precomputed = PrecomputedTransactionData(parsed, outputs)
    flags = pbk.ScriptVerificationFlags.ALL
    return all(
        pbk.ScriptPubkey(o.script_pubkey).verify(o.value, parsed, precomputed, index, flags)
        for index, o in enumerate(spent)
    )


def corruptions(tx: Transaction) -> Iterator[Transaction]:
    """The transaction with one byte of one witness item changed, for each item at three places."""
    witness = tx.inputs[0].witness
    for number, item in enumerate(witness):
        for at in sorted({0, len(item) // 2, len(item) - 1} if item else ()):
            bad = item[:at] + bytes((item[at] ^ 1,)) + item[at + 1 :]
            yield with_witness(tx, 0, (*witness[:number], bad, *witness[number + 1 :]))


def unsigned_changes(tx: Transaction) -> Iterator[Transaction]:
    """The transaction with each field that signatures cover changed, but for what is signed."""
    spent, paid = tx.inputs[0], tx.outputs[0]
    yield replace(tx, inputs=(replace(spent, sequence=spent.sequence ^ 2),))
    yield replace(tx, inputs=(replace(spent, outpoint=OutPoint(spent.outpoint.txid, 77)),))
    yield replace(tx, locktime=tx.locktime ^ 2)
    yield replace(tx, version=1)
    yield replace(tx, outputs=(replace(paid, value=Sat(paid.value - 1)), *tx.outputs[1:]))


def check_signed(tx: Transaction, spent: TxOut) -> None:
    assert kernel_accepts(tx, [spent])
    wrong = [*corruptions(tx), *unsigned_changes(tx)]
    assert len(wrong) >= 11
    for bad in wrong:
        assert not kernel_accepts(bad, [spent])
    assert not kernel_accepts(tx, [replace(spent, value=Sat(spent.value + 1))])


@dataclass(frozen=True)
class Scene:
    """A commitment of the holder: *owner* is the holder, *other* the counterparty."""

    commitment: Commitment
    owner: Party = HOLDER
    other: Party = COUNTERPARTY

    @property
    def anchors(self) -> bool:
        return self.commitment.params.anchors

    def only(self, kind: OutputKind) -> CommitmentOutput:
        output = self.commitment.output(kind)
        assert output is not None
        return output

    def at(self, output: CommitmentOutput | HtlcOutput) -> OutPoint:
        return OutPoint(self.commitment.txid, output.index)

    def htlc(self, *, offered: bool) -> HtlcOutput:
        return next(output for output in self.commitment.htlcs if output.htlc.offered is offered)


def scene(anchors: bool) -> Scene:
    shared = content(6_988_000_000, 3_000_000_000, VECTOR_HTLCS[:5], feerate=300)
    return Scene(build(params(anchors=anchors), Side.HOLDER, shared, PER_COMMITMENT_POINT))


SCENES = [scene(False), scene(True)]
scenes = pytest.mark.parametrize("view", SCENES, ids=["static_remotekey", "anchors"])


@scenes
def test_commitments_spend_the_funding_output(view: Scene) -> None:
    tx = sign_commitment(view.commitment)
    check_signed(tx, FUNDING_OUTPUT)
    dummy, first, second, script = tx.inputs[0].witness
    assert not kernel_accepts(with_witness(tx, 0, (dummy, second, first, script)), [FUNDING_OUTPUT])


def test_a_mutual_close_spends_the_funding_output() -> None:
    built = closing.build(
        params(), Sat(4_000_000), Sat(6_000_000), DESTINATION, p2wpkh(b"theirs"), Sat(1_000)
    )
    signed = built.signed(
        sign_ecdsa(HOLDER.funding, built.digest), sign_ecdsa(COUNTERPARTY.funding, built.digest)
    )
    check_signed(signed, FUNDING_OUTPUT)


@scenes
@pytest.mark.parametrize("number", range(5))
def test_second_stages_spend_the_htlc_outputs(view: Scene, number: int) -> None:
    output = view.commitment.htlcs[number]
    spent = view.commitment.tx.outputs[output.index]
    check_signed(sign_second_stage(view.commitment, output), spent)


def test_second_stages_with_anchors_wait_a_block_even_when_signed_otherwise() -> None:
    """The delay is in the script: two signatures over a transaction without it do not help. checklist 47"""
    view = scene(True)
    for output in view.commitment.htlcs:
        tx = view.commitment.second_stage.transaction(output)
        hurried = replace(tx, inputs=(replace(tx.inputs[0], sequence=0),))
        assert_second_stage(view, hurried, output, accepted=False)
        assert_second_stage(view, tx, output, accepted=True)


def assert_second_stage(view: Scene, tx: Transaction, output: HtlcOutput, *, accepted: bool) -> None:
    digest = segwit_v0(tx, 0, output.witness_script, output.value)
    remote = sign_ecdsa(view.other.htlc_secret(), digest)
    local = sign_ecdsa(view.owner.htlc_secret(), digest)
    if output.htlc.offered:
        witness = timeout_witness(remote, local, output.witness_script, SIGHASH_ALL)
    else:
        preimage = preimage_of(output.htlc.id)
        witness = success_witness(remote, local, preimage, output.witness_script, SIGHASH_ALL)
    spent = view.commitment.tx.outputs[output.index]
    assert kernel_accepts(with_witness(tx, 0, witness), [spent]) is accepted


def test_inputs_may_be_added_to_a_second_stage_with_anchors_but_its_output_may_not_change() -> None:
    """checklist 47"""
    view = scene(True)
    output = view.htlc(offered=True)
    tx = view.commitment.second_stage.transaction(output)
    remote = sign_ecdsa(
        view.other.htlc_secret(),
        view.commitment.htlc_digests()[view.commitment.htlcs.index(output)],
    )
    fee_input = sweep.to_remote(OutPoint(b"\x08" * 32, 0), Sat(5_000), HOLDER.keys.payment_basepoint)
    change = TxOut(Sat(4_000), DESTINATION)
    bigger = replace(
        tx,
        inputs=(*tx.inputs, TxIn(fee_input.outpoint, sequence=fee_input.sequence)),
        outputs=(*tx.outputs, change),
    )
    cheating = replace(
        bigger, outputs=(replace(bigger.outputs[0], value=Sat(bigger.outputs[0].value - 1)), change)
    )
    for candidate, accepted in ((bigger, True), (cheating, False)):
        local = sign_ecdsa(
            view.owner.htlc_secret(), segwit_v0(candidate, 0, output.witness_script, output.value)
        )
        fee_signature = sign_ecdsa(
            HOLDER.payment, segwit_v0(candidate, 1, fee_input.script_code, fee_input.value)
        )
        signed = with_witness(
            candidate,
            0,
            timeout_witness(remote, local, output.witness_script, view.commitment.remote_hash_type),
        )
        signed = with_witness(signed, 1, fee_input.witness(fee_signature))
        spent = [view.commitment.tx.outputs[output.index], TxOut(fee_input.value, fee_input.script_pubkey)]
        assert kernel_accepts(signed, spent) is accepted


def sweeps_of(view: Scene) -> dict[str, tuple[SweepInput, bytes | None]]:
    """Each single-signature spend of what a commitment leaves, with the secret that signs it."""
    owner, other, anchors = view.owner, view.other, view.anchors
    to_local, to_remote = view.only(OutputKind.TO_LOCAL), view.only(OutputKind.TO_REMOTE)
    offered, received = view.htlc(offered=True), view.htlc(offered=False)
    stage = view.commitment.second_stage.transaction(offered)
    stage_at, stage_value = OutPoint(stage.txid, 0), stage.outputs[0].value
    script, revocation = view.commitment.scripts.to_local, other.revocation_secret()
    revocationpubkey = view.commitment.scripts.keys.revocationpubkey
    of_remote = (
        sweep.to_remote_anchors(view.at(to_remote), to_remote.value, to_remote.witness_script)
        if anchors
        else sweep.to_remote(view.at(to_remote), to_remote.value, view.commitment.scripts.keys.remotepubkey)
    )
    found: dict[str, tuple[SweepInput, bytes | None]] = {
        "to_local": (
            sweep.to_local(view.at(to_local), to_local.value, script, DELAY),
            owner.delayed_secret(),
        ),
        "second_stage": (sweep.to_local(stage_at, stage_value, script, DELAY), owner.delayed_secret()),
        "revoked_to_local": (sweep.revoked(view.at(to_local), to_local.value, script), revocation),
        "revoked_second_stage": (sweep.revoked(stage_at, stage_value, script), revocation),
        "to_remote": (of_remote, other.payment),
        "offered_with_preimage": (
            sweep.htlc_with_preimage(
                view.at(offered),
                offered.value,
                offered.witness_script,
                preimage_of(offered.htlc.id),
                anchors=anchors,
            ),
            other.htlc_secret(),
        ),
        "received_after_timeout": (
            sweep.htlc_after_timeout(
                view.at(received),
                received.value,
                received.witness_script,
                received.htlc.cltv_expiry,
                anchors=anchors,
            ),
            other.htlc_secret(),
        ),
        "revoked_offered": (
            sweep.htlc_revoked(view.at(offered), offered.value, offered.witness_script, revocationpubkey),
            revocation,
        ),
        "revoked_received": (
            sweep.htlc_revoked(view.at(received), received.value, received.witness_script, revocationpubkey),
            revocation,
        ),
    }
    if anchors:
        own, theirs = view.only(OutputKind.TO_LOCAL_ANCHOR), view.only(OutputKind.TO_REMOTE_ANCHOR)
        found["own_anchor"] = sweep.anchor(view.at(own), own.witness_script), owner.funding
        found["their_anchor"] = sweep.anchor(view.at(theirs), theirs.witness_script), other.funding
        found["anchor_of_anyone"] = sweep.anchor_of_anyone(view.at(own), own.witness_script), None
    return found


def swept(spent: SweepInput, secret: bytes | None) -> tuple[Transaction, TxOut]:
    # At no fee, since an anchor alone could not pay one.
    built = build_sweep([spent], DESTINATION, FeeratePerKw(0))
    (digest,) = built.digests
    signature = sign_ecdsa(secret, digest) if secret is not None and digest is not None else None
    return built.signed([signature]), TxOut(spent.value, spent.script_pubkey)


ALL_SWEEPS = [
    pytest.param(view, name, id=f"{'anchors' if view.anchors else 'static_remotekey'}-{name}")
    for view in SCENES
    for name in sweeps_of(view)
]


@pytest.mark.parametrize(("view", "name"), ALL_SWEEPS)
def test_a_sweep_spends_its_output_and_only_as_it_is(view: Scene, name: str) -> None:
    """checklist 47, 49, 50"""
    spent, secret = sweeps_of(view)[name]
    assert spent.script_pubkey in {o.script_pubkey for o in view.commitment.tx.outputs}
    tx, output = swept(spent, secret)
    if secret is None:
        assert kernel_accepts(tx, [output])
        assert not any(kernel_accepts(bad, [output]) for bad in corruptions(tx))
    else:
        check_signed(tx, output)


@pytest.mark.parametrize(("view", "name"), ALL_SWEEPS)
def test_a_sweep_signed_too_early_is_refused(view: Scene, name: str) -> None:
    """Signed anew each time, so that it is the lock and not the signature that refuses. checklist 47, 49"""
    spent, secret = sweeps_of(view)[name]
    early = []
    if spent.sequence != sweep.REPLACEABLE:
        early.append(replace(spent, sequence=spent.sequence - 1))
        early.append(replace(spent, sequence=sweep.REPLACEABLE))
    if spent.locktime:
        early.append(replace(spent, locktime=spent.locktime - 1))
        early.append(replace(spent, sequence=0xFFFFFFFF))
    locked = {"to_local", "second_stage", "received_after_timeout", "anchor_of_anyone"}
    if view.anchors:
        locked |= {"to_remote", "offered_with_preimage"}
    assert bool(early) is (name in locked)
    for attempt in early:
        tx, output = swept(attempt, secret)
        assert not kernel_accepts(tx, [output])


@pytest.mark.parametrize(("view", "name"), ALL_SWEEPS)
def test_no_other_key_signs_a_sweep(view: Scene, name: str) -> None:
    """checklist 49, 50"""
    spent, secret = sweeps_of(view)[name]
    if secret is None:
        assert not spent.needs_signature
        return
    for foreign in (b"\x66" * 32, party(Side.HOLDER).revocation):
        tx, output = swept(spent, foreign)
        assert not kernel_accepts(tx, [output])


@scenes
def test_many_outputs_are_swept_in_one_transaction(view: Scene) -> None:
    names = ["revoked_to_local", "to_remote", "revoked_offered", "received_after_timeout"]
    chosen = [sweeps_of(view)[name] for name in names]
    built = build_sweep([spent for spent, _ in chosen], DESTINATION, RATE)
    signatures = [
        sign_ecdsa(secret, digest)
        for (_, secret), digest in zip(chosen, built.digests, strict=True)
        if secret is not None and digest is not None
    ]
    spent = [TxOut(item.value, item.script_pubkey) for item, _ in chosen]
    assert kernel_accepts(built.signed(signatures), spent)
    assert not kernel_accepts(built.signed(signatures[::-1]), spent)
