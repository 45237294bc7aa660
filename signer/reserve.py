"""The fee reserve: which coins there are, and what they must pay for (DESIGN, "The fee reserve").

The node says which coins of branch 3 are confirmed and unspent; their amounts and scripts it proves. A coin that was
proven stays known for good, so that a fee bump can name it again, but it counts only while it is listed.

What must be covered counts living channels with anchors from their first validated commitment on. A frozen channel
needs no cover any more: it is spending now, and what it spends leaves the reserve.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from msgspec import Struct
from msgspec.structs import replace

from protocol import reserve as numbers
from protocol.amounts import Sat
from protocol.bitcoin.transaction import OutPoint, Transaction
from protocol.bolt3.commitment import CommitmentContent, Side
from protocol.bus.messages.signer import NoteReserve, ReserveCoin, ReserveStatus, WalletCoin
from protocol.bus.messages.signer_reserve import MAX_RESERVE_COINS
from protocol.errors import MalformedMessage
from signer import storage as db
from signer.channel import Channel
from signer.channel_state import ChannelState, key_of
from signer.keys import RESERVE, NodeKeys
from signer.policy import reserve as rules
from signer.policy.balance import predecessors
from signer.policy.reserve import ENFORCE
from signer.storage import Row, Storage

UNLISTED, PRESENT, AWAY = 0, 1, 2
"""Of a proven coin: not in the newest list; in it; in it, and signed away since it came into it."""
_log = logging.getLogger("signer")


class _Coin(Struct, frozen=True):
    value: int
    position: int
    standing: int


def slots_of(content: CommitmentContent) -> int:
    return sum(1 for htlc in content.htlcs if numbers.takes_slot(htlc.amount_msat))


class Reserve:
    def __init__(
        self,
        storage: Storage,
        channels: Mapping[bytes, Channel],
        keys: NodeKeys,
        write: Callable[[str, Row], None],
        mode: str,
    ) -> None:
        self._storage = storage
        self._channels = channels
        self._keys = keys
        self._write = write
        self._mode = mode
        self._short = False
        self._slots: dict[bytes, tuple[ChannelState, int]] = {}
        self._reload()

    def _reload(self) -> None:
        self._changed = False
        rows = self._storage.all("SELECT outpoint, value, position, standing FROM reserve")
        self._coins = {bytes(row[0]): _Coin(row[1], row[2], row[3]) for row in rows}
        self._count()

    def _count(self) -> None:
        self.present = Sat(sum(coin.value for coin in self._coins.values() if coin.standing == PRESENT))

    def keep(self) -> None:
        self._changed = False

    def forget(self) -> None:
        if self._changed:
            self._reload()

    # Coins.

    def note(self, request: NoteReserve) -> None:
        rules.reserve_size(len(request.coins), MAX_RESERVE_COINS)
        listed: dict[bytes, _Coin] = {}
        for index, coin in enumerate(request.coins):
            outpoint, value = self._proven(coin, index)
            rules.reserve_coin(outpoint not in listed, index)
            known = self._coins.get(outpoint)
            standing = AWAY if known is not None and known.standing == AWAY else PRESENT
            listed[outpoint] = _Coin(value, coin.position, standing)
        for outpoint, noted in self._coins.items():
            if outpoint not in listed and noted.standing != UNLISTED:
                listed[outpoint] = replace(noted, standing=UNLISTED)
        for outpoint, noted in listed.items():
            self._set(outpoint, noted)
        self._count()

    def _proven(self, coin: ReserveCoin, index: int) -> tuple[bytes, int]:
        try:
            previous = Transaction.parse(coin.previous)
        except MalformedMessage:
            previous = Transaction(2, (), ())
        possible = 0 <= coin.index < len(previous.outputs) and 0 <= coin.position < 1 << 31
        rules.reserve_coin(possible, index)
        output = previous.outputs[coin.index]
        rules.reserve_coin(output.script_pubkey == self._keys.wallet_script(RESERVE, coin.position), index)
        return OutPoint(previous.txid, coin.index).serialize(), output.value

    def _set(self, outpoint: bytes, coin: _Coin) -> None:
        if self._coins.get(outpoint) != coin:
            self._write(db.SET_RESERVE, (outpoint, coin.value, coin.position, coin.standing))
            self._changed = True
            self._coins[outpoint] = coin

    def spend(self, coins: Iterable[WalletCoin]) -> None:
        """`reserve-coin`: coins of branch 3 among these are known, and leave the reserve."""
        for coin in coins:
            if coin.branch == RESERVE:
                outpoint = OutPoint(coin.txid, coin.index)
                known = self._coins.get(outpoint.serialize())
                rules.reserve_known(
                    known is not None and (known.value, known.position) == (coin.value, coin.position)
                )
                self._leaves(outpoint.serialize())
        self._count()

    def _leaves(self, outpoint: bytes) -> None:
        known = self._coins.get(outpoint)
        if known is not None and known.standing == PRESENT:
            self._set(outpoint, replace(known, standing=AWAY))

    def give_back(self, spent: Sequence[OutPoint], returned: int) -> None:
        """A wallet transaction moves these coins away, and `returned` of them to branch 3 again."""
        keys = [outpoint.serialize() for outpoint in spent]
        taken = [self._coins[key].value for key in keys if key in self._coins]
        counted = [
            self._coins[key].value
            for key in keys
            if key in self._coins and self._coins[key].standing == PRESENT
        ]
        if counted:
            back = max(0, returned - (sum(taken) - sum(counted)))
            self._covered(self._needed(), Sat(self.present - sum(counted) + back), "what lives, after it")
        for key in keys:
            self._leaves(key)
        self._count()

    # What they must pay for.

    def status(self) -> ReserveStatus:
        channels, slots = self._tally(None)
        return ReserveStatus(
            self._mode,
            numbers.needed(channels, slots),
            self.present,
            channels,
            slots,
            numbers.RESERVE_FEERATE,
        )

    def _tally(self, but: bytes | None) -> tuple[int, int]:
        """Living channels with anchors, and the slots that their HTLCs take; without those of one channel."""
        channels = slots = 0
        for handle, channel in self._channels.items():
            params, state = channel.params, channel.state
            if params is None or state is None or not params.anchors:
                continue
            if state.frozen or state.holder_validated < 0:
                continue
            channels += 1
            if handle != but:
                slots += self._slots_in(handle, state)
        return channels, slots

    def _slots_in(self, handle: bytes, state: ChannelState) -> int:
        known = self._slots.get(handle)
        if known is None or known[0] is not state:
            versions = chain(*state.holder.values(), *state.counterparty.values())
            known = self._slots[handle] = (state, max((slots_of(v.content) for v in versions), default=0))
        return known[1]

    def _needed(self) -> Sat:
        return numbers.needed(*self._tally(None))

    def judge_channel(self) -> None:
        """A new channel with anchors."""
        channels, slots = self._tally(None)
        self._covered(numbers.needed(channels + 1, slots), self.present, "one channel with anchors more")

    def judge_offer(self, handle: bytes, state: ChannelState, content: CommitmentContent) -> None:
        """A content of the peer's commitment in a channel with anchors, where we offer something new.

        What the peer adds is not refused, since that would break the channel; it counts, so it stops our next offer.
        """
        if self.present >= numbers.MAX_RESERVE:
            return
        offered = {
            key_of(htlc)
            for htlc in content.htlcs
            if not htlc.offered and numbers.takes_slot(htlc.amount_msat)
        }
        if not offered:
            return
        for version in predecessors(state, Side.COUNTERPARTY, content.number):
            offered.difference_update([key_of(htlc) for htlc in version.content.htlcs if not htlc.offered])
        if offered:
            channels, slots = self._tally(handle)
            own = max(self._slots_in(handle, state), slots_of(content))
            self._covered(numbers.needed(channels, slots + own), self.present, "one HTLC more")

    def _covered(self, needed: Sat, present: Sat, what: str) -> None:
        if present >= needed:
            self._short = False
            return
        if self._mode == ENFORCE:
            raise rules.fee_reserve(needed, present, what)
        if not self._short:
            _log.warning("fee_reserve_short needed=%d present=%d rule=shadow", needed, present)
        self._short = True
