"""A chain and nodes with their signers, each a process of its own, on loopback: for the demo, the bench and tests.

Readiness is a file that the program writes when it serves, or a state that is polled; nothing sleeps for luck.
Every process that is started here is ended here, by its pid.
"""

import base64
import contextlib
import json
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import IO, Any

PASSPHRASE = b"demo passphrase"
NETWORK = "regtest"
POLL_SECONDS = 0.02
MINER = "bcrt1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqdku202"


class DemoFailed(Exception):
    """A step did not come about; the text says which, and where the logs are."""


class RpcRefused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{message} (code {code})")
        self.code = code


def wait_for(
    what: str, seen: Callable[[], Any], *, seconds: float = 60.0, every: float = POLL_SECONDS
) -> Any:
    """Polls until `seen` answers something true, and returns that."""
    end = time.monotonic() + seconds
    while True:
        found = seen()
        if found:
            return found
        if time.monotonic() > end:
            raise DemoFailed(f"{what}: not within {seconds:g} seconds")
        time.sleep(every)


class Program:
    """One process of ours, its log file and its ready file."""

    def __init__(self, name: str, folder: Path, ready: Path) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.ready = ready
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise DemoFailed(f"{self.name} is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_end(self, seconds: float) -> int:
        """The exit code of a program that ends by itself."""
        if self._process is None:
            raise DemoFailed(f"{self.name} is not running")
        return self._process.wait(seconds)

    def start(self, module: str, *arguments: str, passphrase: bool = False) -> None:
        self.ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", module, *arguments]
        with self.log.open("ab") as log, _secret_pipe(passphrase) as (descriptor, extra):
            passed = () if descriptor is None else (descriptor,)
            self._process = subprocess.Popen(
                [*command, *extra],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=passed,
                start_new_session=True,
            )

    def wait_ready(self, seconds: float = 60.0) -> dict[str, Any]:
        def seen() -> dict[str, Any] | None:
            if self._process is None or self._process.poll() is not None:
                raise DemoFailed(f"{self.name} ended. Its log {self.log} says:\n{self.tail()}")
            if not self.ready.exists():
                return None
            found: dict[str, Any] = json.loads(self.ready.read_text())
            return found if found.get("pid") == self._process.pid else None

        found: dict[str, Any] = wait_for(f"{self.name} to be ready (log: {self.log})", seen, seconds=seconds)
        return found

    def tail(self, lines: int = 15) -> str:
        with contextlib.suppress(OSError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def kill(self) -> None:
        """kill -9: the process gets no chance to tidy up."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(15)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None


@contextlib.contextmanager
def _secret_pipe(wanted: bool) -> Iterator[tuple[int | None, tuple[str, ...]]]:
    """A pipe that holds the passphrase, so that it is no argument and no file."""
    if not wanted:
        yield None, ()
        return
    reading, writing = os.pipe()
    os.write(writing, PASSPHRASE)
    os.close(writing)
    try:
        yield reading, ("--passphrase-fd", str(reading))
    finally:
        os.close(reading)


def run(
    module: str, *arguments: str, passphrase: bool = False, words_away: bool = False, log: IO[bytes]
) -> str:
    """A command that ends by itself; its output. `words_away`: the new seed's words go to nobody (play money)."""
    with _secret_pipe(passphrase) as (descriptor, extra), open(os.devnull, "wb") as nowhere:
        passed = [nowhere.fileno()] if descriptor is None else [descriptor, nowhere.fileno()]
        if words_away:
            extra = (*extra, "--words-fd", str(nowhere.fileno()))
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments, *extra],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=passed,
            check=False,
        )
    if done.returncode != 0:
        raise DemoFailed(f"{module} {' '.join(arguments)} failed; its words are in {log.name}")
    return done.stdout.decode()


FIRST_PORT, PORTS = 20_000, 12_000
"""Below those that systems give to outgoing connections, which would take the port of a node that is down."""
_next_port = count(os.getpid() * 1009)  # processes that run side by side begin apart


def free_port() -> int:
    """A node keeps its port over restarts, so it is chosen once. None is given out twice."""
    for number in _next_port:
        port = FIRST_PORT + number % PORTS
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("a count has no end")


