"""What a payer decides: may this be paid, with which HTLCs, and what an answer means (BOLT 4; BOLT 11; bLIP 3).

Pure: height, time and randomness arrive as arguments. `PayCode` has the numbers that Core Lightning's tools act on.
"""

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise

from msgspec import Struct

from protocol.amounts import MAX_HTLC_CLTV, BlockHeight, Msat
from protocol.bolt4 import attribution, failure_onion, payload, sphinx
from protocol.bolt4 import failure as failures
from protocol.bolt4.attribution import Told
from protocol.bolt4.failure import Failure
from protocol.bolt11.decode import decode
from protocol.bolt11.invoice import HopHint, InvalidInvoice, Invoice
from protocol.bus.messages.routing import RouteHop
from protocol.errors import CommandRefused, MalformedMessage
from protocol.secret import Secret

BLOCKS_OF_PATIENCE = 3
"""Added to the payee's `min_final_cltv_expiry_delta`: blocks may be found while the HTLC is on its way."""
MIN_FEE_BUDGET = Msat(5000)
BASIC_MPP = 16
NOBODY = -1
"""`failed_at` when nobody owns up to a failure."""


class PayCode(IntEnum):
    IN_PROGRESS = 200
    ALREADY_PAID_OTHERWISE = 201
    UNREADABLE_FAILURE = 202
    REFUSED_BY_PAYEE = 203
    TRY_OTHER_ROUTE = 204
    NO_ROUTE = 205
    LOCKED_TOO_LONG = 206
    EXPIRED = 207
    OTHER = 209
    STOPPED_RETRYING = 210
    INVALID_PARAMETER = -32602


class Goal(Struct, frozen=True):
    """What is to reach whom, however it was asked for. `final_delay`: blocks that the payee wants to have left.
    `max_delay`, `excluded`, `excluded_nodes`: what the payer allows; saved with it, for a later run keeps to it too."""

    destination: bytes
    payment_hash: bytes
    amount_msat: Msat
    final_delay: int
    payment_secret: bytes | None = None
    payment_metadata: bytes | None = None
    in_parts: bool = False
    """Whether it may come in several parts, which the payee must have offered."""
    hints: tuple[tuple[HopHint, ...], ...] = ()
    expires_at: float | None = None
    keysend_preimage: bytes | None = None
    records: tuple[tuple[int, bytes], ...] = ()
    max_delay: int = MAX_HTLC_CLTV
    excluded: tuple[tuple[int, int], ...] = ()
    """Channels with a direction."""
    excluded_nodes: tuple[bytes, ...] = ()

    @property
    def has_limits(self) -> bool:
        return self.max_delay != MAX_HTLC_CLTV or bool(self.excluded or self.excluded_nodes)


class Hop(Struct, frozen=True):
    """The one HTLC of an attempt and what opens a failure of it."""

    amount_msat: Msat
    cltv_expiry: BlockHeight
    onion: bytes
    shared_secrets: tuple[Secret, ...]


class Opened(Struct, frozen=True):
    """Who failed an HTLC, and why. `failed_at` as in `routing.AttemptEnded`, or NOBODY. `told`: by attribution data."""

    failed_at: int
    failure: Failure | None
    told: Told | None = None

    def suspects(self, hops: int) -> tuple[int, int] | None:
        """As in `routing.AttemptEnded`: of a failure that nobody owns up to, the pair between which the data was
        spoiled. Where nothing came from one of them, all behind it may have done it as well."""
        if self.failure is not None or self.told is None:
            return None
        at = hops if self.told.spoiled_at is None else self.told.spoiled_at
        return max(0, at - 1), hops if self.told.silent else min(at + 1, hops)


def read_invoice(text: str, *, prefix: str) -> Invoice:
    """Refused with the decoder's own sentences; `prefix` is that of our chain, such as "bcrt"."""
    try:
        return decode(text, expect_prefix=prefix)
    except InvalidInvoice as error:
        raise CommandRefused(
            error.sentence, what_to_do=error.what_to_do, code=PayCode.INVALID_PARAMETER
        ) from error


