"""Spending what a channel left on chain with one signature each (BOLT 3, "Commitment Transaction Outputs";
BOLT 5; weights after its Appendix A).

Each witness begins with the signature and ends in items that are known beforehand, so an input is a value
with a `tail`; the functions below make the allowed ones. HTLC-success and HTLC-timeout need two signatures
and are in `htlc_tx`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.script import p2wpkh, p2wsh
from protocol.bitcoin.sighash import p2wpkh_script_code, segwit_v0
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut, compact_size
from protocol.bolt3.fees import (
    ANCHOR_AMOUNT,
    INPUT_WEIGHT,
    SEGWIT_MARKER_WEIGHT,
    SIGNATURE_BYTES,
    dust_threshold,
    fee_of_weight,
)
from protocol.bolt3.funding import bitcoin_signature
from protocol.errors import CommandRefused

REPLACEABLE = 0xFFFFFFFD
"""No relative lock; locktime applies; may be replaced by a higher fee (BIP 125)."""
ANCHOR_OPEN_AFTER = 16


class SweepKind(Enum):
    TO_LOCAL = "to_local"
    REVOKED = "revoked"
    TO_REMOTE = "to_remote"
    ANCHOR = "anchor"
    ANCHOR_OF_ANYONE = "anchor_of_anyone"
    HTLC_PREIMAGE = "htlc_preimage"
    HTLC_TIMEOUT = "htlc_timeout"
    HTLC_REVOKED = "htlc_revoked"


@dataclass(frozen=True, slots=True)
class SweepInput:
    kind: SweepKind
    outpoint: OutPoint
    value: Sat
    script_pubkey: bytes
    script_code: bytes
    tail: tuple[bytes, ...]
    """What follows the signature in the witness."""
    sequence: int = REPLACEABLE
    locktime: int = 0

    @property
    def needs_signature(self) -> bool:
        return self.kind is not SweepKind.ANCHOR_OF_ANYONE

    @property
    def weight(self) -> int:
        """Of the whole input, with the signature at its longest."""
        signature = 1 + (SIGNATURE_BYTES if self.needs_signature else 0)
        rest = sum(len(compact_size(len(item))) + len(item) for item in self.tail)
        return INPUT_WEIGHT + 1 + signature + rest

    def witness(self, signature: bytes | None) -> tuple[bytes, ...]:
        """`signature`: 64 bytes over the digest; None where the output needs none."""
        if (signature is None) == self.needs_signature:
            raise ValueError(f"{self.kind.value} {self.outpoint}: a signature is missing or too many")
        return (b"" if signature is None else bitcoin_signature(signature), *self.tail)


def _p2wsh_input(
    kind: SweepKind,
    outpoint: OutPoint,
    value: Sat,
    witness_script: bytes,
    *items: bytes,
    sequence: int = REPLACEABLE,
    locktime: int = 0,
) -> SweepInput:
    tail = (*items, witness_script)
    return SweepInput(kind, outpoint, value, p2wsh(witness_script), witness_script, tail, sequence, locktime)


def to_local(outpoint: OutPoint, value: Sat, witness_script: bytes, to_self_delay: int) -> SweepInput:
    """Our own delayed output: `to_local`, or that of our second-stage transaction."""
    return _p2wsh_input(SweepKind.TO_LOCAL, outpoint, value, witness_script, b"", sequence=to_self_delay)


def revoked(outpoint: OutPoint, value: Sat, witness_script: bytes) -> SweepInput:
    """The peer's delayed output after it revoked: `to_local`, or that of a second-stage transaction."""
    return _p2wsh_input(SweepKind.REVOKED, outpoint, value, witness_script, b"\x01")


def to_remote(outpoint: OutPoint, value: Sat, remotepubkey: bytes) -> SweepInput:
    """Our output on the peer's commitment without anchors: p2wpkh."""
    spk = p2wpkh(remotepubkey)
    return SweepInput(SweepKind.TO_REMOTE, outpoint, value, spk, p2wpkh_script_code(spk), (remotepubkey,))


def to_remote_anchors(outpoint: OutPoint, value: Sat, witness_script: bytes) -> SweepInput:
    """Our output on the peer's commitment with anchors: one block after it."""
    return _p2wsh_input(SweepKind.TO_REMOTE, outpoint, value, witness_script, sequence=1)


