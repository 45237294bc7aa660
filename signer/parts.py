"""A payment in parts over several channels: one release for the whole set (BOLT 4, "Basic Multi-Part Payments").

The channel that asks changes its own state; what the release does to the other channels is collected here, and joins
the turn when the request was granted. So either every channel of the set knows of the release or none does.
"""

from collections.abc import Callable

from protocol.bus.messages.signer import OtherParts
from signer.channel import Channel
from signer.channel_state import ChannelState, HtlcKey, with_released
from signer.policy import payments

Named = list[tuple[Channel, frozenset[int]]]


class Parts:
    """`find`: a channel by its BOLT 2 channel_id."""

    def __init__(self, find: Callable[[bytes], Channel | None]) -> None:
        self._find = find
        self._credited: dict[bytes, tuple[Channel, ChannelState]] = {}

    def named(self, here: Channel, others: OtherParts) -> Named:
        """The channels of `others`, each once and none of them the one that asks: no HTLC counts twice."""
        found: Named = []
        seen = {here.handle}
        for channel_id, ids in others:
            channel = self._find(channel_id)
            payments.release_channel(
                channel is not None and channel.state is not None and channel.handle not in seen, channel_id
            )
            assert channel is not None  # noqa: S101 - the rule above has refused
            seen.add(channel.handle)
            found.append((channel, frozenset(ids)))
        return found

    def held(self, channel: Channel, payment_hash: bytes, ids: frozenset[int]) -> frozenset[HtlcKey]:
        """`release-htlcs`, in a channel that is not the one that asks."""
        state = self._state(channel)
        payments.release_fresh(state)
        return payments.release_htlcs(state, payment_hash, ids)

    def credit(self, channel: Channel, held: frozenset[HtlcKey]) -> None:
        self._credited[channel.handle] = (channel, with_released(self._state(channel), held))

    def _state(self, channel: Channel) -> ChannelState:
        credited = self._credited.get(channel.handle)
        state = channel.state if credited is None else credited[1]
        if state is None:
            raise ValueError("a channel that was named has a state")
        return state

    def keep(self) -> list[tuple[Channel, ChannelState]]:
        """The request was granted: these channels have new states."""
        credited, self._credited = self._credited, {}
        return list(credited.values())

    def forget(self) -> None:
        """The request was not granted."""
        self._credited.clear()
