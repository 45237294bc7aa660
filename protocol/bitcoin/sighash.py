"""The digests that signatures commit to: segwit version 0 (BIP 143) and taproot (BIP 341)."""

import struct
from collections.abc import Sequence

from protocol.bitcoin.script import OP_CHECKSIG, OP_DUP, OP_EQUALVERIFY, OP_HASH160, script
from protocol.bitcoin.transaction import Transaction, TxOut, var_bytes
from protocol.hashes import double_sha256, sha256, tagged_hash

SIGHASH_DEFAULT = 0
SIGHASH_ALL = 1
SIGHASH_NONE = 2
SIGHASH_SINGLE = 3
SIGHASH_ANYONECANPAY = 0x80
SIGHASH_SINGLE_ANYONECANPAY = SIGHASH_SINGLE | SIGHASH_ANYONECANPAY


def p2wpkh_script_code(script_pubkey: bytes) -> bytes:
    return script(OP_DUP, OP_HASH160, script_pubkey[2:22], OP_EQUALVERIFY, OP_CHECKSIG)


def segwit_v0(
    tx: Transaction, index: int, script_code: bytes, amount: int, hash_type: int = SIGHASH_ALL
) -> bytes:
    """BIP 143, "Specification". `script_code`: the witness script, or `p2wpkh_script_code`."""
    anyone_can_pay = bool(hash_type & SIGHASH_ANYONECANPAY)
    kind = hash_type & 0x1F
    hash_prevouts = hash_sequence = hash_outputs = bytes(32)
    if not anyone_can_pay:
        hash_prevouts = double_sha256(b"".join(i.outpoint.serialize() for i in tx.inputs))
        if kind not in (SIGHASH_NONE, SIGHASH_SINGLE):
            hash_sequence = double_sha256(b"".join(i.sequence.to_bytes(4, "little") for i in tx.inputs))
    if kind not in (SIGHASH_NONE, SIGHASH_SINGLE):
        hash_outputs = double_sha256(b"".join(o.serialize() for o in tx.outputs))
    elif kind == SIGHASH_SINGLE and index < len(tx.outputs):
        hash_outputs = double_sha256(tx.outputs[index].serialize())
    spent = tx.inputs[index]
    return double_sha256(
        struct.pack("<i", tx.version)
        + hash_prevouts
        + hash_sequence
        + spent.outpoint.serialize()
        + var_bytes(script_code)
        + struct.pack("<qI", amount, spent.sequence)
        + hash_outputs
        + struct.pack("<II", tx.locktime, hash_type)
    )


def taproot(
    tx: Transaction,
    index: int,
    spent: Sequence[TxOut],
    hash_type: int = SIGHASH_DEFAULT,
    *,
    leaf_hash: bytes | None = None,
    annex: bytes | None = None,
) -> bytes:
    """BIP 341, "Common signature message"; with `leaf_hash` the BIP 342 extension (no OP_CODESEPARATOR).

    `spent`: the output that each input spends, in order.
    """
    anyone_can_pay = bool(hash_type & SIGHASH_ANYONECANPAY)
    kind = hash_type & 3
    message = struct.pack("<BiI", hash_type, tx.version, tx.locktime)
    if not anyone_can_pay:
        message += sha256(b"".join(i.outpoint.serialize() for i in tx.inputs))
        message += sha256(b"".join(struct.pack("<q", o.value) for o in spent))
        message += sha256(b"".join(var_bytes(o.script_pubkey) for o in spent))
        message += sha256(b"".join(i.sequence.to_bytes(4, "little") for i in tx.inputs))
    if kind not in (SIGHASH_NONE, SIGHASH_SINGLE):
        message += sha256(b"".join(o.serialize() for o in tx.outputs))
    message += bytes((2 * (leaf_hash is not None) + (annex is not None),))
    if anyone_can_pay:
        message += tx.inputs[index].outpoint.serialize() + spent[index].serialize()
        message += tx.inputs[index].sequence.to_bytes(4, "little")
    else:
        message += index.to_bytes(4, "little")
    if annex is not None:
        message += sha256(var_bytes(annex))
    if kind == SIGHASH_SINGLE:
        message += sha256(tx.outputs[index].serialize())
    if leaf_hash is not None:
        message += leaf_hash + b"\x00" + b"\xff\xff\xff\xff"
    return tagged_hash("TapSighash", b"\x00" + message)
