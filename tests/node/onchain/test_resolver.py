"""The shell of the resolution by itself: what is asked, in which order, and what an answer or its absence becomes
(BOLT 5; checklist 50, 51, 52). Signer, chain and wallet are the test's."""

import asyncio
import importlib.util
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from node.onchain import machine
from node.onchain.coins import purpose_of
from node.onchain.events import (
    Done,
    Env,
    Event,
    Forget,
    NewBlock,
    NotSigned,
    NotTaken,
    OutputSpent,
    Publish,
    ReleaseCoins,
    Resume,
    Settle,
    Signed,
    SpendLost,
    Unconfirmed,
    Unwatch,
    Watch,
)
from node.onchain.resolver import Resolver
from node.onchain.state import Facts, HtlcFact, Kind, Outcome, State
from node.signer_link.client import SignerAway
from node.storage.database import Database, open_database
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw, Msat
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import Transaction
from protocol.bus.messages import chain, wallet
from protocol.bus.messages import signer as sign
from protocol.errors import CommandRefused
from tests.node.onchain.world import World
from tests.support import need

REFUSED = sign.Refused("close-fee", "a rule", "9 sat", "8 sat", "Ask for a lower fee.")


class Outside:
    """The host, the bus and the signer in one. `said` is everything that left the resolver, in its order."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.tasks: set[asyncio.Task[Any]] = set()
        self.said: list[Any] = []
        self.answer: Callable[[Any], Any] = lambda _request: REFUSED
        self.rate: int | None = 1000
        self.refusal = ""
        self.changed: Facts | None = None
        self.broken: set[int] = set()

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    def facts(self, row_id: int, tx: bytes) -> Facts:
        if row_id in self.broken:
            raise ValueError("a bug")
        if self.changed is not None:
            return self.changed
        found = self.world.alice.state.facts
        return (
            found
            if tx == found.tx
            else replace(found, tx=tx, txid=Transaction.parse(tx).txid, kind=Kind.THEIRS)
        )

    def settled(self, row_id: int, outcome: Outcome) -> None:
        self.said.append(outcome)

    def resolved(self, row_id: int) -> None:
        self.said.append(row_id)

    async def request(self, service: str, message: Any, *, deadline: float = 0) -> Any:
        if isinstance(message, chain.GetFeerate):
            if self.rate is None:
                raise CommandRefused("no estimate", what_to_do="Wait.")
            return FeeratePerKw(self.rate)
        self.said.append(message)
        if isinstance(message, chain.Broadcast):
            return chain.BroadcastResult(Transaction.parse(message.raw).txid, not self.refusal, self.refusal)
        return None

    def send(self, service: str, message: Any) -> None:
        self.said.append(message)

    async def call(self, request: Any) -> Any:
        self.said.append(request)
        return self.answer(request)

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.said if isinstance(message, kind)]


class Shell:
    def __init__(self, world: World, outside: Outside, database: Database) -> None:
        self.world, self.outside, self.database = world, outside, database
        self.resolver = Resolver(outside, database.writer, outside, REGTEST, outside)  # type: ignore[arg-type]
        self.events: list[Event] = []
        self.resolver.start(frozenset({1, 2}), BlockHeight(world.chain.height))

    @property
    def tx(self) -> bytes:
        return self.world.alice.state.facts.tx

    def state(self, row_id: int = 1) -> State:
        found = self.resolver.state(row_id)
        assert found is not None
        return found

    async def idle(self) -> None:
        """Though a question may be open."""
        for _ in range(30):
            await self.database.writer.submit([], now=True)

    async def calm(self) -> None:
        quiet = 0
        async with asyncio.timeout(20):
            while quiet < 30:
                await self.database.writer.submit([], now=True)
                busy = self.resolver._queue.qsize() or self.resolver._asking
                quiet = 0 if busy else quiet + 1


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[World]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = World(tmp_path, anchors=False)
    made.force_close(made.pair.alice)
    made.bob.offline = True
    made.mine()
    yield made
    made.close()


@pytest.fixture
async def shell(tmp_path: Path, closed: World, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shell]:
    database = open_database(tmp_path / "node.db", create=True)
    for n in (1, 2):
        row = (n, bytes([n]) * 32, b"\x02" * 33, b"\x80", "normal", 5)
        await database.writer.submit([("INSERT INTO channels VALUES (?, ?, ?, ?, ?, ?)", [row])], now=True)
    outside = Outside(closed)
    made = Shell(closed, outside, database)
    real = machine.step

    def step(state: State, event: Event, env: Env) -> Any:
        made.events.append(event)
        return real(state, event, env)

    monkeypatch.setattr(machine, "step", step)
    yield made
    for task in list(outside.tasks):
        task.cancel()
    await asyncio.gather(*outside.tasks, return_exceptions=True)
    database.close()


def heard(shell: Shell, kind: type) -> list[Any]:
    return [event for event in shell.events if isinstance(event, kind)]


async def due(shell: Shell) -> None:
    """The commitment is in a block, and our delayed balance is ours to sweep."""
    height = shell.world.chain.height
    shell.resolver.funding_spent(1, shell.tx, BlockHeight(height - 20))
    shell.resolver.new_block(BlockHeight(height))
    await shell.calm()


async def test_what_the_signer_says_is_told_to_the_resolution_in_its_words(shell: Shell) -> None:
    """checklist 52: a rule that refused is known by its tag; a signer that is away refused nothing, so nothing is given
    up for it."""

    def away(_request: Any) -> Any:
        raise SignerAway("the signer is away")

    shell.outside.answer = away
    await due(shell)
    assert {event.tag for event in heard(shell, NotSigned)} == {""}
    assert not any(output.given_up for output in shell.state().outputs)
    shell.events.clear()
    shell.outside.answer = lambda _request: REFUSED
    shell.resolver.signer_is_back()
    await shell.calm()
    assert {event.tag for event in heard(shell, NotSigned)} == {"close-fee"}
    assert "limit 8 sat" in heard(shell, NotSigned)[0].why


async def test_the_signer_that_is_back_is_asked_at_once(shell: Shell) -> None:
    """checklist 50: blocks may be long apart, and the cheat's delay short."""

    def away(_request: Any) -> Any:
        raise SignerAway("the signer is away")

    shell.outside.answer = away
    await due(shell)
    assert shell.outside.said and not heard(shell, Signed)
    shell.outside.answer = lambda _request: sign.SweepSigned(shell.tx)
    shell.resolver.signer_is_back()
    await shell.calm()
    (signed,) = heard(shell, Signed)
    assert signed.feerate_per_kw == shell.outside.of(sign.SignSweep)[-1].feerate_per_kw > 0


