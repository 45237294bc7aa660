"""Channel establishment v1 messages (BOLT 2, "Channel Establishment v1")."""

from typing import Annotated

from protocol.amounts import FeeratePerKw, Msat, Sat, ShortChannelId
from protocol.wire.fields import (
    CHAIN_HASH,
    CHANNEL_ID,
    POINT,
    REST,
    SHA256,
    SHORT_CHANNEL_ID,
    SIGNATURE,
    U8,
    U16,
    U32,
    U64,
    Tlv,
)
from protocol.wire.message import Message, wire_message
from protocol.wire.tlv import Extension, TlvStream, tlv_stream

ANNOUNCE_CHANNEL = 1
"""The one defined bit of channel_flags."""


@tlv_stream
class OpenChannelTlvs(TlvStream, frozen=True):
    upfront_shutdown_script: Annotated[bytes | None, Tlv(0, REST)] = None
    channel_type: Annotated[bytes | None, Tlv(1, REST)] = None


@wire_message
class OpenChannel(Message, frozen=True):
    TYPE = 32
    chain_hash: Annotated[bytes, CHAIN_HASH]
    temporary_channel_id: Annotated[bytes, CHANNEL_ID]
    funding_satoshis: Annotated[Sat, U64]
    push_msat: Annotated[Msat, U64]
    dust_limit_satoshis: Annotated[Sat, U64]
    max_htlc_value_in_flight_msat: Annotated[Msat, U64]
    channel_reserve_satoshis: Annotated[Sat, U64]
    htlc_minimum_msat: Annotated[Msat, U64]
    feerate_per_kw: Annotated[FeeratePerKw, U32]
    to_self_delay: Annotated[int, U16]
    max_accepted_htlcs: Annotated[int, U16]
    funding_pubkey: Annotated[bytes, POINT]
    revocation_basepoint: Annotated[bytes, POINT]
    payment_basepoint: Annotated[bytes, POINT]
    delayed_payment_basepoint: Annotated[bytes, POINT]
    htlc_basepoint: Annotated[bytes, POINT]
    first_per_commitment_point: Annotated[bytes, POINT]
    channel_flags: Annotated[int, U8]
    tlvs: OpenChannelTlvs = OpenChannelTlvs()


@tlv_stream
class AcceptChannelTlvs(TlvStream, frozen=True):
    upfront_shutdown_script: Annotated[bytes | None, Tlv(0, REST)] = None
    channel_type: Annotated[bytes | None, Tlv(1, REST)] = None


@wire_message
class AcceptChannel(Message, frozen=True):
    TYPE = 33
    temporary_channel_id: Annotated[bytes, CHANNEL_ID]
    dust_limit_satoshis: Annotated[Sat, U64]
    max_htlc_value_in_flight_msat: Annotated[Msat, U64]
    channel_reserve_satoshis: Annotated[Sat, U64]
    htlc_minimum_msat: Annotated[Msat, U64]
    minimum_depth: Annotated[int, U32]
    to_self_delay: Annotated[int, U16]
    max_accepted_htlcs: Annotated[int, U16]
    funding_pubkey: Annotated[bytes, POINT]
    revocation_basepoint: Annotated[bytes, POINT]
    payment_basepoint: Annotated[bytes, POINT]
    delayed_payment_basepoint: Annotated[bytes, POINT]
    htlc_basepoint: Annotated[bytes, POINT]
    first_per_commitment_point: Annotated[bytes, POINT]
    tlvs: AcceptChannelTlvs = AcceptChannelTlvs()


@wire_message
class FundingCreated(Message, frozen=True):
    TYPE = 34
    temporary_channel_id: Annotated[bytes, CHANNEL_ID]
    funding_txid: Annotated[bytes, SHA256]  # in the byte order of a transaction input, not as printed
    funding_output_index: Annotated[int, U16]
    signature: Annotated[bytes, SIGNATURE]
    tlvs: Extension = Extension()


@wire_message
class FundingSigned(Message, frozen=True):
    TYPE = 35
    channel_id: Annotated[bytes, CHANNEL_ID]
    signature: Annotated[bytes, SIGNATURE]
    tlvs: Extension = Extension()


@tlv_stream
class ChannelReadyTlvs(TlvStream, frozen=True):
    short_channel_id: Annotated[ShortChannelId | None, Tlv(1, SHORT_CHANNEL_ID)] = None


@wire_message
class ChannelReady(Message, frozen=True):
    TYPE = 36
    channel_id: Annotated[bytes, CHANNEL_ID]
    second_per_commitment_point: Annotated[bytes, POINT]
    tlvs: ChannelReadyTlvs = ChannelReadyTlvs()
