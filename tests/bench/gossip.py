"""`python -m tests.bench.gossip [--channels N] [--graph]`: a full gossip sync from one peer, and the load after it.

A first process makes a network in which every message is signed; a second one syncs it through the real service (chain
and peer are stand-ins that answer at once), so that its CPU and memory are those of the node alone. Aims for 50,000
channels: 20 s on two cores, 150 MB; load 0.6 s of CPU.
"""

import argparse
import asyncio
import hashlib
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

from node.chain.spends import Spends
from node.routing.gossip.presence import NodeFace
from node.routing.gossip.service import GossipService, GossipSettings
from node.routing.sink import GraphSink, NoGraph
from protocol.amounts import BlockHeight
from protocol.bolt7 import queries
from protocol.bolt9 import FeatureSet
from protocol.bus.local import LocalBus
from protocol.bus.messages import chain
from protocol.bus.messages import channel as channels
from protocol.bus.messages import peer as peers
from protocol.bus.service import Service, handles, hears
from protocol.wire import decode, encode
from protocol.wire.bolt7_gossip import (
    ChannelUpdateTimestamps,
    QueryChannelRange,
    QueryShortChannelIds,
    ReplyShortChannelIdsEnd,
)
from tests.bench.measure import memory_mb
from tests.node.routing.gossip import synth
from tests.node.routing.gossip.synth import CHAIN, NOW, node_id

SHARE_OF_NODES = 3
"""Mainnet has about three channels a node."""
PEER = 999_999
HEARTBEAT = 0.005
"""What else the loop has to do, such as channels: how late it comes is the price of gossip for them."""
_HEAD = struct.Struct(">Q32s34sHHHHH")
"""Place, txid, script, then the lengths of announcement, two updates and two nodes."""


