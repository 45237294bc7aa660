"""The line to an Electrum server over TLS and SOCKS, with certificates made for the test."""

import asyncio
import datetime
import ipaddress
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node.chain.backend import BackendAway, BackendUnusable
from node.chain.electrum import Electrum
from node.chain.electrum_line import Authority, Pinned, Place, Plain
from node.chain.source import backend_of
from node.config import BitcoindConfig, Config, ElectrumConfig, SignerConfig
from protocol.bitcoin.network import REGTEST
from protocol.errors import CommandRefused


def certificate(folder: Path, name: str) -> Path:
    """Self-signed, for 127.0.0.1; key and certificate in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = folder / f"{name}.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while piece := await reader.read(1 << 16):
            writer.write(piece)
    except OSError:
        pass
    finally:
        writer.close()


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    to_reader, to_writer = await asyncio.open_connection(host, port)
    await asyncio.gather(_pump(reader, to_writer), _pump(to_reader, writer))


@asynccontextmanager
async def tls(endpoint: str, pem: Path, port: int = 0) -> AsyncIterator[int]:
    """The chain's Electrum face behind TLS; gives the port."""
    host, _, behind = endpoint.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _join(reader, writer, host, int(behind))

    listening = await asyncio.start_server(serve, "127.0.0.1", port, ssl=context)
    yield listening.sockets[0].getsockname()[1]
    listening.close()


async def tip_of(place: Place) -> bytes:
    backend = Electrum(place, network=REGTEST)
    try:
        await backend.check()
        return (await backend.tip()).block_hash
    finally:
        await backend.close()


async def test_the_first_certificate_is_kept_and_another_one_is_refused(regtest: Any, tmp_path: Path) -> None:
    chain, doors = regtest
    pins = tmp_path / "pins.json"
    async with tls(doors.electrum_endpoint, certificate(tmp_path, "first")) as port:
        place = Place("127.0.0.1", port, Pinned(pins))
        assert await tip_of(place) == chain.tip_hash
        kept = pins.read_text()
        assert pins.stat().st_mode & 0o077 == 0
        assert await tip_of(place) == chain.tip_hash
    async with tls(doors.electrum_endpoint, certificate(tmp_path, "second"), port):
        with pytest.raises(BackendUnusable, match="another certificate"):
            await tip_of(place)
        assert pins.read_text() == kept, "the stranger is not learnt"
        pins.write_text("{")
        with pytest.raises(BackendUnusable, match="is broken"):
            await tip_of(place)
        pins.unlink()
        assert await tip_of(place) == chain.tip_hash


async def test_an_authority_is_asked_for_a_certificate(regtest: Any, tmp_path: Path) -> None:
    chain, doors = regtest
    pem = certificate(tmp_path, "authority")
    async with tls(doors.electrum_endpoint, pem) as port:
        assert await tip_of(Place("127.0.0.1", port, Authority(str(pem)))) == chain.tip_hash
        with pytest.raises(BackendUnusable, match="certificate"):
            await tip_of(Place("127.0.0.1", port, Authority()))


async def test_a_server_without_tls_is_not_talked_to_in_the_clear(regtest: Any, tmp_path: Path) -> None:
    _, doors = regtest
    port = int(doors.electrum_endpoint.rpartition(":")[2])
    with pytest.raises((BackendUnusable, BackendAway)):
        await asyncio.wait_for(tip_of(Place("127.0.0.1", port, Pinned(tmp_path / "pins.json"))), 20)
    assert not (tmp_path / "pins.json").exists()


@pytest.mark.parametrize("secure", [False, True])
async def test_the_name_goes_to_the_socks_proxy_unresolved(
    regtest: Any, tmp_path: Path, secure: bool
) -> None:
    chain, doors = regtest
    asked: list[tuple[str, int]] = []

    async def socks(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        count = (await reader.readexactly(2))[1]
        assert 2 in await reader.readexactly(count)
        writer.write(b"\x05\x02")
        length = (await reader.readexactly(2))[1]
        await reader.readexactly(length)
        await reader.readexactly((await reader.readexactly(1))[0])
        writer.write(b"\x01\x00")
        assert await reader.readexactly(4) == b"\x05\x01\x00\x03"
        name = await reader.readexactly((await reader.readexactly(1))[0])
        asked.append((name.decode(), int.from_bytes(await reader.readexactly(2), "big")))
        writer.write(b"\x05\x00\x00\x01" + bytes(6))
        await _join(reader, writer, "127.0.0.1", behind)

    proxy = await asyncio.start_server(socks, "127.0.0.1", 0)
    at = ("127.0.0.1", proxy.sockets[0].getsockname()[1])
    host = "server.example" if secure else "abc.onion"
    async with tls(doors.electrum_endpoint, certificate(tmp_path, "hidden")) as secured:
        behind = secured if secure else int(doors.electrum_endpoint.rpartition(":")[2])
        trust = Pinned(tmp_path / "pins.json") if secure else Plain()
        assert await tip_of(Place(host, 50001, trust, at)) == chain.tip_hash
    assert asked == [(host, 50001)]
    proxy.close()
    with pytest.raises(BackendAway, match="does not answer"):
        await tip_of(Place(host, 50001, trust, at))


SIGNER = SignerConfig("ipc:///nowhere", "k")


def test_the_settings_choose_the_backend(tmp_path: Path) -> None:
    def made(electrum: ElectrumConfig | None, bitcoind: BitcoindConfig | None = None) -> Any:
        return backend_of(Config("regtest", SIGNER, bitcoind, electrum=electrum), tmp_path)

    place = made(ElectrumConfig("ssl://[::1]:50002", socks="127.0.0.1:9050"))._line.place
    assert place == Place("::1", 50002, Pinned(tmp_path / "electrum-pins.json"), ("127.0.0.1", 9050))
    assert str(place) == "ssl://[::1]:50002"
    assert made(ElectrumConfig("tcp://localhost:1"))._line.place.trust == Plain()
    assert made(ElectrumConfig("ssl://a.b:1", trust="ca", ca_file="x"))._line.place.trust == Authority("x")
    assert made(None, BitcoindConfig("http://127.0.0.1:1", user="a")).name == "bitcoind"
    with pytest.raises(CommandRefused, match="no source"):
        made(None)
