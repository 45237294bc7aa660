"""The channel service: every channel of the node, its peers, its signer and its chain joined on the bus."""

import asyncio
from collections.abc import Callable
from copy import copy
from typing import ClassVar

import structlog
from msgspec.structs import replace

from node.channel import store
from node.channel.channel import Answered, Channel
from node.channel.events import (
    CloseWanted,
    Connected,
    Disconnected,
    Drop,
    Env,
    Fail,
    FeerateMoved,
    ForceCloseWanted,
    FromPeer,
    Fulfil,
    FundingConfirmed,
    FundingReorganised,
    FundingSpent,
    Offer,
    Publish,
    Resolve,
    Say,
    Send,
    SignerAsked,
    Tell,
    Tick,
)
from node.channel.handover import running
from node.channel.opening import funding_script
from node.channel.openings import Openings, commitment_feerate
from node.channel.recovery import lost_reason
from node.channel.resolutions import Resolutions, network_of
from node.channel.state import (
    AwaitingLockIn,
    Closed,
    CloseKind,
    Closing,
    Committed,
    Lost,
    Normal,
    OfferWant,
    ShuttingDown,
    State,
    Volatile,
)
from node.channel.terms import Policy
from node.channel.view import channel_info
from node.onchain.deadlines import must_close
from node.onchain.resolver import Resolver
from node.signer_link.client import SignerAway, SignerClient, SignerState
from node.storage.writer import Writer
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw, format_scid, scid
from protocol.bitcoin.transaction import Transaction
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import chain, peer, wallet
from protocol.bus.messages import channel as said
from protocol.bus.messages import signer as sign
from protocol.bus.messages.node import Counters, GetCounters
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused, MalformedMessage
from protocol.wire.bolt1 import ALL_CHANNELS, Error, Warning
from protocol.wire.bolt2_open import AcceptChannel, FundingCreated, OpenChannel
from protocol.wire.message import Message, UnknownMessage, decode, encode

log = structlog.get_logger()
SIGNER_DEADLINE = 30.0
MAX_EARLY = 500
"""Messages that wait while this service starts; a peer has a handful to say then."""


class _BlockTold:
    """To ourselves."""

    def __init__(self, height: BlockHeight) -> None:
        self.height = height


