"""Tor's control port, by stem: the one place that knows it (Tor control-spec, ADD_ONION and PROTOCOLINFO).

stem blocks, so each call runs in a thread of its own. Calls are few, one in some seconds, and a thread that
hangs on a dead tor holds up neither the loop nor the end of the program.
"""

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, assert_never

import stem
import stem.connection
from stem.control import Controller, EventType, State

from protocol.errors import ProtocolError
from protocol.secret import Secret
from transports.tor.settings import ControlPlace, TcpControl, UnixControl

logging.getLogger("stem").disabled = True
"""stem writes down every command, and ADD_ONION holds our key."""
CALL_SECONDS = 30.0
_UNKNOWN_WORD = ("512", "513")
"""What a tor answers that does not know PoWDefensesEnabled, or was built without it."""

T = TypeVar("T")


class ControlFailed(ProtocolError):
    """The control port did not do what we need; the sentence says what to do."""


@dataclass(frozen=True, slots=True)
class Onion:
    address: str
    key: Secret | None
    """As ADD_ONION takes it again; None where we gave it."""
    proof_of_work: bool
    """Callers must solve puzzles while we are flooded."""


@dataclass(frozen=True, slots=True)
class Bootstrap:
    percent: int
    summary: str


async def _in_thread(work: Callable[[], T]) -> T:
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: object) -> None:
        if not outcome.done():
            set_it(value)

    def run() -> None:
        try:
            result = work()
        except Exception as error:
            _tell(loop, lambda error=error: settle(outcome.set_exception, error))  # type: ignore[misc]
        else:
            _tell(loop, lambda: settle(outcome.set_result, result))

    threading.Thread(target=run, name="tor-control", daemon=True).start()
    return await outcome


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> None:
    try:
        loop.call_soon_threadsafe(call)
    except RuntimeError:
        pass  # the loop is closed: the program ends, and nobody waits any more


