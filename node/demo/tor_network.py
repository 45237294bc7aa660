"""A whole Tor network of our own on loopback (three authorities, three relays, some clients), for demo and tests.

Nothing leaves the machine: the only authorities that its tors know are made here, and no relay lets traffic out.
Needs the programs `tor` and `tor-gencert`, both in Debian's package tor.

Why it has this form: the authorities vote one fixed bandwidth for everyone, because the first measured relay
would otherwise get all the weight and no path with three different relays exists; and clients start only once
the consensus names all relays, because a client keeps its first consensus for long.
"""

import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from node.demo.stack import DemoFailed, free_port, wait_for

HOST = "127.0.0.1"
AUTHORITIES = 3
RELAYS = 3
VOTE_SECONDS = 10
START_SECONDS = 90.0
_GOOD_FLAGS = {"Guard", "HSDir", "Running"}


def missing() -> str | None:
    """What has to be installed first, as a sentence; None when all is there."""
    absent = [name for name in ("tor", "tor-gencert") if shutil.which(name) is None]
    if not absent:
        return None
    return f"{' and '.join(absent)} cannot be found: install Tor (on Debian: apt-get install tor)"


class Control:
    """The few commands of the control port that the network itself needs."""

    def __init__(self, port: int, cookie: Path) -> None:
        self._socket = socket.create_connection((HOST, port), 5)
        self._lines = self._socket.makefile("rb")
        self.ask(f"AUTHENTICATE {cookie.read_bytes().hex()}")

    def __enter__(self) -> "Control":
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, command: str) -> list[str]:
        self._socket.sendall(command.encode() + b"\r\n")
        answer: list[str] = []
        while True:
            line = self._line()
            answer.append(line[4:])
            if line[3:4] == "+":
                while (more := self._line()) != ".":
                    answer.append(more)
            elif line[3:4] == " ":
                if line[:2] != "25":
                    raise ConnectionError(f"{command.split()[0]} was answered with {line}")
                return answer

    def _line(self) -> str:
        line = self._lines.readline()
        if not line:
            raise ConnectionError("the control port was closed")
        return line.decode().rstrip("\r\n")


