"""Joins the buses of two processes over ZeroMQ ROUTER/DEALER with CURVE and msgpack (DESIGN, "A service").

One process listens, the others connect: a star. Each end tells which services it has and which events it
hears, and both then stand on the other's bus as if they were local. A peer that goes away takes its services
with it, and whoever waits for an answer of theirs gets `OutcomeUnknown`.
"""

import asyncio
from collections.abc import Callable
from typing import Any, assert_never

import msgspec
import structlog
import zmq

from protocol.bus import registry
from protocol.bus.bus import OutcomeUnknown, Port, ServiceFailed
from protocol.bus.local import LocalBus
from protocol.bus.zmq_socket import CONNECTED, DENIED, DISCONNECTED, Allowlist, LoopSocket, monitor
from protocol.errors import CommandRefused, MalformedMessage
from protocol.secret import Secret

log = structlog.get_logger()
HEARTBEAT_MS = 2_000
SILENCE_MS = 6_000
LOOK_AGAIN_SECONDS = (0.02, 0.2, 2.0)
"""After a connection was lost. ZeroMQ tells of it before its socket knows: a look in between finds all alive."""
MAX_MESSAGE = 64 << 20
"""Whoever sends more in one piece is cut off."""


class Here(msgspec.Struct, frozen=True, array_like=True, tag=0):
    services: list[str]
    hears: list[str]


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=1):
    id: int
    service: str
    deadline_ms: int
    kind: str
    body: bytes


class Tell(msgspec.Struct, frozen=True, array_like=True, tag=2):
    service: str
    kind: str
    body: bytes


class Event(msgspec.Struct, frozen=True, array_like=True, tag=3):
    kind: str
    body: bytes


class Answer(msgspec.Struct, frozen=True, array_like=True, tag=4):
    id: int
    kind: str
    body: bytes


class Refusal(msgspec.Struct, frozen=True, array_like=True, tag=5):
    id: int
    sentence: str
    what_to_do: str
    code: int


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=6):
    id: int
    sentence: str


Frame = Here | Ask | Tell | Event | Answer | Refusal | Failure
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Frame).decode


class _RemoteService:
    """Stands on our bus for a service of the other process."""

    def __init__(self, peer: "_Peer", name: str) -> None:
        self._peer = peer
        self._name = name

    def put(self, message: object, /) -> None:
        self._peer.transmit(Tell(self._name, *registry.pack(message)))

    def ask(self, message: object, answer: asyncio.Future[Any], deadline: float, /) -> None:
        self._peer.ask(self._name, message, answer, deadline)


class _Peer:
    """The other end of a link: its services, and the questions that are open both ways."""

    def __init__(self, bus: LocalBus, transmit: Callable[[bytes], bool]) -> None:
        self._bus = bus
        self._transmit = transmit
        self._ports: dict[str, Port] = {}
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 0
        self._said: bytes = b""
        self._serving: set[asyncio.Task[None]] = set()
        bus.watch(self.announce)
        self.announce()

    def announce(self) -> None:
        hears = [tag for kind in self._bus.heard(without=self) if (tag := registry.tag_of(kind))]
        here = _encode(Here(sorted(self._bus.names(without=self._ports)), sorted(hears)))
        if here != self._said:
            self._said = here
            self._transmit(here)

    def transmit(self, frame: Frame) -> bool:
        return self._transmit(_encode(frame))

    def put(self, event: object, /) -> None:
        """An event published on our bus that the other end hears."""
        self.transmit(Event(*registry.pack(event)))

    def ask(self, service: str, message: object, answer: asyncio.Future[Any], deadline: float) -> None:
        self._next_id += 1
        number = self._next_id
        frame = Ask(number, service, int(deadline * 1000), *registry.pack(message))
        self._asked[number] = answer
        answer.add_done_callback(lambda _: self._asked.pop(number, None))
        if not self.transmit(frame):
            answer.set_exception(_gone())

    def receive(self, raw: bytes) -> None:
        try:
            self._dispatch(_decode(raw))
        except (msgspec.DecodeError, MalformedMessage) as error:
            log.error("link_message_malformed", error=str(error))

    def gone(self) -> None:
        """The connection is lost: what was asked may or may not have been done."""
        self._bus.unwatch(self.announce)
        self._bus.leave(self._ports, self)
        self._ports = {}
        for answer in list(self._asked.values()):
            if not answer.done():
                answer.set_exception(_gone())
        for task in self._serving:
            task.cancel()

    def _dispatch(self, frame: Frame) -> None:
        match frame:
            case Here():
                self._bus.leave(self._ports, self)
                self._ports = {name: _RemoteService(self, name) for name in frame.services}
                heard = [kind for tag in frame.hears if (kind := registry.type_of(tag))]
                self._bus.join(self._ports, heard, self)
            case Ask():
                task = asyncio.get_running_loop().create_task(self._serve(frame))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)
            case Tell():
                self._bus.send(frame.service, registry.unpack(frame.kind, frame.body))
            case Event():
                self._bus.publish_from(self, registry.unpack(frame.kind, frame.body))
            case Answer():
                self._answered(frame)
            case Refusal():
                self._failed(
                    frame.id, CommandRefused(frame.sentence, what_to_do=frame.what_to_do, code=frame.code)
                )
            case Failure():
                self._failed(frame.id, ServiceFailed(frame.sentence))
            case _:
                assert_never(frame)

    def _answered(self, frame: Answer) -> None:
        answer = self._asked.get(frame.id)
        if answer is not None and not answer.done():
            answer.set_result(registry.unpack(frame.kind, frame.body))

    def _failed(self, number: int, error: Exception) -> None:
        answer = self._asked.get(number)
        if answer is not None and not answer.done():
            answer.set_exception(error)

    async def _serve(self, ask: Ask) -> None:
        try:
            message = registry.unpack(ask.kind, ask.body)
            reply = await self._bus.request(ask.service, message, deadline=ask.deadline_ms / 1000)
            self.transmit(Answer(ask.id, *registry.pack(reply)))
        except CommandRefused as error:
            self.transmit(Refusal(ask.id, error.sentence, error.what_to_do, error.code))
        except Exception as error:
            if not isinstance(error, OutcomeUnknown):
                log.error("bug", service=ask.service, message=ask.kind, error=repr(error), exc_info=True)
            self.transmit(Failure(ask.id, str(error)))


