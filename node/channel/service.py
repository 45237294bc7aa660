"""The channel service: every channel of the node, its peers, its signer and its chain joined on the bus."""

import asyncio
from copy import copy
from typing import ClassVar

import structlog
from msgspec.structs import replace

from node.channel import store
from node.channel.chain_side import BlockTold
from node.channel.channel import MIN_RETRY_SECONDS, Channel
from node.channel.commands import Commands, hello
from node.channel.events import (
    Disconnected,
    Fail,
    FromPeer,
    Fulfil,
    Offer,
    SignerAsked,
    SignerIsAhead,
    Tick,
)
from node.channel.recovery import lost_reason, signer_is_behind
from node.channel.reserve import check_offer
from node.channel.state import (
    Closed,
    Closing,
    Lost,
    OfferWant,
    State,
)
from node.onchain.events import ClaimWanted
from node.signer_link.client import SignerAway, SignerState
from protocol.amounts import Msat
from protocol.bolt9 import FeatureSet
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages import chain, peer
from protocol.bus.messages import channel as said
from protocol.bus.messages import signer as sign
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.service import handles, hears
from protocol.errors import CommandRefused, MalformedMessage
from protocol.wire.bolt1 import ALL_CHANNELS, Error, Warning
from protocol.wire.bolt2_open import AcceptChannel, FundingCreated, OpenChannel
from protocol.wire.message import Message, UnknownMessage, decode, encode

log = structlog.get_logger()
MAX_EARLY = 500
"""Messages that wait while this service starts; a peer has a handful to say then."""


