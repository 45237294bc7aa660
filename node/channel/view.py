"""A channel as people and tools see it: `ChannelInfo` from the state."""

from node.channel import lockin
from node.channel.content import feerate
from node.channel.limits import Totals
from node.channel.state import Closing, Committed, Htlc, Lost, Normal, Online, Reestablishing, State
from node.channel.turn import cln_state
from protocol.amounts import Msat
from protocol.bolt3.commitment import Side
from protocol.bolt9 import ChannelType
from protocol.bus.messages.channel import ChannelInfo, HtlcInfo

_ADDING = ("ADD_HTLC", "ADD_COMMIT", "ADD_REVOCATION", "ADD_ACK_COMMIT", "ADD_ACK_REVOCATION")
_REMOVING = (
    "REMOVE_HTLC",
    "REMOVE_COMMIT",
    "REMOVE_REVOCATION",
    "REMOVE_ACK_COMMIT",
    "REMOVE_ACK_REVOCATION",
)


def htlc_state(row: Htlc, committed: Committed) -> str:
    """Core Lightning's name for how far an HTLC is in the dance. An offered one is added by us (SENT) and removed
    by the peer (RCVD); a received one the other way."""
    own, far = committed.local_number, committed.remote_revoked
    removing = row.remote_to is not None or row.local_to is not None
    by_us = row.offered is not removing
    if removing:
        first, second = (row.remote_to, row.local_to) if by_us else (row.local_to, row.remote_to)
    else:
        first, second = (row.remote_from, row.local_from) if by_us else (row.local_from, row.remote_from)
    first_done, second_done = (far, own) if by_us else (own, far)
    if first is None:
        stage = 0
    elif second is None:
        stage = 2 if first <= first_done else 1
    else:
        stage = 4 if second <= second_done else 3
    return ("SENT_" if by_us else "RCVD_") + (_REMOVING if removing else _ADDING)[stage]


def channel_info(state: State, height: int) -> ChannelInfo:
    committed = state.committed
    params, phase, link = committed.params, committed.phase, state.volatile.link
    totals = Totals(committed, state.htlcs)
    usable = not isinstance(phase, Closing | Lost) and not (
        isinstance(phase, Normal) and lockin.is_unconfirmed(committed)
    )
    kind = ChannelType.of(anchors=params.anchors, scid_alias=params.scid_alias, zeroconf=params.zeroconf)
    depth = 0 if committed.funding_height is None else max(0, height - committed.funding_height + 1)
    return ChannelInfo(
        channel_id=params.channel_id,
        peer=params.peer,
        peer_connected=isinstance(link, Online | Reestablishing),
        reestablished=isinstance(link, Online),
        state=cln_state(phase, opener=params.holder_is_opener),
        opener_is_us=params.holder_is_opener,
        anchors=params.anchors,
        capacity=params.capacity,
        funding_txid=params.fundings[0].txid,
        funding_outnum=params.fundings[0].index,
        short_channel_id=committed.short_channel_id,
        alias_local=committed.alias_local,
        alias_remote=committed.aliases_remote[-1] if committed.aliases_remote else None,
        to_us_msat=committed.settled_local,
        min_to_us_msat=Msat(committed.settled_local - totals.offered),
        max_to_us_msat=Msat(committed.settled_local + totals.received),
        spendable_msat=totals.spendable() if usable else Msat(0),
        receivable_msat=totals.receivable() if usable else Msat(0),
        our_reserve=params.counterparty.reserve,
        their_reserve=params.holder.reserve,
        dust_limit=params.holder.dust_limit,
        our_to_self_delay=params.counterparty.to_self_delay,
        their_to_self_delay=params.holder.to_self_delay,
        max_accepted_htlcs=params.holder.max_accepted_htlcs,
        minimum_htlc_in_msat=params.holder.htlc_minimum,
        max_in_flight_msat=params.counterparty.max_in_flight,
        feerate_per_kw=feerate(committed, Side.HOLDER, committed.local_number),
        local_number=committed.local_number,
        remote_number=committed.remote_number,
        funding_confirmations=depth,
        closer=committed.closer,
        close_to=params.holder_script,
        why=state.volatile.stalled or _trust(committed) or committed.why,
        htlcs=tuple(
            HtlcInfo(
                row.offered,
                row.id,
                row.amount_msat,
                row.payment_hash,
                row.cltv_expiry,
                htlc_state(row, committed),
            )
            for row in state.htlcs.values()
        ),
        announce=params.announce,
        scid_alias_only=params.scid_alias,
        zeroconf=params.minimum_depth == 0,
        channel_type=kind.bits,
        handle=params.handle,
        local_funding_pubkey=params.holder_keys.funding_pubkey,
        remote_funding_pubkey=params.counterparty_keys.funding_pubkey,
        peer_max_accepted_htlcs=params.counterparty.max_accepted_htlcs,
        peer_htlc_minimum=params.counterparty.htlc_minimum,
    )


def _trust(committed: Committed) -> str:
    """What a channel that is used before its funding is confirmed rests on."""
    early = isinstance(committed.phase, Normal) and committed.funding_height is None
    if not early or committed.params.minimum_depth:
        return ""
    if committed.params.holder_is_opener:
        return "in use before its funding is confirmed: the peer trusts us to see to that"
    return (
        "in use before its funding is confirmed, since you trust this peer: if it spends those coins elsewhere,"
        " all that we received in this channel is lost"
    )
