"""The keeper: what it says, what it tries again, and that the onion keeps its address."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from protocol.transport import DialFailed, LinkProfile, RoadState, TransportSetup
from tests.transports.tor.fakes import KEY, ONION, FakeControl, FakeSocks, fake_tor
from transports.tor import keeper as module
from transports.tor import managed
from transports.tor.settings import Settings
from transports.tor.transport import TorTransport

PROFILE = LinkProfile(latency=0.1)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FIRST_RETRY", "LONGEST_RETRY", "FIRST_CHECK", "LONGEST_CHECK"):
        monkeypatch.setattr(module, name, 0.01)
    monkeypatch.setattr(module, "ALIVE_SECONDS", 0.05)


class Node:
    """A transport with the fake tor behind it."""

    def __init__(self, control: FakeControl, socks: FakeSocks, directory: Path) -> None:
        self.control, self.socks, self.directory = control, socks, directory
        self.transport = self.make()

    def make(self, **more: Any) -> TorTransport:
        table = {
            "mode": "system",
            "clear": "tor",
            "socks": f"127.0.0.1:{self.socks.port}",
            "control": f"127.0.0.1:{self.control.port}",
            **more,
        }
        return TorTransport(Settings.read(table), self.directory, PROFILE)

    async def until(self, seen: Callable[[], object]) -> None:
        try:
            async with asyncio.timeout(10):
                while not seen():  # noqa: ASYNC110  the status has no event
                    await asyncio.sleep(0.005)
        except TimeoutError:
            raise AssertionError(f"did not come about; the road says {self.transport.status()}") from None

    @property
    def is_reachable(self) -> bool:
        return self.transport.status().inbound == "reachable"

    async def serve(self) -> None:
        await self.transport.start()
        await self.transport.listen("127.0.0.1:0", lambda link: link.close())


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with fake_tor() as (control, socks):
        made = Node(control, socks, tmp_path / "tor")
        yield made
        await made.transport.stop()


async def test_the_onion_is_added_and_dialled_by_ourselves_before_it_counts_as_reachable(node: Node):
    node.socks.code = 0xF0
    await node.serve()
    await node.until(lambda: len(node.socks.requests) > 2)
    assert node.transport.status().inbound == "being published"
    node.socks.code = 0
    await node.until(lambda: node.is_reachable)
    status = node.transport.status()
    assert (status.state, status.addresses) == (RoadState.UP, (f"{ONION}:9735",))
    assert node.socks.requests[-1][2:] == (ONION, 9735)


async def test_the_key_is_kept_for_us_alone_and_used_again(node: Node):
    await node.serve()
    await node.until(lambda: node.is_reachable)
    await node.transport.stop()
    path = node.directory / "onion.key"
    assert path.read_text().strip() == KEY
    assert path.stat().st_mode & 0o777 == 0o600
    node.transport = node.make()
    await node.serve()
    await node.until(lambda: len(node.control.added) == 2)
    assert node.control.added[1].startswith(f"ADD_ONION {KEY} ")


async def test_a_lost_control_port_brings_the_onion_back_under_the_same_key(node: Node):
    await node.serve()
    await node.until(lambda: node.is_reachable)
    node.control.cut()
    await node.until(lambda: len(node.control.added) == 2)
    assert KEY in node.control.added[1]
    await node.until(lambda: node.is_reachable)


async def test_a_tor_that_was_restarted_is_found_again(node: Node):
    await node.serve()
    await node.until(lambda: node.is_reachable)
    port = node.control.port
    await node.control.stop()
    await node.socks.stop()
    await node.until(lambda: node.transport.status().state is RoadState.DOWN)
    await node.control.start(port)
    await node.socks.start(node.socks.port)
    await node.until(lambda: node.is_reachable and node.transport.status().state is RoadState.UP)
    assert len(node.control.added) == 2


async def test_an_onion_that_tor_still_holds_for_our_dead_connection_is_added_later(node: Node):
    node.control.refuse["ADD_ONION"] = "550 Onion address collision"
    await node.serve()
    await node.until(lambda: "collision" in node.transport.status().sentence)
    assert node.transport.status().state is RoadState.UP  # it dials meanwhile
    node.control.refuse.clear()
    await node.until(lambda: node.is_reachable)


async def test_an_onion_that_cannot_be_reached_is_said_and_added_again(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "CHECKS_BEFORE_ADDING_AGAIN", 6)
    node.socks.code = 0xF2
    await node.serve()
    await node.until(lambda: "introduction failed" in node.transport.status().inbound)
    await node.until(lambda: len(node.control.added) >= 2)


async def test_without_tor_one_sentence_says_what_to_do_and_it_goes_on_trying(node: Node):
    await node.control.stop()
    await node.socks.stop()
    await node.serve()
    await node.until(lambda: node.transport.status().state is RoadState.DOWN)
    sentence = node.transport.status().sentence
    for words in ("apt-get install tor", "ControlPort 9051", "tor.mode = managed", str(node.socks.port)):
        assert words in sentence
    await node.control.start(node.control.port)
    await node.socks.start(node.socks.port)
    await node.until(lambda: node.is_reachable)


async def test_without_a_control_port_tor_still_dials(node: Node):
    await node.control.stop()
    await node.serve()
    await node.until(lambda: node.transport.status().state is RoadState.UP)
    assert "makes no onion address" in node.transport.status().sentence
    (await node.transport.dial(f"{ONION}:9735", peer=b"x")).close()


async def test_a_managed_tor_that_is_not_installed_says_what_to_install(
    node: Node, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(managed.shutil, "which", lambda _name: None)
    node.transport = node.make(mode="managed")
    await node.serve()
    await node.until(lambda: node.transport.status().state is RoadState.DOWN)
    assert "apt-get install tor" in node.transport.status().sentence
    with pytest.raises(DialFailed, match="apt-get install tor"):
        await node.transport.dial(f"{ONION}:9735", peer=b"x")


async def test_a_tor_that_is_starting_says_how_far_it_is(node: Node):
    node.control.progress = 30
    await node.serve()
    await node.until(lambda: "30 %" in node.transport.status().sentence)
    assert node.transport.status().state is RoadState.STARTING


async def test_a_network_that_is_away_is_said_until_it_is_back(node: Node):
    node.control.network = "down"
    await node.serve()
    await node.until(lambda: "sees no network" in node.transport.status().sentence)
    node.control.network = "up"
    await node.until(lambda: node.transport.status().sentence == "")


async def test_a_damaged_key_is_not_replaced(node: Node):
    node.directory.mkdir()
    (node.directory / "onion.key").write_text("ED25519-V3:AAAA\n")
    await node.serve()
    await node.until(lambda: "is damaged" in node.transport.status().sentence)
    assert node.control.added == []
    assert (node.directory / "onion.key").read_text() == "ED25519-V3:AAAA\n"


# The transport.


@pytest.mark.parametrize("address", ["0.0.0.0:9735", "192.168.1.2:9735", "[::]:9735", "localhost:9735"])
async def test_it_listens_on_this_machine_only(node: Node, address: str):
    with pytest.raises(ValueError, match="listen at 127"):
        await node.transport.listen(address, lambda link: link.close())


async def test_it_listens_once(node: Node):
    first = await node.transport.listen("127.0.0.1:0", lambda link: link.close())
    with pytest.raises(ValueError, match="one address only"):
        await node.transport.listen("127.0.0.1:0", lambda link: link.close())
    await first.close()


async def test_clear_addresses_go_through_tor_or_not_at_all(node: Node):
    await node.transport.start()
    (await node.transport.dial("node.example.org:9735", peer=b"x")).close()
    assert ("node.example.org", 9735) in [request[2:] for request in node.socks.requests]
    closed = node.make(clear="off")
    assert node.transport.takes("node.example.org:9735") and not closed.takes("node.example.org:9735")
    assert closed.takes(f"{ONION}:9735")
    with pytest.raises(ValueError, match="is a clear address"):
        await closed.dial("node.example.org:9735")


def test_it_is_made_from_the_table_of_the_config(tmp_path: Path):
    made = TorTransport.made_for(TransportSetup(tmp_path, {"mode": "managed"}))
    assert made.profile.road == "tor" and made.status().state is RoadState.STARTING
    assert not (tmp_path / "tor").exists()  # making starts nothing
