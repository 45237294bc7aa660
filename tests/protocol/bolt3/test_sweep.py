"""Sweeps (BOLT 5, "Penalty Transactions Weight Calculation"); the scripts themselves run in `test_spends`."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.script import p2wpkh, p2wsh
from protocol.bitcoin.transaction import OutPoint
from protocol.bolt3 import scripts, sweep
from protocol.bolt3.fees import INPUT_WEIGHT
from protocol.bolt3.sweep import SweepInput, build_sweep, sweep_weight
from protocol.curve import point_of, sign_ecdsa
from protocol.errors import CommandRefused
from tests.protocol.bolt3.channel import HOLDER
from tests.protocol.bolt3.test_scripts import KEYS, PAYMENT_HASH

DESTINATION = p2wpkh(HOLDER.keys.payment_basepoint)
DELAYED = scripts.to_local(KEYS.revocationpubkey, 144, KEYS.local_delayedpubkey)
OFFERED = scripts.offered_htlc(KEYS, False, PAYMENT_HASH)
RECEIVED = scripts.received_htlc(KEYS, False, PAYMENT_HASH, 800_000)
SECRET = b"\x09" * 32


def outpoint(index: int) -> OutPoint:
    return OutPoint(b"\x05" * 32, index)


def one(value: int = 100_000) -> SweepInput:
    return sweep.to_local(outpoint(0), Sat(value), DELAYED, 144)


ALL_KINDS = (
    one(),
    sweep.revoked(outpoint(1), Sat(50_000), DELAYED),
    sweep.to_remote(outpoint(2), Sat(60_000), point_of(SECRET)),
    sweep.to_remote_anchors(outpoint(3), Sat(60_000), scripts.to_remote_anchors(point_of(SECRET))),
    sweep.anchor(outpoint(4), scripts.anchor(point_of(SECRET))),
    sweep.anchor_of_anyone(outpoint(5), scripts.anchor(point_of(SECRET))),
    sweep.htlc_with_preimage(outpoint(6), Sat(9_000), OFFERED, bytes(32), anchors=False),
    sweep.htlc_after_timeout(outpoint(7), Sat(9_000), RECEIVED, 800_000, anchors=False),
    sweep.htlc_revoked(outpoint(8), Sat(9_000), OFFERED, KEYS.revocationpubkey),
)


def test_every_kind_of_sweep_is_in_the_table_above() -> None:
    assert {spent.kind for spent in ALL_KINDS} == set(sweep.SweepKind)


def test_penalty_inputs_weigh_what_bolt_5_says() -> None:
    """checklist 50"""
    offered = sweep.htlc_revoked(outpoint(0), Sat(1), OFFERED, KEYS.revocationpubkey)
    received = sweep.htlc_revoked(outpoint(0), Sat(1), RECEIVED, KEYS.revocationpubkey)
    assert offered.weight == INPUT_WEIGHT + 243
    assert received.weight == INPUT_WEIGHT + 249  # an expiry of three bytes
    # BOLT 5 counts eight bytes for the delay and none for the length of "1"'s content; 144 has two.
    assert sweep.revoked(outpoint(0), Sat(1), DELAYED).weight == INPUT_WEIGHT + 160 - 6 + 1


@given(st.lists(st.sampled_from(ALL_KINDS), min_size=1, unique=True), st.integers(0, 300))
def test_a_sweep_pays_its_inputs_less_the_fee_and_its_weight_is_not_underestimated(
    inputs: list[SweepInput], feerate: int
) -> None:
    total = sum(spent.value for spent in inputs)
    weight = sweep_weight(inputs, DESTINATION)
    if total - weight * feerate // 1000 < 294:
        with pytest.raises(CommandRefused):
            build_sweep(inputs, DESTINATION, FeeratePerKw(feerate))
        return
    built = build_sweep(inputs, DESTINATION, FeeratePerKw(feerate))
    assert built.fee == weight * feerate // 1000
    assert [(output.value, output.script_pubkey) for output in built.tx.outputs] == [
        (total - built.fee, DESTINATION)
    ]
    signed = built.signed([digest and sign_ecdsa(SECRET, digest) for digest in built.digests])
    assert signed.txid == built.tx.txid
    assert 0 <= weight - signed.weight <= 3 * len(inputs) + 2


def test_sequences_and_locktime_are_those_that_the_scripts_demand() -> None:
    """checklist 49"""
    built = build_sweep(ALL_KINDS, DESTINATION, FeeratePerKw(253))
    replaceable = 0xFFFFFFFD
    assert built.tx.version == 2
    assert [spent.sequence for spent in built.tx.inputs] == [
        144,
        replaceable,
        replaceable,
        1,
        replaceable,
        16,
        replaceable,
        replaceable,
        replaceable,
    ]
    assert built.tx.locktime == 800_000
    assert build_sweep(ALL_KINDS, DESTINATION, FeeratePerKw(253), locktime=800_007).tx.locktime == 800_007
    assert build_sweep((one(),), DESTINATION, FeeratePerKw(253), locktime=799_000).tx.locktime == 799_000
    assert [digest is None for digest in built.digests] == [index == 5 for index in range(9)]


def test_htlcs_of_an_anchors_commitment_wait_a_block() -> None:
    """checklist 47"""
    claim = sweep.htlc_with_preimage(outpoint(0), Sat(9_000), OFFERED, bytes(32), anchors=True)
    timeout = sweep.htlc_after_timeout(outpoint(0), Sat(9_000), RECEIVED, 800_000, anchors=True)
    assert (claim.sequence, timeout.sequence) == (1, 1)
    assert (claim.locktime, timeout.locktime) == (0, 800_000)
    assert claim.script_pubkey == p2wsh(OFFERED)


def test_a_sweep_that_would_leave_dust_is_refused_with_what_to_do() -> None:
    fee = sweep_weight((one(),), DESTINATION)
    rate = FeeratePerKw(1_000)
    assert build_sweep((one(fee + 294),), DESTINATION, rate).tx.outputs[0].value == 294
    with pytest.raises(CommandRefused, match="lower feerate"):
        build_sweep((one(fee + 293),), DESTINATION, rate)
    with pytest.raises(ValueError, match="needs an input"):
        build_sweep((), DESTINATION, rate)


def test_a_missing_or_needless_signature_is_refused() -> None:
    for spent, signature in ((ALL_KINDS[0], None), (ALL_KINDS[5], bytes(64))):
        with pytest.raises(ValueError, match="signature"):
            spent.witness(signature)
    with pytest.raises(ValueError):
        build_sweep(ALL_KINDS[:2], DESTINATION, FeeratePerKw(253)).signed([None])


def test_a_preimage_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        sweep.htlc_with_preimage(outpoint(0), Sat(9_000), OFFERED, bytes(31), anchors=True)
