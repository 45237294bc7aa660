"""HTLC transactions (BOLT 3, "HTLC-Timeout and HTLC-Success Transactions")."""

import pytest

from protocol.bitcoin.sighash import SIGHASH_ALL, SIGHASH_SINGLE_ANYONECANPAY
from protocol.bolt3.commitment import Commitment, Side, build
from protocol.bolt3.fees import (
    HTLC_SUCCESS_WEIGHT,
    HTLC_SUCCESS_WEIGHT_ANCHORS,
    HTLC_TIMEOUT_WEIGHT,
    HTLC_TIMEOUT_WEIGHT_ANCHORS,
)
from protocol.bolt3.htlc_tx import success_witness, timeout_witness, with_witness
from protocol.curve import sign_ecdsa, to_der
from tests.protocol.bolt3.channel import (
    PER_COMMITMENT_POINT,
    VECTOR_HTLCS,
    content,
    params,
    preimage_of,
    sign_second_stage,
)

SIGNATURES = sign_ecdsa(b"\x01" * 32, bytes(32)), sign_ecdsa(b"\x02" * 32, bytes(32))


def commitment(anchors: bool) -> Commitment:
    shared = content(6_988_000_000, 3_000_000_000, VECTOR_HTLCS[:5], feerate=300)
    return build(params(anchors=anchors), Side.HOLDER, shared, PER_COMMITMENT_POINT)


@pytest.mark.parametrize("anchors", [False, True])
def test_the_fields_are_those_of_the_specification(anchors: bool) -> None:
    """checklist 17: amounts are rounded down."""
    built = commitment(anchors)
    assert len(built.htlcs) == 5
    for output, tx in zip(built.htlcs, built.htlc_transactions(), strict=True):
        htlc = output.htlc
        (spent,), (paid,) = tx.inputs, tx.outputs
        fee = 0 if anchors else 300 * (663 if htlc.offered else 703) // 1000
        assert (tx.version, tx.locktime) == (2, htlc.cltv_expiry if htlc.offered else 0)
        assert (spent.outpoint.txid, spent.outpoint.index) == (built.txid, output.index)
        assert spent.sequence == (1 if anchors else 0)
        assert paid.value == htlc.amount_msat // 1000 - fee
        assert paid.script_pubkey == built.scripts.to_local_script_pubkey


def test_the_other_side_lets_inputs_be_added_only_with_anchors() -> None:
    """checklist 47"""
    assert commitment(False).remote_hash_type == SIGHASH_ALL
    assert commitment(True).remote_hash_type == SIGHASH_SINGLE_ANYONECANPAY
    for anchors in (False, True):
        built = commitment(anchors)
        assert built.htlc_digests() == built.htlc_digests(built.remote_hash_type)
        assert (built.htlc_digests() == built.htlc_digests(SIGHASH_ALL)) is not anchors


def test_a_digest_of_one_htlc_is_for_no_other() -> None:
    """checklist 16"""
    digests = commitment(True).htlc_digests() + commitment(True).htlc_digests(SIGHASH_ALL)
    assert len(set(digests)) == 10


def test_the_witness_has_the_remote_signature_first_and_the_preimage_or_nothing() -> None:
    remote, local = SIGNATURES
    success = success_witness(remote, local, preimage_of(1), b"script", SIGHASH_SINGLE_ANYONECANPAY)
    signatures = to_der(remote) + b"\x83", to_der(local) + b"\x01"
    assert success == (b"", *signatures, preimage_of(1), b"script")
    timeout = timeout_witness(remote, local, b"script", SIGHASH_SINGLE_ANYONECANPAY)
    assert timeout == (b"", *signatures, b"", b"script")


@pytest.mark.parametrize("anchors", [False, True])
def test_signed_transactions_weigh_what_appendix_a_says_at_most(anchors: bool) -> None:
    """checklist 17"""
    built = commitment(anchors)
    success, timeout = (
        (HTLC_SUCCESS_WEIGHT_ANCHORS, HTLC_TIMEOUT_WEIGHT_ANCHORS)
        if anchors
        else (HTLC_SUCCESS_WEIGHT, HTLC_TIMEOUT_WEIGHT)
    )
    for output in built.htlcs:
        weight = sign_second_stage(built, output).weight
        expected = timeout if output.htlc.offered else success
        # Two signatures of 71 or 72 bytes are counted as 73, and this expiry has two bytes, not four.
        assert 0 <= expected - weight <= 8


def test_with_witness_changes_one_input_and_nothing_else() -> None:
    tx = commitment(True).htlc_transactions()[0]
    signed = with_witness(tx, 0, (b"a",))
    assert signed.inputs[0].witness == (b"a",)
    assert signed.txid == tx.txid and tx.inputs[0].witness == ()