async def test_what_is_signed_is_saved_before_it_is_sent_and_a_refusal_comes_back(shell: Shell) -> None:
    """checklist 52: an old form is not kept by the chain service, which would send it for ever; and what the mempool
    refused is answered, or a pinned claim would never rise."""
    shell.outside.answer = lambda _request: sign.SweepSigned(shell.tx)
    shell.outside.refusal = "insufficient fee"
    saved: list[bool] = []
    real = shell.outside.request

    async def request(service: str, message: Any, *, deadline: float = 0) -> Any:
        if isinstance(message, chain.Broadcast):
            (row,) = shell.database.writer.read("SELECT state FROM onchain WHERE channel = 1")
            saved.append(message.raw in row[0])
        return await real(service, message, deadline=deadline)

    shell.outside.request = request  # type: ignore[method-assign]
    await due(shell)
    sent = shell.outside.of(chain.Broadcast)
    assert sent and all(saved) and not any(message.keep for message in sent)
    assert [event.reason for event in heard(shell, NotTaken)] == ["insufficient fee"] * len(sent)
    assert shell.state().claims[0].refused == "insufficient fee"


async def test_a_bug_in_one_channel_does_not_stop_the_others(shell: Shell) -> None:
    """checklist 50: a peer that finds one could cheat in all other channels."""
    shell.outside.broken.add(2)
    shell.resolver.funding_spent(2, shell.tx, BlockHeight(100))
    await due(shell)
    assert shell.state().height is not None and shell.outside.of(sign.SignSweep)


async def test_a_feerate_is_never_below_what_is_relayed_and_the_last_one_holds(shell: Shell) -> None:
    """checklist 52: below the floor nothing of ours leaves."""
    await due(shell)
    shell.outside.rate = 7
    shell.resolver.new_block(BlockHeight(shell.world.chain.height + 1))
    await shell.calm()
    assert shell.resolver._env.slow == shell.resolver._env.fast == FEERATE_FLOOR
    shell.outside.rate = None
    shell.resolver.new_block(BlockHeight(shell.world.chain.height + 2))
    await shell.calm()
    assert shell.resolver._env.fast == FEERATE_FLOOR
    assert shell.resolver._env.height == shell.world.chain.height + 2


async def test_the_mempool_does_not_unseat_what_a_block_holds(shell: Shell) -> None:
    """checklist 51: whoever tells our mempool of another spend would stop our sweeps."""
    await due(shell)
    other = _other(shell.tx)
    shell.resolver.funding_seen(1, other)
    shell.resolver.published(1, other)
    await shell.calm()
    assert shell.state().facts.tx == shell.tx and shell.state().height is not None


