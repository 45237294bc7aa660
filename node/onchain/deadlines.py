"""When an HTLC forces a channel onto the chain, and until when its output must be spent (BOLT 2, "`cltv_expiry_delta`
Selection"; BOLT 5, "HTLC Output Handling"; checklist 43).

With R blocks of reorganisation (2), G of grace (2) and S until a transaction confirms (12), a received HTLC whose
preimage was released must be claimed on chain 2R + G + S = 18 blocks before it expires.
"""

from collections.abc import Iterable

from msgspec import Struct

from node.onchain.state import HtlcFact, Output, Role
from protocol.amounts import BlockHeight
from protocol.bolt3.commitment import CommitmentParams

OFFERED_GRACE = 2
"""Blocks after the expiry of an HTLC that we offered, in which the peer may still fail it in peace."""
CLAIM_BEFORE = 18
TIMEOUT_WITHIN = 18
"""An HTLC that we offered is taken back within so many blocks after its expiry: the payer's own HTLC expires later."""


class Running(Struct, frozen=True):
    """An HTLC that stands in a commitment. `released`: we gave out the preimage of this received one."""

    offered: bool
    id: int
    cltv_expiry: int
    released: bool = False


def must_close(running: Iterable[Running], height: BlockHeight) -> str | None:
    """Why this channel has to go on chain now; None while all is well. Whether the peer is there does not matter."""
    for htlc in running:
        if htlc.offered and height >= htlc.cltv_expiry + OFFERED_GRACE:
            return (
                f"the HTLC {htlc.id} that we offered expired at block {htlc.cltv_expiry} and the peer has"
                f" not failed it by block {height}"
            )
        if htlc.released and not htlc.offered and height >= htlc.cltv_expiry - CLAIM_BEFORE:
            return (
                f"the HTLC {htlc.id} that we fulfilled expires at block {htlc.cltv_expiry} and the peer has"
                f" not credited it by block {height}"
            )
    return None


def closes_at(running: Iterable[Running]) -> BlockHeight | None:
    """The block at which `must_close` will speak, if nothing changes: for warnings before the deadline."""
    due = [h.cltv_expiry + OFFERED_GRACE for h in running if h.offered]
    due += [h.cltv_expiry - CLAIM_BEFORE for h in running if h.released and not h.offered]
    return BlockHeight(min(due)) if due else None


def first_block(output: Output, htlc: HtlcFact | None, params: CommitmentParams) -> int | None:
    """The height of the tip from which our spend of this output is final for the next block; None: not by time."""
    if output.height is None:
        return None
    match output.role:
        case Role.TO_LOCAL | Role.SECOND_STAGE:
            return output.height + params.holder.to_self_delay - 1
        case Role.OUR_OFFERED | Role.THEIR_RECEIVED:
            return None if htlc is None else max(htlc.cltv_expiry, output.height)
        case Role.OUR_RECEIVED | Role.THEIR_OFFERED:
            return output.height if htlc is not None and htlc.claim else None
        case Role.LOST_HTLC:
            return None
        case _:
            return output.height


def last_block(output: Output, htlc: HtlcFact | None, params: CommitmentParams) -> int | None:
    """Until when our spend should be confirmed; None: nobody else can spend it."""
    match output.role:
        case Role.OUR_RECEIVED | Role.THEIR_OFFERED:
            return None if htlc is None else htlc.cltv_expiry
        case Role.OUR_OFFERED | Role.THEIR_RECEIVED:
            return None if htlc is None else htlc.cltv_expiry + TIMEOUT_WITHIN
        case Role.REVOKED_TO_LOCAL | Role.REVOKED_HTLC | Role.REVOKED_SECOND_STAGE:
            return None if output.height is None else output.height + params.counterparty.to_self_delay
        case _:
            return None
