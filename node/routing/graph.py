"""The public graph in memory: channels, the policies of their directions, and nodes (BOLT 7).

Made for backward path search in plain Python. Every usable direction is one tuple in the list of the node that
it leads to, so a search unpacks tuples and looks nothing up. Beside it a table of 32-byte rows keeps all
policies as they were told, for listings and for numpy, which reads a copy of it as columns.

The event loop writes, worker threads read. Lists grow and are replaced, tuples never change, and nothing that
a search may hold is shortened in place: a search that runs meanwhile sees the old or the new terms of a channel.
"""

import struct
from array import array
from collections.abc import Iterator

from msgspec import Struct

from node.routing.core import Edge, two_core

ROW = struct.Struct("<IBBHIIQQ")
"""timestamp, message_flags, channel_flags, cltv delta, base, ppm, htlc_minimum, htlc_maximum: 32 bytes."""
DISABLED = 2
"""The bit of channel_flags (BOLT 7, "The channel_update Message")."""
_UNKNOWN, _OFF, _ON = 0, 1, 2
_EDITS = 4_096
_RELINKS = 2_000
"""After so many new links the core is computed afresh: until then it only grows."""


class Policy(Struct, frozen=True):
    """What one end of a channel asks for its direction, as it told us."""

    timestamp: int
    message_flags: int
    channel_flags: int
    cltv_expiry_delta: int
    fee_base_msat: int
    fee_proportional_millionths: int
    htlc_minimum_msat: int
    htlc_maximum_msat: int

    @property
    def enabled(self) -> bool:
        return not self.channel_flags & DISABLED and self.htlc_maximum_msat > 0


class NodeFacts(Struct, frozen=True):
    """From the newest node_announcement; a node without one has timestamp None."""

    timestamp: int | None = None
    alias: bytes = b""
    color: bytes = b""
    features: bytes = b""
    addresses: bytes = b""


_NOTHING = NodeFacts()


class ChannelFacts(Struct, frozen=True):
    """A channel with the policies of direction 0 and 1, None where there was no update."""

    short_channel_id: int
    node_ids: tuple[bytes, bytes]
    capacity_sat: int
    features: bytes
    policies: tuple[Policy | None, Policy | None]


