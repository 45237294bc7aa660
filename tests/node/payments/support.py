"""A payment service with real storage and a real bus; channel, chain and signer are stand-ins that record."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from node.payments.service import PaymentService
from node.storage.database import Database, open_database
from protocol import curve
from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat
from protocol.bitcoin.network import REGTEST
from protocol.bolt11 import encode
from protocol.bolt11.invoice import InvoiceTerms
from protocol.bus.local import LocalBus
from protocol.bus.messages.chain import GetTip, Tip
from protocol.bus.messages.channel import (
    ChannelInfo,
    Channels,
    FailHtlc,
    FulfilHtlc,
    ListChannels,
    LiveOrigins,
    OfferHtlc,
    Origins,
    Settled,
    SettledReceived,
)
from protocol.bus.messages.signer import InvoiceMade, MakeInvoice, MessageSigned, SignMessage
from protocol.bus.service import Service, handles, hears
from protocol.hashes import sha256

HEIGHT = BlockHeight(500)
NOW = 1_700_000_000
OUR_KEY = b"\x11" * 32
OUR_ID = curve.point_of(OUR_KEY)
PAYEE_KEY = b"\x22" * 32
PAYEE_ID = curve.point_of(PAYEE_KEY)
STRANGER_ID = curve.point_of(b"\x33" * 32)
CHANNEL = b"\xc1" * 32
OTHER_CHANNEL = b"\xc2" * 32
SECRET = b"\x55" * 32
PREIMAGE = b"\x66" * 32


def invoice_text(
    key: bytes = PAYEE_KEY,
    *,
    amount: int | None = 10_000,
    preimage: bytes = PREIMAGE,
    timestamp: int = NOW,
    expiry: int = 3600,
    prefix: str = "bcrt",
    features: frozenset[int] = frozenset({8, 14}),
    final_delay: int = 18,
) -> str:
    terms = InvoiceTerms(
        prefix=prefix,
        amount_msat=None if amount is None else Msat(amount),
        timestamp=timestamp,
        payment_hash=sha256(preimage),
        payment_secret=SECRET,
        description="coffee",
        expiry=expiry,
        min_final_cltv_expiry_delta=final_delay,
        features=features,
    )
    unsigned = encode.unsigned(terms)
    return unsigned.with_signature(*curve.sign_recoverable(key, unsigned.digest))


def channel_info(
    channel_id: bytes = CHANNEL,
    *,
    peer: bytes = PAYEE_ID,
    spendable: int = 1_000_000,
    state: str = "CHANNELD_NORMAL",
    connected: bool = True,
) -> ChannelInfo:
    return ChannelInfo(
        channel_id=channel_id,
        peer=peer,
        peer_connected=connected,
        reestablished=connected,
        state=state,
        opener_is_us=True,
        anchors=True,
        capacity=Sat(100_000),
        funding_txid=bytes(range(32)),
        funding_outnum=1,
        short_channel_id=103 << 40 | 1 << 16,
        alias_local=None,
        alias_remote=None,
        to_us_msat=Msat(60_000_000),
        min_to_us_msat=Msat(60_000_000),
        max_to_us_msat=Msat(100_000_000),
        spendable_msat=Msat(spendable),
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
        why="",
        htlcs=(),
    )


class ChannelStandIn(Service):
    """Records what it is told, with what was on disk at that moment."""

    name: ClassVar[str] = "channel"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.channels: tuple[ChannelInfo, ...] = (channel_info(),)
        self.origins: tuple[tuple[str, str, bytes | None, bytes | None, int | None], ...] = ()
        self.attributions: tuple[tuple[str, bytes], ...] = ()
        self.settled: tuple[tuple[bytes, Msat], ...] = ()
        self.offers: list[OfferHtlc] = []
        self.decisions: list[FulfilHtlc | FailHtlc] = []
        self.origins_asked: tuple[str, ...] | None = None
        self.lists = 0
        self.on_told: Callable[[], None] = lambda: None

    @handles(ListChannels)
    def list_channels(self, _request: ListChannels) -> Channels:
        self.lists += 1
        return Channels(self.channels)

    @handles(LiveOrigins)
    def live_origins(self, request: LiveOrigins) -> Origins:
        self.origins_asked = request.origins
        return Origins(self.origins, self.attributions)

    @handles(SettledReceived)
    def settled_received(self, request: SettledReceived) -> Settled:
        return Settled(tuple(row for row in self.settled if row[0] in request.payment_hashes))

    @hears(OfferHtlc)
    def offer(self, message: OfferHtlc) -> None:
        self.offers.append(message)
        self.on_told()

    @hears(FulfilHtlc, FailHtlc)
    def decide(self, message: FulfilHtlc | FailHtlc) -> None:
        self.decisions.append(message)
        self.on_told()


class ChainStandIn(Service):
    name: ClassVar[str] = "chain"

    @handles(GetTip)
    def tip(self, _request: GetTip) -> Tip:
        return Tip(HEIGHT, bytes(32), True)


class SignerStandIn:
    """Makes real invoices, with preimages that the test can look up."""

    def __init__(self) -> None:
        self.preimages: dict[bytes, bytes] = {}
        self.asked: list[MakeInvoice] = []
        self.reply: Any = None

    async def call(self, request: Any) -> Any:
        if isinstance(self.reply, Exception):
            raise self.reply
        if self.reply is not None:
            return self.reply
        if isinstance(request, SignMessage):
            return MessageSigned("zbase", bytes(64), 0)
        assert isinstance(request, MakeInvoice)
        self.asked.append(request)
        preimage = sha256(b"preimage" + request.request_id)
        terms = InvoiceTerms(
            prefix="bcrt",
            amount_msat=request.amount_msat,
            timestamp=request.timestamp,
            payment_hash=request.payment_hash or sha256(preimage),
            payment_secret=sha256(b"secret" + request.request_id),
            description=request.description,
            description_hash=request.description_hash,
            expiry=request.expiry,
            min_final_cltv_expiry_delta=request.min_final_cltv_expiry,
            features=frozenset({8, 14, 17}),
        )
        unsigned = encode.unsigned(terms)
        text = unsigned.with_signature(*curve.sign_recoverable(OUR_KEY, unsigned.digest))
        self.preimages[terms.payment_hash] = preimage
        return InvoiceMade(text, terms.payment_hash, terms.payment_secret)


class House:
    """One run of the services over a database that outlives them."""

    def __init__(self, path: Path) -> None:
        self.path = path / "lnp.sqlite"
        self.database: Database = open_database(self.path, create=True)
        self.now = float(NOW)
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.signer = SignerStandIn()
        self.tasks: list[asyncio.Task[Any]] = []
        self._drawn = 0
        self._build()

    def _build(self) -> None:
        self.bus = LocalBus()
        self.channel = ChannelStandIn(self.bus)
        self.chain = ChainStandIn(self.bus)
        self.payments = PaymentService(
            self.bus,
            writer=self.database.writer,
            signer=self.signer,
            network=REGTEST,
            node_id=OUR_ID,
            clock=lambda: self.now,
            random_bytes=self._random,
            later=lambda seconds, act: self.timers.append((seconds, act)),
        )

    def _random(self, size: int) -> bytes:
        self._drawn += 1
        return sha256(self._drawn.to_bytes(8, "big"))[:size]

    async def start(self) -> "House":
        await self.channel.start()
        await self.chain.start()
        await self.payments.start()
        self.channel.lists = 0
        return self

    async def stop(self) -> None:
        await self.payments.stop()
        await self.chain.stop()
        await self.channel.stop()

    async def restart(
        self, *, origins: tuple[tuple[str, str, bytes | None, bytes | None, int | None], ...] = ()
    ) -> None:
        """A clean end of the services and a new start on the same database."""
        await self.stop()
        self.database.close()
        self.reopen(origins=origins)
        await self.start()

    def reopen(self, *, origins: tuple[tuple[str, str, bytes | None, bytes | None, int | None], ...]) -> None:
        self.database = open_database(self.path)
        settled = self.channel.settled
        self._build()
        self.channel.origins = origins
        self.channel.settled = settled

    async def close(self) -> None:
        await self.stop()
        self.database.close()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Until nothing moves: each message takes a turn of the loop or two."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def on_disk(self) -> None:
        """Until all that was submitted is written."""
        await self.settle()
        await self.database.writer.submit([], now=True)
        await self.settle()

    def rows(self, sql: str, *params: object) -> list[tuple[Any, ...]]:
        return self.database.writer.read(sql, params)

    async def ask(self, request: object) -> Any:
        return await self.bus.request("payments", request, deadline=10.0)

    def asking(self, request: object) -> "asyncio.Task[Any]":
        task = asyncio.get_running_loop().create_task(self.ask(request))
        self.tasks.append(task)
        return task
