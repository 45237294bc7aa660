"""reserve: what pays the fees of closes, how much is lacking, and how it is filled and emptied."""

from node.rpc.errors import invalid_params
from node.rpc.params import Arguments, Param, one_of, sat
from node.rpc.table import Context, Method, Result
from protocol.bitcoin.transaction import txid_hex
from protocol.bus.messages.reserve import GetReserve, ReserveMoved, ReserveReport, ReturnReserve, TopUpReserve

SECONDS = 330.0
"""A person may have to approve."""


async def reserve(context: Context, arguments: Arguments) -> Result:
    action, amount = arguments["action"], arguments["satoshi"]
    if amount is not None and action != "topup":
        raise invalid_params("satoshi: goes with topup alone")
    if action == "status":
        return _status(await context.bus.request("reserve", GetReserve(), deadline=SECONDS))
    request = TopUpReserve(amount) if action == "topup" else ReturnReserve()
    moved: ReserveMoved = await context.bus.request("reserve", request, deadline=SECONDS)
    return {
        "amount_msat": moved.amount * 1000,
        "fee_msat": moved.fee * 1000,
        "txid": txid_hex(moved.txid),
        "tx": moved.tx.hex(),
    }


def _status(report: ReserveReport) -> Result:
    found: Result = {
        "mode": report.mode or "unknown: the signer is away",
        "needed_msat": report.needed * 1000,
        "present_msat": report.present * 1000,
        "short_msat": report.short * 1000,
        "surplus_msat": report.surplus * 1000,
        "address": report.address,
        "channels": report.channels,
        "htlcs": report.htlcs,
        "room_for_channels": report.room_channels,
        "room_for_htlcs": report.room_htlcs,
        "coins": report.coins,
        "confirmed_msat": report.confirmed * 1000,
        "coming_msat": report.coming * 1000,
        "lent_msat": report.lent * 1000,
        "what_to_do": report.what_to_do,
    }
    return found


METHODS = (
    Method(
        name="reserve",
        params=(
            Param("action", one_of("status", "topup", "return"), "status"),
            Param("satoshi", sat, None),
        ),
        handler=reserve,
        help="The fee reserve, which pays for closes of channels with anchors: what it needs and holds (status), send "
        "it coins of the wallet (topup, without an amount what is lacking), or send what is left over to cold "
        "(return).",
        category="bitcoin",
        moves_money=True,
    ),
)
