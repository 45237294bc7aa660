"""The stem adapter against a control port that answers as the test says."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from protocol.secret import Secret
from tests.transports.tor.fakes import KEY, ONION, FakeControl
from transports.tor import control as module
from transports.tor.control import Control, ControlFailed
from transports.tor.settings import TcpControl, UnixControl

NO_PASSWORD = Secret(b"")


@pytest.fixture
async def port() -> AsyncIterator[FakeControl]:
    fake = FakeControl()
    await fake.start()
    yield fake
    await fake.stop()


class Heard:
    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.published: asyncio.Queue[str] = asyncio.Queue()

    async def control(self, port: FakeControl, password: Secret = NO_PASSWORD) -> Control:
        return await Control.open(
            TcpControl("127.0.0.1", port.port),
            password,
            on_lost=self.lost.set,
            on_published=self.published.put_nowait,
        )


async def test_a_new_onion_gives_its_key_and_an_old_key_its_onion(port: FakeControl):
    control = await Heard().control(port)
    new = await control.add_onion(None, 9735, "127.0.0.1:1")
    assert (new.address, new.key, new.proof_of_work) == (ONION, Secret(KEY.encode()), True)
    old = await control.add_onion(new.key, 9735, "127.0.0.1:1")
    assert (old.address, old.key) == (ONION, None)
    assert port.added == [
        "ADD_ONION NEW:ED25519-V3 PoWDefensesEnabled=1 Port=9735,127.0.0.1:1",
        f"ADD_ONION {KEY} PoWDefensesEnabled=1 Port=9735,127.0.0.1:1",
    ]
    control.close()


async def test_a_tor_without_proof_of_work_is_asked_again_without_it(port: FakeControl):
    port.knows_proof_of_work = False
    control = await Heard().control(port)
    onion = await control.add_onion(None, 9735, "127.0.0.1:1")
    assert not onion.proof_of_work and "PoW" not in port.added[-1]
    control.close()


async def test_a_refusal_is_told_without_the_key(port: FakeControl, caplog: pytest.LogCaptureFixture):
    port.refuse["ADD_ONION"] = "550 Onion address collision"
    control = await Heard().control(port)
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(ControlFailed, match="550 Onion address collision") as failed,
    ):
        await control.add_onion(Secret(KEY.encode()), 9735, "127.0.0.1:1")
    assert KEY not in str(failed.value) and KEY not in caplog.text
    control.close()


async def test_the_password_opens_and_a_wrong_or_missing_one_says_which_setting(port: FakeControl):
    port.password = "open sesame"
    (await Heard().control(port, Secret(b"open sesame"))).close()
    with pytest.raises(ControlFailed, match=r"Correct tor\.password"):
        await Heard().control(port, Secret(b"wrong"))
    with pytest.raises(ControlFailed, match=r"Set tor\.password"):
        await Heard().control(port)


async def test_nobody_there_is_said_with_the_address(port: FakeControl, tmp_path):
    await port.stop()
    with pytest.raises(ControlFailed, match=f"127.0.0.1:{port.port}"):
        await Heard().control(port)
    missing = UnixControl(str(tmp_path / "control"))
    with pytest.raises(ControlFailed, match=str(tmp_path)):
        await Control.open(missing, NO_PASSWORD, on_lost=lambda: None, on_published=lambda _: None)


async def test_a_lost_connection_is_told(port: FakeControl):
    heard = Heard()
    control = await heard.control(port)
    port.cut()
    async with asyncio.timeout(10):
        await heard.lost.wait()
    with pytest.raises(ControlFailed):
        await control.bootstrap()


async def test_a_published_descriptor_is_told(port: FakeControl):
    heard = Heard()
    control = await heard.control(port)
    port.say_published()
    async with asyncio.timeout(10):
        assert await heard.published.get() == ONION
    control.close()


async def test_what_tor_says_of_itself_is_read(port: FakeControl):
    control = await Heard().control(port)
    port.progress, port.network = 45, "down"
    assert (await control.bootstrap()) == module.Bootstrap(45, "Loading things")
    assert not await control.network_is_up()
    port.network = "up"
    assert await control.network_is_up()
    assert await control.socks_ports() == [("127.0.0.1", 9150)]
    control.close()


async def test_a_tor_that_hangs_is_given_up(port: FakeControl, monkeypatch: pytest.MonkeyPatch):
    control = await Heard().control(port)
    monkeypatch.setattr(module, "CALL_SECONDS", 0.05)
    port.hang = True
    with pytest.raises(ControlFailed, match="tor hangs"):
        await control.bootstrap()
    control.close()


async def test_a_port_that_is_not_a_control_port_is_refused():
    async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(web, "127.0.0.1", 0)
    place = TcpControl("127.0.0.1", server.sockets[0].getsockname()[1])
    with pytest.raises(ControlFailed):
        await Control.open(place, NO_PASSWORD, on_lost=lambda: None, on_published=lambda _: None)
    server.close()
