"""How much of a commitment may go to miners: its fee, and HTLCs too small for an output (BOLT 3, "Fees", "Trimmed
Outputs"; BOLT 2, "Bounding exposure to trimmed in-flight HTLCs: `max_dust_htlc_exposure_msat`").

Nothing here is needed for a lawful commitment. These are bounds of ours: whoever can choose a feerate and small
HTLCs for us could burn our balance. The node keeps them before it proposes, the signer before it signs.
"""

from protocol.amounts import Sat
from protocol.bolt3.content import CommitmentContent
from protocol.bolt3.fees import anchors_cost, commit_fee, trim_limits
from protocol.bolt3.params import CommitmentParams, Side

LEAST_FEE_LIMIT = Sat(50_000)
FEE_SHARE = 10
"""What we pay as the opener is bounded by LEAST_FEE_LIMIT or by a tenth of the capacity, whichever is more."""
LEAST_TRIMMED_LIMIT = Sat(100_000)
TRIMMED_SHARE = 10
"""Our own HTLCs without an output: bounded in any channel, in the same way. Without anchors a feerate of 45,000
sat/kw trims all below 30,000 sat, so a smaller bound would stop small payments when fees are high."""


def commitment_fee_limit(capacity: Sat) -> Sat:
    """The most that one commitment may cost us when we opened the channel."""
    return Sat(max(LEAST_FEE_LIMIT, capacity // FEE_SHARE))


def trimmed_limit(capacity: Sat) -> Sat:
    """The most that our offered HTLCs without an output may come to in one commitment."""
    return Sat(max(LEAST_TRIMMED_LIMIT, capacity // TRIMMED_SHARE))


def at_risk(params: CommitmentParams, owner: Side, content: CommitmentContent) -> tuple[Sat, Sat]:
    """Base fee with the anchors, and the sum of the holder's trimmed HTLCs, in the commitment of `owner`.

    Trimmed HTLCs of the peer are its own loss, and it may add them as it likes: they are not counted, else it could
    bring us to refuse its commitment.
    """
    offered_limit, received_limit = trim_limits(
        params.of(owner).dust_limit, content.feerate_per_kw, params.anchors
    )
    by_holder = owner is Side.HOLDER
    untrimmed = trimmed_msat = 0
    for htlc in content.htlcs:
        if htlc.amount_msat >= (offered_limit if htlc.offered else received_limit):
            untrimmed += 1
        elif htlc.offered == by_holder:
            trimmed_msat += htlc.amount_msat
    fee = commit_fee(content.feerate_per_kw, untrimmed, params.anchors) + anchors_cost(params.anchors)
    return Sat(fee), Sat(-(-trimmed_msat // 1000))
