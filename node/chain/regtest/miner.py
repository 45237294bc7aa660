"""Regtest blocks: coinbase, witness commitment, Merkle root, and a small proof of work (BIP 34, 141)."""

import struct
from collections.abc import Sequence

from protocol.amounts import Sat
from protocol.bitcoin.script import number, push
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut, compact_size
from protocol.hashes import double_sha256

HALVING_INTERVAL = 150
POW_BITS = 0x207FFFFF
POW_TARGET = 0x7FFFFF << 232
_VERSION = 0x20000000
_COMMITMENT_HEADER = bytes.fromhex("6a24aa21a9ed")


def subsidy(height: int) -> Sat:
    halvings = height // HALVING_INTERVAL
    return Sat(0 if halvings >= 64 else 50 * 100_000_000 >> halvings)


def merkle_root(hashes: Sequence[bytes]) -> bytes:
    level = list(hashes)
    while len(level) > 1:
        if len(level) % 2:
            level.append(level[-1])
        level = [double_sha256(level[i] + level[i + 1]) for i in range(0, len(level), 2)]
    return level[0]


def coinbase(
    height: int, script_pubkey: bytes, fees: int, tag: bytes, transactions: Sequence[Transaction]
) -> Transaction:
    """`tag` makes this coinbase differ from any other at the same height."""
    witness_root = merkle_root([bytes(32), *(tx.wtxid for tx in transactions)])
    commitment = _COMMITMENT_HEADER + double_sha256(witness_root + bytes(32))
    source = TxIn(OutPoint(bytes(32), 0xFFFFFFFF), number(height) + push(tag), 0xFFFFFFFF, (bytes(32),))
    outputs = (TxOut(Sat(subsidy(height) + fees), script_pubkey), TxOut(Sat(0), commitment))
    return Transaction(2, (source,), outputs)


def solve(previous: bytes, root: bytes, time: int) -> bytes:
    """The 80-byte header with the first nonce that meets the regtest target."""
    head = struct.pack("<i32s32sII", _VERSION, previous, root, time, POW_BITS)
    for nonce in range(1 << 32):
        header = head + nonce.to_bytes(4, "little")
        if int.from_bytes(double_sha256(header), "little") <= POW_TARGET:
            return header
    raise RuntimeError("no nonce solves this header")


def build_block(
    previous: bytes,
    height: int,
    time: int,
    script_pubkey: bytes,
    transactions: Sequence[Transaction] = (),
    *,
    fees: int = 0,
    tag: bytes = b"",
) -> bytes:
    """The raw block; `transactions` stand in an order that lets parents come first."""
    everything = [coinbase(height, script_pubkey, fees, tag, transactions), *transactions]
    header = solve(previous, merkle_root([tx.txid for tx in everything]), time)
    return header + compact_size(len(everything)) + b"".join(tx.serialize() for tx in everything)
