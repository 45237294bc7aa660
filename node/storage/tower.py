"""Revoked commitments of peers whose penalties are not in the watchtower's file yet: what the channels note and the
tower service takes (BOLT 5, "Revoked Transaction Close Handling").

A row is written in the very unit that saves the revocation, and deleted after its line was synced: a crash between
repeats a line and never loses one.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from protocol.bolt3.content import CommitmentContent
from protocol.bus.messages.signer_operations import AcceptRevocation

PUT = "INSERT INTO tower_pending (channel, body) VALUES (?, ?)"
DELETE = "DELETE FROM tower_pending WHERE id = ?"


class Revoked(Struct, frozen=True, array_like=True):
    """`content`: of the peer's commitment. `revocation`: how it revoked it, for a signer that was not told yet."""

    content: CommitmentContent
    revocation: AcceptRevocation | None


class Reader(Protocol):
    """The reading half of the storage writer."""

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Revoked).decode


def row(channel: bytes, revoked: Revoked) -> tuple[bytes, bytes]:
    return channel, _encode(revoked)


def oldest(reader: Reader, after: int, limit: int) -> list[tuple[int, bytes, Revoked]]:
    """Id, the signer's handle of the channel, and the commitment."""
    sql = "SELECT id, channel, body FROM tower_pending WHERE id > ? ORDER BY id LIMIT ?"
    return [(number, channel, _decode(body)) for number, channel, body in reader.read(sql, (after, limit))]


def count(reader: Reader) -> int:
    return int(reader.read("SELECT count(*) FROM tower_pending")[0][0])
