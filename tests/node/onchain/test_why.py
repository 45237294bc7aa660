"""The running node says why, what comes of it, until when, and what to do; and warns before (issue 4, item 5)."""

import importlib.util
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from node.channel import explain
from node.channel.explain import WARN_AT
from node.signer_link.client import SignerState
from protocol.amounts import Sat
from protocol.bitcoin.transaction import txid_hex
from protocol.bus.bus import Bus
from protocol.bus.messages import channel as said
from protocol.bus.messages import peer
from protocol.bus.messages.why import (
    BECAUSE,
    BLOCK_SECONDS,
    HAPPENED,
    NEXT,
    NOW,
    YOU,
    Answer,
    ListWarnings,
    Warned,
    Why,
    time_of,
)
from protocol.bus.service import Service, hears
from protocol.errors import CommandRefused
from protocol.wire.bolt1 import Error, Warning
from protocol.wire.message import encode
from tests.node.onchain.services import Node, Pair
from tests.node.onchain.test_service import resolved
from tests.node.wallet.support import until
from tests.support import need

BIG = 200_000_000


class Listener(Service):
    name: ClassVar[str] = "listener"

    def __init__(self, bus: Bus) -> None:
        super().__init__(bus)
        self.heard: list[Warned] = []

    @hears(Warned)
    def warned(self, event: Warned) -> None:
        self.heard.append(event)


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    need("kernel", importlib.util.find_spec("pbk") is not None, "py-bitcoinkernel is not installed")
    made = Pair(tmp_path)
    await made.start()
    await made.open(anchors=True)
    yield made
    await made.stop()


async def ask(node: Node, selector: str) -> Answer:
    answer: Answer | None = await node.bus.request("channel", Why(selector))
    assert answer is not None
    return answer


def said_about(answer: Answer, about: str) -> str:
    return "\n".join(line.text for line in answer.lines if line.about == about)


async def channel_id(node: Node) -> str:
    return (await node.channel()).channel_id.hex()


async def test_a_healthy_channel_has_nothing_to_explain(pair: Pair) -> None:
    answer = await ask(pair.alice, await channel_id(pair.alice))
    assert answer.kind == "channel" and "CHANNELD_NORMAL" in answer.title
    assert "can be used" in said_about(answer, NOW)
    assert not said_about(answer, YOU)


async def test_a_close_tells_its_cause_its_deadlines_and_its_end(pair: Pair) -> None:
    """checklist 43: the HTLC, its blocks, what each output may cost and why, when the node forgets."""
    name = await channel_id(pair.alice)
    expiry = pair.chain.height + 20
    await pair.offer(pair.alice, BIG, expiry)
    before = await ask(pair.alice, name)
    (warned,) = [line for line in before.lines if "closes the channel alone" in line.text]
    assert warned.about == NEXT and warned.height == expiry + 2
    assert f"expires at block {expiry}" in said_about(before, NOW)
    pair.disconnect()
    await pair.mine_to(expiry + 2)
    await until(lambda: bool(pair.chain.mempool.entries))
    await pair.mine()
    await until(lambda: pair.alice.channels._resolver.states()[0].height is not None)
    answer = await ask(pair.alice, name)
    assert "AWAITING_UNILATERAL" in answer.title
    assert f"expired at block {expiry}" in said_about(answer, BECAUSE)
    assert "our own commitment" in said_about(answer, HAPPENED)
    assert "messages: " in said_about(answer, HAPPENED) and ">commitment_signed" in said_about(
        answer, HAPPENED
    )
    costs = said_about(answer, NOW) + said_about(answer, NEXT)
    assert "at most 50000 sat of fee, a quarter of its" in costs
    delayed = [line for line in answer.lines if "which our own commitment delays" in line.text]
    assert delayed[0].height is not None and delayed[0].height > pair.chain.height
    ahead = [line for line in answer.lines if line.height is not None and line.height > pair.chain.height]
    assert ahead and all(line.at is not None for line in ahead)
    assert "keep node and signer running" in said_about(answer, YOU)
    await resolved(pair, pair.alice, pair.bob)
    closed = await ask(pair.alice, name)
    assert "CLOSED" in closed.title and "100 deep" in said_about(closed, NEXT)
    await pair.alice.restart()
    again = await ask(pair.alice, name)
    assert said_about(again, HAPPENED) == said_about(closed, HAPPENED)


async def test_a_sweep_is_explained_by_its_own_id(pair: Pair) -> None:
    """checklist 52"""
    pair.disconnect()
    closed = await pair.alice.bus.request("channel", said.CloseChannel(await channel_id(pair.alice), 1))
    await pair.mine(4)
    close = await ask(pair.alice, txid_hex(closed.txid))
    assert close.kind == "sweep" and "our own commitment" in said_about(close, HAPPENED)
    state = pair.bob.channels._resolver.states()[0]
    (spent,) = [o.spent for o in state.outputs if o.spent is not None]
    sweep = await ask(pair.bob, txid_hex(spent.txid))
    assert sweep.kind == "sweep" and "our balance" in said_about(sweep, HAPPENED)


async def test_what_nobody_knows_is_not_explained(pair: Pair) -> None:
    assert await pair.alice.bus.request("channel", Why("00" * 32)) is None
    assert await pair.alice.bus.request("channel", Why("hello")) is None


async def test_a_name_that_fits_two_channels_is_refused(pair: Pair) -> None:
    await pair.alice.bus.request(
        "channel", said.FundChannel(pair.bob.node_id, Sat(1_000_000), None, anchors=True)
    )
    await pair.mine(3)
    with pytest.raises(CommandRefused, match="2 channels"):
        await pair.alice.bus.request("channel", Why(pair.bob.node_id.hex()))


