"""feerates, and the feerate that a word stands for."""

import contextlib
from typing import Any

from node.rpc.params import FEERATE_WORDS, REQUIRED, Arguments, Param, one_of
from node.rpc.table import Context, Method, Result
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw
from protocol.bus.messages.chain import GetFeerate
from protocol.errors import CommandRefused

TARGETS = (2, 6, 12, 144)
MAX_FACTOR = 10
"""Above ten times the urgent estimate a feerate is taken for a slip."""


async def resolve(context: Context, feerate: FeeratePerKw | str | None) -> FeeratePerKw | None:
    if isinstance(feerate, str):
        return await _estimate(context, FEERATE_WORDS[feerate])
    return feerate


async def feerates(context: Context, arguments: Arguments) -> Result:
    """What cannot be estimated now is left out, and a warning says so."""
    style: str = arguments["style"]
    factor = 4 if style == "perkb" else 1
    known: dict[int, int] = {}
    for blocks in TARGETS:
        with contextlib.suppress(CommandRefused):
            known[blocks] = await _estimate(context, blocks) * factor
    rates: dict[str, Any] = {
        name: known[blocks]
        for name, blocks in (("opening", 6), ("mutual_close", 6), ("unilateral_close", 2), ("penalty", 6))
        if blocks in known
    }
    rates["min_acceptable"] = rates["floor"] = FEERATE_FLOOR * factor
    rates["max_acceptable"] = max(known.values(), default=FEERATE_FLOOR * factor) * MAX_FACTOR
    rates["estimates"] = [
        {"blockcount": blocks, "feerate": rate, "smoothed_feerate": rate} for blocks, rate in known.items()
    ]
    result: Result = {style: rates}
    if len(known) < len(TARGETS):
        result["warning_missing_feerates"] = (
            "the chain backend has no estimate for some targets; give a number"
        )
    return result


async def _estimate(context: Context, blocks: int) -> FeeratePerKw:
    rate: FeeratePerKw = await context.bus.request("chain", GetFeerate(blocks))
    return max(FEERATE_FLOOR, rate)


METHODS = (
    Method(
        "feerates",
        (Param("style", one_of("perkb", "perkw"), REQUIRED),),
        feerates,
        "The feerates that we would use now, in perkb or perkw.",
        "bitcoin",
    ),
)
