"""TCP links: order, coalescing, backpressure, closing and addresses (protocol/transport.py)."""

import asyncio
import socket

import pytest

from protocol.transport import DialFailed, LinkClosed, LinkProfile
from transports.stream import SEND_HIGH_WATER, StreamLink
from transports.tcp import TCP_PROFILE, TcpTransport


class End:
    """One end of a link that records what arrives."""

    def __init__(self, link):
        self.link = link
        self.got = bytearray()
        self.closed = []
        self._changed = asyncio.Event()
        link.start(self._on_data, self._on_closed)

    def _on_data(self, data):
        self.got += data
        self._changed.set()

    def _on_closed(self, reason):
        self.closed.append(reason)
        self._changed.set()

    async def until(self, condition):
        async with asyncio.timeout(10):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


class Pair:
    """A listener on a free port and a way to dial it."""

    def __init__(self, profile=TCP_PROFILE):
        self.transport = TcpTransport(profile)
        self.incoming = asyncio.Queue()

    async def __aenter__(self):
        self.listener = await self.transport.listen("127.0.0.1:0", self.incoming.put_nowait)
        return self

    async def __aexit__(self, *_exc):
        await self.listener.close()

    async def links(self):
        dialled = await self.transport.dial(self.listener.addresses[0])
        async with asyncio.timeout(10):
            return dialled, await self.incoming.get()


async def test_bytes_arrive_in_order_both_ways():
    async with Pair() as pair:
        ours, theirs = (End(link) for link in await pair.links())
        ours.link.send(b"one ")
        ours.link.send(b"two")
        theirs.link.send(b"back")
        await theirs.until(lambda: theirs.got == b"one two")
        await ours.until(lambda: ours.got == b"back")
        assert ours.link.peer_address == pair.listener.addresses[0]
        assert theirs.link.peer_address.startswith("127.0.0.1:")
        ours.link.close()
        await theirs.until(lambda: theirs.closed)


class RecordingTransport(asyncio.Transport):
    def __init__(self):
        super().__init__()
        self.writes = []
        self.aborted = asyncio.Event()

    def write(self, data):
        self.writes.append(bytes(data))

    def set_write_buffer_limits(self, high=None, low=None):
        self.limit = high

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False

    def close(self):
        self.closing = True

    def abort(self):
        self.aborted.set()


def recorded(profile=TCP_PROFILE):
    link = StreamLink(asyncio.get_running_loop(), profile, None)
    transport = RecordingTransport()
    link.connection_made(transport)
    return link, transport


async def test_all_sends_of_one_turn_leave_in_one_write():
    link, transport = recorded()
    for part in (b"a", b"b", b"c"):
        link.send(part)
    assert transport.writes == []
    await asyncio.sleep(0)
    assert transport.writes == [b"abc"]
    link.send(b"d")
    await asyncio.sleep(0)
    assert transport.writes == [b"abc", b"d"]


async def test_nothing_is_read_before_start():
    link, transport = recorded()
    assert transport.paused
    link.start(lambda _data: None, lambda _reason: None)
    assert not transport.paused
    link.pause_reading()
    assert transport.paused
    with pytest.raises(RuntimeError, match="started"):
        link.start(lambda _data: None, lambda _reason: None)


async def test_drain_waits_for_a_slow_peer_and_goes_on_when_it_reads():
    async with Pair() as pair:
        ours_link, theirs_link = await pair.links()
        ours = End(ours_link)
        blob = b"x" * (SEND_HIGH_WATER * 64)  # more than the kernel takes while the peer does not read
        ours.link.send(blob)
        waiting = asyncio.create_task(ours.link.drain())
        for _turn in range(50):
            await asyncio.sleep(0)
        assert not waiting.done()
        theirs = End(theirs_link)
        async with asyncio.timeout(10):
            await waiting
        await theirs.until(lambda: len(theirs.got) == len(blob))
        ours.link.close()


async def test_drain_of_an_idle_link_returns_and_sends_at_once():
    link, transport = recorded()
    link.send(b"now")
    await link.drain()
    assert transport.writes == [b"now"]


async def test_drain_ends_with_link_closed_for_every_waiter_when_the_link_goes():
    link, _ = recorded()
    link.pause_writing()
    waiters = [asyncio.create_task(link.drain()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    link.connection_lost(None)
    results = await asyncio.gather(*waiters, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert all(isinstance(result, LinkClosed) for result in results[1:])
    with pytest.raises(LinkClosed):
        await link.drain()


async def test_close_sends_what_is_queued_and_tells_each_end_once_why():
    async with Pair() as pair:
        ours, theirs = (End(link) for link in await pair.links())
        ours.link.send(b"last words")
        ours.link.close("peer broke a rule")
        ours.link.close("again")
        ours.link.send(b"never")
        await theirs.until(lambda: theirs.closed)
        await ours.until(lambda: ours.closed)
        assert theirs.got == b"last words"
        assert ours.closed == ["peer broke a rule"]
        assert theirs.closed == ["the peer closed the connection"]


async def test_no_data_is_delivered_after_close():
    link, _ = recorded()
    got = []
    link.start(got.append, lambda _reason: None)
    link.data_received(b"before")
    link.close()
    link.data_received(b"after")
    assert got == [b"before"]


async def test_a_peer_that_never_takes_the_rest_is_cut_off():
    class Quick(LinkProfile):
        closing_wait = 0.0

    link, transport = recorded(Quick(latency=0.001))
    link.send(b"unread")
    link.close()
    assert not transport.aborted.is_set()
    async with asyncio.timeout(10):
        await transport.aborted.wait()
    assert transport.writes == [b"unread"]


async def test_a_broken_connection_says_why():
    link, _ = recorded()
    reasons = []
    link.start(lambda _data: None, reasons.append)
    link.connection_lost(ConnectionResetError("reset by peer"))
    link.close()
    assert reasons == ["the connection broke: reset by peer"]


async def test_a_link_lost_before_start_still_reports_its_end_once():
    link, _ = recorded()
    link.connection_lost(None)
    reasons = []
    link.start(lambda _data: None, reasons.append)
    assert reasons == []
    await asyncio.sleep(0)
    assert reasons == ["the peer closed the connection"]


async def test_dialling_where_nobody_listens_fails_with_the_address():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(DialFailed, match=address):
            await TcpTransport().dial(address)


async def test_listening_where_it_is_not_possible_fails_with_the_address():
    async with Pair() as pair:
        with pytest.raises(DialFailed, match="cannot listen"):
            await TcpTransport().listen(pair.listener.addresses[0], lambda _link: None)


async def test_a_closed_listener_takes_no_more_and_keeps_its_links():
    async with Pair() as pair:
        ours, theirs = (End(link) for link in await pair.links())
        await pair.listener.close()
        with pytest.raises(DialFailed):
            await pair.transport.dial(pair.listener.addresses[0])
        ours.link.send(b"still here")
        await theirs.until(lambda: theirs.got == b"still here")
        ours.link.close()
        await theirs.until(lambda: theirs.closed)


@pytest.mark.parametrize("host", ["abc.onion", "ABC.ONION", "abc.onion."])
async def test_an_onion_name_never_reaches_the_resolver(host, monkeypatch):
    asked = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **_kw: asked.append(args))
    with pytest.raises(ValueError, match="tor transport"):
        await TcpTransport().dial(f"{host}:9735")
    assert asked == []
