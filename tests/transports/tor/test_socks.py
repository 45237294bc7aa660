"""Dialling through a SOCKS server that answers as the test says."""

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from protocol.transport import DialFailed, LinkProfile
from tests.transports.tor.fakes import ONION, FakeSocks
from transports.tor.socks import SocksDialler

PROFILE = LinkProfile(latency=0.1)
ALICE, BOB = b"\x02" * 33, b"\x03" * 33


@pytest.fixture
async def socks() -> AsyncIterator[FakeSocks]:
    server = FakeSocks()
    await server.start()
    yield server
    await server.stop()


async def dial(socks: FakeSocks, host: str = ONION, peer: bytes = ALICE, dialler: SocksDialler | None = None):
    return await (dialler or SocksDialler(PROFILE)).dial(("127.0.0.1", socks.port), host, 9735, peer)


async def test_the_link_carries_bytes_and_bears_the_address_of_the_peer(socks: FakeSocks):
    link = await dial(socks)
    assert link.peer_address == f"{ONION}:9735"
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    link.start(got.set_result, lambda _reason: None)
    link.send(b"hello")
    async with asyncio.timeout(10):
        assert await got == b"hello"
    link.close()


@pytest.mark.parametrize("host", [ONION, "node.example.org"])
async def test_a_name_goes_to_tor_as_it_stands_and_is_never_resolved(
    socks: FakeSocks, host: str, monkeypatch: pytest.MonkeyPatch
):
    def resolve(*_: object, **__: object):
        raise AssertionError("a resolver was asked")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    (await dial(socks, host)).close()
    assert socks.requests[0][2:] == (host, 9735)


async def test_each_peer_has_circuits_of_its_own_and_keeps_them(socks: FakeSocks):
    dialler = SocksDialler(PROFILE)
    for peer in (ALICE, ALICE, BOB, b"", b""):
        (await dial(socks, peer=peer, dialler=dialler)).close()
    users = [request[:2] for request in socks.requests]
    assert users[0] == users[1]
    assert len(set(users)) == 4


async def test_node_ids_are_not_told_to_tor(socks: FakeSocks):
    (await dial(socks)).close()
    (await dial(socks)).close()
    first, second = (request[0] for request in socks.requests)
    assert first != second  # another run, another name
    assert ALICE.hex()[:16] not in first


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (0x01, "may be offline, or our Tor is not ready"),
        (0x04, "probably offline"),
        (0x05, "its node is not running"),
        (0xF0, "no descriptor of it is published"),
        (0xF1, "descriptor cannot be read"),
        (0xF2, "introduction failed"),
        (0xF3, "rendezvous failed"),
        (0xF4, "Tor has none for it"),
        (0xF5, "the one in our Tor is wrong"),
        (0xF6, "no valid onion address"),
        (0xF7, "took longer than Tor waits"),
        (0x7A, "the code 0x7a, which we do not know"),
    ],
)
async def test_each_answer_of_tor_is_told_in_plain_words(socks: FakeSocks, code: int, words: str):
    socks.code = code
    with pytest.raises(DialFailed, match=words) as failed:
        await dial(socks)
    assert ONION in str(failed.value)


async def test_clear_addresses_have_words_of_their_own(socks: FakeSocks):
    socks.code = 0x02
    with pytest.raises(DialFailed, match="exit relays do not allow"):
        await dial(socks, "node.example.org")


async def test_no_tor_says_so(socks: FakeSocks):
    await socks.stop()
    with pytest.raises(DialFailed, match=r"does not answer .* is tor running\?"):
        await dial(socks)


async def test_silence_ends_with_the_time_of_the_profile(socks: FakeSocks):
    class Quick(LinkProfile):
        dial_timeout = 0.05

    socks.silent = True
    with pytest.raises(DialFailed, match="built no connection within"):
        await dial(socks, dialler=SocksDialler(Quick(latency=0.1)))


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05", b"\x05\xff"])
async def test_a_port_that_is_not_socks_says_so(socks: FakeSocks, garbage: bytes):
    socks.garbage = garbage
    with pytest.raises(DialFailed, match="did not answer as Tor does"):
        await dial(socks)
