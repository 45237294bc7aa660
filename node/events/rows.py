"""Rows of the event stream from what the services say (DESIGN, "The outside face")."""

from collections.abc import Iterable

from protocol.amounts import Msat, Sat
from protocol.bus.messages.channel import ChannelInfo
from protocol.bus.messages.events import (
    MAX_HTLCS_SHOWN,
    ChannelRow,
    ForwardNow,
    HtlcRow,
    InvoiceNow,
    PaymentNow,
    PeerRow,
    WalletNow,
)
from protocol.bus.messages.forwards import ForwardRow
from protocol.bus.messages.payments import InvoiceRow, PaymentRow
from protocol.bus.messages.peer import PeerInfo
from protocol.bus.messages.wallet import CoinInfo

NORMAL = "CHANNELD_NORMAL"


def channel_row(info: ChannelInfo) -> ChannelRow:
    offered = received = 0
    offered_msat = received_msat = 0
    for htlc in info.htlcs:
        if htlc.offered:
            offered += 1
            offered_msat += htlc.amount_msat
        else:
            received += 1
            received_msat += htlc.amount_msat
    by_expiry = sorted(info.htlcs, key=lambda htlc: (htlc.cltv_expiry, htlc.id))
    return ChannelRow(
        channel_id=info.channel_id,
        peer=info.peer,
        connected=info.peer_connected,
        usable=info.reestablished and info.state == NORMAL,
        state=info.state,
        opener_is_us=info.opener_is_us,
        anchors=info.anchors,
        capacity=info.capacity,
        short_channel_id=info.short_channel_id,
        funding_txid=info.funding_txid,
        funding_outnum=info.funding_outnum,
        funding_confirmations=info.funding_confirmations,
        to_us_msat=info.to_us_msat,
        spendable_msat=info.spendable_msat,
        receivable_msat=info.receivable_msat,
        our_reserve=info.our_reserve,
        their_reserve=info.their_reserve,
        our_to_self_delay=info.our_to_self_delay,
        their_to_self_delay=info.their_to_self_delay,
        feerate_per_kw=info.feerate_per_kw,
        local_number=info.local_number,
        remote_number=info.remote_number,
        offered_htlcs=offered,
        offered_msat=Msat(offered_msat),
        received_htlcs=received,
        received_msat=Msat(received_msat),
        next_expiry=by_expiry[0].cltv_expiry if by_expiry else None,
        closer=info.closer,
        why=info.why,
        htlcs=tuple(
            HtlcRow(htlc.offered, htlc.id, htlc.amount_msat, htlc.payment_hash, htlc.cltv_expiry, htlc.state)
            for htlc in by_expiry[:MAX_HTLCS_SHOWN]
        ),
    )


def payment_row(row: PaymentRow, unknown_until: int | None) -> PaymentNow:
    complete = row.status == "complete"
    return PaymentNow(
        id=row.id,
        payment_hash=row.payment_hash,
        destination=row.destination,
        amount_msat=row.amount_msat,
        fee_msat=Msat(row.amount_sent_msat - row.amount_msat if complete else 0),
        status=row.status,
        created=row.created,
        completed=row.completed,
        error=row.error,
        label=row.label,
        parts=row.parts,
        unknown_until=unknown_until if row.status == "pending" else None,
    )


def invoice_row(row: InvoiceRow) -> InvoiceNow:
    return InvoiceNow(
        label=row.label,
        payment_hash=row.payment_hash,
        amount_msat=row.amount_msat,
        description=row.description,
        status=row.status,
        expires_at=row.expires_at,
        received_msat=row.received_msat,
        paid_at=row.paid_at,
    )


def forward_row(row: ForwardRow) -> ForwardNow:
    return ForwardNow(
        in_channel=row.in_channel,
        in_htlc=row.in_htlc,
        in_msat=row.in_msat,
        out_channel=row.out_channel,
        out_msat=row.out_msat,
        fee_msat=row.fee_msat,
        payment_hash=row.payment_hash,
        status=row.status,
        received=row.received,
        resolved=row.resolved,
        reason=row.reason,
    )


def peer_row(info: PeerInfo, reason: str = "") -> PeerRow:
    return PeerRow(
        node_id=info.node_id,
        connected=info.connected,
        outbound=info.outbound,
        address=info.address,
        road=info.road,
        last_seen=info.last_seen,
        reason="" if info.connected else reason,
    )


def wallet_row(coins: Iterable[CoinInfo]) -> WalletNow:
    confirmed = unconfirmed = reserved = count = 0
    for coin in coins:
        if coin.spent:
            continue
        count += 1
        if coin.reserved:
            reserved += coin.value
        elif coin.height is None:
            unconfirmed += coin.value
        else:
            confirmed += coin.value
    return WalletNow(Sat(confirmed), Sat(unconfirmed), Sat(reserved), count)


def expiries(channels: Iterable[ChannelInfo]) -> dict[bytes, int]:
    """The last block at which an HTLC that we offered for each hash can still end either way."""
    found: dict[bytes, int] = {}
    for channel in channels:
        for htlc in channel.htlcs:
            if htlc.offered:
                found[htlc.payment_hash] = max(found.get(htlc.payment_hash, 0), htlc.cltv_expiry)
    return found
