"""The connection to an Electrum server: JSON-RPC, one line a message (Electrum protocol 1.4, "Protocol Basics").

Plain TCP is for this machine and for onion addresses; everything else is TLS, with a certificate that an authority
vouches for, or the one that was seen at the first connection. The line opens itself when it is needed.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import Struct
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.asyncio import Proxy

from node.chain.backend import BackendAway, BackendUnusable

CLIENT = "lnp"
PROTOCOL = "1.4"
PATIENCE = 30.0
MAX_LINE = 16 * 1024 * 1024
AT_ONCE = 64
"""Questions that are under way together; a server that is asked more at once slows us down."""


class ServerRefused(Exception):
    """The server's own words for an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Plain(Struct, frozen=True):
    """No TLS."""


class Pinned(Struct, frozen=True):
    """TLS with the certificate of the first connection; `path` keeps its fingerprint for each server."""

    path: Path


class Authority(Struct, frozen=True):
    """TLS with a certificate from an authority of this system, or from those in `ca_file`."""

    ca_file: str = ""


class Place(Struct, frozen=True):
    """Where a server is; `socks` (host, port) leads there through a proxy, which resolves the name too."""

    host: str
    port: int
    trust: Plain | Pinned | Authority
    socks: tuple[str, int] | None = None

    def __str__(self) -> str:
        scheme = "tcp" if isinstance(self.trust, Plain) else "ssl"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


class ElectrumLine:
    """`heard` gets the server's notices; `lost` is called when an open line breaks."""

    def __init__(
        self,
        place: Place,
        *,
        heard: Callable[[str], None],
        lost: Callable[[], None],
        patience: float = PATIENCE,
    ) -> None:
        self.place = place
        self._heard = heard
        self._lost = lost
        self._patience = patience
        self._opening = asyncio.Lock()
        self._at_once = asyncio.Semaphore(AT_ONCE)
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._number = 0

    async def call(self, method: str, *params: Any) -> Any:
        """JSON of unknown shape. Raises BackendAway, BackendUnusable, ServerRefused."""
        async with self._at_once:
            try:
                async with asyncio.timeout(self._patience):
                    await self._open()
                    return await self._ask(method, params)
            except TimeoutError as error:
                await self.close()  # whatever hangs, a new line has the better chance
                raise BackendAway(
                    f"the Electrum server at {self.place} does not answer within {self._patience:g} s. "
                    "Check that it runs."
                ) from error

    async def close(self) -> None:
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    # Opening.

    async def _open(self) -> None:
        async with self._opening:
            if self._writer is not None:
                return
            try:
                reader, writer = await self._connect()
            except ssl.SSLCertVerificationError as error:
                raise BackendUnusable(
                    f"the certificate of the Electrum server at {self.place} is not good: {error.verify_message}. "
                    'Set electrum.trust = "pin" if it signs its own, or use another server.'
                ) from error
            except (OSError, ProxyError, ProxyConnectionError, ProxyTimeoutError) as error:
                raise BackendAway(
                    f"the Electrum server at {self.place} does not answer: {error}. "
                    "Start it, or correct its address in lnp.toml."
                ) from error
            self._writer = writer
            self._reading = asyncio.create_task(self._read(reader, writer))
            # The first words on every line; the server ends it when it does not speak our version.
            try:
                await self._ask("server.version", (CLIENT, PROTOCOL))
            except BaseException as error:
                await self.close()  # no line on which this was not said first
                if not isinstance(error, ServerRefused):
                    raise
                raise BackendUnusable(
                    f"the Electrum server at {self.place} does not speak version {PROTOCOL}: "
                    f"{error.message}. Use a newer one."
                ) from error

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        place = self.place
        context = _context(place.trust)
        options: dict[str, Any] = {"limit": MAX_LINE}
        if context is not None:
            options["ssl"] = context
        if place.socks is None:
            reader, writer = await asyncio.open_connection(place.host, place.port, **options)
        else:
            # A user of its own: Tor then gives this line a circuit that it shares with nothing else of ours.
            proxy = Proxy(ProxyType.SOCKS5, *place.socks, username="electrum", password="electrum", rdns=True)
            through = await proxy.connect(place.host, place.port, timeout=self._patience)
            if context is not None:
                options["server_hostname"] = place.host
            reader, writer = await asyncio.open_connection(sock=through, **options)
        if isinstance(place.trust, Pinned):
            try:
                _check_pin(place, place.trust.path, writer.get_extra_info("ssl_object").getpeercert(True))
            except BaseException:
                writer.transport.abort()
                raise
        return reader, writer

    # Talking.

    async def _ask(self, method: str, params: tuple[Any, ...]) -> Any:
        if self._writer is None:
            raise self._broken("it hung up")
        self._number += 1
        number = self._number
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        request = {"jsonrpc": "2.0", "id": number, "method": method, "params": params}
        self._writer.write(json.dumps(request).encode() + b"\n")
        try:
            return await answer
        finally:
            self._asked.pop(number, None)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        why = "it hung up"
        try:
            while line := await reader.readline():
                self._take(line)
        except (OSError, ValueError, RecursionError) as error:
            why = f"it broke the line ({error})"
        finally:
            self._writer = None
            writer.transport.abort()
            for answer in self._asked.values():
                if not answer.done():
                    answer.set_exception(self._broken(why))
            self._asked.clear()
        self._lost()

    def _take(self, line: bytes) -> None:
        """Raises ValueError for what is not of this protocol: then nothing on this line is to be trusted."""
        message = json.loads(line)
        if not isinstance(message, dict):
            raise ValueError("it speaks another protocol")
        if "id" not in message:
            self._heard(str(message.get("method")))
            return
        answer = self._asked.get(message["id"]) if isinstance(message["id"], int) else None
        if answer is None or answer.done():
            return
        error = message.get("error")
        if error is None:
            answer.set_result(message.get("result"))
            return
        code = error.get("code") if isinstance(error, dict) else None
        text = error.get("message") if isinstance(error, dict) else error
        answer.set_exception(ServerRefused(code if isinstance(code, int) else 0, str(text)[:500]))

    def _broken(self, why: str) -> BackendAway:
        return BackendAway(f"the Electrum server at {self.place} does not answer: {why}. We try again.")


def _context(trust: Plain | Pinned | Authority) -> ssl.SSLContext | None:
    if isinstance(trust, Plain):
        return None
    if isinstance(trust, Authority):
        return ssl.create_default_context(cafile=trust.ca_file or None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the pin is compared instead, before anything is said
    return context


def _check_pin(place: Place, path: Path, certificate: bytes | None) -> None:
    """The first certificate of a server is kept; raises BackendUnusable for another one later."""
    seen = hashlib.sha256(certificate or b"").hexdigest()
    server = f"{place.host}:{place.port}"
    try:
        pins = json.loads(path.read_text())
    except FileNotFoundError:
        pins = {}
    except ValueError as error:
        raise BackendUnusable(f"{path} is broken: {error}. Remove it to learn certificates anew.") from error
    kept = pins.setdefault(server, seen)
    if kept != seen:
        raise BackendUnusable(
            f"the Electrum server {server} shows another certificate than before (now {seen}). If its owner "
            f"says that it was renewed, remove {path}; if not, somebody stands in between."
        )
    part = path.with_suffix(".part")
    with contextlib.suppress(FileNotFoundError):
        part.unlink()
    with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(pins, file)
    part.replace(path)
