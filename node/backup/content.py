"""What the node adds to a static channel backup: its channels without their state, and where peers were reached."""

import msgspec
from msgspec import Struct

from protocol.bus.messages.backup import ChannelRecord
from protocol.errors import MalformedMessage

VERSION = 1
MOST_ADDRESSES = 4


class BackedUpPeer(Struct, frozen=True, array_like=True):
    node_id: bytes
    addresses: tuple[str, ...]


class Content(Struct, frozen=True, array_like=True):
    """`made_at`: Unix time. `height`: of the chain when it was made; a restored wallet looks for its coins from
    `birth_height` on."""

    version: int
    network: str
    made_at: int
    height: int
    birth_height: int
    channels: tuple[ChannelRecord, ...]
    peers: tuple[BackedUpPeer, ...]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Content).decode


def encode(content: Content) -> bytes:
    return _encode(content)


def decode(raw: bytes) -> Content:
    """Raises MalformedMessage. The signer has checked that it was sealed by our own seed."""
    try:
        content = _decode(raw)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise MalformedMessage(f"the node's part of the backup cannot be read: {error}") from error
    if content.version != VERSION:
        raise MalformedMessage(
            f"the backup has version {content.version}, this program reads {VERSION}: use a newer one"
        )
    return content


def fingerprint(channels: tuple[ChannelRecord, ...], peers: tuple[BackedUpPeer, ...]) -> bytes:
    """Equal for backups that say the same; time and height are not counted."""
    return _encode((channels, peers))
