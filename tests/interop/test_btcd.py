"""Our chain service on a real btcd: other code for consensus and mempool, RPC over TLS, and gaps that it declares."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from node.chain.backend import FEE_ESTIMATES, PACKAGES, BackendUnusable
from node.chain.bitcoind import Bitcoind
from protocol.amounts import BlockHeight, FeeratePerKw, Sat
from protocol.bitcoin.network import REGTEST, SIGNET
from protocol.bitcoin.transaction import OutPoint, Transaction
from protocol.bus.messages.chain import (
    BlockDisconnected,
    Broadcast,
    ChainAway,
    ChainBack,
    ChainStatus,
    GetChainStatus,
    GetFeerate,
    GetOutputAt,
    GetTip,
    GetTransaction,
    OutpointSpent,
    OutputConfirmed,
    OutputReorganised,
    Tip,
    WatchOutput,
)
from protocol.errors import CommandRefused
from tests.interop.peers import btcd_build
from tests.interop.peers.base import NotInstalled
from tests.interop.peers.btcd_chain import LOGIN, BtcdChain
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, spend
from tests.node.chain.test_service import Rig, until
from tests.node.onchain import services
from tests.node.onchain.test_service import resolved
from tests.support import need


class OnBtcd(Bitcoind):
    """The backend that `https://` in the settings makes; quick to look again, since btcd sends no notices."""

    def __init__(self, chain: BtcdChain, **options: Any) -> None:
        super().__init__(
            chain.url,
            network=options.pop("network", REGTEST),
            login=options.pop("login", LOGIN),
            certificate=options.pop("certificate", str(chain.certificate)),
            poll_seconds=0.05,
        )
        self.estimate: FeeratePerKw | None = None

    async def feerate(self, target_blocks: int) -> FeeratePerKw | None:
        """What the test says, since a btcd on regtest estimates nothing; its own answer otherwise."""
        return self.estimate or await super().feerate(target_blocks)


@pytest.fixture(scope="module")
def btcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BtcdChain]:
    try:
        btcd_build.build()
    except NotInstalled as error:
        need("btcd", False, str(error))
    chain = BtcdChain(tmp_path_factory.mktemp("btcd"))
    yield chain
    chain.close()


@pytest.fixture
async def rig(btcd: BtcdChain, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(btcd, None, tmp_path / "node.db")
    await rig.start(make=lambda: OnBtcd(btcd))
    await rig.caught_up()
    rig.ear.events.clear()
    yield rig
    await rig.stop()


def coin_of(chain: BtcdChain, amount: int = 100_000) -> tuple[OutPoint, int]:
    coin = chain.fund(SCRIPT, Sat(amount))
    chain.generate(1)
    return coin, amount


async def test_it_is_known_by_its_name_and_says_what_it_cannot_do(rig: Rig) -> None:
    height = BlockHeight(rig.chain.height)
    assert await rig.ask(GetTip()) == Tip(height, rig.chain.tip_hash, True)
    with pytest.raises(CommandRefused, match="btcd has no fee estimate"):
        await rig.ask(GetFeerate(6))
    gaps = tuple(sorted((FEE_ESTIMATES, PACKAGES)))
    assert await rig.ask(GetChainStatus()) == ChainStatus("btcd", gaps, height, True)


async def test_an_output_is_confirmed_spent_in_the_mempool_and_in_a_block(rig: Rig) -> None:
    coin = rig.chain.fund(SCRIPT, Sat(100_000))
    await rig.ask(WatchOutput(coin.txid, coin.index, SCRIPT, mempool=True))
    rig.chain.generate(1)
    await until(lambda: rig.ear.of(OutputConfirmed))
    first = rig.ear.of(OutputConfirmed)[0]
    assert (first.value, first.height, first.depth) == (100_000, rig.chain.height, 1)
    place = await rig.ask(GetOutputAt(first.height, first.tx_index, coin.index))
    assert (place.txid, place.script, place.unspent) == (coin.txid, SCRIPT, True)

    spender = spend([(coin, 100_000)], [(99_000, ELSEWHERE)])
    rig.chain.submit(spender)
    await until(lambda: rig.ear.of(OutpointSpent))
    rig.chain.generate(1)
    await until(lambda: len(rig.ear.of(OutpointSpent)) >= 2)
    assert rig.ear.of(OutpointSpent)[:2] == [
        OutpointSpent(coin.txid, coin.index, spender.serialize(), None, 0),
        OutpointSpent(coin.txid, coin.index, spender.serialize(), rig.chain.height, 1),
    ]
    found = await rig.ask(GetTransaction(spender.txid))
    assert (Transaction.parse(found.raw).txid, found.height) == (spender.txid, rig.chain.height)
    assert await rig.ask(GetTransaction(b"\x07" * 32)) is None


async def test_a_broadcast_is_accepted_known_confirmed_or_refused_with_its_reason(rig: Rig) -> None:
    coin, amount = coin_of(rig.chain)
    await rig.caught_up()
    tx = spend([(coin, amount)], [(99_000, ELSEWHERE)])
    for _ in range(2):
        assert (await rig.ask(Broadcast(tx.serialize()))).accepted
    assert tx.txid in rig.chain.transaction_ids()
    poor = await rig.ask(Broadcast(spend([(coin, amount)], [(98_999, ELSEWHERE)]).serialize(), keep=False))
    assert not poor.accepted and "TX rejected" in poor.reason
    rig.chain.generate(1)
    await rig.caught_up()
    assert (await rig.backend.broadcast(tx.serialize())).accepted, "it is in a block"
    gone = await rig.ask(Broadcast(spend([(coin, amount)], [(90_000, ELSEWHERE)]).serialize(), keep=False))
    assert not gone.accepted and "orphan" in gone.reason


async def test_a_package_goes_one_by_one(rig: Rig) -> None:
    coin, amount = coin_of(rig.chain)
    await rig.caught_up()
    parent = spend([(coin, amount)], [(99_000, SCRIPT)])
    child = spend([(OutPoint(parent.txid, 0), 99_000)], [(90_000, ELSEWHERE)])
    result = await rig.ask(Broadcast(child.serialize(), parents=(parent.serialize(),)))
    assert result.accepted
    assert {parent.txid, child.txid} <= set(rig.chain.transaction_ids())
    rig.chain.generate(1)


async def test_a_reorganisation_by_invalidateblock_is_followed(rig: Rig) -> None:
    coin, _ = coin_of(rig.chain)
    await rig.caught_up()
    await rig.watch(coin)
    top, lost = rig.chain.height, rig.chain.tip_hash
    rig.ear.events.clear()
    rig.chain.invalidate_tip()
    rig.chain.generate(2)
    await rig.caught_up()
    assert rig.ear.of(BlockDisconnected) == [BlockDisconnected(top, lost)]
    assert rig.ear.of(OutputReorganised) == [OutputReorganised(coin.txid, coin.index)]
    assert (await rig.ask(GetTip())).height == top + 1


async def test_another_certificate_login_or_network_is_refused_with_a_sentence(
    btcd: BtcdChain, tmp_path: Path
) -> None:
    for options, sentence in (
        ({"certificate": ""}, "certificate of bitcoind"),
        ({"certificate": str(tmp_path / "none")}, "cannot be read"),
        ({"login": "lnp:wrong"}, "refuses our login"),
        ({"network": SIGNET}, "not on signet"),
    ):
        backend = OnBtcd(btcd, **options)
        with pytest.raises(BackendUnusable, match=sentence):
            await backend.check()
        await backend.close()


async def test_a_restarted_btcd_is_awaited_until_it_has_our_blocks_again(
    btcd: BtcdChain, tmp_path: Path
) -> None:
    """On regtest it forgets its chain; nothing of ours is given up for that."""
    chain = BtcdChain(tmp_path / "own", first_blocks=3)
    rig = Rig(chain, None, tmp_path / "node.db")
    try:
        await rig.start(make=lambda: OnBtcd(chain))
        await rig.caught_up()
        blocks = chain.blocks()
        chain.program.kill()
        await until(lambda: rig.ear.of(ChainAway))
        assert "btcd at https://" in rig.ear.of(ChainAway)[0].reason
        await asyncio.to_thread(chain.start)
        await until(lambda: rig.ear.of(ChainBack))
        status = await rig.ask(GetChainStatus())
        assert (status.height, status.synced) == (3, False)
        assert "btcd is at block 0, and block 3 is known here" in status.behind
        await asyncio.to_thread(chain.give, blocks)
        await until(lambda: rig.service._synced)
        assert (await rig.ask(GetTip())).block_hash == chain.tip_hash
        assert rig.ear.of(BlockDisconnected) == []
        await rig.stop()
    finally:
        chain.close()


async def test_a_channel_with_an_htlc_is_opened_and_closed_on_it(
    btcd: BtcdChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Funding, commitment, HTLC-timeout and the sweeps of both sides pass btcd's mempool and blocks."""
    monkeypatch.setattr(services, "RegtestChain", lambda _folder: btcd)
    monkeypatch.setattr(services, "DirectBackend", OnBtcd)
    monkeypatch.setattr(btcd, "close", lambda: None)
    pair = services.Pair(tmp_path)
    await pair.start()
    try:
        await pair.open(anchors=True)
        height = btcd.height
        htlc = await pair.offer(pair.alice, 200_000_000, height + 20)
        pair.disconnect()
        await pair.mine_to(height + 22)
        assert (await pair.alice.channel()).state == "AWAITING_UNILATERAL"
        await resolved(pair, pair.alice, pair.bob)
        (failed,) = pair.alice.payments.failed
        assert failed.origin == htlc.payment_hash.hex()
        total = await pair.alice.balance() + await pair.bob.balance()
        assert 4 * 12_000_000 - total < 20_000, "fees alone are gone"
        assert await pair.bob.balance() > 24_000_000 + 3_000_000 - 5_000
    finally:
        await pair.stop()
