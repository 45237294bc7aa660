"""`lnpd restore`: what would become of each channel, told before anything happens, and then done (issue "channel", 6).

Two questions are answered. Does the database fit the signer (a copy of either may be old)? And with a backup: which
channels does it bring back? Nothing here publishes a commitment: a state that may be old is only ever closed by the
peer.
"""

import asyncio
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from node.backup import content as contents
from node.backup.content import Content
from node.chain.source import backend_of
from node.channel import static, store
from node.channel.content import commitment_params
from node.channel.opening import funding_script
from node.channel.recovery import lost_reason
from node.channel.state import Closed, Closing, Committed, Lost, Params, State
from node.config import Config
from node.linkkey import LinkKey
from node.restore_chain import Found, Seen, Wanted, look, told
from node.signer_link.client import SignerAway, SignerClient
from node.storage.database import Database
from protocol.bus.messages.backup import ChannelRecord
from protocol.bus.messages.signer import (
    BackupOpened,
    BackupRestored,
    ChannelNumbers,
    Numbers,
    NumbersOfChannel,
    OpenBackup,
    Refused,
    Reply,
    Request,
    RestoreBackup,
)
from protocol.bus.messages.signer_backup import BackedUpChannel
from protocol.errors import CommandRefused

R = TypeVar("R")
_PUT_META = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"
PATIENCE = 60.0
NOT_ASKED = Seen()
_PUT_PEER = (
    "INSERT INTO peers (node_id, addresses, last_seen) VALUES (?, ?, 0) ON CONFLICT (node_id) DO NOTHING"
)


class Outcome(StrEnum):
    GOES_ON = "goes on"
    PEER_CLOSES = "the peer closes"
    ENDS = "closing already"
    OURS = Found.OURS.value
    THEIRS = Found.THEIRS.value
    AGREED = Found.AGREED.value


class Fate(Struct, frozen=True):
    """What will become of one channel. `new`: it is not in the database yet and comes from the backup."""

    channel_id: bytes
    peer: bytes
    capacity: int
    outcome: Outcome
    sentence: str
    new: bool = False


class Plan(Struct, frozen=True):
    """`warnings`: what a person should know before saying yes. `counter`: of the backup, None without one."""

    fates: tuple[Fate, ...]
    warnings: tuple[str, ...]
    counter: int | None = None
    restored: tuple[ChannelRecord, ...] = ()

    @property
    def changes_something(self) -> bool:
        return any(fate.new for fate in self.fates)


def plan(
    states: Sequence[State],
    numbers: Sequence[NumbersOfChannel],
    opened: BackupOpened | None,
    content: Content | None,
    seen: Seen = NOT_ASKED,
) -> Plan:
    """Pure: the database's channels, the signer's numbers, what a backup holds, if there is one, and what the chain
    says of their fundings."""
    known = {entry.channel: entry for entry in numbers}
    fates = [_fate(state.committed, known, seen) for state in states]
    have = {state.committed.params.channel_id for state in states}
    records = () if content is None else tuple(r for r in content.channels if r.channel_id not in have)
    fates += [_brought_back(record, seen) for record in records]
    warnings = []
    if opened is not None and opened.counter > opened.signer_counter:
        warnings.append(
            f"the backup is number {opened.counter} and the signer has made {opened.signer_counter}: the signer's"
            " database is new or an old copy, so the channels that it lacks come back without their state"
        )
    if content is not None:
        later = len([entry for entry in numbers if entry.channel not in {c.channel for c in _listed(opened)}])
        if later:
            warnings.append(
                f"the signer knows {later} channels that are not in this backup: a newer backup may exist"
            )
    if records:
        warnings.append(
            "payments that were on their way in a channel that comes back are left to the peer's honesty and to"
            " its preimages; the balance comes home after the peer's close has confirmed"
        )
    if seen.missing:
        warnings.append(
            f"the chain could not be asked ({seen.missing}): a channel that is closed in it already shows when the"
            " node runs"
        )
    counter = None if opened is None else opened.counter
    return Plan(tuple(fates), tuple(warnings), counter, records)


def _listed(opened: BackupOpened | None) -> Sequence[BackedUpChannel]:
    return () if opened is None else opened.channels


def _fate(committed: Committed, known: dict[bytes, NumbersOfChannel], seen: Seen) -> Fate:
    params = committed.params
    phase = committed.phase
    reason = lost_reason(committed, known.get(params.handle))
    if isinstance(phase, Closing | Closed):
        outcome, sentence = Outcome.ENDS, "its funding is spent; what is ours is brought home"
    elif isinstance(phase, Lost):
        outcome, sentence = Outcome.PEER_CLOSES, f"it waits for the peer's close: {phase.reason}"
    elif reason is None:
        outcome, sentence = Outcome.GOES_ON, "database and signer agree"
    else:
        outcome, sentence = Outcome.PEER_CLOSES, f"{reason}. We publish nothing and ask the peer to close"
    fate = Fate(params.channel_id, params.peer, params.capacity, outcome, sentence)
    return fate if outcome is Outcome.ENDS else _as_the_chain_says(fate, params, seen)


