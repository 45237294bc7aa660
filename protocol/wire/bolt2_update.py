"""Messages of normal operation (BOLT 2, "Normal Operation")."""

from typing import Annotated

from protocol.amounts import FeeratePerKw, Msat
from protocol.secret import Secret
from protocol.wire.fields import (
    CHANNEL_ID,
    POINT,
    PREFIXED,
    SECRET32,
    SHA256,
    SIGNATURE,
    U16,
    U32,
    U64,
    Counted,
    Tlv,
    fixed_bytes,
)
from protocol.wire.message import Message, Nested, Record, wire_message
from protocol.wire.tlv import Extension, TlvStream, tlv_stream

ONION_SIZE = 1366


@tlv_stream
class UpdateAddHtlcTlvs(TlvStream, frozen=True):
    blinded_path: Annotated[bytes | None, Tlv(0, POINT)] = None


@wire_message
class UpdateAddHtlc(Message, frozen=True):
    TYPE = 128
    channel_id: Annotated[bytes, CHANNEL_ID]
    id: Annotated[int, U64]
    amount_msat: Annotated[Msat, U64]
    payment_hash: Annotated[bytes, SHA256]
    cltv_expiry: Annotated[int, U32]
    onion_routing_packet: Annotated[bytes, fixed_bytes(ONION_SIZE)]
    tlvs: UpdateAddHtlcTlvs = UpdateAddHtlcTlvs()


_HOLD_TIMES = 80


class AttributionData(Record, frozen=True):
    """20 hold times of 4 bytes and 210 HMACs of 4 bytes, taken apart where the failure onion is."""

    htlc_hold_times: Annotated[bytes, fixed_bytes(_HOLD_TIMES)]
    truncated_hmacs: Annotated[bytes, fixed_bytes(840)]


@tlv_stream
class AttributionTlvs(TlvStream, frozen=True):
    attribution_data: Annotated[AttributionData | None, Tlv(1, Nested(AttributionData))] = None

    @property
    def attribution(self) -> bytes | None:
        """Both fields in one, as `bolt4.attribution` makes and reads them."""
        data = self.attribution_data
        return None if data is None else data.htlc_hold_times + data.truncated_hmacs


def attribution_tlvs(data: bytes | None) -> AttributionTlvs:
    if data is None:
        return AttributionTlvs()
    return AttributionTlvs(AttributionData(data[:_HOLD_TIMES], data[_HOLD_TIMES:]))


@wire_message
class UpdateFulfillHtlc(Message, frozen=True):
    TYPE = 130
    channel_id: Annotated[bytes, CHANNEL_ID]
    id: Annotated[int, U64]
    payment_preimage: Annotated[Secret, SECRET32]
    tlvs: AttributionTlvs = AttributionTlvs()


@wire_message
class UpdateFailHtlc(Message, frozen=True):
    TYPE = 131
    channel_id: Annotated[bytes, CHANNEL_ID]
    id: Annotated[int, U64]
    reason: Annotated[bytes, PREFIXED]
    tlvs: AttributionTlvs = AttributionTlvs()


@tlv_stream
class CommitmentSignedTlvs(TlvStream, frozen=True):
    funding_txid: Annotated[bytes | None, Tlv(1, SHA256)] = None


@wire_message
class CommitmentSigned(Message, frozen=True):
    TYPE = 132
    channel_id: Annotated[bytes, CHANNEL_ID]
    signature: Annotated[bytes, SIGNATURE]
    htlc_signature: Annotated[tuple[bytes, ...], Counted(SIGNATURE)]
    tlvs: CommitmentSignedTlvs = CommitmentSignedTlvs()


@wire_message
class RevokeAndAck(Message, frozen=True):
    TYPE = 133
    channel_id: Annotated[bytes, CHANNEL_ID]
    per_commitment_secret: Annotated[Secret, SECRET32]
    next_per_commitment_point: Annotated[bytes, POINT]
    tlvs: Extension = Extension()


@wire_message
class UpdateFee(Message, frozen=True):
    TYPE = 134
    channel_id: Annotated[bytes, CHANNEL_ID]
    feerate_per_kw: Annotated[FeeratePerKw, U32]
    tlvs: Extension = Extension()


@wire_message
class UpdateFailMalformedHtlc(Message, frozen=True):
    TYPE = 135
    channel_id: Annotated[bytes, CHANNEL_ID]
    id: Annotated[int, U64]
    sha256_of_onion: Annotated[bytes, SHA256]
    failure_code: Annotated[int, U16]
    tlvs: Extension = Extension()
