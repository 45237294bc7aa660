"""What we ask of others for each of our channels, and for how long the old terms stay good (BOLT 7; checklist 35).

BOLT 7, "HTLC Fees": who paid by the policy before the last change may not have heard of it yet.
"""

from collections.abc import Callable, Iterable

import msgspec

from node.payments import forward_store as store
from node.payments.store import SET_POLICY, Desk, Writer
from protocol.amounts import MAX_HTLC_CLTV, Msat
from protocol.bus.messages.channel import ChannelInfo
from protocol.bus.messages.forwards import SetPolicy
from protocol.bus.messages.routing import ChannelPolicy, Policies, PolicyChanged
from protocol.errors import CommandRefused

GRACE_SECONDS = 600
FEE_BASE = Msat(1000)
FEE_PPM = 10
CLTV_EXPIRY_DELTA = 40
MIN_CLTV_EXPIRY_DELTA = 34
"""3R + 2G + 2S of BOLT 2 ("`cltv_expiry_delta` Selection") with our R, G and S: below it a forward may end between
two chairs, paid to the next node and not yet claimed from the one before."""
INVALID_PARAMETER = -32602


class _Kept(msgspec.Struct, frozen=True):
    policy: ChannelPolicy
    previous: ChannelPolicy | None
    previous_until: int


class PolicyBook:
    def __init__(
        self,
        desk: Desk,
        writer: Writer,
        *,
        clock: Callable[[], float],
        changed: Callable[[PolicyChanged], None],
    ) -> None:
        self._desk = desk
        self._writer = writer
        self._clock = clock
        self._changed = changed
        self._kept: dict[bytes, _Kept] = {}

    def load(self) -> None:
        for channel_id, policy, previous, until in store.read_policies(self._writer):
            self._kept[channel_id] = _Kept(policy, previous, until)

    def of(self, channel: ChannelInfo) -> ChannelPolicy:
        kept = self._kept.get(channel.channel_id)
        return default_policy(channel) if kept is None else kept.policy

    def valid(self, channel: ChannelInfo) -> tuple[ChannelPolicy, ...]:
        """The policy of now, and the one before while it still counts."""
        kept = self._kept.get(channel.channel_id)
        if kept is None:
            return (default_policy(channel),)
        if kept.previous is None or kept.previous_until <= self._clock():
            return (kept.policy,)
        return kept.policy, kept.previous

    def list(self, channels: Iterable[ChannelInfo]) -> Policies:
        return Policies(tuple((channel.channel_id, self.of(channel)) for channel in channels))

    def set(self, request: SetPolicy, channels: Iterable[ChannelInfo]) -> Policies:
        """All are checked before the first is changed."""
        wanted = [(channel, _merged(self.of(channel), request)) for channel in channels]
        for channel, policy in wanted:
            _check(channel, policy)
        grace = GRACE_SECONDS if request.grace_seconds is None else request.grace_seconds
        for channel, policy in wanted:
            before = self.of(channel)
            if policy == before and request.grace_seconds is None:
                continue  # the one before counts for as long as it was promised
            kept = _Kept(policy, before, int(self._clock()) + grace)
            self._kept[channel.channel_id] = kept
            self._desk.save(
                SET_POLICY, store.policy_to_row(channel.channel_id, policy, before, kept.previous_until)
            )
            if policy != before:
                self._changed(PolicyChanged(channel.channel_id, policy))
        return Policies(tuple((channel.channel_id, policy) for channel, policy in wanted))


def default_policy(channel: ChannelInfo) -> ChannelPolicy:
    return ChannelPolicy(
        fee_base_msat=FEE_BASE,
        fee_proportional_millionths=FEE_PPM,
        cltv_expiry_delta=CLTV_EXPIRY_DELTA,
        htlc_minimum_msat=Msat(max(1, channel.peer_htlc_minimum)),
        htlc_maximum_msat=_most(channel),
    )


def _most(channel: ChannelInfo) -> Msat:
    """What may ever be in one HTLC of ours there."""
    return Msat(min(channel.capacity * 1000 - channel.our_reserve * 1000, channel.max_in_flight_msat))


def _merged(policy: ChannelPolicy, request: SetPolicy) -> ChannelPolicy:
    given = {
        name: value
        for name in ChannelPolicy.__struct_fields__
        if (value := getattr(request, name)) is not None
    }
    return msgspec.structs.replace(policy, **given)


def _check(channel: ChannelInfo, policy: ChannelPolicy) -> None:
    if policy.htlc_maximum_msat > channel.capacity * 1000:
        raise _invalid(
            f"the channel has {channel.capacity * 1000} msat, so an HTLC cannot have {policy.htlc_maximum_msat}",
            "Give a lower htlcmax.",
        )
    if policy.htlc_minimum_msat > policy.htlc_maximum_msat:
        raise _invalid(
            f"htlcmin {policy.htlc_minimum_msat} is above htlcmax {policy.htlc_maximum_msat}",
            "Give a lower htlcmin.",
        )
    if not MIN_CLTV_EXPIRY_DELTA <= policy.cltv_expiry_delta <= MAX_HTLC_CLTV:
        raise _invalid(
            f"a cltv delta of {policy.cltv_expiry_delta} blocks would not be safe",
            f"Give one from {MIN_CLTV_EXPIRY_DELTA} to {MAX_HTLC_CLTV}.",
        )
    if not 0 <= policy.fee_base_msat < 2**32 or not 0 <= policy.fee_proportional_millionths < 2**32:
        raise _invalid("fees have 32 bits in a channel_update", "Give lower ones.")


def _invalid(sentence: str, what_to_do: str) -> CommandRefused:
    return CommandRefused(sentence, what_to_do=what_to_do, code=INVALID_PARAMETER)
