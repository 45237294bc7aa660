"""What the service tells a channel of a connection and of its signer, and the shell's clock (BOLT 9; DESIGN, "Version
sets"; BOLT 2, "Channel Quiescence")."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from node.channel.channel import Channel
from node.channel.commands import hello
from node.channel.events import (
    CloseWanted,
    Connected,
    Drop,
    Env,
    Event,
    ForceCloseWanted,
    FromPeer,
    FundingSpent,
    Later,
    QuietTooLong,
    Resolve,
    ResolvedOnChain,
    Say,
    Send,
    SignerIsAhead,
    Step,
)
from node.channel.service import ChannelService
from node.channel.state import Closing, Offline, State
from node.channel.step import steps
from protocol.amounts import BlockHeight, Sat
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bolt9 import OUR_INIT, FeatureSet
from protocol.bus.messages import signer as sign
from protocol.wire.bolt2_close import Shutdown
from tests.node.channel.pair import Pair, open_channel


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        (FeatureSet.of(), Connected(7)),
        (FeatureSet.of(27, 61), Connected(7, simple_close=True)),
        (FeatureSet.of(34), Connected(7, can_quiesce=True)),
        (OUR_INIT, Connected(7, simple_close=True, can_quiesce=True)),
    ],
)
def test_a_channel_is_told_what_both_sides_of_a_connection_know(theirs: FeatureSet, told: Connected) -> None:
    """checklist 24, 55: used only where both signalled it."""
    assert hello(theirs, 7) == told


def opened(folder: Path) -> tuple[State, sign.NumbersOfChannel]:
    """In a thread of its own: it runs an event loop, and a signer's database stays in its thread."""
    pair = Pair(folder)
    open_channel(pair)
    assert pair.alice.state is not None
    return pair.alice.state, pair.alice.numbers()


class _Numbers:
    """A signer that says how far it has come."""

    def __init__(self, *numbers: sign.NumbersOfChannel) -> None:
        self.numbers = sign.Numbers(numbers)

    async def call(self, request: sign.Request) -> sign.Reply:
        assert isinstance(request, sign.ChannelNumbers)
        return self.numbers


@pytest.mark.parametrize("ahead", [0, 1])
async def test_a_start_finds_what_the_signer_signed_and_we_forgot(tmp_path: Path, ahead: int) -> None:
    state, numbers = await asyncio.to_thread(opened, tmp_path)
    service: Any = ChannelService.__new__(ChannelService)
    service._signer = _Numbers(replace(numbers, counterparty_signed=numbers.counterparty_signed + ahead))
    told: list[object] = []
    channel: Any = Channel(1, state, None)  # type: ignore[arg-type]
    channel.put = told.append
    service._channels = {channel.channel_id: channel}
    await service._compare_numbers()
    assert told == [SignerIsAhead(numbers.counterparty_signed + 1)] * ahead


async def test_a_signer_that_is_busy_at_the_start_is_asked_again(tmp_path: Path) -> None:
    """checklist 30: never compared, an old copy of a database would not be found out."""
    state, numbers = await asyncio.to_thread(opened, tmp_path)
    signer = _Numbers(replace(numbers, counterparty_signed=numbers.counterparty_signed + 1))
    answers: list[sign.Reply] = [sign.NotNow("busy", 0.0), signer.numbers]

    async def call(_request: sign.Request) -> sign.Reply:
        return answers.pop(0)

    signer.call = call  # type: ignore[method-assign]
    service: Any = ChannelService.__new__(ChannelService)
    service._signer = signer
    told: list[object] = []
    channel: Any = Channel(1, state, None)  # type: ignore[arg-type]
    channel.put = told.append
    service._channels = {channel.channel_id: channel}
    await service._compare_numbers()
    assert told == [SignerIsAhead(numbers.counterparty_signed + 1)]


async def test_what_is_for_later_is_stepped_later(tmp_path: Path) -> None:
    """checklist 24: the minute of a channel at rest."""

    class Outside:
        def later(self, _channel: Channel) -> None:
            woken.set()

    state, _ = await asyncio.to_thread(opened, tmp_path)
    woken = asyncio.Event()
    channel = Channel(1, state, Outside())  # type: ignore[arg-type]
    channel._perform([Later(0.0, QuietTooLong(1))])
    assert not channel._events
    await woken.wait()
    assert channel._events == [QuietTooLong(1)]
    channel.turn(Env())
    assert not channel.halted


class SlowDisk:
    """Saves that the test finishes."""

    keeps_revoked = False

    def __init__(self) -> None:
        self.saves: list[asyncio.Future[None]] = []
        self.left: list[type] = []

    def save(self, _unit: object, *, now: bool) -> asyncio.Future[None]:
        self.saves.append(asyncio.get_running_loop().create_future())
        return self.saves[-1]

    def later(self, _channel: Channel) -> None:
        pass

    def perform(self, _channel: Channel, effect: object) -> None:
        self.left.append(type(effect))


