"""Serialisation of transactions: round trips, ids and weights, and bytes that are none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.amounts import Sat
from protocol.bitcoin.sighash import p2wpkh_script_code, segwit_v0
from protocol.bitcoin.transaction import (
    OutPoint,
    Reader,
    Transaction,
    TxIn,
    TxOut,
    compact_size,
    parse_txid,
    txid_hex,
    var_bytes,
)
from protocol.errors import MalformedMessage

GENESIS_COINBASE = (
    "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d0104455468"
    "652054696d65732030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261"
    "696c6f757420666f722062616e6b73ffffffff0100f2052a01000000434104678afdb0fe5548271967f1a67130b7105cd6a828e0"
    "3909a67962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"
)
# BIP 143, "Native P2WPKH": the unsigned transaction, the digest of its second input, and the signed one.
BIP143_UNSIGNED = (
    "0100000002fff7f7881a8099afa6940d42d1e7f6362bec38171ea3edf433541db4e4ad969f0000000000eeffffffef51e1b804cc"
    "89d182d279655c3aa89e815b1b309fe287d9b2b55d57b90ec68a0100000000ffffffff02202cb206000000001976a9148280b37d"
    "f378db99f66f85c95a783a76ac7a6d5988ac9093510d000000001976a9143bde42dbee7e4dbe6a21b2d50ce2f0167faa815988ac"
    "11000000"
)
BIP143_DIGEST = "c37af31116d1b27caf68aae9e3ac82f1477929014d5b917657d0eb49478cb670"

outpoints = st.builds(OutPoint, st.binary(min_size=32, max_size=32), st.integers(0, 0xFFFFFFFF))
inputs = st.builds(
    TxIn,
    outpoints,
    st.binary(max_size=40),
    st.integers(0, 0xFFFFFFFF),
    st.lists(st.binary(max_size=40), max_size=3).map(tuple),
)
outputs = st.builds(TxOut, st.integers(-(1 << 63), (1 << 63) - 1).map(Sat), st.binary(max_size=300))
transactions = st.builds(
    Transaction,
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.lists(inputs, min_size=1, max_size=4).map(tuple),
    st.lists(outputs, max_size=4).map(tuple),
    st.integers(0, 0xFFFFFFFF),
)


def test_own_transaction_case() -> None:
    tx = Transaction.parse(bytes.fromhex(GENESIS_COINBASE))
    assert txid_hex(tx.txid) == "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
    assert tx.serialize().hex() == GENESIS_COINBASE
    assert tx.wtxid == tx.txid
    assert (tx.weight, tx.vsize) == (4 * 204, 204)


def test_segwit_digest_of_bip143() -> None:
    tx = Transaction.parse(bytes.fromhex(BIP143_UNSIGNED))
    script = bytes.fromhex("00141d0f172a0ecb48aee1be1f2687d2963ae33f71a1")
    digest = segwit_v0(tx, 1, p2wpkh_script_code(script), 600_000_000)
    assert digest.hex() == BIP143_DIGEST
    assert segwit_v0(tx, 1, p2wpkh_script_code(script), 600_000_001).hex() != BIP143_DIGEST


@given(transactions)
def test_transaction_round_trip(tx: Transaction) -> None:
    raw = tx.serialize()
    assert Transaction.parse(raw) == tx
    bare = tx.serialize(witness=False)
    assert tx.weight == 3 * len(bare) + len(raw)
    assert (tx.txid == tx.wtxid) is (not any(i.witness for i in tx.inputs))


@given(transactions, st.data())
def test_no_damage_breaks_the_reader(tx: Transaction, data: st.DataObject) -> None:
    raw = bytearray(tx.serialize())
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        assert Transaction.parse(damaged).serialize() == damaged
    except MalformedMessage:
        pass


@given(st.binary(max_size=120))
def test_no_bytes_break_the_reader(raw: bytes) -> None:
    for candidate in (raw, b"\x02\0\0\0" + raw, b"\x02\0\0\0\x00\x01" + raw):
        try:
            assert Transaction.parse(candidate).serialize() == candidate
        except MalformedMessage:
            pass


@given(transactions)
def test_every_shortening_is_malformed(tx: Transaction) -> None:
    raw = tx.serialize()
    for size in range(len(raw)):
        with pytest.raises(MalformedMessage):
            Transaction.parse(raw[:size])
    with pytest.raises(MalformedMessage, match="1 bytes follow"):
        Transaction.parse(raw + b"\0")


@given(st.integers(0, (1 << 64) - 1))
def test_compact_size_has_one_form(value: int) -> None:
    encoded = compact_size(value)
    assert Reader(encoded).compact() == value
    assert len(encoded) == (1 if value < 0xFD else 3 if value <= 0xFFFF else 5 if value <= 0xFFFFFFFF else 9)


@pytest.mark.parametrize(
    "text", ["fdfc00", "fe0000ffff"[:2] + "ffff0000", "ffffffffff00000000", "fd", "ff00", ""]
)
def test_length_that_is_longer_than_needed_or_cut_is_malformed(text: str) -> None:
    with pytest.raises(MalformedMessage):
        Reader(bytes.fromhex(text)).compact()


def test_announced_counts_are_bounded_by_the_bytes_that_follow() -> None:
    with pytest.raises(MalformedMessage, match="too many"):
        Transaction.parse(b"\x02\0\0\0" + compact_size(1 << 60) + bytes(50))


def test_witness_marker_without_a_witness_is_malformed() -> None:
    tx = Transaction(2, (TxIn(OutPoint(bytes(32), 0), witness=(b"x",)),), (TxOut(Sat(1), b""),))
    raw = tx.serialize()
    emptied = raw[:-4].removesuffix(b"\x01\x01x") + b"\x00" + raw[-4:]
    with pytest.raises(MalformedMessage, match="there is none"):
        Transaction.parse(emptied)


def test_txid_text_is_reversed_and_checked() -> None:
    txid = bytes(range(32))
    assert parse_txid(txid_hex(txid)) == txid
    assert txid_hex(txid).startswith("1f1e")
    assert str(OutPoint(txid, 3)).endswith("0100:3")
    for bad in ("", "00" * 31, "zz" * 32):
        with pytest.raises(ValueError):
            parse_txid(bad)
    assert var_bytes(b"abc") == b"\x03abc"
