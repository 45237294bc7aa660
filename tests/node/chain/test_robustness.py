"""Backends that change, lag, lie, restart and forget: nothing of ours is given up, and a sentence says what to do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import structlog

from node.chain.backend import OLD_BLOCKS, BackendAway, BackendUnusable, BlockRef
from node.chain.blocks import check_block, header_of, transactions_of
from node.chain.json_rpc import JsonRpc, RpcError
from node.chain.regtest import RegtestChain
from node.chain.regtest.miner import merkle_root
from node.chain.regtest.service import RegtestService
from protocol.amounts import BlockHeight, Sat
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import compact_size
from protocol.bus.messages.chain import (
    BlockConnected,
    BlockDisconnected,
    ChainAway,
    ChainBack,
    GetChainStatus,
    GetFeerate,
    GetTip,
    GetTransaction,
    OutputConfirmed,
    ScanFrom,
    Scanned,
    ScriptPaid,
    Tip,
    WatchScript,
)
from protocol.errors import CommandRefused, MalformedMessage
from tests.node.chain.conftest import make_bitcoind
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, confirmed_coin, spend
from tests.node.chain.test_bitcoind import http, server
from tests.node.chain.test_service import Rig, until


@pytest.fixture
async def rig(regtest: Any, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = Rig(*regtest, tmp_path / "node.db")
    await rig.start()
    await rig.caught_up()
    rig.ear.events.clear()
    yield rig
    await rig.stop()


Answer = Callable[[str, tuple[Any, ...], Any], Any]


def altered(rig: Rig, monkeypatch: pytest.MonkeyPatch, alter: Answer) -> None:
    """Every answer of the server goes through `alter(method, params, answer)`."""
    ask = JsonRpc.call

    async def call(self: JsonRpc, method: str, *params: Any) -> Any:
        return alter(method, params, await ask(self, method, *params))

    monkeypatch.setattr(JsonRpc, "call", call)


# Another chain or network.


@asynccontextmanager
async def another_chain(folder: Path, blocks: int) -> AsyncIterator[tuple[RegtestChain, Any]]:
    with RegtestChain(folder, first_blocks=blocks) as chain:
        service = RegtestService(chain, folder)
        yield chain, await service.start()
        await service.close()


@pytest.mark.parametrize("blocks", [300, 105], ids=["longer", "shorter"])
async def test_a_backend_that_now_follows_another_chain_takes_no_block_from_us(
    rig: Rig, tmp_path: Path, blocks: int
) -> None:
    """Also at a regtest, where both chains begin with the same block."""
    rig.chain.generate(150)
    await rig.caught_up()
    tip = rig.chain.tip_hash
    rig.ear.events.clear()
    async with another_chain(tmp_path / "other", blocks) as (_, doors):
        mine, rig.backend._rpc = rig.backend._rpc, make_bitcoind(doors)._rpc
        if blocks > 260:
            await until(lambda: rig.ear.of(ChainAway))
            assert "follows the right chain" in rig.ear.of(ChainAway)[0].reason
        else:
            await until(lambda: not rig.service._synced)
            assert "is at block 105" in (await rig.ask(GetChainStatus())).behind
        assert rig.ear.of(BlockDisconnected) == []
        assert await rig.ask(GetTip()) == Tip(rig.chain.height, tip, False)
        rig.backend._rpc.close()
        rig.backend._rpc = mine
        await until(lambda: rig.service._synced)
    rig.chain.generate(1)
    await rig.caught_up()
    assert len(rig.ear.of(BlockConnected)) == 1


async def test_a_backend_that_moved_to_another_network_is_refused_under_a_running_node(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = True

    def alter(method: str, params: tuple[Any, ...], answer: Any) -> Any:
        if moved and method == "getblockhash":
            return "11" * 32
        if moved and method == "getblockchaininfo":
            return {**answer, "bestblockhash": "22" * 32}
        return answer

    altered(rig, monkeypatch, alter)
    await until(lambda: rig.ear.of(ChainAway))
    assert "is not on regtest" in rig.ear.of(ChainAway)[0].reason
    assert rig.ear.of(BlockDisconnected) == []
    moved = False
    await until(lambda: rig.ear.of(ChainBack))
    assert (await rig.ask(GetTip())).synced


# Lag.


async def test_a_backend_that_was_set_back_is_waited_for(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its chain is ours without the last blocks, as after a restored disk: no block of ours is given up."""
    rig.chain.generate(5)
    await rig.caught_up()
    rig.ear.events.clear()
    old = rig.chain.index.entries[rig.chain.height - 3].hash[::-1].hex()
    behind = True

    def alter(method: str, params: tuple[Any, ...], answer: Any) -> Any:
        if behind and method == "getblockchaininfo":
            return {**answer, "blocks": rig.chain.height - 3, "bestblockhash": old}
        if behind and method == "getblockhash" and params[0] > rig.chain.height - 3:
            raise RpcError(-8, "Block height out of range")
        return answer

    altered(rig, monkeypatch, alter)
    await until(lambda: not rig.service._synced)
    assert await rig.ask(GetTip()) == Tip(rig.chain.height, rig.chain.tip_hash, False)
    with pytest.raises(CommandRefused, match="is at block"):
        await rig.ask(GetFeerate(6))
    assert rig.ear.of(BlockDisconnected) == rig.ear.of(ChainAway) == []
    behind = False
    await until(lambda: rig.service._synced)
    assert await rig.ask(GetFeerate(6)) == 500
    assert rig.ear.of(BlockConnected) == []


