"""Two nodes in one process with their real services (chain, wallet, channel), real signers and one real chain.

Only the line between them and the payments are the test's: it offers HTLCs, and says which are fulfilled.
"""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from node.chain.regtest import RegtestChain
from node.chain.service import ChainService
from node.channel.service import ChannelService
from node.channel.terms import Policy
from node.signer_link.client import SignerState
from node.storage.database import Database, open_database
from node.wallet.service import WalletService
from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat
from protocol.bitcoin.network import REGTEST
from protocol.bolt9 import OUR_INIT
from protocol.bus.local import LocalBus
from protocol.bus.messages import channel as said
from protocol.bus.messages import peer
from protocol.bus.messages import signer as sign
from protocol.bus.service import Service, hears
from signer.service import SignerService
from tests.node.channel.pair import new_signer
from tests.node.channel.pair import onion_for as onion_for_end
from tests.node.wallet.support import DirectBackend, InProcessSigner, until

RATE = FeeratePerKw(1000)


class Signer(InProcessSigner):
    """What the channel service needs of the signer client."""

    def __init__(self, service: SignerService) -> None:
        super().__init__(service)
        self.requests = 0
        self.service = service
        self.state = SignerState.UP

    async def wait_up(self) -> sign.Welcome:
        return self.node.welcome

    def call_nowait(
        self, request: sign.Request, callback: Callable[[Any], None], *, deadline: float = 30
    ) -> int:
        self.requests += 1
        asyncio.get_running_loop().call_soon(callback, self.node.ask(request))
        return self.requests


class Payments(Service):
    name: ClassVar[str] = "payments"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.received: list[said.HtlcReceived] = []
        self.fulfilled: list[said.HtlcFulfilled] = []
        self.failed: list[said.HtlcFailed] = []
        self.resolved: list[said.HtlcResolved] = []

    @hears(said.HtlcReceived)
    def on_received(self, event: said.HtlcReceived) -> None:
        self.received.append(event)

    @hears(said.HtlcFulfilled)
    def on_fulfilled(self, event: said.HtlcFulfilled) -> None:
        self.fulfilled.append(event)

    @hears(said.HtlcFailed)
    def on_failed(self, event: said.HtlcFailed) -> None:
        self.failed.append(event)

    @hears(said.HtlcResolved)
    def on_resolved(self, event: said.HtlcResolved) -> None:
        self.resolved.append(event)


class Line(Service):
    """The peer service of one node: a pipe to the other."""

    name: ClassVar[str] = "peer"

    def __init__(self, node: "Node") -> None:
        super().__init__(node.bus)
        self.node = node

    @hears(peer.ToPeer)
    def to_peer(self, message: peer.ToPeer) -> None:
        other = self.node.other
        if other is not None and message.connection == self.node.connection:
            for frame in message.frames:
                other.bus.send("channel", peer.FromPeer(self.node.node_id, other.connection, frame))

    @hears(peer.DropPeer)
    def drop_peer(self, message: peer.DropPeer) -> None:
        self.to_peer(peer.ToPeer(message.node_id, message.connection, message.frames))

    @hears(peer.KeepPeer)
    def keep_peer(self, _message: peer.KeepPeer) -> None:
        pass


class Node:
    """One node. `restart` begins again from its database, as after a crash."""

    def __init__(self, folder: Path, chain: RegtestChain) -> None:
        self.folder = folder
        self.chain = chain
        self.service = new_signer(folder)
        self.signer = Signer(self.service)
        self.node_id = self.signer.node.welcome.node_id
        self.other: Node | None = None
        self.connection = 0

    async def start(self) -> None:
        self.database: Database = open_database(self.folder / "node.db", create=True)
        writer = self.database.writer
        self.backend = DirectBackend(self.chain)
        self.backend.estimate = RATE
        self.bus = LocalBus()
        welcome = self.signer.node.welcome
        self.chain_service = ChainService(self.bus, self.backend, writer, retry_seconds=0.01)
        self.wallet = WalletService(
            self.bus,
            network=REGTEST,
            xpub=welcome.wallet_xpub,
            origin=welcome.wallet_origin,
            signer=self.signer,
            writer=writer,
        )
        self.channels = ChannelService(
            self.bus,
            writer,
            self.signer,  # type: ignore[arg-type]
            chain_hash=REGTEST.chain_hash,
            policy=Policy(to_self_delay=8),
        )
        self.payments = Payments(self.bus)
        self.line = Line(self)
        for service in (self.chain_service, self.wallet, self.channels, self.payments, self.line):
            await service.start()
        async with asyncio.timeout(20):
            await self.wallet.caught_up.wait()
        await until(lambda: self.channels._ready)

    async def stop(self) -> None:
        for service in (self.line, self.payments, self.channels, self.wallet, self.chain_service):
            await service.stop()
        self.database.close()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def at_tip(self) -> None:
        await until(lambda: self.chain_service._hashes.get(self.chain.height) == self.chain.tip_hash)
        await until(lambda: self.wallet._ledger.scanned == self.chain.height)
        await until(lambda: self.channels._resolver._env.height == self.chain.height)
        await self.quiet()

    async def quiet(self) -> None:
        """Until nothing is under way in the resolution."""
        resolver = self.channels._resolver
        calm = 0
        while calm < 30:
            await asyncio.sleep(0)
            busy = resolver._queue.qsize() or resolver._asking
            calm = 0 if busy else calm + 1
        await self.database.writer.submit([], now=True)

    async def channel(self) -> said.ChannelInfo:
        listed: said.Channels = await self.bus.request("channel", said.ListChannels())
        (found,) = listed.channels
        return found

    async def balance(self) -> int:
        """Everything that its wallet sees, cold coins among it."""
        return (await self.wallet.balance()).total


