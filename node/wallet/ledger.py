"""Our coins and plans as they follow the chain: paid, spent, taken back by a reorganisation, planned, sent.

No I/O: each change is made in memory and returned as rows for the writer. The units must reach the writer in
the order in which they were returned.
"""

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from node.storage.writer import Unit
from node.wallet import records
from node.wallet.account import RESERVE, Account
from node.wallet.coins import Coin
from node.wallet.records import Loaded, Plan
from protocol.amounts import Sat
from protocol.bitcoin.transaction import OutPoint, Transaction

PLAN_LIFETIME = 2016
"""Blocks after which a plan that was never sent gives its coins back; a fundee forgets after as many."""


class Ledger:
    def __init__(self, account: Account, loaded: Loaded) -> None:
        self._account = account
        self.coins: dict[OutPoint, Coin] = loaded.coins
        self.plans: dict[str, Plan] = loaded.plans
        self.scanned = loaded.scanned
        for branch, index in loaded.issued:
            account.mark_issued(branch, index)
        for coin in self.coins.values():
            account.mark_used(coin.branch, coin.index)

    @property
    def is_reading(self) -> bool:
        """The first scan lasts: of the coins that it has found, blocks further on may spend some."""
        return self.scanned < 0

    def spendable(self, *, tip: int, minconf: int) -> list[Coin]:
        """For ordinary payments, so without the fee reserve. An unconfirmed coin counts only if we made it ourselves:
        anybody else could still take it back."""
        return [
            coin
            for coin in self.coins.values()
            if coin.branch != RESERVE
            and coin.is_spendable(tip=tip, minconf=minconf)
            and (coin.height is not None or self._is_own(coin))
        ]

    def reserve(self, *, tip: int) -> list[Coin]:
        """Coins of the fee reserve that are confirmed and not lent."""
        return [
            coin
            for coin in self.coins.values()
            if coin.branch == RESERVE and coin.is_spendable(tip=tip, minconf=1)
        ]

    def taken(self, branch: int) -> set[int]:
        """The indices to which plans pay that were not sent: no coin shows yet that they are used."""
        places = [
            self._account.place_of(output.script_pubkey)
            for plan in self.plans.values()
            if plan.signed is None
            for output in Transaction.parse(plan.tx).outputs
        ]
        return {place[1] for place in places if place is not None and place[0] == branch}

    def _is_own(self, coin: Coin) -> bool:
        return self._sent_as(coin.outpoint.txid) is not None

    def _sent_as(self, txid: bytes) -> Plan | None:
        return next((p for p in self.plans.values() if p.txid == txid and p.signed is not None), None)

    # The chain.

    def tip(self, height: int) -> Unit:
        self.scanned = height
        unit: Unit = [(records.PUT_META, [(records.SCANNED, str(height))])]
        for plan in list(self.plans.values()):
            if plan.signed is None and height >= plan.made_at + PLAN_LIFETIME:
                unit += self.release(plan.purpose)
        return unit

    def paid(self, script: bytes, outpoint: OutPoint, value: Sat, *, height: int, coinbase: bool) -> Unit:
        """A block pays to a script. Nothing when it is none of ours, or is known already."""
        place = self._account.place_of(script)
        if place is None:
            return []
        known = self.coins.get(outpoint)
        if known is not None and known.height == height:
            return []
        unit: Unit = []
        coin = known or Coin(outpoint, value, script, place[0], place[1], None, coinbase=coinbase)
        self._put(unit, replace(coin, height=height))
        self._account.mark_used(*place)
        return unit

    def spent(self, outpoint: OutPoint, spender: bytes) -> Unit:
        """A block spends a coin of ours, by a transaction of ours or not."""
        coin = self.coins.get(outpoint)
        if coin is None or coin.spent_by == spender:
            return []
        unit: Unit = []
        if coin.spent_by is not None:
            self._forget(unit, coin.spent_by)  # a double spend: the other one can never confirm
        if coin.reserved_for is not None:
            unit += self.release(coin.reserved_for)  # a plan that can never be carried out
        self._put(unit, replace(self.coins[outpoint], spent_by=spender))
        return unit

    def spend_reorganised(self, outpoint: OutPoint) -> Unit:
        """The spending is in no block any more. Ours is broadcast until it is; of another nothing is known."""
        coin = self.coins.get(outpoint)
        if coin is None or coin.spent_by is None or self._sent_as(coin.spent_by) is not None:
            return []
        unit: Unit = []
        self._put(unit, replace(coin, spent_by=None))
        return unit

    def disconnected(self, height: int) -> Unit:
        """Block `height` and all above left the chain: their coins wait for another block, a reward is gone."""
        unit: Unit = []
        for coin in list(self.coins.values()):
            if coin.height is None or coin.height < height or coin.outpoint not in self.coins:
                continue
            if coin.coinbase:
                self._forget(unit, coin.outpoint.txid)
            else:
                self._put(unit, replace(coin, height=None))
        return unit

    def not_found(self, outpoints: Sequence[OutPoint]) -> Unit:
        """Coins that a scan of their blocks did not find there again: a reorganisation that nobody told us of."""
        unit: Unit = []
        for outpoint in outpoints:
            coin = self.coins.get(outpoint)
            if coin is not None:
                self._put(unit, replace(coin, height=None))
        return unit

    def _forget(self, unit: Unit, txid: bytes) -> None:
        """A transaction that will never confirm: its outputs never were, and what it spent is there again."""
        for outpoint in [outpoint for outpoint in self.coins if outpoint.txid == txid]:
            coin = self.coins[outpoint]
            if coin.spent_by is not None:
                self._forget(unit, coin.spent_by)
            if coin.reserved_for is not None:
                unit += self.release(coin.reserved_for)
            del self.coins[outpoint]
            unit.append((records.DELETE_COIN, [(txid, outpoint.index)]))
        for coin in [coin for coin in self.coins.values() if coin.spent_by == txid]:
            self._put(unit, replace(coin, spent_by=None))
        for plan in [plan for plan in self.plans.values() if plan.txid == txid]:
            unit += self.release(plan.purpose)

    # Plans.

    def keep(self, plan: Plan) -> Unit:
        """The coins of a new plan are nobody else's from here on."""
        unit: Unit = []
        self._put_plan(unit, plan)
        for spent in Transaction.parse(plan.tx).inputs:
            coin = self.coins.get(spent.outpoint)
            if coin is not None:
                until = plan.made_at + PLAN_LIFETIME
                self._put(unit, replace(coin, reserved_for=plan.purpose, reserved_until=until))
        return unit

    def release(self, purpose: str) -> Unit:
        """Forgets a plan; the coins that it still holds are free again."""
        self.plans.pop(purpose, None)
        unit: Unit = [(records.DELETE_META, [(records.plan_key(purpose),)])]
        for coin in [coin for coin in self.coins.values() if coin.reserved_for == purpose]:
            self._put(unit, replace(coin, reserved_for=None, reserved_until=None))
        return unit

    def send(self, purpose: str, signed: Transaction) -> Unit:
        """The plan is signed: from here on its coins are spent, and what it pays to us is ours."""
        unit: Unit = []
        self._put_plan(unit, msgspec.structs.replace(self.plans[purpose], signed=signed.serialize()))
        for spent in signed.inputs:
            coin = self.coins[spent.outpoint]
            self._put(unit, replace(coin, spent_by=signed.txid, reserved_for=None, reserved_until=None))
        for at, output in enumerate(signed.outputs):
            place = self._account.place_of(output.script_pubkey)
            outpoint = OutPoint(signed.txid, at)
            if place is not None and outpoint not in self.coins:
                self._put(unit, Coin(outpoint, output.value, output.script_pubkey, *place, height=None))
                self._account.mark_used(*place)
        return unit

    def unsend(self, purpose: str) -> Unit:
        """The network will not have it: the plan is as it was before it was sent."""
        plan = msgspec.structs.replace(self.plans[purpose], signed=None)
        unit: Unit = []
        self._forget(unit, plan.txid)
        return unit + self.keep(plan)

    def issue(self, branch: int, index: int) -> Unit:
        self._account.mark_issued(branch, index)
        return [(records.PUT_ADDRESS, [(branch, index, self._account.script(branch, index))])]

    def _put(self, unit: Unit, coin: Coin) -> None:
        self.coins[coin.outpoint] = coin
        unit.append((records.PUT_COIN, [records.coin_row(coin)]))

    def _put_plan(self, unit: Unit, plan: Plan) -> None:
        self.plans[plan.purpose] = plan
        unit.append((records.PUT_META, [records.plan_row(plan)]))
