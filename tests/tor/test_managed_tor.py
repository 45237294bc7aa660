"""A tor that the transport starts itself, on the real private network."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from node.demo.tor_network import TorNetwork
from protocol.transport import Link, RoadState, TransportSetup
from transports.tor.transport import TorTransport


class Node:
    """A transport that echoes what comes in."""

    def __init__(self, network: TorNetwork, folder: Path) -> None:
        table = {"mode": "managed", "clear": "off", "options": network.managed_options}
        self.transport = TorTransport.made_for(TransportSetup(folder, table))

    async def start(self) -> None:
        await self.transport.start()
        self.listener = await self.transport.listen("127.0.0.1:0", self._echo)

    def _echo(self, link: Link) -> None:
        link.start(link.send, lambda _reason: None)

    async def until(self, seen: Callable[[], bool], seconds: float = 90) -> None:
        try:
            async with asyncio.timeout(seconds):
                while not seen():  # noqa: ASYNC110  the status has no event
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise AssertionError(f"did not come about; the road says {self.transport.status()}") from None

    @property
    def is_reachable(self) -> bool:
        return self.transport.status().inbound == "reachable"

    @property
    def pid(self) -> int:
        return _pid_of(self.transport)


def _pid_of(transport: TorTransport) -> int:
    managed = transport._keeper._managed
    assert managed is not None and managed.pid is not None
    return managed.pid


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@asynccontextmanager
async def node(network: TorNetwork, folder: Path) -> AsyncIterator[Node]:
    made = Node(network, folder)
    await made.start()
    try:
        yield made
    finally:
        await made.transport.stop()
        await made.listener.close()


async def test_a_managed_tor_serves_survives_its_own_death_and_ends_with_us(
    network: TorNetwork, tmp_path: Path
) -> None:
    async with node(network, tmp_path) as one:
        await one.until(lambda: one.is_reachable)
        (address,) = one.transport.status().addresses
        await says_back(one.transport, address)
        pid = one.pid
        os.kill(pid, signal.SIGKILL)
        await one.until(lambda: one.transport.status().state is not RoadState.UP)
        await one.until(lambda: one.is_reachable)
        assert one.pid != pid and one.transport.status().addresses == (address,)
        await says_back(one.transport, address)
        last = one.pid
    assert not lives(last)


async def test_its_onion_keeps_its_address_over_a_restart_of_the_node(
    network: TorNetwork, tmp_path: Path
) -> None:
    seen = []
    for _ in range(2):
        async with node(network, tmp_path) as one:
            await one.until(lambda: bool(one.transport.status().addresses))
            seen += one.transport.status().addresses
    assert len(seen) == 2 and seen[0] == seen[1]


async def says_back(transport: TorTransport, address: str) -> None:
    link = await transport.dial(address, peer=b"somebody")
    got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    link.start(got.set_result, lambda _reason: None)
    link.send(b"through Tor and back")
    async with asyncio.timeout(30):
        assert await got == b"through Tor and back"
    link.close()
