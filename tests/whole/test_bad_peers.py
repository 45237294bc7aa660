"""Malformed bytes from a peer end that connection, and nothing but it (BOLT 1; BOLT 8)."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import pytest_asyncio

from node.demo.stack import Stack
from protocol.wire import bolt1, encode
from protocol.wire.bolt2_update import CommitmentSigned
from protocol.wire.bolt7_gossip import GossipTimestampFilter, QueryChannelRange
from protocol.wire.message import Message
from tests.whole.hostile import INIT, Hostile
from tests.whole.support import Answer, ask, folder, normal, open_channel


def answers(heard: list[Message]) -> list[type[Message]]:
    """A moment after init we also ask for gossip, and that may come first."""
    asked = (GossipTimestampFilter, QueryChannelRange)
    return [type(message) for message in heard if not isinstance(message, asked)]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    with folder() as place, Stack(place) as made:
        made.start()
        open_channel(made)
        yield made


@pytest_asyncio.fixture
async def dial(stack: Stack) -> AsyncIterator[Callable[[], Awaitable[Hostile]]]:
    alice = stack.nodes["alice"]
    made: list[Hostile] = []

    async def one() -> Hostile:
        node_id = (await ask(alice, "getinfo"))["id"]
        made.append(await Hostile.dial(alice.address, node_id))
        return made[-1]

    yield one
    for hostile in made:
        hostile.leave()


async def is_untouched(stack: Stack) -> None:
    """The channel with the honest peer is as usable as before, on the same connection."""
    alice, bob = stack.nodes["alice"], stack.nodes["bob"]
    assert await asyncio.to_thread(normal, alice, bob)
    invoice = await ask(bob, "invoice", 1_000, os.urandom(8).hex(), "still here")
    paid: Answer = await ask(alice, "xpay", invoice["bolt11"])
    assert len(paid["payment_preimage"]) == 64
    log = alice.daemon.log.read_text(errors="replace")
    assert "event=bug" not in log
    bob_id = (await ask(bob, "getinfo"))["id"]
    assert log.count(f"event=peer_down node_id={bob_id}") == 1, "beside the one of `open_channel`"


GARBAGE = {
    "text of another protocol": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" + bytes(80),
    "random bytes": random.Random(1).randbytes(4_000),
    "wrong version byte": b"\x01" + random.Random(2).randbytes(49),
    "key that is no point": b"\x00" + b"\x05" * 33 + bytes(16),
    "zeros": bytes(10_000),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
async def test_bytes_that_are_no_handshake_are_hung_up_on(
    stack: Stack, dial: Callable[[], Awaitable[Hostile]], data: bytes
) -> None:
    hostile = await dial()
    hostile.raw(data)
    assert await hostile.hears_until_closed() == []
    await is_untouched(stack)


async def test_half_a_handshake_holds_up_nobody(stack: Stack, dial: Callable[[], Awaitable[Hostile]]) -> None:
    for size in (1, 20, 49):
        hostile = await dial()
        hostile.raw(hostile.handshake.act_one()[:size])
    await is_untouched(stack)


async def test_wrong_act_three_is_hung_up_on(stack: Stack, dial: Callable[[], Awaitable[Hostile]]) -> None:
    hostile = await dial()
    await hostile.shake_hands(change_act_three=True)
    assert await hostile.hears_until_closed() == []
    await is_untouched(stack)


async def test_garbage_after_a_good_handshake_ends_only_this_connection(
    stack: Stack, dial: Callable[[], Awaitable[Hostile]]
) -> None:
    hostile = await dial()
    await hostile.shake_hands()
    hostile.say(INIT)
    hostile.raw(random.Random(3).randbytes(3_000))
    heard = await hostile.hears_until_closed()
    assert answers(heard) == [bolt1.Init]
    await is_untouched(stack)


MESSAGES = {
    "message before init": (encode(bolt1.Ping(4, b"")),),
    "init that is cut off": (INIT[:5],),
    "init with an unknown even feature": (encode(bolt1.Init(b"", b"\x01" + bytes(30), bolt1.InitTlvs())),),
    "init for another chain": (encode(bolt1.Init(b"", b"", bolt1.InitTlvs(networks=(bytes(32),)))),),
    "two inits": (INIT, INIT),
    "unknown even type": (INIT, b"\x80\x00 even"),
    "message of one byte": (INIT, b"\x00"),
    "empty message": (INIT, b""),
    "cut-off channel message": (INIT, encode(CommitmentSigned(bytes(32), bytes(64), ()))[:40]),
    "open_channel of noise": (INIT, b"\x00\x20" + random.Random(4).randbytes(300)),
}


@pytest.mark.parametrize("frames", MESSAGES.values(), ids=MESSAGES.keys())
async def test_bad_message_gets_a_warning_and_ends_only_this_connection(
    stack: Stack, dial: Callable[[], Awaitable[Hostile]], frames: tuple[bytes, ...]
) -> None:
    hostile = await dial()
    await hostile.shake_hands()
    hostile.say(*frames)
    heard = await hostile.hears_until_closed()
    assert isinstance(heard[0], bolt1.Init)
    assert isinstance(heard[-1], bolt1.Warning | bolt1.Error), heard
    assert len(heard[-1].data) > 10
    await is_untouched(stack)


async def test_unknown_odd_message_and_channel_are_no_reason_to_hang_up(
    stack: Stack, dial: Callable[[], Awaitable[Hostile]]
) -> None:
    hostile = await dial()
    await hostile.shake_hands()
    hostile.say(INIT, b"\x80\x01 odd", encode(CommitmentSigned(os.urandom(32), bytes(64), ())))
    await is_untouched(stack)
    hostile.say(b"\x80\x00 even")
    heard = await hostile.hears_until_closed()
    kinds = answers(heard)
    assert kinds == [bolt1.Init, bolt1.Error, bolt1.Warning], (
        "the unknown channel is answered, the odd type is not"
    )
