"""Parts of a payment along routes that the caller chose: `sendpay`, `waitsendpay` (Core Lightning's dialect).

They obey the rule of all payments: what may still be claimed never adds up to more than the total.
"""

import asyncio
from itertools import pairwise

from msgspec.structs import replace

from node.payments import records
from node.payments.channels import ChannelList
from node.payments.live import Attempt, LivePayment
from node.payments.payer import Payer
from node.payments.send import Goal, Opened, PayCode
from node.payments.store import Writer
from protocol import curve
from protocol.amounts import MAX_HTLC_CLTV, Msat
from protocol.bus.messages.payments import ListParts, PartRow, Parts, SendPart, WaitPart
from protocol.errors import CommandRefused

Name = tuple[bytes, int, int]
"""Payment hash, group and part."""


MAX_KEPT = 1000
"""Ends that are remembered beside the disk; each is on it a moment later."""


class PartSender:
    def __init__(self, payer: Payer, channels: ChannelList, writer: Writer) -> None:
        self._payer = payer
        self._channels = channels
        self._writer = writer
        self._waiting: dict[Name, list[asyncio.Future[PartRow]]] = {}
        self._ended: dict[Name, PartRow] = {}
        """The end of each part of this run: its row may not be on disk yet."""
        payer.on_attempt_end = self._attempt_ended

    async def send(self, request: SendPart) -> PartRow:
        _check(request)
        if self._channels.book.outdated:
            await self._channels.refresh()
        live = self._payer.live_of(request.payment_hash)
        if live is None:
            paid = self._payer.paid(request.payment_hash)
            if paid is not None:
                if (paid.destination, paid.amount_msat) != (request.hops[-1].node_id, request.total_msat):
                    raise _already(f"{paid.amount_msat} msat with this payment hash are complete already")
                return _whole(paid.preimage, request, paid.created)
        else:
            _check_group(live, request)
            for attempt in live.attempts.values():
                if attempt.part_id == request.part_id:
                    return _row(live, attempt)
            left = live.goal.amount_msat - live.under_way
            if request.hops[-1].amount_msat > left:
                raise _already(
                    f"parts of {live.under_way} msat are on their way, and {request.total_msat} msat are the total"
                )
        channel = self._channels.book.of_first_hop(request.hops[0].short_channel_id)
        if channel is None or channel.peer != request.hops[0].node_id:
            raise CommandRefused(
                "the route does not begin at a channel of ours with its first node",
                what_to_do="See listpeerchannels for the short channel ids.",
                code=PayCode.TRY_OTHER_ROUTE,
            )
        if live is None:
            live = self._payer.begin(
                _goal(request),
                bolt11=request.bolt11,
                label=request.label,
                max_fee=0,
                retry_until=0,
                kind="manual",
            )
            live.group_id = request.group_id
            live.stopped = _by_hand()
        name = (request.payment_hash, request.group_id, request.part_id)
        self._ended.pop(name, None)
        try:
            attempt = self._payer.offer(
                live, channel, request.hops[-1].amount_msat, request.hops, request.part_id
            )
        except CommandRefused:  # no onion holds it
            self._payer.forget_unless_tried(live)
            raise
        return _row(live, attempt)

    async def wait(self, request: WaitPart) -> PartRow:
        """The part when it has ended; whoever gives up waiting leaves it running."""
        live = self._payer.live_of(request.payment_hash)
        group = request.group_id
        if group is None:
            group = live.group_id if live is not None else self._newest_group(request.payment_hash)
        name = (request.payment_hash, group, request.part_id)
        if live is not None and any(a.part_id == request.part_id for a in live.attempts.values()):
            ended: asyncio.Future[PartRow] = asyncio.get_running_loop().create_future()
            waiting = self._waiting.setdefault(name, [])
            waiting.append(ended)
            try:
                return await ended
            finally:
                if ended in waiting:
                    waiting.remove(ended)
        if (known := self._ended.get(name)) is not None:
            return known
        found = [
            row
            for row in records.read_parts(self._writer, payment_hash=request.payment_hash)
            if (row.group_id, row.part_id) == (group, request.part_id)
        ]
        if not found:
            raise CommandRefused(
                "there is no such part of a payment", what_to_do="See listsendpays.", code=208
            )
        return found[-1]

    def list(self, request: ListParts) -> Parts:
        bolt11 = request.bolt11.strip().lower().removeprefix("lightning:") if request.bolt11 else None
        rows = records.read_parts(self._writer, payment_hash=request.payment_hash, bolt11=bolt11)
        return Parts(tuple(row for row in rows if request.status in (None, row.status)))

    def _newest_group(self, payment_hash: bytes) -> int:
        groups = [name[1] for name in self._ended if name[0] == payment_hash]
        groups += [row.group_id for row in records.read_parts(self._writer, payment_hash=payment_hash)]
        return max(groups, default=0)

    def _attempt_ended(
        self, live: LivePayment, attempt: Attempt, sentence: str, opened: Opened | None
    ) -> None:
        if live.row.kind != "manual":
            return
        name = (live.row.payment_hash, live.group_id, attempt.part_id)
        row = _row(live, attempt, status="failed" if opened is not None else "complete", error=sentence)
        if opened is not None:
            row = _failed(row, opened)
        self._ended[name] = row
        while len(self._ended) > MAX_KEPT:
            del self._ended[next(iter(self._ended))]
        for waiting in self._waiting.pop(name, ()):
            if not waiting.done():
                waiting.set_result(row)


