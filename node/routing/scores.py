"""Where `liquidity` outlives a restart: a small database of its own that may be deleted at any time.

It shares no file with what holds money, is not synchronised to disk, and starts anew when it cannot be read.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import structlog

from node.routing.liquidity import NodeRow, ScoreRow

log = structlog.get_logger()
_TABLES = (
    "CREATE TABLE IF NOT EXISTS scores (key INTEGER PRIMARY KEY, low INTEGER, high INTEGER, at REAL)",
    "CREATE TABLE IF NOT EXISTS nodes (node_id BLOB PRIMARY KEY, works REAL, at REAL) WITHOUT ROWID",
)
_MOST = 1 << 63
"""SQLite's integers end here. Only aliases can be beyond: they are not worth keeping."""


class ScoreStore:
    """Each call opens the file for itself, so it may be called from any thread, one at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> tuple[list[ScoreRow], list[NodeRow]]:
        try:
            with contextlib.closing(self._open()) as db:
                scores = db.execute("SELECT key, low, high, at FROM scores").fetchall()
                nodes = db.execute("SELECT node_id, works, at FROM nodes").fetchall()
        except sqlite3.Error as error:
            log.warning("scores_lost", path=str(self._path), reason=str(error), harm="a few failed attempts")
            self._forget()
            return [], []
        return [row for row in scores if _is_score(row)], [row for row in nodes if _is_node(row)]

    def save(
        self,
        scores: Sequence[ScoreRow],
        nodes: Sequence[NodeRow],
        dropped: Sequence[int] = (),
        dropped_nodes: Sequence[bytes] = (),
    ) -> None:
        try:
            with contextlib.closing(self._open()) as db, db:
                db.executemany(
                    "INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)",
                    [row for row in scores if row[0] < _MOST],
                )
                db.executemany("INSERT OR REPLACE INTO nodes VALUES (?, ?, ?)", nodes)
                db.executemany("DELETE FROM scores WHERE key = ?", [(key,) for key in dropped if key < _MOST])
                db.executemany(
                    "DELETE FROM nodes WHERE node_id = ?", [(node_id,) for node_id in dropped_nodes]
                )
        except sqlite3.Error as error:
            log.warning("scores_not_saved", path=str(self._path), reason=str(error), harm="none now")

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=1.0)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = OFF")
            for table in _TABLES:
                db.execute(table)
        except sqlite3.Error:
            db.close()
            raise
        return db

    def _forget(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)


def _is_score(row: tuple[object, ...]) -> bool:
    """A file that may be damaged is believed no further than its types."""
    key, low, high, at = row
    return all(isinstance(value, int) for value in (key, low, high)) and isinstance(at, float)


def _is_node(row: tuple[object, ...]) -> bool:
    node_id, works, at = row
    return (
        isinstance(node_id, bytes) and isinstance(works, float) and 0 < works <= 1 and isinstance(at, float)
    )
