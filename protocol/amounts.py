"""Units as types: amounts, heights, feerates and channel positions (BOLT 1, "Fundamental Types"; BOLT 7).

They are `NewType`s over `int`, so they cost nothing at run time; the type checker keeps them apart.
"""

from typing import NewType

Msat = NewType("Msat", int)
Sat = NewType("Sat", int)
BlockHeight = NewType("BlockHeight", int)
FeeratePerKw = NewType("FeeratePerKw", int)
ShortChannelId = NewType("ShortChannelId", int)
"""Block height (24 bits), transaction index (24 bits), output index (16 bits) in one 64-bit integer."""

MAX_MONEY = Sat(21_000_000 * 100_000_000)
MAX_HTLC_CLTV = 2016
"""BOLT 4, `max_htlc_cltv`: no HTLC expires later than so many blocks from now, or it could lock money for as long."""
FEERATE_FLOOR = FeeratePerKw(253)
"""The lowest feerate that rounds up to the usual 1 sat/vB minimum relay fee."""
FEERATE_CEILING = FeeratePerKw(500_000)
"""No honest feerate was ever a quarter of this."""


def to_msat(sat: Sat) -> Msat:
    return Msat(sat * 1000)


def floor_sat(msat: Msat) -> Sat:
    """Whole satoshis in an amount; the rest goes to the miner (BOLT 3, "Rounding")."""
    return Sat(msat // 1000)


def scid(height: int, tx_index: int, output_index: int) -> ShortChannelId:
    return ShortChannelId(height << 40 | tx_index << 16 | output_index)


def format_scid(value: ShortChannelId) -> str:
    """`HEIGHTxTXxOUT`, as every Lightning tool prints it."""
    return f"{value >> 40}x{value >> 16 & 0xFFFFFF}x{value & 0xFFFF}"


def parse_scid(text: str) -> ShortChannelId:
    """Raises ValueError when the text is not `HEIGHTxTXxOUT` with parts in range."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isascii() and part.isdigit() for part in parts):
        raise ValueError(f"{text!r} is not a short channel id like 700000x1x0")
    height, tx_index, output_index = (int(part) for part in parts)
    if height >= 1 << 24 or tx_index >= 1 << 24 or output_index >= 1 << 16:
        raise ValueError(f"{text!r}: a part of this short channel id is too large")
    return scid(height, tx_index, output_index)