async def test_the_peers_words_are_kept(pair: Pair) -> None:
    """A warning changes nothing, and may be the cause of what follows; an error closes the channel."""
    info = await pair.alice.channel()
    for message in (
        Warning(info.channel_id, b"your fee is odd"),
        Error(info.channel_id, b"I have lost my mind"),
    ):
        frame = encode(message)
        pair.alice.bus.send("channel", peer.FromPeer(pair.bob.node_id, pair.alice.connection, frame))
    await until(lambda: pair.alice.channels._channels[info.channel_id].state.committed.why != "")
    await pair.mine(1)
    answer = await ask(pair.alice, info.channel_id.hex())
    assert "I have lost my mind" in said_about(answer, BECAUSE)
    words = said_about(answer, HAPPENED)
    assert "the peer said: your fee is odd" in words and "the peer said: I have lost my mind" in words


# Warnings.


async def listening(node: Node) -> Listener:
    listener = Listener(node.bus)
    await listener.start()
    return listener


def deadlines(listener: Listener) -> list[Warned]:
    return [event for event in listener.heard if event.key.startswith("deadline")]


async def test_a_deadline_is_warned_of_twice_and_not_oftener(pair: Pair) -> None:
    """checklist 43: twelve and six blocks before the node closes the channel by itself."""
    listener = await listening(pair.alice)
    expiry = pair.chain.height + 25
    await pair.offer(pair.alice, BIG, expiry)
    pair.disconnect()
    closes_at = expiry + 2
    await pair.mine_to(closes_at - WARN_AT[0] - 1)
    assert not deadlines(listener)
    await pair.mine()
    (first,) = deadlines(listener)
    assert (
        first.until == closes_at
        and f"block {closes_at}" in first.sentence
        and "lnp connect" in first.what_to_do
    )
    await pair.mine(5)
    assert deadlines(listener) == [first]
    await pair.mine()
    assert len(deadlines(listener)) == 2
    await pair.mine_to(closes_at - 1)
    assert len(deadlines(listener)) == 2
    now = await pair.alice.bus.request("channel", ListWarnings())
    assert [one.key for one in now.warnings if one.key.startswith("deadline")] == [deadlines(listener)[1].key]
    await pair.mine()
    assert (await pair.alice.channel()).state == "AWAITING_UNILATERAL"
    now = await pair.alice.bus.request("channel", ListWarnings())
    assert not [one for one in now.warnings if one.key.startswith("deadline")]
    await listener.stop()


async def test_a_settled_htlc_is_not_warned_of(pair: Pair) -> None:
    listener = await listening(pair.alice)
    htlc = await pair.offer(pair.alice, BIG, pair.chain.height + 20)
    pair.fulfil(pair.bob, htlc)
    await until(lambda: bool(pair.alice.payments.fulfilled))
    await pair.mine(15)
    assert not deadlines(listener)
    await listener.stop()


async def test_a_signer_that_is_away_while_htlcs_run_is_warned_of(pair: Pair, monkeypatch: Any) -> None:
    listener = await listening(pair.alice)
    pair.alice.signer.state = SignerState.AWAY
    monkeypatch.setattr(pair.alice.signer, "reason", "it was stopped", raising=False)
    await pair.mine()
    assert not [event for event in listener.heard if event.key.startswith("signer")]  # nothing is at stake
    pair.alice.signer.state = SignerState.UP
    await pair.offer(pair.alice, BIG, pair.chain.height + 60)
    pair.alice.signer.state = SignerState.AWAY
    await pair.mine(3)
    (warned,) = [event for event in listener.heard if event.key.startswith("signer")]
    assert "it was stopped" in warned.sentence and "Start the signer" in warned.what_to_do
    answer = await ask(pair.alice, await channel_id(pair.alice))
    assert "it was stopped" in said_about(answer, BECAUSE)
    pair.alice.signer.state = SignerState.UP
    await pair.mine()
    now = await pair.alice.bus.request("channel", ListWarnings())
    assert not [one for one in now.warnings if one.key.startswith("signer")]
    await listener.stop()


async def test_a_short_fee_reserve_is_warned_of_once_and_forgotten_when_it_is_filled(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """checklist 48: keep a reserve for the anchors."""
    listener = await listening(pair.alice)
    await pair.mine()
    assert not listener.heard
    asked: list[tuple[int, int]] = []

    def too_much(channels: int, slots: int) -> Sat:
        asked.append((channels, slots))
        return Sat(100_000_000)

    monkeypatch.setattr(explain, "needed", too_much)
    await pair.offer(pair.alice, BIG, pair.chain.height + 60)
    await pair.offer(pair.alice, 100_000, pair.chain.height + 60)  # not worth a second stage
    await pair.mine(3)
    assert asked[-1] == (1, 1)
    (warned,) = [event for event in listener.heard if event.key == "reserve"]
    assert "lnp newaddr" in warned.what_to_do
    monkeypatch.undo()
    await pair.mine(2)
    assert not (await pair.alice.bus.request("channel", ListWarnings())).warnings
    await listener.stop()


def test_the_hour_of_a_block_is_ten_minutes_from_that_of_the_one_before() -> None:
    assert time_of(110, 100, 1_700_000_000.4) == 1_700_000_000 + 10 * BLOCK_SECONDS
    assert time_of(90, 100, 1_700_000_000.0) == 1_700_000_000 - 10 * BLOCK_SECONDS