@pytest.mark.parametrize("fails", [False, True])
async def test_nothing_leaves_before_its_save_nor_overtakes_what_waits(tmp_path: Path, fails: bool) -> None:
    """STYLE 3: once the peer holds what we sent, a crash may not make us forget that we did. checklist 25"""
    state, _ = await asyncio.to_thread(opened, tmp_path)
    disk = SlowDisk()
    channel = Channel(1, state, disk)  # type: ignore[arg-type]
    channel.put(CloseWanted())
    channel.turn(Env())
    channel.put(FromPeer(Shutdown(channel.channel_id, b"\x51")))  # costs the connection, and saves nothing
    channel.turn(Env())
    assert len(disk.saves) == 1
    assert disk.left == []
    if fails:
        disk.saves[0].set_exception(OSError("the disk is full"))
    else:
        disk.saves[0].set_result(None)
    await asyncio.sleep(0)
    assert disk.left == ([] if fails else [Say, Send, Drop])
    assert bool(channel.halted) is fails


async def test_a_fault_on_a_connection_that_is_gone_does_not_cost_the_next_one(tmp_path: Path) -> None:
    """checklist 25: the host drops whatever connection the peer has by then."""
    state, _ = await asyncio.to_thread(opened, tmp_path)
    disk = SlowDisk()
    channel = Channel(1, state, disk)  # type: ignore[arg-type]
    channel.put(CloseWanted())
    channel.turn(Env())
    channel.put(FromPeer(Shutdown(channel.channel_id, b"\x51")))
    channel.turn(Env())
    channel.put(Connected(2))
    channel.turn(Env())
    for save in disk.saves:
        save.set_result(None)
    await asyncio.sleep(0)
    assert disk.left and Drop not in disk.left


async def test_a_later_save_that_is_done_first_waits_its_turn(tmp_path: Path) -> None:
    state, _ = await asyncio.to_thread(opened, tmp_path)
    disk = SlowDisk()
    channel = Channel(1, state, disk)  # type: ignore[arg-type]
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    channel._behind.extend([(first, [Drop("first")]), (second, [Say(None)])])  # type: ignore[arg-type]
    second.set_result(None)
    channel._saved(second)
    assert disk.left == []
    first.set_result(None)
    channel._saved(first)
    assert disk.left == [Drop, Say]


SPENT = Transaction(2, (TxIn(OutPoint(b"\x05" * 32, 0)),), (TxOut(Sat(1), b"\x51"),)).serialize()


@pytest.mark.parametrize(
    "due",
    [ForceCloseWanted("the HTLC is due"), FundingSpent(SPENT, BlockHeight(120), 1)],
    ids=["due", "cheat"],
)
async def test_a_bug_that_a_peer_brings_about_does_not_make_us_blind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, due: Event
) -> None:
    """STYLE 6: the channel stops and its state is kept. But a peer that found such a message could let our deadlines
    pass, or publish what it has revoked: what the chain says and what is due goes on."""
    state, _ = await asyncio.to_thread(opened, tmp_path)

    class Disk(SlowDisk):
        def __init__(self) -> None:
            super().__init__()
            self.asked: list[Any] = []

        def ask(self, request: sign.ChannelRequest, _answered: object) -> None:
            self.asked += request.operations

    def buggy(before: State, events: list[Event], env: Env) -> Step:
        if any(isinstance(event, FromPeer | ResolvedOnChain) for event in events):
            raise KeyError("a bug")
        return steps(before, events, env)

    monkeypatch.setattr("node.channel.channel.steps", buggy)
    disk = Disk()
    channel = Channel(1, state, disk)  # type: ignore[arg-type]
    message = FromPeer(Shutdown(channel.channel_id, b"\x51"))
    channel.put(message)
    channel.turn(Env())
    assert "a bug" in channel.halted
    assert isinstance(channel.state.volatile.link, Offline)
    for deaf in (message, Connected(7), CloseWanted()):
        channel.put(deaf)
        channel.turn(Env())
    assert (disk.saves, disk.left, disk.asked) == ([], [], [])
    channel.put(ResolvedOnChain())  # the bug again: left out, and what comes with it is not
    channel.put(due)
    channel.turn(Env())
    assert isinstance(channel.state.committed.phase, Closing)
    assert len(disk.saves) == 1
    if isinstance(due, FundingSpent):  # the resolution of the cheat's commitment begins
        disk.saves[0].set_result(None)
        await asyncio.sleep(0)
        assert Resolve in disk.left
    else:
        assert isinstance(disk.asked[0], sign.SignHolderCommitment)
