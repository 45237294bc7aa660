"""LDK 0.1 as npm's lightningdevkit (wasm), driven by ldk/peer.mjs over HTTP."""

import json
import os
import shutil
import subprocess
import urllib.request
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from node.demo.stack import free_port, wait_for
from protocol import curve
from protocol.bolt11.decode import decode
from protocol.hashes import sha256
from tests.interop.peers.base import (
    CACHE,
    ChannelView,
    HoldingPeer,
    Kind,
    NotInstalled,
    Outcome,
    PeerRefused,
    Terms,
)

SCRIPTS = Path(__file__).parent / "ldk"
LIBRARY = CACHE / "ldk-0.1.2-0"
PAY_SECONDS = 60
COINS = 5
HOLD_DELTA = 60
"""Of its held invoices, in blocks: LDK gives back what is held until 21 blocks before its end."""


class Ldk(HoldingPeer):
    name: ClassVar[str] = "ldk"
    version: ClassVar[str] = "lightningdevkit 0.1.2-0 (npm)"
    anchors: ClassVar[bool] = True
    # It ends itself, so that nobody publishes that state.
    survives_old_state: ClassVar[bool] = False
    # Its invoices are good for two hours more, counted in block time.
    refuses_expired: ClassVar[bool] = False

    @classmethod
    def install(cls) -> None:
        if shutil.which("node") is None or shutil.which("npm") is None:
            raise NotInstalled("LDK runs in Node.js, which is not installed (node and npm)")
        if (LIBRARY / ".ready").exists():
            return
        LIBRARY.mkdir(parents=True, exist_ok=True)
        shutil.copy(SCRIPTS / "package.json", LIBRARY)
        command = ["npm", "install", "--no-audit", "--no-fund", "--omit-lockfile-registry-resolved=true"]
        done = subprocess.run(command, cwd=LIBRARY, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NotInstalled(f"npm could not install lightningdevkit: {done.stderr.strip()[-300:]}")
        (LIBRARY / ".ready").touch()

    def start(self) -> None:
        self._control = free_port()
        login = Path(self.chain.doors["cookie_path"]).read_text().strip()
        arguments = (
            str(self.folder / "ldk"),
            str(self.port),
            str(self._control),
            self.chain.doors["rpc_url"],
        )
        env = {**os.environ, "CHAIN_LOGIN": login, "LDK_LIBRARY": str(LIBRARY)}
        self.program.start(["node", str(SCRIPTS / "peer.mjs"), *arguments], env=env)
        self.wait_until("to answer", lambda: self._try("info"))

    def call(self, method: str, *params: Any) -> Any:
        body = json.dumps({"method": method, "params": params}).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self._control}", body, timeout=60) as response:
            answer = json.load(response)
        if "error" in answer:
            raise PeerRefused(answer["error"])
        return answer["result"]

    def _try(self, method: str) -> Any:
        try:
            return self.call(method)
        except OSError:
            return None

    @cached_property
    def node_id(self) -> str:
        return str(self.call("info")["id"])

    def height(self) -> int:
        return int(self.call("info")["height"])

    def connected(self, node_id: str) -> bool:
        return node_id in self.call("info")["peers"]

    def connect(self, node_id: str, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.call("connect", node_id, host, int(port))

    def fund(self, sat: int) -> None:
        """Coins for the fees of anchor closes, several: each is tied up until its spend confirms.

        The chain's faucet pays for its channels.
        """
        for _ in range(COINS):
            self.call("fund", sat // COINS)
            self.chain.mine(1)
        self.wait_until("to see its coins", lambda: self.money_sat() >= sat // COINS * COINS)

    def open_channel(self, node_id: str, address: str, sat: int, push_sat: int, kind: Kind) -> None:
        self.call("open", node_id, sat, push_sat * 1000, kind.anchors, kind.alias)

    def channels(self) -> list[ChannelView]:
        return [self._view(row) for row in self.call("channels")]

    @staticmethod
    def _view(row: dict[str, Any]) -> ChannelView:
        return ChannelView(
            funding=row["funding"] or "",
            capacity=row["sat"],
            usable=row["usable"],
            local_msat=row["outbound_msat"],
            remote_msat=row["inbound_msat"],
            pending=row["pending"],
            feerate_per_kw=row["feerate"],
            anchors=bool(int(row["type"] or "0", 16) >> 22 & 1),
        )

    def close_channel(self, funding: str) -> None:
        self._close("close", funding)

    def force_close(self, funding: str) -> None:
        self._close("forceClose", funding)

    def _close(self, how: str, funding: str) -> None:
        (row,) = (row for row in self.call("channels") if row["funding"] == funding)
        self.call(how, row["id"], row["peer"])

    def closes(self) -> int:
        return int(self.call("closes"))

    def money_sat(self) -> int:
        return int(self.call("balance"))

    @property
    def state(self) -> Path:
        return self.folder / "ldk"

    def invoice(self, msat: int, *, description: str, expiry: int = 3600) -> str:
        return str(self.call("invoice", msat, description, expiry))

    def received_msat(self, payment_hash: str) -> int | None:
        found: int | None = self.call("received", payment_hash)
        return found

    def sign(self, message: bytes) -> tuple[bytes, int]:
        return curve.sign_recoverable(bytes.fromhex(self.call("secret")), sha256(message))

    def pay(self, bolt11: str) -> Outcome:
        self.call("pay", bolt11)
        return self._ended(decode(bolt11).payment_hash.hex())

    def send(self, terms: Terms) -> Outcome:
        delta = terms.min_final_cltv_expiry_delta + 3
        self.call("send", terms.payee, terms.payment_hash, terms.payment_secret, terms.amount_msat, delta)
        return self._ended(terms.payment_hash)

    def _ended(self, payment_hash: str) -> Outcome:
        end: Outcome = wait_for("LDK's payment to end", lambda: self.ended(payment_hash), seconds=PAY_SECONDS)
        return end

    def want_feerate(self, sat_per_kw: int) -> int:
        self.call("feerate", sat_per_kw)
        self.call("tick")
        return sat_per_kw

    def ping(self, node_id: str) -> None:
        """At a tick LDK hangs up on whoever did not answer the ping of the tick before."""
        for _ in range(3):
            answered = self.call("pongs")
            self.call("ping")
            self.wait_until("to have its pong", lambda: self.call("pongs") > answered)  # noqa: B023
            if not self.connected(node_id):
                raise PeerRefused("LDK hung up: it did not get its pong")

    def begin_paying(self, bolt11: str) -> None:
        self.call("pay", bolt11)

    def ended(self, payment_hash: str) -> Outcome | None:
        end = self.call("payment", payment_hash)
        if end is None:
            return None
        return Outcome(end.get("preimage"), f"{end.get('failure', '')} {end.get('reason', '')}")

    def pay_together(self, bolt11s: Sequence[str]) -> list[Outcome]:
        """In one turn of its loop: one HTLC leaves at once, the others together in the next commitment."""
        self.call("payAll", list(bolt11s))
        return [self._ended(decode(bolt11).payment_hash.hex()) for bolt11 in bolt11s]

    def hold_invoice(self, msat: int) -> str:
        bolt11 = str(self.call("invoice", msat, "held", 3600, HOLD_DELTA))
        self.call("hold", decode(bolt11).payment_hash.hex())
        return bolt11

    def holds(self, bolt11: str) -> bool:
        return bool(self.call("holds", decode(bolt11).payment_hash.hex()))

    def release(self, bolt11: str) -> None:
        self.call("release", decode(bolt11).payment_hash.hex())

    def give_back(self, bolt11: str) -> None:
        self.call("giveBack", decode(bolt11).payment_hash.hex())
