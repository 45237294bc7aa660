"""Keeps tor in reach and our onion published, for as long as the node runs; what fails is tried again.

A session lasts from a control port that lets us in until that connection is lost. Each session adds the onion
again with the same key, so the address outlives restarts of tor, of its control port and of the node.
"""

import asyncio
import random
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from protocol.transport import DialFailed, RoadState, RoadStatus
from transports.tor import onion_key
from transports.tor.control import Control, ControlFailed
from transports.tor.managed import ManagedTor
from transports.tor.settings import Mode, Settings
from transports.tor.socks import SocksDialler

log = structlog.get_logger()
FIRST_RETRY = 1.0
LONGEST_RETRY = 30.0
ALIVE_SECONDS = 30.0
"""How often tor is asked if it still answers and sees the network."""
FIRST_CHECK = 2.0
LONGEST_CHECK = 20.0
CHECK_AGAIN_SECONDS = 600.0
"""How often we dial our own onion while that goes well."""
CHECKS_BEFORE_ADDING_AGAIN = 10
SYSTEM_HINT = (
    "Install and start tor (on Debian: apt-get install tor) with ControlPort 9051 and CookieAuthentication 1 in "
    "/etc/tor/torrc, correct tor.socks and tor.control, or set tor.mode = managed"
)


class Keeper:
    """`socks` is where to dial now, None while there is nowhere."""

    def __init__(self, settings: Settings, directory: Path, dialler: SocksDialler) -> None:
        self._settings = settings
        self._directory = directory
        self._dialler = dialler
        self._managed = ManagedTor(directory, settings.options) if settings.mode is Mode.MANAGED else None
        self.socks: tuple[str, int] | None = None if self._managed else settings.socks
        self._target: str | None = None
        self._address: str | None = None
        self._state = RoadState.STARTING
        self._sentence = "Tor is being started" if self._managed else "Tor is being looked for"
        self._inbound = ""
        self._wake = asyncio.Event()
        self._lost = False
        self._running: asyncio.Task[None] | None = None

    def status(self) -> RoadStatus:
        addresses = (f"{self._address}:{self._settings.onion_port}",) if self._address else ()
        return RoadStatus(self._state, self._sentence, addresses, self._inbound)

    def serve(self, target: str) -> None:
        """The onion leads to this `host:port`. At most one."""
        if self._target is not None:
            raise ValueError(f"the onion leads to {self._target} already: tor listens at one address only")
        self._target = target
        self._wake.set()

    def start(self) -> None:
        self._running = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        if self._managed is not None:
            await self._managed.stop()

    async def _run(self) -> None:
        wait = FIRST_RETRY
        while True:
            began = time.monotonic()
            try:
                await self._session()
            except ControlFailed as error:
                await self._failed(str(error))
            except OSError as error:
                await self._failed(f"tor's files in {self._directory} cannot be used: {error}")
            except Exception as error:
                # A bug of ours must not leave the node without a road for ever.
                log.error("bug", part="tor", error=repr(error), exc_info=True)
                await self._failed(f"our Tor code failed on a bug ({error!r}): report it")
            if time.monotonic() - began > LONGEST_RETRY:
                wait = FIRST_RETRY
            await asyncio.sleep(wait * (0.75 + random.random() / 2))
            wait = min(2 * wait, LONGEST_RETRY)

    async def _failed(self, sentence: str) -> None:
        self._inbound = "off: no control port" if self._target else ""
        if self._managed is not None:
            self.socks = None
            self._say(RoadState.DOWN, sentence)
        elif await _answers(self._settings.socks):
            # Dialling needs no control port, so that a node without one is half a node, but a node.
            self._say(
                RoadState.UP, f"Tor dials, but makes no onion address for us: {sentence}. {SYSTEM_HINT}"
            )
        else:
            host, port = self._settings.socks
            self._say(
                RoadState.DOWN, f"{sentence}, and no SOCKS port answers at {host}:{port}. {SYSTEM_HINT}"
            )

    def _say(self, state: RoadState, sentence: str = "") -> None:
        if (state, sentence) == (self._state, self._sentence):
            return
        self._state, self._sentence = state, sentence
        if state is RoadState.UP and not sentence:
            log.info("tor_up")
        elif state is RoadState.STARTING:
            log.info("tor_starting", progress=sentence)
        else:
            log.warning("tor_trouble", state=state.value, what=sentence)

    # One session.

    async def _session(self) -> None:
        place = self._settings.control if self._managed is None else await self._managed.start()
        self._lost = False
        control = await Control.open(
            place, self._settings.password, on_lost=self._on_lost, on_published=self._on_published
        )
        try:
            await self._enter(control)
            await self._keep(control)
        finally:
            control.close()

    def _on_lost(self) -> None:
        self._lost = True
        self._wake.set()

    def _on_published(self, address: str) -> None:
        if address == self._address:
            log.debug("onion_published", address=address)
            self._wake.set()

    async def _enter(self, control: Control) -> None:
        if self._managed is not None:
            await control.own_this_tor()
            ports = await control.socks_ports()
            if not ports:
                raise ControlFailed("the managed tor opened no SOCKS port: look at tor.options")
        while True:
            bootstrap = await control.bootstrap()
            if bootstrap.percent == 100:
                break
            self._say(
                RoadState.STARTING,
                f"Tor is connecting to its network: {bootstrap.percent} %, {bootstrap.summary}",
            )
            await self._pause(1.0)
        if self._managed is not None:
            self.socks = ports[0]
        self._say(RoadState.UP)

    async def _keep(self, control: Control) -> None:
        """Until the connection is lost: ask if all is well, publish the onion, and dial it."""
        now = time.monotonic
        alive_at = now() + ALIVE_SECONDS
        check: _Check | None = None
        while True:
            if self._target is not None and check is None:
                await self._add_onion(control, self._target)
                check = _Check(now)
            if check is not None and check.due <= now():
                await self._check_onion(check)
                if check.failures >= CHECKS_BEFORE_ADDING_AGAIN:
                    raise ControlFailed(f"our onion cannot be reached and is added again ({self._inbound})")
            if alive_at <= now():
                await self._ask_for_network(control)
                alive_at = now() + ALIVE_SECONDS
            await self._pause(min(alive_at, check.due if check else alive_at) - now())

    async def _pause(self, seconds: float) -> None:
        """Shorter when something happens. ControlFailed when what happened is that the connection was lost."""
        try:
            async with asyncio.timeout(max(seconds, 0.05)):
                await self._wake.wait()
        except TimeoutError:
            pass
        self._wake.clear()
        if self._lost:
            raise ControlFailed("the connection to tor's control port was lost")

    async def _ask_for_network(self, control: Control) -> None:
        if await control.network_is_up():
            self._say(RoadState.UP)
        else:
            self._say(RoadState.UP, "Tor sees no network: is this machine connected?")

    async def _add_onion(self, control: Control, target: str) -> None:
        key = onion_key.load(self._directory)
        onion = await control.add_onion(key, self._settings.onion_port, target)
        if onion.key is not None:
            onion_key.save(self._directory, onion.key)
        self._address = onion.address
        self._inbound = "being published"
        log.info("onion_added", address=onion.address, proof_of_work=onion.proof_of_work)

    async def _check_onion(self, check: "_Check") -> None:
        """As a stranger would: through the network, by our own address."""
        if self._address is None or self.socks is None:
            raise RuntimeError("an onion is checked that was not added")
        try:
            link = await self._dialler.dial(self.socks, self._address, self._settings.onion_port, b"")
        except DialFailed as error:
            check.failed()
            if not check.is_new:
                self._inbound = f"not reachable: {error}"
                log.warning("onion_not_reachable", failures=check.failures, reason=str(error))
            return
        link.close()
        if self._inbound != "reachable":
            log.info("onion_reachable", address=self._address)
        self._inbound = "reachable"
        check.succeeded()


class _Check:
    """When our own onion is dialled: soon after it was added, then seldom."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wait = FIRST_CHECK
        self.due = clock() + FIRST_CHECK
        self.failures = 0

    @property
    def is_new(self) -> bool:
        """A descriptor needs a while until it is everywhere."""
        return self.failures <= 3

    def failed(self) -> None:
        self.failures += 1
        self.due = self._clock() + self._wait
        self._wait = min(2 * self._wait, LONGEST_CHECK)

    def succeeded(self) -> None:
        self.failures, self._wait = 0, FIRST_CHECK
        self.due = self._clock() + CHECK_AGAIN_SECONDS * (0.75 + random.random() / 2)


async def _answers(socks: tuple[str, int]) -> bool:
    """Does somebody there speak SOCKS5?"""
    try:
        async with asyncio.timeout(3):
            reader, writer = await asyncio.open_connection(*socks)
            try:
                writer.write(b"\x05\x01\x00")
                return (await reader.readexactly(2))[0] == 5
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
