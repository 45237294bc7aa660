"""Which coins pay for a transaction: branch and bound, else largest first (BIP 141).

Pure. Coins count by effective value: what is left after the fee for their own input. All ours are P2WPKH, so
the weight is known before anything is signed, up to the byte by which a signature may be shorter.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from node.wallet.account import RESERVE
from protocol.amounts import FeeratePerKw, Sat
from protocol.bitcoin.transaction import OutPoint, TxOut, compact_size
from protocol.bolt3.fees import dust_threshold
from protocol.errors import CommandRefused

COINBASE_MATURITY = 100
NOT_ENOUGH_CODE = 301
"""Core Lightning's code of "Insufficient funds"."""
_BASE_WEIGHT = 4 * (4 + 4) + 2
"""Version and lock time, and the segwit marker and flag."""
_INPUT_WEIGHT = 4 * (32 + 4 + 1 + 4) + (1 + 1 + 72 + 1 + 33)
"""With a witness of two items: a signature of at most 72 bytes (low S) and a public key."""
_MOST_TRIES = 20_000
Scripts = tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Coin:
    """An output of ours. `height` None: not in a block. `branch` and `index`: the place of its key."""

    outpoint: OutPoint
    value: Sat
    script: bytes
    branch: int
    index: int
    height: int | None
    coinbase: bool = False
    spent_by: bytes | None = None
    reserved_for: str | None = None
    reserved_until: int | None = None

    def confirmations(self, tip: int) -> int:
        return 0 if self.height is None else tip - self.height + 1

    def is_spendable(self, *, tip: int, minconf: int) -> bool:
        """Free, deep enough, and mature if it is a block's reward."""
        if self.spent_by is not None or self.reserved_for is not None:
            return False
        # A reward can be spent by the block at its height + 100, and that block comes after the tip.
        needed = max(minconf, COINBASE_MATURITY) if self.coinbase else minconf
        return self.confirmations(tip) >= needed


@dataclass(frozen=True, slots=True)
class Balance:
    """Unspent coins, each counted once: `reserved` are those of plans that were not sent yet. `fee_reserve`: what
    lies in branch 3, whatever becomes of it."""

    confirmed: Sat
    unconfirmed: Sat
    immature: Sat
    reserved: Sat
    fee_reserve: Sat

    @property
    def total(self) -> Sat:
        return Sat(self.confirmed + self.unconfirmed + self.immature + self.reserved + self.fee_reserve)


def balance(coins: Iterable[Coin], *, tip: int) -> Balance:
    confirmed = unconfirmed = immature = reserved = fee_reserve = 0
    for coin in coins:
        if coin.spent_by is not None:
            continue
        if coin.branch == RESERVE:
            fee_reserve += coin.value
        elif coin.reserved_for is not None:
            reserved += coin.value
        elif coin.height is None:
            unconfirmed += coin.value
        elif not coin.is_spendable(tip=tip, minconf=1):
            immature += coin.value
        else:
            confirmed += coin.value
    return Balance(Sat(confirmed), Sat(unconfirmed), Sat(immature), Sat(reserved), Sat(fee_reserve))


@dataclass(frozen=True, slots=True)
class Selection:
    """`change` None: there is no change output, and what is left over is part of the fee."""

    coins: tuple[Coin, ...]
    value: Sat
    fee: Sat
    change: Sat | None


