"""The durable database of one end, in memory: real schema, real statements, and what a crash leaves of them."""

import sqlite3
from collections.abc import Sequence
from typing import Any

from node.channel import store
from node.channel.state import State
from node.storage.migrations import migrate


class Database:
    """A real database in memory. What is saved with the next commit stands in an open transaction until then."""

    def __init__(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        migrate(self.db)
        self.committed = b""
        self.waiting: list[store.Unit] = []

    @classmethod
    def copy_of(cls, other: "Database") -> "Database":
        """With what waits for the next commit still waiting."""
        made = cls()
        other.replay(made)
        return made

    def replay(self, other: "Database") -> None:
        other.db.close()
        other.db = sqlite3.connect(":memory:", isolation_level=None)
        if not self.db.in_transaction:
            self.db.backup(other.db)
            other.waiting = []
            return
        other.db.deserialize(self.committed)
        other.waiting = []
        for unit in self.waiting:
            other.write(unit, now=False)

    def read(self, sql: str, params: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.db.execute(sql, params).fetchall()

    def write(self, unit: store.Unit, *, now: bool) -> None:
        if not self.db.in_transaction:
            if not now:
                self.committed = self.db.serialize()
            self.db.execute("BEGIN")
        self.waiting = [] if now else [*self.waiting, unit]
        for sql, rows in unit:
            self.db.executemany(sql, rows)
        if now:
            self.db.execute("COMMIT")

    def crash(self, *, lose_next: bool) -> None:
        if self.db.in_transaction:
            self.db.execute("ROLLBACK" if lose_next else "COMMIT")

    def state(self) -> State | None:
        found = store.load(self)
        return found[0][1] if found else None