class Chain:
    """`lnp-regtest` as a process, with the few calls that a demo needs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "chain"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.program = Program("lnp-regtest", folder, self.folder / "regtest.json")
        self.doors: dict[str, Any] = {}

    def start(self) -> None:
        self.program.start(
            "node.chain.regtest", "--datadir", str(self.folder), "--rpcport", "0", "--zmqport", "0"
        )
        self.doors = self.program.wait_ready()

    def call(self, method: str, *params: Any) -> Any:
        body = json.dumps({"jsonrpc": "1.0", "id": 1, "method": method, "params": params}).encode()
        request = urllib.request.Request(self.doors["rpc_url"], body)
        cookie = Path(self.doors["cookie_path"]).read_bytes().strip()
        request.add_header("Authorization", "Basic " + base64.b64encode(cookie).decode())
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                answer = json.load(response)
        except urllib.error.HTTPError as error:
            answer = json.load(error)
        if answer.get("error"):
            raise RpcRefused(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    @property
    def height(self) -> int:
        return int(self.call("getblockcount"))

    def mine(self, blocks: int = 1) -> None:
        self.call("generatetoaddress", blocks, MINER)

    def fund(self, address: str, sat: int) -> None:
        self.call("fund", address, sat)

    def spender(self, outpoint: str, *, in_blocks: bool = False) -> str | None:
        """The transaction that spends `txid:index` in the mempool; with `in_blocks` in a block too."""
        txid, _, index = outpoint.partition(":")
        (found,) = self.call("gettxspendingprevout", [{"txid": txid, "vout": int(index)}], not in_blocks)
        spender: str | None = found.get("spendingtxid")
        return spender

    def stop(self) -> None:
        self.program.stop()


class Node:
    """One complete node: `lnpd` and its `lnp-signer`, each with its own directory."""

    def __init__(self, name: str, folder: Path, chain: Chain) -> None:
        self.name = name
        self.chain = chain
        self.settings: list[str] = []
        """`name=value` of lnp.toml, for each run of the daemon."""
        self.program: tuple[str, ...] = ("node",)
        """The module that runs the daemon, with its first arguments."""
        self.folder = folder
        self.datadir = folder / name
        self.signer_dir = folder / f"{name}-signer"
        self.signer = Program(f"{name}-signer", folder, self.signer_dir / "signer.json")
        self.daemon = Program(f"{name}-lnpd", folder, self.datadir / NETWORK / "lnpd.json")
        self.socket = self.datadir / NETWORK / "lightning-rpc"
        self.port = free_port()

    def init(self) -> None:
        """Makes the keys of the signer and of the link, and pairs the two programs."""
        with (self.folder / f"{self.name}-init.log").open("ab") as log:
            run(
                "signer",
                "init",
                *("--datadir", str(self.signer_dir)),
                *("--network", NETWORK),
                passphrase=True,
                words_away=True,
                log=log,
            )
        self.start_signer()
        doors = self.signer.wait_ready()
        with (self.folder / f"{self.name}-init.log").open("ab") as log:
            said = run(
                "node",
                "init",
                *("--network", NETWORK),
                *("--datadir", str(self.datadir)),
                *("--signer", doors["endpoint"]),
                *("--signer-key", doors["server_public_key"]),
                *self.chain_options(),
                *("--listen", self.address),
                *("--alias", self.name),
                log=log,
            )
            key = shlex.split(said[said.index("--client-key") :])[1]
            run("signer", "pair", "--datadir", str(self.signer_dir), "--client-key", key, log=log)

    def chain_options(self) -> tuple[str, ...]:
        doors = self.chain.doors
        return (
            *("--bitcoind-url", doors["rpc_url"]),
            *("--bitcoind-cookie", doors["cookie_path"]),
            *("--bitcoind-zmq", doors["zmq_endpoint"]),
        )

    def start_signer(self) -> None:
        endpoint = f"ipc://{self.signer_dir / 'signer.sock'}"
        self.signer.start(
            "signer", "run", "--datadir", str(self.signer_dir), "--endpoint", endpoint, passphrase=True
        )

    def start_daemon(self) -> None:
        settings = [word for setting in self.settings for word in ("--set", setting)]
        self.daemon.start(
            *(*self.program, "run", "--network", NETWORK, "--datadir", str(self.datadir), *settings)
        )

    def wait_ready(self) -> None:
        self.daemon.wait_ready()
        wait_for(f"{self.name} to answer", lambda: self.try_call("getinfo"))

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def use_tor(self, socks_port: int, control_port: int) -> None:
        """Onion only, by a tor that runs already."""
        self.settings = [
            "tor.mode=system",
            "tor.clear=off",
            f"tor.socks=127.0.0.1:{socks_port}",
            f"tor.control=127.0.0.1:{control_port}",
        ]

    @property
    def onion(self) -> str | None:
        """Where others reach this node through Tor, once it has reached itself there."""
        info = self.try_call("getinfo") or {"roads": [], "address": []}
        if not any(road["name"] == "tor" and road.get("inbound") == "reachable" for road in info["roads"]):
            return None
        (found,) = (entry for entry in info["address"] if entry["type"] == "torv3")
        return f"{found['address']}:{found['port']}"

    @property
    def node_id(self) -> str:
        return str(self.call("getinfo")["id"])

    def call(self, method: str, *positional: Any, seconds: float = 120.0, **named: Any) -> Any:
        """One call on the `lightning-rpc` socket."""
        params: Any = list(positional) if positional else named
        body = {"jsonrpc": "2.0", "id": secrets.token_hex(4), "method": method, "params": params}
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(seconds)
            line.connect(str(self.socket))
            line.sendall(json.dumps(body).encode())
            raw = b""
            while not raw.endswith(b"\n\n"):
                piece = line.recv(1 << 16)
                if not piece:
                    raise ConnectionError(f"{self.name} closed the line in the middle of {method}")
                raw += piece
        answer = json.loads(raw)
        if "error" in answer:
            raise RpcRefused(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    def try_call(self, method: str, **named: Any) -> Any:
        with contextlib.suppress(OSError, RpcRefused, json.JSONDecodeError):
            return self.call(method, **named)
        return None

    @property
    def height(self) -> int:
        info = self.try_call("getinfo")
        return int(info["blockheight"]) if info else 0

    def channels(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.call("listpeerchannels")["channels"]
        return found

    def stop(self) -> None:
        self.daemon.stop()
        self.signer.stop()


class Stack:
    """A chain and some nodes in one folder; used as a context it leaves no process behind."""

    def __init__(self, folder: Path, names: tuple[str, ...] = ("alice", "bob")) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.chain = Chain(folder)
        self.nodes = {name: Node(name, folder, self.chain) for name in names}

    def __enter__(self) -> "Stack":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self.chain.start()
        for node in self.nodes.values():
            node.init()
        for node in self.nodes.values():
            node.start_daemon()
        for node in self.nodes.values():
            node.wait_ready()

    def stop(self) -> None:
        for node in self.nodes.values():
            node.stop()
        self.chain.stop()

    def settled_at(self, height: int) -> None:
        """Waits until every node has seen this block."""
        for node in self.nodes.values():
            wait_for(f"{node.name} to see block {height}", lambda: node.height >= height)  # noqa: B023
