"""Says what is to be said of our own channels and node, with the signer's signatures (BOLT 7; checklist 61).

Everything here is repeated until it is done: a signer or peer that is away costs time, nothing else.
"""

from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog
from msgspec.structs import replace

from node.routing.gossip import judge, own
from node.routing.gossip.book import Book
from node.routing.gossip.intake import Intake
from node.routing.gossip.own import OwnChannel
from node.routing.gossip.presence import NodeFace as NodeFace
from node.routing.gossip.presence import Presence, Signer, why
from node.routing.gossip.store import GossipStore
from node.signer_link.client import SignerAway
from protocol.amounts import ShortChannelId
from protocol.bolt7 import announcement as bolt7
from protocol.bolt7 import layout
from protocol.bus.bus import Bus
from protocol.bus.messages import signer as contract
from protocol.bus.messages.channel import ChannelInfo
from protocol.bus.messages.peer import ToPeer
from protocol.bus.messages.routing import ChannelPolicy
from protocol.wire.bolt1 import Warning
from protocol.wire.bolt7_gossip import (
    AnnouncementSignatures,
    ChannelAnnouncement,
    ChannelUpdate,
)
from protocol.wire.message import decode, encode

log = structlog.get_logger()
K = TypeVar("K")
V = TypeVar("V")
EARLY = 64
_OURS = b"ours"
"""Before a channel id: our own newest update in the store."""


