"""Each reject reason of the mempool is met once, beside a neighbour that passes."""

import pytest

pytest.importorskip("pbk")

from node.chain.regtest import RegtestChain, Rejected
from node.chain.regtest.policy import dust_threshold
from protocol import curve
from protocol.amounts import Sat
from protocol.bitcoin.script import (
    OP_CHECKMULTISIG,
    OP_CHECKSIG,
    OP_ELSE,
    OP_ENDIF,
    OP_IF,
    OP_NOTIF,
    p2pkh,
    p2wsh,
    push,
    script,
)
from protocol.bitcoin.sighash import p2wpkh_script_code
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.hashes import sha256
from tests.node.chain.regtest.wallet import (
    ELSEWHERE,
    KEY,
    PUBLIC_KEY,
    SCRIPT,
    confirmed_coin,
    signature,
    spend,
    with_witness,
)


def reason(chain: RegtestChain, tx: Transaction | bytes) -> str:
    with pytest.raises(Rejected) as refused:
        chain.submit(tx)
    return refused.value.reason


def accepted(chain: RegtestChain, tx: Transaction) -> bool:
    return chain.submit(tx.serialize()) == tx.txid and tx.txid in chain.mempool


@pytest.mark.parametrize(
    ("script_pubkey", "threshold"),
    [
        (bytes.fromhex("0014") + bytes(20), 294),
        (bytes.fromhex("0020") + bytes(32), 330),
        (bytes.fromhex("5120") + bytes(32), 330),
        (p2pkh(PUBLIC_KEY), 546),
        (bytes.fromhex("a914") + bytes(20) + b"\x87", 540),
        (bytes.fromhex("51024e73"), 240),
    ],
)
def test_output_below_the_dust_threshold_is_dust(
    chain: RegtestChain, script_pubkey: bytes, threshold: int
) -> None:
    coin = confirmed_coin(chain)
    assert dust_threshold(TxOut(Sat(0), script_pubkey)) == threshold
    assert reason(chain, spend([coin], [(threshold - 1, script_pubkey), (50_000, SCRIPT)])) == "dust"
    assert accepted(chain, spend([coin], [(threshold, script_pubkey), (50_000, SCRIPT)]))


