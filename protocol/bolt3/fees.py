"""Weights, fees, trimming and dust (BOLT 3, "Trimmed Outputs", "Fees", "Dust Limits", Appendix A)."""

from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bitcoin.script import OP_RETURN, witness_program

COMMITMENT_WEIGHT = 724
COMMITMENT_WEIGHT_ANCHORS = 1124
HTLC_OUTPUT_WEIGHT = 172
HTLC_TIMEOUT_WEIGHT = 663
HTLC_TIMEOUT_WEIGHT_ANCHORS = 666
HTLC_SUCCESS_WEIGHT = 703
HTLC_SUCCESS_WEIGHT_ANCHORS = 706
ANCHOR_AMOUNT = Sat(330)
SIGNATURE_BYTES = 73
"""DER with its sighash byte, as BOLT 3 counts it; ours, with a low S, are never longer than 72."""
FUNDING_WITNESS_WEIGHT = 222
SEGWIT_MARKER_WEIGHT = 2
INPUT_WEIGHT = 4 * 41
_PAY_TO_ANCHOR = bytes.fromhex("51024e73")


def fee_of_weight(weight: int, feerate_per_kw: FeeratePerKw) -> Sat:
    return Sat(weight * feerate_per_kw // 1000)


def commitment_weight(untrimmed: int, anchors: bool) -> int:
    base = COMMITMENT_WEIGHT_ANCHORS if anchors else COMMITMENT_WEIGHT
    return base + HTLC_OUTPUT_WEIGHT * untrimmed


def commit_fee(feerate_per_kw: FeeratePerKw, untrimmed: int, anchors: bool) -> Sat:
    """The base fee, paid by the opener; trimmed outputs and rounding add to it."""
    return fee_of_weight(commitment_weight(untrimmed, anchors), feerate_per_kw)


def anchors_cost(anchors: bool) -> Sat:
    """What the opener pays for the two anchors. It is taken even where an anchor is left out."""
    return Sat(2 * ANCHOR_AMOUNT) if anchors else Sat(0)


def htlc_timeout_fee(feerate_per_kw: FeeratePerKw, anchors: bool) -> Sat:
    return Sat(0) if anchors else fee_of_weight(HTLC_TIMEOUT_WEIGHT, feerate_per_kw)


def htlc_success_fee(feerate_per_kw: FeeratePerKw, anchors: bool) -> Sat:
    return Sat(0) if anchors else fee_of_weight(HTLC_SUCCESS_WEIGHT, feerate_per_kw)


def trim_limits(dust_limit: Sat, feerate_per_kw: FeeratePerKw, anchors: bool) -> tuple[Msat, Msat]:
    """The least amounts of an offered and of a received HTLC that get an output.

    Whole satoshis less the second stage's fee must reach the dust limit; both are whole numbers of satoshis,
    so comparing the millisatoshis with their sum is the same.
    """
    offered = dust_limit + htlc_timeout_fee(feerate_per_kw, anchors)
    received = dust_limit + htlc_success_fee(feerate_per_kw, anchors)
    return Msat(1000 * offered), Msat(1000 * received)


def is_trimmed(
    offered: bool, amount_msat: Msat, dust_limit: Sat, feerate_per_kw: FeeratePerKw, anchors: bool
) -> bool:
    """`offered` and `dust_limit` are those of the commitment's owner."""
    offered_limit, received_limit = trim_limits(dust_limit, feerate_per_kw, anchors)
    return amount_msat < (offered_limit if offered else received_limit)


def dust_threshold(script_pubkey: bytes) -> Sat:
    """The least amount that the network relays to this script (BOLT 3, "Dust Limits")."""
    if script_pubkey[:1] == bytes((OP_RETURN,)):
        return Sat(0)
    if script_pubkey == _PAY_TO_ANCHOR:
        return Sat(240)
    program = witness_program(script_pubkey)
    if program is None:
        # p2pkh gives 546, p2sh 540; the input that spends it is taken to have 148 bytes.
        return Sat(3 * (9 + len(script_pubkey) + 148))
    version, data = program
    if version > 0:
        return Sat(354)
    return Sat(294) if len(data) == 20 else Sat(330)
