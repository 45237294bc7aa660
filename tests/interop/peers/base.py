"""What every foreign node is to the tests: one interface over three very different programs."""

import contextlib
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from node.demo.stack import Chain, DemoFailed, free_port, wait_for

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lnp-node"


class NotInstalled(Exception):
    """The peer cannot be had here; the text says why."""


class PeerRefused(Exception):
    """The peer said no to what it was asked; the text is its own."""


@dataclass(frozen=True)
class Kind:
    """Which channel is opened: its type, as the peers name its parts."""

    anchors: bool
    alias: bool = False
    zeroconf: bool = False

    @property
    def bits(self) -> list[int]:
        return [12, *([22] * self.anchors), *([46] * self.alias), *([50] * self.zeroconf)]


@dataclass(frozen=True)
class ChannelView:
    """A channel as the peer sees it. `local` is the peer's side."""

    funding: str
    capacity: int
    usable: bool
    local_msat: int
    remote_msat: int
    pending: int
    feerate_per_kw: int | None
    anchors: bool | None


@dataclass(frozen=True)
class Outcome:
    """How a payment by the peer ended: a preimage, or what it says of the failure."""

    preimage: str | None
    failure: str = ""


@dataclass(frozen=True)
class Terms:
    """A payment that no invoice asks for in this form: the peer is made to send it all the same."""

    payee: str
    payment_hash: str
    payment_secret: str
    amount_msat: int
    min_final_cltv_expiry_delta: int


class ForeignProgram:
    """One foreign process with its log, in a process group of its own, ended by its pid."""

    def __init__(self, name: str, log: Path) -> None:
        self.name = name
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._process is None:
            raise DemoFailed(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(
        self, command: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=cwd,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    def check(self) -> None:
        if not self.running:
            raise DemoFailed(f"{self.name} ended; its log is {self.log}:\n{tail(self.log)}")

    def kill(self) -> None:
        """kill -9."""
        self._end(signal.SIGKILL, 10)

    def stop(self, *, seconds: float = 20) -> None:
        self._end(signal.SIGTERM, seconds)

    def _end(self, number: int, seconds: float) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None


def tail(path: Path, lines: int = 40) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    return ""


class Peer(ABC):
    """A foreign node over one chain. Calls return when the peer took the order; states are polled by the harness."""

    name: ClassVar[str]
    version: ClassVar[str]
    anchors: ClassVar[bool]
    """Which channel type it takes: anchors, or the older static_remotekey alone."""
    channel_sat: ClassVar[int] = 1_000_000
    close_fees_sat: ClassVar[int] = 12_000
    """What all transactions of one close may cost one side: far less than any HTLC of the tests."""
    refuses_expired: ClassVar[bool] = True
    """Whether it refuses a payment for an invoice of its own that expired."""

    tells_old_state: ClassVar[bool] = True
    """Whether we hear of it when its database is old."""
    survives_old_state: ClassVar[bool] = True
    """Whether it lives on when a peer proves to it that its own database is old."""

    def __init__(self, folder: Path, chain: Chain) -> None:
        self.folder = folder
        self.chain = chain
        self.port = free_port()
        self.program = ForeignProgram(self.name, folder / f"{self.name}.log")

    @classmethod
    @abstractmethod
    def install(cls) -> None:
        """Makes the peer ready on this machine, or raises NotInstalled."""

    @abstractmethod
    def start(self) -> None:
        """Returns when the peer answers."""

    def stop(self) -> None:
        self.program.stop()

    def kill(self) -> None:
        self.program.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    @abstractmethod
    def node_id(self) -> str: ...

    @abstractmethod
    def height(self) -> int: ...

    @abstractmethod
    def connected(self, node_id: str) -> bool: ...

    @abstractmethod
    def connect(self, node_id: str, address: str) -> None: ...

    @abstractmethod
    def fund(self, sat: int) -> None:
        """Gives the peer coins; blocks are mined."""

    @abstractmethod
    def open_channel(self, node_id: str, address: str, sat: int, push_sat: int, kind: Kind) -> None:
        """Begins to open; the channel shows in `channels`."""

    @abstractmethod
    def channels(self) -> list[ChannelView]: ...

    @abstractmethod
    def close_channel(self, funding: str) -> None:
        """Begins a cooperative close."""

    @abstractmethod
    def force_close(self, funding: str) -> None:
        """Publishes its commitment, whether we are connected or not."""

    @abstractmethod
    def closes(self) -> int:
        """How many of its channels are closed and not yet resolved to the last output."""

    @abstractmethod
    def money_sat(self) -> int:
        """Its confirmed coins."""

    @property
    @abstractmethod
    def state(self) -> Path:
        """The folder that holds what it knows of its channels; copied and put back while it is down."""

    @abstractmethod
    def invoice(self, msat: int, *, description: str, expiry: int = 3600) -> str: ...

    @abstractmethod
    def received_msat(self, payment_hash: str) -> int | None:
        """What came in under this hash, None while nothing did."""

    def has_expired(self, payment_hash: str) -> bool:
        """Whether the peer itself has noticed that its invoice expired."""
        return True

    @abstractmethod
    def sign(self, message: bytes) -> tuple[bytes, int]:
        """A compact recoverable signature of the node key over the SHA-256 of `message`, and the recovery id.

        With it the tests forge invoices that the peer never made.
        """

    @abstractmethod
    def pay(self, bolt11: str) -> Outcome:
        """Pays and waits for the end."""

    @abstractmethod
    def send(self, terms: Terms) -> Outcome:
        """Sends what `terms` say, against better knowledge, and waits for the end."""

    @abstractmethod
    def want_feerate(self, sat_per_kw: int) -> int:
        """Makes the peer want another feerate for the channel that it opened; the one that it will propose."""

    @abstractmethod
    def ping(self, node_id: str) -> None:
        """Returns when the peer has had a pong from this node, of a ping that it sent on this connection."""

    def logs(self) -> list[Path]:
        return [self.program.log]

    def wait_until(self, what: str, seen: Callable[[], Any], seconds: float = 60) -> Any:
        """Polls, and gives up at once when the peer's process is gone."""

        def look() -> Any:
            self.program.check()
            return seen()

        return wait_for(f"{self.name}: {what}", look, seconds=seconds)


class HoldingPeer(Peer):
    """A peer that can keep a payment to it in flight until it is told to take it."""

    @abstractmethod
    def hold_invoice(self, msat: int) -> str:
        """An invoice whose payment stays pending."""

    @abstractmethod
    def begin_paying(self, bolt11: str) -> None:
        """Starts a payment and does not wait for its end."""

    @abstractmethod
    def ended(self, payment_hash: str) -> Outcome | None:
        """How a payment that was begun ended; None while it is on its way."""

    @abstractmethod
    def pay_together(self, bolt11s: Sequence[str]) -> list[Outcome]:
        """Starts all of these payments at once, waits for the end of each."""

    @abstractmethod
    def holds(self, bolt11: str) -> bool:
        """Whether the payment of a held invoice is there for good and waits."""

    @abstractmethod
    def release(self, bolt11: str) -> None:
        """Takes the payment of a held invoice."""

    @abstractmethod
    def give_back(self, bolt11: str) -> None:
        """Fails the payment of a held invoice."""


def side_by_side(orders: Iterable[Callable[[], Any]], *, width: int) -> list[Any]:
    """Runs calls at the same time; their results, or the exceptions that they raised."""

    def one(order: Callable[[], Any]) -> Any:
        try:
            return order()
        except Exception as error:
            return error

    with ThreadPoolExecutor(width) as pool:
        return list(pool.map(one, orders))
