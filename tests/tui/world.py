"""A node that is not there: fixed rows, a fixed clock, and a line that records what the interface asks."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat
from protocol.bus.messages.events import (
    BlockNow,
    ChainLink,
    ChannelRow,
    Event,
    EventPage,
    Happening,
    HtlcRow,
    InvoiceNow,
    LaneRow,
    LogLine,
    PaymentNow,
    PeerRow,
    RefusalRow,
    SignerRow,
    Snapshot,
    WalletNow,
)
from protocol.bus.messages.rpc import MethodInfo
from tui.line import RpcRefused

NOW = 1_795_000_000.0
HEIGHT = 921_334
RUN = b"run-1234"
BOLT11 = "lnbcrt210u1" + "qpzry9x8gf2tvdw0s3jn54khce6mua7l" * 9


def digest(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def node(name: str) -> bytes:
    return b"\x02" + digest(name)


def channel(name: str, *, local: int, capacity: int, **other: Any) -> ChannelRow:
    fields: dict[str, Any] = {
        "channel_id": digest(f"channel {name}"),
        "peer": node(name),
        "connected": True,
        "usable": True,
        "state": "CHANNELD_NORMAL",
        "opener_is_us": True,
        "anchors": True,
        "capacity": Sat(capacity),
        "short_channel_id": (851_000 << 40) | (12 << 16),
        "funding_txid": digest(f"funding {name}"),
        "funding_outnum": 0,
        "funding_confirmations": 4_012,
        "to_us_msat": Msat(local * 1000),
        "spendable_msat": Msat(max(0, local - capacity // 100) * 1000),
        "receivable_msat": Msat(max(0, capacity - local - capacity // 100) * 1000),
        "our_reserve": Sat(capacity // 100),
        "their_reserve": Sat(capacity // 100),
        "our_to_self_delay": 720,
        "their_to_self_delay": 144,
        "feerate_per_kw": FeeratePerKw(2_500),
        "local_number": 41,
        "remote_number": 42,
        "offered_htlcs": 0,
        "offered_msat": Msat(0),
        "received_htlcs": 0,
        "received_msat": Msat(0),
        "next_expiry": None,
        "closer": None,
        "why": "",
        "htlcs": (),
    }
    return ChannelRow(**(fields | other))


def htlc(number: int, amount: int, *, hash_of: str, expiry: int, offered: bool = True) -> HtlcRow:
    state = "SENT_ADD_ACK_REVOCATION" if offered else "RCVD_ADD_ACK_REVOCATION"
    return HtlcRow(offered, number, Msat(amount * 1000), digest(hash_of), expiry, state)


def payment(name: str, *, sat: int, status: str = "complete", **other: Any) -> PaymentNow:
    fields: dict[str, Any] = {
        "id": f"payment {name}",
        "payment_hash": digest(name),
        "destination": node("acinq"),
        "amount_msat": Msat(sat * 1000),
        "fee_msat": Msat(0),
        "status": status,
        "created": int(NOW) - 600,
        "completed": None if status == "pending" else int(NOW) - 598,
        "error": None,
        "label": None,
        "parts": 1,
    }
    return PaymentNow(**(fields | other))


def invoice(label: str, *, sat: int | None, status: str = "unpaid", **other: Any) -> InvoiceNow:
    fields: dict[str, Any] = {
        "label": label,
        "payment_hash": digest(f"invoice {label}"),
        "amount_msat": None if sat is None else Msat(sat * 1000),
        "description": f"for {label}",
        "status": status,
        "expires_at": int(NOW) + 3_600,
        "received_msat": Msat((sat or 0) * 1000) if status == "paid" else None,
        "paid_at": int(NOW) - 60 if status == "paid" else None,
    }
    return InvoiceNow(**(fields | other))


def peer(name: str, *, connected: bool = True, road: str = "tcp", **other: Any) -> PeerRow:
    fields: dict[str, Any] = {
        "node_id": node(name),
        "connected": connected,
        "outbound": True,
        "address": f"{digest(name).hex()[:56]}.onion:9735" if road == "tor" else "203.0.113.7:9735",
        "road": road if connected else "",
        "last_seen": int(NOW) - 30,
        "reason": "" if connected else "the connection was lost",
    }
    return PeerRow(**(fields | other))


SIGNER = SignerRow(
    up=True,
    reason="",
    endpoint="ipc:///run/lnp/signer.sock",
    node_id=node("us"),
    requests=18_221,
    open=1,
    refused=1,
    lanes=(
        LaneRow("commitments", 17_900, 1.21, 1.33, 48.02),
        LaneRow("handshakes", 12, 0.61, 0.72, 2.5),
        LaneRow("invoices", 209, 0.9, 1.05, 3.31),
        LaneRow("onions", 100, 0.44, 0.51, 6.12),
    ),
    refusals=(
        RefusalRow(NOW - 300, "fee-reserve", "the fee reserve cannot cover this channel.", "Top it up."),
    ),
)


def events() -> tuple[Event, ...]:
    lines: tuple[Happening, ...] = (
        LogLine("info", "ready", "network=regtest"),
        LogLine("info", "peer_up", f"node_id={node('acinq').hex()}"),
        LogLine("warning", "chain_away", "reason=bitcoind does not answer"),
        LogLine("error", "funding_not_sent", "channel=7f3c error=the signer is away"),
    )
    return tuple(Event(n + 1, NOW - 100 + 10 * n, line) for n, line in enumerate(lines))


def snapshot(**other: Any) -> Snapshot:
    fields: dict[str, Any] = {
        "run": RUN,
        "seq": 4,
        "time": NOW,
        "getinfo": (
            b'{"id":"%s","alias":"lnode","network":"regtest","address":[],'
            b'"binding":[{"type":"ipv4","address":"127.0.0.1","port":9735}],'
            b'"roads":[{"name":"tcp","state":"up"},'
            b'{"name":"tor","state":"starting","sentence":"bootstrapping, 80 %%"}]}'
        )
        % node("us").hex().encode(),
        "block": BlockNow(BlockHeight(HEIGHT), digest("block"), int(NOW) - 240),
        "synced": True,
        "chain": ChainLink(True),
        "signer": SIGNER,
        "wallet": WalletNow(Sat(1_100_000), Sat(250_000), Sat(30_000), 5),
        "channels": (
            channel("acinq", local=2_100_000, capacity=3_000_000),
            channel(
                "hub-eu",
                local=300_000,
                capacity=2_000_000,
                short_channel_id=(877_003 << 40) | (3 << 16) | 1,
                offered_htlcs=1,
                offered_msat=Msat(21_000_000),
                next_expiry=HEIGHT + 21,
                htlcs=(htlc(41, 21_000, hash_of="coffee", expiry=HEIGHT + 21),),
            ),
            channel(
                "farm", local=40_000, capacity=120_000, connected=False, usable=False, opener_is_us=False
            ),
            channel(
                "new",
                local=500_000,
                capacity=500_000,
                state="CHANNELD_AWAITING_LOCKIN",
                usable=False,
                short_channel_id=None,
                funding_confirmations=1,
            ),
            channel(
                "old",
                local=412_000,
                capacity=900_000,
                state="AWAITING_UNILATERAL",
                usable=False,
                connected=False,
                why="the peer did not agree on a close within 172800 seconds",
                closer="local",
            ),
        ),
        "payments": (
            payment("rent", sat=250_000, label="rent", created=int(NOW) - 7_200, completed=int(NOW) - 7_198),
            payment("beer", sat=5_000, status="failed", error="the payee does not know this payment"),
            payment(
                "coffee",
                sat=21_000,
                status="pending",
                unknown_until=HEIGHT + 21,
                created=int(NOW) - 30,
                destination=node("hub-eu"),
            ),
        ),
        "invoices": (
            invoice("tea", sat=1_000, status="paid"),
            invoice("donation", sat=None),
            invoice("car", sat=9_000_000, expires_at=int(NOW) + 7_200),
        ),
        "peers": (
            peer("acinq"),
            peer("hub-eu", road="tor"),
            peer("farm", connected=False, address="", last_seen=0),
        ),
        "durable_commits": 9_120,
        "logs": events(),
        "recent": (
            Event(2, NOW - 90, BlockNow(BlockHeight(HEIGHT), digest("block"), int(NOW) - 240)),
            *events()[2:],
            Event(5, NOW - 20, payment("rent", sat=250_000)),
        ),
    }
    return Snapshot(**(fields | other))


METHODS = (
    MethodInfo("getinfo", "getinfo", "Who we are, and how many peers and channels we have.", False),
    MethodInfo("listfunds", "listfunds [spent]", "What we own.", False),
    MethodInfo("withdraw", "withdraw destination satoshi", "Send coins to an address.", True),
)


class FakeLine:
    """Answers from `snapshot` and `answers`; `say` is an event; `drop` and `come_back` are the connection."""

    def __init__(self, shot: Snapshot | None = None) -> None:
        self.shot = shot if shot is not None else snapshot()
        self.asked: list[tuple[str, Any, bool]] = []
        self.answers: dict[str, Any] = {
            "listinvoices": {"invoices": [{"bolt11": BOLT11}]},
            "decode": {
                "payment_hash": digest("coffee 2").hex(),
                "description": "two coffees",
                "created_at": int(NOW) - 60,
                "expiry": 3_600,
            },
            "previewpay": {
                "destination": node("acinq").hex(),
                "amount_msat": 42_000_000,
                "fee_msat": 0,
                "lock_blocks": 21,
                "channel_id": digest("channel acinq").hex(),
            },
            "connect": {"id": node("acinq").hex()},
            "feerates": {"perkw": {"opening": 2_500}},
        }
        self._pages: asyncio.Queue[EventPage | Exception] = asyncio.Queue()
        self._seq = self.shot.seq
        self._up = asyncio.Event()
        self._up.set()
        self.closed = False

    @property
    def up(self) -> bool:
        return self._up.is_set()

    async def wait_up(self) -> None:
        await self._up.wait()

    async def snapshot(self) -> Snapshot:
        return self.shot

    async def since(self, run: bytes, seq: int, wait: float) -> EventPage:
        page = await self._pages.get()
        if isinstance(page, Exception):
            raise page
        return page

    async def methods(self) -> tuple[MethodInfo, ...]:
        return METHODS

    async def rpc(self, method: str, params: Any = (), *, confirmed: bool = False) -> Any:
        self.asked.append((method, params, confirmed))
        answer = self.answers.get(method)
        if isinstance(answer, asyncio.Future):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        if answer is None:
            raise RpcRefused(-32601, f"unknown command {method!r}")
        return answer

    def close(self) -> None:
        self.closed = True

    def say(self, *rows: Happening) -> None:
        made = tuple(Event(self._seq + n + 1, NOW + n, row) for n, row in enumerate(rows))
        self._seq += len(rows)
        self._pages.put_nowait(EventPage(RUN, made, self._seq))

    def drop(self, error: Exception) -> None:
        self._up.clear()
        self._pages.put_nowait(error)

    def come_back(self, shot: Snapshot) -> None:
        self.shot = shot
        self._seq = shot.seq
        self._up.set()


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


Until = Callable[[Callable[[], object]], Any]
