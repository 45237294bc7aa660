"""The signer contract for the fee reserve: coins that pay the fees of our closes (DESIGN, "The fee reserve").

Part of `protocol.bus.messages.signer`, which lists the requests. The reserve is branch 3 of the wallet account. How
much it must hold is reckoned by `protocol.reserve`.
"""

from msgspec import Struct

from protocol.amounts import FeeratePerKw, Sat

MAX_RESERVE_COINS = 200


class ReserveCoin(Struct, frozen=True, array_like=True):
    """Output `index` of `previous`, a whole raw transaction; it pays to branch 3 at `position`."""

    previous: bytes
    index: int
    position: int


class NoteReserve(Struct, frozen=True, tag="note_reserve"):
    """All confirmed and unspent coins of the reserve; they replace those noted before. One that the funding of a
    channel of ours makes counts too: the channel and what covers it confirm together.

    Each transaction proves its coin's amount and script; that it is confirmed and unspent is the node's word. A coin
    that was signed away in an anchor or a second stage does not count until it was left out of one list and
    listed again, so leave it out while the transaction that spends it can confirm.
    """

    coins: tuple[ReserveCoin, ...]


class AskReserve(Struct, frozen=True, tag="ask_reserve"):
    """What the reserve must hold and what it holds. Changes nothing."""


class ReserveStatus(Struct, frozen=True, tag="reserve"):
    """`mode`: "enforce", or "shadow" when the rule only speaks in the signer's log.

    `needed`: for the `channels` with anchors that live and the `htlcs` in flight in them, at `feerate_per_kw`.
    `present`: the noted coins that were not signed away.
    """

    mode: str
    needed: Sat
    present: Sat
    channels: int
    htlcs: int
    feerate_per_kw: FeeratePerKw
