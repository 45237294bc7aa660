"""Incoming HTLCs that pay us, and the decision of each set (BOLT 4, "Basic Multi-Part Payments"; bLIP 3).

The signer keeps the preimages of our invoices; it releases one when the channel asks in order to fulfil. Here is
decided *whether* to. The decision of a set is saved before the first fulfil, so that a restart in the middle of
it cannot fulfil one part and fail the other.
"""

from collections.abc import Callable

import msgspec
import structlog

from node.payments import receive, records
from node.payments.receive import Expected, HtlcKey, HtlcSet
from node.payments.records import CLAIMING
from node.payments.store import INSERT_INVOICE, SET_INVOICE, Desk, Writer
from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import failure as failures
from protocol.bolt4.failure import Failure, MppTimeout
from protocol.bolt4.payload import FinalPayload
from protocol.bus.messages.channel import FailHtlc, FulfilHtlc, HtlcReceived, HtlcResolved, Settled
from protocol.bus.messages.payments import HeldHtlc, InvoiceRow
from protocol.errors import CommandRefused
from protocol.hashes import sha256

log = structlog.get_logger()
Later = Callable[[float, Callable[[], object]], object]
ACCEPTED, CANCELLED = "accepted", "cancelled"
BY_SIGNER, EXTERNAL = 1, 2
"""Who has the preimage of a hold invoice."""
UNKNOWN_INVOICE = 905


