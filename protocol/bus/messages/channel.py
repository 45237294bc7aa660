"""What the channel service says and hears (BOLT 2): channels, and the HTLCs that payments offer and resolve."""

from msgspec import Struct

from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat

_FORWARD = "fwd/"


def forward_origin(channel_id: bytes, htlc_id: int) -> str:
    """The origin of an HTLC that passes on the incoming one `htlc_id` of `channel_id`."""
    return f"{_FORWARD}{channel_id.hex()}/{htlc_id}"


def parse_forward_origin(origin: str) -> tuple[bytes, int] | None:
    """The incoming HTLC behind an origin; None for a payment of our own."""
    if not origin.startswith(_FORWARD):
        return None
    channel_id, _, htlc_id = origin.removeprefix(_FORWARD).partition("/")
    return bytes.fromhex(channel_id), int(htlc_id)


class FundChannel(Struct, frozen=True, tag="channel.fund"):
    """Opens a channel with a connected peer. `amount` None: all coins. Answered with `ChannelFunded` once the
    funding transaction was broadcast."""

    peer: bytes
    amount: Sat | None
    feerate_per_kw: FeeratePerKw | None = None
    push_msat: Msat = Msat(0)
    anchors: bool = True
    minconf: int = 1
    announce: bool = True
    """Whether the channel is to be told to the network."""
    mindepth: int | None = None
    """After how many confirmations we use it; None: as many as the peer asks for. 0: before it is confirmed, which the
    peer must agree to."""
    channel_type: tuple[int, ...] | None = None
    """Its bits. None: the best that the peer can, with `anchors` if that is asked for; without `announce` its real
    short channel id stays between us."""
    top_up: bool | None = None
    """Whether the funding transaction may fill the fee reserve where it is short. None: if the signer insists on it."""


class ChannelFunded(Struct, frozen=True, tag="channel.funded"):
    channel_id: bytes
    txid: bytes
    outnum: int
    tx: bytes
    channel_type: tuple[int, ...] = ()


class CloseChannel(Struct, frozen=True, tag="channel.close"):
    """`selector`: channel id or peer id in hex, or a short channel id. After `unilateral_timeout` seconds
    without agreement our commitment is published; 0 never does.

    `feerate_per_kw` of our closing transaction. Said again with a higher one, it replaces the closing transaction that
    is out, if the peer knows option_simple_close."""

    selector: str
    unilateral_timeout: int = 172_800
    feerate_per_kw: FeeratePerKw | None = None


class ChannelClosed(Struct, frozen=True, tag="channel.closed"):
    kind: str  # "mutual", "unilateral" or "unopened"
    tx: bytes
    txid: bytes


class ListChannels(Struct, frozen=True, tag="channel.list"):
    """All, or those of a peer, or those with these channel ids."""

    peer: bytes | None = None
    channel_ids: tuple[bytes, ...] | None = None


class ChannelsTouched(Struct, frozen=True, tag="channel.touched"):
    """Event: something about these channels may have changed in this turn; `ListChannels` tells what."""

    channel_ids: tuple[bytes, ...]


class HtlcInfo(Struct, frozen=True):
    offered: bool
    id: int
    amount_msat: Msat
    payment_hash: bytes
    cltv_expiry: int
    state: str  # Core Lightning's name of the state, such as SENT_ADD_ACK_REVOCATION


class ChannelInfo(Struct, frozen=True):
    """One channel as people and tools see it. Amounts in msat; `state` in Core Lightning's words."""

    channel_id: bytes
    peer: bytes
    peer_connected: bool
    reestablished: bool
    state: str
    opener_is_us: bool
    anchors: bool
    capacity: Sat
    funding_txid: bytes
    funding_outnum: int
    short_channel_id: int | None
    alias_local: int | None
    alias_remote: int | None
    to_us_msat: Msat
    min_to_us_msat: Msat
    max_to_us_msat: Msat
    spendable_msat: Msat
    receivable_msat: Msat
    our_reserve: Sat
    their_reserve: Sat
    dust_limit: Sat
    our_to_self_delay: int
    their_to_self_delay: int
    max_accepted_htlcs: int
    minimum_htlc_in_msat: Msat
    max_in_flight_msat: Msat
    feerate_per_kw: FeeratePerKw
    local_number: int
    remote_number: int
    funding_confirmations: int
    closer: str | None
    close_to: bytes
    why: str
    htlcs: tuple[HtlcInfo, ...]
    announce: bool = False
    """Both sides agreed at the open to tell the network of it."""
    scid_alias_only: bool = False
    """`short_channel_id` takes no incoming HTLC and must not stand in an invoice: only the aliases do."""
    zeroconf: bool = False
    """It may be used before its funding is confirmed, by the word of a person."""
    channel_type: tuple[int, ...] = ()
    handle: bytes = b""
    """What the signer calls the channel."""
    local_funding_pubkey: bytes = b""
    remote_funding_pubkey: bytes = b""
    peer_max_accepted_htlcs: int = 483
    """How many HTLCs of ours the peer takes at once."""
    peer_htlc_minimum: Msat = Msat(1)
    """The smallest HTLC of ours that the peer takes."""


