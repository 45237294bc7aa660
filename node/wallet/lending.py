"""What the parts of the wallet service stand on, and the fee reserve in it: coins of branch 3, lent for the fees of
closes (DESIGN, "The fee reserve")."""

import asyncio
from collections.abc import Sequence

import structlog

from node.storage.writer import Unit, Writer
from node.wallet import records
from node.wallet.account import CHANGE, COLD, RESERVE, Account
from node.wallet.coins import NOT_ENOUGH_CODE, Coin, Selection, fee_of
from node.wallet.ledger import Ledger
from node.wallet.plan import draft
from node.wallet.records import Plan
from protocol.amounts import FEERATE_FLOOR, BlockHeight, Sat
from protocol.bitcoin.address import address_of
from protocol.bitcoin.network import Network
from protocol.bitcoin.transaction import OutPoint, Transaction, txid_hex
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import chain, wallet
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused
from protocol.reserve import MAX_RESERVE

log = structlog.get_logger()
CONFIRMED, FUNDING, UNCONFIRMED, LENT = "confirmed", "funding", "unconfirmed", "lent"
_INPUT_FEE = Sat(80)
"""More than one more input costs at the lowest feerate."""


class Lending(Service):
    def __init__(self, bus: Bus, *, network: Network, xpub: str, origin: str, writer: Writer) -> None:
        super().__init__(bus)
        self._network = network
        self._writer = writer
        self._account = Account(xpub, origin, network)
        self._ledger = Ledger(self._account, records.load(writer))
        self._progress = (0, 0)
        """Of the scan: the height that it has reached, and the newest one."""
        self._noted: set[OutPoint] = set()
        """Coins of the reserve that the signer knows: with others it pays no fee."""

    # Lending.

    @handles(wallet.LendCoins)
    async def lend_coins(self, request: wallet.LendCoins) -> wallet.CoinsLent:
        if request.purpose not in self._ledger.plans:
            tip: chain.Tip = await self.bus.request("chain", chain.GetTip())
            if request.purpose not in self._ledger.plans:
                self._lend(request, tip.height)
        plan = self._ledger.plans[request.purpose]
        await self._save([])  # behind the plan in the writer's one queue: the plan is on disk then
        if self._ledger.plans.get(request.purpose) != plan:
            raise CommandRefused(
                f"the coins for {request.purpose!r} were spent or given back while they were lent",
                what_to_do="Ask again: other coins are lent then.",
            )
        tx = Transaction.parse(plan.tx)
        coins = [self._ledger.coins[spent.outpoint] for spent in tx.inputs]
        place = self._account.place_of(tx.outputs[0].script_pubkey)
        if place is None:
            raise RuntimeError("the change of lent coins is not ours")
        return wallet.CoinsLent(tuple(self._info(coin) for coin in coins), place)

    def _check_read(self) -> None:
        """Raises CommandRefused while what was found may have been spent long ago."""
        if self._ledger.is_reading:
            at, last = self._progress
            raise CommandRefused(
                f"the wallet reads old blocks: {at} of {last}; until then it does not know which coins are left",
                what_to_do="Wait until that is done: `lnp listfunds` shows how far it is.",
            )

    def _lend(self, request: wallet.LendCoins, tip: BlockHeight) -> None:
        """The plan's transaction is never sent: it only holds the coins, and the place of the change."""
        self._check_read()
        own = [coin for coin in self._ledger.reserve(tip=tip) if coin.outpoint in self._noted]
        chosen = _pick(own, request.value)
        least = request.value // 2
        if _worth(chosen) < least:
            hot = [c for c in self._ledger.spendable(tip=tip, minconf=1) if c.branch != COLD]
            lacking = Sat(request.value - _worth(chosen))
            chosen += _pick([c for c in hot if c.height is not None], lacking)
        total = sum(coin.value for coin in chosen)
        if _worth(chosen) < least:
            address = self._reserve_address()
            raise CommandRefused(
                f"{request.value} sat are wanted for the fee of a close; fee reserve and hot coins have {total}",
                what_to_do=f"Send {request.value - _worth(chosen)} sat to {address}, the fee reserve.",
                code=NOT_ENOUGH_CODE,
            )
        # More than a full reserve holds stays in the wallet: out of the reserve it could only return to cold.
        back = total <= MAX_RESERVE or all(coin.branch == RESERVE for coin in chosen)
        branch = RESERVE if back else CHANGE
        script = self._account.script(branch, self._account.next_free(branch, self._ledger.taken(branch)))
        fee = fee_of(len(chosen), (script,), FEERATE_FLOOR)
        selection = Selection(tuple(chosen), Sat(total - fee), fee, None)
        made = draft(selection, script=script, change_script=script)
        plan = Plan(
            purpose=request.purpose,
            tx=made.tx.serialize(),
            txid=made.tx.txid,
            output_index=made.output_index,
            value=made.value,
            fee=made.fee,
            change=None,
            made_at=tip,
        )
        self._save(self._ledger.keep(plan))
        log.info("coins_lent", purpose=plan.purpose, value_sat=total, coins=len(chosen))

    # The reserve.

    @hears(wallet.ReserveNoted)
    def reserve_noted(self, message: wallet.ReserveNoted) -> None:
        self._noted = {OutPoint(txid, index) for txid, index in message.outpoints}

    @handles(wallet.ListReserve)
    async def list_reserve(self, _request: wallet.ListReserve) -> wallet.ReserveCoins:
        found = [await self._reserve_coin(coin) for coin in self._reserve_coins()]
        cold = self._account.next_free(COLD)
        return wallet.ReserveCoins(
            coins=(*found, *self._planned_reserve()),
            address=self._reserve_address(),
            script=self._reserve_script(),
            cold_script=self._account.script(COLD, cold),
        )

    def _reserve_coins(self) -> list[Coin]:
        coins = self._ledger.coins.values()
        return [c for c in coins if c.branch == RESERVE and c.spent_by is None and not c.coinbase]

    async def _reserve_coin(self, coin: Coin) -> wallet.ReserveCoinInfo:
        at = coin.outpoint
        state, previous = CONFIRMED, b""
        funds = (p for p in self._ledger.plans.values() if p.txid == at.txid and p.to_reserve and p.signed)
        plan = next(funds, None) if coin.height is None else None
        if coin.reserved_for is not None:
            state = LENT
        elif plan is not None and plan.signed is not None:
            state, previous = FUNDING, plan.signed
        elif coin.height is None or self._ledger.is_reading:
            state = UNCONFIRMED
        else:
            try:
                previous = (await self._previous(at.txid)).serialize()
            except (CommandRefused, OutcomeUnknown) as error:
                log.warning("reserve_coin_not_proven", outpoint=str(at), reason=str(error))
                state = UNCONFIRMED
        return wallet.ReserveCoinInfo(at.txid, at.index, coin.value, coin.index, state, previous)

    def _planned_reserve(self) -> list[wallet.ReserveCoinInfo]:
        """What planned fundings bring along. Their transaction ids are final, so the signer can be shown them before
        anybody signs; it must see them before it sets the channel up."""
        found = []
        for plan in self._ledger.plans.values():
            if plan.to_reserve and plan.signed is None:
                for index, output in enumerate(Transaction.parse(plan.tx).outputs):
                    place = self._account.place_of(output.script_pubkey)
                    if place is not None and place[0] == RESERVE:
                        entry = wallet.ReserveCoinInfo(
                            plan.txid, index, output.value, place[1], FUNDING, plan.tx
                        )
                        found.append(entry)
        return found

    def _reserve_script(self) -> bytes:
        return self._account.script(RESERVE, self._account.next_free(RESERVE, self._ledger.taken(RESERVE)))

    def _reserve_address(self) -> str:
        return self._address(self._reserve_script())

    # What every part needs.

    def _info(self, coin: Coin) -> wallet.CoinInfo:
        return wallet.CoinInfo(
            txid=coin.outpoint.txid,
            vout=coin.outpoint.index,
            value=coin.value,
            script=coin.script,
            address=self._address(coin.script),
            height=None if self._ledger.is_reading else coin.height,
            reserved=coin.reserved_for is not None,
            spent=coin.spent_by is not None,
            branch=coin.branch,
            position=coin.index,
        )

    def _address(self, script: bytes) -> str:
        return address_of(script, self._network) or ""

    async def _previous(self, txid: bytes) -> Transaction:
        stored = records.previous_transaction(self._writer, txid)
        if stored is not None:
            return stored
        found: chain.TransactionFound | None = await self.bus.request("chain", chain.GetTransaction(txid))
        if found is None:
            raise not_signed(
                f"the chain backend does not give the transaction {txid_hex(txid)}, which the signer must see",
                "A bitcoind needs txindex=1 in its configuration; an Electrum server may lag: try another.",
            )
        return Transaction.parse(found.raw)

    def _watch_new(self) -> bool:
        new = self._account.take_new()
        for script in new:
            self.bus.send("chain", chain.WatchScript(script))
        return bool(new)

    def _save(self, unit: Unit) -> asyncio.Future[None]:
        if unit:
            self.bus.publish(wallet.WalletChanged())
        return self._writer.submit(unit, now=True)


def _worth(coins: Sequence[Coin]) -> int:
    return sum(coin.value - _INPUT_FEE for coin in coins)


def _pick(coins: Sequence[Coin], value: Sat) -> list[Coin]:
    """The smallest coin that is enough, so that large ones stay for others; else the largest until they are enough."""
    ordered = sorted(coins, key=lambda coin: (coin.value, coin.outpoint))
    alone = next((coin for coin in ordered if coin.value - _INPUT_FEE >= value), None)
    if alone is not None:
        return [alone]
    chosen: list[Coin] = []
    while ordered and _worth(chosen) < value:
        chosen.append(ordered.pop())
    return chosen


def not_signed(sentence: str, what_to_do: str) -> CommandRefused:
    return CommandRefused(f"the transaction was not signed: {sentence}", what_to_do=what_to_do)
