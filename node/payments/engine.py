"""How a payment is carried to its end: parts, their routes, retries, and what came of them (BOLT 4; BOLT 11).

What may still be claimed never adds up to more than the amount: a new part starts only for what was refused before it
was offered, or has irrevocably failed. An attempt is on disk before its offer can be, so this holds across restarts.
"""

from collections.abc import Awaitable, Callable

import msgspec
import structlog

from node.payments import ends, records, send
from node.payments import live as lives
from node.payments.channels import ChannelList
from node.payments.live import Attempt, LivePayment
from node.payments.send import Goal, Hop, Opened, PayCode
from node.payments.store import END_ATTEMPT, END_PAYMENT, INSERT_ATTEMPT, INSERT_PAYMENT, Desk, Writer
from protocol.amounts import BlockHeight, Msat
from protocol.bolt4.failure import PermanentChannelFailure
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.channel import (
    ChannelInfo,
    HtlcFailed,
    HtlcFulfilled,
    HtlcRefused,
    OfferHtlc,
)
from protocol.bus.messages.payments import (
    PaymentRow,
)
from protocol.bus.messages.routing import AttemptEnded, AttemptStarted, FindRoutes, RouteHop, Routes
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from protocol.secret import Secret

log = structlog.get_logger()

MAX_TRIES = 200
BUSY_SECONDS = 1.0
"""A payment that finds its channel full waits so long, then twice as long, and so on up to the most."""
MOST_BUSY_SECONDS = 8.0
_encode_goal = msgspec.msgpack.Encoder().encode