def test_op_return_may_hold_nothing(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    assert accepted(chain, spend([coin], [(0, b"\x6a\x04note"), (90_000, SCRIPT)]))


@pytest.mark.parametrize("bad_script", [b"\x51", b"\x00\x03abc", b"\x6a\x05abc", b"\x51" * 30])
def test_unknown_output_form_is_not_relayed(chain: RegtestChain, bad_script: bytes) -> None:
    assert reason(chain, spend([confirmed_coin(chain)], [(90_000, bad_script)])) == "scriptpubkey"


def test_output_to_a_later_witness_version_is_relayed_and_not_spendable_yet(chain: RegtestChain) -> None:
    later = bytes.fromhex("5214") + bytes(20)
    tx = spend([confirmed_coin(chain)], [(90_000, later)])
    assert accepted(chain, tx)
    chain.generate(1)
    onward = Transaction(2, (TxIn(OutPoint(tx.txid, 0)),), (TxOut(Sat(80_000), SCRIPT),))
    assert reason(chain, onward) == "bad-txns-nonstandard-inputs"


@pytest.mark.parametrize("version", [0, 4, -1])
def test_version_beyond_1_to_3_is_not_relayed(chain: RegtestChain, version: int) -> None:
    coin = confirmed_coin(chain)
    assert reason(chain, spend([coin], [(90_000, SCRIPT)], version=version)) == "version"


@pytest.mark.parametrize("version", [1, 2, 3])
def test_versions_1_to_3_are_relayed(chain: RegtestChain, version: int) -> None:
    assert accepted(chain, spend([confirmed_coin(chain)], [(90_000, SCRIPT)], version=version))


def test_transaction_above_the_standard_weight_is_not_relayed(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain, 10_000_000)
    assert reason(chain, spend([coin], [(330, ELSEWHERE)] * 3230)) == "tx-size"
    assert accepted(chain, spend([coin], [(330, ELSEWHERE)] * 3210))


def test_transaction_below_65_bytes_is_not_relayed(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    assert reason(chain, spend([coin], [(0, b"\x6a\x01a")])) == "tx-size-small"
    assert accepted(chain, spend([coin], [(0, b"\x6a\x03abc")]))


def test_script_sig_must_only_push(chain: RegtestChain) -> None:
    outpoint, _ = confirmed_coin(chain)
    bad = Transaction(2, (TxIn(outpoint, b"\x76"),), (TxOut(Sat(90_000), SCRIPT),))
    assert reason(chain, bad) == "scriptsig-not-pushonly"
    long = Transaction(2, (TxIn(outpoint, b"\x00" * 1651),), (TxOut(Sat(90_000), SCRIPT),))
    assert reason(chain, long) == "scriptsig-size"


def test_op_return_data_is_limited_by_the_weight_alone(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain, 10_000_000)
    data = b"\x6a" + push(bytes(49_990))
    assert reason(chain, spend([coin], [(0, data), (0, data), (9_000_000, SCRIPT)])) == "tx-size"
    assert accepted(chain, spend([coin], [(0, data), (9_000_000, SCRIPT)]))


def test_fee_below_the_minimum_relay_fee_is_refused(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    size = spend([coin], [(90_000, SCRIPT)]).vsize
    short = spend([coin], [(100_000 - size + 1, SCRIPT)])
    with pytest.raises(Rejected, match=rf"min relay fee not met, {size - 1} < {size}"):
        chain.submit(short)
    assert accepted(chain, spend([coin], [(100_000 - size, SCRIPT)]))


def test_spending_more_than_there_is_is_refused(chain: RegtestChain) -> None:
    assert reason(chain, spend([confirmed_coin(chain)], [(100_001, SCRIPT)])) == "bad-txns-in-belowout"


def test_missing_and_spent_inputs_have_one_reason(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    unknown = (OutPoint(b"\x07" * 32, 0), 100_000)
    assert reason(chain, spend([unknown], [(90_000, SCRIPT)])) == "bad-txns-inputs-missingorspent"
    assert accepted(chain, spend([coin], [(90_000, SCRIPT)]))
    chain.generate(1)
    assert reason(chain, spend([coin], [(80_000, SCRIPT)])) == "bad-txns-inputs-missingorspent"


def test_known_transaction_is_named_as_known(chain: RegtestChain) -> None:
    tx = spend([confirmed_coin(chain)], [(90_000, SCRIPT)])
    assert accepted(chain, tx)
    assert reason(chain, tx) == "txn-already-in-mempool"
    other = with_witness(tx, 0, (tx.inputs[0].witness[0], b"\x02" + bytes(32)))
    assert reason(chain, other) == "txn-same-nonwitness-data-in-mempool"
    chain.generate(1)
    assert reason(chain, tx) == "txn-already-known"


def test_immature_coinbase_is_not_spent(chain: RegtestChain) -> None:
    chain.generate(1, SCRIPT)
    coinbase = chain.block(chain.height).transactions[0]
    coin = (OutPoint(coinbase.txid, 0), coinbase.outputs[0].value)
    tx = spend([coin], [(coin[1] - 1_000, SCRIPT)])
    chain.generate(98)
    assert reason(chain, tx) == "bad-txns-premature-spend-of-coinbase"
    chain.generate(1)
    assert accepted(chain, tx)


def test_locktime_by_height_waits_for_the_block_after(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    tx = spend([coin], [(90_000, SCRIPT)], locktime=chain.height + 1)
    assert reason(chain, tx) == "non-final"
    chain.generate(1)
    assert accepted(chain, tx)


def test_locktime_is_ignored_when_every_sequence_is_final(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    assert accepted(chain, spend([coin], [(90_000, SCRIPT)], locktime=chain.height + 50, sequence=0xFFFFFFFF))


def test_locktime_by_time_waits_for_the_median(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    target = chain.index.median_time(chain.height) + 600
    tx = spend([coin], [(90_000, SCRIPT)], locktime=target)
    assert reason(chain, tx) == "non-final"
    for n in range(6):
        chain.generate(1, time=target + 1 + n)
    assert chain.index.median_time(chain.height) > target
    assert accepted(chain, tx)


def test_relative_locktime_by_blocks(chain: RegtestChain) -> None:
    """BIP 68: a sequence of 3 needs the coin to have 3 confirmations in the spending block."""
    coin = confirmed_coin(chain)
    tx = spend([coin], [(90_000, SCRIPT)], sequence=3)
    chain.generate(1)
    assert reason(chain, tx) == "non-BIP68-final"
    chain.generate(1)
    assert accepted(chain, tx)
    chain.generate(1)
    assert chain.confirmations(tx.txid) == 1


def test_relative_locktime_needs_version_2(chain: RegtestChain) -> None:
    assert accepted(chain, spend([confirmed_coin(chain)], [(90_000, SCRIPT)], sequence=3, version=1))


def test_relative_locktime_by_time(chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    tx = spend([coin], [(90_000, SCRIPT)], sequence=1 << 22 | 2)
    assert reason(chain, tx) == "non-BIP68-final"
    start = chain.index.median_time(chain.height) + 1025
    for n in range(6):
        chain.generate(1, time=start + n)
    assert accepted(chain, tx)


def test_relative_locktime_on_an_unconfirmed_parent_is_never_met(chain: RegtestChain) -> None:
    outpoint = chain.fund(SCRIPT, Sat(100_000))
    tx = spend([(outpoint, 100_000)], [(90_000, SCRIPT)], sequence=1)
    assert reason(chain, tx) == "non-BIP68-final"
    assert accepted(chain, spend([(outpoint, 100_000)], [(90_000, SCRIPT)], sequence=0))


def test_wrong_signature_is_a_mandatory_failure(chain: RegtestChain) -> None:
    tx = spend([confirmed_coin(chain)], [(90_000, SCRIPT)])
    forged = Transaction(2, tx.inputs, (TxOut(Sat(89_999), SCRIPT),))
    assert reason(chain, forged).startswith("mandatory-script-verify-flag-failed")
    assert accepted(chain, tx)


def test_high_s_signature_is_not_relayed_and_is_valid_in_a_block(chain: RegtestChain) -> None:
    outpoint, amount = confirmed_coin(chain)
    tx = spend([(outpoint, amount)], [(90_000, SCRIPT)])
    compact = curve.from_der(tx.inputs[0].witness[0][:-1])
    high = curve.ORDER - int.from_bytes(compact[32:], "big")
    flipped = curve.to_der(compact[:32] + high.to_bytes(32, "big")) + b"\x01"
    bad = with_witness(tx, 0, (flipped, PUBLIC_KEY))
    assert "S value is unnecessarily high" in reason(chain, bad)
    chain.generate_block([bad])
    assert chain.confirmations(bad.txid) == 1


def _p2wsh_spend(chain: RegtestChain, witness_script: bytes) -> tuple[Transaction, int]:
    outpoint, amount = confirmed_coin(chain, script=p2wsh(witness_script))
    bare = Transaction(2, (TxIn(outpoint, sequence=0xFFFFFFFD),), (TxOut(Sat(90_000), SCRIPT),))
    return bare, amount


def test_if_argument_must_be_empty_or_one(chain: RegtestChain) -> None:
    """MINIMALIF, as the second-stage scripts of BOLT 3 meet it."""
    either = script(OP_IF, PUBLIC_KEY, OP_ELSE, curve.point_of(sha256(b"2")), OP_ENDIF, OP_CHECKSIG)
    bare, amount = _p2wsh_spend(chain, either)
    made = signature(bare, 0, either, amount)
    assert "OP_IF/NOTIF argument must be minimal" in reason(
        chain, with_witness(bare, 0, (made, b"\x02", either))
    )
    assert accepted(chain, with_witness(bare, 0, (made, b"\x01", either)))


def test_if_argument_rule_follows_the_branch_that_runs(chain: RegtestChain) -> None:
    """The inner OP_IF is not executed, so its argument is not looked at; NOTIF takes the empty argument."""
    nested = script(OP_NOTIF, PUBLIC_KEY, OP_CHECKSIG, OP_ELSE, OP_IF, OP_ENDIF, b"\x11", OP_ENDIF)
    bare, amount = _p2wsh_spend(chain, nested)
    made = signature(bare, 0, nested, amount)
    assert accepted(chain, with_witness(bare, 0, (made, b"", nested)))


def test_failed_signature_must_be_empty(chain: RegtestChain) -> None:
    """NULLFAIL: a script that allows a failed check wants the empty signature for it."""
    tolerant = script(PUBLIC_KEY, OP_CHECKSIG, OP_NOTIF, 0x51, OP_ENDIF)
    bare, amount = _p2wsh_spend(chain, tolerant)
    wrong = signature(bare, 0, tolerant, amount + 1)
    why = reason(chain, with_witness(bare, 0, (wrong, tolerant)))
    assert "Signature must be zero for failed CHECK(MULTI)SIG operation" in why
    assert accepted(chain, with_witness(bare, 0, (b"", tolerant)))


def test_two_of_two_funding_output_is_spent(chain: RegtestChain) -> None:
    second = sha256(b"the other side")
    witness_script = script(0x52, PUBLIC_KEY, curve.point_of(second), 0x52, OP_CHECKMULTISIG)
    bare, amount = _p2wsh_spend(chain, witness_script)
    ours = signature(bare, 0, witness_script, amount)
    theirs = signature(bare, 0, witness_script, amount, second)
    assert reason(chain, with_witness(bare, 0, (b"", theirs, ours, witness_script))).startswith("mandatory")
    assert accepted(chain, with_witness(bare, 0, (b"", ours, theirs, witness_script)))


def test_nulldummy_is_enforced(chain: RegtestChain) -> None:
    witness_script = script(0x51, PUBLIC_KEY, 0x51, OP_CHECKMULTISIG)
    bare, amount = _p2wsh_spend(chain, witness_script)
    made = signature(bare, 0, witness_script, amount)
    why = reason(chain, with_witness(bare, 0, (b"\x01", made, witness_script)))
    assert why.startswith("mandatory-script-verify-flag-failed")
    assert accepted(chain, with_witness(bare, 0, (b"", made, witness_script)))


def test_push_must_be_minimal(chain: RegtestChain) -> None:
    long_push = b"\x4c\x21" + PUBLIC_KEY + bytes((OP_CHECKSIG,))
    bare, amount = _p2wsh_spend(chain, long_push)
    made = signature(bare, 0, long_push, amount)
    assert "Data push larger than necessary" in reason(chain, with_witness(bare, 0, (made, long_push)))


def test_reserved_nops_are_discouraged(chain: RegtestChain) -> None:
    with_nop = script(0xB0, PUBLIC_KEY, OP_CHECKSIG)
    bare, amount = _p2wsh_spend(chain, with_nop)
    made = signature(bare, 0, with_nop, amount)
    assert "NOPx reserved" in reason(chain, with_witness(bare, 0, (made, with_nop)))


def test_uncompressed_key_is_not_relayed_in_segwit(chain: RegtestChain) -> None:
    from coincurve import PrivateKey

    uncompressed = PrivateKey(KEY).public_key.format(compressed=False)
    witness_script = script(uncompressed, OP_CHECKSIG)
    bare, amount = _p2wsh_spend(chain, witness_script)
    made = signature(bare, 0, witness_script, amount)
    why = reason(chain, with_witness(bare, 0, (made, witness_script)))
    assert "Using non-compressed keys in segwit" in why


def test_undefined_hash_type_is_not_relayed(chain: RegtestChain) -> None:
    outpoint, amount = confirmed_coin(chain)
    bare = Transaction(2, (TxIn(outpoint),), (TxOut(Sat(90_000), SCRIPT),))
    from protocol.bitcoin.sighash import segwit_v0

    digest = segwit_v0(bare, 0, p2wpkh_script_code(SCRIPT), amount, 5)
    odd = curve.to_der(curve.sign_ecdsa(KEY, digest)) + b"\x05"
    assert "hash type" in reason(chain, with_witness(bare, 0, (odd, PUBLIC_KEY)))


def test_oversized_witness_is_not_standard(chain: RegtestChain) -> None:
    """80 bytes is the most that one element beside the witness script may hold."""
    drops = script(0x75, PUBLIC_KEY, OP_CHECKSIG)
    bare, amount = _p2wsh_spend(chain, drops)
    made = signature(bare, 0, drops, amount)
    assert reason(chain, with_witness(bare, 0, (made, bytes(81), drops))) == "bad-witness-nonstandard"
    assert accepted(chain, with_witness(bare, 0, (made, bytes(80), drops)))


def test_witness_of_an_input_without_segwit_is_not_standard(chain: RegtestChain) -> None:
    outpoint, _ = confirmed_coin(chain, script=p2pkh(PUBLIC_KEY))
    tx = Transaction(2, (TxIn(outpoint, witness=(b"x",)),), (TxOut(Sat(90_000), SCRIPT),))
    assert reason(chain, tx) == "bad-witness-nonstandard"


def test_anchor_output_is_spent_by_anybody_without_witness(chain: RegtestChain) -> None:
    outpoint, _ = confirmed_coin(chain, script=bytes.fromhex("51024e73"))
    bare = Transaction(2, (TxIn(outpoint),), (TxOut(Sat(90_000), SCRIPT),))
    assert reason(chain, with_witness(bare, 0, (b"x",))) == "bad-witness-nonstandard"
    assert accepted(chain, bare)


def test_malformed_shapes_have_their_reasons(chain: RegtestChain) -> None:
    outpoint, _ = confirmed_coin(chain)
    output = TxOut(Sat(1_000), SCRIPT)
    nowhere = OutPoint(bytes(32), 0xFFFFFFFF)
    too_much = TxOut(Sat(21_000_001 * 100_000_000), SCRIPT)
    all_of_it = TxOut(Sat(21_000_000 * 100_000_000), SCRIPT)
    cases = {
        "bad-txns-vin-empty": Transaction(2, (), (output,)),
        "bad-txns-vout-empty": Transaction(2, (TxIn(outpoint),), ()),
        "bad-txns-vout-negative": Transaction(2, (TxIn(outpoint),), (TxOut(Sat(-1), SCRIPT),)),
        "bad-txns-vout-toolarge": Transaction(2, (TxIn(outpoint),), (too_much,)),
        "bad-txns-txouttotal-toolarge": Transaction(2, (TxIn(outpoint),), (all_of_it, output)),
        "bad-txns-inputs-duplicate": Transaction(2, (TxIn(outpoint), TxIn(outpoint)), (output,)),
        "coinbase": Transaction(2, (TxIn(nowhere),), (output,)),
        "bad-txns-prevout-null": Transaction(2, (TxIn(outpoint), TxIn(nowhere)), (output,)),
    }
    assert {expected: reason(chain, tx) for expected, tx in cases.items()} == {k: k for k in cases}
    assert reason(chain, b"\x02\x00") == "TX decode failed"
