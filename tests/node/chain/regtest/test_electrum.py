"""The chain as an Electrum server, over a real connection (Electrum protocol 1.4)."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

pytest.importorskip("pbk")

from node.chain.regtest import RegtestChain
from node.chain.regtest.electrum import ElectrumServer
from node.chain.regtest.electrum_calls import merkle_branch
from node.chain.regtest.methods import Methods
from node.chain.regtest.miner import merkle_root
from protocol.amounts import Sat
from protocol.bitcoin.transaction import txid_hex
from protocol.hashes import double_sha256, sha256
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, confirmed_coin, spend

SCRIPT_HASH = sha256(SCRIPT)[::-1].hex()
ELSEWHERE_HASH = sha256(ELSEWHERE)[::-1].hex()
UNKNOWN = "07" * 32


class Client:
    """One connection; answers are told from notices by their id."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self._ids = itertools.count(1)
        self.notices: list[dict[str, Any]] = []

    async def line(self) -> Any:
        return json.loads(await asyncio.wait_for(self.reader.readline(), 10))

    async def send(self, document: Any) -> None:
        self.writer.write(json.dumps(document).encode() + b"\n")
        await self.writer.drain()

    async def request(self, method: str, *params: Any, **named: Any) -> Any:
        number = next(self._ids)
        await self.send({"jsonrpc": "2.0", "id": number, "method": method, "params": named or list(params)})
        while (answer := await self.line()).get("id") != number:
            self.notices.append(answer)
        return answer

    async def call(self, method: str, *params: Any, **named: Any) -> Any:
        answer = await self.request(method, *params, **named)
        assert "error" not in answer, answer
        return answer["result"]

    async def error(self, method: str, *params: Any) -> tuple[int, str]:
        answer = await self.request(method, *params)
        return answer["error"]["code"], answer["error"]["message"]

    async def notice(self) -> tuple[str, list[Any]]:
        found = self.notices.pop(0) if self.notices else await self.line()
        assert "id" not in found
        return found["method"], found["params"]


@pytest_asyncio.fixture
async def server(chain: RegtestChain) -> AsyncIterator[int]:
    served = ElectrumServer(Methods(chain, stop=lambda: None))
    yield await served.start(0)
    await served.close()


@pytest_asyncio.fixture
async def client(server: int) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", server, limit=1 << 24)
    yield Client(reader, writer)
    writer.close()


def status_of(*lines: tuple[bytes, int]) -> str:
    return sha256("".join(f"{txid_hex(txid)}:{height}:" for txid, height in lines).encode()).hex()


def fold(leaf: bytes, branch: list[str], position: int) -> bytes:
    """The root that a Merkle branch leads to, as a client works it out."""
    node = leaf
    for text in branch:
        sibling = bytes.fromhex(text)[::-1]
        node = double_sha256(sibling + node if position & 1 else node + sibling)
        position >>= 1
    return node


async def test_version_1_4_is_agreed_and_others_are_refused(client: Client) -> None:
    assert (await client.call("server.version", "test", "1.4"))[1] == "1.4"
    assert (await client.call("server.version", "test", ["1.2", "1.4.2"]))[1] == "1.4"
    for wrong in ("1.5", "1.3", ["1.5", "2.0"], "x", ["1", "1.4", "2"]):
        assert (await client.error("server.version", "test", wrong))[0] == 1


async def test_server_facts(client: Client, chain: RegtestChain) -> None:
    features = await client.call("server.features")
    assert features["genesis_hash"] == txid_hex(chain.index.entries[0].hash)
    assert (features["protocol_min"], features["pruning"]) == ("1.4", None)
    assert await client.call("server.ping") is None
    assert await client.call("server.banner") == "" == await client.call("server.donation_address")
    assert await client.call("server.peers.subscribe") == []
    assert await client.call("blockchain.relayfee") == 0.00001


async def test_headers_by_height_and_in_ranges(client: Client, chain: RegtestChain) -> None:
    headers = [entry.header.hex() for entry in chain.index.entries]
    assert await client.call("blockchain.block.header", 7) == headers[7]
    found = await client.call("blockchain.block.headers", 100, 50)
    assert found == {"hex": "".join(headers[100:]), "count": 11, "max": 2016}
    assert (await client.call("blockchain.block.headers", 500, 5))["count"] == 0
    assert (await client.error("blockchain.block.header", 111))[0] == 1
    assert (await client.error("blockchain.block.header", -1))[0] == 1


