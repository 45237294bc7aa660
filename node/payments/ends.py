"""What a payment asks of routing, tells it, and how its end reads (BOLT 4, "Receiving Failure Codes")."""

from node.payments import send
from node.payments.channels import ChannelBook
from node.payments.live import Attempt, LivePayment
from node.payments.send import Goal, Opened, PayCode
from protocol.amounts import Msat, ShortChannelId
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.payments import PaymentRow
from protocol.bus.messages.routing import AttemptEnded, FindRoutes
from protocol.errors import CommandRefused

MAX_PARTS = 16


def question(
    book: ChannelBook, goal: Goal, amount: Msat, *, max_fee: int, live: LivePayment | None = None
) -> FindRoutes:
    delay = goal.final_delay + send.BLOCKS_OF_PATIENCE
    if live is None:
        return FindRoutes(
            destination=goal.destination,
            amount_msat=amount,
            final_delay=delay,
            max_fee_msat=Msat(max(0, max_fee)),
            first_hops=book.first_hops(),
            hints=goal.hints,
            max_parts=MAX_PARTS if goal.in_parts else 1,
        )
    return FindRoutes(
        destination=goal.destination,
        amount_msat=amount,
        final_delay=delay + min(live.shadow_blocks or 0, max(0, goal.max_delay // 2 - delay)),
        max_fee_msat=Msat(max(0, max_fee)),
        first_hops=book.first_hops(but=live.tried),
        hints=goal.hints,
        excluded=tuple((ShortChannelId(scid), side) for scid, side in sorted(live.excluded)),
        excluded_nodes=tuple(sorted(live.excluded_nodes)),
        max_parts=MAX_PARTS if goal.in_parts else 1,
        max_delay=goal.max_delay,
        payment=live.row.id,
    )


def ended(
    live: LivePayment, status: str, completed: int, *, preimage: bytes | None = None, error: str | None = None
) -> PaymentRow:
    row = live.row
    is_complete = status == "complete"
    return PaymentRow(
        id=row.id,
        payment_hash=row.payment_hash,
        bolt11=row.bolt11,
        destination=row.destination,
        amount_msat=row.amount_msat,
        amount_sent_msat=Msat(live.sent_msat if is_complete else 0),
        status=status,
        created=row.created,
        completed=completed,
        preimage=preimage,
        error=error,
        label=row.label,
        parts=1 + len(live.attempts) if is_complete else 0,
        failed_parts=live.parts_failed,
        kind=row.kind,
    )


def lesson(attempt: Attempt, opened: Opened) -> AttemptEnded:
    failure = opened.failure
    update = getattr(failure, "channel_update", b"") or None
    code = None if failure is None else failure.code
    return AttemptEnded(attempt.origin, opened.failed_at, code, update, opened.suspects(attempt.length))


def as_refusal(error: CommandRefused | OutcomeUnknown) -> CommandRefused:
    return CommandRefused(
        f"nothing was paid: {error.sentence}",
        what_to_do=error.what_to_do or "Try again.",
        code=error.code if isinstance(error, CommandRefused) and error.code != -1 else PayCode.OTHER,
    )


def no_route(sentence: str) -> CommandRefused:
    return CommandRefused(sentence, what_to_do="Try again, or allow a higher fee.", code=PayCode.NO_ROUTE)


def out_of_time() -> CommandRefused:
    return CommandRefused(
        "no try was left in the time that was given",
        what_to_do="Nothing was paid. Try again, with a longer retry_for.",
        code=PayCode.STOPPED_RETRYING,
    )
