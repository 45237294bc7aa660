"""What is signed in gossip, by whom, and how our own is built (BOLT 7, "The `channel_announcement` Message", "The
`node_announcement` Message", "The `channel_update` Message").

A signature covers the message as it came, with fields that we do not know, so digests are taken of raw frames
(two bytes of type, then the message).
"""

from typing import NamedTuple

from msgspec import Struct

from protocol.amounts import Msat, ShortChannelId
from protocol.curve import verify_ecdsa
from protocol.hashes import double_sha256
from protocol.wire.bolt7_gossip import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement
from protocol.wire.message import encode

SIGNATURES_END = 2 + 4 * 64
SIGNATURE_END = 2 + 64
NO_SIGNATURE = bytes(64)

MUST_BE_ONE = 1
DONT_FORWARD = 2
DIRECTION = 1
DISABLED = 2
ALIAS_BYTES = 32


class Check(NamedTuple):
    """One signature to verify. A tuple, because a full sync makes 300,000 of them."""

    key: bytes
    digest: bytes
    signature: bytes

    def holds(self) -> bool:
        return verify_ecdsa(*self)


def digest_of_announcement(frame: bytes) -> bytes:
    """Of a whole channel_announcement: what all four signatures sign."""
    return double_sha256(frame[SIGNATURES_END:])


def digest_of_signed(frame: bytes) -> bytes:
    """Of a whole node_announcement or channel_update."""
    return double_sha256(frame[SIGNATURE_END:])


def checks_of_announcement(message: ChannelAnnouncement, frame: bytes) -> tuple[Check, ...]:
    digest = digest_of_announcement(frame)
    return (
        Check(message.node_id_1, digest, message.node_signature_1),
        Check(message.node_id_2, digest, message.node_signature_2),
        Check(message.bitcoin_key_1, digest, message.bitcoin_signature_1),
        Check(message.bitcoin_key_2, digest, message.bitcoin_signature_2),
    )


def check_of_update(message: ChannelUpdate, frame: bytes, node_id: bytes) -> Check:
    """`node_id`: the end of the channel that the direction names."""
    return Check(node_id, digest_of_signed(frame), message.signature)


def check_of_node(message: NodeAnnouncement, frame: bytes) -> Check:
    return Check(message.node_id, digest_of_signed(frame), message.signature)


def direction_of(origin: bytes, other: bytes) -> int:
    """0 when the origin's id sorts first: then it is node_id_1."""
    return int(origin > other)


class ChannelEnds(Struct, frozen=True):
    """A channel as its two ends announce it; `local` and `remote` need no order."""

    chain_hash: bytes
    short_channel_id: ShortChannelId
    local_node_id: bytes
    remote_node_id: bytes
    local_funding_pubkey: bytes
    remote_funding_pubkey: bytes
    features: bytes = b""


class EndSignatures(Struct, frozen=True):
    """What one end contributes, as in announcement_signatures."""

    node_signature: bytes
    bitcoin_signature: bytes


UNSIGNED = EndSignatures(NO_SIGNATURE, NO_SIGNATURE)


def channel_announcement(
    ends: ChannelEnds, local: EndSignatures = UNSIGNED, remote: EndSignatures = UNSIGNED
) -> bytes:
    """The whole frame. The bitcoin keys follow the order of the node ids."""
    ours = (ends.local_node_id, ends.local_funding_pubkey, local)
    theirs = (ends.remote_node_id, ends.remote_funding_pubkey, remote)
    first, second = (theirs, ours) if direction_of(ours[0], theirs[0]) else (ours, theirs)
    return encode(
        ChannelAnnouncement(
            node_signature_1=first[2].node_signature,
            node_signature_2=second[2].node_signature,
            bitcoin_signature_1=first[2].bitcoin_signature,
            bitcoin_signature_2=second[2].bitcoin_signature,
            features=ends.features,
            chain_hash=ends.chain_hash,
            short_channel_id=ends.short_channel_id,
            node_id_1=first[0],
            node_id_2=second[0],
            bitcoin_key_1=first[1],
            bitcoin_key_2=second[1],
        )
    )


def remote_signatures_hold(ends: ChannelEnds, remote: EndSignatures) -> bool:
    """Whether the peer's announcement_signatures sign the announcement that we would make."""
    digest = digest_of_announcement(channel_announcement(ends))
    return verify_ecdsa(ends.remote_node_id, digest, remote.node_signature) and verify_ecdsa(
        ends.remote_funding_pubkey, digest, remote.bitcoin_signature
    )


class NodeFields(Struct, frozen=True):
    """A node_announcement without its node_id and signature. `alias` has 32 bytes, `addresses` are encoded."""

    features: bytes
    timestamp: int
    rgb_color: bytes
    alias: bytes
    addresses: bytes


def padded_alias(text: str) -> bytes:
    """32 bytes: cut at a whole character, zeros behind."""
    raw = text.encode()[:ALIAS_BYTES].decode(errors="ignore").encode()
    return raw.ljust(ALIAS_BYTES, b"\0")


def node_announcement(fields: NodeFields, node_id: bytes, signature: bytes = NO_SIGNATURE) -> bytes:
    return encode(
        NodeAnnouncement(
            signature=signature,
            features=fields.features,
            timestamp=fields.timestamp,
            node_id=node_id,
            rgb_color=fields.rgb_color,
            alias=fields.alias,
            addresses=fields.addresses,
        )
    )


class UpdateFields(Struct, frozen=True):
    """A channel_update without chain, direction and signature. `dont_forward`: for the peer's eyes only."""

    short_channel_id: ShortChannelId
    timestamp: int
    dont_forward: bool
    disabled: bool
    cltv_expiry_delta: int
    htlc_minimum_msat: Msat
    htlc_maximum_msat: Msat
    fee_base_msat: Msat
    fee_proportional_millionths: int


def channel_update(
    fields: UpdateFields, chain_hash: bytes, direction: int, signature: bytes = NO_SIGNATURE
) -> bytes:
    return encode(
        ChannelUpdate(
            signature=signature,
            chain_hash=chain_hash,
            short_channel_id=fields.short_channel_id,
            timestamp=fields.timestamp,
            message_flags=MUST_BE_ONE | (DONT_FORWARD if fields.dont_forward else 0),
            channel_flags=direction | (DISABLED if fields.disabled else 0),
            cltv_expiry_delta=fields.cltv_expiry_delta,
            htlc_minimum_msat=fields.htlc_minimum_msat,
            fee_base_msat=fields.fee_base_msat,
            fee_proportional_millionths=fields.fee_proportional_millionths,
            htlc_maximum_msat=fields.htlc_maximum_msat,
        )
    )
