"""The channel service while it starts: a peer may be quicker than the signer and the chain."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from node.channel import store
from node.channel.events import Connected
from node.channel.service import ChannelService
from node.channel.state import State
from node.signer_link.client import Callback, SignerState
from node.storage.database import open_database
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw
from protocol.bitcoin.network import REGTEST
from protocol.bus.local import LocalBus
from protocol.bus.messages import chain, peer
from protocol.bus.messages import channel as said
from protocol.bus.messages import signer as sign
from protocol.bus.service import Service, handles, hears
from tests.node.channel.pair import End, Pair, open_channel


class Chain(Service):
    name = "chain"

    @handles(chain.GetTip)
    def tip(self, _request: chain.GetTip) -> chain.Tip:
        return chain.Tip(BlockHeight(110), bytes(32), True)

    @handles(chain.GetFeerate)
    def feerate(self, _request: chain.GetFeerate) -> FeeratePerKw:
        return FeeratePerKw(1_000)

    @handles(chain.GetMempoolMinimum)
    def mempool_minimum(self, _request: chain.GetMempoolMinimum) -> FeeratePerKw:
        return FEERATE_FLOOR

    @handles(chain.WatchOutput)
    def watch(self, _request: chain.WatchOutput) -> None:
        pass


class Peers(Service):
    name = "peer"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.sent: list[peer.ToPeer | peer.DropPeer] = []
        self.heard = asyncio.Event()

    @hears(peer.ToPeer, peer.DropPeer)
    def to_peer(self, message: peer.ToPeer | peer.DropPeer) -> None:
        self.sent.append(message)
        self.heard.set()

    @hears(peer.KeepPeer)
    def keep(self, _message: peer.KeepPeer) -> None:
        pass


class LateSigner:
    """The real signer of one end, which greets the node only when the test lets it."""

    state = SignerState.UP
    reason = ""

    def __init__(self, end: End) -> None:
        self._end = end
        self.comes = asyncio.Event()

    async def wait_up(self) -> None:
        await self.comes.wait()

    async def call(self, request: sign.Request, **_: float) -> sign.Reply:
        return self._end.call(request)

    def call_nowait(self, request: sign.Request, callback: Callback, **_: float) -> int:
        asyncio.get_running_loop().call_soon(callback, self._end.call(request))
        return 0


@pytest.fixture
def ends(tmp_path: Path) -> tuple[End, State, bytes, bytes]:
    """Bob and his state at rest, alice's node id, and the channel_reestablish that she says when she connects."""
    pair = Pair(tmp_path)
    open_channel(pair)
    state = pair.bob.state
    assert state is not None
    pair.disconnect()
    pair.alice.out.waiting.clear()
    pair.alice.do(Connected(1))
    (frame,) = pair.alice.out.waiting
    return pair.bob, state, state.committed.params.peer, frame


async def test_reestablish_that_comes_before_the_channels_are_ready_is_not_lost(
    ends: tuple[End, State, bytes, bytes], tmp_path: Path
) -> None:
    """BOLT 2, Message Retransmission: the peer says channel_reestablish once; lost, the channel would wait for ever."""
    bob, state, alice_id, frame = ends
    database = open_database(tmp_path / "node.db", create=True)
    bus = LocalBus()
    signer: Any = LateSigner(bob)
    peers, backend = Peers(bus), Chain(bus)
    service = ChannelService(bus, database.writer, signer, chain_hash=REGTEST.chain_hash)
    try:
        await database.writer.submit(store.new_channel(1, state.committed), now=True)
        for one in (backend, peers, service):
            await one.start()
        bus.publish(peer.PeerUp(alice_id, 7, b""))
        bus.send("channel", peer.FromPeer(alice_id, 7, frame))
        listed = await bus.request("channel", said.ListChannels())
        assert not listed.channels[0].reestablished
        signer.comes.set()
        await asyncio.wait_for(peers.heard.wait(), 10)
        assert all(isinstance(message, peer.ToPeer) for message in peers.sent), peers.sent
        listed = await bus.request("channel", said.ListChannels())
        assert listed.channels[0].reestablished
    finally:
        for one in (service, peers, backend):
            await one.stop()
        database.close()
