"""Our transactions that spend outputs: which go together, what is asked of the signer, at which feerate (BOLT 5;
checklist 50, 52)."""

from collections.abc import Iterable, Sequence

from node.onchain.budget import PENALTIES, STAGED, climb, top_rate, weight_of
from node.onchain.deadlines import TIMEOUT_WITHIN, last_block
from node.onchain.events import Env
from node.onchain.state import Claim, Facts, HtlcFact, HtlcKey, Kind, Output, Role
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw, Sat
from protocol.bolt3.fees import fee_of_weight
from protocol.bus.messages.signer import (
    SignAnchor,
    SignSecondStage,
    SignSweep,
    StagedHtlc,
    SweepInput,
    SweptHtlc,
)

RELAXED = (Role.TO_LOCAL, Role.SECOND_STAGE, Role.TO_REMOTE)
URGENT_BLOCKS = 6
SECURITY_DELAY = 18
"""So many blocks before the peer could spend, each revoked output gets a penalty of its own: one of them may be
pinned, and must not hold up the rest (BOLT 5, "Revoked Transaction Close Handling")."""
BEFORE_ITS_HTLCS = 6
"""So many blocks before an HTLC is due the commitment should be in the chain, so that its claim has time as well."""
SMALLEST_COINS = Sat(2_000)

Htlcs = dict[HtlcKey, HtlcFact]


def blocks_left(outputs: Iterable[Output], htlcs: Htlcs, facts: Facts, env: Env) -> int | None:
    outputs = list(outputs)
    if all(output.role is Role.ANCHOR for output in outputs):
        return _until_first_htlc(htlcs, env)
    last = [last_block(o, htlcs.get(o.htlc) if o.htlc else None, facts.params) for o in outputs]
    known = [block for block in last if block is not None]
    return min(known) - env.height if known else None


def _until_first_htlc(htlcs: Htlcs, env: Env) -> int | None:
    due = [
        h.cltv_expiry + (TIMEOUT_WITHIN if h.offered else 0)
        for h in htlcs.values()
        if h.present and (h.offered or h.claim)
    ]
    return min(due) - BEFORE_ITS_HTLCS - env.height if due else None


def groups(
    due: Sequence[Output], htlcs: Htlcs, facts: Facts, env: Env
) -> list[tuple[tuple[bytes, int], ...]]:
    """Outputs that share a transaction: those that nobody else wants; penalties while there is time; second stages
    with anchors of one lock time, so that one coin can pay for all. Claims that the peer races for stand alone, and
    so does what parted from a transaction that was not taken or not signed, and what others would hold back."""
    together: dict[tuple[object, ...], list[Output]] = {}
    for output in due:
        htlc = htlcs.get(output.htlc) if output.htlc else None
        key: tuple[object, ...] = output.at
        if output.alone:
            pass
        elif output.role in RELAXED:
            key = ("relaxed",)
        elif output.role in PENALTIES:
            left = blocks_left((output,), htlcs, facts, env)
            key = output.at if left is not None and left <= SECURITY_DELAY else ("penalty",)
        elif output.role in STAGED and facts.params.anchors and htlc is not None:
            key = (output.role, htlc.cltv_expiry if htlc.offered else 0)
        together.setdefault(key, []).append(output)
    parts = [part for members in together.values() for part in parted(members, htlcs, facts, env)]
    return [tuple(output.at for output in part) for part in parts]


def parted(outputs: list[Output], htlcs: Htlcs, facts: Facts, env: Env) -> list[list[Output]]:
    """Those that could pay what miners ask now go without those that would hold them back: the peer can put many
    small HTLCs beside a large one."""
    asked = env.slow if outputs[0].role in RELAXED else env.fast
    top = top_rate(outputs, htlcs, facts)
    if len(outputs) < 2 or top is None or top >= asked:
        return [outputs]
    able = [output for output in outputs if (top_rate((output,), htlcs, facts) or 0) >= asked]
    rest = [output for output in outputs if output not in able]
    return [part for part in (able, rest) if part]


