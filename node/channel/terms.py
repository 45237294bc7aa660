"""What we ask for in a channel and what we take from a peer (BOLT 2, "The open_channel Message",
"The accept_channel Message")."""

from msgspec import Struct

from node.channel.events import MAX_DUST
from node.channel.state import Limits
from protocol import curve
from protocol.amounts import FEERATE_FLOOR, MAX_MONEY, FeeratePerKw, Msat, Sat, to_msat
from protocol.bolt3.closing import is_shutdown_script
from protocol.bolt3.commitment import ChannelKeys
from protocol.bolt3.exposure import commitment_fee_limit
from protocol.bolt3.fees import anchors_cost, commit_fee
from protocol.bolt9 import OUR_INIT, ChannelType, FeatureSet, negotiated
from protocol.errors import CommandRefused, PeerViolation
from protocol.wire.bolt2_open import ANNOUNCE_CHANNEL, AcceptChannel, OpenChannel

OPENING = 'BOLT 2, "The open_channel Message"'
ACCEPTING = 'BOLT 2, "The accept_channel Message"'
SMALLEST_DUST_LIMIT = Sat(354)
LARGEST_DUST_LIMIT = Sat(10_000)
LARGEST_DELAY = 2016
LARGEST_DEPTH = 144
LARGEST_FUNDING = Sat((1 << 24) - 1)
"""Unless both sides set option_support_large_channel."""
SMALLEST_FUNDING = Sat(20_000)
LARGEST_FEERATE = FeeratePerKw(100_000)


class Policy(Struct, frozen=True):
    """What we ask of every peer; inside the limits of all implementations that we know."""

    dust_limit: Sat = Sat(354)
    to_self_delay: int = 144
    max_accepted_htlcs: int = 483
    htlc_minimum: Msat = Msat(1)
    minimum_depth: int = 3
    zeroconf_peers: frozenset[bytes] = frozenset()
    """Whose channels we use before their funding is confirmed: these peers can take back what they paid us there."""
    max_dust: Sat = MAX_DUST
    """What we let stand in HTLCs without an output, in either commitment (checklist 21)."""

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


def largest_funding(features: FeatureSet) -> Sat:
    """The most that a channel with a peer of these features may hold."""
    return MAX_MONEY if negotiated(OUR_INIT, features, "option_support_large_channel") else LARGEST_FUNDING


def choose_type(
    features: FeatureSet, *, anchors: bool, announce: bool, zeroconf: bool, bits: tuple[int, ...] | None
) -> ChannelType:
    """The type that we propose to a peer: the one of `bits`, else the best that both can. Raises CommandRefused."""

    def both(name: str) -> bool:
        return negotiated(OUR_INIT, features, name)

    if bits is None:
        alias = not announce and both("option_scid_alias")
        kind = ChannelType.of(anchors=anchors and both("option_anchors"), scid_alias=alias, zeroconf=zeroconf)
    else:
        named = ChannelType.of_bits(bits)
        if named is None:
            raise CommandRefused(
                f"channel type {list(bits)} is none that we support",
                what_to_do="Use [12, 22] or [12], with 46 (alias only) and 50 (zeroconf) if wanted.",
            )
        kind = named
    for name in kind.needs():
        if not both(name):
            raise CommandRefused(
                f"the peer does not offer {name}, which this channel needs",
                what_to_do="Ask for another channel type, or open the channel with another peer.",
            )
    if kind.scid_alias and announce:
        raise CommandRefused(
            "a channel that hides its short channel id (46) cannot be announced",
            what_to_do="Use announce=false, or leave 46 out of channel_type.",
        )
    if kind.zeroconf is not zeroconf:
        raise CommandRefused(
            "mindepth=0 and channel type 50 (zeroconf) go together",
            what_to_do="Give both, or neither.",
        )
    return kind


def check_type(kind: ChannelType, features: FeatureSet, *, announce: bool, trusted: bool) -> None:
    """Raises PeerViolation when the type that a peer proposes does not suit. `trusted`: a person said that its channels
    may be used before they are confirmed."""
    for name in kind.needs():
        if not negotiated(OUR_INIT, features, name):
            raise PeerViolation(f"channel_type needs {name}, which was not negotiated", clause=OPENING)
    if kind.scid_alias and announce:
        raise PeerViolation("channel_type with option_scid_alias on an announced channel", clause=OPENING)
    if kind.zeroconf and not trusted:
        raise PeerViolation("this node does not trust you to open a zeroconf channel", clause=OPENING)


def is_announced(message: OpenChannel) -> bool:
    """Undefined bits of channel_flags are ignored."""
    return bool(message.channel_flags & ANNOUNCE_CHANNEL)


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


def check_open(
    message: OpenChannel, ours: Limits, chain_hash: bytes, *, features: FeatureSet, trusted: bool = False
) -> None:
    """Raises PeerViolation when we do not take this offer of a channel from a peer with these features."""

    def no(sentence: str) -> PeerViolation:
        return PeerViolation(sentence, clause=OPENING)

    funding = message.funding_satoshis
    if message.chain_hash != chain_hash:
        raise no("this node is on another chain")
    largest = largest_funding(features)
    if not SMALLEST_FUNDING <= funding <= largest:
        raise no(f"a channel of {funding} sat is not between {SMALLEST_FUNDING} and {largest}")
    if message.push_msat > to_msat(funding):
        raise no("push_msat is more than the channel holds")
    if not FEERATE_FLOOR <= message.feerate_per_kw <= LARGEST_FEERATE:
        raise no(f"a feerate of {message.feerate_per_kw} sat/kw is out of range")
    check_keys(message, OPENING)
    upfront_script(message, OPENING)
    kind = channel_type(message, OPENING)
    check_type(kind, features, announce=is_announced(message), trusted=trusted)
    check_limits(limits_of(message), ours, funding, OPENING)
    check_affordable(funding, message.push_msat, message.feerate_per_kw, anchors=kind.anchors)
    opener = to_msat(funding) - message.push_msat
    if opener <= to_msat(ours.reserve) and message.push_msat <= to_msat(message.channel_reserve_satoshis):
        raise no("both sides would begin below their reserve")


def check_burn(funding: Sat, feerate: FeeratePerKw, *, anchors: bool) -> None:
    """What the first commitment costs us as the opener. Raises CommandRefused; the signer would refuse it as well."""
    cost, most = commit_fee(feerate, 0, anchors) + anchors_cost(anchors), commitment_fee_limit(funding)
    if cost > most:
        raise CommandRefused(
            f"the commitment of this channel would cost {cost} sat at {feerate} sat/kw, and {most} is the most that we"
            " pay for one",
            what_to_do="Wait until fees fall, open a larger channel, or one with anchors.",
        )


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
    if offered.zeroconf and message.minimum_depth:
        raise PeerViolation(
            f"minimum_depth is {message.minimum_depth} where channel_type asks for 0", clause=ACCEPTING
        )
    if not offered.zeroconf and not message.minimum_depth:
        raise PeerViolation(
            "minimum_depth 0: the channel would be used before its funding is confirmed, which nobody here asked for",
            clause=ACCEPTING,
        )
    if message.minimum_depth > LARGEST_DEPTH:
        raise PeerViolation(f"minimum_depth {message.minimum_depth} is too long to wait", clause=ACCEPTING)
    check_limits(limits_of(message), ours, funding, ACCEPTING)
    opener = to_msat(funding) - push_msat
    if opener <= to_msat(message.channel_reserve_satoshis) and push_msat <= to_msat(ours.reserve):
        raise PeerViolation("both sides would begin below their reserve", clause=ACCEPTING)
