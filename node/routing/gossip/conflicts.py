"""Nodes that signed two different channels for one output (BOLT 7, "The `channel_announcement` Message", receiving
node): what they announce is not believed any more.

Nobody can do that to another: both announcements carry the signatures of all the nodes that they name. Kept until the
next start, for a bounded number; a store without them is no worse than that of a node that never heard the second.
"""

import structlog

from protocol.amounts import format_scid
from protocol.wire.bolt7_gossip import ChannelAnnouncement

log = structlog.get_logger()
MOST = 1_000


class Conflicts:
    def __init__(self) -> None:
        self._liars: dict[bytes, None] = {}

    def names_liar(self, message: ChannelAnnouncement) -> bool:
        return message.node_id_1 in self._liars or message.node_id_2 in self._liars

    def found(self, one: ChannelAnnouncement, other: ChannelAnnouncement) -> list[bytes]:
        """Both are proven. The nodes whose channels are to be forgotten."""
        nodes = list(dict.fromkeys((one.node_id_1, one.node_id_2, other.node_id_1, other.node_id_2)))
        log.warning(
            "conflicting_announcements",
            short_channel_id=format_scid(one.short_channel_id),
            nodes=[node_id.hex() for node_id in nodes],
            what_follows="Their public channels are forgotten until the next start; channels with us are not touched.",
        )
        for node_id in nodes:
            self._liars[node_id] = None
        while len(self._liars) > MOST:
            del self._liars[next(iter(self._liars))]
        return nodes
