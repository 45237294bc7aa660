"""The chain service over the embedded chain: blocks, reorganisations, watches, broadcasts."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest

from node.chain.backend import BackendAway
from node.chain.service import ChainService
from node.storage.database import Database, open_database
from protocol.amounts import BlockHeight, FeeratePerKw, Sat
from protocol.bitcoin.transaction import OutPoint
from protocol.bus.local import LocalBus
from protocol.bus.messages.chain import (
    BlockConnected,
    BlockDisconnected,
    Broadcast,
    ChainAway,
    ChainBack,
    Forget,
    GetFeerate,
    GetOutputAt,
    GetTip,
    GetTransaction,
    OutpointSpent,
    OutputAt,
    OutputConfirmed,
    OutputReorganised,
    OutputStatus,
    ScanFrom,
    Scanned,
    ScriptPaid,
    SpendReorganised,
    Tip,
    TipChanged,
    UnwatchOutput,
    WatchOutput,
    WatchScript,
)
from protocol.bus.service import Service, hears
from protocol.errors import CommandRefused
from tests.node.chain.conftest import make_bitcoind
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, confirmed_coin, spend

T = TypeVar("T")


class Ear(Service):
    """Keeps every event of the chain."""

    name: ClassVar[str] = "ear"

    def __init__(self, bus: LocalBus) -> None:
        super().__init__(bus)
        self.events: list[Any] = []

    @hears(
        BlockConnected,
        BlockDisconnected,
        TipChanged,
        OutputConfirmed,
        OutputReorganised,
        OutpointSpent,
        SpendReorganised,
        ScriptPaid,
        ChainAway,
        ChainBack,
    )
    def heard(self, event: object) -> None:
        self.events.append(event)

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]


class Rig:
    """One node's chain service; `restart` is a crash and a new start on the same database."""

    def __init__(self, chain: Any, doors: Any, path: Path) -> None:
        self.chain = chain
        self.doors = doors
        self.path = path
        self.database: Database | None = None

    async def start(self, *, make: Callable[[], Any] | None = None, **options: Any) -> None:
        self.database = open_database(self.path, create=not self.path.exists())
        self.bus = LocalBus()
        self.ear = Ear(self.bus)
        self.backend = make_bitcoind(self.doors, poll_seconds=0.02) if make is None else make()
        self.service = ChainService(
            self.bus, self.backend, self.database.writer, retry_seconds=0.02, **options
        )
        await self.ear.start()
        await self.service.start()

    async def stop(self) -> None:
        if self.database is not None:
            await self.service.stop()
            await self.ear.stop()
            self.database.close()
            self.database = None

    async def caught_up(self) -> None:
        await until(lambda: any(e.block_hash == self.chain.tip_hash for e in self.ear.of(TipChanged)))
        await asyncio.sleep(0)

    async def ask(self, message: object) -> Any:
        return await self.bus.request("chain", message, deadline=20)

    async def watch(self, outpoint: OutPoint, script: bytes = SCRIPT, since: int = 0) -> OutputStatus:
        status = await self.ask(WatchOutput(outpoint.txid, outpoint.index, script, since))
        assert isinstance(status, OutputStatus)
        return status


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - the chain is polled over a real connection
            await asyncio.sleep(0.005)


