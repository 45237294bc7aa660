"""After a start: what became of the attempts that were pending (DESIGN, "The channel", origins).

An attempt is saved before the offer that it makes, and a channel keeps every origin for ever. So an origin that
no channel knows was never offered, and nothing was sent for it.
"""

from collections.abc import Iterable
from typing import assert_never

from msgspec import Struct

from protocol.bus.messages.channel import Origins


class Keep(Struct, frozen=True):
    """The HTLC is live: its end will be told."""

    origin: str


class Settle(Struct, frozen=True):
    origin: str
    preimage: bytes


class GaveBack(Struct, frozen=True):
    origin: str
    reason: bytes | None
    malformed_code: int | None = None


class NeverSent(Struct, frozen=True):
    """It is safe to pay the invoice again."""

    origin: str


Outcome = Keep | Settle | GaveBack | NeverSent


def reconcile(pending: Iterable[str], origins: Origins) -> list[Outcome]:
    """One outcome for each pending origin, in order."""
    known = {found[0]: found for found in origins.origins}
    return [_outcome(origin, known.get(origin)) for origin in pending]


def _outcome(origin: str, found: tuple[str, str, bytes | None, bytes | None, int | None] | None) -> Outcome:
    if found is None:
        return NeverSent(origin)
    _, state, preimage, reason, malformed_code = found
    if state == "fulfilled" and preimage is not None:
        return Settle(origin, preimage)
    if state == "failed":
        return GaveBack(origin, reason, malformed_code)
    # Anything else is not known to be over. To wait is the answer that never pays twice.
    return Keep(origin)


def describe(outcome: Outcome) -> str:
    """The word for the log."""
    match outcome:
        case Keep():
            return "still_pending"
        case Settle():
            return "fulfilled"
        case GaveBack():
            return "failed"
        case NeverSent():
            return "never_sent"
        case _:
            assert_never(outcome)
