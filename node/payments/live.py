"""A payment whose end is not known, and its HTLCs (BOLT 4, "Basic Multi-Part Payments")."""

import asyncio
from collections import Counter

import msgspec

from node.payments.send import NOBODY, Goal, Hop, Opened, PayCode, refusal
from protocol.amounts import BlockHeight, Msat, format_scid
from protocol.bolt4 import failure as failures
from protocol.bolt4.failure import (
    Failure,
    FinalIncorrectCltvExpiry,
    FinalIncorrectHtlcAmount,
    MppTimeout,
    TemporaryChannelFailure,
)
from protocol.bus.messages.payments import PaymentRow
from protocol.bus.messages.routing import RouteHop
from protocol.errors import CommandRefused
from protocol.secret import Secret

_encode_route = msgspec.msgpack.Encoder().encode
_decode_route = msgspec.msgpack.Decoder(tuple[RouteHop, ...]).decode
_NODE_ID = 33


class Attempt:
    """One HTLC of ours that may still be claimed. `hops` is empty for one to a channel partner."""

    __slots__ = (
        "amount_msat",
        "channel_id",
        "cltv_expiry",
        "created",
        "fee_msat",
        "hold_times",
        "hops",
        "number",
        "origin",
        "part_id",
        "shared_secrets",
    )

    def __init__(
        self,
        origin: str,
        number: int,
        channel_id: bytes,
        amount_msat: Msat,
        hop: Hop,
        *,
        hops: tuple[RouteHop, ...] = (),
        part_id: int = 0,
        created: int = 0,
    ) -> None:
        self.origin = origin
        self.number = number
        self.channel_id = channel_id
        self.amount_msat = amount_msat
        self.fee_msat = hop.amount_msat - amount_msat
        self.cltv_expiry = hop.cltv_expiry
        self.shared_secrets = hop.shared_secrets
        self.hops = hops
        self.part_id = part_id
        self.created = created
        self.hold_times: tuple[int, ...] = ()
        """What its nodes said when it ended, in units of 100 ms."""

    @property
    def sent_msat(self) -> int:
        return self.amount_msat + self.fee_msat

    @property
    def length(self) -> int:
        return len(self.hops) or 1


class LivePayment:
    """`attempts`: those that may still be claimed. `stopped`: why no further one is made. `is_over`: its row says how
    it ended, though HTLCs of it may still be on their way. `done` gets the final row, or the refusal to raise."""

    __slots__ = (
        "attempts",
        "busy",
        "done",
        "excluded",
        "excluded_nodes",
        "failed_channels",
        "failures",
        "goal",
        "group_id",
        "is_over",
        "is_planning",
        "is_saved",
        "looked_again",
        "max_fee",
        "paid_msat",
        "parts_failed",
        "parts_tried",
        "plan_again",
        "refusal",
        "retry_until",
        "row",
        "shadow_blocks",
        "stopped",
        "tried",
        "unreadable",
        "waits",
    )

    def __init__(
        self, row: PaymentRow, goal: Goal, *, max_fee: int, retry_until: int, is_saved: bool = False
    ) -> None:
        self.row = row
        self.goal = goal
        self.busy: set[bytes] = set()
        """Of `tried`, the channels that were only full: they are tried again after a while."""
        self.waits = 0
        self.looked_again = False
        """Our channels were listed anew since routing last found no way."""
        self.max_fee = max_fee
        self.retry_until = retry_until
        self.is_saved = is_saved
        self.group_id = 0
        self.attempts: dict[str, Attempt] = {}
        self.parts_tried = 0
        self.parts_failed = 0
        self.paid_msat = 0
        """Sent in parts that were claimed, fees included."""
        self.tried: set[bytes] = set()
        """Channels of ours that refused to carry a part."""
        self.excluded = set(goal.excluded)
        self.excluded_nodes = set(goal.excluded_nodes)
        self.failed_channels: Counter[tuple[int, int]] = Counter()
        self.failures: Counter[str] = Counter()
        self.unreadable = 0
        """Failures that nobody owned up to."""
        self.shadow_blocks: int | None = None
        self.is_planning = False
        self.plan_again = False
        self.is_over = False
        self.refusal: CommandRefused | None = None
        self.stopped: CommandRefused | None = None
        self.done: asyncio.Future[PaymentRow | CommandRefused] = asyncio.get_running_loop().create_future()

    @property
    def under_way(self) -> int:
        """What would arrive if all that lives is claimed. Never more than the goal."""
        return sum(attempt.amount_msat for attempt in self.attempts.values())

    @property
    def fees_under_way(self) -> int:
        return sum(attempt.fee_msat for attempt in self.attempts.values())

    @property
    def sent_msat(self) -> int:
        return self.paid_msat + sum(attempt.sent_msat for attempt in self.attempts.values())

    @property
    def unknown_until(self) -> int | None:
        return max((attempt.cltv_expiry for attempt in self.attempts.values()), default=None)

    def note_failure(self, attempt: Attempt, opened: Opened) -> None:
        """For the person who asks why: the same reasons of the same node are counted, not repeated."""
        name = opened.failure.name if opened.failure is not None else "an unreadable failure"
        self.unreadable += opened.failure is None
        at = opened.failed_at if opened.suspects(attempt.length) is None else _suspect(attempt, opened)
        self.failures[f"{name} {_place(attempt, at)}"] += 1

    def grouped(self, why: CommandRefused) -> CommandRefused:
        """The refusal, with what the parts met on their way when there were several."""
        if sum(self.failures.values()) < 2:
            return why
        reasons = ", ".join(f"{reason} ({n}x)" for reason, n in self.failures.most_common(6))
        return CommandRefused(
            f"{why.sentence}; what was tried met {reasons}", what_to_do=why.what_to_do, code=why.code
        )


