"""The payment service: what it handles, hears, and saves each turn (DESIGN, "A service"; STYLE section 9)."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Protocol, TypeVar

import structlog

from node.payments.payer import Payer
from node.payments.receiver import Later, Receiver
from node.payments.reconcile import reconcile
from node.payments.store import Desk, Writer
from protocol.amounts import BlockHeight
from protocol.bitcoin.network import Network
from protocol.bus.bus import Bus
from protocol.bus.messages.chain import GetTip, Tip, TipChanged
from protocol.bus.messages.channel import (
    ChannelInfo,
    Channels,
    ChannelStateChanged,
    HtlcFailed,
    HtlcFulfilled,
    HtlcReceived,
    HtlcRefused,
    HtlcResolved,
    ListChannels,
    LiveOrigins,
    Origins,
    Settled,
    SettledReceived,
)
from protocol.bus.messages.payments import (
    CreateInvoice,
    InvoiceChanged,
    InvoiceRow,
    Invoices,
    ListInvoices,
    ListPayments,
    Pay,
    PaymentChanged,
    PaymentRow,
    Payments,
    PayPreview,
    PreviewPay,
    SignText,
    WaitInvoice,
)
from protocol.bus.messages.peer import PeerDown, PeerUp
from protocol.bus.messages.signer import (
    InvoiceMade,
    MakeInvoice,
    MessageSigned,
    NotNow,
    PeerFault,
    Refused,
    SignMessage,
)
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused, ProtocolError

log = structlog.get_logger()
T = TypeVar("T")
CHAIN_SECONDS = 3600.0


class Signer(Protocol):
    """The part of the signer's client that payments use. The reply is one of the contract's union `Reply`."""

    async def call(self, request: Any) -> Any: ...


class PaymentService(Service):
    """Start it after the channel and chain services: it asks both before it takes anything from its inbox."""

    name: ClassVar[str] = "payments"

    def __init__(
        self,
        bus: Bus,
        *,
        writer: Writer,
        signer: Signer,
        network: Network,
        node_id: bytes,
        clock: Callable[[], float] = time.time,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        later: Later | None = None,
    ) -> None:
        super().__init__(bus)
        self._signer = signer
        self._height = BlockHeight(0)
        self._desk = Desk(writer, bus.send, self.wake)
        self._later = later
        self._payer = Payer(
            self._desk,
            writer,
            prefix=network.bolt11_prefix.removeprefix("ln"),
            node_id=node_id,
            list_channels=self._list_channels,
            height=lambda: self._height,
            clock=clock,
            random_bytes=random_bytes,
            start_task=self._start_task,
            changed=lambda row, expiry: bus.publish(PaymentChanged(row, expiry)),
        )
        self._receiver = Receiver(
            self._desk,
            writer,
            make_invoice=self._make_invoice,
            height=lambda: self._height,
            clock=clock,
            random_bytes=random_bytes,
            later=self._call_later,
            changed=lambda row: bus.publish(InvoiceChanged(row)),
        )

    async def start(self) -> None:
        # Nothing can be judged without a height; the chain service answers as soon as it has one.
        tip: Tip = await self.bus.request("chain", GetTip(), deadline=CHAIN_SECONDS)
        self._height = tip.height
        self._receiver.load()
        pending = self._payer.load()
        if pending:
            origins: Origins = await self.bus.request("channel", LiveOrigins())
            self._payer.settle(reconcile(pending, origins))
        if claiming := self._receiver.claiming():
            settled: Settled = await self.bus.request("channel", SettledReceived(claiming))
            self._receiver.settled_before(settled)
        await super().start()

    async def stop(self) -> None:
        self.after_turn()
        await super().stop()

    def after_turn(self) -> None:
        self._desk.flush()

    # Paying.

    @handles(Pay)
    async def pay(self, request: Pay) -> PaymentRow:
        return await self._payer.pay(request)

    @handles(PreviewPay)
    async def preview(self, request: PreviewPay) -> PayPreview:
        return await self._payer.preview(request)

    @handles(ListPayments)
    def list_payments(self, request: ListPayments) -> Payments:
        return self._payer.list_payments(request)

    @hears(HtlcRefused)
    def htlc_refused(self, event: HtlcRefused) -> None:
        self._payer.refused(event)

    @hears(HtlcFulfilled)
    def htlc_fulfilled(self, event: HtlcFulfilled) -> None:
        self._payer.fulfilled(event)

    @hears(HtlcFailed)
    def htlc_failed(self, event: HtlcFailed) -> None:
        self._payer.failed(event)

    @hears(PeerUp, PeerDown, ChannelStateChanged)
    def channels_changed(self, _event: PeerUp | PeerDown | ChannelStateChanged) -> None:
        self._payer.book.outdated = True

    # Being paid.

    @handles(CreateInvoice)
    async def create_invoice(self, request: CreateInvoice) -> InvoiceRow:
        return await self._receiver.create(request)

    @handles(ListInvoices)
    def list_invoices(self, request: ListInvoices) -> Invoices:
        return self._receiver.list_invoices(request)

    @handles(WaitInvoice)
    async def wait_invoice(self, request: WaitInvoice) -> InvoiceRow:
        return await self._receiver.wait(request.label)

    @hears(HtlcReceived)
    def htlc_received(self, event: HtlcReceived) -> None:
        self._receiver.received(event)

    @hears(HtlcResolved)
    def htlc_resolved(self, event: HtlcResolved) -> None:
        self._receiver.resolved(event)

    # The rest.

    @handles(SignText)
    async def sign_text(self, request: SignText) -> MessageSigned:
        return await self._ask_signer(SignMessage(request.text), MessageSigned)

    @hears(TipChanged)
    def tip_changed(self, event: TipChanged) -> None:
        self._height = event.height
        self._receiver.forget_expired()

    async def _list_channels(self, request: ListChannels) -> tuple[ChannelInfo, ...]:
        channels: Channels = await self.bus.request("channel", request)
        return channels.channels

    async def _make_invoice(self, request: MakeInvoice) -> InvoiceMade:
        return await self._ask_signer(request, InvoiceMade)

    async def _ask_signer(self, request: MakeInvoice | SignMessage, kind: type[T]) -> T:
        try:
            reply = await self._signer.call(request)
        except ProtocolError as error:
            # Neither question moves money: what the signer may have done unseen does no harm.
            raise CommandRefused(
                f"the signer does not answer: {error}", what_to_do="Start it, or wait until it is back."
            ) from error
        if isinstance(reply, kind):
            return reply
        match reply:
            case Refused():
                raise CommandRefused(f"the signer refused: {reply.rule}", what_to_do=reply.next_step)
            case NotNow():
                raise CommandRefused(
                    f"the signer cannot answer now: {reply.sentence}", what_to_do="Try again soon."
                )
            case PeerFault():
                raise CommandRefused(reply.sentence, what_to_do="See the log.")
        raise TypeError(f"the signer answered {type(request).__name__} with {type(reply).__name__}")

    def _start_task(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        self.run(run())

    def _call_later(self, seconds: float, act: Callable[[], None]) -> None:
        """Timers of the loop by default; a test supplies its own."""
        if self._later is not None:
            self._later(seconds, act)
        else:
            asyncio.get_running_loop().call_later(seconds, act)
