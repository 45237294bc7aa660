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
from protocol import curve
from protocol.amounts import FeeratePerKw, Msat, Sat
from protocol.bolt9 import OUR_INIT, ChannelType
from protocol.errors import CommandRefused, PeerViolation
from protocol.wire.bolt2_open import AcceptChannel, FundingCreated, FundingSigned, OpenChannel
from protocol.wire.message import Message
from tests.node.channel.pair import _IO, ALICES_ALIAS, BOBS_ALIAS, CHAIN, Pair

Bend = Callable[[Message], Message]


class Bent(_IO):
    """An end whose messages are bent on their way out."""

    bend: Bend = staticmethod(lambda message: message)

    def send(self, message: Message) -> None:
        super().send(self.bend(message))


async def run(
    pair: Pair,
    *,
    alice: Bend | None = None,
    bob: Bend | None = None,
    taken: bool = False,
    taken_by_us: bool = False,
    kind: ChannelType = ChannelType.ANCHORS,
    announce: bool = False,
    mindepth: int | None = None,
    trusted: bool = False,
) -> list[Any]:
    """Both sides to their end; what each came to, an opening or an error."""
    ours, theirs = Bent(pair.alice), Bent(pair.bob)
    ours.peer, theirs.peer = theirs, ours
    ours.bend, theirs.bend = alice or (lambda m: m), bob or (lambda m: m)
    if taken_by_us:
        ours.claim = lambda _channel_id: False  # type: ignore[method-assign]
    if taken:
        theirs.claim = lambda _channel_id: False  # type: ignore[method-assign]
    wish = opening.Wish(
        peer=pair.bob.node_id,
        chain_hash=CHAIN,
        request_id=os.urandom(32),
        temporary_channel_id=os.urandom(32),
        funding=Sat(1_000_000),
        push_msat=Msat(0),
        feerate_per_kw=FeeratePerKw(1000),
        kind=kind,
        announce=announce,
        alias=ALICES_ALIAS,
        mindepth=mindepth,
    )

    async def fundee() -> opening.Opened:
        offer = await theirs.receive(OpenChannel)
        opened = await opening.accept(
            theirs,  # type: ignore[arg-type]
            offer,  # type: ignore[arg-type]
            Policy(zeroconf_peers=frozenset({pair.alice.node_id} if trusted else ())),
            peer=pair.alice.node_id,
            features=OUR_INIT,
            chain_hash=CHAIN,
            request_id=os.urandom(32),
            alias=BOBS_ALIAS,
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


def high_s(message: Message) -> Message:
    """The same signature in its other form, which anybody can make of it."""
    if isinstance(message, FundingCreated | FundingSigned):
        s = curve.ORDER - int.from_bytes(message.signature[32:], "big")
        return replace(message, signature=message.signature[:32] + s.to_bytes(32, "big"))
    return message


@pytest.fixture
def pair(tmp_path: Path) -> Pair:
    return Pair(tmp_path)


async def test_an_honest_opening_ends_in_the_same_state_on_both_sides(pair: Pair) -> None:
    """checklist 8, 9, 10: what the rules allow is taken."""
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


async def test_a_signature_with_a_high_s_is_none(pair: Pair) -> None:
    """checklist 9"""
    _, other = await run(pair, alice=high_s)
    assert isinstance(other, PeerViolation)


async def test_a_signature_of_the_fundee_with_a_high_s_is_none(pair: Pair) -> None:
    """checklist 9"""
    one, _ = await run(pair, bob=high_s)
    assert isinstance(one, PeerViolation)


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


@pytest.mark.parametrize("announce", [True, False])
async def test_both_sides_keep_whether_the_channel_is_announced(pair: Pair, announce: bool) -> None:
    opened = await run(pair, announce=announce)
    assert [one.committed.params.announce for one in opened] == [announce, announce]


@pytest.mark.parametrize("kind", list(ChannelType))
async def test_every_channel_type_opens_and_both_sides_keep_it(pair: Pair, kind: ChannelType) -> None:
    """checklist 12, 13: an exact set, echoed by the fundee; a zeroconf one waits for no block."""
    opened = await run(pair, kind=kind, trusted=True, mindepth=0 if kind.zeroconf else None)
    for one in opened:
        params = one.committed.params
        assert (params.anchors, params.scid_alias, params.zeroconf) == (
            kind.anchors,
            kind.scid_alias,
            kind.zeroconf,
        )
        assert params.minimum_depth == (0 if kind.zeroconf else 3)
    assert [one.committed.alias_local for one in opened] == [ALICES_ALIAS, BOBS_ALIAS]


async def test_zeroconf_without_consent_ends_the_opening(pair: Pair) -> None:
    """checklist 13"""
    _, other = await run(pair, kind=ChannelType.ANCHORS_ZEROCONF, mindepth=0)
    assert isinstance(other, PeerViolation)
    assert "does not trust you" in str(other)


async def test_a_minimum_depth_of_0_that_nobody_asked_for_is_refused(pair: Pair) -> None:
    """checklist 13"""

    def rash(message: Message) -> Message:
        return replace(message, minimum_depth=0) if isinstance(message, AcceptChannel) else message

    one, _ = await run(pair, bob=rash)
    assert isinstance(one, PeerViolation)
    assert "before its funding is confirmed" in str(one)


async def test_the_opener_may_wait_longer_than_the_peer_asks_for(pair: Pair) -> None:
    one, other = await run(pair, mindepth=6)
    assert (one.committed.params.minimum_depth, other.committed.params.minimum_depth) == (6, 3)


async def test_our_upfront_script_is_the_cold_one_of_the_signer_and_theirs_is_kept(pair: Pair) -> None:
    """BOLT 2, upfront_shutdown_script: given at the open, and all that a later shutdown may name."""
    said: list[bytes | None] = []

    def note(message: Message) -> Message:
        if isinstance(message, OpenChannel | AcceptChannel):
            said.append(message.tlvs.upfront_shutdown_script)
        return message

    one, other = await run(pair, alice=note, bob=note)
    ours, theirs = one.committed.params, other.committed.params
    assert said == [ours.holder_script, theirs.holder_script]
    assert (ours.counterparty_upfront_script, theirs.counterparty_upfront_script) == (said[1], said[0])


async def test_our_own_funding_never_takes_the_id_of_another_channel(pair: Pair) -> None:
    """checklist 11: the peer may have taken the id meanwhile with an open of its own."""
    one, _ = await run(pair, taken_by_us=True)
    assert isinstance(one, CommandRefused)
    assert "another channel uses" in str(one)
