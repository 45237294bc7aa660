"""Channels in the durable database: a header and the HTLC rows that changed, as one unit for the writer."""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from node.channel.events import Step
from node.channel.state import Closed, Committed, Htlc, State, Volatile
from node.channel.turn import cln_state
from protocol.amounts import Msat
from protocol.bus.messages.channel import forward_origin

Unit = list[tuple[str, Sequence[tuple[Any, ...]]]]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Committed).decode
_COLUMNS = (
    "offered, id, amount_msat, payment_hash, cltv_expiry, local_from, local_to, remote_from, remote_to,"
    " onion, payload, next_onion, um, ammag, preimage, failure, failure_code, origin, onion_key,"
    " ammagext, attribution"
)
_PUT_CHANNEL = "UPDATE channels SET state = ?, phase = ?, updated = ? WHERE id = ?"
_NEW_CHANNEL = "INSERT INTO channels (id, channel_id, peer, state, phase, updated) VALUES (?, ?, ?, ?, ?, ?)"
_NEW_HTLC = f"INSERT INTO htlcs (channel, done, {_COLUMNS}) VALUES ({', '.join('?' * 23)})"  # noqa: S608 - our own column names
_PUT_HTLC = (
    "UPDATE htlcs SET local_from = ?, local_to = ?, remote_from = ?, remote_to = ?, onion = ?, payload = ?,"
    " next_onion = ?, um = ?, ammag = ?, preimage = ?, failure = ?, failure_code = ?, ammagext = ?,"
    " attribution = ?, done = ?"
    " WHERE channel = ? AND offered = ? AND id = ?"
)
_MOST_NAMED = 500
"""Values in one query; SQLite takes some thousands."""
_FORGET_ATTRIBUTION = "UPDATE htlcs SET attribution = NULL WHERE origin = ? AND attribution IS NOT NULL"
_DROP_HTLC = "DELETE FROM htlcs WHERE channel = ? AND offered = ? AND id = ?"
_JOURNAL = "INSERT INTO journal (channel, event, at) VALUES (?, ?, ?)"
_CUT_JOURNAL = (
    "DELETE FROM journal WHERE channel = ? AND seq <="
    " (SELECT seq FROM journal WHERE channel = ? ORDER BY seq DESC LIMIT 1 OFFSET ?)"
)
KEPT_ENTRIES = 2000
"""Of the journal of a channel: what people may ask about is kept by its causes, the journal tells the last messages."""


class Reader(Protocol):
    """The reading half of the storage writer."""

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...


def new_channel(row_id: int, committed: Committed) -> Unit:
    params = committed.params
    row = (row_id, params.channel_id, params.peer, _encode(committed), _phase(committed), int(time.time()))
    return [(_NEW_CHANNEL, [row])]


def put_header(row_id: int, committed: Committed) -> Unit:
    return [(_PUT_CHANNEL, [(_encode(committed), _phase(committed), int(time.time()), row_id)])]


def changes(row_id: int, before: State, step: Step, event: str) -> Unit:
    """What a step changed. Rows are compared by identity: a step replaces the row that it changes."""
    now = int(time.time())
    committed, old, new = step.state.committed, before.htlcs, step.state.htlcs
    unit = put_header(row_id, committed)
    added, changed = [], []
    dropped = {row.key for row in step.dropped if row.key in old}
    for key, row in new.items():
        was = old.get(key)
        if was is None or (key in dropped and was is not row):  # the id was given to another offer at once
            added.append(_values(row_id, row))
        elif was is not row:
            changed.append(_update(row_id, row, done=0))
    for row in step.finished:
        if row.key in old:
            changed.append(_update(row_id, row, done=1))
        else:  # begun and ended in one step: nothing before it was ever saved
            added.append((row_id, 1, *_values(row_id, row)[2:]))
    if dropped:
        unit.append((_DROP_HTLC, [(row_id, *key) for key in dropped]))
    if added:
        unit.append((_NEW_HTLC, added))
    if changed:
        unit.append((_PUT_HTLC, changed))
    failed = [row for row in step.finished if not row.offered and row.preimage is None]
    if failed:
        # Whatever passed them on is told of no more: what its peer said about the failure has gone upstream.
        channel_id = committed.params.channel_id
        unit.append((_FORGET_ATTRIBUTION, [(forward_origin(channel_id, row.id),) for row in failed]))
    unit.append((_JOURNAL, [(row_id, event, now)]))
    return unit


def _phase(committed: Committed) -> str:
    return cln_state(committed.phase, opener=committed.params.holder_is_opener)