def _gone() -> OutcomeUnknown:
    return OutcomeUnknown(
        "the connection to the other process was lost before it answered",
        what_to_do="It may have been done: look before asking again.",
    )


def _prepare(socket: "zmq.Socket[bytes]", public: bytes, secret: Secret) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE)
    socket.setsockopt(zmq.IPV6, 1)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, SILENCE_MS)
    socket.setsockopt(zmq.CURVE_PUBLICKEY, public)
    socket.setsockopt(zmq.CURVE_SECRETKEY, secret.reveal())


class ZmqListener:
    """The middle of the star. Keys are Z85 text of 40 bytes; only `clients` may connect."""

    def __init__(
        self, bus: LocalBus, endpoint: str, *, public: bytes, secret: Secret, clients: frozenset[bytes]
    ) -> None:
        self._bus = bus
        self._peers: dict[bytes, _Peer] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._allowlist = Allowlist(self._context, clients)
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        _prepare(socket, public, secret)
        self._monitor = monitor(socket, self._on_event)
        try:
            socket.bind(endpoint)
        except zmq.ZMQError:
            self._monitor.close()
            socket.close(0)
            self._allowlist.close()
            self._context.term()
            raise
        self.endpoint: str = socket.getsockopt_string(zmq.LAST_ENDPOINT).rstrip("\0")
        self._link = LoopSocket(socket, self._on_message)
        self._looks: list[asyncio.TimerHandle] = []

    def close(self) -> None:
        for look in self._looks:
            look.cancel()
        for peer in self._peers.values():
            peer.gone()
        self._peers.clear()
        self._monitor.close()
        self._link.close(linger_ms=200)
        self._allowlist.close()
        self._context.term()

    def _on_message(self, frames: list[bytes]) -> None:
        identity, *rest = frames
        if len(rest) != 1:
            log.error("link_message_malformed", error=f"{len(rest)} frames instead of one")
            return
        peer = self._peers.get(identity)
        if peer is None:
            peer = _Peer(self._bus, lambda raw: self._link.send([identity, raw]))
            self._peers[identity] = peer
        peer.receive(rest[0])

    def _on_event(self, event: int) -> None:
        if event == DISCONNECTED:
            self._look_for_the_lost()
            loop = asyncio.get_running_loop()
            self._looks = [look for look in self._looks if look.when() > loop.time()]
            self._looks += [loop.call_later(s, self._look_for_the_lost) for s in LOOK_AGAIN_SECONDS]
        elif event & DENIED:
            log.warning(
                "link_refused", endpoint=self.endpoint, what_to_do="Pair the key of that program first."
            )

    def _look_for_the_lost(self) -> None:
        """The event does not say who went: an empty frame reaches the living and is ignored by them."""
        for identity, peer in list(self._peers.items()):
            if not self._link.send([identity, b""]):
                del self._peers[identity]
                peer.gone()


class ZmqConnector:
    """A point of the star. It connects again by itself; the services of the other end come and go with it."""

    def __init__(
        self, bus: LocalBus, endpoint: str, *, server_key: bytes, public: bytes, secret: Secret
    ) -> None:
        self._bus = bus
        self._endpoint = endpoint
        self._peer: _Peer | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.CURVE_SERVERKEY, server_key)
        socket.setsockopt(zmq.IMMEDIATE, 1)
        socket.setsockopt(zmq.RECONNECT_IVL, 100)
        socket.setsockopt(zmq.RECONNECT_IVL_MAX, 5_000)
        _prepare(socket, public, secret)
        self._monitor = monitor(socket, self._on_event)
        self._link = LoopSocket(socket, self._on_message)
        socket.connect(endpoint)

    def close(self) -> None:
        self._drop()
        self._monitor.close()
        self._link.close(linger_ms=200)
        self._context.term()

    def _on_message(self, frames: list[bytes]) -> None:
        if self._peer is not None and len(frames) == 1 and frames[0]:
            self._peer.receive(frames[0])

    def _on_event(self, event: int) -> None:
        if event == CONNECTED:
            self._drop()
            self._peer = _Peer(self._bus, lambda raw: self._link.send([raw]))
        elif event == DISCONNECTED:
            self._drop()
        elif event & DENIED:
            log.warning(
                "link_denied", endpoint=self._endpoint, what_to_do="Pair our key with that program first."
            )

    def _drop(self) -> None:
        if self._peer is not None:
            self._peer.gone()
            self._peer = None
