"""Coins for the fee of an HTLC transaction with anchors, or of our child of a commitment (BOLT 5, "Generation of HTLC
Transactions"; DESIGN, "The fee reserve").

The wallet lends them: those of the fee reserve first, then its confirmed hot ones. They stay set aside under a purpose
of ours until the transaction that spends them is in a block, or we give them back.
"""

from node.onchain.events import CoinsFound
from node.onchain.state import Facts
from protocol.amounts import Sat
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import wallet
from protocol.bus.messages.signer import WalletCoin
from protocol.errors import CommandRefused


def purpose_of(facts: Facts, claim: int) -> str:
    return f"fees of channel {facts.channel_id.hex()} claim {claim}"


async def find_coins(bus: Bus, claim: int, purpose: str, value: Sat) -> CoinsFound:
    """Coins of `value` or, when the wallet has not so much, of a part of it; or why there are none."""
    try:
        # Those from before a crash may be for another feerate.
        await bus.request("wallet", wallet.ReleasePlan(purpose))
        lent = await _lent(bus, purpose, value)
    except (CommandRefused, OutcomeUnknown) as error:
        return CoinsFound(claim, (), None, str(error))
    found = tuple(
        WalletCoin(coin.txid, coin.vout, coin.value, coin.branch, coin.position) for coin in lent.coins
    )
    return CoinsFound(claim, found, lent.change)


async def _lent(bus: Bus, purpose: str, value: Sat) -> wallet.CoinsLent:
    """`value` leaves room for replacements; without that room the transaction goes out all the same."""
    first: CommandRefused | None = None
    for less in (value, Sat(value // 2), Sat(value // 4)):
        try:
            lent: wallet.CoinsLent = await bus.request("wallet", wallet.LendCoins(purpose, less))
            return lent
        except CommandRefused as refused:
            first = first or refused
    assert first is not None  # noqa: S101 - each of them was refused
    raise first
