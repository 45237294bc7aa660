"""The payment service: what it handles, hears, and saves each turn (DESIGN, "A service"; STYLE section 9)."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Protocol, TypeVar

import structlog

from node.payments import forward_store
from node.payments.arrivals import Arrivals
from node.payments.channels import ChannelList, standing_in
from node.payments.forwarder import Forwarder
from node.payments.hints import Hint, receivable, route_hints
from node.payments.invoices import InvoiceBook
from node.payments.parts import PartSender
from node.payments.payer import Payer
from node.payments.policies import PolicyBook
from node.payments.receive import MPP_SECONDS
from node.payments.receiver import Later, Receiver
from node.payments.reconcile import reconcile
from node.payments.store import Desk, Writer
from protocol.amounts import BlockHeight
from protocol.bitcoin.network import Network
from protocol.bus.bus import Bus, OutcomeUnknown
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
    parse_forward_origin,
)
from protocol.bus.messages.forwards import (
    Earnings,
    FeesCollected,
    ForwardChanged,
    Forwards,
    GetEarnings,
    GetFeesCollected,
    ListForwards,
    SetPolicy,
)
from protocol.bus.messages.payments import (
    CancelHold,
    CreateInvoice,
    DeleteInvoice,
    GetReceivable,
    InvoiceChanged,
    InvoiceRow,
    Invoices,
    Keysend,
    ListInvoices,
    ListParts,
    ListPayments,
    PartRow,
    Parts,
    Pay,
    PaymentChanged,
    PaymentRow,
    Payments,
    PayPreview,
    PreviewPay,
    Receivable,
    SendPart,
    SettleHold,
    SignText,
    WaitAnyInvoice,
    WaitInvoice,
    WaitPart,
)
from protocol.bus.messages.peer import PeerDown, PeerUp
from protocol.bus.messages.routing import (
    ChannelPolicy,
    FindRoutes,
    ListPolicies,
    OwnUpdate,
    OwnUpdateIs,
    PeerPolicy,
    PeerPolicyIs,
    Policies,
    Routes,
    ShadowDelay,
)
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
from protocol.hashes import sha256

log = structlog.get_logger()
T = TypeVar("T")
CHAIN_SECONDS = 3600.0
ROUTE_SECONDS = 20.0
HINT_SECONDS = 0.3
"""An invoice waits no longer for what a peer asks of those who pay us through it."""
UPDATE_SECONDS = 1.0
"""An HTLC is not held longer than this for the sake of the channel_update in its failure."""


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
        mpp_seconds: float = MPP_SECONDS,
    ) -> None:
        super().__init__(bus)
        self._signer = signer
        self._height = BlockHeight(0)
        self._writer = writer
        self._desk = Desk(writer, bus.send, self.wake)
        self._later = later
        self._channels = ChannelList(self._list_channels)
        self._arrivals = Arrivals(clock)
        self._payer = Payer(
            self._desk,
            writer,
            self._channels,
            prefix=network.bolt11_prefix.removeprefix("ln"),
            node_id=node_id,
            find_routes=self._find_routes,
            shadow_delay=self._shadow_delay,
            height=lambda: self._height,
            clock=clock,
            random_bytes=random_bytes,
            start_task=self._start_task,
            later=self._call_later,
            changed=lambda row, expiry: bus.publish(PaymentChanged(row, expiry)),
        )
        self._parts = PartSender(self._payer, self._channels, writer)
        self._receiver = Receiver(
            self._desk,
            writer,
            height=lambda: self._height,
            clock=clock,
            later=self._call_later,
            held=self._arrivals.held,
            changed=lambda row: bus.publish(InvoiceChanged(row)),
            mpp_seconds=mpp_seconds,
        )
        self._invoices = InvoiceBook(
            self._desk,
            writer,
            self._receiver,
            make_invoice=self._make_invoice,
            hints=self._route_hints,
            clock=clock,
            random_bytes=random_bytes,
            changed=lambda row: bus.publish(InvoiceChanged(row)),
        )
        self._policies = PolicyBook(self._desk, writer, clock=clock, changed=bus.publish)
        self._forwarder = Forwarder(
            self._desk,
            writer,
            self._channels,
            self._policies,
            self._arrivals,
            height=lambda: self._height,
            clock=clock,
            own_update=self._own_update,
            start_task=self._start_task,
            changed=lambda row: bus.publish(ForwardChanged(row)),
        )

    async def start(self) -> None:
        # Nothing can be judged without a height; the chain service answers as soon as it has one.
        tip: Tip = await self.bus.request("chain", GetTip(), deadline=CHAIN_SECONDS)
        self._height = tip.height
        self._receiver.load()
        self._policies.load()
        pending = self._payer.load()
        channels = await self._list_channels(ListChannels())
        self._arrivals.stood(standing_in(channels))
        wanted = (*pending, *self._forwarder.origins(channels))
        origins: Origins = await self.bus.request("channel", LiveOrigins(wanted))
        self._payer.settle(reconcile(pending, origins))
        self._forwarder.load(channels, origins)
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

    @handles(Keysend)
    async def keysend(self, request: Keysend) -> PaymentRow:
        return await self._payer.keysend(request)

    @handles(SendPart)
    async def send_part(self, request: SendPart) -> PartRow:
        return await self._parts.send(request)

    @handles(WaitPart)
    async def wait_part(self, request: WaitPart) -> PartRow:
        return await self._parts.wait(request)

    @handles(ListParts)
    def list_parts(self, request: ListParts) -> Parts:
        return self._parts.list(request)

    # What became of an HTLC that we offered, for ourselves or for somebody else.

    @hears(HtlcRefused)
    def htlc_refused(self, event: HtlcRefused) -> None:
        self._owner_of(event.origin).refused(event)

    @hears(HtlcFulfilled)
    def htlc_fulfilled(self, event: HtlcFulfilled) -> None:
        self._owner_of(event.origin).fulfilled(event)

    @hears(HtlcFailed)
    def htlc_failed(self, event: HtlcFailed) -> None:
        self._owner_of(event.origin).failed(event)

    def _owner_of(self, origin: str) -> Payer | Forwarder:
        return self._payer if parse_forward_origin(origin) is None else self._forwarder

    @hears(PeerUp, PeerDown, ChannelStateChanged)
    def channels_changed(self, _event: PeerUp | PeerDown | ChannelStateChanged) -> None:
        self._channels.book.outdated = True

    # Passing on.

    @handles(ListForwards)
    def list_forwards(self, request: ListForwards) -> Forwards:
        return self._forwarder.list_forwards(request)

    @handles(GetEarnings)
    def earnings(self, request: GetEarnings) -> Earnings:
        found = forward_store.read_earnings(
            self._writer, request.since, request.until, max(1, request.span_seconds)
        )
        return Earnings(found)

    @handles(GetFeesCollected)
    def fees_collected(self, _request: GetFeesCollected) -> FeesCollected:
        return FeesCollected(self._forwarder.fees_collected)

    @handles(ListPolicies)
    async def list_policies(self, _request: ListPolicies) -> Policies:
        return self._policies.list(await self._list_channels(ListChannels()))

    @handles(SetPolicy)
    async def set_policy(self, request: SetPolicy) -> Policies:
        channels = await self._list_channels(ListChannels(channel_ids=request.channel_ids))
        return self._policies.set(request, channels)

    # Being paid.

    @handles(CreateInvoice)
    async def create_invoice(self, request: CreateInvoice) -> InvoiceRow:
        return await self._invoices.create(request)

    @handles(ListInvoices)
    def list_invoices(self, request: ListInvoices) -> Invoices:
        return self._invoices.list_invoices(request)

    @handles(WaitInvoice)
    async def wait_invoice(self, request: WaitInvoice) -> InvoiceRow:
        return await self._invoices.wait(request.label)

    @handles(WaitAnyInvoice)
    async def wait_any_invoice(self, request: WaitAnyInvoice) -> InvoiceRow:
        return await self._invoices.wait_any(request)

    @handles(DeleteInvoice)
    def delete_invoice(self, request: DeleteInvoice) -> InvoiceRow:
        return self._invoices.delete(request)

    @handles(SettleHold)
    def settle_hold(self, request: SettleHold) -> InvoiceRow:
        if request.preimage is not None:
            return self._receiver.settle_hold(sha256(request.preimage), request.preimage)
        return self._receiver.settle_hold(request.payment_hash or b"", None)

    @handles(CancelHold)
    def cancel_hold(self, request: CancelHold) -> InvoiceRow:
        return self._receiver.cancel_hold(request.payment_hash)

    @handles(GetReceivable)
    async def get_receivable(self, _request: GetReceivable) -> Receivable:
        return receivable(await self._list_channels(ListChannels()))

    @hears(HtlcReceived)
    def htlc_received(self, event: HtlcReceived) -> None:
        self._arrivals.came((event.channel_id, event.htlc_id))
        if event.final:
            self._receiver.received(event)
        else:
            self._forwarder.received(event)

    @hears(HtlcResolved)
    def htlc_resolved(self, event: HtlcResolved) -> None:
        if not self._forwarder.resolved(event):
            self._receiver.resolved(event)
        self._arrivals.gone((event.channel_id, event.htlc_id))

    # The rest.

    @handles(SignText)
    async def sign_text(self, request: SignText) -> MessageSigned:
        return await self._ask_signer(SignMessage(request.text), MessageSigned)

    @hears(TipChanged)
    def tip_changed(self, event: TipChanged) -> None:
        self._height = event.height
        self._receiver.new_block()
        self._forwarder.new_block()

    async def _list_channels(self, request: ListChannels) -> tuple[ChannelInfo, ...]:
        channels: Channels = await self.bus.request("channel", request)
        return channels.channels

    async def _find_routes(self, request: FindRoutes) -> Routes:
        routes: Routes = await self.bus.request("routing", request, deadline=ROUTE_SECONDS)
        return routes

    async def _shadow_delay(self, destination: bytes) -> int:
        try:
            blocks: int = await self.bus.request("routing", ShadowDelay(destination), deadline=UPDATE_SECONDS)
        except (CommandRefused, OutcomeUnknown):
            return 0
        return blocks

    async def _own_update(self, channel_id: bytes, named: int) -> bytes | None:
        try:
            found: OwnUpdateIs = await self.bus.request(
                "gossip", OwnUpdate(channel_id, named), deadline=UPDATE_SECONDS
            )
        except (CommandRefused, OutcomeUnknown):
            return None
        return found.raw

    async def _peer_policy(self, channel_id: bytes) -> ChannelPolicy | None:
        try:
            found: PeerPolicyIs = await self.bus.request(
                "gossip", PeerPolicy(channel_id), deadline=HINT_SECONDS
            )
        except (CommandRefused, OutcomeUnknown):
            return None
        return found.policy

    async def _route_hints(self, expose: bool | None) -> tuple[Hint, ...]:
        if expose is False:
            return ()
        try:
            if self._channels.book.outdated:
                await self._channels.refresh()
        except (CommandRefused, OutcomeUnknown):
            return ()
        return await route_hints(self._channels.book.all(), self._peer_policy, expose=expose)

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

    def _call_later(self, seconds: float, act: Callable[[], object]) -> None:
        """Timers of the loop by default; a test supplies its own."""
        if self._later is not None:
            self._later(seconds, act)
        else:
            asyncio.get_running_loop().call_later(seconds, act)
