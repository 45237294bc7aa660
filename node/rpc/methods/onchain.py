"""newaddr, listfunds, withdraw."""

import secrets
from typing import Any

from node.rpc.errors import RpcError, invalid_params
from node.rpc.methods import ask, fees
from node.rpc.params import (
    REQUIRED,
    Arguments,
    Param,
    boolean,
    feerate,
    integer,
    not_offered,
    one_of,
    sat_or_all,
    text,
)
from node.rpc.table import Context, Method, Result
from protocol.amounts import ShortChannelId, format_scid
from protocol.bitcoin.address import script_pubkey_of
from protocol.bitcoin.transaction import txid_hex
from protocol.bus.messages.channel import ChannelInfo
from protocol.bus.messages.wallet import (
    AddressMade,
    CoinInfo,
    Coins,
    ListCoins,
    NewAddress,
    PlanSpend,
    ReleasePlan,
    Sent,
    SignAndSend,
    SpendPlanned,
)
from protocol.errors import CommandRefused, MalformedMessage

SIGNING_SECONDS = 300.0
"""A person may have to approve."""
FEE_RESERVE = 3
"""The branch whose coins are for the fees of closes alone."""


async def newaddr(context: Context, arguments: Arguments) -> Result:
    if arguments["addresstype"] == "p2tr":
        raise RpcError(-1, "the wallet has bech32 (p2wpkh) addresses only; ask for bech32")
    made: AddressMade = await context.bus.request("wallet", NewAddress())
    return {"bech32": made.address}


async def listfunds(context: Context, arguments: Arguments) -> Result:
    coins: Coins = await context.bus.request("wallet", ListCoins(arguments["spent"]))
    result: Result = {
        "outputs": [_output(coin) for coin in coins.coins],
        "channels": [_channel(channel) for channel in await ask.channels(context)],
    }
    if coins.reading is not None:
        at, last = coins.reading
        result["warning_rescan"] = (
            f"the wallet reads old blocks: {at} of {last}. Coins may be missing, and some may be spent already"
        )
    return result


async def withdraw(context: Context, arguments: Arguments) -> Result:
    try:
        script = script_pubkey_of(arguments["destination"], context.facts.network)
    except MalformedMessage as error:
        raise invalid_params(f"destination: {error}") from error
    purpose = f"withdraw/{secrets.token_hex(8)}"
    rate = await fees.resolve(context, arguments["feerate"])
    plan = PlanSpend(purpose, script, arguments["satoshi"], rate, arguments["minconf"])
    planned: SpendPlanned = await context.bus.request("wallet", plan)
    try:
        sent: Sent = await context.bus.request(
            "wallet", SignAndSend(planned.purpose), deadline=SIGNING_SECONDS
        )
    except CommandRefused:
        # Refused means: not sent. The coins are free again.
        await context.bus.request("wallet", ReleasePlan(planned.purpose))
        raise
    return {"tx": sent.tx.hex(), "txid": txid_hex(sent.txid)}


def _output(coin: CoinInfo) -> dict[str, Any]:
    output: dict[str, Any] = {
        "txid": txid_hex(coin.txid),
        "output": coin.vout,
        "amount_msat": coin.value * 1000,
        "scriptpubkey": coin.script.hex(),
        "address": coin.address,
        "status": _status(coin),
        "reserved": coin.reserved or coin.branch == FEE_RESERVE,
    }
    if coin.height is not None:
        output["blockheight"] = coin.height
    return output


def _status(coin: CoinInfo) -> str:
    if coin.spent:
        return "spent"
    return "unconfirmed" if coin.height is None else "confirmed"


def _channel(channel: ChannelInfo) -> dict[str, Any]:
    result: dict[str, Any] = {
        "peer_id": channel.peer.hex(),
        "connected": channel.peer_connected,
        "state": channel.state,
        "channel_id": channel.channel_id.hex(),
        "our_amount_msat": channel.to_us_msat,
        "amount_msat": channel.capacity * 1000,
        "funding_txid": txid_hex(channel.funding_txid),
        "funding_output": channel.funding_outnum,
    }
    if channel.short_channel_id is not None:
        result["short_channel_id"] = format_scid(ShortChannelId(channel.short_channel_id))
    return result


METHODS = (
    Method(
        "newaddr",
        (Param("addresstype", one_of("bech32", "p2tr", "all"), "bech32"),),
        newaddr,
        "A new address of the on-chain wallet.",
        "bitcoin",
    ),
    Method(
        "listfunds",
        (Param("spent", boolean, False),),
        listfunds,
        "What we own: coins on chain, and our side of each channel.",
        "bitcoin",
    ),
    Method(
        "withdraw",
        (
            Param("destination", text, REQUIRED),
            Param("satoshi", sat_or_all, REQUIRED),
            Param("feerate", feerate, None),
            Param("minconf", integer(0, 1000), 1),
            Param("utxos", not_offered("the wallet chooses the coins"), None),
        ),
        withdraw,
        "Send coins to an address; amount in satoshi, or all.",
        "bitcoin",
        moves_money=True,
    ),
)
