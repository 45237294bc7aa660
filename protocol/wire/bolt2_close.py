"""Closing messages: shutdown, the legacy negotiation, and option_simple_close (BOLT 2, "Channel Close")."""

from typing import Annotated

from protocol.amounts import Sat
from protocol.wire.fields import CHANNEL_ID, PREFIXED, SIGNATURE, U32, U64, Tlv
from protocol.wire.message import Message, Nested, Record, wire_message
from protocol.wire.tlv import Extension, TlvStream, tlv_stream


@wire_message
class Shutdown(Message, frozen=True):
    TYPE = 38
    channel_id: Annotated[bytes, CHANNEL_ID]
    scriptpubkey: Annotated[bytes, PREFIXED]
    tlvs: Extension = Extension()


class FeeRange(Record, frozen=True):
    min_fee_satoshis: Annotated[Sat, U64]
    max_fee_satoshis: Annotated[Sat, U64]


@tlv_stream
class ClosingSignedTlvs(TlvStream, frozen=True):
    fee_range: Annotated[FeeRange | None, Tlv(1, Nested(FeeRange))] = None


@wire_message
class ClosingSigned(Message, frozen=True):
    TYPE = 39
    channel_id: Annotated[bytes, CHANNEL_ID]
    fee_satoshis: Annotated[Sat, U64]
    signature: Annotated[bytes, SIGNATURE]
    tlvs: ClosingSignedTlvs = ClosingSignedTlvs()


@tlv_stream
class ClosingTlvs(TlvStream, frozen=True):
    """Signatures on three closing transactions, by the outputs that they have."""

    closer_output_only: Annotated[bytes | None, Tlv(1, SIGNATURE)] = None
    closee_output_only: Annotated[bytes | None, Tlv(2, SIGNATURE)] = None
    closer_and_closee_outputs: Annotated[bytes | None, Tlv(3, SIGNATURE)] = None


@wire_message
class ClosingComplete(Message, frozen=True):
    TYPE = 40
    channel_id: Annotated[bytes, CHANNEL_ID]
    closer_scriptpubkey: Annotated[bytes, PREFIXED]
    closee_scriptpubkey: Annotated[bytes, PREFIXED]
    fee_satoshis: Annotated[Sat, U64]
    locktime: Annotated[int, U32]
    tlvs: ClosingTlvs = ClosingTlvs()


@wire_message
class ClosingSig(Message, frozen=True):
    TYPE = 41
    channel_id: Annotated[bytes, CHANNEL_ID]
    closer_scriptpubkey: Annotated[bytes, PREFIXED]
    closee_scriptpubkey: Annotated[bytes, PREFIXED]
    fee_satoshis: Annotated[Sat, U64]
    locktime: Annotated[int, U32]
    tlvs: ClosingTlvs = ClosingTlvs()
