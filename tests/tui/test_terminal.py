"""The whole in a real terminal against real nodes: open, pay, receive, and a daemon that is killed meanwhile."""

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.demo.stack import Node, Stack, wait_for
from tests.support import need
from tests.tui.terminal import Terminal

FUNDS = 10_000_000


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    need("tmux", shutil.which("tmux") is not None, "tmux is not installed: apt-get install tmux")
    folder = Path(tempfile.mkdtemp(prefix="lnp-tui-"))  # short: a socket's path has about 100 bytes
    try:
        with Stack(folder) as made:
            made.start()
            alice = made.nodes["alice"]
            made.chain.fund(alice.call("newaddr")["bech32"], FUNDS)
            made.chain.mine(1)
            wait_for("the coins", lambda: alice.call("listfunds")["outputs"])
            yield made
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def tui(node: Node, width: int = 120, height: int = 40, term: str = "xterm-256color") -> Terminal:
    where = ("--datadir", str(node.datadir), "--network", "regtest")
    return Terminal("-m", "tui", *where, width=width, height=height, term=term)


def is_open(node: Node) -> bool:
    channels = node.channels()
    return bool(channels) and all(
        channel["state"] == "CHANNELD_NORMAL" and channel["peer_connected"] for channel in channels
    )


def test_a_channel_is_opened_a_payment_made_one_received_and_a_kill_survived(stack: Stack) -> None:
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    with tui(alice) as screen:
        screen.wait("synced", "signer ● up", "10,000,000 sat")

        screen.press("O")
        screen.wait("Open a channel")
        screen.type(f"{bob.node_id}@{bob.address}")
        screen.wait(bob.address)
        screen.next_field()
        screen.type("1000000")
        screen.press("Enter")
        screen.wait("Y opens", "1,000,000 sat", "left on chain")
        screen.press("Y")
        screen.wait("The funding transaction")
        screen.leave("Open a channel ─")
        screen.press("2")
        screen.wait("opening")
        stack.chain.mine(3)
        screen.wait("● ", "open, anchors, we opened it")
        wait_for("both ends to be ready", lambda: is_open(alice) and is_open(bob))

        invoice = bob.call("invoice", 50_000_000, "from-a-screen", "fifty thousand")
        screen.press("P")
        screen.wait("paste an invoice")
        screen.paste(invoice["bolt11"])
        screen.press("Enter")
        screen.wait("50,000 sat", "fifty thousand", "Y pays")
        assert bob.call("listinvoices", label="from-a-screen")["invoices"][0]["status"] == "unpaid"
        screen.press("Y")
        screen.wait("Paid 50,000 sat, fee 0 sat")
        assert bob.call("listinvoices", label="from-a-screen")["invoices"][0]["status"] == "paid"
        screen.leave("─ Pay ─")
        screen.press("3")
        screen.wait("50,000", "paid")

        screen.press("4")
        screen.wait("New invoice")
        screen.press("n")
        screen.wait("─ New invoice ─")
        screen.type("2000")
        screen.wait("2000")
        screen.next_field()
        screen.type("a cup of tea")
        screen.wait("a cup of tea")
        screen.next_field()
        screen.type("tea")
        screen.press("Enter")
        screen.wait("unpaid", "tea", "lnbcrt20u")
        made = alice.call("listinvoices", label="tea")["invoices"][0]
        bob.call("xpay", made["bolt11"])
        screen.wait("received 2,000 sat", gone="unpaid")

        screen.press("2")
        screen.wait("952,000")
        alice.daemon.kill()
        screen.wait("connection lost", "952,000")
        alice.start_daemon()
        alice.wait_ready()
        screen.wait("synced", "952,000", "● ", gone="connection lost")
        wait_for("the channel to be back", lambda: is_open(alice))
        bob.call("xpay", alice.call("invoice", 1_000_000, "after", "after the kill")["bolt11"])
        screen.wait("953,000")

        screen.press(":")
        screen.wait("Run a method")
        screen.type("listpeers")
        screen.press("Enter")
        screen.wait(bob.node_id[:20], '"connected": true')
        screen.leave("Run a method")
        screen.press("6")
        screen.wait("commitments", "Round trips")

        screen.press("2")
        screen.wait("X Close")
        screen.press("X")
        screen.wait("Y closes together", "953,000 sat")
        screen.press("Y")
        screen.wait("Closed (mutual)")


@pytest.mark.parametrize("term", ["linux", "xterm-256color", "vt100"])
def test_it_draws_in_poor_terminals_and_follows_a_resize(stack: Stack, term: str) -> None:
    with tui(stack.nodes["bob"], 80, 24, term) as screen:
        screen.wait("1 Home", "Balance", "Lightning", "q Leave")
        screen.resize(140, 45)
        wait_for("the wider screen", lambda: max(len(line) for line in screen.text().splitlines()) > 130)
        screen.wait("Needs attention", "Last events")
        screen.press("q")
        screen.wait("The node goes on")
        screen.press("y")
        assert screen.exit_code() == 0


def test_a_paste_of_1500_characters_arrives_whole(stack: Stack) -> None:
    with tui(stack.nodes["bob"]) as screen:
        screen.wait("signer ● up")
        screen.press("P")
        screen.wait("paste an invoice")
        screen.paste("lnbcrt1" + "q" * 1_493)
        screen.press("Enter")
        text = screen.wait("Pay", gone="asking the node")
        assert re.search(r"checksum|invoice|bech32", text), "the node read it, and refused it in words"


def test_a_pairing_string_opens_the_node_from_elsewhere(stack: Stack, tmp_path: Path) -> None:
    """Another home directory stands for another machine."""
    alice = stack.nodes["alice"]
    where = ("--datadir", str(alice.datadir), "--network", "regtest")
    done = subprocess.run(
        [sys.executable, "-m", "node", "pair-tui", *where, "--name", "elsewhere"],
        capture_output=True,
        text=True,
        check=True,
    )
    pairing = done.stdout.strip()
    with Terminal("-m", "tui", "--datadir", str(tmp_path), "--pair", pairing) as screen:
        screen.wait("signer ● up", "synced")
        subprocess.run(
            [sys.executable, "-m", "node", "pair-tui", *where, "--name", "elsewhere", "--remove"], check=True
        )
        screen.wait("connection lost")


def test_the_demo_ends_in_the_interface_of_a_node_that_is_paid_now_and_then() -> None:
    need("tmux", shutil.which("tmux") is not None, "tmux is not installed: apt-get install tmux")
    with Terminal("-m", "node.demo") as screen:
        screen.wait("signer ● up", "synced", "Balance", seconds=150)
        screen.wait("invoice coffee 1 over 101 sat paid")
        screen.press("q")
        screen.wait("The node goes on")
        screen.press("y")
        assert screen.exit_code() == 0
