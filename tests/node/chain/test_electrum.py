"""The Electrum backend under the chain service, against the embedded chain, and against servers that lie."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from node.chain.backend import BackendAway, BackendUnusable
from node.chain.blocks import Interest
from node.chain.electrum import Electrum
from node.chain.electrum_line import Place, Plain
from protocol.amounts import BlockHeight, Sat
from protocol.bitcoin.network import REGTEST, SIGNET
from protocol.bitcoin.transaction import OutPoint, txid_hex
from protocol.bus.messages.chain import (
    BlockConnected,
    BlockDisconnected,
    Broadcast,
    ChainAway,
    ChainBack,
    GetFeerate,
    GetOutputAt,
    GetTip,
    GetTransaction,
    OutpointSpent,
    OutputAt,
    OutputConfirmed,
    OutputReorganised,
    ScanFrom,
    ScriptPaid,
    SpendReorganised,
    Tip,
    WatchScript,
)
from protocol.errors import CommandRefused
from protocol.hashes import double_sha256
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, confirmed_coin, spend
from tests.node.chain.test_service import Rig, until

Alter = Callable[[str, Any], Any]


def place_of(endpoint: str) -> Place:
    host, _, port = endpoint.rpartition(":")
    return Place(host, int(port), Plain())


def make_electrum(endpoint: str) -> Electrum:
    return Electrum(place_of(endpoint), network=REGTEST, poll_seconds=30.0)


class Proxy:
    """Passes everything on, until a test alters the results or cuts the line."""

    def __init__(self, behind: str) -> None:
        self.behind = place_of(behind)
        self.alter: Alter = lambda _method, result: result
        self.endpoint = ""
        self.asked: list[str] = []
        self._port = 0
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port, limit=1 << 24)
        self._port = self._server.sockets[0].getsockname()[1]
        self.endpoint = f"127.0.0.1:{self._port}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._lines):
                writer.transport.abort()
            await self._server.wait_closed()
            self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(
            self.behind.host, self.behind.port, limit=1 << 24
        )
        self._lines |= {writer, to_writer}
        methods: dict[int, str] = {}
        back = asyncio.create_task(self._back(to_reader, writer, methods))
        try:
            while line := await reader.readline():
                request = json.loads(line)
                methods[request["id"]] = request["method"]
                self.asked.append(request["method"])
                to_writer.write(line)
        except OSError:
            pass
        finally:
            back.cancel()
            self._lines -= {writer, to_writer}
            writer.close()
            to_writer.close()

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, methods: dict[int, str]
    ) -> None:
        while line := await reader.readline():
            answer = json.loads(line)
            if "result" in answer:
                answer["result"] = self.alter(methods[answer["id"]], answer["result"])
            writer.write(json.dumps(answer).encode() + b"\n")


@pytest.fixture
async def proxy(regtest: Any) -> AsyncIterator[Proxy]:
    _, doors = regtest
    proxy = Proxy(doors.electrum_endpoint)
    await proxy.start()
    yield proxy
    await proxy.stop()


class ElectrumRig(Rig):
    """The same node, on the other backend."""

    async def start(self, **options: Any) -> None:
        await super().start(make=lambda: make_electrum(self.doors), **options)


@pytest.fixture
async def rig(regtest: Any, proxy: Proxy, tmp_path: Path) -> AsyncIterator[Rig]:
    rig = ElectrumRig(regtest[0], proxy.endpoint, tmp_path / "node.db")
    await rig.start()
    await rig.caught_up()
    rig.ear.events.clear()
    yield rig
    await rig.stop()


@pytest.fixture
async def electrum(proxy: Proxy) -> AsyncIterator[Electrum]:
    backend = make_electrum(proxy.endpoint)
    yield backend
    await backend.close()


# Following.


async def test_blocks_are_told_in_order_by_notice_and_not_by_polling(rig: Rig) -> None:
    first = rig.chain.height + 1
    rig.chain.generate(3)
    await rig.caught_up()
    assert [event.block_hash for event in rig.ear.of(BlockConnected)] == [
        rig.chain.block(height).hash for height in range(first, first + 3)
    ]
    assert [event.time for event in rig.ear.of(BlockConnected)] == [
        rig.chain.block(height).time for height in range(first, first + 3)
    ]
    assert await rig.ask(GetTip()) == Tip(rig.chain.height, rig.chain.tip_hash, True)
    assert rig.ear.of(ChainAway) == []


async def test_a_reorganisation_takes_blocks_back_from_the_top(rig: Rig) -> None:
    rig.chain.generate(4)
    await rig.caught_up()
    top = rig.chain.height
    old = [rig.chain.block(height).hash for height in range(top, top - 4, -1)]
    rig.ear.events.clear()
    rig.chain.reorg(4, 6)
    await rig.caught_up()
    assert rig.ear.of(BlockDisconnected) == [
        BlockDisconnected(BlockHeight(top - n), block_hash) for n, block_hash in enumerate(old)
    ]
    assert [event.height for event in rig.ear.of(BlockConnected)] == list(range(top - 3, top + 3))


async def test_a_reorganisation_while_the_node_was_off_is_found(rig: Rig) -> None:
    rig.chain.generate(2)
    await rig.caught_up()
    top = rig.chain.height
    await rig.stop()
    rig.chain.reorg(1, 3)
    await rig.start()
    await rig.caught_up()
    assert [event.height for event in rig.ear.of(BlockDisconnected)] == [top]
    assert [event.height for event in rig.ear.of(BlockConnected)] == [top, top + 1, top + 2]


async def test_headers_below_the_window_are_fetched_and_must_lead_into_it(
    regtest: Any, electrum: Electrum, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, _ = regtest
    monkeypatch.setattr("node.chain.electrum.HEADERS_AT_ONCE", 7)
    await electrum.tip()
    low = chain.height - 6
    proxy.alter = lambda method, result: (
        {**result, "hex": chain.index.entries[3].header.hex()} if method.endswith("headers") else result
    )
    with pytest.raises(BackendAway, match="does not follow"):
        await electrum.block_hash(low - 1)
    proxy.alter = lambda _method, result: result
    for height in (low - 1, 20, 0):
        assert await electrum.block_hash(height) == chain.index.entries[height].hash
    assert await electrum.block_hash(chain.height + 1) is None


async def test_pieces_of_the_header_chain_must_follow_each_other(
    regtest: Any, electrum: Electrum, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain, _ = regtest
    await electrum.tip()
    chain.generate(8)
    monkeypatch.setattr("node.chain.electrum.HEADERS_AT_ONCE", 4)
    swapped = chain.index.entries[3].header.hex()
    answers = 0

    def second_piece_is_old(method: str, result: Any) -> Any:
        nonlocal answers
        answers += method == "blockchain.block.headers"
        return {**result, "hex": swapped} if answers == 2 and "hex" in result else result

    proxy.alter = second_piece_is_old
    with pytest.raises(BackendAway, match="does not follow"):
        await electrum.tip()
    assert (await electrum.tip()).block_hash == chain.tip_hash


async def test_a_server_whose_newest_block_is_old_is_said_to_lag(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where blocks are sure to come; on regtest nobody may be mining."""
    newest = rig.chain.block(rig.chain.height).time
    monkeypatch.setattr(rig.backend, "_clock", lambda: newest + 3 * 3600 + 1)
    assert (await rig.backend.tip()).behind == ""
    monkeypatch.setattr("node.chain.electrum.STEADY", ("regtest",))
    assert "more than three hours old" in (await rig.backend.tip()).behind
    monkeypatch.setattr(rig.backend, "_clock", lambda: newest + 3 * 3600)
    assert (await rig.backend.tip()).behind == ""


