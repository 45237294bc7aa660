"""What the fee reserve must be able to pay (DESIGN, "The fee reserve"). Policy: the rule `fee-reserve` has a switch."""

from protocol import reserve
from protocol.amounts import Sat
from signer.refusal import Denied

ENFORCE = "enforce"
SHADOW = "shadow"
"""The rule speaks in the log and refuses nothing."""


def fee_reserve(needed: Sat, present: Sat, what: str) -> Denied:
    """`fee-reserve`: who takes on a channel with anchors, or an HTLC in one, must be able to pay for its end."""
    return Denied(
        "fee-reserve",
        "the fee reserve covers every channel with anchors and every HTLC in flight in them, "
        f"at {reserve.RESERVE_FEERATE} sat/kw",
        seen=f"{present} sat in the reserve for {what}",
        limit=f"at least {needed} sat",
        next_step=f"Send {needed - present} sat to the reserve address (branch 3 of the wallet) and wait for a "
        "confirmation, or use a channel without anchors.",
    )


def reserve_coin(proven: bool, index: int) -> None:
    """`reserve-coin`: a coin of the reserve is proven by the whole transaction that made it."""
    if not proven:
        raise Denied(
            "reserve-coin",
            "each coin of the reserve comes once, with its transaction, and pays to the place in branch 3 named",
            seen=f"coin {index}: unreadable, of another script, or named twice",
            limit="outputs to branch 3 of the wallet account",
            next_step="Take the transaction, index and place of the coin from the wallet.",
        )


def reserve_size(count: int, limit: int) -> None:
    """`reserve-size`: a reserve of dust pays no fees."""
    if count > limit:
        raise Denied(
            "reserve-size",
            "the reserve has a bounded number of coins",
            seen=f"{count} coins",
            limit=str(limit),
            next_step="Join small coins of the reserve into one.",
        )


def reserve_known(known: bool) -> None:
    """`reserve-coin`: a fee is paid by coins of the reserve whose amounts were proven."""
    if not known:
        raise Denied(
            "reserve-coin",
            "a coin of branch 3 pays a fee after it was noted in the reserve",
            seen="a coin that was never noted, or another value or place",
            limit="coins as they were noted",
            next_step="Note the coins of the reserve first.",
        )


def reserve_spent(lawful: bool, fee: int, limit: Sat) -> None:
    """`psbt-reserve`: the reserve pays fees of closes; what is too much goes back to cold, or stays."""
    if not lawful or not 0 <= fee <= limit:
        raise Denied(
            "psbt-reserve",
            "coins of the reserve move to the cold branch or within the reserve, at a bounded fee",
            seen=f"a fee of {fee} sat" if lawful else "an input or an output of somebody else",
            limit=f"inputs of this wallet, outputs to branches 2 and 3 that the PSBT names, a fee up to {limit} sat",
            next_step="Return the surplus to cold first, and spend it from there.",
        )
