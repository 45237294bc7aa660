"""Lost and old databases: nobody loses money to them (DESIGN, "Closing is one-way"; checklist 30).

Each test ends with the peer's close, after which our whole balance is in our wallet.
"""

import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.demo.stack import NETWORK, Node, Stack, wait_for
from tests.whole.bad_days import invoice
from tests.whole.support import folder, normal, open_channel, ready, settled

SAT = 2_000_000
PUSHED = 500_000_000
FEES = 3_000
"""Satoshis that a close and a sweep may cost here."""


@pytest.fixture
def stack() -> Iterator[Stack]:
    """New for each test: every one of them ends the channel."""
    with folder() as place, Stack(place) as made:
        made.start()
        open_channel(made, push_msat=PUSHED)
        yield made


def pay(payer: Node, payee: Node) -> None:
    assert payer.call("xpay", invoice(payee))["payment_preimage"]


def rounds(stack: Stack, count: int = 3) -> None:
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    for _ in range(count):
        pay(alice, bob)
        pay(bob, alice)
        pay(alice, bob)
    wait_for("quiet channels", lambda: settled(alice, bob))


def copy_files(pattern: str, source: Path, place: Path) -> None:
    place.mkdir(exist_ok=True)
    for file in source.glob(pattern):
        shutil.copy(file, place / file.name)


def put_back(pattern: str, place: Path, target: Path) -> None:
    for file in target.glob(pattern):
        file.unlink()
    copy_files(pattern, place, target)


def stop(node: Node) -> None:
    node.daemon.stop()
    node.signer.stop()


def start(node: Node) -> None:
    node.start_signer()
    node.signer.wait_ready()
    node.start_daemon()
    node.wait_ready()


def lnpd(node: Node, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "node", *arguments, "--datadir", str(node.datadir), "--network", NETWORK],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def coins(node: Node) -> int:
    return sum(o["amount_msat"] for o in node.call("listfunds")["outputs"] if o["status"] == "confirmed")


def alone(channels: list[dict[str, Any]]) -> dict[str, Any]:
    (channel,) = channels
    return channel


def comes_home(stack: Stack, owed: int, before: int) -> None:
    """Bob closes, and what was Alice's at the end is in her wallet."""
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]

    def closed() -> bool:
        stack.chain.mine(1)
        stack.settled_at(stack.chain.height)
        return coins(alice) >= before + owed - 1000 * FEES

    wait_for("bob to close", lambda: alone(bob.channels())["state"] != "CHANNELD_NORMAL")
    wait_for("the money", closed, every=0.3)
    assert "event=bug" not in alice.daemon.log.read_text(errors="replace")
    published = [
        line for line in alice.daemon.log.read_text(errors="replace").splitlines() if "force_close" in line
    ]
    assert not published


def mine_of(node: Node) -> int:
    return int(alone(node.channels())["to_us_msat"])


def test_everything_lost_but_the_seed_and_a_backup(stack: Stack, tmp_path: Path) -> None:
    """checklist 30: the restored node asks for the close, and says beforehand what will become of each channel."""
    alice = stack.nodes["alice"]
    rounds(stack, 2)
    owed, before = mine_of(alice), coins(alice)
    status = alice.call("backup", "status")
    assert status["channels"] == 1
    assert status["targets"][0]["ok"]
    assert alice.call("backup", "verify")["backups"][0]["ok"]
    kept = tmp_path / "channels.backup"
    shutil.copy(alice.datadir / NETWORK / "channels.backup", kept)
    channel_id = alone(alice.channels())["channel_id"]
    node_id = alice.node_id
    stop(alice)
    shutil.rmtree(alice.datadir)
    for file in alice.signer_dir.glob("signer.sqlite*"):
        file.unlink()
    new_node(alice)
    plan = lnpd(alice, "restore", "--backup", str(kept), "--plan")
    assert channel_id in plan
    assert "the peer closes" in plan
    assert "Done" not in plan
    assert "Done" in lnpd(alice, "restore", "--backup", str(kept), "--yes")
    again = lnpd(alice, "restore", "--backup", str(kept), "--yes")
    assert "from the backup" not in again  # nothing is brought back twice
    alice.start_daemon()
    alice.wait_ready()
    assert alice.node_id == node_id
    comes_home(stack, owed, before)


