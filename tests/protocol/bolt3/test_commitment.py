"""Commitment and HTLC transactions against BOLT 3's Appendices C and F, and their properties."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from protocol.bitcoin.sighash import SIGHASH_ALL, SIGHASH_SINGLE_ANYONECANPAY, segwit_v0
from protocol.bitcoin.transaction import Transaction, txid_hex
from protocol.bolt3 import funding, scripts
from protocol.bolt3.commitment import (
    Commitment,
    CommitmentContent,
    CommitmentHtlc,
    CommitmentParams,
    OutputKind,
    Side,
    build,
    prepare,
)
from protocol.bolt3.params import commitment_number
from protocol.curve import from_der, point_of, sign_ecdsa, verify_ecdsa
from protocol.errors import PeerViolation
from tests.protocol.bolt3.channel import (
    CAPACITY,
    COUNTERPARTY,
    HOLDER,
    NUMBER,
    OUTPOINT,
    PER_COMMITMENT_POINT,
    VECTOR_HTLCS,
    content,
    params,
    party,
    sign_commitment,
    sign_second_stage,
)
from tests.support import vectors

SIMPLE = (
    "02000000000101bef67e4e2fb9ddeeb3461973cd4c62abb35050b1add772995b820b584a488489000000000038b02b8002c0c62d"
    "0000000000160014cc1b07838e387deacd0e5232e1e8b49f4c29e48454a56a00000000002200204adb4e2f00643db396dd120d4e"
    "7dc17625f5f2c11a40d857accc862d6b7dd80e04004730440220616210b2cc4d3afb601013c373bbd8aac54febd9f15400379a8c"
    "b65ce7deca60022034236c010991beb7ff770510561ae8dc885b8d38d1947248c38f2ae05564714201483045022100c3127b33dc"
    "c741dd6b05b1e63cbd1a9a7d816f37af9b6756fa2376b056f032370220408b96279808fe57eb7e463710804cdf4f108388bc5cf7"
    "22d8c848d2c7f9f3b001475221023da092f6980e58d2c037173180e9a465476026ee50f96695963e8efe436f54eb21030e9f7b62"
    "3d2ccc7c9bd44d66d5ce21ce504c0acf6385a132cec6d3c39fa711c152ae3e195220"
)
SIMPLE_ANCHORS = (
    "02000000000101bef67e4e2fb9ddeeb3461973cd4c62abb35050b1add772995b820b584a488489000000000038b02b80044a0100"
    "00000000002200202b1b5854183c12d3316565972c4668929d314d81c5dcdbb21cb45fe8a9a8114f4a01000000000000220020e9"
    "e86e4823faa62e222ebc858a226636856158f07e69898da3b0d1af0ddb3994c0c62d0000000000220020f3394e1e619b0eca1f91"
    "be2fb5ab4dfc59ba5b84ebe014ad1d43a564d012994a508b6a00000000002200204adb4e2f00643db396dd120d4e7dc17625f5f2"
    "c11a40d857accc862d6b7dd80e04004830450221008266ac6db5ea71aac3c95d97b0e172ff596844851a3216eb88382a8dddfd33"
    "d2022050e240974cfd5d708708b4365574517c18e7ae535ef732a3484d43d0d82be9f701483045022100f89034eba16b2be0e558"
    "1f750a0a6309192b75cce0f202f0ee2b4ec0cc394850022076c65dc507fe42276152b7a3d90e961e678adbe966e916ecfe85e64d"
    "430e75f301475221023da092f6980e58d2c037173180e9a465476026ee50f96695963e8efe436f54eb21030e9f7b623d2ccc7c9b"
    "d44d66d5ce21ce504c0acf6385a132cec6d3c39fa711c152ae3e195220"
)


def holders(known: CommitmentParams, shared: CommitmentContent) -> Commitment:
    return build(known, Side.HOLDER, shared, PER_COMMITMENT_POINT)


def htlcs_for(to_local: int, to_remote: int) -> tuple[CommitmentHtlc, ...]:
    """The appendix tells which HTLCs stand by what is missing from the capacity."""
    three = (VECTOR_HTLCS[1], VECTOR_HTLCS[5], VECTOR_HTLCS[6])
    by_sum = {0: (), 12_000_000: VECTOR_HTLCS[:5], 12_000_001: three}
    return by_sum[1000 * CAPACITY - to_local - to_remote]


@pytest.mark.parametrize(("anchors", "expected"), [(False, SIMPLE), (True, SIMPLE_ANCHORS)])
def test_the_simple_commitment_agrees_with_the_appendix(anchors: bool, expected: str) -> None:
    """checklist 17"""
    shared = content(7_000_000_000, 3_000_000_000, feerate=15_000)
    commitment = holders(params(anchors=anchors), shared)
    assert sign_commitment(commitment).serialize().hex() == expected
    assert commitment.txid == Transaction.parse(bytes.fromhex(expected)).txid


STATIC_CASES = range(16)
ANCHOR_CASES = range(9)


def test_the_published_files_have_the_cases_that_are_listed_here() -> None:
    assert len(vectors("bolt03/commitment_static_remotekey.json")["cases"]) == len(STATIC_CASES)
    assert len(vectors("bolt03/commitment_anchors.json")["cases"]) == len(ANCHOR_CASES)


@pytest.mark.parametrize("number", STATIC_CASES)
def test_static_remotekey_commitments_agree_with_appendix_c(number: int) -> None:
    """checklist 16, 17"""
    case: dict[str, Any] = vectors("bolt03/commitment_static_remotekey.json")["cases"][number]
    to_local, to_remote = case["to_local_msat"], case["to_remote_msat"]
    shared = content(to_local, to_remote, htlcs_for(to_local, to_remote), case["local_feerate_per_kw"])
    commitment = holders(params(), shared)

    assert sign_commitment(commitment).serialize().hex() == case["commitment_tx"]
    assert from_der(bytes.fromhex(case["remote_signature_der"])) == sign_ecdsa(
        COUNTERPARTY.funding, commitment.digest
    )
    if "actual_commitment_fee" in case:
        assert commitment.fee == case["actual_commitment_fee"]
    listed = Counter(
        (item["type"], item["amount_sat"], item.get("witness_script", "")) for item in case["outputs"]
    )
    built = Counter((item.kind.value, item.value, item.witness_script.hex()) for item in commitment.outputs)
    assert listed <= built  # the last case lists its HTLC outputs alone
    assert listed.total() in (built.total(), case["num_htlcs"])

    assert len(commitment.htlcs) == case["num_htlcs"] == len(case["htlc_transactions"])
    for output, expected in zip(commitment.htlcs, case["htlc_transactions"], strict=True):
        assert (output.htlc.id, output.index) == (expected["htlc"], expected["output_index"])
        assert sign_second_stage(commitment, output).serialize().hex() == expected["tx"]


@pytest.mark.parametrize("number", ANCHOR_CASES)
def test_anchor_commitments_agree_with_appendix_f(number: int) -> None:
    """checklist 16, 17"""
    case: dict[str, Any] = vectors("bolt03/commitment_anchors.json")["cases"][number]
    to_local, to_remote = case["LocalBalance"], case["RemoteBalance"]
    shared = content(to_local, to_remote, htlcs_for(to_local, to_remote), case["FeePerKw"])
    commitment = holders(params(anchors=True, dust_limit=case["DustLimitSatoshis"]), shared)

    assert sign_commitment(commitment).serialize().hex() == case["ExpectedCommitmentTxHex"]
    assert len(commitment.htlcs) == len(case["HtlcDescs"])
    digests = commitment.htlc_digests()
    for output, digest, expected in zip(commitment.htlcs, digests, case["HtlcDescs"], strict=True):
        assert sign_second_stage(commitment, output).serialize().hex() == expected["ResolutionTxHex"]
        signature = from_der(bytes.fromhex(expected["RemoteSigHex"]))
        assert verify_ecdsa(point_of(COUNTERPARTY.htlc_secret()), digest, signature)


def test_the_obscured_number_agrees_with_appendix_c_and_is_read_back() -> None:
    known = params()
    assert known.obscuring_factor == 0x2BB038521914
    tx = holders(known, content(7_000_000_000, 3_000_000_000)).tx
    assert commitment_number(known, tx.inputs[0].sequence, tx.locktime) == NUMBER
    assert commitment_number(known.mirror(), tx.inputs[0].sequence, tx.locktime) == NUMBER
    assert commitment_number(known, 0xFFFFFFFF, tx.locktime) is None
    assert commitment_number(known, tx.inputs[0].sequence, 500) is None


def test_the_factor_puts_the_opener_first_whichever_side_that_is() -> None:
    assert params(opener_is_holder=False).obscuring_factor != params().obscuring_factor
    assert params(opener_is_holder=False).mirror().obscuring_factor != params().obscuring_factor
    assert params().mirror().obscuring_factor == params().obscuring_factor


def test_the_delay_of_each_commitment_is_its_owners() -> None:
    known = params(delays=(144, 720))
    shared = content(7_000_000_000, 3_000_000_000)
    own = build(known, Side.HOLDER, shared, PER_COMMITMENT_POINT).output(OutputKind.TO_LOCAL)
    theirs = build(known, Side.COUNTERPARTY, shared, PER_COMMITMENT_POINT).output(OutputKind.TO_LOCAL)
    assert own is not None and bytes.fromhex("029000b2") in own.witness_script
    assert theirs is not None and bytes.fromhex("02d002b2") in theirs.witness_script


def test_an_anchor_without_htlcs_stands_only_beside_its_balance() -> None:
    """checklist 17"""
    known = params(anchors=True)
    both = holders(known, content(7_000_000_000, 3_000_000_000))
    alone = holders(known, content(10_000_000_000, 0))
    with_htlc = holders(known, content(9_998_000_000, 0, (VECTOR_HTLCS[2],)))
    remote_only = holders(params(anchors=True, opener_is_holder=False), content(0, 10_000_000_000))
    anchors = {OutputKind.TO_LOCAL_ANCHOR, OutputKind.TO_REMOTE_ANCHOR}

    def anchors_of(commitment: Commitment) -> set[OutputKind]:
        return {output.kind for output in commitment.outputs} & anchors

    assert anchors_of(both) == anchors
    assert anchors_of(alone) == {OutputKind.TO_LOCAL_ANCHOR}
    assert anchors_of(with_htlc) == anchors
    assert anchors_of(remote_only) == {OutputKind.TO_REMOTE_ANCHOR}


@pytest.mark.parametrize("kind", [OutputKind.TO_LOCAL, OutputKind.TO_REMOTE])
def test_a_balance_equal_to_the_dust_limit_stays_and_one_satoshi_less_goes(kind: OutputKind) -> None:
    """checklist 17"""
    for balance, stays in ((546_999, True), (546_000, True), (545_999, False)):
        rest = 1000 * CAPACITY - balance
        balances = (balance, rest) if kind is OutputKind.TO_LOCAL else (rest, balance)
        commitment = holders(params(), content(*balances, feerate=0))
        assert (commitment.output(kind) is not None) is stays


def test_an_opener_that_cannot_pay_all_pays_what_it_has() -> None:
    """checklist 17: the fee is taken also below the dust limit."""
    commitment = holders(params(), content(1_000_000, 9_999_000_000, feerate=5_000))
    assert [output.kind for output in commitment.outputs] == [OutputKind.TO_REMOTE]
    assert commitment.fee == 1_000


def test_outputs_above_the_capacity_are_refused() -> None:
    """The opener has nothing, and yet two anchors would have to be paid. checklist 17"""
    shared = content(0, 9_998_000_000, (VECTOR_HTLCS[2],), feerate=253)
    with pytest.raises(PeerViolation, match="exceed the funding"):
        holders(params(anchors=True), shared)
    assert holders(params(), shared).fee == 0


def test_a_digest_list_knows_only_the_two_hash_types() -> None:
    commitment = holders(params(), content(6_988_000_000, 3_000_000_000, VECTOR_HTLCS[:5], feerate=0))
    for hash_type in (0, 2, 3, 0x81):
        with pytest.raises(ValueError, match="hash type"):
            commitment.htlc_digests(hash_type)


# Properties: any content, both kinds of channel, both owners.


@st.composite
def contents(draw: st.DrawFn) -> CommitmentContent:
    amounts = draw(st.lists(st.integers(1, 40_000_000), max_size=12))
    left = 1000 * CAPACITY - sum(amounts)
    to_owner = draw(st.integers(1_000_000_000, left - 1_000_000_000))
    htlcs = tuple(
        CommitmentHtlc(
            draw(st.booleans()),
            id,
            amount,  # type: ignore[arg-type]
            bytes((draw(st.integers(0, 2)),)) * 32,
            draw(st.sampled_from((0, 1, 16, 17, 127, 128, 500, 40_000, 800_000, 499_999_999))),
        )
        for id, amount in enumerate(amounts)
    )
    return content(to_owner, left - to_owner, htlcs, draw(st.integers(0, 50_000)))


some_params = st.builds(
    params,
    anchors=st.booleans(),
    dust_limit=st.sampled_from((0, 354, 546, 5_000)),
    opener_is_holder=st.booleans(),
    delays=st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
)


@given(some_params, st.sampled_from(Side), contents())
def test_outputs_and_fee_make_up_the_capacity_in_the_order_of_bip_69(
    known: CommitmentParams, owner: Side, shared: CommitmentContent
) -> None:
    """checklist 16, 17"""
    commitment = build(known, owner, shared, PER_COMMITMENT_POINT)
    outputs = commitment.outputs
    assert sum(output.value for output in outputs) + commitment.fee == CAPACITY
    order = [
        (output.value, output.script_pubkey, output.htlc.cltv_expiry if output.htlc else 0)
        for output in outputs
    ]
    assert order == sorted(order)
    assert all(output.value >= min(330, known.of(owner).dust_limit) for output in outputs)


@given(some_params, st.sampled_from(Side), contents())
def test_both_sides_build_the_same_transactions(
    known: CommitmentParams, owner: Side, shared: CommitmentContent
) -> None:
    ours = build(known, owner, shared, PER_COMMITMENT_POINT)
    theirs = build(known.mirror(), owner.other, shared, PER_COMMITMENT_POINT)
    assert known.mirror().mirror() == known
    assert (ours.raw, ours.digest) == (theirs.raw, theirs.digest)
    assert ours.htlc_transactions() == theirs.htlc_transactions()
    for hash_type in (SIGHASH_ALL, SIGHASH_SINGLE_ANYONECANPAY):
        assert ours.htlc_digests(hash_type) == theirs.htlc_digests(hash_type)


@given(some_params, st.sampled_from(Side), contents())
def test_bytes_and_digests_are_those_of_the_transaction_objects(
    known: CommitmentParams, owner: Side, shared: CommitmentContent
) -> None:
    commitment = build(known, owner, shared, PER_COMMITMENT_POINT)
    assert commitment.tx.serialize(witness=False) == commitment.raw
    assert commitment.tx.txid == commitment.txid
    script_code = funding.witness_script(HOLDER.keys.funding_pubkey, COUNTERPARTY.keys.funding_pubkey)
    assert commitment.digest == segwit_v0(commitment.tx, 0, script_code, CAPACITY)
    transactions = commitment.htlc_transactions()
    for hash_type in (SIGHASH_ALL, SIGHASH_SINGLE_ANYONECANPAY):
        digests = commitment.htlc_digests(hash_type)
        for output, tx, digest in zip(commitment.htlcs, transactions, digests, strict=True):
            assert digest == segwit_v0(tx, 0, output.witness_script, output.value, hash_type)


@given(some_params, st.sampled_from(Side), contents())
def test_every_htlc_digest_verifies_with_the_signature_of_the_other_side(
    known: CommitmentParams, owner: Side, shared: CommitmentContent
) -> None:
    """checklist 16"""
    commitment = build(known, owner, shared, PER_COMMITMENT_POINT)
    secret = party(owner.other).htlc_secret()
    key = commitment.scripts.keys.remote_htlcpubkey
    for digest in commitment.htlc_digests():
        assert verify_ecdsa(key, digest, sign_ecdsa(secret, digest))
        assert not verify_ecdsa(commitment.scripts.keys.local_htlcpubkey, digest, sign_ecdsa(secret, digest))


def test_equal_htlcs_are_ordered_by_expiry() -> None:
    """checklist 16"""
    twins = tuple(
        CommitmentHtlc(True, id, VECTOR_HTLCS[5].amount_msat, VECTOR_HTLCS[5].payment_hash, expiry)
        for id, expiry in enumerate((506, 505, 507))
    )
    commitment = holders(params(), content(6_985_000_000, 3_000_000_000, twins))
    assert [output.htlc.cltv_expiry for output in commitment.htlcs] == [505, 506, 507]
    assert [tx.locktime for tx in commitment.htlc_transactions()] == [505, 506, 507]


def test_the_funding_input_is_spent() -> None:
    commitment = holders(params(), content(7_000_000_000, 3_000_000_000))
    assert [spent.outpoint for spent in commitment.tx.inputs] == [OUTPOINT]
    assert len(txid_hex(commitment.txid)) == 64


def test_prepared_keys_are_the_ones_that_are_used() -> None:
    known = params(anchors=True, delays=(7, 8))
    scripts.commitment_scripts.cache_clear()
    for owner in Side:
        prepare(known, owner, PER_COMMITMENT_POINT)
    misses = scripts.commitment_scripts.cache_info().misses
    for owner in Side:
        build(known, owner, content(7_000_000_000, 3_000_000_000), PER_COMMITMENT_POINT)
    assert scripts.commitment_scripts.cache_info().misses == misses == 2


def test_each_commitment_is_trimmed_by_the_dust_limit_of_its_owner() -> None:
    """checklist 17"""
    usual = params()
    known = replace(usual, counterparty=replace(usual.counterparty, dust_limit=5_000))
    ours = content(9_995_000_000, 3_000_000, (VECTOR_HTLCS[2],), feerate=0)
    theirs = content(3_000_000, 9_995_000_000, (VECTOR_HTLCS[1],), feerate=0)
    kinds = [
        {output.kind for output in build(known, owner, shared, PER_COMMITMENT_POINT).outputs}
        for owner, shared in ((Side.HOLDER, ours), (Side.COUNTERPARTY, theirs))
    ]
    assert kinds == [
        {OutputKind.TO_LOCAL, OutputKind.TO_REMOTE, OutputKind.OFFERED_HTLC},
        {OutputKind.TO_REMOTE},
    ]
