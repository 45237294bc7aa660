"""The gossip that we hold, in a database of its own (BOLT 7): raw messages, to be served and to be loaded at the start.

It is disposable: the network tells us everything again. So a damaged file is thrown away with a line in the log, and
nothing here is on the way of a payment. Rows are written by one thread in batches; until they are in the file they
are read from memory.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from node.routing.gossip.book import Book
from node.routing.sink import GraphSink
from protocol.bolt7.announcement import DONT_FORWARD
from protocol.bolt7.layout import UPDATE_FROM_SCID, announcement_ids
from protocol.errors import MalformedMessage
from protocol.wire.bolt7_gossip import NodeAnnouncement
from protocol.wire.message import decode

log = structlog.get_logger()
FILE = "gossip.db"
VERSION = 2
FLUSH_FROM = 1_000
LOAD_STEP = 1_000
"""Rows between two turns of the loop while the graph is loaded."""

CHANNEL, POLICY, NODE, PEER_UPDATE, SPENT, MARK = KINDS = range(6)
Key = tuple[Any, ...]
Row = tuple[Any, ...]

_TABLES = (
    "CREATE TABLE channel (scid INTEGER PRIMARY KEY, capacity INTEGER, seen INTEGER, txid BLOB, raw BLOB)",
    "CREATE TABLE policy (scid INTEGER, direction INTEGER, raw BLOB, PRIMARY KEY (scid, direction)) WITHOUT ROWID",
    "CREATE TABLE node (node_id BLOB PRIMARY KEY, raw BLOB) WITHOUT ROWID",
    "CREATE TABLE peer_update (channel_id BLOB PRIMARY KEY, raw BLOB) WITHOUT ROWID",
    "CREATE TABLE spent (scid INTEGER PRIMARY KEY, height INTEGER)",
    "CREATE TABLE mark (name TEXT PRIMARY KEY, height INTEGER) WITHOUT ROWID",
)
_PUT = (
    "INSERT OR REPLACE INTO channel (scid, capacity, seen, txid, raw) VALUES (?, ?, ?, ?, ?)",
    "INSERT OR REPLACE INTO policy (scid, direction, raw) VALUES (?, ?, ?)",
    "INSERT OR REPLACE INTO node (node_id, raw) VALUES (?, ?)",
    "INSERT OR REPLACE INTO peer_update (channel_id, raw) VALUES (?, ?)",
    "INSERT OR REPLACE INTO spent (scid, height) VALUES (?, ?)",
    "INSERT OR REPLACE INTO mark (name, height) VALUES (?, ?)",
)
_DROP = (
    "DELETE FROM channel WHERE scid = ?",
    "DELETE FROM policy WHERE scid = ? AND direction = ?",
    "DELETE FROM node WHERE node_id = ?",
    "DELETE FROM peer_update WHERE channel_id = ?",
    "DELETE FROM spent WHERE scid = ?",
    "DELETE FROM mark WHERE name = ?",
)
_GET = (
    "SELECT raw FROM channel WHERE scid = ?",
    "SELECT raw FROM policy WHERE scid = ? AND direction = ?",
    "SELECT raw FROM node WHERE node_id = ?",
    "SELECT raw FROM peer_update WHERE channel_id = ?",
)


class GossipStore:
    """`path` None keeps everything in memory and writes nothing (tests)."""

    def __init__(self, path: Path | None, chain_hash: bytes) -> None:
        self._path = path
        self._chain_hash = chain_hash
        self._pending: dict[tuple[int, Key], Row | None] = {}
        """None: to be deleted."""
        self._writing: dict[tuple[int, Key], Row | None] = {}
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="gossip-store")
        self._flushing: asyncio.Task[None] | None = None
        self._reader = self._open()
        self.broken = False
        """The file turned out to be damaged while it was in use."""

    # Opening and throwing away.

    def _open(self) -> sqlite3.Connection:
        if self._path is None:
            return self._create(":memory:")
        try:
            connection = self._connect(str(self._path))
            found = connection.execute("PRAGMA user_version").fetchone()[0]
            if found == VERSION and self._is_ours(connection):
                return connection
            empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
            connection.close()
            if not empty:
                self._throw_away("it is of another version or another chain")
        except sqlite3.DatabaseError as error:
            self._throw_away(str(error))
        return self._create(str(self._path))

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        row = connection.execute("SELECT value FROM about WHERE name = 'chain_hash'").fetchone()
        return row is not None and bytes(row[0]) == self._chain_hash

    def _throw_away(self, reason: str) -> None:
        log.warning(
            "gossip_thrown_away",
            reason=reason,
            what_follows="The graph is asked for again from our peers; nothing else depends on this file.",
        )
        if self._path is not None:
            for suffix in ("", "-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def _connect(self, path: str) -> sqlite3.Connection:
        # The reader belongs to the loop, and in a file the writing thread has a connection of its own.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = wal")
        connection.execute("PRAGMA synchronous = normal")
        connection.execute("PRAGMA cache_size = -2000")
        return connection

    def _create(self, path: str) -> sqlite3.Connection:
        connection = self._connect(path)
        connection.execute("BEGIN")
        for table in _TABLES:
            connection.execute(table)
        connection.execute("CREATE TABLE about (name TEXT PRIMARY KEY, value BLOB)")
        connection.execute("INSERT INTO about VALUES ('chain_hash', ?)", (self._chain_hash,))
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
        return connection

    # Writing.

    def put_channel(self, scid: int, capacity: int, seen: int, txid: bytes, raw: bytes) -> None:
        self._put(CHANNEL, (scid,), (scid, capacity, seen, txid, raw))

    def put_policy(self, scid: int, direction: int, raw: bytes) -> None:
        self._put(POLICY, (scid, direction), (scid, direction, raw))

    def put_node(self, node_id: bytes, raw: bytes) -> None:
        self._put(NODE, (node_id,), (node_id, raw))

    def put_peer_update(self, channel_id: bytes, raw: bytes) -> None:
        """What the peer of one of our channels said of it, announced or not."""
        self._put(PEER_UPDATE, (channel_id,), (channel_id, raw))

    def put_spent(self, scid: int, height: int | None) -> None:
        """The block that spends the funding output; None when it left the chain."""
        self._put(SPENT, (scid,), None if height is None else (scid, height))

    def put_mark(self, name: str, height: int) -> None:
        self._put(MARK, (name,), (name, height))

    def drop_channel(self, scid: int, nodes_gone: list[bytes]) -> None:
        self._put(CHANNEL, (scid,), None)
        self._put(SPENT, (scid,), None)
        self._put(POLICY, (scid, 0), None)
        self._put(POLICY, (scid, 1), None)
        for node_id in nodes_gone:
            self._put(NODE, (node_id,), None)

    def _put(self, kind: int, key: Key, row: Row | None) -> None:
        self._pending[(kind, key)] = row

    @property
    def full(self) -> bool:
        """So much waits that it is worth a write."""
        return len(self._pending) >= FLUSH_FROM

    async def flush(self) -> None:
        """Writes what waits; a second call while one runs waits for it."""
        if self._flushing is not None:
            await asyncio.shield(self._flushing)
            return
        if not self._pending:
            return
        self._flushing = asyncio.get_running_loop().create_task(self._flush())
        try:
            await asyncio.shield(self._flushing)
        finally:
            self._flushing = None

    async def _flush(self) -> None:
        self._writing, self._pending = self._pending, {}
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._write, self._writing)
        except sqlite3.DatabaseError as error:
            self._fail(error)
        self._writing = {}

    def _write(self, rows: dict[tuple[int, Key], Row | None]) -> None:
        puts: list[list[Row]] = [[] for _ in KINDS]
        drops: list[list[Key]] = [[] for _ in KINDS]
        for (kind, key), row in rows.items():
            if row is None:
                drops[kind].append(key)
            else:
                puts[kind].append(row)
        connection = self._reader if self._path is None else self._connect(str(self._path))
        try:
            connection.execute("BEGIN")
            for kind in KINDS:
                if drops[kind]:
                    connection.executemany(_DROP[kind], drops[kind])
                if puts[kind]:
                    connection.executemany(_PUT[kind], puts[kind])
            connection.execute("COMMIT")
        finally:
            if connection is not self._reader:
                connection.close()

    def _fail(self, error: sqlite3.DatabaseError) -> None:
        """The rest of this run goes on from memory; the next start finds no file and asks again."""
        if self.broken:
            return
        self.broken = True
        self._throw_away(str(error))
        with contextlib.suppress(sqlite3.Error):
            self._reader.close()
        self._path = None
        self._reader = self._create(":memory:")

    # Reading.

    def channel(self, scid: int) -> bytes | None:
        return self._get(CHANNEL, (scid,))

    def policy(self, scid: int, direction: int) -> bytes | None:
        return self._get(POLICY, (scid, direction))

    def node(self, node_id: bytes) -> bytes | None:
        return self._get(NODE, (node_id,))

    def peer_update(self, channel_id: bytes) -> bytes | None:
        return self._get(PEER_UPDATE, (channel_id,))

    def _get(self, kind: int, key: Key) -> bytes | None:
        for waiting in (self._pending, self._writing):
            if (kind, key) in waiting:
                row = waiting[(kind, key)]
                return None if row is None else row[-1]
        try:
            found = self._reader.execute(_GET[kind], key).fetchone()
        except sqlite3.DatabaseError as error:
            self._fail(error)
            return None
        return None if found is None else bytes(found[0])

    # The start.

    def spent(self) -> list[tuple[int, int]]:
        """(channel, height) as they are in the file."""
        return self._rows("SELECT scid, height FROM spent")

    def mark(self, name: str) -> int | None:
        """As it is in the file."""
        return next(
            (height for found, height in self._rows("SELECT name, height FROM mark") if found == name), None
        )

    def _rows(self, query: str) -> list[Any]:
        try:
            return self._reader.execute(query).fetchall()
        except sqlite3.DatabaseError as error:
            self._fail(error)
            return []

    def load(self, book: Book, sink: GraphSink) -> Iterator[int]:
        """Fills book and graph, step by step, so that the loop can do other things in between. Answers with the
        number of rows of each step. A file that cannot be read to its end is thrown away, and the rest with it."""
        try:
            yield from self._load_channels(book, sink)
            yield from self._load_policies(book, sink)
            yield from self._load_nodes(book, sink)
        except (sqlite3.DatabaseError, MalformedMessage, ValueError, IndexError, TypeError) as error:
            self._fail(
                error if isinstance(error, sqlite3.DatabaseError) else sqlite3.DatabaseError(str(error))
            )
            for scid in list(book.rows):
                book.drop(scid)
                sink.drop_channel(scid)

    def _steps(self, query: str) -> Iterator[list[Any]]:
        cursor = self._reader.execute(query)
        while rows := cursor.fetchmany(LOAD_STEP):
            yield rows

    def _load_channels(self, book: Book, sink: GraphSink) -> Iterator[int]:
        for rows in self._steps("SELECT scid, capacity, seen, txid, raw FROM channel ORDER BY scid"):
            for scid, capacity, seen, txid, raw in rows:
                features, named, node_id_1, node_id_2 = announcement_ids(raw)
                if named != scid:
                    raise ValueError(f"the announcement of {named} stands under {scid}")
                one, two = book.add(scid, node_id_1, node_id_2, capacity, seen, txid)
                sink.put_channel(scid, one, two, capacity, features)
            yield len(rows)

    def _load_policies(self, book: Book, sink: GraphSink) -> Iterator[int]:
        read, put, known = UPDATE_FROM_SCID.unpack_from, sink.put_policy, book.rows
        for rows in self._steps("SELECT scid, direction, raw FROM policy ORDER BY scid, direction"):
            for scid, direction, raw in rows:
                named, timestamp, message, flags, delta, lowest, base, rate, highest = read(raw, 98)
                if named != scid or flags & 1 != direction or message & DONT_FORWARD:
                    raise ValueError(f"the update of {named} stands under {scid}")
                if scid in known:
                    book.set_timestamp(scid, direction, timestamp)
                    put(scid, direction, timestamp, message, flags, delta, lowest, highest, base, rate)
            yield len(rows)

    def _load_nodes(self, book: Book, sink: GraphSink) -> Iterator[int]:
        for rows in self._steps("SELECT node_id, raw FROM node"):
            for node_id, raw in rows:
                message = decode(raw)
                if not isinstance(message, NodeAnnouncement) or message.node_id != node_id:
                    raise ValueError("a row of a node holds something else")
                if book.has_node(node_id):
                    book.set_node_timestamp(node_id, message.timestamp)
                    put_node(sink, book.shared(node_id), message)
            yield len(rows)

    async def close(self) -> None:
        await self.flush()
        await self.flush()  # what came while the first one ran
        self._pool.shutdown(wait=True)
        with contextlib.suppress(sqlite3.Error):
            self._reader.close()


def put_node(sink: GraphSink, node_id: bytes, message: NodeAnnouncement) -> None:
    sink.put_node(
        node_id, message.timestamp, message.alias, message.rgb_color, message.features, message.addresses
    )
