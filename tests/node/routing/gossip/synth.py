"""A network of any size whose gossip is signed in full, for tests and the bench. Keys follow from numbers."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from protocol import curve
from protocol.amounts import Msat, Sat, ShortChannelId, scid
from protocol.bitcoin.network import REGTEST
from protocol.bolt3.funding import script_pubkey
from protocol.bolt7 import announcement as bolt7
from protocol.bus.messages.chain import OutputAt

CAPACITY = Sat(1_000_000)
NOW = 1_790_000_000
CHAIN = REGTEST.chain_hash


@cache
def secret(number: int) -> bytes:
    return (number + 1).to_bytes(32, "big")


@cache
def node_id(number: int) -> bytes:
    return curve.point_of(secret(number))


def _funding_secret(place: int, number: int) -> bytes:
    return ((1 << 200) + (place << 32) + number).to_bytes(32, "big")


@dataclass(frozen=True)
class Public:
    """A channel between the nodes `a` and `b`, announced at `place`."""

    place: ShortChannelId
    a: int
    b: int
    frame: bytes
    output: OutputAt

    @property
    def direction_of_a(self) -> int:
        return bolt7.direction_of(node_id(self.a), node_id(self.b))

    def origin(self, direction: int) -> int:
        return self.a if direction == self.direction_of_a else self.b

    def update(self, direction: int, timestamp: int = NOW, **changes: object) -> bytes:
        return update(self.place, direction, self.origin(direction), timestamp, **changes)


def ends(place: ShortChannelId, a: int, b: int) -> bolt7.ChannelEnds:
    """As `a` sees it."""
    return bolt7.ChannelEnds(
        CHAIN,
        place,
        node_id(a),
        node_id(b),
        curve.point_of(_funding_secret(place, a)),
        curve.point_of(_funding_secret(place, b)),
    )


def end_signatures(place: ShortChannelId, a: int, b: int) -> bolt7.EndSignatures:
    """Those of `a`."""
    digest = bolt7.digest_of_announcement(bolt7.channel_announcement(ends(place, a, b)))
    return bolt7.EndSignatures(
        curve.sign_ecdsa(secret(a), digest), curve.sign_ecdsa(_funding_secret(place, a), digest)
    )


def channel(a: int, b: int, height: int, tx_index: int = 1, *, capacity: Sat = CAPACITY) -> Public:
    place = scid(height, tx_index, 0)
    both = ends(place, a, b)
    frame = bolt7.channel_announcement(both, end_signatures(place, a, b), end_signatures(place, b, a))
    script = script_pubkey(both.local_funding_pubkey, both.remote_funding_pubkey)
    return Public(place, a, b, frame, OutputAt(bytes(32), capacity, script, True))


def update(place: int, direction: int, signer: int, timestamp: int = NOW, **changes: object) -> bytes:
    usual: dict[str, object] = {
        "short_channel_id": place,
        "timestamp": timestamp,
        "dont_forward": False,
        "disabled": False,
        "cltv_expiry_delta": 40,
        "htlc_minimum_msat": Msat(1),
        "htlc_maximum_msat": Msat(990_000_000),
        "fee_base_msat": Msat(1000),
        "fee_proportional_millionths": 100,
    }
    fields = bolt7.UpdateFields(**{**usual, **changes})  # type: ignore[arg-type]
    unsigned = bolt7.channel_update(fields, CHAIN, direction)
    signature = curve.sign_ecdsa(secret(signer), bolt7.digest_of_signed(unsigned))
    return bolt7.channel_update(fields, CHAIN, direction, signature)


def node(number: int, timestamp: int = NOW, *, addresses: bytes = b"", extra: bytes = b"") -> bytes:
    fields = bolt7.NodeFields(
        b"\x08\xa0\x00", timestamp, b"\1\2\3", bolt7.padded_alias(f"n{number}"), addresses
    )
    unsigned = bolt7.node_announcement(fields, node_id(number)) + extra
    signature = curve.sign_ecdsa(secret(number), bolt7.digest_of_signed(unsigned))
    return unsigned[:2] + signature + unsigned[66:]


def network(nodes: int, channels: int, *, first_height: int = 100) -> Iterator[Public]:
    """A ring first, so that each node has a channel; then chords. Ten channels a block."""
    for number in range(channels):
        a = number % nodes
        step = 1 + number // nodes * 7
        b = (a + step) % nodes
        yield channel(a, b if b != a else (a + 1) % nodes, first_height + number // 10, number % 10)
