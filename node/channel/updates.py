"""The peer's updates until it signs for them, and ours until we do (BOLT 2, "Adding an HTLC", "Removing an HTLC",
"Updating Fees")."""

from typing import assert_never

from msgspec.structs import replace

from node.channel import dust, feerates
from node.channel.attributions import NONE_WANTED, is_forward
from node.channel.content import commitment_params, content
from node.channel.events import Save
from node.channel.limits import MAX_HTLCS, Full, Totals
from node.channel.state import (
    AwaitingLockIn,
    Closed,
    Closing,
    FailWant,
    FeeStep,
    FeeWant,
    Flowing,
    FulfilWant,
    Htlc,
    Lost,
    Normal,
    OfferWant,
    Quiescent,
    ShuttingDown,
    Update,
)
from node.channel.turn import Turn
from protocol.amounts import FeeratePerKw, to_msat
from protocol.bolt3.commitment import Side
from protocol.bolt3.content import affords
from protocol.bus.messages import channel as said
from protocol.bus.messages.signer import OtherParts
from protocol.errors import CommandRefused, PeerViolation
from protocol.hashes import sha256
from protocol.wire.bolt2_update import (
    UpdateAddHtlc,
    UpdateFailHtlc,
    UpdateFailMalformedHtlc,
    UpdateFee,
    UpdateFulfillHtlc,
)

ADDING = 'BOLT 2, "Adding an HTLC"'
REMOVING = 'BOLT 2, "Removing an HTLC"'
FEES = 'BOLT 2, "Updating Fees"'
BADONION = 0x8000
LOCKTIME_THRESHOLD = 500_000_000
OVER_DUST = b""
"""As the failure of a received HTLC that nobody failed yet: too small for an output and one too many of its kind. It is
taken, failed once it is irrevocable, and never fulfilled."""
MAX_STAGED = 4 * MAX_HTLCS
ONION_KEY = slice(1, 34)
"""Where an onion packet has its ephemeral key, behind the version byte (BOLT 4, "Packet Structure")."""


def stage(turn: Turn, update: Update) -> None:
    """Checks an update of the peer and keeps it until its commitment_signed."""
    if len(turn.v.staged) >= MAX_STAGED:
        raise PeerViolation("too many updates without a commitment_signed", clause=ADDING)
    match update:
        case UpdateAddHtlc():
            _check_add(turn, update)
        case UpdateFulfillHtlc():
            row = _removable(turn, update.id)
            learn_preimage(turn, row, update.payment_preimage.reveal(), update.tlvs.attribution)
        case UpdateFailHtlc():
            _failable(turn, update.id)
        case UpdateFailMalformedHtlc():
            _failable(turn, update.id)
            if not update.failure_code & BADONION:
                raise PeerViolation(
                    f"HTLC {update.id} was failed as malformed without BADONION", clause=REMOVING
                )
        case UpdateFee():
            _check_fee(turn, update)
        case _:
            assert_never(update)
    turn.v = replace(turn.v, staged=(*turn.v.staged, update))


def _check_add(turn: Turn, add: UpdateAddHtlc) -> None:
    match turn.c.phase:
        case Normal() | ShuttingDown(theirs=None):
            pass
        case AwaitingLockIn():
            raise PeerViolation("an HTLC before channel_ready of both", clause=ADDING)
        case ShuttingDown() | Closing() | Closed() | Lost():
            raise PeerViolation("an HTLC after shutdown", clause='BOLT 2, "Closing Initiation"')
        case _:
            assert_never(turn.c.phase)
    expected = turn.c.next_received_id + sum(isinstance(staged, UpdateAddHtlc) for staged in turn.v.staged)
    if add.id != expected:
        raise PeerViolation(f"HTLC id {add.id} where {expected} should come", clause=ADDING)
    if add.amount_msat < max(1, turn.c.params.holder.htlc_minimum):
        raise PeerViolation(f"an HTLC of {add.amount_msat} msat is below our minimum", clause=ADDING)
    if add.cltv_expiry >= LOCKTIME_THRESHOLD:
        raise PeerViolation(f"cltv_expiry {add.cltv_expiry} is a time, not a height", clause=ADDING)


