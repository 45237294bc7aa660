"""bitcoind's JSON-RPC over a real HTTP connection, and ZMQ notices over a real socket."""

import asyncio
import base64
import json
import os
import signal
import struct
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import zmq
import zmq.asyncio

pytest.importorskip("pbk")

from node.chain.regtest import RegtestChain
from node.chain.regtest.service import Doors, RegtestService
from protocol.amounts import Sat
from protocol.bitcoin.address import address_of
from protocol.bitcoin.network import REGTEST
from protocol.bitcoin.transaction import OutPoint, Transaction, txid_hex
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, confirmed_coin, spend

ADDRESS = address_of(SCRIPT, REGTEST) or ""
UNKNOWN = "07" * 32


@dataclass
class Client:
    """One keep-alive connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    login: str

    async def post(self, body: bytes, *, login: str | None = None, verb: str = "POST") -> tuple[int, Any]:
        auth = base64.b64encode((self.login if login is None else login).encode()).decode()
        head = f"{verb} / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {auth}\r\n"
        self.writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await self.writer.drain()
        answer = await self.reader.readuntil(b"\r\n\r\n")
        size = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        raw = await self.reader.readexactly(size)
        return int(answer.split(b" ")[1]), json.loads(raw) if raw else None

    async def request(
        self, method: str, *params: Any, named: dict[str, Any] | None = None
    ) -> tuple[int, Any]:
        document = {"jsonrpc": "1.0", "id": 7, "method": method, "params": named or list(params)}
        return await self.post(json.dumps(document).encode())

    async def call(self, method: str, *params: Any) -> Any:
        status, answer = await self.request(method, *params)
        assert (status, answer["error"], answer["id"]) == (200, None, 7), answer
        return answer["result"]

    async def error(self, method: str, *params: Any) -> tuple[int, str]:
        status, answer = await self.request(method, *params)
        assert status != 200 and answer["result"] is None
        return answer["error"]["code"], answer["error"]["message"]


@dataclass
class Running:
    chain: RegtestChain
    doors: Doors
    service: RegtestService
    client: Client


async def connect(doors: Doors, login: str | None = None) -> Client:
    port = int(doors.rpc_url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
    return Client(reader, writer, login or doors.cookie_path.read_text())


@pytest_asyncio.fixture
async def running(chain: RegtestChain, tmp_path: Path) -> AsyncIterator[Running]:
    service = RegtestService(chain, tmp_path)
    doors = await service.start(user="alice", password="sesame")
    client = await connect(doors)
    yield Running(chain, doors, service, client)
    client.writer.close()
    await service.close()


async def test_blocks_by_height_and_hash(running: Running) -> None:
    call = running.client.call
    assert await call("getblockcount") == 110
    best = await call("getbestblockhash")
    assert best == await call("getblockhash", 110) == txid_hex(running.chain.tip_hash)
    raw = await call("getblock", best, 0)
    assert bytes.fromhex(raw) == running.chain.block(110).raw
    header = await call("getblockheader", best, False)
    assert raw.startswith(header) and len(header) == 160
    view = await call("getblock", best)
    coinbase = running.chain.block(110).transactions[0]
    assert view["tx"] == [txid_hex(coinbase.txid)]
    assert (view["height"], view["confirmations"], view["nTx"]) == (110, 1, 1)
    assert view["previousblockhash"] == await call("getblockhash", 109)
    assert (view["size"], view["weight"]) == (len(raw) // 2, 3 * view["strippedsize"] + len(raw) // 2)
    genesis = await call("getblockheader", await call("getblockhash", 0))
    assert genesis["merkleroot"] == "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
    assert genesis["nextblockhash"] == await call("getblockhash", 1)
    assert genesis["versionHex"] == "00000001"


async def test_chain_and_network_info(running: Running) -> None:
    info = await running.client.call("getblockchaininfo")
    assert (info["chain"], info["blocks"], info["initialblockdownload"]) == ("regtest", 110, False)
    assert info["bestblockhash"] == txid_hex(running.chain.tip_hash)
    assert int(info["chainwork"], 16) == 222
    assert (await running.client.call("getnetworkinfo"))["relayfee"] == 0.00001


async def test_deployments_say_that_taproot_is_active(running: Running) -> None:
    info = await running.client.call("getdeploymentinfo")
    assert info["hash"] == txid_hex(running.chain.tip_hash) and info["height"] == 110
    assert info["deployments"]["taproot"]["active"] is True
    earlier = await running.client.call("getdeploymentinfo", await running.client.call("getblockhash", 7))
    assert earlier["height"] == 7
    assert (await running.client.error("getdeploymentinfo", UNKNOWN))[0] == -5


async def test_zmq_notices_are_listed_with_their_address(running: Running) -> None:
    listed = await running.client.call("getzmqnotifications")
    assert {row["type"] for row in listed} == {"pubhashblock", "pubrawblock", "pubhashtx", "pubrawtx"}
    assert {row["address"] for row in listed} == {running.doors.zmq_endpoint}


async def test_uptime_is_in_whole_seconds(running: Running) -> None:
    assert await running.client.call("uptime") in range(60)


async def test_funding_for_nodes_without_a_wallet_is_made_but_not_sent(running: Running) -> None:
    raw = await running.client.call("makefunding", SCRIPT.hex(), 50_000)
    tx = Transaction.parse(bytes.fromhex(raw))
    assert (tx.outputs[0].value, tx.outputs[0].script_pubkey) == (50_000, SCRIPT)
    assert await running.client.call("getrawmempool") == []
    assert await running.client.call("sendrawtransaction", raw) == txid_hex(tx.txid)
    assert (await running.client.error("makefunding", "zz", 50_000))[0] == -26
    assert (await running.client.error("makefunding", SCRIPT.hex(), 10**17))[0] == -26


async def test_block_with_fees_in_full_view(running: Running) -> None:
    coin = confirmed_coin(running.chain)
    tx = spend([coin], [(90_000, ELSEWHERE)])
    running.chain.submit(tx)
    (tip,) = await running.client.call("generatetoaddress", 1, ADDRESS)
    view = await running.client.call("getblock", tip, 2)
    assert view["tx"][1]["fee"] == 0.0001
    assert view["tx"][1]["txid"] == txid_hex(tx.txid)
    assert view["tx"][1]["vout"][0]["value"] == 0.0009
    assert view["tx"][0]["vout"][0]["scriptPubKey"]["address"] == ADDRESS
    assert "coinbase" in view["tx"][0]["vin"][0]


async def test_raw_transaction_from_mempool_and_chain(running: Running) -> None:
    call = running.client.call
    funded = await call("fund", ADDRESS, 123_456)
    raw = await call("getrawtransaction", funded["txid"])
    assert txid_hex(Transaction.parse(bytes.fromhex(raw)).txid) == funded["txid"]
    assert "blockhash" not in await call("getrawtransaction", funded["txid"], 1)
    (tip,) = await call("generatetoaddress", 1, ADDRESS)
    view = await call("getrawtransaction", funded["txid"], True)
    assert (view["blockhash"], view["confirmations"], view["hex"]) == (tip, 1, raw)
    assert view["vout"][funded["vout"]]["value"] == 0.00123456
    assert await call("getrawtransaction", funded["txid"], 0, tip) == raw
    code, text = await running.client.error("getrawtransaction", UNKNOWN)
    assert (code, text[:30]) == (-5, "No such mempool or blockchain ")


async def test_gettxout_follows_mempool_and_chain(running: Running) -> None:
    call = running.client.call
    outpoint, amount = confirmed_coin(running.chain)
    txid = txid_hex(outpoint.txid)
    out = await call("gettxout", txid, outpoint.index)
    assert (out["value"], out["confirmations"], out["coinbase"]) == (0.001, 1, False)
    assert out["scriptPubKey"] == {"hex": SCRIPT.hex(), "type": "witness_v0_keyhash", "address": ADDRESS}
    tx = spend([(outpoint, amount)], [(90_000, SCRIPT)])
    await call("sendrawtransaction", tx.serialize().hex())
    assert await call("gettxout", txid, outpoint.index) is None
    assert (await call("gettxout", txid, outpoint.index, False))["confirmations"] == 1
    assert (await call("gettxout", txid_hex(tx.txid), 0))["confirmations"] == 0
    assert await call("gettxout", txid_hex(tx.txid), 0, False) is None
    assert await call("gettxout", UNKNOWN, 0) is None


async def test_spender_of_an_output(running: Running) -> None:
    call = running.client.call
    outpoint, amount = confirmed_coin(running.chain)
    asked = [{"txid": txid_hex(outpoint.txid), "vout": outpoint.index}]
    assert await call("gettxspendingprevout", asked) == asked
    tx = spend([(outpoint, amount)], [(90_000, SCRIPT)])
    await call("sendrawtransaction", tx.serialize().hex())
    spender = [{**asked[0], "spendingtxid": txid_hex(tx.txid)}]
    assert await call("gettxspendingprevout", asked) == spender
    await call("generatetoaddress", 1, ADDRESS)
    assert await call("gettxspendingprevout", asked) == asked
    assert await call("gettxspendingprevout", asked, False) == spender


async def test_send_answers_with_cores_codes(running: Running) -> None:
    client = running.client
    coin = confirmed_coin(running.chain)
    good = spend([coin], [(90_000, SCRIPT)]).serialize().hex()
    dust = spend([coin], [(293, SCRIPT), (50_000, SCRIPT)]).serialize().hex()
    missing = spend([(OutPoint(b"\x07" * 32, 0), 9_000)], [(8_000, SCRIPT)]).serialize().hex()
    burn = spend([coin], [(1_000, b"\x6a\x03abc"), (80_000, SCRIPT)]).serialize().hex()
    greedy = spend([coin], [(1_000, SCRIPT)]).serialize().hex()
    assert await client.error("sendrawtransaction", dust) == (-26, "dust, tx with dust output must be 0-fee")
    assert await client.error("sendrawtransaction", missing) == (-25, "bad-txns-inputs-missingorspent")
    assert (await client.error("sendrawtransaction", burn))[0] == -25
    assert (await client.error("sendrawtransaction", greedy, 0.0001))[0] == -25
    assert (await client.error("sendrawtransaction", "zz"))[0] == -22
    assert (await client.error("sendrawtransaction", good + "00"))[0] == -22
    txid = await client.call("sendrawtransaction", good)
    assert await client.call("sendrawtransaction", good) == txid, "sending again is no error"
    replaced = spend([coin], [(89_950, SCRIPT)]).serialize().hex()
    code, text = await client.error("sendrawtransaction", replaced)
    assert (code, text.split(" ")[0:4]) == (-26, ["insufficient", "fee,", "rejecting", "replacement"])
    await client.call("generatetoaddress", 1, ADDRESS)
    assert await client.error("sendrawtransaction", good) == (-27, "Transaction outputs already in utxo set")


async def test_testmempoolaccept_changes_nothing(running: Running) -> None:
    coin = confirmed_coin(running.chain)
    good = spend([coin], [(90_000, SCRIPT)])
    missing = spend([(OutPoint(b"\x07" * 32, 0), 9_000)], [(8_000, SCRIPT)])
    dust = spend([coin], [(293, SCRIPT), (50_000, SCRIPT)])
    greedy = spend([coin], [(1_000, SCRIPT)])
    (row,) = await running.client.call("testmempoolaccept", [good.serialize().hex()])
    assert row["allowed"] and row["vsize"] == good.vsize
    assert row["fees"]["base"] == 0.0001
    for tx, why in ((missing, "missing-inputs"), (dust, "dust")):
        (row,) = await running.client.call("testmempoolaccept", [tx.serialize().hex()])
        assert (row["allowed"], row["reject-reason"]) == (False, why)
    (row,) = await running.client.call("testmempoolaccept", [greedy.serialize().hex()], 0.0001)
    assert row["reject-reason"] == "max-fee-exceeded"
    assert await running.client.call("getrawmempool") == []
    assert (await running.client.error("testmempoolaccept", []))[0] == -8


async def test_mempool_views(running: Running) -> None:
    call = running.client.call
    coin = confirmed_coin(running.chain)
    parent = spend([coin], [(99_000, SCRIPT)])
    child = spend([(OutPoint(parent.txid, 0), 99_000)], [(90_000, SCRIPT)])
    for tx in (parent, child):
        await call("sendrawtransaction", tx.serialize().hex())
    ids = [txid_hex(parent.txid), txid_hex(child.txid)]
    assert await call("getrawmempool") == ids
    verbose = await call("getrawmempool", True)
    assert verbose[ids[0]] == await call("getmempoolentry", ids[0])
    assert verbose[ids[0]]["spentby"] == [ids[1]] and verbose[ids[1]]["depends"] == [ids[0]]
    assert (verbose[ids[0]]["descendantcount"], verbose[ids[1]]["ancestorcount"]) == (2, 2)
    assert verbose[ids[1]]["fees"] == {"base": 9e-5, "modified": 9e-5, "ancestor": 1e-4, "descendant": 9e-5}
    info = await call("getmempoolinfo")
    assert (info["size"], info["bytes"], info["total_fee"]) == (2, parent.vsize + child.vsize, 1e-4)
    assert (await running.client.error("getmempoolentry", UNKNOWN))[0] == -5


async def test_fee_estimate_is_what_was_set(running: Running) -> None:
    call = running.client.call
    assert (await call("estimatesmartfee", 6))["feerate"] == 0.00002
    await call("setfeerate", 50_000)
    assert await call("estimatesmartfee", 2, "conservative") == {"feerate": 0.0005, "blocks": 2}
    await call("setfeerate", None)
    assert "feerate" not in await call("estimatesmartfee", 2)
    assert (await running.client.error("estimatesmartfee", 0))[0] == -8


async def test_reorg_and_generateblock(running: Running) -> None:
    call = running.client.call
    funded = await call("fund", ADDRESS, 50_000)
    await call("generatetoaddress", 1, ADDRESS)
    hashes = await call("reorg", 1, 3)
    assert await call("getblockcount") == 113
    assert await call("getbestblockhash") == hashes[-1]
    assert await call("getrawmempool") == [funded["txid"]]
    empty = await call("generateblock", ADDRESS, [])
    assert (await call("getblock", empty["hash"]))["nTx"] == 1
    full = await call("generateblock", ADDRESS, [funded["txid"]])
    assert (await call("getblock", full["hash"]))["tx"][1] == funded["txid"]
    assert (await running.client.error("reorg", 0))[0] == -8


async def test_submitblock(running: Running, tmp_path: Path) -> None:
    from node.chain.regtest.miner import build_block

    chain = running.chain
    raw = build_block(chain.tip_hash, 111, chain.index.entries[-1].time + 1, SCRIPT)
    assert await running.client.call("submitblock", raw.hex()) is None
    assert await running.client.call("submitblock", raw.hex()) == "duplicate"
    late = build_block(chain.tip_hash, 112, 1_300_000_000, SCRIPT)
    assert await running.client.call("submitblock", late.hex()) == "time-too-old"
    assert (await running.client.error("submitblock", "00"))[0] == -22


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("nosuchmethod", [], -32601),
        ("_height", [], -32601),
        ("call", ["stop", []], -32601),
        ("getblockhash", [111], -8),
        ("getblockhash", [-1], -8),
        ("getblockhash", ["x"], -3),
        ("getblockhash", [], -1),
        ("getblockcount", [1], -1),
        ("getblock", [UNKNOWN], -5),
        ("getblock", ["xyz"], -8),
        ("gettxout", [7, 0], -3),
        ("generatetoaddress", [1, "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"], -5),
        ("generatetoaddress", [10**9, ADDRESS], -8),
        ("generateblock", [ADDRESS, ["00"]], -22),
        ("gettxspendingprevout", [[]], -8),
        ("gettxspendingprevout", [["x"]], -3),
        ("fund", [ADDRESS, 10**15], -26),
        ("fund", [ADDRESS, 100], -26),
    ],
)
async def test_errors_have_cores_codes(running: Running, method: str, params: list[Any], code: int) -> None:
    assert (await running.client.error(method, *params))[0] == code


async def test_named_parameters_and_version_2(running: Running) -> None:
    _, answer = await running.client.request("getblockhash", named={"height": 0})
    assert answer["result"] == txid_hex(REGTEST.chain_hash)
    body = json.dumps({"jsonrpc": "2.0", "id": "a", "method": "nosuch"}).encode()
    status, answer = await running.client.post(body)
    assert (status, answer["error"]["code"], "result" in answer) == (200, -32601, False)


async def test_batch_answers_each_in_order(running: Running) -> None:
    batch = [{"id": n, "method": m} for n, m in enumerate(("getblockcount", "nosuch", "getbestblockhash"))]
    status, answers = await running.client.post(json.dumps(batch).encode())
    assert status == 200
    assert [a["id"] for a in answers] == [0, 1, 2]
    assert (answers[0]["result"], answers[1]["error"]["code"]) == (110, -32601)


async def test_bad_requests_are_answered_and_the_connection_lives(running: Running) -> None:
    client = running.client
    assert (await client.post(b"{"))[1]["error"]["code"] == -32700
    assert (await client.post(b"5"))[1]["error"]["code"] == -32600
    assert (await client.post(b'{"method": "getblockcount", "params": 5}'))[1]["error"]["code"] == -32600
    assert (await client.post(b"", verb="GET"))[0] == 405
    assert await client.call("getblockcount") == 110


async def test_only_the_cookie_and_the_user_are_let_in(running: Running) -> None:
    body = b'{"method": "getblockcount"}'
    client = running.client
    assert (await client.post(body, login="alice:sesame"))[0] == 200
    assert (await client.post(body, login="alice:wrong"))[0] == 401
    assert (await client.post(body, login=""))[0] == 401
    assert running.doors.cookie_path.stat().st_mode & 0o777 == 0o600
    assert running.doors.cookie_path.read_text().startswith("__cookie__:")


@pytest.mark.parametrize(
    "head",
    [
        b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"nonsense\r\n\r\n",
    ],
)
async def test_http_that_is_none_ends_the_connection(running: Running, head: bytes) -> None:
    running.client.writer.write(head)
    assert (await running.client.reader.read())[:11] in (b"HTTP/1.1 40", b"HTTP/1.1 41")
    assert await (await connect(running.doors)).call("getblockcount") == 110


async def _next(socket: zmq.asyncio.Socket) -> tuple[bytes, bytes, int]:
    topic, body, counter = await asyncio.wait_for(socket.recv_multipart(), 10)
    return topic, body, struct.unpack("<I", counter)[0]


async def test_zmq_tells_blocks_and_transactions(running: Running) -> None:
    context = zmq.asyncio.Context()
    socket = context.socket(zmq.SUB)
    try:
        socket.connect(running.doors.zmq_endpoint)
        for topic in (b"rawblock", b"hashblock", b"rawtx"):
            socket.subscribe(topic)
        seen: list[tuple[bytes, bytes, int]] = []
        while not seen:  # the subscription takes a moment to reach the publisher
            running.chain.generate(1)
            if await socket.poll(50):
                seen.append(await _next(socket))
        while await socket.poll(50):
            seen.append(await _next(socket))
        assert seen[-1][0] == b"rawblock"
        assert seen[-1][1] == running.chain.block(running.chain.height).raw
        outpoint = running.chain.fund(SCRIPT, Sat(50_000))
        topic, body, first = await _next(socket)
        assert (topic, Transaction.parse(body).txid) == (b"rawtx", outpoint.txid)
        running.chain.generate(1)
        notices = [await _next(socket) for _ in range(4)]
        assert [n[0] for n in notices] == [b"rawtx", b"rawtx", b"hashblock", b"rawblock"]
        assert [n[2] for n in notices[:2]] == [first + 1, first + 2]
        assert notices[2][1] == running.chain.tip_hash[::-1]
        assert notices[3][2] == seen[-1][2] + 1
    finally:
        socket.close(0)
        context.term()


async def test_reorganisation_tells_only_the_new_tip(running: Running) -> None:
    """As bitcoind: a client that needs the blocks between must ask for them."""
    from node.chain.regtest.chain import BlockConnected

    tips = []
    running.chain.listeners.append(
        lambda e: tips.append(e) if isinstance(e, BlockConnected) and e.is_tip else None
    )
    running.chain.reorg(3)
    assert [e.height for e in tips] == [111]


async def test_a_killed_chain_comes_back_with_the_same_blocks(tmp_path: Path) -> None:
    """Even with the last record of the block log cut short, all before it stand."""
    command = [sys.executable, "-m", "node.chain.regtest", "--datadir", str(tmp_path / "d")]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 30)
    document = json.loads((tmp_path / "d" / "regtest.json").read_text())
    doors = Doors(document["rpc_url"], Path(document["cookie_path"]), document["zmq_endpoint"], 0)
    client = await connect(doors)
    hashes = await client.call("generatetoaddress", 7, ADDRESS)
    hashes += await client.call("reorg", 2)
    process.kill()
    await process.wait()
    with (tmp_path / "d" / "blocks.log").open("ab") as file:
        file.write(b"\xff\x00\x00\x00cut")
    for _ in range(2):
        with RegtestChain(tmp_path / "d") as chain:
            assert chain.height == 118
            assert txid_hex(chain.tip_hash) == hashes[-1]


async def test_the_command_runs_tells_its_doors_and_stops_on_a_signal(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "node.chain.regtest", "--datadir", str(tmp_path / "d")]
    for how in ("sigterm", "rpc"):
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        assert line.startswith(b"regtest height 110, rpc http://127.0.0.1:")
        document = json.loads((tmp_path / "d" / "regtest.json").read_text())
        assert document["pid"] == process.pid
        doors = Doors(
            document["rpc_url"], Path(document["cookie_path"]), document["zmq_endpoint"], document["pid"]
        )
        client = await connect(doors)
        assert await client.call("getblockcount") == 110
        if how == "sigterm":
            os.kill(process.pid, signal.SIGTERM)
        else:
            assert await client.call("stop") == "lnp-regtest stopping"
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert not (tmp_path / "d" / "regtest.json").exists()
        assert not doors.cookie_path.exists()
