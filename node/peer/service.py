"""The peer service: links in and out, one connection a peer, and messages between peers and channels
(BOLT 1, "Connection Handling and Multiplexing"; BOLT 8).

Bytes are handled where they arrive, with no task and no queue of our own; whatever the channel service sends
in one turn leaves in one write.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar, Protocol, assert_never

import structlog

from node.peer import transports as finding
from node.peer.book import AddressBook
from node.peer.connection import Connection
from node.peer.events import (
    Ended,
    Event,
    ForChannels,
    ForGossip,
    Identified,
    LocalNode,
    PeerSaid,
    Ready,
    StaticKeyNeeded,
)
from node.peer.limits import USUAL_LIMITS, PeerLimits
from node.peer.reconnect import Reconnects
from node.peer.session import STORAGE_TYPES, Session
from node.peer.storage import table as peer_storage
from node.storage.writer import Writer
from protocol import curve
from protocol.bolt8.handshake import StaticDh
from protocol.bus.bus import Bus
from protocol.bus.messages import peer as messages
from protocol.bus.messages import signer as contract
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused, ProtocolError
from protocol.secret import Secret
from protocol.transport import DialFailed, Link, Listener, RoadState, Transport
from protocol.wire import bolt1, encode

log = structlog.get_logger()
NO_ADDRESS = 400
NOT_REACHED = 401
LEFT_EARLY = 402
"""Core Lightning's codes of `connect`."""


class Signer(Protocol):
    async def call(self, request: contract.Request) -> contract.Reply: ...


def new_ephemeral() -> Secret:
    while not curve.is_secret(key := secrets.token_bytes(32)):
        pass
    return Secret(key)


