"""What became of a closed channel, read from the chain to the last satoshi.

Every transaction that descends from the funding is followed down to outputs that nobody has spent: these are coins
now, of the one side or the other.
"""

from dataclasses import dataclass
from typing import Any

from tests.interop.harness import Side, World

P2WSH = "0020"
"""Every output that a side must still fetch begins so; the coins of both wallets do not."""
HTLC_SUCCESS_ITEMS, DIRECT_CLAIM_ITEMS = 5, 3
"""Elements of a witness in which the one before the script may be a preimage (BOLT 3, BOLT 5)."""


@dataclass(frozen=True)
class Spend:
    """One transaction below the funding. `owners`: whose coins come of it."""

    tx: dict[str, Any]
    owners: frozenset[Side]
    fee: int


@dataclass(frozen=True)
class Ended:
    """One HTLC output: who took it, and by which preimage, if by one."""

    owners: frozenset[Side]
    preimage: str


class Closed:
    """The tree of transactions below a funding output. `open`: outputs that are not yet a coin of anybody, and
    transactions that are not yet in a block."""

    def __init__(self, world: World, funding: str) -> None:
        self._world = world
        world.money_sat()  # the wallet has read every block
        self._ours = {(row["txid"], row["output"]) for row in world.ours.call("listfunds")["outputs"]}
        self.open: list[str] = []
        self.coins: dict[Side, int] = {"ours": 0, "theirs": 0}
        self.spends: dict[str, Spend] = {}
        self.commitment = world.closing(funding)
        self._visit(self.commitment["txid"])

    def _visit(self, txid: str) -> frozenset[Side]:
        """Whose coins come of this transaction."""
        if txid in self.spends:
            return self.spends[txid].owners
        tx = self._world.chain.call("getrawtransaction", txid, True)
        if not tx.get("confirmations"):
            self.open.append(txid)
        owners: set[Side] = set()
        for output in tx["vout"]:
            spender = self._world.chain.spender(f"{txid}:{output['n']}", in_blocks=True)
            if spender is not None:
                owners |= self._visit(spender)
                continue
            if output["scriptPubKey"]["hex"].startswith(P2WSH):
                self.open.append(f"{txid}:{output['n']}")
            side: Side = "ours" if (txid, output["n"]) in self._ours else "theirs"
            self.coins[side] += sat(output)
            owners.add(side)
        fee = sum(self._spent(put) for put in tx["vin"]) - sum(map(sat, tx["vout"]))
        self.spends[txid] = Spend(tx, frozenset(owners), fee)
        return self.spends[txid].owners

    def _spent(self, put: dict[str, Any]) -> int:
        return sat(self._world.chain.call("getrawtransaction", put["txid"], True)["vout"][put["vout"]])

    def fees(self, side: Side) -> int:
        """Of the transactions that brought this side its coins; the commitment is not among them."""
        return sum(
            spend.fee
            for txid, spend in self.spends.items()
            if txid != self.commitment["txid"] and spend.owners == {side}
        )

    def htlc(self, value: int) -> Ended:
        """The end of the HTLC of so many satoshis."""
        outpoint = htlc_output(self.commitment, value)
        spender = self._world.chain.spender(outpoint, in_blocks=True)
        assert spender is not None
        spend = self.spends[spender]
        (witness,) = (
            put["txinwitness"] for put in spend.tx["vin"] if f"{put['txid']}:{put['vout']}" == outpoint
        )
        assert len(witness) in (HTLC_SUCCESS_ITEMS, DIRECT_CLAIM_ITEMS)
        return Ended(spend.owners, witness[-2])


def taken(by: Side, preimage: str = "") -> Ended:
    return Ended(frozenset({by}), preimage)


def htlc_output(commitment: dict[str, Any], value: int) -> str:
    """The one output of so many satoshis, as txid:index."""
    (output,) = (out for out in commitment["vout"] if sat(out) == value)
    return f"{commitment['txid']}:{output['n']}"


def sat(output: dict[str, Any]) -> int:
    btc: float = output["value"]
    return round(btc * 100_000_000)
