"""Nodes in one process with all their real services, signers and one real chain; only the lines between are the test's.

A node can be killed at any durable write: what its signer and peers were told by then stays told, what the disk had
is what it wakes up with.
"""

import asyncio
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from node.chain.regtest import RegtestChain
from node.chain.service import ChainService
from node.channel.service import ChannelService
from node.channel.terms import Policy
from node.payments.policies import default_policy
from node.payments.receive import MPP_SECONDS
from node.payments.service import PaymentService
from node.routing.service import RoutingService
from node.storage.database import Database, open_database
from node.wallet.service import WalletService
from protocol.amounts import Msat, Sat
from protocol.bitcoin.network import REGTEST
from protocol.bus.local import LocalBus
from protocol.bus.messages import channel as said
from protocol.bus.messages import payments as pay
from protocol.bus.messages import peer, routing, wallet
from protocol.bus.messages import signer as sign
from protocol.bus.service import Service, handles, hears
from tests.node.channel.pair import new_signer
from tests.node.onchain.services import RATE, Signer
from tests.node.wallet.support import DirectBackend, script_pubkey_of, until

DATABASE = "node.db"


class Router(RoutingService):
    """Routing with an empty graph: routes come from the hints of invoices."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node.bus, node_id=node.node_id)

    @handles(routing.ShadowDelay)
    def shadow_delay(self, _request: routing.ShadowDelay) -> int:
        return 0


class Gossip(Service):
    """Knows the terms of all nodes."""

    name: ClassVar[str] = "gossip"

    def __init__(self, node: "Node") -> None:
        super().__init__(node.bus)
        self.node = node

    @handles(routing.PeerPolicy)
    async def peer_policy(self, request: routing.PeerPolicy) -> routing.PeerPolicyIs:
        (info,) = await self.node.list_channels(request.channel_id)
        other = self.node.net.by_id[info.peer]
        (theirs,) = await other.list_channels(request.channel_id)
        return routing.PeerPolicyIs(default_policy(theirs))

    @handles(routing.OwnUpdate)
    def own_update(self, _request: routing.OwnUpdate) -> routing.OwnUpdateIs:
        return routing.OwnUpdateIs(None)


class Line(Service):
    """The peer service of one node: a pipe to each other."""

    name: ClassVar[str] = "peer"

    def __init__(self, node: "Node") -> None:
        super().__init__(node.bus)
        self.node = node

    @hears(peer.ToPeer)
    def to_peer(self, message: peer.ToPeer) -> None:
        self._carry(message.node_id, message.connection, message.frames)

    @hears(peer.DropPeer)
    def drop_peer(self, message: peer.DropPeer) -> None:
        self._carry(message.node_id, message.connection, message.frames)

    @hears(peer.KeepPeer)
    def keep_peer(self, _message: peer.KeepPeer) -> None:
        pass

    def _carry(self, node_id: bytes, connection: int, frames: tuple[bytes, ...]) -> None:
        node = self.node
        if node.is_cut or node.connections.get(node_id) != connection:
            return
        other = node.net.by_id[node_id]
        if other.connections.get(node.node_id) == connection and not other.is_cut:
            for frame in frames:
                changed = node.on_the_line(frame)
                other.bus.send("channel", peer.FromPeer(node.node_id, connection, changed))


class CutSigner(Signer):
    """The line to the signer of a node that may be killed."""

    def __init__(self, node: "Node") -> None:
        super().__init__(node.signer_service)
        self.owner = node

    def call_nowait(
        self, request: sign.Request, callback: Callable[[Any], None], *, deadline: float = 30
    ) -> int:
        if self.owner.is_cut:
            return 0
        return super().call_nowait(request, callback, deadline=deadline)

    async def call(self, request: Any, **given: Any) -> Any:
        if self.owner.is_cut:
            await asyncio.Event().wait()
        return await super().call(request, **given)


class Node:
    def __init__(self, net: "Net", name: str) -> None:
        self.net = net
        self.name = name
        self.folder = net.folder / name
        self.signer_service = new_signer(self.folder)
        self.is_cut = False
        self.signer = CutSigner(self)
        self.node_id = self.signer.node.welcome.node_id
        self.connections: dict[bytes, int] = {}
        self.on_the_line: Callable[[bytes], bytes] = lambda frame: frame
        """What becomes of a message that this node sends."""
        self.clock: Callable[[], float] = time.time
        """Of its payments."""
        self.mpp_seconds = MPP_SECONDS
        """How long its next run waits for the rest of a set."""
        self.commits = 0
        self.kill_at: int | None = None
        self.copy = self.folder / "copy.db"

    async def start(self) -> None:
        self.database: Database = open_database(self.folder / DATABASE, create=True)
        writer = self.database.writer
        writer.on_commit = self._committed
        self.bus = LocalBus()
        self.backend = DirectBackend(self.net.chain)
        self.backend.estimate = RATE
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
            policy=self.net.policy,
        )
        self.payments = PaymentService(
            self.bus,
            writer=writer,
            signer=self.signer,
            network=REGTEST,
            node_id=self.node_id,
            clock=lambda: self.clock(),
            mpp_seconds=self.mpp_seconds,
        )
        self.router = Router(self)
        self.gossip = Gossip(self)
        self.line = Line(self)
        for service in (
            self.chain_service,
            self.wallet,
            self.router,
            self.gossip,
            self.channels,
            self.payments,
            self.line,
        ):
            await service.start()
        async with asyncio.timeout(20):
            await self.wallet.caught_up.wait()
        await until(lambda: self.channels._ready)

    async def stop(self) -> None:
        services = (self.line, self.payments, self.channels, self.router, self.wallet, self.chain_service)
        for service in services:
            await service.stop()
        self.database.close()

    def _committed(self) -> None:
        """In the writer's thread, after the commit and before anybody is told of it."""
        self.commits += 1
        if self.kill_at is not None and self.commits >= self.kill_at and not self.is_cut:
            self.is_cut = True
            for end in ("", "-wal"):
                source = self.folder / f"{DATABASE}{end}"
                if source.exists():
                    shutil.copyfile(source, f"{self.copy}{end}")

    async def wake_up(self) -> None:
        """Begins again with what the disk had when it was killed."""
        self.net.disconnect(self)
        await self.stop()
        self._lay_out_copy()
        self.kill_at = None
        self.is_cut = False
        await self.start()
        self.net.connect_all()

    def _lay_out_copy(self) -> None:
        for end in ("", "-wal", "-shm"):
            (self.folder / f"{DATABASE}{end}").unlink(missing_ok=True)
        for end in ("", "-wal"):
            source = Path(f"{self.copy}{end}")
            if source.exists():
                shutil.move(source, self.folder / f"{DATABASE}{end}")

    async def restart(self) -> None:
        self.net.disconnect(self)
        await self.stop()
        await self.start()
        self.net.connect_all()

    async def ask(self, request: object, *, service: str = "payments", deadline: float = 30.0) -> Any:
        return await self.bus.request(service, request, deadline=deadline)

    async def list_channels(self, *channel_ids: bytes) -> tuple[said.ChannelInfo, ...]:
        request = said.ListChannels(channel_ids=channel_ids or None)
        listed: said.Channels = await self.bus.request("channel", request)
        return listed.channels

    async def invoice(self, amount: int, label: str, **given: Any) -> pay.InvoiceRow:
        return await self.ask(pay.CreateInvoice(Msat(amount), label, label, **given))

    async def to_us(self) -> int:
        return sum(channel.to_us_msat for channel in await self.list_channels())

    async def at_tip(self) -> None:
        height, tip = self.net.chain.height, self.net.chain.tip_hash
        await until(lambda: self.chain_service._hashes.get(height) == tip)
        await until(lambda: self.wallet._ledger.scanned == height)
        await until(lambda: self.channels._resolver._env.height == height)

    async def quiet(self) -> None:
        """Until no HTLC stands in any channel."""
        async with asyncio.timeout(20):
            while any(channel.htlcs for channel in await self.list_channels()):  # noqa: ASYNC110
                await asyncio.sleep(0.002)
        await self.database.writer.submit([], now=True)


