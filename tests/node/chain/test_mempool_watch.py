"""Unconfirmed spends of watched outputs, over each door of the embedded chain."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node.chain.backend import MEMPOOL_SPENDS, BackendUnusable
from node.chain.json_rpc import RpcError
from protocol.bitcoin.transaction import OutPoint
from protocol.bus.messages.chain import (
    ChainStatus,
    GetChainStatus,
    GetTip,
    OutpointSpent,
    SpendReorganised,
    Tip,
    UnwatchOutput,
    WatchOutput,
)
from tests.node.chain.conftest import make_bitcoind
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, confirmed_coin, spend
from tests.node.chain.test_electrum import make_electrum
from tests.node.chain.test_service import Rig, until


def unconfirmed(coin: OutPoint, tx: Any) -> OutpointSpent:
    return OutpointSpent(coin.txid, coin.index, tx.serialize(), None, 0)


async def watch(rig: Rig, coin: OutPoint) -> None:
    await rig.ask(WatchOutput(coin.txid, coin.index, SCRIPT, mempool=True))


@pytest.fixture(params=["zmq", "polling", "electrum"])
async def rig(regtest: Any, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """The three ways in which a node hears of the mempool. Where notices are sent, nothing is polled."""
    chain, doors = regtest
    make = {
        "zmq": lambda: make_bitcoind(doors, poll_seconds=600),
        "polling": lambda: make_bitcoind(doors, zmq=False, poll_seconds=0.02),
        "electrum": lambda: make_electrum(doors.electrum_endpoint),
    }[request.param]
    rig = Rig(chain, doors, tmp_path / "node.db")
    await rig.start(make=make)
    await rig.caught_up()
    yield rig
    await rig.stop()


async def test_an_unconfirmed_spend_is_told_once_and_then_its_block(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    await watch(rig, coin)
    spender = spend([(coin, amount)], [(99_000, ELSEWHERE)])
    await subscribed(rig)
    rig.chain.submit(spender)
    await until(lambda: rig.ear.of(OutpointSpent))
    rig.chain.generate(1)
    await until(lambda: len(rig.ear.of(OutpointSpent)) == 2)
    confirmed = OutpointSpent(coin.txid, coin.index, spender.serialize(), rig.chain.height, 1)
    assert rig.ear.of(OutpointSpent) == [unconfirmed(coin, spender), confirmed]


async def subscribed(rig: Rig) -> None:
    """A ZMQ subscription needs a moment until it stands: unrelated spends are made until one of them is noticed."""
    if not getattr(rig.backend, "_zmq_endpoint", ""):
        return
    probe, amount = confirmed_coin(rig.chain)
    await watch(rig, probe)
    fee = 1_000
    async with asyncio.timeout(20):
        while not any(event.txid == probe.txid for event in rig.ear.of(OutpointSpent)):
            rig.chain.submit(spend([(probe, amount)], [(amount - fee, ELSEWHERE)]))
            fee += 500
            await asyncio.sleep(0.02)
    rig.bus.send("chain", UnwatchOutput(probe.txid, probe.index))
    await rig.ask(GetTip())
    rig.ear.events.clear()


async def test_each_replacement_is_told(rig: Rig) -> None:
    """The preimage may stand in any of them."""
    coin, amount = confirmed_coin(rig.chain)
    await watch(rig, coin)
    await subscribed(rig)
    first = spend([(coin, amount)], [(99_000, ELSEWHERE)])
    second = spend([(coin, amount)], [(90_000, ELSEWHERE)])
    rig.chain.submit(first)
    await until(lambda: rig.ear.of(OutpointSpent))
    rig.chain.submit(second)
    await until(lambda: len(rig.ear.of(OutpointSpent)) == 2)
    assert rig.ear.of(OutpointSpent) == [unconfirmed(coin, first), unconfirmed(coin, second)]


async def test_a_spend_that_was_there_before_the_watch_is_told(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    spender = spend([(coin, amount)], [(99_000, ELSEWHERE)])
    rig.chain.submit(spender)
    await watch(rig, coin)
    await until(lambda: rig.ear.of(OutpointSpent))
    await watch(rig, coin)
    await until(lambda: len(rig.ear.of(OutpointSpent)) == 2)
    assert rig.ear.of(OutpointSpent) == [unconfirmed(coin, spender)] * 2, "who asks again is told again"


async def test_an_output_of_an_unconfirmed_transaction_is_watched_too(rig: Rig) -> None:
    """A preimage may come before even the commitment is in a block."""
    coin, amount = confirmed_coin(rig.chain)
    parent = spend([(coin, amount)], [(99_000, SCRIPT)])
    child = spend([(OutPoint(parent.txid, 0), 99_000)], [(90_000, ELSEWHERE)])
    rig.chain.submit(parent)
    rig.chain.submit(child)
    await watch(rig, OutPoint(parent.txid, 0))
    await until(lambda: rig.ear.of(OutpointSpent))
    assert rig.ear.of(OutpointSpent) == [unconfirmed(OutPoint(parent.txid, 0), child)]


async def test_a_spend_that_lost_its_block_is_told_as_unconfirmed_again(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    await watch(rig, coin)
    await subscribed(rig)
    spender = spend([(coin, amount)], [(99_000, ELSEWHERE)])
    rig.chain.submit(spender)
    await until(lambda: rig.ear.of(OutpointSpent))
    rig.chain.generate(1)
    await until(lambda: any(event.depth == 1 for event in rig.ear.of(OutpointSpent)))
    rig.ear.events.clear()
    rig.chain.reorg(1, 2, [])
    await until(lambda: rig.ear.of(SpendReorganised))
    await until(lambda: rig.ear.of(OutpointSpent))
    assert rig.ear.of(OutpointSpent) == [unconfirmed(coin, spender)]


async def test_who_did_not_ask_hears_of_no_unconfirmed_spend(rig: Rig) -> None:
    """A wallet must not take for spent what may never be mined."""
    coin, amount = confirmed_coin(rig.chain)
    other, _ = confirmed_coin(rig.chain)
    await rig.watch(coin)
    await watch(rig, other)
    both = spend([(coin, amount), (other, amount)], [(190_000, ELSEWHERE)])
    rig.chain.submit(both)
    await watch(rig, other)
    await until(lambda: rig.ear.of(OutpointSpent))
    assert rig.ear.of(OutpointSpent) == [unconfirmed(other, both)]


@pytest.fixture
async def polled(regtest: Any, tmp_path: Path) -> AsyncIterator[Rig]:
    chain, doors = regtest
    rig = Rig(chain, doors, tmp_path / "node.db")
    await rig.start(make=lambda: make_bitcoind(doors, zmq=False, poll_seconds=0.02))
    await rig.caught_up()
    yield rig
    await rig.stop()


async def test_a_server_that_cannot_say_who_spends_is_told_of_and_still_followed(
    polled: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = polled.backend._rpc.call

    async def older(method: str, *params: Any) -> Any:
        if method == "gettxspendingprevout":
            raise RpcError(-32601, "Method not found")
        return await ask(method, *params)

    monkeypatch.setattr(polled.backend._rpc, "call", older)
    coin, amount = confirmed_coin(polled.chain)
    await watch(polled, coin)
    await until(lambda: MEMPOOL_SPENDS in polled.backend.cannot)
    status = await polled.ask(GetChainStatus())
    assert status == ChainStatus("bitcoind", (MEMPOOL_SPENDS,), polled.chain.height, True)
    polled.chain.submit(spend([(coin, amount)], [(99_000, ELSEWHERE)]))
    polled.chain.generate(1)
    await until(lambda: polled.ear.of(OutpointSpent))
    assert [event.depth for event in polled.ear.of(OutpointSpent)] == [1]


async def test_trouble_with_the_mempool_does_not_stop_the_blocks(
    polled: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = 0

    async def broken(_watched: object) -> Any:
        nonlocal tries
        tries += 1
        raise BackendUnusable("no")

    monkeypatch.setattr(polled.backend, "mempool_spenders", broken)
    coin, _ = confirmed_coin(polled.chain)
    await watch(polled, coin)
    await until(lambda: tries)
    polled.chain.generate(1)
    await polled.caught_up()
    assert await polled.ask(GetTip()) == Tip(polled.chain.height, polled.chain.tip_hash, True)


async def test_many_spends_are_fetched_a_few_at_a_time(polled: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.chain.bitcoind.FETCHED_AT_ONCE", 2)
    coins = [confirmed_coin(polled.chain) for _ in range(5)]
    made = [spend([coin], [(99_000, ELSEWHERE)]) for coin in coins]
    for tx in made:
        polled.chain.submit(tx)
    watched = {coin: SCRIPT for coin, _ in coins}
    assert [len(await polled.backend.mempool_spenders(watched)) for _ in range(4)] == [2, 4, 5, 5]
    polled.chain.generate(1)
    assert await polled.backend.mempool_spenders(watched) == ()
