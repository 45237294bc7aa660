"""Feature bits: names, contexts, dependencies, and the checks of `init` (BOLT 9; BOLT 1, "The init Message").

A feature has a pair of bits: the even one requires it, the odd one offers it. A set of bits is written with
bit 0 at the low end of the last byte.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Self

from protocol.errors import PeerViolation

_INIT_CLAUSE = 'BOLT 1, "The init Message"'


@dataclass(frozen=True, slots=True)
class Feature:
    """A row of the table. `bit` is the even one; `contexts`: I init, N node_announcement, 9 invoice, T type.

    BOLT 9 lists no context for the assumed ones; they stand here where peers look for them.
    """

    bit: int
    name: str
    contexts: str
    needs: tuple[str, ...] = ()
    assumed: bool = False  # every node has it; whether a peer still sets the bit does not matter


FEATURES = (
    Feature(0, "option_data_loss_protect", "I", assumed=True),
    Feature(4, "option_upfront_shutdown_script", "IN"),
    Feature(6, "gossip_queries", "IN"),
    Feature(8, "var_onion_optin", "IN9", assumed=True),
    Feature(10, "gossip_queries_ex", "IN"),
    Feature(12, "option_static_remotekey", "INT", assumed=True),
    Feature(14, "payment_secret", "IN9", assumed=True),
    Feature(16, "basic_mpp", "IN9", needs=("payment_secret",)),
    Feature(18, "option_support_large_channel", "IN"),
    Feature(22, "option_anchors", "INT", needs=("option_static_remotekey",)),
    Feature(24, "option_route_blinding", "IN9"),
    Feature(26, "option_shutdown_anysegwit", "IN"),
    Feature(28, "option_dual_fund", "IN"),
    Feature(34, "option_quiesce", "IN"),
    Feature(36, "option_attribution_data", "IN9"),
    Feature(38, "option_onion_messages", "IN"),
    Feature(42, "option_provide_storage", "IN"),
    Feature(44, "option_channel_type", "IN", assumed=True),
    Feature(46, "option_scid_alias", "INT"),
    Feature(48, "option_payment_metadata", "9"),
    Feature(50, "option_zeroconf", "INT", needs=("option_scid_alias",)),
    Feature(54, "keysend", "N"),
    Feature(60, "option_simple_close", "IN", needs=("option_shutdown_anysegwit",)),
    Feature(62, "option_splice", "IN"),
)
BY_NAME = {feature.name: feature for feature in FEATURES}
BY_BIT = {feature.bit: feature for feature in FEATURES}


def bit_name(bit: int) -> str:
    feature = BY_BIT.get(bit & ~1)
    return feature.name if feature else "unknown"


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """A set of feature bits, held as one integer whose bit n is feature bit n."""

    mask: int = 0

    @classmethod
    def of(cls, *bits: int) -> Self:
        mask = 0
        for bit in bits:
            mask |= 1 << bit
        return cls(mask)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        return cls(int.from_bytes(data, "big"))

    def to_bytes(self) -> bytes:
        """The shortest form."""
        return self.mask.to_bytes((self.mask.bit_length() + 7) // 8, "big")

    def __or__(self, other: "FeatureSet") -> "FeatureSet":
        """`init` carries two maps that count as one."""
        return FeatureSet(self.mask | other.mask)

    def __contains__(self, bit: int) -> bool:
        return bool(self.mask >> bit & 1)

    def bits(self) -> tuple[int, ...]:
        # By bytes and not by shifting: a peer may send 65,000 bytes of features.
        little = self.mask.to_bytes((self.mask.bit_length() + 7) // 8, "little")
        found: list[int] = []
        for at, byte in enumerate(little):
            if byte:
                found.extend(8 * at + bit for bit in range(8) if byte >> bit & 1)
        return tuple(found)

    def within(self, context: str) -> "FeatureSet":
        """Only the bits that belong to a context: I, N, 9 or T."""
        rows = ((bit, BY_BIT.get(bit & ~1)) for bit in self.bits())
        return FeatureSet.of(*(bit for bit, row in rows if row is not None and context in row.contexts))

    def has(self, name: str) -> bool:
        """Offered or required."""
        return bool(self.mask >> BY_NAME[name].bit & 3)

    def requires(self, name: str) -> bool:
        """The even bit is set; with both bits of a pair set, the even one counts."""
        return BY_NAME[name].bit in self

    def unknown_even(self, known: "FeatureSet") -> tuple[int, ...]:
        """The required bits for which `known` has neither bit of the pair."""
        size = (self.mask.bit_length() + 7) // 8
        even = int.from_bytes(b"\x55" * size, "big")
        return FeatureSet(self.mask & even & ~(known.mask | known.mask >> 1)).bits()

    def missing_dependency(self) -> tuple[Feature, Feature] | None:
        """A feature of this set and one that it needs and that is not there."""
        for feature in FEATURES:
            if not self.has(feature.name):
                continue
            for name in feature.needs:
                # What every node is assumed to have need not be signalled any more.
                if not BY_NAME[name].assumed and not self.has(name):
                    return feature, BY_NAME[name]
        return None


def negotiated(ours: FeatureSet, theirs: FeatureSet, name: str) -> bool:
    """Both sides offered it, or we required it (the peer would have left if it did not know it)."""
    return ours.requires(name) or (ours.has(name) and theirs.has(name))


def check_peer_init(ours: FeatureSet, theirs: FeatureSet) -> None:
    """Raise PeerViolation when we must not stay connected to a peer with these features."""
    for bit in theirs.unknown_even(ours)[:1]:
        raise PeerViolation(
            f"the peer requires feature bit {bit} ({bit_name(bit)}), which we do not offer",
            clause=_INIT_CLAUSE,
        )
    missing = theirs.missing_dependency()
    if missing is not None:
        feature, needed = missing
        raise PeerViolation(
            f"the peer sets feature {feature.name} (bit {feature.bit} or {feature.bit + 1}) without "
            f"{needed.name} (bit {needed.bit} or {needed.bit + 1}), which it rests on",
            clause=_INIT_CLAUSE,
        )
    for feature in FEATURES:
        if ours.requires(feature.name) and not feature.assumed and not theirs.has(feature.name):
            raise PeerViolation(
                f"we require feature bit {feature.bit} ({feature.name}), which the peer does not offer",
                clause=_INIT_CLAUSE,
            )


OUR_INIT = FeatureSet.of(
    0,  # data_loss_protect: LND drops a peer without it; channel_reestablish always carries its fields
    5,  # upfront_shutdown_script: ours is the signer's cold one, theirs is held to
    7,  # gossip_queries: we hold the graph and answer; Electrum 4.3.4 leaves without it
    8,  # var_onion_optin: the only onion that there is; LDK and Eclair check the bit
    11,  # gossip_queries_ex: timestamps, checksums and flags in queries
    12,  # static_remotekey: our oldest channel type; LDK and Eclair check the bit
    14,  # payment_secret: in every invoice of ours; LDK and Eclair check the bit
    17,  # basic_mpp: payments may arrive and leave in parts
    19,  # support_large_channel: 2^24 sat and more, with peers that set it too
    23,  # anchors: our usual channel type; odd, since Electrum 4.3.4 refuses 22
    27,  # shutdown_anysegwit: a taproot closing script is taken
    35,  # quiesce: an stfu is answered; we send none of our own yet
    37,  # attribution_data: made, passed back and read in failures and fulfilments
    43,  # provide_storage: 65531 bytes for each peer with a channel
    44,  # channel_type: we open with nothing else; LDK, Eclair and Electrum check the bit
    47,  # scid_alias: every channel has one, and hides the real id where its type says so
    51,  # zeroconf: understood; taken only of peers that a person trusts by name
    61,  # simple_close: each side pays for its own closing transaction
)
"""What we do today, in odd bits wherever a peer may lack it: Electrum 4.3.4 takes few even ones. 25, 39 and 63 join
when their code does."""


OUR_INVOICE = FeatureSet.of(
    8,  # var_onion_optin
    14,  # payment_secret
    17,  # basic_mpp: parts may come over any channels of ours
    37,  # attribution_data: who pays us hears how long the hops took
)
"""What our invoices say; the signer writes them."""

OUR_NODE = OUR_INIT.within("N") | FeatureSet.of(
    55,  # keysend (bLIP 3): taken always; it belongs to no init
)
"""What our node_announcement says."""


class ChannelType(Enum):
    """A channel type is an exact set of even bits that both sides compare for equality (BOLT 2): one of the two basic
    ones, each with its variations."""

    STATIC_REMOTEKEY = FeatureSet.of(12)
    ANCHORS = FeatureSet.of(12, 22)
    STATIC_REMOTEKEY_ALIAS = FeatureSet.of(12, 46)
    ANCHORS_ALIAS = FeatureSet.of(12, 22, 46)
    STATIC_REMOTEKEY_ZEROCONF = FeatureSet.of(12, 50)
    ANCHORS_ZEROCONF = FeatureSet.of(12, 22, 50)
    STATIC_REMOTEKEY_ALIAS_ZEROCONF = FeatureSet.of(12, 46, 50)
    ANCHORS_ALIAS_ZEROCONF = FeatureSet.of(12, 22, 46, 50)

    @classmethod
    def of(cls, *, anchors: bool, scid_alias: bool = False, zeroconf: bool = False) -> "ChannelType":
        bits = [12, *([22] if anchors else []), *([46] if scid_alias else []), *([50] if zeroconf else [])]
        return cls(FeatureSet.of(*bits))

    @classmethod
    def of_bits(cls, bits: Iterable[int]) -> "ChannelType | None":
        wanted = FeatureSet.of(*bits)
        return next((member for member in cls if member.value == wanted), None)

    @classmethod
    def parse(cls, data: bytes) -> "ChannelType | None":
        """The type with exactly these bytes, or None: more bits, fewer bits and padding are other types."""
        for member in cls:
            if member.to_bytes() == data:
                return member
        return None

    def to_bytes(self) -> bytes:
        return self.value.to_bytes()

    @property
    def bits(self) -> tuple[int, ...]:
        return self.value.bits()

    @property
    def anchors(self) -> bool:
        return 22 in self.value

    @property
    def scid_alias(self) -> bool:
        """HTLCs come in by the alias alone, and the real id is told to nobody."""
        return 46 in self.value

    @property
    def zeroconf(self) -> bool:
        """The channel is used before its funding is confirmed."""
        return 50 in self.value

    def needs(self) -> tuple[str, ...]:
        """The features that both sides must have offered for it, besides those that every node has."""
        return tuple(feature.name for bit in self.bits if not (feature := BY_BIT[bit]).assumed)
