"""The channel service while it starts: the signer may be away, the chain slow, and peers are quick."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from node.channel import store
from node.channel.chain_side import CUT_EACH_BLOCKS, BlockTold
from node.channel.events import Connected, Env, FromPeer, FundingMissing
from node.channel.lockin import FORGET_AFTER
from node.channel.service import MAX_EARLY, ChannelService
from node.channel.state import CloseKind, Closing, Committed
from node.channel.terms import Policy
from node.storage.database import open_database
from protocol import curve
from protocol.amounts import FEERATE_FLOOR, BlockHeight, FeeratePerKw, Sat
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bus.local import LocalBus
from protocol.bus.messages import chain, wallet
from protocol.bus.messages import peer as peers
from protocol.bus.messages.signer_link import SignerLink
from protocol.bus.service import Service, handles, hears
from protocol.errors import CommandRefused
from protocol.secret import Secret
from protocol.wire.bolt2_reestablish import ChannelReestablish
from protocol.wire.message import encode
from tests.node.channel.pair import Pair, open_both

PEER = curve.point_of(b"\x22" * 32)
CHANNEL = b"\xc1" * 32
COMMITMENT = Transaction(2, (TxIn(OutPoint(b"\x01" * 32, 0)),), (TxOut(Sat(1000), b"\x51"),))
REESTABLISH = ChannelReestablish(
    CHANNEL,
    next_commitment_number=1,
    next_revocation_number=0,
    your_last_per_commitment_secret=Secret(bytes(32)),
    my_current_per_commitment_point=PEER,
)


class _Chain(Service):
    name: ClassVar[str] = "chain"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.told: list[Any] = []
        self.asked_for_feerate: Callable[[], None] = lambda: None

    @hears(chain.UnwatchOutput, chain.Forget)
    def tell(self, message: Any) -> None:
        self.told.append(message)

    @handles(chain.GetTip)
    def tip(self, _request: chain.GetTip) -> chain.Tip:
        return chain.Tip(BlockHeight(7), bytes(32), True)

    @handles(chain.GetFeerate)
    def feerate(self, _request: chain.GetFeerate) -> FeeratePerKw:
        self.asked_for_feerate()
        return FeeratePerKw(500)

    @handles(chain.GetMempoolMinimum)
    def mempool_minimum(self, _request: chain.GetMempoolMinimum) -> FeeratePerKw:
        return FEERATE_FLOOR


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
    """Without what needs a whole channel, or a whole signer."""

    def _watch(self, channel: Any) -> None:
        pass

    async def _send_funding(self, channel: Any) -> None:
        pass

    async def _compare_numbers(self) -> None:
        pass

    def warn_in_time(self) -> None:
        pass


class Starting:
    def __init__(self, folder: Path, *, create: bool = True) -> None:
        self.bus = LocalBus()
        self.database = open_database(folder / "lnp.db", create=create)
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
    """LDK sends channel_reestablish right behind init, while we still wait for our signer; it comes only once.

    checklist 2
    """
    async with Starting(folder) as starting:
        starting.bus.publish(peers.PeerUp(PEER, 1, b""))
        starting.bus.send("channel", peers.FromPeer(PEER, 1, encode(REESTABLISH)))
        await starting.turns()
        assert starting.channel.told == []
        await starting.ready()
        await starting.turns()
        heard = [e for e in starting.channel.told if isinstance(e, Connected | FromPeer)]
        assert heard == [Connected(1), FromPeer(REESTABLISH)]


async def test_the_bound_on_dust_of_the_settings_is_what_channels_go_by(folder: Path) -> None:
    """checklist 21"""
    database = open_database(folder / "dust.db", create=True)
    bus = LocalBus()
    signer = _Signer()
    service = _Service(
        bus,
        database.writer,
        signer,
        chain_hash=REGTEST.chain_hash,  # type: ignore[arg-type]
        policy=Policy(max_dust=Sat(1_234)),
    )
    assert service._env.max_dust == 1_234
    at = _Chain(bus), _Peers(bus)
    for one in (*at, service):
        await one.start()
    signer.up.set()
    for _ in range(50):
        await asyncio.sleep(0)
    assert service._ready
    assert service._env.height > 0
    assert service._env.max_dust == 1_234  # the tip and the feerate came, the bound stays
    for one in (service, *at):
        await one.stop()
    database.close()


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


def committed_of(folder: Path) -> Committed:
    """A channel that Alice opened and Bob has not seen funded: Bob's side."""
    pair = Pair(folder)
    asyncio.run(open_both(pair))
    assert pair.bob.state is not None
    return pair.bob.state.committed


async def test_a_channel_that_is_older_than_aliases_gets_one_for_ever(folder: Path) -> None:
    """checklist 12"""
    committed = await asyncio.to_thread(committed_of, folder)
    committed.alias_local = None
    aliases = []
    for run in range(2):
        starting = Starting(folder, create=run == 0)
        if run == 0:
            await starting.database.writer.submit(store.new_channel(1, committed), now=True)
        del starting.service._channels[CHANNEL]
        async with starting:
            channel = starting.service._channels[committed.params.channel_id]
            aliases.append(channel.state.committed.alias_local)
    assert aliases[0] is not None
    assert aliases[0] == aliases[1]


