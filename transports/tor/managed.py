"""A tor of our own: started by the node, used by it alone, ended with it (`tor.mode = managed`)."""

import asyncio
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import structlog

from transports.tor.control import ControlFailed
from transports.tor.settings import TcpControl

log = structlog.get_logger()
START_SECONDS = 30.0
STOP_SECONDS = 8.0
POLL_SECONDS = 0.1
INSTALL = (
    "the program tor is not installed. Install it (on Debian: apt-get install tor), or set tor.mode = system with "
    "tor.socks and tor.control of a tor that runs already"
)


class ManagedTor:
    """Everything of it is in one directory, which only we may read."""

    def __init__(self, directory: Path, options: Sequence[str] = ()) -> None:
        self._directory = directory
        self._options = tuple(options)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None or self._process.returncode is not None else self._process.pid

    async def start(self) -> TcpControl:
        """Where its control port is. A tor that runs is kept. ControlFailed says why there is none."""
        if self.pid is not None and (place := self._control_place()) is not None:
            return place
        await self.stop()
        program = shutil.which("tor")
        if program is None:
            raise ControlFailed(INSTALL)
        try:
            torrc = self._write_torrc()
            with self._startup_log.open("wb") as output:
                self._process = await asyncio.create_subprocess_exec(
                    program,
                    *("-f", str(torrc), "--defaults-torrc", os.devnull),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is for the node, which ends it in its own time
                )
        except OSError as error:
            raise ControlFailed(f"tor cannot be started in {self._directory}: {error}") from error
        log.info("tor_started", pid=self._process.pid, log=str(self._log))
        return await self._wait_for_control(self._process)

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

    @property
    def _log(self) -> Path:
        return self._directory / "notice.log"

    @property
    def _startup_log(self) -> Path:
        """What it says before it has read where its log is, such as that a line of torrc is wrong."""
        return self._directory / "startup.log"

    @property
    def _port_file(self) -> Path:
        return self._directory / "control-port"

    def _write_torrc(self) -> Path:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._port_file.unlink(missing_ok=True)
        lines = [
            "# Written by lnpd at each start: use tor.options in lnp.toml.",
            f"DataDirectory {_quoted(self._directory / 'data')}",
            f"Log {_quoted(f'notice file {self._log}')}",  # a quote may only open the whole value
            "TruncateLogFile 1",
            "ClientOnly 1",
            "AvoidDiskWrites 1",
            # The extended errors tell a peer that is offline from a network that is slow.
            "SocksPort 127.0.0.1:auto ExtendedErrors",
            "ControlPort 127.0.0.1:auto",
            f"ControlPortWriteToFile {_quoted(self._port_file)}",
            "CookieAuthentication 1",
            f"CookieAuthFile {_quoted(self._directory / 'cookie')}",
            f"__OwningControllerProcess {os.getpid()}",
            *self._options,
        ]
        torrc = self._directory / "torrc"
        with open(os.open(torrc, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write("\n".join(lines) + "\n")
        return torrc

    async def _wait_for_control(self, process: asyncio.subprocess.Process) -> TcpControl:
        try:
            async with asyncio.timeout(START_SECONDS):
                while True:
                    if process.returncode is not None:
                        raise ControlFailed(
                            f"tor ended at once (code {process.returncode}); it said: {self._last_words()}"
                        )
                    place = self._control_place()
                    if place is not None:
                        return place
                    await asyncio.sleep(POLL_SECONDS)  # a file of another program: nobody tells when it comes
        except TimeoutError:
            await self.stop()
            raise ControlFailed(
                f"tor opened no control port within {START_SECONDS:.0f} s: look in {self._log}"
            ) from None

    def _control_place(self) -> TcpControl | None:
        try:
            words = self._port_file.read_text().strip()
        except OSError:
            return None
        host, _, port = words.removeprefix("PORT=").rpartition(":")
        return TcpControl(host, int(port)) if host and port.isdigit() else None

    def _last_words(self) -> str:
        lines: list[str] = []
        for log_file in (self._log, self._startup_log):
            if log_file.exists():
                lines += log_file.read_text(errors="replace").splitlines()
        bad = [line.partition("] ")[2] for line in lines if "[err]" in line or "[warn]" in line]
        return " / ".join(bad[-3:]) or f"nothing; look at {self._startup_log}"


def _quoted(value: object) -> str:
    """torrc takes strings as C writes them."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
