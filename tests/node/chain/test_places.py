"""Outputs by their place in the chain: one small call each, and one list of txids for all of a block (BOLT 7)."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from node.chain.backend import BackendAway
from node.chain.bitcoind import Bitcoind
from node.chain.json_rpc import NO_BATCHES, JsonRpc, RpcError
from node.chain.txids import BURIED, joined_txids
from protocol.amounts import Sat
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import OutPoint, txid_hex
from protocol.errors import MalformedMessage
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, spend

GENESIS_ANSWER = {
    # The first block of regtest, as getblock shows it.
    "version": 1,
    "merkleroot": "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b",
    "time": 1296688602,
    "bits": "207fffff",
    "nonce": 2,
    "tx": ["4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"],
}


class Asked:
    """Counts what goes to the server, by method and by exchange."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.methods: Counter[str] = Counter()
        self.exchanges = 0
        self.verbosity: list[Any] = []
        self.batches = True
        call, batch = JsonRpc.call, JsonRpc.batch

        async def counted_call(rpc: JsonRpc, method: str, *params: Any) -> Any:
            self._count(method, params)
            self.exchanges += 1
            return await call(rpc, method, *params)

        async def counted_batch(rpc: JsonRpc, calls: Any) -> list[Any]:
            if not self.batches:
                raise RpcError(NO_BATCHES, "no")
            for method, params in calls:
                self._count(method, params)
            self.exchanges += 1
            return await batch(rpc, calls)

        monkeypatch.setattr(JsonRpc, "call", counted_call)
        monkeypatch.setattr(JsonRpc, "batch", counted_batch)

    def _count(self, method: str, params: Any) -> None:
        self.methods[method] += 1
        if method == "getblock":
            self.verbosity.append(params[1])


def funded(chain: Any, count: int) -> tuple[int, dict[OutPoint, int]]:
    """Height, and the place of each output."""
    coins = [chain.fund(SCRIPT, Sat(10_000 + number)) for number in range(count)]
    chain.generate(1)
    order = [tx.txid for tx in chain.block(chain.height).transactions]
    return chain.height, {coin: order.index(coin.txid) for coin in coins}


async def test_lookups_in_one_block_share_its_txids_and_go_out_together(
    regtest: Any, bitcoind: Bitcoind, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, _ = regtest
    height, places = funded(chain, 12)
    await bitcoind.tip()
    asked = Asked(monkeypatch)
    found = await asyncio.gather(*(bitcoind.output_at(height, at, coin.index) for coin, at in places.items()))
    assert [one and one.txid for one in found] == [coin.txid for coin in places]
    assert sorted(one.value for one in found if one) == [10_000 + number for number in range(12)]
    assert all(one and one.script == SCRIPT and one.unspent for one in found)
    assert asked.methods == {"getblockhash": 12, "getblock": 1, "gettxout": 12}
    assert asked.verbosity == [1], "the block itself is not downloaded"
    assert asked.exchanges <= 5


async def test_a_buried_block_costs_one_small_call_for_each_further_channel(
    regtest: Any, bitcoind: Bitcoind, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, _ = regtest
    height, places = funded(chain, 3)
    chain.generate(BURIED)
    await bitcoind.tip()
    asked = Asked(monkeypatch)
    for coin, at in places.items():
        assert await bitcoind.output_at(height, at, coin.index) is not None
    assert asked.methods == {"getblockhash": 1, "getblock": 1, "gettxout": 3}
    await bitcoind.check()  # it may be another server now
    assert await bitcoind.output_at(height, 1, 0) is not None
    assert asked.methods["getblock"] == 2


async def test_a_young_block_is_asked_for_by_its_height_again(regtest: Any, bitcoind: Bitcoind) -> None:
    """It may be replaced: what stood at its place before is not remembered."""
    chain, _ = regtest
    height, places = funded(chain, 1)
    ((coin, at),) = places.items()
    await bitcoind.tip()
    assert await bitcoind.output_at(height, at, coin.index) is not None
    chain.reorg(1, 2, [])
    chain.generate(1)
    assert len(chain.block(height).transactions) == 1, "it was mined again, but elsewhere"
    assert await bitcoind.output_status(coin.txid, coin.index) is not None
    assert await bitcoind.output_at(height, at, coin.index) is None


async def test_spent_and_absent_outputs_are_none(regtest: Any, bitcoind: Bitcoind) -> None:
    chain, _ = regtest
    height, places = funded(chain, 1)
    ((coin, at),) = places.items()
    assert await bitcoind.output_at(height, at, 99) is None
    assert await bitcoind.output_at(height, 50, 0) is None
    assert await bitcoind.output_at(chain.height + 1, 0, 0) is None
    chain.submit(spend([(coin, 10_000)], [(9_000, ELSEWHERE)]))
    assert await bitcoind.output_at(height, at, coin.index) is not None, "the mempool does not count"
    chain.generate(1)
    assert await bitcoind.output_at(height, at, coin.index) is None


async def test_a_server_without_batches_is_asked_one_by_one(
    regtest: Any, bitcoind: Bitcoind, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, _ = regtest
    height, places = funded(chain, 4)
    asked = Asked(monkeypatch)
    asked.batches = False
    found = await asyncio.gather(*(bitcoind.output_at(height, at, coin.index) for coin, at in places.items()))
    assert [one and one.txid for one in found] == [coin.txid for coin in places]
    assert asked.exchanges == sum(asked.methods.values())


async def test_an_item_of_a_batch_that_fails_fails_alone(regtest: Any, bitcoind: Bitcoind) -> None:
    chain, _ = regtest
    height, places = funded(chain, 1)
    ((coin, at),) = places.items()
    good, above = await asyncio.gather(
        bitcoind.output_at(height, at, coin.index), bitcoind.output_at(height + 5, 0, 0)
    )
    assert good is not None and above is None


async def test_a_list_of_txids_that_the_header_does_not_commit_to_is_refused(
    regtest: Any, bitcoind: Bitcoind, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, _ = regtest
    height, places = funded(chain, 1)
    ((coin, at),) = places.items()
    ask = JsonRpc.call

    async def lying(rpc: JsonRpc, method: str, *params: Any) -> Any:
        answer = await ask(rpc, method, *params)
        return {**answer, "tx": [*answer["tx"], "11" * 32]} if method == "getblock" else answer

    monkeypatch.setattr(JsonRpc, "call", lying)
    with pytest.raises(BackendAway, match="not those of its header"):
        await bitcoind.output_at(height, at, coin.index)
    monkeypatch.setattr(JsonRpc, "call", ask)
    assert await bitcoind.output_at(height, at, coin.index) is not None, "a lie is not kept"


def test_the_txids_of_the_first_block_of_regtest() -> None:
    joined = joined_txids(GENESIS_ANSWER, REGTEST.chain_hash)
    assert txid_hex(joined) == GENESIS_ANSWER["merkleroot"]


@pytest.mark.parametrize(
    "change",
    [
        {"tx": 7},
        {"tx": ["zz" * 32]},
        {"tx": []},
        {"nonce": 3},
        {"nonce": -1},
        {"nonce": 1 << 40},
        {"bits": "x"},
        {"time": None},
        {"version": "1"},
        {"merkleroot": 5},
        {"tx": ["00" * 32]},
    ],
)
def test_a_block_answer_that_does_not_hold_together_is_malformed(change: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage):
        joined_txids({**GENESIS_ANSWER, **change}, REGTEST.chain_hash)
    with pytest.raises(MalformedMessage):
        joined_txids(None, REGTEST.chain_hash)
