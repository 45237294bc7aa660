"""One of our nodes in a simulation: the real channel, payment and routing services, on a fake chain and fake lines.

It can die at any moment and come back with what its disk had. Its signer lives on, and so does what it had sent.
"""

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from node.channel.service import ChannelService
from node.payments.service import PaymentService
from node.routing.graph import Policy as PublicPolicy
from node.routing.service import RoutingService
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw
from protocol.bitcoin.network import REGTEST
from protocol.bolt9 import OUR_INIT
from protocol.bus.local import LocalBus
from protocol.bus.messages import chain, forwards, peer, routing
from protocol.bus.messages import channel as said
from protocol.bus.messages import payments as pay
from protocol.bus.service import Service, handles, hears
from protocol.wire.bolt7_gossip import ChannelUpdate
from protocol.wire.message import encode
from tests.simulation.disk import LoopWriter, new_disk
from tests.simulation.signer import SignerLine, new_signer

if TYPE_CHECKING:
    from tests.simulation.net import Net

T = TypeVar("T")
RATE = FeeratePerKw(1000)


class Chain(Service):
    """A tip that all nodes share, and channels that were funded long ago. Nobody has a reason to broadcast."""

    name: ClassVar[str] = "chain"

    def __init__(self, node: "Node") -> None:
        super().__init__(node.bus)
        self.node = node

    @handles(chain.GetTip)
    def tip(self, _request: chain.GetTip) -> chain.Tip:
        return chain.Tip(self.node.net.height, bytes(32), True)

    @handles(chain.GetFeerate)
    def feerate(self, _request: chain.GetFeerate) -> FeeratePerKw:
        return RATE

    @handles(chain.GetMempoolMinimum)
    def mempool_minimum(self, _request: chain.GetMempoolMinimum) -> FeeratePerKw:
        return FEERATE_FLOOR

    @handles(chain.WatchOutput)
    def watch(self, request: chain.WatchOutput) -> chain.OutputStatus:
        return chain.OutputStatus(request.txid, request.index, None, None, None, None, None)

    @handles(chain.Broadcast)
    def broadcast(self, request: chain.Broadcast) -> chain.BroadcastResult:
        self.node.net.trouble.append(f"{self.node.name} broadcasts: {request.label}")
        return chain.BroadcastResult(bytes(32), True)


class Router(RoutingService):
    """Knows by itself what gossip would answer: the terms of channels."""

    def __init__(self, node: "Node") -> None:
        super().__init__(
            node.bus,
            node_id=node.node_id,
            graph=node.net.graph,
            clock=node.net.loop.wall,
            random=node.random,
        )
        self.node = node

    @handles(routing.FindRoutes)
    async def find_routes(self, request: routing.FindRoutes) -> routing.Routes:
        found = await super().find_routes(request)
        self.node.net.routes_found(self.node, request, found)
        return found

    @handles(routing.OwnUpdate)
    def own_update(self, request: routing.OwnUpdate) -> routing.OwnUpdateIs:
        scid = self.node.net.scid_of[request.channel_id]
        direction = self.node.net.direction(scid, self.node)
        policy = self.node.net.graph.policy(scid, direction)
        return routing.OwnUpdateIs(None if policy is None else raw_update(scid, policy))

    @handles(routing.PeerPolicy)
    def peer_policy(self, request: routing.PeerPolicy) -> routing.PeerPolicyIs:
        """All channels are announced, so no invoice needs this."""
        return routing.PeerPolicyIs(None)


def raw_update(scid: int, policy: PublicPolicy) -> bytes:
    """As gossip would keep it, but for the signature, which nobody looks at in a failure."""
    update = ChannelUpdate(
        bytes(64),
        REGTEST.chain_hash,
        scid,  # type: ignore[arg-type]
        policy.timestamp,
        policy.message_flags,
        policy.channel_flags,
        policy.cltv_expiry_delta,
        policy.htlc_minimum_msat,  # type: ignore[arg-type]
        policy.fee_base_msat,  # type: ignore[arg-type]
        policy.fee_proportional_millionths,
        policy.htlc_maximum_msat,  # type: ignore[arg-type]
    )
    return encode(update)


