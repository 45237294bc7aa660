"""Failures on their way back to the sender (BOLT 4, "Returning Errors").

The signer peels an onion and hands the node only the two keys of that HTLC, so each function that needs one
layer takes either the shared secret or the `FailureKeys` made of it.
"""

import hmac
from collections.abc import Sequence

from msgspec import Struct

from protocol.bolt4 import failure as failures
from protocol.bolt4.failure import Failure, UnknownFailure
from protocol.bolt4.sphinx import apply_stream, derive_key
from protocol.errors import MalformedMessage
from protocol.secret import Secret

MESSAGE_AND_PAD = 256
"""What `failure_len` and `pad_len` add up to; other sums are not read by older nodes."""
ROUNDS = 27
_HMAC = 32


class FailureKeys(Struct, frozen=True):
    """`um` authenticates a failure of ours, `ammag` obscures every failure that we pass back."""

    um: Secret
    ammag: Secret


class Attributed(Struct, frozen=True):
    """A failure and the hop that made it; 0 is the first hop after us."""

    hop_index: int
    failure: Failure


def failure_keys(shared_secret: Secret) -> FailureKeys:
    secret = shared_secret.reveal()
    return FailureKeys(Secret(derive_key(b"um", secret)), Secret(derive_key(b"ammag", secret)))


def create(keys: FailureKeys | Secret, failure: Failure) -> bytes:
    """The packet of the node that fails the HTLC: 292 bytes, unless the message itself is longer than 256."""
    keys = _as_keys(keys)
    message = failures.encode(failure)
    pad = bytes(max(0, MESSAGE_AND_PAD - len(message)))
    body = b"".join((len(message).to_bytes(2, "big"), message, len(pad).to_bytes(2, "big"), pad))
    packet = hmac.digest(keys.um.reveal(), body, "sha256") + body
    return apply_stream(keys.ammag.reveal(), packet)


def wrap(keys: FailureKeys | Secret, packet: bytes) -> bytes:
    """One more layer, put on by each node that passes the failure back; any bytes are taken."""
    return apply_stream(_as_keys(keys).ammag.reveal(), packet)


def unwrap(shared_secrets: Sequence[Secret], packet: bytes) -> Attributed | None:
    """The failing hop and its failure, or None when no hop of the route made this packet.

    It always runs 27 rounds, so that the time it takes does not tell how far away the failing hop is.
    """
    if len(shared_secrets) > ROUNDS:
        raise ValueError(f"a route has at most {ROUNDS} hops, not {len(shared_secrets)}")
    found: tuple[int, bytes] | None = None
    for index in range(ROUNDS):
        is_hop = index < len(shared_secrets)
        secret = shared_secrets[index].reveal() if is_hop else bytes(32)
        packet = apply_stream(derive_key(b"ammag", secret), packet)
        expected = hmac.digest(derive_key(b"um", secret), packet[_HMAC:], "sha256")
        if hmac.compare_digest(expected, packet[:_HMAC]) and is_hop and found is None:
            found = index, packet[_HMAC:]
    if found is None:
        return None
    return Attributed(found[0], _read_body(found[1]))


def _read_body(body: bytes) -> Failure:
    """The hop is known by now, so a body that it garbled is still its failure, with no known code."""
    message = body[2 : 2 + int.from_bytes(body[:2], "big")]
    try:
        return failures.decode(message)
    except MalformedMessage:
        return UnknownFailure(int.from_bytes(message[:2], "big"), message[2:])


def _as_keys(keys: FailureKeys | Secret) -> FailureKeys:
    return failure_keys(keys) if isinstance(keys, Secret) else keys
