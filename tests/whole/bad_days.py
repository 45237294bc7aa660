"""What the tests of bad days share: two nodes with a channel, and a daemon that is not to run."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from node.demo.stack import Node, RpcRefused, Stack, wait_for
from tests.support import ROOT
from tests.whole.support import folder, open_channel, ready, settled

AMOUNT = 2_000_000


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with folder() as place, Stack(place) as made:
        made.start()
        open_channel(made, push_msat=500_000_000)
        yield made


@pytest.fixture
def alice(stack: Stack) -> Iterator[Node]:
    """Whatever a test did to her: afterwards she pays and is paid as before, and to the millisatoshi."""
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    revive(alice, bob)
    before = total(alice, bob)
    yield alice
    wait_for("both nodes", lambda: ready(alice, bob), seconds=60)
    pay(alice, bob)
    pay(bob, alice)
    wait_for("quiet channels", lambda: settled(alice, bob))
    assert total(alice, bob) == before
    assert "event=bug" not in alice.daemon.log.read_text(errors="replace")


@pytest.fixture
def bob(stack: Stack) -> Node:
    return stack.nodes["bob"]


def revive(alice: Node, bob: Node) -> None:
    """After a test that failed half-way, so that the next one tells its own story."""
    if not alice.signer.is_running:
        alice.start_signer()
    if not alice.daemon.is_running:
        alice.start_daemon()
    wait_for("both nodes", lambda: ready(alice, bob), seconds=60)


def copy_of(directory: Path, place: Path) -> None:
    """Without its sockets, which cannot be copied."""
    shutil.copytree(directory, place, ignore=shutil.ignore_patterns("*.sock", "lightning-rpc"))


def total(*nodes: Node) -> int:
    return sum(channel["to_us_msat"] for node in nodes for channel in node.channels())


def invoice(payee: Node, **more: Any) -> str:
    made = payee.call(
        "invoice", **{"amount_msat": AMOUNT, "label": os.urandom(8).hex(), "description": "x"} | more
    )
    return str(made["bolt11"])


def pay(payer: Node, payee: Node) -> None:
    assert len(payer.call("xpay", invoice(payee))["payment_preimage"]) == 64


def refusal(node: Node, method: str, **named: Any) -> str:
    with pytest.raises(RpcRefused) as caught:
        node.call(method, **named)
    return str(caught.value)


def lnpd(*arguments: object, seconds: float = 30) -> tuple[int, str]:
    """The exit code and the last words of a daemon that is not to run."""
    done = subprocess.run(
        [sys.executable, "-m", "node", *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    return done.returncode, done.stderr.strip().splitlines()[-1]