async def test_an_invented_mempool_spend_is_not_believed(rig: Rig, proxy: Proxy) -> None:
    coin, amount = confirmed_coin(rig.chain)
    other = spend([(coin, amount)], [(1_000, ELSEWHERE)]).serialize().hex()
    rig.chain.submit(spend([(coin, amount)], [(99_000, ELSEWHERE)]))
    await rig.caught_up()
    assert len(await rig.backend.mempool_spenders({coin: SCRIPT})) == 1
    await rig.backend.mempool_spenders({})
    proxy.alter = lambda method, result: other if method == "blockchain.transaction.get" else result
    with pytest.raises(BackendAway, match="another transaction"):
        await rig.backend.mempool_spenders({coin: SCRIPT})


# Watching.


async def test_an_output_is_confirmed_deepens_and_is_spent(rig: Rig) -> None:
    coin = rig.chain.fund(SCRIPT, Sat(100_000))
    assert (await rig.watch(coin)).height is None
    rig.chain.generate(1)
    await until(lambda: rig.ear.of(OutputConfirmed))
    height = rig.chain.height
    tx_index = [tx.txid for tx in rig.chain.block(height).transactions].index(coin.txid)
    first = OutputConfirmed(coin.txid, coin.index, Sat(100_000), height, tx_index, 1)
    assert rig.ear.of(OutputConfirmed) == [first]
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


