"""Two peer services over real TCP and real Noise: connections, messages, refusals, reconnection."""

import asyncio
import socket
from pathlib import Path

import pytest

from node.peer import transports
from node.peer.events import LocalNode
from node.peer.service import PeerService
from node.storage.database import open_database
from protocol import curve
from protocol.bitcoin.network import MAINNET, REGTEST
from protocol.bolt9 import OUR_INIT
from protocol.bus.local import LocalBus
from protocol.bus.messages import peer as messages
from protocol.bus.messages import signer as contract
from protocol.errors import CommandRefused
from protocol.transport import LinkProfile, RoadState, RoadStatus
from protocol.wire import bolt1, encode
from tests.node.peer.network import INIT, Make, RawLink, TcpRawPeer, is_down, is_up, pair
from tests.node.peer.wiring import ALICE_KEY, BOB_KEY
from transports.tcp import TcpTransport

# Connecting.


async def test_peers_connect_and_both_are_told(make: Make):
    alice, bob = await pair(make)
    (up,) = bob.channels.all(messages.PeerUp)
    assert (up.node_id, up.features) == (alice.id, OUR_INIT.to_bytes())
    (there,) = (await alice.bus.request("peer", messages.ListPeers())).peers
    assert (there.node_id, there.connected, there.outbound, there.address) == (
        bob.id,
        True,
        True,
        bob.address,
    )
    (here,) = (await bob.bus.request("peer", messages.ListPeers(alice.id))).peers
    assert (here.connected, here.outbound) == (True, False)


async def test_connect_to_a_connected_peer_answers_at_once(make: Make):
    alice, bob = await pair(make)
    calls = alice.signer.calls
    assert (await alice.connect(bob)).node_id == bob.id
    assert alice.signer.calls == calls == 1


async def test_two_who_ask_at_once_share_one_dial(make: Make):
    alice, bob = await make(ALICE_KEY), await make(BOB_KEY)
    one, other = await asyncio.gather(alice.connect(bob), alice.connect(bob))
    assert one == other
    assert bob.signer.calls == 1


async def test_an_address_that_is_given_is_tried_although_a_dial_elsewhere_runs(make: Make):
    """Such as our own, of a peer with a channel that moved."""
    alice, bob = await make(ALICE_KEY), await make(BOB_KEY)
    with socket.create_server(("127.0.0.1", 0)) as gone:
        elsewhere = f"127.0.0.1:{gone.getsockname()[1]}"
    alice.peers._dial(bob.id, (elsewhere,))
    there = await alice.connect(bob)
    assert (there.connected, there.address) == (True, bob.address)


async def test_address_is_remembered_and_used_when_none_is_given(make: Make):
    alice, bob = await pair(make)
    await alice.bus.request("peer", messages.Disconnect(bob.id))
    await alice.database.writer.submit([], now=True)
    info = await alice.bus.request("peer", messages.Connect(bob.id))
    assert info.address == bob.address


async def test_connect_refusals_say_what_to_do(make: Make):
    alice, bob = await make(ALICE_KEY), await make(BOB_KEY)
    stranger = curve.point_of(bytes([9]) * 32)

    async def refusal(request: messages.Connect) -> CommandRefused:
        with pytest.raises(CommandRefused) as refused:
            await alice.bus.request("peer", request)
        return refused.value

    assert (await refusal(messages.Connect(stranger))).code == 400
    free = await RawLink.to(bob)  # an address at which nobody will listen any more
    own_port = free.writer.get_extra_info("sockname")[1]
    free.writer.transport.abort()
    unreachable = await refusal(messages.Connect(stranger, f"127.0.0.1:{own_port}"))
    assert unreachable.code == 401 and "cannot be reached" in unreachable.sentence
    wrong = await refusal(messages.Connect(stranger, bob.address))
    assert wrong.code == 402
    assert "not host:port" in (await refusal(messages.Connect(stranger, "nowhere"))).sentence
    assert "no transport 'smoke'" in (await refusal(messages.Connect(stranger, "smoke://x:1"))).sentence
    assert "not a node id" in (await refusal(messages.Connect(bytes(33), "127.0.0.1:1"))).sentence
    assert "our own" in (await refusal(messages.Connect(alice.id, alice.address))).sentence


