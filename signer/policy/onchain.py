"""What may be signed once a channel is on chain: claims, penalties, second stages (BOLT 5).

All of it pays the cold branch, or our own delayed output, so a stolen node can win nothing for itself. What is left
to guard: a key must not sign for a state that could still be revoked, a preimage of ours must not leave for less than
it is worth, and fees must not eat the money. Mechanism: no rule here has a switch.
"""

from collections.abc import Sequence

from protocol.amounts import Sat
from protocol.bolt3 import shachain
from protocol.bus.messages.signer import MAX_CLOSING_FEE, MAX_CLOSING_FEE_SHARE, SignAnchor, SignSecondStage
from protocol.bus.messages.signer_onchain import MAX_PENALTY_FEERATES
from protocol.errors import PeerViolation
from protocol.hashes import sha256
from protocol.secret import Secret
from signer.channel_state import ChannelState
from signer.refusal import Denied

HOT_BRANCHES = (0, 1, 3)
PENALTY_FEE_SHARE = 2
"""A penalty may burn half of what it takes: the other half is the cheat's too."""


def fee_limit(moved: Sat, outputs: int, *, penalty: bool) -> Sat:
    """The most that one transaction pays the miners for moving so many outputs."""
    share = PENALTY_FEE_SHARE if penalty else MAX_CLOSING_FEE_SHARE
    return Sat(min(MAX_CLOSING_FEE * outputs, moved // share))


def onchain_fee(fee: int, limit: Sat) -> None:
    """`close-fee`: a fee that eats the money is a theft by miners, or for them."""
    if not 0 <= fee <= limit:
        raise Denied(
            "close-fee",
            "the fee of a closing transaction or a sweep is bounded",
            seen=f"{fee} sat",
            limit=f"0 to {limit} sat",
            next_step="Ask for a lower fee.",
        )


def claim_number(state: ChannelState, number: int) -> bytes:
    """`claim-number`: the key of an HTLC signs at the point of a commitment that we gave the peer, and no other."""
    point = state.points.get(number)
    if number not in state.counterparty or point is None:
        raise Denied(
            "claim-number",
            "an HTLC is claimed from a commitment of the peer that we signed and that it did not revoke",
            seen=f"commitment {number}, and {state.counterparty_revoked} are revoked",
            limit=f"one of {sorted(state.counterparty)}",
            next_step="Name the commitment that is in the chain; a revoked one is punished, not claimed.",
        )
    return point


def penalty_secret(state: ChannelState, number: int) -> Secret:
    """`penalty-number`: a penalty needs the secret with which the peer revoked."""
    index = shachain.FIRST_INDEX - number
    secret = state.secrets.secret(index) if 0 < index <= shachain.FIRST_INDEX else None
    if secret is None:
        raise Denied(
            "penalty-number",
            "a penalty spends outputs of a commitment that the peer revoked",
            seen=f"commitment {number}; {state.counterparty_revoked} are revoked",
            limit=f"0 to {state.counterparty_revoked - 1}",
            next_step="Hand over the peer's revocation first; an unrevoked commitment is no offence.",
        )
    return secret


def penalty_feerates(feerates: Sequence[int]) -> None:
    """`penalty-feerates`: a few to choose from when the fees of that day are known."""
    if not 0 < len(feerates) <= MAX_PENALTY_FEERATES or min(feerates) <= 0:
        raise Denied(
            "penalty-feerates",
            "penalties are signed beforehand at a few feerates above zero",
            seen=f"{len(feerates)} feerates",
            limit=f"1 to {MAX_PENALTY_FEERATES}",
            next_step="Choose feerates that lie wider apart.",
        )


def content_impossible(error: PeerViolation) -> Denied:
    """`content`: no commitment of this channel can have it."""
    return Denied(
        "content",
        "a commitment shares out exactly the capacity, in possible amounts, and its fee can be paid",
        seen=error.sentence,
        limit=error.clause,
        next_step="If the peer asked for this, fail the channel; else it is an error of the node.",
    )


def has_htlc(known: bool) -> None:
    """`claim-htlc`: the HTLC named must stand in that commitment, with these terms."""
    if not known:
        raise Denied(
            "claim-htlc",
            "the HTLC behind an output stands in the commitment named, with the terms named",
            seen="an HTLC that this commitment has not",
            limit="an HTLC with an output in this commitment",
            next_step="Look up which commitment is in the chain, and the HTLC's direction, id and terms.",
        )


def preimage_fits(preimage: bytes, payment_hash: bytes) -> None:
    """`claim-preimage`: the evidence must be one."""
    if sha256(preimage) != payment_hash:
        raise Denied(
            "claim-preimage",
            "a preimage hashes to the payment hash of its HTLC",
            seen="32 bytes that hash to something else",
            limit="the preimage of this HTLC",
            next_step="Take the preimage that came from the next hop.",
        )


def stage_together(request: SignSecondStage, locktimes: Sequence[int], *, anchors: bool) -> None:
    """`stage-together`: what may share a second stage, since the peer signed each of them in its own terms."""
    unique = {(htlc.offered, htlc.id) for htlc in request.htlcs}
    alone = len(request.htlcs) == 1 and not request.coins and request.change is None
    together = len(unique) == len(request.htlcs) >= 1 and len(set(locktimes)) == 1
    if not (together and (anchors or alone)):
        raise Denied(
            "stage-together",
            "HTLCs of one lock time share a second stage, and only with anchors; without, one stands alone",
            seen=f"{len(request.htlcs)} HTLCs of lock times {sorted(set(locktimes))}, {len(request.coins)} coins",
            limit="one lock time; without anchors one HTLC and no coin",
            next_step="Ask for each of them in a request of its own.",
        )


def has_anchor(known: bool) -> None:
    """`anchor`: ours, on the commitment that we published, or on the peer's."""
    if not known:
        raise Denied(
            "anchor",
            "our anchor is spent on the commitment that we force-closed with, or on one of the peer's that we signed",
            seen="a commitment without an anchor of ours, or a content that was never signed",
            limit="a channel with anchors, in which we have an output or an HTLC",
            next_step="Wait for the commitment to confirm by its own fee.",
        )


def fee_coins(request: SignSecondStage | SignAnchor, paid: Sat, fee: Sat) -> None:
    """`fee-coins`: coins come from branch 0, 1 or the reserve, each once, and reach the fee."""
    outpoints = {(coin.txid, coin.index) for coin in request.coins}
    places = [(coin.branch, coin.position) for coin in request.coins]
    if request.change is not None:
        places.append(request.change)
    lawful = all(branch in HOT_BRANCHES and 0 <= position < 1 << 31 for branch, position in places)
    if not lawful or len(outpoints) != len(request.coins) or paid < fee:
        raise Denied(
            "fee-coins",
            "the fee of an HTLC transaction or an anchor is paid by coins of branch 0, 1 or 3, each of them once",
            seen=f"{len(request.coins)} coins with {paid} sat for a fee of {fee} sat",
            limit="different coins of branches 0, 1 and 3 that reach the fee",
            next_step="Add another coin of the reserve or the wallet, or ask for a lower feerate.",
        )
