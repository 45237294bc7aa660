"""The wallet service: addresses, coins, and plans that spend them, over a watch-only account (BIP 32, BIP 174).

No key is here. A plan reserves its coins on disk before anybody is told of it; the signer signs it as a PSBT;
what was signed is saved before it is broadcast. So after a crash at any point the same purpose leads to the
same transaction.
"""

import asyncio
from typing import Any, ClassVar, Protocol

import structlog

from node.storage.writer import Writer
from node.wallet import records, signing
from node.wallet.account import CHANGE, COLD, RECEIVE, RESERVE
from node.wallet.coins import Balance, balance, select
from node.wallet.lending import Lending, not_signed
from node.wallet.plan import draft
from node.wallet.records import Plan
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw
from protocol.bitcoin.network import Network
from protocol.bitcoin.transaction import OutPoint, Transaction, TxOut
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import chain, wallet
from protocol.bus.messages import signer as contract
from protocol.bus.service import handles, hears
from protocol.errors import CommandRefused, ProtocolError

log = structlog.get_logger()
OVERLAP = 24
"""Blocks that are read again at each start, in case one of them was replaced while we were away."""
BURIED = 100
_PATIENCE = 24 * 3600.0
"""Seconds for questions that wait for a backend, or that read many blocks."""
_FEE_TARGET = 6


class Signer(Protocol):
    async def call(self, request: contract.Request) -> contract.Reply: ...


class _ScanDone:
    """To ourselves: everything that the scan found was heard before this."""

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last


