"""The legacy closing transaction and the scripts it may pay (BOLT 3, "Legacy Closing Transaction"; BOLT 2,
"Closing Initiation: `shutdown`")."""

from dataclasses import dataclass
from functools import cached_property

from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.script import OP_PUSHDATA1, OP_RETURN, witness_program
from protocol.bitcoin.sighash import segwit_v0
from protocol.bitcoin.transaction import Transaction, TxIn, TxOut
from protocol.bolt3 import funding
from protocol.bolt3.fees import (
    FUNDING_WITNESS_WEIGHT,
    INPUT_WEIGHT,
    SEGWIT_MARKER_WEIGHT,
    fee_of_weight,
)
from protocol.bolt3.htlc_tx import with_witness
from protocol.bolt3.params import CommitmentParams, Side
from protocol.errors import PeerViolation

__all__ = [
    "Closing",
    "build",
    "closing_fee",
    "closing_weight",
    "is_op_return",
    "is_shutdown_script",
]

_CLAUSE = 'BOLT 2, "Legacy Closing Negotiation"'


@dataclass(frozen=True)
class Closing:
    params: CommitmentParams
    tx: Transaction

    @cached_property
    def digest(self) -> bytes:
        script_code = funding.witness_script(
            self.params.holder.keys.funding_pubkey, self.params.counterparty.keys.funding_pubkey
        )
        return segwit_v0(self.tx, 0, script_code, self.params.capacity)

    @property
    def fee(self) -> Sat:
        return Sat(self.params.capacity - sum(output.value for output in self.tx.outputs))

    def signed(self, holder_signature: bytes, counterparty_signature: bytes) -> Transaction:
        witness = funding.funding_witness(
            self.params.holder.keys.funding_pubkey,
            holder_signature,
            self.params.counterparty.keys.funding_pubkey,
            counterparty_signature,
        )
        return with_witness(self.tx, 0, witness)


def build(
    params: CommitmentParams,
    to_holder: Sat,
    to_counterparty: Sat,
    holder_script: bytes,
    counterparty_script: bytes,
    fee: Sat,
    *,
    dust_limit: Sat | None = None,
    omit: Side | None = None,
) -> Closing:
    """`to_holder` and `to_counterparty`: final balances before the fee, which the opener pays.

    Outputs below `dust_limit` (by default the holder's own) are left out. Each node uses its own limit and
    may leave out its own output, so a signature of the peer can be for the transaction with the peer's limit,
    or with `omit=Side.COUNTERPARTY`. Raises PeerViolation when the fee cannot be paid or nothing is left.
    """
    if fee < 0 or to_holder < 0 or to_counterparty < 0 or to_holder + to_counterparty > params.capacity:
        raise ValueError("a closing transaction shares out at most the capacity, in amounts not below zero")
    if params.opener_is_holder:
        to_holder = Sat(to_holder - fee)
    else:
        to_counterparty = Sat(to_counterparty - fee)
    if to_holder < 0 or to_counterparty < 0:
        raise PeerViolation(f"the opener cannot pay a closing fee of {fee} sat", clause=_CLAUSE)
    limit = max(params.holder.dust_limit if dust_limit is None else dust_limit, 1)
    outputs = []
    if to_holder >= limit and omit is not Side.HOLDER:
        outputs.append(TxOut(to_holder, holder_script))
    if to_counterparty >= limit and omit is not Side.COUNTERPARTY:
        outputs.append(TxOut(to_counterparty, counterparty_script))
    if not outputs:
        raise PeerViolation("both outputs of the closing transaction are dust", clause=_CLAUSE)
    outputs.sort(key=lambda output: (output.value, output.script_pubkey))
    return Closing(params, Transaction(2, (TxIn(params.funding_outpoint),), tuple(outputs)))


def closing_weight(*output_scripts: bytes) -> int:
    """With signatures at their longest."""
    outputs = sum(9 + len(script) for script in output_scripts)
    return 4 * (4 + 1 + 1 + outputs + 4) + INPUT_WEIGHT + SEGWIT_MARKER_WEIGHT + FUNDING_WITNESS_WEIGHT


def closing_fee(feerate_per_kw: FeeratePerKw, *output_scripts: bytes) -> Sat:
    return fee_of_weight(closing_weight(*output_scripts), feerate_per_kw)


def is_op_return(script_pubkey: bytes) -> bool:
    return script_pubkey[:1] == bytes((OP_RETURN,))


def _is_one_push(data: bytes) -> bool:
    """6 to 75 bytes pushed by their length, or 76 to 80 behind OP_PUSHDATA1 (BOLT 2, "Closing Initiation")."""
    if data[:1] == bytes((OP_PUSHDATA1,)):
        return 76 <= len(data) - 2 <= 80 and data[1] == len(data) - 2
    return 6 <= len(data) - 1 <= 75 and data[0] == len(data) - 1


def is_shutdown_script(script_pubkey: bytes, *, anysegwit: bool, op_return: bool = False) -> bool:
    """p2wpkh, p2wsh; with `option_shutdown_anysegwit` any program of version 1 to 16; with `option_simple_close` an
    OP_RETURN with one push."""
    if is_op_return(script_pubkey):
        return op_return and _is_one_push(script_pubkey[1:])
    program = witness_program(script_pubkey)
    if program is None:
        return False
    version, data = program
    return anysegwit if version > 0 else len(data) in (20, 32)
