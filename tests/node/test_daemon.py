"""`lnpd` as a program: set up, run with a real signer and a real chain, stop, and refuse what it must."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from click.testing import CliRunner

from node.__main__ import main
from node.config import load
from node.linkkey import LinkKey
from node.storage.database import open_database
from tests.node.chain.conftest import regtest

__all__ = ["regtest"]
KEY = zmq.curve_keypair()[0].decode()


def lnpd(*arguments: object) -> Any:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def init(datadir: Path, *more: object, network: str = "regtest", url: str = "http://127.0.0.1:1") -> Any:
    return lnpd(
        "init", "--datadir", datadir, "--network", network, "--signer", "ipc:///nowhere", "--signer-key", KEY,
        "--bitcoind-url", url, "--bitcoind-cookie", datadir / ".cookie", *more,
    )  # fmt: skip


def test_init_makes_a_directory_that_only_we_can_read_and_prints_the_pairing(tmp_path: Path) -> None:
    result = init(tmp_path, "--alias", "alice", "--listen", "127.0.0.1:0")
    assert result.exit_code == 0, result.output
    directory = tmp_path / "regtest"
    assert f"--client-key '{LinkKey.load(directory).public.decode()}'" in result.output
    assert LinkKey.load(directory).secret.reveal().decode() not in result.output
    assert load(directory).alias == "alice"
    for path in (directory, *directory.iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path
    again = lnpd("pair", "--datadir", tmp_path)
    assert LinkKey.load(directory).public.decode() in again.output


def test_init_takes_an_electrum_server_instead_of_a_bitcoind_but_not_both_or_none(tmp_path: Path) -> None:
    def with_chain(*chain: object) -> Any:
        signer = ("--signer", "ipc:///nowhere", "--signer-key", KEY)
        return lnpd("init", "--datadir", tmp_path, "--network", "regtest", *signer, *chain)

    url = ("--electrum", "tcp://127.0.0.1:1")
    for wrong, sentence in [
        ((), "one source"),
        ((*url, "--bitcoind-url", "http://127.0.0.1:1"), "one source"),
        (("--electrum", "tcp://192.0.2.7:1"), "can read and change"),
        ((*url, "--electrum-socks", "x"), "electrum.socks"),
    ]:
        refused = with_chain(*wrong)
        assert refused.exit_code == 2 and sentence in refused.output
    assert with_chain(*url).exit_code == 0
    config = load(tmp_path / "regtest")
    assert config.bitcoind is None and config.electrum is not None
    assert config.electrum.address() == ("tcp", "127.0.0.1", 1)


def test_init_never_replaces_a_node(tmp_path: Path) -> None:
    init(tmp_path)
    key = LinkKey.load(tmp_path / "regtest").public
    result = init(tmp_path)
    assert result.exit_code == 2 and "set up" in result.output
    assert LinkKey.load(tmp_path / "regtest").public == key


def test_mainnet_is_refused_in_a_clear_sentence(tmp_path: Path) -> None:
    result = init(tmp_path, network="mainnet")
    assert result.exit_code == 2 and "mainnet is refused" in result.output
    assert not (tmp_path / "mainnet").exists()
    assert lnpd("run", "--datadir", tmp_path, "--network", "mainnet").exit_code == 2


@pytest.mark.parametrize(("option", "value"), [("--signer-key", "short"), ("--bitcoind-cookie", "")])
def test_init_refuses_what_cannot_work(tmp_path: Path, option: str, value: str) -> None:
    result = init(tmp_path, option, value)
    assert result.exit_code == 2 and "lnpd:" in result.output
    assert not (tmp_path / "regtest").exists()


def test_run_refuses_without_a_node_and_without_its_database(tmp_path: Path) -> None:
    assert "Run `lnpd init`" in lnpd("run", "--datadir", tmp_path).output
    init(tmp_path)
    (tmp_path / "regtest" / "node.db").unlink()
    result = lnpd("run", "--datadir", tmp_path)
    assert result.exit_code == 2 and "there is no database" in result.output


def test_run_refuses_beside_a_running_daemon(tmp_path: Path) -> None:
    init(tmp_path)
    other = open_database(tmp_path / "regtest" / "node.db")
    result = lnpd("run", "--datadir", tmp_path)
    assert result.exit_code == 2 and "another lnpd is running" in result.output
    other.close()


def python(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", *map(str, arguments)], **options)


async def ready(path: Path, process: subprocess.Popen[bytes]) -> Any:
    async with asyncio.timeout(40):
        while not path.exists():  # noqa: ASYNC240 - another process is awaited
            assert process.poll() is None, "the program ended"
            await asyncio.sleep(0.02)
    return json.loads(path.read_text())  # noqa: ASYNC240


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.wait_for(asyncio.to_thread(process.wait), 30)


@pytest.fixture
async def signer(tmp_path: Path) -> AsyncIterator[tuple[Path, Any]]:
    """A real signer on regtest, and where it answers."""
    datadir = tmp_path / "signer"
    phrase = tmp_path / "phrase"
    phrase.write_text("correct horse battery")
    with phrase.open("rb") as file, open(os.devnull, "wb") as nowhere:  # noqa: ASYNC230
        made = python(
            "signer", "init", "--datadir", datadir, "--network", "regtest",
            "--passphrase-fd", file.fileno(), "--words-fd", nowhere.fileno(),
            pass_fds=(file.fileno(), nowhere.fileno()), stdout=subprocess.DEVNULL,
        )  # fmt: skip
        assert await ended(made) == 0
    process = python("signer", "run", "--datadir", datadir, "--passphrase-file", phrase)
    try:
        yield datadir, await ready(datadir / "signer.json", process)
    finally:
        process.terminate()
        await ended(process)


async def rpc(path: str, method: str, **params: Any) -> Any:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(
        json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).encode() + b"\n\n"
    )
    raw = await asyncio.wait_for(reader.readuntil(b"\n\n"), 20)
    writer.close()
    return json.loads(raw)


async def test_a_node_starts_answers_stops_cleanly_and_starts_without_its_signer(
    regtest: Any, signer: tuple[Path, Any], tmp_path: Path
) -> None:
    chain, doors = regtest
    signer_dir, at = signer
    made = await asyncio.to_thread(
        lnpd, "init", "--datadir", tmp_path, "--network", "regtest", "--signer", at["endpoint"],
        "--signer-key", at["server_public_key"], "--bitcoind-url", doors.rpc_url,
        "--bitcoind-cookie", doors.cookie_path, "--bitcoind-zmq", doors.zmq_endpoint, "--listen", "127.0.0.1:0",
    )  # fmt: skip
    assert made.exit_code == 0, made.output
    directory = tmp_path / "regtest"
    key = LinkKey.load(directory).public.decode()
    paired = python("signer", "pair", "--datadir", signer_dir, "--client-key", key, stdout=subprocess.DEVNULL)
    assert await ended(paired) == 0

    process = python("node", "run", "--datadir", tmp_path)
    try:
        where = await ready(directory / "lnpd.json", process)
        assert where["pid"] == process.pid
        info = (await rpc(where["rpc"], "getinfo"))["result"]
        assert info["id"] == where["node_id"] and info["network"] == "regtest"
        assert info["blockheight"] == chain.height
        host, port = where["listen"][0].rsplit(":", 1)
        _, peer = await asyncio.open_connection(host, int(port))
        peer.close()
    finally:
        process.send_signal(signal.SIGTERM)
        code = await ended(process)
    assert code == 0
    assert not (directory / "lnpd.json").exists()

    away = ("--set", "signer.endpoint=ipc:///nowhere")
    process = python("node", "run", "--datadir", tmp_path, *away)
    try:
        assert (await ready(directory / "lnpd.json", process))["node_id"] == where["node_id"]
    finally:
        process.send_signal(signal.SIGTERM)
        assert await ended(process) == 0


async def test_run_on_another_network_than_bitcoind_ends_with_the_reason(
    regtest: Any, tmp_path: Path
) -> None:
    _, doors = regtest
    init(tmp_path, network="signet", url=doors.rpc_url)
    process = python(
        "node", "run", "--datadir", tmp_path, "--set", f"bitcoind.cookie={doors.cookie_path}",
        stderr=subprocess.PIPE,
    )  # fmt: skip
    _, stderr = await asyncio.wait_for(asyncio.to_thread(process.communicate), 30)
    assert process.returncode == 2
    assert b"is not on signet" in stderr.splitlines()[-1]


async def test_a_node_that_waits_for_its_signer_stops_when_told(regtest: Any, tmp_path: Path) -> None:
    _, doors = regtest
    init(tmp_path, url=doors.rpc_url)
    process = python(
        "node", "run", "--datadir", tmp_path, "--set", f"bitcoind.cookie={doors.cookie_path}",
        stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    line = b""
    while b"waiting_for_signer" not in line:
        line = await asyncio.wait_for(asyncio.to_thread(process.stderr.readline), 20)
        assert line, "it ended before it waited"
    process.send_signal(signal.SIGTERM)
    assert await ended(process) == 0
    process.stderr.close()