def _removable(turn: Turn, htlc_id: int) -> Htlc:
    """An HTLC of ours that the peer may remove: irrevocably committed, and not removed yet."""
    row = turn.htlcs.get((True, htlc_id))
    if row is None or not irrevocable(turn, row):
        raise PeerViolation(f"HTLC {htlc_id} is not there to be removed", clause=REMOVING)
    twice = any(not isinstance(s, UpdateAddHtlc | UpdateFee) and s.id == htlc_id for s in turn.v.staged)
    if row.local_to is not None or twice:
        raise PeerViolation(f"HTLC {htlc_id} is removed twice", clause=REMOVING)
    return row


def _failable(turn: Turn, htlc_id: int) -> None:
    """Once the peer showed the preimage, maybe on an older connection, it is paid and cannot fail the HTLC."""
    if _removable(turn, htlc_id).preimage is not None:
        raise PeerViolation(f"HTLC {htlc_id} is failed after it was fulfilled", clause=REMOVING)


def learn_early(turn: Turn, update: UpdateFulfillHtlc) -> None:
    """Takes the preimage of an update whose turn has not come; one that may not stand is judged in its turn."""
    row = turn.htlcs.get((True, update.id))
    if row is None or row.local_to is not None or not irrevocable(turn, row):
        return
    if any(not isinstance(s, UpdateAddHtlc | UpdateFee) and s.id == update.id for s in turn.v.staged):
        return
    learn_preimage(turn, row, update.payment_preimage.reveal(), update.tlvs.attribution)


def irrevocable(turn: Turn, row: Htlc) -> bool:
    """In both commitments, with the states that lacked it revoked on both sides."""
    return (
        row.local_from is not None
        and row.local_from <= turn.c.local_number
        and row.remote_from is not None
        and row.remote_from <= turn.c.remote_revoked
    )


def learn_preimage(turn: Turn, row: Htlc, preimage: bytes, attribution: bytes | None = None) -> None:
    """Keeps the proof of payment and passes it on at once, whatever else is under way.

    `attribution` is kept where another HTLC waits for it; a payer who crashes now hears no hold times."""
    if sha256(preimage) != row.payment_hash:
        raise PeerViolation(f"the preimage for HTLC {row.id} is wrong", clause=REMOVING)
    if row.preimage is not None:
        return
    turn.put(replace(row, preimage=preimage, attribution=attribution if is_forward(row) else None))
    turn.c.unlearned = (*turn.c.unlearned, preimage)
    turn.save(Save.NOW)
    if row.origin is not None:
        turn.tell(said.HtlcFulfilled(row.origin, turn.c.params.channel_id, row.id, preimage, attribution))


def keep_preimage(turn: Turn, htlc_id: int, preimage: bytes, attribution: bytes | None = None) -> bool:
    """The next hop was paid for a received HTLC: from now on nothing but this preimage may end it, on chain too.

    `attribution`: ours, for the same message."""
    row = turn.htlcs.get((False, htlc_id))
    if row is None or row.remote_to is not None or sha256(preimage) != row.payment_hash:
        return False
    if row.preimage != preimage:
        turn.put(replace(row, preimage=preimage, attribution=attribution))
        turn.save(Save.NEXT)  # the HTLC that was paid keeps it too, so this save need not be the first
    return True


def _check_fee(turn: Turn, update: UpdateFee) -> None:
    if turn.c.params.holder_is_opener:
        raise PeerViolation("update_fee from the side that did not open", clause=FEES)
    rate, anchors = update.feerate_per_kw, turn.c.params.anchors
    objection = feerates.objection(rate, turn.env.feerate_per_kw, anchors=anchors, at_risk=bool(turn.htlcs))
    if objection is not None:
        raise PeerViolation(objection, clause=FEES)
    if dust.rate_exceeds(turn.c, turn.htlcs, rate, turn.env.max_dust):
        raise PeerViolation(
            f"a feerate of {rate} sat/kw would leave too many HTLCs without output", clause=FEES
        )


