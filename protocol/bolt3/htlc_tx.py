"""HTLC-timeout and HTLC-success transactions (BOLT 3, "HTLC-Timeout and HTLC-Success Transactions"; BOLT 5,
"Generation of HTLC Transactions").

`digests` is the hot path of a commitment: it writes each BIP 143 preimage straight from its parts. The tests
hold it against `protocol.bitcoin.sighash` over the transaction objects.
"""

import hashlib
import struct
from collections.abc import Sequence

import msgspec

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.sighash import SIGHASH_ALL, SIGHASH_SINGLE_ANYONECANPAY
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bolt3.content import CommitmentHtlc
from protocol.bolt3.fees import htlc_success_fee, htlc_timeout_fee
from protocol.bolt3.funding import bitcoin_signature
from protocol.hashes import double_sha256

_VERSION = b"\x02\x00\x00\x00"
_ZERO = bytes(32)
_pack_index = struct.Struct("<I").pack
_pack_value = struct.Struct("<q").pack
_pack_value_and_sequence = struct.Struct("<qI").pack
_pack_locktime_and_type = struct.Struct("<II").pack


class HtlcOutput(msgspec.Struct, frozen=True, gc=False):
    """An HTLC output as it stands in a commitment transaction."""

    index: int
    value: Sat
    htlc: CommitmentHtlc
    witness_script: bytes


class SecondStage(msgspec.Struct, frozen=True, gc=False):
    """What all second-stage transactions of one commitment share."""

    commitment_txid: bytes
    script_pubkey: bytes
    """The to_local form, which the owner can spend after its delay."""
    feerate_per_kw: FeeratePerKw
    anchors: bool

    @property
    def sequence(self) -> int:
        return 1 if self.anchors else 0

    @property
    def remote_hash_type(self) -> int:
        """How the side that does not own the commitment signs; the owner always uses SIGHASH_ALL."""
        return SIGHASH_SINGLE_ANYONECANPAY if self.anchors else SIGHASH_ALL

    def fee(self, htlc: CommitmentHtlc) -> Sat:
        fee = htlc_timeout_fee if htlc.offered else htlc_success_fee
        return fee(self.feerate_per_kw, self.anchors)

    def transaction(self, output: HtlcOutput) -> Transaction:
        """HTLC-timeout for an offered HTLC, HTLC-success for a received one; without its witness."""
        htlc = output.htlc
        outpoint = OutPoint(self.commitment_txid, output.index)
        value = Sat(output.value - self.fee(htlc))
        return Transaction(
            version=2,
            inputs=(TxIn(outpoint, sequence=self.sequence),),
            outputs=(TxOut(value, self.script_pubkey),),
            locktime=htlc.cltv_expiry if htlc.offered else 0,
        )

    def digests(self, outputs: Sequence[HtlcOutput], hash_type: int) -> list[bytes]:
        """What to sign for each output, in their order."""
        if hash_type not in (SIGHASH_ALL, SIGHASH_SINGLE_ANYONECANPAY):
            raise ValueError(f"HTLC transactions are not signed with hash type {hash_type:#x}")
        commits_to_all = hash_type == SIGHASH_ALL
        sha = hashlib.sha256
        sequence = self.sequence
        hash_sequence = double_sha256(_pack_index(sequence)) if commits_to_all else _ZERO
        timeout_fee = htlc_timeout_fee(self.feerate_per_kw, self.anchors)
        success_fee = htlc_success_fee(self.feerate_per_kw, self.anchors)
        txid = self.commitment_txid
        script_bytes = bytes((len(self.script_pubkey),)) + self.script_pubkey
        hash_prevouts = _ZERO
        result = []
        for output in outputs:
            outpoint = txid + _pack_index(output.index)
            value = output.value
            script = output.witness_script
            htlc = output.htlc
            if htlc.offered:
                paid, locktime = value - timeout_fee, htlc.cltv_expiry
            else:
                paid, locktime = value - success_fee, 0
            if commits_to_all:
                hash_prevouts = sha(sha(outpoint).digest()).digest()
            hash_outputs = sha(sha(_pack_value(paid) + script_bytes).digest()).digest()
            preimage = (
                b"%b%b%b%b%c%b%b%b%b"  # one allocation instead of eight
                % (
                    _VERSION,
                    hash_prevouts,
                    hash_sequence,
                    outpoint,
                    len(script),  # 133 to 145 bytes, so the length is one byte
                    script,
                    _pack_value_and_sequence(value, sequence),
                    hash_outputs,
                    _pack_locktime_and_type(locktime, hash_type),
                )
            )
            result.append(sha(sha(preimage).digest()).digest())
        return result


def success_witness(
    remote_signature: bytes,
    local_signature: bytes,
    payment_preimage: bytes,
    witness_script: bytes,
    remote_hash_type: int,
) -> tuple[bytes, ...]:
    """For HTLC-success. *Local* owns the commitment. Signatures have 64 bytes, as on the wire."""
    remote = bitcoin_signature(remote_signature, remote_hash_type)
    return b"", remote, bitcoin_signature(local_signature), payment_preimage, witness_script


def timeout_witness(
    remote_signature: bytes, local_signature: bytes, witness_script: bytes, remote_hash_type: int
) -> tuple[bytes, ...]:
    """For HTLC-timeout: the same, with nothing where the preimage would be."""
    return success_witness(remote_signature, local_signature, b"", witness_script, remote_hash_type)


def with_witness(tx: Transaction, index: int, witness: tuple[bytes, ...]) -> Transaction:
    """The transaction with this witness on one of its inputs."""
    old = tx.inputs[index]
    new = TxIn(old.outpoint, old.script_sig, old.sequence, witness)
    inputs = (*tx.inputs[:index], new, *tx.inputs[index + 1 :])
    return Transaction(tx.version, inputs, tx.outputs, tx.locktime)
