"""What the tests of the network ask LND to do, and how they read its answers."""

import secrets
from dataclasses import dataclass
from typing import Any

from protocol.bolt11.decode import decode
from protocol.bolt11.invoice import HopHint
from protocol.hashes import sha256
from tests.interop.network_world import Web, b64
from tests.interop.peers.lnd_peer import Lnd

KEYSEND = 5482373484
"""The record that carries the preimage."""
FEE_LIMIT = 1_000_000
DEFAULT_BASE, DEFAULT_PPM, DEFAULT_DELTA = 1000, 10, 40
"""What our node asks of a forward if nobody said otherwise."""


@dataclass(frozen=True)
class Tried:
    """One HTLC of a payment by LND. `code` and `at`: which failure, and of which hop (0 is LND itself)."""

    scids: tuple[int, ...]
    amount_msat: int
    fee_msat: int
    code: str | None
    at: int | None
    channel_update: dict[str, Any] | None


@dataclass(frozen=True)
class Paid:
    status: str
    reason: str
    preimage: str
    amount_msat: int
    fee_msat: int
    htlcs: tuple[Tried, ...]

    @property
    def successes(self) -> tuple[Tried, ...]:
        return tuple(htlc for htlc in self.htlcs if htlc.code is None)

    @property
    def failures(self) -> tuple[Tried, ...]:
        """Those that left LND."""
        return tuple(htlc for htlc in self.htlcs if htlc.code is not None and htlc.at != 0)


def lnd_pays(lnd: Lnd, **order: Any) -> Paid:
    end = lnd.post(
        "/v2/router/send",
        **{
            "timeout_seconds": 30,
            "fee_limit_msat": str(FEE_LIMIT),
            "max_parts": 1,
            "no_inflight_updates": True,
            **order,
        },
    )
    return Paid(
        end["status"],
        end["failure_reason"],
        end["payment_preimage"],
        int(end["value_msat"]),
        int(end["fee_msat"]),
        tuple(_tried(row) for row in end.get("htlcs", ())),
    )


def _tried(row: dict[str, Any]) -> Tried:
    hops, failure = row["route"]["hops"], row.get("failure")
    return Tried(
        tuple(int(hop["chan_id"]) for hop in hops),
        int(hops[-1]["amt_to_forward_msat"]),
        int(row["route"]["total_fees_msat"]),
        None if failure is None else failure["code"],
        None if failure is None else failure["failure_source_index"],
        None if failure is None else failure["channel_update"],
    )


def paid(end: Paid, payment_hash: str) -> Paid:
    assert end.status == "SUCCEEDED", end
    assert sha256(bytes.fromhex(end.preimage)).hex() == payment_hash
    return end


def forget(lnd: Lnd) -> None:
    """LND remembers whom it failed over, for an hour; each test begins without that."""
    lnd.post("/v2/router/mc/reset")


def keysend(lnd: Lnd, destination: str, msat: int) -> tuple[Paid, bytes]:
    preimage = secrets.token_bytes(32)
    end = lnd_pays(
        lnd,
        dest=b64(destination),
        payment_hash=b64(sha256(preimage).hex()),
        amt_msat=str(msat),
        final_cltv_delta=40,
        dest_custom_records={str(KEYSEND): b64(preimage.hex())},
    )
    return end, preimage


def route(lnd: Lnd, hops: list[str], msat: int, secret: str) -> dict[str, Any]:
    built = lnd.post(
        "/v2/router/route",
        amt_msat=str(msat),
        final_cltv_delta=DEFAULT_DELTA,
        hop_pubkeys=[b64(hop) for hop in hops],
        payment_addr=b64(secret),
    )
    made: dict[str, Any] = built["route"]
    return made


def send_along(lnd: Lnd, made: dict[str, Any]) -> dict[str, Any]:
    """The failure of an HTLC for a hash that nobody knows."""
    end = lnd.post("/v2/router/route/send", payment_hash=b64(secrets.token_hex(32)), route=made)
    assert end["status"] == "FAILED", end
    failure: dict[str, Any] = end["failure"]
    return failure


def lower(made: dict[str, Any], *, fee: int = 0, delta: int = 0) -> dict[str, Any]:
    """The route with so much less for its first hop."""
    first = made["hops"][0]
    first["fee_msat"] = str(int(first["fee_msat"]) - fee)
    made["total_fees_msat"] = str(int(made["total_fees_msat"]) - fee)
    made["total_amt_msat"] = str(int(made["total_amt_msat"]) - fee)
    made["total_time_lock"] -= delta
    return made


def hint_of(bolt11: str) -> HopHint:
    ((hop,),) = decode(bolt11).route_hints
    return hop


def hints_for_lnd(hop: HopHint) -> list[dict[str, Any]]:
    return [
        {
            "hop_hints": [
                {
                    "node_id": hop.node_id.hex(),
                    "chan_id": str(int(hop.short_channel_id)),
                    "fee_base_msat": hop.fee_base_msat,
                    "fee_proportional_millionths": hop.fee_proportional_millionths,
                    "cltv_expiry_delta": hop.cltv_expiry_delta,
                }
            ]
        }
    ]


def our_fee(msat: int, base: int = DEFAULT_BASE, ppm: int = DEFAULT_PPM) -> int:
    return base + msat * ppm // 1_000_000


def direction(web: Web, peer: str) -> int:
    """Of our channels with this peer, seen from us (BOLT 7)."""
    return 0 if web.our_id < peer else 1


def policy(lnd: Lnd, web: Web, funding: str, node_id: str) -> dict[str, Any]:
    """What this node says of its side of a public channel, as LND knows it."""
    found = web.edge(lnd, funding).get(node_id)
    return found or {}
