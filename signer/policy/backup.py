"""What may happen with a backup, and to a channel whose state may be stale (DESIGN, "Closing is one-way").

Mechanism: no rule here has a switch.
"""

from protocol.bolt3.content import MAX_COMMITMENT_NUMBER
from signer.channel_state import ChannelState
from signer.refusal import Denied

STALE = "stale"


def readable(is_so: bool, seen: str) -> None:
    """`backup-unreadable`: only what this seed has sealed."""
    if not is_so:
        raise Denied(
            "backup-unreadable",
            "a backup is opened by the seed that sealed it",
            seen=seen,
            limit="a whole backup of this seed",
            next_step="Take another copy, or start the signer with the seed that belongs to this backup.",
        )


def not_stale(state: ChannelState) -> None:
    """`stale`: the peer may hold the secret of what we think is our newest commitment; publishing it loses all."""
    if state.frozen == STALE:
        raise Denied(
            "stale",
            "a signer that may have an old state of a channel signs no commitment and no close of it",
            seen="a channel that came from a backup, or that the node found to be behind",
            limit="sweeps and penalties of what is in the chain",
            next_step="Let the peer close: it does when it sees that we lost our state. Then sweep.",
        )


def holder_point(frozen: str, number: int) -> None:
    """`holder-point`: our points leave in their order with the revocations, or when nothing can be revoked any more."""
    if frozen not in (STALE, "force_close") or not 0 <= number <= MAX_COMMITMENT_NUMBER:
        raise Denied(
            "holder-point",
            "the point of any commitment of ours is told only of a channel that has ended or may be stale",
            seen=f"commitment {number} of a channel that is {frozen or 'open'}",
            limit=f"0 to {MAX_COMMITMENT_NUMBER}, after a force close or of a stale channel",
            next_step="Mark the channel as stale if its newest state was lost; that ends it.",
        )