class Control:
    """An authenticated connection. The onions that it added live as long as it does."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller

    @classmethod
    async def open(
        cls,
        place: ControlPlace,
        password: Secret,
        *,
        on_lost: Callable[[], None],
        on_published: Callable[[str], None],
    ) -> "Control":
        """Both are called in the loop. `on_published`: a directory took the descriptor of this onion address."""
        loop = asyncio.get_running_loop()

        def connect() -> Controller:
            match place:
                case TcpControl():
                    controller = Controller.from_port(place.host, place.port)
                case UnixControl():
                    controller = Controller.from_socket_file(place.path)
                case _:
                    assert_never(place)
            try:
                words = password.reveal().decode() if len(password) else None
                controller.authenticate(password=words)

                def on_state(_controller: object, state: object, _when: object) -> None:
                    if state == State.CLOSED:
                        _tell(loop, on_lost)

                def on_descriptor(event: Any) -> None:
                    if str(event.action) == "UPLOADED":
                        _tell(loop, lambda: on_published(f"{event.address}.onion"))

                controller.add_status_listener(on_state)
                controller.add_event_listener(on_descriptor, EventType.HS_DESC)
            except BaseException:
                controller.close()
                raise
            return controller

        return cls(await _guarded(connect, f"Tor's control port {_written(place)}"))

    def close(self) -> None:
        """Our onions end with it; connections that came in by them stay."""
        threading.Thread(target=self._controller.close, name="tor-control-close", daemon=True).start()

    async def bootstrap(self) -> Bootstrap:
        said = await self._ask("GETINFO status/bootstrap-phase")
        words = _keywords(said[0])
        percent = words.get("PROGRESS", "")
        return Bootstrap(int(percent) if percent.isdigit() else 0, words.get("SUMMARY", ""))

    async def network_is_up(self) -> bool:
        return (await self._ask("GETINFO network-liveness"))[0] == "network-liveness=up"

    async def socks_ports(self) -> list[tuple[str, int]]:
        said = await self._ask("GETINFO net/listeners/socks")
        found: list[tuple[str, int]] = []
        for word in said[0].partition("=")[2].split():
            host, _, port = word.strip('"').rpartition(":")
            if host and port.isdigit():
                found.append((host.strip("[]"), int(port)))
        return found

    async def own_this_tor(self) -> None:
        """It ends when this connection does, so that a crash leaves no tor behind."""
        await self._ask("TAKEOWNERSHIP")

    async def add_onion(self, key: Secret | None, port: int, target: str) -> Onion:
        """Publishes an onion service, with a new key where none is given."""
        what = "NEW:ED25519-V3" if key is None else key.reveal().decode()
        for proof_of_work in (True, False):
            defence = " PoWDefensesEnabled=1" if proof_of_work else ""
            try:
                said = await self._ask(f"ADD_ONION {what}{defence} Port={port},{target}", name="ADD_ONION")
            except _Refused as refused:
                if proof_of_work and refused.code in _UNKNOWN_WORD:
                    continue
                raise
            words = dict(line.partition("=")[::2] for line in said)
            new_key = Secret(words["PrivateKey"].encode()) if "PrivateKey" in words else None
            return Onion(f"{words['ServiceID']}.onion", new_key, proof_of_work)
        raise ControlFailed("this tor makes no onion service of version 3. Install tor 0.4.8 or newer")

    async def _ask(self, command: str, name: str = "") -> list[str]:
        """The lines of a good answer. `name` stands for a command that holds a secret."""

        def ask() -> list[str]:
            answer = self._controller.msg(command)
            lines = [(code, text) for code, _, text in answer.content()]
            code, text = lines[-1]
            if not code.startswith("2"):
                raise _Refused(name or command, code, text)
            return [text for _, text in lines]

        return await _guarded(ask, f"Tor's answer to {name or command}")


class _Refused(ControlFailed):
    def __init__(self, command: str, code: str, text: str) -> None:
        super().__init__(f"tor refused {command}: {code} {text}")
        self.code = code


async def _guarded(work: Callable[[], T], what: str) -> T:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            return await _in_thread(work)
    except TimeoutError:
        raise ControlFailed(
            f"{what} did not come within {CALL_SECONDS:.0f} s: tor hangs. Restart it"
        ) from None
    except stem.connection.AuthenticationFailure as error:
        raise ControlFailed(_why_not_let_in(error)) from error
    except stem.SocketError as error:
        raise ControlFailed(f"{what} cannot be had: {error or 'the connection was closed'}") from error
    except (stem.ControllerError, KeyError, ValueError) as error:
        raise ControlFailed(f"{what} is not what we understand: {error!r}") from error


def _why_not_let_in(error: Exception) -> str:
    match error:
        case stem.connection.MissingPassword():
            return "tor's control port wants a password. Set tor.password"
        case stem.connection.IncorrectPassword():
            return "tor's control port does not take our password. Correct tor.password"
        case stem.connection.UnreadableCookieFile():
            return (
                f"tor's cookie file cannot be read ({error}). Let this user into tor's group (on Debian: adduser "
                "USER debian-tor) and set CookieAuthFileGroupReadable 1 in torrc, or use tor.password"
            )
        case stem.connection.IncorrectCookieSize() | stem.connection.IncorrectCookieValue():
            return f"tor does not take its own cookie ({error}). Is it the cookie of another tor?"
        case stem.connection.NoAuthCookie() | stem.connection.NoAuthMethods():
            return "tor's control port offers no way in. Set CookieAuthentication 1 in its torrc"
        case stem.connection.IncorrectSocketType():
            return "that port is not a control port. tor.control is the one after ControlPort in torrc"
        case _:
            return f"tor's control port does not let us in: {error}"


def _keywords(line: str) -> dict[str, str]:
    """`KEY=value KEY="some words"`."""
    found: dict[str, str] = {}
    rest = line
    while rest:
        word, _, rest = rest.lstrip().partition("=")
        key = word.split()[-1] if word.split() else ""
        if rest.startswith('"'):
            value, _, rest = rest[1:].partition('"')
        else:
            value, _, rest = rest.partition(" ")
        if key:
            found[key] = value
    return found


def _written(place: ControlPlace) -> str:
    match place:
        case TcpControl():
            return f"{place.host}:{place.port}"
        case UnixControl():
            return place.path
        case _:
            assert_never(place)
