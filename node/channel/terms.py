"""What we ask for in a channel and what we take from a peer (BOLT 2, "The open_channel Message",
"The accept_channel Message")."""

from msgspec import Struct

from node.channel.state import Limits
from protocol import curve
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw, Msat, Sat, to_msat
from protocol.bolt3.closing import is_shutdown_script
from protocol.bolt3.commitment import ChannelKeys
from protocol.bolt3.fees import anchors_cost, commit_fee
from protocol.bolt9 import ChannelType
from protocol.errors import PeerViolation
from protocol.wire.bolt2_open import AcceptChannel, OpenChannel

OPENING = 'BOLT 2, "The open_channel Message"'
ACCEPTING = 'BOLT 2, "The accept_channel Message"'
SMALLEST_DUST_LIMIT = Sat(354)
LARGEST_DUST_LIMIT = Sat(10_000)
LARGEST_DELAY = 2016
LARGEST_DEPTH = 144
LARGEST_FUNDING = Sat((1 << 24) - 1)
SMALLEST_FUNDING = Sat(20_000)
LARGEST_FEERATE = FeeratePerKw(100_000)


class Policy(Struct, frozen=True):
    """What we ask of every peer; inside the limits of all implementations that we know."""

    dust_limit: Sat = Sat(354)
    to_self_delay: int = 144
    max_accepted_htlcs: int = 483
    htlc_minimum: Msat = Msat(1)
    minimum_depth: int = 3

    def limits(self, funding: Sat) -> Limits:
        """One part in a hundred as reserve, and never below the usual largest dust limit."""
        return Limits(
            dust_limit=self.dust_limit,
            reserve=Sat(max(funding // 100, 546)),
            to_self_delay=self.to_self_delay,
            max_accepted_htlcs=self.max_accepted_htlcs,
            htlc_minimum=self.htlc_minimum,
            max_in_flight=to_msat(funding),
        )


def keys_of(message: OpenChannel | AcceptChannel) -> ChannelKeys:
    return ChannelKeys(
        funding_pubkey=message.funding_pubkey,
        revocation_basepoint=message.revocation_basepoint,
        payment_basepoint=message.payment_basepoint,
        delayed_payment_basepoint=message.delayed_payment_basepoint,
        htlc_basepoint=message.htlc_basepoint,
    )


def limits_of(message: OpenChannel | AcceptChannel) -> Limits:
    return Limits(
        dust_limit=message.dust_limit_satoshis,
        reserve=message.channel_reserve_satoshis,
        to_self_delay=message.to_self_delay,
        max_accepted_htlcs=message.max_accepted_htlcs,
        htlc_minimum=message.htlc_minimum_msat,
        max_in_flight=message.max_htlc_value_in_flight_msat,
    )


def channel_type(message: OpenChannel | AcceptChannel, clause: str) -> ChannelType:
    raw = message.tlvs.channel_type
    if raw is None:
        raise PeerViolation("channel_type is missing", clause=clause)
    parsed = ChannelType.parse(raw)
    if parsed is None:
        raise PeerViolation(f"channel_type {raw.hex()} is none that we support", clause=clause)
    return parsed


def upfront_script(message: OpenChannel | AcceptChannel, clause: str) -> bytes | None:
    """None when the peer commits to no script (an empty one says the same)."""
    script = message.tlvs.upfront_shutdown_script
    if not script:
        return None
    if not is_shutdown_script(script, anysegwit=True):
        raise PeerViolation(f"upfront_shutdown_script {script.hex()} is of no known form", clause=clause)
    return script


def check_keys(message: OpenChannel | AcceptChannel, clause: str) -> None:
    points = (
        message.funding_pubkey,
        message.revocation_basepoint,
        message.payment_basepoint,
        message.delayed_payment_basepoint,
        message.htlc_basepoint,
        message.first_per_commitment_point,
    )
    if not all(curve.is_point(point) for point in points):
        raise PeerViolation("one of the keys is not a point of the curve", clause=clause)


def check_limits(theirs: Limits, ours: Limits, funding: Sat, clause: str) -> None:
    """Whether a channel under these terms can work at all."""

    def no(sentence: str) -> PeerViolation:
        return PeerViolation(sentence, clause=clause)

    if not SMALLEST_DUST_LIMIT <= theirs.dust_limit <= LARGEST_DUST_LIMIT:
        raise no(f"a dust limit of {theirs.dust_limit} sat is out of range")
    if theirs.reserve < max(theirs.dust_limit, ours.dust_limit):
        raise no(f"a reserve of {theirs.reserve} sat is below a dust limit")
    if ours.reserve < theirs.dust_limit:
        raise no(f"a dust limit of {theirs.dust_limit} sat is above our reserve of {ours.reserve}")
    if theirs.reserve > funding // 5:
        raise no(f"a reserve of {theirs.reserve} sat is more than a fifth of the channel")
    if theirs.to_self_delay > LARGEST_DELAY:
        raise no(f"to_self_delay {theirs.to_self_delay} is more than {LARGEST_DELAY} blocks")
    if not 1 <= theirs.max_accepted_htlcs <= 483:
        raise no(f"max_accepted_htlcs {theirs.max_accepted_htlcs} is not in 1..483")
    if theirs.htlc_minimum > to_msat(funding) // 100:
        raise no(f"htlc_minimum_msat {theirs.htlc_minimum} is more than a hundredth of the channel")
    if theirs.max_in_flight < to_msat(funding) // 20:
        raise no(f"max_htlc_value_in_flight_msat {theirs.max_in_flight} is too small to be useful")


def check_open(message: OpenChannel, ours: Limits, chain_hash: bytes) -> None:
    """Raises PeerViolation when we do not take this offer of a channel."""

    def no(sentence: str) -> PeerViolation:
        return PeerViolation(sentence, clause=OPENING)

    funding = message.funding_satoshis
    if message.chain_hash != chain_hash:
        raise no("this node is on another chain")
    if not SMALLEST_FUNDING <= funding <= LARGEST_FUNDING:
        raise no(f"a channel of {funding} sat is not between {SMALLEST_FUNDING} and {LARGEST_FUNDING}")
    if message.push_msat > to_msat(funding):
        raise no("push_msat is more than the channel holds")
    if not FEERATE_FLOOR <= message.feerate_per_kw <= LARGEST_FEERATE:
        raise no(f"a feerate of {message.feerate_per_kw} sat/kw is out of range")
    if message.channel_flags & 1:
        raise no("this node does not announce channels yet; open an unannounced one")
    check_keys(message, OPENING)
    upfront_script(message, OPENING)
    anchors = channel_type(message, OPENING) is ChannelType.ANCHORS
    check_limits(limits_of(message), ours, funding, OPENING)
    check_affordable(funding, message.push_msat, message.feerate_per_kw, anchors=anchors)
    opener = to_msat(funding) - message.push_msat
    if opener <= to_msat(ours.reserve) and message.push_msat <= to_msat(message.channel_reserve_satoshis):
        raise no("both sides would begin below their reserve")


def check_affordable(funding: Sat, push_msat: Msat, feerate: FeeratePerKw, *, anchors: bool) -> None:
    owed = to_msat(Sat(commit_fee(feerate, 0, anchors) + anchors_cost(anchors)))
    if to_msat(funding) - push_msat < owed:
        raise PeerViolation("the opener cannot pay the commitment fee", clause=OPENING)


def check_accept(
    message: AcceptChannel, ours: Limits, offered: ChannelType, *, funding: Sat, push_msat: Msat
) -> None:
    check_keys(message, ACCEPTING)
    upfront_script(message, ACCEPTING)
    if channel_type(message, ACCEPTING) is not offered:
        raise PeerViolation("the peer answered with another channel_type", clause=ACCEPTING)
    if message.minimum_depth > LARGEST_DEPTH:
        raise PeerViolation(f"minimum_depth {message.minimum_depth} is too long to wait", clause=ACCEPTING)
    check_limits(limits_of(message), ours, funding, ACCEPTING)
    opener = to_msat(funding) - push_msat
    if opener <= to_msat(message.channel_reserve_satoshis) and push_msat <= to_msat(ours.reserve):
        raise PeerViolation("both sides would begin below their reserve", clause=ACCEPTING)
