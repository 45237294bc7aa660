"""Keys of a channel and of one commitment (BOLT 3, "Key Derivation").

The functions take and give plain bytes, as `protocol.curve` does; whoever keeps a secret wraps it.
"""

import msgspec

from protocol.curve import (
    add_points,
    add_secrets,
    multiply_point,
    multiply_secret,
    point_of,
    tweak_point,
)
from protocol.hashes import sha256


class ChannelKeys(msgspec.Struct, frozen=True, cache_hash=True):
    """What one side announces in `open_channel` or `accept_channel`: five points of 33 bytes."""

    funding_pubkey: bytes
    revocation_basepoint: bytes
    payment_basepoint: bytes
    delayed_payment_basepoint: bytes
    htlc_basepoint: bytes


class CommitmentKeys(msgspec.Struct, frozen=True, cache_hash=True):
    """The keys of one commitment; *local* is its owner, as in BOLT 3."""

    revocationpubkey: bytes
    local_delayedpubkey: bytes
    local_htlcpubkey: bytes
    remote_htlcpubkey: bytes
    remotepubkey: bytes


def per_commitment_point(per_commitment_secret: bytes) -> bytes:
    return point_of(per_commitment_secret)


def derive_public_key(basepoint: bytes, per_commitment_point: bytes) -> bytes:
    return tweak_point(basepoint, sha256(per_commitment_point + basepoint))


def derive_secret(basepoint_secret: bytes, basepoint: bytes, per_commitment_point: bytes) -> bytes:
    """The secret of `derive_public_key`. The basepoint is an argument to spare a multiplication each time."""
    return add_secrets(basepoint_secret, sha256(per_commitment_point + basepoint))


def derive_revocation_public_key(revocation_basepoint: bytes, per_commitment_point: bytes) -> bytes:
    """A key that needs the secrets of both sides: the basepoint's owner punishes, once the other reveals."""
    of_basepoint = multiply_point(revocation_basepoint, sha256(revocation_basepoint + per_commitment_point))
    of_commitment = multiply_point(per_commitment_point, sha256(per_commitment_point + revocation_basepoint))
    return add_points((of_basepoint, of_commitment))


def derive_revocation_secret(revocation_basepoint_secret: bytes, per_commitment_secret: bytes) -> bytes:
    basepoint, point = point_of(revocation_basepoint_secret), point_of(per_commitment_secret)
    of_basepoint = multiply_secret(revocation_basepoint_secret, sha256(basepoint + point))
    of_commitment = multiply_secret(per_commitment_secret, sha256(point + basepoint))
    return add_secrets(of_basepoint, of_commitment)


def derive_commitment_keys(
    owner: ChannelKeys, other: ChannelKeys, per_commitment_point: bytes
) -> CommitmentKeys:
    """All keys of the commitment that `owner` holds, at its `per_commitment_point`."""
    return CommitmentKeys(
        revocationpubkey=derive_revocation_public_key(other.revocation_basepoint, per_commitment_point),
        local_delayedpubkey=derive_public_key(owner.delayed_payment_basepoint, per_commitment_point),
        local_htlcpubkey=derive_public_key(owner.htlc_basepoint, per_commitment_point),
        remote_htlcpubkey=derive_public_key(other.htlc_basepoint, per_commitment_point),
        # "remotepubkey Derivation": not tweaked, so that it can be spent after a loss of data.
        remotepubkey=other.payment_basepoint,
    )
