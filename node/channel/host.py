"""What every part of the channel service stands on: the channels, and what they ask of the outside (`Outside`)."""

import asyncio
from collections.abc import Callable

import structlog

from node.channel import store
from node.channel.channel import Answered, Channel
from node.channel.events import (
    Drop,
    Env,
    Publish,
    Resolve,
    Say,
    Send,
    SignerAsked,
    Tell,
)
from node.channel.opening import funding_script
from node.channel.resolutions import Resolutions, network_of
from node.channel.state import (
    CloseKind,
    Closing,
    Committed,
)
from node.onchain.resolver import Resolver
from node.signer_link.client import SignerClient
from node.storage.writer import Writer
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw
from protocol.bolt9 import FeatureSet
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import chain, peer
from protocol.bus.messages import channel as said
from protocol.bus.messages import signer as sign
from protocol.bus.messages.reserve import ReserveChanged
from protocol.bus.service import Service, hears
from protocol.errors import CommandRefused
from protocol.wire.message import encode

log = structlog.get_logger()
SIGNER_DEADLINE = 30.0


class ChannelHost(Service):
    """Holds the channels of the node and joins them with storage, signer, peers and chain."""

    keeps_revoked = False

    def __init__(
        self,
        bus: Bus,
        writer: Writer,
        signer: SignerClient,
        *,
        chain_hash: bytes,
    ) -> None:
        super().__init__(bus)
        self._writer = writer
        self._signer = signer
        self._env = Env()
        self._channels: dict[bytes, Channel] = {}
        self._closed: list[Committed] = []
        self._dirty: dict[int, Channel] = {}
        self._connections: dict[bytes, int] = {}
        self._features: dict[bytes, FeatureSet] = {}
        self._early: list[peer.FromPeer] = []
        self._fundings: dict[tuple[bytes, int], Channel] = {}
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self._next_row = 1
        self._ready = False
        self._reserve: ReserveChanged | None = None
        self._stalled: list[Channel] = []
        self._resolver = Resolver(bus, writer, signer, network_of(chain_hash), Resolutions(self, writer))

    def _add(self, channel: Channel) -> None:
        self._channels[channel.channel_id] = channel
        funding = channel.state.committed.params.fundings[0]
        self._fundings[funding.txid, funding.index] = channel
        self.bus.send("peer", peer.KeepPeer(channel.peer))

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

    def stalled(self, channel: Channel) -> None:
        self._stalled.append(channel)

    def revocation_accepted(self) -> None:
        """A received HTLC may fail once its onward HTLC left the other channel's commitments, as the signer knows
        them: also those that it signed and that a crash made us forget."""
        stalled, self._stalled = self._stalled, []
        for channel in stalled:
            channel.put(SignerAsked())

    def perform(self, channel: Channel, effect: Send | Drop | Tell | Say | Publish | Resolve) -> None:
        match effect:
            case Send(messages=messages):
                if self._connections.get(channel.peer) == channel.connection:
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
        try:
            result = await self.bus.request("chain", chain.Broadcast(tx, label, keep=True), deadline=120)
        except (CommandRefused, OutcomeUnknown) as error:
            # It is kept, and goes out with a later block.
            log.warning("not_sent", label=label, error=str(error))
            return
        if not result.accepted:
            log.warning("broadcast_refused", label=label, reason=result.reason)

    def channel_of(self, row_id: int) -> Channel | None:
        return next((c for c in self._channels.values() if c.row_id == row_id), None)

    def _of_peer(self, node_id: bytes) -> list[Channel]:
        return [channel for channel in self._channels.values() if channel.peer == node_id]

    def _watch(self, channel: Channel) -> None:
        committed = channel.state.committed
        funding = committed.params.fundings[0]
        since = committed.funding_height or committed.opened_height or 0
        script = funding_script(committed.params)
        watch = chain.WatchOutput(funding.txid, funding.index, script, since, mempool=True)
        self.run(self._ask_chain(watch))

    async def _ask_chain(self, watch: chain.WatchOutput) -> None:
        try:
            await self.bus.request("chain", watch, deadline=86_400)
        except (CommandRefused, OutcomeUnknown) as error:
            log.error("not_watched", txid=watch.txid[::-1].hex(), error=str(error))

    @hears(ReserveChanged)
    def reserve_changed(self, event: ReserveChanged) -> None:
        self._reserve = event

    def reserve(self) -> ReserveChanged | None:
        return self._reserve

    async def feerate(self, target: int) -> FeeratePerKw:
        rate: FeeratePerKw = await self.bus.request("chain", chain.GetFeerate(target))
        return FeeratePerKw(max(FEERATE_FLOOR, rate))

    async def mempool_minimum(self) -> FeeratePerKw:
        rate: FeeratePerKw = await self.bus.request("chain", chain.GetMempoolMinimum())
        return rate

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

    def _raise_if_needed(self, channel: Channel) -> None:
        """Our commitment is on its way: if its fee turns out too low, its anchor pays."""
        phase = channel.state.committed.phase
        if isinstance(phase, Closing) and phase.kind is CloseKind.OURS and phase.tx and phase.height is None:
            self._resolver.published(channel.row_id, phase.tx)
