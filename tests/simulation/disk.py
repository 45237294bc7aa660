"""What a simulated node writes on: the interface of `node.storage.writer.Writer`, in the loop instead of a thread.

The same promises: units whole and in order, all that wait share a commit, `now` is due at once and the rest with the
next or after 50 ms, nobody is told before the commit. A commit takes `seconds` of virtual time, during which what comes
waits for the one after. A death loses what was not committed and keeps the rest.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from node.storage.errors import StorageFailed
from node.storage.migrations import migrate
from node.storage.writer import IDLE_SECONDS, Unit

_template: bytes = b""


def new_disk() -> sqlite3.Connection:
    """An empty database of the newest version, which outlives the processes of its node."""
    global _template  # made once: migrating anew for each of 200 nodes would take seconds
    db = sqlite3.connect(":memory:", isolation_level=None)
    if not _template:
        migrate(db)
        _template = db.serialize()
    else:
        db.deserialize(_template)
    db.execute("PRAGMA foreign_keys = ON")
    return db


class LoopWriter:
    """One life of a node writes through one of these. `cut`: the process is gone."""

    def __init__(self, db: sqlite3.Connection, *, seconds: float = 0.0) -> None:
        self._db = db
        self._seconds = seconds
        self.commits = 0
        self.failed: StorageFailed | None = None
        self.on_commit: Callable[[], None] | None = None
        """Called after each commit, before anybody is told."""
        self.on_failure: Callable[[StorageFailed], None] | None = None
        self._queue: list[tuple[Unit, asyncio.Future[None], float]] = []
        self._is_writing = False
        self._is_cut = False
        self._keep_commit = False
        self._looking: asyncio.Handle | None = None

    def submit(self, unit: Unit, *, now: bool) -> asyncio.Future[None]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self._is_cut:
            return future  # nobody will ever hear of it
        if self.failed is not None:
            future.set_exception(self.failed)
            future.exception()
            return future
        due = 0.0 if now else loop.time() + IDLE_SECONDS
        self._queue.append((unit, future, due))
        if not self._is_writing and (now or self._looking is None):
            self._look_soon()
        return future

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows as committed: a batch is applied in one go, so nothing half done is ever seen."""
        return self._db.execute(sql, params).fetchall()

    def cut(self, *, keep_commit: bool = False) -> None:
        """`keep_commit`: the commit under way still reaches the disk, and nobody hears of it."""
        self._is_cut = True
        self._keep_commit = keep_commit
        self._queue.clear()
        if self._looking is not None:
            self._looking.cancel()

    def _look_soon(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        self._looking = asyncio.get_running_loop().call_soon(self._look)

    def _look(self) -> None:
        """Begins a commit of all that wait if any of them is due."""
        self._looking = None
        if self._is_cut or self._is_writing or not self._queue:
            return
        loop = asyncio.get_running_loop()
        due = min(due for _, _, due in self._queue)
        if due > loop.time():
            self._looking = loop.call_at(due, self._look)
            return
        batch, self._queue = self._queue, []
        self._is_writing = True
        loop.call_later(self._seconds, self._write, batch)

    def _write(self, batch: list[tuple[Unit, asyncio.Future[None], float]]) -> None:
        self._is_writing = False
        if self._is_cut and not self._keep_commit:
            return  # the process died while the disk worked: nothing of this batch is there
        try:
            self._apply([unit for unit, _, _ in batch])
        except sqlite3.Error as error:
            self._fail(batch, error)
            return
        if self.on_commit is not None:
            self.on_commit()
        if self._is_cut:
            return  # it died between the commit and the telling
        for _, future, _ in batch:
            if not future.done():
                future.set_result(None)
        if self._queue:
            self._look_soon()

    def _apply(self, units: list[Unit]) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for unit in units:
                for sql, rows in unit:
                    self._db.executemany(sql, rows)
            self._db.execute("COMMIT")
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self.commits += 1

    def _fail(self, batch: list[tuple[Unit, asyncio.Future[None], float]], error: sqlite3.Error) -> None:
        self.failed = StorageFailed(f"cannot be written: {error}", what_to_do="This is a bug.")
        for _, future, _ in batch + self._queue:
            if not future.done():
                future.set_exception(self.failed)
                future.exception()
        self._queue = []
