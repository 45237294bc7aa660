"""Openings between connections, other openings and the wallet (BOLT 2, "Channel Establishment v1")."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from msgspec.structs import replace

from node.channel import commands, openings
from node.channel.commands import Commands
from node.channel.events import Connected, FromPeer
from node.channel.openings import ALIAS_BASE, Openings, alias_of
from node.channel.state import Committed
from node.channel.terms import Policy
from protocol import curve
from protocol.amounts import FEERATE_FLOOR, FeeratePerKw, Msat, Sat, ShortChannelId
from protocol.bolt9 import OUR_INIT, ChannelType, FeatureSet
from protocol.bus.bus import OutcomeUnknown
from protocol.bus.local import LocalBus
from protocol.bus.messages import channel as said
from protocol.bus.messages import signer as sign
from protocol.bus.messages import wallet
from protocol.bus.service import Service, handles
from protocol.errors import CommandRefused
from protocol.wire.bolt1 import Error
from protocol.wire.bolt2_open import AcceptChannel, ChannelReady, FundingCreated, FundingSigned, OpenChannel
from protocol.wire.message import Message, decode, encode
from tests.node.channel.pair import ALICES_ALIAS, CHAIN, End, funding_transaction, new_signer
from tests.node.channel.test_terms import OFFER

SMALL = FeatureSet.of(12, 23)
READY = ChannelReady(bytes(32), curve.point_of(b"\x11" * 32))


class Wallet(Service):
    name: ClassVar[str] = "wallet"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.planned: list[wallet.PlanSpend] = []
        self.released: list[str] = []

    @handles(wallet.PlanSpend)
    def plan(self, request: wallet.PlanSpend) -> wallet.SpendPlanned:
        self.planned.append(request)
        value = Sat(50_000_000) if request.value is None else request.value
        return replace(funding_transaction(request.script, value), purpose=request.purpose)

    @handles(wallet.ReleasePlan)
    def release(self, request: wallet.ReleasePlan) -> None:
        self.released.append(request.purpose)


class Host:
    """One node's openings and what the channel service does for them."""

    def __init__(self, name: str, folder: Path) -> None:
        self.bus = LocalBus()
        self.end = End(name, new_signer(folder / name), folder / name)
        self.wallet = Wallet(self.bus)
        self.openings = Openings(self.bus, self, Policy(), CHAIN, self)  # type: ignore[arg-type]
        self.other: Host | None = None
        self.current: int | None = 1
        self.peer_features = OUR_INIT
        self.taken: set[bytes] = set()
        self.saving = asyncio.Event()
        self.saved: list[Committed] = []
        self.begun: list[int | None] = []
        self.early: tuple[Message, ...] = ()
        self.sent: list[Message] = []
        self.tasks: set[asyncio.Task[None]] = set()
        self.hold: Callable[[sign.Request], bool] = lambda _request: False
        self.go_on = asyncio.Event()
        self.held = asyncio.Event()

    async def call(self, request: sign.Request) -> sign.Reply:
        if self.hold(request):
            self.held.set()
            await self.go_on.wait()
        return self.end.call(request)

    def send_frames(self, node_id: bytes, frames: tuple[bytes, ...]) -> None:
        for frame in frames:
            message = decode(frame)
            assert isinstance(message, Message)
            self.sent.append(message)
            if self.other is not None:
                self.other.hear(message)

    def hear(self, message: Message) -> None:
        known = getattr(message, "temporary_channel_id", None) or getattr(message, "channel_id", b"")
        node_id = self.end.node_id if self.other is None else self.other.end.node_id
        self.openings.message(node_id, known, message)

    def connection(self, _node_id: bytes) -> int | None:
        return self.current

    def features(self, _node_id: bytes) -> FeatureSet:
        return self.peer_features

    def is_free(self, channel_id: bytes) -> bool:
        return channel_id not in self.taken

    def reserve(self) -> None:
        return None

    def new_alias(self) -> ShortChannelId:
        return ALICES_ALIAS

    async def opened(self, committed: Committed) -> None:
        self.saving.set()
        await asyncio.sleep(0)
        self.saved.append(committed)
        self.taken.add(committed.params.channel_id)

    def begin(self, _committed: Committed, connection: int | None, early: tuple[Message, ...] = ()) -> None:
        self.begun.append(connection)
        self.early += early

    async def feerate(self, _target: int) -> FeeratePerKw:
        return FeeratePerKw(1000)

    async def mempool_minimum(self) -> FeeratePerKw:
        return FEERATE_FLOOR

    def run(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self.tasks.add(task)
        return task

    def lose_connection(self) -> None:
        self.openings.peer_down(self.end.node_id, "cut")
        self.current = None

    async def until_sent(self, kind: type[Message], count: int = 1) -> list[Any]:
        async with asyncio.timeout(10):
            while len(found := [m for m in self.sent if isinstance(m, kind)]) < count:  # noqa: ASYNC110  nothing could set an event
                await asyncio.sleep(0)
        return found


@pytest.fixture
async def bob(tmp_path: Path) -> AsyncIterator[Host]:
    """A node whose only peer is the test."""
    host = Host("bob", tmp_path)
    await host.wallet.start()
    yield host
    host.openings.stop()
    host.go_on.set()
    await asyncio.gather(*host.tasks, return_exceptions=True)
    await host.wallet.stop()


def offer(temporary: int = 1) -> OpenChannel:
    return replace(OFFER, chain_hash=CHAIN, temporary_channel_id=bytes(31) + bytes((temporary,)))


def created(temporary: int = 1) -> FundingCreated:
    """With a signature that no signer takes."""
    signature = bytes(31) + b"\x01" + bytes(31) + b"\x01"
    return FundingCreated(bytes(31) + bytes((temporary,)), b"\xf0" * 32, 0, signature)


def request(**more: Any) -> said.FundChannel:
    return said.FundChannel(curve.point_of(b"\x11" * 32), Sat(1_000_000), **more)


# Between the two ends of a connection.


async def test_two_nodes_open_a_channel(tmp_path: Path) -> None:
    alice, bob = Host("alice", tmp_path), Host("bob", tmp_path)
    alice.other, bob.other = bob, alice
    await alice.wallet.start()
    asked = replace(request(announce=False), peer=bob.end.node_id)
    committed = await alice.openings.fund(asked)
    await asyncio.gather(*bob.tasks)
    assert bob.saved[0].params.channel_id == committed.params.channel_id
    assert (alice.begun, bob.begun) == ([1], [1])
    assert committed.params.scid_alias, "both know aliases, and the channel is not announced"
    assert not alice.wallet.released
    await alice.wallet.stop()


async def test_channel_ready_that_comes_before_we_have_saved_is_not_lost(tmp_path: Path) -> None:
    """checklist 12: the fundee of a zeroconf channel says it right behind funding_signed."""
    alice, bob = Host("alice", tmp_path), Host("bob", tmp_path)
    alice.other, bob.other = bob, alice
    await alice.wallet.start()
    alice.hold = lambda asked: (
        isinstance(asked, sign.ChannelRequest) and isinstance(asked.operations[0], sign.ValidateHolder)
    )
    opening = asyncio.ensure_future(alice.openings.fund(replace(request(), peer=bob.end.node_id)))
    async with asyncio.timeout(10):
        await alice.held.wait()
    ready = ChannelReady(bob.saved[0].params.channel_id, bob.saved[0].local_points[1])
    bob.send_frames(alice.end.node_id, (encode(ready),))
    other = ChannelReady(bytes(32), bob.saved[0].local_points[1])
    assert not alice.openings.message(bob.end.node_id, other.channel_id, other), "of no channel that we open"
    alice.go_on.set()
    await opening
    assert alice.early == (ready,)
    await alice.wallet.stop()


async def test_a_new_open_after_a_reconnection_replaces_the_old_one(bob: Host) -> None:
    """checklist 11: also with the temporary id of the old one, which has not ended yet."""
    bob.hear(offer())
    await bob.until_sent(AcceptChannel)
    bob.lose_connection()
    bob.current = 2
    bob.hear(offer())
    await bob.until_sent(AcceptChannel, 2)
    bob.hear(created())
    (error,) = await bob.until_sent(Error)
    assert b"signature" in error.data, "the new opening heard funding_created and looked at it"


async def test_nothing_is_saved_when_the_connection_is_lost_before_funding_signed(tmp_path: Path) -> None:
    """checklist 10: the opener has forgotten the channel, so we must not remember it."""
    alice, bob = Host("alice", tmp_path), Host("bob", tmp_path)
    alice.other, bob.other = bob, alice
    await alice.wallet.start()
    bob.hold = lambda asked: isinstance(asked, sign.ChannelRequest)
    opening = asyncio.ensure_future(alice.openings.fund(replace(request(), peer=bob.end.node_id)))
    async with asyncio.timeout(10):
        await bob.held.wait()
    bob.openings.peer_down(alice.end.node_id, "cut")
    bob.current = 2
    bob.go_on.set()
    await asyncio.gather(*bob.tasks)
    assert (bob.saved, [m for m in bob.sent if isinstance(m, FundingSigned)]) == ([], [])
    alice.openings.peer_down(bob.end.node_id, "cut")
    with pytest.raises(CommandRefused, match="connection to the peer was lost"):
        await opening
    await asyncio.gather(*alice.tasks)
    assert len(alice.wallet.released) == 1, "the coins are free again"
    await alice.wallet.stop()


async def test_two_openings_cannot_take_the_same_funding_output(bob: Host) -> None:
    """checklist 11: not even while the first one waits for the signer, with nothing saved yet."""
    bob.hold = lambda asked: isinstance(asked, sign.ChannelRequest)
    bob.hear(offer(1))
    bob.hear(offer(2))
    await bob.until_sent(AcceptChannel, 2)
    bob.hear(created(1))
    async with asyncio.timeout(10):
        await bob.held.wait()
    bob.hear(created(2))
    (error,) = await bob.until_sent(Error)
    assert error.channel_id == offer(2).temporary_channel_id
    assert b"another channel has this funding output" in error.data


async def test_the_output_of_an_opening_that_failed_is_free_again(bob: Host) -> None:
    bob.hear(offer(1))
    await bob.until_sent(AcceptChannel)
    bob.hear(created(1))
    await bob.until_sent(Error)
    bob.hear(offer(2))
    await bob.until_sent(AcceptChannel, 2)
    bob.hear(created(2))
    (_, error) = await bob.until_sent(Error, 2)
    assert b"signature" in error.data


async def test_a_temporary_id_that_is_the_id_of_a_channel_is_refused(bob: Host) -> None:
    """checklist 11: messages of the one would reach the other."""
    bob.taken.add(offer().temporary_channel_id)
    bob.hear(offer())
    (error,) = await bob.until_sent(Error)
    assert b"id of a channel" in error.data
    bob.hear(offer(2))
    await bob.until_sent(AcceptChannel)


async def test_a_stop_while_the_channel_is_saved_does_not_give_its_coins_back(tmp_path: Path) -> None:
    """checklist 11: it may be on disk, and after the next start its funding is sent with these coins."""
    alice, bob = Host("alice", tmp_path), Host("bob", tmp_path)
    alice.other, bob.other = bob, alice
    await alice.wallet.start()
    opening = asyncio.ensure_future(alice.openings.fund(replace(request(), peer=bob.end.node_id)))
    async with asyncio.timeout(10):
        await alice.saving.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await asyncio.gather(*alice.tasks, *bob.tasks)
    assert alice.wallet.planned and not alice.wallet.released
    await alice.wallet.stop()


async def test_a_peer_hears_that_we_cannot_open_when_nobody_tells_us_of_the_reserve(
    bob: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """checklist 11: otherwise it waits, and our log speaks of a bug."""

    async def silent(_bus: object, _room: object) -> None:
        raise OutcomeUnknown("the service reserve did not answer AskRoom within 30 s")

    monkeypatch.setattr(openings, "check_room", silent)
    anchors = replace(offer().tlvs, channel_type=ChannelType.ANCHORS.to_bytes())
    bob.hear(replace(offer(), tlvs=anchors))
    (error,) = await bob.until_sent(Error)
    assert error.channel_id == offer().temporary_channel_id
    assert [task.exception() for task in bob.tasks if task.done()] in ([], [None])


# What people ask for.


@pytest.mark.parametrize(
    ("features", "more", "words"),
    [
        (SMALL, {"amount": Sat(1 << 24)}, "above 16777215, the most that this peer takes"),
        (OUR_INIT, {"amount": Sat(19_999)}, "below 20000"),
        (SMALL, {"mindepth": 0}, "does not offer option_zeroconf"),
        (OUR_INIT, {"mindepth": 145}, "not from 0 to 144"),
        (OUR_INIT, {"channel_type": (12, 22, 46)}, "cannot be announced"),
        (OUR_INIT, {"push_msat": Msat(1_000_000_000)}, "push_msat is all"),
    ],
)
async def test_a_channel_that_cannot_be_is_refused_before_the_peer_hears_of_it(
    bob: Host, features: FeatureSet, more: dict[str, Any], words: str
) -> None:
    bob.peer_features = features
    with pytest.raises(CommandRefused, match=words):
        await bob.openings.fund(replace(request(), **more))
    assert bob.sent == []


async def test_a_peer_that_left_meanwhile_is_not_waited_for(bob: Host) -> None:
    bob.current = None
    with pytest.raises(CommandRefused, match="not connected any more"):
        await bob.openings.fund(request())


@pytest.mark.parametrize(("features", "most"), [(OUR_INIT, 50_000_000), (SMALL, 16_777_215)])
async def test_all_coins_go_into_a_channel_as_large_as_the_peer_takes(
    bob: Host, features: FeatureSet, most: int
) -> None:
    """BOLT 2: 2^24 sat and more only where both sides set option_support_large_channel."""
    bob.peer_features = features
    bob.run(bob.openings.fund(replace(request(), amount=None)))
    (offered,) = await bob.until_sent(OpenChannel)
    assert offered.funding_satoshis == most


@pytest.mark.parametrize("announce", [True, False])
async def test_the_offer_says_what_was_asked(bob: Host, announce: bool) -> None:
    bob.run(bob.openings.fund(request(announce=announce, mindepth=0)))
    (offered,) = await bob.until_sent(OpenChannel)
    kind = ChannelType.ANCHORS_ZEROCONF if announce else ChannelType.ANCHORS_ALIAS_ZEROCONF
    assert (offered.channel_flags, offered.tlvs.channel_type) == (int(announce), kind.to_bytes())


# Aliases, and the connection of a new channel.


@pytest.mark.parametrize("random", [bytes(8), b"\xff" * 8, bytes(range(8))])
def test_an_alias_is_no_place_in_the_chain_and_fits_63_bits(random: bytes) -> None:
    """checklist 12: it is unrelated to the real id."""
    alias = alias_of(random)
    assert ALIAS_BASE <= alias < 1 << 63
    assert alias >> 40 >= 4_000_000


def test_an_alias_is_drawn_again_when_a_channel_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """checklist 12: unique among all that we ever gave, and among the real ids."""
    drawn = [bytes((n,)) * 8 for n in (1, 2, 3, 4)]
    aliases = [alias_of(one) for one in drawn]
    live = SimpleNamespace(
        state=SimpleNamespace(committed=SimpleNamespace(alias_local=aliases[0], short_channel_id=aliases[1]))
    )
    closed = SimpleNamespace(alias_local=aliases[2], short_channel_id=None)
    service: Any = SimpleNamespace(_channels={b"": live}, _closed=[closed])
    queue = iter(drawn)
    monkeypatch.setattr(commands.os, "urandom", lambda _size: next(queue))
    assert Commands.new_alias(service) == aliases[3]


@pytest.mark.parametrize(
    ("current", "told"),
    [(1, [Connected(1, fresh=True), FromPeer(READY)]), (2, [Connected(2)]), (None, [])],
)
def test_a_channel_is_fresh_only_on_the_connection_that_opened_it(
    current: int | None, told: list[object]
) -> None:
    """checklist 11: on a newer one both sides reestablish, and say again what they said on the old one."""
    heard: list[object] = []
    channel = SimpleNamespace(peer=b"peer", put=heard.append)
    service: Any = SimpleNamespace(
        _channels={b"id": channel},
        _connections={} if current is None else {b"peer": current},
        features=lambda _peer: FeatureSet(),
    )
    committed: Any = SimpleNamespace(params=SimpleNamespace(channel_id=b"id"))
    Commands.begin(service, committed, 1, (READY,))
    assert heard == told