def wanted_rate(
    outputs: Sequence[Output], htlcs: Htlcs, facts: Facts, env: Env, coins: int = 1
) -> FeeratePerKw:
    """By what is at stake and how soon: the market's, then a climb to the ceiling of these outputs."""
    left = blocks_left(outputs, htlcs, facts, env)
    top = top_rate(outputs, htlcs, facts, coins)
    if left is None:
        rate = env.slow if top is None else min(env.slow, top)
    else:
        rate = climb(env.fast if left <= URGENT_BLOCKS else env.normal, top, left)
    return FeeratePerKw(max(FEERATE_FLOOR, rate))


def next_rate(claim: Claim, outputs: Sequence[Output], htlcs: Htlcs, facts: Facts, env: Env) -> FeeratePerKw:
    """The feerate for a claim now. A replacement must pay noticeably more (BIP 125, rules 3 and 4); near the deadline,
    and while something else is in the way, each block raises it by a quarter at least. Never above the ceiling of
    its outputs, nor what the signer allows."""
    coins = len(claim.coins) or 1
    rate = wanted_rate(outputs, htlcs, facts, env, coins)
    left = blocks_left(outputs, htlcs, facts, env)
    old = claim.tx_feerate
    if claim.tx is not None and (claim.refused or (left is not None and left <= URGENT_BLOCKS)):
        rate = max(rate, raised(old))
    for bound in (top_rate(outputs, htlcs, facts, coins), claim.limit):
        rate = rate if bound is None else min(rate, bound)
    return old if claim.tx is not None and rate < raised(old) else FeeratePerKw(rate)


def raised(old: FeeratePerKw) -> FeeratePerKw:
    return FeeratePerKw(max(old * 5 // 4, old + 260))


def needs_coins(outputs: Sequence[Output], facts: Facts) -> bool:
    """With anchors a second stage pays no fee of its own."""
    return outputs[0].role is Role.ANCHOR or (facts.params.anchors and outputs[0].role in STAGED)


def coins_for(outputs: Sequence[Output], htlcs: Htlcs, facts: Facts, rate: FeeratePerKw) -> Sat:
    """Enough for the fee at four times the feerate, so that a replacement finds room."""
    return Sat(max(SMALLEST_COINS, 4 * fee_of_weight(weight_of(outputs, htlcs, facts, 1), rate)))


def request(
    claim: Claim, outputs: Sequence[Output], htlcs: Htlcs, facts: Facts
) -> SignSweep | SignSecondStage | SignAnchor:
    if outputs[0].role is Role.ANCHOR:
        change = claim.change or (1, 0)
        theirs = facts.kind is not Kind.OURS
        return SignAnchor(facts.handle, facts.number, claim.coins, change, claim.feerate_per_kw, theirs)
    if outputs[0].role in STAGED:
        staged = []
        for output in outputs:
            assert output.htlc is not None  # noqa: S101 - an output of an HTLC role names it
            htlc = htlcs[output.htlc]
            preimage = None if htlc.offered else htlc.preimage
            staged.append(StagedHtlc(htlc.offered, htlc.id, preimage, htlc.others))
        rate = claim.feerate_per_kw if claim.coins else FeeratePerKw(0)
        return SignSecondStage(facts.handle, facts.number, tuple(staged), claim.coins, claim.change, rate)
    inputs = tuple(_input(output, htlcs, facts) for output in outputs)
    return SignSweep(facts.handle, inputs, claim.feerate_per_kw)


def _input(output: Output, htlcs: Htlcs, facts: Facts) -> SweepInput:
    swept: SweptHtlc | None = None
    if output.htlc is not None and output.role in (
        Role.THEIR_OFFERED,
        Role.THEIR_RECEIVED,
        Role.REVOKED_HTLC,
    ):
        htlc = htlcs[output.htlc]
        preimage = htlc.preimage if output.role is Role.THEIR_OFFERED else None
        others = htlc.others if output.role is Role.THEIR_OFFERED else ()
        swept = SweptHtlc(
            htlc.offered, htlc.id, htlc.payment_hash, htlc.cltv_expiry, preimage or None, others
        )
    return SweepInput(output.role.value, output.txid, output.index, output.value, facts.number, swept)
