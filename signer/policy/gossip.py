"""What may be said of us in public, and when (BOLT 7; DESIGN, "The signer contract").

None of this moves money. The rules keep a stolen node from lying with our name: about channels that are not ours,
about where they are, and about the order of what we said.
"""

from protocol.amounts import Sat, ShortChannelId, format_scid
from protocol.bolt7 import addresses
from protocol.errors import MalformedMessage
from signer.refusal import Denied

LARGEST_FEATURES = 32
BITCOIN_BEGINS = 1_231_006_505
"""The time in the genesis block."""
MOST_AHEAD_SECONDS = 3_600
"""Others drop what lies far in the future; and it would keep us from saying anything newer."""
_LARGEST_SCID = 1 << 63


def announced_peer(known: bytes, named: bytes) -> None:
    """`announce-peer`: a channel is announced with the peer whose channel it is."""
    if known != named:
        raise Denied(
            "announce-peer",
            "a channel is announced with the peer that it was opened with",
            seen=named.hex(),
            limit=known.hex(),
            next_step="Name the peer of this channel.",
        )


def announced_output(scid: ShortChannelId, funding_index: int) -> None:
    """`announce-output`: a short channel id ends in the index of the funding output, which the signer knows."""
    if not 0 <= scid < _LARGEST_SCID or scid & 0xFFFF != funding_index:
        raise Denied(
            "announce-output",
            "a short channel id names the funding output",
            seen=format_scid(scid) if scid >= 0 else str(scid),
            limit=f"output {funding_index}",
            next_step="Take the place of the funding transaction in its block.",
        )


def announced_once(bound: int, scid: ShortChannelId) -> None:
    """`announce-place`: one funding output has one place in the chain.

    Two signed places for one output would let a stolen node show one channel as two: an output that anyone pays to
    the same script passes the check of the network. After a reorganisation deeper than six blocks a channel stays
    unannounced; no money depends on that.
    """
    if bound not in (0, scid):
        raise Denied(
            "announce-place",
            "the first short channel id that was signed for a funding output stays its only one",
            seen=format_scid(scid),
            limit=format_scid(ShortChannelId(bound)),
            next_step="Announce the channel where it was announced first, or leave it unannounced.",
        )


def announced_features(features: bytes) -> None:
    """`announce-features`: bits in their shortest form."""
    if len(features) > LARGEST_FEATURES or features[:1] == b"\0":
        raise Denied(
            "announce-features",
            "features are a short set of bits without leading zeros",
            seen=f"{len(features)} bytes: {features[:LARGEST_FEATURES].hex()}",
            limit=f"{LARGEST_FEATURES} bytes",
            next_step="Send the features in their shortest form.",
        )


def public_place(bound: int, scid: ShortChannelId, *, dont_forward: bool) -> None:
    """`update-place`: what everybody may read is about a channel that we announced."""
    if not dont_forward and bound != scid:
        raise Denied(
            "update-place",
            "a public channel_update is about a channel that was announced, at its place",
            seen=format_scid(scid),
            limit=format_scid(ShortChannelId(bound)) if bound else "a channel that is not announced",
            next_step="Announce the channel first, or mark the update as not to be forwarded.",
        )


def update_fields(
    capacity: Sat, htlc_minimum: int, htlc_maximum: int, cltv_delta: int, base: int, rate: int
) -> None:
    """`update-fields`: amounts lie within the channel, numbers within their fields."""
    if not 0 <= htlc_minimum <= htlc_maximum <= 1000 * capacity:
        raise Denied(
            "update-fields",
            "the largest HTLC is at least the smallest and at most the capacity",
            seen=f"{htlc_minimum} to {htlc_maximum} msat",
            limit=f"0 to {1000 * capacity} msat",
            next_step="Correct the policy of this channel.",
        )
    if not (0 <= cltv_delta <= 0xFFFF and 0 <= base <= 0xFFFFFFFF and 0 <= rate <= 0xFFFFFFFF):
        raise Denied(
            "update-fields",
            "fees and the cltv delta fit into their fields",
            seen=f"{base} msat, {rate} millionths, {cltv_delta} blocks",
            limit="32, 32 and 16 bits",
            next_step="Correct the policy of this channel.",
        )


def node_fields(rgb_color: bytes, alias: bytes, encoded_addresses: bytes) -> None:
    """`node-fields`: what we announce is what BOLT 7 lets us announce."""
    reason = ""
    if len(rgb_color) != 3:
        reason = f"a color of {len(rgb_color)} bytes"
    try:
        text = alias.decode()
        if "\0" in text.rstrip("\0"):
            reason = "an alias with a zero byte inside"
        parsed = addresses.parse(encoded_addresses)
        if not parsed.relayable or addresses.encode(parsed.addresses) != encoded_addresses:
            reason = "addresses out of order, unknown or twice"
    except UnicodeDecodeError:
        reason = "an alias that is not UTF-8"
    except (MalformedMessage, ValueError) as error:
        reason = str(error)
    if reason:
        raise Denied(
            "node-fields",
            "a node announcement has a color of 3 bytes, an alias in UTF-8 and ascending addresses",
            seen=reason,
            limit='BOLT 7, "The node_announcement Message"',
            next_step="Correct alias, color and addresses in the node's config.",
        )


def timestamp(last: int, last_content: int, new: int, content: int, now: float) -> None:
    """`gossip-time`: newer content has a newer time, and no time lies in the future. The same again is granted."""
    if new == last and content == last_content:
        return
    ahead = int(now) + MOST_AHEAD_SECONDS
    if not max(last + 1, BITCOIN_BEGINS) <= new <= ahead:
        raise Denied(
            "gossip-time",
            "what we say of ourselves has a timestamp above the last one and not far in the future",
            seen=str(new),
            limit=f"{max(last + 1, BITCOIN_BEGINS)} to {ahead}",
            next_step="Compare the clocks of node and signer, and use a newer timestamp.",
        )
