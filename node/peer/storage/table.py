"""The blobs that we keep for peers, in the durable database (BOLT 1, "Peer storage")."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

from node.storage.writer import Unit
from protocol.amounts import BlockHeight

_PUT = "INSERT OR REPLACE INTO peer_blobs (node_id, blob, stored, released) VALUES (?, ?, ?, NULL)"
_RELEASE = "UPDATE peer_blobs SET released = ? WHERE node_id = ?"
_DROP = "DELETE FROM peer_blobs WHERE node_id = ?"


class Reader(Protocol):
    """The reading half of the storage writer."""

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...


def put(node_id: bytes, blob: bytes) -> Unit:
    """The last one replaces the one before."""
    return [(_PUT, [(node_id, blob, int(time.time()))])]


def release(changes: Sequence[tuple[bytes, BlockHeight | None]]) -> Unit:
    """Since which block these peers have no channel with us; None: they have one."""
    return [(_RELEASE, [(height, node_id) for node_id, height in changes])]


def drop(node_ids: Sequence[bytes]) -> Unit:
    return [(_DROP, [(node_id,) for node_id in node_ids])]


def blob_of(reader: Reader, node_id: bytes) -> bytes | None:
    found = reader.read("SELECT blob FROM peer_blobs WHERE node_id = ?", (node_id,))
    return found[0][0] if found else None


def released(reader: Reader) -> dict[bytes, BlockHeight | None]:
    """Everybody for whom we keep one, and since which block without a channel."""
    return dict(reader.read("SELECT node_id, released FROM peer_blobs"))