def _as_the_chain_says(fate: Fate, params: Params, seen: Seen) -> Fate:
    """A close that stands in the chain leaves nothing to be decided by anybody."""
    terms = commitment_params(params)
    spend = seen.spends.get(terms.funding_outpoint)
    if spend is None:
        return fate
    found, sentence = told(terms, spend)
    return replace(fate, outcome=Outcome(found.value), sentence=sentence)


def _wanted(
    states: Sequence[State], records: Sequence[ChannelRecord], birth_height: int
) -> tuple[Wanted, ...]:
    """The fundings of channels that are not known to be closed."""
    terms = [static.terms_of(record) for record in records]
    terms += [
        static.terms(state.committed)
        for state in states
        if not isinstance(state.committed.phase, Closing | Closed)
    ]
    return tuple(
        Wanted(
            commitment_params(one.params).funding_outpoint,
            funding_script(one.params),
            one.funding_height or one.opened_height or birth_height,
        )
        for one in terms
    )


def _brought_back(record: ChannelRecord, seen: Seen) -> Fate:
    fate = Fate(
        record.channel_id,
        record.peer,
        record.capacity,
        Outcome.PEER_CLOSES,
        "its state is gone. We connect to the peer and ask it to close; what its commitment pays to us is swept"
        " one block after it confirms",
        new=True,
    )
    return _as_the_chain_says(fate, static.terms_of(record).params, seen)


class Restorer:
    """The plan and the deed, over an open database and a signer that answers."""

    def __init__(self, directory: Path, config: Config, database: Database) -> None:
        key = LinkKey.load(directory)
        self._directory = directory
        self._config = config
        self._database = database
        self._signer = SignerClient(
            config.signer.endpoint,
            config.signer.server_key.encode(),
            key.public,
            key.secret,
            network=config.network,
        )

    async def run(self, blob: bytes | None, *, apply: bool) -> Plan:
        self._signer.start()
        try:
            await self._reach()
            made, content = await self._plan(blob, ask_chain=not apply)
            if apply and blob is not None and content is not None:
                await self._apply(blob, content, made)
            return made
        finally:
            await self._signer.stop()

    async def _reach(self) -> None:
        try:
            await asyncio.wait_for(self._signer.wait_up(), PATIENCE)
        except TimeoutError:
            raise CommandRefused(
                f"the signer does not answer: {self._signer.reason}",
                what_to_do="Start lnp-signer with the seed of this node, let this node's key in, and try again.",
            ) from None

    async def _plan(self, blob: bytes | None, *, ask_chain: bool) -> tuple[Plan, Content | None]:
        numbers = await self._ask(ChannelNumbers(), Numbers)
        states = [state for _, state in store.load(self._database.writer)]
        opened, content = None, None
        if blob is not None:
            opened = await self._ask(OpenBackup(blob), BackupOpened)
            content = contents.decode(opened.node_part)
            if content.network != self._config.network:
                raise CommandRefused(
                    f"this backup is of a node on {content.network}, this one runs on {self._config.network}",
                    what_to_do="Set up a node on that network, and restore there.",
                )
        seen = await self._look(states, content) if ask_chain else NOT_ASKED
        return plan(states, numbers.channels, opened, content, seen), content

    async def _look(self, states: Sequence[State], content: Content | None) -> Seen:
        wanted = _wanted(states, content.channels if content else (), content.birth_height if content else 0)
        backend = backend_of(self._config, self._directory)
        try:
            return await look(backend, wanted)
        finally:
            await backend.close()

    async def _apply(self, blob: bytes, content: Content, made: Plan) -> None:
        """First the signer, which freezes what it takes; then the channels, all or none."""
        await self._ask(RestoreBackup(blob), BackupRestored)
        writer = self._database.writer
        row_id = store.next_row_id(writer)
        unit: store.Unit = []
        for offset, record in enumerate(made.restored):
            unit += store.new_channel(row_id + offset, static.restored(record))
        unit.append((_PUT_PEER, [(p.node_id, " ".join(p.addresses)) for p in content.peers]))
        # The wallet of this seed has a past: without this it would look at new blocks only.
        unit.append((_PUT_META, [("birth_height", str(content.birth_height))]))
        await writer.submit(unit, now=True)

    async def _ask(self, request: Request, kind: type[R]) -> R:
        try:
            reply: Reply = await self._signer.call(request)
        except SignerAway as error:
            raise CommandRefused(
                f"the signer went away: {error}", what_to_do="Start it and try again."
            ) from error
        if isinstance(reply, kind):
            return reply
        if isinstance(reply, Refused):
            raise CommandRefused(
                f"the signer refused: {reply.rule} ({reply.seen})", what_to_do=reply.next_step
            )
        raise CommandRefused(
            "the signer cannot answer now", what_to_do="Look whether it is unlocked, then try again."
        )
