"""A small network: two nodes of ours, two LNDs and an LDK, with announced and private channels between them.

    lnd ═══ ours ─── far        ═  two announced channels       far: a second LND
             │ ┊       ┊        ─  one announced channel        third: a second node of ours
             │ ldk     ┊        ┊  a private channel
             └─ third ─┘

`lnd` and `ldk` know nobody but us, so whatever they know of the others came through us. The network grows in steps,
since the order of things is what gossip is about: see `Web.grow`.
"""

import base64
import contextlib
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from node.demo.stack import DemoFailed, Node, Stack, wait_for
from protocol.amounts import ShortChannelId, format_scid
from protocol.bolt11.decode import decode
from tests.interop.peers.base import Kind, Peer, side_by_side, tail
from tests.interop.peers.ldk_peer import Ldk
from tests.interop.peers.lnd_peer import Lnd

WAIT = 60.0
AT_ONCE = 10.0
"""What concerns our own channels is told without waiting for the relay."""
RELAY = 90.0
"""Our relay speaks once a minute."""
SAT = 1_000_000
PUSHED = 400_000
WIDE, WIDE_PUSHED = 2_000_000, 800_000
LND_OPTIONS = (
    "--accept-keysend",
    # Waiting times of gossip, of seconds and minutes; what is said does not change.
    "--gossip.sub-batch-delay=50ms",
    # So many changes of a channel are heard, then none for an hour (one test wants LND to be behind).
    "--gossip.max-channel-update-burst=4",
    "--gossip.channel-update-interval=1h",
    "--chan-status-sample-interval=500ms",
    "--chan-disable-timeout=3s",
    "--chan-enable-timeout=1s",
)
USABLE = "CHANNELD_NORMAL"