@pytest.mark.parametrize(
    ("instead", "sentence"),
    [
        (contract.NotNow("it is locked"), "the signer is not ready: it is locked"),
        (contract.Refused("t", "no rule", "", "", "Do this."), "the signer refused the handshake: no rule"),
        (CommandRefused("the signer is away", what_to_do="Start it."), "the signer is away"),
    ],
)
async def test_dial_without_a_signer_is_refused_with_its_words(
    make: Make, instead: contract.Reply | Exception, sentence: str
):
    alice, bob = await make(ALICE_KEY), await make(BOB_KEY)
    alice.signer.instead = instead
    with pytest.raises(CommandRefused, match=sentence):
        await alice.connect(bob)
    alice.signer.instead = None
    assert (await alice.connect(bob)).connected


async def test_peer_on_another_chain_is_refused(make: Make):
    alice = await make(ALICE_KEY)
    bob = await make(BOB_KEY, chain_hash=MAINNET.chain_hash)
    with pytest.raises(CommandRefused) as refused:
        await alice.connect(bob)
    assert refused.value.code == 402
    assert not is_up(bob.channels.heard)


async def test_both_dial_at_once_and_one_connection_stays(make: Make):
    alice, bob = await make(ALICE_KEY), await make(BOB_KEY)
    await asyncio.gather(alice.connect(bob), bob.connect(alice))
    alice_up, bob_up = alice.channels.all(messages.PeerUp), bob.channels.all(messages.PeerUp)
    await alice.channels.until(is_up)
    await bob.channels.until(is_up)
    (one,) = (await alice.bus.request("peer", messages.ListPeers())).peers
    (other,) = (await bob.bus.request("peer", messages.ListPeers())).peers
    assert one.outbound is not other.outbound
    assert alice_up is not bob_up
    alice.send(bob, b"\0\x88still here")
    await bob.channels.until(
        lambda heard: any(getattr(m, "frame", b"") == b"\0\x88still here" for m in heard)
    )


async def test_newer_connection_replaces_the_older(make: Make):
    """The older may be dead without our knowing; the newer has just proved who it is."""
    bob = await make(BOB_KEY)
    first = await TcpRawPeer.to(bob)
    first.sends(INIT)
    await bob.channels.until(is_up)
    second = await TcpRawPeer.to(bob)
    second.sends(INIT)
    await bob.channels.until(lambda heard: len([m for m in heard if isinstance(m, messages.PeerUp)]) == 2)
    await first.hears_until_closed()
    kinds = [type(message).__name__ for message in bob.channels.heard]
    assert kinds == ["PeerUp", "PeerDown", "PeerUp"]
    (info,) = (await bob.bus.request("peer", messages.ListPeers())).peers
    assert info.connected
    second.link.writer.close()


# Messages.


async def test_messages_arrive_in_order_with_their_connection(make: Make):
    alice, bob = await pair(make)
    frames = tuple(b"\0\x80" + number.to_bytes(2, "big") + bytes(1400) for number in range(500))
    for at in range(0, 500, 7):
        alice.send(bob, *frames[at : at + 7])
    await bob.channels.until(lambda heard: len(heard) == 501)
    (up,) = bob.channels.all(messages.PeerUp)
    got = bob.channels.all(messages.FromPeer)
    assert [message.frame for message in got] == list(frames)
    assert {(message.node_id, message.connection) for message in got} == {(alice.id, up.connection)}


async def test_all_messages_of_a_turn_leave_in_one_write(make: Make, monkeypatch: pytest.MonkeyPatch):
    alice, bob = await pair(make)
    sent: list[int] = []
    connection = next(iter(alice.peers._connections.values()))
    send = connection._link.send
    monkeypatch.setattr(connection._link, "send", lambda data: (sent.append(len(data)), send(data)))
    for number in range(100):
        alice.send(bob, b"\0\x80" + bytes([number]))
    await bob.channels.until(lambda heard: len(heard) == 101)
    assert len(sent) == 1


