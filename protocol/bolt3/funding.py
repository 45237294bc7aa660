"""The funding output: its script, the witness that spends it, the channel id (BOLT 3, "Funding Transaction
Output"; BOLT 2, "Definition of `channel_id`")."""

from functools import lru_cache

from protocol.amounts import Sat
from protocol.bitcoin.script import p2wsh
from protocol.bitcoin.sighash import SIGHASH_ALL
from protocol.bitcoin.transaction import OutPoint, TxOut
from protocol.bolt3 import scripts
from protocol.curve import to_der

MAX_OUTPUT_INDEX = 0xFFFF


@lru_cache(4096)
def witness_script(pubkey_a: bytes, pubkey_b: bytes) -> bytes:
    return scripts.funding(pubkey_a, pubkey_b)


def script_pubkey(pubkey_a: bytes, pubkey_b: bytes) -> bytes:
    return p2wsh(witness_script(pubkey_a, pubkey_b))


def funding_output(capacity: Sat, pubkey_a: bytes, pubkey_b: bytes) -> TxOut:
    return TxOut(capacity, script_pubkey(pubkey_a, pubkey_b))


def channel_id(outpoint: OutPoint) -> bytes:
    """The transaction id, its last two bytes altered by the output's index."""
    if not 0 <= outpoint.index <= MAX_OUTPUT_INDEX:
        raise ValueError(f"output {outpoint.index} cannot fund a channel: its index needs more than 16 bits")
    tail = int.from_bytes(outpoint.txid[-2:], "big") ^ outpoint.index
    return outpoint.txid[:-2] + tail.to_bytes(2, "big")


def bitcoin_signature(signature: bytes, hash_type: int = SIGHASH_ALL) -> bytes:
    """64 bytes compact, as on the wire, to what a witness holds: DER and the sighash byte."""
    return to_der(signature) + bytes((hash_type,))


def funding_witness(
    pubkey_a: bytes, signature_a: bytes, pubkey_b: bytes, signature_b: bytes
) -> tuple[bytes, ...]:
    """`signature_a` belongs to `pubkey_a`; OP_CHECKMULTISIG wants them in the order of the keys."""
    first, second = bitcoin_signature(signature_a), bitcoin_signature(signature_b)
    if pubkey_b < pubkey_a:
        first, second = second, first
    return b"", first, second, witness_script(pubkey_a, pubkey_b)
