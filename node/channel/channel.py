"""The shell of one channel: turns, saves and effects in their order (STYLE 3).

Events gather and are stepped together once a turn. A step's effects leave after its save; steps that save
nothing keep their place behind those that do. A question goes to the signer while its save runs, and the
answer is stepped when both are done.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol, assert_never

import structlog

from node.channel import revoked, store
from node.channel.events import (
    AskSigner,
    Connected,
    Disconnected,
    Drop,
    Effect,
    Env,
    Event,
    ForceCloseWanted,
    FromPeer,
    Fulfil,
    FundingSpent,
    Later,
    OnionsPeeled,
    Peel,
    Publish,
    Resolve,
    ResolvedOnChain,
    Save,
    Say,
    Send,
    SettledOnChain,
    SignerAnswered,
    SignerAsked,
    Step,
    Tell,
    Tick,
)
from node.channel.state import State
from node.channel.step import steps
from node.signer_link.client import SignerAway
from protocol.bus.messages import signer as sign
from protocol.errors import CommandRefused
from protocol.wire.bolt1 import Error, Warning, printable

log = structlog.get_logger()
MIN_RETRY_SECONDS = 0.5
HEARD_ALONE = (
    Disconnected,
    Fulfil,
    SignerAnswered,
    SignerAsked,
    FundingSpent,
    SettledOnChain,
    ResolvedOnChain,
    ForceCloseWanted,
)
"""What a channel still hears after a bug."""
SAID = "said "
"""Begins an entry of the journal with words of the peer's."""
MAX_WORDS = 300
MAX_WORDS_KEPT = 20
"""In one run of the node: a peer may repeat itself for ever."""
MESSAGES_NAMED = 8
Answered = Callable[["sign.Reply | Exception"], None]


def entry_of(events: Sequence[Event], effects: Sequence[Effect]) -> str:
    """For the journal: what a turn was made of. `<` came from the peer, `>` goes to it."""
    words = [
        f"<{type(event.message).__name__}" if isinstance(event, FromPeer) else type(event).__name__
        for event in events[:MESSAGES_NAMED]
    ]
    for effect in effects:
        if isinstance(effect, Send):
            words += [f">{type(message).__name__}" for message in effect.messages[:MESSAGES_NAMED]]
    return " ".join(words)


_ACCEPTED = sign.RevocationAccepted()


def _by_connection(events: list[Event]) -> list[list[Event]]:
    """So that what one connection brings about is never sent on the next."""
    groups: list[list[Event]] = [[]]
    for event in events:
        if isinstance(event, Connected | Disconnected) and groups[-1]:
            groups.append([])
        groups[-1].append(event)
    return groups


class Outside(Protocol):
    """What a channel needs of the service that hosts it."""

    keeps_revoked: bool
    """A watchtower is wanted: what the peer revokes is noted for it."""

    def save(self, unit: store.Unit, *, now: bool) -> asyncio.Future[None]: ...

    def ask(self, request: sign.Request, answered: Answered) -> None: ...

    def later(self, channel: "Channel") -> None:
        """Have `turn` called in this loop turn."""

    def stalled(self, channel: "Channel") -> None:
        """The signer refused what this channel needs; another channel's revocation may change that."""

    def revocation_accepted(self) -> None:
        """The signer took a revocation, after which it may grant what it refused to another channel."""

    def perform(self, channel: "Channel", effect: Send | Drop | Tell | Say | Publish | Resolve) -> None: ...


