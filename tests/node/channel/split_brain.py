"""Node and signer that part: every point at which the signer has saved what its node has not (DESIGN, "Version sets").

A dialogue runs once. Each step of an end that has to be durable is noted with what came before it; from such a note
the end starts again as a twin that dies in that very save, with the signer's answer given or not. What the peer does
then is up to the test.
"""

import copy
import sqlite3
from collections import deque
from pathlib import Path

from msgspec import Struct

from node.channel.events import Event
from node.channel.state import Committed, State
from signer.service import SignerService
from signer.storage import Storage
from tests.node.channel.pair import End, Line, Pair, Said, new_signer, open_channel
from tests.node.channel.saved import Database
from tests.node.channel.test_crash_copies import PUSH, Plan, move


class Snapshot:
    """An end as it stands now, databases and all."""

    def __init__(self, end: "SplitEnd") -> None:
        self.end = end
        self.signer = end.signer.storage._connection.serialize()
        database = end.database
        self.waiting = list(database.waiting) if database.db.in_transaction else []
        self.rows = database.committed if database.db.in_transaction else database.db.serialize()
        self.state, self.saved, self.durable = end.state, end.saved, end.durable
        self.asks, self.peels = tuple(end.asks), tuple(end.peels)
        self.said = copied_said(end.said)
        self.published = list(end.published)

    @property
    def committed(self) -> Committed:
        """As it is alive: a peer has sent what follows from it, whether that is durable or not."""
        assert self.state is not None
        return self.state.committed

    def open(self) -> "SplitEnd":
        """A twin with databases of its own, alive and not recording."""
        twin = copy.copy(self.end)
        twin.recording, twin.notes, twin.before_signing = False, [], None
        twin.signer = _signer_of(self.end.signer, self.signer)
        twin.database = _database_of(self.rows)
        for unit in self.waiting:
            twin.database.write(unit, now=False)
        twin.state, twin.saved, twin.durable = self.state, self.saved, self.durable
        twin.asks, twin.peels, twin.out = deque(self.asks), deque(self.peels), Line()
        twin.said, twin.published = copied_said(self.said), list(self.published)
        twin.resolves, twin.later, twin.drops, twin.says, twin.on_save = [], [], [], [], []
        return twin


def copied_said(said: Said) -> Said:
    return Said(*(list(getattr(said, name)) for name in said.__struct_fields__))


def _signer_of(signer: SignerService, raw: bytes) -> SignerService:
    made = copy.copy(signer)
    made.storage = Storage(None)
    made.storage._connection.deserialize(raw)
    made._load()
    return made


def _database_of(raw: bytes) -> Database:
    made = Database.__new__(Database)
    made.db = sqlite3.connect(":memory:", isolation_level=None)
    made.db.deserialize(raw)
    made.committed, made.waiting = b"", []
    return made


class Split(Struct, frozen=True):
    """`victim` dies in the save that these events lead to. `peer`: at that moment. `peer_before`: before it signed what
    the victim has not acknowledged, where nothing else has happened since."""

    name: str
    place: int
    victim: Snapshot
    events: tuple[Event, ...]
    peer: Snapshot
    peer_before: Snapshot | None

    def dead(self, *, asked: bool) -> "SplitEnd":
        """Started again from its old save. `asked`: the signer got the question that was never saved."""
        end = self.victim.open()
        end.lose_save = asked
        end.do(*self.events)
        assert end.died
        end.crash(lose_next=True)
        return end

    def other_peer(self, victim: "SplitEnd") -> "SplitEnd | None":
        """The peer as one that takes other updates in place of those that it had signed for (BOLT 2, "Message
        Retransmission"); None where it may not, since it or the victim has gone on from that commitment."""
        before = self.peer_before
        if before is None:
            return None
        then, now, mine = before.committed, self.peer.committed, victim.state.committed
        validating = mine.question is not None and mine.question.validate is not None
        lawful = (
            (then.local_number, then.remote_revoked) == (now.local_number, now.remote_revoked)
            and then.phase == now.phase
            and mine.local_number + validating <= then.remote_number
        )
        if not lawful:
            return None
        end = before.open()
        _give_invoices(self.peer.open(), end)
        end.crash(lose_next=False)
        return end


def _give_invoices(newer: "SplitEnd", older: "SplitEnd") -> None:
    """It changed its mind about updates; its invoices it has all the same."""
    rows = newer.signer.storage.all("SELECT * FROM invoice")
    marks = ", ".join("?" * len(rows[0])) if rows else ""
    for row in rows:
        statement = f"INSERT OR IGNORE INTO invoice VALUES ({marks})"
        older.signer.storage.execute(statement, [row])


class SplitEnd(End):
    """One that notes each step that has to be durable."""

    def __init__(self, name: str, folder: Path) -> None:
        super().__init__(name, new_signer(folder / name), folder / name)
        self.recording = False
        self.notes: list[Split] = []
        self.before_signing: Snapshot | None = None
        self.peer: SplitEnd

    def do(self, *events: Event) -> None:
        if not self.recording:
            super().do(*events)
            return
        before, saves = Snapshot(self), self.saves
        peer, peer_before = Snapshot(self.peer), self.peer.before_signing
        super().do(*events)
        if self.saves > saves:
            self.notes.append(Split(self.name, len(self.notes), before, events, peer, peer_before))
        if self.state.committed.remote_number > before.state.committed.remote_number:
            self.before_signing = before


def record(folder: Path, plan: Plan) -> list[Split]:
    """The dialogue from its beginning to its end, undisturbed."""
    ends = SplitEnd("alice", folder), SplitEnd("bob", folder)
    ends[0].peer, ends[1].peer = ends[1], ends[0]
    pair = Pair.of(*ends)
    pair.simple_close = plan.simple_close
    open_channel(pair, push=PUSH)
    for end in ends:
        end.recording = True
    plan.begin(pair)
    while move(pair, plan):
        pass
    for end in ends:
        end.recording = False
    return [*ends[0].notes, *ends[1].notes]


def together(victim: SplitEnd, peer: SplitEnd, plan: Plan) -> Pair:
    pair = Pair.of(*((victim, peer) if victim.name == "alice" else (peer, victim)))
    pair.simple_close = plan.simple_close
    return pair


def worth(state: State) -> int:
    """What is ours however the HTLCs that run end: without the offered ones whose preimage we know, and with the
    received ones whose preimage we gave away."""
    committed = state.committed
    total = committed.settled_local
    for row in state.htlcs.values():
        if row.preimage is not None:
            total += -row.amount_msat if row.offered else row.amount_msat
    return total


def newest_commitment(end: End) -> tuple[int, int]:
    """The number of our newest commitment as the signer has validated it, and what it is worth to us: our balance, what
    we offered and can take back, and what we received and gave the preimage of."""
    (channel,) = end.signer._channels.values()
    assert channel.state is not None and end.state is not None
    number = channel.state.holder_validated
    version = channel.state.holder[number][-1].content
    rows = end.state.htlcs
    total = version.to_owner_msat
    for htlc in version.htlcs:
        row = rows.get((htlc.offered, htlc.id))
        has_preimage = row is not None and row.preimage is not None
        if htlc.offered is not has_preimage:
            total += htlc.amount_msat
    return number, total
