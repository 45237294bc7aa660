"""A simulated network: nodes, wires with latencies, one graph that all know, a shared tip, deaths and returns."""

import asyncio
import hashlib
import logging
import os
import tempfile
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import structlog

from node.channel import store
from node.channel.events import Env, FundingConfirmed
from node.channel.state import State, Volatile
from node.channel.step import steps
from node.payments.send import BASIC_MPP
from node.routing.graph import Graph
from protocol.amounts import BlockHeight, Msat, scid
from protocol.bus.messages import chain, forwards, peer, routing
from protocol.bus.messages import signer as sign
from signer import invoices
from tests.node.channel.pair import open_both
from tests.simulation.clock import VirtualLoop, run, seeded
from tests.simulation.node import RATE, Node
from tests.simulation.topology import Edge, Shape

T = TypeVar("T")
HEIGHT = BlockHeight(700)
BLOCK_SECONDS = 600.0


class Wire:
    """One direction of a line. What was sent arrives in order, and the end of the connection after it."""

    def __init__(self, net: "Net", sender: Node, receiver: Node, seconds: float) -> None:
        self.net = net
        self.sender = sender
        self.receiver = receiver
        self.seconds = seconds
        self._waiting: deque[tuple[int, bytes | None]] = deque()

    def put(self, connection: int, frame: bytes | None) -> None:
        """None is the end of the connection."""
        self._waiting.append((connection, frame))
        self.net.note(self.sender, self.receiver, frame or b"")
        self.net.loop.call_later(self.seconds, self._arrive)

    def _arrive(self) -> None:
        connection, frame = self._waiting.popleft()
        receiver, node_id = self.receiver, self.sender.node_id
        if not receiver.is_up or receiver.connections.get(node_id) != connection:
            return
        if frame is None:
            receiver.disconnected(node_id)
        else:
            receiver.bus.send("channel", peer.FromPeer(node_id, connection, frame))


