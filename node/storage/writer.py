"""The one writer of the durable database: a thread, group commit, strict order (DESIGN, "Throughput").

A unit is a list of (SQL, rows), applied whole or not at all. Units are applied in the order in which they
were submitted; all that wait share one commit. A unit marked `now` is committed as soon as the thread is
free. Others go with the next one, or after 50 ms. Once a unit has failed nothing is written any more: what
follows may rest on what was lost.
"""

import asyncio
import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from node.storage.errors import StorageFailed

Unit = list[tuple[str, Sequence[tuple[Any, ...]]]]
IDLE_SECONDS = 0.05
BUSY_MS = 2_000
FENCE = "SELECT value FROM meta WHERE key = 'fence'"


class _Waiting:
    __slots__ = ("due", "future", "unit")

    def __init__(self, unit: Unit, future: asyncio.Future[None], due: float) -> None:
        self.unit = unit
        self.future = future
        self.due = due


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in the mode that all of ours use: WAL, and every commit survives a power failure."""
    db = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA foreign_keys = ON")
    if read_only:
        db.execute("PRAGMA query_only = ON")
    return db


class Writer:
    """`submit` and `read` belong to the event loop's thread. `close` waits until everything is on disk."""

    def __init__(self, path: Path | str, *, fence: int | None = None) -> None:
        self._path = Path(path)
        self._fence = fence
        self._db = connect(self._path)
        self._reader = connect(self._path, read_only=True)
        self.commits = 0
        self.failed: StorageFailed | None = None
        self.on_commit: Callable[[], None] | None = None
        """Called in the writer thread after each commit, before anybody is told."""
        self.on_failure: Callable[[StorageFailed], None] | None = None
        """Called once in the loop when writing has failed: the node must stop."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: list[_Waiting] = []
        self._queue: list[_Waiting] = []
        self._ready = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._work, name="storage-writer", daemon=True)
        self._thread.start()

    def submit(self, unit: Unit, *, now: bool) -> asyncio.Future[None]:
        """The future is done once the unit is on disk, or raises StorageFailed."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        if self.failed is not None or self._closing:
            future.set_exception(self.failed or _closed())
            future.exception()  # not everybody awaits: `on_failure` has told, or the node is stopping
            return future
        if not self._turn:
            # All of this loop turn is handed over at once: one wake-up of the thread, one commit.
            self._loop = loop
            loop.call_soon(self._hand_over)
        due = 0.0 if now else time.monotonic() + IDLE_SECONDS
        self._turn.append(_Waiting(unit, future, due))
        return future

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Rows as committed; cheap enough for the event loop when an index serves the query."""
        return self._reader.execute(sql, params).fetchall()

    def close(self) -> None:
        """Writes what waits and ends the thread. Afterwards everything submitted is refused."""
        if self._closing:
            return
        self._closing = True
        self._hand_over()
        with self._ready:
            self._ready.notify()
        self._thread.join()
        self._reader.close()
        self._db.close()

    def _hand_over(self) -> None:
        if not self._turn:
            return
        turn, self._turn = self._turn, []
        with self._ready:
            self._queue.extend(turn)
            self._ready.notify()

    # From here on: the writer thread.

    def _work(self) -> None:
        while True:
            batch = self._take()
            if batch is None:
                return
            written, error = self._write(batch) if self.failed is None else (0, self.failed)
            if written and self.on_commit is not None:
                self.on_commit()
            if error is not None:
                self.failed = error  # before the loop is told, so that nothing slips in between
                with self._ready:
                    batch += self._queue
                    self._queue = []
            self._tell(batch, written, error)

    def _take(self) -> list[_Waiting] | None:
        """Waits for a unit that is due, and takes all that wait; None when there is nothing left to do."""
        with self._ready:
            while True:
                if self._queue:
                    left = min(waiting.due for waiting in self._queue) - time.monotonic()
                    if left <= 0 or self._closing:
                        batch, self._queue = self._queue, []
                        return batch
                    self._ready.wait(left)
                elif self._closing:
                    return None
                else:
                    self._ready.wait()

    def _write(self, batch: list[_Waiting]) -> tuple[int, StorageFailed | None]:
        """How many of the batch, from its start, are on disk; and why not all."""
        done = 0
        try:
            self._begin()
            for waiting in batch:
                self._apply(waiting.unit)
                done += 1
            self._commit()
        except Exception as error:
            self._roll_back()
            failure = self._explain(error)
            # Units before the broken one are sound and their order holds: they are written without it.
            if 0 < done < len(batch):
                kept, _ = self._write(batch[:done])
                return kept, failure
            return 0, failure
        return done, None

    def _begin(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        if self._fence is not None and self._db.execute(FENCE).fetchone() != (str(self._fence),):
            raise _fenced(self._path)

    def _apply(self, unit: Unit) -> None:
        for sql, rows in unit:
            if len(rows) == 1:
                self._db.execute(sql, rows[0])
            else:
                self._db.executemany(sql, rows)

    def _commit(self) -> None:
        self._db.execute("COMMIT")
        self.commits += 1

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _explain(self, error: Exception) -> StorageFailed:
        if isinstance(error, StorageFailed):
            return error
        return StorageFailed(
            f"{self._path} cannot be written: {error}",
            what_to_do="The node stops so that nothing goes on unsaved. " + _advice(error),
        )

    def _tell(self, batch: list[_Waiting], written: int, error: StorageFailed | None) -> None:
        loop = self._loop
        with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
            if loop is not None:
                loop.call_soon_threadsafe(self._resolve, batch, written, error)

    # In the loop again.

    def _resolve(self, batch: list[_Waiting], written: int, error: StorageFailed | None) -> None:
        for waiting in batch[:written]:
            if not waiting.future.done():
                waiting.future.set_result(None)
        if error is None:
            return
        for waiting in batch[written:]:
            if not waiting.future.done():
                waiting.future.set_exception(error)
                waiting.future.exception()  # whoever awaits it is told; `on_failure` tells the others
        if self.on_failure is not None:
            report, self.on_failure = self.on_failure, None
            report(error)


def _advice(error: Exception) -> str:
    text = str(error)
    if "full" in text or "disk I/O" in text:
        return "Make room on the disk, or check it, and start again: nothing that was confirmed is lost."
    if "locked" in text or "busy" in text:
        return "Another program holds the database: end it and start again."
    return "This is a bug: keep the database file and the log, and report it."


def _fenced(path: Path) -> StorageFailed:
    return StorageFailed(
        f"another lnpd has opened {path}",
        what_to_do="Only one may ever run on a database: end one of them.",
    )


def _closed() -> StorageFailed:
    return StorageFailed("the database is closed", what_to_do="The node is stopping: start it again.")
