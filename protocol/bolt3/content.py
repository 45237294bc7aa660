"""What one commitment pays to whom, and the rules that it must keep (BOLT 2, "Adding an HTLC"; BOLT 3, "Fee
Payment")."""

import msgspec

from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bolt3.fees import anchors_cost, commit_fee, trim_limits
from protocol.bolt3.params import CommitmentParams, Side
from protocol.errors import PeerViolation

MAX_ACCEPTED_HTLCS = 483
"""Each side accepts at most so many, so a commitment has at most twice as many."""
LOCKTIME_THRESHOLD = 500_000_000
"""From here on a locktime is a time and no height."""
MAX_COMMITMENT_NUMBER = (1 << 48) - 2
_ADDING = 'BOLT 2, "Adding an HTLC"'
_CONSTRUCTION = 'BOLT 3, "Commitment Transaction Construction"'
_FEE_PAYMENT = 'BOLT 3, "Fee Payment"'


class CommitmentHtlc(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """`offered`: by the owner of the commitment."""

    offered: bool
    id: int
    amount_msat: Msat
    payment_hash: bytes
    cltv_expiry: int


class CommitmentContent(msgspec.Struct, frozen=True):
    """Balances are gross: HTLCs are already taken off, the commitment fee and the anchors are not."""

    number: int
    feerate_per_kw: FeeratePerKw
    to_owner_msat: Msat
    to_other_msat: Msat
    htlcs: tuple[CommitmentHtlc, ...] = ()

    def to_side(self, owner: Side, side: Side) -> Msat:
        """The balance of `side` in a commitment of `owner`."""
        return self.to_owner_msat if side is owner else self.to_other_msat


def untrimmed_count(params: CommitmentParams, owner: Side, content: CommitmentContent) -> int:
    offered_limit, received_limit = trim_limits(
        params.of(owner).dust_limit, content.feerate_per_kw, params.anchors
    )
    count = 0
    for htlc in content.htlcs:
        if htlc.amount_msat >= (offered_limit if htlc.offered else received_limit):
            count += 1
    return count


def fee_and_anchors(params: CommitmentParams, owner: Side, content: CommitmentContent) -> tuple[Sat, Sat]:
    """The base fee and the cost of the anchors, both due from the opener."""
    untrimmed = untrimmed_count(params, owner, content)
    return commit_fee(content.feerate_per_kw, untrimmed, params.anchors), anchors_cost(params.anchors)


def affords(params: CommitmentParams, owner: Side, content: CommitmentContent) -> bool:
    """Whether the opener can pay fee and anchors in full."""
    fee, anchors = fee_and_anchors(params, owner, content)
    return content.to_side(owner, params.opener) >= 1000 * (fee + anchors)


def validate_content(params: CommitmentParams, owner: Side, content: CommitmentContent) -> None:
    """Raises PeerViolation unless this content may stand in a commitment of `owner`.

    Reserves, limits in flight and exposure to dust are rules of the channel, not of a commitment.
    """
    if not 0 <= content.number <= MAX_COMMITMENT_NUMBER:
        raise PeerViolation(f"there is no commitment {content.number}", clause=_CONSTRUCTION)
    if not 0 <= content.feerate_per_kw < 1 << 32:
        raise PeerViolation(f"a feerate of {content.feerate_per_kw} is out of range", clause=_CONSTRUCTION)
    if content.to_owner_msat < 0 or content.to_other_msat < 0:
        raise PeerViolation("a balance is below zero", clause=_ADDING)
    total = content.to_owner_msat + content.to_other_msat + _checked_htlcs(content)
    if total != 1000 * params.capacity:
        raise PeerViolation(
            f"the commitment shares out {total} msat of {1000 * params.capacity}", clause=_CONSTRUCTION
        )
    if not affords(params, owner, content):
        fee, anchors = fee_and_anchors(params, owner, content)
        has = content.to_side(owner, params.opener)
        raise PeerViolation(
            f"the opener has {has} msat and owes {fee} sat of fee and {anchors} sat of anchors",
            clause=_FEE_PAYMENT,
        )


def _checked_htlcs(content: CommitmentContent) -> int:
    """The sum of the HTLCs, each of which is checked by itself."""
    total = 0
    offered: set[int] = set()
    received: set[int] = set()
    for htlc in content.htlcs:
        if htlc.amount_msat <= 0:
            raise PeerViolation(f"HTLC {htlc.id} has an amount of {htlc.amount_msat} msat", clause=_ADDING)
        if not 0 <= htlc.cltv_expiry < LOCKTIME_THRESHOLD:
            raise PeerViolation(f"HTLC {htlc.id} expires at {htlc.cltv_expiry}, not a height", clause=_ADDING)
        if len(htlc.payment_hash) != 32:
            raise PeerViolation(f"the payment hash of HTLC {htlc.id} has not 32 bytes", clause=_ADDING)
        (offered if htlc.offered else received).add(htlc.id)
        total += htlc.amount_msat
    if len(offered) + len(received) != len(content.htlcs):
        raise PeerViolation("two HTLCs of one direction have the same id", clause=_ADDING)
    if max(len(offered), len(received)) > MAX_ACCEPTED_HTLCS:
        raise PeerViolation(f"more than {MAX_ACCEPTED_HTLCS} HTLCs in one direction", clause=_ADDING)
    return total
