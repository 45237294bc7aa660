"""What we say of our own channels and when, as pure decisions (BOLT 7; checklist 57 and 61)."""

from dataclasses import dataclass, field

from protocol.amounts import Msat, ShortChannelId
from protocol.bolt7.announcement import ChannelEnds, EndSignatures, UpdateFields
from protocol.bus.messages.channel import ChannelInfo
from protocol.bus.messages.routing import ChannelPolicy
from protocol.wire.bolt7_gossip import AnnouncementSignatures

CONFIRMATIONS = 6
REFRESH_SECONDS = 10 * 24 * 3600
"""Others prune after 14 days; so there are four days in which a refresh may fail."""
AWAY_SECONDS = 20 * 60
"""A peer that is gone for so long: who tries to pay through it would wait in vain."""
NORMAL = "CHANNELD_NORMAL"
_BEFORE = ("OPENINGD", "CHANNELD_AWAITING_LOCKIN", "DUALOPEND_AWAITING_LOCKIN")
GONE = ("CLOSED", "ONCHAIN", "FUNDING_SPEND_SEEN")


@dataclass(slots=True)
class OwnChannel:
    info: ChannelInfo
    away_since: float | None
    """On the steady clock; None while the peer is here."""
    policy: ChannelPolicy | None = None
    update: bytes | None = None
    fields: UpdateFields | None = None
    """Of `update`, our newest."""
    aliased: dict[int, tuple[UpdateFields, bytes]] = field(default_factory=dict)
    """The same under another name of the channel, with the `fields` from which each was made."""
    stamped: int = 0
    """The newest timestamp among those."""
    told_on: int | None = None
    """The connection on which the peer was sent `update`."""
    signed: tuple[ShortChannelId, EndSignatures] | None = None
    """Our signatures on the announcement, and the place that they name."""
    signatures_on: int | None = None
    """The connection on which we sent them last."""
    theirs: AnnouncementSignatures | None = None
    theirs_on: int | None = None
    """The connection on which the peer's came last."""
    peer_timestamp: int = 0
    trouble: str = ""
    """What was logged last, so that it is not logged each minute."""

    @property
    def names(self) -> tuple[int, ...]:
        """Every short channel id under which this channel may be meant."""
        info = self.info
        return tuple(
            name for name in (info.short_channel_id, info.alias_local, info.alias_remote) if name is not None
        )


def may_announce(info: ChannelInfo) -> bool:
    """Both sides wanted it, channel_ready went both ways, no shutdown, and deep enough."""
    return (
        info.announce
        and info.state == NORMAL
        and info.short_channel_id is not None
        and info.funding_confirmations >= CONFIRMATIONS
        and bool(info.handle)
    )


def must_send_signatures(own: OwnChannel, connection: int | None, *, announced: bool) -> bool:
    """Once a connection at most: until the peer's came, and as the answer when the peer sends its own again."""
    if connection is None or not own.info.reestablished or own.signatures_on == connection:
        return False
    return not announced or own.theirs_on == connection


def ends_of(info: ChannelInfo, node_id: bytes, chain_hash: bytes, scid: ShortChannelId) -> ChannelEnds:
    return ChannelEnds(
        chain_hash=chain_hash,
        short_channel_id=scid,
        local_node_id=node_id,
        remote_node_id=info.peer,
        local_funding_pubkey=info.local_funding_pubkey,
        remote_funding_pubkey=info.remote_funding_pubkey,
    )


def update_wanted(own: OwnChannel, *, public: bool, now: float) -> UpdateFields | None:
    """What our channel_update should say, with timestamp 0; None when there is nothing to say.

    A channel that is not announced goes by the alias that the peer gave us, else by its real place, and for the
    eyes of the peer alone.
    """
    info, policy = own.info, own.policy
    if policy is None or info.state in _BEFORE or info.state in GONE or not info.handle:
        return None
    name = info.short_channel_id if public else (info.alias_remote or info.short_channel_id)
    if name is None:
        return None
    # The peer takes no larger HTLC than its limit of what may be in flight.
    highest = min(policy.htlc_maximum_msat, info.max_in_flight_msat, 1000 * info.capacity)
    away = own.away_since is not None and now - own.away_since >= AWAY_SECONDS
    usable = info.state == NORMAL and policy.enabled and policy.htlc_minimum_msat <= highest
    return UpdateFields(
        short_channel_id=ShortChannelId(name),
        timestamp=0,
        dont_forward=not public,
        disabled=not usable or away,
        cltv_expiry_delta=policy.cltv_expiry_delta,
        htlc_minimum_msat=Msat(min(policy.htlc_minimum_msat, highest)),
        htlc_maximum_msat=Msat(highest),
        fee_base_msat=policy.fee_base_msat,
        fee_proportional_millionths=policy.fee_proportional_millionths,
    )


def needs_update(kept: UpdateFields | None, wanted: UpdateFields, now: float) -> bool:
    """No update without news, but for one that others would soon prune."""
    if kept is None:
        # The first thing said of a channel is not that it cannot be used.
        return not wanted.disabled
    return _without_time(kept) != _without_time(wanted) or now - kept.timestamp >= REFRESH_SECONDS


def _without_time(fields: UpdateFields) -> tuple[object, ...]:
    return (
        fields.short_channel_id,
        fields.dont_forward,
        fields.disabled,
        fields.cltv_expiry_delta,
        fields.htlc_minimum_msat,
        fields.htlc_maximum_msat,
        fields.fee_base_msat,
        fields.fee_proportional_millionths,
    )


def next_timestamp(now: float, *before: int) -> int:
    """The clock, or one more than what was said before when the clock went back."""
    return max(int(now), *(one + 1 for one in before))
