"""What a commitment of either side holds, computed from the header and the HTLC rows (BOLT 2, BOLT 3)."""

from node.channel.state import Committed, Htlc, Htlcs, Params
from protocol.amounts import FeeratePerKw, Msat
from protocol.bitcoin.transaction import OutPoint
from protocol.bolt3.commitment import CommitmentContent, CommitmentHtlc, CommitmentParams, Side, SideParams


def commitment_params(params: Params, funding: int = 0) -> CommitmentParams:
    """The same channel in BOLT 3's terms; there each side carries the delay that it must wait itself."""
    output = params.fundings[funding]
    return CommitmentParams(
        anchors=params.anchors,
        funding_outpoint=OutPoint(output.txid, output.index),
        capacity=output.capacity,
        opener_is_holder=params.holder_is_opener,
        holder=SideParams(params.holder_keys, params.holder.dust_limit, params.counterparty.to_self_delay),
        counterparty=SideParams(
            params.counterparty_keys, params.counterparty.dust_limit, params.holder.to_self_delay
        ),
    )


def feerate(committed: Committed, side: Side, number: int) -> FeeratePerKw:
    rate = committed.fees[0].feerate_per_kw
    for step in committed.fees:
        start = step.local_from if side is Side.HOLDER else step.remote_from
        if start is not None and start <= number:
            rate = step.feerate_per_kw
    return rate


def stands(row: Htlc, side: Side, number: int) -> bool:
    start, end = (row.local_from, row.local_to) if side is Side.HOLDER else (row.remote_from, row.remote_to)
    return start is not None and start <= number and (end is None or end > number)


def content(committed: Committed, htlcs: Htlcs, side: Side, number: int) -> CommitmentContent:
    """The content of commitment `number` of `side`. The order of its HTLCs is by direction and id, so that the
    same state always asks the signer the same question."""
    ours, theirs = committed.settled_local, committed.settled_remote
    holder = side is Side.HOLDER
    standing = []
    for key in sorted(htlcs):
        row = htlcs[key]
        start, end = (row.local_from, row.local_to) if holder else (row.remote_from, row.remote_to)
        if start is None or start > number:
            continue
        amount = row.amount_msat
        if end is not None and end <= number:
            if row.preimage is not None:
                sign = -1 if row.offered else 1
                ours = Msat(ours + sign * amount)
                theirs = Msat(theirs - sign * amount)
            continue
        if row.offered:
            ours = Msat(ours - amount)
        else:
            theirs = Msat(theirs - amount)
        standing.append(
            CommitmentHtlc(row.offered is holder, row.id, amount, row.payment_hash, row.cltv_expiry)
        )
    return CommitmentContent(
        number=number,
        feerate_per_kw=feerate(committed, side, number),
        to_owner_msat=ours if holder else theirs,
        to_other_msat=theirs if holder else ours,
        htlcs=tuple(standing),
    )
