"""Openings that go wrong: nothing is durable, nothing is sent, and the one at fault is named (BOLT 2)."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from node.channel import opening
from node.channel.terms import Policy
from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.errors import PeerViolation
from protocol.wire.bolt2_open import AcceptChannel, FundingCreated, FundingSigned, OpenChannel
from protocol.wire.message import Message
from tests.node.channel.pair import _IO, CHAIN, Pair

Bend = Callable[[Message], Message]


class Bent(_IO):
    """An end whose messages are bent on their way out."""

    bend: Bend = staticmethod(lambda message: message)

    def send(self, message: Message) -> None:
        super().send(self.bend(message))


async def run(
    pair: Pair, *, alice: Bend | None = None, bob: Bend | None = None, taken: bool = False
) -> list[Any]:
    """Both sides to their end; what each came to, an opening or an error."""
    ours, theirs = Bent(pair.alice), Bent(pair.bob)
    ours.peer, theirs.peer = theirs, ours
    ours.bend, theirs.bend = alice or (lambda m: m), bob or (lambda m: m)
    if taken:
        theirs.is_free = lambda _channel_id: False  # type: ignore[method-assign]
    wish = opening.Wish(
        peer=pair.bob.node_id,
        chain_hash=CHAIN,
        request_id=os.urandom(32),
        temporary_channel_id=os.urandom(32),
        funding=Sat(1_000_000),
        push_msat=Msat(0),
        feerate_per_kw=FeeratePerKw(1000),
        anchors=True,
    )

    async def fundee() -> opening.Opened:
        offer = await theirs.receive(OpenChannel)
        opened = await opening.accept(
            theirs,  # type: ignore[arg-type]
            offer,  # type: ignore[arg-type]
            Policy(),
            peer=pair.alice.node_id,
            chain_hash=CHAIN,
            request_id=os.urandom(32),
        )
        assert opened.message is not None
        theirs.send(opened.message)
        return opened

    async def opener() -> opening.Opened:
        return await opening.fund(ours, wish, Policy(), lambda _: None)  # type: ignore[arg-type]

    tasks = [asyncio.ensure_future(opener()), asyncio.ensure_future(fundee())]
    done, waiting = await asyncio.wait(tasks, timeout=5, return_when=asyncio.FIRST_EXCEPTION)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return [task.exception() or task.result() if task in done else None for task in tasks]


def other_signature(message: Message) -> Message:
    if isinstance(message, FundingCreated | FundingSigned):
        return replace(message, signature=message.signature[:32] + bytes(31) + b"\x01")
    return message


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


async def test_an_honest_opening_ends_in_the_same_state_on_both_sides(pair: Pair) -> None:
    one, other = await run(pair)
    assert one.committed.params.channel_id == other.committed.params.channel_id
    assert one.committed.settled_local == other.committed.settled_remote == 1_000_000_000
    assert one.committed.funding_purpose is not None
    assert other.committed.funding_purpose is None


async def test_a_wrong_signature_of_the_opener_opens_nothing(pair: Pair) -> None:
    """checklist 9"""
    one, other = await run(pair, alice=other_signature)
    assert isinstance(other, PeerViolation)
    assert one is None, "the opener waits for a funding_signed that never comes"


async def test_a_wrong_signature_of_the_fundee_keeps_the_funding_at_home(pair: Pair) -> None:
    """checklist 10: the funding transaction leaves only after a valid funding_signed."""
    one, _ = await run(pair, bob=other_signature)
    assert isinstance(one, PeerViolation)


async def test_funding_signed_for_another_channel_is_refused(pair: Pair) -> None:
    def other_channel(message: Message) -> Message:
        return replace(message, channel_id=bytes(32)) if isinstance(message, FundingSigned) else message

    one, _ = await run(pair, bob=other_channel)
    assert isinstance(one, PeerViolation)
    assert "another channel" in str(one)


async def test_a_funding_output_that_another_channel_uses_is_refused(pair: Pair) -> None:
    """checklist 11"""
    _, other = await run(pair, taken=True)
    assert isinstance(other, PeerViolation)
    assert "another channel has this funding output" in str(other)


async def test_unworkable_terms_in_the_answer_end_the_opening(pair: Pair) -> None:
    def greedy(message: Message) -> Message:
        if isinstance(message, AcceptChannel):
            return replace(message, channel_reserve_satoshis=Sat(900_000))
        return message

    one, _ = await run(pair, bob=greedy)
    assert isinstance(one, PeerViolation)
    assert "fifth of the channel" in str(one)
