"""The answer to *why*: what happened to a channel, a payment or a sweep, and what comes of it (issue 4, item 5)."""

from msgspec import Struct

from protocol.amounts import BlockHeight

HAPPENED = "happened"
BECAUSE = "because"
NOW = "now"
NEXT = "next"
YOU = "you"
PARTS = (HAPPENED, BECAUSE, NOW, NEXT, YOU)
"""What a line is about, in the order in which people read them. `YOU`: what the user can do."""
BLOCK_SECONDS = 600


class Line(Struct, frozen=True):
    """One sentence. `height`: the block at which it happened, or until which it will; `at`: the same as Unix time, for
    a block that is still to come an estimate."""

    about: str
    text: str
    height: int | None = None
    at: int | None = None


class Why(Struct, frozen=True, tag="why.ask"):
    """`selector`: a channel, peer or payment hash in hex, a short channel id, or the id of a transaction that closes or
    sweeps a channel. Answered with `Answer`, or None by a service that does not know it."""

    selector: str


class Answer(Struct, frozen=True, tag="why.answer"):
    """`kind`: "channel", "sweep" or "payment"."""

    kind: str
    subject: str
    title: str
    lines: tuple[Line, ...]


class Warned(Struct, frozen=True, tag="why.warned"):
    """Event: something will go wrong if nobody does anything. Told once for each cause.

    `key` names the cause; `until`: the block at which the node acts by itself, if there is one.
    """

    key: str
    channel_id: bytes
    sentence: str
    what_to_do: str
    height: BlockHeight
    until: BlockHeight | None = None


class ListWarnings(Struct, frozen=True, tag="why.list_warnings"):
    """What was warned of and still holds."""


class Warnings(Struct, frozen=True, tag="why.warnings"):
    warnings: tuple[Warned, ...]


def time_of(height: int, tip: int, now: float) -> int:
    """About when this block comes, or came."""
    return int(now) + (height - tip) * BLOCK_SECONDS