def _values(row_id: int, row: Htlc) -> tuple[Any, ...]:
    return (
        row_id,
        0,
        row.offered,
        row.id,
        row.amount_msat,
        row.payment_hash,
        row.cltv_expiry,
        row.local_from,
        row.local_to,
        row.remote_from,
        row.remote_to,
        row.onion,
        row.payload,
        row.next_onion,
        row.um,
        row.ammag,
        row.preimage,
        row.failure,
        row.failure_code,
        row.origin,
        row.onion_key,
        row.ammagext,
        row.attribution,
    )


def _update(row_id: int, row: Htlc, *, done: int) -> tuple[Any, ...]:
    return (
        row.local_from,
        row.local_to,
        row.remote_from,
        row.remote_to,
        row.onion,
        row.payload,
        row.next_onion,
        row.um,
        row.ammag,
        row.preimage,
        row.failure,
        row.failure_code,
        row.ammagext,
        row.attribution,
        done,
        row_id,
        row.offered,
        row.id,
    )


def note(row_id: int, text: str) -> Unit:
    """An entry of the journal without a change."""
    return [(_JOURNAL, [(row_id, text, int(time.time()))])]


def cut_journal(row_id: int) -> Unit:
    """Forgets all but the newest entries of this channel."""
    return [(_CUT_JOURNAL, [(row_id, row_id, KEPT_ENTRIES)])]


def journal(reader: Reader, row_id: int, newest: int) -> list[tuple[str, int]]:
    """The newest entries, oldest first."""
    sql = "SELECT event, at FROM journal WHERE channel = ? ORDER BY seq DESC LIMIT ?"
    return [(event, at) for event, at in reversed(reader.read(sql, (row_id, newest)))]


def row_of(reader: Reader, channel_id: bytes) -> int | None:
    rows = reader.read("SELECT id FROM channels WHERE channel_id = ?", (channel_id,))
    return int(rows[0][0]) if rows else None


def load(reader: Reader) -> list[tuple[int, State]]:
    """Every channel that is not closed, with its live HTLCs."""
    found = []
    for row_id, blob in reader.read("SELECT id, state FROM channels ORDER BY id"):
        committed = _decode(blob)
        if not isinstance(committed.phase, Closed):
            found.append((row_id, State(committed, load_htlcs(reader, row_id), Volatile())))
    return found


def load_closed(reader: Reader) -> list[Committed]:
    rows = reader.read("SELECT state FROM channels WHERE phase = 'CLOSED' ORDER BY id")
    return [_decode(blob) for (blob,) in rows]


def load_htlcs(reader: Reader, row_id: int) -> dict[tuple[bool, int], Htlc]:
    rows = reader.read(f"SELECT {_COLUMNS} FROM htlcs WHERE channel = ? AND done = 0", (row_id,))  # noqa: S608
    htlcs = {}
    for offered, *rest in rows:
        row = Htlc(bool(offered), *rest)
        htlcs[row.key] = row
    return htlcs


def load_all_htlcs(reader: Reader, row_id: int) -> tuple[list[Htlc], list[Htlc]]:
    """The live rows, and the finished ones: with their ranges the record of every state that was revoked."""
    found: tuple[list[Htlc], list[Htlc]] = ([], [])
    for done, offered, *rest in reader.read(
        f"SELECT done, {_COLUMNS} FROM htlcs WHERE channel = ?",  # noqa: S608 - our own column names
        (row_id,),
    ):
        found[bool(done)].append(Htlc(bool(offered), *rest))
    return found


def next_row_id(reader: Reader) -> int:
    ((highest,),) = reader.read("SELECT coalesce(max(id), 0) FROM channels")
    return int(highest) + 1


def origins(
    reader: Reader, wanted: Sequence[str] | None = None
) -> list[tuple[str, bytes | None, bytes | None, int | None, int, bytes | None]]:
    """(origin, preimage, failure, failure code, done, attribution) of these HTLCs, or of every one that we
    ever offered for somebody."""
    sql = (
        "SELECT origin, preimage, failure, failure_code, done, attribution FROM htlcs"
        " WHERE offered = 1 AND origin IS NOT NULL"
    )
    if wanted is None:
        rows = reader.read(sql)
    else:
        rows = []
        for first in range(0, len(wanted), _MOST_NAMED):
            some = tuple(wanted[first : first + _MOST_NAMED])
            rows += reader.read(f"{sql} AND origin IN ({', '.join('?' * len(some))})", some)
    return [
        (origin, preimage, failure, code, done, told) for origin, preimage, failure, code, done, told in rows
    ]


def settled_received(reader: Reader, payment_hash: bytes) -> Msat:
    """What came in for good under this hash."""
    ((amount,),) = reader.read(
        "SELECT coalesce(sum(amount_msat), 0) FROM htlcs"
        " WHERE payment_hash = ? AND offered = 0 AND done = 1 AND preimage IS NOT NULL",
        (payment_hash,),
    )
    return Msat(amount)
