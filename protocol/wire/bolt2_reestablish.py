"""channel_reestablish (BOLT 2, "Message Retransmission")."""

from typing import Annotated

from protocol.secret import Secret
from protocol.wire.fields import CHANNEL_ID, POINT, SECRET32, SHA256, U8, U64, Tlv
from protocol.wire.message import Message, Nested, Record, wire_message
from protocol.wire.tlv import TlvStream, tlv_stream


class NextFunding(Record, frozen=True):
    next_funding_txid: Annotated[bytes, SHA256]
    retransmit_flags: Annotated[int, U8]


class MyCurrentFundingLocked(Record, frozen=True):
    my_current_funding_locked_txid: Annotated[bytes, SHA256]
    retransmit_flags: Annotated[int, U8]


@tlv_stream
class ChannelReestablishTlvs(TlvStream, frozen=True):
    next_funding: Annotated[NextFunding | None, Tlv(1, Nested(NextFunding))] = None
    my_current_funding_locked: Annotated[
        MyCurrentFundingLocked | None, Tlv(5, Nested(MyCurrentFundingLocked))
    ] = None


@wire_message
class ChannelReestablish(Message, frozen=True):
    TYPE = 136
    channel_id: Annotated[bytes, CHANNEL_ID]
    next_commitment_number: Annotated[int, U64]
    next_revocation_number: Annotated[int, U64]
    your_last_per_commitment_secret: Annotated[Secret, SECRET32]
    my_current_per_commitment_point: Annotated[bytes, POINT]
    tlvs: ChannelReestablishTlvs = ChannelReestablishTlvs()