class Tor:
    """One tor process with its own directory."""

    def __init__(self, name: str, folder: Path, control_port: int) -> None:
        self.name = name
        self.data = folder / name
        self.data.mkdir(mode=0o700)
        self.control_port = control_port
        self.cookie = self.data / "control_auth_cookie"
        self.torrc = self.data / "torrc"
        self._process: subprocess.Popen[bytes] | None = None

    def write(self, lines: list[str]) -> None:
        common = [
            "TestingTorNetwork 1",
            f"Nickname {self.name}",
            f"DataDirectory {self.data}",
            f"Log notice file {self.data / 'notice.log'}",
            "AvoidDiskWrites 1",
            "ShutdownWaitLength 0",
            "PathsNeededToBuildCircuits 0.67",
            f"ControlPort {HOST}:{self.control_port}",
            "CookieAuthentication 1",
            "GeoIPFile /dev/null",
            "GeoIPv6File /dev/null",
            # It ends by itself when whoever started it is gone, even by kill -9.
            f"__OwningControllerProcess {os.getpid()}",
        ]
        self.torrc.write_text("\n".join([*common, *lines]) + "\n")

    def start(self) -> None:
        with (self.data / "stdout.log").open("ab") as output:
            self._process = subprocess.Popen(
                ["tor", "-f", str(self.torrc), "--defaults-torrc", "/dev/null"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def check(self) -> None:
        if self._process is None or self._process.poll() is not None:
            raise DemoFailed(f"{self.name} of the private Tor network ended: see {self.data}/*.log")

    def control(self) -> Control:
        return Control(self.control_port, self.cookie)

    @property
    def is_bootstrapped(self) -> bool:
        self.check()
        with suppress(OSError), self.control() as control:
            return "PROGRESS=100" in control.ask("GETINFO status/bootstrap-phase")[0]
        return False

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(8)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


@dataclass(frozen=True, slots=True)
class _Relay:
    tor: Tor
    or_port: int
    dir_port: int
    is_authority: bool
    fingerprint: str
    directory_line: str


class TorNetwork:
    """Used as a context, it leaves no process behind. `clients` are tors with a SOCKS and a control port."""

    def __init__(self, folder: Path, clients: int = 2) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._relays: list[_Relay] = []
        self.clients: list[Tor] = []
        self.socks_ports: list[int] = []
        self._wanted_clients = clients
        self.seconds = 0.0
        """How long the last start took."""

    def __enter__(self) -> "TorNetwork":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def client_lines(self) -> list[str]:
        """What makes a tor use this network and no other."""
        return [
            "ClientOnly 1",
            # With so few relays one fixed guard, or vanguards, can leave no path at all.
            "UseEntryGuards 0",
            "VanguardsLiteEnabled 0",
            *(relay.directory_line for relay in self._relays if relay.is_authority),
        ]

    @property
    def managed_options(self) -> list[str]:
        """The same, for a tor that `lnpd` starts (its setting `tor.options`)."""
        return [
            "TestingTorNetwork 1",
            "PathsNeededToBuildCircuits 0.67",
            "GeoIPFile /dev/null",
            "GeoIPv6File /dev/null",
            *self.client_lines,
        ]

    def start(self) -> None:
        sentence = missing()
        if sentence is not None:
            raise DemoFailed(sentence)
        began = time.monotonic()
        for number in range(AUTHORITIES + RELAYS):
            self._relays.append(self._make_relay(number))
        self._write_relays()
        for relay in self._relays:
            relay.tor.start()
        self._wait("all relays to be in the consensus", self._consensus_is_whole, began)
        for number in range(self._wanted_clients):
            self._make_client(number).start()
        for client in self.clients:
            self._wait(
                f"{client.name} to know the network",
                lambda: client.is_bootstrapped,  # noqa: B023  asked before the next turn of the loop
                began,
            )
        self.seconds = time.monotonic() - began

    def restart_client(self, number: int) -> None:
        """Returns once the tor knows the network again."""
        client = self.clients[number]
        client.stop()
        client.start()
        self._wait(f"{client.name} to be back", lambda: client.is_bootstrapped, time.monotonic())

    def stop(self) -> None:
        for client in self.clients:
            client.stop()
        for relay in self._relays:
            relay.tor.stop()

    def _wait(self, what: str, seen: object, began: float) -> None:
        assert callable(seen)  # noqa: S101  narrows the type
        left = START_SECONDS - (time.monotonic() - began)
        wait_for(f"{what} (logs: {self.folder}/*/notice.log)", seen, seconds=max(left, 1.0), every=0.2)

    def _make_relay(self, number: int) -> _Relay:
        is_authority = number < AUTHORITIES
        name = f"authority{number}" if is_authority else f"relay{number - AUTHORITIES}"
        or_port, dir_port, control_port = free_port(), free_port(), free_port()
        tor = Tor(name, self.folder, control_port)
        v3ident = _authority_keys(tor.data, dir_port) if is_authority else ""
        fingerprint = _fingerprint(tor, or_port)
        line = f"DirAuthority {name} orport={or_port} no-v2 v3ident={v3ident} {HOST}:{dir_port} {fingerprint}"
        return _Relay(tor, or_port, dir_port, is_authority, fingerprint, line)

    def _write_relays(self) -> None:
        bandwidths = self.folder / "bandwidths"
        rows = (f"node_id=${relay.fingerprint} bw=1000 nick={relay.tor.name}\n" for relay in self._relays)
        bandwidths.write_text(f"{int(time.time())}\n" + "".join(rows))
        known = [relay.directory_line for relay in self._relays if relay.is_authority]
        for relay in self._relays:
            lines = [
                *known,
                f"Address {HOST}",
                f"ORPort {HOST}:{relay.or_port}",
                f"DirPort {HOST}:{relay.dir_port}",
                "SocksPort 0",
                "ExitRelay 0",
                "ExitPolicy reject *:*",
                "AssumeReachable 1",
                "NumCPUs 1",
                "MaxMemInQueues 256 MB",
            ]
            if relay.is_authority:
                lines += _authority_lines(relay.tor.name, bandwidths)
            relay.tor.write(lines)

    def _consensus_is_whole(self) -> bool:
        for relay in self._relays:
            relay.tor.check()
        with suppress(OSError), self._relays[0].tor.control() as control:
            flags = [set(line.split()) for line in control.ask("GETINFO ns/all") if line.startswith("s ")]
            return sum(flags_of >= _GOOD_FLAGS for flags_of in flags) == len(self._relays)
        return False

    def _make_client(self, number: int) -> Tor:
        socks_port, control_port = free_port(), free_port()
        client = Tor(f"client{number}", self.folder, control_port)
        client.write(
            [
                *self.client_lines,
                f"SocksPort {HOST}:{socks_port} ExtendedErrors",
                f"CookieAuthFile {client.cookie}",
            ]
        )
        self.clients.append(client)
        self.socks_ports.append(socks_port)
        return client


def _authority_lines(name: str, bandwidths: Path) -> list[str]:
    half = VOTE_SECONDS // 5
    return [
        "AuthoritativeDirectory 1",
        "V3AuthoritativeDirectory 1",
        f"ContactInfo {name}@private.invalid",
        "TestingV3AuthInitialVotingInterval 5",
        f"TestingV3AuthInitialVoteDelay {half}",
        f"TestingV3AuthInitialDistDelay {half}",
        f"V3AuthVotingInterval {VOTE_SECONDS}",
        f"V3AuthVoteDelay {half}",
        f"V3AuthDistDelay {half}",
        "V3AuthNIntervalsValid 3",
        "TestingDirAuthVoteGuard *",
        "TestingDirAuthVoteHSDir *",
        "TestingDirAuthVoteExit *",
        "TestingMinExitFlagThreshold 0",
        f"V3BandwidthsFile {bandwidths}",
    ]


def _authority_keys(data: Path, dir_port: int) -> str:
    """Makes the keys of a directory authority; returns the fingerprint of its identity."""
    keys = data / "keys"
    keys.mkdir(mode=0o700)
    certificate = keys / "authority_certificate"
    _run(
        [
            *("tor-gencert", "--create-identity-key", "--passphrase-fd", "0", "-m", "12"),
            *("-a", f"{HOST}:{dir_port}"),
            *("-i", str(keys / "authority_identity_key"), "-s", str(keys / "authority_signing_key")),
            *("-c", str(certificate)),
        ],
        secrets.token_hex(8) + "\n",
    )
    for line in certificate.read_text().splitlines():
        word, _, value = line.partition(" ")
        if word == "fingerprint":
            return value.strip()
    raise DemoFailed(f"{certificate} names no fingerprint")


def _fingerprint(tor: Tor, or_port: int) -> str:
    nobody = "0" * 39 + "1"
    said = _run(
        [
            *("tor", "--quiet", "--ignore-missing-torrc", "-f", "/dev/null", "--list-fingerprint"),
            *("--DataDirectory", str(tor.data), "--Nickname", tor.name),
            *("--TestingTorNetwork", "1", "--AssumeReachable", "1", "--Address", HOST),
            *("--ORPort", f"{HOST}:{or_port}"),
            # Without an authority of our own it would want to know the public ones.
            *("--DirAuthority", f"nobody orport=1 v3ident={nobody} {HOST}:1 {nobody}"),
        ],
        "",
    )
    return "".join(said.split()[1:])


def _run(command: list[str], words: str) -> str:
    done = subprocess.run(command, input=words, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise DemoFailed(f"{command[0]} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout


@contextmanager
def running(folder: Path, clients: int = 2) -> Iterator[TorNetwork]:
    """A network that is up. One start in some dozens finds no path in time, so a second one is tried."""
    for attempt in range(2):
        with TorNetwork(folder / f"tor{attempt}", clients) as network:
            try:
                network.start()
            except DemoFailed:
                if attempt or missing() is not None:
                    raise
                continue
            yield network
            return