async def test_our_own_commitment_does_not_unseat_the_one_that_the_mempool_holds(shell: Shell) -> None:
    """checklist 45, 48: the peer's is there, so ours is not taken any more; what the peer's shows is ours to hear."""
    other = _other(shell.tx)
    shell.resolver.funding_seen(1, other)
    await shell.calm()
    shell.resolver.published(1, shell.tx)
    await shell.calm()
    assert shell.state().facts.tx == other
    shell.resolver.funding_seen(1, shell.tx)
    await shell.calm()
    assert shell.state().facts.tx == shell.tx


async def test_a_block_that_was_told_before_its_spend_is_not_lost_for_our_claims(shell: Shell) -> None:
    """checklist 43: the channel saves what spent its funding before it hands it over, and the tick of that block may be
    quicker. With 18 blocks for a claim, each of them counts; and the next block may be an hour away."""
    height = BlockHeight(shell.world.chain.height)
    shell.resolver.published(1, shell.tx)
    await shell.calm()
    shell.resolver.new_block(height)
    await shell.calm()
    assert not shell.outside.of(sign.SignSweep)
    shell.resolver.funding_spent(1, shell.tx, BlockHeight(height - 20))
    await shell.calm()
    assert shell.outside.of(sign.SignSweep)
    shell.events.clear()
    shell.resolver.funding_spent(1, shell.tx, BlockHeight(height - 20))
    await shell.calm()
    assert not heard(shell, NewBlock), "said again it is no news"


async def test_an_htlc_that_came_after_the_mempool_showed_the_close_is_not_left(shell: Shell) -> None:
    """checklist 44, 46: the channel goes on until a block has the commitment. Taken as it was then, the resolution
    would know nothing of what was offered since, and tell nobody upstream how it ended."""
    other = _other(shell.tx)
    shell.resolver.funding_seen(1, other)
    await shell.calm()
    late = HtlcFact(True, 9, Msat(5_000_000), bytes(32), 200, present=False, live=True)
    shell.outside.changed = replace(shell.state().facts, htlcs=(late,))
    shell.resolver.funding_spent(1, other, BlockHeight(shell.world.chain.height))
    await shell.calm()
    assert shell.state().facts.htlcs == (late,)
    assert shell.state().height == shell.world.chain.height
    shell.outside.changed = replace(shell.state().facts, htlcs=(late, replace(late, id=10)))
    shell.resolver.funding_spent(1, other, BlockHeight(shell.world.chain.height))
    await shell.calm()
    assert shell.state().facts.htlcs == (late,)  # a block has decided


async def test_a_commitment_that_was_revoked_after_the_mempool_showed_it_is_punished(shell: Shell) -> None:
    """checklist 50: the peer shows its newest commitment, goes on with the channel, and has a miner take it when it is
    revoked. Taken for what it was, it would be left to the peer."""
    other = _other(shell.tx)
    shell.resolver.funding_seen(1, other)
    await shell.calm()
    assert shell.state().facts.kind is Kind.THEIRS
    shell.outside.changed = replace(shell.state().facts, kind=Kind.REVOKED, point=None)
    shell.resolver.funding_spent(1, other, BlockHeight(shell.world.chain.height))
    await shell.calm()
    assert shell.state().facts.kind is Kind.REVOKED
    assert shell.outside.of(sign.FindPeerPoint)


async def test_a_signer_hears_first_what_it_was_not_told_and_that_its_state_is_old(shell: Shell) -> None:
    """checklist 30, 50: without the last revocation it has no key for a penalty; and a commitment of ours that nobody
    remembers proves that its own state must not be gone by, before it is asked anything else."""
    stale = replace(shell.world.alice.state.facts, kind=Kind.OURS_LOST, point=None)
    assert stale.tell
    shell.outside.changed = stale
    shell.resolver.funding_spent(1, shell.tx, BlockHeight(shell.world.chain.height))
    await shell.calm()
    asked = [type(m) for m in shell.outside.said if isinstance(m, ASKED)]
    assert asked[:3] == [sign.ChannelRequest, sign.MarkStale, sign.ChannelRequest]
    assert asked[3] is sign.FindHolderPoint
    shell.outside.answer = lambda _request: sign.ChannelAnswer(())
    shell.outside.said.clear()
    for _ in range(2):
        shell.resolver.new_block(BlockHeight(shell.world.chain.height))
        await shell.calm()
    asked = [type(m) for m in shell.outside.said if isinstance(m, ASKED)]
    assert asked.count(sign.ChannelRequest) == 1 and asked.count(sign.FindHolderPoint) == 2


