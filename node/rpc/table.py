"""A method of the RPC is declared once: name, parameters in their order, handler, help (operators.md 1.2).

Parsing, `help` and usage errors all read this declaration.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct

from node.rpc.params import Arguments, Param, usage
from protocol.bitcoin.network import Network
from protocol.bus.bus import Bus

Result = dict[str, Any]
"""A JSON object. The array of a list reply is its first key: some clients take whatever comes first."""


class NodeFacts(Struct, frozen=True):
    """What `getinfo` says and never changes while the node runs. `addresses`: (host, port) that peers may dial."""

    node_id: bytes
    alias: str
    color: bytes
    network: Network
    lightning_dir: str
    version: str
    features: bytes = b""
    addresses: tuple[tuple[str, int], ...] = ()
    binding: tuple[tuple[str, int], ...] = ()


class Context(Struct, frozen=True):
    """What every handler gets: the bus, the facts, the table itself, and how to stop the node."""

    bus: Bus
    facts: NodeFacts
    methods: "Mapping[str, Method]"
    stop: Callable[[], None]


Handler = Callable[[Context, Arguments], Awaitable[Result | AsyncIterator[Result]]]
"""One that watches may answer a stream: each item is a reply of its own, with the id of the request."""


class Method(Struct, frozen=True):
    """`waits`: it only watches for something, so it ends when its caller goes away. `moves_money`: it may spend, or
    end something for good, so a person is asked first."""

    name: str
    params: tuple[Param, ...]
    handler: Handler
    help: str
    category: str
    waits: bool = False
    moves_money: bool = False

    @property
    def usage(self) -> str:
        return usage(self.name, self.params)