class PeerService(Service):
    name: ClassVar[str] = "peer"

    def __init__(
        self,
        bus: Bus,
        *,
        local: LocalNode,
        signer: Signer,
        writer: Writer,
        transports: Mapping[str, Transport],
        listen: Sequence[str] = (),
        limits: PeerLimits = USUAL_LIMITS,
        clock: Callable[[], float] = time.monotonic,
        tick_seconds: float = 1.0,
        gossip: bool = False,
    ) -> None:
        """`gossip`: there is a service of that name, which takes and answers gossip."""
        super().__init__(bus)
        self._local = local
        self._signer = signer
        self._book = AddressBook(writer)
        self._writer = writer
        self._transports = transports
        self._listen = listen
        self._limits = limits
        self._clock = clock
        self._tick_seconds = tick_seconds
        self._gossip = gossip
        self._listeners: list[Listener] = []
        self._connections: dict[int, Connection] = {}
        self._peers: dict[bytes, Connection] = {}
        self._dials: dict[bytes, asyncio.Task[messages.PeerInfo | CommandRefused]] = {}
        self._to_flush: set[Connection] = set()
        self._kept = Reconnects(random.random)
        self._opened = 0
        self._open_roads: set[str] = set()

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where we listen."""
        return tuple(address for listener in self._listeners for address in listener.addresses)

    async def start(self) -> None:
        for transport in self._transports.values():
            await transport.start()
        for address in self._listen:
            try:
                self._listeners.append(await finding.listen(self._transports, address, self._on_link))
            except (DialFailed, ValueError) as error:
                raise CommandRefused(
                    f"cannot listen for peers: {error}",
                    what_to_do="Choose another address in the config, or stop the program that uses it.",
                ) from error
        await super().start()
        self.run(self._ticking())

    async def stop(self) -> None:
        for listener in self._listeners:
            await listener.close()
        for connection in list(self._connections.values()):
            self._close(connection, "the node stops")
        for dial in self._dials.values():
            dial.cancel()
        for transport in self._transports.values():
            await transport.stop()
        await super().stop()

    # What others ask of us.

    @handles(messages.Connect)
    async def connect(self, request: messages.Connect) -> messages.PeerInfo:
        node_id = request.node_id
        if node_id == self._local.node_id:
            raise CommandRefused("this is our own node id", what_to_do="Give the id of another node.")
        if not curve.is_point(node_id):
            raise CommandRefused(
                f"{node_id.hex()} is not a node id", what_to_do="Give 66 hex digits of a key."
            )
        connected = self._peers.get(node_id)
        if connected is not None and connected.ready:
            return self._info(connected)
        addresses = (request.address,) if request.address else self._book.addresses(node_id)
        if not addresses:
            raise CommandRefused(
                f"no address of {node_id.hex()} is known",
                what_to_do="Give it as host:port after the node id.",
                code=NO_ADDRESS,
            )
        running = self._dials.get(node_id)
        # The one who asks may give up; the dial goes on, since somebody else may wait for it as well.
        outcome = await asyncio.shield(self._dial(node_id, addresses))
        if isinstance(outcome, CommandRefused) and running is not None and request.address:
            # That dial had begun before, perhaps at other addresses.
            outcome = await asyncio.shield(self._dial(node_id, addresses))
        if isinstance(outcome, CommandRefused):
            raise outcome
        return outcome

    @handles(messages.Disconnect)
    def disconnect(self, request: messages.Disconnect) -> None:
        connection = self._peers.get(request.node_id)
        if connection is None:
            raise CommandRefused(
                f"peer {request.node_id.hex()} is not connected", what_to_do="There is nothing to do."
            )
        if request.node_id in self._kept and not request.force:
            raise CommandRefused(
                f"peer {request.node_id.hex()} has a channel with us",
                what_to_do="Close the channel first, or use force (we will connect again).",
            )
        self._close(connection, "disconnected by command")

    @handles(messages.ListPeers)
    def list_peers(self, request: messages.ListPeers) -> messages.Peers:
        known = {node_id: self._info(one) for node_id, one in self._peers.items() if one.ready}
        for node_id in self._kept:
            if node_id not in known:
                address = (*self._book.addresses(node_id), "")[0]
                seen = self._book.last_seen(node_id)
                known[node_id] = messages.PeerInfo(node_id, False, False, address, b"", seen)
        if request.node_id is not None:
            return messages.Peers((known[request.node_id],) if request.node_id in known else ())
        return messages.Peers(tuple(known.values()))

    @handles(messages.ListRoads)
    def list_roads(self, _request: messages.ListRoads) -> messages.Roads:
        roads = ((name, transport.status()) for name, transport in self._transports.items())
        return messages.Roads(
            tuple(
                messages.Road(name, status.state.value, status.sentence, status.addresses, status.inbound)
                for name, status in roads
            )
        )

    @hears(messages.ToPeer)
    def to_peer(self, message: messages.ToPeer) -> None:
        connection = self._peers.get(message.node_id)
        if connection is None or connection.number != message.connection:
            return
        connection.session.send(message.frames)
        self._to_flush.add(connection)

    @handles(messages.SendGossip)
    async def send_gossip(self, request: messages.SendGossip) -> bool:
        connection = self._peers.get(request.node_id)
        if connection is None or connection.number != request.connection:
            return False
        return await connection.send_gossip(request.frames)

    @hears(messages.DropPeer)
    def drop_peer(self, message: messages.DropPeer) -> None:
        connection = self._peers.get(message.node_id)
        if connection is None or connection.number != message.connection:
            return
        connection.session.send(message.frames)
        self._close(connection, message.reason)

    @hears(messages.KeepPeer)
    def keep_peer(self, message: messages.KeepPeer) -> None:
        if message.keep:
            self._kept.keep(message.node_id, self._clock())
        else:
            self._kept.forget(message.node_id)

    def after_turn(self) -> None:
        for connection in self._to_flush:
            connection.flush()
        self._to_flush.clear()

    # Time.

    async def _ticking(self) -> None:
        while True:
            self.tick()
            await asyncio.sleep(self._tick_seconds)

    def tick(self) -> None:
        """Ends what is late, pings the quiet, and dials those who are kept and gone."""
        now = self._clock()
        for connection in list(self._connections.values()):
            connection.tick(now)
        self._watch_roads(now)
        for node_id in self._kept.due(now):
            if node_id in self._peers or node_id in self._dials or len(self._dials) >= self._limits.redials:
                continue
            addresses = self._book.addresses(node_id)
            if addresses:
                self._dial(node_id, addresses)
            else:
                self._kept.lost(node_id, now, finding.profile_for(self._transports, ()))

    def _watch_roads(self, now: float) -> None:
        """A road that opens again ends the waiting of those who were lost with it."""
        opened = {
            name for name, transport in self._transports.items() if transport.status().state is RoadState.UP
        }
        if opened - self._open_roads:
            self._kept.hurry(now)
        self._open_roads = opened

    # Dialling.

    def _dial(
        self, node_id: bytes, addresses: Sequence[str]
    ) -> "asyncio.Task[messages.PeerInfo | CommandRefused]":
        """At most one dial a peer: who comes second waits for the first."""
        running = self._dials.get(node_id)
        if running is not None:
            return running
        dial = asyncio.get_running_loop().create_task(self._dial_each(node_id, addresses))
        self._dials[node_id] = dial
        dial.add_done_callback(lambda _: self._dials.pop(node_id, None))
        return dial

    async def _dial_each(
        self, node_id: bytes, addresses: Sequence[str]
    ) -> messages.PeerInfo | CommandRefused:
        refusals: list[str] = []
        code = NOT_REACHED
        for address in addresses:
            try:
                link = await finding.dial(self._transports, address, node_id)
            except (DialFailed, ValueError) as error:
                refusals.append(str(error))
                continue
            connection = self._open(link, address, node_id)
            connection.start()
            await connection.outcome
            connected = self._peers.get(node_id)  # this one, or one that the peer made meanwhile
            if connected is not None:
                await connected.outcome
                if connected.ready:
                    return self._info(connected)
            refusals.append(f"{address}: {connection.why_closed}")
            code = LEFT_EARLY
        self._kept.lost(node_id, self._clock(), finding.profile_for(self._transports, addresses))
        log.info("dial_failed", node_id=node_id.hex(), reasons=refusals)
        return CommandRefused(
            f"no connection with {node_id.hex()}: {'; '.join(refusals)}",
            what_to_do="Check the address and that the peer is running, then try again.",
            code=code,
        )

    # Links and their events.

    def _on_link(self, link: Link) -> None:
        half_open = [one for one in self._connections.values() if not one.ready and not one.outbound]
        if len(half_open) >= self._limits.half_open:
            # An honest handshake takes milliseconds, so the oldest is the least likely to be one.
            self._close(half_open[0], "too many connections in their handshake")
        self._open(link, link.peer_address, None).start()

    def _open(self, link: Link, address: str, node_id: bytes | None) -> Connection:
        now = self._clock()
        if node_id is None:
            session = Session.accept(
                self._local,
                ephemeral=new_ephemeral(),
                profile=link.profile,
                now=now,
                limits=self._limits,
                gossip=self._gossip,
            )
        else:
            session = Session.dial(
                self._local,
                node_id,
                ephemeral=new_ephemeral(),
                profile=link.profile,
                now=now,
                limits=self._limits,
                gossip=self._gossip,
            )
        self._opened += 1
        connection = Connection(
            link,
            session,
            number=self._opened,
            outbound=node_id is not None,
            address=address,
            limits=self._limits,
            clock=self._clock,
            run=self.run,
            on_event=self._on_event,
            on_lost=self._close,
        )
        self._connections[connection.number] = connection
        return connection

    def _on_event(self, connection: Connection, event: Event) -> None:
        match event:
            case ForChannels():
                self._to_channels(connection, event.frames)
            case ForGossip():
                if connection.node_id is not None:
                    self.bus.send(
                        "gossip",
                        messages.GossipFromPeer(connection.node_id, connection.number, event.frames),
                    )
            case StaticKeyNeeded():
                self.run(self._mix_static(connection, event.request))
            case Identified():
                self._identified(connection, event.node_id)
            case Ready():
                self._ready(connection, event.features)
            case PeerSaid():
                log.warning("peer_said", node_id=_hex(connection), kind=event.kind, text=event.text)
            case Ended():
                self._close(connection, event.reason)
            case _:
                assert_never(event)

    def _to_channels(self, connection: Connection, frames: tuple[bytes, ...]) -> None:
        node_id, number, send = connection.node_id, connection.number, self.bus.send
        if node_id is None:
            raise RuntimeError("a message for a channel came before the peer was identified")
        for frame in frames:
            to = "peer_storage" if frame[1] in STORAGE_TYPES and not frame[0] else "channel"
            send(to, messages.FromPeer(node_id, number, frame))

    async def _mix_static(self, connection: Connection, request: StaticDh) -> None:
        step = contract.StaticKeyStep(request.chaining_key.reveal(), request.remote_ephemeral)
        try:
            reply = await self._signer.call(step)
        except ProtocolError as error:
            self._close(connection, f"the signer could not take part in the handshake: {error}")
            return
        match reply:
            case contract.StaticKeyStepped():
                mixed = connection.session.static_key_mixed(
                    reply.chaining_key, reply.cipher_key, self._clock()
                )
                connection.perform(mixed)
            case contract.NotNow():
                self._close(connection, f"the signer is not ready: {reply.sentence}")
            case contract.Refused():
                self._close(connection, f"the signer refused the handshake: {reply.rule}. {reply.next_step}")
            case _:
                self._close(connection, f"the signer answered with {type(reply).__name__}, which is wrong")

    def _identified(self, connection: Connection, node_id: bytes) -> None:
        connection.node_id = node_id
        older = self._peers.get(node_id)
        if older is not None and self._older_stays(older, connection, node_id):
            self._close(connection, "both sides connected at once; the other connection stays")
            return
        if older is not None:
            self._close(older, "the peer has a newer connection")
        elif not connection.outbound and node_id not in self._kept and len(self._peers) >= self._limits.peers:
            self._close(connection, f"there are {self._limits.peers} peers already")
            return
        self._peers[node_id] = connection

    def _older_stays(self, older: Connection, newer: Connection, node_id: bytes) -> bool:
        """The newer one wins, since the older may be dead without our knowing.

        But when both sides dial at once, each would end what the other keeps. So of two fresh connections in
        opposite directions, both sides keep the one that the lower node id dialled.
        """
        fresh = self._clock() - older.opened <= newer.profile.crossing_dials
        if older.outbound == newer.outbound or not fresh:
            return False
        return older.outbound == (self._local.node_id < node_id)

    def _ready(self, connection: Connection, features: bytes) -> None:
        node_id = connection.node_id
        if node_id is None:
            raise RuntimeError("a session was ready before its peer was identified")
        connection.features = features
        connection.ready = True
        connection.outcome.set_result(None)
        if connection.outbound:
            self._book.reached(node_id, connection.address)
        else:
            self._book.seen(node_id)
        log.info("peer_up", node_id=node_id.hex(), address=connection.address, outbound=connection.outbound)
        self._give_back(connection, node_id)
        self.bus.publish(messages.PeerUp(node_id, connection.number, features))

    def _give_back(self, connection: Connection, node_id: bytes) -> None:
        """What we keep for it, before any channel speaks: it may have lost everything (BOLT 1, "Peer storage")."""
        if self._local.features.has("option_provide_storage"):
            blob = peer_storage.blob_of(self._writer, node_id)
            if blob is not None:
                connection.session.send((encode(bolt1.PeerStorageRetrieval(blob)),))

    def _close(self, connection: Connection, reason: str) -> None:
        """Ends a connection, whoever wanted it, and tells the others once."""
        if connection.why_closed is not None:
            return
        connection.close(reason)
        self._connections.pop(connection.number, None)
        self._to_flush.discard(connection)
        node_id = connection.node_id
        if node_id is not None and self._peers.get(node_id) is connection:
            del self._peers[node_id]
        log.info("peer_down", node_id=_hex(connection), address=connection.address, reason=reason)
        if node_id is None or not connection.ready:
            return
        self._book.seen(node_id)
        now = self._clock()
        self._kept.lost(node_id, now, connection.profile, lasted=now - connection.opened)
        self.bus.publish(messages.PeerDown(node_id, connection.number, reason))

    def _info(self, connection: Connection) -> messages.PeerInfo:
        return messages.PeerInfo(
            node_id=connection.node_id or b"",
            connected=True,
            outbound=connection.outbound,
            address=connection.address,
            features=connection.features,
            last_seen=int(time.time()),
            road=connection.profile.road,
        )


def _hex(connection: Connection) -> str:
    return connection.node_id.hex() if connection.node_id else "unknown"
