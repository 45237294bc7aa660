"""Commitment transactions (BOLT 3, "Commitment Transaction", "Commitment Transaction Construction").

`protocol.bolt3.draft` decides which outputs there are; here they become a small graph: the commitment
transaction and one second-stage transaction for each HTLC output, with all digests to sign. The transaction
and the digest are written straight as bytes, and held against `protocol.bitcoin` by the tests.
"""

import struct
from dataclasses import dataclass, field
from functools import cached_property

from protocol.amounts import Sat
from protocol.bitcoin.sighash import SIGHASH_ALL
from protocol.bitcoin.transaction import Transaction, TxIn, TxOut, compact_size, var_bytes
from protocol.bolt3 import draft, funding
from protocol.bolt3.content import (
    CommitmentContent,
    CommitmentHtlc,
    affords,
    fee_and_anchors,
    validate_content,
)
from protocol.bolt3.draft import CommitmentOutput, OutputKind, Placed
from protocol.bolt3.htlc_tx import HtlcOutput, SecondStage, with_witness
from protocol.bolt3.keys import ChannelKeys
from protocol.bolt3.params import CommitmentParams, Side, SideParams, obscured_fields
from protocol.bolt3.scripts import CommitmentScripts
from protocol.errors import PeerViolation
from protocol.hashes import double_sha256

__all__ = [
    "ChannelKeys",
    "Commitment",
    "CommitmentContent",
    "CommitmentHtlc",
    "CommitmentOutput",
    "CommitmentParams",
    "HtlcOutput",
    "OutputKind",
    "Side",
    "SideParams",
    "affords",
    "build",
    "fee_and_anchors",
    "prepare",
    "validate_content",
]

_VERSION = b"\x02\x00\x00\x00"
_pack_value = struct.Struct("<q").pack


@dataclass(frozen=True)
class Commitment:
    """An unsigned commitment transaction and what hangs on it."""

    params: CommitmentParams
    owner: Side
    content: CommitmentContent
    scripts: CommitmentScripts
    raw: bytes
    """Serialised without a witness: what the txid hashes."""
    txid: bytes
    digest: bytes
    """What both funding keys sign."""
    fee: Sat
    """All that goes to the miner: the base fee, trimmed outputs and rounding."""
    htlcs: tuple[HtlcOutput, ...]
    """Untrimmed HTLCs in output order, which is the order of `htlc_signature`s."""
    _placed: tuple[Placed, ...] = field(repr=False)

    @cached_property
    def outputs(self) -> tuple[CommitmentOutput, ...]:
        return tuple(
            CommitmentOutput(index, kind, Sat(value), spk, script, htlc)
            for index, (value, spk, _, _, kind, script, htlc) in enumerate(self._placed)
        )

    def output(self, kind: OutputKind) -> CommitmentOutput | None:
        """The first output of this kind, for those that occur once."""
        return next((output for output in self.outputs if output.kind is kind), None)

    @property
    def witness_scripts(self) -> tuple[bytes, ...]:
        """By output index; empty for a p2wpkh."""
        return tuple(placed[5] for placed in self._placed)

    @cached_property
    def tx(self) -> Transaction:
        sequence, locktime = _obscured(self.params, self.content.number)
        return Transaction(
            version=2,
            inputs=(TxIn(self.params.funding_outpoint, sequence=sequence),),
            outputs=tuple(TxOut(Sat(placed[0]), placed[1]) for placed in self._placed),
            locktime=locktime,
        )

    def signed(self, holder_signature: bytes, counterparty_signature: bytes) -> Transaction:
        """Ready for the network; signatures over `digest`, 64 bytes each."""
        witness = funding.funding_witness(
            self.params.holder.keys.funding_pubkey,
            holder_signature,
            self.params.counterparty.keys.funding_pubkey,
            counterparty_signature,
        )
        return with_witness(self.tx, 0, witness)

    @cached_property
    def second_stage(self) -> SecondStage:
        return SecondStage(
            self.txid,
            self.scripts.to_local_script_pubkey,
            self.content.feerate_per_kw,
            self.params.anchors,
        )

    @property
    def remote_hash_type(self) -> int:
        """The hash type of the HTLC signatures that travel in `commitment_signed`."""
        return self.second_stage.remote_hash_type

    def htlc_digests(self, hash_type: int | None = None) -> list[bytes]:
        """For each of `htlcs`. Without a hash type: what the side that does not own the commitment signs.

        The owner itself signs with SIGHASH_ALL, else anyone could attach inputs and outputs.
        """
        if hash_type is None:
            hash_type = self.remote_hash_type
        return self.second_stage.digests(self.htlcs, hash_type)

    def htlc_transactions(self) -> list[Transaction]:
        """The second-stage transactions for each of `htlcs`, without witnesses."""
        return [self.second_stage.transaction(output) for output in self.htlcs]


def _obscured(params: CommitmentParams, number: int) -> tuple[int, int]:
    return obscured_fields(number ^ params.obscuring_factor)


def prepare(params: CommitmentParams, owner: Side, per_commitment_point: bytes) -> None:
    """Derive the keys of a coming commitment while idle."""
    draft.scripts_of(params, owner, per_commitment_point)


def build(
    params: CommitmentParams, owner: Side, content: CommitmentContent, per_commitment_point: bytes
) -> Commitment:
    """The commitment of `owner` at its point. Content that nobody checked goes to `validate_content` first.

    Raises PeerViolation when the outputs need more than the funding holds.
    """
    done = draft.compose(params, owner, content, per_commitment_point)
    placed = done.placed
    fee = params.capacity - sum(item[0] for item in placed)
    if fee < 0:
        raise PeerViolation(
            f"the outputs of commitment {content.number} exceed the funding by {-fee} sat",
            clause='BOLT 3, "Fee Payment"',
        )
    outputs = b"".join(
        [_pack_value(item[0]) + (b"\x22" if len(item[1]) == 34 else b"\x16") + item[1] for item in placed]
    )
    outpoint = params.funding_outpoint.serialize()
    sequence, locktime = (part.to_bytes(4, "little") for part in _obscured(params, content.number))
    raw = b"".join(
        (_VERSION, b"\x01", outpoint, b"\x00", sequence, compact_size(len(placed)), outputs, locktime)
    )
    script_code = funding.witness_script(
        params.holder.keys.funding_pubkey, params.counterparty.keys.funding_pubkey
    )
    # BIP 143, for the one input.
    preimage = b"".join(
        (
            _VERSION,
            double_sha256(outpoint),
            double_sha256(sequence),
            outpoint,
            var_bytes(script_code),
            _pack_value(params.capacity),
            sequence,
            double_sha256(outputs),
            locktime,
            SIGHASH_ALL.to_bytes(4, "little"),
        )
    )
    htlcs = tuple(
        [
            HtlcOutput(index, Sat(item[0]), item[6], item[5])
            for index, item in enumerate(placed)
            if item[6] is not None
        ]
    )
    return Commitment(
        params=params,
        owner=owner,
        content=content,
        scripts=done.scripts,
        raw=raw,
        txid=double_sha256(raw),
        digest=double_sha256(preimage),
        fee=Sat(fee),
        htlcs=htlcs,
        _placed=tuple(placed),
    )
