"""The signer's own database: SQLite, WAL, one writer, full durability (DESIGN, "Processes, trust, files").

peewee declares the schema and serves the cold paths. What is written for every payment goes through `execute` as
plain statements: an object per row would cost more than the signature it belongs to. All rows of a turn share one
transaction, begun by the first of them and ended by `commit`.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from peewee import (
    AutoField,
    BlobField,
    CompositeKey,
    IntegerField,
    Model,
    SqliteDatabase,
    TextField,
)

SCHEMA_VERSION = 1
Row = Sequence[int | str | bytes | None]

INSERT_CHANNEL = (
    "INSERT INTO channel(handle, request_id, high, low, peer, cold_index) VALUES (?, ?, ?, ?, ?, ?)"
)
SET_UP_CHANNEL = "UPDATE channel SET setup = ?, header = ? WHERE handle = ?"
UPDATE_HEADER = "UPDATE channel SET header = ? WHERE handle = ?"
INSERT_VERSION = "INSERT INTO version(channel, side, number, sequence, body) VALUES (?, ?, ?, ?, ?)"
DELETE_VERSIONS = "DELETE FROM version WHERE channel = ? AND side = ? AND number = ?"
INSERT_COLD = "INSERT INTO cold(position, script) VALUES (?, ?)"
INSERT_INVOICE = (
    "INSERT INTO invoice(request_id, request_digest, payment_hash, amount_msat, bolt11) "
    "VALUES (?, ?, ?, ?, ?)"
)
INSERT_RELEASE = "INSERT OR IGNORE INTO release(payment_hash, channel, htlc_id) VALUES (?, ?, ?)"
INSERT_SWEEP = "INSERT INTO sweep(request_digest, signed) VALUES (?, ?)"
INSERT_SWEPT = "INSERT OR IGNORE INTO swept(outpoint, value) VALUES (?, ?)"
INSERT_FORWARD = (
    "INSERT OR REPLACE INTO forward(out_channel, out_id, out_amount, payment_hash, out_expiry, "
    "in_channel, in_id, in_amount, in_expiry, outcome) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_FORWARD = "out_channel = ? AND out_id = ? AND out_amount = ? AND payment_hash = ? AND out_expiry = ?"
END_FORWARD = f"UPDATE forward SET outcome = ? WHERE {_FORWARD}"  # noqa: S608 - a constant
DELETE_FORWARD = f"DELETE FROM forward WHERE {_FORWARD}"  # noqa: S608 - a constant
SET_RESERVE = (
    "INSERT INTO reserve(outpoint, value, position, standing) VALUES (?, ?, ?, ?) "
    "ON CONFLICT(outpoint) DO UPDATE SET standing = excluded.standing"
)
SET_COUNTER = (
    "INSERT INTO counter(name, value) VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value"
)


class _Model(Model):
    class Meta:
        legacy_table_names = False


class Counter(_Model):
    """`schema`, `session`, `cold` and `backup` only grow; the names with a slash are those of `signer.gossip`."""

    name = TextField(primary_key=True)
    value = IntegerField()


class Channel(_Model):
    """`high` and `low`: the two drawn path indexes, unique for ever, so rows are never deleted."""

    id = AutoField()
    handle = BlobField(unique=True)
    request_id = BlobField(unique=True)
    high = IntegerField()
    low = IntegerField()
    peer = BlobField()
    cold_index = IntegerField()
    setup = BlobField(null=True)
    header = BlobField(null=True)

    class Meta:
        indexes = ((("high", "low"), True),)


class Version(_Model):
    channel = BlobField()
    side = IntegerField()
    number = IntegerField()
    sequence = IntegerField()
    body = BlobField()

    class Meta:
        primary_key = CompositeKey("channel", "side", "number", "sequence")
        without_rowid = True


class Cold(_Model):
    """Every script of the cold branch that was ever given out."""

    position = IntegerField(primary_key=True)
    script = BlobField(unique=True)


class Invoice(_Model):
    id = AutoField()
    request_id = BlobField(unique=True)
    request_digest = BlobField()
    payment_hash = BlobField(unique=True)
    amount_msat = IntegerField(null=True)
    bolt11 = TextField()


class Release(_Model):
    """Which HTLCs a preimage was released for."""

    payment_hash = BlobField()
    channel = BlobField()
    htlc_id = IntegerField()

    class Meta:
        primary_key = CompositeKey("payment_hash", "channel", "htlc_id")
        without_rowid = True


class Sweep(_Model):
    request_digest = BlobField(primary_key=True)
    signed = BlobField()


class Swept(_Model):
    """The value that was named for an output; naming another one later is refused."""

    outpoint = BlobField(primary_key=True)
    value = IntegerField()


class Forward(_Model):
    """An offered HTLC and the received one that it passes on; both by all their terms, since ids come again."""

    out_channel = BlobField()
    out_id = IntegerField()
    out_amount = IntegerField()
    payment_hash = BlobField()
    out_expiry = IntegerField()
    in_channel = BlobField()
    in_id = IntegerField()
    in_amount = IntegerField()
    in_expiry = IntegerField()
    outcome = TextField()

    class Meta:
        primary_key = CompositeKey("out_channel", "out_id", "out_amount", "payment_hash", "out_expiry")
        without_rowid = True


class Reserve(_Model):
    """Every coin of the fee reserve that was ever proven. `standing`: 0 unlisted, 1 present, 2 signed away."""

    outpoint = BlobField(primary_key=True)
    value = IntegerField()
    position = IntegerField()
    standing = IntegerField()


MODELS = (Counter, Channel, Version, Cold, Invoice, Release, Sweep, Swept, Forward, Reserve)


class Storage:
    """One connection, used by the service thread alone. `path` None keeps everything in memory (tests)."""

    def __init__(self, path: Path | None) -> None:
        pragmas = {"journal_mode": "wal", "synchronous": "full", "foreign_keys": 1}
        self._database = SqliteDatabase(":memory:" if path is None else str(path), pragmas=pragmas)
        self._database.connect()
        with self._database.bind_ctx(MODELS):
            self._database.create_tables(MODELS)
        self._connection: sqlite3.Connection = self._database.connection()  # type: ignore[no-untyped-call]
        self._connection.isolation_level = None
        self._open = False
        found = self.counter("schema")
        if found == 0:
            self.execute(SET_COUNTER, [("schema", SCHEMA_VERSION)])
            self.commit()
        elif found != SCHEMA_VERSION:
            raise ValueError(
                f"the signer's database has version {found}; this program reads {SCHEMA_VERSION}"
            )

    def execute(self, statement: str, rows: Iterable[Row]) -> None:
        """Writes rows; they are durable after `commit`."""
        if not self._open:
            self._connection.execute("BEGIN IMMEDIATE")
            self._open = True
        self._connection.executemany(statement, rows)

    def execute_together(self, writes: Sequence[tuple[str, Row]]) -> None:
        """All rows of one request or none of them, whatever becomes of the turn."""
        if not writes:
            return
        self.execute(SET_COUNTER, [])  # opens the turn
        self._connection.execute("SAVEPOINT request")
        try:
            for statement, row in writes:
                self.execute(statement, [row])
        except BaseException:
            self._connection.execute("ROLLBACK TO request")
            raise
        finally:
            self._connection.execute("RELEASE request")

    def commit(self) -> None:
        if self._open:
            self._connection.execute("COMMIT")
            self._open = False

    def rollback(self) -> None:
        self._open = False
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def all(self, query: str, row: Row = ()) -> list[Any]:
        return self._connection.execute(query, row).fetchall()

    def one(self, query: str, row: Row = ()) -> Any:
        """The first row, or None. Rows of the open turn are seen."""
        return self._connection.execute(query, row).fetchone()

    def counter(self, name: str) -> int:
        row = self.one("SELECT value FROM counter WHERE name = ?", (name,))
        return 0 if row is None else int(row[0])

    def close(self) -> None:
        self.rollback()
        self._database.close()