class Receiver:
    def __init__(
        self,
        desk: Desk,
        writer: Writer,
        *,
        height: Callable[[], BlockHeight],
        clock: Callable[[], float],
        later: Later,
        held: Callable[[HtlcKey], int],
        changed: Callable[[InvoiceRow], None],
        mpp_seconds: float = receive.MPP_SECONDS,
    ) -> None:
        self._desk = desk
        self._writer = writer
        self._height = height
        self._clock = clock
        self._later = later
        self._held = held
        self._changed = changed
        self._mpp_seconds = mpp_seconds
        self.open: dict[bytes, InvoiceRow] = {}
        """Every invoice that an HTLC may still pay; all others are unknown to a payer, at no cost to us."""
        self._settling: dict[bytes, InvoiceRow] = {}
        """Paid invoices whose last write is still on its way to the disk."""
        self._sets: dict[bytes, HtlcSet] = {}
        self._said: dict[HtlcKey, FulfilHtlc | FailHtlc] = {}
        """What was decided of each HTLC that is not yet gone, to be said again."""
        self.on_end: Callable[[InvoiceRow], None] | None = None
        """Hears of an invoice that was paid or cancelled, once that is on disk."""
        self._last_pay_index = 0

    def load(self) -> None:
        self._last_pay_index = records.read_last_pay_index(self._writer)
        for invoice in records.read_open_invoices(self._writer, self._clock()):
            self.open[invoice.payment_hash] = invoice
            if invoice.status == CLAIMING:
                self._sets[invoice.payment_hash] = HtlcSet(invoice.received_msat or Msat(0), resumed=True)

    def claiming(self) -> tuple[bytes, ...]:
        """Invoices whose fulfilment was decided and whose end we did not see."""
        return tuple(h for h, invoice in self.open.items() if invoice.status == CLAIMING)

    def settled_before(self, settled: Settled) -> None:
        """The channel had settled these before a crash kept us from saving that we were paid."""
        for payment_hash, amount in settled.amounts:
            invoice = self.open.get(payment_hash)
            if invoice is not None and amount >= (invoice.received_msat or 1):
                self._sets.pop(payment_hash, None)
                self._paid(invoice)

    def new_block(self) -> None:
        """Nobody can pay an expired invoice any more; its row stays. What is held too long goes back. What was promised
        is said again: a channel keeps no such word over all that may happen to it."""
        now, height = self._clock(), self._height()
        for payment_hash, invoice in list(self.open.items()):
            parts = self._sets.get(payment_hash)
            if parts is None:
                if invoice.expires_at <= now and invoice.status != ACCEPTED:
                    del self.open[payment_hash]
            elif invoice.hold and invoice.status != CLAIMING and _is_late(parts, height):
                log.warning("hold_invoice_cancelled_by_deadline", payment_hash=payment_hash.hex())
                self._cancel(invoice)
            elif invoice.hold:
                for key in parts.parts:
                    if (said := self._said.get(key)) is not None:
                        self._desk.tell("channel", said)

    def is_paying(self, payment_hash: bytes) -> bool:
        return payment_hash in self._sets

    def seen(self, row: InvoiceRow) -> InvoiceRow:
        """As people see it now."""
        row = self._settling.get(row.payment_hash, row)
        if row.status in ("paid", CANCELLED):
            return row
        parts = self._sets.get(row.payment_hash)
        if row.hold and row.status == ACCEPTED:
            return msgspec.structs.replace(row, htlcs=_held(parts))
        being_paid = row.status == CLAIMING or parts is not None
        expired = row.expires_at <= self._clock() and not being_paid
        status = "expired" if expired else "unpaid"
        return msgspec.structs.replace(
            row, status=status, received_msat=None, preimage=None, htlcs=_held(parts)
        )

    # HTLCs.

    def received(self, htlc: HtlcReceived) -> None:
        """Said again after every start, and never held against another decision than the first."""
        key = (htlc.channel_id, htlc.htlc_id)
        said = self._said.get(key)
        if said is not None:
            self._desk.tell("channel", said)
            return
        parts = self._sets.get(htlc.payment_hash)
        if parts is not None and key in parts.parts:
            return  # it waits for the others, or for the word of whoever made the hold invoice
        final = receive.read_final(htlc)
        if isinstance(final, FinalPayload):
            self._take(htlc, final)
        else:
            self._refuse(htlc, final)

    def _take(self, htlc: HtlcReceived, final: FinalPayload) -> None:
        payment_hash = htlc.payment_hash
        invoice = self.open.get(payment_hash)
        parts = self._sets.get(payment_hash)
        if invoice is None and final.keysend_preimage is not None:
            self._take_keysend(htlc, final)
            return
        if invoice is not None and parts is not None and parts.resumed:
            if (final.payment_secret or b"") == invoice.payment_secret:
                parts.add(htlc)
                # Maybe nothing was released before: then all parts that come back are asked for together.
                self._fulfil_all(invoice, parts)
            else:
                self._refuse(htlc, receive.details_failure(htlc, self._height()))
            return
        expected = None if invoice is None else _expected(invoice)
        failure = receive.judge(htlc, final, expected, height=self._height(), now=self._clock())
        if invoice is None or failure is not None:
            self._refuse(htlc, failure or receive.details_failure(htlc, self._height()))
            return
        if parts is None:
            parts = self._sets[payment_hash] = HtlcSet(final.total_msat)
        if not parts.takes(final):
            if not parts.complete:
                self._refuse_set(
                    payment_hash, parts, lambda part: receive.details_failure(part, self._height())
                )
            self._refuse(htlc, receive.details_failure(htlc, self._height()))
            return
        if parts.add(htlc):
            if invoice.hold:
                self._accept(invoice, parts)
            else:
                self._claim(invoice, parts)
        elif len(parts.parts) == 1:
            self._later(self._mpp_seconds, lambda: self._give_up(payment_hash, parts))

    def _take_keysend(self, htlc: HtlcReceived, final: FinalPayload) -> None:
        """A payment without an invoice. The row that stands for it also keeps a second one of this hash out."""
        failure = receive.judge_keysend(htlc, final, height=self._height())
        known = htlc.payment_hash in self._settling or records.read_invoices(
            self._writer, payment_hash=htlc.payment_hash
        )
        if failure is not None or known:
            self._refuse(htlc, failure or receive.details_failure(htlc, self._height()))
            return
        now = int(self._clock())
        invoice = InvoiceRow(
            label=f"keysend-{now}-{htlc.payment_hash[:8].hex()}",
            payment_hash=htlc.payment_hash,
            payment_secret=final.payment_secret or b"",
            bolt11="",
            amount_msat=htlc.amount_msat,
            description="keysend",
            expires_at=now,
            status=CLAIMING,
            received_msat=htlc.amount_msat,
            preimage=final.keysend_preimage,
            created=now,
        )
        self.open[htlc.payment_hash] = invoice
        parts = self._sets[htlc.payment_hash] = HtlcSet(htlc.amount_msat)
        parts.add(htlc)
        self._desk.save(INSERT_INVOICE, records.invoice_to_row(invoice, now))
        self._fulfil_all(invoice, parts)

    def _claim(self, invoice: InvoiceRow, parts: HtlcSet) -> None:
        invoice = msgspec.structs.replace(invoice, status=CLAIMING, received_msat=parts.received_msat)
        self.open[invoice.payment_hash] = invoice
        self._save(invoice)
        self._fulfil_all(invoice, parts)

    def _give_up(self, payment_hash: bytes, parts: HtlcSet) -> None:
        """The rest of a set did not come in time."""
        if self._sets.get(payment_hash) is parts and not parts.complete:
            self._refuse_set(payment_hash, parts, lambda _: MppTimeout())

    def _refuse_set(
        self, payment_hash: bytes, parts: HtlcSet, failure: Callable[[HtlcReceived], Failure]
    ) -> None:
        del self._sets[payment_hash]
        for htlc in parts.parts.values():
            self._refuse(htlc, failure(htlc))

    def _fulfil_all(self, invoice: InvoiceRow, parts: HtlcSet) -> None:
        for htlc in parts.parts.values():
            others = () if invoice.preimage is not None else parts.others(htlc.channel_id)
            key = (htlc.channel_id, htlc.htlc_id)
            said = self._said.get(key)
            held = self._held(key) if said is None else said.hold_time
            promised = bool(invoice.hold)  # whoever settled it acts on that
            decision = FulfilHtlc(*key, invoice.preimage, others, hold_time=held, promised=promised)
            if said != decision:
                self._say(htlc, decision)

    def _refuse(self, htlc: HtlcReceived, failure: Failure) -> None:
        log.info("htlc_refused", payment_hash=htlc.payment_hash.hex(), reason=failure.name)
        held = self._held((htlc.channel_id, htlc.htlc_id))
        self._say(htlc, FailHtlc(htlc.channel_id, htlc.htlc_id, failures.encode(failure), hold_time=held))

    def _say(self, htlc: HtlcReceived, decision: FulfilHtlc | FailHtlc) -> None:
        self._said[htlc.channel_id, htlc.htlc_id] = decision
        self._desk.tell("channel", decision)

    # Hold invoices: the set waits for a word.

    def _accept(self, invoice: InvoiceRow, parts: HtlcSet) -> None:
        if invoice.status != ACCEPTED:
            invoice = msgspec.structs.replace(invoice, status=ACCEPTED, received_msat=parts.received_msat)
            self.open[invoice.payment_hash] = invoice
            self._save(invoice)
            self._desk.when_saved(lambda: self._changed(self.seen(invoice)))

    def settle_hold(self, payment_hash: bytes, preimage: bytes | None) -> InvoiceRow:
        invoice = self._hold_invoice(payment_hash)
        if invoice.status in ("paid", CLAIMING):
            return invoice  # said again
        parts = self._sets.get(payment_hash)
        if invoice.status != ACCEPTED or parts is None or not parts.complete:
            raise CommandRefused(
                "nothing is held for this invoice",
                what_to_do="Wait until it is accepted: see listholdinvoices.",
            )
        if (preimage is None and invoice.hold == EXTERNAL) or (preimage and sha256(preimage) != payment_hash):
            raise CommandRefused(
                "this invoice is settled with the preimage of its payment hash only",
                what_to_do="Give the preimage.",
            )
        self._claim(msgspec.structs.replace(invoice, preimage=preimage), parts)
        return self.open[payment_hash]

    def cancel_hold(self, payment_hash: bytes) -> InvoiceRow:
        invoice = self._hold_invoice(payment_hash)
        if invoice.status in ("paid", CLAIMING):
            raise CommandRefused(
                "this invoice is settled already", what_to_do="It cannot be cancelled any more."
            )
        return invoice if invoice.status == CANCELLED else self._cancel(invoice)

    def _cancel(self, invoice: InvoiceRow) -> InvoiceRow:
        cancelled = msgspec.structs.replace(invoice, status=CANCELLED, received_msat=None)
        self.open.pop(invoice.payment_hash, None)
        self._save(cancelled)
        self._desk.when_saved(lambda: self._tell_end(cancelled))
        parts = self._sets.get(invoice.payment_hash)
        if parts is not None:
            self._refuse_set(
                invoice.payment_hash, parts, lambda part: receive.details_failure(part, self._height())
            )
        return cancelled

    def _hold_invoice(self, payment_hash: bytes) -> InvoiceRow:
        invoice = self._settling.get(payment_hash) or self.open.get(payment_hash)
        if invoice is None:
            found = records.read_invoices(self._writer, payment_hash=payment_hash)
            invoice = found[0] if found else None
        if invoice is None or not invoice.hold:
            raise CommandRefused(
                "there is no hold invoice with this payment hash",
                what_to_do="See listholdinvoices.",
                code=UNKNOWN_INVOICE,
            )
        return invoice

    # The end of an HTLC.

    def resolved(self, event: HtlcResolved) -> None:
        key = (event.channel_id, event.htlc_id)
        said = self._said.pop(key, None)
        parts = self._sets.get(event.payment_hash)
        if parts is None or (said is not None and key not in parts.parts):
            return  # an HTLC that we refused
        was_part = key in parts.parts
        if not parts.resolved(key, fulfilled=event.fulfilled):
            invoice = self.open.get(event.payment_hash)
            if event.fulfilled:
                self._remind(parts, event.channel_id)
            elif was_part and invoice is not None and invoice.status == ACCEPTED:
                # Below the dust limit it is gone with its channel. The others alone do not buy the preimage.
                log.warning("held_part_lost", payment_hash=event.payment_hash.hex())
                self._cancel(invoice)
            return
        del self._sets[event.payment_hash]
        if not parts.complete:
            return
        invoice = self.open[event.payment_hash]
        if parts.was_fulfilled:
            self._paid(invoice)
            return
        # Decided, but the HTLC ended otherwise (the signer refused, or the channel closed): we were not paid.
        unpaid = msgspec.structs.replace(invoice, status="unpaid", received_msat=None)
        self.open[event.payment_hash] = unpaid
        self._save(unpaid)

    def _remind(self, parts: HtlcSet, but: bytes) -> None:
        """The preimage is out: a channel whose release had to wait for another one gets it now."""
        for key in parts.parts:
            if key[0] != but and (said := self._said.get(key)) is not None:
                self._desk.tell("channel", said)

    def _paid(self, invoice: InvoiceRow) -> None:
        self._last_pay_index += 1
        paid = msgspec.structs.replace(
            invoice, status="paid", paid_at=int(self._clock()), pay_index=self._last_pay_index
        )
        del self.open[paid.payment_hash]
        self._settling[paid.payment_hash] = paid
        self._save(paid)
        self._desk.when_saved(lambda: self._tell_paid(paid))

    def _tell_paid(self, paid: InvoiceRow) -> None:
        del self._settling[paid.payment_hash]
        self._tell_end(paid)

    def _tell_end(self, invoice: InvoiceRow) -> None:
        self._changed(invoice)
        if self.on_end is not None:
            self.on_end(invoice)

    def _save(self, invoice: InvoiceRow) -> None:
        row = (
            invoice.status,
            invoice.received_msat,
            invoice.paid_at,
            invoice.pay_index,
            invoice.preimage,
            invoice.payment_hash,
        )
        self._desk.save(SET_INVOICE, row)


def _expected(invoice: InvoiceRow) -> Expected:
    in_time = invoice.status == ACCEPTED
    return Expected(
        invoice.payment_hash,
        invoice.payment_secret,
        invoice.amount_msat,
        None if in_time else invoice.expires_at,
    )


def _is_late(parts: HtlcSet, height: BlockHeight) -> bool:
    return parts.first_expiry <= height + receive.HOLD_MARGIN


def _held(parts: HtlcSet | None) -> tuple[HeldHtlc, ...]:
    if parts is None:
        return ()
    return tuple(
        HeldHtlc(htlc.channel_id, htlc.htlc_id, htlc.amount_msat, htlc.cltv_expiry)
        for htlc in parts.parts.values()
    )
