"""A running RPC service on a real socket; the services behind it are stand-ins that answer and record."""

import asyncio
import json
from pathlib import Path
from typing import Any, ClassVar

from node.rpc.service import RpcService
from node.rpc.table import NodeFacts
from protocol import curve
from protocol import messages_signing as signing
from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat
from protocol.bitcoin.network import REGTEST
from protocol.bus.local import LocalBus
from protocol.bus.messages.chain import ChainStatus, GetChainStatus, GetFeerate, GetTip, Tip
from protocol.bus.messages.channel import (
    ChannelClosed,
    ChannelFunded,
    ChannelInfo,
    Channels,
    CloseChannel,
    FundChannel,
    HtlcInfo,
    ListChannels,
)
from protocol.bus.messages.forwards import (
    Earned,
    Earnings,
    FeesCollected,
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
    InvoiceRow,
    Invoices,
    Keysend,
    ListInvoices,
    ListParts,
    ListPayments,
    Pay,
    PaymentRow,
    Payments,
    Receivable,
    SendPart,
    SettleHold,
    SignText,
    WaitAnyInvoice,
    WaitInvoice,
    WaitPart,
)
from protocol.bus.messages.peer import Connect, Disconnect, ListPeers, ListRoads, PeerInfo, Peers, Road, Roads
from protocol.bus.messages.routing import ChannelPolicy, ListPolicies, PeerPolicy, PeerPolicyIs, Policies
from protocol.bus.messages.signer import MessageSigned
from protocol.bus.messages.wallet import (
    AddressMade,
    CoinInfo,
    Coins,
    ListCoins,
    NewAddress,
    PlanSpend,
    ReleasePlan,
    Sent,
    SignAndSend,
    SpendPlanned,
)
from protocol.bus.service import Service, handles
from protocol.errors import CommandRefused

OUR_KEY = b"\x11" * 32
OUR_ID = curve.point_of(OUR_KEY)
PEER_ID = curve.point_of(b"\x22" * 32)
STRANGER_ID = curve.point_of(b"\x33" * 32)
ADDRESS = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
TXID = bytes(range(32))
TXID_HEX = TXID[::-1].hex()
HASH = b"\xaa" * 32
CHANNEL_ID = b"\xcc" * 32


class _Recorder(Service):
    """Answers by request type; what stands in `refuse` is raised instead."""

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.asked: list[Any] = []
        self.refuse: dict[type, CommandRefused] = {}

    def note(self, request: Any) -> None:
        self.asked.append(request)
        refusal = self.refuse.get(type(request))
        if refusal is not None:
            raise refusal


class ChannelService(_Recorder):
    name: ClassVar[str] = "channel"

    @handles(ListChannels)
    def list_channels(self, request: ListChannels) -> Channels:
        self.note(request)
        return Channels((channel(),) if request.peer in (None, PEER_ID) else ())

    @handles(FundChannel)
    def fund(self, request: FundChannel) -> ChannelFunded:
        self.note(request)
        return ChannelFunded(CHANNEL_ID, TXID, 1, b"\x02\x00", request.channel_type or (12, 22))

    @handles(CloseChannel)
    def close(self, request: CloseChannel) -> ChannelClosed:
        self.note(request)
        return ChannelClosed("mutual", b"\x02\x00", TXID)


ONION = f"{'a' * 56}.onion"


class PeerService(_Recorder):
    name: ClassVar[str] = "peer"

    @handles(ListPeers)
    def list_peers(self, request: ListPeers) -> Peers:
        self.note(request)
        return Peers((peer(),) if request.node_id in (None, PEER_ID) else ())

    @handles(ListRoads)
    def list_roads(self, _request: ListRoads) -> Roads:
        return Roads((Road("tor", "up", "", (f"{ONION}:9735",), "reachable"), Road("tcp", "up")))

    @handles(Connect)
    def connect(self, request: Connect) -> PeerInfo:
        self.note(request)
        return peer()

    @handles(Disconnect)
    def disconnect(self, request: Disconnect) -> None:
        self.note(request)


