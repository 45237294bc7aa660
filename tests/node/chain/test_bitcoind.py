"""The bitcoind backend against the embedded chain's RPC, and against servers that misbehave."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from node.chain.backend import BackendAway, BackendUnusable
from node.chain.bitcoind import Bitcoind
from node.chain.blocks import concerns, header_of, transactions_of
from node.chain.source import backend_of
from node.config import BitcoindConfig, Config
from protocol.amounts import Sat
from protocol.bitcoin.network import REGTEST, SIGNET
from protocol.bitcoin.transaction import Transaction
from protocol.errors import MalformedMessage
from tests.node.chain.conftest import make_bitcoind
from tests.node.chain.regtest.wallet import ELSEWHERE, SCRIPT, spend
from tests.node.chain.test_electrum_line import SIGNER, certificate, tls

# The first block of regtest, published in the source of Bitcoin Core: a block that a lone clone can check.
GENESIS_REGTEST = bytes.fromhex(
    "0100000000000000000000000000000000000000000000000000000000000000000000003ba3edfd7a7b12b27ac72c3e67768f61"
    "7fc81bc3888a51323a9fb8aa4b1e5e4adae5494dffff7f20020000000101000000010000000000000000000000000000000000000"
    "000000000000000000000000000ffffffff4d04ffff001d0104455468652054696d65732030332f4a616e2f32303039204368616e"
    "63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261696c6f757420666f722062616e6b73ffffffff0100f2052a0"
    "1000000434104678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4f35504e51ec1"
    "12de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"
)


def test_the_first_block_of_regtest_is_read() -> None:
    header = header_of(GENESIS_REGTEST)
    assert header.block_hash == REGTEST.chain_hash
    assert (header.previous, header.time) == (bytes(32), 1296688602)
    (coinbase,) = transactions_of(GENESIS_REGTEST)
    assert coinbase.outputs[0].value == 50 * 100_000_000
    assert concerns(GENESIS_REGTEST, {coinbase.outputs[0].script_pubkey})
    assert not concerns(GENESIS_REGTEST, {SCRIPT})


@pytest.mark.parametrize("raw", [b"", GENESIS_REGTEST[:79], GENESIS_REGTEST[:-1], GENESIS_REGTEST + b"\x00"])
def test_a_broken_block_is_malformed(raw: bytes) -> None:
    with pytest.raises(MalformedMessage):
        (header_of(raw), transactions_of(raw))


async def test_tip_blocks_and_hashes_are_those_of_the_chain(regtest: Any, bitcoind: Bitcoind) -> None:
    chain, _ = regtest
    await bitcoind.check()
    chain.generate(3)
    tip = await bitcoind.tip()
    assert (tip.height, tip.block_hash) == (chain.height, chain.tip_hash)
    raw = await bitcoind.block(tip.block_hash)
    assert header_of(raw).block_hash == chain.tip_hash and header_of(raw).time == tip.time
    assert await bitcoind.block_hash(0) == REGTEST.chain_hash
    assert await bitcoind.block_hash(chain.height + 1) is None
    with pytest.raises(BackendUnusable, match="Block not found"):
        await bitcoind.block(bytes(32))


async def test_outputs_and_transactions_are_found(regtest: Any, bitcoind: Bitcoind) -> None:
    chain, _ = regtest
    coin = chain.fund(SCRIPT, Sat(123_456_789))
    found = await bitcoind.transaction(coin.txid)
    assert found is not None and found.height is None
    assert Transaction.parse(found.raw).txid == coin.txid
    assert await bitcoind.output_status(coin.txid, coin.index) is None, "the mempool does not count"
    chain.generate(2)
    unspent = await bitcoind.output_status(coin.txid, coin.index)
    assert unspent is not None
    assert (unspent.value, unspent.script, unspent.confirmations) == (123_456_789, SCRIPT, 2)
    assert unspent.at == chain.tip_hash
    found = await bitcoind.transaction(coin.txid)
    assert found is not None and found.height == chain.height - 1
    assert await bitcoind.transaction(b"\x07" * 32) is None


async def test_broadcast_tells_accepted_from_refused(regtest: Any, bitcoind: Bitcoind) -> None:
    chain, _ = regtest
    coin = chain.fund(SCRIPT, Sat(100_000))
    chain.generate(1)
    good = spend([(coin, 100_000)], [(99_000, ELSEWHERE)])
    assert (await bitcoind.broadcast(good.serialize())).accepted
    assert (await bitcoind.broadcast(good.serialize())).accepted, "known is accepted"
    chain.generate(1)
    assert (await bitcoind.broadcast(good.serialize())).accepted, "confirmed is accepted"
    double = await bitcoind.broadcast(spend([(coin, 100_000)], [(98_000, ELSEWHERE)]).serialize())
    assert not double.accepted and "missingorspent" in double.reason
    garbage = await bitcoind.broadcast(b"\x00")
    assert not garbage.accepted and "decode" in garbage.reason


async def test_feerates_are_converted_and_never_below_the_floor(regtest: Any, bitcoind: Bitcoind) -> None:
    assert await bitcoind.feerate(6) == 500, "2,000 sat per 1000 vbytes"
    await bitcoind._rpc.call("setfeerate", 1_000)
    assert await bitcoind.feerate(6) == 253
    await bitcoind._rpc.call("setfeerate", None)
    assert await bitcoind.feerate(6) is None


async def test_user_and_password_work_like_the_cookie(regtest: Any) -> None:
    _, doors = regtest
    backend = Bitcoind(doors.rpc_url, network=REGTEST, login="lnp:pass word:with signs")
    await backend.check()
    await backend.close()


async def test_a_wrong_login_is_told(regtest: Any) -> None:
    _, doors = regtest
    backend = Bitcoind(doors.rpc_url, network=REGTEST, login="lnp:wrong")
    with pytest.raises(BackendUnusable, match="refuses our login"):
        await backend.check()
    await backend.close()


async def test_another_network_is_refused(regtest: Any) -> None:
    _, doors = regtest
    backend = Bitcoind(doors.rpc_url, network=SIGNET, login=doors.cookie_path)
    with pytest.raises(BackendUnusable, match="not on signet"):
        await backend.check()
    await backend.close()


async def test_a_missing_bitcoind_or_cookie_is_away(tmp_path: Path) -> None:
    backend = Bitcoind("http://127.0.0.1:1", network=REGTEST, login="a:b")
    with pytest.raises(BackendAway, match="does not answer"):
        await backend.tip()
    backend = Bitcoind("http://127.0.0.1:1", network=REGTEST, login=tmp_path / ".cookie")
    with pytest.raises(BackendAway, match="cookie file"):
        await backend.tip()


async def test_an_address_that_is_no_url_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="not a URL"):
        Bitcoind("127.0.0.1:8332", network=REGTEST, login="a:b")


async def test_a_new_block_is_noticed_over_zmq_and_without_it(regtest: Any) -> None:
    chain, doors = regtest
    for backend in (make_bitcoind(doors), make_bitcoind(doors, zmq=False, poll_seconds=0.01)):
        noticed = asyncio.Event()
        backend.subscribe(noticed.set)
        async with asyncio.timeout(20):
            while not noticed.is_set():  # a subscription needs a moment until it stands
                chain.generate(1)
                await asyncio.sleep(0.05)
        await backend.close()
    assert noticed.is_set()


async def test_the_rpc_is_spoken_over_tls_to_the_certificate_that_was_named(
    regtest: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """btcd makes a certificate for itself; nothing else is believed, and nothing is said before that."""
    chain, doors = regtest
    pem, other = certificate(tmp_path, "rpc"), certificate(tmp_path, "other")

    def made(port: int, cert: Path | str) -> Bitcoind:
        settings = BitcoindConfig(f"https://127.0.0.1:{port}", cookie=str(doors.cookie_path), cert=str(cert))
        backend = backend_of(Config("regtest", SIGNER, settings), tmp_path)
        assert isinstance(backend, Bitcoind)
        return backend

    async with tls(doors.rpc_url.removeprefix("http://"), pem) as port:
        backend = made(port, pem)
        assert (await backend.tip()).block_hash == chain.tip_hash
        await backend.close()
        for wrong, sentence in (
            (other, "not the expected one"),
            ("", "not the expected one"),
            ("x", "cannot be read"),
        ):
            backend = made(port, wrong)
            with pytest.raises(BackendUnusable, match=sentence):
                await backend.tip()
            await backend.close()
    monkeypatch.setattr("node.chain.json_rpc.HANDSHAKE_SECONDS", 0.2)
    backend = made(int(doors.rpc_url.rpartition(":")[2]), pem)
    with pytest.raises(BackendAway, match="does not answer"):
        await backend.tip()


async def test_an_answer_that_ends_with_its_connection_is_read_whole() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"result":"%s","error":null,"id":1}' % (b"11" * 32)
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    backend = Bitcoind(f"http://127.0.0.1:{port}", network=REGTEST, login="a:b")
    for _ in range(2):
        assert await backend.block_hash(1) == b"\x11" * 32
    listening.close()


@asynccontextmanager
async def server(answer: Callable[[int], bytes]) -> AsyncIterator[Bitcoind]:
    """A server that answers the n-th request with `answer(n)`, and hangs up after an empty one."""
    count = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal count
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
                count += 1
                raw = answer(count)
                writer.write(raw)
                if not raw:
                    break
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    backend = Bitcoind(f"http://127.0.0.1:{port}", network=REGTEST, login="a:b")
    yield backend
    await backend.close()
    listening.close()
    await listening.wait_closed()


def http(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


async def test_a_kept_connection_that_was_closed_is_opened_again() -> None:
    good = http(b'{"result":"%s","error":null,"id":1}' % (b"11" * 32))
    async with server(lambda number: b"" if number == 2 else good) as backend:
        assert await backend.block_hash(1) == b"\x11" * 32
        assert await backend.block_hash(2) == b"\x11" * 32
    async with server(lambda _: b"") as backend:
        with pytest.raises(BackendAway):
            await backend.block_hash(1)


@pytest.mark.parametrize(
    ("answer", "error", "sentence"),
    [
        (b"SSH-2.0-x\r\n\r\n", BackendUnusable, "does not speak"),
        (http(b"<html>"), BackendUnusable, "does not speak"),
        (http(b"[]"), BackendUnusable, "does not speak"),
        (http(b"busy", "503 Service Unavailable"), BackendAway, "too busy"),
        (http(b'{"result":7,"error":null,"id":1}'), BackendUnusable, "form that we do not know"),
        (
            http(b'{"result":null,"error":{"code":-28,"message":"Loading"},"id":1}'),
            BackendAway,
            "is starting",
        ),
        (http(b'{"result":null,"error":{"code":-1,"message":"pruned"},"id":1}'), BackendUnusable, "prune=0"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", BackendUnusable, "does not speak"),
        (b"x" * 100_000, BackendAway, "does not answer"),
    ],
)
async def test_whatever_a_server_answers_is_a_clear_error(
    answer: bytes, error: type[Exception], sentence: str
) -> None:
    async with server(lambda _: answer) as backend:
        with pytest.raises(error, match=sentence):
            await backend.tip()
