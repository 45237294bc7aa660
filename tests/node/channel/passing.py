"""Three nodes in a row and the HTLCs that pass through the middle one: what the rule machine of forwards drives.

The middle node is one process: two channels, one signer, one queue of saves. Its forwarder keeps nothing. What it must
know after a crash stands in the channels: an HTLC that came in is said again, and an origin is known for ever.
"""

import os
from pathlib import Path

from node.channel.events import Event, Fail, Fulfil, Offer
from node.channel.state import OfferWant
from protocol.amounts import BlockHeight, Msat, scid
from protocol.bolt4 import failure as failures
from protocol.bolt4 import payload as payloads
from protocol.bolt4 import sphinx
from protocol.bolt4.payload import FinalPayload, ForwardPayload, encode_final, encode_forward
from protocol.bus.messages import channel as said
from protocol.bus.messages import signer as sign
from tests.node.channel.pair import End, Pair, new_signer
from tests.node.channel.saved import Database

IN_EXPIRY, OUT_EXPIRY = 260, 200
NEXT = scid(200, 1, 0)
"""The name of whatever channel leads on; here there is only one."""


class OneQueue(Database):
    """Half of a database that a process shares: what one channel commits, it commits for the other too."""

    partner: "OneQueue | None" = None

    def write(self, unit: list[tuple[str, object]], *, now: bool) -> None:  # type: ignore[override]
        super().write(unit, now=now)  # type: ignore[arg-type]
        if now and self.partner is not None:
            self.partner.flush()

    def flush(self) -> None:
        if self.db.in_transaction:
            self.db.execute("COMMIT")
        self.waiting = []


class Half(End):
    """One channel of the middle node. A `NOW` save makes the other channel's waiting saves durable too."""

    twin: "Half | None" = None

    def answer(self, *, not_now: bool = False) -> bool:
        """As the shell does: what the signer refused to the other channel is asked again after a revocation here."""
        asked = list(self.asks)
        moved = super().answer(not_now=not_now)
        told = any(isinstance(op, sign.AcceptRevocation) for ask in asked[:1] for op in ask.operations)
        if told and not not_now and self.twin is not None and self.twin.state.volatile.stalled:
            self.twin.signer_is_back()
        return moved

    def do(self, *events: Event) -> None:
        saves = self.saves
        super().do(*events)
        if self.saves > saves and self.twin is not None:
            self.twin.durable = self.twin.saved


