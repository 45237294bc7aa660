"""Gossip messages and queries (BOLT 7).

`extension` of the three signed announcements is raw: their signatures cover it, they are relayed with it, and
a third party's strange bytes there must not cost us the peer who passed them on.
"""

from typing import Annotated

from protocol.amounts import Msat, ShortChannelId
from protocol.wire.fields import (
    BIGSIZE,
    CHAIN_HASH,
    CHANNEL_ID,
    POINT,
    PREFIXED,
    REST,
    SHORT_CHANNEL_ID,
    SIGNATURE,
    U8,
    U16,
    U32,
    U64,
    EncodedArray,
    Prefixed,
    RestOf,
    Tlv,
    fixed_bytes,
)
from protocol.wire.message import Message, Nested, Record, wire_message
from protocol.wire.tlv import Extension, TlvStream, tlv_stream


@wire_message
class ChannelAnnouncement(Message, frozen=True):
    TYPE = 256
    node_signature_1: Annotated[bytes, SIGNATURE]
    node_signature_2: Annotated[bytes, SIGNATURE]
    bitcoin_signature_1: Annotated[bytes, SIGNATURE]
    bitcoin_signature_2: Annotated[bytes, SIGNATURE]
    features: Annotated[bytes, PREFIXED]
    chain_hash: Annotated[bytes, CHAIN_HASH]
    short_channel_id: Annotated[ShortChannelId, SHORT_CHANNEL_ID]
    node_id_1: Annotated[bytes, POINT]
    node_id_2: Annotated[bytes, POINT]
    bitcoin_key_1: Annotated[bytes, POINT]
    bitcoin_key_2: Annotated[bytes, POINT]
    extension: Annotated[bytes, REST] = b""


@wire_message
class NodeAnnouncement(Message, frozen=True):
    TYPE = 257
    signature: Annotated[bytes, SIGNATURE]
    features: Annotated[bytes, PREFIXED]
    timestamp: Annotated[int, U32]
    node_id: Annotated[bytes, POINT]
    rgb_color: Annotated[bytes, fixed_bytes(3)]
    alias: Annotated[bytes, fixed_bytes(32)]
    addresses: Annotated[bytes, PREFIXED]
    extension: Annotated[bytes, REST] = b""


@wire_message
class ChannelUpdate(Message, frozen=True):
    TYPE = 258
    signature: Annotated[bytes, SIGNATURE]
    chain_hash: Annotated[bytes, CHAIN_HASH]
    short_channel_id: Annotated[ShortChannelId, SHORT_CHANNEL_ID]
    timestamp: Annotated[int, U32]
    message_flags: Annotated[int, U8]
    channel_flags: Annotated[int, U8]
    cltv_expiry_delta: Annotated[int, U16]
    htlc_minimum_msat: Annotated[Msat, U64]
    fee_base_msat: Annotated[Msat, U32]
    fee_proportional_millionths: Annotated[int, U32]
    htlc_maximum_msat: Annotated[Msat, U64]
    extension: Annotated[bytes, REST] = b""


@wire_message
class AnnouncementSignatures(Message, frozen=True):
    TYPE = 259
    channel_id: Annotated[bytes, CHANNEL_ID]
    short_channel_id: Annotated[ShortChannelId, SHORT_CHANNEL_ID]
    node_signature: Annotated[bytes, SIGNATURE]
    bitcoin_signature: Annotated[bytes, SIGNATURE]
    tlvs: Extension = Extension()


@tlv_stream
class QueryShortChannelIdsTlvs(TlvStream, frozen=True):
    query_flags: Annotated[tuple[int, ...] | None, Tlv(1, EncodedArray(BIGSIZE))] = None


@wire_message
class QueryShortChannelIds(Message, frozen=True):
    TYPE = 261
    chain_hash: Annotated[bytes, CHAIN_HASH]
    encoded_short_ids: Annotated[tuple[ShortChannelId, ...], Prefixed(EncodedArray(SHORT_CHANNEL_ID))]
    tlvs: QueryShortChannelIdsTlvs = QueryShortChannelIdsTlvs()


@wire_message
class ReplyShortChannelIdsEnd(Message, frozen=True):
    TYPE = 262
    chain_hash: Annotated[bytes, CHAIN_HASH]
    full_information: Annotated[int, U8]
    tlvs: Extension = Extension()


@tlv_stream
class QueryChannelRangeTlvs(TlvStream, frozen=True):
    query_option: Annotated[int | None, Tlv(1, BIGSIZE)] = None


@wire_message
class QueryChannelRange(Message, frozen=True):
    TYPE = 263
    chain_hash: Annotated[bytes, CHAIN_HASH]
    first_blocknum: Annotated[int, U32]
    number_of_blocks: Annotated[int, U32]
    tlvs: QueryChannelRangeTlvs = QueryChannelRangeTlvs()


class ChannelUpdateTimestamps(Record, frozen=True):
    timestamp_node_id_1: Annotated[int, U32]
    timestamp_node_id_2: Annotated[int, U32]


class ChannelUpdateChecksums(Record, frozen=True):
    checksum_node_id_1: Annotated[int, U32]
    checksum_node_id_2: Annotated[int, U32]


@tlv_stream
class ReplyChannelRangeTlvs(TlvStream, frozen=True):
    timestamps: Annotated[
        tuple[ChannelUpdateTimestamps, ...] | None, Tlv(1, EncodedArray(Nested(ChannelUpdateTimestamps)))
    ] = None
    checksums: Annotated[
        tuple[ChannelUpdateChecksums, ...] | None, Tlv(3, RestOf(Nested(ChannelUpdateChecksums)))
    ] = None


@wire_message
class ReplyChannelRange(Message, frozen=True):
    TYPE = 264
    chain_hash: Annotated[bytes, CHAIN_HASH]
    first_blocknum: Annotated[int, U32]
    number_of_blocks: Annotated[int, U32]
    sync_complete: Annotated[int, U8]
    encoded_short_ids: Annotated[tuple[ShortChannelId, ...], Prefixed(EncodedArray(SHORT_CHANNEL_ID))]
    tlvs: ReplyChannelRangeTlvs = ReplyChannelRangeTlvs()


@wire_message
class GossipTimestampFilter(Message, frozen=True):
    TYPE = 265
    chain_hash: Annotated[bytes, CHAIN_HASH]
    first_timestamp: Annotated[int, U32]
    timestamp_range: Annotated[int, U32]
    tlvs: Extension = Extension()


def empty_answer(
    query: QueryShortChannelIds | QueryChannelRange,
) -> ReplyShortChannelIdsEnd | ReplyChannelRange:
    """The honest answer of a node that holds no gossip: nothing known, and that is the end of it."""
    match query:
        case QueryShortChannelIds():
            return ReplyShortChannelIdsEnd(query.chain_hash, 0)
        case QueryChannelRange():
            return ReplyChannelRange(query.chain_hash, query.first_blocknum, query.number_of_blocks, 1, ())
