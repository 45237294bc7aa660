"""Quiescence: stfu (BOLT 2, "Channel Quiescence")."""

from typing import Annotated

from protocol.wire.fields import CHANNEL_ID, U8
from protocol.wire.message import Message, wire_message
from protocol.wire.tlv import Extension


@wire_message
class Stfu(Message, frozen=True):
    TYPE = 2
    channel_id: Annotated[bytes, CHANNEL_ID]
    initiator: Annotated[int, U8]
    tlvs: Extension = Extension()
