"""The forwards that stand: which offered HTLC passes on which received one (BOLT 2, "Forwarding HTLCs").

A row is written with the content that offers the onward HTLC, and goes when neither HTLC stands in any commitment.
Between, the received HTLC stands in every unrevoked version of its channel: it did when the row was written, and no
version without it is granted while the onward HTLC can be claimed. So when the preimage comes, crediting it raises
the claim of all versions together, as a release does (`policy.balance`).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from protocol.bitcoin.transaction import OutPoint
from protocol.bolt3.commitment import CommitmentContent, Side
from protocol.bolt3.funding import channel_id
from protocol.bus.messages.signer import Forward
from signer import storage as db
from signer.channel import Channel
from signer.channel_state import ChannelState, HtlcKey, key_of
from signer.policy import forwards as rules
from signer.policy.balance import predecessors
from signer.policy.forwards import BURIED, PAID
from signer.storage import Row, Storage


class Onward(Struct, frozen=True):
    """`out` of `out_channel` passes on `incoming` of `in_channel`. `outcome`: "", `PAID` or `BURIED`."""

    out_channel: bytes
    out: HtlcKey
    in_channel: bytes
    incoming: HtlcKey
    outcome: str = ""


class Standing(Struct, frozen=True):
    """The HTLCs of one state: in any version of either side, and received ones that all versions have, by id."""

    state: ChannelState
    offered: frozenset[HtlcKey]
    received: frozenset[HtlcKey]
    firm: dict[int, HtlcKey]


_ROWS = (
    "SELECT out_channel, out_id, out_amount, payment_hash, out_expiry, "
    "in_channel, in_id, in_amount, in_expiry, outcome FROM forward"
)
_NONE: Mapping[HtlcKey, tuple[Onward, ...]] = MappingProxyType({})


def standing_of(state: ChannelState) -> Standing:
    offered: set[HtlcKey] = set()
    received: set[HtlcKey] = set()
    firm: set[HtlcKey] | None = None
    for side, version in state.all_versions():
        of_holder = side is Side.HOLDER
        here: set[HtlcKey] = set()
        for htlc in version.content.htlcs:
            (offered if htlc.offered == of_holder else here).add(key_of(htlc))
        received |= here
        firm = here if firm is None else firm & here
    return Standing(state, frozenset(offered), frozenset(received), {key[0]: key for key in firm or ()})


class Forwards:
    """`write` puts a row among those of the request; `keep` and `forget` follow what becomes of it."""

    def __init__(
        self, storage: Storage, channels: Mapping[bytes, Channel], write: Callable[[str, Row], None]
    ) -> None:
        self._storage = storage
        self._channels = channels
        self._write = write
        self._ids: dict[bytes, Channel] = {}
        self._standing: dict[bytes, Standing] = {}
        self._reload()

    def _reload(self) -> None:
        self._changed = False
        self._by_out: dict[bytes, dict[HtlcKey, Onward]] = {}
        self._by_in: dict[bytes, dict[HtlcKey, tuple[Onward, ...]]] = {}
        for row in self._storage.all(_ROWS):
            out: HtlcKey = (row[1], row[2], row[3], row[4])
            self._set(Onward(row[0], out, row[5], (row[6], row[7], row[3], row[8]), row[9]))

    def keep(self) -> None:
        self._changed = False

    def forget(self) -> None:
        """The request was not granted, so the rows in the database are right and those in memory may not be."""
        if self._changed:
            self._reload()

    def _set(self, onward: Onward) -> None:
        self._by_out.setdefault(onward.out_channel, {})[onward.out] = onward
        of_channel = self._by_in.setdefault(onward.in_channel, {})
        others = tuple(
            other
            for other in of_channel.get(onward.incoming, ())
            if (other.out_channel, other.out) != (onward.out_channel, onward.out)
        )
        of_channel[onward.incoming] = (*others, onward)

    def standing(self, handle: bytes, here: bytes, state: ChannelState) -> Standing:
        """Of any channel. `state` is that of the channel `here`, which the request has changed already."""
        current = state if handle == here else self._channels[handle].state
        if current is None:
            raise ValueError("a channel with HTLCs has a state")
        known = self._standing.get(handle)
        if known is None or known.state is not current:
            known = self._standing[handle] = standing_of(current)
        return known

    def _lives(self, onward: Onward, here: bytes, state: ChannelState) -> bool:
        return not onward.outcome and onward.out in self.standing(onward.out_channel, here, state).offered

    def channel_of(self, wanted: bytes) -> Channel | None:
        found = self._ids.get(wanted)
        if found is None:
            for channel in self._channels.values():
                if channel.params is not None:
                    outpoint: OutPoint = channel.params.funding_outpoint
                    self._ids.setdefault(channel_id(outpoint), channel)
            found = self._ids.get(wanted)
        return found

    def judge(
        self,
        channel: Channel,
        state: ChannelState,
        content: CommitmentContent,
        forwards: tuple[Forward, ...],
        is_own: Callable[[bytes], bool],
    ) -> list[Onward]:
        """The declarations of one content of the peer's commitment: those to note, all others are noted already."""
        here = channel.handle
        offered = {htlc.id: key_of(htlc) for htlc in content.htlcs if not htlc.offered}
        before = {
            key_of(htlc)
            for version in predecessors(state, Side.COUNTERPARTY, content.number)
            if version.content != content
            for htlc in version.content.htlcs
            if not htlc.offered
        }
        fresh: list[Onward] = []
        named: set[int] = set()
        taken: set[tuple[bytes, HtlcKey]] = set()
        for forward in forwards:
            out = offered.get(forward.htlc_id)
            rules.forward_htlc(out is not None and forward.htlc_id not in named, forward.htlc_id)
            assert out is not None  # noqa: S101 - the rule above has refused
            named.add(forward.htlc_id)
            source = self.channel_of(forward.from_channel)
            noted = self._by_out.get(here, {}).get(out)
            if noted is not None:
                asked = (None if source is None else source.handle, forward.from_htlc)
                same = (noted.in_channel, noted.incoming[0]) == asked
                stands = out in self.standing(here, here, state).offered
                # One that left every commitment and comes again is a new offer; but a debt stays a debt.
                rules.forward_changed(same or not (stands or noted.outcome), forward.htlc_id)
                if stands:
                    continue
            rules.forward_htlc(out not in before, forward.htlc_id)
            incoming = None
            if source is not None and source.state is not None:
                standing = self.standing(source.handle, here, state)
                incoming = None if standing.state.frozen else standing.firm.get(forward.from_htlc)
            fits = incoming is not None and incoming[2] == out[2]
            rules.forward_incoming(fits, forward.from_channel, forward.from_htlc)
            assert incoming is not None and source is not None  # noqa: S101, PT018 - the rule above has refused
            rules.forward_terms(out, incoming)
            rules.forward_own(is_own(out[2]))
            earlier = self.passed_on(source.handle).get(incoming, ())
            again = any(other.outcome == PAID or self._lives(other, here, state) for other in earlier)
            rules.forward_twice(again or (source.handle, incoming) in taken, forward.from_htlc)
            taken.add((source.handle, incoming))
            # A hash that the peer showed for another HTLC is bought already: this one can leave at any time.
            outcome = PAID if out[2] in state.learned else ""
            fresh.append(Onward(here, out, source.handle, incoming, outcome))
        return fresh

    def note(self, onwards: list[Onward]) -> None:
        for onward in onwards:
            before = self._by_out.get(onward.out_channel, {}).get(onward.out)
            if before is not None:
                self._drop(before)
            out, incoming = onward.out, onward.incoming
            row = (
                *(onward.out_channel, out[0], out[1], out[2], out[3]),
                *(onward.in_channel, incoming[0], incoming[1], incoming[3], onward.outcome),
            )
            self._write(db.INSERT_FORWARD, row)
            self._changed = True
            self._set(onward)

    def passed_on(self, in_channel: bytes) -> Mapping[HtlcKey, tuple[Onward, ...]]:
        """The received HTLCs of a channel that were passed on."""
        return self._by_in.get(in_channel, _NONE)

    def judge_removals(
        self, handle: bytes, state: ChannelState, side: Side, content: CommitmentContent
    ) -> frozenset[HtlcKey]:
        """`onward-lives`. Answers the received HTLCs that are owed to us, since their onward HTLC was paid."""
        passed_on = self.passed_on(handle)
        if not passed_on:
            return frozenset()
        of_holder = side is Side.HOLDER
        received = {key_of(htlc) for htlc in content.htlcs if htlc.offered != of_holder}
        stood = self.standing(handle, handle, state).received
        paid: set[HtlcKey] = set()
        for incoming, onwards in passed_on.items():
            if any(onward.outcome == PAID for onward in onwards):
                paid.add(incoming)
            elif incoming in stood and incoming not in received and incoming not in state.released:
                # One that stands nowhere any more left by this rule already.
                for onward in onwards:
                    if self._lives(onward, handle, state):
                        raise rules.onward_lives(incoming[0])
        return frozenset(paid)

    def learned(self, handle: bytes, state: ChannelState, payment_hash: bytes) -> None:
        """The next peer showed the preimage: what stands in its channel with this hash is bought, so that which it
        passes on is owed to us. One that was buried and has begun to fail is not: no version could follow."""
        for onward in list(self._by_out.get(handle, {}).values()):
            if onward.out[2] != payment_hash or onward.outcome == PAID:
                continue
            stands = onward.out in self.standing(handle, handle, state).offered
            firm = self.standing(onward.in_channel, handle, state).firm
            if stands and firm.get(onward.incoming[0]) == onward.incoming:
                self._becomes(onward, PAID)

    def bury(self, handle: bytes, state: ChannelState, htlc_id: int) -> None:
        keys = [key for key in self.standing(handle, handle, state).offered if key[0] == htlc_id]
        rules.buried_htlc(bool(keys), htlc_id)
        onwards = [onward for key, onward in self._by_out.get(handle, {}).items() if key in keys]
        paid = any(onward.outcome == PAID for onward in onwards)
        rules.buried_paid(paid or any(key[2] in state.learned for key in keys), htlc_id)
        for onward in onwards:
            if not onward.outcome:
                self._becomes(onward, BURIED)

    def _becomes(self, onward: Onward, outcome: str) -> None:
        out = onward.out
        self._write(db.END_FORWARD, (outcome, onward.out_channel, out[0], out[1], out[2], out[3]))
        self._changed = True
        self._set(replace(onward, outcome=outcome))

    def tidy(self, handle: bytes, state: ChannelState) -> None:
        """Drops the rows of this channel of which neither HTLC stands anywhere any more."""
        onwards = list(self._by_out.get(handle, {}).values())
        onwards += [onward for group in self._by_in.get(handle, {}).values() for onward in group]
        for onward in onwards:
            out_gone = onward.out not in self.standing(onward.out_channel, handle, state).offered
            if out_gone and onward.incoming not in self.standing(onward.in_channel, handle, state).received:
                out = onward.out
                self._write(db.DELETE_FORWARD, (onward.out_channel, out[0], out[1], out[2], out[3]))
                self._changed = True
                self._drop(onward)

    def _drop(self, onward: Onward) -> None:
        outs = self._by_out.get(onward.out_channel, {})
        outs.pop(onward.out, None)
        if not outs:
            self._by_out.pop(onward.out_channel, None)
        ins = self._by_in.get(onward.in_channel, {})
        gone = (onward.out_channel, onward.out)
        rest = tuple(
            other for other in ins.get(onward.incoming, ()) if (other.out_channel, other.out) != gone
        )
        ins.pop(onward.incoming, None)
        if rest:
            ins[onward.incoming] = rest
        if not ins:
            self._by_in.pop(onward.in_channel, None)