def _suspect(attempt: Attempt, opened: Opened) -> int:
    """The hop to leave out after an unreadable failure: between the two nodes that attribution data names, else the
    one after our own channel."""
    at = 1
    if opened.told is not None:
        at = attempt.length if opened.told.spoiled_at is None else opened.told.spoiled_at
    return min(at, attempt.length - 1)


def _place(attempt: Attempt, failed_at: int) -> str:
    if failed_at == NOBODY:
        return "from nobody"
    if failed_at >= attempt.length:
        return "from the recipient"
    if not attempt.hops:
        return "from our channel"
    return f"at {format_scid(attempt.hops[failed_at].short_channel_id)}"


def route_to_blob(goal: Goal, hops: tuple[RouteHop, ...]) -> bytes:
    return _encode_route(hops) if hops else goal.destination


def route_from_blob(blob: bytes) -> tuple[RouteHop, ...]:
    """Empty for a channel partner: then the blob is its node id."""
    return () if len(blob) == _NODE_ID and blob[:1] in (b"\x02", b"\x03") else _decode_route(blob)


def judge_failure(live: LivePayment, attempt: Attempt, opened: Opened) -> CommandRefused | None:
    """Why there is no use in further tries, or None: then what stood in the way is avoided from now on.

    BOLT 4, "Receiving Failure Codes". What the failure teaches about the network is for routing to keep.
    """
    why = refusal(opened, attempt.length)
    live.refusal = why
    failure, at = opened.failure, opened.failed_at
    if not attempt.hops:
        return why
    if failure is None:
        if live.unreadable > 2:
            return why
        worst = attempt.hops[_suspect(attempt, opened)]
        live.excluded.add((worst.short_channel_id, worst.direction))
        return None
    if at >= len(attempt.hops):
        return _from_payee(live, attempt, failure, why)
    if failures.blames_node(failure):
        live.excluded_nodes.add(attempt.hops[at - 1].node_id)
        return None
    channel = (attempt.hops[at].short_channel_id, attempt.hops[at].direction)
    live.failed_channels[channel] += 1
    # Once more may help: routing has learned of the amount, or of the policy that came with the failure.
    teaches = isinstance(failure, TemporaryChannelFailure) or bool(getattr(failure, "channel_update", b""))
    if not teaches or live.failed_channels[channel] > 2:
        live.excluded.add(channel)
    return None


def _from_payee(
    live: LivePayment, attempt: Attempt, failure: Failure, why: CommandRefused
) -> CommandRefused | None:
    if isinstance(failure, FinalIncorrectCltvExpiry | FinalIncorrectHtlcAmount):
        # The node before the recipient changed what it was told to pass on.
        last = attempt.hops[-1]
        live.excluded.add((last.short_channel_id, last.direction))
        return None
    if isinstance(failure, MppTimeout) and live.goal.in_parts:
        return None
    return why


def never_sent() -> CommandRefused:
    return CommandRefused(
        "the node stopped before this payment was sent",
        what_to_do="Nothing was paid: pay the invoice again.",
        code=PayCode.OTHER,
    )


def attempt_again(
    origin: str,
    number: int,
    channel: bytes,
    amount: Msat,
    fee: int,
    expiry: int,
    secrets: tuple[Secret, ...],
    hops: tuple[RouteHop, ...],
    part_id: int,
    created: int,
) -> Attempt:
    """One of an earlier run."""
    hop = Hop(Msat(amount + fee), BlockHeight(expiry), b"", secrets)
    return Attempt(origin, number, channel, amount, hop, hops=hops, part_id=part_id, created=created)
