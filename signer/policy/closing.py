"""Where a channel's money may go when it ends, and at what fee (DESIGN, "Closing is one-way" and "Hot can only pay
cold")."""

from collections.abc import Collection

from protocol.amounts import Sat, floor_sat
from protocol.bolt3.commitment import Side
from protocol.bolt3.content import MAX_COMMITMENT_NUMBER
from signer.channel_state import ChannelState, HtlcKey, Version, key_of
from signer.policy.backup import STALE
from signer.policy.onchain import fee_limit, onchain_fee
from signer.refusal import Denied


def close_without_htlcs(state: ChannelState, passed_on: Collection[HtlcKey]) -> None:
    """`close-htlcs`: an HTLC that can still be claimed has no place in a mutual close.

    One that only commitments of ours hold, received, never released and not `passed_on`, is not counted: it is the
    peer's, who alone cannot publish them. A crash between signer and node leaves such a version behind, when the peer
    then offers something else or nothing; nobody would ever revoke it.
    """
    count = max(
        (_claimable(state, side, version, passed_on) for side, version in state.all_versions()), default=0
    )
    if count or state.holder_validated < 0 or state.counterparty_signed < 0:
        raise Denied(
            "close-htlcs",
            "a mutual close needs commitments of both sides, none of which has an HTLC",
            seen=f"{count} HTLCs in an unrevoked commitment",
            limit="0",
            next_step="Wait until every HTLC is removed and the commitments before are revoked, or force close.",
        )


def _claimable(state: ChannelState, side: Side, version: Version, passed_on: Collection[HtlcKey]) -> int:
    if side is Side.COUNTERPARTY or not version.content.htlcs:
        return len(version.content.htlcs)
    theirs = {
        key_of(htlc) for versions in state.counterparty.values() for v in versions for htlc in v.content.htlcs
    }
    return sum(
        htlc.offered or any(key_of(htlc) in known for known in (state.released, passed_on, theirs))
        for htlc in version.content.htlcs
    )


def close_amounts(state: ChannelState, capacity: Sat, to_holder: Sat, to_counterparty: Sat) -> None:
    """`close-amounts`: the close shares out the capacity and gives us at least our lowest balance."""
    total = to_holder + to_counterparty
    # Both balances are rounded down, so one satoshi may go to the fee.
    if to_counterparty < 0 or not capacity - 1 <= total <= capacity:
        raise Denied(
            "close-amounts",
            "a mutual close shares out the whole capacity, before the fee",
            seen=f"{to_holder} and {to_counterparty} sat",
            limit=f"{capacity} sat together",
            next_step="Take the balances of the last commitment.",
        )
    balances = [version.content.to_side(side, Side.HOLDER) for side, version in state.all_versions()]
    lowest = floor_sat(min(balances))
    if to_holder < lowest:
        raise Denied(
            "close-amounts",
            "a mutual close pays at least our lowest balance in an unrevoked commitment",
            seen=f"{to_holder} sat",
            limit=f"{lowest} sat",
            next_step="Take the balances of the last commitment.",
        )


def close_fee(fee: Sat, moved: Sat) -> None:
    """`close-fee` of a mutual close."""
    onchain_fee(fee, fee_limit(moved, 1, penalty=False))


def close_output(paid: bool, amount: Sat, limit: Sat) -> None:
    """`close-output`: our output is left out only where the network would not take it."""
    if not paid and amount >= limit:
        raise Denied(
            "close-output",
            "a closing transaction pays us, unless our output would be dust",
            seen=f"{amount} sat of ours left out",
            limit=f"below {limit} sat",
            next_step="Sign the form of the closing transaction that has our output.",
        )


def close_form(variant: int) -> None:
    """`close-form`: the outputs are those of one of the three forms."""
    if variant not in (1, 2, 3):
        raise Denied(
            "close-form",
            "a closing transaction has the closer's output, the closee's, or both",
            seen=f"form {variant}",
            limit="1, 2 or 3",
            next_step="Name the type of the TLV field that the signature goes into.",
        )


def cold_script(known: bool) -> None:
    """`cold-script`: what leaves a channel goes to an address that the signer itself drew from the cold branch."""
    if not known:
        raise Denied(
            "cold-script",
            "a channel closes to a script that the signer drew from the cold branch",
            seen="a script that the signer never gave out",
            limit="the channel's shutdown script",
            next_step="Use the shutdown script that came with the channel's keys.",
        )


def swept_number(frozen: str, number: int, newest: int) -> None:
    """`sweep-number`: our own delayed output comes only of the commitment that was signed for publication."""
    if frozen != "force_close" or number != newest:
        raise Denied(
            "sweep-number",
            "our delayed output is swept from the commitment that we force-closed with",
            seen=f"commitment {number}",
            limit=f"commitment {newest}, after its force close",
            next_step="Force close first, and name the number that the answer gave.",
        )


def delayed_number(frozen: str, number: int, newest: int) -> None:
    """The same of a channel that may be stale for every number: whichever commitment of ours is in the chain, this
    signer will not revoke it, and the money goes to cold."""
    if frozen != STALE or not 0 <= number <= MAX_COMMITMENT_NUMBER:
        swept_number(frozen, number, newest)


def swept_output(known: bool) -> None:
    """`sweep-output`: the output named must be the one that this commitment has."""
    if not known:
        raise Denied(
            "sweep-output",
            "a swept output is one of this channel's, with its true value",
            seen="an output that the commitment has not",
            limit="outputs of this channel",
            next_step="Look up the transaction, index and value of the output on the chain.",
        )
