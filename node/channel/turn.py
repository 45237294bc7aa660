"""The working copy of one step: tables are copied once, and become the new state when the step ends."""

from copy import copy
from typing import NamedTuple, assert_never

from msgspec.structs import replace

from node.channel.events import AskSigner, Effect, Env, Save, Say, Step, Tell
from node.channel.state import (
    AwaitingLockIn,
    Closed,
    Closing,
    Committed,
    Htlc,
    Link,
    Lost,
    Normal,
    Phase,
    ShuttingDown,
    State,
    Volatile,
    is_busy,
)
from protocol.bus.messages import channel as said
from protocol.bus.messages.signer import Operation


def cln_state(phase: Phase, *, opener: bool) -> str:
    """The phase in the words of Core Lightning, which tools know."""
    match phase:
        case AwaitingLockIn():
            return "CHANNELD_AWAITING_LOCKIN"
        case Normal():
            return "CHANNELD_NORMAL"
        case ShuttingDown(theirs=None) | ShuttingDown(sent=False):
            return "CHANNELD_SHUTTING_DOWN"
        case ShuttingDown():
            return "CLOSINGD_SIGEXCHANGE"
        case Closing(kind=kind):
            return "CLOSINGD_COMPLETE" if kind.value == "mutual" else "AWAITING_UNILATERAL"
        case Closed():
            return "CLOSED"
        case Lost():
            return "AWAITING_UNILATERAL"
        case _:
            assert_never(phase)


class Mark(NamedTuple):
    committed: Committed
    htlcs: dict[tuple[bool, int], Htlc]
    volatile: Volatile
    save: Save
    effects: int
    finished: int
    dropped: int


class Turn:
    """Collects what one step changes. Nothing outside sees it before `finish`."""

    def __init__(self, state: State, env: Env) -> None:
        self._before = state
        self.env = env
        self.c: Committed = copy(state.committed)
        self.htlcs: dict[tuple[bool, int], Htlc] = dict(state.htlcs)
        self.v: Volatile = state.volatile
        self.effects: list[Effect] = []
        self.finished: list[Htlc] = []
        self.dropped: list[Htlc] = []
        self._save = Save.NONE

    @property
    def busy(self) -> bool:
        return is_busy(self.c, self.v)

    def save(self, how: Save) -> None:
        self._save = max(self._save, how)

    def do(self, effect: Effect) -> None:
        self.effects.append(effect)

    def tell(
        self,
        event: said.HtlcReceived
        | said.HtlcFulfilled
        | said.HtlcFailed
        | said.HtlcRefused
        | said.HtlcResolved,
    ) -> None:
        self.effects.append(Tell(event))

    def ask_signer(self, operations: tuple[Operation, ...]) -> None:
        self.v = replace(self.v, asks=self.v.asks + 1, asking=True)
        self.do(AskSigner(self.v.asks, operations))

    def mark(self) -> "Mark":
        """Where to come back to when what follows turns out to break a rule."""
        return Mark(
            copy(self.c),
            dict(self.htlcs),
            self.v,
            self._save,
            len(self.effects),
            len(self.finished),
            len(self.dropped),
        )

    def back_to(self, mark: "Mark") -> None:
        self.c, self.htlcs, self.v, self._save = mark.committed, mark.htlcs, mark.volatile, mark.save
        del self.effects[mark.effects :], self.finished[mark.finished :], self.dropped[mark.dropped :]

    def put(self, row: Htlc) -> None:
        self.htlcs[row.offered, row.id] = row

    def set_link(self, link: Link) -> None:
        self.v = replace(self.v, link=link)

    def forget_connection(self) -> None:
        """The peer's unsigned updates, its waiting messages and the closing negotiation die with the connection.

        What was asked of the signer for the connection alone is answered to nobody."""
        for_connection = self.v.resend is not None or self.v.close_asked is not None
        closing = isinstance(self.c.phase, Closing) and not for_connection
        self.v = Volatile(
            wants=self.v.wants,
            parked=self.v.parked,
            asks=self.v.asks,
            asking=self.v.asking and (self.c.question is not None or closing),
            burying=self.v.burying,
            resolved=self.v.resolved,
            accept_due=self.v.accept_due,
            unannounced=self.v.unannounced,
            stalled=self.v.stalled,
        )

    def set_phase(self, phase: Phase, why: str) -> None:
        """Moves the channel on and tells people why; saved by the caller's own save."""
        opener = self.c.params.holder_is_opener
        old, new = cln_state(self.c.phase, opener=opener), cln_state(phase, opener=opener)
        self.c.phase = phase
        self.c.why = why
        if old != new:
            channel_id = self.c.params.channel_id
            self.do(Say(said.ChannelStateChanged(channel_id, old, new, why, self.env.height)))

    def finish(self) -> Step:
        if self._save is Save.NONE:
            state = State(self._before.committed, self._before.htlcs, self.v)
        else:
            state = State(self.c, self.htlcs, self.v)
        return Step(state, tuple(self.effects), self._save, tuple(self.finished), tuple(self.dropped))