async def test_header_with_checkpoint_is_proven_to_be_in_its_chain(
    client: Client, chain: RegtestChain
) -> None:
    answer = await client.call("blockchain.block.header", height=5, cp_height=60)
    hashes = [entry.hash for entry in chain.index.entries[:61]]
    root = fold(hashes[5], answer["branch"], 5)
    assert root == merkle_root(hashes) == bytes.fromhex(answer["root"])[::-1]
    answer = await client.call("blockchain.block.headers", 3, 4, 60)
    assert fold(hashes[6], answer["branch"], 6) == root
    assert (await client.error("blockchain.block.header", 61, 60))[0] == 1


@pytest.mark.parametrize("count", [1, 2, 3, 5, 8, 13])
def test_merkle_branch_of_every_leaf_leads_to_the_root(count: int) -> None:
    leaves = [sha256(bytes([n])) for n in range(count)]
    for position, leaf in enumerate(leaves):
        branch = [node[::-1].hex() for node in merkle_branch(leaves, position)]
        assert fold(leaf, branch, position) == merkle_root(leaves)


async def test_history_balance_and_coins_follow_a_script_from_mempool_to_spend(
    client: Client, chain: RegtestChain
) -> None:
    assert await client.call("blockchain.scripthash.get_history", SCRIPT_HASH) == []
    assert await client.call("blockchain.scripthash.subscribe", SCRIPT_HASH) is None

    paid = chain.fund(SCRIPT, Sat(70_000))
    fee = chain.mempool.entries[paid.txid].fee
    line = {"tx_hash": txid_hex(paid.txid), "height": 0, "fee": fee}
    assert await client.call("blockchain.scripthash.get_history", SCRIPT_HASH) == [line]
    assert await client.call("blockchain.scripthash.get_mempool", SCRIPT_HASH) == [line]
    balance = await client.call("blockchain.scripthash.get_balance", SCRIPT_HASH)
    assert balance == {"confirmed": 0, "unconfirmed": 70_000}

    chain.generate(1)
    row = {"tx_hash": txid_hex(paid.txid), "tx_pos": paid.index, "height": 111, "value": 70_000}
    assert await client.call("blockchain.scripthash.listunspent", SCRIPT_HASH) == [row]

    tx = spend([(paid, 70_000)], [(60_000, ELSEWHERE)])
    assert await client.call("blockchain.transaction.broadcast", tx.serialize().hex()) == txid_hex(tx.txid)
    history = await client.call("blockchain.scripthash.get_history", SCRIPT_HASH)
    assert [(item["tx_hash"], item["height"]) for item in history] == [
        (txid_hex(paid.txid), 111),
        (txid_hex(tx.txid), 0),
    ]
    assert await client.call("blockchain.scripthash.listunspent", SCRIPT_HASH) == []
    balance = await client.call("blockchain.scripthash.get_balance", SCRIPT_HASH)
    assert balance == {"confirmed": 70_000, "unconfirmed": -70_000}
    coins = await client.call("blockchain.scripthash.listunspent", ELSEWHERE_HASH)
    assert [(coin["height"], coin["value"]) for coin in coins] == [(0, 60_000)]


async def test_transaction_with_unconfirmed_parent_has_height_minus_one(
    client: Client, chain: RegtestChain
) -> None:
    paid = chain.fund(SCRIPT, Sat(70_000))
    child = spend([(paid, 70_000)], [(60_000, ELSEWHERE)])
    chain.submit(child)
    history = await client.call("blockchain.scripthash.get_history", SCRIPT_HASH)
    assert [item["height"] for item in history] == [0, -1]
    status = await client.call("blockchain.scripthash.subscribe", SCRIPT_HASH)
    assert status == status_of((paid.txid, 0), (child.txid, -1))


async def test_subscribers_hear_of_their_scripts_and_of_blocks(client: Client, chain: RegtestChain) -> None:
    tip = await client.call("blockchain.headers.subscribe")
    assert tip == {"hex": chain.index.entries[110].header.hex(), "height": 110}
    await client.call("blockchain.scripthash.subscribe", SCRIPT_HASH)
    paid = chain.fund(SCRIPT, Sat(70_000))
    assert await client.notice() == (
        "blockchain.scripthash.subscribe",
        [SCRIPT_HASH, status_of((paid.txid, 0))],
    )
    chain.generate(1)
    header = {"hex": chain.index.entries[111].header.hex(), "height": 111}
    assert await client.notice() == ("blockchain.headers.subscribe", [header])
    assert await client.notice() == (
        "blockchain.scripthash.subscribe",
        [SCRIPT_HASH, status_of((paid.txid, 111))],
    )
    assert await client.call("blockchain.scripthash.unsubscribe", SCRIPT_HASH) is True
    assert await client.call("blockchain.scripthash.unsubscribe", SCRIPT_HASH) is False
    chain.fund(SCRIPT, Sat(1_000))
    await client.call("server.ping")
    assert client.notices == []