class Channel:
    def __init__(self, row_id: int, state: State, outside: Outside) -> None:
        self.row_id = row_id
        self.state = state
        self._outside = outside
        self._events: list[Event] = []
        self._behind: deque[tuple[asyncio.Future[None] | None, list[Effect]]] = deque()
        self._peeling_again = False
        self._words = ""
        self._words_kept = 0
        self.connection: int | None = None
        """The one that the state knows of. The service may have heard of a newer one already."""
        self.halted: str = ""
        """Why this channel stopped working in this process: a bug, or storage that failed."""
        self._storage_failed = False

    @property
    def channel_id(self) -> bytes:
        return self.state.committed.params.channel_id

    @property
    def peer(self) -> bytes:
        return self.state.committed.params.peer

    def put(self, event: Event) -> None:
        self._events.append(event)
        self._outside.later(self)

    def command(self, event: Event, env: Env) -> None:
        """Steps a command of a person at once. Raises CommandRefused, and nothing has changed then."""
        self.turn(env)
        self._apply([event], env)

    def turn(self, env: Env) -> None:
        """Steps all that gathered. A bug stops this channel, keeps its state, and lets the others go on."""
        if not self._events or self._storage_failed:
            return
        events, self._events = self._events, []
        if self.halted:
            self._go_on_alone(events, env)
            return
        try:
            for group in _by_connection(events):
                self._apply(group, env)
        except CommandRefused as refusal:
            log.warning("channel_refused", channel=self.channel_id.hex(), sentence=refusal.sentence)
        except Exception as error:
            self.halted = f"bug: {error!r}"
            log.error("bug", channel=self.channel_id.hex(), error=repr(error), exc_info=True)
            self._go_on_alone([Disconnected()], env)

    def _go_on_alone(self, events: list[Event], env: Env) -> None:
        """After a bug. The peer is not heard any more, since it may have brought the bug about; but what the chain says
        and what is due there goes on, or a bug would be a way to let deadlines pass and to cheat unpunished. The
        chain says it again at each block, so an event that brings the bug back is left out."""
        for event in events:
            if not isinstance(event, HEARD_ALONE):
                continue
            try:
                self._apply([event], env)
            except CommandRefused as refusal:
                log.warning("channel_refused", channel=self.channel_id.hex(), sentence=refusal.sentence)
            except Exception as error:
                log.error("bug", channel=self.channel_id.hex(), error=repr(error), exc_info=True)

    def _apply(self, events: list[Event], env: Env) -> None:
        if isinstance(events[0], Connected | Disconnected):
            self.connection = events[0].connection if isinstance(events[0], Connected) else None
            self._forget_unsent()
        self._note_words(events)
        before = self.state
        step = steps(before, events, env)
        if step.state.volatile.stalled and not before.volatile.stalled:
            self._outside.stalled(self)
        self.state = step.state
        saved: asyncio.Future[None] | None = None
        if step.save is not Save.NONE:
            unit = store.changes(self.row_id, before, step, entry_of(events, step.effects))
            if self._outside.keeps_revoked:
                unit += revoked.note(before, step.state)
            saved = self._outside.save(unit, now=step.save is Save.NOW)
            saved.add_done_callback(self._saved)
        self._start(step, saved)
        later: list[Effect] = [e for e in step.effects if not isinstance(e, AskSigner | Peel)]
        if not later:
            return
        if step.save is not Save.NOW and not self._behind:
            self._perform(later)
        else:
            self._behind.append((saved if step.save is Save.NOW else None, later))

    def _forget_unsent(self) -> None:
        """What waits for its save was meant for the connection that is gone. On the next one channel_reestablish
        comes first, and brings again what is still owed (BOLT 2, "Message Retransmission")."""
        for _, effects in self._behind:
            effects[:] = [effect for effect in effects if not isinstance(effect, Send | Drop)]

    def _note_words(self, events: list[Event]) -> None:
        """What the peer complains of is kept, also where it changes nothing: it may be the cause of what follows."""
        for event in events:
            if isinstance(event, FromPeer) and isinstance(event.message, Error | Warning):
                words = f"{SAID}{printable(event.message.data)[:MAX_WORDS]}"
                if words != self._words and self._words_kept < MAX_WORDS_KEPT:
                    self._words, self._words_kept = words, self._words_kept + 1
                    self._outside.save(store.note(self.row_id, words), now=False)

    def _start(self, step: Step, saved: asyncio.Future[None] | None) -> None:
        """What need not wait for the save: the question is durable with it, or is asked again after a crash."""
        for effect in step.effects:
            match effect:
                case AskSigner():
                    self._ask(effect, saved)
                case Peel():
                    self._peel(effect)
                case Send() | Tell() | Say() | Publish() | Resolve() | Later() | Drop():
                    pass
                case _:
                    assert_never(effect)

    def _ask(self, effect: AskSigner, saved: asyncio.Future[None] | None) -> None:
        request = sign.ChannelRequest(self.state.committed.params.handle, effect.operations)

        def answered(reply: sign.Reply | Exception) -> None:
            match reply:
                case sign.ChannelAnswer() | sign.Refused() | sign.NotNow():
                    event = SignerAnswered(effect.ask, reply)
                    if isinstance(reply, sign.ChannelAnswer) and _ACCEPTED in reply.results:
                        self._outside.revocation_accepted()
                case _:
                    event = SignerAnswered(effect.ask, sign.NotNow(f"no answer from the signer: {reply}"))
            if isinstance(event.answer, sign.NotNow):
                wait = max(MIN_RETRY_SECONDS, event.answer.retry_after_seconds)
                asyncio.get_running_loop().call_later(wait, self.put, SignerAsked())
            if saved is None or saved.done():
                self.put(event)
            else:
                saved.add_done_callback(lambda done: None if done.exception() else self.put(event))

        self._outside.ask(request, answered)

    def _peel(self, effect: Peel) -> None:
        def answered(reply: sign.Reply | Exception) -> None:
            if isinstance(reply, sign.OnionsPeeled) and len(reply.results) == len(effect.ids):
                packets = (onion.packet for onion in effect.onions)
                self.put(OnionsPeeled(tuple(zip(effect.ids, packets, reply.results, strict=True))))
            else:
                self._peel_again(reply)

        self._outside.ask(sign.PeelOnions(effect.onions), answered)

    def _peel_again(self, reply: sign.Reply | Exception) -> None:
        """The question is not part of the saved state, so nothing but this brings it back before the next start."""
        if self._peeling_again:
            return
        self._peeling_again = True
        if not isinstance(reply, SignerAway):  # the link has told that the signer is away
            log.warning("onions_not_peeled", channel=self.channel_id.hex(), answer=type(reply).__name__)

        def again() -> None:
            self._peeling_again = False
            self.put(Tick())

        asyncio.get_running_loop().call_later(MIN_RETRY_SECONDS, again)

    def _saved(self, future: asyncio.Future[None]) -> None:
        """Releases the effects that waited for this save, and those that wait behind them."""
        if not future.cancelled() and (error := future.exception()) is not None:
            self.halted, self._storage_failed = str(error), True
            self._behind.clear()
            return
        while self._behind:
            waits, effects = self._behind[0]
            if waits is not None and not waits.done():
                return
            self._behind.popleft()
            self._perform(effects)

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send() | Drop() | Tell() | Say() | Publish() | Resolve():
                    self._outside.perform(self, effect)
                case Later(seconds=seconds, event=event):
                    asyncio.get_running_loop().call_later(seconds, self.put, event)
                case AskSigner() | Peel():
                    pass
                case _:
                    assert_never(effect)