class Pair:
    def __init__(self, folder: Path) -> None:
        self.chain = RegtestChain(folder / "chain")
        self.alice = Node(folder / "alice", self.chain)
        self.bob = Node(folder / "bob", self.chain)
        self.alice.other, self.bob.other = self.bob, self.alice
        self.connections = 0

    @property
    def nodes(self) -> tuple[Node, Node]:
        return self.alice, self.bob

    async def start(self) -> None:
        for node in self.nodes:
            await node.start()

    async def stop(self) -> None:
        for node in self.nodes:
            await node.stop()
        self.chain.close()

    def connect(self) -> None:
        self.connections += 1
        for node in self.nodes:
            assert node.other is not None
            node.connection = self.connections
            node.bus.publish(peer.PeerUp(node.other.node_id, self.connections, OUR_INIT.to_bytes()))

    def disconnect(self) -> None:
        for node in self.nodes:
            assert node.other is not None
            node.bus.publish(peer.PeerDown(node.other.node_id, node.connection, "the test wants it"))
            node.connection = 0

    async def mine(self, count: int = 1) -> None:
        for _ in range(count):
            self.chain.generate(1)
            for node in self.nodes:
                await node.at_tip()

    async def mine_to(self, height: int) -> None:
        await self.mine(max(0, height - self.chain.height))

    async def open(self, *, anchors: bool, push: int = 3_000_000_000) -> None:
        from tests.node.wallet.support import script_pubkey_of

        for node in self.nodes:
            for _ in range(2):
                made = await node.bus.request("wallet", _new_address())
                self.chain.fund(script_pubkey_of(made.address, REGTEST), Sat(12_000_000))
        await self.mine()
        self.connect()
        await self.alice.bus.request(
            "channel",
            said.FundChannel(self.bob.node_id, Sat(10_000_000), RATE, Msat(push), anchors=anchors),
        )
        await self.mine(3)
        for node in self.nodes:
            await self._until_state(node, "CHANNELD_NORMAL")

    async def _until_state(self, node: Node, state: str) -> None:
        async with asyncio.timeout(20):
            while (await node.channel()).state != state:  # noqa: ASYNC110  nothing could set an event
                await asyncio.sleep(0.001)

    async def offer(self, payer: Node, amount_msat: int, cltv_expiry: int) -> said.HtlcReceived:
        """An HTLC that the payee's payments have heard of."""
        payee = payer.other
        assert payee is not None
        request = sign.MakeInvoice(os.urandom(32), 1_700_000_000, Msat(amount_msat), "test", None, 3600, 18)
        made = payee.signer.node.ask(request)
        assert isinstance(made, sign.InvoiceMade)
        onion = onion_for_end(payee, made, amount_msat, cltv_expiry)  # type: ignore[arg-type]
        channel_id = (await payer.channel()).channel_id
        origin = made.payment_hash.hex()
        payer.bus.send(
            "channel",
            said.OfferHtlc(channel_id, Msat(amount_msat), made.payment_hash, cltv_expiry, onion, origin),
        )
        heard = payee.payments.received
        await until(lambda: any(event.payment_hash == made.payment_hash for event in heard))
        return next(event for event in heard if event.payment_hash == made.payment_hash)

    def fulfil(self, payee: Node, htlc: said.HtlcReceived) -> None:
        payee.bus.send("channel", said.FulfilHtlc(htlc.channel_id, htlc.htlc_id))


def _new_address() -> object:
    from protocol.bus.messages import wallet

    return wallet.NewAddress()


__all__ = ["BlockHeight", "Node", "Pair"]
