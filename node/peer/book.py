"""Where peers were reached, kept in the table `peers` (addresses parted by blanks, the newest first)."""

import time

from node.storage.writer import Writer

_MOST_ADDRESSES = 4
_REACHED = (
    "INSERT INTO peers (node_id, addresses, last_seen) VALUES (?, ?, ?) ON CONFLICT (node_id) "
    "DO UPDATE SET addresses = excluded.addresses, last_seen = excluded.last_seen"
)
_SEEN = "UPDATE peers SET last_seen = ? WHERE node_id = ?"


class AddressBook:
    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._new: dict[bytes, tuple[str, ...]] = {}
        """Those of this run, since a row can be read only once it was committed."""

    def addresses(self, node_id: bytes) -> tuple[str, ...]:
        if node_id in self._new:
            return self._new[node_id]
        rows = self._writer.read("SELECT addresses FROM peers WHERE node_id = ?", (node_id,))
        return tuple(rows[0][0].split()) if rows else ()

    def last_seen(self, node_id: bytes) -> int:
        rows = self._writer.read("SELECT last_seen FROM peers WHERE node_id = ?", (node_id,))
        return int(rows[0][0] or 0) if rows else 0

    def reached(self, node_id: bytes, address: str) -> None:
        """We dialled this address and the peer proved to be there."""
        others = [known for known in self.addresses(node_id) if known != address]
        kept = (address, *others)[:_MOST_ADDRESSES]
        self._new[node_id] = kept
        self._writer.submit([(_REACHED, [(node_id, " ".join(kept), int(time.time()))])], now=False)

    def seen(self, node_id: bytes) -> None:
        """A peer without an address is not entered: it came to us from a port that leads nowhere."""
        self._writer.submit([(_SEEN, [(int(time.time()), node_id)])], now=False)