async def test_channels_hear_of_a_peer_after_its_init_and_not_before(make: Make):
    """checklist 2: they say channel_reestablish as soon as they hear of it."""
    bob = await make(BOB_KEY)
    quiet = await TcpRawPeer.to(bob)
    other = await TcpRawPeer.to(bob, key=bytes([6]) * 32)
    other.sends(INIT)
    await bob.channels.until(is_up)
    assert [up.node_id for up in bob.channels.all(messages.PeerUp)] == [curve.point_of(bytes([6]) * 32)]
    quiet.sends(INIT)
    await bob.channels.until(lambda heard: len([m for m in heard if isinstance(m, messages.PeerUp)]) == 2)
    for one in (quiet, other):
        one.link.writer.close()


async def test_channels_never_hear_of_a_peer_that_speaks_before_its_init(make: Make):
    """checklist 2"""
    bob = await make(BOB_KEY)
    rude = await TcpRawPeer.to(bob)
    rude.sends(b"\0\x88reestablish", INIT)
    init, warning = await rude.hears_until_closed()
    assert isinstance(init, bolt1.Init) and isinstance(warning, bolt1.Warning)
    assert b"before init" in warning.data
    assert bob.channels.heard == []


async def test_messages_for_an_older_connection_are_dropped(make: Make):
    alice, bob = await pair(make)
    (old,) = alice.channels.all(messages.PeerUp)
    await alice.bus.request("peer", messages.Disconnect(bob.id))
    await bob.channels.until(is_down)
    await alice.connect(bob)
    alice.bus.send("peer", messages.ToPeer(bob.id, old.connection, (b"\0\x88old",)))
    alice.bus.send("peer", messages.DropPeer(bob.id, old.connection, "old"))
    alice.send(bob, b"\0\x88new")
    await bob.channels.until(lambda heard: isinstance(heard[-1], messages.FromPeer))
    assert [message.frame for message in bob.channels.all(messages.FromPeer)] == [b"\0\x88new"]


async def test_dropped_peer_gets_the_last_words(make: Make):
    alice, bob = await pair(make)
    (up,) = alice.channels.all(messages.PeerUp)
    error = encode(bolt1.Error(bytes(32), b"bad signature"))
    alice.bus.send("peer", messages.DropPeer(bob.id, up.connection, "it broke a rule", (error,)))
    await bob.channels.until(is_down)
    assert [message.frame for message in bob.channels.all(messages.FromPeer)] == [error]
    (down,) = alice.channels.all(messages.PeerDown)
    assert down.reason == "it broke a rule"


async def test_disconnect_of_a_peer_with_a_channel_needs_force(make: Make):
    alice, bob = await pair(make)
    alice.bus.send("peer", messages.KeepPeer(bob.id))
    with pytest.raises(CommandRefused, match="has a channel"):
        await alice.bus.request("peer", messages.Disconnect(bob.id))
    await alice.bus.request("peer", messages.Disconnect(bob.id, force=True))
    (info,) = (await alice.bus.request("peer", messages.ListPeers())).peers
    assert (info.node_id, info.connected, info.address) == (bob.id, False, bob.address)


async def test_disconnect_of_a_stranger_is_refused(make: Make):
    alice = await make(ALICE_KEY)
    with pytest.raises(CommandRefused, match="not connected"):
        await alice.bus.request("peer", messages.Disconnect(bytes(33)))


async def test_kept_peer_is_dialled_again(make: Make):
    alice, bob = await pair(make)
    alice.bus.send("peer", messages.KeepPeer(bob.id))
    await bob.bus.request("peer", messages.Disconnect(alice.id))
    await alice.channels.until(is_down)
    alice.now = 2.0  # the first wait is at most 1.5 s
    await alice.channels.until(lambda heard: len([m for m in heard if isinstance(m, messages.PeerUp)]) == 2)
    one, other = alice.channels.all(messages.PeerUp)
    assert other.connection > one.connection


