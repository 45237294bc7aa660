"""Payments that people ask for: one entry a payment hash, joined by whoever pays the same invoice (BOLT 4; BOLT 11).

The rule that all of this serves: *an invoice is never paid twice*. A payment is live from before its first attempt
until its end is known. While it lives, nobody starts a second one for its hash.
"""

import asyncio

import msgspec
import structlog

from node.payments import ends, records, send
from node.payments import live as lives
from node.payments.engine import Engine
from node.payments.live import LivePayment
from node.payments.reconcile import GaveBack, Keep, NeverSent, Outcome, Settle, describe
from node.payments.records import PendingAttempt, Terms
from node.payments.send import Goal, PayCode
from protocol.amounts import Msat
from protocol.bus.messages.channel import (
    HtlcFailed,
    HtlcFulfilled,
)
from protocol.bus.messages.payments import (
    Keysend,
    ListPayments,
    Pay,
    PaymentRow,
    Payments,
    PayPreview,
    PreviewPay,
)
from protocol.errors import CommandRefused
from protocol.hashes import sha256

log = structlog.get_logger()
_decode_goal = msgspec.msgpack.Decoder(Goal).decode


class Payer(Engine):
    async def pay(self, request: Pay) -> PaymentRow:
        """Answers when the payment is final. Whoever gives up waiting leaves it running."""
        invoice = send.read_invoice(request.bolt11, prefix=self._prefix)
        amount = send.amount_to_pay(invoice, request.amount_msat)
        live = self._live.get(invoice.payment_hash)
        if live is None:
            paid = self.paid(invoice.payment_hash)
            if paid is not None:
                return _same_payment(paid, invoice.payee, amount)
            goal = send.goal_of(
                invoice,
                amount,
                max_delay=request.max_delay,
                excluded=request.excluded,
                excluded_nodes=request.excluded_nodes,
            )
            send.check_payable(goal, now=self._clock())  # before anything is saved
            max_fee = send.fee_budget(amount, request.max_fee_msat)
            live = self.begin(
                goal,
                bolt11=invoice.text,
                label=request.label,
                max_fee=max_fee,
                retry_until=int(self._clock()) + request.retry_for,
            )
            await self._advance(live)
        else:
            _same_payment(live.row, invoice.payee, amount)
            if live.row.kind == "manual":
                raise CommandRefused(
                    "parts of this payment are under way along given routes",
                    what_to_do="Wait for them: see listsendpays.",
                    code=PayCode.IN_PROGRESS,
                )
        return await self._end_of(live)

    async def keysend(self, request: Keysend) -> PaymentRow:
        """The preimage is drawn here and travels in the onion (bLIP 3): each of these is a payment of its own."""
        if request.destination == self._node_id or request.amount_msat <= 0:
            raise CommandRefused(
                "a payment to ourselves, or of nothing, makes no sense",
                what_to_do="Give another node and an amount above 0.",
                code=PayCode.INVALID_PARAMETER,
            )
        preimage = self._random_bytes(32)
        goal = Goal(
            destination=request.destination,
            payment_hash=sha256(preimage),
            amount_msat=request.amount_msat,
            final_delay=request.final_delay,
            max_delay=request.max_delay,
            hints=request.hints,
            keysend_preimage=preimage,
            records=request.records,
        )
        live = self.begin(
            goal,
            bolt11="",
            label=request.label,
            max_fee=send.fee_budget(request.amount_msat, request.max_fee_msat),
            retry_until=int(self._clock()) + request.retry_for,
            kind="keysend",
        )
        await self._advance(live)
        return await self._end_of(live)

    async def _end_of(self, live: LivePayment) -> PaymentRow:
        outcome = await asyncio.shield(live.done)
        if isinstance(outcome, CommandRefused):
            raise outcome
        return outcome

    async def preview(self, request: PreviewPay) -> PayPreview:
        """The same judgement as `pay`, and nothing is saved or offered."""
        invoice = send.read_invoice(request.bolt11, prefix=self._prefix)
        amount = send.amount_to_pay(invoice, request.amount_msat)
        goal = send.goal_of(invoice, amount)
        live = self._live.get(invoice.payment_hash)
        there = live.row if live is not None else self.paid(invoice.payment_hash)
        if there is None:
            send.check_payable(goal, now=self._clock())
        if self.book.outdated:
            await self._channels.refresh()
        channel = self.book.choose(invoice.payee, amount)
        fee, lock, channel_id = 0, goal.final_delay + send.BLOCKS_OF_PATIENCE, b""
        if channel is not None:
            channel_id = channel.channel_id
        elif there is None:
            wanted = ends.question(self.book, goal, amount, max_fee=send.fee_budget(amount, None))
            try:
                found = await self._find_routes(wanted)
            except CommandRefused as error:
                raise self._no_way(goal, amount, error) from error
            fee = sum(route.fee_msat for route in found.routes)
            lock = max(route.hops[0].delay for route in found.routes)
            first = self.book.of_first_hop(found.routes[0].hops[0].short_channel_id)
            channel_id = first.channel_id if first is not None else b""
        return PayPreview(
            destination=invoice.payee,
            amount_msat=amount,
            fee_msat=Msat(fee),
            lock_blocks=lock,
            channel_id=channel_id,
            already=there.status if there is not None else None,
        )

    def list_payments(self, request: ListPayments) -> Payments:
        """As saved, and what this run knows better."""
        bolt11 = request.bolt11.strip().lower().removeprefix("lightning:") if request.bolt11 else None
        saved = records.read_payments(self._writer, payment_hash=request.payment_hash, newest=request.newest)
        rows = {row.id: row for row in saved}
        fresh = [_now(live) for live in self._live.values() if live.is_saved]
        for row in fresh + list(self._settling.values()):
            if request.payment_hash in (None, row.payment_hash):
                rows[row.id] = row
        return Payments(
            tuple(
                row
                for row in rows.values()
                if request.status in (None, row.status) and bolt11 in (None, row.bolt11)
            )
        )

    # After a start.

    def load(self) -> list[str]:
        """Payments that were pending; the origins to reconcile. One without an attempt is over: nothing was sent."""
        by_id: dict[str, LivePayment] = {}
        origins = []
        for one in records.read_pending_attempts(self._writer):
            live = by_id.get(one.payment_id)
            if live is None:
                found = records.read_payment(self._writer, one.payment_id)
                if found is None:
                    log.error("attempt_without_payment", origin=one.origin)
                    continue
                live = by_id[one.payment_id] = self._resume(*found)
            self._resume_attempt(live, one)
            origins.append(one.origin)
        for row in records.read_payments(self._writer, status="pending"):
            if row.id not in by_id:
                found = records.read_payment(self._writer, row.id)
                if found is not None:
                    self._fail(self._resume(*found), lives.never_sent())
        return origins

    def settle(self, outcomes: list[Outcome]) -> None:
        for outcome in outcomes:
            live = self._by_origin[outcome.origin]
            log.info("payment_reconciled", origin=outcome.origin, found=describe(outcome))
            match outcome:
                case Keep():
                    pass
                case Settle():
                    self.fulfilled(HtlcFulfilled(outcome.origin, b"", 0, outcome.preimage))
                case GaveBack():
                    self.failed(
                        HtlcFailed(outcome.origin, b"", 0, outcome.reason or b"", outcome.malformed_code)
                    )
                case NeverSent():
                    self._end_attempt(outcome.origin, "failed", "never sent")
                    if not live.is_over:
                        self._stop(live, lives.never_sent())

    def _resume(self, row: PaymentRow, terms: Terms) -> LivePayment:
        if terms.goal is not None:
            goal = _decode_goal(terms.goal)
        else:
            invoice = send.read_invoice(row.bolt11, prefix=self._prefix)
            goal = send.goal_of(invoice, row.amount_msat)
        max_fee = send.fee_budget(row.amount_msat, None) if terms.max_fee_msat is None else terms.max_fee_msat
        retry_until = row.created + 60 if terms.retry_until is None else terms.retry_until
        live = LivePayment(row, goal, max_fee=max_fee, retry_until=retry_until, is_saved=True)
        live.group_id = terms.group_id
        live.parts_tried, live.paid_msat = records.read_parts_tried(self._writer, row.id)
        if row.kind == "manual":
            live.stopped = lives.never_sent()
        if row.status == "pending":
            self._live[row.payment_hash] = live
        else:
            live.is_over = True
        return live

    def _resume_attempt(self, live: LivePayment, one: PendingAttempt) -> None:
        hops = lives.route_from_blob(one.route)
        nodes = [hop.node_id for hop in hops] or [live.goal.destination]
        secrets = send.shared_secrets_again(one.session_key, nodes)
        live.attempts[one.origin] = lives.attempt_again(
            one.origin,
            one.part,
            one.channel,
            one.amount_msat,
            one.fee_msat,
            one.cltv_expiry,
            secrets,
            hops,
            one.part_id,
            one.created,
        )
        self._by_origin[one.origin] = live


def _now(live: LivePayment) -> PaymentRow:
    return msgspec.structs.replace(
        live.row, parts=len(live.attempts), failed_parts=live.parts_failed, unknown_until=live.unknown_until
    )


def _same_payment(row: PaymentRow, payee: bytes, amount: Msat) -> PaymentRow:
    """The payment that exists, if it is the one that is asked for."""
    if row.destination != payee or row.amount_msat != amount:
        raise CommandRefused(
            f"{row.amount_msat} msat with this payment hash are {row.status} already",
            what_to_do="Nothing more was paid. Ask the recipient for a new invoice.",
            code=PayCode.ALREADY_PAID_OTHERWISE,
        )
    return row
