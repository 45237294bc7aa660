"""Which commitment number may be validated, signed or revoked next (BOLT 2, "Committing Updates So Far",
"Completing the Transition to the Updated State").

Mechanism: no rule here has a switch. Each raises `Denied` or `PeerBroke` with its tag, or returns nothing.
"""

from protocol.bolt3.commitment import Side
from protocol.bus.messages.signer import MAX_VERSIONS
from protocol.curve import is_point
from signer.channel_state import ChannelState
from signer.refusal import Denied, PeerBroke

_REVOKE_AND_ACK = 'BOLT 2, "Completing the Transition to the Updated State: `revoke_and_ack`"'


def not_frozen(state: ChannelState) -> None:
    """`frozen`: once a closing signature has left, an older or newer state could be played against it."""
    if state.frozen:
        raise Denied(
            "frozen",
            "a channel whose closing was signed makes no new state",
            seen=f"the channel was frozen by a {state.frozen.replace('_', ' ')}",
            limit="closing signatures and sweeps only",
            next_step="Close the channel: publish the force close, or agree on the mutual close.",
        )


def validate_order(state: ChannelState, number: int) -> None:
    """`validate-order`: never a number whose secret has left, and no gap."""
    if not state.holder_revoked <= number <= state.holder_revoked + 1 or number > state.holder_validated + 1:
        raise Denied(
            "validate-order",
            "our next commitment is the one after the newest that is validated, and never a revoked one",
            seen=f"commitment {number}; {state.holder_revoked} are revoked, {state.holder_validated} is validated",
            limit=f"{state.holder_revoked} or {min(state.holder_revoked, state.holder_validated) + 1}",
            next_step="Ask for the channel numbers and catch up with the signer.",
        )


def revoke_order(state: ChannelState, number: int) -> None:
    """`revoke-order`: a secret leaves only when its successor is validated, and in turn."""
    if number != state.holder_revoked or number + 1 not in state.holder:
        raise Denied(
            "revoke-order",
            "a commitment is revoked in turn, and after the next one was validated",
            seen=f"commitment {number}; {state.holder_revoked} are revoked, {state.holder_validated} is validated",
            limit=f"{state.holder_revoked}, with {state.holder_revoked + 1} validated",
            next_step="Validate the next commitment first.",
        )


def sign_order(state: ChannelState, number: int) -> None:
    """`sign-order`: at most two numbers of the peer stand at a time; a revoked one is never signed again."""
    newest = state.counterparty_signed
    if not max(newest, 0) <= number <= newest + 1 or number > state.counterparty_revoked + 1:
        raise Denied(
            "sign-order",
            "the peer's next commitment is signed once the one before the last is revoked",
            seen=f"commitment {number}; {newest} is signed, {state.counterparty_revoked} are revoked",
            limit=f"{max(newest, 0)} or {min(newest, state.counterparty_revoked) + 1}",
            next_step="Wait for the peer's revoke_and_ack, or ask for the channel numbers and catch up.",
        )


def sign_point(state: ChannelState, number: int) -> bytes:
    """`sign-point`: the peer's point for this number must be known."""
    point = state.points.get(number)
    if point is None:
        raise Denied(
            "sign-point",
            "a commitment is signed at the point that the peer named for it",
            seen=f"no point for commitment {number}",
            limit="a point from channel_ready or revoke_and_ack",
            next_step="Hand over the peer's channel_ready first.",
        )
    return point


def holder_first(state: ChannelState, number: int) -> None:
    """`holder-first`: without a commitment of ours we could not leave a channel that is in use."""
    if number > 0 and state.holder_validated < 0:
        raise Denied(
            "holder-first",
            "our own first commitment is validated before the peer gets a second one",
            seen="no commitment of ours is validated",
            limit="commitment 0 of ours",
            next_step="Validate our commitment 0 first.",
        )


def version_set_full(state: ChannelState, side: Side, number: int) -> None:
    """`version-set-full`: a bounded memory; then one of the versions must be repeated."""
    count = len(state.side(side).get(number, ()))
    if count >= MAX_VERSIONS:
        raise Denied(
            "version-set-full",
            "one commitment number has a bounded number of versions",
            seen=f"{count} versions of commitment {number}",
            limit=str(MAX_VERSIONS),
            next_step="Repeat one of the versions that were granted before.",
        )


def revocation_order(state: ChannelState, number: int) -> None:
    """`revocation-order`: the peer revokes in turn, and only what has a signed successor."""
    if number != state.counterparty_revoked or number + 1 not in state.counterparty:
        raise Denied(
            "revocation-order",
            "the peer's commitment is revoked in turn, and after the next one was signed",
            seen=f"{number}; {state.counterparty_revoked} are revoked, {state.counterparty_signed} is signed",
            limit=f"{state.counterparty_revoked}, with {state.counterparty_revoked + 1} signed",
            next_step="A revocation that nothing asked for is the peer's fault; else catch up with the signer.",
        )


def revocation_secret(point: bytes, derived: bytes, number: int) -> None:
    """`revocation-secret`: it must be the secret of the point that we signed at, or we could not punish."""
    if point != derived:
        raise PeerBroke(
            "revocation-secret",
            f"the secret for commitment {number} does not belong to the point that the peer gave for it",
            _REVOKE_AND_ACK,
        )


def next_point(point: bytes) -> None:
    """`next-point`: what the peer gives as its next point must be one."""
    if not is_point(point):
        raise PeerBroke(
            "next-point", "the next per-commitment point is no point of the curve", _REVOKE_AND_ACK
        )


def same_again(same: bool, what: str) -> None:
    """`changed-repeat`: what the peer said once it cannot say otherwise the second time."""
    if not same:
        raise PeerBroke("changed-repeat", f"the peer sent {what} again with another value", _REVOKE_AND_ACK)
