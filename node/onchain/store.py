"""The resolution of closed channels in the durable database: one row each, written whole."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from node.onchain.state import State

Unit = list[tuple[str, Sequence[tuple[Any, ...]]]]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(State).decode
_PUT = (
    "INSERT INTO onchain (channel, state, final, updated) VALUES (?, ?, ?, ?) ON CONFLICT (channel)"
    " DO UPDATE SET state = excluded.state, final = excluded.final, updated = excluded.updated"
)


class Reader(Protocol):
    """The reading half of the storage writer."""

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...


def put(row_id: int, state: State) -> Unit:
    return [(_PUT, [(row_id, _encode(state), state.final, int(time.time()))])]


def load_one(reader: Reader, row_id: int) -> State | None:
    rows = reader.read("SELECT state FROM onchain WHERE channel = ?", (row_id,))
    return _decode(rows[0][0]) if rows else None


def load(reader: Reader) -> list[tuple[int, State]]:
    """All of them: one that is final may still owe its channel the last word."""
    rows = reader.read("SELECT channel, state FROM onchain ORDER BY channel")
    return [(row_id, _decode(blob)) for row_id, blob in rows]
