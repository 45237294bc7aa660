"""Peer services over real TCP, each with its database, a signer, and a stand-in for channels."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from node.peer.events import LocalNode
from node.peer.limits import PeerLimits
from node.peer.service import PeerService
from node.storage.database import Database, open_database
from protocol import curve
from protocol.bolt8.ciphers import Decryptor, Encryptor
from protocol.bolt8.handshake import Initiator
from protocol.bolt8.static_key import mix_static
from protocol.bolt9 import OUR_INIT
from protocol.bus.local import LocalBus
from protocol.bus.messages import peer as messages
from protocol.bus.messages import signer as contract
from protocol.bus.service import Service, hears
from protocol.secret import Secret
from protocol.transport import LinkProfile
from protocol.wire import bolt1, decode, encode
from tests.node.peer.wiring import ALICE_KEY, BOB_KEY, RawPeer
from transports.tcp import TcpTransport


class InProcessSigner:
    """Answers the handshake step with a key of the test; or not at all, or with a refusal."""

    def __init__(self, key: bytes) -> None:
        self.key = key
        self.calls = 0
        self.instead: contract.Reply | Exception | None = None
        self.silent = asyncio.Event()

    async def call(self, request: contract.Request) -> contract.Reply:
        assert isinstance(request, contract.StaticKeyStep)
        self.calls += 1
        if self.silent.is_set():
            await asyncio.Event().wait()
        if isinstance(self.instead, Exception):
            raise self.instead
        if self.instead is not None:
            return self.instead
        return contract.StaticKeyStepped(
            *mix_static(self.key, request.chaining_key, request.remote_ephemeral)
        )


class Channels(Service):
    """Stands where the channel service stands, and writes down what it hears, in order."""

    name = "channel"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.heard: list[Any] = []
        self._changed = asyncio.Event()

    @hears(messages.PeerUp, messages.PeerDown, messages.FromPeer)
    def hear(self, message: Any) -> None:
        self.heard.append(message)
        self._changed.set()

    async def until(self, enough: Callable[[list[Any]], object]) -> None:
        async with asyncio.timeout(10):
            while not enough(self.heard):
                self._changed.clear()
                await self._changed.wait()

    def all(self, kind: type) -> list[Any]:
        return [message for message in self.heard if type(message) is kind]


Make = Callable[..., Awaitable["Node"]]


class Node:
    """A peer service with its database, and the channel service beside it."""

    def __init__(
        self, key: bytes, path: Path, limits: PeerLimits, chain_hash: bytes, profile: LinkProfile
    ) -> None:
        self.id = curve.point_of(key)
        self.bus = LocalBus()
        self.database: Database = open_database(path, create=True)
        self.signer = InProcessSigner(key)
        self.channels = Channels(self.bus)
        self.now = 0.0
        self.peers = PeerService(
            self.bus,
            local=LocalNode(self.id, OUR_INIT, chain_hash),
            signer=self.signer,
            writer=self.database.writer,
            transports={"tcp": TcpTransport(profile)},
            listen=("127.0.0.1:0",),
            limits=limits,
            clock=lambda: self.now,
            tick_seconds=0.01,
        )

    async def start(self) -> None:
        await self.channels.start()
        await self.peers.start()

    async def stop(self) -> None:
        await self.peers.stop()
        await self.channels.stop()
        self.database.close()

    @property
    def address(self) -> str:
        return self.peers.addresses[0]

    async def connect(self, other: "Node", address: str | None = None) -> messages.PeerInfo:
        info = await self.bus.request("peer", messages.Connect(other.id, address or other.address))
        assert isinstance(info, messages.PeerInfo)
        return info

    def send(self, other: "Node", *frames: bytes) -> None:
        up = self.channels.all(messages.PeerUp)[-1]
        self.bus.send("peer", messages.ToPeer(other.id, up.connection, frames))


async def until(condition: Callable[[], object]) -> None:
    """Lets the loop turn until something that nobody announces has come about."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  nothing could set an event
            await asyncio.sleep(0)


def is_up(heard: list[Any]) -> bool:
    return any(isinstance(message, messages.PeerUp) for message in heard)


def is_down(heard: list[Any]) -> bool:
    return any(isinstance(message, messages.PeerDown) for message in heard)


async def pair(make: Make, **more: Any) -> tuple[Node, Node]:
    alice, bob = await make(ALICE_KEY, **more), await make(BOB_KEY, **more)
    await alice.connect(bob)
    await bob.channels.until(is_up)
    return alice, bob


class RawLink:
    """A TCP connection in the test's hand, without any Noise."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def to(cls, node: Node) -> "RawLink":
        host, port = node.address.split(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def is_closed(self) -> bool:
        async with asyncio.timeout(10):
            try:
                while await self.reader.read(65536):
                    pass
            except ConnectionError:
                pass
        self.writer.close()
        return True


class TcpRawPeer:
    """A raw peer that has done its handshake over TCP and may now send whatever it likes."""

    def __init__(self, link: RawLink, raw: RawPeer) -> None:
        self.link, self.raw = link, raw

    @classmethod
    async def to(cls, node: Node, key: bytes = ALICE_KEY) -> "TcpRawPeer":
        link = await RawLink.to(node)
        handshake = Initiator(Secret(bytes([5]) * 32), node.id, curve.point_of(key))
        link.writer.write(handshake.act_one())
        handshake.receive_act_two(await link.reader.readexactly(50))
        request = handshake.static_request
        assert request is not None
        answer = mix_static(key, request.chaining_key.reveal(), request.remote_ephemeral)
        act_three, keys = handshake.finish(answer)
        link.writer.write(act_three)
        raw = RawPeer.__new__(RawPeer)
        raw.encryptor = Encryptor(keys.sending_key, keys.chaining_key)
        raw.decryptor = Decryptor(keys.receiving_key, keys.chaining_key)
        return cls(link, raw)

    def sends(self, *frames: bytes) -> None:
        self.link.writer.write(b"".join(self.raw.encryptor.encrypt(frame) for frame in frames))

    async def hears_until_closed(self) -> list[Any]:
        heard: list[Any] = []
        async with asyncio.timeout(10):
            while data := await self.link.reader.read(65536):
                heard += [decode(frame) for frame in self.raw.decryptor.feed(data)]
        self.link.writer.close()
        return heard


INIT = encode(bolt1.Init(b"", OUR_INIT.to_bytes()))