async def test_a_spend_in_the_mempool_is_no_spend_yet(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    rig.chain.submit(spend([(coin, amount)], [(99_000, ELSEWHERE)]))
    await rig.caught_up()
    unspent = await rig.backend.output_status(coin.txid, coin.index)
    assert unspent is not None and (unspent.confirmations, unspent.at) == (1, rig.chain.tip_hash)
    status = await rig.watch(coin)
    assert (status.height, status.spent_height) == (rig.chain.height, None)


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


async def test_a_watched_script_tells_payments_their_spending_and_what_came_before(rig: Rig) -> None:
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
    rig.ear.events.clear()
    await rig.ask(ScanFrom(BlockHeight(1)))
    await until(lambda: rig.ear.of(OutpointSpent))
    assert [event.txid for event in rig.ear.of(ScriptPaid)] == [before.txid, coin.txid]


async def test_a_coinbase_is_told_as_one(rig: Rig) -> None:
    rig.bus.send("chain", WatchScript(SCRIPT))
    await rig.ask(GetTip())
    rig.chain.generate(1, SCRIPT)
    await until(lambda: rig.ear.of(ScriptPaid))
    assert rig.ear.of(ScriptPaid)[0].coinbase


async def test_a_long_search_asks_for_each_history_once(rig: Rig, proxy: Proxy) -> None:
    confirmed_coin(rig.chain)
    rig.chain.generate(40)
    await rig.caught_up()
    rig.bus.send("chain", WatchScript(SCRIPT))
    rig.bus.send("chain", WatchScript(ELSEWHERE))
    await rig.ask(GetTip())
    proxy.asked.clear()
    await rig.ask(ScanFrom(BlockHeight(1)))
    assert len(rig.ear.of(ScriptPaid)) == 1
    assert proxy.asked.count("blockchain.scripthash.get_history") == 1, "nobody ever paid to the other"
    assert len(proxy.asked) < 8, proxy.asked


# Sending and asking.


async def test_a_broadcast_is_sent_and_repeated_until_it_confirms(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    await rig.caught_up()
    tx = spend([(coin, amount)], [(99_000, ELSEWHERE)])
    assert (await rig.ask(Broadcast(tx.serialize(), "a test"))).accepted
    assert tx.txid in rig.chain.mempool
    assert (await rig.ask(Broadcast(tx.serialize()))).accepted
    row = "SELECT label, height FROM transactions"
    rig.chain.generate(1)
    await until(lambda: rig.database and rig.database.writer.read(row) == [("a test", rig.chain.height)])
    assert (await rig.backend.broadcast(tx.serialize())).accepted, "confirmed is accepted"
    rig.chain.reorg(1, 2, [])
    await until(lambda: rig.database and rig.database.writer.read(row) == [("a test", None)])
    await until(lambda: tx.txid in rig.chain.mempool)


async def test_a_refused_broadcast_tells_the_reason(rig: Rig) -> None:
    coin, amount = confirmed_coin(rig.chain)
    await rig.caught_up()
    parent = spend([(coin, amount)], [(99_000, SCRIPT)])
    orphan = spend([(OutPoint(parent.txid, 0), 99_000)], [(98_000, ELSEWHERE)])
    refused = await rig.ask(Broadcast(orphan.serialize(), keep=False))
    assert not refused.accepted and "missingorspent" in refused.reason


async def test_questions_are_answered(rig: Rig) -> None:
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
    waiting = rig.chain.fund(SCRIPT, Sat(5_000))
    assert (await rig.ask(GetTransaction(waiting.txid))).height is None


async def test_feerates_are_converted_and_an_unknown_one_is_refused(rig: Rig, proxy: Proxy) -> None:
    assert await rig.ask(GetFeerate(6)) == 500, "2,000 sat per 1000 vbytes"
    for rate, expected in [(0.00001, 253), (-1, None), ("1", None), (50, None)]:
        proxy.alter = lambda method, result, rate=rate: rate if "estimatefee" in method else result  # type: ignore[misc]
        if expected is None:
            with pytest.raises(CommandRefused, match="no fee estimate"):
                await rig.ask(GetFeerate(6))
        else:
            assert await rig.ask(GetFeerate(6)) == expected


# Servers that go away, are wrong, or lie.


async def test_a_server_that_goes_away_is_awaited_and_what_happened_meanwhile_is_told(
    rig: Rig, proxy: Proxy
) -> None:
    coin = rig.chain.fund(SCRIPT, Sat(100_000))
    await rig.watch(coin)
    await proxy.stop()
    await until(lambda: rig.ear.of(ChainAway))
    assert "does not answer" in rig.ear.of(ChainAway)[0].reason
    assert not (await rig.ask(GetTip())).synced
    rig.chain.generate(2)
    await proxy.start()
    await until(lambda: rig.ear.of(ChainBack))
    assert (await rig.ask(GetTip())).synced
    assert [event.depth for event in rig.ear.of(OutputConfirmed)] == [2]


async def test_another_network_is_refused(proxy: Proxy) -> None:
    backend = Electrum(place_of(proxy.endpoint), network=SIGNET)
    with pytest.raises(BackendUnusable, match="not on signet"):
        await backend.check()
    await backend.close()


def _flip(text: str) -> str:
    return ("0" if text[0] != "0" else "1") + text[1:]


async def test_a_merkle_branch_that_leads_elsewhere_is_a_lie_and_nothing_is_told(
    rig: Rig, proxy: Proxy
) -> None:
    coin = rig.chain.fund(SCRIPT, Sat(100_000))
    await rig.watch(coin)
    proxy.alter = lambda method, result: (
        {**result, "merkle": [_flip(result["merkle"][0])]} if method.endswith("get_merkle") else result
    )
    rig.chain.generate(1)
    await until(lambda: rig.ear.of(ChainAway))
    assert "does not prove" in rig.ear.of(ChainAway)[0].reason
    assert rig.ear.of(OutputConfirmed) == rig.ear.of(BlockConnected) == []
    proxy.alter = lambda _method, result: result
    await until(lambda: rig.ear.of(OutputConfirmed))
    assert rig.ear.of(OutputConfirmed)[0].height == rig.chain.height


@pytest.mark.parametrize(
    ("method", "altered", "sentence"),
    [
        ("get_merkle", lambda r: {**r, "pos": r["pos"] ^ 1}, "does not lead"),
        ("get_merkle", lambda r: {**r, "pos": r["pos"] + 2}, "not in a tree"),
        ("get_merkle", lambda r: {**r, "merkle": []}, "not in a tree|does not lead"),
        ("get_merkle", lambda r: {**r, "merkle": ["00"]}, "form that we do not know"),
        ("get_merkle", lambda _: None, "form that we do not know"),
        ("transaction.get", lambda r: r[:-2], "does not prove"),
        ("transaction.get", lambda r: r[:-8] + "01000000", "another transaction"),
        ("transaction.get", lambda _: 7, "form that we do not know"),
        ("get_history", lambda r: [{**r[0], "height": r[0]["height"] - 1}], "no transaction"),
        ("get_history", lambda _: "x", "form that we do not know"),
    ],
)
async def test_whatever_a_server_alters_about_a_transaction_is_not_believed(
    regtest: Any, electrum: Electrum, proxy: Proxy, method: str, altered: Callable[[Any], Any], sentence: str
) -> None:
    chain, _ = regtest
    coin, _ = confirmed_coin(chain)
    await electrum.tip()
    assert (await electrum.output_status(coin.txid, coin.index)) is not None
    electrum._proven.clear()
    proxy.alter = lambda asked, result: altered(result) if asked.endswith(method) else result
    interest = Interest(frozenset((SCRIPT,)), frozenset((SCRIPT,)))
    # The block before is asked for too: a transaction may be told at the wrong height.
    blocks = [(height, chain.index.entries[height].hash) for height in (chain.height - 1, chain.height)]
    with pytest.raises(BackendAway, match=sentence):
        await asyncio.gather(*(electrum.look(*block, interest) for block in blocks))
    proxy.alter = lambda _method, result: result
    electrum._histories.clear()
    looked = await electrum.look(chain.height, chain.tip_hash, interest)
    assert looked is not None and coin.txid in [tx.txid for _, tx in looked.transactions]


def _no_work(raw: str) -> str:
    """The last header with another merkle root, so that it has not even regtest's work."""
    head = bytearray.fromhex(raw[-160:])
    while double_sha256(head)[31] < 0x80:
        head[40] = (head[40] + 1) % 256
    return raw[:-160] + head.hex()


def _with_bits(raw: str, bits: int) -> str:
    head = bytes.fromhex(raw[-160:])
    return raw[:-160] + (head[:72] + bits.to_bytes(4, "little") + head[76:]).hex()


@pytest.mark.parametrize(
    ("altered", "sentence"),
    [
        (_no_work, "has not the work"),
        (lambda raw: _with_bits(raw, 0x2100FFFF), "less work than regtest allows"),
        (lambda raw: _with_bits(raw, 0x1D00FFFF), "has not the work"),
        (lambda raw: _with_bits(raw, 0x20800000), "is no target"),
        (lambda raw: raw[:-2], "broken length|is shorter"),
        (lambda raw: raw[:-160], "not the headers"),
    ],
)
@pytest.mark.parametrize("fresh", [True, False])
async def test_headers_without_their_proof_are_a_lie(
    regtest: Any, electrum: Electrum, proxy: Proxy, altered: Callable[[str], str], sentence: str, fresh: bool
) -> None:
    chain, _ = regtest
    if not fresh:
        await electrum.tip()
    chain.generate(2)
    proxy.alter = lambda method, result: (
        {**result, "hex": altered(result["hex"])} if "headers" in method else result
    )
    with pytest.raises(BackendAway, match=sentence):
        await electrum.tip()
    proxy.alter = lambda _method, result: result
    assert (await electrum.tip()).block_hash == chain.tip_hash


async def test_a_chain_of_less_work_is_not_followed(regtest: Any, electrum: Electrum, proxy: Proxy) -> None:
    """A server that restarted may be behind: blocks that we have seen are not taken back for that."""
    chain, _ = regtest
    chain.generate(3)
    assert (await electrum.tip()).height == chain.height
    behind = chain.height - 2
    old = {"height": behind, "hex": chain.index.entries[behind].header.hex()}
    proxy.alter = lambda method, result: old if method == "blockchain.headers.subscribe" else result
    with pytest.raises(BackendAway, match="less work"):
        await electrum.tip()
    assert await electrum.block_hash(chain.height) == chain.tip_hash


async def test_a_block_that_left_the_chain_during_the_search_is_not_reported_from_the_new_chain(
    regtest: Any, electrum: Electrum
) -> None:
    chain, _ = regtest
    confirmed_coin(chain)
    old, height = chain.tip_hash, chain.height
    await electrum.tip()
    chain.reorg(1, 2, [])
    interest = Interest(frozenset((SCRIPT,)), frozenset((SCRIPT,)))
    assert await electrum.look(height, old, interest) is None
    await electrum.tip()
    assert await electrum.look(height, old, interest) is None
    looked = await electrum.look(height, chain.index.entries[height].hash, interest)
    assert looked is not None and looked.transactions == ()


@asynccontextmanager
async def server(answer: Callable[[dict[str, Any]], bytes]) -> AsyncIterator[Electrum]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            raw = answer(json.loads(line))
            writer.write(raw)
            if not raw:
                break
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    backend = make_electrum(f"127.0.0.1:{listening.sockets[0].getsockname()[1]}")
    yield backend
    await backend.close()
    listening.close()
    await listening.wait_closed()


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (b"", BackendAway, "hung up"),
        (b"HTTP/1.1 400 Bad Request\n", BackendAway, "broke the line"),
        (b"[" * 200_000 + b"\n", BackendAway, "broke the line"),
        (b"7\n", BackendAway, "another protocol"),
        (b"\xff\xfe\n", BackendAway, "broke the line"),
    ],
)
async def test_a_server_that_speaks_otherwise_is_a_clear_error(
    answer: bytes, error: type[Exception], sentence: str
) -> None:
    async with server(lambda _: answer) as backend:
        for _ in range(2):
            with pytest.raises(error, match=sentence):
                await backend.tip()