async def test_a_signer_that_was_away_is_told_again(shell: Shell) -> None:
    """checklist 50: it may be back with an older copy of its database, and then has no key for a penalty."""
    shell.outside.answer = lambda _request: sign.ChannelAnswer(())
    await due(shell)
    assert len(shell.outside.of(sign.ChannelRequest)) == 1
    shell.outside.said.clear()
    shell.resolver.signer_is_back()
    await shell.calm()
    assert [type(m) for m in shell.outside.said[:2]] == [sign.ChannelRequest, sign.SignSweep]


ASKED = (sign.ChannelRequest, sign.MarkStale, sign.FindHolderPoint)


async def test_a_question_that_is_open_is_not_asked_again(shell: Shell) -> None:
    """checklist 52: a slow signer would be buried in the same question, and two answers for coins lend twice."""
    answer = asyncio.Event()
    real, asked = shell.outside.call, 0

    async def call(request: Any) -> Any:
        nonlocal asked
        asked += 1
        await answer.wait()
        return await real(request)

    shell.outside.call = call  # type: ignore[method-assign]
    shell.resolver.funding_spent(1, shell.tx, BlockHeight(shell.world.chain.height - 20))
    for _ in range(3):
        shell.resolver.new_block(BlockHeight(shell.world.chain.height))
        await shell.idle()
    assert asked == 1
    answer.set()


async def test_a_closed_channel_is_worked_on_after_a_start_until_it_is_final(shell: Shell) -> None:
    """checklist 51, 52: its host has forgotten it, but a reorganisation may still bring back its outputs."""
    await due(shell)
    shell.events.clear()
    again = Resolver(shell.outside, shell.database.writer, shell.outside, REGTEST, shell.outside)  # type: ignore[arg-type]
    again.start(frozenset(), BlockHeight(shell.world.chain.height))
    await shell.idle()
    assert len(heard(shell, Resume)) == 1
    assert again._env.fast == 1000  # not the floor: what is raised now is raised to the market


async def test_what_the_chain_undoes_is_told(shell: Shell) -> None:
    """checklist 46, 51: spends in the mempool too, of outputs that are watched."""
    await due(shell)
    (output,) = shell.state().outputs
    at = (output.txid, output.index)
    shell.resolver.output_spent(chain.OutpointSpent(*at, _other(shell.tx), None, 0))
    shell.resolver.output_unspent(chain.SpendReorganised(*at))
    shell.resolver.output_unspent(chain.SpendReorganised(b"\x01" * 32, 0))
    shell.resolver.funding_unspent(1)
    shell.resolver.funding_unspent(77)
    await shell.calm()
    assert heard(shell, OutputSpent) == [OutputSpent(*at, _other(shell.tx), None)]
    assert heard(shell, SpendLost) == [SpendLost(*at)]
    assert heard(shell, Unconfirmed) == [Unconfirmed()]
    assert shell.state().height is None


async def test_each_effect_is_said_to_whom_it_concerns(shell: Shell) -> None:
    """checklist 46, 48, 52: outputs are watched in the mempool as well; a child goes with its parent; coins that are
    not needed are free again, and what is superseded is not sent any more."""
    await due(shell)
    facts, (output,) = shell.state().facts, shell.state().outputs
    outcome = Outcome(True, 3, False)
    shell.outside.said.clear()
    for effect in (
        Watch(output.txid, output.index, output.script, 90),
        Publish(shell.tx, "words", (_other(shell.tx),)),
        ReleaseCoins(4),
        Forget(b"\x05" * 32),
        Settle(outcome),
        Done(),
        Unwatch(output.txid, output.index),
    ):
        shell.resolver._perform(1, facts, effect)
        await shell.idle()
    assert shell.outside.said == [
        chain.WatchOutput(output.txid, output.index, output.script, 90, mempool=True),
        chain.Broadcast(shell.tx, "words", keep=False, parents=(_other(shell.tx),)),
        wallet.ReleasePlan(purpose_of(facts, 4)),
        chain.Forget(b"\x05" * 32),
        outcome,
        1,
        chain.UnwatchOutput(output.txid, output.index),
    ]
    shell.resolver.output_unspent(chain.SpendReorganised(output.txid, output.index))
    await shell.calm()
    assert not heard(shell, SpendLost)  # nothing that happens to it matters any more


def _other(raw: bytes) -> bytes:
    tx = Transaction.parse(raw)
    return Transaction(tx.version, tx.inputs, tx.outputs[:1], tx.locktime).serialize()
