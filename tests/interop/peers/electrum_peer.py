"""Electrum 4.3.4 of Debian, headless on regtest, over the embedded chain's Electrum face."""

import base64
import json
import os
import secrets
import shutil
import subprocess
import urllib.error
import urllib.request
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from node.demo.stack import free_port
from protocol import curve
from protocol.hashes import sha256
from tests.interop.peers.base import (
    ChannelView,
    Kind,
    NotInstalled,
    Outcome,
    Peer,
    PeerRefused,
    Terms,
)

LAUNCHER = Path(__file__).parent / "electrum" / "launch.py"
PROGRAM = "/usr/bin/electrum"
SYSTEM_PYTHON = "/usr/bin/python3"
SYSTEM_PACKAGES = "/usr/lib/python3/dist-packages"
VERSION = "4.3.4"
CALL_SECONDS = 130
REGTEST_FEERATE = 45_000
PART_PATIENCE = 1800
"""Seconds for the rest of a payment to come, while it holds; 120 by its own choice."""


class Electrum(Peer):
    name: ClassVar[str] = "electrum"
    version: ClassVar[str] = f"Electrum {VERSION} (Debian)"
    anchors: ClassVar[bool] = False
    # At 45,000 sat/kw a commitment costs 32,580 sat, and each HTLC 7,740 more.
    channel_sat: ClassVar[int] = 4_000_000
    close_fees_sat: ClassVar[int] = 60_000
    # When our channel_reestablish comes first, it marks its channel as toxic and never sends its own.
    tells_old_state: ClassVar[bool] = False
    # Its source says "TODO check invoice expiry" where it takes a payment.
    refuses_expired: ClassVar[bool] = False

    @classmethod
    def install(cls) -> None:
        how = f"Electrum {VERSION} is Debian's package electrum: apt-get install electrum"
        if not Path(PROGRAM).exists():
            _install_package(how)
        found = _version_here()
        if found != VERSION:
            raise NotInstalled(f"{how}; here is {found}")

    def start(self) -> None:
        home = self.folder / "electrum"
        config = home / "regtest" / "config"
        if not config.exists():
            config.parent.mkdir(parents=True)
            self._rpc, self._password = free_port(), secrets.token_hex(16)
            config.write_text(json.dumps(self._settings(), indent=1))
        server = f"{self.chain.doors['electrum_endpoint']}:t"
        options = ["--regtest", "-D", str(home), "-v", "--oneserver", "-s", server]
        self.program.start([SYSTEM_PYTHON, str(LAUNCHER), "daemon", *options])
        self.wait_until("to answer", self._answers)
        wallet = home / "regtest" / "wallets" / "default_wallet"
        if not wallet.exists():
            self.call("create")
        self.call("load_wallet")
        self.wait_until("to be synced", lambda: self.height() >= self.chain.height)

    def _settings(self) -> dict[str, Any]:
        return {
            "rpcuser": "lnp",
            "rpcpassword": self._password,
            "rpcport": self._rpc,
            "rpchost": "127.0.0.1",
            "check_updates": False,
            "lightning_listen": self.address,
            # Trampoline off: with it on, it opens channels to trampoline nodes only.
            "use_gossip": True,
            # With them on, it takes no channel from others.
            "use_recoverable_channels": False,
            # It keeps sweeps of HTLCs that we claimed, which can never confirm, and would spend their outputs.
            "confirmed_only": True,
        }

    def call(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._rpc}", body)
        login = base64.b64encode(f"lnp:{self._password}".encode()).decode()
        request.add_header("Authorization", f"Basic {login}")
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=CALL_SECONDS) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            raise PeerRefused(error.read().decode(errors="replace")) from error
        if answer.get("error"):
            raise PeerRefused(str(answer["error"]))
        return answer["result"]

    def _answers(self) -> bool:
        try:
            return bool(self.call("getinfo")["connected"])
        except (OSError, PeerRefused):
            return False

    @cached_property
    def node_id(self) -> str:
        return str(self.call("nodeid")).partition("@")[0]

    def height(self) -> int:
        return int(self.call("getinfo")["blockchain_height"])

    def connected(self, node_id: str) -> bool:
        return any(p["node_id"] == node_id and p["initialized"] for p in self.call("list_peers"))

    def connect(self, node_id: str, address: str) -> None:
        self.call("add_peer", f"{node_id}@{address}")

    def fund(self, sat: int) -> None:
        self.chain.fund(self.call("getunusedaddress"), sat)
        self.chain.mine(1)
        self.wait_until("to see its coins", lambda: self._confirmed_sat() >= sat)

    def _confirmed_sat(self) -> int:
        return round(float(self.call("getbalance").get("confirmed", 0)) * 100_000_000)

    def open_channel(self, node_id: str, address: str, sat: int, push_sat: int, kind: Kind) -> None:
        self.call("open_channel", f"{node_id}@{address}", _btc(sat), _btc(push_sat))

    def channels(self) -> list[ChannelView]:
        return [
            ChannelView(
                funding=row["channel_point"],
                capacity=row["capacity"],
                usable=row["usable"],
                local_msat=row["local_msat"],
                remote_msat=row["capacity"] * 1000 - row["local_msat"],
                pending=row["pending"],
                feerate_per_kw=row["feerate"],
                anchors=False,
            )
            for row in self.call("channel_facts")
            if row["state"] not in ("CLOSED", "REDEEMED")
        ]

    def close_channel(self, funding: str) -> None:
        self.call("close_channel", funding)

    def force_close(self, funding: str) -> None:
        self.call("close_channel", funding, True)

    def closes(self) -> int:
        """REDEEMED is its word for a close of which every output is spent."""
        done = ("OPEN", "FUNDED", "OPENING", "PREOPENING", "REDEEMED")
        return sum(row["state"] not in done for row in self.call("channel_facts"))

    def money_sat(self) -> int:
        return self._confirmed_sat()

    @property
    def state(self) -> Path:
        """The wallet file holds its channels; its coins are found on the chain."""
        return self.folder / "electrum" / "regtest" / "wallets"

    def invoice(self, msat: int, *, description: str, expiry: int = 3600) -> str:
        if msat % 1000:
            raise PeerRefused("Electrum's invoices are over whole satoshis")
        made = self.call("add_request", _btc(msat // 1000), description, expiry, True)
        return str(made["lightning_invoice"])

    def received_msat(self, payment_hash: str) -> int | None:
        found: int | None = self.call("received_msat", payment_hash)
        return found

    def sign(self, message: bytes) -> tuple[bytes, int]:
        return curve.sign_recoverable(bytes.fromhex(self.call("node_secret")), sha256(message))

    def pay(self, bolt11: str) -> Outcome:
        return _outcome(self.call("lnpay", bolt11))

    def send(self, terms: Terms) -> Outcome:
        parts = (terms.payee, terms.payment_hash, terms.payment_secret, terms.amount_msat)
        return _outcome(self.call("send_anyway", *parts, terms.min_final_cltv_expiry_delta))

    def want_feerate(self, sat_per_kw: int) -> int:
        """On regtest it knows one feerate; with the first block after a channel opened it proposes one more."""
        self.chain.mine(1)
        return REGTEST_FEERATE + 1

    def ping(self, node_id: str) -> None:
        self.call("ping_peer", node_id)

    def in_mempool(self) -> bool:
        """Whether coins of its wait for a block. What it only plans to have has a height below these."""
        return any(coin["height"] in (0, -1) for coin in self.call("listunspent"))

    # Payments that stay in flight

    def hold(self, yes: bool) -> None:
        """Whether HTLCs of its invoices stay: it still takes them on the chain, unless a part of the payment is
        missing. When it holds no more it fulfils them, and gives parts back. Until its next start."""
        self.call("part_patience", PART_PATIENCE if yes else 0)
        self.call("enable_htlc_settle", not yes)

    def begin_paying(self, bolt11: str) -> None:
        self.call("begin_paying", bolt11)

    def preimage(self, payment_hash: str) -> str | None:
        found: str | None = self.call("preimage_known", payment_hash)
        return found

    def would_take(self, payment_hash: str) -> bool:
        return bool(self.call("would_take", payment_hash))

    def waits_for_more(self, payment_hash: str) -> bool:
        """A part of a payment is there, and is neither taken nor, for now, given back."""
        return bool(self.call("waits_for_more", payment_hash))


def _install_package(how: str) -> None:
    as_root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if shutil.which("apt-get") is None or (as_root and shutil.which("sudo") is None):
        raise NotInstalled(how)
    quiet = {"capture_output": True, "text": True, "check": False, "stdin": subprocess.DEVNULL}
    install = [*as_root, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "electrum"]
    subprocess.run([*as_root, "apt-get", "update", "-qq"], **quiet)
    done = subprocess.run(install, **quiet, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"})
    if done.returncode != 0 or not Path(PROGRAM).exists():
        raise NotInstalled(f"{how}; that failed: {done.stderr.strip()[-300:]}")


def _version_here() -> str:
    """Asked of the system's Python: Electrum belongs to it, not to our environment."""
    words = f"import sys; sys.path.insert(0, {SYSTEM_PACKAGES!r}); import electrum.version as v; "
    command = [SYSTEM_PYTHON, "-c", words + "print(v.ELECTRUM_VERSION)"]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return asked.stdout.strip() or asked.stderr.strip()[-200:]


def _outcome(end: dict[str, Any]) -> Outcome:
    if end["success"]:
        return Outcome(end["preimage"])
    return Outcome(None, " ".join([*(message for _, _, message in end["log"]), end.get("why", "")]))


def _btc(sat: int) -> str:
    return f"{sat // 100_000_000}.{sat % 100_000_000:08d}"
