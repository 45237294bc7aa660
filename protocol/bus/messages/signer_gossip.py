"""The signer contract around gossip (BOLT 7): what the network is told of us is signed with the node's key.

Part of `protocol.bus.messages.signer`, which lists the requests. The signer builds each message from these fields
and from what it knows itself: its chain, its keys, the peer and the funding output of a channel.
"""

from msgspec import Struct

from protocol.amounts import Msat, ShortChannelId
from protocol.bus.messages.fixed_bytes import Bytes16, Bytes32, Bytes33, Bytes64


class SignChannelAnnouncement(Struct, frozen=True, tag="sign_announcement"):
    """Our two signatures on the channel_announcement of a channel that was set up.

    The first `short_channel_id` that is signed for a funding output stays the only one.
    """

    channel: Bytes16
    short_channel_id: ShortChannelId
    counterparty_node_id: Bytes33
    features: bytes = b""


class ChannelAnnouncementSigned(Struct, frozen=True, tag="announcement_signed"):
    node_signature: Bytes64
    bitcoin_signature: Bytes64


class SignNodeAnnouncement(Struct, frozen=True, tag="sign_node"):
    """Our node_announcement with these fields. `timestamp` rises with each new content."""

    features: bytes
    timestamp: int
    rgb_color: bytes
    alias: Bytes32
    addresses: bytes


class NodeAnnouncementSigned(Struct, frozen=True, tag="node_signed"):
    signature: Bytes64


class SignChannelUpdate(Struct, frozen=True, tag="sign_update"):
    """Our channel_update of a channel that was set up; the direction follows from the node ids.

    Without `dont_forward` the short channel id is the announced one. `timestamp` rises with each new content.
    """

    channel: Bytes16
    short_channel_id: ShortChannelId
    timestamp: int
    dont_forward: bool
    disabled: bool
    cltv_expiry_delta: int
    htlc_minimum_msat: Msat
    htlc_maximum_msat: Msat
    fee_base_msat: Msat
    fee_proportional_millionths: int


class ChannelUpdateSigned(Struct, frozen=True, tag="update_signed"):
    signature: Bytes64
