"""Finding transports by name and choosing one for an address (DESIGN, "The house": they are not imported).

An address may name its transport, `tcp://203.0.113.7:9735`; without a name the first that takes it is used.
"""

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import cast

from protocol.errors import CommandRefused
from protocol.transport import DialFailed, Link, Listener, OnLink, Transport

GROUP = "lnp.transports"
USUAL: Mapping[str, str] = {"tcp": "transports.tcp:TcpTransport"}
"""Where the transports of this distribution are, for a checkout that is not installed."""


def load(wanted: Mapping[str, str] = USUAL) -> dict[str, Transport]:
    """Makes the transports of the config table, `name = "module:class"`; entry points go first."""
    installed = {point.name: point for point in entry_points(group=GROUP)}
    return {
        name: _make(installed[name].value if name in installed else place, name)
        for name, place in wanted.items()
    }


def _make(place: str, name: str) -> Transport:
    module, _, attribute = place.partition(":")
    try:
        # The entry point promises the interface; the type checker cannot see through a name in a file.
        return cast(Transport, getattr(importlib.import_module(module), attribute)())
    except (ImportError, AttributeError, ValueError) as error:
        raise CommandRefused(
            f"the transport {name} cannot be loaded from {place!r}: {error}",
            what_to_do='Correct or remove it in the config table "transports".',
        ) from error


def _candidates(transports: Mapping[str, Transport], address: str) -> Iterator[tuple[Transport, str]]:
    name, separator, rest = address.partition("://")
    if not separator:
        yield from ((transport, address) for transport in transports.values())
    elif name in transports:
        yield transports[name], rest
    else:
        raise ValueError(f"there is no transport {name!r} here, only {', '.join(transports)}")


async def dial(transports: Mapping[str, Transport], address: str) -> Link:
    """DialFailed when nobody answers; ValueError when no transport takes the address."""
    refusal = ValueError("this node has no transport")
    for transport, place in _candidates(transports, address):
        try:
            return await transport.dial(place)
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


__all__ = ["GROUP", "USUAL", "DialFailed", "dial", "listen", "load"]