class Net:
    """Nodes by name, with a channel along each edge: the first opened it, and `push` of its 10 billion msat are the
    other's. An edge is named twice for two channels."""

    def __init__(self, folder: Path, edges: tuple[str, ...]) -> None:
        self.folder = folder
        self.chain = RegtestChain(folder / "chain")
        self.policy = Policy(to_self_delay=8)
        self.edges = [tuple(edge.split("-")) for edge in edges]
        names = sorted({name for edge in self.edges for name in edge})
        self.nodes = {name: Node(self, name) for name in names}
        self.by_id = {node.node_id: node for node in self.nodes.values()}
        self.links = 0

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    async def start(self, *, push: int = 3_000_000_000, **named: int) -> None:
        pushes = {name.replace("_", "-"): value for name, value in named.items()}
        for node in self.nodes.values():
            await node.start()
        for opener, _ in self.edges:
            made = await self[opener].ask(wallet.NewAddress(), service="wallet")
            self.chain.fund(script_pubkey_of(made.address, REGTEST), Sat(12_000_000))
        await self.mine(1)
        self.connect_all()
        for opener, other in self.edges:
            given = Msat(pushes.get(f"{opener}-{other}", push))
            await self[opener].ask(
                said.FundChannel(self[other].node_id, Sat(10_000_000), RATE, given, announce=False),
                service="channel",
            )
            await self.mine(3)
        await self.usable()

    async def usable(self) -> None:
        async with asyncio.timeout(20):
            for node in self.nodes.values():
                while not all(  # noqa: ASYNC110
                    channel.state == "CHANNELD_NORMAL" and channel.reestablished
                    for channel in await node.list_channels()
                ):
                    await asyncio.sleep(0.002)

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.stop()
        self.chain.close()

    async def mine(self, count: int) -> None:
        for _ in range(count):
            self.chain.generate(1)
            for node in self.nodes.values():
                await node.at_tip()

    def connect_all(self) -> None:
        for first, second in {tuple(sorted(edge)) for edge in self.edges}:
            one, two = self[first], self[second]
            if two.node_id in one.connections:
                continue
            self.links += 1
            one.connections[two.node_id] = two.connections[one.node_id] = self.links
            for node, other in ((one, two), (two, one)):
                node.bus.publish(peer.PeerUp(other.node_id, self.links, b""))

    def disconnect(self, node: Node) -> None:
        for node_id, link in list(node.connections.items()):
            other = self.by_id[node_id]
            del node.connections[node_id]
            other.connections.pop(node.node_id, None)
            node.bus.publish(peer.PeerDown(node_id, link, "the test wants it"))
            other.bus.publish(peer.PeerDown(node.node_id, link, "the test wants it"))
