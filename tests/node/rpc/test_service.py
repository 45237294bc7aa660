"""The socket itself: framing, ids, errors, limits, and that nobody waits for another."""

import asyncio
import stat

import pytest
from structlog.testing import capture_logs

from node.rpc.stream import MAX_REQUEST
from protocol.bus.messages.channel import ListChannels
from protocol.errors import CommandRefused
from tests.node.rpc.support import Gateway


async def test_only_our_own_user_may_connect(gateway: Gateway):
    assert stat.S_IMODE(gateway.rpc.path.stat().st_mode) == 0o600


async def test_the_socket_is_gone_after_the_end_and_a_stale_one_is_replaced(gateway: Gateway):
    await gateway.rpc.stop()
    assert not gateway.rpc.path.exists()
    gateway.rpc.path.write_text("left over")
    again = Gateway(gateway.rpc.path.parent)
    await again.start()
    assert (await again.call("newaddr"))["bech32"]
    await again.stop()


async def test_a_path_too_long_for_a_socket_name_works(tmp_path):
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    gateway = Gateway(directory)
    await gateway.start()
    assert gateway.rpc.path.is_socket()
    await gateway.stop()


async def test_success_has_no_error_key_and_failure_no_result(gateway: Gateway):
    good = await gateway.reply("newaddr")
    assert set(good) == {"jsonrpc", "id", "result"}
    bad = await gateway.reply("newaddrr")
    assert set(bad) == {"jsonrpc", "id", "error"}


@pytest.mark.parametrize("request_id", [0, 7, "lnp:getinfo#1", "", "\u2713"])
async def test_the_id_is_echoed_as_it_came(gateway: Gateway, request_id: object):
    client = await gateway.connect()
    client.send({"jsonrpc": "2.0", "id": request_id, "method": "newaddr", "params": {}})
    assert (await client.read())["id"] == request_id
    client.close()


@pytest.mark.parametrize("request_id", [None, True, 1.5, [], {}])
async def test_a_request_without_a_usable_id_is_invalid(gateway: Gateway, request_id: object):
    client = await gateway.connect()
    client.send({"jsonrpc": "2.0", "id": request_id, "method": "newaddr"})
    reply = await client.read()
    assert (reply["id"], reply["error"]["code"]) == (None, -32600)
    client.send({"jsonrpc": "2.0", "id": 1, "method": "newaddr"})
    assert (await client.read())["id"] == 1
    client.close()


async def test_many_requests_back_to_back_are_all_answered(gateway: Gateway):
    client = await gateway.connect()
    client.send(*({"id": number, "method": "newaddr"} for number in range(2500)))
    replies = [await client.read() for _ in range(2500)]
    assert {reply["id"] for reply in replies} == set(range(2500))
    client.close()


async def test_a_client_with_a_thousand_open_requests_is_read_no_further_for_now(gateway: Gateway):
    client = await gateway.connect()
    client.send(*({"id": number, "method": "waitinvoice", "params": ["breakfast"]} for number in range(1000)))
    for _ in range(200):
        await asyncio.sleep(0)
    assert len(gateway.payments.asked) == 1000
    client.send({"id": 1000, "method": "newaddr"})
    for _ in range(200):
        await asyncio.sleep(0)
    assert gateway.wallet.asked == []
    gateway.payments.paid.set()
    assert {(await client.read())["id"] for _ in range(1001)} == set(range(1001))
    client.close()


async def test_a_request_in_pieces_is_put_together(gateway: Gateway):
    client = await gateway.connect()
    for piece in (b'{"id": 1, "met', b'hod": "newaddr"', b"}"):
        client.writer.write(piece)
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.read())["id"] == 1
    client.close()


async def test_a_waiting_call_holds_up_nobody_on_the_same_connection(gateway: Gateway):
    client = await gateway.connect()
    client.send({"id": 1, "method": "waitinvoice", "params": ["breakfast"]}, {"id": 2, "method": "newaddr"})
    assert (await client.read())["id"] == 2
    gateway.payments.paid.set()
    assert (await client.read())["id"] == 1
    client.close()