async def test_peer_that_is_not_kept_any_more_is_left_alone(make: Make):
    alice, bob = await pair(make)
    alice.bus.send("peer", messages.KeepPeer(bob.id))
    alice.bus.send("peer", messages.KeepPeer(bob.id, keep=False))
    await alice.bus.request("peer", messages.Disconnect(bob.id))
    alice.now = 1000.0
    alice.peers.tick()
    assert alice.peers._dials == {}


class Road(TcpTransport):
    """TCP that says of itself what the test wants."""

    state = RoadState.DOWN

    def status(self) -> RoadStatus:
        return RoadStatus(self.state, "it rains", ("onion:1",), "being published")


async def test_road_that_opens_again_ends_the_wait_of_those_who_were_lost_with_it(make: Make):
    alice, bob = await pair(make)
    road = Road(LinkProfile(latency=60))
    alice.peers._transports["tcp"] = road  # type: ignore[index]  # a dict, as this test knows
    alice.peers.tick()
    alice.bus.send("peer", messages.KeepPeer(bob.id))
    await bob.bus.request("peer", messages.Disconnect(alice.id))
    await alice.channels.until(is_down)
    alice.peers._kept.lost(bob.id, alice.now, road.profile)
    alice.peers.tick()
    assert alice.peers._dials == {}, "the wait of a slow road is long"
    road.state = RoadState.UP
    alice.peers.tick()
    assert list(alice.peers._dials) == [bob.id]
    await alice.channels.until(lambda heard: len([m for m in heard if isinstance(m, messages.PeerUp)]) == 2)


async def test_roads_are_listed_with_what_they_say(make: Make):
    alice = await make(ALICE_KEY)
    alice.peers._transports["tcp"] = Road()  # type: ignore[index]
    (road,) = (await alice.bus.request("peer", messages.ListRoads())).roads
    assert road == messages.Road("tcp", "down", "it rains", ("onion:1",), "being published")


async def test_a_peer_is_listed_with_the_road_of_its_link(make: Make):
    alice, bob = await pair(make, profile=LinkProfile(latency=0.01, road="pigeon"))
    (there,) = (await alice.bus.request("peer", messages.ListPeers(bob.id))).peers
    assert there.road == "pigeon"


async def test_the_timers_of_a_session_are_those_of_its_link(make: Make):
    slow = LinkProfile(latency=100)
    alice, _bob = await pair(make, profile=slow)
    (connection,) = alice.peers._connections.values()
    alice.now = LinkProfile(latency=0.01).ping_interval * 2
    alice.peers.tick()
    assert connection.session._pinged is None
    alice.now = slow.ping_interval + 1
    alice.peers.tick()
    assert connection.session._pinged == alice.now


# Transports.


def test_transport_of_the_config_table_is_found_without_an_installation(tmp_path: Path):
    wanted = {"tcp": transports.Wanted("transports.tcp:TcpTransport")}
    (transport,) = transports.load(wanted, tmp_path).values()
    assert isinstance(transport, TcpTransport)


@pytest.mark.parametrize("place", ["transports.nothing:Here", "transports.tcp:Nothing", "transports.tcp"])
def test_transport_that_cannot_be_loaded_is_named(place: str, tmp_path: Path):
    with pytest.raises(CommandRefused, match="transport pigeon cannot be loaded"):
        transports.load({"pigeon": transports.Wanted(place)}, tmp_path)


async def test_address_may_name_its_transport(make: Make):
    alice, bob = await make(ALICE_KEY), await make(BOB_KEY)
    assert (await alice.connect(bob, f"tcp://{bob.address}")).connected


async def test_address_that_is_taken_is_refused_at_the_start(make: Make, tmp_path: Path):
    bob = await make(BOB_KEY)
    database = open_database(tmp_path / "other.db", create=True)
    second = PeerService(
        LocalBus(),
        local=LocalNode(bob.id, OUR_INIT, REGTEST.chain_hash),
        signer=bob.signer,
        writer=database.writer,
        transports={"tcp": TcpTransport()},
        listen=(bob.address,),
    )
    with pytest.raises(CommandRefused, match="cannot listen"):
        await second.start()
    database.close()
