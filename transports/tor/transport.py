"""The tor transport: every link goes out through SOCKS, and comes in by our onion (protocol/transport.py).

There is no clear dialer, no resolver and no UDP socket here, nor a way to make one: a host goes to Tor as it
was written. It listens on this machine only, where tor brings those who come by our onion.
"""

import ipaddress
from pathlib import Path
from typing import Self

from protocol.transport import (
    DialFailed,
    Link,
    LinkProfile,
    Listener,
    OnLink,
    RoadStatus,
    TransportSetup,
    format_host_port,
    parse_host_port,
)
from transports import stream
from transports.tor.addresses import is_onion, through_tor
from transports.tor.keeper import Keeper
from transports.tor.settings import Settings
from transports.tor.socks import SocksDialler

TOR_PROFILE = LinkProfile(latency=3.0, setup=75.0, road="tor")
DIRECTORY = "tor"


class TorTransport:
    def __init__(self, settings: Settings, directory: Path, profile: LinkProfile = TOR_PROFILE) -> None:
        self._settings = settings
        self._profile = profile
        self._dialler = SocksDialler(profile)
        self._directory = directory
        self._keeper = Keeper(settings, directory, self._dialler)

    @classmethod
    def made_for(cls, setup: TransportSetup) -> Self:
        return cls(Settings.read(setup.settings), setup.directory / DIRECTORY)

    @property
    def profile(self) -> LinkProfile:
        return self._profile

    def status(self) -> RoadStatus:
        return self._keeper.status()

    async def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._keeper.start()

    async def stop(self) -> None:
        await self._keeper.stop()

    def takes(self, address: str) -> bool:
        try:
            self._for_tor(address)
        except ValueError:
            return False
        return True

    def _for_tor(self, address: str) -> tuple[str, int]:
        host, port = through_tor(address)
        if not is_onion(host) and not self._settings.clear_through_tor:
            raise ValueError(f"{address!r} is a clear address, and tor.clear does not send those through Tor")
        return host, port

    async def dial(self, address: str, *, peer: bytes = b"") -> Link:
        host, port = self._for_tor(address)
        socks = self._keeper.socks
        if socks is None:
            raise DialFailed(f"{address} has to wait for Tor: {self.status().sentence}")
        return await self._dialler.dial(socks, host, port, peer)

    async def listen(self, address: str, on_link: OnLink) -> Listener:
        host, port = parse_host_port(address, lowest_port=0)
        try:
            is_here = ipaddress.ip_address(host).is_loopback
        except ValueError:
            is_here = False
        if not is_here:
            raise ValueError(
                f"{address!r} is open to the network, but peers come by our onion: listen at 127.0.0.1:{port}, "
                "or set tor.clear = direct"
            )
        listener = await stream.listen(host, port, self._profile, on_link)
        try:
            self._keeper.serve(format_host_port(*parse_host_port(listener.addresses[0])))
        except ValueError:
            await listener.close()
            raise
        return listener
