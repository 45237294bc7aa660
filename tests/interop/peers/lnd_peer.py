"""LND, on the embedded chain's bitcoind face (RPC and ZMQ), steered over its REST interface without TLS."""

import base64
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from node.demo.stack import Chain, free_port
from protocol.hashes import sha256
from tests.interop.peers import lnd_build
from tests.interop.peers.base import (
    ChannelView,
    HoldingPeer,
    Kind,
    Outcome,
    PeerRefused,
    Terms,
    side_by_side,
)

NODE_KEY = {"key_family": 6, "key_index": 0}
PAY_SECONDS = 60
HOLD_DELTA = 40
"""Of its hold invoices, in blocks: LND cancels one that is held until 12 blocks before its end."""


class Lnd(HoldingPeer):
    name: ClassVar[str] = "lnd"
    version: ClassVar[str] = f"LND v{lnd_build.VERSION}"
    anchors: ClassVar[bool] = True

    def __init__(self, folder: Path, chain: Chain) -> None:
        super().__init__(folder, chain)
        self._held: dict[str, bytes] = {}
        self.extra: tuple[str, ...] = ()
        """More arguments of its command line, for each start."""

    @classmethod
    def install(cls) -> None:
        lnd_build.build()

    def start(self) -> None:
        self._rest, self._rpc = free_port(), free_port()
        self.folder.joinpath("lnd").mkdir(exist_ok=True)
        doors = self.chain.doors
        user, _, password = Path(doors["cookie_path"]).read_text().strip().partition(":")
        self.program.start(
            [
                str(lnd_build.FOLDER / "lnd"),
                f"--lnddir={self.folder / 'lnd'}",
                "--bitcoin.regtest",
                "--bitcoin.node=bitcoind",
                f"--bitcoind.rpchost={doors['rpc_url'].removeprefix('http://')}",
                f"--bitcoind.rpcuser={user}",
                f"--bitcoind.rpcpass={password}",
                f"--bitcoind.zmqpubrawblock={doors['zmq_endpoint']}",
                # One port serves both, but LND insists on two addresses.
                f"--bitcoind.zmqpubrawtx={doors['zmq_endpoint'].replace('127.0.0.1', 'localhost')}",
                f"--listen=127.0.0.1:{self.port}",
                f"--restlisten=127.0.0.1:{self._rest}",
                f"--rpclisten=127.0.0.1:{self._rpc}",
                "--no-rest-tls",
                "--no-macaroons",
                "--noseedbackup",
                "--nobootstrap",
                "--bitcoin.defaultchanconfs=1",
                "--trickledelay=50",
                "--maxpendingchannels=10",
                "--alias=lnd",
                "--debuglevel=debug,BTCN=info,BTWL=info",
                *self.extra,
            ]
        )
        self.wait_until("to answer and to be synced", self._is_up, seconds=90)

    def _is_up(self) -> bool:
        try:
            info = self.get("/v1/getinfo")
        except (OSError, PeerRefused):
            return False
        return bool(info.get("synced_to_chain"))

    # REST

    @property
    def rest_port(self) -> int:
        return self._rest

    def get(self, path: str) -> Any:
        return self._request("GET", path, None)

    def post(self, path: str, **body: Any) -> Any:
        return self._request("POST", path, body)

    def _request(self, verb: str, path: str, body: Any) -> Any:
        raw = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self._rest}{path}", raw, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=PAY_SECONDS + 30) as response:
                lines = [json.loads(line) for line in response if line.strip()]
        except urllib.error.HTTPError as error:
            raise PeerRefused(error.read().decode(errors="replace")) from error
        last = lines[-1]
        if "error" in last:
            raise PeerRefused(str(last["error"]))
        return last.get("result", last)

    # The interface of every peer

    @cached_property
    def node_id(self) -> str:
        return str(self.get("/v1/getinfo")["identity_pubkey"])

    def height(self) -> int:
        info = self.get("/v1/getinfo")
        return int(info["block_height"]) if info["synced_to_chain"] else 0

    def connected(self, node_id: str) -> bool:
        return any(peer["pub_key"] == node_id for peer in self.get("/v1/peers")["peers"])

    def connect(self, node_id: str, address: str) -> None:
        self.post("/v1/peers", addr={"pubkey": node_id, "host": address}, perm=False, timeout="10")

    def fund(self, sat: int) -> None:
        address = self.get("/v1/newaddress?type=TAPROOT_PUBKEY")["address"]
        self.chain.fund(address, sat)
        self.chain.mine(1)
        self.wait_until("to see its coins", lambda: self._confirmed_balance() >= sat)

    def _confirmed_balance(self) -> int:
        return int(self.get("/v1/balance/blockchain")["confirmed_balance"])

    def open_channel(self, node_id: str, address: str, sat: int, push_sat: int, kind: Kind) -> None:
        more: dict[str, Any] = {"scid_alias": True} if kind.alias else {}
        if kind.zeroconf:
            more["zero_conf"] = True
        self.post(
            "/v1/channels",
            node_pubkey=base64.b64encode(bytes.fromhex(node_id)).decode(),
            local_funding_amount=str(sat),
            push_sat=str(push_sat),
            private=True,
            sat_per_vbyte="2",
            commitment_type="ANCHORS" if kind.anchors else "STATIC_REMOTE_KEY",
            **more,
        )

    def channels(self) -> list[ChannelView]:
        return [
            ChannelView(
                funding=row["channel_point"],
                capacity=int(row["capacity"]),
                usable=row["active"] and self._in_graph(row["chan_id"]),
                local_msat=int(row["local_balance"]) * 1000,
                remote_msat=int(row["remote_balance"]) * 1000,
                pending=len(row["pending_htlcs"]),
                feerate_per_kw=int(row["fee_per_kw"]),
                anchors=row["commitment_type"] == "ANCHORS",
            )
            for row in self.get("/v1/channels")["channels"]
        ]

    def _in_graph(self, chan_id: str) -> bool:
        """LND calls a channel active a second before its own router knows it and its policy, and can pay over it."""
        try:
            edge = self.get(f"/v1/graph/edge/{chan_id}")
        except PeerRefused:
            return False
        first = edge["node1_pub"] == self.node_id
        return edge["node1_policy" if first else "node2_policy"] is not None

    def close_channel(self, funding: str, *, sat_per_vbyte: int = 2) -> None:
        self._close(funding, f"sat_per_vbyte={sat_per_vbyte}")

    def force_close(self, funding: str) -> None:
        self._close(funding, "force=true")

    def _close(self, funding: str, how: str) -> None:
        txid, _, index = funding.partition(":")
        self._first("DELETE", f"/v1/channels/{txid}/{index}?{how}")

    def _first(self, verb: str, path: str, raw: bytes | None = None) -> Any:
        """Of an answer that is a stream until the end of the matter, the first line is enough."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._rest}{path}", raw, method=verb)
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                first = json.loads(response.readline())
        except urllib.error.HTTPError as error:
            raise PeerRefused(error.read().decode(errors="replace")) from error
        if "error" in first:
            raise PeerRefused(str(first["error"]))
        return first

    def closes(self) -> int:
        found = self.get("/v1/channels/pending")
        names = ("pending_closing_channels", "pending_force_closing_channels", "waiting_close_channels")
        return sum(len(found[name]) for name in names)

    def money_sat(self) -> int:
        return self._confirmed_balance()

    @property
    def state(self) -> Path:
        """Beside its wallet, which keeps its keys and coins."""
        return self.folder / "lnd" / "data" / "graph" / "regtest"

    def invoice(self, msat: int, *, description: str, expiry: int = 3600) -> str:
        made = self.post("/v1/invoices", value_msat=str(msat), memo=description, expiry=str(expiry))
        return str(made["payment_request"])

    def received_msat(self, payment_hash: str) -> int | None:
        found = self.get(f"/v1/invoice/{payment_hash}")
        return int(found["amt_paid_msat"]) if found["state"] == "SETTLED" else None

    def has_expired(self, payment_hash: str) -> bool:
        """It cancels an invoice when its time is over, and by that alone refuses a late payment."""
        return bool(self.get(f"/v1/invoice/{payment_hash}")["state"] == "CANCELED")

    def sign(self, message: bytes) -> tuple[bytes, int]:
        signed = self.post(
            "/v2/signer/signmessage",
            msg=base64.b64encode(message).decode(),
            key_loc=NODE_KEY,
            double_hash=False,
            compact_sig=True,
        )
        raw = base64.b64decode(signed["signature"])
        # The first byte says the recovery id, and 4 more for a compressed key.
        return raw[1:], (raw[0] - 27) & 3

    def pay(self, bolt11: str) -> Outcome:
        return self._pay(payment_request=bolt11)

    def send(self, terms: Terms) -> Outcome:
        return self._pay(
            dest=base64.b64encode(bytes.fromhex(terms.payee)).decode(),
            payment_hash=base64.b64encode(bytes.fromhex(terms.payment_hash)).decode(),
            payment_addr=base64.b64encode(bytes.fromhex(terms.payment_secret)).decode(),
            amt_msat=str(terms.amount_msat),
            final_cltv_delta=terms.min_final_cltv_expiry_delta,
            dest_features=[9, 15, 17],
        )

    def _pay(self, **request: Any) -> Outcome:
        end = self.post(
            "/v2/router/send",
            timeout_seconds=PAY_SECONDS,
            fee_limit_msat="0",
            max_parts=1,
            no_inflight_updates=True,
            **request,
        )
        if end["status"] == "SUCCEEDED":
            return Outcome(end["payment_preimage"])
        codes = [row["failure"]["code"] for row in end.get("htlcs", ()) if row.get("failure")]
        return Outcome(None, " ".join([*codes, end["failure_reason"]]))

    def want_feerate(self, sat_per_kw: int) -> int:
        """The fees of the chain's own estimate, which our node follows too (for channels of its own)."""
        self.chain.call("setfeerate", sat_per_kw * 4)
        return sat_per_kw

    def ping(self, node_id: str) -> None:
        """It pings in its own time (see lnd_build); the time of the last pong is what it shows."""

        def answered() -> bool:
            rows = [row for row in self.get("/v1/peers")["peers"] if row["pub_key"] == node_id]
            return any(int(row["ping_time"]) > 0 for row in rows)

        self.wait_until("to have its pong", answered, seconds=40)

    def begin_paying(self, bolt11: str) -> None:
        order = {
            "payment_request": bolt11,
            "timeout_seconds": PAY_SECONDS,
            "fee_limit_msat": "0",
            "max_parts": 1,
        }
        self._first("POST", "/v2/router/send", json.dumps(order).encode())

    def ended(self, payment_hash: str) -> Outcome | None:
        rows = self.get("/v1/payments?include_incomplete=true")["payments"]
        (row,) = (row for row in rows if row["payment_hash"] == payment_hash)
        if row["status"] == "SUCCEEDED":
            return Outcome(row["payment_preimage"])
        return Outcome(None, row["failure_reason"]) if row["status"] == "FAILED" else None

    def pay_together(self, bolt11s: Sequence[str]) -> list[Outcome]:
        return side_by_side((lambda b=bolt11: self.pay(b) for bolt11 in bolt11s), width=len(bolt11s))

    def hold_invoice(self, msat: int) -> str:
        preimage = secrets.token_bytes(32)
        digest = sha256(preimage)
        made = self.post(
            "/v2/invoices/hodl",
            hash=base64.b64encode(digest).decode(),
            value_msat=str(msat),
            cltv_expiry=str(HOLD_DELTA),
        )
        self._held[made["payment_request"]] = preimage
        return str(made["payment_request"])

    def holds(self, bolt11: str) -> bool:
        payment_hash = sha256(self._held[bolt11]).hex()
        return bool(self.get(f"/v1/invoice/{payment_hash}")["state"] == "ACCEPTED")

    def release(self, bolt11: str) -> None:
        preimage = self._held.pop(bolt11)
        self.post("/v2/invoices/settle", preimage=base64.b64encode(preimage).decode())

    def give_back(self, bolt11: str) -> None:
        payment_hash = sha256(self._held.pop(bolt11))
        self.post("/v2/invoices/cancel", payment_hash=base64.b64encode(payment_hash).decode())

    def lncli(self) -> list[str]:
        """How a person would call it by hand."""
        folder = self.folder / "lnd"
        flags = [
            f"--lnddir={folder}",
            "--network=regtest",
            "--no-macaroons",
            f"--rpcserver=127.0.0.1:{self._rpc}",
        ]
        return [str(lnd_build.FOLDER / "lncli"), *flags]

    def logs(self) -> list[Path]:
        return [self.program.log]