async def test_a_client_that_hangs_up_ends_what_only_waits_but_not_a_payment(gateway: Gateway):
    client = await gateway.connect()
    client.send(
        {"id": 1, "method": "waitinvoice", "params": ["breakfast"]},
        {"id": 2, "method": "xpay", "params": ["lnbcrt1"]},
        {"id": 3, "method": "newaddr"},
    )
    assert (await client.read())["id"] == 3
    await asyncio.sleep(0)  # the task of the third ends
    running = set(gateway.rpc._tasks)
    client.close()
    ended, left = await asyncio.wait(running, timeout=5, return_when=asyncio.FIRST_COMPLETED)
    assert (len(ended), len(left)) == (1, 1)


async def test_a_client_that_closed_its_half_still_reads_its_answer(gateway: Gateway):
    client = await gateway.connect()
    client.send({"id": 1, "method": "xpay", "params": ["lnbcrt1"]})
    client.writer.write_eof()
    await asyncio.sleep(0)
    gateway.payments.paid.set()
    assert (await client.read())["result"]["amount_msat"] == 10_000
    assert await client.is_closed()
    client.close()


@pytest.mark.parametrize(
    "data", [b"hello", b'{"id":1,}', b'{"id":}', b"{]", b'{"a":' * 3 + b"]" * 3, b'{"\xff":1}']
)
async def test_bad_json_is_answered_and_the_connection_closed(gateway: Gateway, data: bytes):
    client = await gateway.connect()
    client.writer.write(data)
    reply = await client.read()
    assert (reply["id"], reply["error"]["code"]) == (None, -32700)
    assert await client.is_closed()
    client.close()


async def test_deeply_nested_json_is_an_error_and_not_a_crash(gateway: Gateway):
    client = await gateway.connect()
    client.writer.write(b'{"a":' * 50_000 + b"1" + b"}" * 50_000)
    assert (await client.read())["error"]["code"] == -32700
    client.close()


async def test_a_request_above_one_megabyte_is_refused(gateway: Gateway):
    client = await gateway.connect()
    client.writer.write(b'{"id": 1, "method": "' + b"x" * MAX_REQUEST)
    reply = await client.read()
    assert (reply["id"], reply["error"]["code"]) == (None, -32600)
    assert await client.is_closed()
    client.close()


async def test_an_unknown_method_is_answered_with_the_nearest(gateway: Gateway):
    error = await gateway.error("getinfoo")
    assert error["code"] == -32601
    assert "did you mean 'getinfo'?" in error["message"]
    assert (await gateway.error("zzzzzz"))["code"] == -32601
    client = await gateway.connect()
    client.send({"id": 1}, {"id": 2, "method": ["getinfo"]})
    assert [(await client.read())["error"]["code"] for _ in range(2)] == [-32601, -32601]
    client.close()


async def test_a_refusal_keeps_its_code_sentence_and_next_step(gateway: Gateway):
    gateway.channel.refuse[ListChannels] = CommandRefused(
        "the disk is full", what_to_do="Make room.", code=303
    )
    error = await gateway.error("listpeerchannels")
    assert error == {"code": 303, "message": "the disk is full. Make room."}


async def test_a_service_that_is_not_there_is_said_plainly(gateway: Gateway):
    await gateway.wallet.stop()
    error = await gateway.error("newaddr")
    assert error["code"] == -1
    assert "the service wallet is not running" in error["message"]


async def test_a_bug_is_an_internal_error_and_the_next_request_works(gateway: Gateway, monkeypatch):
    monkeypatch.setattr(gateway.payments, "invoice", None)
    with capture_logs() as logs:
        assert (await gateway.error("listinvoices"))["code"] == -32603
    assert logs[0]["event"] == "bug"
    assert (await gateway.call("newaddr"))["bech32"]


async def test_a_filter_keeps_what_it_names(gateway: Gateway):
    client = await gateway.connect()
    client.send(
        {
            "id": 1,
            "method": "listpeerchannels",
            "params": [],
            "filter": {"channels": [{"state": True, "feerate": {"perkw": True}}]},
        },
        {"id": 2, "method": "getinfo", "params": [], "filter": {"id": "yes"}},
    )
    replies = {reply["id"]: reply for reply in (await client.read(), await client.read())}
    assert replies[1]["result"] == {"channels": [{"state": "CHANNELD_NORMAL", "feerate": {"perkw": 2500}}]}
    assert replies[2]["error"]["code"] == -32602
    client.close()


async def test_stop_is_answered_before_the_node_stops(gateway: Gateway):
    assert await gateway.call("stop") == {"result": "Shutdown complete"}
    await asyncio.wait_for(gateway.stopped.wait(), 5)
