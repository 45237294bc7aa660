"""The services behind the event stream, as stand-ins whose rows a test sets."""

from typing import Any, ClassVar

from msgspec.structs import replace

from protocol.amounts import BlockHeight, Msat
from protocol.bus.local import LocalBus
from protocol.bus.messages.chain import GetTip, Tip
from protocol.bus.messages.channel import ChannelInfo, Channels, ListChannels
from protocol.bus.messages.events import SignerRow
from protocol.bus.messages.node import Counters, GetCounters
from protocol.bus.messages.payments import (
    InvoiceRow,
    Invoices,
    ListInvoices,
    ListPayments,
    PaymentRow,
    Payments,
)
from protocol.bus.messages.peer import ListPeers, PeerInfo, Peers
from protocol.bus.messages.rpc import RpcDone, RunRpc
from protocol.bus.messages.wallet import Coins, ListCoins
from protocol.bus.service import Service, handles
from protocol.errors import CommandRefused
from tests.node.rpc.support import CHANNEL_ID, HASH, PEER_ID
from tests.node.rpc.support import channel as channel_info

SIGNER = SignerRow(True, "", "ipc:///signer", b"\x02" + bytes(32), 7, 0, 0, (), ())


class ChannelService(Service):
    name: ClassVar[str] = "channel"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.rows: dict[bytes, ChannelInfo] = {CHANNEL_ID: channel_info()}
        self.asked: list[ListChannels] = []
        self.refuse = False

    @handles(ListChannels)
    def list_channels(self, request: ListChannels) -> Channels:
        self.asked.append(request)
        if self.refuse:
            raise CommandRefused("not now", what_to_do="Try again.")
        wanted = request.channel_ids if request.channel_ids is not None else tuple(self.rows)
        return Channels(tuple(self.rows[name] for name in wanted if name in self.rows))

    @handles(GetCounters)
    def counters(self, _request: GetCounters) -> Counters:
        return Counters(12, 34)

    def change(self, **fields: Any) -> None:
        self.rows[CHANNEL_ID] = replace(self.rows[CHANNEL_ID], **fields)


class Others(Service):
    """Every other service in one, registered under each of their names."""

    name: ClassVar[str] = "payments"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.payments: list[PaymentRow] = []
        self.invoices: list[InvoiceRow] = []
        self.limits: list[int | None] = []

    @handles(ListPayments)
    def list_payments(self, request: ListPayments) -> Payments:
        self.limits.append(request.newest)
        return Payments(tuple(self.payments))

    @handles(ListInvoices)
    def list_invoices(self, request: ListInvoices) -> Invoices:
        self.limits.append(request.newest)
        return Invoices(tuple(self.invoices))


class WalletService(Service):
    name: ClassVar[str] = "wallet"

    @handles(ListCoins)
    def coins(self, _request: ListCoins) -> Coins:
        return Coins(())


class PeerService(Service):
    name: ClassVar[str] = "peer"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.rows = {PEER_ID: PeerInfo(PEER_ID, True, True, "127.0.0.1:9735", b"", 5)}

    @handles(ListPeers)
    def peers(self, request: ListPeers) -> Peers:
        return Peers(tuple(row for row in self.rows.values() if request.node_id in (None, row.node_id)))


class ChainService(Service):
    name: ClassVar[str] = "chain"

    @handles(GetTip)
    def tip(self, _request: GetTip) -> Tip:
        return Tip(BlockHeight(101), bytes(32), True)


class RpcService(Service):
    name: ClassVar[str] = "rpc"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.ran: list[RunRpc] = []

    @handles(RunRpc)
    def run_rpc(self, request: RunRpc) -> RpcDone:
        self.ran.append(request)
        return RpcDone(b'{"alias":"test"}')


def payment(status: str = "pending", **fields: Any) -> PaymentRow:
    row = PaymentRow(
        id="one",
        payment_hash=HASH,
        bolt11="lnbcrt1",
        destination=PEER_ID,
        amount_msat=Msat(5_000),
        amount_sent_msat=Msat(0),
        status=status,
        created=100,
        completed=None,
        preimage=None,
        error=None,
        label=None,
        parts=0,
    )
    return replace(row, **fields)


def invoice(status: str = "unpaid", **fields: Any) -> InvoiceRow:
    row = InvoiceRow(
        label="tea",
        payment_hash=HASH,
        payment_secret=bytes(32),
        bolt11="lnbcrt1",
        amount_msat=Msat(5_000),
        description="a cup",
        expires_at=1_000,
        status=status,
    )
    return replace(row, **fields)
