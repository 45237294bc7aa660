"""What people ask of channels: open, close, list."""

import os

import structlog
from msgspec.structs import replace

from node.channel import static, store
from node.channel.chain_side import BlockTold
from node.channel.channel import Channel
from node.channel.events import (
    CloseWanted,
    Connected,
    ForceCloseWanted,
    FromPeer,
)
from node.channel.explain import Explains
from node.channel.openings import Openings, alias_of
from node.channel.state import (
    AwaitingLockIn,
    Closed,
    Closing,
    Committed,
    State,
    Volatile,
)
from node.channel.terms import Policy
from node.channel.view import channel_info
from node.signer_link.client import SignerClient, SignerState
from node.storage.writer import Writer
from protocol.amounts import ShortChannelId, format_scid
from protocol.bitcoin.transaction import Transaction
from protocol.bolt9 import OUR_INIT, ChannelType, FeatureSet, negotiated
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import channel as said
from protocol.bus.messages import wallet
from protocol.bus.messages.backup import ChannelRecords, ExportChannels
from protocol.bus.messages.node import Counters, GetCounters
from protocol.bus.service import handles
from protocol.errors import CommandRefused
from protocol.wire.message import Message

log = structlog.get_logger()
BUMP_SECONDS = 60
"""How long the peer may take to sign a closing transaction that replaces another."""


def hello(theirs: FeatureSet, connection: int, *, fresh: bool = False) -> Connected:
    """A connection to a peer with these features, as its channels are told of it."""
    return Connected(
        connection,
        fresh,
        simple_close=negotiated(OUR_INIT, theirs, "option_simple_close"),
        can_quiesce=negotiated(OUR_INIT, theirs, "option_quiesce"),
    )


class Commands(Explains):
    """Answers requests, and hosts the openings (`Host`)."""

    def __init__(
        self,
        bus: Bus,
        writer: Writer,
        signer: SignerClient,
        *,
        chain_hash: bytes,
        policy: Policy | None = None,
    ) -> None:
        super().__init__(bus, writer, signer, chain_hash=chain_hash)
        policy = policy or Policy()
        self._env = replace(self._env, max_dust=policy.max_dust)
        self.openings = Openings(bus, signer, policy, chain_hash, self)
        self._not_sent: dict[int, Channel] = {}
        """Channels whose funding transaction could not be sent, by their rows."""

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
        params = committed.params
        kind = ChannelType.of(anchors=params.anchors, scid_alias=params.scid_alias, zeroconf=params.zeroconf)
        return said.ChannelFunded(params.channel_id, sent.txid, funding.index, sent.tx, kind.bits)

    async def opened(self, committed: Committed) -> None:
        """Called by an opening once the funding is signed: durable from here on, before another byte leaves."""
        committed.opened_height = self._env.height or None
        row_id, self._next_row = self._next_row, self._next_row + 1
        await self._writer.submit(store.new_channel(row_id, committed), now=True)
        channel = Channel(row_id, State(committed, {}, Volatile()), self)
        self._add(channel)
        self._watch(channel)
        # The peer may be gone before the channel has its first turn; the backup must not wait for that.
        self.bus.publish(said.ChannelsTouched((channel.channel_id,)))

    def begin(self, committed: Committed, connection: int | None, early: tuple[Message, ...] = ()) -> None:
        """The last message of the opening has left: the channel is on the line without a reestablish, unless the peer
        is on another connection by now."""
        channel = self._channels[committed.params.channel_id]
        current = self._connections.get(channel.peer)
        if current is not None:
            channel.put(hello(self.features(channel.peer), current, fresh=current == connection))
        if current == connection:
            for message in early:
                channel.put(FromPeer(message))

    def connection(self, node_id: bytes) -> int | None:
        return self._connections.get(node_id)

    def features(self, node_id: bytes) -> FeatureSet:
        return self._features.get(node_id, FeatureSet())

    def new_alias(self) -> ShortChannelId:
        known = [c.state.committed for c in self._channels.values()] + self._closed
        taken = {c.alias_local for c in known} | {c.short_channel_id for c in known}
        while (alias := alias_of(os.urandom(8))) in taken:
            pass
        return alias

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
            self._not_sent[channel.row_id] = channel
            return None
        return sent

    def block_told(self, event: BlockTold) -> None:
        super().block_told(event)
        self.send_fundings_again()

    def send_fundings_again(self) -> None:
        """At each block, and when the signer is back."""
        again, self._not_sent = self._not_sent, {}
        for channel in again.values():
            self.run(self._send_funding(channel))

    @handles(said.CloseChannel)
    async def close_channel(self, request: said.CloseChannel) -> said.ChannelClosed:
        channel = self._select(request.selector)
        timeout = request.unilateral_timeout
        offline = channel.peer not in self._connections
        rate = request.feerate_per_kw
        before = self._closing_tx(channel)
        if not isinstance(channel.state.committed.phase, Closing):
            if offline and timeout == 1:
                channel.command(ForceCloseWanted("you asked to close this channel at once"), self._env)
            else:
                channel.command(CloseWanted(rate), self._env)
        elif rate is not None:
            channel.command(CloseWanted(rate), self._env)
            await self._wait(lambda: self._closing_tx(channel) != before, BUMP_SECONDS)
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

    def _select(self, selector: str) -> Channel:
        text = selector.lower()
        found = [
            channel
            for channel in self._channels.values()
            if text in (channel.channel_id.hex(), channel.peer.hex(), *_scid_texts(channel))
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

    @handles(ExportChannels)
    def export_channels(self, _request: ExportChannels) -> ChannelRecords:
        """For a static backup."""
        found = (static.record(channel.state.committed) for channel in self._channels.values())
        return ChannelRecords(tuple(record for record in found if record is not None))

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


def _scid_texts(channel: Channel) -> list[str]:
    committed = channel.state.committed
    return [
        format_scid(one) for one in (committed.short_channel_id, committed.alias_local) if one is not None
    ]
