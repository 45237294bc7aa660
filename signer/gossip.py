"""Signs what the network is told of us (BOLT 7): announcements of channels and of the node, and channel_updates.

Each message is built here from the fields of the request. What must hold from one to the next (a place for ever, a
time that only rises) stands among the signer's counters.
"""

import time
from collections.abc import Callable

from protocol.amounts import ShortChannelId
from protocol.bitcoin.network import Network
from protocol.bolt3.commitment import CommitmentParams
from protocol.bolt7 import announcement as bolt7
from protocol.bus.messages.signer_gossip import (
    ChannelAnnouncementSigned,
    ChannelUpdateSigned,
    NodeAnnouncementSigned,
    SignChannelAnnouncement,
    SignChannelUpdate,
    SignNodeAnnouncement,
)
from protocol.curve import sign_ecdsa
from signer import storage as db
from signer.books import Books
from signer.channel import Channel
from signer.keys import NodeKeys
from signer.policy import gossip as rules
from signer.storage import Storage

NODE = "node"


class GossipSigner:
    def __init__(
        self,
        storage: Storage,
        books: Books,
        keys: NodeKeys,
        network: Network,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage = storage
        self._books = books
        self._keys = keys
        self._network = network
        self.clock = clock

    def channel_announcement(
        self, channel: Channel, params: CommitmentParams, request: SignChannelAnnouncement
    ) -> ChannelAnnouncementSigned:
        place = _place(params)
        bound = self._storage.counter(place)
        rules.announced_peer(channel.peer, request.counterparty_node_id)
        rules.announced_output(request.short_channel_id, params.funding_outpoint.index)
        rules.announced_once(bound, request.short_channel_id)
        rules.announced_features(request.features)
        if not bound:
            self._books.write(db.SET_COUNTER, (place, request.short_channel_id))
        frame = bolt7.channel_announcement(
            bolt7.ChannelEnds(
                chain_hash=self._network.chain_hash,
                short_channel_id=request.short_channel_id,
                local_node_id=self._keys.node_id,
                remote_node_id=channel.peer,
                local_funding_pubkey=params.holder.keys.funding_pubkey,
                remote_funding_pubkey=params.counterparty.keys.funding_pubkey,
                features=request.features,
            )
        )
        digest = bolt7.digest_of_announcement(frame)
        return ChannelAnnouncementSigned(
            sign_ecdsa(self._keys.node_secret.reveal(), digest),
            sign_ecdsa(channel.secrets.funding.reveal(), digest),
        )

    def node_announcement(self, request: SignNodeAnnouncement) -> NodeAnnouncementSigned:
        rules.announced_features(request.features)
        rules.node_fields(request.rgb_color, request.alias, request.addresses)
        digest_of = bolt7.NodeFields(
            features=request.features,
            timestamp=request.timestamp & 0xFFFFFFFF,
            rgb_color=request.rgb_color,
            alias=request.alias,
            addresses=request.addresses,
        )
        digest = bolt7.digest_of_signed(bolt7.node_announcement(digest_of, self._keys.node_id))
        self._in_order(NODE, request.timestamp, digest)
        return NodeAnnouncementSigned(sign_ecdsa(self._keys.node_secret.reveal(), digest))

    def channel_update(
        self, channel: Channel, params: CommitmentParams, request: SignChannelUpdate
    ) -> ChannelUpdateSigned:
        rules.public_place(
            self._storage.counter(_place(params)),
            request.short_channel_id,
            dont_forward=request.dont_forward,
        )
        rules.update_fields(
            params.capacity,
            request.htlc_minimum_msat,
            request.htlc_maximum_msat,
            request.cltv_expiry_delta,
            request.fee_base_msat,
            request.fee_proportional_millionths,
        )
        fields = bolt7.UpdateFields(
            short_channel_id=ShortChannelId(request.short_channel_id & 0xFFFFFFFFFFFFFFFF),
            timestamp=request.timestamp & 0xFFFFFFFF,
            dont_forward=request.dont_forward,
            disabled=request.disabled,
            cltv_expiry_delta=request.cltv_expiry_delta,
            htlc_minimum_msat=request.htlc_minimum_msat,
            htlc_maximum_msat=request.htlc_maximum_msat,
            fee_base_msat=request.fee_base_msat,
            fee_proportional_millionths=request.fee_proportional_millionths,
        )
        direction = bolt7.direction_of(self._keys.node_id, channel.peer)
        digest = bolt7.digest_of_signed(bolt7.channel_update(fields, self._network.chain_hash, direction))
        self._in_order(channel.handle.hex(), request.timestamp, digest)
        return ChannelUpdateSigned(sign_ecdsa(self._keys.node_secret.reveal(), digest))

    def _in_order(self, about: str, timestamp: int, digest: bytes) -> None:
        """Seven bytes of the digest tell the same message from another one with the same time."""
        time_of, content_of = f"gossip-time/{about}", f"gossip-content/{about}"
        content = int.from_bytes(digest[:7], "big")
        last, last_content = self._storage.counter(time_of), self._storage.counter(content_of)
        rules.timestamp(last, last_content, timestamp, content, self.clock())
        if timestamp > last:
            self._books.write(db.SET_COUNTER, (time_of, timestamp))
            self._books.write(db.SET_COUNTER, (content_of, content))


def _place(params: CommitmentParams) -> str:
    outpoint = params.funding_outpoint
    return f"place/{outpoint.txid.hex()}/{outpoint.index}"