def amount_to_pay(invoice: Invoice, asked: Msat | None) -> Msat:
    """The invoice's amount, or the one asked for where the invoice leaves it open."""
    if invoice.amount_msat is None:
        if asked is None:
            raise CommandRefused(
                "the invoice leaves the amount open",
                what_to_do="Give amount_msat.",
                code=PayCode.INVALID_PARAMETER,
            )
        if asked <= 0:
            raise CommandRefused(
                "an amount of 0 cannot be paid",
                what_to_do="Give an amount_msat above 0.",
                code=PayCode.INVALID_PARAMETER,
            )
        return asked
    if asked is not None and asked != invoice.amount_msat:
        raise CommandRefused(
            f"the invoice asks for {invoice.amount_msat} msat, {asked} msat were given",
            what_to_do="Leave amount_msat out.",
            code=PayCode.INVALID_PARAMETER,
        )
    return invoice.amount_msat


def goal_of(
    invoice: Invoice,
    amount: Msat,
    *,
    max_delay: int = MAX_HTLC_CLTV,
    excluded: tuple[tuple[int, int], ...] = (),
    excluded_nodes: tuple[bytes, ...] = (),
) -> Goal:
    return Goal(
        destination=invoice.payee,
        payment_hash=invoice.payment_hash,
        amount_msat=amount,
        final_delay=invoice.min_final_cltv_expiry_delta,
        payment_secret=invoice.payment_secret,
        payment_metadata=invoice.payment_metadata,
        in_parts=invoice.supports(BASIC_MPP),
        hints=invoice.route_hints,
        expires_at=invoice.expires_at,
        max_delay=max_delay,
        excluded=excluded,
        excluded_nodes=excluded_nodes,
    )


