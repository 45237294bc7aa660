"""The wallet's rows: coins, issued addresses, previous transactions, plans, and how far the chain was read.

Plans stand in `meta` under `wallet.plan.<purpose>`, as JSON; so does the height, under `wallet.scanned`.
"""

from dataclasses import dataclass

import msgspec

from node.storage.writer import Writer
from node.wallet.coins import Coin
from protocol.amounts import Sat
from protocol.bitcoin.transaction import OutPoint, Transaction

PUT_COIN = (
    "INSERT OR REPLACE INTO coins (txid, vout, value, script, branch, idx, height, spent_by, reserved_until, "
    "reserved_for, coinbase) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
DELETE_COIN = "DELETE FROM coins WHERE txid = ? AND vout = ?"
PUT_ADDRESS = "INSERT OR IGNORE INTO addresses (branch, idx, script) VALUES (?, ?, ?)"
PUT_PREVIOUS = "INSERT OR IGNORE INTO transactions (txid, raw, height) VALUES (?, ?, ?)"
PUT_META = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
DELETE_META = "DELETE FROM meta WHERE key = ?"
SCANNED = "wallet.scanned"
_PLAN_KEY = "wallet.plan."


class Plan(msgspec.Struct, frozen=True):
    """What `SpendPlanned` says, and what has become of it. `change`: output and index on the change branch
    (of a plan that spends the fee reserve, on that branch).

    `signed` None: the signer was not asked, or did not answer, or the network refused what it had signed.
    """

    purpose: str
    tx: bytes
    txid: bytes
    output_index: int
    value: Sat
    fee: Sat
    change: tuple[int, int] | None
    made_at: int
    signed: bytes | None = None
    to_reserve: Sat = Sat(0)
    """What its further output pays to the fee reserve. It funds a channel, so both confirm together."""


def plan_key(purpose: str) -> str:
    return _PLAN_KEY + purpose


def plan_row(plan: Plan) -> tuple[str, str]:
    return plan_key(plan.purpose), msgspec.json.encode(plan).decode()


def coin_row(coin: Coin) -> tuple[object, ...]:
    return (
        coin.outpoint.txid,
        coin.outpoint.index,
        coin.value,
        coin.script,
        coin.branch,
        coin.index,
        coin.height,
        coin.spent_by,
        coin.reserved_until,
        coin.reserved_for,
        int(coin.coinbase),
    )


@dataclass
class Loaded:
    """What the database holds of the wallet. `scanned`: the height up to which the chain was read, -1 for none."""

    coins: dict[OutPoint, Coin]
    plans: dict[str, Plan]
    issued: list[tuple[int, int]]
    scanned: int


def load(writer: Writer) -> Loaded:
    coins: dict[OutPoint, Coin] = {}
    for row in writer.read(
        "SELECT txid, vout, value, script, branch, idx, height, spent_by, reserved_until, reserved_for, "
        "coinbase FROM coins"
    ):
        txid, vout, value, script, branch, index, height, spent_by, reserved_until, reserved_for, coinbase = (
            row
        )
        outpoint = OutPoint(txid, vout)
        coins[outpoint] = Coin(
            outpoint,
            Sat(value),
            script,
            branch,
            index,
            height,
            coinbase=bool(coinbase),
            spent_by=spent_by,
            reserved_for=reserved_for,
            reserved_until=reserved_until,
        )
    # By range and not by LIKE, for which an underscore in a purpose would be a pattern.
    plans = [
        msgspec.json.decode(value, type=Plan)
        for (value,) in writer.read(
            "SELECT value FROM meta WHERE key >= ? AND key < ?", (_PLAN_KEY, _PLAN_KEY[:-1] + "/")
        )
    ]
    scanned = writer.read("SELECT value FROM meta WHERE key = ?", (SCANNED,))
    return Loaded(
        coins=coins,
        plans={plan.purpose: plan for plan in plans},
        issued=[(branch, index) for branch, index in writer.read("SELECT branch, idx FROM addresses")],
        scanned=int(scanned[0][0]) if scanned else -1,
    )


def previous_transaction(writer: Writer, txid: bytes) -> Transaction | None:
    rows = writer.read("SELECT raw FROM transactions WHERE txid = ?", (txid,))
    return Transaction.parse(rows[0][0]) if rows else None
