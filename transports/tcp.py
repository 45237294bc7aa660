"""Plain TCP: the one place of this program that opens a clear connection to a peer (protocol/transport.py).

A node that is onion only never imports this module, so that no clear dialer exists in its process.
"""

import asyncio
from typing import Self

from protocol.transport import (
    DialFailed,
    Link,
    LinkProfile,
    Listener,
    OnLink,
    RoadState,
    RoadStatus,
    TransportSetup,
    parse_host_port,
)
from transports import stream
from transports.stream import StreamLink

TCP_PROFILE = LinkProfile(latency=0.2, road="tcp")


class TcpTransport:
    """It never touches an .onion name: asking a resolver for one would tell it whom we call."""

    def __init__(self, profile: LinkProfile = TCP_PROFILE) -> None:
        self._profile = profile

    @classmethod
    def made_for(cls, _setup: TransportSetup) -> Self:
        return cls()

    @property
    def profile(self) -> LinkProfile:
        return self._profile

    def status(self) -> RoadStatus:
        return RoadStatus(RoadState.UP)

    async def start(self) -> None:
        """Nothing runs beside the links."""

    async def stop(self) -> None:
        """The listeners are closed by those who opened them."""

    def takes(self, address: str) -> bool:
        try:
            _clear(address)
        except ValueError:
            return False
        return True

    async def dial(self, address: str, *, peer: bytes = b"") -> Link:
        host, port = _clear(address)
        loop = asyncio.get_running_loop()
        wait = self._profile.dial_timeout
        try:
            async with asyncio.timeout(wait):
                _, link = await loop.create_connection(
                    lambda: StreamLink(loop, self._profile, None), host, port
                )
        except TimeoutError:
            raise DialFailed(f"{address} did not answer in {wait:.0f} s") from None
        except OSError as error:
            raise DialFailed(f"{address} cannot be reached: {error}") from error
        return link

    async def listen(self, address: str, on_link: OnLink) -> Listener:
        host, port = parse_host_port(address, lowest_port=0)
        return await stream.listen(host, port, self._profile, on_link)


def _clear(address: str) -> tuple[str, int]:
    host, port = parse_host_port(address)
    if host.rstrip(".").lower().endswith(".onion"):
        raise ValueError(f"{address!r} is an onion service: dial it with the tor transport")
    return host, port
