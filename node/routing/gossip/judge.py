"""The rules for gossip that comes in, as pure functions (BOLT 7; checklist 56 to 58).

Signatures are not looked at here: they cost most, so they come last and in batches.
"""

from dataclasses import dataclass

from protocol.amounts import BlockHeight, format_scid
from protocol.bitcoin.script import p2wsh
from protocol.bolt3 import scripts
from protocol.bolt7 import addresses
from protocol.bolt7.announcement import DISABLED, DONT_FORWARD
from protocol.bus.messages.chain import OutputAt
from protocol.errors import MalformedMessage
from protocol.wire.bolt7_gossip import ChannelAnnouncement, ChannelUpdate, NodeAnnouncement

CONFIRMATIONS = 6
YOUNG_BLOCKS = 6
"""An announcement that comes so many blocks too early is kept for a while: its peer may have seen blocks before us."""
GRACE_BLOCKS = 72
"""A channel whose output was spent may have been spliced, so it is forgotten only then."""
STALE_SECONDS = 14 * 24 * 3600
AHEAD_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Take:
    """Nothing speaks against it but, maybe, its signature."""


@dataclass(frozen=True, slots=True)
class Ignore:
    """Nobody's fault, or nothing that we could prove."""

    reason: str


@dataclass(frozen=True, slots=True)
class Later:
    """To be judged again after the next block."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Whoever sent this should have known better: it is told."""

    sentence: str


Verdict = Take | Ignore | Later | Fault
TAKE = Take()


def announcement(message: ChannelAnnouncement, *, chain_hash: bytes, tip: int) -> Verdict:
    """Before anything is looked up in the chain."""
    if message.chain_hash != chain_hash:
        return Ignore("it is about another chain")
    if message.node_id_1 >= message.node_id_2:
        return Fault("a channel_announcement whose node ids are not ascending")
    height = message.short_channel_id >> 40
    missing = height + CONFIRMATIONS - 1 - tip
    if missing > YOUNG_BLOCKS:
        return Ignore("its funding output lies in the future")
    if missing > 0:
        return Later(f"its funding output needs {missing} more blocks")
    return TAKE


def funding_script(message: ChannelAnnouncement) -> bytes:
    return p2wsh(scripts.funding(message.bitcoin_key_1, message.bitcoin_key_2))


def output(message: ChannelAnnouncement, found: OutputAt | None) -> Verdict:
    """What the chain says of the funding output."""
    scid = format_scid(message.short_channel_id)
    if found is None:
        return Ignore(f"there is no output at {scid}")
    if found.script != funding_script(message):
        return Ignore(f"the output at {scid} does not pay to the two keys")
    if not found.unspent:
        return Ignore(f"the output at {scid} is spent")
    return TAKE


def forget_spent(spent_height: int, tip: int) -> bool:
    return tip >= spent_height + GRACE_BLOCKS


def time(timestamp: int, *, kept: int, now: float) -> Verdict:
    """`kept`: the newest timestamp that we have, 0 for none."""
    if timestamp <= kept:
        return Ignore("we have this one or a newer one")
    if timestamp > now + AHEAD_SECONDS:
        return Ignore("its timestamp lies in the future")
    if timestamp < now - STALE_SECONDS:
        return Ignore("it is older than two weeks")
    return TAKE


def update(
    message: ChannelUpdate, *, chain_hash: bytes, kept: int, capacity_sat: int, spent: bool, now: float
) -> Verdict:
    """Of a channel whose announcement we have. `kept`: the timestamp of this direction's newest update."""
    if message.chain_hash != chain_hash:
        return Ignore("it is about another chain")
    if message.message_flags & DONT_FORWARD:
        return Ignore("it was for the peer of that channel alone")
    if spent and not message.channel_flags & DISABLED:
        return Ignore("the funding output of its channel is spent")
    if message.htlc_maximum_msat > 1000 * capacity_sat:
        return Ignore("it promises more than the capacity")
    if message.htlc_maximum_msat < message.htlc_minimum_msat:
        return Ignore("its largest HTLC is below its smallest")
    return time(message.timestamp, kept=kept, now=now)


def own_peer_update(
    message: ChannelUpdate, *, chain_hash: bytes, direction: int, kept: int, now: float
) -> Verdict:
    """The update of our peer for a channel with us, announced or not."""
    if message.chain_hash != chain_hash:
        return Ignore("it is about another chain")
    if message.channel_flags & 1 != direction:
        return Ignore("it is about our direction")
    if message.timestamp <= kept:
        return Ignore("we have this one or a newer one")
    if message.timestamp > now + AHEAD_SECONDS:
        return Ignore("its timestamp lies in the future")
    return TAKE


@dataclass(frozen=True, slots=True)
class TakeNode:
    relay: bool


def node(message: NodeAnnouncement, *, known: bool, kept: int, now: float) -> TakeNode | Ignore | Fault:
    """`known`: it has a channel that was announced."""
    if not known:
        return Ignore("it has no channel")
    if message.timestamp <= kept:
        return Ignore("we have this one or a newer one")
    if message.timestamp > now + AHEAD_SECONDS:
        return Ignore("its timestamp lies in the future")
    try:
        parsed = addresses.parse(message.addresses)
    except MalformedMessage as error:
        return Fault(f"a node_announcement whose addresses cannot be read: {error}")
    return TakeNode(parsed.relayable)


def height_of(scid: int) -> BlockHeight:
    return BlockHeight(scid >> 40)
