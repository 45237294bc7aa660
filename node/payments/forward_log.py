"""The rows of forwards: what is saved of each and told to people (issue 5, "forwarding events with earnings")."""

from collections.abc import Callable

from msgspec.structs import replace

from node.payments import forward_store as store
from node.payments.store import END_FORWARD, PUT_FORWARD, Desk, Writer
from protocol.amounts import Msat
from protocol.bolt4.failure import Failure
from protocol.bolt4.payload import ForwardPayload
from protocol.bus.messages.channel import HtlcReceived
from protocol.bus.messages.forwards import ForwardRow, Forwards, ListForwards


class ForwardLog:
    """`changed` hears of an offer at once, and of an end when it is on disk. Made before anything is settled."""

    def __init__(
        self,
        desk: Desk,
        writer: Writer,
        *,
        clock: Callable[[], float],
        changed: Callable[[ForwardRow], None],
    ) -> None:
        self._desk = desk
        self._writer = writer
        self._clock = clock
        self._changed = changed
        self._settling: dict[tuple[bytes, int], ForwardRow] = {}
        """Rows whose last write is still on its way to the disk."""
        self.fees_collected = store.read_fees_collected(writer)
        """Since the node began, of what is on disk. Whoever watches the node asks again and again."""

    def offered(
        self, htlc: HtlcReceived, payload: ForwardPayload, received: float, out_channel: bytes, fee: int
    ) -> ForwardRow:
        row = ForwardRow(
            in_channel=htlc.channel_id,
            in_htlc=htlc.htlc_id,
            in_msat=htlc.amount_msat,
            payment_hash=htlc.payment_hash,
            status="offered",
            received=received,
            out_channel=out_channel,
            out_scid=payload.short_channel_id,
            out_msat=payload.amt_to_forward,
            fee_msat=Msat(fee),
        )
        self._put(row, htlc)
        self._changed(row)
        return row

    def refused(
        self, htlc: HtlcReceived, payload: ForwardPayload | None, received: float, failure: Failure
    ) -> ForwardRow:
        row = ForwardRow(
            in_channel=htlc.channel_id,
            in_htlc=htlc.htlc_id,
            in_msat=htlc.amount_msat,
            payment_hash=htlc.payment_hash,
            status="local_failed",
            received=received,
            out_scid=None if payload is None else payload.short_channel_id,
            out_msat=None if payload is None else payload.amt_to_forward,
            resolved=self._clock(),
            failure_code=failure.code,
            reason=failure.name,
        )
        self._put(row, htlc)
        self._told_when_saved(row)
        return row

    def ended(
        self, row: ForwardRow, status: str, out_htlc: int | None, code: int | None, reason: str | None
    ) -> ForwardRow:
        out_htlc = row.out_htlc if out_htlc is None else out_htlc
        resolved = self._clock()
        ended = replace(
            row, status=status, out_htlc=out_htlc, resolved=resolved, failure_code=code, reason=reason
        )
        values = (status, out_htlc, resolved, code, reason, row.in_channel, row.in_htlc)
        self._desk.save(END_FORWARD, values)
        self._told_when_saved(ended)
        return ended

    def list_forwards(self, request: ListForwards) -> Forwards:
        """As saved, and what this run knows better."""
        rows = store.read_forwards(
            self._writer,
            in_channel=request.in_channel,
            out_channel=request.out_channel,
            # What is being settled is "offered" on disk still, so the status is looked at below.
            status="local_failed" if request.status == "local_failed" else None,
            newest=request.newest,
        )
        fresh = [self._settling.get((row.in_channel, row.in_htlc), row) for row in rows]
        return Forwards(tuple(row for row in fresh if request.status in (None, row.status)))

    def _put(self, row: ForwardRow, htlc: HtlcReceived) -> None:
        values = (
            row.in_channel,
            row.in_htlc,
            row.in_msat,
            htlc.cltv_expiry,
            row.payment_hash,
            htlc.onion_key or None,
            row.out_channel,
            None if row.out_scid is None else store.signed(row.out_scid),
            row.out_htlc,
            row.out_msat,
            row.fee_msat,
            row.status,
            row.received,
            row.resolved,
            row.failure_code,
            row.reason,
        )
        self._desk.save(PUT_FORWARD, values)

    def _told_when_saved(self, row: ForwardRow) -> None:
        key = (row.in_channel, row.in_htlc)
        self._settling[key] = row

        def told() -> None:
            if self._settling.get(key) is row:
                del self._settling[key]
            if row.status == "settled":
                self.fees_collected = Msat(self.fees_collected + (row.fee_msat or 0))
            self._changed(row)

        self._desk.when_saved(told)
