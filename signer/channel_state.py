"""What the signer remembers of one channel: version sets, points, secrets, preimages (DESIGN, "Version sets").

A `ChannelState` is never changed: each granted operation makes the next one, so a request that ends in an error
leaves nothing behind. The header is one small row; every version is a row of its own, written once.
"""

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from protocol.bolt3.commitment import CommitmentContent, CommitmentHtlc, Side
from protocol.bolt3.shachain import SecretStore
from protocol.bus.messages.signer import PeerSignatures

THEIRS = "their_commitment"
"""Why a channel is frozen when something other than a signature of ours ended it."""
HtlcKey = tuple[int, int, bytes, int]
"""Id, amount, payment hash and expiry: an HTLC of one direction is the same only if all of them are."""


class Version(Struct, frozen=True, array_like=True):
    """One content of a commitment number. Our own commitments come with the peer's signatures."""

    content: CommitmentContent
    signatures: tuple[PeerSignatures, ...] = ()


Versions = dict[int, tuple[Version, ...]]
"""By commitment number, in the order in which they were granted."""


class ChannelState(Struct, frozen=True):
    """Numbers as in `NumbersOfChannel`. `points`: the peer's, of its numbers that are not revoked.

    `released`: received HTLCs whose preimage we gave out. `learned`: payment hashes of offered HTLCs whose preimage
    the peer showed. `frozen`: "", "mutual_close", "force_close", `THEIRS`, or "stale" when it may be an old state.
    """

    points: dict[int, bytes]
    holder: Versions
    counterparty: Versions
    holder_validated: int = -1
    holder_revoked: int = 0
    counterparty_signed: int = -1
    counterparty_revoked: int = 0
    secrets: SecretStore = SecretStore()
    released: frozenset[HtlcKey] = frozenset()
    learned: frozenset[bytes] = frozenset()
    frozen: str = ""

    def side(self, side: Side) -> Versions:
        return self.holder if side is Side.HOLDER else self.counterparty

    def all_versions(self) -> list[tuple[Side, Version]]:
        """Every version of both sides that is not revoked."""
        holder = [(Side.HOLDER, version) for versions in self.holder.values() for version in versions]
        return holder + [
            (Side.COUNTERPARTY, version) for versions in self.counterparty.values() for version in versions
        ]


class _Header(Struct, frozen=True, array_like=True):
    points: dict[int, bytes]
    holder_validated: int
    holder_revoked: int
    counterparty_signed: int
    counterparty_revoked: int
    secrets: bytes
    released: frozenset[HtlcKey]
    learned: frozenset[bytes]
    frozen: str


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(_Header).decode
_decode_version = msgspec.msgpack.Decoder(Version).decode


def key_of(htlc: CommitmentHtlc) -> HtlcKey:
    return htlc.id, htlc.amount_msat, htlc.payment_hash, htlc.cltv_expiry


def first_state(first_point: bytes) -> ChannelState:
    return ChannelState(points={0: first_point}, holder={}, counterparty={})


def frozen_by_peer(state: ChannelState) -> ChannelState:
    """What is in the chain ends the channel, whoever put it there."""
    return state if state.frozen else replace(state, frozen=THEIRS)


def with_version(state: ChannelState, side: Side, version: Version) -> ChannelState:
    number = version.content.number
    versions = dict(state.side(side))
    versions[number] = (*versions.get(number, ()), version)
    if side is Side.HOLDER:
        return replace(state, holder=versions, holder_validated=max(state.holder_validated, number))
    return replace(state, counterparty=versions, counterparty_signed=max(state.counterparty_signed, number))


def with_released(state: ChannelState, held: frozenset[HtlcKey]) -> ChannelState:
    """The preimage for these leaves, so from now on each version owes them to us."""
    return replace(state, released=state.released | held)


def without_revoked(state: ChannelState) -> ChannelState:
    """Drops the versions that revocation made worthless, and the preimages that no living HTLC needs."""
    holder = {n: versions for n, versions in state.holder.items() if n >= state.holder_revoked}
    counterparty = {n: v for n, v in state.counterparty.items() if n >= state.counterparty_revoked}
    points = {n: point for n, point in state.points.items() if n >= state.counterparty_revoked}
    state = replace(state, holder=holder, counterparty=counterparty, points=points)
    if not state.released and not state.learned:
        return state
    offered_hashes: set[bytes] = set()
    received: set[HtlcKey] = set()
    for side, version in state.all_versions():
        for htlc in version.content.htlcs:
            if htlc.offered == (side is Side.HOLDER):
                offered_hashes.add(htlc.payment_hash)
            else:
                received.add(key_of(htlc))
    return replace(state, released=state.released & received, learned=state.learned & offered_hashes)


def header_bytes(state: ChannelState) -> bytes:
    return _encode(
        _Header(
            state.points,
            state.holder_validated,
            state.holder_revoked,
            state.counterparty_signed,
            state.counterparty_revoked,
            state.secrets.to_bytes(),
            state.released,
            state.learned,
            state.frozen,
        )
    )


def version_bytes(version: Version) -> bytes:
    return _encode(version)


def from_rows(header: bytes, rows: list[tuple[int, int, int, bytes]]) -> ChannelState:
    """`rows`: side (0 holder, 1 counterparty), number, sequence and body, in that order."""
    read = _decode_header(header)
    sides: tuple[Versions, Versions] = ({}, {})
    for side, number, _, body in rows:
        sides[side][number] = (*sides[side].get(number, ()), _decode_version(body))
    return ChannelState(
        points=read.points,
        holder=sides[0],
        counterparty=sides[1],
        holder_validated=read.holder_validated,
        holder_revoked=read.holder_revoked,
        counterparty_signed=read.counterparty_signed,
        counterparty_revoked=read.counterparty_revoked,
        secrets=SecretStore.from_bytes(read.secrets),
        released=read.released,
        learned=read.learned,
        frozen=read.frozen,
    )
