"""The writer thread: order, group commit, durability, and stopping when it cannot save."""

import asyncio
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.storage.errors import StorageFailed
from node.storage.writer import Unit, Writer

PUT = "INSERT INTO lines (text) VALUES (?)"


def line(*texts: str) -> Unit:
    return [(PUT, [(text,) for text in texts])]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "node.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE lines (seq INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL UNIQUE)")
    db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
    db.commit()
    db.close()
    return path


@pytest.fixture
def writer(path: Path) -> Iterator[Writer]:
    writer = Writer(path)
    yield writer
    writer.close()


def lines(writer: Writer) -> list[str]:
    return [row[0] for row in writer.read("SELECT text FROM lines ORDER BY seq")]


async def test_a_unit_that_is_done_is_on_disk(writer: Writer, path: Path, tmp_path: Path) -> None:
    await writer.submit(line("a", "b"), now=True)
    copy = tmp_path / "copy.db"
    for suffix in ("", "-wal"):
        shutil.copy(f"{path}{suffix}", f"{copy}{suffix}")
    db = sqlite3.connect(copy)
    assert db.execute("SELECT text FROM lines ORDER BY seq").fetchall() == [("a",), ("b",)]
    db.close()


async def test_the_writer_is_durable_against_power_failure(writer: Writer) -> None:
    assert writer._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert writer._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert writer._db.execute("PRAGMA foreign_keys").fetchone() == (1,)


async def test_all_units_of_a_turn_share_one_commit_in_their_order(writer: Writer) -> None:
    before = writer.commits
    futures = [writer.submit(line(f"{number:03}"), now=number % 2 == 1) for number in range(100)]
    await asyncio.gather(*futures)
    assert writer.commits == before + 1
    assert lines(writer) == [f"{number:03}" for number in range(100)]


async def test_units_that_come_during_a_commit_wait_and_share_the_next(writer: Writer) -> None:
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        held.set()
        release.wait(10)

    writer.on_commit = hold
    first = writer.submit(line("first"), now=True)
    await asyncio.to_thread(held.wait, 10)
    later = [writer.submit(line(f"later {number}"), now=True) for number in range(3)]
    await asyncio.sleep(0)
    writer.on_commit = None
    release.set()
    await asyncio.gather(first, *later)
    assert writer.commits == 2


async def test_with_the_next_waits_for_a_unit_that_is_now(writer: Writer) -> None:
    lazy = writer.submit(line("lazy"), now=False)
    await asyncio.sleep(0)
    assert not lazy.done() and writer.commits == 0
    await writer.submit(line("urgent"), now=True)
    assert lazy.done() and writer.commits == 1
    assert lines(writer) == ["lazy", "urgent"]


async def test_with_the_next_is_written_after_50_ms_when_nothing_else_comes(writer: Writer) -> None:
    begin = asyncio.get_running_loop().time()
    await asyncio.wait_for(writer.submit(line("lazy"), now=False), 5)
    assert asyncio.get_running_loop().time() - begin > 0.045
    assert lines(writer) == ["lazy"]


async def test_futures_are_resolved_after_the_commit_hook(writer: Writer) -> None:
    seen: list[bool] = []
    future = writer.submit(line("a"), now=True)
    writer.on_commit = lambda: seen.append(future.done())
    await future
    assert seen == [False]


async def test_a_broken_unit_is_not_written_and_stops_the_writer(writer: Writer) -> None:
    stopped: list[StorageFailed] = []
    writer.on_failure = stopped.append
    good = writer.submit(line("good"), now=True)
    broken = writer.submit([(PUT, [("half",)]), (PUT, [("good",)])], now=True)
    after = writer.submit(line("after"), now=True)
    results = await asyncio.gather(good, broken, after, return_exceptions=True)
    assert results[0] is None
    assert isinstance(results[1], StorageFailed) and "UNIQUE" in results[1].sentence
    assert isinstance(results[2], StorageFailed)
    assert lines(writer) == ["good"], "the units before it are kept, the broken one left no half"
    assert len(stopped) == 1
    with pytest.raises(StorageFailed, match="UNIQUE"):
        await writer.submit(line("much later"), now=True)
    assert lines(writer) == ["good"]


async def test_units_handed_over_while_the_writer_fails_are_not_written(writer: Writer) -> None:
    broken = writer.submit([("INSERT INTO nowhere VALUES (?)", [(1,)])], now=True)
    await asyncio.sleep(0)
    racing = [writer.submit(line(f"racing {number}"), now=True) for number in range(3)]
    results = await asyncio.gather(broken, *racing, return_exceptions=True)
    assert all(isinstance(result, StorageFailed) for result in results)
    assert lines(writer) == []


async def test_a_full_disk_fails_the_unit_and_says_what_to_do(writer: Writer) -> None:
    await writer.submit(line("before"), now=True)
    pages = writer._db.execute("PRAGMA page_count").fetchone()[0]
    writer._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageFailed, match="full") as caught:
        await writer.submit(line("x" * 100_000), now=True)
    assert "Make room" in caught.value.what_to_do
    with pytest.raises(StorageFailed):
        await writer.submit(line("small"), now=True)
    assert lines(writer) == ["before"]


async def test_a_second_daemon_on_the_file_fences_the_first(path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("INSERT INTO meta VALUES ('fence', '1')")
    db.commit()
    writer = Writer(path, fence=1)
    await writer.submit(line("mine"), now=True)
    db.execute("UPDATE meta SET value = '2'")
    db.commit()
    with pytest.raises(StorageFailed, match="another lnpd"):
        await writer.submit(line("no longer mine"), now=True)
    assert lines(writer) == ["mine"]
    writer.close()
    db.close()


async def test_close_writes_what_waits_and_refuses_what_follows(path: Path) -> None:
    writer = Writer(path)
    lazy = writer.submit(line("lazy"), now=False)
    writer.close()
    await lazy
    with pytest.raises(StorageFailed, match="closed"):
        await writer.submit(line("late"), now=True)
    db = sqlite3.connect(path)
    assert db.execute("SELECT text FROM lines").fetchall() == [("lazy",)]
    db.close()


async def test_readers_see_committed_rows_only_and_cannot_write(writer: Writer) -> None:
    held, release = threading.Event(), threading.Event()
    writer._db.create_function("hold", 0, lambda: (held.set(), release.wait(10), "held")[2])
    future = writer.submit(
        [("INSERT INTO lines (text) VALUES ('a')", [()]), ("SELECT hold()", [()])], now=True
    )
    await asyncio.to_thread(held.wait, 10)
    assert lines(writer) == []
    release.set()
    await future
    assert lines(writer) == ["a"]
    with pytest.raises(sqlite3.OperationalError):
        writer.read("DELETE FROM lines")
