"""Invoices, chain and network that are not what they should be: a clear error, nothing lost, and the node goes on."""

import http.server
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import pytest

from node.demo.stack import PASSPHRASE, Node, Stack, wait_for
from protocol.amounts import Msat
from protocol.bitcoin.network import MAINNET, REGTEST
from protocol.bolt11.encode import unsigned
from protocol.bolt11.invoice import InvoiceTerms
from protocol.curve import sign_recoverable
from protocol.secret import Secret
from signer import keystore
from signer.initialise import open_keys
from tests.support import ROOT
from tests.whole.bad_days import AMOUNT, alice, bob, invoice, lnpd, pay, refusal, stack

__all__ = ["alice", "bob", "stack"]


# Invoices.


def genuine(payee: Node, **terms: Any) -> str:
    """Signed with the payee's own key, so that nothing but the terms is wrong."""
    _, contents = keystore.unlock(payee.signer_dir, Secret(PASSPHRASE))
    usual: dict[str, Any] = {
        "prefix": REGTEST.bolt11_prefix.removeprefix("ln"),
        "amount_msat": Msat(AMOUNT),
        "timestamp": int(time.time()),
        "payment_hash": os.urandom(32),
        "payment_secret": os.urandom(32),
        "description": "x",
        "features": frozenset({8, 14}),
    }
    made = unsigned(InvoiceTerms(**usual | terms))
    return made.with_signature(
        *sign_recoverable(open_keys(REGTEST, contents).node_secret.reveal(), made.digest)
    )


def test_invoice_that_cannot_be_paid_is_refused_with_what_to_do(alice: Node, bob: Node) -> None:
    good = invoice(bob)
    wrong = good[:-1] + ("q" if good[-1] != "q" else "p")
    other_chain = genuine(bob, prefix=MAINNET.bolt11_prefix.removeprefix("ln"))
    expired = genuine(bob, timestamp=int(time.time()) - 7_200, expiry=3_600)
    for given, words in (
        ({"invstring": wrong}, ("checksum", "Copy or scan it again")),
        ({"invstring": "hello"}, ("not an invoice", "Copy or scan it again")),
        ({"invstring": other_chain}, ("is for mainnet", "runs on regtest", "Ask the recipient")),
        ({"invstring": expired}, ("expired", "Ask")),
        ({"invstring": good, "amount_msat": 7_000}, (f"asks for {AMOUNT} msat", "Leave amount_msat out")),
        ({"invstring": genuine(bob, amount_msat=None)}, ("amount",)),
        ({"invstring": genuine(bob, features=frozenset({8, 14, 100}))}, ("feature",)),
        ({"invstring": invoice(bob, amount_msat=90_000_000_000)}, ("can send", "needed")),
    ):
        said = refusal(alice, "xpay", **given)
        assert all(word in said for word in words), said
    assert alice.call("listpays", bolt11=wrong)["pays"] == []
    assert refusal(alice, "invoice", amount_msat=0, label="none", description="x")
    assert "amount_msat" in refusal(alice, "invoice", amount_msat="lots", label="none", description="x")


def test_payment_that_the_payee_does_not_know_comes_back_with_the_reason(alice: Node, bob: Node) -> None:
    unknown = genuine(bob)
    said = refusal(alice, "xpay", invstring=unknown)
    assert "recipient" in said
    (failed,) = alice.call("listpays", bolt11=unknown)["pays"]
    assert failed["status"] == "failed"


# The chain.


def test_chain_that_is_away_stops_nothing_but_what_needs_it(stack: Stack, alice: Node, bob: Node) -> None:
    doors = stack.chain.doors
    stack.chain.program.kill()
    pay(alice, bob)
    said = refusal(alice, "withdraw", destination=alice.call("newaddr")["bech32"], satoshi=50_000)
    assert "does not answer" in said and "Start it" in said, said
    assert alice.call("getinfo")["blockheight"] > 100
    ports = [doors[name].rsplit(":", 1)[1] for name in ("rpc_url", "zmq_endpoint")]
    stack.chain.program.start(
        *("node.chain.regtest", "--datadir", str(stack.chain.folder)),
        *("--rpcport", ports[0].strip("/"), "--zmqport", ports[1]),
    )
    stack.chain.doors = stack.chain.program.wait_ready()
    height = stack.chain.height
    stack.chain.mine(1)
    wait_for("alice to see the next block", lambda: alice.height == height + 1, seconds=30)
    sent = alice.call("withdraw", destination=alice.call("newaddr")["bech32"], satoshi=50_000)
    assert sent["txid"] in stack.chain.call("getrawmempool")
    stack.chain.mine(1)


def test_wrong_login_of_bitcoind_is_said_at_the_start(alice: Node, tmp_path: Path) -> None:
    cookie = tmp_path / "cookie"
    cookie.write_text("__cookie__:wrong")
    alice.daemon.stop()
    code, said = lnpd("run", "--datadir", alice.datadir, "--set", f"bitcoind.cookie={cookie}")
    assert code == 2 and "refuses our login" in said and "Check its cookie file" in said, said
    alice.start_daemon()
    alice.wait_ready()


class _FakeBitcoind(http.server.BaseHTTPRequestHandler):
    """A bitcoind of mainnet."""

    answers: ClassVar[dict[str, object]] = {
        "getblockchaininfo": {"chain": "main", "blocks": 5, "headers": 5, "initialblockdownload": False},
        "getblockhash": MAINNET.chain_hash[::-1].hex(),
        "getnetworkinfo": {"version": 290000},
    }

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(
            {"id": asked["id"], "error": None, "result": self.answers.get(asked["method"])}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_bitcoind_of_another_network_is_refused(alice: Node) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _FakeBitcoind)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        alice.daemon.stop()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        code, said = lnpd("run", "--datadir", alice.datadir, "--set", f"bitcoind.url={url}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert code == 2 and "is not on regtest" in said, said
    alice.start_daemon()
    alice.wait_ready()


# Mainnet.


@pytest.mark.parametrize("program", ["node", "signer"])
def test_mainnet_is_refused_and_nothing_is_made(program: str, tmp_path: Path) -> None:
    place = tmp_path / "place"
    more = ["--signer", "ipc:///x", "--signer-key", "k" * 40, "--bitcoind-url", "http://127.0.0.1:1"]
    more += ["--bitcoind-cookie", "x"]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            program,
            "init",
            "--datadir",
            place,
            "--network",
            "mainnet",
            *(more if program == "node" else []),
        ],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "mainnet" in done.stderr and "signet" in done.stderr, done.stderr
    assert not list(place.rglob("*")) if place.exists() else True
