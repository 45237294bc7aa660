"""Where things stand in raw gossip, for reading a field without the whole message (BOLT 7).

Ten peers send everything ten times. A duplicate is told by (channel, direction, timestamp) before it is hashed, and
a stored row is read into the graph without an object.
"""

from struct import Struct
from typing import NamedTuple

from protocol.errors import MalformedMessage

UPDATE_FROM_SCID = Struct(">QIBBHQIIQ")
"""short_channel_id, timestamp, message_flags, channel_flags, cltv_expiry_delta, htlc_minimum_msat, fee_base_msat,
fee_proportional_millionths, htlc_maximum_msat, from `UPDATE_SCID` on."""
UPDATE_SCID = 2 + 64 + 32
_UPDATE_HEAD = Struct(">QIBB").unpack_from
_UPDATE_SIZE = UPDATE_SCID + UPDATE_FROM_SCID.size
_FEATURES = 2 + 4 * 64
_NODE_FEATURES = 2 + 64
_SCID = Struct(">Q").unpack_from
_TIMESTAMP = Struct(">I").unpack_from


class UpdateHead(NamedTuple):
    short_channel_id: int
    timestamp: int
    message_flags: int
    channel_flags: int


def update_head(frame: bytes) -> UpdateHead:
    if len(frame) < _UPDATE_SIZE:
        raise MalformedMessage(
            f"a channel_update has at least {_UPDATE_SIZE} bytes, this one has {len(frame)}"
        )
    return UpdateHead._make(_UPDATE_HEAD(frame, UPDATE_SCID))


def _after_features(frame: bytes, at: int, needed: int, name: str) -> int:
    """The place behind the features that begin at `at`, where `needed` bytes must follow."""
    if len(frame) < at + 2:
        raise MalformedMessage(f"a {name} that ends before its features")
    after = at + 2 + (frame[at] << 8 | frame[at + 1])
    if len(frame) < after + needed:
        raise MalformedMessage(f"a {name} that ends before its keys")
    return after


def announced_scid(frame: bytes) -> int:
    """The short channel id of a whole channel_announcement."""
    after = _after_features(frame, _FEATURES, 32 + 8 + 4 * 33, "channel_announcement")
    return int(_SCID(frame, after + 32)[0])


def announcement_ids(frame: bytes) -> tuple[bytes, int, bytes, bytes]:
    """Features, short channel id and both node ids."""
    after = _after_features(frame, _FEATURES, 32 + 8 + 4 * 33, "channel_announcement")
    keys = after + 40
    return (
        frame[_FEATURES + 2 : after],
        int(_SCID(frame, after + 32)[0]),
        frame[keys : keys + 33],
        frame[keys + 33 : keys + 66],
    )


def node_head(frame: bytes) -> tuple[int, bytes]:
    """Timestamp and node id of a whole node_announcement."""
    after = _after_features(frame, _NODE_FEATURES, 4 + 33 + 3 + 32 + 2, "node_announcement")
    return int(_TIMESTAMP(frame, after)[0]), frame[after + 4 : after + 37]