async def test_reorganisation_is_told_once_and_takes_the_history_back(
    client: Client, chain: RegtestChain
) -> None:
    outpoint, _ = confirmed_coin(chain)
    await client.call("blockchain.headers.subscribe")
    assert await client.call("blockchain.scripthash.subscribe", SCRIPT_HASH) == status_of(
        (outpoint.txid, 111)
    )
    chain.reorg(1)
    method, (header,) = await client.notice()
    assert (method, header["height"]) == ("blockchain.headers.subscribe", 112)
    assert (await client.notice())[1] == [SCRIPT_HASH, status_of((outpoint.txid, 0))]
    await client.call("server.ping")
    assert client.notices == []


async def test_merkle_proof_of_a_transaction(client: Client, chain: RegtestChain) -> None:
    wanted = [chain.fund(SCRIPT, Sat(10_000 + n)).txid for n in range(4)]
    chain.generate(1)
    root = chain.index.entries[111].header[36:68]
    for txid in wanted:
        proof = await client.call("blockchain.transaction.get_merkle", txid_hex(txid), 111)
        assert fold(txid, proof["merkle"], proof["pos"]) == root
        found = await client.call("blockchain.transaction.id_from_pos", 111, proof["pos"], True)
        assert found == {"tx_hash": txid_hex(txid), "merkle": proof["merkle"]}
    assert (await client.error("blockchain.transaction.get_merkle", txid_hex(wanted[0]), 110))[0] == 1
    assert (await client.error("blockchain.transaction.id_from_pos", 111, 9))[0] == 1


async def test_transaction_raw_and_verbose(client: Client, chain: RegtestChain) -> None:
    outpoint, _ = confirmed_coin(chain)
    name = txid_hex(outpoint.txid)
    raw = await client.call("blockchain.transaction.get", name)
    tx = chain.transaction(outpoint.txid)
    assert tx is not None and bytes.fromhex(raw) == tx.serialize()
    assert (await client.call("blockchain.transaction.get", name, True))["confirmations"] == 1
    code, message = await client.error("blockchain.transaction.get", UNKNOWN)
    assert code == 1 and "No such" in message


async def test_refused_broadcast_says_why(client: Client, chain: RegtestChain) -> None:
    coin = confirmed_coin(chain)
    tx = spend([coin], [(200_000, ELSEWHERE)])
    code, message = await client.error("blockchain.transaction.broadcast", tx.serialize().hex())
    assert code == 1 and "bad-txns-in-belowout" in message


async def test_fees(chain: RegtestChain, client: Client) -> None:
    assert await client.call("blockchain.estimatefee", 6) == 0.00002
    paid = chain.fund(SCRIPT, Sat(70_000))
    entry = chain.mempool.entries[paid.txid]
    histogram = await client.call("mempool.get_fee_histogram")
    assert histogram == [[entry.fee // entry.tx.vsize, entry.tx.vsize]]


async def test_no_estimate_is_minus_one(chain: RegtestChain) -> None:
    methods = Methods(chain, stop=lambda: None)
    methods.setfeerate(None)
    served = ElectrumServer(methods)
    reader, writer = await asyncio.open_connection("127.0.0.1", await served.start(0))
    assert await Client(reader, writer).call("blockchain.estimatefee", 6) == -1
    writer.close()
    await served.close()


async def test_malformed_requests_get_an_error_and_the_connection_lives(client: Client) -> None:
    client.writer.write(b"no json\n")
    assert (await client.line())["error"]["code"] == -32700
    await client.send(7)
    assert (await client.line())["error"]["code"] == -32600
    assert (await client.error("blockchain.nonsense"))[0] == -32601
    assert (await client.error("blockchain.block.header"))[0] == -32602
    assert (await client.error("blockchain.scripthash.get_history", "abc"))[0] == 1
    assert (await client.error("blockchain.transaction.get", 5))[0] == 1
    assert await client.call("server.ping") is None


async def test_batch_is_answered_in_one_line(client: Client) -> None:
    batch = [{"id": n, "method": "blockchain.block.header", "params": [n]} for n in (1, 2)]
    await client.send([*batch, {"id": 3, "method": "no.such"}])
    answers = await client.line()
    assert [answer["id"] for answer in answers] == [1, 2, 3]
    assert "error" in answers[2] and len(answers[0]["result"]) == 160


async def test_endpoint_stands_in_regtest_json(chain: RegtestChain, tmp_path: Path) -> None:
    from node.chain.regtest.service import RegtestService

    service = RegtestService(chain, tmp_path)
    doors = await service.start()
    document = json.loads((tmp_path / "regtest.json").read_text())
    assert document["electrum_endpoint"] == doors.electrum_endpoint
    host, port = doors.electrum_endpoint.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert await Client(reader, writer).call("server.ping") is None
    writer.close()
    await service.close()
