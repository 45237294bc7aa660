"""The life of one `lnpd run`: lock and database, signer link, chain, and the services on top (DESIGN, section 3)."""

import asyncio
import json
import os
import signal
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog
from msgspec import Struct, field

from node import log as node_log
from node.backup.service import FILE as BACKUP_FILE
from node.backup.service import BackupService
from node.chain.backend import BackendAway, BackendUnusable, ChainBackend
from node.chain.service import ChainService
from node.chain.source import backend_of, fee_sources_of
from node.channel.service import ChannelService
from node.channel.terms import Policy
from node.config import Config
from node.events.service import EventService
from node.gateway.service import GatewayService
from node.linkkey import LinkKey
from node.payments.service import PaymentService
from node.peer import roads, transports
from node.peer.events import LocalNode
from node.peer.service import PeerService
from node.peer.storage.service import PeerStorageService
from node.routing.gossip.announcer import NodeFace
from node.routing.gossip.service import GossipService, GossipSettings
from node.routing.gossip.store import FILE as GOSSIP_FILE
from node.routing.graph import Graph
from node.routing.service import RoutingService
from node.rpc.service import RpcService
from node.rpc.table import NodeFacts
from node.signer_link.client import SignerClient, SignerState
from node.storage.database import Database, open_database
from node.storage.errors import StorageFailed
from node.supervisor import Supervisor
from node.tower.service import NoTower, TowerService
from node.wallet.reserve import ReserveService
from node.wallet.service import WalletService
from protocol.amounts import FeeratePerKw
from protocol.bitcoin.network import Network
from protocol.bolt7 import addresses
from protocol.bolt7.announcement import padded_alias
from protocol.bolt9 import OUR_INIT, OUR_NODE
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.local import LocalBus
from protocol.bus.messages.chain import GetTip, Tip
from protocol.bus.messages.events import SignerRow
from protocol.bus.messages.signer import Welcome
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.service import Service
from protocol.errors import CommandRefused
from protocol.transport import parse_host_port

log = structlog.get_logger()
DATABASE = "node.db"
READY_FILE = "lnpd.json"
SCORES = "scores.db"
"""What attempts taught of the network: may be deleted at any time."""
FALLBACK_FEERATE = FeeratePerKw(1_000)
"""Where money is play money: a regtest has never an estimate of its own."""
FIRST_META = "INSERT OR IGNORE INTO meta (key, value) VALUES (?, ?)"
DAY = 144
PUT_META = "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)"


class Identity(Struct, frozen=True):
    """What the signer said of itself, kept so that the node can start while it is away."""

    node_id: bytes
    wallet_xpub: str
    wallet_origin: str


class Parts(Struct, frozen=True):
    """What services are made of."""

    directory: Path
    config: Config
    network: Network
    bus: LocalBus
    database: Database
    signer: SignerClient
    backend: ChainBackend
    identity: Identity
    supervisor: Supervisor
    graph: Graph = field(default_factory=Graph)
    """Gossip fills it, routing searches it."""


def _chain(parts: Parts) -> Service:
    wanted = parts.config.fallback_feerate_per_kw
    fallback = FALLBACK_FEERATE if wanted is None else FeeratePerKw(wanted)
    others = fee_sources_of(parts.config, parts.directory)
    return ChainService(
        parts.bus, parts.backend, parts.database.writer, fallback_feerate=fallback, fee_sources=others
    )


def _wallet(parts: Parts) -> Service:
    return WalletService(
        parts.bus,
        network=parts.network,
        xpub=parts.identity.wallet_xpub,
        origin=parts.identity.wallet_origin,
        signer=parts.signer,
        writer=parts.database.writer,
        birth_height=_birth_height(parts),
    )


def _birth_height(parts: Parts) -> int | None:
    """Of the settings, or of the backup that this node came back from."""
    if parts.config.birth_height is not None:
        return parts.config.birth_height
    kept = parts.database.writer.read("SELECT value FROM meta WHERE key = 'birth_height'")
    return int(kept[0][0]) if kept else None


def _backup(parts: Parts) -> Service:
    others = tuple(Path(file).expanduser() for file in parts.config.backup.files)
    return BackupService(
        parts.bus,
        signer=parts.signer,
        network=parts.network.name,
        files=(parts.directory / BACKUP_FILE, *others),
        to_peers=parts.config.backup.peers,
        birth_height=lambda: _birth_height(parts) or 0,
    )


def _reserve(parts: Parts) -> Service:
    return ReserveService(parts.bus, signer=parts.signer)


def _tower(parts: Parts) -> Service:
    file = parts.config.tower.file
    if not file:
        return NoTower(parts.bus)
    return TowerService(
        parts.bus, writer=parts.database.writer, signer=parts.signer, file=Path(file).expanduser()
    )


