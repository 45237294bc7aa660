"""The fee reserve on the node's side: the signer is told its coins, and it is filled and emptied (DESIGN, "The fee
reserve").

The wallet knows the coins, the signer how much is needed; here both come together. What a channel may do follows from
`ReserveChanged`, so that no question goes to the signer in vain.
"""

import asyncio
import secrets
from collections.abc import Iterable
from typing import ClassVar, Protocol

import structlog

from node.wallet.lending import CONFIRMED, FUNDING, LENT, UNCONFIRMED
from protocol import reserve as numbers
from protocol.amounts import FeeratePerKw, Sat
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import reserve as said
from protocol.bus.messages import signer as contract
from protocol.bus.messages import wallet
from protocol.bus.messages.chain import GetFeerate
from protocol.bus.messages.channel import ChannelStateChanged
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.messages.signer_reserve import MAX_RESERVE_COINS
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused, ProtocolError

log = structlog.get_logger()
ROOM_FOR_HTLCS = 4
"""A top-up makes room for the channel and for so many HTLCs that take a slot."""
LEAST_TOP_UP = Sat(5_000)
"""A smaller coin costs too much of itself when it pays a fee."""
SIGNING_SECONDS = 300.0
_UNBOUNDED = 1_000_000
_CALM = 6
"""Return and top-up are in no hurry, and are no reason to pay much: blocks."""


class Signer(Protocol):
    async def call(self, request: contract.Request) -> contract.Reply: ...