class Channels(Struct, frozen=True, tag="channel.channels"):
    channels: tuple[ChannelInfo, ...]


class OfferHtlc(Struct, frozen=True, tag="channel.offer"):
    """One way. `origin` names the payment part (or incoming HTLC) and is accepted once per channel for ever.

    Answered by exactly one of the events `HtlcRefused`, `HtlcFulfilled`, `HtlcFailed`, even after restarts.
    """

    channel_id: bytes
    amount_msat: Msat
    payment_hash: bytes
    cltv_expiry: int
    onion: bytes
    origin: str


class HtlcRefused(Struct, frozen=True, tag="channel.refused"):
    """The HTLC was never offered to the peer: nothing was sent, nothing can be lost. `passing`: the channel is only
    full now, so the same offer may be taken when something in it has settled."""

    origin: str
    sentence: str
    what_to_do: str
    passing: bool = False


class HtlcFulfilled(Struct, frozen=True, tag="channel.fulfilled"):
    """The peer gave the preimage; saved before this was said."""

    origin: str
    channel_id: bytes
    htlc_id: int
    preimage: bytes
    attribution: bytes | None = None
    """The attribution data that came with it (BOLT 4), if any did."""


class HtlcFailed(Struct, frozen=True, tag="channel.failed"):
    """The HTLC is irrevocably gone from both commitments. `reason`: the failure onion, or a BOLT 4 failure code
    with the hash of our onion when the peer could not read it."""

    origin: str
    channel_id: bytes
    htlc_id: int
    reason: bytes
    malformed_code: int | None = None
    attribution: bytes | None = None


class HtlcReceived(Struct, frozen=True, tag="channel.received"):
    """An incoming HTLC is irrevocably committed and peeled. Said again after every start until it is resolved.

    `payload` is the decrypted hop payload; `final` when the onion ends here, else `next_onion` is for the next node.
    `onion_key`: the ephemeral key of the onion that came; the same key twice is a replay.
    """

    channel_id: bytes
    htlc_id: int
    amount_msat: Msat
    payment_hash: bytes
    cltv_expiry: int
    payload: bytes
    final: bool
    next_onion: bytes | None = None
    onion_key: bytes = b""


class FulfilHtlc(Struct, frozen=True, tag="channel.fulfil"):
    """One way. Without `preimage` the signer releases that of its invoice; with one (from the next hop, a keysend or
    a hold invoice made elsewhere) the signer only notes the credit. Repeating it is harmless.

    `others`: HTLCs of other channels that pay the same invoice, by channel id: the signer judges them together.
    `promised`: somebody was told that this is settled, so it is claimed on chain in time if the peer stays away.
    `hold_time`: how long we held it, in units of 100 ms, 0 if we do not know. `attribution`: of the next hop."""

    channel_id: bytes
    htlc_id: int
    preimage: bytes | None = None
    others: tuple[tuple[bytes, tuple[int, ...]], ...] = ()
    hold_time: int = 0
    attribution: bytes | None = None
    promised: bool = False


class FailHtlc(Struct, frozen=True, tag="channel.fail"):
    """One way. `failure`: an encoded BOLT 4 failure message, not yet wrapped; or, `from_next`, the failure onion of
    the next hop, to be wrapped once more. `hold_time` and `attribution` as in `FulfilHtlc`."""

    channel_id: bytes
    htlc_id: int
    failure: bytes
    from_next: bool = False
    hold_time: int = 0
    attribution: bytes | None = None


class HtlcResolved(Struct, frozen=True, tag="channel.resolved"):
    """An incoming HTLC is irrevocably gone from both commitments. `fulfilled`: whether we were paid."""

    channel_id: bytes
    htlc_id: int
    payment_hash: bytes
    fulfilled: bool


class LiveOrigins(Struct, frozen=True, tag="channel.origins"):
    """Asks which origins live in a channel or are resolved there: what payments reconcile against at start.

    `origins`: these only; None: all there ever were."""

    origins: tuple[str, ...] | None = None


class Origins(Struct, frozen=True, tag="channel.origins_are"):
    """For each origin: "pending", "fulfilled" (then `preimage`) or "failed"."""

    origins: tuple[tuple[str, str, bytes | None, bytes | None, int | None], ...]
    """(origin, state, preimage, failure reason, malformed code)"""
    attributions: tuple[tuple[str, bytes], ...] = ()
    """(origin, attribution data) where the next hop gave some and a forward may still need it"""


class SettledReceived(Struct, frozen=True, tag="channel.settled"):
    """Asks how much came in for good under each of these payment hashes: what `HtlcResolved` said before a crash."""

    payment_hashes: tuple[bytes, ...]


class Settled(Struct, frozen=True, tag="channel.settled_are"):
    amounts: tuple[tuple[bytes, Msat], ...]
    """(payment hash, msat); only hashes under which something came in."""


class ChannelStateChanged(Struct, frozen=True, tag="channel.state"):
    """Event for people: a channel moved from one state to another, and why."""

    channel_id: bytes
    old: str
    new: str
    why: str
    height: BlockHeight
