"""Peer storage, both roles: what peers give us to keep, and what they keep of ours (BOLT 1, "Peer storage").

What we keep is sent back by the peer service right after init, before anything else is said. What is ours comes from
the backup as ciphertext and goes back to it as it came: nothing here can read it, and nothing here trusts it.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import ClassVar

import structlog

from node.peer.storage import table
from node.storage.writer import Unit, Writer
from protocol.amounts import BlockHeight
from protocol.bolt9 import OUR_INIT, FeatureSet, negotiated
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import chain
from protocol.bus.messages import channel as channels
from protocol.bus.messages import peer as messages
from protocol.bus.service import Service, hears
from protocol.errors import CommandRefused, MalformedMessage
from protocol.wire import bolt1, decode, encode

log = structlog.get_logger()
STORE_SECONDS = 60.0
"""At most one update of a peer is stored in this time; of several, the last."""
KEEP_BLOCKS = 2016
"""How long a blob outlives the peer's last channel."""
MOST_RETRIEVALS = 8
"""Of our blob that a peer may give back on one connection."""
_NOT_OPEN = ("CHANNELD_AWAITING_LOCKIN", "CLOSED")
"""A channel that costs its opener nothing does not buy storage."""


class _Peer:
    """A connected peer. `provides`: it stores for others. `sent`: what it was given of ours on this connection."""

    __slots__ = ("connection", "provides", "retrievals", "sent")

    def __init__(self, connection: int, *, provides: bool) -> None:
        self.connection = connection
        self.provides = provides
        self.retrievals = 0
        self.sent: bytes | None = None