class ReserveService(Service):
    name: ClassVar[str] = "reserve"

    def __init__(self, bus: Bus, *, signer: Signer) -> None:
        super().__init__(bus)
        self._signer = signer
        self._told: tuple[contract.ReserveCoin, ...] | None = None
        """The coins that the signer heard of last; None when it may have forgotten them."""
        self._status: contract.ReserveStatus | None = None
        self._said: said.ReserveChanged | None = None
        self._noted = wallet.ReserveNoted(())
        self._wallet = wallet.ReserveCoins((), "", b"", b"")
        self._syncing = asyncio.Lock()
        self._moving = asyncio.Lock()
        """Held from the look at what is lacking or left over until it was sent: two would send it twice."""
        self._due = False

    async def start(self) -> None:
        await super().start()
        self._sync_soon()

    # What changes it.

    @hears(wallet.WalletChanged)
    def wallet_changed(self, _event: wallet.WalletChanged) -> None:
        self._sync_soon()

    @hears(ChannelStateChanged)
    def channel_changed(self, _event: ChannelStateChanged) -> None:
        self._sync_soon()

    @hears(SignerLink)
    def signer_link(self, event: SignerLink) -> None:
        self._told = None  # it may be another one, or one with an older database
        if event.up:
            self._sync_soon()
        else:
            self._status = None

    def _sync_soon(self) -> None:
        if not self._due:
            self._due = True
            self.run(self._sync())

    async def _sync(self) -> None:
        async with self._syncing:
            self._due = False
            try:
                await self._tell_signer()
            except (ProtocolError, OutcomeUnknown) as error:
                self._told = self._status = None
                log.info("reserve_waits", reason=str(error))

    async def _tell_signer(self) -> None:
        self._wallet = await self.bus.request("wallet", wallet.ListReserve())
        coins = _proofs(self._wallet.coins)
        request: contract.Request = contract.AskReserve()
        if coins != self._told:
            request = contract.NoteReserve(coins)
        reply = await self._signer.call(request)
        if not isinstance(reply, contract.ReserveStatus):
            self._told = self._status = None
            log.warning("reserve_not_noted", answer=str(reply))
            return
        self._told = coins
        known = (coin for coin in self._wallet.coins if coin.state == CONFIRMED)
        noted = wallet.ReserveNoted(tuple((coin.txid, coin.vout) for coin in known))
        if noted != self._noted:
            self._noted = noted
            self.bus.send("wallet", noted)
        self._status = reply
        event = said.ReserveChanged(
            reply.mode, reply.needed, reply.present, reply.channels, reply.htlcs, self._wallet.address
        )
        if event != self._said:
            self._said = event
            self.bus.publish(event)

    # What is asked.

    @handles(said.SyncReserve)
    async def sync(self, _request: said.SyncReserve) -> None:
        await self._sync()

    @handles(said.AskRoom)
    async def room(self, _request: said.AskRoom) -> said.ReserveRoom:
        status = await self._fresh()
        needed = numbers.needed(status.channels + 1, status.htlcs)
        short = Sat(max(0, needed - status.present))
        wanted = numbers.needed(status.channels + 1, status.htlcs + ROOM_FOR_HTLCS)
        missing = wanted - status.present - self._sum(UNCONFIRMED)
        # What is on its way but unconfirmed does not count for the signer yet: what is short must come along.
        top_up = max(missing, short)
        if top_up > 0:
            top_up = max(top_up, LEAST_TOP_UP)
        return said.ReserveRoom(
            status.mode, needed, status.present, short, Sat(max(0, top_up)), self._wallet.address
        )

    @handles(said.GetReserve)
    async def report(self, _request: said.GetReserve) -> said.ReserveReport:
        await self._sync()
        status = self._status
        if status is None:
            self._wallet = await self.bus.request("wallet", wallet.ListReserve())
            zero = Sat(0)
            what = "Start the signer: it knows what the reserve must hold."
            return self._report("", zero, zero, 0, 0, (0, 0), what)
        return self._report(
            status.mode,
            status.needed,
            status.present,
            status.channels,
            status.htlcs,
            _more(status),
            self._advice(status),
        )

    def _report(
        self,
        mode: str,
        needed: Sat,
        present: Sat,
        channels: int,
        htlcs: int,
        more: tuple[int, int],
        what_to_do: str,
    ) -> said.ReserveReport:
        return said.ReserveReport(
            mode=mode,
            needed=needed,
            present=present,
            short=Sat(max(0, needed - present)),
            surplus=Sat(max(0, present - needed)) if mode else Sat(0),
            channels=channels,
            htlcs=htlcs,
            room_channels=more[0],
            room_htlcs=more[1],
            confirmed=Sat(self._sum(CONFIRMED)),
            coming=Sat(self._sum(FUNDING) + self._sum(UNCONFIRMED)),
            lent=Sat(self._sum(LENT)),
            coins=sum(coin.state == CONFIRMED for coin in self._wallet.coins),
            address=self._wallet.address,
            what_to_do=what_to_do,
        )

    def _advice(self, status: contract.ReserveStatus) -> str:
        short = status.needed - status.present
        if short <= 0:
            return "Nothing."
        coming = self._sum(UNCONFIRMED)
        if coming >= short:
            return f"Wait until the {coming} sat that are on their way are confirmed."
        words = f"Run `lnp reserve topup`, or send {short - coming} sat to {self._wallet.address}."
        if status.mode == "shadow":
            return f"{words} This signer only notes it; another would refuse channels with anchors."
        return words

    def _sum(self, state: str) -> int:
        return sum(coin.value for coin in self._wallet.coins if coin.state == state)

    async def _fresh(self) -> contract.ReserveStatus:
        await self._sync()
        if self._status is None:
            raise CommandRefused(
                "the signer does not say what the fee reserve holds",
                what_to_do="Start the signer, then try again.",
            )
        return self._status

    # Filling and emptying it.

    @handles(said.TopUpReserve)
    async def top_up(self, request: said.TopUpReserve) -> said.ReserveMoved:
        async with self._moving:
            return await self._top_up(request)

    async def _top_up(self, request: said.TopUpReserve) -> said.ReserveMoved:
        amount = request.amount
        if amount is None:
            status = await self._fresh()
            wanted = numbers.needed(max(1, status.channels), status.htlcs + ROOM_FOR_HTLCS)
            missing = wanted - status.present - self._sum(UNCONFIRMED)
            if missing <= 0:
                raise CommandRefused(
                    f"the fee reserve holds {status.present} sat and needs {status.needed}: nothing is lacking",
                    what_to_do="Name an amount to send more.",
                )
            amount = Sat(max(missing, LEAST_TOP_UP))
        known: wallet.ReserveCoins = await self.bus.request("wallet", wallet.ListReserve())
        return await self._move("top-up of the reserve", known.script, amount, from_reserve=False)

    @handles(said.ReturnReserve)
    async def give_back(self, _request: said.ReturnReserve) -> said.ReserveMoved:
        """Coins of the reserve go to the cold branch, whole, or with what is needed as change."""
        async with self._moving:
            return await self._give_back()

    async def _give_back(self) -> said.ReserveMoved:
        status = await self._fresh()
        free = self._sum(CONFIRMED)
        # What a funding brings along counts for the signer, but cannot be what stays: it is not spent here.
        keep = max(0, status.needed - (status.present - free))
        surplus = free - keep
        if surplus < LEAST_TOP_UP:
            raise CommandRefused(
                f"the fee reserve holds {status.present} sat and needs {status.needed}: "
                f"{max(0, surplus)} sat could return, which is not worth a transaction",
                what_to_do="Close channels with anchors first, or leave it.",
            )
        known: wallet.ReserveCoins = await self.bus.request("wallet", wallet.ListReserve())
        cold, purpose = known.cold_script, "return of the reserve"
        if not keep:
            return await self._move(purpose, cold, None, from_reserve=True)
        fee = await self._fee_of_return()
        if surplus - fee < LEAST_TOP_UP:
            raise CommandRefused(
                f"{surplus} sat could return, and the fee would be up to {fee} sat",
                what_to_do="Wait for lower fees, or until more is left over.",
            )
        return await self._move(purpose, cold, Sat(surplus - fee), from_reserve=True)

    async def _fee_of_return(self) -> int:
        """Of a transaction of all its coins with two outputs, rounded up: it comes out of what returns."""
        rate: FeeratePerKw = await self.bus.request("chain", GetFeerate(_CALM))
        count = sum(coin.state == CONFIRMED for coin in self._wallet.coins)
        return rate * (300 + 300 * count) // 1000 + 1

    async def _move(
        self, what: str, script: bytes, amount: Sat | None, *, from_reserve: bool
    ) -> said.ReserveMoved:
        purpose = f"{what} {secrets.token_hex(8)}"
        rate: FeeratePerKw = await self.bus.request("chain", GetFeerate(_CALM))
        plan = wallet.PlanSpend(purpose, script, amount, rate, from_reserve=from_reserve)
        planned: wallet.SpendPlanned = await self.bus.request("wallet", plan)
        try:
            sent: wallet.Sent = await self.bus.request(
                "wallet", wallet.SignAndSend(purpose), deadline=SIGNING_SECONDS
            )
        except CommandRefused:
            await self.bus.request("wallet", wallet.ReleasePlan(purpose))
            raise
        log.info("reserve_moved", what=what, amount_sat=planned.value, fee_sat=planned.fee)
        return said.ReserveMoved(planned.value, planned.fee, sent.tx, sent.txid)


def _proofs(coins: Iterable[wallet.ReserveCoinInfo]) -> tuple[contract.ReserveCoin, ...]:
    """In a fixed order, the largest where there are too many: what is equal need not be told again."""
    proven = [coin for coin in coins if coin.state in (CONFIRMED, FUNDING) and coin.previous]
    chosen = sorted(proven, key=lambda coin: (-coin.value, coin.txid, coin.vout))[:MAX_RESERVE_COINS]
    return tuple(contract.ReserveCoin(coin.previous, coin.vout, coin.position) for coin in chosen)


def _more(status: contract.ReserveStatus) -> tuple[int, int]:
    """How many channels, or else HTLCs, more are covered. Nothing bounds them once the reserve is full."""
    if status.present >= numbers.MAX_RESERVE:
        return _UNBOUNDED, _UNBOUNDED
    left = max(0, status.present - status.needed)
    return left // numbers.PER_CHANNEL, left // numbers.PER_HTLC