@pytest.mark.parametrize("blocks", [1, 150], ids=["after one block", "after its delay"])
def test_everything_lost_after_our_own_close(stack: Stack, tmp_path: Path, blocks: int) -> None:
    """checklist 30, 49: our commitment is in the chain already, so nobody has to close any more; its delayed output
    is found by the number that it carries, and the signer tells no more than the point of that number."""
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    rounds(stack, 1)
    owed, before = mine_of(alice), coins(alice)
    channel_id = alone(alice.channels())["channel_id"]
    kept = tmp_path / "channels.backup"
    shutil.copy(alice.datadir / NETWORK / "channels.backup", kept)
    stop(bob)
    alice.call("close", id=channel_id, unilateraltimeout=1)
    wait_for("the commitment", lambda: stack.chain.call("getrawmempool"))
    stop(alice)
    stack.chain.mine(blocks)
    shutil.rmtree(alice.datadir)
    for file in alice.signer_dir.glob("signer.sqlite*"):
        file.unlink()
    new_node(alice)
    plan = lnpd(alice, "restore", "--backup", str(kept), "--plan")
    assert "our own commitment is in the chain: commitment " in plan
    assert "delayed by 144 blocks" in plan
    assert "the peer closes" not in plan
    assert "HTLC" not in plan
    lnpd(alice, "restore", "--backup", str(kept), "--yes")
    alice.start_daemon()
    alice.wait_ready()

    def swept() -> bool:
        stack.chain.mine(1)
        wait_for("the block", lambda: alice.height == stack.chain.height)
        return coins(alice) >= before + owed - 1000 * FEES

    wait_for("the story", lambda: "published before this node lost" in str(alice.call("why", channel_id)))
    if blocks == 1:
        stack.chain.mine(140)
    wait_for("the money", swept, every=0.3)
    assert "event=bug" not in alice.daemon.log.read_text(errors="replace")


def new_node(node: Node) -> None:
    """`lnpd init` in an empty place, for the signer that has the seed."""
    node.start_signer()
    doors = node.signer.wait_ready()
    said = subprocess.run(
        [
            *(sys.executable, "-m", "node", "init", "--network", NETWORK, "--datadir", str(node.datadir)),
            *("--signer", doors["endpoint"], "--signer-key", doors["server_public_key"]),
            *node.chain_options(),
            *("--listen", node.address),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    key = shlex.split(said[said.index("--client-key") :])[1]
    subprocess.run(
        [*(sys.executable, "-m", "signer", "pair"), "--datadir", str(node.signer_dir), "--client-key", key],
        check=True,
        capture_output=True,
    )


OLD_NODE = (("node.db*", "node"),)
OLD_SIGNER = (("signer.sqlite*", "signer"),)


@pytest.mark.parametrize(
    "old", [OLD_NODE, OLD_SIGNER, OLD_NODE + OLD_SIGNER], ids=["node old", "signer old", "both old"]
)
def test_old_copy_of_a_database_publishes_nothing_and_the_peer_closes(
    stack: Stack, tmp_path: Path, old: tuple[tuple[str, str], ...]
) -> None:
    """checklist 30: an old state is a revoked one; whoever publishes it loses the channel."""
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    rounds(stack, 1)
    places = {"node": alice.datadir / NETWORK, "signer": alice.signer_dir}
    stop(alice)
    for pattern, which in old:
        copy_files(pattern, places[which], tmp_path / which)
    start(alice)
    wait_for("both nodes", lambda: ready(alice, bob))
    rounds(stack)
    owed, before = mine_of(alice), coins(alice)
    stop(alice)
    for pattern, which in old:
        put_back(pattern, tmp_path / which, places[which])
    alice.start_signer()
    alice.signer.wait_ready()
    plan = lnpd(alice, "restore", "--plan")
    if len(old) == 1:
        assert "the peer closes" in plan
        assert "old copy" in plan
    else:
        assert "goes on" in plan  # they fit each other; only the peer can tell that both are old
    alice.start_daemon()
    alice.wait_ready()
    comes_home(stack, owed, before)


def test_channel_is_in_the_backup_before_its_funding_is_mined(stack: Stack) -> None:
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    alice.call("fundchannel", id=bob.node_id, amount=SAT)
    assert {c["state"] for c in alice.channels()} == {"CHANNELD_NORMAL", "CHANNELD_AWAITING_LOCKIN"}
    wait_for("the backup", lambda: alice.call("backup", "status")["channels"] == 2)
    wait_for("the fundee's", lambda: bob.call("backup", "status")["channels"] == 2)


def test_database_and_signer_that_fit_go_on(stack: Stack) -> None:
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    rounds(stack, 1)
    alice.daemon.stop()
    assert "goes on: database and signer agree" in lnpd(alice, "restore", "--plan")
    alice.start_daemon()
    alice.wait_ready()
    wait_for("the channel", lambda: normal(alice, bob))
    pay(alice, bob)
