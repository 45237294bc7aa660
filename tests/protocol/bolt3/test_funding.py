"""The funding output (BOLT 3, "Funding Transaction Output", Appendix B)."""

import pytest

from protocol.amounts import Sat
from protocol.bitcoin.script import p2pkh, script
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut, parse_txid
from protocol.bolt3 import funding
from protocol.bolt3.funding import bitcoin_signature, channel_id, funding_output, funding_witness
from protocol.curve import point_of, sign_ecdsa, to_der
from protocol.hashes import double_sha256
from tests.protocol.bolt3.channel import COUNTERPARTY, HOLDER, OUTPOINT
from tests.support import vectors

A, B = HOLDER.keys.funding_pubkey, COUNTERPARTY.keys.funding_pubkey
FUNDING_SCRIPT_PUBKEY = "0020c015c4a6be010e21657068fc2e6a9d02b27ebe4d490a25846f7237f104d1a3cd"


def test_the_funding_output_agrees_with_appendix_b() -> None:
    assert A.hex() == "023da092f6980e58d2c037173180e9a465476026ee50f96695963e8efe436f54eb"
    assert B.hex() == "030e9f7b623d2ccc7c9bd44d66d5ce21ce504c0acf6385a132cec6d3c39fa711c1"
    assert funding.script_pubkey(A, B).hex() == FUNDING_SCRIPT_PUBKEY
    assert funding.script_pubkey(B, A).hex() == FUNDING_SCRIPT_PUBKEY


def test_the_funding_transaction_agrees_with_the_published_file() -> None:
    case = vectors("bolt03/funding_tx.json")
    expected = Transaction.parse(bytes.fromhex(case["funding_tx"]))
    secret = bytes.fromhex(case["block_1_coinbase_privkey"])[:32]
    spent = OutPoint(parse_txid(case["input_txid"]), case["input_index"])
    outputs = (
        funding_output(
            Sat(case["funding_satoshis"]),
            bytes.fromhex(case["local_funding_pubkey"]),
            bytes.fromhex(case["remote_funding_pubkey"]),
        ),
        TxOut(Sat(case["change_satoshis"]), expected.outputs[1].script_pubkey),
    )
    # The input is a p2pkh: the digest from before segwit, over the transaction with the script in place.
    bare = Transaction(2, (TxIn(spent, p2pkh(point_of(secret))),), outputs)
    digest = double_sha256(bare.serialize() + (1).to_bytes(4, "little"))
    script_sig = script(bitcoin_signature(sign_ecdsa(secret, digest)), point_of(secret))
    built = Transaction(2, (TxIn(spent, script_sig),), outputs)
    assert built.serialize().hex() == case["funding_tx"]
    assert built.txid == parse_txid(case["txid"])
    assert funding.witness_script(A, B).hex() == case["funding_witness_script"]


def test_the_witness_follows_the_order_of_the_keys() -> None:
    of_a, of_b = sign_ecdsa(HOLDER.funding, bytes(32)), sign_ecdsa(COUNTERPARTY.funding, bytes(32))
    witness = funding_witness(A, of_a, B, of_b)
    assert witness == (b"", to_der(of_a) + b"\x01", to_der(of_b) + b"\x01", funding.witness_script(A, B))
    assert funding_witness(B, of_b, A, of_a) == witness
    assert funding_witness(A, of_b, B, of_a) != witness


def test_the_channel_id_alters_the_last_two_bytes_by_the_output_index() -> None:
    assert channel_id(OUTPOINT) == OUTPOINT.txid
    txid = bytes(range(32))
    assert channel_id(OutPoint(txid, 0x0102)) == bytes(range(30)) + bytes((30 ^ 1, 31 ^ 2))
    with pytest.raises(ValueError, match="16 bits"):
        channel_id(OutPoint(txid, 0x10000))