class WalletService(Lending):
    """`xpub` and `origin` are what the signer said in `Welcome`.

    `birth_height`: where to look for coins of a seed that was used before; None for a new one.
    """

    name: ClassVar[str] = "wallet"

    def __init__(
        self,
        bus: Bus,
        *,
        network: Network,
        xpub: str,
        origin: str,
        signer: Signer,
        writer: Writer,
        birth_height: int | None = None,
    ) -> None:
        super().__init__(bus, network=network, xpub=xpub, origin=origin, writer=writer)
        self._signer = signer
        self._birth_height = birth_height
        self._sending: dict[str, asyncio.Task[wallet.Sent | ProtocolError]] = {}
        self._chain_moved = asyncio.Event()
        self._found: set[OutPoint] = set()
        self._extended_at: int | None = None
        self.caught_up = asyncio.Event()
        """Set once the blocks since the last run were looked at."""

    async def start(self) -> None:
        await super().start()
        self._watch_new()
        self.run(self._catch_up())

    async def stop(self) -> None:
        for sending in self._sending.values():
            sending.cancel()
        await super().stop()

    async def balance(self) -> Balance:
        tip: chain.Tip = await self.bus.request("chain", chain.GetTip())
        return balance(self._ledger.coins.values(), tip=tip.height)

    # Addresses and coins.

    @handles(wallet.NewAddress)
    async def new_address(self, _request: wallet.NewAddress) -> wallet.AddressMade:
        index = self._account.next_receive()
        saved = self._save(self._ledger.issue(RECEIVE, index))
        self._watch_new()
        await saved
        return wallet.AddressMade(self._address(self._account.script(RECEIVE, index)), RECEIVE, index)

    @handles(wallet.ListCoins)
    def list_coins(self, request: wallet.ListCoins) -> wallet.Coins:
        return wallet.Coins(
            tuple(
                self._info(coin)
                for coin in self._ledger.coins.values()
                if request.spent or coin.spent_by is None
            ),
            self._progress if self._ledger.is_reading else None,
        )

    # Plans.

    @handles(wallet.PlanSpend)
    async def plan_spend(self, request: wallet.PlanSpend) -> wallet.SpendPlanned:
        if request.purpose not in self._ledger.plans:
            feerate = request.feerate_per_kw
            if feerate is None:
                feerate = await self.bus.request("chain", chain.GetFeerate(_FEE_TARGET))
            tip: chain.Tip = await self.bus.request("chain", chain.GetTip())
            # Somebody may have asked for the same purpose while we waited.
            if request.purpose not in self._ledger.plans:
                self._make_plan(request, FeeratePerKw(max(feerate, FEERATE_FLOOR)), tip.height)
        plan = self._ledger.plans[request.purpose]
        paid = Transaction.parse(plan.tx).outputs[plan.output_index]
        if paid.script_pubkey != request.script or request.value not in (None, plan.value):
            raise CommandRefused(
                f"the purpose {request.purpose!r} stands for another payment already",
                what_to_do="Give each payment a purpose of its own.",
            )
        await self._save([])  # behind the plan in the writer's one queue: the plan is on disk then
        return wallet.SpendPlanned(plan.purpose, plan.tx, plan.txid, plan.output_index, plan.value, plan.fee)

    def _make_plan(self, request: wallet.PlanSpend, feerate: FeeratePerKw, tip: BlockHeight) -> None:
        """No await in here: between choosing coins and reserving them nobody else may choose."""
        self._check_read()
        branch = RESERVE if request.from_reserve else CHANGE
        change_index = self._account.next_free(branch, self._ledger.taken(branch))
        change_script = self._account.script(branch, change_index)
        also = TxOut(request.to_reserve, self._reserve_script()) if request.to_reserve else None
        if request.from_reserve:
            spendable = self._ledger.reserve(tip=tip)
        else:
            spendable = self._ledger.spendable(tip=tip, minconf=request.minconf)
        selection = select(
            [c for c in spendable if c.branch != COLD] if request.hot_only else spendable,
            value=request.value,
            script=request.script,
            change_script=change_script,
            feerate_per_kw=feerate,
            also=also,
        )
        made = draft(selection, script=request.script, change_script=change_script, also=also)
        plan = Plan(
            purpose=request.purpose,
            tx=made.tx.serialize(),
            txid=made.tx.txid,
            output_index=made.output_index,
            value=made.value,
            fee=made.fee,
            change=None if made.change_index is None else (made.change_index, change_index),
            made_at=tip,
            to_reserve=request.to_reserve,
        )
        self._save(self._ledger.keep(plan))
        log.info("spend_planned", purpose=plan.purpose, value_sat=plan.value, fee_sat=plan.fee)

    @handles(wallet.ReleasePlan)
    async def release_plan(self, request: wallet.ReleasePlan) -> None:
        plan = self._ledger.plans.get(request.purpose)
        if plan is None:
            return
        if plan.signed is not None or request.purpose in self._sending:
            raise CommandRefused(
                f"the plan {request.purpose!r} was signed and cannot be taken back",
                what_to_do="Wait until it confirms.",
            )
        await self._save(self._ledger.release(request.purpose))

    @hears(wallet.ReleasePlan)
    def release_quietly(self, message: wallet.ReleasePlan) -> None:
        """One way, from those who need no answer: what was signed stays."""
        plan = self._ledger.plans.get(message.purpose)
        if plan is not None and plan.signed is None and message.purpose not in self._sending:
            self._save(self._ledger.release(message.purpose))

    # Signing and sending.

    @handles(wallet.SignAndSend)
    async def sign_and_send(self, request: wallet.SignAndSend) -> wallet.Sent:
        sending = self._sending.get(request.purpose)
        if sending is None:
            sending = asyncio.get_running_loop().create_task(self._send_guarded(request.purpose))
            self._sending[request.purpose] = sending
            sending.add_done_callback(lambda _: self._sending.pop(request.purpose, None))
        outcome = await asyncio.shield(sending)
        if isinstance(outcome, ProtocolError):
            raise outcome
        return outcome

    async def _send_guarded(self, purpose: str) -> wallet.Sent | ProtocolError:
        """A task that outlives whoever asked, so a refusal is its result, not an exception that nobody takes."""
        try:
            return await self._send(purpose)
        except (CommandRefused, OutcomeUnknown) as error:
            return error

    async def _send(self, purpose: str) -> wallet.Sent:
        plan = self._plan(purpose)
        if plan.signed is None:
            signed = await self._sign(plan)
            await self._save(self._ledger.send(purpose, signed))
            self._watch_new()
            plan = self._plan(purpose)
        if plan.signed is None:
            raise RuntimeError("a plan that was just signed is not")
        await self._broadcast(plan, plan.signed, keep=False)
        return wallet.Sent(plan.signed, plan.txid)

    def _plan(self, purpose: str) -> Plan:
        plan = self._ledger.plans.get(purpose)
        if plan is None:
            raise CommandRefused(
                f"there is no plan {purpose!r}; its coins were given back or spent otherwise",
                what_to_do="Plan the payment anew.",
            )
        return plan

    async def _sign(self, plan: Plan) -> Transaction:
        tx = Transaction.parse(plan.tx)
        previous = {i.outpoint.txid: await self._previous(i.outpoint.txid) for i in tx.inputs}
        self._check_same(plan)  # while we asked, a block may have taken its coins, and so the plan
        asked = signing.build(tx, self._ledger.coins, previous, self._account)
        try:
            reply = await self._signer.call(contract.SignPsbt(asked))
        except CommandRefused:
            raise
        except ProtocolError as error:
            raise not_signed(str(error), "Nothing was spent: try again when the signer is back.") from error
        match reply:
            case contract.PsbtSigned():
                pass
            case contract.Refused():
                raise not_signed(f"the signer refused: {reply.rule} ({reply.seen})", reply.next_step)
            case contract.NotNow():
                raise not_signed(f"the signer is not ready: {reply.sentence}", "Try again later.")
            case _:
                raise not_signed(f"the signer answered with {type(reply).__name__}", "Report this.")
        try:
            signed = signing.take_signatures(asked, reply.psbt)
        except signing.SignerFault as error:
            raise not_signed(str(error), "Check the signer; nothing was spent.") from error
        if signed.txid != plan.txid:
            raise not_signed("the signed transaction is not the planned one", "Report this.")
        self._check_same(plan)  # the chain may have moved while the signer thought
        return signed

    def _check_same(self, plan: Plan) -> None:
        if self._plan(plan.purpose).txid != plan.txid:
            raise not_signed("the plan was replaced meanwhile", "Plan the payment anew.")

    async def _broadcast(self, plan: Plan, signed: bytes, *, keep: bool) -> None:
        request = chain.Broadcast(signed, label=plan.purpose, keep=keep)
        result: chain.BroadcastResult = await self.bus.request("chain", request)
        if result.accepted or records.previous_transaction(self._writer, plan.txid) is not None:
            return  # what the chain service still holds it sends again after each block
        if self._plan(plan.purpose).txid == plan.txid:  # a block may have spent its coins otherwise meanwhile
            await self._save(self._ledger.unsend(plan.purpose))
        raise CommandRefused(
            f"the network refused the transaction: {result.reason}",
            what_to_do="Nothing was spent; release the plan, or try again with a higher feerate.",
        )

    # The chain.

    async def _catch_up(self) -> None:
        """What happened while we were away: spends, payments, and perhaps a crash before sending."""
        await self._ask_chain(chain.GetTip())
        for plan in list(self._ledger.plans.values()):
            if self._ledger.plans.get(plan.purpose) is not plan:
                continue  # while another was sent, this one was refused and taken back
            if plan.signed is not None and records.previous_transaction(self._writer, plan.txid) is None:
                await self._ask_chain(chain.Broadcast(plan.signed, label=plan.purpose))
        first = await self._first_block()
        for coin in list(self._ledger.coins.values()):
            if coin.spent_by is None:
                at = coin.outpoint
                await self._ask_chain(chain.WatchOutput(at.txid, at.index, coin.script, BlockHeight(first)))
        await self._scan(first)

    async def _first_block(self) -> int:
        if self._ledger.scanned >= 0:
            return max(0, self._ledger.scanned - OVERLAP)
        if self._birth_height is not None:
            return self._birth_height
        tip: chain.Tip = await self._ask_chain(chain.GetTip())
        return max(0, tip.height - OVERLAP)

    async def _scan(self, first: int) -> None:
        self._found.clear()
        self._extended_at = None
        scanned = await self._ask_chain(chain.ScanFrom(BlockHeight(first)))
        # What the scan found stands in our inbox before this, so it is heard before this.
        self.bus.send(self.name, _ScanDone(scanned.first, scanned.last))

    async def _ask_chain(self, request: object) -> Any:  # like Bus.request, whose reply has no type here
        """Until it is answered: a backend that is away comes back, and says so."""
        while True:
            self._chain_moved.clear()
            try:
                return await self.bus.request("chain", request, deadline=_PATIENCE)
            except (CommandRefused, OutcomeUnknown) as error:
                log.warning("wallet_waits", request=type(request).__name__, reason=str(error))
                await self._chain_moved.wait()

    @hears(chain.ScanProgress)
    def scan_progress(self, event: chain.ScanProgress) -> None:
        self._progress = (event.height, event.last)

    @hears(_ScanDone)
    def scan_done(self, message: _ScanDone) -> None:
        gone = [
            coin.outpoint
            for coin in self._ledger.coins.values()
            if coin.height is not None
            and message.first <= coin.height <= message.last
            and coin.outpoint not in self._found
        ]
        self._save(self._ledger.not_found(gone))
        if self._extended_at is not None:
            # Coins moved the gap, so the blocks may pay to scripts that were not watched when they were read.
            self.run(self._scan(self._extended_at))
            return
        self._save(self._ledger.tip(max(message.last, self._ledger.scanned)))
        self.caught_up.set()

    @hears(chain.ScriptPaid)
    def script_paid(self, event: chain.ScriptPaid) -> None:
        outpoint = OutPoint(event.txid, event.index)
        self._found.add(outpoint)
        unit = self._ledger.paid(
            event.script, outpoint, event.value, height=event.height, coinbase=event.coinbase
        )
        if not unit:
            return
        self._save(unit)
        if self._watch_new() and (self._extended_at is None or event.height < self._extended_at):
            self._extended_at = event.height
        if not event.coinbase:
            self.run(self._keep_previous(event.txid, event.height))
        log.info("coin_received", outpoint=str(outpoint), value_sat=event.value, height=event.height)

    async def _keep_previous(self, txid: bytes, height: BlockHeight) -> None:
        """The signer will want to see this transaction whole, and some backends find only new ones."""
        if records.previous_transaction(self._writer, txid) is not None:
            return
        # With its block a backend finds it without an index of all transactions.
        wanted = chain.GetTransaction(txid, height)
        try:
            found: chain.TransactionFound | None = await self.bus.request("chain", wanted)
        except (CommandRefused, OutcomeUnknown):
            return  # asked again when the coin is spent
        if found is not None:
            self._save([(records.PUT_PREVIOUS, [(txid, found.raw, height)])])

    @hears(chain.OutpointSpent)
    def outpoint_spent(self, event: chain.OutpointSpent) -> None:
        outpoint = OutPoint(event.txid, event.index)
        if outpoint not in self._ledger.coins or event.height is None:
            return  # one that is not mined may be replaced, by ourselves too
        self._save(self._ledger.spent(outpoint, Transaction.parse(event.tx).txid))
        if event.depth >= BURIED:
            self.bus.send("chain", chain.UnwatchOutput(event.txid, event.index))

    @hears(chain.SpendReorganised)
    def spend_reorganised(self, event: chain.SpendReorganised) -> None:
        self._save(self._ledger.spend_reorganised(OutPoint(event.txid, event.index)))

    @hears(chain.BlockDisconnected)
    def block_disconnected(self, event: chain.BlockDisconnected) -> None:
        self._save(self._ledger.disconnected(event.height))

    @hears(chain.TipChanged)
    def tip_changed(self, event: chain.TipChanged) -> None:
        self._chain_moved.set()
        if self.caught_up.is_set():
            self._save(self._ledger.tip(event.height))

    @hears(chain.ChainBack)
    def chain_back(self, _event: chain.ChainBack) -> None:
        self._chain_moved.set()