def _goal(request: SendPart) -> Goal:
    return Goal(
        destination=request.hops[-1].node_id,
        payment_hash=request.payment_hash,
        amount_msat=request.total_msat,
        final_delay=request.hops[-1].delay,
        payment_secret=request.payment_secret,
        payment_metadata=request.payment_metadata,
        in_parts=request.part_id != 0,
    )


def _check(request: SendPart) -> None:
    hops = request.hops
    amount = hops[-1].amount_msat if hops else 0
    falls = all(a.amount_msat >= b.amount_msat and a.delay >= b.delay for a, b in pairwise(hops))
    if not hops or len(hops) > 20 or amount <= 0 or not falls or hops[-1].delay < 1:
        raise _invalid("a route has 1 to 20 hops, and neither amounts nor delays may rise along it")
    if amount > request.total_msat or (request.part_id == 0 and amount != request.total_msat):
        raise _invalid("a part is no more than the total, and without a part id it is the total")
    if hops[-1].amount_msat < request.total_msat and request.payment_secret is None:
        raise _invalid("several parts need the payment secret of the invoice")
    if hops[0].delay > MAX_HTLC_CLTV:
        raise _invalid(f"the route takes more than {MAX_HTLC_CLTV} blocks")
    if not all(curve.is_point(hop.node_id) for hop in hops):
        raise _invalid("an id in the route is none that a node can have")


def _check_group(live: LivePayment, request: SendPart) -> None:
    if live.row.kind != "manual" or live.group_id != request.group_id:
        raise CommandRefused(
            "this payment is under way already",
            what_to_do="Wait for it: see listpays.",
            code=PayCode.IN_PROGRESS,
        )
    same = (live.goal.destination, live.goal.amount_msat, live.goal.payment_secret)
    if same != (request.hops[-1].node_id, request.total_msat, request.payment_secret):
        raise _already("parts of this payment with another recipient, total or secret are on their way")


def _row(
    live: LivePayment, attempt: Attempt, *, status: str = "pending", error: str | None = None
) -> PartRow:
    return PartRow(
        id=attempt.number + 1,
        payment_hash=live.row.payment_hash,
        group_id=live.group_id,
        part_id=attempt.part_id,
        destination=live.row.destination,
        amount_msat=attempt.amount_msat,
        amount_sent_msat=Msat(attempt.sent_msat),
        status=status,
        created=attempt.created,
        preimage=live.row.preimage if status == "complete" else None,
        label=live.row.label,
        bolt11=live.row.bolt11 or None,
        error=error or None,
        hops=attempt.length,
        hold_times=attempt.hold_times,
    )


def _failed(row: PartRow, opened: Opened) -> PartRow:
    code = None if opened.failure is None else opened.failure.code
    return replace(row, failed_at=opened.failed_at, failure_code=code)


def _whole(preimage: bytes | None, request: SendPart, created: int) -> PartRow:
    return PartRow(
        id=1,
        payment_hash=request.payment_hash,
        group_id=request.group_id,
        part_id=request.part_id,
        destination=request.hops[-1].node_id,
        amount_msat=request.hops[-1].amount_msat,
        amount_sent_msat=request.hops[0].amount_msat,
        status="complete",
        created=created,
        preimage=preimage,
        label=request.label,
    )


def _by_hand() -> CommandRefused:
    return CommandRefused(
        "the parts along the given routes failed",
        what_to_do="Nothing was paid. Try another route.",
        code=PayCode.TRY_OTHER_ROUTE,
    )


def _already(sentence: str) -> CommandRefused:
    return CommandRefused(sentence, what_to_do="Nothing more was paid.", code=PayCode.ALREADY_PAID_OTHERWISE)


def _invalid(sentence: str) -> CommandRefused:
    return CommandRefused(sentence, what_to_do="Correct the route.", code=PayCode.INVALID_PARAMETER)