class Line(Service):
    """The peer service: everything that leaves goes into the wires of the net."""

    name: ClassVar[str] = "peer"

    def __init__(self, node: "Node") -> None:
        super().__init__(node.bus)
        self.node = node

    @hears(peer.ToPeer)
    def to_peer(self, message: peer.ToPeer) -> None:
        node = self.node
        if node.connections.get(message.node_id) == message.connection:
            node.messages_sent += len(message.frames)
            wire = node.net.wires[node.node_id, message.node_id]
            for frame in message.frames:
                wire.put(message.connection, frame)

    @hears(peer.DropPeer)
    def drop_peer(self, message: peer.DropPeer) -> None:
        self.node.net.trouble.append(f"{self.node.name} drops a peer: {message.reason}")

    @hears(peer.KeepPeer)
    def keep_peer(self, _message: peer.KeepPeer) -> None:
        pass


class Node:
    def __init__(self, net: "Net", name: str, folder: Path, random: Random) -> None:
        self.net = net
        self.name = name
        self.random = random
        self.disk = new_disk()
        self.signer = SignerLine(new_signer(folder, random.randbytes(32)), seconds=net.signer_seconds)
        self.node_id = self.signer.welcome.node_id
        self.connections: dict[bytes, int] = {}
        self.is_up = False
        self.deaths = 0
        self.commits_before = 0
        self.messages_sent = 0

    async def start(self) -> None:
        if self.deaths:
            self.signer.hello()
        self.writer = LoopWriter(self.disk, seconds=self.net.disk_seconds)
        self.bus = LocalBus()
        self.chain = Chain(self)
        self.router = Router(self)
        self.channels = ChannelService(
            self.bus,
            self.writer,  # type: ignore[arg-type]
            self.signer,  # type: ignore[arg-type]
            chain_hash=REGTEST.chain_hash,
        )
        self.payments = PaymentService(
            self.bus,
            writer=self.writer,
            signer=self.signer,
            network=REGTEST,
            node_id=self.node_id,
            clock=self.net.loop.wall,
            random_bytes=self.random.randbytes,
        )
        self.line = Line(self)
        self.is_up = True
        for service in self._services():
            if not self.is_up:
                return
            await service.start()
        while self.is_up and not self.channels._ready:  # noqa: ASYNC110  nothing could set an event
            await asyncio.sleep(0.001)

    def _services(self) -> tuple[Service, ...]:
        return self.chain, self.router, self.channels, self.payments, self.line

    @property
    def commits(self) -> int:
        return self.commits_before + self.writer.commits

    def die(self, *, keep_commit: bool, lose_questions: bool) -> Awaitable[None]:
        """At this very moment: nothing more is written, asked or sent. What is awaited only tidies up."""
        self.is_up = False
        self.deaths += 1
        self.commits_before += self.writer.commits
        self.writer.cut(keep_commit=keep_commit)
        self.signer.cut(lose_questions=lose_questions)
        self.net.lost(self)
        return asyncio.ensure_future(self._tidy_up())

    async def _tidy_up(self) -> None:
        for service in reversed(self._services()):
            await service.stop()

    def connected(self, other: "Node", connection: int) -> None:
        self.connections[other.node_id] = connection
        self.bus.publish(peer.PeerUp(other.node_id, connection, OUR_INIT.to_bytes()))

    def disconnected(self, node_id: bytes) -> None:
        connection = self.connections.pop(node_id, None)
        if connection is not None and self.is_up:
            self.bus.publish(peer.PeerDown(node_id, connection, "the line is dead"))

    # What people ask.

    async def ask(self, request: object, *, service: str = "payments", deadline: float = 86_400.0) -> Any:
        return await self.bus.request(service, request, deadline=deadline)

    async def invoice(self, amount: int, label: str) -> pay.InvoiceRow:
        row: pay.InvoiceRow = await self.ask(pay.CreateInvoice(amount, label, label))  # type: ignore[arg-type]
        return row

    async def list_channels(self) -> tuple[said.ChannelInfo, ...]:
        listed: said.Channels = await self.ask(said.ListChannels(), service="channel")
        return listed.channels

    async def list_payments(self) -> tuple[pay.PaymentRow, ...]:
        listed: pay.Payments = await self.ask(pay.ListPayments())
        return listed.payments

    async def list_invoices(self) -> tuple[pay.InvoiceRow, ...]:
        listed: pay.Invoices = await self.ask(pay.ListInvoices())
        return listed.invoices

    async def list_forwards(self) -> tuple[forwards.ForwardRow, ...]:
        listed: forwards.Forwards = await self.ask(forwards.ListForwards())
        return listed.forwards

    def has_htlcs(self) -> bool:
        return any(channel.state.htlcs for channel in self.channels._channels.values())
