"""A chain, our node with its signer, and one foreign node: what the interop tests talk to.

Nothing sleeps for luck: every wait polls for a state of both sides. Every process that is started here is ended
here; the folder with databases and logs stays, for whoever must find out what went wrong.
"""

import contextlib
import secrets
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from node.demo.stack import NETWORK, DemoFailed, Node, RpcRefused, Stack, wait_for
from protocol.bolt11.bech32 import padded_to_bytes
from protocol.bolt11.decode import decode
from protocol.bolt11.encode import unsigned
from protocol.bolt11.invoice import Invoice, InvoiceTerms
from tests.interop.peers.base import ChannelView, Kind, NotInstalled, Peer, tail
from tests.interop.peers.electrum_peer import Electrum
from tests.interop.peers.ldk_peer import Ldk
from tests.interop.peers.lnd_peer import Lnd
from tests.support import ROOT

PEERS: dict[str, type[Peer]] = {"lnd": Lnd, "ldk": Ldk, "electrum": Electrum}
Side = Literal["ours", "theirs"]
FUNDS = 50_000_000
CONFIRMATIONS = 3
"""What our node asks for; the peers ask for less."""
WAIT = 60.0


class World:
    """One conversation: `ours` and `peer` on `chain`. Used as a context it leaves no process behind."""

    def __init__(self, peer: type[Peer], folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        self.folder = folder
        self.stack = Stack(folder, ("ours",))
        self.chain = self.stack.chain
        self.ours: Node = self.stack.nodes["ours"]
        self.our_state = self.ours.datadir / NETWORK
        self.peer = peer(folder, self.chain)

    def __enter__(self) -> "World":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.stack.start()
        self.our_id = self.ours.node_id
        self.peer.start()
        self.their_id = self.peer.node_id

    def stop(self) -> None:
        try:
            self.peer.stop()
        finally:
            self.stack.stop()

    def fund(self) -> None:
        address = self.ours.call("newaddr")["bech32"]
        self.chain.fund(address, FUNDS)
        self.peer.fund(FUNDS)
        self.mine(1)
        self.until("our coins to be confirmed", lambda: self._coins() >= FUNDS)

    def _coins(self) -> int:
        outputs = self.ours.call("listfunds")["outputs"]
        return sum(row["amount_msat"] // 1000 for row in outputs if row["status"] == "confirmed")

    def start_ours(self) -> None:
        self.ours.start_daemon()
        self.ours.wait_ready()

    # Waiting

    def until(self, what: str, seen: Callable[[], Any], seconds: float = WAIT) -> Any:
        """Polls; says at once when a process died, and what both sides look like when time is over."""
        end = time.monotonic() + seconds

        def look() -> Any:
            self.peer.program.check()
            return seen()

        try:
            return wait_for(what, look, seconds=max(0.1, end - time.monotonic()))
        except DemoFailed as error:
            raise DemoFailed(f"{error}\n{self.picture()}") from None

    def picture(self) -> str:
        lines = []
        for name, view in (("ours", self._our_rows), (self.peer.name, self.peer.channels)):
            try:
                lines.append(f"{name}: {view()}")
            except Exception as error:
                lines.append(f"{name}: no answer ({error!r})")
        return "\n".join(lines)

    def _our_rows(self) -> list[dict[str, Any]]:
        wanted = (
            "state",
            "peer_connected",
            "reestablished",
            "funding_txid",
            "to_us_msat",
            "feerate",
            "status",
        )
        return [
            {**{name: row[name] for name in wanted}, "htlcs": len(row["htlcs"])}
            for row in self.ours.channels()
        ]

    def mine(self, blocks: int = 1) -> None:
        """Mines, and returns when both nodes have seen the last block."""
        self.chain.mine(blocks)
        height = self.chain.height
        self.until(f"both to see block {height}", lambda: self._heights() >= height)

    def _heights(self) -> int:
        return min(self.ours.height, self.peer.height())

    # Connections

    def connect(self, by: Side) -> None:
        if by == "ours":
            self.ours.call("connect", f"{self.their_id}@{self.peer.address}")
        else:
            self.peer.connect(self.our_id, self.ours.address)
        self.until("both to be connected", self.connected)

    def connected(self) -> bool:
        rows = self.ours.call("listpeers", self.their_id)["peers"]
        return any(row["connected"] for row in rows) and self.peer.connected(self.our_id)

    def disconnect(self) -> None:
        self.ours.call("disconnect", self.their_id, True)

    def ensure_connected(self) -> None:
        if not self.connected():
            self.connect("ours")

    # Channels

    def our_channel(self, funding: str) -> dict[str, Any] | None:
        rows = [
            row for row in self.ours.channels() if f"{row['funding_txid']}:{row['funding_outnum']}" == funding
        ]
        return rows[0] if rows else None

    def their_channel(self, funding: str) -> ChannelView | None:
        return next((view for view in self.peer.channels() if view.funding == funding), None)

    def usable(self, funding: str) -> bool:
        """Both sides would add an HTLC now."""
        ours, theirs = self.our_channel(funding), self.their_channel(funding)
        return (
            ours is not None
            and ours["state"] == "CHANNELD_NORMAL"
            and ours["peer_connected"]
            and ours["reestablished"]
            and theirs is not None
            and theirs.usable
        )

    def open(self, by: Side, *, push_sat: int = 0, kind: Kind | None = None) -> str:
        """A usable channel; its funding as txid:output, which is confirmed unless the kind says zeroconf."""
        kind = kind or Kind(self.peer.anchors)
        self.ensure_connected()
        before = {view.funding for view in self.peer.channels()}
        known = {row["channel_id"] for row in self.ours.channels()}
        sat = self.peer.channel_sat
        if by == "ours":
            self.ours.call(
                "fundchannel",
                id=self.their_id,
                amount=sat,
                push_msat=push_sat * 1000,
                announce=False,
                channel_type=kind.bits,
                **({"mindepth": 0} if kind.zeroconf else {}),
            )
        else:
            self.peer.open_channel(self.our_id, self.ours.address, sat, push_sat, kind)
        row = self.until(
            "our node to know the new channel",
            lambda: next((row for row in self.ours.channels() if row["channel_id"] not in known), None),
        )
        funding = f"{row['funding_txid']}:{row['funding_outnum']}"
        assert funding not in before
        self.until(
            "the funding in the mempool", lambda: row["funding_txid"] in self.chain.call("getrawmempool")
        )
        if not kind.zeroconf:
            self.mine(CONFIRMATIONS)
        self.until("the channel to be usable on both sides", lambda: self.usable(funding))
        return funding

    def quiet(self, funding: str) -> None:
        """No HTLC is left, and both sides agree on the balance."""

        def agreed() -> bool:
            ours, theirs = self.our_channel(funding), self.their_channel(funding)
            return ours is not None and theirs is not None and not ours["htlcs"] and not theirs.pending

        self.until("every HTLC to be gone on both sides", agreed)

    def close(self, funding: str, *, by: Side) -> dict[str, Any]:
        """Closes in agreement and mines; the closing transaction, as getrawtransaction shows it."""
        self.quiet(funding)
        row = self.our_channel(funding)
        assert row is not None
        if by == "ours":
            closed = self.ours.call("close", id=row["channel_id"], unilateraltimeout=0)
            assert closed["type"] == "mutual"
        else:
            self.peer.close_channel(funding)
        self.until("the closing transaction in the mempool", lambda: self.spender(funding))
        self.mine(1)
        self.until("both to be done with the channel", lambda: self._is_closed(funding))
        return self.closing(funding)

    def spender(self, funding: str) -> str | None:
        return self.chain.spender(funding)

    def closing(self, funding: str) -> dict[str, Any]:
        """The transaction of a block that spends the funding, as getrawtransaction shows it: of two offers in a
        simple close either may be the one."""
        tx: dict[str, Any] = self.chain.call(
            "getrawtransaction", self.chain.spender(funding, in_blocks=True), True
        )
        return tx

    def bury(self, what: str, done: Callable[[], bool], *, blocks: int, step: int = 1) -> None:
        """Mines until something has come about, at most so many blocks."""
        for _ in range(0, blocks, step):
            if done():
                return
            self.mine(step)
        self.until(f"{what} ({blocks} blocks were mined for it)", done, seconds=5)

    def resolved(self, funding: str) -> bool:
        """Both sides have nothing more to do on the chain."""
        return self.done(funding) and self.peer.closes() == 0

    def done(self, funding: str) -> bool:
        """We have nothing more to do on the chain."""
        ours = self.our_channel(funding)
        return ours is None or ours["state"] == "CLOSED"

    def money_sat(self) -> int:
        """Our confirmed coins, once the wallet knows which are left."""
        self.until("the wallet to have read the chain", self._has_read)
        return self._coins()

    def _has_read(self) -> bool:
        return "warning_rescan" not in self.ours.call("listfunds")

    def _is_closed(self, funding: str) -> bool:
        ours, theirs = self.our_channel(funding), self.their_channel(funding)
        done = ours is None or ours["state"] in ("ONCHAIN", "CLOSED", "CLOSINGD_COMPLETE")
        return done and (theirs is None or not theirs.usable)

    def has_output(self, txid: str, sat: int) -> bool:
        outputs = self.ours.call("listfunds")["outputs"]
        return any(
            row["txid"] == txid and row["amount_msat"] == sat * 1000 and row["status"] == "confirmed"
            for row in outputs
        )

    def our_msat(self, funding: str) -> int:
        row = self.our_channel(funding)
        assert row is not None, f"we do not know the channel {funding}"
        return int(row["to_us_msat"])

    # Payments

    def our_invoice(self, msat: int, *, expiry: int = 3600) -> dict[str, Any]:
        label = secrets.token_hex(6)
        made: dict[str, Any] = self.ours.call("invoice", msat, label, f"interop {label}", expiry)
        return {**made, "label": label}

    def their_invoice(self, msat: int, *, expiry: int = 3600) -> str:
        return self.peer.invoice(msat, description=f"interop {secrets.token_hex(4)}", expiry=expiry)

    def forge(self, original: Invoice, **changes: Any) -> str:
        """An invoice in the peer's name with other terms than the one that it made."""
        values: dict[str, Any] = {
            "prefix": original.prefix,
            "amount_msat": original.amount_msat,
            "timestamp": original.timestamp,
            "payment_hash": original.payment_hash,
            "payment_secret": original.payment_secret,
            "description": "forged by the interop tests",
            "expiry": original.expiry,
            "min_final_cltv_expiry_delta": original.min_final_cltv_expiry_delta,
            "features": original.features,
            "payment_metadata": original.payment_metadata,
        }
        draft = unsigned(InvoiceTerms(**{**values, **changes}))
        signature, recovery_id = self.peer.sign(draft.hrp.encode() + padded_to_bytes(draft.words))
        text = draft.with_signature(signature, recovery_id)
        assert decode(text).payee.hex() == self.their_id
        return text

    def our_hold_invoice(self, msat: int) -> dict[str, Any]:
        label = secrets.token_hex(6)
        made: dict[str, Any] = self.ours.call(
            "holdinvoice", amount_msat=msat, label=label, description=f"interop {label}"
        )
        return made

    def we_hold(self, payment_hash: str) -> bool:
        (row,) = self.ours.call("listholdinvoices", payment_hash=payment_hash)["holdinvoices"]
        return bool(row["state"] == "accepted")

    def begin_paying(self, bolt11: str) -> None:
        """Our payment goes on when the caller is gone; its end is in `paid_row`."""
        with contextlib.suppress(TimeoutError):
            self.ours.call("xpay", bolt11, seconds=0.5)

    def paid_row(self, bolt11: str) -> dict[str, Any] | None:
        rows = self.ours.call("listpays", bolt11=bolt11)["pays"]
        return rows[-1] if rows else None

    def is_paid(self, label: str) -> bool:
        (row,) = self.ours.call("listinvoices", label=label)["invoices"]
        return bool(row["status"] == "paid")

    # What is left behind

    def logs(self) -> str:
        paths = [self.ours.daemon.log, self.ours.signer.log, self.chain.program.log, *self.peer.logs()]
        return "\n".join(f"--- the end of {path}\n{tail(path)}" for path in paths)


def install(name: str) -> type[Peer]:
    """The adapter of a peer that is ready to start; raises NotInstalled."""
    peer = PEERS[name]
    peer.install()
    return peer


def copy_state(source: Path, place: Path) -> None:
    """A copy of a database, or that copy put back: what lies at `place` is gone."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place)


def world_folder(name: str) -> Path:
    return ROOT / "out" / "interop" / name


__all__ = ["PEERS", "Kind", "NotInstalled", "RpcRefused", "World", "copy_state", "install", "world_folder"]