class Web:
    def __init__(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        self.stack = Stack(folder, ("ours", "third"))
        self.chain = self.stack.chain
        self.ours, self.third = self.stack.nodes["ours"], self.stack.nodes["third"]
        for name in ("near", "far"):
            (folder / name).mkdir()
        self.lnd, self.far = Lnd(folder / "near", self.chain), Lnd(folder / "far", self.chain)
        self.ldk = Ldk(folder, self.chain)
        self.peers: tuple[Peer, ...] = (self.lnd, self.far, self.ldk)
        for lnd in (self.lnd, self.far):
            lnd.extra = (*LND_OPTIONS, f"--externalip={lnd.address}")
        for node in (self.ours, self.third):
            node.settings = [f'announce=["{node.address}"]']
        self.early: dict[str, Any] = {}
        """What everybody listed when the channels were usable, but not six blocks deep."""

    def __enter__(self) -> "Web":
        try:
            self.stack.start()
            _together(*(peer.start for peer in self.peers))
            self.our_id, self.third_id = self.ours.node_id, self.third.node_id
            self.grow()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.ExitStack() as ends:
            ends.callback(self.stack.stop)
            for peer in self.peers:
                ends.callback(peer.stop)

    # Growing

    def grow(self) -> None:
        """First two channels with `lnd` and a private one with `ldk`; `far` and `third` come when these are public."""
        self._fund()
        self.lnd.connect(self.our_id, self.ours.address)
        self.ldk.connect(self.our_id, self.ours.address)
        self.until("lnd and ldk to be connected", lambda: self._know(self.ours, self.lnd, self.ldk))
        self.by_lnd = self.lnd_opens(self.lnd, SAT, PUSHED)
        self.by_us = self.we_open(self.lnd.node_id, SAT, PUSHED)
        self.to_ldk = self.we_open(self.ldk.node_id, WIDE, WIDE_PUSHED, announce=False)
        self.mine(3)
        for funding in (self.by_lnd, self.by_us, self.to_ldk):
            self.until(f"{funding} to be usable", lambda f=funding: self.usable(f))
        self.early = {"lnd": self.edges(self.lnd), "ours": self.listed(self.ours)}
        self.mine(3)
        for name in (self.by_lnd, self.by_us):
            self.public(name, self.ours, self.lnd)

        self.far.connect(self.our_id, self.ours.address)
        for name in (self.by_lnd, self.by_us):
            self.public(name, self.far)
        self.synced = self.edges(self.far)
        """What `far` knew when it had spoken with us alone, and had no channel."""
        self.third.call("connect", f"{self.far.node_id}@{self.far.address}")
        for name in (self.by_lnd, self.by_us):
            self.public(name, self.third)

    def grow_on(self) -> None:
        """The channels of `far` and `third`."""
        self.third.call("connect", f"{self.our_id}@{self.ours.address}")
        self.until(
            "far and third to be connected", lambda: self._know(self.ours, self.far) and self._linked()
        )
        self.to_far = self.we_open(self.far.node_id, WIDE, WIDE_PUSHED)
        self.to_third = self.we_open(self.third_id, SAT, PUSHED)
        self.far_third = self.lnd_opens(self.far, SAT, PUSHED, node=self.third, private=True)
        self.mine(6)
        for funding in (self.to_far, self.to_third):
            self.until(f"{funding} to be usable", lambda f=funding: self.usable(f))
        self.until("the private channel to be usable", lambda: self.usable(self.far_third, self.third))
        for name in (self.to_far, self.to_third):
            self.public(name, self.ours, self.lnd)
        for node_id in (self.far.node_id, self.third_id):
            self.until("lnd to hear of the new nodes", lambda one=node_id: self._introduced(one), RELAY)
        self.until("third to know what far asks", lambda: self.hint_of_third(), AT_ONCE)

    def _introduced(self, node_id: str) -> bool:
        """Without its features LND builds no route to a node, and sends it no parts."""
        nodes = self.lnd.get("/v1/graph")["nodes"]
        return any(row["pub_key"] == node_id and row["features"] for row in nodes)

    def hint_of_third(self) -> bool:
        made = self.our_invoice(self.third, 1_000_000, exposeprivatechannels=True)
        return bool(decode(made["bolt11"]).route_hints)

    def _fund(self) -> None:
        for _ in range(5):
            self.chain.fund(self.ours.call("newaddr")["bech32"], 5_000_000)
        _together(lambda: self.lnd.fund(20_000_000), lambda: self.far.fund(20_000_000))
        self.until("our coins", lambda: len(self._coins()) == 5)

    def _coins(self) -> list[dict[str, Any]]:
        return [row for row in self.ours.call("listfunds")["outputs"] if row["status"] == "confirmed"]

    def _know(self, node: Node, *peers: Peer) -> bool:
        up = {row["id"] for row in node.call("listpeers")["peers"] if row["connected"]}
        return all(peer.node_id in up and peer.connected(node.node_id) for peer in peers)

    def _linked(self) -> bool:
        rows = self.ours.call("listpeers", self.third_id)["peers"]
        return bool(rows) and rows[0]["connected"]

    def lnd_opens(
        self, lnd: Lnd, sat: int, push: int, *, node: Node | None = None, private: bool = False
    ) -> str:
        node = node or self.ours
        known = {row["channel_id"] for row in node.channels()}
        if private:
            lnd.open_channel(node.node_id, node.address, sat, push, Kind(anchors=True))
        else:
            lnd.post(
                "/v1/channels",
                node_pubkey=b64(node.node_id),
                local_funding_amount=str(sat),
                push_sat=str(push),
                sat_per_vbyte="2",
                commitment_type="ANCHORS",
            )
        return self._new(node, known)

    def we_open(self, peer: str, sat: int, push: int, *, announce: bool = True) -> str:
        known = {row["channel_id"] for row in self.ours.channels()}
        self.ours.call("fundchannel", id=peer, amount=sat, push_msat=push * 1000, announce=announce)
        return self._new(self.ours, known)

    def _new(self, node: Node, known: set[str]) -> str:
        row = self.until(
            "the new channel",
            lambda: next((row for row in node.channels() if row["channel_id"] not in known), None),
        )
        txid: str = row["funding_txid"]
        self.until("the funding in the mempool", lambda: txid in self.chain.call("getrawmempool"))
        return f"{txid}:{row['funding_outnum']}"

    # Waiting

    def until(self, what: str, seen: Callable[[], Any], seconds: float = WAIT) -> Any:
        def look() -> Any:
            for peer in self.peers:
                peer.program.check()
            return seen()

        try:
            return wait_for(what, look, seconds=seconds, every=0.05)
        except DemoFailed as error:
            raise DemoFailed(f"{error}\n{self.picture()}") from None

    def mine(self, blocks: int) -> None:
        self.chain.mine(blocks)
        height = self.chain.height
        self.stack.settled_at(height)
        self.until(f"all to see block {height}", lambda: all(peer.height() >= height for peer in self.peers))

    def quiet(self, *nodes: Node) -> None:
        """No HTLC is left with these nodes of ours (with ours alone if none is named)."""
        for node in nodes or (self.ours,):
            self.until("every HTLC to be gone", lambda n=node: not any(row["htlcs"] for row in n.channels()))

    # Channels

    def channel(self, funding: str, node: Node | None = None) -> dict[str, Any]:
        for row in (node or self.ours).channels():
            if f"{row['funding_txid']}:{row['funding_outnum']}" == funding:
                return row
        raise KeyError(funding)

    def usable(self, funding: str, node: Node | None = None) -> bool:
        row = self.channel(funding, node)
        if row["state"] != USABLE or not row["reestablished"]:
            return False
        views = [view for peer in self.peers for view in peer.channels() if view.funding == funding]
        return all(view.usable for view in views)

    def scid(self, funding: str, node: Node | None = None) -> str:
        return str(self.channel(funding, node)["short_channel_id"])

    def chan_id(self, funding: str, node: Node | None = None) -> str:
        """The same as LND writes it."""
        block, index, output = (int(part) for part in self.scid(funding, node).split("x"))
        return str(block << 40 | index << 16 | output)

    # Graphs

    def edges(self, lnd: Lnd) -> dict[str, dict[str, Any]]:
        """LND's public graph, by short channel id."""
        rows = lnd.get("/v1/graph")["edges"]
        return {format_scid(ShortChannelId(int(row["channel_id"]))): row for row in rows}

    def edge(self, lnd: Lnd, funding: str) -> dict[str, dict[str, Any] | None]:
        """Both policies of a public channel as LND knows them, by the node that they are of."""
        row = self.edges(lnd).get(self.scid(funding))
        if row is None:
            return {}
        return {row["node1_pub"]: row["node1_policy"], row["node2_pub"]: row["node2_policy"]}

    def listed(self, node: Node, scid: str | None = None) -> dict[tuple[str, str], dict[str, Any]]:
        """Our graph, by short channel id and the node whose policy it is."""
        rows = node.call("listchannels", **({} if scid is None else {"short_channel_id": scid}))["channels"]
        return {(row["short_channel_id"], row["source"]): row for row in rows}

    def public(self, funding: str, *readers: Node | Lnd, seconds: float = RELAY) -> None:
        """Returns when these list the channel with the policies of both ends."""
        scid = self.scid(funding)
        for reader in readers:

            def known(reader: Node | Lnd = reader) -> bool:
                if isinstance(reader, Node):
                    return len(self.listed(reader, scid)) == 2
                policies = self.edge(reader, funding)
                return len(policies) == 2 and None not in policies.values()

            self.until(f"{scid} in the graph of {reader.name}", known, seconds)

    # Payments

    def our_invoice(self, node: Node, msat: int, **more: Any) -> dict[str, Any]:
        label = secrets.token_hex(6)
        made: dict[str, Any] = node.call(
            "invoice", amount_msat=msat, label=label, description=f"network {label}", **more
        )
        return {**made, "label": label}

    def pay_later(self, bolt11: str) -> None:
        """Our payment goes on when the caller is gone."""
        with contextlib.suppress(TimeoutError):
            self.ours.call("xpay", bolt11, seconds=0.5)

    def paid_to(self, node: Node, label: str) -> int | None:
        (row,) = node.call("listinvoices", label=label)["invoices"]
        return row["amount_received_msat"] if row["status"] == "paid" else None

    def forwards(self, payment_hash: str, node: Node | None = None) -> list[dict[str, Any]]:
        rows = (node or self.ours).call("listforwards")["forwards"]
        return [row for row in rows if row["payment_hash"] == payment_hash]

    # What is left behind

    def picture(self) -> str:
        lines = []
        for node in (self.ours, self.third):
            for row in (node.try_call("listpeerchannels") or {"channels": []})["channels"]:
                facts = (row["peer_id"][:8], row["state"], row["to_us_msat"], len(row["htlcs"]))
                lines.append(f"{node.name}: {facts} {row.get('short_channel_id', '')}")
        for peer in self.peers:
            with contextlib.suppress(Exception):
                lines += [f"{peer.name}: {view}" for view in peer.channels()]
        return "\n".join(lines)

    def logs(self) -> str:
        programs = [one for node in (self.ours, self.third) for one in (node.daemon.log, node.signer.log)]
        paths = [*programs, *(path for peer in self.peers for path in peer.logs())]
        return "\n".join(f"--- the end of {path}\n{tail(path)}" for path in paths)


def b64(hex_text: str) -> str:
    """Bytes as LND's REST takes them."""
    return base64.b64encode(bytes.fromhex(hex_text)).decode()


def _together(*orders: Callable[[], Any]) -> None:
    for end in side_by_side(orders, width=len(orders)):
        if isinstance(end, Exception):
            raise end
