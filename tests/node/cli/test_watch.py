"""`lnp watch`: one line an event, JSON when piped, over the socket of a real RPC service."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from node.cli import watch
from node.events.service import EventService
from protocol.bus.messages.chain import ChainAway, ChainBack
from protocol.bus.messages.rpc import RpcDone, RpcFailed, RunRpc
from tests.node.events.support import SIGNER
from tests.node.rpc.support import Gateway


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Gateway]:
    directory = tmp_path / "regtest"
    directory.mkdir()
    made = Gateway(directory)
    events = EventService(made.bus, signer=lambda: SIGNER, run=b"run", clock=lambda: 1_000.0, capacity=20)
    await made.start()
    await events.start()
    yield made
    await events.stop()
    await made.stop()


async def test_a_pipe_gets_one_json_object_a_line(gateway: Gateway, tmp_path: Path) -> None:
    command = ("-m", "node.cli.main", "--datadir", str(tmp_path), "--network", "regtest", "watch", "0")
    program = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=asyncio.subprocess.PIPE)
    assert program.stdout is not None
    gateway.bus.publish(ChainAway("no answer\x1b[2J"))
    gateway.bus.publish(ChainBack())
    rows: list[dict[str, Any]] = []
    async with asyncio.timeout(20):
        while len([row for row in rows if row["kind"] == "chain"]) < 2:
            line = await program.stdout.readline()
            assert b"\x1b" not in line
            rows.append(json.loads(line))
    program.kill()
    await program.wait()
    assert [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["up"] for row in rows if row["kind"] == "chain"] == [False, True]


async def test_each_event_is_a_reply_of_its_own_and_a_gap_is_told(gateway: Gateway) -> None:
    for _ in range(50):
        gateway.bus.publish(ChainBack())
    reader, writer = await asyncio.open_unix_connection(str(gateway.rpc.path))
    writer.write(b'{"jsonrpc":"2.0","id":"w","method":"watch","params":[1]}')
    first = json.loads(await asyncio.wait_for(reader.readuntil(b"\n\n"), 10))
    assert first["id"] == "w" and first["result"]["kind"] == "gap"
    gateway.bus.publish(ChainAway("gone"))
    async with asyncio.timeout(10):
        while (row := json.loads(await reader.readuntil(b"\n\n"))["result"])["kind"] != "chain":
            assert row["seq"] > first["result"]["seq"]
    assert row["reason"] == "gone"
    writer.close()


async def test_over_the_bus_money_moves_only_when_confirmed(gateway: Gateway) -> None:
    for method in ("xpay", "pay", "withdraw", "fundchannel", "close", "stop"):
        answer = await gateway.bus.request("rpc", RunRpc(method, b"[]"))
        assert isinstance(answer, RpcFailed) and "was not confirmed" in answer.message
    assert gateway.channel.asked == [] and gateway.payments.asked == [] and gateway.wallet.asked == []
    assert not gateway.stopped.is_set()
    assert isinstance(await gateway.bus.request("rpc", RunRpc("stop", b"[]", confirmed=True)), RpcDone)


@pytest.mark.parametrize("params", [b"", b"{", b"\xff", b"5", b'{"no_such": 1}'])
async def test_over_the_bus_bad_parameters_are_refused(gateway: Gateway, params: bytes) -> None:
    assert isinstance(await gateway.bus.request("rpc", RunRpc("listpeers", params)), RpcFailed)
    assert isinstance(await gateway.bus.request("rpc", RunRpc("watch")), RpcFailed), "a stream is no answer"


def test_a_person_reads_one_line_an_event() -> None:
    payment = {
        "kind": "payment",
        "seq": 7,
        "time": 0,
        "payment_hash": "ab" * 32,
        "amount_msat": 21_000_000,
        "destination": "02" * 33,
        "status": "pending",
        "unknown_until": 155,
        "error": None,
    }
    assert "21,000 sat" in watch.describe(payment) and "unknown until block 155" in watch.describe(payment)
    forward = {
        "kind": "forward",
        "seq": 9,
        "time": 0,
        "in_channel": "ab" * 32,
        "out_channel": "cd" * 32,
        "in_msat": 5_001_000,
        "fee_msat": 1000,
        "status": "settled",
        "reason": None,
    }
    told = "5,001 sat from abababababab… to cdcdcdcdcdcd… settled, fee 1000 msat"
    assert watch.describe(forward).endswith(told)
    nasty = {"kind": "log", "seq": 8, "time": 0, "level": "error", "event": "x", "text": "\x1b[2J\nline"}
    assert watch.describe(nasty).isprintable()
