"""What strangers may try over real TCP: garbage, silence, floods, deafness, broken messages."""

import asyncio

from node.peer.limits import PeerLimits
from protocol import curve
from protocol.bus.messages import peer as messages
from protocol.transport import LinkProfile
from tests.node.peer.network import INIT, Make, RawLink, TcpRawPeer, is_down, is_up, pair, until
from tests.node.peer.wiring import ALICE_KEY, BOB_KEY


async def test_garbage_is_closed_in_silence(make: Make):
    bob = await make(BOB_KEY)
    link = await RawLink.to(bob)
    link.writer.write(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n" + bytes(100))
    assert await link.is_closed()
    assert bob.signer.calls == 0
    assert bob.channels.heard == []


async def test_silent_stranger_is_closed_after_the_handshake_timeout(make: Make):
    bob = await make(BOB_KEY)
    link = await RawLink.to(bob)
    link.writer.write(b"\0\1\2")
    await until(lambda: bob.peers._connections)
    bob.now = 11.0
    assert await link.is_closed()


async def test_oldest_half_open_connection_goes_when_there_are_too_many(make: Make):
    bob = await make(BOB_KEY, limits=PeerLimits(half_open=3))
    links = []
    for _ in range(4):
        links.append(await RawLink.to(bob))
        await until(lambda: bob.peers._opened == len(links))
    assert await links[0].is_closed()
    assert len(bob.peers._connections) == 3
    alice = await make(ALICE_KEY)
    assert (await alice.connect(bob)).connected
    for link in links[1:]:
        link.writer.close()


async def test_strangers_beyond_the_limit_are_not_let_in(make: Make):
    bob = await make(BOB_KEY, limits=PeerLimits(peers=1))
    alice = await make(ALICE_KEY)
    await alice.connect(bob)
    stranger = await TcpRawPeer.to(bob, key=bytes([7]) * 32)
    await stranger.hears_until_closed()
    bob.bus.send("peer", messages.KeepPeer(curve.point_of(bytes([7]) * 32)))
    friend = await TcpRawPeer.to(bob, key=bytes([7]) * 32)
    friend.sends(INIT)
    await bob.channels.until(lambda heard: len([m for m in heard if isinstance(m, messages.PeerUp)]) == 2)
    friend.link.writer.close()


async def test_bad_message_gets_a_warning_and_ends_only_its_own_connection(make: Make):
    alice, bob = await pair(make)
    stranger = await TcpRawPeer.to(bob, key=bytes([7]) * 32)
    stranger.sends(INIT, b"\0\x88good", b"\0\x2a even and unknown")
    heard = await stranger.hears_until_closed()
    assert [type(message).__name__ for message in heard] == ["Init", "Warning"]
    await bob.channels.until(is_down)
    assert [message.frame for message in bob.channels.all(messages.FromPeer)] == [b"\0\x88good"]
    alice.send(bob, b"\0\x88alive")
    await bob.channels.until(lambda heard: getattr(heard[-1], "frame", b"") == b"\0\x88alive")


async def test_peer_that_does_not_read_is_dropped(make: Make):
    bob = await make(BOB_KEY, limits=PeerLimits(unread_bytes=8_000_000), profile=LinkProfile(latency=0.001))
    deaf = await TcpRawPeer.to(bob)
    deaf.sends(INIT)
    await bob.channels.until(is_up)
    (up,) = bob.channels.all(messages.PeerUp)
    frames = (b"\0\x80" + bytes(60_000),) * 20
    deaf.link.writer.transport.pause_reading()  # type: ignore[attr-defined]
    while not is_down(bob.channels.heard):
        bob.bus.send("peer", messages.ToPeer(up.node_id, up.connection, frames))
        await asyncio.sleep(0)
    (down,) = bob.channels.all(messages.PeerDown)
    assert down.reason == "the peer does not read what we send"
    deaf.link.writer.transport.abort()


async def test_peer_that_reads_may_be_sent_more_than_the_limit(make: Make):
    alice, bob = await pair(make, limits=PeerLimits(unread_bytes=2_000_000))
    for number in range(100):
        alice.send(bob, b"\0\x80" + bytes(60_000))
        await bob.channels.until(lambda heard, number=number: len(heard) >= number)
    await bob.channels.until(lambda heard: len(heard) == 101)
    assert not is_down(alice.channels.heard)


async def test_flood_is_read_no_faster_than_the_budget(make: Make):
    limits = PeerLimits(receive_burst=100_000, receive_bytes_per_second=10_000)
    bob = await make(BOB_KEY, limits=limits)
    flood = await TcpRawPeer.to(bob)
    flood.sends(INIT)
    await bob.channels.until(is_up)
    for _ in range(200):
        flood.sends(b"\0\x80" + bytes(60_000))
    (connection,) = bob.peers._connections.values()
    await until(lambda: connection._paused)
    before = len(bob.channels.all(messages.FromPeer))
    assert before < 200
    for step in range(1, 3000):
        bob.now = 100.0 * step
        await asyncio.sleep(0)
        bob.peers.tick()
        if len(bob.channels.all(messages.FromPeer)) == 200:
            break
        await asyncio.sleep(0.001)
    assert len(bob.channels.all(messages.FromPeer)) == 200
    flood.link.writer.close()