def cover_staged(turn: Turn, number: int) -> None:
    """The peer's commitment_signed covers what it sent: the updates enter our commitment `number`."""
    for update in turn.v.staged:
        match update:
            case UpdateAddHtlc():
                row = Htlc(
                    offered=False,
                    id=update.id,
                    amount_msat=update.amount_msat,
                    payment_hash=update.payment_hash,
                    cltv_expiry=update.cltv_expiry,
                    local_from=number,
                    onion=update.onion_routing_packet,
                    onion_key=update.onion_routing_packet[ONION_KEY],
                    ammagext=None if update.tlvs.blinded_path is None else NONE_WANTED,
                )
                turn.put(row)
                if dust.exceeds(turn.c, turn.htlcs, row, turn.env.max_dust):
                    turn.put(replace(row, failure=OVER_DUST))
                turn.c.next_received_id = update.id + 1
            case UpdateFulfillHtlc():
                turn.put(replace(turn.htlcs[True, update.id], local_to=number))
            case UpdateFailHtlc():
                row = turn.htlcs[True, update.id]
                told = update.tlvs.attribution
                turn.put(replace(row, local_to=number, failure=update.reason, attribution=told))
            case UpdateFailMalformedHtlc():
                turn.put(
                    replace(
                        turn.htlcs[True, update.id],
                        local_to=number,
                        failure=update.sha256_of_onion,
                        failure_code=update.failure_code,
                    )
                )
            case UpdateFee():
                turn.c.fees = (*turn.c.fees, FeeStep(update.feerate_per_kw, number, None))
            case _:
                assert_never(update)
    turn.v = replace(turn.v, staged=())


def check_commitment(turn: Turn, number: int) -> None:
    """What the peer added must stay inside what we asked for at the open, in our commitment that it signs now.

    Judged on that very commitment: what the peer wins in it, it may spend in it.
    """
    params, ours = turn.c.params, turn.c.params.holder
    added = any(not row.offered and row.local_from == number for row in turn.htlcs.values())
    fee_moved = any(step.local_from == number for step in turn.c.fees)
    if not added and not fee_moved:
        return
    now = content(turn.c, turn.htlcs, Side.HOLDER, number)
    if added:
        received = [htlc.amount_msat for htlc in now.htlcs if not htlc.offered]
        if len(received) > min(ours.max_accepted_htlcs, MAX_HTLCS):
            raise PeerViolation(
                f"{len(received)} HTLCs at once, we accept {ours.max_accepted_htlcs}", clause=ADDING
            )
        if sum(received) > ours.max_in_flight:
            raise PeerViolation(
                f"{sum(received)} msat in flight, we accept {ours.max_in_flight}", clause=ADDING
            )
        if now.to_other_msat < to_msat(ours.reserve):
            raise PeerViolation("the peer offers more than it has above its reserve", clause=ADDING)
    if not params.holder_is_opener and not affords(commitment_params(params), Side.HOLDER, now):
        raise PeerViolation("the peer cannot pay the fee of the commitment that it signs", clause=FEES)


def take_wants(turn: Turn, number: int) -> tuple[bool, tuple[int, ...], dict[int, OtherParts]]:
    """Our wishes enter the peer's commitment `number`. Answers whether any did, which HTLCs to fulfil, and what other
    channels have for the same payments."""
    if not turn.v.wants or not isinstance(turn.v.flow, Flowing):
        return False, (), {}
    totals = Totals(turn.c, turn.htlcs, turn.env.max_dust)
    taken, release = False, []
    parts: dict[int, OtherParts] = {}
    for want in turn.v.wants:
        match want:
            case OfferWant():
                taken |= _offer(turn, want, totals, number)
            case FulfilWant(htlc_id=htlc_id, preimage=preimage, others=others, attribution=told):
                row = turn.htlcs.get((False, htlc_id))
                free = row is not None and row.failure is None and row.remote_to is None
                if row is not None and free and irrevocable(turn, row):
                    # Empty: the signer fills it in. One that we have is shown to it as evidence.
                    told = row.attribution or told
                    turn.put(replace(row, remote_to=number, preimage=preimage or b"", attribution=told))
                    release.append(htlc_id)
                    if others:
                        parts[htlc_id] = others
                    taken = True
            case FailWant(htlc_id=htlc_id, reason=reason, code=code, attribution=told):
                row = turn.htlcs.get((False, htlc_id))
                paid = row is None or row.preimage is not None  # a released preimage cannot be taken back
                if row is not None and not paid and row.remote_to is None and irrevocable(turn, row):
                    row = replace(row, remote_to=number, failure=reason, failure_code=code, attribution=told)
                    turn.put(row)
                    taken = True
            case FeeWant(feerate_per_kw=rate):
                if _may_propose(turn, rate, totals):
                    totals.raise_rate(rate)
                    turn.c.fees = (*turn.c.fees, FeeStep(rate, None, number))
                    taken = True
            case _:
                assert_never(want)
    turn.v = replace(turn.v, wants=())
    return taken, tuple(release), parts