def _channel(parts: Parts) -> Service:
    service = ChannelService(
        parts.bus,
        parts.database.writer,
        parts.signer,
        chain_hash=parts.network.chain_hash,
        policy=Policy(zeroconf_peers=parts.config.channel.trusted(), max_dust=parts.config.channel.dust()),
    )
    service.keeps_revoked = bool(parts.config.tower.file)
    return service


def _payments(parts: Parts) -> Service:
    return PaymentService(
        parts.bus,
        writer=parts.database.writer,
        signer=parts.signer,
        network=parts.network,
        node_id=parts.identity.node_id,
    )


def _routing(parts: Parts) -> Service:
    return RoutingService(
        parts.bus, node_id=parts.identity.node_id, graph=parts.graph, scores=parts.directory / SCORES
    )


def _gossip(parts: Parts) -> Service:
    facts = _facts(parts, ())
    try:
        announced = tuple(addresses.of_host(host, port) for host, port in facts.addresses)
        encoded = addresses.encode(announced)
    except ValueError as error:
        raise CommandRefused(
            f"an address cannot be announced: {error}", what_to_do="Correct announce in lnp.toml."
        ) from error
    onion_only = parts.config.tor.resolved(parts.config.network).clear != "direct"
    features = OUR_NODE.to_bytes()
    face = NodeFace(padded_alias(facts.alias), facts.color, encoded, features, onion_only)
    return GossipService(
        parts.bus,
        node_id=parts.identity.node_id,
        chain_hash=parts.network.chain_hash,
        signer=parts.signer,
        path=parts.directory / GOSSIP_FILE,
        sink=parts.graph,
        settings=GossipSettings(face, leaf=parts.config.leaf),
    )


def _peer_storage(parts: Parts) -> Service:
    return PeerStorageService(parts.bus, parts.database.writer)


def _peer(parts: Parts) -> Service:
    return PeerService(
        parts.bus,
        local=LocalNode(parts.identity.node_id, OUR_INIT, parts.network.chain_hash),
        signer=parts.signer,
        writer=parts.database.writer,
        transports=transports.load(roads.wanted(parts.config), parts.directory),
        listen=parts.config.listen,
        gossip=True,
    )


SERVICES: tuple[Callable[[Parts], Service], ...] = (
    _chain,
    _wallet,
    _reserve,
    _channel,
    _routing,
    _payments,
    _gossip,
    _peer_storage,
    _peer,
    _backup,
    _tower,
)
"""In the order of their start. All are made before the first starts, so that nobody misses an event.

Peers come last: nobody may talk to us before the channels know where they stood.
"""


