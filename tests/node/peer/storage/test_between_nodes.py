"""Two nodes that keep for each other, over TCP (BOLT 1, "Peer storage"; checklist 7)."""

from typing import Any, ClassVar

from node.peer.storage import table
from node.peer.storage.service import PeerStorageService
from protocol.bus.local import LocalBus
from protocol.bus.messages import channel
from protocol.bus.messages import peer as messages
from protocol.bus.service import Service, hears
from protocol.wire import bolt1, decode, encode
from tests.node.peer.network import INIT, Make, TcpRawPeer, is_up, pair, until
from tests.node.peer.wiring import ALICE, BOB_KEY

CIPHERTEXT = bytes(range(256)) * 255 + bytes(251)


class Backup(Service):
    """Stands where the backup stands."""

    name: ClassVar[str] = "backup"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.back: list[messages.OurBlobCameBack] = []

    @hears(messages.OurBlobCameBack)
    def came_back(self, event: messages.OurBlobCameBack) -> None:
        self.back.append(event)


class Open(PeerStorageService):
    """Every peer that it asks about has a channel."""

    async def _with_channels(self, request: channel.ListChannels) -> frozenset[bytes] | None:
        return frozenset(self._peers) if request.peer is None else frozenset((request.peer,))


async def test_a_blob_comes_back_after_a_reconnection(make: Make) -> None:
    """checklist 7"""
    alice, bob = await pair(make)
    services: list[Service] = [Open(node.bus, node.database.writer) for node in (alice, bob)]
    backup = Backup(alice.bus)
    for service in (*services, backup):
        await service.start()
    for node, other in ((alice, bob), (bob, alice)):
        up = node.channels.all(messages.PeerUp)[-1]
        node.bus.send("peer_storage", messages.PeerUp(other.id, up.connection, up.features))
    alice.bus.send("peer_storage", messages.PutOurBlob(CIPHERTEXT))
    await until(lambda: table.blob_of(bob.database.writer, alice.id) == CIPHERTEXT)
    await alice.bus.request("peer", messages.Disconnect(bob.id, force=True))
    await alice.connect(bob)
    await until(lambda: backup.back)
    assert backup.back == [messages.OurBlobCameBack(bob.id, CIPHERTEXT)]
    for service in (backup, *services):
        await service.stop()


async def test_what_is_kept_is_the_first_word_after_init(make: Make) -> None:
    """checklist 7: a peer that lost everything must have it before the first channel_reestablish."""
    bob = await make(BOB_KEY)
    await bob.database.writer.submit(table.put(ALICE, b"kept"), now=True)
    peer = await TcpRawPeer.to(bob)
    peer.sends(INIT)
    await bob.channels.until(is_up)
    bob.bus.send(
        "peer",
        messages.ToPeer(ALICE, bob.channels.all(messages.PeerUp)[0].connection, (encode(bolt1.Ping(0)),)),
    )
    await bob.bus.request("peer", messages.Disconnect(ALICE, force=True))
    heard: list[Any] = await peer.hears_until_closed()
    assert [type(message) for message in heard[:2]] == [bolt1.Init, bolt1.PeerStorageRetrieval]
    assert heard[1].blob == b"kept"


async def test_nothing_is_said_to_a_peer_that_gave_nothing(make: Make) -> None:
    bob = await make(BOB_KEY)
    peer = await TcpRawPeer.to(bob)
    peer.sends(INIT)
    await bob.channels.until(is_up)
    await bob.bus.request("peer", messages.Disconnect(ALICE, force=True))
    heard = await peer.hears_until_closed()
    assert [type(message) for message in heard] == [bolt1.Init]


async def test_storage_messages_do_not_reach_the_channels(make: Make) -> None:
    bob = await make(BOB_KEY)
    heard: list[messages.FromPeer] = []

    class Storage(Service):
        name: ClassVar[str] = "peer_storage"

        @hears(messages.FromPeer)
        def hear(self, message: messages.FromPeer) -> None:
            heard.append(message)

    stand_in = Storage(bob.bus)
    await stand_in.start()
    peer = await TcpRawPeer.to(bob)
    peer.sends(INIT, encode(bolt1.PeerStorage(b"a")), encode(bolt1.PeerStorageRetrieval(b"b")))
    await until(lambda: len(heard) == 2)
    assert [decode(message.frame) for message in heard] == [
        bolt1.PeerStorage(b"a"),
        bolt1.PeerStorageRetrieval(b"b"),
    ]
    assert bob.channels.all(messages.FromPeer) == []
    await stand_in.stop()
