"""What every transport gives to the node: links of bytes, and a profile from which timers follow.

A transport knows no Lightning rule. It is found by name in the entry-point group `lnp.transports`, made with
`made_for` and used through these interfaces only. Nothing here does I/O.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Protocol, Self

from protocol.errors import ProtocolError


class DialFailed(ProtocolError):
    """No link came about; the sentence says with whom and why."""


class LinkClosed(ProtocolError):
    """The link is gone, so what waits for it must stop waiting."""


@dataclass(frozen=True, slots=True)
class LinkProfile:
    """What a kind of link is like. All timers of the peer protocol come from here, none is a constant."""

    latency: float
    """Seconds one way for a small message, as a bad but ordinary case."""
    datagram_size: int | None = None
    """The largest piece that goes through at once; None for a byte stream."""
    ordered: bool = True
    lossy: bool = False
    cost_per_byte: float = 0.0
    """In millisatoshi; 0 where sending is free."""
    duty_cycle: float = 1.0
    """The share of time in which we may send (a hundredth on some radio bands)."""
    setup: float = 0.0
    """Seconds until a link stands, beside its round trips: circuits that are built, a radio that wakes up."""
    road: str = ""
    """The name of the transport, for people."""

    def __post_init__(self) -> None:
        if self.latency <= 0 or not 0 < self.duty_cycle <= 1 or self.cost_per_byte < 0 or self.setup < 0:
            raise ValueError(
                "a link needs a latency above 0, a duty cycle in (0, 1], and a cost and set-up time of 0 or more"
            )
        if self.datagram_size is not None and self.datagram_size < 1:
            raise ValueError(f"a datagram of {self.datagram_size} bytes carries nothing")

    @property
    def round_trip(self) -> float:
        """Seconds from a question to its answer, with waiting for air time and one repetition."""
        return 2 * self.latency / self.duty_cycle * (3 if self.lossy else 1)

    @property
    def dial_timeout(self) -> float:
        """Until the link itself stands or is given up."""
        return 10 + 6 * self.round_trip + self.setup

    @property
    def handshake_timeout(self) -> float:
        """Three acts and both `init`, beside the time that two signers may take."""
        return 10 + 6 * self.round_trip

    @property
    def crossing_dials(self) -> float:
        """Two connections of one peer that are closer in time than this were made by both sides at once."""
        return 10 + self.round_trip

    @property
    def ping_interval(self) -> float:
        """How long a quiet link is left alone: seldom where sending is dear or slow."""
        return 60 + 10 * self.round_trip

    @property
    def pong_wait(self) -> float:
        return 20 + 6 * self.round_trip

    @property
    def revocation_wait(self) -> float:
        """From our commitment_signed to the peer's revoke_and_ack: a save and a signature."""
        return 30 + 6 * self.round_trip

    @property
    def closing_wait(self) -> float:
        """How long a peer may take to read our last words."""
        return 5 + 3 * self.round_trip

    @property
    def first_reconnect(self) -> float:
        """Before the first dial to a peer that was lost; each failure doubles it."""
        return 0.8 + self.round_trip / 2

    @property
    def longest_reconnect(self) -> float:
        return 120 + 30 * self.round_trip

    @property
    def steady_after(self) -> float:
        """A connection that lasted so long was a good one, and waiting begins anew."""
        return 60 + 10 * self.round_trip


class RoadState(Enum):
    """Can this transport dial now?"""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class RoadStatus:
    """How a transport is doing, in words that a person can act on."""

    state: RoadState
    sentence: str = ""
    """What is the matter and what to do; empty when all is well."""
    addresses: tuple[str, ...] = ()
    """Where others reach us by it, beside the addresses where it listens."""
    inbound: str = ""
    """How those addresses are doing, such as `reachable`; empty where there is nothing to tell."""


@dataclass(frozen=True, slots=True)
class TransportSetup:
    """What a transport is made from."""

    directory: Path
    """Where it may keep what outlives a restart, readable by us alone."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Its own table of the config."""


OnData = Callable[[bytes], None]
OnClosed = Callable[[str], None]


class Link(Protocol):
    """One connection. Nothing is read before `start`, so no byte is lost while the owner gets ready."""

    @property
    def peer_address(self) -> str: ...

    @property
    def profile(self) -> LinkProfile: ...

    def start(self, on_data: OnData, on_closed: OnClosed) -> None:
        """Begin to read. `on_closed` is called exactly once, with the reason, after the last `on_data`."""

    def send(self, data: bytes) -> None:
        """Queue bytes; all that is queued in one turn of the loop leaves in one write. On a closed link the
        bytes are lost like any bytes in flight."""

    async def drain(self) -> None:
        """Wait until the peer has taken enough of what was sent. LinkClosed when the link goes instead."""

    def pause_reading(self) -> None:
        """Take no more bytes for now, so that the peer has to wait."""

    def resume_reading(self) -> None: ...

    def close(self, reason: str = "closed by us") -> None:
        """Send what is queued and close; a peer that does not take it is cut off after `closing_wait`."""


OnLink = Callable[[Link], None]


class Listener(Protocol):
    @property
    def addresses(self) -> tuple[str, ...]:
        """Where it listens, with the real port where 0 was asked."""

    async def close(self) -> None:
        """Accept no more; links that exist stay."""


class Transport(Protocol):
    @classmethod
    def made_for(cls, setup: TransportSetup) -> Self:
        """ValueError, in a sentence, when the settings cannot be used. Starts nothing."""

    @property
    def profile(self) -> LinkProfile: ...

    def status(self) -> RoadStatus: ...

    async def start(self) -> None:
        """Begin what runs beside the links. Never waits for a network, and never fails because of one."""

    async def stop(self) -> None: ...

    def takes(self, address: str) -> bool:
        """Would `dial` try this address? Without any I/O."""

    async def dial(self, address: str, *, peer: bytes = b"") -> Link:
        """DialFailed when nobody answers, ValueError when the address is not one of this transport.

        `peer` is the node id: links to different peers must not be seen to come from one node.
        """

    async def listen(self, address: str, on_link: OnLink) -> Listener:
        """Call `on_link` for each link that comes in; it must call `start` or `close`. ValueError when this
        transport does not listen there."""


def parse_host_port(address: str, *, lowest_port: int = 1) -> tuple[str, int]:
    """`host:port`, an IPv6 host in brackets. ValueError says what is wrong with it."""
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{address!r} is not host:port, such as 203.0.113.7:9735 or [2001:db8::7]:9735")
    if host.startswith("[") != host.endswith("]") or host == "[]":
        raise ValueError(f"{address!r} has a bracket without its partner")
    if host.startswith("["):
        host = host[1:-1]
        if ":" not in host:
            raise ValueError(f"{address!r}: brackets are for IPv6 addresses only")
    elif ":" in host:
        raise ValueError(f"{address!r}: an IPv6 address stands in brackets, like [2001:db8::7]:9735")
    if any(char.isspace() for char in host):
        raise ValueError(f"{address!r}: a host has no blanks")
    if not (port.isascii() and port.isdigit()) or not lowest_port <= int(port) <= 65535:
        raise ValueError(f"{address!r}: the port is a number from {lowest_port} to 65535")
    return host, int(port)


def format_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