def fee_budget(amount: Msat, asked: Msat | None) -> Msat:
    """What Core Lightning's xpay allows: a hundredth, and 5 sat for small amounts."""
    return Msat(max(MIN_FEE_BUDGET, amount // 100)) if asked is None else asked


def check_payable(goal: Goal, *, now: float) -> None:
    if goal.expires_at is not None and goal.expires_at <= now:
        raise CommandRefused(
            f"the invoice expired {int(now - goal.expires_at)} seconds ago",
            what_to_do="Ask the recipient for a new invoice.",
            code=PayCode.EXPIRED,
        )
    _check_delay(goal, goal.final_delay + BLOCKS_OF_PATIENCE, "the recipient asks that")


def _check_delay(goal: Goal, blocks: int, why: str) -> None:
    # Whoever holds the HTLC may be silent until it expires, and closing the channel does not make that sooner.
    if blocks > goal.max_delay:
        raise CommandRefused(
            f"{why} the money may be locked for {blocks} blocks, {goal.max_delay} are allowed",
            what_to_do="Allow more with maxdelay, or ask the recipient for an invoice with a shorter final delay.",
            code=PayCode.LOCKED_TOO_LONG,
        )


def build_hop(goal: Goal, amount: Msat, *, height: BlockHeight, session_key: Secret) -> Hop:
    """The HTLC for a payee that is our channel partner: amount and expiry are what the onion says."""
    expiry = BlockHeight(height + goal.final_delay + BLOCKS_OF_PATIENCE)
    onion = sphinx.build(session_key, [(goal.destination, _final(goal, amount, expiry))], goal.payment_hash)
    return Hop(amount, expiry, onion.packet, onion.shared_secrets)


def build_route(goal: Goal, hops: Sequence[RouteHop], *, height: BlockHeight, session_key: Secret) -> Hop:
    """The HTLC over `hops`, whose delays count from `height`; the last one's already has what is added to them."""
    layers = [
        (
            hop.node_id,
            payload.encode_forward(
                payload.ForwardPayload(
                    after.short_channel_id, after.amount_msat, BlockHeight(height + after.delay)
                )
            ),
        )
        for hop, after in pairwise(hops)
    ]
    last = hops[-1]
    layers.append((last.node_id, _final(goal, last.amount_msat, BlockHeight(height + last.delay))))
    onion = sphinx.build(session_key, layers, goal.payment_hash)
    return Hop(hops[0].amount_msat, BlockHeight(height + hops[0].delay), onion.packet, onion.shared_secrets)


def _final(goal: Goal, amount: Msat, expiry: BlockHeight) -> bytes:
    return payload.encode_final(
        payload.FinalPayload(
            amt_to_forward=amount,
            outgoing_cltv_value=expiry,
            payment_secret=goal.payment_secret,
            total_msat=goal.amount_msat,
            payment_metadata=goal.payment_metadata,
            keysend_preimage=goal.keysend_preimage,
            others=goal.records,
        )
    )


def shared_secrets_again(session_key: Secret, nodes: Sequence[bytes]) -> tuple[Secret, ...]:
    """The secrets of an attempt of an earlier run; they depend on the session key and the route only."""
    return sphinx.build(session_key, [(node, bytes(2)) for node in nodes], b"").shared_secrets


def open_failure(
    reason: bytes,
    malformed_code: int | None,
    shared_secrets: tuple[Secret, ...],
    told: bytes | None = None,
) -> Opened:
    """`told`: the attribution data that came with it, if any did."""
    if malformed_code is not None:
        # Our peer says so itself: it could not read the onion that we gave it.
        try:
            return Opened(1, failures.from_malformed(malformed_code, reason))
        except MalformedMessage:
            return Opened(NOBODY, None)
    opened = failure_onion.unwrap(shared_secrets, reason)
    if told is None:
        return Opened(NOBODY, None) if opened is None else Opened(opened.hop_index + 1, opened.failure)
    if opened is None:
        return Opened(NOBODY, None, attribution.read(shared_secrets, reason, told))
    read = attribution.read(shared_secrets, reason, told, source=opened.hop_index)
    return Opened(opened.hop_index + 1, opened.failure, read)


def hold_times(told: bytes | None, shared_secrets: tuple[Secret, ...]) -> tuple[int, ...]:
    """How long the nodes of a route say that they held what was paid; of the first ones only, if others say nothing."""
    return () if told is None else attribution.read(shared_secrets, b"", told).hold_times


def refusal(opened: Opened, hops: int) -> CommandRefused:
    """What a failed HTLC means to the person who pays."""
    failure = opened.failure
    if failure is None:
        return CommandRefused(
            f"the payment failed, and no node of its route owns up to the reason{_named(opened, hops)}",
            what_to_do="Nothing was paid. Ask the recipient for a new invoice.",
            code=PayCode.UNREADABLE_FAILURE,
        )
    sentence, _, what_to_do = failure.sentence.rstrip(".").partition(". ")
    if not what_to_do:
        sentence, _, what_to_do = sentence.partition("; ")
    if opened.failed_at < hops:
        code = PayCode.TRY_OTHER_ROUTE
    else:
        code = PayCode.REFUSED_BY_PAYEE if failures.is_permanent(failure) else PayCode.OTHER
    advice = f"{what_to_do[:1].upper()}{what_to_do[1:]}." if what_to_do else "Try again later."
    return CommandRefused(f"{sentence} ({failure.name})", what_to_do=advice, code=code)


def _named(opened: Opened, hops: int) -> str:
    suspects = opened.suspects(hops)
    if suspects is None:
        return ""
    first, last = suspects[0] + 1, suspects[1]
    where = f"hop {last}" if first == last else f"hops {first} to {last}"
    return f"; attribution data leads to {where} of {hops}"


def check_route(hops: Sequence[RouteHop], goal: Goal, max_fee: int, *, parts_of: int) -> None:
    """A route, from whoever found it, keeps to what was asked: it ends where it should and leaves the recipient the
    blocks that it wants, costs no more and locks the money no longer than it may, goes round what the payer ruled out,
    and each HTLC is at least the next one, in amount and in expiry."""
    falls = all(a.amount_msat >= b.amount_msat and a.delay >= b.delay for a, b in pairwise(hops))
    ends = bool(hops) and hops[-1].node_id == goal.destination
    if not ends or not falls or len(hops) > 20 or hops[-1].delay < goal.final_delay + BLOCKS_OF_PATIENCE:
        raise CommandRefused(
            "the route that was found does not lead to the recipient",
            what_to_do="Report this: it is a bug.",
            code=PayCode.OTHER,
        )
    _check_delay(goal, hops[0].delay, "by the route that was found")
    if goal.has_limits and any(
        (hop.short_channel_id, hop.direction) in goal.excluded or hop.node_id in goal.excluded_nodes
        for hop in hops
    ):
        raise CommandRefused(
            "the route that was found goes over a channel or node that was excluded",
            what_to_do="Report this: it is a bug.",
            code=PayCode.OTHER,
        )
    amount = hops[-1].amount_msat
    if not 0 < amount <= parts_of or hops[0].amount_msat - amount > max_fee:
        raise CommandRefused(
            f"the route that was found costs {hops[0].amount_msat - amount} msat, allowed are {max_fee}",
            what_to_do="Allow a higher fee with maxfee, or try a smaller amount.",
            code=PayCode.NO_ROUTE,
        )