class Row:
    """Alice – Bob – Carol. `ends` in this order: Alice's, Bob's towards her, Bob's towards Carol, Carol's."""

    held = 3
    """What Bob says of each HTLC that he passes back, in units of 100 ms."""

    def __init__(self, folder: Path) -> None:
        signers = {name: new_signer(folder / name) for name in ("alice", "bob", "carol")}
        self.alice = End("alice", signers["alice"], folder / "alice")
        self.left = Half("bob, left", signers["bob"], folder / "bob")
        self.right = Half("bob, right", signers["bob"], folder / "bob")
        self.carol = End("carol", signers["carol"], folder / "carol")
        self.left.twin, self.right.twin = self.right, self.left
        self.left.database, self.right.database = OneQueue(), OneQueue()
        self.left.database.partner, self.right.database.partner = self.right.database, self.left.database
        self._one_session()
        self.pairs = (Pair.of(self.alice, self.left), Pair.of(self.right, self.carol))
        self._heard = {id(end): [0, 0, 0, 0] for end in self.middle}

    def _one_session(self) -> None:
        """The middle node has one line to its signer."""
        self.right.hello()
        self.left.session, self.left.node_id = self.right.session, self.right.node_id

    @property
    def middle(self) -> tuple[Half, Half]:
        return self.left, self.right

    @property
    def ends(self) -> tuple[End, End, End, End]:
        return self.alice, self.left, self.right, self.carol

    def pair_of(self, end: End) -> Pair:
        return self.pairs[0] if end in self.pairs[0].ends else self.pairs[1]

    def kill(self, end: End, *, lose_next: bool) -> None:
        """A process dies; in the middle both channels die with it."""
        dying = self.middle if end in self.middle else (end,)
        for one in dying:
            self.pair_of(one).disconnect()
        for one in dying:
            one.crash(lose_next=lose_next)
        if end in self.middle:
            self._one_session()
        self.forward()

    # The forwarder.

    def forward(self) -> None:
        """Until nothing new was heard by the middle node."""
        while not any(half.died for half in self.middle):
            moved = [self._came_in(half) | self._came_back(half) for half in self.middle]
            if not any(moved):
                return

    def _new(self, half: Half, kind: int, heard: list[object]) -> list[object]:
        seen = self._heard[id(half)]
        fresh = heard[seen[kind] :]
        seen[kind] = len(heard)
        return fresh

    def _came_in(self, half: Half) -> bool:
        fresh = [e for e in self._new(half, 0, half.said.received) if not e.final]  # type: ignore[arg-type, attr-defined]
        other = half.twin
        assert other is not None
        for received in fresh:
            assert isinstance(received, said.HtlcReceived)
            origin = said.forward_origin(received.channel_id, received.htlc_id)
            known = other.database.read(
                "SELECT preimage, failure, failure_code, done, attribution FROM htlcs WHERE origin = ?",
                (origin,),
            )
            live = [row for row in other.state.htlcs.values() if row.origin == origin]  # type: ignore[union-attr]
            if known or live:
                self._reconcile(half, received.htlc_id, known)
                continue
            hop = payloads.decode_forward(received.payload)
            want = OfferWant(
                hop.amt_to_forward,
                received.payment_hash,
                hop.outgoing_cltv_value,
                received.next_onion or b"",
                origin,
            )
            other.do(Offer(want))
        return bool(fresh)

    def _reconcile(self, half: Half, htlc_id: int, known: list[tuple[object, ...]]) -> None:
        for preimage, failure, code, done, told in known:
            if preimage is not None:
                half.do(self._fulfilled(htlc_id, preimage, told))  # type: ignore[arg-type]
            elif done:
                half.do(self._failed(htlc_id, failure, code, told))  # type: ignore[arg-type]

    def _fulfilled(self, htlc_id: int, preimage: bytes, told: bytes | None) -> Fulfil:
        return Fulfil(htlc_id, preimage, hold_time=self.held, attribution=told)

    def _failed(self, htlc_id: int, reason: bytes | None, code: int | None, told: bytes | None) -> Fail:
        if reason is None or code is not None:
            ours = failures.encode(failures.TemporaryChannelFailure())
            return Fail(htlc_id, ours, hold_time=self.held)
        return Fail(htlc_id, reason, from_next=True, hold_time=self.held, attribution=told)

    def _came_back(self, half: Half) -> bool:
        """`half`: where the HTLC was offered; it is resolved in the other channel."""
        back = half.twin
        assert back is not None
        fresh = [
            *self._new(half, 1, half.said.fulfilled),  # type: ignore[arg-type]
            *self._new(half, 2, half.said.failed),  # type: ignore[arg-type]
            *self._new(half, 3, half.said.refused),  # type: ignore[arg-type]
        ]
        for event in fresh:
            found = said.parse_forward_origin(event.origin)  # type: ignore[attr-defined]
            if found is None:
                continue
            match event:
                case said.HtlcFulfilled():
                    back.do(self._fulfilled(found[1], event.preimage, event.attribution))
                case said.HtlcFailed():
                    failed = self._failed(found[1], event.reason, event.malformed_code, event.attribution)
                    back.do(failed)
                case said.HtlcRefused():
                    back.do(Fail(found[1], failures.encode(failures.TemporaryChannelFailure())))
        return bool(fresh)


def onion_over(
    middle: End, payee: End, made: sign.InvoiceMade, *, onward: int, readable: bool = True
) -> sphinx.Onion:
    """For the middle node to pass `onward` msat on. Not `readable`: the payee finds an onion that it cannot open."""
    hop = encode_forward(ForwardPayload(NEXT, Msat(onward), BlockHeight(OUT_EXPIRY)))
    last = encode_final(
        FinalPayload(Msat(onward), BlockHeight(OUT_EXPIRY), made.payment_secret, Msat(onward))
    )
    key = payee.node_id if readable else middle.node_id
    return sphinx.build(os.urandom(32), [(middle.node_id, hop), (key, last)], made.payment_hash)
