"""PSBTs against BIP 174 and BIP 371, and our own way from creation to the signed transaction."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol import curve
from protocol.amounts import Sat
from protocol.bitcoin import psbt, taproot
from protocol.bitcoin import psbt_format as fmt
from protocol.bitcoin.descriptor import KeyOrigin
from protocol.bitcoin.psbt import Psbt
from protocol.bitcoin.script import OP_2, OP_CHECKMULTISIG, p2pkh, p2wpkh, p2wsh, script
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.errors import MalformedMessage
from protocol.hashes import hash160, sha256
from tests.support import vectors

SECRET, OTHER = sha256(b"one"), sha256(b"two")
KEY, OTHER_KEY = curve.point_of(SECRET), curve.point_of(OTHER)
FUNDING = script(OP_2, KEY, OTHER_KEY, OP_2, OP_CHECKMULTISIG)
TAPROOT_SECRET = taproot.output_secret(SECRET)
ORIGIN = KeyOrigin(b"\x01\x02\x03\x04", (84 + 0x80000000, 0, 5))
PREVIOUS = Transaction(
    2,
    (TxIn(OutPoint(bytes(32), 0)),),
    (
        TxOut(Sat(50_000), p2wpkh(KEY)),
        TxOut(Sat(60_000), taproot.script_pubkey(KEY[1:])),
        TxOut(Sat(70_000), p2wsh(FUNDING)),
        TxOut(Sat(80_000), p2pkh(KEY)),
        TxOut(Sat(90_000), b"\xa9\x14" + hash160(p2wpkh(KEY)) + b"\x87"),
    ),
)


def made(*outputs: int) -> Psbt:
    """A PSBT that spends these outputs of PREVIOUS."""
    inputs = tuple(TxIn(OutPoint(PREVIOUS.txid, n), sequence=0xFFFFFFFD) for n in outputs)
    tx = Transaction(2, inputs, (TxOut(Sat(40_000), p2wpkh(OTHER_KEY)),))
    raw = psbt.create(
        tx,
        [PREVIOUS.outputs[n] for n in outputs],
        [PREVIOUS] * len(outputs),
        [{KEY: ORIGIN}] * len(outputs),
        witness_scripts={at: FUNDING for at, n in enumerate(outputs) if n == 2},
        output_origins={0: {OTHER_KEY: ORIGIN}},
    )
    return psbt.parse(raw)


def with_field(made_psbt: Psbt, index: int, field: int, value: bytes | None) -> Psbt:
    fields = {k: v for k, v in made_psbt.inputs[index].items() if k != bytes((field,))}
    if value is not None:
        fields[bytes((field,))] = value
    inputs = list(made_psbt.inputs)
    inputs[index] = fields
    return replace(made_psbt, inputs=tuple(inputs))


def sign(made_psbt: Psbt, index: int, secret: bytes = SECRET) -> Psbt:
    job = psbt.input_to_sign(made_psbt, index)
    if job.is_taproot:
        return psbt.add_signature(made_psbt, index, b"", curve.sign_schnorr(TAPROOT_SECRET, job.digest))
    return psbt.add_signature(made_psbt, index, curve.point_of(secret), curve.sign_ecdsa(secret, job.digest))


def test_from_creation_to_the_signed_transaction() -> None:
    start = made(0, 1, 2)
    for index in range(3):
        start = sign(start, index)
    with pytest.raises(ValueError, match="1 of 2 signatures"):
        psbt.finalize(start)
    theirs = sign(psbt.parse(psbt.to_base64(made(0, 1, 2).serialize())), 2, OTHER)
    both = psbt.combine([psbt.parse(start.serialize()), theirs])
    tx = psbt.finalize(both)
    assert tx.txid == start.tx.txid
    assert [len(i.witness) for i in tx.inputs] == [2, 1, 4]
    assert tx.inputs[0].witness[1] == KEY
    assert tx.inputs[2].witness[0] == b"" and tx.inputs[2].witness[3] == FUNDING
    assert Transaction.parse(tx.serialize()) == tx


def test_a_wrapped_key_hash_is_signed_when_its_redeem_script_is_known() -> None:
    start = with_field(made(4), 0, fmt.IN_REDEEM_SCRIPT, p2wpkh(KEY))
    tx = psbt.finalize(sign(start, 0))
    assert tx.inputs[0].script_sig == b"\x16" + p2wpkh(KEY)
    with pytest.raises(MalformedMessage, match="redeem script of input 0"):
        psbt.input_to_sign(with_field(start, 0, fmt.IN_REDEEM_SCRIPT, p2wpkh(OTHER_KEY)), 0)


def test_the_signer_learns_output_key_origins_and_digest() -> None:
    start = made(0, 1)
    first, second = psbt.input_to_sign(start, 0), psbt.input_to_sign(start, 1)
    assert (first.spent, first.hash_type, first.is_taproot) == (PREVIOUS.outputs[0], 1, False)
    assert (second.spent, second.hash_type, second.is_taproot) == (PREVIOUS.outputs[1], 0, True)
    assert first.origins == {KEY: ORIGIN}
    assert second.origins == {b"\x02" + KEY[1:]: ORIGIN}
    assert first.digest != second.digest
    assert start.outputs[0] == {b"\x02" + OTHER_KEY: fmt.serialize_origin(ORIGIN)}


def test_a_wrong_signature_is_not_added_and_not_finalized() -> None:
    start = made(0, 1)
    with pytest.raises(ValueError, match="signature of input 0 is wrong"):
        psbt.add_signature(start, 0, KEY, curve.sign_ecdsa(SECRET, bytes(32)))
    with pytest.raises(ValueError, match="signature of input 1 is wrong"):
        psbt.add_signature(start, 1, KEY, curve.sign_schnorr(SECRET, bytes(32)))
    forged = sign(sign(start, 0), 1)
    psbt.finalize(forged)
    with pytest.raises(ValueError, match="signature of input 1 is wrong"):
        psbt.finalize(with_field(forged, 1, fmt.IN_TAP_KEY_SIG, bytes(64)))
    signatures = {k: v for k, v in forged.inputs[0].items() if k[0] == fmt.IN_PARTIAL_SIG}
    ((field, value),) = signatures.items()
    other_type = {**forged.inputs[0], field: value[:-1] + b"\x02"}
    with pytest.raises(ValueError, match="signature of input 0 is wrong"):
        psbt.finalize(replace(forged, inputs=(other_type, forged.inputs[1])))


def test_what_cannot_be_signed_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="not a segwit input"):
        psbt.input_to_sign(made(3), 0)
    with pytest.raises(MalformedMessage, match="witness script of input 0 is missing"):
        psbt.input_to_sign(with_field(made(2), 0, fmt.IN_WITNESS_SCRIPT, None), 0)
    with pytest.raises(MalformedMessage, match="witness script of input 0 is not"):
        psbt.input_to_sign(with_field(made(2), 0, fmt.IN_WITNESS_SCRIPT, FUNDING + b"\x75"), 0)
    with pytest.raises(MalformedMessage, match="internal key of input 0"):
        psbt.input_to_sign(with_field(made(1), 0, fmt.IN_TAP_INTERNAL_KEY, OTHER_KEY[1:]), 0)
    lying = TxOut(Sat(1), p2wpkh(KEY)).serialize()
    with pytest.raises(MalformedMessage, match="two things about the output"):
        psbt.input_to_sign(with_field(made(0), 0, fmt.IN_WITNESS_UTXO, lying), 0)
    bare = with_field(made(0), 0, fmt.IN_WITNESS_UTXO, None)
    assert psbt.input_to_sign(bare, 0).spent == PREVIOUS.outputs[0]
    with pytest.raises(MalformedMessage, match="does not say what input 0 spends"):
        psbt.input_to_sign(with_field(bare, 0, fmt.IN_NON_WITNESS_UTXO, None), 0)


@pytest.mark.parametrize("number", [0, 4, 0x80, 0xFFFFFFFF])
def test_hash_type_that_does_not_exist_is_refused(number: int) -> None:
    odd = with_field(made(0), 0, fmt.IN_SIGHASH_TYPE, number.to_bytes(4, "little"))
    with pytest.raises(MalformedMessage, match="no signature hash type"):
        psbt.input_to_sign(odd, 0)


def test_hash_type_single_without_its_output_is_refused_for_taproot() -> None:
    odd = with_field(made(0, 1), 1, fmt.IN_SIGHASH_TYPE, (3).to_bytes(4, "little"))
    with pytest.raises(MalformedMessage, match="an output that does not exist"):
        psbt.input_to_sign(odd, 1)


def test_creation_checks_what_it_is_given() -> None:
    tx = made(0).tx
    with pytest.raises(ValueError, match="does not hold"):
        psbt.create(tx, [PREVIOUS.outputs[1]], [PREVIOUS])
    with pytest.raises(ValueError, match="as many spent outputs"):
        psbt.create(tx, [])


def test_psbts_of_different_transactions_are_not_combined() -> None:
    with pytest.raises(ValueError, match="same transaction"):
        psbt.combine([made(0), made(1)])


def test_previous_transaction_must_be_the_one_that_is_spent() -> None:
    other = replace(PREVIOUS, locktime=7).serialize()
    with pytest.raises(MalformedMessage, match="does not hold"):
        psbt.parse(with_field(made(0), 0, fmt.IN_NON_WITNESS_UTXO, other).serialize())


def test_text_that_is_no_base64_is_malformed() -> None:
    with pytest.raises(MalformedMessage):
        psbt.parse("cHNidP8!")


@pytest.mark.parametrize("bip", ["bip174", "bip371"])
def test_published_psbts(bip: str) -> None:
    document = vectors(f"bips/{bip}/psbt.json")
    for case in document["invalid"]:
        with pytest.raises(MalformedMessage):
            psbt.parse(bytes.fromhex(case["hex"]))
        with pytest.raises(MalformedMessage):
            psbt.parse(case["base64"])
    for case in document["valid"]:
        assert psbt.parse(case["base64"]).serialize().hex() == case["hex"]
    assert len(document["invalid"]) + len(document["valid"]) == {"bip174": 30, "bip371": 17}[bip]


def test_published_signer_checks_of_bip174() -> None:
    """Each of these has an input that must not be signed."""
    expected = {
        "A Witness UTXO is provided for a non-witness input": {0},
        "redeemScript with non-witness UTXO does not match the scriptPubKey": {0},
        "redeemScript with witness UTXO does not match the scriptPubKey": {0, 1},
        "witnessScript with witness UTXO does not match the redeemScript": {0, 1},
    }
    for case in vectors("bips/bip174/psbt.json")["fails_signer_checks"]:
        parsed, refused = psbt.parse(case["base64"]), set()
        for index in range(len(parsed.inputs)):
            try:
                psbt.input_to_sign(parsed, index)
            except MalformedMessage:
                refused.add(index)
        assert refused == expected.pop(case["case"])
    assert not expected


def test_published_workflow_of_bip174() -> None:
    texts = vectors("bips/bip174/psbt.json")["workflow"]["psbt_hex"]
    stages = {k: psbt.parse(bytes.fromhex(v)) for k, v in texts.items() if k != "extracted_tx"}
    combined = psbt.combine([stages["signed_by_signer_1"], stages["signed_by_signer_2"]])
    # The order of fields in a map means nothing; Core sorts signatures by the hash of their key.
    assert combined == stages["combined"]
    assert psbt.finalize(combined).serialize().hex() == texts["extracted_tx"]
    assert psbt.finalize(stages["finalized"]).serialize().hex() == texts["extracted_tx"]
    unknown = psbt.combine([stages["unknown_kv_a"], stages["unknown_kv_b"]])
    assert unknown.serialize().hex() == texts["unknown_kv_combined"]
    assert stages["created"].tx == combined.tx


def test_field_that_stands_twice_is_refused() -> None:
    raw = made(0).serialize()
    pair = b"\x01\x03\x04\x01\x00\x00\x00"
    with_type = with_field(made(0), 0, fmt.IN_SIGHASH_TYPE, b"\x01\0\0\0").serialize()
    assert pair in with_type and pair not in raw
    psbt.parse(with_type)
    with pytest.raises(MalformedMessage, match="stands twice"):
        psbt.parse(with_type.replace(pair, pair + pair, 1))


@given(st.data())
def test_no_damage_breaks_the_reader(data: st.DataObject) -> None:
    raw = bytearray(sign(made(0, 1, 2), 2).serialize())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(5, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        parsed = psbt.parse(bytes(raw[: data.draw(st.integers(5, len(raw)))]))
        for index in range(len(parsed.inputs)):
            psbt.input_to_sign(parsed, index)
    except MalformedMessage:
        pass


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        psbt.parse(raw)
    try:
        psbt.parse(fmt.MAGIC + raw)
    except MalformedMessage:
        pass


@pytest.mark.parametrize(
    ("tree", "valid"),
    [
        ("00c00151", True),
        ("01c0015101c00152", True),
        ("01c00151", False),
        ("00c0015100c00152", False),
        ("00c10151", False),
        ("81c00151", False),
        ("", False),
    ],
)
def test_taproot_tree_must_be_whole(tree: str, valid: bool) -> None:
    start = made(1)
    raw = replace(start, outputs=({b"\x06": bytes.fromhex(tree)},)).serialize()
    if valid:
        assert psbt.parse(raw).outputs[0][b"\x06"].hex() == tree
    else:
        with pytest.raises(MalformedMessage):
            psbt.parse(raw)
