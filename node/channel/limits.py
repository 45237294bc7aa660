"""What may be added to a channel: reserves, fees, counts and amounts in flight (BOLT 2, "Adding an HTLC").

The totals count every live HTLC as long as it lives on either side, so they err on the safe side: what they
allow is allowed on both commitments, in whatever order the pending updates are signed.
"""

from node.channel import dust
from node.channel.content import feerate
from node.channel.events import MAX_DUST
from node.channel.state import Committed, Htlcs, OfferWant
from protocol.amounts import FeeratePerKw, Msat, Sat, to_msat
from protocol.bolt3.commitment import Side
from protocol.bolt3.exposure import commitment_fee_limit
from protocol.bolt3.fees import anchors_cost, commit_fee
from protocol.errors import CommandRefused

MAX_HTLCS = 483
FEE_SPIKE = 2
"""The opener keeps room for a feerate twice as high before it offers (BOLT 2, fee spike buffer)."""


class Full(CommandRefused):
    """The channel is full at this moment; what is pending in it makes room as it settles."""


class Totals:
    """Running totals over the live HTLCs; one pass to make, constant time to add to."""

    __slots__ = (
        "_committed",
        "_dust",
        "_max_dust",
        "_rate",
        "offered",
        "offered_count",
        "received",
        "received_count",
    )

    def __init__(self, committed: Committed, htlcs: Htlcs, max_dust: Sat = MAX_DUST) -> None:
        self._committed = committed
        self._max_dust = max_dust
        self.offered = self.received = 0
        self.offered_count = self.received_count = 0
        for row in htlcs.values():
            if row.offered:
                self.offered += row.amount_msat
                self.offered_count += 1
            else:
                self.received += row.amount_msat
                self.received_count += 1
        self._rate = max(
            feerate(committed, Side.HOLDER, committed.local_number),
            feerate(committed, Side.COUNTERPARTY, committed.remote_number),
        )
        self._dust = dust.exposure(committed.params, htlcs, FeeratePerKw(self._rate))

    @property
    def rate(self) -> FeeratePerKw:
        return FeeratePerKw(self._rate)

    def opener_cost(self, extra_htlcs: int, factor: int = 1) -> Msat:
        """Fee and anchors with every live HTLC and some more as outputs, at `factor` times the feerate."""
        anchors = self._committed.params.anchors
        count = self.offered_count + self.received_count + extra_htlcs
        rate = FeeratePerKw(self._rate * factor)
        return Msat(1000 * (commit_fee(rate, count, anchors) + anchors_cost(anchors)))

    def affords_rate(self, rate: FeeratePerKw) -> bool:
        """Whether we, as the opener, could pay this feerate with every live HTLC as an output, and keep our reserve."""
        params = self._committed.params
        fee = commit_fee(rate, self.offered_count + self.received_count, params.anchors)
        cost = to_msat(Sat(fee + anchors_cost(params.anchors)))
        has = self._committed.settled_local - self.offered - to_msat(params.counterparty.reserve)
        return has >= cost and cost <= to_msat(commitment_fee_limit(params.capacity))

    def raise_rate(self, rate: FeeratePerKw) -> None:
        """A feerate that is proposed in the same commitment counts for the offers after it."""
        self._rate = max(self._rate, rate)

    def spendable(self) -> Msat:
        """The largest HTLC that we can offer now, in msat."""
        committed = self._committed
        params, theirs = committed.params, committed.params.counterparty
        if self.offered_count >= min(theirs.max_accepted_htlcs, MAX_HTLCS):
            return Msat(0)
        room = committed.settled_local - self.offered - to_msat(theirs.reserve)
        if params.holder_is_opener:
            room -= self.opener_cost(2, FEE_SPIKE)
        else:
            peer_has = committed.settled_remote - self.received
            if peer_has < self.opener_cost(1) + to_msat(params.holder.reserve):
                return Msat(0)
        return Msat(max(0, min(room, theirs.max_in_flight - self.offered)))

    def receivable(self) -> Msat:
        committed = self._committed
        params, ours = committed.params, committed.params.holder
        if self.received_count >= min(ours.max_accepted_htlcs, MAX_HTLCS):
            return Msat(0)
        room = committed.settled_remote - self.received - to_msat(ours.reserve)
        if not params.holder_is_opener:
            room -= self.opener_cost(2, FEE_SPIKE)
        return Msat(max(0, min(room, ours.max_in_flight - self.received)))

    def check_offer(self, want: OfferWant) -> None:
        """Raises CommandRefused when this HTLC may not be offered."""
        theirs = self._committed.params.counterparty
        if want.amount_msat < max(1, theirs.htlc_minimum):
            raise CommandRefused(
                f"the peer takes no HTLC below {theirs.htlc_minimum} msat, {want.amount_msat} was asked",
                what_to_do="Pay a larger amount.",
            )
        if self._committed.params.holder_is_opener:
            cost = self.opener_cost(1)
            most = commitment_fee_limit(self._committed.params.capacity)
            if cost > to_msat(most):  # the signer would refuse it
                raise CommandRefused(
                    f"with one payment more the commitment would cost {cost // 1000} sat, and {most} is the most"
                    " that we pay for one of this channel",
                    what_to_do="Wait until pending payments settle or fees fall, or use another channel.",
                )
        if self.offered_count >= min(theirs.max_accepted_htlcs, MAX_HTLCS):
            raise Full(
                f"{self.offered_count} payments are pending in this channel and the peer takes no more",
                what_to_do="Wait until some of them settle.",
            )
        if (spendable := self.spendable()) < want.amount_msat:
            raise CommandRefused(
                f"the channel can send {spendable} msat now, {want.amount_msat} was asked"
                " (the reserve and the commitment fee stay behind)",
                what_to_do="Try a smaller amount, or wait until pending payments settle.",
            )

        if self._too_much_dust(want.amount_msat):
            raise Full(
                f"too much is pending in payments too small to be enforced on chain (at most {self._max_dust} sat)",
                what_to_do="Wait until some of them settle, or pay a larger amount.",
            )

    def _trimmed(self, amount_msat: Msat) -> tuple[bool, bool]:
        return dust.trimmed(self._committed.params, self.rate, offered=True, amount_msat=amount_msat)

    def _too_much_dust(self, amount_msat: Msat) -> bool:
        limit = dust.bound(self._max_dust, self.rate, anchors=self._committed.params.anchors)
        pairs = zip(self._trimmed(amount_msat), self._dust, strict=True)
        return any(trimmed and stands + amount_msat > limit for trimmed, stands in pairs)

    def add_offered(self, want: OfferWant) -> None:
        ours, theirs = self._trimmed(want.amount_msat)
        amount = want.amount_msat
        self._dust = (
            Msat(self._dust[0] + (amount if ours else 0)),
            Msat(self._dust[1] + (amount if theirs else 0)),
        )
        self.offered += want.amount_msat
        self.offered_count += 1
