"""What an output may cost in fees, known beforehand, and how a feerate climbs to it as the deadline comes near (BOLT 5;
checklist 48, 50, 52).

The ceiling of an output is fixed when it is found: a part of its value, the same part that the signer allows. So a
fee market, or somebody who pins us, can take that much and never more.
"""

from collections.abc import Sequence

from node.onchain.recognise import commitment_scripts_of, htlc_script_of
from node.onchain.state import Facts, HtlcFact, Output, Role
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw, Sat
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.fees import (
    HTLC_SUCCESS_WEIGHT_ANCHORS,
    INPUT_WEIGHT,
    SEGWIT_MARKER_WEIGHT,
    SIGNATURE_BYTES,
    fee_of_weight,
)
from protocol.bolt3.scripts import to_remote_anchors
from protocol.bus.messages.signer import MAX_CLOSING_FEE, MAX_CLOSING_FEE_SHARE, WalletCoin

PENALTIES = (Role.REVOKED_TO_LOCAL, Role.REVOKED_HTLC, Role.REVOKED_SECOND_STAGE)
STAGED = (Role.OUR_OFFERED, Role.OUR_RECEIVED)
PENALTY_SHARE = 2
"""Half of a penalty may go to the miners: the cheat may not win, and the money was the cheat's a moment ago."""
CURVE_BLOCKS = 12
"""The feerate follows the market until so many blocks before the deadline, and from there climbs to the ceiling."""
_KEY = 33
_SHORT = 1
_SWEEP_WEIGHT = 4 * (4 + 1 + 1 + 9 + 34 + 4) + SEGWIT_MARKER_WEIGHT
"""Around the inputs, with one output of the longest form that the cold descriptor has."""
_COIN_WEIGHT = 273
_STAGE_WEIGHT = 4 * (8 + 2 + 31) + SEGWIT_MARKER_WEIGHT
"""Around the HTLCs of a second stage that coins pay for: version, lock time, counts and change."""
_CHILD_WEIGHT = 4 * (8 + 2 + 31) + SEGWIT_MARKER_WEIGHT + INPUT_WEIGHT + 1 + 1 + SIGNATURE_BYTES + 41


def ceiling_of(role: Role, value: Sat, facts: Facts) -> Sat:
    """The most that we pay for an output of this value; 0 where the fee was agreed on with the commitment."""
    if role in STAGED and not facts.params.anchors:
        return Sat(0)
    share = PENALTY_SHARE if role in PENALTIES else MAX_CLOSING_FEE_SHARE
    return Sat(min(MAX_CLOSING_FEE, value // share))


def reason_of(output: Output, facts: Facts) -> str:
    """Why the ceiling is what it is, for people."""
    if output.role in STAGED and not facts.params.anchors:
        return "the fee was signed with the commitment and cannot change"
    if output.role is Role.ANCHOR:
        return f"a quarter of what the commitment holds for us, {MAX_CLOSING_FEE} sat at most"
    part = "half" if output.role in PENALTIES else "a quarter"
    return f"{part} of its {output.value} sat, {MAX_CLOSING_FEE} sat at most"


def input_weight(output: Output, htlc: HtlcFact | None, facts: Facts) -> int:
    """Of the input that spends it, with the longest signature."""
    known = commitment_scripts_of(facts)
    script = 0
    items: tuple[int, ...] = ()
    match output.role:
        case Role.TO_REMOTE:
            own = facts.params.holder.keys.payment_basepoint
            items = (len(to_remote_anchors(own)) if facts.params.anchors else _KEY,)
        case Role.TO_LOCAL | Role.SECOND_STAGE | Role.REVOKED_TO_LOCAL | Role.REVOKED_SECOND_STAGE:
            script = 0 if known is None else len(known.to_local)
            items = (_SHORT, script)
        case _:
            script = 0 if known is None or htlc is None else len(htlc_script_of(facts, known, htlc))
            extra = {Role.THEIR_OFFERED: 32, Role.REVOKED_HTLC: _KEY}.get(output.role, 0)
            items = (extra, script)
    return INPUT_WEIGHT + 1 + 1 + SIGNATURE_BYTES + sum(1 + size for size in items)


def weight_of(
    outputs: Sequence[Output], htlcs: dict[tuple[bool, int], HtlcFact], facts: Facts, coins: int
) -> int:
    """Of a transaction of ours that spends these; with a commitment that it lifts, of both."""
    if outputs[0].role is Role.ANCHOR:
        return _CHILD_WEIGHT + _COIN_WEIGHT * max(1, coins) + Transaction.parse(facts.tx).weight
    if outputs[0].role in STAGED:
        return _STAGE_WEIGHT + HTLC_SUCCESS_WEIGHT_ANCHORS * len(outputs) + _COIN_WEIGHT * max(1, coins)
    return _SWEEP_WEIGHT + sum(input_weight(o, htlcs.get(o.htlc) if o.htlc else None, facts) for o in outputs)


def top_rate(
    outputs: Sequence[Output], htlcs: dict[tuple[bool, int], HtlcFact], facts: Facts, coins: int = 1
) -> FeeratePerKw | None:
    """The feerate at which the ceiling of these outputs is reached; None where there is none."""
    ceiling = int(sum(output.ceiling for output in outputs))
    if not ceiling or (outputs[0].role in STAGED and not facts.params.anchors):
        return None
    if outputs[0].role is Role.ANCHOR:
        ceiling += fee_of_commitment(facts)
    rate = ceiling * 1000 // weight_of(outputs, htlcs, facts, coins)
    return FeeratePerKw(max(FEERATE_FLOOR, rate))


def paid_by(
    coins: Sequence[WalletCoin],
    outputs: Sequence[Output],
    htlcs: dict[tuple[bool, int], HtlcFact],
    facts: Facts,
) -> FeeratePerKw:
    """The feerate for which these coins are just enough."""
    paid = int(sum(coin.value for coin in coins))
    if outputs[0].role is Role.ANCHOR:
        paid += fee_of_commitment(facts)
    return FeeratePerKw(max(FEERATE_FLOOR, paid * 1000 // weight_of(outputs, htlcs, facts, len(coins))))


def fee_of_commitment(facts: Facts) -> Sat:
    spent = facts.params.capacity
    return Sat(spent - sum(output.value for output in Transaction.parse(facts.tx).outputs))


def climb(market: FeeratePerKw, top: FeeratePerKw | None, left: int) -> FeeratePerKw:
    """From the market's feerate to `top`, slowly at first: most transactions confirm long before."""
    if top is None:
        return market
    if left >= CURVE_BLOCKS or top <= market:
        return FeeratePerKw(min(market, top))
    way = (CURVE_BLOCKS - max(0, left)) / CURVE_BLOCKS
    return FeeratePerKw(min(top, int(market * (top / market) ** (way * way))))


def is_worth_its_fee(output: Output, htlcs: dict[tuple[bool, int], HtlcFact], facts: Facts) -> bool:
    """By itself and at the lowest feerate that is relayed; else it is left."""
    return fee_of_weight(weight_of((output,), htlcs, facts, 1), FEERATE_FLOOR) <= output.ceiling