async def test_the_journal_of_a_channel_does_not_grow_for_ever(folder: Path) -> None:
    committed = await asyncio.to_thread(committed_of, folder)
    starting = Starting(folder)
    writer = starting.database.writer
    del starting.service._channels[CHANNEL]
    notes = [store.note(row_id, f"{n}")[0] for n in range(store.KEPT_ENTRIES + 50) for row_id in (1, 2)]
    await writer.submit([*store.new_channel(1, committed), *notes], now=True)
    async with starting:
        await starting.ready()
        for height in range(500, 500 + CUT_EACH_BLOCKS):
            starting.service.block_told(BlockTold(BlockHeight(height)))
        await writer.submit([], now=True)
        kept = [store.journal(writer, row_id, 1_000_000) for row_id in (1, 2)]
    newest = f"{store.KEPT_ENTRIES + 49}"
    ours, others = ([text for text, _ in entries] for entries in kept)
    assert store.KEPT_ENTRIES <= len(ours) < store.KEPT_ENTRIES + 10 and newest in ours
    assert len(others) == store.KEPT_ENTRIES + 50, "those of other channels stay"


async def test_a_channel_that_was_never_funded_is_looked_at_after_each_block(folder: Path) -> None:
    """checklist 10: after 2016 blocks nobody watches for it and nothing of it is sent any more."""
    committed = await asyncio.to_thread(committed_of, folder)
    committed.opened_height = BlockHeight(100)
    async with Starting(folder) as starting:
        service = starting.service
        told: list[Any] = []
        channel: Any = SimpleNamespace(state=SimpleNamespace(committed=committed), put=told.append)
        service._env = Env(height=BlockHeight(100 + FORGET_AFTER - 1))
        service._forget_if_due(channel)
        await starting.turns()
        assert (told, starting.chain.told) == ([FundingMissing()], [])
        service._env = Env(height=BlockHeight(100 + FORGET_AFTER))
        committed.phase = Closing(CloseKind.OURS, COMMITMENT.serialize())
        service._forget_if_due(channel)
        await starting.turns()
        funding = committed.params.fundings[0]
        assert told == [FundingMissing()] * 2
        assert starting.chain.told == [
            chain.UnwatchOutput(funding.txid, funding.index),
            chain.Forget(COMMITMENT.txid),
        ]
        committed.funding_height = BlockHeight(99)
        service._forget_if_due(channel)
        assert len(told) == 2


async def test_a_block_that_comes_while_we_start_is_not_taken_back(folder: Path) -> None:
    """checklist 43: with the height of before, each deadline would be seen a block too late."""
    async with Starting(folder) as starting:
        news = [chain.TipChanged(BlockHeight(8), bytes(32), 0)]
        starting.service._channels.clear()

        def block() -> None:
            if news:
                starting.bus.publish(news.pop())

        starting.chain.asked_for_feerate = block
        await starting.ready()
        await starting.turns()
        assert starting.service._env.height == 8
        assert starting.service._env.feerate_per_kw == 500


async def test_the_height_is_known_though_no_feerate_is(folder: Path) -> None:
    """checklist 43: a node without estimates still has blocks, and deadlines in them."""

    def none() -> None:
        raise CommandRefused("no estimate", what_to_do="Wait.")

    async with Starting(folder) as starting:
        starting.chain.asked_for_feerate = none
        await starting.ready()
        assert starting.service._env.height == 7


class _Wallet(Service):
    name: ClassVar[str] = "wallet"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.asked: list[str] = []
        self.can_sign = False

    @handles(wallet.SignAndSend)
    def send(self, request: wallet.SignAndSend) -> wallet.Sent:
        self.asked.append(request.purpose)
        if not self.can_sign:
            raise CommandRefused("the signer is away", what_to_do="Start it.")
        return wallet.Sent(COMMITMENT.serialize(), COMMITMENT.txid)


@pytest.mark.parametrize("word", [BlockTold(BlockHeight(8)), SignerLink(True, "")])
async def test_a_funding_that_could_not_be_sent_is_sent_later_and_then_no_more(
    folder: Path, word: object
) -> None:
    """checklist 11: the peer has signed and waits for it, and the next start of the node may be months away."""
    committed = await asyncio.to_thread(committed_of, folder)
    committed.funding_purpose = "channel 00"
    async with Starting(folder) as starting:
        purse = _Wallet(starting.bus)
        await purse.start()
        await starting.ready()
        service = starting.service
        service._channels.clear()
        channel: Any = SimpleNamespace(
            row_id=1, channel_id=CHANNEL, state=SimpleNamespace(committed=committed)
        )
        service._send_funding = MethodType(ChannelService._send_funding, service)  # type: ignore[method-assign]
        assert await service._send_funding(channel) is None
        for can_sign in (False, True, True):
            purse.can_sign = can_sign
            starting.bus.send("channel", word)
            await starting.turns()
        assert purse.asked == ["channel 00"] * 3
        await purse.stop()
