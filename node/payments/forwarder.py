"""HTLCs for somebody else, from one channel of ours to the next (BOLT 2 and BOLT 4, "Forwarding HTLCs").

The rules that all of this serves: *an incoming HTLC goes onward once*, it *is never failed while the onward one may
still be claimed*, and *never fulfilled without the preimage*. The onward HTLC carries the incoming one's name as its
origin, and the channels keep origins for ever; the row here is on disk before the offer can be. So after a crash
the origin tells what became of it, and only an origin that no channel knows may be offered again.
"""

from collections.abc import Awaitable, Callable

import structlog

from node.payments import forward_store as store
from node.payments import forwards
from node.payments.admission import Admission, Held
from node.payments.arrivals import Arrivals
from node.payments.channels import NORMAL, SHUTTING_DOWN, ChannelList, slots, standing_in
from node.payments.forward_log import ForwardLog
from node.payments.forward_store import OpenForward
from node.payments.policies import PolicyBook
from node.payments.replays import Replays
from node.payments.store import Desk, Writer
from protocol.amounts import BlockHeight, Msat
from protocol.bolt4 import failure as failures
from protocol.bolt4.failure import (
    Failure,
    TemporaryChannelFailure,
    TemporaryNodeFailure,
    UnknownNextPeer,
)
from protocol.bolt4.payload import ForwardPayload
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.messages.channel import (
    ChannelInfo,
    FailHtlc,
    FulfilHtlc,
    HtlcFailed,
    HtlcFulfilled,
    HtlcReceived,
    HtlcRefused,
    HtlcResolved,
    OfferHtlc,
    Origins,
    forward_origin,
)
from protocol.bus.messages.forwards import ForwardRow
from protocol.errors import CommandRefused
from protocol.hashes import sha256

log = structlog.get_logger()
REPUTATION_SECONDS = 30 * 86_400
Key = tuple[bytes, int]
"""Channel and id of the incoming HTLC."""


class _Live:
    """One incoming HTLC until it is gone. `offered`: the onward one may be claimed. `decision`: how it ends."""

    __slots__ = (
        "decision",
        "held",
        "htlc",
        "is_gone",
        "is_waiting",
        "key",
        "offered",
        "payload",
        "payment_hash",
        "received",
        "refreshed",
        "row",
        "tried",
    )

    def __init__(self, key: Key, payment_hash: bytes, received: float) -> None:
        self.key = key
        self.payment_hash = payment_hash
        self.received = received
        self.htlc: HtlcReceived | None = None
        self.payload: ForwardPayload | None = None
        self.row: ForwardRow | None = None
        self.offered = False
        self.is_waiting = False
        self.is_gone = False
        """The incoming HTLC ended first."""
        self.refreshed = False
        self.tried: set[bytes] = set()
        self.held: Held | None = None
        self.decision: FulfilHtlc | FailHtlc | None = None