class ChannelService(Commands):
    name: ClassVar[str] = "channel"

    async def start(self) -> None:
        self._next_row = store.next_row_id(self._writer)
        self._closed = store.load_closed(self._writer)
        loaded = [Channel(row_id, state, self) for row_id, state in store.load(self._writer)]
        for channel in loaded:
            self._add(channel)
        for channel in loaded:
            committed = channel.state.committed
            if committed.alias_local is None:  # older than aliases
                committed.alias_local = self.new_alias()
                self._writer.submit(store.put_header(channel.row_id, committed), now=True)
        await super().start()
        self.run(self._begin())

    async def _begin(self) -> None:
        """Compares our numbers with the signer's, then lets every channel go on where it stood."""
        await self._signer.wait_up()
        await self._compare_numbers()
        try:
            tip = await self.bus.request("chain", chain.GetTip(), deadline=600)
            # A block that came meanwhile was told already, and is newer.
            self._env = replace(self._env, height=self._env.height or tip.height)
            feerate = await self.feerate(6)
            self._env = replace(self._env, feerate_per_kw=feerate)
        except (CommandRefused, OutcomeUnknown) as error:
            log.warning("chain_not_known_yet", error=str(error))
        self._ready = True
        self._resolver.start(frozenset(c.row_id for c in self._channels.values()), self._env.height)
        for channel in list(self._channels.values()):
            channel.put(Tick())
            self._watch(channel)
            self.run(self._send_funding(channel))
            if (connection := self._connections.get(channel.peer)) is not None:
                channel.put(hello(self.features(channel.peer), connection))
        self.bus.send(self.name, BlockTold(self._env.height))
        early, self._early = self._early, []
        for event in early:
            self.from_peer(event)

    async def _compare_numbers(self) -> None:
        if not self._channels:
            return
        while True:
            try:
                numbers = await self._signer.call(sign.ChannelNumbers())
            except SignerAway:
                await self._signer.wait_up()
                continue
            if not isinstance(numbers, sign.NotNow):
                break
            # Without the numbers an old copy of our database would go on as though it were the newest.
            await asyncio.sleep(max(MIN_RETRY_SECONDS, numbers.retry_after_seconds))
        if not isinstance(numbers, sign.Numbers):
            log.error("signer_numbers_refused", answer=type(numbers).__name__)
            return
        known = {entry.channel: entry for entry in numbers.channels}
        for channel in list(self._channels.values()):
            committed = channel.state.committed
            numbers_of = known.get(committed.params.handle)
            reason = lost_reason(committed, numbers_of)
            if numbers_of is not None and not numbers_of.frozen and signer_is_behind(committed, numbers_of):
                await self._mark_stale(committed.params.handle)
            if reason is not None and not isinstance(committed.phase, Closing | Closed | Lost):
                log.error("channel_in_recovery", channel=channel.channel_id.hex(), reason=reason)
                await self._mark_lost(channel, reason)
            elif numbers_of is not None and numbers_of.counterparty_signed > committed.remote_number:
                channel.put(SignerIsAhead(numbers_of.counterparty_signed))

    async def _mark_stale(self, handle: bytes) -> None:
        """So that nobody, not even a stolen node, gets an old commitment of this channel signed."""
        try:
            await self._signer.call(sign.MarkStale(handle))
        except SignerAway as error:
            log.warning("signer_not_told_that_it_is_old", reason=str(error))

    async def _mark_lost(self, channel: Channel, reason: str) -> None:
        committed = copy(channel.state.committed)
        committed.phase, committed.why = Lost(reason), reason
        channel.state = State(committed, channel.state.htlcs, channel.state.volatile)
        blob = store.put_header(channel.row_id, committed)
        await self._writer.submit(blob, now=True)

    @hears(peer.PeerUp)
    def peer_up(self, event: peer.PeerUp) -> None:
        self._connections[event.node_id] = event.connection
        self._features[event.node_id] = FeatureSet.from_bytes(event.features)
        if self._ready:
            for channel in self._of_peer(event.node_id):
                channel.put(hello(self.features(channel.peer), event.connection))

    @hears(peer.PeerDown)
    def peer_down(self, event: peer.PeerDown) -> None:
        if self._connections.get(event.node_id) != event.connection:
            return
        del self._connections[event.node_id]
        self._features.pop(event.node_id, None)
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
                self.openings.failed(node_id, message)
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
        elif (short := self._reserve_short(channel, request.amount_msat)) is not None:
            self._refuse_offer(request, short.sentence, short.what_to_do)
        else:
            want = OfferWant(
                request.amount_msat,
                request.payment_hash,
                request.cltv_expiry,
                request.onion,
                request.origin,
            )
            channel.put(Offer(want))

    def _reserve_short(self, channel: Channel, amount_msat: Msat) -> CommandRefused | None:
        if self._reserve is None or not channel.state.committed.params.anchors:
            return None
        try:
            check_offer(self._reserve, (c.state for c in self._channels.values()), amount_msat)
        except CommandRefused as refusal:
            return refusal
        return None

    def _refuse_offer(self, request: said.OfferHtlc, sentence: str, what_to_do: str) -> None:
        self.bus.send("payments", said.HtlcRefused(request.origin, sentence, what_to_do))

    @hears(said.FulfilHtlc)
    def fulfil(self, request: said.FulfilHtlc) -> None:
        if (channel := self._channels.get(request.channel_id)) is not None:
            channel.put(
                Fulfil(
                    request.htlc_id,
                    request.preimage,
                    request.others,
                    request.hold_time,
                    request.attribution,
                    request.promised,
                )
            )
            if self._resolver.state(channel.row_id) is not None:
                wanted = ClaimWanted(request.htlc_id, request.preimage, request.others)
                self._resolver.put(channel.row_id, wanted)

    @hears(said.FailHtlc)
    def fail(self, request: said.FailHtlc) -> None:
        if (channel := self._channels.get(request.channel_id)) is not None:
            channel.put(
                Fail(
                    request.htlc_id,
                    request.failure,
                    request.from_next,
                    request.hold_time,
                    request.attribution,
                )
            )

    @handles(said.LiveOrigins)
    def live_origins(self, request: said.LiveOrigins) -> said.Origins:
        """What became of the HTLCs that we offered for somebody, live and settled."""
        found: list[tuple[str, str, bytes | None, bytes | None, int | None]] = []
        attributions: list[tuple[str, bytes]] = []
        for origin, preimage, failure, code, done, told in store.origins(self._writer, request.origins):
            if told is not None and (done or preimage is not None):
                attributions.append((origin, told))
            if preimage is not None:
                found.append((origin, "fulfilled", preimage, None, None))
            elif done:
                found.append((origin, "failed", None, failure, code))
            else:
                found.append((origin, "pending", None, None, None))
        return said.Origins(tuple(found), tuple(attributions))

    @handles(said.SettledReceived)
    def settled_received(self, request: said.SettledReceived) -> said.Settled:
        found = ((h, store.settled_received(self._writer, h)) for h in request.payment_hashes)
        return said.Settled(tuple((h, amount) for h, amount in found if amount))

    @hears(SignerLink)
    def signer_link(self, event: SignerLink) -> None:
        if self._ready:
            self.warn_in_time()
        if event.up and self._ready:
            self._resolver.signer_is_back()
            for channel in self._channels.values():
                channel.put(SignerAsked())
            self.send_fundings_again()

    async def stop(self) -> None:
        await super().stop()
        self.openings.stop()
