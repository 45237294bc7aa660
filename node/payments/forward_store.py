"""Rows of forwards and policies in the durable database (DESIGN, "Throughput": `executemany` on hot paths)."""

from typing import Any

import msgspec

from node.payments.store import Row, Writer
from protocol.amounts import Msat
from protocol.bus.messages.forwards import Earned, ForwardRow
from protocol.bus.messages.routing import ChannelPolicy

_READ = (
    "in_channel, in_htlc, in_msat, payment_hash, status, received, out_channel, out_scid, out_htlc, out_msat, "
    "fee_msat, resolved, failure_code, reason"
)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ChannelPolicy).decode


def policy_to_row(channel_id: bytes, policy: ChannelPolicy, previous: ChannelPolicy, until: int) -> Row:
    return channel_id, _encode(policy), _encode(previous), until


def read_policies(writer: Writer) -> list[tuple[bytes, ChannelPolicy, ChannelPolicy | None, int]]:
    found = writer.read("SELECT channel, policy, previous, previous_until FROM policies")
    return [
        (bytes(channel), _decode(policy), None if previous is None else _decode(previous), until)
        for channel, policy, previous, until in found
    ]


class OpenForward(msgspec.Struct, frozen=True):
    """What is needed of a forward whose end was not seen."""

    row: ForwardRow
    in_expiry: int
    onion_key: bytes


def read_open(writer: Writer) -> list[OpenForward]:
    return _open(writer, "WHERE status = 'offered'")


def read_one(writer: Writer, in_channel: bytes, in_htlc: int) -> OpenForward | None:
    found = _open(writer, "WHERE in_channel = ? AND in_htlc = ?", (in_channel, in_htlc))
    return found[0] if found else None


def _open(writer: Writer, where: str, params: Row = ()) -> list[OpenForward]:
    sql = f"SELECT {_READ}, in_expiry, onion_key FROM forwards {where}"  # noqa: S608 - our own text
    return [
        OpenForward(_forward(row[:-2]), row[-2], bytes(row[-1] or b"")) for row in writer.read(sql, params)
    ]


def read_keys(writer: Writer, height: int) -> list[tuple[bytes, bytes, int, int]]:
    """(onion key, incoming channel, HTLC id, expiry) of all whose HTLC has not expired."""
    sql = "SELECT onion_key, in_channel, in_htlc, in_expiry FROM forwards WHERE in_expiry > ? AND onion_key IS NOT NULL"
    return [(bytes(key), bytes(c), htlc, expiry) for key, c, htlc, expiry in writer.read(sql, (height,))]


def read_fees_collected(writer: Writer) -> Msat:
    """Of all forwards ever; it looks at each of them."""
    found = writer.read("SELECT ifnull(sum(fee_msat), 0) FROM forwards WHERE status = 'settled'")
    return Msat(found[0][0])


def read_earned_by_channel(writer: Writer, since: float) -> list[tuple[bytes, int, float]]:
    """(incoming channel, fees, when the last was paid) since then."""
    sql = (
        "SELECT in_channel, sum(fee_msat), max(resolved) FROM forwards "
        "WHERE status = 'settled' AND resolved > ? GROUP BY in_channel"
    )
    return [(bytes(channel), fees, at) for channel, fees, at in writer.read(sql, (since,))]


def read_forwards(
    writer: Writer,
    *,
    status: str | None = None,
    in_channel: bytes | None = None,
    out_channel: bytes | None = None,
    newest: int | None = None,
) -> list[ForwardRow]:
    """By age; with `newest` only so many of the youngest."""
    columns = {"status": status, "in_channel": in_channel, "out_channel": out_channel}
    given = {name: value for name, value in columns.items() if value is not None}
    where = " AND ".join(f"{name} = ?" for name in given)
    sql = f"SELECT {_READ} FROM forwards {f'WHERE {where}' if where else ''} ORDER BY id"  # noqa: S608
    params: tuple[Any, ...] = tuple(given.values())
    if newest is None:
        return [_forward(row) for row in writer.read(sql, params)]
    return [_forward(row) for row in reversed(writer.read(f"{sql} DESC LIMIT ?", (*params, newest)))]


def read_earnings(writer: Writer, since: int, until: int, span: int) -> tuple[Earned, ...]:
    sql = (
        "SELECT ? + CAST((resolved - ?) / ? AS INTEGER) * ? AS start, out_channel, count(*), sum(out_msat), "
        "sum(fee_msat) FROM forwards WHERE status = 'settled' AND resolved >= ? AND resolved < ? "
        "GROUP BY start, out_channel ORDER BY start, out_channel"
    )
    found = writer.read(sql, (since, since, span, span, since, until))
    return tuple(Earned(start, bytes(c), count, Msat(out), Msat(fee)) for start, c, count, out, fee in found)


def _forward(row: Row) -> ForwardRow:
    in_channel, in_htlc, in_msat, payment_hash, status, received, *out, resolved, code, reason = row
    out_channel, out_scid, out_htlc, out_msat, fee = out
    return ForwardRow(
        in_channel=bytes(in_channel),
        in_htlc=in_htlc,
        in_msat=Msat(in_msat),
        payment_hash=bytes(payment_hash),
        status=status,
        received=received,
        out_channel=None if out_channel is None else bytes(out_channel),
        # SQLite has signed integers only, and an alias may use all 64 bits.
        out_scid=None if out_scid is None else out_scid % 2**64,
        out_htlc=out_htlc,
        out_msat=None if out_msat is None else Msat(out_msat),
        fee_msat=None if fee is None else Msat(fee),
        resolved=resolved,
        failure_code=code,
        reason=reason,
    )


def signed(scid: int) -> int:
    """A short channel id as SQLite can hold it."""
    return scid - 2**64 if scid >= 2**63 else scid