class Forwarder:
    def __init__(
        self,
        desk: Desk,
        writer: Writer,
        channels: ChannelList,
        policies: PolicyBook,
        arrivals: Arrivals,
        *,
        height: Callable[[], BlockHeight],
        clock: Callable[[], float],
        own_update: Callable[[bytes, int], Awaitable[bytes | None]],
        start_task: Callable[[Awaitable[None]], object],
        changed: Callable[[ForwardRow], None],
    ) -> None:
        self._desk = desk
        self._writer = writer
        self._channels = channels
        self._policies = policies
        self._arrivals = arrivals
        self._height = height
        self._clock = clock
        self._own_update = own_update
        self._start_task = start_task
        self._log = ForwardLog(desk, writer, clock=clock, changed=changed)
        self.admission = Admission()
        self._replays = Replays()
        self._live: dict[Key, _Live] = {}
        self._by_origin: dict[str, _Live] = {}
        self._waiting: list[_Live] = []
        self.list_forwards = self._log.list_forwards

    @property
    def fees_collected(self) -> Msat:
        return self._log.fees_collected

    # After a start.

    def origins(self, channels: tuple[ChannelInfo, ...]) -> list[str]:
        """Of all forwards that may not be over: what `load` has to be told of."""
        open_rows = {(one.row.in_channel, one.row.in_htlc) for one in store.read_open(self._writer)}
        return [forward_origin(*key) for key in sorted(open_rows | standing_in(channels))]

    def load(self, channels: tuple[ChannelInfo, ...], origins: Origins) -> None:
        """What became of each forward that we do not know to be over."""
        for onion_key, channel, htlc, expiry in store.read_keys(self._writer, self._height()):
            self._replays.add(onion_key, (channel, htlc), expiry)
        peers = {channel.channel_id: channel.peer for channel in channels}
        since = self._clock() - REPUTATION_SECONDS
        earned = store.read_earned_by_channel(self._writer, since)
        self.admission.remember((peers[c], fees, at) for c, fees, at in earned if c in peers)

        standing = standing_in(channels)
        rows = {(one.row.in_channel, one.row.in_htlc): one for one in store.read_open(self._writer)}
        for key in standing - rows.keys():
            if (one := store.read_one(self._writer, *key)) is not None:
                rows[key] = one
        known = {found[0]: found for found in origins.origins}
        told = dict(origins.attributions)
        for key, one in rows.items():
            self._arrivals.was_at(key, one.row.received)
            origin = forward_origin(*key)
            self._reconcile(one, known.get(origin), told.get(origin), peers=peers, stands=key in standing)

    def _reconcile(
        self,
        one: OpenForward,
        found: tuple[str, str, bytes | None, bytes | None, int | None] | None,
        attribution: bytes | None,
        *,
        peers: dict[bytes, bytes],
        stands: bool,
    ) -> None:
        row = one.row
        live = _Live((row.in_channel, row.in_htlc), row.payment_hash, row.received)
        live.row = row
        if found is None:
            # No channel ever had it: nothing can be claimed. Its HTLC is judged anew when it is said again.
            if row.status == "offered" and not stands:
                self._note_end(live, "failed", None, None, "the node stopped before it was passed on")
            return
        origin, state, preimage, reason, code = found
        log.info("forward_reconciled", origin=origin, found=state)
        if state == "fulfilled" and preimage is not None:
            self._settle(live, preimage, None, attribution)
        elif state == "failed":
            self._give_back(live, reason or b"", code, None, attribution, say=False)
        else:
            live.offered = True
            self._by_origin[origin] = live
            self._live[live.key] = live
            self._hold_again(live, one.in_expiry, peers)
            return
        if stands:
            self._live[live.key] = live

    def _hold_again(self, live: _Live, in_expiry: int, peers: dict[bytes, bytes]) -> None:
        row = live.row
        if row is not None and row.in_channel in peers and row.out_channel is not None:
            live.held = self.admission.hold(
                peers[row.in_channel],
                row.out_channel,
                amount=row.out_msat or Msat(0),
                fee=row.fee_msat or 0,
                blocks=in_expiry - self._height(),
            )

    # One HTLC.

    def received(self, htlc: HtlcReceived) -> None:
        """Said again after every start. What was decided is said again and never reconsidered."""
        key = (htlc.channel_id, htlc.htlc_id)
        live = self._live.get(key)
        if live is None:
            live = self._live[key] = _Live(key, htlc.payment_hash, self._clock())
        live.htlc = htlc
        if live.decision is not None:
            self._desk.tell("channel", live.decision)
        elif not live.offered and not live.is_waiting:
            self._judge(live, htlc)

    def _judge(self, live: _Live, htlc: HtlcReceived) -> None:
        payload = forwards.read_forward(htlc)
        if not isinstance(payload, ForwardPayload):
            self._refuse(live, htlc, payload)
            return
        live.payload = payload
        if htlc.next_onion is None:
            self._refuse(live, htlc, UnknownNextPeer())
        elif self._replays.is_replay(htlc.onion_key, live.key):
            # BOLT 4, "Onion Decryption": an onion that came before is somebody probing. He learns nothing by it.
            log.warning("onion_replayed", channel=htlc.channel_id.hex(), htlc=htlc.htlc_id)
            self._refuse(live, htlc, TemporaryChannelFailure())
        elif self._channels.book.outdated:
            self._wait(live)
        else:
            self._consider(live, htlc, payload)

    def _wait(self, live: _Live) -> None:
        """For a new list of channels; all that come meanwhile share it."""
        live.is_waiting = True
        self._waiting.append(live)
        if len(self._waiting) == 1:
            self._start_task(self._refresh())

    async def _refresh(self) -> None:
        failed = False
        try:
            await self._channels.refresh()
        except (CommandRefused, OutcomeUnknown) as error:
            log.warning("channels_not_listed", reason=str(error))
            failed = True
        waiting, self._waiting = self._waiting, []
        for live in waiting:
            live.is_waiting = False
            if self._live.get(live.key) is not live or live.htlc is None or live.payload is None:
                continue  # gone meanwhile
            if failed:
                self._refuse(live, live.htlc, TemporaryNodeFailure())
            else:
                self._consider(live, live.htlc, live.payload)

    def _consider(self, live: _Live, htlc: HtlcReceived, payload: ForwardPayload) -> None:
        book = self._channels.book
        incoming, named = book.get(htlc.channel_id), book.named(payload.short_channel_id)
        if named is None:
            self._refuse(live, htlc, UnknownNextPeer())
            return
        if incoming is None or incoming.state not in (NORMAL, SHUTTING_DOWN):
            # A channel on its way to the chain: what we would pay onward could not be got back in peace.
            self._refuse(live, htlc, TemporaryChannelFailure())
            return
        failure = forwards.judge(htlc, payload, self._policies.valid(named), height=self._height())
        if failure is not None:
            self._refuse_with_update(live, htlc, failure, named)
            return
        out = self._choose(live, named, payload.amt_to_forward)
        if out is None:
            if not live.refreshed and book.has_usable(named.peer):
                live.refreshed = True  # what settled since the last list may have made room
                self._wait(live)
            else:
                self._refuse_with_update(live, htlc, TemporaryChannelFailure(), named)
            return
        fee = htlc.amount_msat - payload.amt_to_forward
        held = self.admission.admit(
            incoming.peer,
            out.channel_id,
            amount=payload.amt_to_forward,
            fee=fee,
            blocks=htlc.cltv_expiry - self._height(),
            slots=slots(out),
            value=out.max_in_flight_msat,
            now=self._clock(),
        )
        if held is None:
            log.info("forward_not_admitted", peer=incoming.peer.hex(), out=out.channel_id.hex())
            self._refuse_with_update(live, htlc, TemporaryChannelFailure(), named)
            return
        live.held = held
        self._offer(live, htlc, payload, out, fee)

    def _choose(self, live: _Live, named: ChannelInfo, amount: Msat) -> ChannelInfo | None:
        """The channel that the onion names, or any other to the same peer (BOLT 4, "Non-strict Forwarding")."""
        book = self._channels.book
        but = live.tried | {live.key[0]}
        if named.channel_id not in but and book.can_carry(named, amount):
            return named
        return book.choose(named.peer, amount, but=but)

    def _offer(
        self, live: _Live, htlc: HtlcReceived, payload: ForwardPayload, out: ChannelInfo, fee: int
    ) -> None:
        origin = forward_origin(*live.key)
        amount = payload.amt_to_forward
        live.offered = True
        live.tried.add(out.channel_id)
        live.row = self._log.offered(htlc, payload, live.received, out.channel_id, fee)
        self._by_origin[origin] = live
        self._channels.book.offered(out.channel_id, amount)
        self._replays.add(htlc.onion_key, live.key, htlc.cltv_expiry)
        onion = htlc.next_onion or b""
        self._desk.tell(
            "channel",
            OfferHtlc(out.channel_id, amount, htlc.payment_hash, payload.outgoing_cltv_value, onion, origin),
        )

    # What became of the onward HTLC.

    def refused(self, event: HtlcRefused) -> None:
        """It was never offered, so nothing can be claimed: another channel to the same peer may carry it."""
        live = self._by_origin.pop(event.origin, None)
        if live is None:
            return
        live.offered = False
        self._let_go(live, paid=False)
        self._channels.book.outdated = True
        if live.row is not None and live.row.out_channel is not None:
            self._channels.book.came_back(live.row.out_channel, live.row.out_msat or Msat(0))
        if live.is_gone:  # nobody would pay us for what we pay onward
            self._note_end(live, "failed", None, None, "the incoming HTLC was gone first")
            self._forget_if_gone(live)
        elif live.htlc is not None and live.payload is not None:
            live.refreshed = True  # the channel itself has spoken
            self._consider(live, live.htlc, live.payload)
        elif live.htlc is not None:  # else it is judged when it is said again
            self._judge(live, live.htlc)

    def fulfilled(self, event: HtlcFulfilled) -> None:
        live = self._by_origin.get(event.origin)
        if live is None:
            return  # said again: we know
        if sha256(event.preimage) != live.payment_hash:
            log.error("preimage_does_not_fit", origin=event.origin)
            return
        del self._by_origin[event.origin]
        self._settle(live, event.preimage, event.htlc_id, event.attribution)

    def failed(self, event: HtlcFailed) -> None:
        live = self._by_origin.pop(event.origin, None)
        if live is None:
            return
        if live.row is not None and live.row.out_channel is not None:
            self._channels.book.came_back(live.row.out_channel, live.row.out_msat or Msat(0))
        self._give_back(live, event.reason, event.malformed_code, event.htlc_id, event.attribution)

    def _settle(self, live: _Live, preimage: bytes, out_htlc: int | None, attribution: bytes | None) -> None:
        live.offered = False
        held = self._arrivals.held(live.key)
        live.decision = FulfilHtlc(*live.key, preimage, hold_time=held, attribution=attribution)
        self._desk.tell("channel", live.decision)
        self._let_go(live, paid=True)
        self._forget_if_gone(live)
        self._note_end(live, "settled", out_htlc, None, None)

    def _give_back(
        self,
        live: _Live,
        reason: bytes,
        malformed_code: int | None,
        out_htlc: int | None,
        attribution: bytes | None,
        *,
        say: bool = True,
    ) -> None:
        live.offered = False
        held = self._arrivals.held(live.key)
        live.decision = forwards.failure_upstream(live.key, reason, malformed_code, held, attribution)
        if say:
            self._desk.tell("channel", live.decision)
        self._let_go(live, paid=False)
        self._note_end(live, "failed", out_htlc, malformed_code, "the next hops failed it")
        self._forget_if_gone(live)

    def resolved(self, event: HtlcResolved) -> bool:
        """The incoming HTLC is gone. Whether it was one of these."""
        key = (event.channel_id, event.htlc_id)
        live = self._live.get(key)
        if live is None:
            return False
        if live.offered:
            live.is_gone = True
            # Only the chain does that, when the channel or we were away for too long. The onward HTLC may be claimed.
            log.error("incoming_htlc_gone_first", channel=key[0].hex(), htlc=key[1])
            return True
        if isinstance(live.decision, FulfilHtlc) and not event.fulfilled:
            log.error("forward_not_credited", channel=key[0].hex(), htlc=key[1])
        del self._live[key]
        return True

    def _forget_if_gone(self, live: _Live) -> None:
        if live.is_gone:
            self._live.pop(live.key, None)

    def new_block(self) -> None:
        self._replays.forget(self._height())

    # Refusing.

    def _refuse_with_update(
        self, live: _Live, htlc: HtlcReceived, failure: Failure, named: ChannelInfo
    ) -> None:
        if forwards.takes_update(failure):
            live.is_waiting = True
            self._start_task(self._ask_update(live, htlc, failure, named))
        else:
            self._refuse(live, htlc, failure)

    async def _ask_update(
        self, live: _Live, htlc: HtlcReceived, failure: Failure, named: ChannelInfo
    ) -> None:
        # LND reads none of these failures without an update, and blames us then.
        asked = 0 if live.payload is None else live.payload.short_channel_id
        raw = await self._own_update(named.channel_id, asked)
        live.is_waiting = False
        if self._live.get(live.key) is live and live.decision is None and live.payload is not None:
            if raw is not None:
                failure = forwards.with_update(failure, raw, live.payload.short_channel_id)
            self._refuse(live, htlc, failure)

    def _refuse(self, live: _Live, htlc: HtlcReceived, failure: Failure) -> None:
        log.info("forward_refused", payment_hash=htlc.payment_hash.hex(), reason=failure.name)
        held = self._arrivals.held(live.key)
        live.decision = FailHtlc(*live.key, failures.encode(failure), hold_time=held)
        self._desk.tell("channel", live.decision)
        self._replays.add(htlc.onion_key, live.key, htlc.cltv_expiry)
        live.row = self._log.refused(htlc, live.payload, live.received, failure)

    def _note_end(
        self, live: _Live, status: str, out_htlc: int | None, code: int | None, reason: str | None
    ) -> None:
        if live.row is not None and live.row.status != status:
            live.row = self._log.ended(live.row, status, out_htlc, code, reason)

    def _let_go(self, live: _Live, *, paid: bool) -> None:
        if live.held is not None:
            now = self._clock()
            self.admission.release(live.held, paid=paid, seconds=now - live.received, now=now)
            live.held = None