@pytest.mark.parametrize(("sign", "said"), [("headers", "bitcoind has"), ("download", "still downloading")])
async def test_a_backend_that_is_still_downloading_is_not_synced_and_has_no_feerate(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, sign: str, said: str
) -> None:
    behind = True

    def alter(method: str, params: tuple[Any, ...], answer: Any) -> Any:
        if behind and method == "getblockchaininfo":
            more = {"headers": answer["blocks"] + 3} if sign == "headers" else {"initialblockdownload": True}
            return {**answer, **more}
        return answer

    if sign == "download":  # which on regtest only says that nobody has mined lately
        monkeypatch.setattr(rig.backend, "_network", replace(REGTEST, name="signet"))
    altered(rig, monkeypatch, alter)
    await until(lambda: not rig.service._synced)
    with pytest.raises(CommandRefused, match=said):
        await rig.ask(GetFeerate(6))
    rig.chain.generate(1)
    await until(lambda: rig.ear.of(BlockConnected)), "what it has is followed"
    behind = False
    await until(lambda: rig.service._synced)


async def test_a_missing_header_or_two_is_no_lag(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = 0

    def alter(method: str, params: tuple[Any, ...], answer: Any) -> Any:
        nonlocal asked
        if method == "getblockchaininfo":
            asked += 1
            return {**answer, "headers": answer["blocks"] + 2}
        return answer

    altered(rig, monkeypatch, alter)
    await until(lambda: asked > 2)
    assert (await rig.ask(GetTip())).synced


# Pruned blocks.


async def test_a_pruned_block_is_named_and_other_work_goes_on(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, _ = confirmed_coin(rig.chain)
    pruned = rig.chain.height
    rig.chain.generate(3)
    await rig.caught_up()
    lost = rig.chain.index.entries[pruned].hash[::-1].hex()

    def alter(method: str, params: tuple[Any, ...], answer: Any) -> Any:
        if method == "getblock" and params[0] == lost:
            raise RpcError(-1, "Block not available (pruned data)")
        return {**answer, "pruned": True} if method == "getblockchaininfo" else answer

    altered(rig, monkeypatch, alter)
    with pytest.raises(CommandRefused, match="thrown away a block") as refused:
        await rig.watch(gone)
    assert "prune=0" in str(refused.value)
    with pytest.raises(CommandRefused, match="thrown away a block"):
        await rig.ask(ScanFrom(BlockHeight(pruned)))
    await rig.backend.check()
    assert OLD_BLOCKS in rig.backend.cannot
    fresh = rig.chain.fund(SCRIPT, Sat(50_000))
    await rig.watch(fresh, since=rig.chain.height)
    rig.chain.generate(1)
    await until(lambda: rig.ear.of(OutputConfirmed))
    assert rig.ear.of(OutputConfirmed)[0].txid == fresh.txid
    assert rig.ear.of(ChainAway) == []


# Restarts.


async def test_a_cookie_that_changed_at_a_restart_is_read_again(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try may still use the old one: the server was up before its new file was read."""
    cookie = rig.doors.cookie_path
    right = cookie.read_text()
    rig.backend._rpc.close()
    rig.backend._rpc._login = lambda: logins.pop(0) if len(logins) > 1 else logins[0]
    logins = ["__cookie__:old", right]
    assert (await rig.backend.tip()).height == rig.chain.height
    rig.backend._rpc.close()
    logins = ["__cookie__:old"]
    with pytest.raises(BackendUnusable, match="refuses our login"):
        await rig.backend.tip()


async def test_a_restart_in_the_middle_of_a_call_is_away_and_then_back(regtest: Any) -> None:
    half = http(b'{"result":1')[:-3]
    async with server(lambda _: half) as backend:
        backend_call = asyncio.create_task(backend.tip())
        await asyncio.sleep(0)
        while not backend._rpc._streams:  # noqa: ASYNC110  nothing could set an event
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        backend._rpc._streams[1].transport.abort()
        with pytest.raises(BackendAway, match="does not answer"):
            await backend_call


async def test_without_zmq_notices_blocks_are_polled_and_the_silence_is_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.chain.regtest.notify.ZmqPublisher._send", lambda *_: None)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            rig.chain.generate(1)
            await rig.caught_up()
    (silent,) = [line for line in logs if line["event"] == "zmq_silent"]
    assert "zmqpubhashblock" in silent["what_to_do"]


async def test_notices_that_come_are_no_silence(rig: Rig) -> None:
    await notices_come(rig)
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            rig.chain.generate(1)
            await rig.caught_up()
            await until(lambda: rig.backend._untold <= 1)
    assert [line for line in logs if line["event"] == "zmq_silent"] == []


async def notices_come(rig: Rig) -> None:
    """A subscription needs a moment until it stands: blocks are mined until one was told."""
    async with asyncio.timeout(20):
        while rig.backend._untold > 1 or rig.chain.height < 112:
            rig.chain.generate(1)
            await rig.caught_up()
            await asyncio.sleep(0.02)


# Lies.


async def test_a_block_with_another_transaction_than_its_header_says_is_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    coin, amount = confirmed_coin(rig.chain)
    await rig.caught_up()
    await rig.watch(coin)
    invented = spend([(coin, amount)], [(99_000, ELSEWHERE)])
    lying = True

    def alter(method: str, params: tuple[Any, ...], answer: Any) -> Any:
        if lying and method == "getblock":
            raw = bytes.fromhex(answer)
            whole = [*transactions_of(raw), invented]
            body = b"".join(tx.serialize() for tx in whole)
            return (raw[:80] + compact_size(len(whole)) + body).hex()
        return answer

    altered(rig, monkeypatch, alter)
    rig.chain.generate(1)
    await until(lambda: rig.ear.of(ChainAway))
    assert "not those of its header" in rig.ear.of(ChainAway)[0].reason
    with pytest.raises(BackendAway, match="not those of its header"):
        await rig.backend.transaction(b"\7" * 32, rig.chain.height)
    lying = False
    await rig.caught_up()
    assert (await rig.ask(GetTip())).height == rig.chain.height


async def test_another_block_or_transaction_than_was_asked_for_is_refused(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    coin, _ = confirmed_coin(rig.chain)
    other = rig.chain.block(3)

    def alter(method: str, params: tuple[Any, ...], answer: Any) -> Any:
        if method == "getblock":
            return other.raw.hex()
        if method == "getrawtransaction":
            return {**answer, "hex": other.transactions[0].serialize().hex()}
        return answer

    altered(rig, monkeypatch, alter)
    with pytest.raises(BackendAway, match="another block"):
        await rig.backend.transaction(b"\7" * 32, rig.chain.height)
    with pytest.raises(BackendAway, match="another transaction"):
        await rig.backend.transaction(coin.txid)


def test_a_block_with_a_transaction_twice_is_refused_although_its_root_is_right() -> None:
    txs = [spend([], [(amount, SCRIPT)]) for amount in (1, 2, 3)]
    header = msgspec.structs.replace(header_of(bytes(80)), merkle_root=merkle_root([tx.txid for tx in txs]))
    check_block(header, txs)
    with pytest.raises(MalformedMessage, match="twice"):
        check_block(header, [*txs, txs[2]])


# Searching.


async def test_a_new_block_does_not_wait_for_a_long_search(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes while it lasts is searched too."""
    monkeypatch.setattr("node.chain.service.SEARCHED_AT_ONCE", 5)
    confirmed_coin(rig.chain)
    await rig.caught_up()
    rig.bus.send("chain", WatchScript(SCRIPT))
    look = rig.backend.look
    held = asyncio.Event()
    reached = asyncio.Event()

    async def slow(height: int, block_hash: bytes, interest: Any) -> Any:
        if height == 20:
            reached.set()
            await held.wait()
        return await look(height, block_hash, interest)

    monkeypatch.setattr(rig.backend, "look", slow)
    search = asyncio.create_task(rig.ask(ScanFrom(BlockHeight(1))))
    await reached.wait()
    rig.chain.generate(1)
    top = rig.chain.height
    held.set()
    await until(lambda: any(event.height == top for event in rig.ear.of(BlockConnected)))
    assert await search == Scanned(BlockHeight(1), BlockHeight(top))
    order = [event for event in rig.ear.events if isinstance(event, BlockConnected | ScriptPaid)]
    assert [type(event) for event in order][-2:] == [BlockConnected, ScriptPaid], "the block came in between"


async def test_a_tip_that_was_passed_while_blocks_were_read_is_told(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tip that was asked for left the chain meanwhile: we end at another, which nothing else would tell."""
    tip = rig.backend.tip
    rig.chain.generate(1)
    await rig.caught_up()
    gone = BlockRef(BlockHeight(rig.chain.height + 1), b"\x01" * 32, 0)
    answers = [gone]

    async def first_gone() -> BlockRef:
        return answers.pop() if answers else await tip()

    monkeypatch.setattr(rig.backend, "tip", first_gone)
    rig.ear.events.clear()
    rig.chain.generate(2)
    await rig.caught_up()
    assert len(rig.ear.of(BlockConnected)) == 2


async def test_an_old_transaction_is_found_without_an_index_when_its_block_is_known(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    coin, _ = confirmed_coin(rig.chain)
    height = BlockHeight(rig.chain.height)
    rig.chain.generate(1)
    await rig.caught_up()

    def alter(method: str, params: tuple[Any, ...], answer: Any) -> Any:
        if method == "getrawtransaction":
            raise RpcError(-5, "No such mempool transaction. Use -txindex")
        return answer

    altered(rig, monkeypatch, alter)
    assert await rig.ask(GetTransaction(coin.txid)) is None
    found = await rig.ask(GetTransaction(coin.txid, height))
    assert found.height == height
    assert await rig.ask(GetTransaction(coin.txid, BlockHeight(height + 1))) is None
