"""Gossip and the real chain service on one bus, over the embedded chain: spends are heard and taken back."""

from pathlib import Path
from typing import Any

from node.chain.service import ChainService
from node.storage.database import open_database
from protocol.amounts import Sat, scid
from protocol.bitcoin.transaction import OutPoint
from protocol.bus.messages.chain import GetOutputAt
from tests.node.chain.conftest import make_bitcoind
from tests.node.chain.conftest import regtest as regtest
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, spend
from tests.node.chain.test_service import until
from tests.node.routing.gossip.conftest import Make
from tests.node.routing.gossip.house import House
from tests.node.routing.gossip.synth import NOW, node_id


class NoChain:
    """In place of the stand-in of the house."""

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass


async def on(
    house: Make, number: int, chain: Any, doors: Any, folder: Path
) -> tuple[House, ChainService, Any]:
    one = await house(number, start=False, path=folder / "gossip.db")
    await one.chain.stop()
    one.bus.detach("chain", one.chain._inbox)
    one.chain = NoChain()  # type: ignore[assignment]
    database = open_database(folder / "node.db", create=not (folder / "node.db").exists())
    service = ChainService(
        one.bus, make_bitcoind(doors, poll_seconds=0.02), database.writer, retry_seconds=0.02
    )
    await service.start()
    await until(lambda: service._tip == chain.height)
    await one.start()
    return one, service, database


async def test_a_spend_is_heard_after_a_stop_too_and_forgiven_when_it_leaves_the_chain(
    house: Make,
    regtest: Any,
    tmp_path: Path,
):
    """checklist 56: over the words of the bus, with the blocks that the chain service reads anyway."""
    chain, doors = regtest
    coins = [chain.fund(SCRIPT, Sat(100_000)) for _ in range(3)]
    chain.generate(1)
    order = [tx.txid for tx in chain.block(chain.height).transactions]
    one, service, database = await on(house, 50, chain, doors, tmp_path)
    places = []
    for coin in coins:
        place = scid(chain.height, order.index(coin.txid), coin.index)
        question = GetOutputAt(chain.height, order.index(coin.txid), coin.index)
        found = await one.bus.request("chain", question)
        places.append(place)
        raw = (
            bytes(2 + 256)
            + b"\0\0"
            + bytes(32)
            + place.to_bytes(8, "big")
            + node_id(1)
            + node_id(2)
            + bytes(66)
        )
        one.gossip.book.add(place, node_id(1), node_id(2), found.value, NOW, found.txid)
        one.gossip.store.put_channel(place, found.value, NOW, found.txid, raw)
        one.gossip._outputs.added(place)
    await one.tick(1)
    await until(lambda: len(service._spends.wanted) == 3)

    def close(coin: OutPoint) -> int:
        chain.submit(spend([(coin, 100_000)], [(99_000, ELSEWHERE)]))
        chain.generate(1)
        return int(chain.height)

    first = close(coins[0])
    await until(lambda: one.gossip.book.spent == {places[0]: first})
    chain.reorg(1, 2, [])
    await until(lambda: service._tip == chain.height)
    await until(lambda: one.gossip.book.spent.get(places[0]) != first)
    if not one.gossip.book.spent:
        chain.generate(1)
    await until(lambda: list(one.gossip.book.spent) == [places[0]])
    again = one.gossip.book.spent[places[0]]

    await one.stop()
    await service.stop()
    database.close()
    second = close(coins[1])  # while we are off
    after, service, database = await on(house, 51, chain, doors, tmp_path)
    await after.tick(1)
    await until(lambda: after.gossip.book.spent == {places[0]: again, places[1]: second})
    assert places[2] in after.gossip.book
    await service.stop()
    database.close()