class _End:
    """A node as `open_both` sees it: it has a signer, and is given the first state of its channel."""

    def __init__(self, net: "Net", node: Node, place: int) -> None:
        self.net = net
        self.node = node
        self.node_id = node.node_id
        self.place = place

    def call(self, request: sign.Request) -> sign.Reply:
        return self.node.signer.ask(request)

    def begin(self, state: State) -> None:
        """Saves the channel as it is once its funding has confirmed and neither side knows of the other's ready."""
        committed = state.committed
        committed.alias_local = scid(5_000_000, self.place, int(committed.params.holder_is_opener))
        name = scid(100 + self.place // 1000, 1 + self.place % 1000, 0)
        event = FundingConfirmed(BlockHeight(name >> 40), name, 6)
        step = steps(State(committed, {}, Volatile()), (event,), Env(self.net.height))
        ((highest,),) = self.node.disk.execute("SELECT coalesce(max(id), 0) FROM channels").fetchall()
        for sql, rows in store.new_channel(highest + 1, step.state.committed):
            self.node.disk.executemany(sql, rows)
        self.net.scid_of[committed.params.channel_id] = name
        self.net.channel_ids[self.place] = committed.params.channel_id


class _Pair:
    def __init__(self, alice: _End, bob: _End) -> None:
        self.alice, self.bob = alice, bob


class Net:
    """`disk_seconds`, `signer_seconds`: what a durable commit and an answer of the signer take."""

    def __init__(
        self,
        loop: VirtualLoop,
        shape: Shape,
        folder: Path,
        random: Random,
        *,
        disk_seconds: float = 0.0,
        signer_seconds: float = 0.0,
    ) -> None:
        self.loop = loop
        self.shape = shape
        self.random = random
        self.disk_seconds = disk_seconds
        self.signer_seconds = signer_seconds
        self.height = HEIGHT
        self.graph = Graph()
        """What gossip would have told to everybody. Routing only reads it, so one serves all."""
        self.trouble: list[str] = []
        """What must not happen among honest nodes."""
        self.legal_refusals: frozenset[str] = frozenset()
        """Tags of refusals of the signer that a scene may bring about."""
        self.scid_of: dict[bytes, int] = {}
        self.channel_ids: dict[int, bytes] = {}
        self.routes_found: Callable[[Node, routing.FindRoutes, routing.Routes], None] = lambda *_: None
        self.nodes = [
            Node(self, f"n{n}", folder / f"n{n}", Random(random.random())) for n in range(shape.nodes)
        ]
        self.by_id = {node.node_id: node for node in self.nodes}
        self.wires: dict[tuple[bytes, bytes], Wire] = {}
        for edge in shape.edges:
            for a, b in ((edge.one, edge.two), (edge.two, edge.one)):
                one, two = self.nodes[a], self.nodes[b]
                self.wires[one.node_id, two.node_id] = Wire(self, one, two, edge.seconds)
        self._connections = 0
        self._story = hashlib.sha256()
        self._tidying: set[Awaitable[None]] = set()

    async def start(self) -> None:
        for place, edge in enumerate(self.shape.edges):
            ends = (_End(self, self.nodes[edge.one], place), _End(self, self.nodes[edge.two], place))
            await open_both(
                _Pair(*ends),  # type: ignore[arg-type]
                funding=edge.capacity_sat,
                push=edge.pushed_msat,
                feerate=RATE,
                announce=True,
            )
        for node in self.nodes:
            await node.start()
        self.connect_all()
        await self.until(self._all_usable)
        for place, edge in enumerate(self.shape.edges):
            await self._set_terms(place, edge)
        await self._announce()
        await self.until(self._at_rest)

    async def _set_terms(self, place: int, edge: Edge) -> None:
        for at, (base, ppm) in zip((edge.one, edge.two), edge.terms, strict=True):
            wanted = forwards.SetPolicy(
                (self.channel_ids[place],),
                fee_base_msat=Msat(base),
                fee_proportional_millionths=ppm,
                grace_seconds=0,
            )
            await self.nodes[at].ask(wanted)

    async def _announce(self) -> None:
        """What the nodes ask for stands in the graph, as their channel_updates would have told."""
        terms: dict[tuple[int, int], routing.ChannelPolicy] = {}
        for node in self.nodes:
            listed: routing.Policies = await node.ask(routing.ListPolicies())
            for channel_id, policy in listed.policies:
                name = self.scid_of[channel_id]
                terms[name, self.direction(name, node)] = policy
        for place, edge in enumerate(self.shape.edges):
            name = self.scid_of[self.channel_ids[place]]
            first, second = sorted((self.nodes[edge.one].node_id, self.nodes[edge.two].node_id))
            self.graph.put_channel(name, first, second, edge.capacity_sat, b"")
            for direction in (0, 1):
                policy = terms[name, direction]
                self.graph.put_policy(
                    name,
                    direction,
                    1_700_000_000,
                    1,
                    direction,
                    policy.cltv_expiry_delta,
                    policy.htlc_minimum_msat,
                    policy.htlc_maximum_msat,
                    policy.fee_base_msat,
                    policy.fee_proportional_millionths,
                )

    def peers(self, node: Node) -> list[Node]:
        """The other end of each of its channels."""
        ends = ((self.nodes[edge.one], self.nodes[edge.two]) for edge in self.shape.edges)
        return [two if one is node else one for one, two in ends if node in (one, two)]

    def direction(self, name: int, node: Node) -> int:
        place = (name >> 40) * 1000 - 100_000 + (name >> 16 & 0xFFFFFF) - 1
        edge = self.shape.edges[place]
        ends = sorted((self.nodes[edge.one].node_id, self.nodes[edge.two].node_id))
        return ends.index(node.node_id)

    def note(self, sender: Node, receiver: Node, frame: bytes) -> None:
        """`digest` tells two runs apart: who sent what to whom, and when."""
        self._story.update(f"{self.loop.now!r} {sender.name} {receiver.name} ".encode() + frame)

    @property
    def digest(self) -> str:
        return self._story.hexdigest()

    # Lines.

    def connect_all(self) -> None:
        """Every line whose two ends are up and that is not in use."""
        for edge in self.shape.edges:
            one, two = self.nodes[edge.one], self.nodes[edge.two]
            if one.is_up and two.is_up:
                self._connect(one, two)

    def _connect(self, one: Node, two: Node) -> None:
        standing = one.connections.get(two.node_id)
        if standing is not None and standing == two.connections.get(one.node_id):
            return
        self._connections += 1
        for node, other in ((one, two), (two, one)):
            node.disconnected(other.node_id)  # one that had not heard of the end of the last connection
            node.connected(other, self._connections)

    def lost(self, node: Node) -> None:
        """The system closes the connections of a dead process: peers hear of it behind all that it had sent."""
        for node_id, connection in list(node.connections.items()):
            self.wires[node.node_id, node_id].put(connection, None)
        node.connections.clear()

    # Deaths.

    def kill(self, node: Node, *, keep_commit: bool = False, lose_questions: bool = False) -> None:
        """`keep_commit`: a commit under way still reaches the disk. `lose_questions`: what was not judged yet never
        reaches the signer."""
        task = node.die(keep_commit=keep_commit, lose_questions=lose_questions)
        self._tidying.add(task)

    async def revive(self, node: Node) -> None:
        await asyncio.gather(*self._tidying)
        self._tidying.clear()
        await node.start()
        if node.is_up:
            self.connect_all()

    # Waiting.

    async def until(self, condition: Callable[[], bool], seconds: float = 3600.0, step: float = 0.25) -> None:
        async with asyncio.timeout(seconds):
            while not condition():  # noqa: ASYNC110  virtual time, and nothing could set an event
                await asyncio.sleep(step)

    async def rest(self, blocks: int = 6) -> None:
        """Until no HTLC stands anywhere and everything is on the disks. What waits for a block gets some."""
        for _ in range(blocks):
            try:
                await self.until(self._at_rest, BLOCK_SECONDS)
                break
            except TimeoutError:
                self.mine()
        assert self._at_rest(), f"HTLCs stand after {blocks} blocks"
        await asyncio.sleep(1.0)

    def mine(self) -> None:
        """An empty block."""
        self.height = BlockHeight(self.height + 1)
        for node in self.nodes:
            if node.is_up:
                node.bus.publish(chain.TipChanged(self.height, bytes(32), int(self.loop.wall())))

    def _at_rest(self) -> bool:
        return all(node.is_up and not node.has_htlcs() for node in self.nodes)

    def _all_usable(self) -> bool:
        return all(
            not channel.halted and type(channel.state.committed.phase).__name__ == "Normal"
            for node in self.nodes
            for channel in node.channels._channels.values()
        )

    def cut_line(self, one: Node, two: Node) -> None:
        """What is under way is lost in both directions, and each end hears of it at once."""
        for node, other in ((one, two), (two, one)):
            node.disconnected(other.node_id)

    async def stop(self) -> None:
        for node in self.nodes:
            if node.is_up:
                self.kill(node)
        await asyncio.gather(*self._tidying)
        for node in self.nodes:
            node.disk.close()
            node.signer.service.close()


@contextmanager
def listening(trouble: list[str]) -> Iterator[None]:
    """The log is quiet but for what somebody has to look at: errors of the nodes, and of their signers."""

    def hear(_logger: Any, level: str, event: dict[str, Any]) -> str:
        if level in ("error", "critical"):
            trouble.append(f"{level}: {event}")
        raise structlog.DropEvent

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            trouble.append(record.getMessage())

    before = structlog.get_config()
    signers, handler = logging.getLogger("signer"), Handler(logging.ERROR)
    structlog.configure(
        processors=[hear],
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        cache_logger_on_first_use=False,
    )
    level, propagates = signers.level, signers.propagate
    signers.addHandler(handler)
    signers.setLevel(logging.ERROR)
    signers.propagate = False
    try:
        yield
    finally:
        signers.removeHandler(handler)
        signers.setLevel(level)
        signers.propagate = propagates
        structlog.configure(**before)


@contextmanager
def offering_parts() -> Iterator[None]:
    """Invoices say that they take several parts. Ours do not say so yet; once they do this changes nothing."""
    before = invoices.FEATURES
    invoices.FEATURES = before | {BASIC_MPP + 1}
    try:
        yield
    finally:
        invoices.FEATURES = before


@asynccontextmanager
async def _running(net: Net) -> AsyncIterator[Net]:
    await net.start()
    try:
        yield net
    finally:
        await net.stop()


def simulate(
    seed: int,
    shape: Shape | Callable[[Random], Shape],
    scene: Callable[[Net], Coroutine[Any, Any, T]],
    **given: float,
) -> T:
    """Plays `scene` on a network made from the seed; afterwards nothing was wrong that should not be."""

    async def main(loop: VirtualLoop) -> T:
        made = shape if isinstance(shape, Shape) else shape(random)
        net = Net(loop, made, Path(folder), random, **given)
        with listening(net.trouble):
            async with _running(net):
                result = await scene(net)
        refused = [one for node in net.nodes for one in node.signer.refusals]
        wrong = net.trouble + [words for tag, words in refused if tag not in net.legal_refusals]
        assert not wrong, f"seed {seed}: {wrong[:5]}"
        return result

    parts = offering_parts()
    where = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=where) as folder, parts, seeded(seed) as random:
        return run(main)
