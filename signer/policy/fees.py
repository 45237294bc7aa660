"""What a commitment may burn: a stolen node chooses feerates and small HTLCs, and a miner may be its friend (BOLT 3,
"Fees", "Trimmed Outputs"). The numbers stand in `protocol.bolt3.exposure`, where the node keeps them first."""

from protocol.bolt3.commitment import CommitmentContent, CommitmentParams, Side
from protocol.bolt3.exposure import at_risk, commitment_fee_limit, trimmed_limit
from signer.refusal import Denied


def commitment_burn(params: CommitmentParams, side: Side, content: CommitmentContent) -> None:
    """`commitment-fee` and `dust-exposure`: what our commitments cost us is bounded."""
    fee, trimmed = at_risk(params, side, content)
    if params.opener_is_holder and fee + trimmed > commitment_fee_limit(params.capacity):
        raise Denied(
            "commitment-fee",
            "a channel that we opened pays a bounded fee for its commitment, our trimmed HTLCs among it",
            seen=f"{fee} sat and {trimmed} sat of trimmed HTLCs at {content.feerate_per_kw} sat/kw",
            limit=f"{commitment_fee_limit(params.capacity)} sat",
            next_step="Use a lower feerate, offer less, or have fewer HTLCs in flight in this channel.",
        )
    if trimmed > trimmed_limit(params.capacity):
        raise Denied(
            "dust-exposure",
            "HTLCs of ours that get no output go to the miner when the channel closes, so their sum is bounded",
            seen=f"{trimmed} sat at {content.feerate_per_kw} sat/kw",
            limit=f"{trimmed_limit(params.capacity)} sat",
            next_step="Wait until small payments settle; if the peer raised the feerate, fail the channel.",
        )
