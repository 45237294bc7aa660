"""What the wallet service says and hears: addresses, coins, and transactions that spend them (no key here)."""

from msgspec import Struct

from protocol.amounts import FeeratePerKw, Sat


class NewAddress(Struct, frozen=True, tag="wallet.new_address"):
    pass


class AddressMade(Struct, frozen=True, tag="wallet.address"):
    address: str
    branch: int
    index: int


class ListCoins(Struct, frozen=True, tag="wallet.list"):
    spent: bool = False


class CoinInfo(Struct, frozen=True):
    txid: bytes
    vout: int
    value: Sat
    script: bytes
    address: str
    height: int | None
    reserved: bool
    spent: bool
    branch: int = 0
    position: int = 0


class Coins(Struct, frozen=True, tag="wallet.coins"):
    """`reading`: while the first scan of the chain lasts, the height that it has reached, and the newest one. Until
    then no coin counts as confirmed: a block further on may spend it."""

    coins: tuple[CoinInfo, ...]
    reading: tuple[int, int] | None = None


class WalletChanged(Struct, frozen=True, tag="wallet.changed"):
    """Event: coins or plans changed; `ListCoins` tells what they are now."""


class PlanSpend(Struct, frozen=True, tag="wallet.plan"):
    """Chooses and durably reserves coins for a transaction with one output (and change).

    `value` None spends everything confirmed. Refused (CommandRefused, code 301) when the coins do not suffice.
    The same `purpose` again answers the same plan.
    """

    purpose: str
    script: bytes
    value: Sat | None
    feerate_per_kw: FeeratePerKw | None
    minconf: int = 1
    hot_only: bool = False
    """Leaves the coins of the cold branch alone."""
    to_reserve: Sat = Sat(0)
    """So much goes to the fee reserve, in an output of its own. For the funding of a channel."""
    from_reserve: bool = False
    """Spends coins of the fee reserve and no others; change goes back to it. The signer lets them go to cold alone."""


class SpendPlanned(Struct, frozen=True, tag="wallet.planned"):
    """The unsigned transaction (its txid is final: all inputs are segwit), the output's index and value, the fee."""

    purpose: str
    tx: bytes
    txid: bytes
    output_index: int
    value: Sat
    fee: Sat


class SignAndSend(Struct, frozen=True, tag="wallet.send"):
    """Has the signer sign a plan, saves it and broadcasts it. Repeatable; answered with `Sent`."""

    purpose: str


class Sent(Struct, frozen=True, tag="wallet.sent"):
    tx: bytes
    txid: bytes


class ReleasePlan(Struct, frozen=True, tag="wallet.release"):
    """Gives the coins of a plan that was not sent back."""

    purpose: str


class LendCoins(Struct, frozen=True, tag="wallet.lend"):
    """Durably sets confirmed coins of about `value` aside for the fee of a close, half of it at least, since it leaves
    room for replacements: those of the fee reserve first, then hot ones. They come back with `ReleasePlan`. The same
    `purpose` again answers the same coins."""

    purpose: str
    value: Sat


class CoinsLent(Struct, frozen=True, tag="wallet.lent"):
    """`change`: branch and index where what is left goes."""

    coins: tuple[CoinInfo, ...]
    change: tuple[int, int]


class ListReserve(Struct, frozen=True, tag="wallet.list_reserve"):
    """Answered with `ReserveCoins`."""


class ReserveCoinInfo(Struct, frozen=True):
    """An output to branch 3 at `position`. `state`: "confirmed"; "funding" (it confirms together with a channel of
    ours); "unconfirmed"; or "lent". `previous`: the whole transaction, where the state is one of the first two."""

    txid: bytes
    vout: int
    value: Sat
    position: int
    state: str
    previous: bytes = b""


class ReserveCoins(Struct, frozen=True, tag="wallet.reserve"):
    """`address` and `script`: the next place for a top-up. `cold_script`: where a surplus goes back to."""

    coins: tuple[ReserveCoinInfo, ...]
    address: str
    script: bytes
    cold_script: bytes


class ReserveNoted(Struct, frozen=True, tag="wallet.reserve_noted"):
    """One way: the signer knows these coins of the reserve (txid and index), so they can pay a fee."""

    outpoints: tuple[tuple[bytes, int], ...]
