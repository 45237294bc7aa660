"""Invoices, and the incoming HTLCs that pay them (BOLT 4, "Basic Multi-Part Payments"; BOLT 11).

The signer makes an invoice and keeps its preimage; it releases the preimage when the channel asks in order to
fulfil. Here is decided *whether* to. The decision of a set is saved before the first fulfil, so that a restart
in the middle of it cannot fulfil one part and fail the other.
"""

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from node.payments import receive, store
from node.payments.receive import Expected, HtlcKey, HtlcSet
from node.payments.store import CLAIMING, Desk, Writer
from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import failure as failures
from protocol.bolt4.failure import Failure, MppTimeout, UnknownNextPeer
from protocol.bolt4.payload import FinalPayload
from protocol.bus.messages.channel import FailHtlc, FulfilHtlc, HtlcReceived, HtlcResolved, Settled
from protocol.bus.messages.payments import CreateInvoice, InvoiceRow, Invoices, ListInvoices
from protocol.bus.messages.signer import InvoiceMade, MakeInvoice
from protocol.errors import CommandRefused

log = structlog.get_logger()
LABEL_EXISTS = 900
INVALID_PARAMETER = -32602
Later = Callable[[float, Callable[[], None]], object]


class Receiver:
    def __init__(
        self,
        desk: Desk,
        writer: Writer,
        *,
        make_invoice: Callable[[MakeInvoice], Awaitable[InvoiceMade]],
        height: Callable[[], BlockHeight],
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        later: Later,
        changed: Callable[[InvoiceRow], None],
    ) -> None:
        self._desk = desk
        self._writer = writer
        self._make_invoice = make_invoice
        self._height = height
        self._clock = clock
        self._random_bytes = random_bytes
        self._later = later
        self._changed = changed
        self._open: dict[bytes, InvoiceRow] = {}
        """Every invoice that an HTLC may still pay; all others are unknown to a payer, at no cost to us."""
        self._settling: dict[bytes, InvoiceRow] = {}
        """Paid invoices whose last write is still on its way to the disk."""
        self._sets: dict[bytes, HtlcSet] = {}
        self._said: dict[HtlcKey, FulfilHtlc | FailHtlc] = {}
        """What was decided of each HTLC that is not yet gone, to be said again."""
        self._labels: set[str] = set()
        self._waiting: dict[bytes, list[asyncio.Future[InvoiceRow]]] = {}
        self._last_pay_index = 0

    def load(self) -> None:
        self._last_pay_index = store.read_last_pay_index(self._writer)
        for invoice in store.read_open_invoices(self._writer, self._clock()):
            self._open[invoice.payment_hash] = invoice
            if invoice.status == CLAIMING:
                self._sets[invoice.payment_hash] = HtlcSet(invoice.received_msat or Msat(0), resumed=True)

    def claiming(self) -> tuple[bytes, ...]:
        """Invoices whose fulfilment was decided and whose end we did not see."""
        return tuple(h for h, invoice in self._open.items() if invoice.status == CLAIMING)

    def settled_before(self, settled: Settled) -> None:
        """The channel had settled these before a crash kept us from saving that we were paid."""
        for payment_hash, amount in settled.amounts:
            invoice = self._open.get(payment_hash)
            if invoice is not None and amount >= (invoice.received_msat or 1):
                self._sets.pop(payment_hash, None)
                self._paid(invoice)

    def forget_expired(self) -> None:
        """Called now and then. The rows stay; only nobody can pay them any more."""
        now = self._clock()
        gone = [h for h, invoice in self._open.items() if invoice.expires_at <= now and h not in self._sets]
        for payment_hash in gone:
            del self._open[payment_hash]

    # Invoices.

    async def create(self, request: CreateInvoice) -> InvoiceRow:
        _check(request)
        if request.label in self._labels or store.read_invoices(self._writer, label=request.label):
            raise CommandRefused(
                f"there is an invoice with the label {request.label!r} already",
                what_to_do="Choose another label.",
                code=LABEL_EXISTS,
            )
        self._labels.add(request.label)  # two of them at a time must not both pass the test above
        try:
            return await self._create(request)
        finally:
            self._labels.discard(request.label)

    async def _create(self, request: CreateInvoice) -> InvoiceRow:
        created = int(self._clock())
        made = await self._make_invoice(
            MakeInvoice(
                request_id=self._random_bytes(32),
                timestamp=created,
                amount_msat=request.amount_msat,
                description=None if request.description_hash else request.description,
                description_hash=request.description_hash,
                expiry=request.expiry,
                min_final_cltv_expiry=request.cltv or receive.ASKED_FINAL_CLTV_EXPIRY,
            )
        )
        invoice = InvoiceRow(
            label=request.label,
            payment_hash=made.payment_hash,
            payment_secret=made.payment_secret,
            bolt11=made.bolt11,
            amount_msat=request.amount_msat,
            description=request.description,
            expires_at=created + request.expiry,
            status="unpaid",
        )
        # Nobody may see an invoice that a crash could make us forget.
        saved = asyncio.Event()
        self._desk.save(store.INSERT_INVOICE, store.invoice_to_row(invoice, created), now=True)
        self._desk.when_saved(saved.set)
        await saved.wait()
        self._open[invoice.payment_hash] = invoice
        self._changed(invoice)
        return invoice

    def list_invoices(self, request: ListInvoices) -> Invoices:
        bolt11 = request.bolt11.strip().lower().removeprefix("lightning:") if request.bolt11 else None
        rows = store.read_invoices(
            self._writer,
            label=request.label,
            payment_hash=request.payment_hash,
            bolt11=bolt11,
            newest=request.newest,
        )
        return Invoices(tuple(self._seen(row) for row in rows))

    async def wait(self, label: str) -> InvoiceRow:
        """Paid or expired."""
        found = store.read_invoices(self._writer, label=label)
        if not found:
            raise CommandRefused(
                f"there is no invoice with the label {label!r}", what_to_do="See listinvoices."
            )
        invoice = self._seen(found[0])
        if invoice.status != "unpaid":
            return invoice
        paid: asyncio.Future[InvoiceRow] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(invoice.payment_hash, [])
        waiting.append(paid)
        try:
            while True:
                left = invoice.expires_at - self._clock()
                done, _ = await asyncio.wait([paid], timeout=max(0.0, left))
                if done:
                    return paid.result()
                if invoice.payment_hash not in self._sets:  # else it is being paid at this moment
                    return self._seen(invoice)
                await asyncio.wait([paid], timeout=1.0)
        finally:
            waiting.remove(paid)
            if not waiting:
                self._waiting.pop(invoice.payment_hash, None)

    def _seen(self, row: InvoiceRow) -> InvoiceRow:
        """As people see it now."""
        row = self._settling.get(row.payment_hash, row)
        if row.status == "paid":
            return row
        being_paid = row.status == CLAIMING or row.payment_hash in self._sets
        expired = row.expires_at <= self._clock() and not being_paid
        return msgspec.structs.replace(row, status="expired" if expired else "unpaid", received_msat=None)

    # HTLCs.

    def received(self, htlc: HtlcReceived) -> None:
        """Said again after every start, and never held against another decision than the first."""
        said = self._said.get((htlc.channel_id, htlc.htlc_id))
        if said is not None:
            self._desk.tell("channel", said)
            return
        if not htlc.final:
            # Forwarding comes with the network issue; until then we have no next peer for anybody.
            self._refuse(htlc, UnknownNextPeer())
            return
        final = receive.read_final(htlc)
        if not isinstance(final, FinalPayload):
            self._refuse(htlc, final)
            return
        self._take(htlc, final)

    def _take(self, htlc: HtlcReceived, final: FinalPayload) -> None:
        payment_hash = htlc.payment_hash
        invoice = self._open.get(payment_hash)
        parts = self._sets.get(payment_hash)
        if invoice is not None and parts is not None and parts.resumed:
            if final.payment_secret == invoice.payment_secret:
                parts.add(htlc)
                self._fulfil(htlc)
            else:
                self._refuse(htlc, receive.details_failure(htlc, self._height()))
            return
        expected = None if invoice is None else _expected(invoice)
        failure = receive.judge(htlc, final, expected, height=self._height(), now=self._clock())
        if failure is not None:
            self._refuse(htlc, failure)
            return
        if parts is None:
            parts = self._sets[payment_hash] = HtlcSet(final.total_msat)
        if not parts.takes(final):
            if not parts.claiming:
                self._refuse_set(
                    payment_hash, parts, lambda part: receive.details_failure(part, self._height())
                )
            self._refuse(htlc, receive.details_failure(htlc, self._height()))
            return
        if parts.add(htlc):
            self._claim(payment_hash, parts)
        elif len(parts.parts) == 1:
            self._later(receive.MPP_SECONDS, lambda: self._give_up(payment_hash, parts))

    def _claim(self, payment_hash: bytes, parts: HtlcSet) -> None:
        invoice = msgspec.structs.replace(
            self._open[payment_hash], status=CLAIMING, received_msat=parts.received_msat
        )
        self._open[payment_hash] = invoice
        self._save(invoice)
        for htlc in parts.parts.values():
            self._fulfil(htlc)

    def _give_up(self, payment_hash: bytes, parts: HtlcSet) -> None:
        """The rest of a set did not come in time."""
        if self._sets.get(payment_hash) is parts and not parts.claiming:
            self._refuse_set(payment_hash, parts, lambda _: MppTimeout())

    def _refuse_set(
        self, payment_hash: bytes, parts: HtlcSet, failure: Callable[[HtlcReceived], Failure]
    ) -> None:
        del self._sets[payment_hash]
        for htlc in parts.parts.values():
            self._refuse(htlc, failure(htlc))

    def _fulfil(self, htlc: HtlcReceived) -> None:
        self._say(htlc, FulfilHtlc(htlc.channel_id, htlc.htlc_id))

    def _refuse(self, htlc: HtlcReceived, failure: Failure) -> None:
        log.info("htlc_refused", payment_hash=htlc.payment_hash.hex(), reason=failure.name)
        self._say(htlc, FailHtlc(htlc.channel_id, htlc.htlc_id, failures.encode(failure)))

    def _say(self, htlc: HtlcReceived, decision: FulfilHtlc | FailHtlc) -> None:
        self._said[htlc.channel_id, htlc.htlc_id] = decision
        self._desk.tell("channel", decision)

    def resolved(self, event: HtlcResolved) -> None:
        key = (event.channel_id, event.htlc_id)
        said = self._said.pop(key, None)
        parts = self._sets.get(event.payment_hash)
        if parts is None or (said is not None and key not in parts.parts):
            return  # an HTLC that we refused
        if not parts.resolved(key, fulfilled=event.fulfilled):
            return
        del self._sets[event.payment_hash]
        if not parts.claiming:
            return
        invoice = self._open[event.payment_hash]
        if parts.was_fulfilled:
            self._paid(invoice)
            return
        # Decided, but the HTLC ended otherwise (the signer refused, or the channel closed): we were not paid.
        unpaid = msgspec.structs.replace(invoice, status="unpaid", received_msat=None)
        self._open[event.payment_hash] = unpaid
        self._save(unpaid)

    def _paid(self, invoice: InvoiceRow) -> None:
        self._last_pay_index += 1
        paid = msgspec.structs.replace(
            invoice, status="paid", paid_at=int(self._clock()), pay_index=self._last_pay_index
        )
        del self._open[paid.payment_hash]
        self._settling[paid.payment_hash] = paid
        self._save(paid)
        self._desk.when_saved(lambda: self._tell_paid(paid))

    def _tell_paid(self, paid: InvoiceRow) -> None:
        del self._settling[paid.payment_hash]
        self._changed(paid)
        for waiting in self._waiting.pop(paid.payment_hash, ()):
            if not waiting.done():
                waiting.set_result(paid)

    def _save(self, invoice: InvoiceRow) -> None:
        row = (
            invoice.status,
            invoice.received_msat,
            invoice.paid_at,
            invoice.pay_index,
            invoice.payment_hash,
        )
        self._desk.save(store.SET_INVOICE, row)


def _expected(invoice: InvoiceRow) -> Expected:
    return Expected(invoice.payment_hash, invoice.payment_secret, invoice.amount_msat, invoice.expires_at)


def _check(request: CreateInvoice) -> None:
    if request.amount_msat is not None and request.amount_msat <= 0:
        raise _invalid("an invoice over 0 msat cannot be paid", "Give an amount, or `any`.")
    if request.expiry <= 0:
        raise _invalid("an invoice that has expired cannot be paid", "Give an expiry above 0 seconds.")
    if not request.label:
        raise _invalid("an invoice needs a label", "Give one that you have not used.")
    if request.cltv is not None and request.cltv < receive.MIN_FINAL_CLTV_EXPIRY:
        raise _invalid(
            f"a final expiry of {request.cltv} blocks is too short to claim a payment safely",
            f"Give at least {receive.MIN_FINAL_CLTV_EXPIRY}.",
        )


def _invalid(sentence: str, what_to_do: str) -> CommandRefused:
    return CommandRefused(sentence, what_to_do=what_to_do, code=INVALID_PARAMETER)
