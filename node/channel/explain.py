"""Answers `why`, and warns before deadlines: the node says what it will do while a person can still do something else
(issue 4, item 5)."""

import time
from collections.abc import Callable

import structlog

from node.channel import store, story
from node.channel.chain_side import BlockTold, ChainSide
from node.channel.channel import Channel
from node.channel.handover import running
from node.channel.reserve import ENFORCE
from node.channel.state import Closed, Closing, Committed, Normal, ShuttingDown, State, Volatile
from node.onchain import story as onchain
from node.onchain.deadlines import closes_at
from node.signer_link.client import SignerClient, SignerState
from node.storage.writer import Writer
from protocol.amounts import Sat, format_scid
from protocol.bitcoin.transaction import txid_hex
from protocol.bus.bus import Bus, OutcomeUnknown
from protocol.bus.messages import wallet
from protocol.bus.messages.why import Answer, ListWarnings, Warned, Warnings, Why, time_of
from protocol.bus.service import handles
from protocol.errors import CommandRefused
from protocol.reserve import needed, takes_slot

log = structlog.get_logger()
WARN_AT = (12, 6)
"""So many blocks before the node closes a channel by itself it says so: two hours, and one."""
JOURNAL_READ = 200


class Explains(ChainSide):
    """Part of the channel service, which has the data."""

    def __init__(self, bus: Bus, writer: Writer, signer: SignerClient, *, chain_hash: bytes) -> None:
        super().__init__(bus, writer, signer, chain_hash=chain_hash)
        self._warned: dict[str, Warned] = {}
        """What holds now, by its cause."""

    @handles(Why)
    def why(self, request: Why) -> Answer | None:
        text = request.selector.lower()
        known = [(c.row_id, c.state, c.halted) for c in self._channels.values()]
        ids = {state.committed.params.channel_id for _, state, _ in known}
        for committed in self._closed:
            row_id = store.row_of(self._writer, committed.params.channel_id)
            if row_id is not None and committed.params.channel_id not in ids:
                known.append((row_id, State(committed, {}, Volatile()), ""))
        found = [entry for entry in known if text in _names(entry[1].committed)]
        if not found and (answer := self._sweep(text)) is not None:
            return answer
        if len(found) > 1:
            raise CommandRefused(
                f"{len(found)} channels of ours fit {request.selector!r}",
                what_to_do="Name one channel by its channel_id; `lnp listpeerchannels` shows them.",
                code=-32602,
            )
        if not found:
            return None
        row_id, state, halted = found[0]
        return story.answer(
            state,
            self._resolver.state(row_id),
            store.journal(self._writer, row_id, JOURNAL_READ),
            height=self._env.height,
            now=time.time(),
            halted=halted,
            signer_away="" if self._signer.state is SignerState.UP else self._signer.reason,
        )

    def _sweep(self, txid: str) -> Answer | None:
        for state in self._resolver.states():
            lines = onchain.story_of(state, txid, self._env.height)
            if lines:
                subject = state.facts.channel_id.hex()
                title = f"transaction {txid} of the closed channel {subject}"
                return Answer("sweep", txid, title, story.ordered(lines, self._env.height, time.time()))
        return None

    # Warnings.

    @handles(ListWarnings)
    def list_warnings(self, _request: ListWarnings) -> Warnings:
        return Warnings(tuple(self._warned.values()))

    def block_told(self, event: BlockTold) -> None:
        super().block_told(event)
        self.warn_in_time()
        self.run(self._warn_of_reserve())

    def warn_in_time(self) -> None:
        """Looked at after each block, and when the signer comes or goes."""
        away = "" if self._signer.state is SignerState.UP else self._signer.reason or "no connection"
        holds = set()
        for channel in self._channels.values():
            state = channel.state
            if state.htlcs and isinstance(state.committed.phase, Normal | ShuttingDown):
                holds |= self._of_channel(channel, away)
        self._keep(lambda key: key in holds or not key.startswith(("deadline", "signer")))

    def _of_channel(self, channel: Channel, away: str) -> set[str]:
        holds = set()
        state, height = channel.state, self._env.height
        name = channel.channel_id.hex()
        at = closes_at(running(state.committed, state.htlcs, state.volatile))
        left = None if at is None else at - height
        level = None if left is None or left <= 0 else min((n for n in WARN_AT if left <= n), default=None)
        if at is not None and level is not None:
            hour = time.strftime("%H:%M", time.localtime(time_of(at, height, time.time())))
            sentence = (
                f"an HTLC of channel {name} runs out: the node closes it alone at block {at}, about {hour}"
            )
            what = "Bring the peer back with `lnp connect`; it can still settle the HTLC."
            holds.add(key := f"deadline {name} {at} {level}")
            self._warn(Warned(key, channel.channel_id, sentence, what, height, at))
        if away:
            sentence = f"the signer is away while {len(state.htlcs)} HTLCs of channel {name} run: {away}"
            what = "Start the signer: without it the node can neither settle them nor close the channel."
            holds.add(key := f"signer {name}")
            self._warn(Warned(key, channel.channel_id, sentence, what, height, at))
        return holds

    async def _warn_of_reserve(self) -> None:
        """With anchors the wallet pays to confirm a close: what lies there must reach for the open channels."""
        open_ = [
            c
            for c in self._channels.values()
            if c.state.committed.params.anchors and not isinstance(c.state.committed.phase, Closing | Closed)
        ]
        slots = sum(takes_slot(row.amount_msat) for c in open_ for row in c.state.htlcs.values())
        wanted = needed(len(open_), slots)
        have, what = Sat(0), "Send some bitcoin to `lnp newaddr`."
        reserve = self._reserve
        enforced = reserve is not None and reserve.mode == ENFORCE
        if reserve is not None and enforced:
            have, what = reserve.present, f"Run `lnp reserve topup`, or send bitcoin to {reserve.address}."
        elif open_:
            try:
                listed: wallet.Coins = await self.bus.request("wallet", wallet.ListCoins())
            except (CommandRefused, OutcomeUnknown):
                return
            free = (c for c in listed.coins if not c.spent and not c.reserved and c.branch in (0, 1, 3))
            have = Sat(sum(coin.value for coin in free if coin.height is not None))
        if have >= wanted:
            self._keep(lambda key: key != "reserve")
            return
        place = "are in the fee reserve" if enforced else "of the wallet are free"
        closes = f"closes of {len(open_)} channels with anchors"
        sentence = f"{have} sat {place} to pay for {closes}; {wanted} sat are wanted"
        self._warn(Warned("reserve", b"", sentence, what, self._env.height))

    def _warn(self, warned: Warned) -> None:
        """Each cause is told once; what changes in it is kept for those who ask."""
        is_new = warned.key not in self._warned
        self._warned[warned.key] = warned
        if is_new:
            log.warning(
                "channel_warning", key=warned.key, sentence=warned.sentence, what_to_do=warned.what_to_do
            )
            self.bus.publish(warned)

    def _keep(self, holds: Callable[[str], bool]) -> None:
        self._warned = {key: warned for key, warned in self._warned.items() if holds(key)}


def _names(committed: Committed) -> set[str]:
    params = committed.params
    scids = (committed.short_channel_id, committed.alias_local)
    names = {format_scid(one) for one in scids if one is not None}
    return names | {params.channel_id.hex(), params.peer.hex(), txid_hex(params.fundings[0].txid)}