def repeat_feerate(turn: Turn, number: int) -> None:
    """An update that changes nothing, for a commitment_signed that must not be empty (BOLT 2, "Committing Updates So
    Far"). Only the opener has one; without it the commitment_signed is empty all the same, which peers take."""
    rate = turn.c.fees[-1].feerate_per_kw
    flows = isinstance(turn.c.phase, Normal) and isinstance(turn.v.flow, Flowing)
    if flows and turn.c.params.holder_is_opener and Totals(turn.c, turn.htlcs).affords_rate(rate):
        turn.c.fees = (*turn.c.fees, FeeStep(rate, None, number))


def _may_propose(turn: Turn, rate: FeeratePerKw, totals: Totals) -> bool:
    """A feerate that we could not pay, or that comes when the channel ends, is left for another time."""
    return (
        turn.c.params.holder_is_opener
        and isinstance(turn.c.phase, Normal)
        and rate != turn.c.fees[-1].feerate_per_kw
        and totals.affords_rate(rate)
        and not dust.rate_exceeds(turn.c, turn.htlcs, rate, turn.env.max_dust)
    )


def _offer(turn: Turn, want: OfferWant, totals: Totals, number: int) -> bool:
    try:
        check_may_offer(turn)
        totals.check_offer(want)
    except CommandRefused as refusal:
        refuse(turn, want.origin, refusal)
        return False
    totals.add_offered(want)
    turn.put(
        Htlc(
            offered=True,
            id=turn.c.next_offered_id,
            amount_msat=want.amount_msat,
            payment_hash=want.payment_hash,
            cltv_expiry=want.cltv_expiry,
            remote_from=number,
            onion=want.onion,
            origin=want.origin,
        )
    )
    turn.c.next_offered_id += 1
    return True


def check_may_offer(turn: Turn) -> None:
    """Raises CommandRefused unless the channel takes new HTLCs."""
    if isinstance(turn.v.flow, Quiescent):
        raise Full("the channel rests for a while", what_to_do="Use another channel.")
    match turn.c.phase:
        case Normal():
            if turn.c.funding_height is None and turn.c.params.minimum_depth > 0:
                raise CommandRefused(
                    "the block with the funding of this channel left the chain",
                    what_to_do="Use another channel, or wait until the funding is confirmed again.",
                )
        case AwaitingLockIn():
            raise CommandRefused(
                "the channel is not open yet", what_to_do="Wait until its funding is confirmed."
            )
        case ShuttingDown() | Closing() | Closed() | Lost():
            raise CommandRefused("the channel is closing", what_to_do="Use or open another channel.")
        case _:
            assert_never(turn.c.phase)


def check_forward(turn: Turn, origin: str) -> None:
    """Raises CommandRefused for a forward into a zeroconf channel whose opener can still spend the coins elsewhere: the
    HTLC could then end nowhere, and somebody who never trusted this peer would wait for it."""
    trusting = turn.c.funding_height is None and not turn.c.params.holder_is_opener
    if trusting and said.parse_forward_origin(origin) is not None:
        raise CommandRefused(
            "the funding of this channel is not confirmed, and only our own payments may rest on that",
            what_to_do="Forward over another channel, or wait until it is confirmed.",
        )


def is_known_origin(turn: Turn, origin: str) -> bool:
    return any(row.origin == origin for row in turn.htlcs.values()) or any(
        isinstance(want, OfferWant) and want.origin == origin for want in turn.v.wants
    )


def refuse_late_offers(turn: Turn) -> None:
    """Offers that still wait when the channel begins to end are answered at once: nothing else would do it."""
    rests = isinstance(turn.v.flow, Quiescent)
    if (isinstance(turn.c.phase, Normal) and not rests) or not turn.v.wants:
        return
    offers = [want for want in turn.v.wants if isinstance(want, OfferWant)]
    if not offers:
        return
    turn.v = replace(turn.v, wants=tuple(w for w in turn.v.wants if not isinstance(w, OfferWant)))
    for want in offers:
        try:
            check_may_offer(turn)
        except CommandRefused as refusal:
            refuse(turn, want.origin, refusal)


def refuse(turn: Turn, origin: str, refusal: CommandRefused) -> None:
    passing = isinstance(refusal, Full)
    turn.tell(said.HtlcRefused(origin, refusal.sentence, refusal.what_to_do, passing))
