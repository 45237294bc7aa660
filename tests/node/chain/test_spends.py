"""Which outputs of others a block spends: told once a block, taken back with it (BOLT 7; checklist 56)."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node.chain import bitcoind as bitcoind_module
from node.chain import spends
from node.chain.blocks import spent_in
from node.chain.spends import Spends
from protocol.amounts import BlockHeight, Sat
from protocol.bitcoin.transaction import OutPoint
from protocol.bus.messages.chain import (
    SPENDS_BACK,
    OutpointsSpent,
    OutpointsUnspent,
    SpendsWatched,
    TipChanged,
    UnwatchSpends,
    WatchSpends,
)
from protocol.bus.service import Service, hears
from protocol.errors import CommandRefused, MalformedMessage
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, spend
from tests.node.chain.test_bitcoind import GENESIS_REGTEST
from tests.node.chain.test_service import Rig, until


class Ear(Service):
    name = "ear of gossip"

    def __init__(self, bus: Any) -> None:
        super().__init__(bus)
        self.events: list[Any] = []

    @hears(OutpointsSpent, OutpointsUnspent)
    def heard(self, event: object) -> None:
        self.events.append(event)


class Told:
    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.ear = Ear(rig.bus)

    def coin(self) -> OutPoint:
        found: OutPoint = self.rig.chain.fund(SCRIPT, Sat(100_000))
        return found

    async def mine(self, *coins: OutPoint) -> int:
        for coin in coins:
            self.rig.chain.submit(spend([(coin, 100_000)], [(99_000, ELSEWHERE)]))
        self.rig.ear.events.clear()
        self.rig.chain.generate(1)
        await self.rig.caught_up()
        return int(self.rig.chain.height)

    async def watch(self, *coins: OutPoint, since: int | None = None) -> SpendsWatched:
        joined = b"".join(coin.serialize() for coin in coins)
        found = await self.rig.ask(WatchSpends(joined, self.rig.chain.height if since is None else since))
        assert isinstance(found, SpendsWatched)
        return found

    def take(self) -> list[Any]:
        found, self.ear.events = self.ear.events, []
        return found


@pytest.fixture(params=["thread", "loop"])
async def told(
    regtest: Any, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Told]:
    """Blocks are looked into in a thread, as the large ones of mainnet are, or at once."""
    if request.param == "thread":
        monkeypatch.setattr(bitcoind_module, "HEX_IN_THREAD", 0)
    rig = Rig(*regtest, tmp_path / "node.db")
    await rig.start()
    await rig.caught_up()
    one = Told(rig)
    await one.ear.start()
    yield one
    await one.ear.stop()
    await rig.stop()


async def test_each_block_tells_which_of_them_it_spends(told: Told) -> None:
    coins = [told.coin() for _ in range(3)]
    await told.mine()
    assert told.take() == [], "nobody asked yet"
    height = told.rig.chain.height
    assert await told.watch(*coins[:2]) == SpendsWatched(BlockHeight(height))
    first = await told.mine(*coins)
    second = await told.mine()
    heard = told.take()
    assert [event.height for event in heard] == [first, second]
    assert set(heard[0].outpoints) == {coin.serialize() for coin in coins[:2]}
    assert heard[1].outpoints == ()


async def test_a_spend_that_leaves_the_chain_is_taken_back_and_told_again(told: Told) -> None:
    coin = told.coin()
    await told.mine()
    await told.watch(coin)
    height = BlockHeight(await told.mine(coin))
    told.take()
    told.rig.ear.events.clear()
    told.rig.chain.reorg(1, 2, [])
    await told.rig.caught_up()
    heard = told.take()
    assert heard[0] == OutpointsUnspent(height, (coin.serialize(),))
    again = [event for event in heard[1:] if event.outpoints]
    if not again:  # it went back to the mempool
        at = BlockHeight(await told.mine())
        again = [event for event in told.take() if event.outpoints]
        assert again == [OutpointsSpent(at, (coin.serialize(),))]
    assert all(event.outpoints == (coin.serialize(),) for event in again)


async def test_blocks_that_were_read_before_are_read_again(told: Told) -> None:
    """As after a stop: the spends up to `since` are known, the later ones are told now."""
    coins = [told.coin() for _ in range(3)]
    await told.mine()
    early, _, late = await told.mine(coins[0]), await told.mine(), await told.mine(coins[1])
    found = await told.watch(*coins, since=early)
    assert found == SpendsWatched(BlockHeight(late))
    assert told.take() == [OutpointsSpent(BlockHeight(late), (coins[1].serialize(),))]
    await told.watch(*coins, since=early - 1)
    assert [event.height for event in told.take()] == [early, late]


async def test_reading_again_ends_after_two_weeks_and_says_so(
    told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SPENDS_BACK == 14 * 144
    monkeypatch.setattr("node.chain.service.SPENDS_BACK", 2)
    coin = told.coin()
    await told.mine()
    height = await told.mine(coin)
    await told.mine()
    await told.mine()
    found = await told.watch(coin, since=height - 1)
    assert not found.complete and found.able
    assert told.take() == []


async def test_what_was_taken_back_is_silent(told: Told) -> None:
    coin, other = told.coin(), told.coin()
    await told.mine()
    await told.watch(coin, other)
    told.rig.bus.send("chain", UnwatchSpends(coin.serialize()))
    await told.mine(coin, other)
    (event,) = told.take()
    assert event.outpoints == (other.serialize(),)


async def test_a_backend_without_blocks_says_that_it_cannot(told: Told) -> None:
    told.rig.backend.cannot = frozenset({"spends of others' outputs"})
    coin = told.coin()
    await told.mine()
    assert not (await told.watch(coin)).able
    await told.mine(coin)
    assert told.take() == []


async def test_there_is_an_end_to_what_is_watched(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spends, "MOST", 2)
    coins = [told.coin() for _ in range(3)]
    with pytest.raises(CommandRefused, match="no more than 2"):
        await told.watch(*coins)


async def test_a_spend_is_found_also_where_other_things_are_watched(told: Told) -> None:
    """The same block concerns our own channels as well."""
    mine, other = told.coin(), told.coin()
    await told.mine()
    await told.rig.watch(mine)
    await told.watch(other, mine)
    await told.mine(mine, other)
    (event,) = told.take()
    assert set(event.outpoints) == {mine.serialize(), other.serialize()}
    await until(lambda: any(type(e).__name__ == "OutpointSpent" for e in told.rig.ear.events))
    assert any(type(event) is TipChanged for event in told.rig.ear.events)


async def test_the_walk_over_a_block_finds_its_inputs(regtest: Any) -> None:
    """The first block of regtest spends nothing but the null outpoint; blocks of the chain have witnesses."""
    null = bytes(32) + b"\xff" * 4
    assert spent_in(GENESIS_REGTEST, {null, b"\1" * 36}) == (null,)
    chain, _ = regtest
    coins = [chain.fund(SCRIPT, Sat(100_000)) for _ in range(3)]
    chain.generate(1)
    chain.submit(spend([(coin, 100_000) for coin in coins[:2]], [(150_000, ELSEWHERE)]))
    chain.generate(1)
    raw = chain.block(chain.height).raw
    wanted = {coin.serialize() for coin in coins}
    assert set(spent_in(raw, wanted)) == {coin.serialize() for coin in coins[:2]}
    inputs = [i.outpoint.serialize() for tx in chain.block(chain.height).transactions for i in tx.inputs]
    assert list(spent_in(raw, set(inputs))) == inputs


@pytest.mark.parametrize("cut", [1, 5, 60, 200])
def test_a_block_that_ends_early_or_late_is_malformed(cut: int) -> None:
    for raw in (GENESIS_REGTEST[:-cut], GENESIS_REGTEST + bytes(cut), GENESIS_REGTEST[:80]):
        with pytest.raises(MalformedMessage):
            spent_in(raw, {b"\1" * 36})


def test_memory_of_what_was_spent_is_bounded() -> None:
    kept = Spends()
    kept.watch(b"".join(n.to_bytes(36, "big") for n in range(500)))
    for height in range(500):
        kept.connect(BlockHeight(height), [height.to_bytes(36, "big")], height)
    assert len(kept._by_height) <= spends.KEPT_BLOCKS
    gone = kept.disconnect(BlockHeight(499))
    assert gone is not None and gone.outpoints == ((499).to_bytes(36, "big"),)
    assert kept.disconnect(BlockHeight(100)) is None
