"""The peer message codec; importing it registers every message that we know (BOLT 1, BOLT 2, BOLT 7)."""

from protocol.wire import (
    bolt1,
    bolt2_close,
    bolt2_open,
    bolt2_quiescence,
    bolt2_reestablish,
    bolt2_update,
    bolt7_gossip,
)
from protocol.wire.message import (
    Message,
    UnknownMessage,
    decode,
    encode,
    message_name,
    message_types,
    require_points,
)

__all__ = [
    "Message",
    "UnknownMessage",
    "bolt1",
    "bolt2_close",
    "bolt2_open",
    "bolt2_quiescence",
    "bolt2_reestablish",
    "bolt2_update",
    "bolt7_gossip",
    "decode",
    "encode",
    "message_name",
    "message_types",
    "require_points",
]
