"""What the payment service says of HTLCs that it passes on, and the policies it asks for (BOLT 4; BOLT 7)."""

from msgspec import Struct

from protocol.amounts import Msat
from protocol.bus.messages.routing import ChannelPolicy


class SetPolicy(Struct, frozen=True, tag="forward.set_policy"):
    """Changes what is given, for these channels. The old policy stays good for others for some minutes.

    `grace_seconds` None: as long as usual. Answered with `routing.Policies`.
    """

    channel_ids: tuple[bytes, ...]
    fee_base_msat: Msat | None = None
    fee_proportional_millionths: int | None = None
    htlc_minimum_msat: Msat | None = None
    htlc_maximum_msat: Msat | None = None
    cltv_expiry_delta: int | None = None
    enabled: bool | None = None
    grace_seconds: int | None = None


class ForwardRow(Struct, frozen=True):
    """One incoming HTLC for somebody else. `status`: "offered", "settled", "failed" (after us) or "local_failed"."""

    in_channel: bytes
    in_htlc: int
    in_msat: Msat
    payment_hash: bytes
    status: str
    received: float
    out_channel: bytes | None = None
    out_scid: int | None = None
    """As the onion named it."""
    out_htlc: int | None = None
    out_msat: Msat | None = None
    fee_msat: Msat | None = None
    resolved: float | None = None
    failure_code: int | None = None
    reason: str | None = None


class ForwardChanged(Struct, frozen=True, tag="forward.changed"):
    """Event: an HTLC was passed on, settled, or failed. What ended is saved before it is said."""

    row: ForwardRow


class ListForwards(Struct, frozen=True, tag="forward.list"):
    status: str | None = None
    in_channel: bytes | None = None
    out_channel: bytes | None = None
    newest: int | None = None


class Forwards(Struct, frozen=True, tag="forward.forwards"):
    forwards: tuple[ForwardRow, ...]


class GetEarnings(Struct, frozen=True, tag="forward.get_earnings"):
    """What forwarding earned from `since` until before `until` (seconds since 1970), by spans of `span_seconds`."""

    since: int
    until: int
    span_seconds: int


class Earned(Struct, frozen=True, array_like=True):
    """`start`: of the span. `channel_id`: through which it left."""

    start: int
    channel_id: bytes
    count: int
    out_msat: Msat
    fee_msat: Msat


class Earnings(Struct, frozen=True, tag="forward.earnings"):
    earned: tuple[Earned, ...]


class GetFeesCollected(Struct, frozen=True, tag="forward.get_fees_collected"):
    """What forwarding has earned since the node began. Cheap, however many forwards that were."""


class FeesCollected(Struct, frozen=True, tag="forward.fees_collected"):
    fee_msat: Msat


__all__ = [
    "ChannelPolicy",
    "Earned",
    "Earnings",
    "FeesCollected",
    "ForwardChanged",
    "ForwardRow",
    "Forwards",
    "GetEarnings",
    "GetFeesCollected",
    "ListForwards",
    "SetPolicy",
]
