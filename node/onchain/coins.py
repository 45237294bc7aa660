"""Coins of the wallet for the fee of an HTLC transaction with anchors (BOLT 5, "Generation of HTLC Transactions").

Until the signer has a fee reserve of its own, the wallet lends its confirmed hot coins: a plan reserves them under a
purpose of ours, and is never sent; what is left of them comes back to an address of the wallet.
"""

from node.onchain.events import CoinsFound
from node.onchain.state import Facts
from protocol.amounts import FEERATE_FLOOR, Sat
from protocol.bitcoin.address import script_pubkey_of
from protocol.bitcoin.network import Network
from protocol.bitcoin.transaction import OutPoint, Transaction
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import wallet
from protocol.bus.messages.signer import WalletCoin
from protocol.errors import CommandRefused


def purpose_of(facts: Facts, claim: int) -> str:
    return f"fees of channel {facts.channel_id.hex()} claim {claim}"


async def find_coins(bus: Bus, network: Network, claim: int, purpose: str, value: Sat) -> CoinsFound:
    """Coins of at least `value`, or why there are none."""
    try:
        # A plan from before a crash names an address that we no longer know.
        await bus.request("wallet", wallet.ReleasePlan(purpose))
        made: wallet.AddressMade = await bus.request("wallet", wallet.NewAddress())
        script = script_pubkey_of(made.address, network)
        plan = wallet.PlanSpend(purpose, script, value, FEERATE_FLOOR, hot_only=True)
        planned: wallet.SpendPlanned = await bus.request("wallet", plan)
        known: wallet.Coins = await bus.request("wallet", wallet.ListCoins())
    except (CommandRefused, OutcomeUnknown) as error:
        return CoinsFound(claim, (), None, str(error))
    coins = {OutPoint(coin.txid, coin.vout): coin for coin in known.coins}
    chosen = [coins.get(spend.outpoint) for spend in Transaction.parse(planned.tx).inputs]
    if any(coin is None for coin in chosen):
        return CoinsFound(claim, (), None, "a coin of the wallet was spent meanwhile")
    found = tuple(
        WalletCoin(coin.txid, coin.vout, coin.value, coin.branch, coin.position)
        for coin in chosen
        if coin is not None
    )
    return CoinsFound(claim, found, (made.branch, made.index))