class WalletService(_Recorder):
    name: ClassVar[str] = "wallet"
    reading: tuple[int, int] | None = None

    @handles(NewAddress)
    def new_address(self, request: NewAddress) -> AddressMade:
        self.note(request)
        return AddressMade(ADDRESS, 0, 0)

    @handles(ListCoins)
    def coins(self, request: ListCoins) -> Coins:
        self.note(request)
        return Coins(
            reading=self.reading,
            coins=(
                CoinInfo(TXID, 0, Sat(50_000), b"\x00\x14" + bytes(20), ADDRESS, 101, False, False),
                CoinInfo(TXID, 1, Sat(70_000), b"\x00\x14" + bytes(20), ADDRESS, None, True, False),
            ),
        )

    @handles(PlanSpend)
    def plan(self, request: PlanSpend) -> SpendPlanned:
        self.note(request)
        return SpendPlanned(request.purpose, b"\x02", TXID, 0, request.value or Sat(49_000), Sat(200))

    @handles(SignAndSend)
    def send(self, request: SignAndSend) -> Sent:
        self.note(request)
        return Sent(b"\x02\x00\x01", TXID)

    @handles(ReleasePlan)
    def release(self, request: ReleasePlan) -> None:
        self.note(request)


class ChainService(_Recorder):
    name: ClassVar[str] = "chain"

    @handles(GetTip)
    def tip(self, request: GetTip) -> Tip:
        self.note(request)
        return Tip(BlockHeight(500), bytes(32), True)

    @handles(GetFeerate)
    def feerate(self, request: GetFeerate) -> FeeratePerKw:
        self.note(request)
        return FeeratePerKw({2: 5000, 6: 2500, 12: 1000, 144: 100}[request.target_blocks])

    @handles(GetChainStatus)
    def status(self, request: GetChainStatus) -> ChainStatus:
        self.note(request)
        return ChainStatus("electrum.example", ("packages",), BlockHeight(500), True, behind="3 blocks late")


OUR_POLICY = ChannelPolicy(Msat(1000), 10, 80, Msat(1), Msat(99_000_000))
PEER_POLICY = ChannelPolicy(Msat(500), 20, 40, Msat(1000), Msat(90_000_000))


class GossipService(_Recorder):
    name: ClassVar[str] = "gossip"

    @handles(PeerPolicy)
    def peer_policy(self, request: PeerPolicy) -> PeerPolicyIs:
        self.note(request)
        return PeerPolicyIs(PEER_POLICY)


class PaymentsService(_Recorder):
    name: ClassVar[str] = "payments"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.paid = asyncio.Event()
        self.invoice = invoice()
        self.waiters_gone = 0
        self.answers: dict[type, Any] = {
            GetEarnings: Earnings(
                (Earned(0, CHANNEL_ID, 2, Msat(9000), Msat(7)), Earned(0, HASH, 1, Msat(1), Msat(5)))
            ),
            GetFeesCollected: FeesCollected(Msat(12)),
            ListPolicies: Policies(((CHANNEL_ID, OUR_POLICY),)),
        }

    @handles(CreateInvoice)
    def create(self, request: CreateInvoice) -> InvoiceRow:
        self.note(request)
        return self.invoice

    @handles(ListInvoices)
    def list_invoices(self, request: ListInvoices) -> Invoices:
        self.note(request)
        return Invoices((self.invoice,))

    @handles(WaitInvoice)
    async def wait(self, request: WaitInvoice) -> InvoiceRow:
        self.note(request)
        await self.paid.wait()
        return self.invoice

    @handles(
        CancelHold,
        DeleteInvoice,
        GetEarnings,
        GetFeesCollected,
        Keysend,
        ListForwards,
        ListParts,
        ListPolicies,
        SendPart,
        SetPolicy,
        SettleHold,
        WaitAnyInvoice,
        WaitPart,
    )
    def answer(self, request: Any) -> Any:
        self.note(request)
        return self.answers[type(request)]

    @handles(GetReceivable)
    def receivable(self, _request: GetReceivable) -> Receivable:
        return Receivable(Msat(50_000), Msat(30_000), "the peers have no more")

    @handles(Pay)
    async def pay(self, request: Pay) -> PaymentRow:
        self.note(request)
        await self.paid.wait()
        return payment()

    @handles(ListPayments)
    def list_payments(self, request: ListPayments) -> Payments:
        self.note(request)
        return Payments((payment(),))

    @handles(SignText)
    def sign(self, request: SignText) -> MessageSigned:
        self.note(request)
        signature, recovery_id = curve.sign_recoverable(OUR_KEY, signing.digest(request.text.encode()))
        return MessageSigned(signing.encode(signature, recovery_id), signature, recovery_id)


def peer() -> PeerInfo:
    return PeerInfo(PEER_ID, True, True, "127.0.0.1:9736", b"\x08\x02", 0, "tcp")


