"""Links over a connected stream socket: an asyncio `Protocol` with its own send queue (protocol/transport.py).

Streams of asyncio would cost four times as much per message. Nothing here dials: a transport that may open
no clear connection can use this and still have no way to make one.
"""

import asyncio

from protocol.transport import (
    DialFailed,
    LinkClosed,
    LinkProfile,
    OnClosed,
    OnData,
    OnLink,
    format_host_port,
)

SEND_HIGH_WATER = 256 * 1024
"""Bytes that may wait for a slow peer before `drain` begins to block."""


class StreamLink(asyncio.Protocol):
    """One connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        profile: LinkProfile,
        on_link: OnLink | None,
        *,
        peer_address: str = "",
    ) -> None:
        """`peer_address`: where the other end of the socket is not the peer, as with a proxy."""
        self._loop = loop
        self._profile = profile
        self._on_link = on_link
        self._on_data: OnData | None = None
        self._on_closed: OnClosed | None = None
        self._transport: asyncio.Transport | None = None
        self._peer_address = peer_address
        self._queue: list[bytes] = []
        self._writable: asyncio.Future[None] | None = None  # set while the peer takes too little
        self._cut_off: asyncio.TimerHandle | None = None
        self._closing = False
        self._reason: str | None = None
        self._lost = False

    @property
    def peer_address(self) -> str:
        return self._peer_address

    @property
    def profile(self) -> LinkProfile:
        return self._profile

    def start(self, on_data: OnData, on_closed: OnClosed) -> None:
        if self._on_closed is not None:
            raise RuntimeError("this link was started already")
        self._on_data, self._on_closed = on_data, on_closed
        if self._lost:
            self._loop.call_soon(on_closed, self._reason or "the peer closed the connection")
        else:
            self.resume_reading()

    def send(self, data: bytes) -> None:
        if self._closing or self._lost:
            return
        if not self._queue:
            self._loop.call_soon(self._flush)
        self._queue.append(data)

    def _flush(self) -> None:
        if self._queue and self._transport is not None and not self._lost:
            queued, self._queue = self._queue, []
            self._transport.write(queued[0] if len(queued) == 1 else b"".join(queued))

    async def drain(self) -> None:
        self._flush()
        if self._lost or self._closing:
            raise LinkClosed(f"the link to {self._peer_address} is closed")
        if self._writable is not None:
            # Shielded, so that one waiter that is cancelled does not wake the others.
            await asyncio.shield(self._writable)

    def pause_reading(self) -> None:
        if self._transport is not None and not self._lost:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._transport is not None and not self._lost and not self._closing:
            self._transport.resume_reading()

    def close(self, reason: str = "closed by us") -> None:
        if self._closing or self._lost:
            return
        self._reason = reason
        self._flush()
        self._closing = True
        self._end_waiting()
        if self._transport is not None:
            self._transport.close()
            self._cut_off = self._loop.call_later(self._profile.closing_wait, self._transport.abort)

    def _end_waiting(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_exception(LinkClosed(f"the link to {self._peer_address} was closed"))
            self._writable.exception()  # nobody may be waiting, which is no fault
        self._writable = None

    # What asyncio calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  narrows the type, TCP gives nothing else
        self._transport = transport
        transport.set_write_buffer_limits(high=SEND_HIGH_WATER)
        transport.pause_reading()
        peer = transport.get_extra_info("peername")
        self._peer_address = self._peer_address or (format_host_port(*peer[:2]) if peer else "unknown")
        if self._on_link is not None:
            self._on_link(self)

    def data_received(self, data: bytes) -> None:
        if not self._closing and self._on_data is not None:
            self._on_data(data)

    def pause_writing(self) -> None:
        if self._writable is None:
            self._writable = self._loop.create_future()

    def resume_writing(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self._writable = None

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._queue.clear()
        if self._cut_off is not None:
            self._cut_off.cancel()
        self._end_waiting()
        if self._reason is None:
            self._reason = "the peer closed the connection" if exc is None else f"the connection broke: {exc}"
        if self._on_closed is not None:
            self._on_closed(self._reason)


class StreamListener:
    def __init__(self, server: asyncio.Server) -> None:
        self._server = server
        names = (socket.getsockname() for socket in server.sockets)
        self._addresses = tuple(format_host_port(name[0], name[1]) for name in names)

    @property
    def addresses(self) -> tuple[str, ...]:
        return self._addresses

    async def close(self) -> None:
        self._server.close()
        # No wait_closed: newer Pythons would wait there for the links as well, and those may stay.
        await asyncio.sleep(0)


async def listen(host: str, port: int, profile: LinkProfile, on_link: OnLink) -> StreamListener:
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(lambda: StreamLink(loop, profile, on_link), host, port)
    except OSError as error:
        raise DialFailed(f"cannot listen on {format_host_port(host, port)}: {error}") from error
    return StreamListener(server)