def fee_of(inputs: int, scripts: Iterable[bytes], feerate_per_kw: FeeratePerKw) -> Sat:
    """The fee of a transaction of P2WPKH inputs that pays the scripts, rounded up on whole virtual bytes."""
    outputs = [8 + len(compact_size(len(script))) + len(script) for script in scripts]
    weight = _BASE_WEIGHT + 4 * (len(compact_size(inputs)) + len(compact_size(len(outputs))) + sum(outputs))
    weight += inputs * _INPUT_WEIGHT
    vsize = (weight + 3) // 4
    return Sat(-(-4 * vsize * feerate_per_kw // 1000))


def select(
    coins: Sequence[Coin],
    *,
    value: Sat | None,
    script: bytes,
    change_script: bytes,
    feerate_per_kw: FeeratePerKw,
    also: TxOut | None = None,
) -> Selection:
    """Coins for one output of `value` (None: all coins that are worth their fee), with change where it pays. `also`:
    one output more.

    Raises CommandRefused: for an output that is dust, and with code 301 when the coins do not suffice.
    """
    dust = dust_threshold(script)
    if value is not None and value < max(dust, 1):
        raise CommandRefused(
            f"{value} sat is below the {dust} sat that the network relays to this script",
            what_to_do="Send more.",
        )
    input_fee = _INPUT_WEIGHT * feerate_per_kw // 1000 + 1
    useful = sorted(
        (coin for coin in coins if coin.value > input_fee),
        key=lambda coin: (-coin.value, coin.outpoint),
    )
    scripts = (script,) if also is None else (script, also.script_pubkey)
    more = 0 if also is None else also.value
    if value is None:
        found = _everything(useful, scripts, Sat(dust + more), feerate_per_kw)
    else:
        wanted = Sat(value + more)
        exact = _without_change(useful, wanted, scripts, change_script, feerate_per_kw)
        found = exact or _largest_first(useful, wanted, scripts, change_script, feerate_per_kw)
    return replace(found, value=Sat(found.value - more))


def _everything(coins: list[Coin], scripts: Scripts, dust: Sat, feerate_per_kw: FeeratePerKw) -> Selection:
    total = sum(coin.value for coin in coins)
    fee = fee_of(len(coins), scripts, feerate_per_kw)
    if not coins or total - fee < max(dust, 1):
        raise _not_enough(Sat(max(dust, 1)), fee, total, len(coins))
    return Selection(tuple(coins), Sat(total - fee), fee, None)


def _without_change(
    coins: list[Coin], value: Sat, scripts: Scripts, change_script: bytes, feerate_per_kw: FeeratePerKw
) -> Selection | None:
    """Branch and bound: a set so close to the target that change would cost more than it brings back.

    Coins come largest first; each is taken before it is left. A branch ends when it is too large, or when all
    that is left could not reach the target.
    """
    input_fee = -(-_INPUT_WEIGHT * feerate_per_kw // 1000)
    target = value + fee_of(0, scripts, feerate_per_kw)
    waste = fee_of(1, (*scripts, change_script), feerate_per_kw) - fee_of(0, scripts, feerate_per_kw)
    effective = [coin.value - input_fee for coin in coins]
    left = [0] * (len(coins) + 1)
    for at in range(len(coins) - 1, -1, -1):
        left[at] = left[at + 1] + effective[at]

    stack: list[tuple[int, int, tuple[int, ...]]] = [(0, 0, ())]
    for _ in range(_MOST_TRIES):
        if not stack:
            return None
        at, total, taken = stack.pop()
        if target <= total <= target + waste:
            return _exact(tuple(coins[i] for i in taken), value, scripts, feerate_per_kw)
        if total > target + waste or total + left[at] < target:
            continue
        stack.append((at + 1, total, taken))
        stack.append((at + 1, total + effective[at], (*taken, at)))
    return None


def _exact(
    coins: tuple[Coin, ...], value: Sat, scripts: Scripts, feerate_per_kw: FeeratePerKw
) -> Selection | None:
    """The search counts each input's fee alone; the sum is rounded otherwise, so it is checked again."""
    total = sum(coin.value for coin in coins)
    if total < value + fee_of(len(coins), scripts, feerate_per_kw):
        return None
    return Selection(coins, value, Sat(total - value), None)


def _largest_first(
    coins: list[Coin], value: Sat, scripts: Scripts, change_script: bytes, feerate_per_kw: FeeratePerKw
) -> Selection:
    total = 0
    for count, coin in enumerate(coins, 1):
        total += coin.value
        if total < value + fee_of(count, scripts, feerate_per_kw):
            continue
        fee = fee_of(count, (*scripts, change_script), feerate_per_kw)
        change = total - value - fee
        if change < dust_threshold(change_script):
            return Selection(tuple(coins[:count]), value, Sat(total - value), None)
        return Selection(tuple(coins[:count]), value, fee, Sat(change))
    raise _not_enough(value, fee_of(max(len(coins), 1), scripts, feerate_per_kw), total, len(coins))


def _not_enough(value: Sat, fee: Sat, total: int, count: int) -> CommandRefused:
    return CommandRefused(
        f"{value} sat and a fee of {fee} sat are needed; the {count} spendable coins hold {total} sat",
        what_to_do="Add funds, wait for confirmations, or choose a smaller amount or feerate.",
        code=NOT_ENOUGH_CODE,
    )
