"""The closing transaction that one side pays for, in its three forms (BOLT 3, "Closing Transaction"; BOLT 2, "Closing
Negotiation: `closing_complete` and `closing_sig`")."""

from enum import IntEnum

from msgspec import Struct

from protocol.amounts import Msat, Sat, floor_sat
from protocol.bitcoin.transaction import Transaction, TxIn, TxOut
from protocol.bolt3.closing import Closing, is_op_return
from protocol.bolt3.fees import dust_threshold
from protocol.bolt3.params import CommitmentParams
from protocol.errors import PeerViolation

CLAUSE = 'BOLT 2, "Closing Negotiation: closing_complete and closing_sig"'
SEQUENCE = 0xFFFFFFFD


class Variant(IntEnum):
    """Which outputs the transaction has; the number is the type of the TLV field with its signature."""

    CLOSER_ONLY = 1
    CLOSEE_ONLY = 2
    BOTH = 3


class Terms(Struct, frozen=True):
    """What closer and closee agree on. The amounts are the final balances, before the fee that the closer pays."""

    to_closer: Msat
    to_closee: Msat
    closer_script: bytes
    closee_script: bytes
    fee: Sat
    locktime: int

    @property
    def closer_amount(self) -> Sat:
        """Raises PeerViolation when the closer cannot pay the fee."""
        left = floor_sat(self.to_closer) - self.fee
        if left < 0:
            raise PeerViolation(f"the closer cannot pay a closing fee of {self.fee} sat", clause=CLAUSE)
        return Sat(0 if is_op_return(self.closer_script) else left)

    @property
    def closee_amount(self) -> Sat:
        return Sat(0) if is_op_return(self.closee_script) else floor_sat(self.to_closee)


def offered(terms: Terms) -> tuple[Variant, ...]:
    """What the closer signs: the side with less may leave out its own output, and must if it is dust."""
    if terms.to_closer < terms.to_closee:
        dust = terms.closer_amount < dust_threshold(terms.closer_script)
        return (Variant.CLOSEE_ONLY,) if dust else (Variant.BOTH,)
    if terms.closee_amount < dust_threshold(terms.closee_script):
        return (Variant.CLOSER_ONLY,)
    return Variant.CLOSER_ONLY, Variant.BOTH


def chosen(terms: Terms, signed: frozenset[Variant]) -> Variant:
    """What the closee takes of it. We call no output above dust uneconomical. Raises PeerViolation if it is missing."""
    if terms.closee_amount < dust_threshold(terms.closee_script):
        wanted = Variant.CLOSER_ONLY
    elif Variant.BOTH in signed:
        wanted = Variant.BOTH
    else:
        wanted = Variant.CLOSEE_ONLY
    if wanted not in signed:
        raise PeerViolation(f"closing_complete lacks {wanted.name.lower()}", clause=CLAUSE)
    return wanted


def build(params: CommitmentParams, terms: Terms, variant: Variant) -> Closing:
    """Raises PeerViolation when the closer cannot pay the fee."""
    if terms.fee < 0 or terms.to_closer < 0 or terms.to_closee < 0:
        raise ValueError("amounts and fee of a closing transaction are not below zero")
    outputs = []
    closer_amount = terms.closer_amount
    if variant is not Variant.CLOSEE_ONLY:
        outputs.append(TxOut(closer_amount, terms.closer_script))
    if variant is not Variant.CLOSER_ONLY:
        outputs.append(TxOut(terms.closee_amount, terms.closee_script))
    outputs.sort(key=lambda output: (output.value, output.script_pubkey))
    spend = TxIn(params.funding_outpoint, sequence=SEQUENCE)
    return Closing(params, Transaction(2, (spend,), tuple(outputs), terms.locktime))
