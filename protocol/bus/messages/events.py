"""The event stream: numbered events, and the snapshot that a listener starts from (DESIGN, "The outside face").

A row tells the whole of what it is about, so that it replaces the one before it and may be told twice. Listeners
pull: they say the last number that they saw, and learn what came since, or that there is a gap. Then they take
a snapshot. So nobody who is slow holds anything up.
"""

from msgspec import Struct

from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat

MAX_PAGE = 500
MAX_WAIT_SECONDS = 30.0
MAX_HTLCS_SHOWN = 16


class HtlcRow(Struct, frozen=True, array_like=True):
    """`state` in Core Lightning's words, such as SENT_ADD_ACK_REVOCATION."""

    offered: bool
    id: int
    amount_msat: Msat
    payment_hash: bytes
    cltv_expiry: int
    state: str


class ChannelRow(Struct, frozen=True, tag="channel"):
    """A channel as it is now. `htlcs` has the first of them by expiry; the counts and sums have all."""

    channel_id: bytes
    peer: bytes
    connected: bool
    usable: bool
    state: str
    opener_is_us: bool
    anchors: bool
    capacity: Sat
    short_channel_id: int | None
    funding_txid: bytes
    funding_outnum: int
    funding_confirmations: int
    to_us_msat: Msat
    spendable_msat: Msat
    receivable_msat: Msat
    our_reserve: Sat
    their_reserve: Sat
    our_to_self_delay: int
    their_to_self_delay: int
    feerate_per_kw: FeeratePerKw
    local_number: int
    remote_number: int
    offered_htlcs: int
    offered_msat: Msat
    received_htlcs: int
    received_msat: Msat
    next_expiry: int | None
    closer: str | None
    why: str
    htlcs: tuple[HtlcRow, ...]


class ChannelMoved(Struct, frozen=True, tag="channel_state"):
    channel_id: bytes
    old: str
    new: str
    why: str
    height: BlockHeight


class PaymentNow(Struct, frozen=True, tag="payment"):
    """`status`: pending, complete or failed. While pending the outcome is not known, until block `unknown_until` at
    the latest."""

    id: str
    payment_hash: bytes
    destination: bytes
    amount_msat: Msat
    fee_msat: Msat
    status: str
    created: int
    completed: int | None
    error: str | None
    label: str | None
    parts: int
    unknown_until: int | None = None


class InvoiceNow(Struct, frozen=True, tag="invoice"):
    """`status`: unpaid, paid or expired."""

    label: str
    payment_hash: bytes
    amount_msat: Msat | None
    description: str
    status: str
    expires_at: int
    received_msat: Msat | None
    paid_at: int | None


class ForwardNow(Struct, frozen=True, tag="forward"):
    """An HTLC that we pass on. `status`: offered, settled, failed (after us) or local_failed; `fee_msat`: what it earns
    us if it settles."""

    in_channel: bytes
    in_htlc: int
    in_msat: Msat
    out_channel: bytes | None
    out_msat: Msat | None
    fee_msat: Msat | None
    payment_hash: bytes
    status: str
    received: float
    resolved: float | None = None
    reason: str | None = None


class PeerRow(Struct, frozen=True, tag="peer"):
    """`road`: the transport in use, "" while away; `reason`: why it went away, when that was seen."""

    node_id: bytes
    connected: bool
    outbound: bool
    address: str
    road: str
    last_seen: int
    reason: str = ""


class BlockNow(Struct, frozen=True, tag="block"):
    height: BlockHeight
    block_hash: bytes
    time: int


class ChainLink(Struct, frozen=True, tag="chain"):
    """Whether the chain backend answers; `reason` when it does not."""

    up: bool
    reason: str = ""


class LaneRow(Struct, frozen=True, array_like=True):
    """Round trips of one kind of question to the signer, in milliseconds, since the node started."""

    name: str
    answered: int
    last_ms: float
    mean_ms: float
    worst_ms: float


class RefusalRow(Struct, frozen=True, array_like=True):
    time: float
    tag: str
    rule: str
    next_step: str


class SignerRow(Struct, frozen=True, tag="signer"):
    """The line to the signer as the node sees it."""

    up: bool
    reason: str
    endpoint: str
    node_id: bytes
    requests: int
    open: int
    refused: int
    lanes: tuple[LaneRow, ...]
    refusals: tuple[RefusalRow, ...]


class WalletNow(Struct, frozen=True, tag="wallet"):
    """Coins on chain by what can be done with them."""

    confirmed: Sat
    unconfirmed: Sat
    reserved: Sat
    coins: int


class CoinSeen(Struct, frozen=True, tag="coin"):
    txid: bytes
    index: int
    value: Sat
    height: BlockHeight


class LogLine(Struct, frozen=True, tag="log"):
    """One line of the daemon's log: its event's name, and the fields as text."""

    level: str
    event: str
    text: str


Happening = (
    ChannelRow
    | ChannelMoved
    | PaymentNow
    | InvoiceNow
    | ForwardNow
    | PeerRow
    | BlockNow
    | ChainLink
    | SignerRow
    | WalletNow
    | CoinSeen
    | LogLine
)


class Event(Struct, frozen=True, array_like=True):
    """`seq` counts from 1 in each run of the node, without holes."""

    seq: int
    time: float
    what: Happening


NOTABLE_LEVELS = frozenset({"warning", "error", "critical"})


def is_notable(event: Event) -> bool:
    """What a person would call an event: not each counter that moved, nor each payment of others."""
    what = event.what
    if isinstance(what, LogLine):
        return what.level in NOTABLE_LEVELS
    return not isinstance(what, ChannelRow | ForwardNow | SignerRow | WalletNow)


class EventsSince(Struct, frozen=True, tag="events.since"):
    """Answered at once when there is something newer than `seq`, else within `wait_seconds`. `run` b"": any."""

    run: bytes
    seq: int
    wait_seconds: float = 0.0
    most: int = MAX_PAGE


class EventPage(Struct, frozen=True, tag="events.page"):
    """`gap`: what follows `seq` is not kept any more, or belongs to another run of the node: take a snapshot."""

    run: bytes
    events: tuple[Event, ...]
    last: int
    gap: bool = False


class GetSnapshot(Struct, frozen=True, tag="events.get_snapshot"):
    pass


class Snapshot(Struct, frozen=True, tag="events.snapshot"):
    """Everything as of event `seq`; the events after it may have been seen by some of the rows already.

    `getinfo`: the JSON of the RPC method. Of payments and invoices the newest are here.
    """

    run: bytes
    seq: int
    time: float
    getinfo: bytes
    block: BlockNow
    synced: bool
    chain: ChainLink
    signer: SignerRow
    wallet: WalletNow
    channels: tuple[ChannelRow, ...]
    payments: tuple[PaymentNow, ...]
    invoices: tuple[InvoiceNow, ...]
    peers: tuple[PeerRow, ...]
    durable_commits: int
    logs: tuple[Event, ...] = ()
    recent: tuple[Event, ...] = ()
    """The newest that people would call events."""
