"""A tor of our own: what we write for it, and what we say when it does not come up."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from transports.tor import managed
from transports.tor.control import ControlFailed
from transports.tor.managed import ManagedTor


def program(folder: Path, body: str) -> str:
    """A program that stands for tor: gets the path of its torrc as `torrc`."""
    path = folder / "bin" / "tor"
    path.parent.mkdir(exist_ok=True)
    path.write_text(
        f"#!{sys.executable}\nimport sys, time, pathlib\ntorrc = pathlib.Path(sys.argv[2])\n{body}\n"
    )
    path.chmod(0o755)
    return str(path)


def use(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr(managed.shutil, "which", lambda _name: path)


SERVES = "torrc.with_name('control-port').write_text('PORT=127.0.0.1:4242\\n'); time.sleep(60)"


async def test_it_starts_once_and_ends_with_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, program(tmp_path, SERVES))
    tor = ManagedTor(tmp_path / "tor", ("UseBridges 1",))
    place = await tor.start()
    assert (place.host, place.port) == ("127.0.0.1", 4242)
    pid = tor.pid
    assert await tor.start() == place and tor.pid == pid
    assert pid is not None
    await tor.stop()
    assert tor.pid is None
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_its_torrc_is_ours_alone_and_opens_nothing_but_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use(monkeypatch, program(tmp_path, SERVES))
    folder = tmp_path / 'a "quoted" folder'
    tor = ManagedTor(folder, ("UseBridges 1",))
    await tor.start()
    torrc = folder / "torrc"
    assert torrc.stat().st_mode & 0o777 == 0o600 and folder.stat().st_mode & 0o777 == 0o700
    lines = torrc.read_text().splitlines()
    ports = [
        line for line in lines if (line.split()[0].endswith("Port") and "Control" in line) or "Socks" in line
    ]
    assert ports and all("127.0.0.1:auto" in line for line in ports)
    assert "CookieAuthentication 1" in lines and lines[-1] == "UseBridges 1"
    assert f"__OwningControllerProcess {os.getpid()}" in lines
    assert any(r"a \"quoted\" folder/data" in line for line in lines)
    await tor.stop()


async def test_a_tor_that_ends_at_once_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    words = "print('Nov 22 12:00:00.000 [warn] Failed to parse: Unknown option Bridgess'); sys.exit(1)"
    use(monkeypatch, program(tmp_path, words))
    with pytest.raises(ControlFailed, match="Unknown option Bridgess"):
        await ManagedTor(tmp_path / "tor").start()


async def test_a_tor_that_opens_no_port_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, program(tmp_path, "time.sleep(60)"))
    monkeypatch.setattr(managed, "START_SECONDS", 0.2)
    tor = ManagedTor(tmp_path / "tor")
    with pytest.raises(ControlFailed, match="no control port within"):
        await tor.start()
    assert tor.pid is None


async def test_a_tor_that_died_is_started_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    use(monkeypatch, program(tmp_path, SERVES))
    tor = ManagedTor(tmp_path / "tor")
    await tor.start()
    first = tor.pid
    assert first is not None
    os.kill(first, 9)
    async with asyncio.timeout(10):
        while tor.pid is not None:  # noqa: ASYNC110  the loop reaps it
            await asyncio.sleep(0.005)
    await tor.start()
    assert tor.pid not in (None, first)
    await tor.stop()
