"""What the routing service says and hears: routes, what attempts taught us, and the graph (BOLT 7; BOLT 4)."""

from msgspec import Struct

from protocol.amounts import MAX_HTLC_CLTV, Msat, ShortChannelId
from protocol.bolt11.invoice import HopHint


class RouteHop(Struct, frozen=True, array_like=True):
    """One channel of a route and the HTLC in it: it ends at `node_id`.

    `direction`: 0 when the HTLC goes from the node whose id sorts first. `delay`: blocks from now to its expiry.
    """

    node_id: bytes
    short_channel_id: ShortChannelId
    direction: int
    amount_msat: Msat
    delay: int


class Route(Struct, frozen=True):
    """`hops[0]` is over one of the first hops offered; the last one ends at the destination with `amount_msat`.

    `probability` from 0 to 1, as far as we know. `why`: one sentence on how it was chosen.
    """

    hops: tuple[RouteHop, ...]
    amount_msat: Msat
    fee_msat: Msat
    probability: float
    why: str


class FirstHop(Struct, frozen=True, array_like=True):
    """A channel of ours that may carry a part now. `short_channel_id`: the real one, else our alias."""

    peer: bytes
    short_channel_id: ShortChannelId
    spendable_msat: Msat
    htlc_minimum_msat: Msat
    slots: int


class FindRoutes(Struct, frozen=True, tag="routing.find"):
    """Answered with `Routes`, or refused with the reason that a person can act on.

    `final_delay`: blocks that the destination asks for; shadow blocks are the caller's. `excluded`: directed channels
    that must not be used. `max_parts` 1 asks for a single path. `in_flight`: attempts of this payment that still
    run are known from `AttemptStarted`. `source` None: from us. `payment`: what stands before the "/" in the
    origins of its attempts, so that what their failures told of fees and delays counts for this retry.
    """

    destination: bytes
    amount_msat: Msat
    final_delay: int
    max_fee_msat: Msat
    first_hops: tuple[FirstHop, ...]
    hints: tuple[tuple[HopHint, ...], ...] = ()
    excluded: tuple[tuple[ShortChannelId, int], ...] = ()
    excluded_nodes: tuple[bytes, ...] = ()
    max_parts: int = 16
    max_delay: int = MAX_HTLC_CLTV
    source: bytes | None = None
    payment: str = ""
    max_hops: int = 20


class Routes(Struct, frozen=True, tag="routing.routes"):
    routes: tuple[Route, ...]
    probability: float


class ShadowDelay(Struct, frozen=True, tag="routing.shadow"):
    """Answered with a number of blocks to add to the payee's, so that a forwarder cannot tell how near it is."""

    destination: bytes


class AttemptStarted(Struct, frozen=True, tag="routing.started"):
    """One way: an HTLC was offered along these hops; its amount counts against their liquidity until it ends."""

    origin: str
    hops: tuple[RouteHop, ...]


class AttemptEnded(Struct, frozen=True, tag="routing.ended"):
    """One way. `failed_at` None: it reached the destination. Else the failure came from the node at the end of
    `hops[failed_at - 1]` (0: from us) and concerns the channel `hops[failed_at]`; past the last hop, the payee.
    `failed_at` -1: nobody owned up to the failure.

    `code`: BOLT 4 failure code. `channel_update`: as the failing node sent it; used for this payment's retry only.
    `suspects`: the nodes (the first hop leads to node 0) of which attribution data says that one made or spoiled a
    failure that nobody owned up to; from the first up to, and without, the second.
    """

    origin: str
    failed_at: int | None = None
    code: int | None = None
    channel_update: bytes | None = None
    suspects: tuple[int, int] | None = None


class ListGossipNodes(Struct, frozen=True, tag="routing.list_nodes"):
    node_id: bytes | None = None


class GossipNode(Struct, frozen=True):
    node_id: bytes
    last_timestamp: int | None = None
    alias: bytes = b""
    color: bytes = b""
    features: bytes = b""
    addresses: bytes = b""
    """As in node_announcement."""


class GossipNodes(Struct, frozen=True, tag="routing.nodes"):
    nodes: tuple[GossipNode, ...]


class ListGossipChannels(Struct, frozen=True, tag="routing.list_channels"):
    short_channel_id: ShortChannelId | None = None
    source: bytes | None = None
    destination: bytes | None = None


class GossipChannel(Struct, frozen=True):
    """One direction of a channel with the policy that `source` set for it."""

    source: bytes
    destination: bytes
    short_channel_id: ShortChannelId
    direction: int
    amount_msat: Msat
    message_flags: int
    channel_flags: int
    active: bool
    last_update: int
    base_fee_msat: int
    fee_per_millionth: int
    delay: int
    htlc_minimum_msat: Msat
    htlc_maximum_msat: Msat
    features: bytes = b""


class GossipChannels(Struct, frozen=True, tag="routing.channels"):
    channels: tuple[GossipChannel, ...]


class ChannelPolicy(Struct, frozen=True):
    """What we ask of others for an HTLC that leaves through a channel of ours (BOLT 7, channel_update)."""

    fee_base_msat: Msat
    fee_proportional_millionths: int
    cltv_expiry_delta: int
    htlc_minimum_msat: Msat
    htlc_maximum_msat: Msat
    enabled: bool = True


class PolicyChanged(Struct, frozen=True, tag="routing.policy"):
    """Event from payments: the policy of one of our channels is now this; gossip makes a channel_update of it."""

    channel_id: bytes
    policy: ChannelPolicy


class ListPolicies(Struct, frozen=True, tag="routing.list_policies"):
    """Asked of payments: the policies of our channels."""


class Policies(Struct, frozen=True, tag="routing.policies"):
    policies: tuple[tuple[bytes, ChannelPolicy], ...]
    """(channel id, policy)"""


class OwnUpdate(Struct, frozen=True, tag="routing.own_update"):
    """Asked of gossip: our newest channel_update of a channel, raw with its type, for failures and hints.

    `named`: the short channel id that it must have, which may be an alias; None: the one that it has.
    """

    channel_id: bytes
    named: int | None = None


class OwnUpdateIs(Struct, frozen=True, tag="routing.own_update_is"):
    raw: bytes | None


class PeerPolicy(Struct, frozen=True, tag="routing.peer_policy"):
    """Asked of gossip: the policy that the peer of a private or public channel of ours told us for its direction."""

    channel_id: bytes


class PeerPolicyIs(Struct, frozen=True, tag="routing.peer_policy_is"):
    policy: ChannelPolicy | None
