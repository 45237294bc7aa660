"""Opening the database: one daemon, whole, of a known version."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import peewee
import pytest

from node.storage import models
from node.storage.database import open_database
from node.storage.errors import StorageFailed
from node.storage.migrations import MIGRATIONS, Migration, migrate, version_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


def test_a_new_database_has_every_step_and_opens_again(path: Path) -> None:
    first = open_database(path, create=True)
    assert first.writer.read("SELECT max(version) FROM schema_version") == [(len(MIGRATIONS),)]
    first.close()
    second = open_database(path)
    assert second.fence == first.fence + 1
    second.close()


def test_only_the_owner_can_read_the_file(path: Path) -> None:
    open_database(path, create=True).close()
    assert path.stat().st_mode & 0o077 == 0


def test_a_missing_or_emptied_database_is_never_replaced_by_an_empty_one(path: Path) -> None:
    with pytest.raises(StorageFailed, match="lnpd init"):
        open_database(path)
    path.touch()
    with pytest.raises(StorageFailed, match="no database"):
        open_database(path)
    assert path.stat().st_size == 0


def test_two_daemons_cannot_share_a_database(path: Path) -> None:
    first = open_database(path, create=True)
    with pytest.raises(StorageFailed, match="another lnpd is running"):
        open_database(path)
    first.close()
    open_database(path).close()


async def test_the_later_of_two_daemons_wins_where_locks_do_not_work(path: Path) -> None:
    first = open_database(path, create=True)
    path.with_name("node.db.lock").unlink()  # as on a shared disk that knows no locks
    second = open_database(path)
    put = "INSERT INTO meta VALUES (?, '')"
    await second.writer.submit([(put, [("second",)])], now=True)
    with pytest.raises(StorageFailed, match="Only one may ever run"):
        await first.writer.submit([(put, [("first",)])], now=True)
    first.close()
    second.close()


def _overwrite(path: Path, at: int, garbage: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(garbage)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.write_bytes(b"not a database" * 100), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]), "damaged"),
        (lambda path: _overwrite(path, 4096, b"\xff" * 4096), "damaged"),
        (lambda path: _sql(path, "DROP TABLE schema_version"), "not the database of this node"),
        (lambda path: _sql(path, "INSERT INTO schema_version VALUES (99, '', 0)"), "newer lnpd"),
    ],
)
def test_a_doubtful_database_is_not_opened(path: Path, damage: Callable[[Path], None], sentence: str) -> None:
    open_database(path, create=True).close()
    damage(path)
    with pytest.raises(StorageFailed, match=sentence):
        open_database(path)
    with pytest.raises(StorageFailed, match=sentence):
        open_database(path, create=True)


def test_an_init_that_was_cut_off_is_finished_by_init_and_refused_by_run(path: Path) -> None:
    _sql(path, "PRAGMA journal_mode = WAL")
    with pytest.raises(StorageFailed, match="never set up"):
        open_database(path)
    open_database(path, create=True).close()
    open_database(path).close()


def _sql(path: Path, statement: str) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    db.execute(statement)
    db.close()


def test_an_older_file_is_brought_forward_and_keeps_its_rows(path: Path) -> None:
    db = sqlite3.connect(path, isolation_level=None)
    assert migrate(db, MIGRATIONS[:1]) == 1
    db.execute("INSERT INTO channels VALUES (1, NULL, x'02', x'80', 'opening', 5)")
    db.close()
    opened = open_database(path)
    assert opened.writer.read("SELECT phase, updated FROM channels") == [("opening", 5)]
    assert opened.writer.read("SELECT count(*) FROM payments") == [(0,)]
    opened.close()


def test_a_step_that_fails_leaves_nothing_behind() -> None:
    db = sqlite3.connect(":memory:", isolation_level=None)
    broken = Migration("broken", ("CREATE TABLE half (a)", "CREATE TABLE half (a)"))
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, (*MIGRATIONS, broken))
    assert version_of(db) == len(MIGRATIONS)
    assert db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone() == (0,)


def test_an_origin_is_open_in_one_htlc_only(path: Path) -> None:
    opened = open_database(path, create=True)
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("INSERT INTO channels VALUES (1, NULL, x'02', x'80', 'normal', 5)")
    put = (
        "INSERT INTO htlcs (channel, offered, id, amount_msat, payment_hash, cltv_expiry, origin, done)"
        " VALUES (1, 1, ?, 1, x'00', 1, ?, ?)"
    )
    db.execute(put, (0, "pay:1:0", 1))
    db.execute(put, (1, "pay:1:0", 0))
    db.execute(put, (2, None, 0))
    db.execute(put, (3, None, 0))
    with pytest.raises(sqlite3.IntegrityError):
        db.execute(put, (4, "pay:1:0", 0))
    db.close()
    opened.close()


def test_the_models_describe_the_tables_as_they_are(path: Path) -> None:
    opened = open_database(path, create=True)
    tables = {row[0] for row in opened.writer.read("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert tables - {"schema_version", "sqlite_sequence"} == {m._meta.table_name for m in models.MODELS}
    for model in models.MODELS:
        info = opened.writer.read(f"PRAGMA table_info({model._meta.table_name})")
        real = {name: (bool(notnull or pk), bool(pk)) for _, name, _, notnull, _, pk in info}
        keys = {field.column_name for field in model._meta.get_primary_keys()}
        fields = model._meta.sorted_fields
        assert real == {f.column_name: (not f.null, f.column_name in keys) for f in fields}
    opened.close()


async def test_models_read_what_the_writer_wrote_and_cannot_write(path: Path) -> None:
    opened = open_database(path, create=True)
    row = (7, b"\x01" * 32, b"\x02" * 33, b"\x80", "normal", 5)
    await opened.writer.submit([("INSERT INTO channels VALUES (?, ?, ?, ?, ?, ?)", [row])], now=True)
    models.bind(path)
    with models.database:
        found = models.Channel.get(models.Channel.phase == "normal")
        assert (found.id, bytes(found.peer)) == (7, b"\x02" * 33)
        with pytest.raises(peewee.OperationalError):
            found.delete_instance()
    opened.close()
