"""The real graph of February 2026 beside this checkout, and a packed form of it that loads fast.

Its short_channel_ids are synthetic: the source leaves them out.
"""

import csv
import io
import lzma
import os
import random
import struct
from pathlib import Path

from node.routing.graph import Graph
from node.routing.query import Query
from node.routing.sink import GraphSink
from protocol.amounts import Msat, scid
from protocol.bus.messages.routing import FirstHop
from tests.support import ROOT, need

FOLDER = Path(os.environ.get("LNP_GRAPH", ROOT.parent / "shared" / "graph"))
CHANNEL = struct.Struct("<Q33s33sQ")
POLICY = struct.Struct("<QBIBBHQQII")
NODE = struct.Struct("<33sI32s3s")
TIMESTAMP = 1_770_000_000


class Packed:
    """Rows as bytes, in the order of `GraphSink`'s arguments."""

    def __init__(self, channels: bytes, policies: bytes, nodes: bytes, ids: list[bytes]) -> None:
        self.channels = channels
        self.policies = policies
        self.nodes = nodes
        self.ids = ids
        """By the number of their channels, most first."""

    def load(self, sink: GraphSink) -> None:
        sink.begin_bulk()
        for number, one, other, capacity in CHANNEL.iter_unpack(self.channels):
            sink.put_channel(number, one, other, capacity, b"")
        put_policy = sink.put_policy
        for row in POLICY.iter_unpack(self.policies):
            put_policy(*row)
        for node_id, timestamp, alias, color in NODE.iter_unpack(self.nodes):
            sink.put_node(node_id, timestamp, alias, color, b"", b"")
        sink.end_bulk()


def present() -> bool:
    return (FOLDER / "channels.csv.xz").exists()


def read() -> Packed:
    """Skips the test that asked when the graph is not there."""
    need("graph", present(), "the mainnet graph is not beside this clone")
    ids: list[bytes] = []
    nodes, channels, policies = bytearray(), bytearray(), bytearray()
    for row in _rows("nodes.csv.xz"):
        node_id = bytes.fromhex(row[1])
        ids.append(node_id)
        nodes += NODE.pack(node_id, TIMESTAMP, row[2].encode()[:32], b"\1\2\3")
    for number, row in enumerate(_rows("channels.csv.xz")):
        one, other, capacity = int(row[0]), int(row[1]), int(row[2])
        at = scid(600_000 + number // 100, number % 100 + 1, 0)
        channels += CHANNEL.pack(at, ids[one], ids[other], capacity)
        for direction, terms in enumerate((row[3:8], row[8:13])):
            if terms[0]:
                base, ppm, cltv, least, most = (int(field) for field in terms)
                policies += POLICY.pack(at, direction, TIMESTAMP, 1, direction, cltv, least, most, base, ppm)
    return Packed(bytes(channels), bytes(policies), bytes(nodes), ids)


def queries(
    graph: Graph, amount: int, count: int, *, peers: int = 4, hubs: int | None = 300, spendable: float = 1.0
) -> list[Query]:
    """From a few peers to any node that such an amount may reach; the same ones in every run.

    The peers are of the `hubs` largest, or any that can send the amount on.
    """
    chosen = random.Random(amount)
    takes = [i for i in range(graph.size) if any(edge[6] > amount for edge in graph.incoming[i])]
    sends = {edge[0] for edges in graph.incoming for edge in edges if edge[6] > amount}
    both = [i for i in takes if i in sends]
    largest = sorted(both, key=lambda i: -sum(edge[6] for edge in graph.incoming[i]))[:hubs]
    found = []
    for _ in range(count):
        hops = tuple(
            FirstHop(
                graph.id_of(hub), scid(900_000, n, 0), Msat(int(amount * spendable) + 10**6), Msat(1), 30
            )
            for n, hub in enumerate(chosen.sample(largest, peers))
        )
        found.append(
            Query(
                graph,
                own=b"\x02" + bytes(32),
                destination=graph.id_of(chosen.choice(both)),
                amount=amount,
                final_delay=40,
                max_fee=amount // 20,
                first_hops=hops,
            )
        )
    return found


def _rows(name: str) -> list[list[str]]:
    text = lzma.decompress((FOLDER / name).read_bytes()).decode()
    return list(csv.reader(io.StringIO(text)))[1:]