class Engine:
    """`on_attempt_end` hears of the end of each HTLC, with why it failed or None."""

    def __init__(
        self,
        desk: Desk,
        writer: Writer,
        channels: ChannelList,
        *,
        prefix: str,
        node_id: bytes,
        find_routes: Callable[[FindRoutes], Awaitable[Routes]],
        shadow_delay: Callable[[bytes], Awaitable[int]],
        height: Callable[[], BlockHeight],
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        start_task: Callable[[Awaitable[None]], object],
        later: Callable[[float, Callable[[], object]], object],
        changed: Callable[[PaymentRow, int | None], None],
    ) -> None:
        self._desk = desk
        self._writer = writer
        self._channels = channels
        self._prefix = prefix
        self._node_id = node_id
        self._find_routes = find_routes
        self._shadow_delay = shadow_delay
        self._height = height
        self._clock = clock
        self._random_bytes = random_bytes
        self._start_task = start_task
        self._later = later
        self._changed = changed
        self.book = channels.book
        self._live: dict[bytes, LivePayment] = {}
        self._by_origin: dict[str, LivePayment] = {}
        self._settling: dict[bytes, PaymentRow] = {}
        """Complete payments whose last write is still on its way to the disk."""
        self.on_attempt_end: Callable[[LivePayment, Attempt, str, Opened | None], None] | None = None

    def refused(self, event: HtlcRefused) -> None:
        """Nothing was sent: another channel may carry it."""
        live, attempt = self._end_attempt(event.origin, "failed", event.sentence)
        if live is None or attempt is None:
            return
        if attempt.hops:
            self._desk.tell("routing", AttemptEnded(attempt.origin, failed_at=0))
        live.tried.add(attempt.channel_id)
        if event.passing:
            live.busy.add(attempt.channel_id)
        live.refusal = CommandRefused(event.sentence, what_to_do=event.what_to_do, code=PayCode.NO_ROUTE)
        self.book.outdated = True
        self._tell_end(live, attempt, event.sentence, Opened(0, None))
        self._go_on(live, None)

    def fulfilled(self, event: HtlcFulfilled) -> None:
        live = self._by_origin.get(event.origin)
        if live is None:
            return  # said again: we know
        if sha256(event.preimage) != live.row.payment_hash:
            log.error("preimage_does_not_fit", origin=event.origin)
            return
        attempt = live.attempts[event.origin]
        attempt.hold_times = send.hold_times(event.attribution, attempt.shared_secrets)
        self._end_attempt(event.origin, "complete", None)
        live.paid_msat += attempt.sent_msat
        if attempt.hops:
            self._desk.tell("routing", AttemptEnded(attempt.origin))
        if not live.is_over:
            self._complete(live, event.preimage)
        self._tell_end(live, attempt, "", None)

    def failed(self, event: HtlcFailed) -> None:
        live = self._by_origin.get(event.origin)
        if live is None:
            return
        attempt = live.attempts[event.origin]
        self.book.came_back(attempt.channel_id, Msat(attempt.sent_msat))
        secrets = attempt.shared_secrets
        opened = send.open_failure(event.reason, event.malformed_code, secrets, event.attribution)
        attempt.hold_times = () if opened.told is None else opened.told.hold_times
        if not event.reason and event.malformed_code is None:
            opened = Opened(0, PermanentChannelFailure())  # our own channel closed, and it timed out on chain
        self._end_attempt(event.origin, "failed", event.reason.hex(), opened)
        live.parts_failed += 1
        live.note_failure(attempt, opened)
        if attempt.hops:
            self._desk.tell("routing", ends.lesson(attempt, opened))
        why = lives.judge_failure(live, attempt, opened)
        self._tell_end(live, attempt, str(live.refusal or ""), opened)
        if live.is_over:
            self._correct_sent(live)
        else:
            self._go_on(live, why)

    def live_of(self, payment_hash: bytes) -> LivePayment | None:
        return self._live.get(payment_hash)

    def begin(
        self,
        goal: Goal,
        *,
        bolt11: str,
        label: str | None,
        max_fee: int,
        retry_until: int,
        kind: str = "invoice",
    ) -> LivePayment:
        row = PaymentRow(
            id=self._random_bytes(16).hex(),
            payment_hash=goal.payment_hash,
            bolt11=bolt11,
            destination=goal.destination,
            amount_msat=goal.amount_msat,
            amount_sent_msat=Msat(0),
            status="pending",
            created=int(self._clock()),
            completed=None,
            preimage=None,
            error=None,
            label=label,
            parts=0,
            kind=kind,
        )
        live = LivePayment(row, goal, max_fee=max_fee, retry_until=retry_until)
        self._live[goal.payment_hash] = live
        return live

    def forget_unless_tried(self, live: LivePayment) -> None:
        """Of what was never offered nothing can end, so it would be in the way of whoever pays the same hash."""
        if not live.parts_tried:
            del self._live[live.row.payment_hash]

    async def _advance(self, live: LivePayment) -> None:
        """Offers what is missing, or ends the payment. One at a time; who comes meanwhile makes it look again."""
        if live.is_planning:
            live.plan_again = True
            return
        live.is_planning = True
        try:
            live.plan_again = True
            while live.plan_again:
                live.plan_again = False
                await self._plan(live)
        except (CommandRefused, OutcomeUnknown) as error:
            # Only our own list of channels, the router or the onion can fail here: nothing was offered by this.
            if not self._waits(live):
                self._stop(live, ends.as_refusal(error))
        except Exception:
            self._stop(live, ends.as_refusal(CommandRefused("a bug of ours", what_to_do="See the log.")))
            raise
        finally:
            live.is_planning = False

    def _waits(self, live: LivePayment) -> bool:
        """Whether it is tried again after a while: a channel of ours was full, and there was no other way."""
        seconds = min(BUSY_SECONDS * 2**live.waits, MOST_BUSY_SECONDS)
        in_time = self._clock() + seconds < live.retry_until
        full = live.busy or self.book.is_full()
        if not full or not in_time or not self._is_wanting(live) or live.row.kind == "manual":
            return False
        live.tried -= live.busy
        live.busy.clear()
        live.waits += 1
        live.looked_again = False
        self._later(seconds, lambda: self._start_task(self._advance(live)))
        return True

    async def _plan(self, live: LivePayment) -> None:
        if not self._is_wanting(live):
            return
        # Again before each attempt: an earlier one may have taken long, or belong to an earlier run.
        send.check_payable(live.goal, now=self._clock())
        late = self._clock() >= live.retry_until and live.parts_tried > 0
        if late or live.parts_tried >= MAX_TRIES:
            self._stop(live, live.refusal or ends.out_of_time())
            return
        if self.book.outdated:
            await self._channels.refresh()
        if not live.attempts and not live.excluded and self.book.has_usable(live.goal.destination):
            channel = self._direct(live)
            if channel is None:
                await self._channels.refresh()
                channel = self._direct(live)
            if not self._is_wanting(live):
                return
            if channel is not None:
                self.offer(live, channel, live.goal.amount_msat, ())
                return
        await self._offer_routes(live)

    def _is_wanting(self, live: LivePayment) -> bool:
        return not live.is_over and live.stopped is None and live.under_way < live.goal.amount_msat

    def _direct(self, live: LivePayment) -> ChannelInfo | None:
        return self.book.choose(live.goal.destination, live.goal.amount_msat, but=live.tried)

    async def _offer_routes(self, live: LivePayment) -> None:
        goal = live.goal
        if live.shadow_blocks is None:
            live.shadow_blocks = await self._shadow_delay(goal.destination)
        missing = Msat(goal.amount_msat - live.under_way)
        wanted = ends.question(
            self.book, goal, missing, max_fee=live.max_fee - live.fees_under_way, live=live
        )
        try:
            found = await self._find_routes(wanted)
        except CommandRefused as error:
            if not live.looked_again:
                # Our list of channels may be older than what we received since.
                live.looked_again = live.plan_again = True
                await self._channels.refresh()
                return
            raise live.refusal or self._no_way(goal, missing, error) from error
        if not self._is_wanting(live) or goal.amount_msat - live.under_way != missing:
            live.plan_again = True  # parts ended while we asked
            return
        if not found.routes or sum(route.hops[-1].amount_msat for route in found.routes) != missing:
            raise live.refusal or ends.no_route("the routes that were found do not carry the amount")
        budget = live.max_fee - live.fees_under_way
        for route in found.routes:
            send.check_route(route.hops, goal, budget, parts_of=missing)
            budget -= route.hops[0].amount_msat - route.hops[-1].amount_msat
        for route in found.routes:
            channel = self.book.of_first_hop(route.hops[0].short_channel_id)
            if channel is None:
                raise ends.no_route("the route that was found begins at a channel that we do not have")
            if channel.peer == goal.destination and len(route.hops) == 1 and not goal.in_parts:
                self.offer(live, channel, goal.amount_msat, ())
            else:
                self.offer(live, channel, route.hops[-1].amount_msat, route.hops)

    def offer(
        self,
        live: LivePayment,
        channel: ChannelInfo,
        amount: Msat,
        hops: tuple[RouteHop, ...],
        part_id: int = 0,
    ) -> Attempt:
        """One part, of `amount` to the recipient; without `hops` it is our channel partner."""
        session_key = Secret(self._random_bytes(32))
        height = self._height()
        if hops:
            hop = send.build_route(live.goal, hops, height=height, session_key=session_key)
        else:
            hop = send.build_hop(live.goal, amount, height=height, session_key=session_key)
        return self._put(live, channel, amount, hops, hop, session_key, part_id)

    def _put(
        self,
        live: LivePayment,
        channel: ChannelInfo,
        amount: Msat,
        hops: tuple[RouteHop, ...],
        hop: Hop,
        session_key: Secret,
        part_id: int,
    ) -> Attempt:
        row, number = live.row, live.parts_tried
        origin = f"{row.id}/{number}"
        now = int(self._clock())
        attempt = Attempt(
            origin, number, channel.channel_id, amount, hop, hops=hops, part_id=part_id, created=now
        )
        if live.under_way + amount > live.goal.amount_msat:
            raise AssertionError(f"the parts of {row.id} would add up to more than its amount")
        live.parts_tried = number + 1
        live.attempts[origin] = attempt
        self._by_origin[origin] = live
        self.book.offered(channel.channel_id, hop.amount_msat)
        self._save_payment(live)
        self._desk.save(
            INSERT_ATTEMPT,
            (
                row.id,
                number,
                origin,
                channel.channel_id,
                amount,
                attempt.fee_msat,
                session_key.reveal(),
                lives.route_to_blob(live.goal, hops),
                part_id,
                hop.cltv_expiry,
                now,
            ),
        )
        if hops:
            self._desk.tell("routing", AttemptStarted(origin, hops))
        self._desk.tell(
            "channel",
            OfferHtlc(
                channel.channel_id, hop.amount_msat, row.payment_hash, hop.cltv_expiry, hop.onion, origin
            ),
        )
        self._changed(row, live.unknown_until)
        return attempt

    def _save_payment(self, live: LivePayment) -> None:
        if not live.is_saved:
            live.is_saved = True
            is_in_invoice = live.row.kind == "invoice" and not live.goal.has_limits
            goal = None if is_in_invoice else _encode_goal(live.goal)
            values = records.payment_to_row(
                live.row,
                group_id=live.group_id,
                max_fee=live.max_fee,
                retry_until=live.retry_until,
                goal=goal,
            )
            self._desk.save(INSERT_PAYMENT, values)

    def _end_attempt(
        self, origin: str, status: str, failure: str | None, opened: Opened | None = None
    ) -> tuple[LivePayment | None, Attempt | None]:
        live = self._by_origin.pop(origin, None)
        if live is None:
            return None, None
        code = opened.failure.code if opened is not None and opened.failure is not None else None
        at = None if opened is None else opened.failed_at
        attempt = live.attempts.pop(origin)
        held = records.hold_times_to_text(attempt.hold_times)
        self._desk.save(END_ATTEMPT, (status, failure, int(self._clock()), at, code, held, origin))
        return live, attempt

    def _tell_end(self, live: LivePayment, attempt: Attempt, sentence: str, opened: Opened | None) -> None:
        if self.on_attempt_end is not None:
            self.on_attempt_end(live, attempt, sentence, opened)

    def _go_on(self, live: LivePayment, why_not: CommandRefused | None) -> None:
        """After a part that failed: another try, if there is use in one."""
        if why_not is None and live.stopped is None:
            self._start_task(self._advance(live))
        else:
            self._stop(live, why_not or live.refusal or lives.never_sent())

    def _stop(self, live: LivePayment, refusal: CommandRefused) -> None:
        """No further part. It has failed when nothing of it can be claimed any more."""
        if live.is_over:
            return
        if live.stopped is None or live.row.kind == "manual":
            live.stopped = refusal
        if not live.attempts:
            self._fail(live, live.stopped)

    def _complete(self, live: LivePayment, preimage: bytes) -> None:
        """With the preimage it is paid, whatever becomes of the other parts: the recipient may take those too."""
        row = ends.ended(live, "complete", int(self._clock()), preimage=preimage)
        self._end(live, row)
        live.done.set_result(row)

    def _fail(self, live: LivePayment, refusal: CommandRefused) -> None:
        self._save_payment(live)
        refusal = live.grouped(refusal)
        row = ends.ended(live, "failed", int(self._clock()), error=str(refusal))
        self._end(live, row)
        # Not before it is on disk: after a crash it would be tried again, and who was told may have paid otherwise.
        self._desk.when_saved(lambda: live.done.set_result(refusal))

    def _end(self, live: LivePayment, row: PaymentRow) -> None:
        live.row, live.is_over = row, True
        self._save_end(row)
        self._settling[row.payment_hash] = row
        self._desk.when_saved(lambda: self._saved(row))
        if self._live.get(row.payment_hash) is live:
            del self._live[row.payment_hash]

    def _save_end(self, row: PaymentRow) -> None:
        end = (row.status, row.amount_sent_msat, row.completed, row.preimage, row.error, row.id)
        self._desk.save(END_PAYMENT, end)

    def _correct_sent(self, live: LivePayment) -> None:
        """A part of a complete payment came back: less was sent than we had to assume."""
        if live.row.status == "complete":
            live.row = msgspec.structs.replace(
                live.row, amount_sent_msat=Msat(live.sent_msat), parts=live.row.parts - 1
            )
            self._save_end(live.row)

    def _saved(self, row: PaymentRow) -> None:
        if self._settling.get(row.payment_hash) is row:
            del self._settling[row.payment_hash]
        self._changed(row, None)

    def paid(self, payment_hash: bytes) -> PaymentRow | None:
        settling = self._settling.get(payment_hash)
        if settling is not None and settling.status == "complete":
            return settling
        complete = records.read_payments(self._writer, payment_hash=payment_hash, status="complete")
        return complete[0] if complete else None

    def _no_way(self, goal: Goal, amount: Msat, error: CommandRefused) -> CommandRefused:
        return CommandRefused(
            f"{self.book.why_not(goal.destination, amount)}; and over other nodes: {error.sentence}",
            what_to_do=error.what_to_do or "Open a channel, or wait until pending payments settle.",
            code=PayCode.NO_ROUTE,
        )