class Graph:
    """Implements `node.routing.sink.GraphSink`. A direction's key is `short_channel_id << 1 | direction`."""

    def __init__(self) -> None:
        self.incoming: list[list[Edge]] = []
        """By node: the usable directions that lead to it."""
        self.structure = 0
        """Moves with the set of channels: what was derived from the graph is stale then."""
        self.edited: list[int] = []
        """Keys of directions that got new terms since `structure` last moved, in order; it only grows."""
        self.loading = False
        self._index: dict[bytes, int] = {}
        self._ids: list[bytes] = []
        self._facts: list[NodeFacts] = []
        self._degree = array("I")
        self._channels: dict[int, int] = {}
        self._scids: list[int] = []
        self._ends = (array("I"), array("I"))
        self._capacity = array("Q")
        self._features: dict[int, bytes] = {}
        self._rows = bytearray()
        self._state = bytearray()
        self._free: list[int] = []
        self._core = bytearray()
        self._parent: dict[int, int] = {}
        self._core_due = True
        self._links = 0

    # What gossip tells.

    def begin_bulk(self) -> None:
        self.loading = True

    def end_bulk(self) -> None:
        self.loading = False
        self._core_due = True

    def put_channel(
        self, scid: int, node_id_1: bytes, node_id_2: bytes, capacity_sat: int, features: bytes
    ) -> None:
        ends = (self._node(node_id_1), self._node(node_id_2))
        at = self._channels.get(scid)
        if at is not None:
            if (self._ends[0][at], self._ends[1][at]) == ends and self._capacity[at] == capacity_sat:
                return
            self.drop_channel(scid)
        if self._free:
            at = self._free.pop()
            self._scids[at] = scid
            self._ends[0][at], self._ends[1][at] = ends
            self._capacity[at] = capacity_sat
        else:
            at = len(self._scids)
            self._scids.append(scid)
            self._ends[0].append(ends[0])
            self._ends[1].append(ends[1])
            self._capacity.append(capacity_sat)
            self._rows += bytes(2 * ROW.size)
            self._state += b"\0\0"
        self._channels[scid] = at
        if features:
            self._features[scid] = features
        self._degree[ends[0]] += 1
        self._degree[ends[1]] += 1
        self._new_structure()

    def put_policy(
        self,
        scid: int,
        direction: int,
        timestamp: int,
        message_flags: int,
        channel_flags: int,
        cltv_delta: int,
        htlc_min: int,
        htlc_max: int,
        base: int,
        ppm: int,
    ) -> None:
        at = self._channels.get(scid)
        if at is None:
            return
        row = 2 * at + direction
        if len(self.edited) >= _EDITS:
            self._new_structure()
        self.edited.append(scid << 1 | direction)
        ROW.pack_into(
            self._rows,
            row * ROW.size,
            timestamp,
            message_flags,
            channel_flags,
            cltv_delta,
            base,
            ppm,
            htlc_min,
            htlc_max,
        )
        was = self._state[row]
        tail, head = self._ends[direction][at], self._ends[1 - direction][at]
        if channel_flags & DISABLED or not htlc_max:
            self._state[row] = _OFF
            if was == _ON:
                self._unlink(head, scid << 1 | direction)
            return
        capacity = self._capacity[at] * 1000 or htlc_max
        most = htlc_max if htlc_max < capacity else capacity
        key = scid << 1 | direction
        edge = (tail, key, base, ppm, cltv_delta, htlc_min, most, capacity + 1)
        into = self.incoming[head]
        if was == _ON:
            for position, old in enumerate(into):
                if old[1] == key:
                    into[position] = edge
                    return
        self._state[row] = _ON
        into.append(edge)
        if not self._core_due:
            self._link(tail, head)

    def put_node(
        self, node_id: bytes, timestamp: int, alias: bytes, color: bytes, features: bytes, addresses: bytes
    ) -> None:
        self._facts[self._node(node_id)] = NodeFacts(timestamp, alias, color, features, addresses)

    def drop_channel(self, scid: int) -> None:
        at = self._channels.pop(scid, None)
        if at is None:
            return
        for direction in (0, 1):
            if self._state[2 * at + direction] == _ON:
                self._unlink(self._ends[1 - direction][at], scid << 1 | direction)
            self._degree[self._ends[direction][at]] -= 1
        self._state[2 * at : 2 * at + 2] = b"\0\0"
        self._features.pop(scid, None)
        self._free.append(at)
        self._new_structure()

    def _node(self, node_id: bytes) -> int:
        found = self._index.get(node_id)
        if found is None:
            found = len(self._ids)
            # The index last: whoever finds a node in another thread finds all of it.
            self._ids.append(node_id)
            self._facts.append(_NOTHING)
            self._degree.append(0)
            self.incoming.append([])
            self._index[node_id] = found
        return found

    def _new_structure(self) -> None:
        self.edited = []
        self.structure += 1

    def _unlink(self, head: int, key: int) -> None:
        self.incoming[head] = [edge for edge in self.incoming[head] if edge[1] != key]

    # What searches read.

    @property
    def size(self) -> int:
        """Nodes by index are below this."""
        return len(self._ids)

    @property
    def channels(self) -> int:
        return len(self._channels)

    def index_of(self, node_id: bytes) -> int | None:
        return self._index.get(node_id)

    def id_of(self, index: int) -> bytes:
        return self._ids[index]

    def is_linked(self, index: int) -> bool:
        """Whether the node has a channel now; one without may be forgotten by whoever lists."""
        return self._degree[index] > 0

    def policy(self, scid: int, direction: int) -> Policy | None:
        at = self._channels.get(scid)
        return None if at is None else self._policy(at, direction)

    def edge(self, key: int) -> tuple[Edge, int] | None:
        """The usable direction with this key, and the node that it leads to."""
        at = self._channels.get(key >> 1)
        if at is None or self._state[2 * at + (key & 1)] != _ON:
            return None
        head = self._ends[1 - (key & 1)][at]
        return next(((edge, head) for edge in self.incoming[head] if edge[1] == key), None)

    def head_of(self, key: int) -> int | None:
        at = self._channels.get(key >> 1)
        return None if at is None else self._ends[1 - (key & 1)][at]

    def room_of(self, key: int) -> int | None:
        """The capacity in msat and one; None when it is not known."""
        at = self._channels.get(key >> 1)
        if at is None:
            return None
        capacity = self._capacity[at] * 1000
        if not capacity:
            policy = self._policy(at, key & 1)
            capacity = policy.htlc_maximum_msat if policy is not None else 0
        return capacity + 1 if capacity else None

    def outgoing(self, index: int) -> list[tuple[Edge, int]]:
        """The usable directions out of a node, each with its head; found by a scan, for cold paths."""
        found = []
        for direction in (0, 1):
            tails, heads = self._ends[direction], self._ends[1 - direction]
            for scid, at in list(self._channels.items()):
                if tails[at] == index and self._state[2 * at + direction] == _ON:
                    edge = self.edge(scid << 1 | direction)
                    if edge is not None:
                        found.append((edge[0], heads[at]))
        return found

    def rows(self) -> tuple[bytes, bytes]:
        """A copy for numpy: the policy rows, and the state of each (2 is usable)."""
        return bytes(self._rows), bytes(self._state)

    def layout(self) -> "tuple[array[int], array[int], array[int], list[int]]":
        """A copy for numpy, by channel: both ends, the capacity in sat, the short_channel_id."""
        return self._ends[0][:], self._ends[1][:], self._capacity[:], self._scids[:]

    def slot(self, key: int) -> int | None:
        """The row of a direction in `table`."""
        at = self._channels.get(key >> 1)
        return None if at is None else 2 * at + (key & 1)

    def key_of(self, slot: int) -> int:
        return self._scids[slot >> 1] << 1 | slot & 1

    # Listings.

    def node(self, node_id: bytes) -> NodeFacts | None:
        found = self._index.get(node_id)
        return None if found is None or not self._degree[found] else self._facts[found]

    def nodes(self) -> Iterator[tuple[bytes, NodeFacts]]:
        for index, node_id in enumerate(self._ids):
            if self._degree[index]:
                yield node_id, self._facts[index]

    def channel(self, scid: int) -> ChannelFacts | None:
        at = self._channels.get(scid)
        if at is None:
            return None
        return ChannelFacts(
            scid,
            (self._ids[self._ends[0][at]], self._ids[self._ends[1][at]]),
            self._capacity[at],
            self._features.get(scid, b""),
            (self._policy(at, 0), self._policy(at, 1)),
        )

    def channels_of(self, node_id: bytes | None = None) -> Iterator[ChannelFacts]:
        """All channels, or those of one node."""
        wanted = None if node_id is None else self._index.get(node_id, -1)
        for scid, at in list(self._channels.items()):
            if wanted is None or self._ends[0][at] == wanted or self._ends[1][at] == wanted:
                facts = self.channel(scid)
                if facts is not None:
                    yield facts

    def _policy(self, at: int, direction: int) -> Policy | None:
        row = 2 * at + direction
        if self._state[row] == _UNKNOWN:
            return None
        return Policy(*ROW.unpack_from(self._rows, row * ROW.size))

    # The core.

    def core(self) -> bytearray:
        """1 for each node that a path may pass through: the 2-core, or a little more. Four of five nodes are not.

        A path can enter a node outside of the 2-core only to end there, since one link leads to it; `way_up` has
        the exceptions of a query. Links that go leave the core too large, which is harmless; links that come
        are added at once. Do not change what is returned.
        """
        if self._core_due or self._links > _RELINKS:
            self._peel()
        elif len(self._core) < len(self._ids):
            self._core += bytes(len(self._ids) - len(self._core))
        return self._core

    def way_up(self, index: int) -> list[int]:
        """The nodes from this one to the core, itself included: how a leaf is reached."""
        way = []
        seen = set()
        at: int | None = index
        while at is not None and at not in seen and not (at < len(self._core) and self._core[at]):
            way.append(at)
            seen.add(at)
            at = self._parent.get(at)
        return way

    def _link(self, tail: int, head: int) -> None:
        # A new link closes cycles only through the ways up from its ends.
        if len(self._core) < len(self._ids):
            self._core += bytes(len(self._ids) - len(self._core))
        for end in (tail, head):
            for node in self.way_up(end):
                self._core[node] = 1
        self._links += 1

    def _peel(self) -> None:
        self._core, self._parent = two_core(self.incoming)
        self._core_due = False
        self._links = 0
