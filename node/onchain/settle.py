"""How HTLCs and outputs end for good (BOLT 5, "HTLC Output Handling", "General Nomenclature"; checklist 44, 46, 51)."""

from node.onchain.state import FINAL_DEPTH, HtlcFact, Kind, Outcome, Output, Role, State
from protocol.amounts import BlockHeight

HTLC_ROLES = (
    Role.OUR_OFFERED,
    Role.OUR_RECEIVED,
    Role.THEIR_OFFERED,
    Role.THEIR_RECEIVED,
    Role.REVOKED_HTLC,
)


def is_deep(at: BlockHeight | None, height: BlockHeight, depth: int = FINAL_DEPTH) -> bool:
    return at is not None and height - at + 1 >= depth


def is_understood(state: State) -> bool:
    """Whether the outputs are known: those of a revoked commitment wait for the peer's point, those of one of ours that
    we do not remember for our own."""
    return state.facts.kind not in (Kind.REVOKED, Kind.OURS_LOST) or state.facts.point is not None


def outcome_of(state: State, htlc: HtlcFact, height: BlockHeight) -> Outcome | None:
    """None while it can still end in two ways."""
    output = next((o for o in state.outputs if o.htlc == htlc.key and o.role in HTLC_ROLES), None)
    return _offered(state, htlc, output, height) if htlc.offered else _received(state, htlc, output, height)


def _offered(state: State, htlc: HtlcFact, output: Output | None, height: BlockHeight) -> Outcome | None:
    """A preimage counts at once, wherever it came from; a failure only when no reorganisation can undo it."""
    paid = Outcome(True, htlc.id, True, htlc.preimage)
    failed = Outcome(True, htlc.id, False)
    if htlc.preimage:
        return paid
    if output is None:
        # BOLT 5: at once if no valid commitment has an output for it, else when this commitment is deep.
        gone = state.height is not None and not htlc.elsewhere
        return failed if gone or is_deep(state.height, height) else None
    if output.spent is not None:
        if output.spent.preimage is not None:
            return Outcome(True, htlc.id, True, output.spent.preimage)
        return failed if is_deep(output.spent.height, height) else None
    if output.given_up and height >= htlc.cltv_expiry + FINAL_DEPTH:
        return failed
    return None


def _received(state: State, htlc: HtlcFact, output: Output | None, height: BlockHeight) -> Outcome | None:
    lost = Outcome(False, htlc.id, False)
    if output is None:
        if not is_deep(state.height, height):
            return None
        # Removed before as fulfilled: the balance holds it already.
        return Outcome(False, htlc.id, True, htlc.preimage) if htlc.credited else lost
    if output.spent is not None:
        if not is_deep(output.spent.height, height):
            return None
        preimage = output.spent.preimage
        return lost if preimage is None and not htlc.credited else Outcome(False, htlc.id, True, preimage)
    expired = height >= htlc.cltv_expiry
    return lost if expired and (output.given_up or _is_left(output, htlc, height)) else None


def _is_left(output: Output, htlc: HtlcFact | None, height: BlockHeight) -> bool:
    """BOLT 5: a received HTLC that we do not claim is resolved once it expired; the peer takes it when it likes."""
    return (
        output.role in (Role.OUR_RECEIVED, Role.THEIR_OFFERED)
        and htlc is not None
        and not htlc.claim
        and height >= htlc.cltv_expiry
    )


def is_resolved(state: State, height: BlockHeight, depth: int) -> bool:
    """Every output is spent and so deep, or left for a reason; and everybody who waited was told."""
    if not is_deep(state.height, height, depth) or not is_understood(state):
        return False
    htlcs = {htlc.key: htlc for htlc in state.facts.htlcs}
    for output in state.outputs:
        if output.role is Role.ANCHOR:
            continue
        deep = output.spent is not None and is_deep(output.spent.height, height, depth)
        htlc = htlcs.get(output.htlc) if output.htlc else None
        if not deep and not output.given_up and not _is_left(output, htlc, height):
            return False
    told = {outcome.key for outcome in state.told}
    return all(htlc.key in told for htlc in state.facts.htlcs if htlc.live)
