"""What the resolution on chain is told of a channel when its funding was spent (BOLT 5, "Commitment Transaction";
checklist 45, 50)."""

from collections.abc import Iterable, Mapping

from node.channel.content import commitment_params, content, feerate, stands
from node.channel.dance import preamble
from node.channel.state import (
    CloseKind,
    Closing,
    Committed,
    FulfilWant,
    Htlc,
    Htlcs,
    ShuttingDown,
    Volatile,
)
from node.onchain.deadlines import Running
from node.onchain.recognise import as_it_stands, classify
from node.onchain.state import Facts, HtlcFact, Kind
from protocol.bitcoin.transaction import Transaction
from protocol.bolt3.commitment import Side, build
from protocol.bolt3.fees import is_trimmed
from protocol.bus.messages.signer import OtherParts

Place = tuple[Side, int]
"""One commitment: whose, and its number."""


def facts_of(
    committed: Committed, volatile: Volatile, htlcs: Htlcs, finished: Iterable[Htlc], raw: bytes
) -> Facts:
    """`finished`: rows that left both commitments for good; a revoked commitment may still hold them."""
    tx = Transaction.parse(raw)
    params = commitment_params(committed.params)
    if committed.forgotten:
        # We know no commitment at all, so every one of the peer's is newer than what we know.
        kind, number = classify(params, tx, ours=frozenset(), revoked=0, newest=-1)
    else:
        kind, number = classify(
            params,
            tx,
            ours=_our_txids(committed, htlcs),
            revoked=committed.remote_revoked,
            newest=committed.remote_number,
        )
    if kind is Kind.OURS and _point(committed, kind, number) is None:
        kind = Kind.OURS_LOST  # the very transaction that we know to be ours, of a number that we do not know
    if kind is Kind.MUTUAL and not _is_agreed(committed):
        kind = Kind.UNKNOWN
    place = (Side.HOLDER if kind is Kind.OURS else Side.COUNTERPARTY, number)
    on_commitment = kind not in (Kind.MUTUAL, Kind.UNKNOWN, Kind.FUTURE, Kind.OURS_LOST)
    wanted = dict(committed.question.others) if committed.question is not None else {}
    wanted |= {want.htlc_id: want.others for want in wanted_fulfilments(volatile)}
    facts = [_live(committed, row, place if on_commitment else None, wanted) for row in htlcs.values()]
    if on_commitment:
        # Of a revoked commitment what left it since; of a valid one what a preimage from the mempool has settled.
        facts += [_past(row, place) for row in finished if stands(row, *place)]
    found = Facts(
        handle=committed.params.handle,
        channel_id=committed.params.channel_id,
        params=params,
        kind=kind,
        number=number,
        tx=raw,
        txid=tx.txid,
        htlcs=tuple(sorted(facts, key=lambda htlc: htlc.key)),
        point=_point(committed, kind, number),
        tell=tuple(preamble(committed)),
    )
    return as_it_stands(found)


def wanted_fulfilments(volatile: Volatile) -> list[FulfilWant]:
    return [want for want in (*volatile.wants, *volatile.parked) if isinstance(want, FulfilWant)]


def running(committed: Committed, htlcs: Htlcs, volatile: Volatile) -> list[Running]:
    """The HTLCs whose expiry can force the channel onto the chain (`must_close`): those that some valid commitment
    still holds.

    One that we want to fulfil counts as fulfilled while its peer is away when somebody was told that it is settled,
    and when it is part of a payment: another channel may have given the preimage out. Any other lapses, and nobody
    has lost by it."""
    valid = _valid(committed)
    owed = {want.htlc_id for want in wanted_fulfilments(volatile) if want.others or want.promised}
    return [
        Running(
            row.offered,
            row.id,
            row.cltv_expiry,
            released=not row.offered and (row.preimage is not None or row.id in owed),
        )
        for row in htlcs.values()
        if any(stands(row, *place) for place in valid)
    ]


def _is_agreed(committed: Committed) -> bool:
    """We negotiated, or it is the very transaction that was negotiated."""
    phase = committed.phase
    if committed.forgotten:
        return True  # from before the loss: besides commitments the signer signs nothing else
    if isinstance(phase, Closing):
        return phase.kind is not CloseKind.UNKNOWN
    return isinstance(phase, ShuttingDown)


def _valid(committed: Committed) -> list[Place]:
    theirs = range(committed.remote_revoked, committed.remote_number + 1)
    validating = committed.question is not None and committed.question.validate is not None
    ours = range(committed.local_number, committed.local_number + 1 + validating)
    return [(Side.HOLDER, n) for n in ours] + [(Side.COUNTERPARTY, n) for n in theirs]


def _our_txids(committed: Committed, htlcs: Htlcs) -> frozenset[bytes]:
    """Our commitments that the signer may have signed for publication: the newest, or the one being validated."""
    found = set()
    phase = committed.phase
    if isinstance(phase, Closing) and phase.kind is CloseKind.OURS and phase.tx:
        found.add(Transaction.parse(phase.tx).txid)
    params = commitment_params(committed.params)
    for behind, point in enumerate(committed.local_points):
        number = committed.local_number + behind
        ours = content(committed, htlcs, Side.HOLDER, number)
        found.add(build(params, Side.HOLDER, ours, point).txid)
    return frozenset(found)


def _point(committed: Committed, kind: Kind, number: int) -> bytes | None:
    match kind:
        case Kind.OURS:
            behind = number - committed.local_number
            return committed.local_points[behind] if behind in (0, 1) else None
        case Kind.THEIRS | Kind.THEIRS_NEXT:
            return committed.remote_points[number - committed.remote_revoked]
        case _:
            return None


def _live(committed: Committed, row: Htlc, place: Place | None, wanted: Mapping[int, OtherParts]) -> HtlcFact:
    others = [other for other in _valid(committed) if other != place]
    present = place is not None and stands(row, *place)
    claim = not row.offered and (row.preimage is not None or row.id in wanted)
    return HtlcFact(
        offered=row.offered,
        id=row.id,
        amount_msat=row.amount_msat,
        payment_hash=row.payment_hash,
        cltv_expiry=row.cltv_expiry,
        present=present,
        live=True,
        elsewhere=any(stands(row, *other) and not _trimmed(committed, row, *other) for other in others),
        preimage=row.preimage or None,
        claim=claim,
        credited=claim and not present and place is not None and _ended(row, *place),
        others=wanted.get(row.id, ()) if claim else (),
    )


def _past(row: Htlc, place: Place) -> HtlcFact:
    return HtlcFact(
        row.offered,
        row.id,
        row.amount_msat,
        row.payment_hash,
        row.cltv_expiry,
        stands(row, *place),
        live=False,
    )


def _ended(row: Htlc, side: Side, number: int) -> bool:
    end = row.local_to if side is Side.HOLDER else row.remote_to
    return end is not None and end <= number


def _trimmed(committed: Committed, row: Htlc, side: Side, number: int) -> bool:
    params = commitment_params(committed.params)
    by_owner = row.offered is (side is Side.HOLDER)
    rate = feerate(committed, side, number)
    return is_trimmed(by_owner, row.amount_msat, params.of(side).dust_limit, rate, params.anchors)
