"""Dialling through Tor's SOCKS5 port, one set of circuits a peer, with reasons in plain words
(RFC 1928, RFC 1929; Tor socks-extensions and proposal 304 for the codes F0 to F7)."""

import asyncio
import hashlib
import os
import re
import secrets
import socket

from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy

from protocol.transport import DialFailed, LinkProfile
from transports.stream import StreamLink
from transports.tor.addresses import is_onion

_CLEAR_REASONS = {
    0x01: "Tor could not build a path to it; try again later",
    0x02: "the exit relays do not allow this address or port",
    0x03: "its network cannot be reached from the exit relay",
    0x04: "it does not answer, or its name is unknown at the exit relay",
    0x05: "it refused the connection: nothing listens there",
    0x06: "the connection took longer than Tor waits",
    0x07: "this SOCKS port is not Tor's: it does not know the command",
    0x08: "Tor does not take this kind of address",
}
_ONION_REASONS = {
    **_CLEAR_REASONS,
    0x01: "Tor could not connect to it; it may be offline, or our Tor is not ready",
    0x04: "Tor cannot find or reach it: the peer, or its Tor, is probably offline",
    0x05: "the peer's Tor is there, but its node is not running",
    0xF0: "no descriptor of it is published: the peer, or its Tor, is offline, or the address is misspelled",
    0xF1: "its descriptor cannot be read: the peer's Tor may be very old or very new",
    0xF2: "the introduction failed: the peer's Tor has just gone or moved, try again in some minutes",
    0xF3: "the rendezvous failed: the Tor network or the peer's Tor is overloaded, try again",
    0xF4: "it lets in only those who hold a key, and our Tor has none for it",
    0xF5: "it lets in only those who hold a key, and the one in our Tor is wrong",
    0xF6: "Tor says that this is no valid onion address",
    0xF7: "the introduction took longer than Tor waits: the peer's Tor is overloaded or under attack",
}
_NOT_IN_THE_LIBRARY = re.compile(r"Invalid reply code: 0X([0-9A-F]{2})\b")
"""python-socks knows the codes of RFC 1928 only, and puts others into the text of its error."""


class SocksDialler:
    """Every peer has its own user name, so Tor never carries two peers on one circuit. The names are derived
    with a key of this run: Tor's log and memory hold no node ids."""

    def __init__(self, profile: LinkProfile) -> None:
        self._profile = profile
        self._key = secrets.token_bytes(32)

    def isolation(self, peer: bytes) -> str:
        """Without a peer every call gets circuits of its own."""
        return hashlib.blake2b(peer or secrets.token_bytes(32), key=self._key, digest_size=16).hexdigest()

    async def dial(self, socks: tuple[str, int], host: str, port: int, peer: bytes) -> StreamLink:
        """`host` goes to Tor as it stands; nothing is resolved here. DialFailed with the reason."""
        address = f"{host}:{port}"
        user = self.isolation(peer)
        wait = self._profile.dial_timeout
        proxy = Proxy(ProxyType.SOCKS5, *socks, username=user, password=user, rdns=True)
        try:
            connected = await proxy.connect(host, port, timeout=wait)
        except ProxyTimeoutError:
            raise DialFailed(f"{address}: Tor built no connection within {wait:.0f} s") from None
        except ProxyConnectionError as error:
            place = f"{socks[0]}:{socks[1]}"
            why = os.strerror(error.errno) if error.errno else "no connection"
            raise DialFailed(
                f"{address}: Tor's SOCKS port {place} does not answer ({why}): is tor running?"
            ) from error
        except ProxyError as error:
            raise DialFailed(f"{address}: {reason(error, onion=is_onion(host))}") from error
        except OSError as error:
            raise DialFailed(f"{address}: the connection to Tor broke: {error}") from error
        return await self._link(connected, address)

    async def _link(self, connected: socket.socket, address: str) -> StreamLink:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.create_connection(
                lambda: StreamLink(loop, self._profile, None, peer_address=address), sock=connected
            )
        except OSError as error:
            connected.close()
            raise DialFailed(f"{address}: the connection broke at once: {error}") from error
        return link


def reason(error: ProxyError, *, onion: bool) -> str:
    code = error.error_code
    if code is None:
        found = _NOT_IN_THE_LIBRARY.search(str(error))
        code = int(found[1], 16) if found else None
    if code is None:
        return f"the SOCKS port did not answer as Tor does: {error}"
    words = (_ONION_REASONS if onion else _CLEAR_REASONS).get(int(code))
    return words or f"Tor answered with the code {int(code):#04x}, which we do not know"
