"""The shell around the resolution of closed channels: events in their order, saves before effects (STYLE 3).

One task steps all channels, one event after the other; questions to signer, wallet and chain run beside it and come
back as events. What is lost in a crash is said again by `Resume`.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, Protocol, assert_never

import structlog
from msgspec import Struct
from msgspec.structs import replace

from node.onchain import machine, store
from node.onchain.coins import find_coins, purpose_of
from node.onchain.events import (
    ClaimWanted,
    Confirmed,
    Done,
    Effect,
    Env,
    Event,
    FindPoint,
    Forget,
    NeedCoins,
    NewBlock,
    NotSigned,
    NotTaken,
    OutputSpent,
    PeerPointKnown,
    Publish,
    ReleaseCoins,
    Resume,
    Settle,
    Sign,
    Signed,
    SpendLost,
    Step,
    Unconfirmed,
    Unwatch,
    Warn,
    Watch,
)
from node.onchain.state import Facts, Kind, Outcome, State
from node.signer_link.client import SignerAway, SignerClient
from node.storage.writer import Writer
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw
from protocol.bitcoin.network import Network
from protocol.bitcoin.transaction import Transaction
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import chain, wallet
from protocol.bus.messages import signer as sign
from protocol.errors import CommandRefused

log = structlog.get_logger()
_PATIENCE = 86_400.0
_TARGETS = (2, 6, 144)


class Outside(Protocol):
    """What the resolution needs of the service that hosts it."""

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> object: ...

    def facts(self, row_id: int, tx: bytes) -> Facts: ...

    def settled(self, row_id: int, outcome: Outcome) -> None: ...

    def resolved(self, row_id: int) -> None: ...


class _FundingSpent(Struct, frozen=True):
    """`height` None: it is on its way, ours or `seen` in the mempool."""

    tx: bytes
    height: BlockHeight | None
    seen: bool = False


class Resolver:
    def __init__(
        self, bus: Bus, writer: Writer, signer: SignerClient, network: Network, outside: Outside
    ) -> None:
        self._bus = bus
        self._writer = writer
        self._signer = signer
        self._network = network
        self._outside = outside
        self._env = Env(BlockHeight(0))
        self._states: dict[int, State] = {}
        self._outputs: dict[tuple[bytes, int], int] = {}
        self._told: set[int] = set()
        self._asking: set[tuple[int, str, int]] = set()
        self._queue: asyncio.Queue[tuple[int, Event | _FundingSpent]] = asyncio.Queue()

    # What the service tells.

    def start(self, row_ids: frozenset[int], height: BlockHeight) -> None:
        """Goes on with the channels that are not closed yet, and with what may still be reorganised of the others."""
        self._env = replace(self._env, height=height)
        for row_id, state in store.load(self._writer):
            if row_id in row_ids or not state.final:
                self._states[row_id] = state
                self._index(row_id, state)
                self.put(row_id, Resume())
        self._outside.run(self._work())
        if self._states:
            self._outside.run(self._block(height))

    def funding_spent(self, row_id: int, tx: bytes, height: BlockHeight) -> None:
        """Said at each block; only news changes anything."""
        self._queue.put_nowait((row_id, _FundingSpent(tx, height)))

    def published(self, row_id: int, tx: bytes) -> None:
        """Our commitment was published: from here on its fee is our matter."""
        self._queue.put_nowait((row_id, _FundingSpent(tx, None)))

    def funding_seen(self, row_id: int, tx: bytes) -> None:
        """A spend of the funding is in the mempool. A commitment of the peer's may need our help to confirm, and
        preimages may follow it there."""
        self._queue.put_nowait((row_id, _FundingSpent(tx, None, seen=True)))

    def funding_unspent(self, row_id: int) -> None:
        if row_id in self._states:
            self.put(row_id, Unconfirmed())

    def output_spent(self, event: chain.OutpointSpent) -> None:
        row_id = self._outputs.get((event.txid, event.index))
        if row_id is not None:
            self.put(row_id, OutputSpent(event.txid, event.index, event.tx, event.height))

    def output_unspent(self, event: chain.SpendReorganised) -> None:
        row_id = self._outputs.get((event.txid, event.index))
        if row_id is not None:
            self.put(row_id, SpendLost(event.txid, event.index))

    def claim(self, row_id: int, htlc_id: int) -> None:
        if row_id in self._states:
            self.put(row_id, ClaimWanted(htlc_id))

    def new_block(self, height: BlockHeight) -> None:
        """Said after everything that the block held."""
        self._env = replace(self._env, height=height)
        if self._states:
            self._outside.run(self._block(height))

    def signer_is_back(self) -> None:
        # It may have come back with an older copy of its database.
        self._told.clear()
        self._tick()

    def state(self, row_id: int) -> State | None:
        return self._states.get(row_id) or store.load_one(self._writer, row_id)

    def states(self) -> list[State]:
        """Of every channel that was ever closed."""
        return [state for _, state in store.load(self._writer)]

    def put(self, row_id: int, event: Event) -> None:
        self._queue.put_nowait((row_id, event))

    def _tick(self) -> None:
        for row_id in self._states:
            self.put(row_id, NewBlock())

    async def _block(self, height: BlockHeight) -> None:
        """Feerates are asked once a block. Without an answer the last ones hold."""
        rates = [self._env.fast, self._env.normal, self._env.slow]
        for place, target in enumerate(_TARGETS):
            try:
                rate: FeeratePerKw = await self._bus.request("chain", chain.GetFeerate(target))
                rates[place] = FeeratePerKw(max(FEERATE_FLOOR, rate))
            except (CommandRefused, OutcomeUnknown) as error:
                log.warning("feerate_not_known", target=target, error=str(error))
        self._env = Env(max(self._env.height, height), *rates)
        self._tick()

    # Stepping.

    async def _work(self) -> None:
        while True:
            row_id, event = await self._queue.get()
            try:
                await self._step(row_id, event)
            except Exception as error:
                # The others go on; this one is tried again at the next block, from what was saved.
                log.error("bug", service="onchain", channel=row_id, error=repr(error), exc_info=True)

    async def _step(self, row_id: int, event: Event | _FundingSpent) -> None:
        state = self._states.get(row_id)
        if isinstance(event, _FundingSpent):
            if event.height is None and state is not None and (state.height is not None or not event.seen):
                return  # a block has decided, or the mempool has shown which one it holds
            known = state is not None and state.facts.txid == Transaction.parse(event.tx).txid
            if known and event.height is None:
                return
            if not known or self._is_stale(row_id, state, event.tx):
                facts = self._outside.facts(row_id, event.tx)
                await self._take(row_id, machine.begin(facts, self._env, state))
                # Feerates are not followed while there is nothing to pay for.
                self._outside.run(self._block(self._env.height))
            state = self._states[row_id]
            if event.height is not None and event.height != state.height:
                # The tick of its block may have come first, while the channel saved this.
                self.put(row_id, NewBlock())
            event = NewBlock() if event.height is None else Confirmed(event.height)
        if state is not None:
            await self._take(row_id, machine.step(state, event, self._env))

    def _is_stale(self, row_id: int, state: State | None, tx: bytes) -> bool:
        """Between a sight of the peer's commitment in the mempool and its block the channel may have gone on."""
        if state is None or state.height is not None or state.facts.kind is Kind.OURS or state.resolved:
            return False
        fresh = self._outside.facts(row_id, tx)
        keys = {htlc.key for htlc in state.facts.htlcs}
        moved = any(htlc.key not in keys for htlc in fresh.htlcs)
        return moved or (fresh.kind, fresh.number) != (state.facts.kind, state.facts.number)

    async def _take(self, row_id: int, step: Step) -> None:
        if step.save:
            await self._writer.submit(store.put(row_id, step.state), now=True)
            self._states[row_id] = step.state
            self._index(row_id, step.state)
        for effect in step.effects:
            self._perform(row_id, step.state.facts, effect)

    def _index(self, row_id: int, state: State) -> None:
        for output in state.outputs:
            self._outputs[output.at] = row_id

    def _perform(self, row_id: int, facts: Facts, effect: Effect) -> None:
        match effect:
            case Watch():
                self._outside.run(self._watch(facts, effect))
            case Unwatch(txid=txid, index=index):
                self._outputs.pop((txid, index), None)
                self._bus.send("chain", chain.UnwatchOutput(txid, index))
            case FindPoint(number=number):
                self._once(row_id, "point", 0, self._find_point(row_id, facts, number))
            case Sign(claim=claim):
                self._once(row_id, "sign", claim, self._sign(row_id, facts, effect))
            case NeedCoins(claim=claim):
                self._once(row_id, "coins", claim, self._find_coins(row_id, facts, effect))
            case ReleaseCoins(claim=claim):
                self._bus.send("wallet", wallet.ReleasePlan(purpose_of(facts, claim)))
            case Publish():
                self._outside.run(self._publish(row_id, effect))
            case Forget(txid=txid):
                self._bus.send("chain", chain.Forget(txid))
            case Settle(outcome=outcome):
                self._outside.settled(row_id, outcome)
            case Warn(sentence=sentence):
                log.warning("onchain", channel=facts.channel_id.hex(), sentence=sentence)
            case Done():
                log.info("channel_resolved", channel=facts.channel_id.hex(), kind=facts.kind.value)
                self._outside.resolved(row_id)
            case _:
                assert_never(effect)

    def _once(self, row_id: int, what: str, claim: int, coroutine: Coroutine[Any, Any, Any]) -> None:
        """A question that is open is not asked a second time; the machine asks again at the next block."""
        key = (row_id, what, claim)
        if key in self._asking:
            coroutine.close()
            return
        self._asking.add(key)

        async def ask() -> None:
            try:
                await coroutine
            finally:
                self._asking.discard(key)

        self._outside.run(ask())

    # Questions.

    async def _watch(self, facts: Facts, effect: Watch) -> None:
        request = chain.WatchOutput(effect.txid, effect.index, effect.script, effect.since, mempool=True)
        try:
            await self._bus.request("chain", request, deadline=_PATIENCE)
        except (CommandRefused, OutcomeUnknown) as error:
            log.error("not_watched", channel=facts.channel_id.hex(), error=str(error))

    async def _tell(self, row_id: int, facts: Facts) -> None:
        """What the signer does not know yet, such as the last revocation, comes before the first question."""
        if row_id in self._told or not facts.tell:
            return
        reply = await self._signer.call(sign.ChannelRequest(facts.handle, facts.tell))
        if isinstance(reply, sign.ChannelAnswer) and reply.stopped is None:
            self._told.add(row_id)
        else:
            log.error("signer_not_told", channel=facts.channel_id.hex(), answer=str(reply))

    async def _find_point(self, row_id: int, facts: Facts, number: int) -> None:
        request: sign.Request = sign.FindPeerPoint(facts.handle, number)
        if facts.kind is Kind.OURS_LOST:
            # The chain has proven that our state is not the newest: from here on the signer must not go by it either.
            await self._call(row_id, facts, sign.MarkStale(facts.handle))
            request = sign.FindHolderPoint(facts.handle, number)
        reply = await self._call(row_id, facts, request)
        if isinstance(reply, sign.PeerPointFound | sign.HolderPointFound):
            self.put(row_id, PeerPointKnown(reply.point))
        else:
            log.error("point_not_found", channel=facts.channel_id.hex(), number=number, answer=str(reply))

    async def _sign(self, row_id: int, facts: Facts, effect: Sign) -> None:
        reply = await self._call(row_id, facts, effect.request)
        rate, claim = effect.request.feerate_per_kw, effect.claim
        match reply:
            case (
                sign.SweepSigned(transaction=tx)
                | sign.SecondStageSigned(transaction=tx)
                | sign.AnchorSigned(transaction=tx)
            ):
                self.put(row_id, Signed(claim, tx, rate))
            case sign.Refused():
                why = f"{reply.rule}: {reply.seen}, limit {reply.limit}. {reply.next_step}"
                self.put(row_id, NotSigned(claim, reply.tag, why))
            case _:
                self.put(row_id, NotSigned(claim, "", f"no signature yet: {reply}"))

    async def _call(self, row_id: int, facts: Facts, request: sign.Request) -> sign.Reply | SignerAway:
        try:
            await self._tell(row_id, facts)
            return await self._signer.call(request)
        except SignerAway as away:
            return away

    async def _find_coins(self, row_id: int, facts: Facts, effect: NeedCoins) -> None:
        purpose = purpose_of(facts, effect.claim)
        self.put(row_id, await find_coins(self._bus, effect.claim, purpose, effect.value))

    async def _publish(self, row_id: int, effect: Publish) -> None:
        """Without `keep`: an old form that was replaced is not sent for ever; we say the newest at each block."""
        request = chain.Broadcast(effect.tx, effect.label, keep=False, parents=effect.parents)
        try:
            result = await self._bus.request("chain", request, deadline=120)
        except (CommandRefused, OutcomeUnknown) as error:
            log.warning("not_sent", label=effect.label, error=str(error))
            return
        if not result.accepted:
            log.warning("broadcast_refused", label=effect.label, reason=result.reason)
            self.put(row_id, NotTaken(result.txid, result.reason))
