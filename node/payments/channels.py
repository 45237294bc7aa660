"""The payment service's own account of its channels: which one can carry an amount now (BOLT 2, "Adding an HTLC").

A hundred payments in flight cannot each ask the channel service. The book keeps what was last listed and takes
off what was offered since. It errs by little: the channel has the last word and refuses what it cannot carry.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection

from protocol.amounts import Msat, ShortChannelId
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.channel import ChannelInfo, ListChannels
from protocol.bus.messages.routing import FirstHop

NORMAL = "CHANNELD_NORMAL"
SHUTTING_DOWN = "CHANNELD_SHUTTING_DOWN"
MAX_HTLCS = 483
REFRESH_SECONDS = 0.25
"""The channel service is asked for its list at most this often."""


class ChannelBook:
    def __init__(self) -> None:
        self._by_peer: dict[bytes, dict[bytes, ChannelInfo]] = {}
        self._by_id: dict[bytes, ChannelInfo] = {}
        self._by_scid: dict[int, ChannelInfo] = {}
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
        self._by_peer, self._by_id, self._by_scid = {}, {}, {}
        for channel in channels:
            self._by_peer.setdefault(channel.peer, {})[channel.channel_id] = channel
            self._by_id[channel.channel_id] = channel
            # BOLT 2, "The `channel_ready` Message": with option_scid_alias the real one lets no HTLC in.
            if channel.short_channel_id is not None and not channel.scid_alias_only:
                self._by_scid[channel.short_channel_id] = channel
            if channel.alias_local is not None:
                self._by_scid[channel.alias_local] = channel
        self._taken, self._taken_since_asked = self._taken_since_asked, {}

    def offered(self, channel_id: bytes, amount: Msat) -> None:
        self._taken[channel_id] = self._taken.get(channel_id, 0) + amount
        self._taken_since_asked[channel_id] = self._taken_since_asked.get(channel_id, 0) + amount

    def came_back(self, channel_id: bytes, amount: Msat) -> None:
        """An HTLC failed. More than was taken since the last list is for the next list to show."""
        for taken in (self._taken, self._taken_since_asked):
            taken[channel_id] = max(0, taken.get(channel_id, 0) - amount)

    def get(self, channel_id: bytes) -> ChannelInfo | None:
        return self._by_id.get(channel_id)

    def all(self) -> Collection[ChannelInfo]:
        return self._by_id.values()

    def named(self, short_channel_id: int) -> ChannelInfo | None:
        """The channel that somebody's onion names: by its real short channel id, or an alias of ours."""
        return self._by_scid.get(short_channel_id)

    def has_usable(self, peer: bytes) -> bool:
        return any(_is_usable(channel) for channel in self._by_peer.get(peer, {}).values())

    def first_hops(self, *, but: Collection[bytes] = ()) -> tuple[FirstHop, ...]:
        return tuple(
            FirstHop(
                channel.peer,
                ShortChannelId(_name(channel)),
                Msat(max(0, self._left(channel))),
                Msat(max(1, channel.peer_htlc_minimum)),
                max(0, slots(channel) - sum(htlc.offered for htlc in channel.htlcs)),
            )
            for channel in self._by_id.values()
            if _is_usable(channel) and channel.channel_id not in but and self._left(channel) > 0
        )

    def of_first_hop(self, short_channel_id: int) -> ChannelInfo | None:
        """The channel that `first_hops` gave this name."""
        for channel in self._by_id.values():
            if _name(channel) == short_channel_id or channel.alias_local == short_channel_id:
                return channel
        return None

    def can_carry(self, channel: ChannelInfo, amount: Msat) -> bool:
        return _is_usable(channel) and self._left(channel) >= amount

    def is_full(self) -> bool:
        """Whether a channel of ours takes nothing only because so many HTLCs stand in it."""
        return any(
            _is_usable(channel) and sum(htlc.offered for htlc in channel.htlcs) >= slots(channel)
            for channel in self._by_id.values()
        )

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
            return f"we have no channel with the recipient {peer.hex()}"
        usable = [channel for channel in channels if _is_usable(channel)]
        if not usable:
            states = ", ".join(sorted({_state(channel) for channel in channels}))
            return f"no channel with the recipient is usable now ({states})"
        most = max(self._left(channel) for channel in usable)
        return f"the channel with the recipient can send {max(0, most)} msat now, {amount} msat are needed"

    def _left(self, channel: ChannelInfo) -> int:
        return channel.spendable_msat - self._taken.get(channel.channel_id, 0)


class ChannelList:
    """The book, and how it is brought up to date: one question at a time, shared by all who wait for it."""

    def __init__(self, list_channels: Callable[[ListChannels], Awaitable[tuple[ChannelInfo, ...]]]) -> None:
        self.book = ChannelBook()
        self._list_channels = list_channels
        self._refreshing: asyncio.Future[None] | None = None
        self._refreshed_at = float("-inf")

    async def refresh(self) -> None:
        """A new list of channels. Those who ask while one is under way share it, and its error."""
        if self._refreshing is not None:
            await asyncio.shield(self._refreshing)
            return
        loop = asyncio.get_running_loop()
        shared = self._refreshing = loop.create_future()
        try:
            await asyncio.sleep(max(0.0, self._refreshed_at + REFRESH_SECONDS - loop.time()))
            self.book.asking()
            self.book.learn(await self._list_channels(ListChannels()))
            self._refreshed_at = loop.time()
            shared.set_result(None)
        except BaseException as error:
            self.book.outdated = True
            shared.set_exception(
                error if isinstance(error, Exception) else OutcomeUnknown("the node is stopping")
            )
            shared.exception()  # perhaps nobody shares it
            raise
        finally:
            self._refreshing = None


def slots(channel: ChannelInfo) -> int:
    """How many HTLCs of ours may stand in it."""
    return min(MAX_HTLCS, channel.peer_max_accepted_htlcs)


def standing_in(channels: tuple[ChannelInfo, ...]) -> set[tuple[bytes, int]]:
    """The incoming HTLCs that are not resolved: channel id and HTLC id."""
    return {(c.channel_id, h.id) for c in channels for h in c.htlcs if not h.offered}


def _name(channel: ChannelInfo) -> int:
    """What we call it towards routing: the real short channel id, else our alias."""
    if channel.short_channel_id is not None and not channel.scid_alias_only:
        return channel.short_channel_id
    return channel.alias_local or channel.short_channel_id or 0


def _is_usable(channel: ChannelInfo) -> bool:
    return channel.state == NORMAL and channel.peer_connected and channel.reestablished


def _state(channel: ChannelInfo) -> str:
    if channel.state != NORMAL:
        return channel.state
    return "reestablishing" if channel.peer_connected else "the peer is not connected"
