"""The channel service while it starts: the signer may be away, the chain slow, and peers are quick."""

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest

from node.channel.events import Connected, FromPeer
from node.channel.service import MAX_EARLY, ChannelService
from node.storage.database import open_database
from protocol import curve
from protocol.amounts import BlockHeight, FeeratePerKw
from protocol.bitcoin.network import REGTEST
from protocol.bus.local import LocalBus
from protocol.bus.messages import chain
from protocol.bus.messages import peer as peers
from protocol.bus.service import Service, handles, hears
from protocol.secret import Secret
from protocol.wire.bolt2_reestablish import ChannelReestablish
from protocol.wire.message import encode

PEER = curve.point_of(b"\x22" * 32)
CHANNEL = b"\xc1" * 32
REESTABLISH = ChannelReestablish(
    CHANNEL,
    next_commitment_number=1,
    next_revocation_number=0,
    your_last_per_commitment_secret=Secret(bytes(32)),
    my_current_per_commitment_point=PEER,
)


class _Chain(Service):
    name: ClassVar[str] = "chain"

    @handles(chain.GetTip)
    def tip(self, _request: chain.GetTip) -> chain.Tip:
        return chain.Tip(BlockHeight(7), bytes(32), True)

    @handles(chain.GetFeerate)
    def feerate(self, _request: chain.GetFeerate) -> FeeratePerKw:
        return FeeratePerKw(500)


class _Peers(Service):
    name: ClassVar[str] = "peer"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.dropped: list[peers.DropPeer] = []

    @hears(peers.DropPeer)
    def drop(self, message: peers.DropPeer) -> None:
        self.dropped.append(message)


class _Signer:
    """Away until `up` is set."""

    def __init__(self) -> None:
        self.up = asyncio.Event()

    async def wait_up(self) -> None:
        await self.up.wait()


class _Channel:
    """Stands where a channel of PEER would; records what it is told."""

    peer, channel_id, row_id = PEER, CHANNEL, 1

    def __init__(self) -> None:
        self.told: list[Any] = []

    def put(self, event: Any) -> None:
        self.told.append(event)


class _Service(ChannelService):
    """Without the two things that need a whole channel."""

    def _watch(self, channel: Any) -> None:
        pass

    async def _send_funding(self, channel: Any) -> None:
        pass

    async def _compare_numbers(self) -> None:
        pass


class Starting:
    def __init__(self, folder: Path) -> None:
        self.bus = LocalBus()
        self.database = open_database(folder / "lnp.db", create=True)
        self.signer = _Signer()
        self.peers = _Peers(self.bus)
        self.chain = _Chain(self.bus)
        self.service = _Service(
            self.bus,
            self.database.writer,
            self.signer,
            chain_hash=REGTEST.chain_hash,  # type: ignore[arg-type]
        )
        self.channel = _Channel()
        self.service._channels[CHANNEL] = self.channel  # type: ignore[assignment]

    async def __aenter__(self) -> "Starting":
        for service in (self.peers, self.chain, self.service):
            await service.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for service in (self.service, self.chain, self.peers):
            await service.stop()
        self.database.close()

    async def ready(self) -> None:
        self.signer.up.set()
        for _ in range(1000):
            if self.service._ready:
                return
            await asyncio.sleep(0)
        pytest.fail("the service did not become ready")

    async def turns(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


async def test_message_of_a_quick_peer_waits_until_the_channel_knows_the_connection(folder: Path) -> None:
    """LDK sends channel_reestablish right behind init, while we still wait for our signer; it comes only once."""
    async with Starting(folder) as starting:
        starting.bus.publish(peers.PeerUp(PEER, 1, b""))
        starting.bus.send("channel", peers.FromPeer(PEER, 1, encode(REESTABLISH)))
        await starting.turns()
        assert starting.channel.told == []
        await starting.ready()
        await starting.turns()
        heard = [e for e in starting.channel.told if isinstance(e, Connected | FromPeer)]
        assert heard == [Connected(1), FromPeer(REESTABLISH)]


async def test_message_of_a_connection_that_is_gone_by_then_is_dropped(folder: Path) -> None:
    async with Starting(folder) as starting:
        starting.bus.publish(peers.PeerUp(PEER, 1, b""))
        starting.bus.send("channel", peers.FromPeer(PEER, 1, encode(REESTABLISH)))
        starting.bus.publish(peers.PeerDown(PEER, 1, "gone"))
        starting.bus.publish(peers.PeerUp(PEER, 2, b""))
        await starting.turns()
        await starting.ready()
        await starting.turns()
        heard = [e for e in starting.channel.told if isinstance(e, Connected | FromPeer)]
        assert heard == [Connected(2)]


async def test_peer_that_floods_while_we_start_is_dropped(folder: Path) -> None:
    async with Starting(folder) as starting:
        starting.bus.publish(peers.PeerUp(PEER, 1, b""))
        for _ in range(MAX_EARLY + 1):
            starting.bus.send("channel", peers.FromPeer(PEER, 1, encode(REESTABLISH)))
        await starting.turns()
        assert [(drop.node_id, drop.connection) for drop in starting.peers.dropped] == [(PEER, 1)]