class PeerStorageService(Service):
    name: ClassVar[str] = "peer_storage"

    def __init__(
        self,
        bus: Bus,
        writer: Writer,
        *,
        clock: Callable[[], float] = time.monotonic,
        tick_seconds: float = 5.0,
    ) -> None:
        super().__init__(bus)
        self._writer = writer
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._peers: dict[bytes, _Peer] = {}
        self._waiting: dict[bytes, bytes] = {}
        """The last blob of each peer that was not stored yet."""
        self._next: dict[bytes, float] = {}
        """Before this time nothing more of a peer is stored."""
        self._strangers: set[bytes] = set()
        """Who has no open channel, as far as we looked; forgotten with the time in `_next`."""
        self._ours: bytes | None = None
        self._to_give = False
        self._giving = False
        self._ageing = False

    async def start(self) -> None:
        await super().start()
        self.run(self._ticking())

    async def stop(self) -> None:
        """What a peer gave us and still waits for its turn is stored now: the peer believes that we have it."""
        await super().stop()  # first: what was just being stored waits again then
        for node_id in list(self._waiting):
            if node_id not in self._strangers and table.blob_of(self._writer, node_id) is not None:
                self._writer.submit(table.put(node_id, self._waiting.pop(node_id)), now=True)

    async def _ticking(self) -> None:
        while True:
            await asyncio.sleep(self._tick_seconds)
            self.tick()

    def tick(self) -> None:
        """Stores what waited long enough, and tries again what could not be done."""
        now = self._clock()
        for node_id in [node_id for node_id, due in self._next.items() if due <= now]:
            del self._next[node_id]
            self._strangers.discard(node_id)
        for node_id in list(self._waiting):
            self._store_if_due(node_id)
        self._give_out()

    # Peers.

    @hears(messages.PeerUp)
    def peer_up(self, event: messages.PeerUp) -> None:
        features = FeatureSet.from_bytes(event.features)
        provides = negotiated(OUR_INIT, features, "option_provide_storage")
        self._peers[event.node_id] = _Peer(event.connection, provides=provides)
        if provides:
            self._give_soon()

    @hears(messages.PeerDown)
    def peer_down(self, event: messages.PeerDown) -> None:
        one = self._peers.get(event.node_id)
        if one is not None and one.connection == event.connection:
            del self._peers[event.node_id]

    @hears(messages.FromPeer)
    def from_peer(self, event: messages.FromPeer) -> None:
        one = self._peers.get(event.node_id)
        if one is None or one.connection != event.connection:
            return
        try:
            message = decode(event.frame)
        except MalformedMessage as error:
            text = str(error).encode("ascii", "replace")[:400]
            warning = encode(bolt1.Warning(bolt1.ALL_CHANNELS, text))
            drop = messages.DropPeer(event.node_id, one.connection, f"malformed message: {error}", (warning,))
            self.bus.send("peer", drop)
            return
        match message:
            case bolt1.PeerStorage(blob=blob):
                if event.node_id not in self._strangers:
                    self._waiting[event.node_id] = blob
                    self._store_if_due(event.node_id)
            case bolt1.PeerStorageRetrieval(blob=blob):
                one.retrievals += 1
                if blob and one.retrievals <= MOST_RETRIEVALS:
                    self.bus.publish(messages.OurBlobCameBack(event.node_id, blob))
            case _:
                pass

    # What we keep for others.

    def _store_if_due(self, node_id: bytes) -> None:
        now = self._clock()
        if self._next.get(node_id, now) > now:
            return  # a tick will store it, or what replaces it
        self._next[node_id] = now + STORE_SECONDS
        self.run(self._store(node_id, self._waiting.pop(node_id)))

    async def _store(self, node_id: bytes, blob: bytes) -> None:
        try:
            open_to = await self._with_channels(channels.ListChannels(peer=node_id))
        except asyncio.CancelledError:
            self._waiting.setdefault(node_id, blob)  # the service stops, and stores what waits
            raise
        if open_to is None:
            self._waiting.setdefault(node_id, blob)  # nothing newer came meanwhile
        elif node_id not in open_to:
            self._strangers.add(node_id)
            log.info("peer_storage_ignored", peer=node_id.hex(), reason="there is no open channel with it")
        else:
            await self._writer.submit(table.put(node_id, blob), now=True)

    async def _with_channels(self, request: channels.ListChannels) -> frozenset[bytes] | None:
        """The peers with an open channel; None when nobody can say now."""
        try:
            found: channels.Channels = await self.bus.request("channel", request)
        except (CommandRefused, OutcomeUnknown):
            return None
        return frozenset(one.peer for one in found.channels if one.state not in _NOT_OPEN)

    @hears(chain.TipChanged)
    def tip_changed(self, event: chain.TipChanged) -> None:
        if not self._ageing:
            self._ageing = True
            self.run(self._age(event.height))

    async def _age(self, height: BlockHeight) -> None:
        """Counts the blocks since a peer's last channel, and forgets what was kept long enough."""
        try:
            kept = table.released(self._writer)
            open_to = await self._with_channels(channels.ListChannels()) if kept else None
            if open_to is None:
                return
            changes: list[tuple[bytes, BlockHeight | None]] = []
            ended: list[bytes] = []
            for node_id, since in kept.items():
                if node_id in open_to:
                    if since is not None:
                        changes.append((node_id, None))
                elif since is None:
                    changes.append((node_id, height))
                elif height - since >= KEEP_BLOCKS:
                    ended.append(node_id)
            self._write(table.release(changes), changes)
            self._write(table.drop(ended), ended)
        finally:
            self._ageing = False

    def _write(self, unit: Unit, rows: Iterable[object]) -> None:
        if rows:
            self._writer.submit(unit, now=False)

    # What others keep for us.

    @hears(messages.PutOurBlob)
    def put_our_blob(self, message: messages.PutOurBlob) -> None:
        size = len(message.blob)
        if not 0 < size <= bolt1.LARGEST_BLOB:
            log.error("our_blob_refused", size=size, limit=bolt1.LARGEST_BLOB)
            return
        self._ours = message.blob
        self._give_soon()

    @hears(channels.ChannelStateChanged)
    def channel_changed(self, event: channels.ChannelStateChanged) -> None:
        if event.new == "CHANNELD_NORMAL":
            self._give_soon()

    def _give_soon(self) -> None:
        self._to_give = self._ours is not None
        self._give_out()

    def _give_out(self) -> None:
        if self._to_give and not self._giving:
            self._giving = True
            self.run(self._give())

    async def _give(self) -> None:
        """Our newest blob to every peer with a channel that stores for others and did not get it on this connection."""
        try:
            while self._to_give:
                self._to_give = False
                open_to = await self._with_channels(channels.ListChannels())
                if open_to is None:
                    self._to_give = True
                    return  # the next tick tries again
                for node_id, one in self._peers.items():
                    if (
                        one.provides
                        and node_id in open_to
                        and one.sent != self._ours
                        and self._ours is not None
                    ):
                        one.sent = self._ours
                        frame = encode(bolt1.PeerStorage(self._ours))
                        self.bus.send("peer", messages.ToPeer(node_id, one.connection, (frame,)))
        finally:
            self._giving = False