async def test_a_server_of_another_version_is_not_used() -> None:
    def old(request: dict[str, Any]) -> bytes:
        error = {"code": 1, "message": "unsupported protocol version: 1.4"}
        return json.dumps({"id": request["id"], "error": error}).encode() + b"\n"

    async with server(old) as backend:
        for _ in range(2):
            with pytest.raises(BackendUnusable, match=r"does not speak version 1\.4"):
                await backend.tip()


async def test_a_server_in_trouble_is_away_and_refuses_no_transaction() -> None:
    def busy(request: dict[str, Any]) -> bytes:
        if request["method"] == "server.version":
            body: dict[str, Any] = {"result": ["x", "1.4"]}
        else:
            body = {"error": {"code": -102, "message": "server busy"}}
        return json.dumps({"id": request["id"], **body}).encode() + b"\n"

    async with server(busy) as backend:
        with pytest.raises(BackendAway, match="server busy"):
            await backend.broadcast(b"\x00")
        with pytest.raises(BackendAway, match="server busy"):
            await backend.transaction(b"\x07" * 32)


async def test_another_id_for_what_we_sent_is_a_lie(regtest: Any, electrum: Electrum, proxy: Proxy) -> None:
    chain, _ = regtest
    coin, amount = confirmed_coin(chain)
    tx = spend([(coin, amount)], [(99_000, ELSEWHERE)])
    proxy.alter = lambda method, result: txid_hex(coin.txid) if "broadcast" in method else result
    with pytest.raises(BackendAway, match="another id"):
        await electrum.broadcast(tx.serialize())
