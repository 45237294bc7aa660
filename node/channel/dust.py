"""How much may stand in HTLCs too small for an output: it goes to miners if the channel ends now (BOLT 2, "Bounding
exposure to trimmed in-flight HTLCs"; checklist 21)."""

from node.channel.content import feerate
from node.channel.state import Committed, Htlc, Htlcs, Params
from protocol.amounts import FeeratePerKw, Msat, Sat, to_msat
from protocol.bolt3.commitment import Side
from protocol.bolt3.fees import is_trimmed, trim_limits

PER_FEERATE = 10
"""Sat for each sat/kw: without anchors a higher feerate trims larger HTLCs, and what is usual in them grows with it."""


def bound(most: Sat, rate: FeeratePerKw, *, anchors: bool) -> Msat:
    return to_msat(most if anchors else Sat(max(most, PER_FEERATE * rate)))


def current_rate(committed: Committed) -> FeeratePerKw:
    """The higher one of both commitments, and of what was proposed for the next."""
    return max(
        feerate(committed, Side.HOLDER, committed.local_number),
        feerate(committed, Side.COUNTERPARTY, committed.remote_number),
        committed.fees[-1].feerate_per_kw,
    )


def trimmed(params: Params, rate: FeeratePerKw, *, offered: bool, amount_msat: Msat) -> tuple[bool, bool]:
    """Whether an HTLC has no output in our commitment, and in the peer's."""
    return (
        is_trimmed(offered, amount_msat, params.holder.dust_limit, rate, params.anchors),
        is_trimmed(not offered, amount_msat, params.counterparty.dust_limit, rate, params.anchors),
    )


def exposure(params: Params, htlcs: Htlcs, rate: FeeratePerKw) -> tuple[Msat, Msat]:
    """In our commitment and in the peer's, of every HTLC that lives on either side."""
    # An HTLC that we offer is an offered one of our commitment, and a received one of the peer's.
    sent_ours, came_ours = trim_limits(params.holder.dust_limit, rate, params.anchors)
    came_theirs, sent_theirs = trim_limits(params.counterparty.dust_limit, rate, params.anchors)
    ours = theirs = 0
    for row in htlcs.values():
        amount = row.amount_msat
        if amount < (sent_ours if row.offered else came_ours):
            ours += amount
        if amount < (sent_theirs if row.offered else came_theirs):
            theirs += amount
    return Msat(ours), Msat(theirs)


def exceeds(committed: Committed, htlcs: Htlcs, row: Htlc, most: Sat) -> bool:
    """Whether this HTLC, among these, is too small for an output and one too many of its kind."""
    params, rate = committed.params, current_rate(committed)
    in_ours, in_theirs = trimmed(params, rate, offered=row.offered, amount_msat=row.amount_msat)
    if not in_ours and not in_theirs:
        return False
    ours, theirs = exposure(params, htlcs, rate)
    limit = bound(most, rate, anchors=params.anchors)
    return (in_ours and ours > limit) or (in_theirs and theirs > limit)


def rate_exceeds(committed: Committed, htlcs: Htlcs, rate: FeeratePerKw, most: Sat) -> bool:
    """Whether a higher feerate would trim too much. With anchors it trims nothing more."""
    if committed.params.anchors or rate <= current_rate(committed):
        return False
    return max(exposure(committed.params, htlcs, rate)) > bound(most, rate, anchors=False)
