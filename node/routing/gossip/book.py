"""What we know of every public channel, in columns: enough to judge a message without reading the store (BOLT 7).

A mainnet graph has 50,000 channels; an object for each would cost more memory than all columns together. The
messages themselves are in the store.
"""

from array import array
from collections.abc import Iterator

NOTHING = 0
TXID = 32


class Book:
    def __init__(self) -> None:
        self.rows: dict[int, int] = {}
        """Short channel id to row."""
        self.spent: dict[int, int] = {}
        """Channels whose funding output is gone, and the height at which we saw it."""
        self.no_relay: set[bytes] = set()
        """Nodes whose announcement we hold but must not pass on."""
        self._scid = array("Q")
        self._node_1 = array("I")
        self._node_2 = array("I")
        self._capacity = array("Q")
        self._seen = array("I")
        self._timestamps = array("I")  # two a row
        self._txids = bytearray()  # of the funding transaction, 32 a row
        self._free: list[int] = []
        self._nodes: dict[bytes, int] = {}
        self._node_ids: list[bytes] = []
        self._node_channels = array("I")
        self._node_timestamp = array("I")
        self._free_nodes: list[int] = []
        self._checksums: dict[int, int] = {}
        self._sorted: list[int] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __contains__(self, scid: int) -> bool:
        return scid in self.rows

    # Channels.

    def add(
        self, scid: int, node_id_1: bytes, node_id_2: bytes, capacity: int, seen: int, txid: bytes
    ) -> tuple[bytes, bytes]:
        """The node ids, as the one object that everybody shares. `seen`: when we took the announcement.

        `txid`: of the funding transaction.
        """
        if len(txid) != TXID:
            raise ValueError(f"a txid has {TXID} bytes, not {len(txid)}")
        one, two = self._node(node_id_1), self._node(node_id_2)
        self._node_channels[one] += 1
        self._node_channels[two] += 1
        if self._free:
            row = self._free.pop()
            self._scid[row], self._capacity[row], self._seen[row] = scid, capacity, seen
            self._node_1[row], self._node_2[row] = one, two
            self._timestamps[2 * row] = self._timestamps[2 * row + 1] = NOTHING
            self._txids[TXID * row : TXID * (row + 1)] = txid
        else:
            row = len(self._scid)
            self._scid.append(scid)
            self._node_1.append(one)
            self._node_2.append(two)
            self._capacity.append(capacity)
            self._seen.append(seen)
            self._timestamps.extend((NOTHING, NOTHING))
            self._txids += txid
        self.rows[scid] = row
        self._sorted = None
        return self._node_ids[one], self._node_ids[two]

    def drop(self, scid: int) -> list[bytes]:
        """Answers with the nodes that have no channel left; they are forgotten too."""
        row = self.rows.pop(scid)
        self.spent.pop(scid, None)
        self._checksums.pop(2 * row, None)
        self._checksums.pop(2 * row + 1, None)
        self._free.append(row)
        self._sorted = None
        gone = []
        for node in (self._node_1[row], self._node_2[row]):
            self._node_channels[node] -= 1
            if not self._node_channels[node]:
                node_id = self._node_ids[node]
                gone.append(node_id)
                del self._nodes[node_id]
                self.no_relay.discard(node_id)
                self._node_ids[node] = b""
                self._free_nodes.append(node)
        return gone

    def ends(self, scid: int) -> tuple[bytes, bytes]:
        row = self.rows[scid]
        return self._node_ids[self._node_1[row]], self._node_ids[self._node_2[row]]

    def capacity(self, scid: int) -> int:
        return self._capacity[self.rows[scid]]

    def outpoint(self, scid: int) -> bytes:
        """Of the funding output, serialised."""
        row = self.rows[scid]
        return bytes(self._txids[TXID * row : TXID * (row + 1)]) + (scid & 0xFFFF).to_bytes(4, "little")

    def at_outpoint(self, outpoint: bytes) -> int | None:
        """The channel with this funding output. A search through all txids: a few are asked for with a block."""
        txid, index = outpoint[:TXID], int.from_bytes(outpoint[TXID:], "little")
        at = self._txids.find(txid)
        while at >= 0:
            row, rest = divmod(at, TXID)
            if not rest:
                scid = self._scid[row]
                if scid & 0xFFFF == index and self.rows.get(scid) == row:
                    return scid
            at = self._txids.find(txid, at + 1)
        return None

    def timestamp(self, scid: int, direction: int) -> int:
        """0: no update was seen."""
        return self._timestamps[2 * self.rows[scid] + direction]

    def set_timestamp(self, scid: int, direction: int, timestamp: int) -> None:
        at = 2 * self.rows[scid] + direction
        self._timestamps[at] = timestamp
        self._checksums.pop(at, None)

    def checksum(self, scid: int, direction: int) -> int | None:
        """None when nobody worked it out since the last update."""
        return self._checksums.get(2 * self.rows[scid] + direction)

    def set_checksum(self, scid: int, direction: int, checksum: int) -> None:
        self._checksums[2 * self.rows[scid] + direction] = checksum

    def stale(self, before: int) -> list[int]:
        """Channels of which one side was silent since `before` (BOLT 7, "Recommendation on Pruning Stale Entries").

        A side that never spoke counts from the day on which we took the announcement.
        """
        found = []
        for scid, row in self.rows.items():
            seen = self._seen[row]
            older = min(self._timestamps[2 * row] or seen, self._timestamps[2 * row + 1] or seen)
            if older < before:
                found.append(scid)
        return found

    def sorted_ids(self) -> list[int]:
        """All short channel ids, ascending; the same list until a channel comes or goes."""
        if self._sorted is None:
            self._sorted = sorted(self.rows)
        return self._sorted

    # Nodes.

    def _node(self, node_id: bytes) -> int:
        node = self._nodes.get(node_id)
        if node is None:
            if self._free_nodes:
                node = self._free_nodes.pop()
                self._node_ids[node] = node_id
                self._node_channels[node] = self._node_timestamp[node] = 0
            else:
                node = len(self._node_ids)
                self._node_ids.append(node_id)
                self._node_channels.append(0)
                self._node_timestamp.append(NOTHING)
            self._nodes[node_id] = node
        return node

    def channels_of(self, node_id: bytes) -> list[int]:
        node = self._nodes.get(node_id)
        return [s for s, row in self.rows.items() if node in (self._node_1[row], self._node_2[row])]

    def has_node(self, node_id: bytes) -> bool:
        return node_id in self._nodes

    def node_timestamp(self, node_id: bytes) -> int:
        return self._node_timestamp[self._nodes[node_id]]

    def set_node_timestamp(self, node_id: bytes, timestamp: int) -> None:
        self._node_timestamp[self._nodes[node_id]] = timestamp

    def shared(self, node_id: bytes) -> bytes:
        """The object that stands for this id everywhere."""
        return self._node_ids[self._nodes[node_id]]

    def nodes(self) -> Iterator[bytes]:
        return iter(self._nodes)
