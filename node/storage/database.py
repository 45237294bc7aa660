"""Opening the durable database: one daemon at a time, whole, and of a version we know (DESIGN, section 3).

The lock keeps out a second daemon on this machine. The fencing row keeps out one that reaches the file
another way (a shared disk whose locks do not work): whoever opened last wins, and the other fails at its
next commit.
"""

import fcntl
import os
import sqlite3
from pathlib import Path

from node.storage.errors import StorageFailed
from node.storage.migrations import MIGRATIONS, migrate, version_of
from node.storage.writer import Writer, connect

RESTORE = (
    "Do not start from an old copy: it would hold revoked states. Keep the file, check the disk, and "
    "recover the channels with the signer's backup (user guide, Recovery)."
)


class Database:
    """The open database: its `writer`, and the lock that goes with it."""

    def __init__(self, path: Path, writer: Writer, lock: int, *, fence: int) -> None:
        self.path = path
        self.writer = writer
        self.fence = fence
        self._lock = lock

    def close(self) -> None:
        self.writer.close()
        if self._lock >= 0:
            os.close(self._lock)  # closing releases the lock
            self._lock = -1


def open_database(path: Path, *, create: bool = False) -> Database:
    """Raises StorageFailed, with what to do, rather than work on anything doubtful.

    Only `lnpd init` creates. A daemon that found no database and made an empty one would forget its channels.
    """
    lock = _lock(path)
    try:
        db = _open(path, create=create)
        try:
            migrate(db)
            fence = _raise_fence(db)
        finally:
            db.close()
        return Database(path, Writer(path, fence=fence), lock, fence=fence)
    except sqlite3.OperationalError as error:
        os.close(lock)
        raise StorageFailed(
            f"{path} cannot be opened: {error}",
            what_to_do="Check that the disk has room and that no other program uses the file.",
        ) from error
    except BaseException:
        os.close(lock)
        raise


def _lock(path: Path) -> int:
    try:
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageFailed(
            f"the directory of {path} cannot be used: {error.strerror}",
            what_to_do="Give the right --datadir, or make the directory with `lnpd init`.",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise StorageFailed(
            f"another lnpd is running on {path}",
            what_to_do="Use that one, or stop it first (its process id is in lnpd.json beside the database).",
        ) from error
    return lock


def _open(path: Path, *, create: bool) -> sqlite3.Connection:
    missing = not path.exists() or path.stat().st_size == 0
    if missing and not create:
        raise StorageFailed(
            f"there is no database at {path}",
            what_to_do="A new node is made with `lnpd init`. If there was one: " + RESTORE,
        )
    try:
        if missing:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = connect(path)
        found = [row[0] for row in db.execute("PRAGMA quick_check(3)")]
        version = version_of(db)
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise StorageFailed(f"{path} is damaged: {error}", what_to_do=RESTORE) from error
    try:
        _judge(path, found, version, tables, create=create)
    except StorageFailed:
        db.close()
        raise
    return db


def _judge(path: Path, found: list[str], version: int | None, tables: int, *, create: bool) -> None:
    if found != ["ok"]:
        raise StorageFailed(f"{path} is damaged: {'; '.join(found)}", what_to_do=RESTORE)
    if version is None and tables:
        raise StorageFailed(
            f"{path} is not the database of this node",
            what_to_do="It belongs to another program: give another --datadir.",
        )
    if version is None and not create:
        raise StorageFailed(
            f"{path} was never set up to the end", what_to_do="No channel is in it: run `lnpd init` again."
        )
    if version is not None and version > len(MIGRATIONS):
        raise StorageFailed(
            f"{path} has version {version}, this program knows up to {len(MIGRATIONS)}",
            what_to_do="It was used by a newer lnpd: start that version again.",
        )


def _raise_fence(db: sqlite3.Connection) -> int:
    db.execute("BEGIN IMMEDIATE")
    row = db.execute("SELECT value FROM meta WHERE key = 'fence'").fetchone()
    fence = int(row[0]) + 1 if row else 1
    db.execute("INSERT OR REPLACE INTO meta (key, value) VALUES ('fence', ?)", (str(fence),))
    db.execute("COMMIT")
    return fence