def make(path: Path, count: int) -> None:
    """Writes a network of that many channels, in order of their places."""
    nodes = max(3, count // SHARE_OF_NODES)
    told: set[int] = set()
    with path.open("wb") as file:
        for public in synth.network(nodes, count):
            low, high = (public.a, public.b) if public.direction_of_a == 0 else (public.b, public.a)
            parts = [public.frame, public.update(0, NOW - 100), public.update(1, NOW - 50)]
            for number in (low, high):
                parts.append(b"" if number in told else synth.node(number, NOW - 10))
                told.add(number)
            head = _HEAD.pack(public.place, bytes(32), public.output.script, *map(len, parts))
            file.write(head + b"".join(parts))


class World(Service):
    """The chain and the one peer, out of the file."""

    name: ClassVar[str] = "peer"

    def __init__(self, bus: LocalBus, path: Path) -> None:
        super().__init__(bus)
        self._file = path.open("rb")
        self._at: dict[int, int] = {}
        self.scripts: dict[int, bytes] = {}
        self.bytes_sent = 0
        data = path.read_bytes()
        at = 0
        while at < len(data):
            place, _, script, *sizes = _HEAD.unpack_from(data, at)
            self._at[place] = at
            self.scripts[place] = script
            at += _HEAD.size + sum(sizes)

    def _frames(self, place: int) -> list[bytes]:
        self._file.seek(self._at[place])
        *_, a, b, c, d, e = _HEAD.unpack(self._file.read(_HEAD.size))
        return [frame for size in (a, b, c, d, e) if (frame := self._file.read(size))]

    def _say(self, frames: list[bytes]) -> None:
        self.bytes_sent += sum(map(len, frames))
        self.bus.send("gossip", peers.GossipFromPeer(node_id(PEER), 1, tuple(frames)))

    @handles(peers.SendGossip)
    def send_gossip(self, _message: peers.SendGossip) -> bool:
        return True

    @hears(peers.ToPeer)
    def to_peer(self, message: peers.ToPeer) -> None:
        for frame in message.frames:
            query = decode(frame)
            if isinstance(query, QueryChannelRange):
                for part in queries.split_range(query, sorted(self._at)):
                    times = tuple(ChannelUpdateTimestamps(NOW - 100, NOW - 50) for _ in part[3])
                    self._say([encode(queries.range_reply(query, part, times, None))])
            elif isinstance(query, QueryShortChannelIds):
                for place in query.encoded_short_ids:
                    self._say(self._frames(place))
                self._say([encode(ReplyShortChannelIdsEnd(query.chain_hash, 1))])


class Chain(Service):
    name: ClassVar[str] = "chain"

    def __init__(self, bus: LocalBus, world: World) -> None:
        super().__init__(bus)
        self._world = world
        self.spends = Spends()
        """As the real service keeps them: their memory counts."""

    @handles(chain.GetTip)
    def tip(self, _request: chain.GetTip) -> chain.Tip:
        return chain.Tip(BlockHeight(1_000_000), bytes(32), True)

    @handles(chain.WatchSpends)
    def watch_spends(self, request: chain.WatchSpends) -> chain.SpendsWatched:
        self.spends.watch(request.outpoints)
        return chain.SpendsWatched(BlockHeight(1_000_000))

    @handles(chain.GetOutputAt)
    def output_at(self, request: chain.GetOutputAt) -> chain.OutputAt:
        place = request.height << 40 | request.tx_index << 16 | request.output_index
        return chain.OutputAt(
            hashlib.sha256(place.to_bytes(8, "big")).digest(),
            synth.CAPACITY,
            self._world.scripts[place],
            True,
        )


class Channels(Service):
    name: ClassVar[str] = "channel"

    @handles(channels.ListChannels)
    def list_channels(self, _request: channels.ListChannels) -> channels.Channels:
        return channels.Channels(())


class NoSigner:
    async def call(self, request: Any) -> Any:
        raise RuntimeError("nothing of ours is signed here")


def sink(wanted: bool) -> GraphSink:
    if not wanted:
        return NoGraph()
    from node.routing.graph import Graph

    graph: GraphSink = Graph()
    return graph


def service(bus: LocalBus, path: Path, graph: GraphSink) -> GossipService:
    face = NodeFace(bytes(32), b"\1\2\3", b"", b"")
    return GossipService(
        bus,
        node_id=node_id(PEER + 1),
        chain_hash=CHAIN,
        signer=NoSigner(),
        path=path,
        sink=graph,
        settings=GossipSettings(face),
        wall=lambda: float(NOW),
        tick_seconds=0.05,
    )


async def measure(network: Path, store: Path, with_graph: bool) -> dict[str, float]:
    bus = LocalBus()
    world = World(bus, network)
    expected = len(world.scripts)
    before = memory_mb(os.getpid())
    gossip = service(bus, store, sink(with_graph))
    node_chain = Chain(bus, world)
    for one in (world, node_chain, Channels(bus), gossip):
        await one.start()
    cpu, wall = time.process_time(), time.perf_counter()
    bus.publish(peers.PeerUp(node_id(PEER), 1, FeatureSet.of(7, 11).to_bytes()))
    late: list[float] = []
    while gossip.intake.counts.channels < expected or gossip.intake.counts.updates < 2 * expected:
        last = time.perf_counter()
        await asyncio.sleep(HEARTBEAT)
        late.append(time.perf_counter() - last - HEARTBEAT)
    await gossip.store.flush()
    async with asyncio.timeout(60):
        while len(node_chain.spends.wanted) < expected:  # noqa: ASYNC110  the service's own tick is waited for
            await asyncio.sleep(0.05)
    stored = os.path.getsize(store)  # noqa: ASYNC240
    counts = gossip.intake.counts
    found = {
        "channels": counts.channels,
        "updates": counts.updates,
        "nodes": counts.nodes,
        "megabytes": world.bytes_sent / 1e6,
        "sync_wall_s": time.perf_counter() - wall,
        "sync_cpu_s": time.process_time() - cpu,
        "late_median_ms": 1000 * sorted(late)[len(late) // 2],
        "late_worst_ms": 1000 * max(late),
        "sync_added_mb": memory_mb(os.getpid()) - before,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "store_mb": stored / 1e6,
    }
    await gossip.stop()
    return found


async def measure_load(store: Path, with_graph: bool) -> dict[str, float]:
    bus = LocalBus()
    before = memory_mb(os.getpid())
    gossip = service(bus, store, sink(with_graph))
    cpu = time.process_time()
    await gossip.start()
    await gossip.talk.loaded.wait()
    found = {
        "loaded": len(gossip.book),
        "load_cpu_s": time.process_time() - cpu,
        "load_added_mb": memory_mb(os.getpid()) - before,
    }
    await gossip.stop()
    return found


def run(channels: int, *, with_graph: bool) -> dict[str, float]:
    """Everything, in processes of their own."""
    with tempfile.TemporaryDirectory() as folder:
        network, store = Path(folder) / "network", Path(folder) / "gossip.db"
        began = time.perf_counter()
        make(network, channels)
        found = {"made_s": time.perf_counter() - began}
        more = ["--graph"] if with_graph else []
        for command in (["--sync", str(network), str(store)], ["--load", str(store)]):
            done = subprocess.run(
                [sys.executable, "-m", "tests.bench.gossip", *command, *more],
                stdout=subprocess.PIPE,
                check=True,
            )
            found |= json.loads(done.stdout.splitlines()[-1])
    return found


def rows(channels: int = 1_000) -> list[tuple[str, float, str, str]]:
    """For `make bench`: a small sync; (what, value, unit, aim). `--channels 50000` is the full size."""
    found = run(channels, with_graph=True)
    size = f"gossip, {channels} channels"
    return [
        (f"{size}: sync, CPU per channel", 1000 * found["sync_cpu_s"] / channels, "ms", "0.4"),
        (f"{size}: sync, wall per channel", 1000 * found["sync_wall_s"] / channels, "ms", "0.4"),
        (f"{size}: load, CPU per channel", 1000 * found["load_cpu_s"] / channels, "ms", "0.012"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--channels", type=int, default=5_000)
    parser.add_argument("--graph", action="store_true", help="feed the routing graph too")
    parser.add_argument("--sync", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--load", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.sync:
        print(json.dumps(asyncio.run(measure(Path(given.sync[0]), Path(given.sync[1]), given.graph))))
        return
    if given.load:
        print(json.dumps(asyncio.run(measure_load(Path(given.load), given.graph))))
        return
    for name, value in run(given.channels, with_graph=given.graph).items():
        print(f"{name:18} {value:,.2f}")


if __name__ == "__main__":
    main()
