"""Payments on their way: one entry a payment hash, joined by whoever pays the same invoice (BOLT 4; BOLT 11).

The rule that all of this serves: *an invoice is never paid twice*. A payment is live from before its first attempt
until its end is known. While it lives, nobody starts a second one for its hash. A new attempt starts only when
the one before was refused before it was offered, or has irrevocably failed.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from node.payments import send, store
from node.payments.channels import ChannelBook
from node.payments.reconcile import GaveBack, Keep, NeverSent, Outcome, Settle, describe
from node.payments.send import PayCode
from node.payments.store import Desk, Writer
from protocol.amounts import BlockHeight, Msat
from protocol.bolt11.invoice import Invoice
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.channel import (
    ChannelInfo,
    HtlcFailed,
    HtlcFulfilled,
    HtlcRefused,
    ListChannels,
    OfferHtlc,
)
from protocol.bus.messages.payments import ListPayments, Pay, PaymentRow, Payments, PayPreview, PreviewPay
from protocol.errors import CommandRefused
from protocol.hashes import sha256
from protocol.secret import Secret

log = structlog.get_logger()
REFRESH_SECONDS = 0.25
"""The channel service is asked for its list at most this often."""


class Attempt:
    __slots__ = ("amount_msat", "channel_id", "origin", "shared_secrets")

    def __init__(
        self, origin: str, channel_id: bytes, amount_msat: Msat, shared_secrets: tuple[Secret, ...]
    ) -> None:
        self.origin = origin
        self.channel_id = channel_id
        self.amount_msat = amount_msat
        self.shared_secrets = shared_secrets


class LivePayment:
    """A payment of which the end is not known. `done` gets the final row, or the refusal to raise."""

    __slots__ = ("attempt", "done", "invoice", "is_saved", "parts_tried", "refusal", "row", "tried")

    def __init__(self, row: PaymentRow, invoice: Invoice, *, is_saved: bool = False) -> None:
        self.row = row
        self.invoice = invoice
        self.is_saved = is_saved
        self.attempt: Attempt | None = None
        self.parts_tried = 0
        self.tried: set[bytes] = set()
        self.refusal: CommandRefused | None = None
        self.done: asyncio.Future[PaymentRow | CommandRefused] = asyncio.get_running_loop().create_future()


class Payer:
    def __init__(
        self,
        desk: Desk,
        writer: Writer,
        *,
        prefix: str,
        node_id: bytes,
        list_channels: Callable[[ListChannels], Awaitable[tuple[ChannelInfo, ...]]],
        height: Callable[[], BlockHeight],
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        start_task: Callable[[Awaitable[None]], object],
        changed: Callable[[PaymentRow, int | None], None],
    ) -> None:
        self._desk = desk
        self._writer = writer
        self._prefix = prefix
        self._node_id = node_id
        self._list_channels = list_channels
        self._height = height
        self._clock = clock
        self._random_bytes = random_bytes
        self._start_task = start_task
        self._changed = changed
        self.book = ChannelBook()
        self._live: dict[bytes, LivePayment] = {}
        self._by_origin: dict[str, LivePayment] = {}
        self._settling: dict[bytes, PaymentRow] = {}
        """Complete payments whose last write is still on its way to the disk."""
        self._refreshing: asyncio.Future[None] | None = None
        self._refreshed_at = float("-inf")

    async def pay(self, request: Pay) -> PaymentRow:
        """Answers when the payment is final. Whoever gives up waiting leaves it running."""
        invoice = send.read_invoice(request.bolt11, prefix=self._prefix)
        amount = send.amount_to_pay(invoice, request.amount_msat)
        live = self._live.get(invoice.payment_hash)
        if live is None:
            paid = self._paid(invoice.payment_hash)
            if paid is not None:
                return _same_payment(paid, invoice, amount)
            send.check_payable(
                invoice, our_node_id=self._node_id, now=self._clock()
            )  # before anything is saved
            live = self._begin(invoice, amount, request.label)
            await self._attempt(live)
        else:
            _same_payment(live.row, invoice, amount)
        outcome = await asyncio.shield(live.done)
        if isinstance(outcome, CommandRefused):
            raise outcome
        return outcome

    async def preview(self, request: PreviewPay) -> PayPreview:
        """The same judgement as `pay`, and nothing is saved or offered."""
        invoice = send.read_invoice(request.bolt11, prefix=self._prefix)
        amount = send.amount_to_pay(invoice, request.amount_msat)
        live = self._live.get(invoice.payment_hash)
        there = live.row if live is not None else self._paid(invoice.payment_hash)
        if there is None:
            send.check_payable(invoice, our_node_id=self._node_id, now=self._clock())
        if self.book.outdated:
            await self._refresh()
        channel = self.book.choose(invoice.payee, amount)
        if channel is None and there is None:
            raise CommandRefused(
                self.book.why_not(invoice.payee, amount),
                what_to_do="Open a channel with the recipient, or wait until pending payments settle.",
                code=PayCode.NO_ROUTE,
            )
        return PayPreview(
            destination=invoice.payee,
            amount_msat=amount,
            fee_msat=Msat(0),
            lock_blocks=invoice.min_final_cltv_expiry_delta + send.BLOCKS_OF_PATIENCE,
            channel_id=channel.channel_id if channel is not None else b"",
            already=there.status if there is not None else None,
        )

    def list_payments(self, request: ListPayments) -> Payments:
        """As saved, and what this run knows better."""
        bolt11 = request.bolt11.strip().lower().removeprefix("lightning:") if request.bolt11 else None
        saved = store.read_payments(self._writer, payment_hash=request.payment_hash, newest=request.newest)
        rows = {row.id: row for row in saved}
        fresh = [live.row for live in self._live.values() if live.is_saved] + list(self._settling.values())
        for row in fresh:
            if request.payment_hash in (None, row.payment_hash):
                rows[row.id] = row
        return Payments(
            tuple(
                row
                for row in rows.values()
                if request.status in (None, row.status) and bolt11 in (None, row.bolt11)
            )
        )

    def refused(self, event: HtlcRefused) -> None:
        """Nothing was sent: another channel may carry it."""
        live = self._end_attempt(event.origin, "failed", event.sentence)
        if live is None:
            return
        live.refusal = CommandRefused(event.sentence, what_to_do=event.what_to_do, code=PayCode.NO_ROUTE)
        self.book.outdated = True
        self._start_task(self._attempt(live))

    def fulfilled(self, event: HtlcFulfilled) -> None:
        live = self._by_origin.get(event.origin)
        if live is None:
            return  # said again: we know
        if sha256(event.preimage) != live.row.payment_hash:
            log.error("preimage_does_not_fit", origin=event.origin)
            return
        self._end_attempt(event.origin, "complete", None)
        self._complete(live, event.preimage)

    def failed(self, event: HtlcFailed) -> None:
        live = self._by_origin.get(event.origin)
        if live is None or live.attempt is None:
            return
        self.book.came_back(live.attempt.channel_id, live.attempt.amount_msat)
        refusal = send.read_failure(event.reason, event.malformed_code, live.attempt.shared_secrets)
        self._end_attempt(event.origin, "failed", event.reason.hex())
        self._fail(live, refusal)

    # After a start.

    def load(self) -> list[str]:
        """Payments that were pending; the origins to reconcile. One without an attempt is over: nothing was sent."""
        payments = {row.id: row for row in store.read_payments(self._writer, status="pending")}
        origins = []
        for payment_id, part, origin, channel_id, session_key in store.read_pending_attempts(self._writer):
            row = payments.get(payment_id)
            if row is None:
                log.error("attempt_without_payment", origin=origin)
                continue
            live = self._live.get(row.payment_hash) or self._resume(row)
            secrets = send.shared_secrets_again(session_key, row.destination)
            live.attempt = Attempt(origin, channel_id, row.amount_msat, secrets)
            live.parts_tried = part + 1
            live.tried.add(channel_id)
            self._by_origin[origin] = live
            origins.append(origin)
        for row in payments.values():
            if row.payment_hash not in self._live:
                self._fail(self._resume(row), _never_sent())
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
                    self._fail(live, _never_sent())

    # One payment.

    def _begin(self, invoice: Invoice, amount: Msat, label: str | None) -> LivePayment:
        row = PaymentRow(
            id=self._random_bytes(16).hex(),
            payment_hash=invoice.payment_hash,
            bolt11=invoice.text,
            destination=invoice.payee,
            amount_msat=amount,
            amount_sent_msat=Msat(0),
            status="pending",
            created=int(self._clock()),
            completed=None,
            preimage=None,
            error=None,
            label=label,
            parts=0,
        )
        live = LivePayment(row, invoice)
        self._live[invoice.payment_hash] = live
        return live

    async def _attempt(self, live: LivePayment) -> None:
        """Offers the amount over one channel, or ends the payment."""
        try:
            # Again before each attempt: an earlier one may have taken long, or belong to an earlier run.
            send.check_payable(live.invoice, our_node_id=self._node_id, now=self._clock())
            if self.book.outdated:
                await self._refresh()
            channel = self._choose(live)
            if channel is None:
                await self._refresh()
                channel = self._choose(live)
            if channel is None:
                self._fail(live, live.refusal or self._no_channel(live))
                return
            self._offer(live, channel)
        except (CommandRefused, OutcomeUnknown) as error:
            # Only our own list of channels or the onion can fail here: nothing was offered.
            self._fail(live, _as_refusal(error))
        except Exception:
            if live.attempt is None:
                self._fail(live, _as_refusal(CommandRefused("a bug of ours", what_to_do="See the log.")))
            raise

    def _choose(self, live: LivePayment) -> ChannelInfo | None:
        return self.book.choose(live.row.destination, live.row.amount_msat, but=live.tried)

    async def _refresh(self) -> None:
        """A new list of channels. Those who ask while one is under way share it, and its error."""
        if self._refreshing is not None:
            await asyncio.shield(self._refreshing)
            return
        loop = asyncio.get_running_loop()
        shared = self._refreshing = loop.create_future()
        try:
            await asyncio.sleep(max(0.0, self._refreshed_at + REFRESH_SECONDS - loop.time()))
            self.book.asking()
            self.book.learn(await self._list_channels(ListChannels()))
            self._refreshed_at = loop.time()
            shared.set_result(None)
        except BaseException as error:
            self.book.outdated = True
            shared.set_exception(
                error if isinstance(error, Exception) else OutcomeUnknown("the node is stopping")
            )
            shared.exception()  # perhaps nobody shares it
            raise
        finally:
            self._refreshing = None

    def _offer(self, live: LivePayment, channel: ChannelInfo) -> None:
        row = live.row
        session_key = Secret(self._random_bytes(32))
        hop = send.build_hop(live.invoice, row.amount_msat, height=self._height(), session_key=session_key)
        part = live.parts_tried
        origin = f"{row.id}/{part}"

        live.parts_tried = part + 1
        live.tried.add(channel.channel_id)
        live.attempt = Attempt(origin, channel.channel_id, hop.amount_msat, hop.shared_secrets)
        self._by_origin[origin] = live
        self.book.offered(channel.channel_id, hop.amount_msat)

        self._save_payment(live)
        attempt = (
            row.id,
            part,
            origin,
            channel.channel_id,
            hop.amount_msat,
            0,
            session_key.reveal(),
            row.destination,
        )
        self._desk.save(store.INSERT_ATTEMPT, attempt)
        self._desk.tell(
            "channel",
            OfferHtlc(
                channel.channel_id, hop.amount_msat, row.payment_hash, hop.cltv_expiry, hop.onion, origin
            ),
        )
        self._changed(row, hop.cltv_expiry)

    def _save_payment(self, live: LivePayment) -> None:
        if not live.is_saved:
            live.is_saved = True
            self._desk.save(store.INSERT_PAYMENT, store.payment_to_row(live.row))

    def _end_attempt(self, origin: str, status: str, failure: str | None) -> LivePayment | None:
        live = self._by_origin.pop(origin, None)
        if live is not None:
            live.attempt = None
            self._desk.save(store.END_ATTEMPT, (status, failure, origin))
        return live

    def _complete(self, live: LivePayment, preimage: bytes) -> None:
        row = _ended(live.row, "complete", int(self._clock()), preimage=preimage)
        self._end(live, row)
        live.done.set_result(row)

    def _fail(self, live: LivePayment, refusal: CommandRefused) -> None:
        self._save_payment(live)
        row = _ended(live.row, "failed", int(self._clock()), error=str(refusal))
        self._end(live, row)
        live.done.set_result(refusal)

    def _end(self, live: LivePayment, row: PaymentRow) -> None:
        end = (row.status, row.amount_sent_msat, row.completed, row.preimage, row.error, row.id)
        self._desk.save(store.END_PAYMENT, end)
        self._settling[row.payment_hash] = row
        self._desk.when_saved(lambda: self._saved(row))
        self._forget(live)

    def _saved(self, row: PaymentRow) -> None:
        if self._settling.get(row.payment_hash) is row:
            del self._settling[row.payment_hash]
        self._changed(row, None)

    def _forget(self, live: LivePayment) -> None:
        del self._live[live.row.payment_hash]

    def _paid(self, payment_hash: bytes) -> PaymentRow | None:
        settling = self._settling.get(payment_hash)
        if settling is not None and settling.status == "complete":
            return settling
        complete = store.read_payments(self._writer, payment_hash=payment_hash, status="complete")
        return complete[0] if complete else None

    def _resume(self, row: PaymentRow) -> LivePayment:
        live = LivePayment(row, send.read_invoice(row.bolt11, prefix=self._prefix), is_saved=True)
        self._live[row.payment_hash] = live
        return live

    def _no_channel(self, live: LivePayment) -> CommandRefused:
        return CommandRefused(
            self.book.why_not(live.row.destination, live.row.amount_msat),
            what_to_do="Open a channel with the recipient, or wait until pending payments settle.",
            code=PayCode.NO_ROUTE,
        )


def _ended(
    row: PaymentRow, status: str, completed: int, *, preimage: bytes | None = None, error: str | None = None
) -> PaymentRow:
    is_complete = status == "complete"
    return PaymentRow(
        id=row.id,
        payment_hash=row.payment_hash,
        bolt11=row.bolt11,
        destination=row.destination,
        amount_msat=row.amount_msat,
        amount_sent_msat=row.amount_msat if is_complete else Msat(0),
        status=status,
        created=row.created,
        completed=completed,
        preimage=preimage,
        error=error,
        label=row.label,
        parts=1 if is_complete else 0,
    )


def _same_payment(row: PaymentRow, invoice: Invoice, amount: Msat) -> PaymentRow:
    """The payment that exists, if it is the one that is asked for."""
    if row.destination != invoice.payee or row.amount_msat != amount:
        raise CommandRefused(
            f"{row.amount_msat} msat with this payment hash are {row.status} already",
            what_to_do="Nothing more was paid. Ask the recipient for a new invoice.",
            code=PayCode.ALREADY_PAID_OTHERWISE,
        )
    return row


def _as_refusal(error: CommandRefused | OutcomeUnknown) -> CommandRefused:
    return CommandRefused(
        f"nothing was paid: {error.sentence}",
        what_to_do=error.what_to_do or "Try again.",
        code=error.code if isinstance(error, CommandRefused) and error.code != -1 else PayCode.OTHER,
    )


def _never_sent() -> CommandRefused:
    return CommandRefused(
        "the node stopped before this payment was sent",
        what_to_do="Nothing was paid: pay the invoice again.",
        code=PayCode.OTHER,
    )