async def run(directory: Path, config: Config) -> int:
    """Runs until SIGTERM, SIGINT, the RPC's `stop`, or a failure. Returns the exit code, or raises what a person
    can cure."""
    database = open_database(directory / DATABASE)
    supervisor = Supervisor()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.request_stop)
    database.writer.on_failure = supervisor.fail
    starting = asyncio.ensure_future(_start(directory, config, database, supervisor))
    stopping = asyncio.ensure_future(supervisor.stopping.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if starting.done() and (error := starting.exception()) is not None:
            supervisor.fail(error)
        await stopping
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        (directory / READY_FILE).unlink(missing_ok=True)
        await supervisor.stop()
        database.close()
    log.info("stopped")
    if isinstance(supervisor.failed, CommandRefused | StorageFailed | BackendUnusable):
        raise supervisor.failed
    return 0 if supervisor.failed is None else 1


async def _start(directory: Path, config: Config, database: Database, supervisor: Supervisor) -> None:
    network = config.network_parameters
    bus = LocalBus()
    signer = _SignerLink(directory, config, bus)
    await supervisor.start(signer)
    backend = backend_of(config, directory)
    try:
        await backend.check()
    except BackendAway as error:
        log.warning("chain_away", reason=str(error))
    identity = await _identity(database, signer.client)
    parts = Parts(directory, config, network, bus, database, signer.client, backend, identity, supervisor)
    services = [make(parts) for make in SERVICES]
    event_stream = EventService(bus, signer=signer.row)
    await supervisor.start(_LogTap(event_stream))
    await supervisor.start(event_stream)
    signer.say()  # it may have come up before anybody listened
    for service in services:
        await supervisor.start(service)
        if isinstance(service, ChainService):
            await _first_tip(bus, database)
    listening = tuple(
        address for service in services if isinstance(service, PeerService) for address in service.addresses
    )
    rpc = RpcService(
        bus, directory=directory, facts=_facts(parts, listening), stop_node=supervisor.request_stop
    )
    await supervisor.start(rpc)
    gateway = GatewayService(bus, directory=directory, network=network.name, listen=config.gateway.listen)
    await supervisor.start(gateway)
    _write_ready(directory, identity, listening, rpc.path)
    log.info("ready", node_id=identity.node_id, network=network.name, listen=",".join(listening))


class _SignerLink:
    """The line to the signer as a part that is started and stopped; its state is told on the bus."""

    name = "signer_link"

    def __init__(self, directory: Path, config: Config, bus: LocalBus) -> None:
        key = LinkKey.load(directory)
        self.client = SignerClient(
            config.signer.endpoint,
            config.signer.server_key.encode(),
            key.public,
            key.secret,
            network=config.network,
        )
        self._bus = bus

    async def start(self) -> None:
        self.client.on_state = self.say
        self.client.start()

    async def stop(self) -> None:
        await self.client.stop()

    def row(self) -> SignerRow:
        client = self.client
        return SignerRow(
            up=client.state is SignerState.UP,
            reason=client.reason,
            endpoint=client.endpoint,
            node_id=client.welcome.node_id if client.welcome is not None else b"",
            requests=client.requests,
            open=client.open_requests,
            refused=client.lanes.refused,
            lanes=client.lanes.rows(),
            refusals=client.lanes.refusals(),
        )

    def say(self, _state: SignerState | None = None) -> None:
        self._bus.publish(SignerLink(self.client.state is SignerState.UP, self.client.reason))


class _LogTap:
    """The log's lines are events too, from the start of the services to their end."""

    name = "log_tap"

    def __init__(self, stream: EventService) -> None:
        self._hear = stream.log_line

    async def start(self) -> None:
        node_log.tap(self._hear)

    async def stop(self) -> None:
        node_log.untap(self._hear)


async def _identity(database: Database, signer: SignerClient) -> Identity:
    """From the database once the signer was seen; the first time we wait for it."""
    kept = dict(database.writer.read("SELECT key, value FROM meta"))
    if "node_id" in kept:
        identity = Identity(bytes.fromhex(kept["node_id"]), kept["wallet_xpub"], kept["wallet_origin"])
        signer.expect(identity.node_id)
        return identity
    log.info("waiting_for_signer", what_to_do="Start lnp-signer, pair this node's key, and unlock it.")
    welcome: Welcome = await signer.wait_up()
    rows = [
        ("node_id", welcome.node_id.hex()),
        ("wallet_xpub", welcome.wallet_xpub),
        ("wallet_origin", welcome.wallet_origin),
    ]
    await database.writer.submit([(PUT_META, rows)], now=True)
    return Identity(welcome.node_id, welcome.wallet_xpub, welcome.wallet_origin)


async def _first_tip(bus: LocalBus, database: Database) -> None:
    """At the very first start nothing can be done before the chain was seen; later the last tip is known."""
    while True:
        try:
            tip: Tip = await bus.request("chain", GetTip(), deadline=60)
            break
        except OutcomeUnknown:
            log.warning(
                "waiting_for_chain", what_to_do="Start its source, or correct the address in lnp.toml."
            )
    # For backups: a restored wallet looks for its coins from here on.
    born = [("birth_height", str(max(0, tip.height - DAY)))]
    await database.writer.submit([(FIRST_META, born)], now=False)


def _facts(parts: Parts, listening: tuple[str, ...]) -> NodeFacts:
    node_id = parts.identity.node_id
    try:
        release = version("lnp-node")
    except PackageNotFoundError:
        release = "unreleased"
    try:
        color = bytes.fromhex(parts.config.color)
        announce = tuple(parse_host_port(address) for address in parts.config.announce)
    except ValueError as error:
        raise CommandRefused(
            f"a setting cannot be used: {error}", what_to_do="Correct color or announce in lnp.toml."
        ) from error
    return NodeFacts(
        node_id=node_id,
        alias=parts.config.alias or f"lnp-{node_id.hex()[2:10]}",
        color=color,
        network=parts.network,
        lightning_dir=str(parts.directory),
        version=release,
        features=OUR_INIT.to_bytes(),
        addresses=announce,
        binding=tuple(parse_host_port(address) for address in listening),
    )


def _write_ready(directory: Path, identity: Identity, listening: tuple[str, ...], rpc: Path) -> None:
    """Appears whole: whoever waits for it finds a node that answers."""
    document = {
        "pid": os.getpid(),
        "node_id": identity.node_id.hex(),
        "listen": list(listening),
        "rpc": str(rpc),
    }
    part = directory / f"{READY_FILE}.part"
    part.write_text(json.dumps(document, indent=1) + "\n")
    part.replace(directory / READY_FILE)