class ChannelService(Service):
    name: ClassVar[str] = "channel"

    def __init__(
        self,
        bus: Bus,
        writer: Writer,
        signer: SignerClient,
        *,
        chain_hash: bytes,
        policy: Policy | None = None,
    ) -> None:
        super().__init__(bus)
        self._writer = writer
        self._signer = signer
        self._env = Env()
        self._channels: dict[bytes, Channel] = {}
        self._closed: list[Committed] = []
        self._dirty: dict[int, Channel] = {}
        self._connections: dict[bytes, int] = {}
        self._early: list[peer.FromPeer] = []
        self._fundings: dict[tuple[bytes, int], Channel] = {}
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._next_row = 1
        self._ready = False
        self.openings = Openings(bus, signer, policy or Policy(), chain_hash, self)
        self._resolver = Resolver(bus, writer, signer, network_of(chain_hash), Resolutions(self, writer))

    # Starting.

    async def start(self) -> None:
        self._next_row = store.next_row_id(self._writer)
        self._closed = store.load_closed(self._writer)
        for row_id, state in store.load(self._writer):
            self._add(Channel(row_id, state, self))
        await super().start()
        self.run(self._begin())

    async def _begin(self) -> None:
        """Compares our numbers with the signer's, then lets every channel go on where it stood."""
        await self._signer.wait_up()
        await self._compare_numbers()
        try:
            tip = await self.bus.request("chain", chain.GetTip(), deadline=600)
            self._env = Env(height=tip.height, feerate_per_kw=await self.feerate(6))
        except (CommandRefused, OutcomeUnknown) as error:
            log.warning("chain_not_known_yet", error=str(error))
        self._ready = True
        self._resolver.start(frozenset(c.row_id for c in self._channels.values()), self._env.height)
        for channel in list(self._channels.values()):
            channel.put(Tick())
            self._watch(channel)
            self._raise_if_needed(channel)
            self.run(self._send_funding(channel))
            if (connection := self._connections.get(channel.peer)) is not None:
                channel.put(Connected(connection))
        self.bus.send(self.name, _BlockTold(self._env.height))
        early, self._early = self._early, []
        for event in early:
            self.from_peer(event)

    async def _compare_numbers(self) -> None:
        if not self._channels:
            return
        while True:
            try:
                numbers = await self._signer.call(sign.ChannelNumbers())
                break
            except SignerAway:
                await self._signer.wait_up()
        if not isinstance(numbers, sign.Numbers):
            log.error("signer_numbers_refused", answer=type(numbers).__name__)
            return
        known = {entry.channel: entry for entry in numbers.channels}
        for channel in self._channels.values():
            committed = channel.state.committed
            reason = lost_reason(committed, known.get(committed.params.handle))
            if reason is not None and not isinstance(committed.phase, Closing | Closed | Lost):
                log.error("channel_in_recovery", channel=channel.channel_id.hex(), reason=reason)
                await self._mark_lost(channel, reason)

    async def _mark_lost(self, channel: Channel, reason: str) -> None:
        committed = copy(channel.state.committed)
        committed.phase, committed.why = Lost(reason), reason
        channel.state = State(committed, channel.state.htlcs, channel.state.volatile)
        blob = store.put_header(channel.row_id, committed)
        await self._writer.submit(blob, now=True)

    def _add(self, channel: Channel) -> None:
        self._channels[channel.channel_id] = channel
        funding = channel.state.committed.params.fundings[0]
        self._fundings[funding.txid, funding.index] = channel
        self.bus.send("peer", peer.KeepPeer(channel.peer))

    # What the channels ask of us (`Outside`).

    def save(self, unit: store.Unit, *, now: bool) -> asyncio.Future[None]:
        return self._writer.submit(unit, now=now)

    def ask(self, request: sign.Request, answered: Answered) -> None:
        self._signer.call_nowait(request, answered, deadline=SIGNER_DEADLINE)

    def later(self, channel: Channel) -> None:
        self._dirty[channel.row_id] = channel
        self.wake()

    def after_turn(self) -> None:
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        for channel in dirty.values():
            channel.turn(self._env)
        self.bus.publish(said.ChannelsTouched(tuple(channel.channel_id for channel in dirty.values())))
        if self._waiters:
            self._wake_waiters()

    def perform(self, channel: Channel, effect: Send | Drop | Tell | Say | Publish | Resolve) -> None:
        match effect:
            case Send(messages=messages):
                self.send_frames(channel.peer, tuple(encode(message) for message in messages))
            case Drop(reason=reason, messages=messages):
                frames = tuple(encode(message) for message in messages)
                self._drop(channel.peer, reason, frames)
            case Tell(event=event):
                self.bus.send("payments", event)
            case Say(event=event):
                log.info(
                    "channel_state",
                    channel=event.channel_id.hex(),
                    old=event.old,
                    new=event.new,
                    why=event.why,
                )
                self.bus.publish(event)
                self._wake_waiters()
            case Publish(tx=tx):
                self.run(self._publish(tx, f"close of channel {channel.channel_id.hex()}"))
                self._raise_if_needed(channel)
            case Resolve(tx=tx, height=height):
                self._resolver.funding_spent(channel.row_id, tx, height)

    def send_frames(self, node_id: bytes, frames: tuple[bytes, ...]) -> None:
        connection = self._connections.get(node_id)
        if connection is not None:
            self.bus.send("peer", peer.ToPeer(node_id, connection, frames))

    def _drop(self, node_id: bytes, reason: str, frames: tuple[bytes, ...]) -> None:
        connection = self._connections.get(node_id)
        if connection is not None:
            log.warning("peer_broke_rule", peer=node_id.hex(), reason=reason)
            self.bus.send("peer", peer.DropPeer(node_id, connection, reason, frames))

    async def _publish(self, tx: bytes, label: str) -> None:
        result = await self.bus.request("chain", chain.Broadcast(tx, label, keep=True), deadline=120)
        if not result.accepted:
            log.warning("broadcast_refused", label=label, reason=result.reason)

    # Peers.

    @hears(peer.PeerUp)
    def peer_up(self, event: peer.PeerUp) -> None:
        self._connections[event.node_id] = event.connection
        if self._ready:
            for channel in self._of_peer(event.node_id):
                channel.put(Connected(event.connection))

    @hears(peer.PeerDown)
    def peer_down(self, event: peer.PeerDown) -> None:
        if self._connections.get(event.node_id) != event.connection:
            return
        del self._connections[event.node_id]
        self.openings.peer_down(event.node_id, event.reason)
        for channel in self._of_peer(event.node_id):
            channel.put(Disconnected())

    @hears(peer.FromPeer)
    def from_peer(self, event: peer.FromPeer) -> None:
        if self._connections.get(event.node_id) != event.connection:
            return
        if not self._ready:
            self._hold(event)
            return
        try:
            message = decode(event.frame)
        except MalformedMessage as error:
            warning = Warning(ALL_CHANNELS, str(error).encode("ascii", "replace")[:400])
            self._drop(event.node_id, f"malformed message: {error}", (encode(warning),))
            return
        if isinstance(message, UnknownMessage):
            return
        self._route(event.node_id, message)

    def _hold(self, event: peer.FromPeer) -> None:
        """The channels do not know of the connection yet, and channel_reestablish comes only once on it."""
        if len(self._early) >= MAX_EARLY:
            self._drop(event.node_id, "too many messages while we start", ())
        else:
            self._early.append(event)

    def _route(self, node_id: bytes, message: Message) -> None:
        if isinstance(message, OpenChannel | AcceptChannel | FundingCreated):
            self.openings.message(node_id, message.temporary_channel_id, message)
            return
        channel_id: bytes = getattr(
            message, "channel_id", ALL_CHANNELS
        )  # every other channel message has one
        if channel_id == ALL_CHANNELS:
            if isinstance(message, Error):
                for channel in self._of_peer(node_id):
                    channel.put(FromPeer(message))
            return
        found = self._channels.get(channel_id)
        if found is not None and found.peer == node_id:
            found.put(FromPeer(message))
        elif not self.openings.message(node_id, channel_id, message) and not isinstance(
            message, Error | Warning
        ):
            answer = Error(channel_id, b"this channel is not known here")
            self.send_frames(node_id, (encode(answer),))

    def channel_of(self, row_id: int) -> Channel | None:
        return next((c for c in self._channels.values() if c.row_id == row_id), None)

    def _of_peer(self, node_id: bytes) -> list[Channel]:
        return [channel for channel in self._channels.values() if channel.peer == node_id]

    # Payments.

    @hears(said.OfferHtlc)
    def offer(self, request: said.OfferHtlc) -> None:
        channel = self._channels.get(request.channel_id)
        if channel is None:
            self._refuse_offer(request, "this channel is not known", "Use another channel.")
        elif channel.halted:
            self._refuse_offer(request, f"this channel is halted: {channel.halted}", "Use another channel.")
        elif self._signer.state is not SignerState.UP:
            # It would wait, and nobody would see why. What is under way already goes on when the signer is back.
            away = f"the signer is away: {self._signer.reason}"
            self._refuse_offer(request, away, "Start it, then pay again.")
        else:
            want = OfferWant(
                request.amount_msat,
                request.payment_hash,
                request.cltv_expiry,
                request.onion,
                request.origin,
            )
            channel.put(Offer(want))

    def _refuse_offer(self, request: said.OfferHtlc, sentence: str, what_to_do: str) -> None:
        self.bus.send("payments", said.HtlcRefused(request.origin, sentence, what_to_do))

    @hears(said.FulfilHtlc)
    def fulfil(self, request: said.FulfilHtlc) -> None:
        if (channel := self._channels.get(request.channel_id)) is not None:
            channel.put(Fulfil(request.htlc_id))
            self._resolver.claim(channel.row_id, request.htlc_id)

    @hears(said.FailHtlc)
    def fail(self, request: said.FailHtlc) -> None:
        if (channel := self._channels.get(request.channel_id)) is not None:
            channel.put(Fail(request.htlc_id, request.failure))

    @handles(said.LiveOrigins)
    def live_origins(self, _request: said.LiveOrigins) -> said.Origins:
        """What became of every HTLC that we offered for somebody, live and settled."""
        found: list[tuple[str, str, bytes | None, bytes | None, int | None]] = []
        for origin, preimage, failure, code, done in store.origins(self._writer):
            if preimage is not None:
                found.append((origin, "fulfilled", preimage, None, None))
            elif done:
                found.append((origin, "failed", None, failure, code))
            else:
                found.append((origin, "pending", None, None, None))
        return said.Origins(tuple(found))

    @handles(said.SettledReceived)
    def settled_received(self, request: said.SettledReceived) -> said.Settled:
        found = ((h, store.settled_received(self._writer, h)) for h in request.payment_hashes)
        return said.Settled(tuple((h, amount) for h, amount in found if amount))

    # The chain.

    @hears(chain.TipChanged)
    def tip_changed(self, event: chain.TipChanged) -> None:
        self._env = Env(height=event.height, feerate_per_kw=self._env.feerate_per_kw)
        for channel in self._channels.values():
            if isinstance(channel.state.committed.phase, Closing) or channel.state.volatile.stalled:
                channel.put(SignerAsked())
        self.run(self._follow_feerate())
        # Behind the spends that this block told, which stand in our inbox already.
        self.bus.send(self.name, _BlockTold(event.height))

    async def _follow_feerate(self) -> None:
        try:
            rate = await self.feerate(6)
        except (CommandRefused, OutcomeUnknown):
            return
        self._env = Env(height=self._env.height, feerate_per_kw=rate)
        for channel in self._channels.values():
            committed = channel.state.committed
            if not committed.params.holder_is_opener:
                continue
            wanted = commitment_feerate(rate, anchors=committed.params.anchors)
            now = committed.fees[-1].feerate_per_kw
            if wanted > now * 1.3 or wanted < now * 0.6:  # hysteresis: each change costs a round
                channel.put(FeerateMoved(wanted))

    @hears(chain.OutputConfirmed)
    def output_confirmed(self, event: chain.OutputConfirmed) -> None:
        channel = self._fundings.get((event.txid, event.index))
        if channel is not None:
            position = scid(event.height, event.tx_index, event.index)
            channel.put(FundingConfirmed(event.height, position, event.depth))

    @hears(chain.OutputReorganised)
    def output_reorganised(self, event: chain.OutputReorganised) -> None:
        if (channel := self._fundings.get((event.txid, event.index))) is not None:
            channel.put(FundingReorganised())

    @hears(chain.OutpointSpent)
    def outpoint_spent(self, event: chain.OutpointSpent) -> None:
        if (channel := self._fundings.get((event.txid, event.index))) is not None:
            channel.put(FundingSpent(event.tx, event.height, event.depth))
        else:
            self._resolver.output_spent(event)

    @hears(chain.SpendReorganised)
    def spend_reorganised(self, event: chain.SpendReorganised) -> None:
        if (channel := self._fundings.get((event.txid, event.index))) is not None:
            self._resolver.funding_unspent(channel.row_id)
        else:
            self._resolver.output_unspent(event)

    @hears(_BlockTold)
    def block_told(self, event: _BlockTold) -> None:
        """Everything that the new blocks held was heard: what is due now, on chain and off."""
        self._resolver.new_block(event.height)
        if self._ready:  # before that nobody compared our numbers with the signer's
            for channel in self._channels.values():
                self._close_if_due(channel)

    def _raise_if_needed(self, channel: Channel) -> None:
        """Our commitment is on its way: if its fee turns out too low, its anchor pays."""
        phase = channel.state.committed.phase
        if isinstance(phase, Closing) and phase.kind is CloseKind.OURS and phase.tx and phase.height is None:
            self._resolver.published(channel.row_id, phase.tx)

    def _close_if_due(self, channel: Channel) -> None:
        """Looked at after each block, whether the peer is there or not (BOLT 5, "Failing a Channel")."""
        state = channel.state
        if not state.htlcs or not isinstance(state.committed.phase, Normal | ShuttingDown):
            return
        why = must_close(running(state.committed, state.htlcs), self._env.height)
        if why is not None:
            channel.put(ForceCloseWanted(why))

    def _watch(self, channel: Channel) -> None:
        committed = channel.state.committed
        funding = committed.params.fundings[0]
        since = committed.funding_height or 0
        watch = chain.WatchOutput(funding.txid, funding.index, funding_script(committed.params), since)
        self.run(self._ask_chain(watch))

    async def _ask_chain(self, watch: chain.WatchOutput) -> None:
        try:
            await self.bus.request("chain", watch, deadline=86_400)
        except (CommandRefused, OutcomeUnknown) as error:
            log.error("not_watched", txid=watch.txid[::-1].hex(), error=str(error))

    async def feerate(self, target: int) -> FeeratePerKw:
        rate: FeeratePerKw = await self.bus.request("chain", chain.GetFeerate(target))
        return FeeratePerKw(max(FEERATE_FLOOR, rate))

    # The signer.

    @hears(SignerLink)
    def signer_link(self, event: SignerLink) -> None:
        if event.up and self._ready:
            self._resolver.signer_is_back()
            for channel in self._channels.values():
                channel.put(SignerAsked())

    # Requests.

    @handles(said.FundChannel)
    async def fund_channel(self, request: said.FundChannel) -> said.ChannelFunded:
        connection = self._connections.get(request.peer)
        if connection is None:
            raise CommandRefused(
                "this peer is not connected",
                what_to_do="Connect to it first: lnp connect ID@HOST:PORT",
                code=-1,
            )
        committed = await self.openings.fund(request)
        channel = self._channels[committed.params.channel_id]
        sent = await self._send_funding(channel)
        if sent is None:
            raise CommandRefused(
                "the funding transaction could not be sent yet",
                what_to_do="The node goes on trying; watch `lnp listpeerchannels`.",
            )
        funding = committed.params.fundings[0]
        return said.ChannelFunded(committed.params.channel_id, sent.txid, funding.index, sent.tx)

    async def opened(self, committed: Committed) -> None:
        """Called by an opening once the funding is signed: durable from here on, before another byte leaves."""
        row_id, self._next_row = self._next_row, self._next_row + 1
        await self._writer.submit(store.new_channel(row_id, committed), now=True)
        channel = Channel(row_id, State(committed, {}, Volatile()), self)
        self._add(channel)
        self._watch(channel)

    def begin(self, committed: Committed) -> None:
        """The last message of the opening has left: the channel is on the line without a reestablish."""
        channel = self._channels[committed.params.channel_id]
        connection = self._connections.get(channel.peer)
        if connection is not None:
            channel.put(Connected(connection, fresh=True))

    def is_free(self, channel_id: bytes) -> bool:
        return channel_id not in self._channels and all(
            c.params.channel_id != channel_id for c in self._closed
        )

    async def _send_funding(self, channel: Channel) -> wallet.Sent | None:
        """Signs and broadcasts our funding transaction; after a crash again, until it is confirmed."""
        committed = channel.state.committed
        purpose = committed.funding_purpose
        waiting = isinstance(committed.phase, AwaitingLockIn) and committed.funding_height is None
        if purpose is None or not waiting:
            return None
        try:
            sent: wallet.Sent = await self.bus.request("wallet", wallet.SignAndSend(purpose), deadline=120)
        except (CommandRefused, OutcomeUnknown) as error:
            log.error("funding_not_sent", channel=channel.channel_id.hex(), error=str(error))
            return None
        return sent

    @handles(said.CloseChannel)
    async def close_channel(self, request: said.CloseChannel) -> said.ChannelClosed:
        channel = self._select(request.selector)
        timeout = request.unilateral_timeout
        offline = channel.peer not in self._connections
        if not isinstance(channel.state.committed.phase, Closing):
            if offline and timeout == 1:
                channel.command(ForceCloseWanted("you asked to close this channel at once"), self._env)
            else:
                channel.command(CloseWanted(), self._env)
        closed = await self._wait(lambda: self._closing_tx(channel) is not None, timeout or 86_400 * 365)
        if not closed:
            why = f"the peer did not agree on a close within {timeout} seconds"
            channel.command(ForceCloseWanted(why), self._env)
            await self._wait(lambda: self._closing_tx(channel) is not None, 60)
        tx = self._closing_tx(channel)
        if tx is None:
            raise OutcomeUnknown(
                "the close is under way, its transaction is not signed yet",
                what_to_do="Watch `lnp listpeerchannels`.",
            )
        await self._publish(tx, f"close of channel {channel.channel_id.hex()}")
        phase = channel.state.committed.phase
        mutual = isinstance(phase, Closing | Closed) and phase.kind.value == "mutual"
        return said.ChannelClosed("mutual" if mutual else "unilateral", tx, Transaction.parse(tx).txid)

    @staticmethod
    def _closing_tx(channel: Channel) -> bytes | None:
        phase = channel.state.committed.phase
        return phase.tx if isinstance(phase, Closing) and phase.tx else None

    async def _wait(self, done: Callable[[], bool], seconds: float) -> bool:
        if done():
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((done, future))
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return False
        return True

    def _wake_waiters(self) -> None:
        for done, future in list(self._waiters):
            if future.done() or done():
                self._waiters.remove((done, future))
                if not future.done():
                    future.set_result(None)

    def _select(self, selector: str) -> Channel:
        text = selector.lower()
        found = [
            channel
            for channel in self._channels.values()
            if text in (channel.channel_id.hex(), channel.peer.hex(), _scid_text(channel))
        ]
        if len(found) != 1:
            what = "no channel" if not found else f"{len(found)} channels"
            raise CommandRefused(
                f"{what} of ours fit {selector!r}",
                what_to_do="Name one channel by its channel_id; `lnp listpeerchannels` shows them.",
                code=-32602,
            )
        return found[0]

    @handles(GetCounters)
    def counters(self, _request: GetCounters) -> Counters:
        return Counters(self._writer.commits, self._signer.requests)

    @handles(said.ListChannels)
    def list_channels(self, request: said.ListChannels) -> said.Channels:
        states = [c.state for c in self._channels.values()]
        states += [State(committed, {}, Volatile()) for committed in self._closed]
        wanted = [s for s in states if request.peer in (None, s.committed.params.peer)]
        if request.channel_ids is not None:
            ids = frozenset(request.channel_ids)
            wanted = [s for s in wanted if s.committed.params.channel_id in ids]
        infos = [channel_info(state, self._env.height) for state in wanted]
        if self._signer.state is not SignerState.UP:
            away = f"waiting for the signer: {self._signer.reason}"
            infos = [info if info.state == "CLOSED" else replace(info, why=away) for info in infos]
        return said.Channels(tuple(infos))

    async def stop(self) -> None:
        await super().stop()
        self.openings.stop()


def _scid_text(channel: Channel) -> str:
    position = channel.state.committed.short_channel_id
    return "" if position is None else format_scid(position)
