"""Finding transports by name and choosing one for an address (DESIGN, "The house": they are not imported).

An address may name its transport, `tcp://203.0.113.7:9735`; without a name the first that takes it is used.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from protocol.errors import CommandRefused
from protocol.transport import Link, LinkProfile, Listener, OnLink, Transport, TransportSetup

GROUP = "lnp.transports"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A transport that the config asks for: `module:class`, and its settings."""

    place: str
    settings: Mapping[str, Any] = field(default_factory=dict)


def load(wanted: Mapping[str, Wanted], directory: Path) -> dict[str, Transport]:
    """Makes the transports, in this order; entry points go first. Modules that nobody wants are not imported."""
    installed = {point.name: point for point in entry_points(group=GROUP)}
    return {
        name: _make(installed[name].value if name in installed else one.place, name, one, directory)
        for name, one in wanted.items()
    }


def _make(place: str, name: str, wanted: Wanted, directory: Path) -> Transport:
    module, _, attribute = place.partition(":")
    try:
        # The entry point promises the interface; the type checker cannot see through a name in a file.
        kind = cast(type[Transport], getattr(importlib.import_module(module), attribute))
        made = kind.made_for
    except (ImportError, AttributeError, ValueError) as error:
        raise CommandRefused(
            f"the transport {name} cannot be loaded from {place!r}: {error}",
            what_to_do='Correct or remove it in the config table "transports".',
        ) from error
    try:
        return made(TransportSetup(directory, wanted.settings))
    except ValueError as error:
        raise CommandRefused(
            f"the transport {name} cannot be set up: {error}",
            what_to_do=f"Correct the table {name} in lnp.toml.",
        ) from error


def _candidates(transports: Mapping[str, Transport], address: str) -> Iterator[tuple[Transport, str]]:
    name, separator, rest = address.partition("://")
    if not separator:
        yield from ((transport, address) for transport in transports.values())
    elif name in transports:
        yield transports[name], rest
    else:
        raise ValueError(f"there is no transport {name!r} here, only {', '.join(transports)}")


async def dial(transports: Mapping[str, Transport], address: str, peer: bytes) -> Link:
    """DialFailed when nobody answers; ValueError when no transport takes the address."""
    refusal = ValueError("this node has no transport")
    for transport, place in _candidates(transports, address):
        try:
            return await transport.dial(place, peer=peer)
        except ValueError as error:
            refusal = error
    raise refusal


async def listen(transports: Mapping[str, Transport], address: str, on_link: OnLink) -> Listener:
    refusal: Exception = ValueError("this node has no transport")
    for transport, place in _candidates(transports, address):
        try:
            return await transport.listen(place, on_link)
        except ValueError as error:
            refusal = error
    raise refusal


_UNKNOWN_ROAD = LinkProfile(latency=1.0)


def profile_for(transports: Mapping[str, Transport], addresses: Sequence[str]) -> LinkProfile:
    """Of the slowest road that these addresses may be dialled by; without any, of the slowest there is."""
    profiles = [
        transport.profile
        for address in addresses
        for transport, place in _candidates_or_none(transports, address)
        if transport.takes(place)
    ] or [transport.profile for transport in transports.values()]
    return max(profiles, key=lambda profile: profile.round_trip, default=_UNKNOWN_ROAD)


def _candidates_or_none(transports: Mapping[str, Transport], address: str) -> list[tuple[Transport, str]]:
    try:
        return list(_candidates(transports, address))
    except ValueError:
        return []