@pytest.fixture
async def rig(regtest: Any, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(*regtest, tmp_path / "node.db")
    await rig.start()
    await rig.caught_up()
    rig.ear.events.clear()
    yield rig
    await rig.stop()


async def test_blocks_are_told_in_order_and_then_the_tip(rig: Rig) -> None:
    first = rig.chain.height + 1
    rig.chain.generate(3)
    await rig.caught_up()
    connected = rig.ear.of(BlockConnected)
    assert [event.height for event in connected] == [first, first + 1, first + 2]
    assert [event.block_hash for event in connected] == [
        rig.chain.block(height).hash for height in range(first, first + 3)
    ]
    assert await rig.ask(GetTip()) == Tip(rig.chain.height, rig.chain.tip_hash, True)


async def test_a_reorganisation_takes_blocks_back_from_the_top(rig: Rig) -> None:
    rig.chain.generate(2)
    await rig.caught_up()
    old = [rig.chain.block(height).hash for height in (rig.chain.height, rig.chain.height - 1)]
    top = rig.chain.height
    rig.ear.events.clear()
    rig.chain.reorg(2, 3)
    await rig.caught_up()
    assert rig.ear.of(BlockDisconnected) == [
        BlockDisconnected(top, old[0]),
        BlockDisconnected(top - 1, old[1]),
    ]
    assert [event.height for event in rig.ear.of(BlockConnected)] == [top - 1, top, top + 1]


async def test_an_output_is_confirmed_deepens_and_is_spent(rig: Rig) -> None:
    coin = rig.chain.fund(SCRIPT, Sat(100_000))
    status = await rig.watch(coin)
    assert (status.height, status.spent_height) == (None, None)
    rig.chain.generate(1)
    await until(lambda: rig.ear.of(OutputConfirmed))
    height = rig.chain.height
    tx_index = [tx.txid for tx in rig.chain.block(height).transactions].index(coin.txid)
    first = OutputConfirmed(coin.txid, coin.index, Sat(100_000), height, tx_index, 1)
    assert rig.ear.of(OutputConfirmed) == [first]
    rig.chain.generate(1)
    await until(lambda: len(rig.ear.of(OutputConfirmed)) == 2)
    assert rig.ear.of(OutputConfirmed)[1].depth == 2

    spender = spend([(coin, 100_000)], [(99_000, ELSEWHERE)])
    rig.chain.submit(spender)
    rig.chain.generate(1)
    await until(lambda: rig.ear.of(OutpointSpent))
    spent = OutpointSpent(coin.txid, coin.index, spender.serialize(), rig.chain.height, 1)
    assert rig.ear.of(OutpointSpent) == [spent]


async def test_an_output_that_was_confirmed_or_spent_before_is_found(rig: Rig) -> None:
    standing, _ = confirmed_coin(rig.chain)
    gone, amount = confirmed_coin(rig.chain)
    spender = spend([(gone, amount)], [(99_000, ELSEWHERE)])
    rig.chain.submit(spender)
    rig.chain.generate(2)
    await rig.caught_up()
    top = rig.chain.height
    assert (await rig.watch(standing)).height == top - 3
    status = await rig.watch(gone, since=1)
    assert (status.height, status.spent_height, status.spent_by) == (top - 2, top - 1, spender.serialize())
    await until(lambda: rig.ear.of(OutpointSpent))
    assert rig.ear.of(OutpointSpent)[0].depth == 2
    assert [event.depth for event in rig.ear.of(OutputConfirmed)] == [4, 3]


async def test_a_reorganisation_unconfirms_and_unspends(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    await rig.caught_up()
    await rig.watch(coin)
    rig.chain.submit(spend([(coin, amount)], [(99_000, ELSEWHERE)]))
    rig.chain.generate(1)
    await until(lambda: rig.ear.of(OutpointSpent))
    rig.ear.events.clear()
    rig.chain.reorg(2, 3, [])
    await rig.caught_up()
    assert rig.ear.of(SpendReorganised) == [SpendReorganised(coin.txid, coin.index)]
    assert rig.ear.of(OutputReorganised) == [OutputReorganised(coin.txid, coin.index)]
    assert rig.ear.of(OutputConfirmed) == rig.ear.of(OutpointSpent) == []
    rig.chain.generate(1)  # both went back to the mempool
    await until(lambda: rig.ear.of(OutpointSpent))
    assert rig.ear.of(OutputConfirmed)[0].height == rig.ear.of(OutpointSpent)[0].height == rig.chain.height


async def test_a_watch_that_was_taken_back_is_silent(rig: Rig) -> None:
    coin = rig.chain.fund(SCRIPT, Sat(100_000))
    await rig.watch(coin)
    rig.bus.send("chain", UnwatchOutput(coin.txid, coin.index))
    rig.chain.generate(1)
    await rig.caught_up()
    assert rig.ear.of(OutputConfirmed) == []


async def test_an_output_with_another_script_is_refused(rig: Rig) -> None:
    coin, _ = confirmed_coin(rig.chain)
    await rig.caught_up()
    with pytest.raises(CommandRefused, match="another script"):
        await rig.watch(coin, ELSEWHERE)


async def test_a_watched_script_tells_payments_and_their_spending(rig: Rig) -> None:
    before, _ = confirmed_coin(rig.chain, 70_000)
    await rig.caught_up()
    rig.bus.send("chain", WatchScript(SCRIPT))
    coin, amount = confirmed_coin(rig.chain)
    await until(lambda: rig.ear.of(ScriptPaid))
    paid = ScriptPaid(SCRIPT, coin.txid, coin.index, Sat(amount), rig.chain.height, False)
    assert rig.ear.of(ScriptPaid) == [paid]
    rig.chain.submit(spend([(coin, amount)], [(99_000, ELSEWHERE)]))
    rig.chain.generate(1)
    await until(lambda: rig.ear.of(OutpointSpent))
    assert rig.ear.of(OutpointSpent)[0].txid == coin.txid
    assert rig.ear.of(OutputConfirmed) == []

    rig.ear.events.clear()
    top = rig.chain.height
    assert await rig.ask(ScanFrom(BlockHeight(top - 2))) == Scanned(BlockHeight(top - 2), BlockHeight(top))
    await until(lambda: rig.ear.of(OutpointSpent))
    assert [event.txid for event in rig.ear.of(ScriptPaid)] == [before.txid, coin.txid]


async def test_a_coinbase_is_told_as_one(rig: Rig) -> None:
    rig.bus.send("chain", WatchScript(SCRIPT))
    await rig.ask(GetTip())
    rig.chain.generate(1, SCRIPT)
    await until(lambda: rig.ear.of(ScriptPaid))
    assert rig.ear.of(ScriptPaid)[0].coinbase


async def test_what_happened_while_the_node_was_off_is_told_at_the_next_start(rig: Rig) -> None:
    rig.chain.generate(2)
    await rig.caught_up()
    top = rig.chain.height
    await rig.stop()
    rig.chain.reorg(1, 3)
    await rig.start()
    await rig.caught_up()
    assert [event.height for event in rig.ear.of(BlockDisconnected)] == [top]
    assert [event.height for event in rig.ear.of(BlockConnected)] == [top, top + 1, top + 2]


async def test_only_the_last_blocks_are_kept(rig: Rig) -> None:
    rig.chain.generate(150)
    await rig.caught_up()
    await rig.stop()
    database = open_database(rig.path)
    rows = database.writer.read("SELECT height, block_hash FROM scan ORDER BY height")
    assert [row[0] for row in rows] == list(range(rig.chain.height - 143, rig.chain.height + 1))
    assert rows[-1][1] == rig.chain.tip_hash
    database.close()


async def test_a_reorganisation_deeper_than_what_is_kept_stops_following_and_says_so(
    regtest: Any, tmp_path: Path
) -> None:
    chain, doors = regtest
    rig = Rig(chain, doors, tmp_path / "deep.db")
    database = open_database(rig.path, create=True)
    rows = [(chain.height - 1, b"\x01" * 32), (chain.height, b"\x02" * 32)]
    await database.writer.submit([("INSERT INTO scan VALUES (?, ?)", rows)], now=True)
    database.close()
    await rig.start()
    await until(lambda: rig.ear.of(ChainAway))
    assert "deeper than" in rig.ear.of(ChainAway)[0].reason
    assert not (await rig.ask(GetTip())).synced
    await rig.stop()


async def test_a_broadcast_is_saved_sent_and_repeated_until_it_confirms(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    await rig.caught_up()
    tx = spend([(coin, amount)], [(99_000, ELSEWHERE)])
    result = await rig.ask(Broadcast(tx.serialize(), "a test"))
    assert result.accepted and tx.txid in rig.chain.mempool
    again = await rig.ask(Broadcast(tx.serialize()))
    assert again.accepted

    assert rig.database is not None
    row = "SELECT label, height FROM transactions"
    assert rig.database.writer.read(row) == [("a test", None)]
    rig.chain.generate(1)
    await rig.caught_up()
    await until(lambda: rig.database and rig.database.writer.read(row) == [("a test", rig.chain.height)])
    assert (await rig.ask(Broadcast(tx.serialize()))).accepted
    rig.chain.reorg(1, 2, [])
    await until(lambda: rig.database and rig.database.writer.read(row) == [("a test", None)])
    await until(lambda: tx.txid in rig.chain.mempool)


async def test_a_transaction_that_was_saved_and_never_sent_goes_out_at_the_next_start(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    await rig.caught_up()
    tx = spend([(coin, amount)], [(99_000, ELSEWHERE)])
    assert rig.database is not None
    put = "INSERT INTO transactions (txid, raw) VALUES (?, ?)"
    await rig.database.writer.submit([(put, [(tx.txid, tx.serialize())])], now=True)
    await rig.stop()
    assert tx.txid not in rig.chain.mempool
    await rig.start()
    await until(lambda: tx.txid in rig.chain.mempool)


async def test_a_refused_transaction_is_kept_or_forgotten_as_asked(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    await rig.caught_up()
    parent = spend([(coin, amount)], [(99_000, SCRIPT)])
    orphan = spend([(OutPoint(parent.txid, 0), 99_000)], [(98_000, ELSEWHERE)])
    refused = await rig.ask(Broadcast(orphan.serialize(), keep=False))
    assert not refused.accepted and "missingorspent" in refused.reason
    assert rig.database is not None
    assert rig.database.writer.read("SELECT * FROM transactions") == []

    kept = await rig.ask(Broadcast(orphan.serialize()))
    assert not kept.accepted
    rig.chain.submit(parent)
    rig.chain.generate(1)
    await until(lambda: orphan.txid in rig.chain.mempool)


async def test_a_superseded_transaction_is_not_sent_again(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    await rig.caught_up()
    old = spend([(coin, amount)], [(99_000, ELSEWHERE)])
    new = spend([(coin, amount)], [(90_000, ELSEWHERE)])
    for tx in (old, new):
        assert (await rig.ask(Broadcast(tx.serialize()))).accepted
    rig.bus.send("chain", Forget(old.txid))
    await rig.ask(GetTip())
    assert rig.database is not None
    rows = "SELECT txid FROM transactions"
    await until(lambda: rig.database and rig.database.writer.read(rows) == [(new.txid,)])
    rig.chain.generate(1)
    await rig.caught_up()
    rig.bus.send("chain", Forget(new.txid))  # it is in a block, so it stays
    await rig.ask(GetTip())
    assert rig.database.writer.read(rows) == [(new.txid,)]
    assert rig.chain.confirmations(new.txid) == 1


async def test_what_is_no_transaction_is_not_broadcast(rig: Rig) -> None:
    with pytest.raises(CommandRefused, match="not a transaction"):
        await rig.ask(Broadcast(b"\x00\x01"))


async def test_outputs_behind_short_channel_ids_and_transactions_are_answered(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    await rig.caught_up()
    height = BlockHeight(rig.chain.height)
    transactions = [tx.txid for tx in rig.chain.block(height).transactions]
    place = GetOutputAt(height, transactions.index(coin.txid), coin.index)
    assert await rig.ask(place) == OutputAt(coin.txid, Sat(amount), SCRIPT, True)
    assert await rig.ask(GetOutputAt(height, 50, 0)) is None
    assert await rig.ask(GetOutputAt(height, 0, 50)) is None
    assert await rig.ask(GetOutputAt(BlockHeight(height + 1), 0, 0)) is None
    assert (await rig.ask(GetTransaction(coin.txid))).height == height
    assert await rig.ask(GetTransaction(b"\x07" * 32)) is None


async def test_a_missing_estimate_is_refused_or_replaced_where_that_is_harmless(rig: Rig) -> None:
    assert await rig.ask(GetFeerate(6)) == 500
    await rig.backend._rpc.call("setfeerate", None)
    with pytest.raises(CommandRefused, match="no fee estimate"):
        await rig.ask(GetFeerate(6))
    await rig.stop()
    await rig.start(fallback_feerate=FeeratePerKw(1_000))
    assert await rig.ask(GetFeerate(6)) == 1_000


async def test_a_backend_that_goes_away_is_told_once_and_awaited(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tip = rig.backend.tip
    tries = 0

    async def away() -> Any:
        nonlocal tries
        tries += 1
        raise BackendAway("nobody there. Start it.")

    monkeypatch.setattr(rig.backend, "tip", away)
    await until(lambda: tries > 3)
    assert rig.ear.of(ChainAway) == [ChainAway("nobody there. Start it.")]
    assert not (await rig.ask(GetTip())).synced
    rig.chain.generate(1)
    monkeypatch.setattr(rig.backend, "tip", tip)
    await rig.caught_up()
    await until(lambda: rig.ear.of(ChainBack))
    assert (await rig.ask(GetTip())).synced


async def test_a_bug_does_not_end_following_the_chain(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    tip = rig.backend.tip
    tries = 0

    async def broken() -> Any:
        nonlocal tries
        tries += 1
        raise ZeroDivisionError

    monkeypatch.setattr(rig.backend, "tip", broken)
    await until(lambda: tries > 1)
    monkeypatch.setattr(rig.backend, "tip", tip)
    rig.chain.generate(1)
    await rig.caught_up()