class Announcer:
    """`connection_of`: the number of the connection with a peer, None while there is none."""

    def __init__(
        self,
        bus: Bus,
        *,
        node_id: bytes,
        chain_hash: bytes,
        presence: Presence,
        signer: Signer,
        book: Book,
        store: GossipStore,
        intake: Intake,
        connection_of: Callable[[bytes], int | None],
        steady: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._bus = bus
        self._node_id = node_id
        self._chain_hash = chain_hash
        self.presence = presence
        self._signer = signer
        self._book = book
        self._store = store
        self._intake = intake
        self._connection_of = connection_of
        self._steady = steady
        self._wall = wall
        self.channels: dict[bytes, OwnChannel] = {}
        self._policies: dict[bytes, ChannelPolicy] = {}
        self._names: dict[int, bytes] = {}
        self._early: dict[tuple[bytes, int], bytes] = {}
        self._early_signatures: dict[tuple[bytes, bytes], tuple[AnnouncementSignatures, int]] = {}
        """What peers said of new channels with us before we were told of these: they may be quicker by some moments."""
        self.dirty: set[bytes] = set()
        """Channels about which something may have to be said."""

    # What we are told.

    def seen(self, infos: Iterable[ChannelInfo]) -> None:
        """The newest state of some channels."""
        for info in infos:
            channel_id = info.channel_id
            known = self.channels.get(channel_id)
            if known is None:
                if info.state in own.GONE:
                    continue
                known = self.channels[channel_id] = OwnChannel(info, None)
                known.policy = self._policies.get(channel_id)
                self._remember(known)
            known.info = info
            if info.reestablished:
                known.away_since = None
            elif known.away_since is None:
                known.away_since = self._steady()
            for name in known.names:
                self._names[name] = channel_id
                early = self._early.pop((info.peer, name), None)
                for frame in (*self._intake.pooled(name), *(() if early is None else (early,))):
                    self.peer_update(name, frame, info.peer)
            signatures = self._early_signatures.pop((info.peer, channel_id), None)
            if signatures is not None:
                known.theirs, known.theirs_on = signatures
            self.dirty.add(channel_id)

    def gone(self, channel_ids: Iterable[bytes]) -> None:
        """Channels that are over."""
        for channel_id in channel_ids:
            channel = self.channels.get(channel_id)
            if channel is not None:
                self._forget(channel)

    def _remember(self, channel: OwnChannel) -> None:
        """What was said before the last stop."""
        kept = self._store.peer_update(_OURS + channel.info.channel_id)
        message = None if kept is None else decode(kept)
        if isinstance(message, ChannelUpdate):
            channel.update = kept
            channel.fields = _fields_of(message)
        theirs = self._store.peer_update(channel.info.channel_id)
        message = None if theirs is None else decode(theirs)
        if isinstance(message, ChannelUpdate):
            channel.peer_timestamp = message.timestamp

    def set_policy(self, channel_id: bytes, policy: ChannelPolicy) -> None:
        self._policies[channel_id] = policy
        channel = self.channels.get(channel_id)
        if channel is not None:
            channel.policy = policy
            self.dirty.add(channel_id)

    def lacks_policy(self) -> bool:
        return any(
            channel.policy is None and channel.info.state == own.NORMAL for channel in self.channels.values()
        )

    def tick(self) -> None:
        """Once a minute: refreshes, peers that stayed away, and what could not be done before."""
        self.dirty.update(self.channels)

    def is_ours(self, scid: int) -> bool:
        return scid in self._names

    def signatures_came(self, frame: bytes, peer: bytes, connection: int) -> None:
        """announcement_signatures of a peer; what is too early waits here."""
        message = decode(frame)
        if not isinstance(message, AnnouncementSignatures):
            return
        channel = self.channels.get(message.channel_id)
        if channel is None:
            _keep(self._early_signatures, (peer, message.channel_id), (message, connection))
            return
        if channel.info.peer != peer:
            self._warn(peer, connection, message.channel_id, "announcement_signatures of an unknown channel")
            return
        channel.theirs, channel.theirs_on = message, connection
        self.dirty.add(message.channel_id)

    def peer_update(self, scid: int, frame: bytes, source: bytes) -> bool:
        """Keeps what our peer says of a channel with us that is not announced. True when `scid` is ours."""
        channel_id = self._names.get(scid)
        channel = None if channel_id is None else self.channels.get(channel_id)
        if channel is None:
            if layout.update_head(frame).message_flags & bolt7.DONT_FORWARD:
                _keep(self._early, (source, scid), frame)
            return False
        message = decode(frame)
        peer = channel.info.peer
        if source != peer or not isinstance(message, ChannelUpdate):
            return True
        verdict = judge.own_peer_update(
            message,
            chain_hash=self._chain_hash,
            direction=bolt7.direction_of(peer, self._node_id),
            kept=channel.peer_timestamp,
            now=self._wall(),
        )
        if isinstance(verdict, judge.Take) and bolt7.check_of_update(message, frame, peer).holds():
            channel.peer_timestamp = message.timestamp
            self._store.put_peer_update(channel.info.channel_id, frame)
        return True

    def announced(self, scid: int) -> None:
        """A channel is public now. The peer may have been quicker with its public update, and says it only once."""
        channel_id = self._names.get(scid)
        channel = None if channel_id is None else self.channels.get(channel_id)
        frame = None if channel is None else self._store.peer_update(channel.info.channel_id)
        message = None if frame is None else decode(frame)
        if channel is None or frame is None or not isinstance(message, ChannelUpdate):
            return
        verdict = judge.update(
            message,
            chain_hash=self._chain_hash,
            kept=0,
            capacity_sat=channel.info.capacity,
            spent=False,
            now=self._wall(),
        )
        if isinstance(verdict, judge.Take) and message.short_channel_id == scid:
            self._intake.add_update(message, frame, channel.info.peer)

    # What is asked of us.

    async def own_update(self, channel_id: bytes, named: int | None = None) -> bytes | None:
        """With `named` under that name, which only who sent an HTLC by it will read: signed when it is first asked."""
        channel = self.channels.get(channel_id)
        if channel is None or channel.fields is None:
            return None
        if named is None or channel.fields.short_channel_id == named:
            return channel.update
        if named not in channel.names:
            return None
        newest = channel.fields
        kept = channel.aliased.get(named)
        if kept is not None and kept[0] is newest:
            return kept[1]
        # The signer wants each to be later than the last, whatever it names.
        channel.stamped = own.next_timestamp(self._wall(), max(newest.timestamp, channel.stamped))
        fields = replace(
            newest,
            short_channel_id=ShortChannelId(named),
            timestamp=channel.stamped,
            dont_forward=True,
        )
        try:
            frame = await self._signed_update(channel, fields)
        except SignerAway:
            return None
        if frame is not None:
            channel.aliased[named] = (newest, frame)  # there may be a newer one by now
        return frame

    def peer_policy(self, channel_id: bytes) -> ChannelPolicy | None:
        """From the newest that the peer said, to us alone or to everybody."""
        channel = self.channels.get(channel_id)
        if channel is None:
            return None
        frames = [self._store.peer_update(channel_id)]
        scid = channel.info.short_channel_id
        if scid is not None and scid in self._book:
            frames.append(self._store.policy(scid, bolt7.direction_of(channel.info.peer, self._node_id)))
        said = [message for frame in frames if frame and isinstance(message := decode(frame), ChannelUpdate)]
        if not said:
            return None
        newest = max(said, key=lambda message: message.timestamp)
        return ChannelPolicy(
            fee_base_msat=newest.fee_base_msat,
            fee_proportional_millionths=newest.fee_proportional_millionths,
            cltv_expiry_delta=newest.cltv_expiry_delta,
            htlc_minimum_msat=newest.htlc_minimum_msat,
            htlc_maximum_msat=newest.htlc_maximum_msat,
            enabled=not newest.channel_flags & bolt7.DISABLED,
        )

    def public_frames(self) -> list[bytes]:
        """All that we say in public, for a peer that comes."""
        announcements, updates = [], []
        for channel in self.channels.values():
            scid = channel.info.short_channel_id
            if scid is not None and scid in self._book and scid not in self._book.spent:
                frame = self._store.channel(scid)
                if frame is not None and channel.update is not None and not _is_private(channel):
                    announcements.append(frame)
                    updates.append(channel.update)
        node = self._store.node(self._node_id) if announcements else None
        return announcements + updates + ([node] if node is not None else [])

    # Saying it.

    async def work(self) -> None:
        """Says what is to be said of every dirty channel, then of the node."""
        while self.dirty:
            channel_id = self.dirty.pop()
            channel = self.channels.get(channel_id)
            if channel is None:
                continue
            try:
                await self._announce(channel)
                await self._tell_update(channel)
            except SignerAway:
                return  # it is tried again with the next tick
            if channel.info.state in own.GONE:
                self._forget(channel)
        if any(self._is_public(channel) for channel in self.channels.values()):
            try:
                await self.presence.tell()
            except SignerAway:
                return

    def _is_public(self, channel: OwnChannel) -> bool:
        scid = channel.info.short_channel_id
        return scid is not None and scid in self._book

    def _forget(self, channel: OwnChannel) -> None:
        scid = channel.info.short_channel_id
        if scid is not None and scid in self._book:
            self._book.spent.setdefault(scid, self._intake.tip)
        for name in channel.names:
            self._names.pop(name, None)
        self.channels.pop(channel.info.channel_id, None)

    async def _announce(self, channel: OwnChannel) -> None:
        info = channel.info
        if info.short_channel_id is None or not own.may_announce(info):
            return
        scid = ShortChannelId(info.short_channel_id)
        announced = scid in self._book
        connection = self._connection_of(info.peer)
        sending = own.must_send_signatures(channel, connection, announced=announced)
        if not sending and (announced or channel.theirs is None):
            return
        ours = await self._sign_announcement(channel, scid)
        if ours is None:
            return
        if sending and connection is not None:
            message = AnnouncementSignatures(
                info.channel_id, scid, ours.node_signature, ours.bitcoin_signature
            )
            self._bus.send("peer", ToPeer(info.peer, connection, (encode(message),)))
            channel.signatures_on = connection
        if not announced and channel.theirs is not None:
            self._complete(channel, scid, ours, channel.theirs)

    async def _sign_announcement(
        self, channel: OwnChannel, scid: ShortChannelId
    ) -> bolt7.EndSignatures | None:
        if channel.signed is not None and channel.signed[0] == scid:
            return channel.signed[1]
        info = channel.info
        reply = await self._signer.call(contract.SignChannelAnnouncement(info.handle, scid, info.peer))
        if not isinstance(reply, contract.ChannelAnnouncementSigned):
            self._trouble(channel, reply)
            return None
        ours = bolt7.EndSignatures(reply.node_signature, reply.bitcoin_signature)
        channel.signed = (scid, ours)
        return ours

    def _complete(
        self,
        channel: OwnChannel,
        scid: ShortChannelId,
        ours: bolt7.EndSignatures,
        theirs: AnnouncementSignatures,
    ) -> None:
        info = channel.info
        ends = own.ends_of(info, self._node_id, self._chain_hash, scid)
        remote = bolt7.EndSignatures(theirs.node_signature, theirs.bitcoin_signature)
        problem = ""
        if theirs.short_channel_id != scid:
            problem = "announcement_signatures for another short_channel_id than we see"
        elif not bolt7.remote_signatures_hold(ends, remote):
            problem = "announcement_signatures that do not sign our channel_announcement"
        if problem:
            if channel.theirs_on is not None:
                self._warn(info.peer, channel.theirs_on, info.channel_id, problem)
            channel.theirs = None
            return
        frame = bolt7.channel_announcement(ends, ours, remote)
        message = decode(frame)
        if isinstance(message, ChannelAnnouncement):
            log.info("channel_announced", channel=info.channel_id.hex(), short_channel_id=scid)
            self._intake.add_channel(message, frame, info.capacity, info.funding_txid, self._node_id)

    async def _tell_update(self, channel: OwnChannel) -> None:
        public = self._is_public(channel)
        now = self._wall()
        wanted = own.update_wanted(channel, public=public, now=self._steady())
        if wanted is None:
            return
        # Newer than ours and with our signature: said by us in a time of which this store knows nothing.
        forgotten = public and channel.fields is not None and self._shown(channel) > channel.fields.timestamp
        if forgotten or own.needs_update(channel.fields, wanted, now):
            await self._sign_update(channel, wanted, public=public, now=now)
        connection = self._connection_of(channel.info.peer)
        if (
            channel.update is not None
            and connection is not None
            and channel.info.reestablished
            and channel.told_on != connection
        ):
            channel.told_on = connection
            self._bus.send("peer", ToPeer(channel.info.peer, connection, (channel.update,)))

    def _shown(self, channel: OwnChannel) -> int:
        """The timestamp of our newest update that the network knows."""
        scid = channel.info.short_channel_id
        if scid is None or scid not in self._book:
            return 0
        return self._book.timestamp(scid, bolt7.direction_of(self._node_id, channel.info.peer))

    async def _sign_update(
        self, channel: OwnChannel, wanted: bolt7.UpdateFields, *, public: bool, now: float
    ) -> None:
        info = channel.info
        said = max(channel.stamped, 0 if channel.fields is None else channel.fields.timestamp)
        shown = self._shown(channel) if public else 0
        fields = replace(wanted, timestamp=own.next_timestamp(now, said, shown))
        channel.stamped = fields.timestamp  # another may be asked for by alias while the signer thinks
        frame = await self._signed_update(channel, fields)
        if frame is None:
            return
        channel.update, channel.fields, channel.told_on = frame, fields, None
        self._store.put_peer_update(_OURS + info.channel_id, frame)
        message = decode(frame)
        if public and isinstance(message, ChannelUpdate):
            self._intake.add_update(message, frame, self._node_id)

    async def _signed_update(self, channel: OwnChannel, fields: bolt7.UpdateFields) -> bytes | None:
        reply = await self._signer.call(
            contract.SignChannelUpdate(
                channel=channel.info.handle,
                short_channel_id=fields.short_channel_id,
                timestamp=fields.timestamp,
                dont_forward=fields.dont_forward,
                disabled=fields.disabled,
                cltv_expiry_delta=fields.cltv_expiry_delta,
                htlc_minimum_msat=fields.htlc_minimum_msat,
                htlc_maximum_msat=fields.htlc_maximum_msat,
                fee_base_msat=fields.fee_base_msat,
                fee_proportional_millionths=fields.fee_proportional_millionths,
            )
        )
        if not isinstance(reply, contract.ChannelUpdateSigned):
            self._trouble(channel, reply)
            return None
        direction = bolt7.direction_of(self._node_id, channel.info.peer)
        return bolt7.channel_update(fields, self._chain_hash, direction, reply.signature)

    def _trouble(self, channel: OwnChannel, reply: contract.Reply) -> None:
        reason = why(reply)
        if reason != channel.trouble:
            channel.trouble = reason
            log.warning("not_announced", channel=channel.info.channel_id.hex(), reason=reason)

    def _warn(self, peer: bytes, connection: int, channel_id: bytes, sentence: str) -> None:
        log.warning("peer_broke_gossip", node_id=peer.hex(), reason=sentence)
        frame = encode(Warning(channel_id, sentence.encode()))
        self._bus.send("peer", ToPeer(peer, connection, (frame,)))


def _keep(kept: dict[K, V], key: K, value: V) -> None:
    if len(kept) >= EARLY:
        del kept[next(iter(kept))]
    kept[key] = value


def _is_private(channel: OwnChannel) -> bool:
    return channel.fields is None or channel.fields.dont_forward


def _fields_of(message: ChannelUpdate) -> bolt7.UpdateFields:
    return bolt7.UpdateFields(
        short_channel_id=message.short_channel_id,
        timestamp=message.timestamp,
        dont_forward=bool(message.message_flags & bolt7.DONT_FORWARD),
        disabled=bool(message.channel_flags & bolt7.DISABLED),
        cltv_expiry_delta=message.cltv_expiry_delta,
        htlc_minimum_msat=message.htlc_minimum_msat,
        htlc_maximum_msat=message.htlc_maximum_msat,
        fee_base_msat=message.fee_base_msat,
        fee_proportional_millionths=message.fee_proportional_millionths,
    )
