"""Who may hold how much of an outgoing channel, so that nobody can jam it ("Channel jamming", "Local reputation").

A stuck HTLC costs its sender nothing and us a slot. So half of each channel's slots and a fifth of its value are
*protected*: only HTLCs from peers with a reputation enter there. A peer's reputation is what it earned us, less
what it held up: an HTLC that ends within `GOOD_SECONDS` earns its fee if it is paid; for each further such span it
held our money it loses a fee. It must outweigh what its HTLCs under way could cost us at worst: that they stay until
they expire.
The general part is shared, and no single peer may take more than three quarters of it; but the only HTLC of a peer
may be of any size, since otherwise large payments would find every channel half as large as it is.

Pure: times arrive as arguments. Nothing of it is durable but the forwards themselves, from which it begins again.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

from protocol.amounts import Msat

GOOD_SECONDS = 90.0
BLOCK_SECONDS = 600
HALF_LIFE_SECONDS = 14 * 86_400.0
GENERAL_SLOTS = 0.5
GENERAL_VALUE = 0.8
ONE_PEER_SHARE = 0.75


class Held(NamedTuple):
    """What one forward holds. `risk`: what it costs if it stays until it expires."""

    peer: bytes
    out_channel: bytes
    amount: int
    fee: int
    risk: int
    protected: bool


class _Use:
    __slots__ = ("by_peer", "msat", "slots")

    def __init__(self) -> None:
        self.slots = 0
        self.msat = 0
        self.by_peer: dict[bytes, tuple[int, int]] = {}


class Admission:
    def __init__(self) -> None:
        self._general: dict[bytes, _Use] = {}
        self._protected: dict[bytes, _Use] = {}
        self._risk: dict[bytes, int] = {}
        self._reputation: dict[bytes, tuple[float, float]] = {}
        """Per incoming peer: msat, and the second at which it had so much."""

    def remember(self, earned: Iterable[tuple[bytes, int, float]]) -> None:
        """(peer, fee, when) of forwards that earned something before this run; `when` on the clock of `reputation`."""
        for peer, fee, when in earned:
            self._change(peer, fee, when)

    def reputation(self, peer: bytes, now: float) -> float:
        amount, at = self._reputation.get(peer, (0.0, now))
        return amount * math.exp2(-max(0.0, now - at) / HALF_LIFE_SECONDS)

    def admit(
        self,
        peer: bytes,
        out_channel: bytes,
        *,
        amount: Msat,
        fee: int,
        blocks: int,
        slots: int,
        value: Msat,
        now: float,
    ) -> Held | None:
        """What it takes, to be given back by `release`; None when there is no room for this peer.

        `slots` and `value` are those of the outgoing channel; `blocks`: until the HTLC expires.
        """
        risk = fee * max(1, round(blocks * BLOCK_SECONDS / GOOD_SECONDS))
        general = self._general.setdefault(out_channel, _Use())
        if _has_room(general, peer, amount, slots * GENERAL_SLOTS, value):
            return self._take(general, Held(peer, out_channel, amount, fee, risk, False))
        protected = self._protected.setdefault(out_channel, _Use())
        in_slots = protected.slots < slots * (1 - GENERAL_SLOTS)
        room = in_slots and general.msat + protected.msat + amount <= value
        trusted = self.reputation(peer, now) >= self._risk.get(peer, 0) + risk
        if room and trusted:
            return self._take(protected, Held(peer, out_channel, amount, fee, risk, True))
        return None

    def hold(
        self, peer: bytes, out_channel: bytes, *, amount: Msat, fee: int, blocks: int, protected: bool = False
    ) -> Held:
        """Of a forward that is under way already, after a start: there is nothing to admit any more."""
        use = (self._protected if protected else self._general).setdefault(out_channel, _Use())
        risk = fee * max(1, round(blocks * BLOCK_SECONDS / GOOD_SECONDS))
        return self._take(use, Held(peer, out_channel, amount, fee, risk, protected))

    def release(self, held: Held, *, paid: bool, seconds: float, now: float) -> None:
        peer, out_channel, amount, fee, risk, is_protected = held
        use = (self._protected if is_protected else self._general)[out_channel]
        use.slots -= 1
        use.msat -= amount
        slots, msat = use.by_peer[peer]
        use.by_peer[peer] = (slots - 1, msat - amount)
        self._risk[peer] -= risk
        late = max(0, math.ceil(seconds / GOOD_SECONDS) - 1)
        if paid or late:
            self._change(peer, (fee if paid else 0) - late * fee, now)

    def _take(self, use: _Use, held: Held) -> Held:
        peer, _, amount, _, risk, _ = held
        use.slots += 1
        use.msat += amount
        slots, msat = use.by_peer.get(peer, (0, 0))
        use.by_peer[peer] = (slots + 1, msat + amount)
        self._risk[peer] = self._risk.get(peer, 0) + risk
        return held

    def _change(self, peer: bytes, amount: float, now: float) -> None:
        self._reputation[peer] = (self.reputation(peer, now) + amount, now)


def _has_room(use: _Use, peer: bytes, amount: int, slots: float, value: float) -> bool:
    own_slots, own_msat = use.by_peer.get(peer, (0, 0))
    if own_slots == 0 and use.slots < slots:
        return use.msat + amount <= value
    shared = value * GENERAL_VALUE
    return (
        use.slots < slots
        and use.msat + amount <= shared
        and own_slots < slots * ONE_PEER_SHARE
        and own_msat + amount <= shared * ONE_PEER_SHARE
    )
