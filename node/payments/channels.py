"""The payment service's own account of its channels: which one can carry an amount now (BOLT 2, "Adding an HTLC").

A hundred payments in flight cannot each ask the channel service. The book keeps what was last listed and takes
off what was offered since. It errs by little: the channel has the last word and refuses what it cannot carry.
"""

from collections.abc import Collection

from protocol.amounts import Msat
from protocol.bus.messages.channel import ChannelInfo

NORMAL = "CHANNELD_NORMAL"


class ChannelBook:
    def __init__(self) -> None:
        self._by_peer: dict[bytes, dict[bytes, ChannelInfo]] = {}
        self._taken: dict[bytes, int] = {}
        self._taken_since_asked: dict[bytes, int] = {}
        self.outdated = True
        """Something was heard that the list does not show yet."""

    def asking(self) -> None:
        """From here on, what is offered and heard is not in the list that will come."""
        self._taken_since_asked = {}
        self.outdated = False

    def learn(self, channels: tuple[ChannelInfo, ...]) -> None:
        """The list that was asked for; it counts everything that was offered before `asking`."""
        self._by_peer = {}
        for channel in channels:
            self._by_peer.setdefault(channel.peer, {})[channel.channel_id] = channel
        self._taken, self._taken_since_asked = self._taken_since_asked, {}

    def offered(self, channel_id: bytes, amount: Msat) -> None:
        self._taken[channel_id] = self._taken.get(channel_id, 0) + amount
        self._taken_since_asked[channel_id] = self._taken_since_asked.get(channel_id, 0) + amount

    def came_back(self, channel_id: bytes, amount: Msat) -> None:
        """An HTLC failed. More than was taken since the last list is for the next list to show."""
        for taken in (self._taken, self._taken_since_asked):
            taken[channel_id] = max(0, taken.get(channel_id, 0) - amount)

    def choose(self, peer: bytes, amount: Msat, *, but: Collection[bytes] = ()) -> ChannelInfo | None:
        """The usable channel to this peer with the most left, so that no channel is emptied before the others."""
        usable = [
            channel
            for channel in self._by_peer.get(peer, {}).values()
            if _is_usable(channel) and channel.channel_id not in but and self._left(channel) >= amount
        ]
        return max(usable, key=self._left, default=None)

    def why_not(self, peer: bytes, amount: Msat) -> str:
        """The sentence for a person when `choose` found nothing."""
        channels = list(self._by_peer.get(peer, {}).values())
        if not channels:
            return f"we have no channel with the recipient {peer.hex()}, and payments over other nodes come later"
        usable = [channel for channel in channels if _is_usable(channel)]
        if not usable:
            states = ", ".join(sorted({_state(channel) for channel in channels}))
            return f"no channel with the recipient is usable now ({states})"
        most = max(self._left(channel) for channel in usable)
        return f"the channel with the recipient can send {max(0, most)} msat now, {amount} msat are needed"

    def _left(self, channel: ChannelInfo) -> int:
        return channel.spendable_msat - self._taken.get(channel.channel_id, 0)


def _is_usable(channel: ChannelInfo) -> bool:
    return channel.state == NORMAL and channel.peer_connected and channel.reestablished


def _state(channel: ChannelInfo) -> str:
    if channel.state != NORMAL:
        return channel.state
    return "reestablishing" if channel.peer_connected else "the peer is not connected"
