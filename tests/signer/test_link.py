"""The link over real ZeroMQ with CURVE, and the program itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from protocol.bus.messages import signer as contract
from signer import initialise
from signer.link import Link, pair
from signer.service import SignerService
from signer.storage import Storage
from tests.signer.support import DEADLINE, PASSPHRASE, WORDS, World, make_invoice_request

ROOT = Path(__file__).resolve().parents[2]
WAIT = 10_000


class Client:
    def __init__(self, endpoint: str, server_key: str, *, known_to: Path | None) -> None:
        public, secret = zmq.curve_keypair()
        if known_to is not None:
            pair(known_to, z85.decode(public))
        self.context = zmq.Context()
        self.socket = self.context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.curve_serverkey = server_key.encode()
        self.socket.curve_publickey, self.socket.curve_secretkey = public, secret
        self.events = self.socket.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH
        )
        self.socket.connect(endpoint)

    def handshake(self) -> int:
        assert self.events.poll(WAIT)
        return int(recv_monitor_message(self.events)["event"])

    def send(self, number: int, session: int, request: contract.Request, deadline: int = DEADLINE) -> None:
        self.socket.send(contract.encode(contract.SignerCall(number, session, deadline, request)))

    def receive(self) -> contract.SignerReply:
        assert self.socket.poll(WAIT), "no answer"
        return contract.decode_reply(self.socket.recv())

    def hello(self) -> contract.Welcome:
        self.send(1, 0, contract.Hello("regtest"))
        welcome = self.receive().reply
        assert isinstance(welcome, contract.Welcome)
        return welcome

    def close(self) -> None:
        self.context.destroy(linger=0)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[SignerService, str, Path]]:
    """A link in a thread of this process."""
    datadir = tmp_path / "signer"
    initialise.create(datadir, "regtest", PASSPHRASE, mnemonic=WORDS, scrypt_cost=2)
    wake, waker = socket.socketpair()
    ready = threading.Event()
    found: list[tuple[SignerService, str]] = []

    def serve() -> None:
        service = SignerService(datadir, PASSPHRASE)
        link = Link(service, datadir, "tcp://127.0.0.1:*")
        found.append((service, link.endpoint))
        ready.set()
        try:
            link.run(wake.fileno())
        finally:
            link.close()
            service.close()

    thread = threading.Thread(target=serve)
    thread.start()
    assert ready.wait(10)
    yield *found[0], datadir
    waker.send(b"x")
    thread.join(10)
    assert not thread.is_alive()
    wake.close()
    waker.close()


Served = tuple[SignerService, str, Path]


def test_a_paired_client_is_served_and_answers_carry_the_ids(served: Served) -> None:
    service, endpoint, datadir = served
    client = Client(endpoint, service.curve_public, known_to=datadir)
    assert client.handshake() == zmq.EVENT_HANDSHAKE_SUCCEEDED
    welcome = client.hello()
    for number in range(10, 40):
        client.send(number, welcome.session, make_invoice_request(bytes((number,)) * 32, 1000))
    answers = [client.receive() for _ in range(30)]
    assert [answer.id for answer in answers] == list(range(10, 40))
    assert all(isinstance(answer.reply, contract.InvoiceMade) for answer in answers)
    client.close()


def test_an_unknown_client_key_is_refused(served: Served) -> None:
    service, endpoint, datadir = served
    stranger = Client(endpoint, service.curve_public, known_to=None)
    stranger.send(1, 0, contract.Hello("regtest"))
    assert stranger.handshake() == zmq.EVENT_HANDSHAKE_FAILED_AUTH
    friend = Client(endpoint, service.curve_public, known_to=datadir)
    # The first session: the stranger's hello never came in.
    assert friend.hello().session == 1
    assert not stranger.socket.poll(0)
    stranger.close()
    friend.close()


def test_a_second_node_fences_the_first(served: Served) -> None:
    service, endpoint, datadir = served
    first = Client(endpoint, service.curve_public, known_to=datadir)
    old = first.hello()
    second = Client(endpoint, service.curve_public, known_to=datadir)
    new = second.hello()
    first.send(2, old.session, contract.ChannelNumbers())
    refused = first.receive().reply
    assert isinstance(refused, contract.Refused) and refused.tag == "session-fenced"
    second.send(2, new.session, contract.ChannelNumbers())
    assert second.receive().reply == contract.Numbers(())
    first.close()
    second.close()


def test_what_cannot_be_read_disturbs_nobody(served: Served) -> None:
    service, endpoint, datadir = served
    client = Client(endpoint, service.curve_public, known_to=datadir)
    client.socket.send(b"\xc1 nonsense")
    client.socket.send_multipart([b"", b""])
    welcome = client.hello()
    client.send(2, welcome.session, contract.ChannelNumbers(), deadline=0)
    assert isinstance(client.receive().reply, contract.NotNow)
    client.close()


def test_a_request_that_cannot_be_read_is_answered_if_it_has_an_id(served: Served) -> None:
    service, endpoint, datadir = served
    client = Client(endpoint, service.curve_public, known_to=datadir)
    client.socket.send(msgspec.msgpack.encode([77, 0, DEADLINE, {"type": "sing", "what": 1}]))
    answer = client.receive()
    assert answer.id == 77
    assert isinstance(answer.reply, contract.Refused) and answer.reply.tag == "unreadable"
    client.close()


class Wire:
    """In place of the ROUTER socket: what waits in it, and what was sent."""

    def __init__(self, waiting: list[contract.SignerCall]) -> None:
        self.waiting = [[b"node", contract.encode(call)] for call in waiting]
        self.sent: list[int] = []

    def recv_multipart(self, _flags: int) -> list[bytes]:
        if not self.waiting:
            raise zmq.Again
        return self.waiting.pop(0)

    def send_multipart(self, frames: list[bytes], _flags: int) -> None:
        self.sent.append(contract.decode_reply(frames[1]).id)


def test_handshakes_are_answered_before_the_commit_and_onions_after_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link.__new__(Link)
    wire = Wire(
        [
            contract.SignerCall(1, world.node.session, DEADLINE, make_invoice_request(b"\x01" * 32, 5)),
            contract.SignerCall(
                2, world.node.session, DEADLINE, contract.StaticKeyStep(bytes(32), world.peer_id)
            ),
            contract.SignerCall(3, world.node.session, DEADLINE, contract.PeelOnions(())),
        ]
    )
    vars(link).update(_service=world.service, _socket=wire)
    sent_at_commit = []
    real = Storage.commit

    def commit(self: Storage) -> None:
        if self._open:
            sent_at_commit.append(list(wire.sent))
        real(self)

    monkeypatch.setattr(Storage, "commit", commit)
    link._turn()
    assert sent_at_commit == [[2]]
    assert wire.sent == [2, 1, 3]


# The program.


def run(
    *arguments: str, stdin: bytes = b"", secrets: dict[str, bytes] | None = None
) -> subprocess.CompletedProcess[bytes]:
    """`secrets`: option of a descriptor, and what is read from it."""
    options, ends = descriptors(secrets or {})
    try:
        return subprocess.run(
            [sys.executable, "-m", "signer", *arguments, *options],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=ends,
            timeout=60,
            check=False,
        )
    finally:
        for end in ends:
            os.close(end)


def descriptors(secrets: dict[str, bytes]) -> tuple[list[str], list[int]]:
    options, ends = [], []
    for option, value in secrets.items():
        reading, writing = os.pipe()
        os.write(writing, value)
        os.close(writing)
        options += [option, str(reading)]
        ends.append(reading)
    return options, ends


PHRASE = {"--passphrase-fd": PASSPHRASE.reveal() + b"\n"}


def test_the_program_from_init_to_sigterm(tmp_path: Path) -> None:
    datadir = tmp_path / "signer"
    init = ("init", "--datadir", str(datadir), "--network", "regtest")
    unseen = run(*init, secrets=PHRASE)
    assert unseen.returncode == 2 and b"--words-fd" in unseen.stderr and not datadir.exists()
    made = run(*init, "--words-fd", "1", secrets=PHRASE)
    assert made.returncode == 0, made.stderr
    text = made.stdout.decode()
    assert len(text.splitlines()[0].split()) == 24 and "node id:" in text
    assert not made.stderr  # where the log goes
    public, _ = zmq.curve_keypair()
    assert run("pair", "--datadir", str(datadir), "--client-key", public.decode()).returncode == 0

    wrong = run("run", "--datadir", str(datadir), secrets={"--passphrase-fd": b"wrong"})
    assert wrong.returncode == 2 and b"does not open the keystore" in wrong.stderr

    options, ends = descriptors(PHRASE)
    process = subprocess.Popen(
        [sys.executable, "-m", "signer", "run", "--datadir", str(datadir), *options],
        cwd=ROOT,
        pass_fds=ends,
        stderr=subprocess.PIPE,
    )
    try:
        os.close(ends[0])
        assert process.stderr is not None
        assert b"ready" in process.stderr.readline()
        told = json.loads((datadir / "signer.json").read_text())
        assert told["pid"] == process.pid and told["server_public_key"] in text
        assert told["endpoint"] == f"ipc://{datadir}/signer.sock"
        client = Client(told["endpoint"], told["server_public_key"], known_to=datadir)
        welcome = client.hello()
        assert welcome.node_id.hex() in text
        client.close()
        second = run("run", "--datadir", str(datadir), secrets=PHRASE)
        assert second.returncode == 2 and b"another lnp-signer runs" in second.stderr
        with Path(f"/proc/{process.pid}/status").open() as status:
            rss = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
        assert rss < 60 * 1024, f"{rss} kB"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert not (datadir / "signer.json").exists()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(10)
        if process.stderr is not None:
            process.stderr.close()


def test_the_program_refuses_mainnet(tmp_path: Path) -> None:
    result = run("init", "--datadir", str(tmp_path / "signer"), "--network", "mainnet", secrets=PHRASE)
    assert result.returncode == 2 and b"does not run on mainnet" in result.stderr
    assert not (tmp_path / "signer").exists()


def test_the_program_restores_words_without_showing_them(tmp_path: Path) -> None:
    secrets = {**PHRASE, "--mnemonic-fd": WORDS.reveal() + b"\n"}
    first = run(
        "init", "--datadir", str(tmp_path / "a"), "--network", "regtest", "--restore", secrets=secrets
    )
    assert first.returncode == 0, first.stderr
    assert b"abandon" not in first.stdout + first.stderr
    again = run(
        "init", "--datadir", str(tmp_path / "a"), "--network", "regtest", "--words-fd", "1", secrets=PHRASE
    )
    assert again.returncode == 2 and b"holds a keystore already" in again.stderr


def test_without_a_terminal_the_program_says_how_to_give_the_passphrase(tmp_path: Path) -> None:
    options = ("--network", "regtest", "--words-fd", "1")
    result = run("init", "--datadir", str(tmp_path / "signer"), *options)
    assert result.returncode == 2 and b"--passphrase-fd" in result.stderr
    bad = run("pair", "--datadir", str(tmp_path), "--client-key", "zz")
    assert bad.returncode == 2 and b"no CURVE public key" in bad.stderr
