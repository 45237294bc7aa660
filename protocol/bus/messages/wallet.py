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
    coins: tuple[CoinInfo, ...]


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
