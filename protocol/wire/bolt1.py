"""Setup, control and storage messages (BOLT 1, "Setup Messages", "Control Messages", "Peer storage")."""

from typing import Annotated

from protocol.wire.fields import CHAIN_HASH, CHANNEL_ID, PREFIXED, REST, U16, RestOf, Tlv
from protocol.wire.message import Message, wire_message
from protocol.wire.tlv import Extension, TlvStream, tlv_stream

ALL_CHANNELS = bytes(32)
"""The channel_id of an error or warning that is about the whole connection."""
LARGEST_PONG = 65531
"""A ping that asks for more is not to be answered."""
LARGEST_BLOB = 65531


@tlv_stream
class InitTlvs(TlvStream, frozen=True):
    networks: Annotated[tuple[bytes, ...] | None, Tlv(1, RestOf(CHAIN_HASH))] = None
    remote_addr: Annotated[bytes | None, Tlv(3, REST)] = None


@wire_message
class Init(Message, frozen=True):
    TYPE = 16
    globalfeatures: Annotated[bytes, PREFIXED]
    features: Annotated[bytes, PREFIXED]
    tlvs: InitTlvs = InitTlvs()


@wire_message
class Error(Message, frozen=True):
    TYPE = 17
    channel_id: Annotated[bytes, CHANNEL_ID]
    data: Annotated[bytes, PREFIXED]
    tlvs: Extension = Extension()


@wire_message
class Warning(Message, frozen=True):  # the BOLT's name; callers write bolt1.Warning
    TYPE = 1
    channel_id: Annotated[bytes, CHANNEL_ID]
    data: Annotated[bytes, PREFIXED]
    tlvs: Extension = Extension()


def printable(data: bytes) -> str:
    """The text of an error or warning for a log or a person: other than printable ASCII is shown as hex."""
    if all(32 <= byte <= 126 for byte in data):
        return data.decode("ascii")
    return f"(not text) {data.hex()}"


@wire_message
class Ping(Message, frozen=True):
    TYPE = 18
    num_pong_bytes: Annotated[int, U16]
    ignored: Annotated[bytes, PREFIXED] = b""
    tlvs: Extension = Extension()


@wire_message
class Pong(Message, frozen=True):
    TYPE = 19
    ignored: Annotated[bytes, PREFIXED] = b""
    tlvs: Extension = Extension()


def pong_for(ping: Ping) -> Pong | None:
    """The answer that a ping asks for, or None where it must be ignored."""
    return Pong(bytes(ping.num_pong_bytes)) if ping.num_pong_bytes <= LARGEST_PONG else None


@wire_message
class PeerStorage(Message, frozen=True):
    TYPE = 7
    blob: Annotated[bytes, PREFIXED]
    tlvs: Extension = Extension()


@wire_message
class PeerStorageRetrieval(Message, frozen=True):
    TYPE = 9
    blob: Annotated[bytes, PREFIXED]
    tlvs: Extension = Extension()