def invoice(status: str = "unpaid") -> InvoiceRow:
    paid: dict[str, Any] = {"received_msat": Msat(10_000), "paid_at": 1_700_000_100, "pay_index": 7}
    return InvoiceRow(
        label="breakfast",
        payment_hash=HASH,
        payment_secret=b"\xbb" * 32,
        bolt11="lnbcrt1",
        amount_msat=Msat(10_000),
        description="two eggs",
        expires_at=1_700_604_800,
        status=status,
        **(paid if status == "paid" else {}),
    )


def payment() -> PaymentRow:
    return PaymentRow(
        id="p",
        payment_hash=HASH,
        bolt11="lnbcrt1",
        destination=PEER_ID,
        amount_msat=Msat(10_000),
        amount_sent_msat=Msat(10_000),
        status="complete",
        created=1_700_000_000,
        completed=1_700_000_001,
        preimage=b"\xdd" * 32,
        error=None,
        label="lunch",
        parts=1,
    )


def channel() -> ChannelInfo:
    return ChannelInfo(
        channel_id=CHANNEL_ID,
        peer=PEER_ID,
        peer_connected=True,
        reestablished=True,
        state="CHANNELD_NORMAL",
        opener_is_us=True,
        anchors=True,
        capacity=Sat(100_000),
        funding_txid=TXID,
        funding_outnum=1,
        short_channel_id=103 << 40 | 1 << 16 | 1,
        alias_local=5_000_000 << 40 | 1 << 16 | 1,
        alias_remote=9 << 40 | 8 << 16 | 7,
        to_us_msat=Msat(60_000_000),
        min_to_us_msat=Msat(60_000_000),
        max_to_us_msat=Msat(100_000_000),
        spendable_msat=Msat(58_000_000),
        receivable_msat=Msat(39_000_000),
        our_reserve=Sat(1000),
        their_reserve=Sat(1000),
        dust_limit=Sat(354),
        our_to_self_delay=144,
        their_to_self_delay=144,
        max_accepted_htlcs=483,
        minimum_htlc_in_msat=Msat(1),
        max_in_flight_msat=Msat(99_000_000),
        feerate_per_kw=FeeratePerKw(2500),
        local_number=0,
        remote_number=0,
        funding_confirmations=6,
        closer=None,
        close_to=b"\x00\x14" + bytes(20),
        why="ready",
        htlcs=(HtlcInfo(True, 3, Msat(1000), HASH, 600, "SENT_ADD_ACK_REVOCATION"),),
        scid_alias_only=True,
        channel_type=(12, 22, 46),
    )


class Gateway:
    """The service, its stand-ins, and a client that writes raw bytes."""

    def __init__(self, directory: Path) -> None:
        self.bus = LocalBus()
        self.channel = ChannelService(self.bus)
        self.peer = PeerService(self.bus)
        self.wallet = WalletService(self.bus)
        self.chain = ChainService(self.bus)
        self.payments = PaymentsService(self.bus)
        self.stopped = asyncio.Event()
        facts = NodeFacts(OUR_ID, "ALICE", b"\x02\x46\x8a", REGTEST, str(directory), "0.1.0", b"\x08\x02")
        self.rpc = RpcService(self.bus, directory=directory, facts=facts, stop_node=self.stopped.set)
        self._services = (
            *(self.channel, self.peer, self.wallet, self.chain, self.payments),
            self.rpc,
        )

    async def start(self) -> None:
        for service in self._services:
            await service.start()

    async def stop(self) -> None:
        for service in reversed(self._services):
            await service.stop()

    async def connect(self) -> "Client":
        return Client(*await asyncio.open_unix_connection(str(self.rpc.path), limit=1 << 22))

    async def call(self, method: str, params: Any = None) -> Any:
        """The result; an error fails the test."""
        reply = await self.reply(method, params)
        assert "error" not in reply, reply
        return reply["result"]

    async def error(self, method: str, params: Any = None) -> dict[str, Any]:
        reply = await self.reply(method, params)
        assert "result" not in reply
        error: dict[str, Any] = reply["error"]
        return error

    async def reply(self, method: str, params: Any = None) -> dict[str, Any]:
        client = await self.connect()
        client.send({"jsonrpc": "2.0", "id": 1, "method": method, "params": [] if params is None else params})
        reply = await client.read()
        client.close()
        return reply


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *requests: Any) -> None:
        self.writer.write(b"".join(json.dumps(request).encode() for request in requests))

    async def read(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            text = await self.reader.readuntil(b"\n\n")
        reply: dict[str, Any] = json.loads(text)
        return reply

    async def is_closed(self) -> bool:
        async with asyncio.timeout(5):
            return await self.reader.read() == b""

    def close(self) -> None:
        self.writer.close()
