"""A tor that answers as the test says: a control port and a SOCKS port, each on a free port of loopback."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

ANSWERED = 0x00


def onion_address(seed: int) -> str:
    key = bytes([seed]) * 32
    checksum = hashlib.sha3_256(b".onion checksum" + key + b"\x03").digest()[:2]
    return base64.b32encode(key + checksum + b"\x03").decode().lower() + ".onion"


ONION = onion_address(7)
NOBODY = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
"""The Tor project's own site, a real key (those above are none), and nobody in a private network."""
KEY = "ED25519-V3:" + base64.b64encode(bytes(range(64))).decode()


class FakeSocks:
    """Answers each request with `code`; a granted one is an echo."""

    def __init__(self) -> None:
        self.code = ANSWERED
        self.requests: list[tuple[str, str, str, int]] = []
        """User, password, host as sent, port."""
        self.silent = False
        self.garbage = b""
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.garbage:
            await reader.read(64)  # unread bytes would turn our closing into a reset
            writer.write(self.garbage)
            return
        _, count = await reader.readexactly(2)
        methods = await reader.readexactly(count)
        if 2 not in methods:
            writer.write(b"\x05\x00")
            return
        writer.write(b"\x05\x02")
        user = await self._counted(reader, skip=1)
        password = await self._counted(reader)
        writer.write(b"\x01\x00")
        _, _, _, kind = await reader.readexactly(4)
        host = (
            (await self._counted(reader)).decode()
            if kind == 3
            else ".".join(str(byte) for byte in await reader.readexactly({1: 4, 4: 16}[kind]))
        )
        port = int.from_bytes(await reader.readexactly(2), "big")
        self.requests.append((user.decode(), password.decode(), host, port))
        if self.silent:
            await reader.read()
        writer.write(bytes([5, self.code, 0, 1, 0, 0, 0, 0, 0, 0]))
        while self.code == ANSWERED and (data := await reader.read(65536)):
            writer.write(data)

    @staticmethod
    async def _counted(reader: asyncio.StreamReader, skip: int = 0) -> bytes:
        head = await reader.readexactly(skip + 1)
        return await reader.readexactly(head[-1])


class FakeControl:
    """The commands that we use. `refuse` maps the first word of a command to an answer."""

    def __init__(self) -> None:
        self.port = 0
        self.password = ""
        self.progress = 100
        self.network = "up"
        self.refuse: dict[str, str] = {}
        self.commands: list[str] = []
        self.knows_proof_of_work = True
        self.hang = False
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self, port: int = 0) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuses new connections and ends those that are."""
        if self._server is not None:
            self._server.close()
        self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    def say_published(self) -> None:
        for writer in self._writers:
            label = ONION.removesuffix(".onion")
            writer.write(f"650 HS_DESC UPLOADED {label} UNKNOWN {'$' + 'A' * 40}\r\n".encode())

    @property
    def added(self) -> list[str]:
        return [command for command in self.commands if command.startswith("ADD_ONION")]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while line := await reader.readline():
                command = line.decode().strip()
                self.commands.append(command)
                if self.hang:
                    continue
                writer.write(self._answer(command).replace("\n", "\r\n").encode())
        except OSError:
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def _answer(self, command: str) -> str:
        word = command.split()[0]
        if word in self.refuse:
            return self.refuse[word] + "\n"
        match word:
            case "PROTOCOLINFO":
                method = "HASHEDPASSWORD" if self.password else "NULL"
                return f'250-PROTOCOLINFO 1\n250-AUTH METHODS={method}\n250-VERSION Tor="0.4.9.11"\n250 OK\n'
            case "AUTHENTICATE":
                good = not self.password or f'"{self.password}"' in command
                return "250 OK\n" if good else "515 Authentication failed\n"
            case "GETINFO":
                return self._info(command.split()[1])
            case "GETCONF":
                return f"250 {command.split()[1]}\n"
            case "ADD_ONION":
                if "PoWDefensesEnabled" in command and not self.knows_proof_of_work:
                    return "512 Unrecognized argument\n"
                label = ONION.removesuffix(".onion")
                key = f"250-PrivateKey={KEY}\n" if "NEW:" in command else ""
                return f"250-ServiceID={label}\n{key}250 OK\n"
            case _:
                return "250 OK\n"

    def _info(self, what: str) -> str:
        values = {
            "version": "0.4.9.11",
            "status/bootstrap-phase": f'NOTICE BOOTSTRAP PROGRESS={self.progress} TAG=x SUMMARY="Loading things"',
            "network-liveness": self.network,
            "net/listeners/socks": '"127.0.0.1:9150" "unix:/x"',
        }
        return f"250-{what}={values[what]}\n250 OK\n" if what in values else "552 Unrecognized key\n"


@asynccontextmanager
async def fake_tor() -> AsyncIterator[tuple[FakeControl, FakeSocks]]:
    control, socks = FakeControl(), FakeSocks()
    await control.start()
    await socks.start()
    try:
        yield control, socks
    finally:
        await control.stop()
        await socks.stop()
