"""Invoices as people make, list, await and delete them (BOLT 11). What pays them is the receiver's matter."""

import asyncio
from collections.abc import Awaitable, Callable

from node.payments import receive, records
from node.payments.hints import Hint
from node.payments.receiver import ACCEPTED, BY_SIGNER, EXTERNAL, UNKNOWN_INVOICE, Receiver
from node.payments.records import LAST_PAY_INDEX
from node.payments.store import (
    DELETE_INVOICE,
    DESCRIBE_INVOICE,
    INSERT_INVOICE,
    SET_META,
    Desk,
    Writer,
)
from protocol.bus.messages.payments import (
    CreateInvoice,
    DeleteInvoice,
    InvoiceRow,
    Invoices,
    ListInvoices,
    WaitAnyInvoice,
)
from protocol.bus.messages.signer import InvoiceMade, MakeInvoice
from protocol.errors import CommandRefused

LABEL_EXISTS = 900
STATUS_UNEXPECTED = 906
NOTHING_PAID_IN_TIME = 904
INVALID_PARAMETER = -32602


class InvoiceBook:
    def __init__(
        self,
        desk: Desk,
        writer: Writer,
        receiver: Receiver,
        *,
        make_invoice: Callable[[MakeInvoice], Awaitable[InvoiceMade]],
        hints: Callable[[bool | None], Awaitable[tuple[Hint, ...]]],
        clock: Callable[[], float],
        random_bytes: Callable[[int], bytes],
        changed: Callable[[InvoiceRow], None],
    ) -> None:
        self._desk = desk
        self._writer = writer
        self._receiver = receiver
        self._make_invoice = make_invoice
        self._hints = hints
        self._clock = clock
        self._random_bytes = random_bytes
        self._changed = changed
        self._being_made: set[str | bytes] = set()
        """Labels and given hashes of invoices that are not on disk yet."""
        self._waiting: dict[bytes, list[asyncio.Future[InvoiceRow]]] = {}
        self._waiting_any: list[asyncio.Future[InvoiceRow]] = []
        receiver.on_end = self._ended

    async def create(self, request: CreateInvoice) -> InvoiceRow:
        _check(request)
        if request.label in self._being_made or records.read_invoices(self._writer, label=request.label):
            raise CommandRefused(
                f"there is an invoice with the label {request.label!r} already",
                what_to_do="Choose another label.",
                code=LABEL_EXISTS,
            )
        if request.hold_hash and (
            request.hold_hash in self._being_made
            or records.read_invoices(self._writer, payment_hash=request.hold_hash)
        ):
            raise CommandRefused(
                "there is an invoice with this payment hash already",
                what_to_do="Use a new preimage for each invoice.",
                code=LABEL_EXISTS,
            )
        # Two of them at a time must not both pass the tests above: the second row cannot be written, and the writer
        # stops the node then.
        names = {request.label, request.hold_hash or request.label}
        self._being_made |= names
        try:
            return await self._create(request)
        finally:
            self._being_made -= names

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
                route_hints=await self._hints(request.expose_private),
                payment_hash=request.hold_hash,
            )
        )
        if request.hold_hash not in (None, made.payment_hash):
            raise CommandRefused(
                "the signer cannot make invoices over preimages that are kept elsewhere",
                what_to_do="Let the signer be of the same version as the node.",
            )
        hold = EXTERNAL if request.hold_hash else BY_SIGNER if request.hold else 0
        invoice = InvoiceRow(
            label=request.label,
            payment_hash=made.payment_hash,
            payment_secret=made.payment_secret,
            bolt11=made.bolt11,
            amount_msat=request.amount_msat,
            description=request.description,
            expires_at=created + request.expiry,
            status="unpaid",
            hold=hold,
            created=created,
        )
        # Nobody may see an invoice that a crash could make us forget.
        saved = asyncio.Event()
        self._desk.save(INSERT_INVOICE, records.invoice_to_row(invoice, created), now=True)
        self._desk.when_saved(saved.set)
        await saved.wait()
        self._receiver.open[invoice.payment_hash] = invoice
        self._changed(invoice)
        return invoice

    def list_invoices(self, request: ListInvoices) -> Invoices:
        bolt11 = request.bolt11.strip().lower().removeprefix("lightning:") if request.bolt11 else None
        rows = records.read_invoices(
            self._writer,
            label=request.label,
            payment_hash=request.payment_hash,
            bolt11=bolt11,
            newest=request.newest,
        )
        return Invoices(tuple(self._receiver.seen(row) for row in rows))

    async def wait(self, label: str) -> InvoiceRow:
        """Paid, expired or cancelled."""
        invoice = self._by_label(label)
        if invoice.status not in ("unpaid", ACCEPTED):
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
                if not self._receiver.is_paying(invoice.payment_hash):  # else it is being paid at this moment
                    return self._by_label(label)
                await asyncio.wait([paid], timeout=1.0)
        finally:
            waiting.remove(paid)
            if not waiting:
                self._waiting.pop(invoice.payment_hash, None)

    async def wait_any(self, request: WaitAnyInvoice) -> InvoiceRow:
        """What is paid is told once it is on disk, so nobody sees an index that a crash could take back."""
        found = records.read_paid_after(self._writer, request.last_pay_index)
        if found is not None:
            return found
        paid: asyncio.Future[InvoiceRow] = asyncio.get_running_loop().create_future()
        self._waiting_any.append(paid)
        try:
            done, _ = await asyncio.wait([paid], timeout=request.seconds)
        finally:
            if paid in self._waiting_any:
                self._waiting_any.remove(paid)
        if done:
            return records.read_paid_after(self._writer, request.last_pay_index) or paid.result()
        raise CommandRefused(
            f"no invoice was paid within {request.seconds} seconds",
            what_to_do="Ask again.",
            code=NOTHING_PAID_IN_TIME,
        )

    def delete(self, request: DeleteInvoice) -> InvoiceRow:
        invoice = self._by_label(request.label)
        if invoice.status != request.status or self._receiver.is_paying(invoice.payment_hash):
            raise CommandRefused(
                f"the invoice {request.label!r} is {invoice.status}, not {request.status}",
                what_to_do="Give its status as it is.",
                code=STATUS_UNEXPECTED,
            )
        if request.description_only:
            self._desk.save(DESCRIBE_INVOICE, ("", invoice.payment_hash))
            return invoice
        self._receiver.open.pop(invoice.payment_hash, None)
        self._desk.save(DELETE_INVOICE, (invoice.payment_hash,))
        if invoice.pay_index is not None:
            newest = records.read_last_pay_index(self._writer)
            self._desk.save(SET_META, (LAST_PAY_INDEX, str(newest)))
        return invoice

    def _by_label(self, label: str) -> InvoiceRow:
        found = records.read_invoices(self._writer, label=label)
        if not found:
            raise CommandRefused(
                f"there is no invoice with the label {label!r}",
                what_to_do="See listinvoices.",
                code=UNKNOWN_INVOICE,
            )
        return self._receiver.seen(found[0])

    def _ended(self, invoice: InvoiceRow) -> None:
        waiting = list(self._waiting.get(invoice.payment_hash, ()))
        if invoice.status == "paid":
            waiting += self._waiting_any
            self._waiting_any = []
        for one in waiting:
            if not one.done():
                one.set_result(invoice)


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
