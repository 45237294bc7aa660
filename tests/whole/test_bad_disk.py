"""A database that cannot be used and a disk without room: a sentence, and nothing is lost."""

import contextlib
import json
import resource
import shutil
import sqlite3
import subprocess
from pathlib import Path

from node.demo.stack import NETWORK, Node, RpcRefused, wait_for
from tests.support import need
from tests.whole.bad_days import alice, bob, copy_of, invoice, lnpd, refusal, stack
from tests.whole.support import folder, normal, settled

__all__ = ["alice", "bob", "stack"]


def test_second_daemon_on_a_database_is_refused_and_the_first_goes_on(alice: Node) -> None:
    code, said = lnpd("run", "--datadir", alice.datadir, "--network", NETWORK)
    assert code == 2 and "another lnpd is running" in said and "stop it first" in said
    assert alice.call("getinfo")["id"]


def test_database_that_is_half_written_or_newer_is_refused_and_left_as_it_is(
    alice: Node, tmp_path: Path
) -> None:
    alice.daemon.stop()
    copy_of(alice.datadir, tmp_path / "half")
    copy_of(alice.datadir, tmp_path / "newer")
    alice.start_daemon()
    half = tmp_path / "half" / NETWORK / "node.db"
    raw = half.read_bytes()
    for left in (len(raw) // 2, 5_000, 100, 0):
        half.write_bytes(raw[:left])
        code, said = lnpd("run", "--datadir", tmp_path / "half")
        assert code == 2, (left, said)
        assert "damaged" in said or "no database" in said, said
        assert "Do not start from an old copy" in said, said
        assert half.read_bytes() == raw[:left]
    newer = sqlite3.connect(tmp_path / "newer" / NETWORK / "node.db")
    columns = [row[1] for row in newer.execute("PRAGMA table_info(schema_version)")]
    values = {"version": 999, "name": "later"}
    newer.execute(
        f"INSERT INTO schema_version VALUES ({', '.join('?' * len(columns))})",
        [values.get(column, 0) for column in columns],
    )
    newer.commit()
    newer.close()
    code, said = lnpd("run", "--datadir", tmp_path / "newer")
    assert code == 2 and "version 999" in said and "newer lnpd" in said
    alice.wait_ready()


def test_database_of_another_program_is_refused(alice: Node, tmp_path: Path) -> None:
    alice.daemon.stop()
    copy_of(alice.datadir, tmp_path / "other")
    alice.start_daemon()
    path = tmp_path / "other" / NETWORK / "node.db"
    path.unlink()
    for name in ("node.db-wal", "node.db-shm"):
        (path.parent / name).unlink(missing_ok=True)
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE songs (title TEXT)")
    db.commit()
    db.close()
    code, said = lnpd("run", "--datadir", tmp_path / "other")
    assert code == 2 and "not the database of this node" in said
    alice.wait_ready()


# The disk.


def test_full_disk_stops_the_node_with_a_sentence_and_loses_nothing(alice: Node, bob: Node) -> None:
    wait_for("quiet channels", lambda: settled(alice, bob))
    _, hard = resource.prlimit(alice.daemon.pid, resource.RLIMIT_FSIZE)
    size = (alice.datadir / NETWORK / "node.db-wal").stat().st_size
    # No file may grow beyond what the log of the database has now: as on a disk without room.
    resource.prlimit(alice.daemon.pid, resource.RLIMIT_FSIZE, (max(4096, size // 2), hard))
    given = invoice(bob)
    with contextlib.suppress(RpcRefused, OSError, json.JSONDecodeError):
        alice.call("xpay", given)
    assert alice.daemon.wait_end(30) == 2
    said = alice.daemon.tail(1)
    assert "cannot be written" in said and "Make room on the disk" in said, said
    alice.start_daemon()
    alice.wait_ready()
    wait_for("the channel", lambda: normal(alice, bob))
    # A payment that found no room for its own row was never begun, and then the list is empty.
    wait_for("quiet channels", lambda: settled(alice, bob))
    paid = {p["payment_hash"] for p in alice.call("listpays")["pays"] if p["status"] == "complete"}
    got = {i["payment_hash"] for i in bob.call("listinvoices")["invoices"] if i["status"] == "paid"}
    assert paid <= got
    assert not [p for p in alice.call("listpays")["pays"] if p["status"] == "pending"]
    sent = alice.call("listpays", bolt11=given)["pays"]
    (owed,) = bob.call("listinvoices", invstring=given)["invoices"]
    assert (owed["status"] == "paid") == bool(sent and sent[0]["status"] == "complete")


def test_really_full_file_system_stops_the_node_with_a_sentence(alice: Node, bob: Node) -> None:
    """The same with a file system that is full, where this user may mount one."""
    with folder() as place:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(place)], capture_output=True, check=False
        )
        need("mount", mounted.returncode == 0, "a small file system cannot be mounted here")
        home = alice.datadir
        try:
            alice.daemon.stop()
            copy_of(home, place / "alice")
            alice.datadir = place / "alice"
            alice.daemon.ready = alice.datadir / NETWORK / "lnpd.json"
            alice.socket = alice.datadir / NETWORK / "lightning-rpc"
            alice.start_daemon()
            alice.wait_ready()
            wait_for("the channel", lambda: normal(alice, bob))
            filler = place / "filler"
            with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            given = [invoice(bob) for _ in range(60)]
            with contextlib.suppress(RpcRefused, OSError, json.JSONDecodeError):
                for one in given:
                    alice.call("xpay", one)
            assert alice.daemon.wait_end(30) == 2
            assert "Make room on the disk" in alice.daemon.tail(1)
            filler.unlink()
            alice.start_daemon()
            alice.wait_ready()
            wait_for("quiet channels", lambda: settled(alice, bob))
            paid = {p["payment_hash"] for p in alice.call("listpays", status="complete")["pays"]}
            got = {i["payment_hash"] for i in bob.call("listinvoices")["invoices"] if i["status"] == "paid"}
            assert {h for h in paid if h in got} == paid
            alice.daemon.stop()
            shutil.rmtree(home)
            copy_of(alice.datadir, home)
        finally:
            alice.daemon.stop()
            alice.datadir = home
            alice.daemon.ready = home / NETWORK / "lnpd.json"
            alice.socket = home / NETWORK / "lightning-rpc"
            subprocess.run(["umount", str(place)], capture_output=True, check=False)
        alice.start_daemon()
        alice.wait_ready()


def test_signer_without_room_on_its_disk_grants_nothing_and_goes_on_when_there_is(
    alice: Node, bob: Node
) -> None:
    _, hard = resource.prlimit(alice.signer.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(alice.signer.pid, resource.RLIMIT_FSIZE, (4096, hard))
    given = invoice(bob)
    said = refusal(alice, "xpay", invstring=given, retry_for=2)
    assert "on its way" in said
    assert "commit_failed" in alice.signer.log.read_text()
    resource.prlimit(alice.signer.pid, resource.RLIMIT_FSIZE, (hard, hard))
    assert alice.call("xpay", invstring=given, retry_for=30)["payment_preimage"]