def anchor(outpoint: OutPoint, witness_script: bytes) -> SweepInput:
    return _p2wsh_input(SweepKind.ANCHOR, outpoint, ANCHOR_AMOUNT, witness_script)


def anchor_of_anyone(outpoint: OutPoint, witness_script: bytes) -> SweepInput:
    """Either anchor, 16 blocks after the commitment; no signature."""
    kind = SweepKind.ANCHOR_OF_ANYONE
    return _p2wsh_input(kind, outpoint, ANCHOR_AMOUNT, witness_script, sequence=ANCHOR_OPEN_AFTER)


def htlc_with_preimage(
    outpoint: OutPoint, value: Sat, witness_script: bytes, payment_preimage: bytes, *, anchors: bool
) -> SweepInput:
    """An HTLC that the peer offered, on the peer's commitment, once we know the preimage."""
    if len(payment_preimage) != 32:
        raise ValueError(f"a preimage has 32 bytes, not {len(payment_preimage)}")
    kind, sequence = SweepKind.HTLC_PREIMAGE, 1 if anchors else REPLACEABLE
    return _p2wsh_input(kind, outpoint, value, witness_script, payment_preimage, sequence=sequence)


def htlc_after_timeout(
    outpoint: OutPoint, value: Sat, witness_script: bytes, cltv_expiry: int, *, anchors: bool
) -> SweepInput:
    """An HTLC that we offered, on the peer's commitment, once it expired."""
    kind, sequence = SweepKind.HTLC_TIMEOUT, 1 if anchors else REPLACEABLE
    return _p2wsh_input(kind, outpoint, value, witness_script, b"", sequence=sequence, locktime=cltv_expiry)


def htlc_revoked(
    outpoint: OutPoint, value: Sat, witness_script: bytes, revocationpubkey: bytes
) -> SweepInput:
    """An HTLC output, offered or received, of a commitment that the peer revoked."""
    return _p2wsh_input(SweepKind.HTLC_REVOKED, outpoint, value, witness_script, revocationpubkey)


@dataclass(frozen=True)
class Sweep:
    """`digests[i]` is to be signed by the key of `inputs[i]`; None where no signature is needed."""

    inputs: tuple[SweepInput, ...]
    tx: Transaction
    digests: tuple[bytes | None, ...]
    fee: Sat

    def signed(self, signatures: Sequence[bytes | None]) -> Transaction:
        inputs = tuple(
            TxIn(spent.outpoint, sequence=spent.sequence, witness=spent.witness(signature))
            for spent, signature in zip(self.inputs, signatures, strict=True)
        )
        return Transaction(self.tx.version, inputs, self.tx.outputs, self.tx.locktime)


def sweep_weight(inputs: Sequence[SweepInput], destination: bytes) -> int:
    outer = 4 + len(compact_size(len(inputs))) + 1 + 9 + len(destination) + 4
    return 4 * outer + SEGWIT_MARKER_WEIGHT + sum(spent.weight for spent in inputs)


def build_sweep(
    inputs: Sequence[SweepInput], destination: bytes, feerate_per_kw: FeeratePerKw, *, locktime: int = 0
) -> Sweep:
    """All inputs to one script. `locktime`: at least this height, such as the tip's against fee sniping.

    Raises CommandRefused when too little would be left after the fee.
    """
    if not inputs:
        raise ValueError("a sweep needs an input")
    total = sum(spent.value for spent in inputs)
    fee = fee_of_weight(sweep_weight(inputs, destination), feerate_per_kw)
    if total - fee < max(dust_threshold(destination), 1):
        raise CommandRefused(
            f"a sweep of {total} sat would pay {fee} sat of fee at {feerate_per_kw} sat/kw",
            what_to_do="Wait for a lower feerate, or sweep these outputs together with larger ones.",
        )
    tx = Transaction(
        version=2,
        inputs=tuple(TxIn(spent.outpoint, sequence=spent.sequence) for spent in inputs),
        outputs=(TxOut(Sat(total - fee), destination),),
        locktime=max(locktime, *(spent.locktime for spent in inputs)),
    )
    digests = tuple(
        segwit_v0(tx, index, spent.script_code, spent.value) if spent.needs_signature else None
        for index, spent in enumerate(inputs)
    )
    return Sweep(tuple(inputs), tx, digests, fee)
