"""The link to the node: ZeroMQ ROUTER with CURVE and an allowlist of client keys (ZeroMQ RFC 23, 26, 27).

One thread. A turn takes every request that waits, judges them, commits once and answers all; handshakes, which write
nothing, are answered before the commit, and onions after it: they are wanted only when their HTLCs are committed to,
which takes the peer another round. While nothing waits the keys of coming commitments are derived. CURVE alone lets
any client key in, so this loop is also the ZAP handler that libzmq asks about each handshake.
"""

import logging
import time
from pathlib import Path

import msgspec
import zmq
from msgspec import Struct
from zmq.utils import z85

from protocol.bus.messages import signer as contract
from signer.service import QUICK, SignerService

ZAP_ENDPOINT = "inproc://zeromq.zap.01"
MAX_REQUEST_BYTES = 1 << 22
TURN_LIMIT = 256
"""The most requests of one turn, so that a flood cannot put off the answers of others for ever."""
ALLOWED_FILE = "clients"
UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What bytes that are no request may raise: msgspec has no error of its own for bad UTF-8 and for endless nesting."""
_log = logging.getLogger("signer")


class _Outside(Struct, array_like=True):
    """Of a call that cannot be read: what is needed to answer it."""

    id: int
    session: int
    deadline_ms: int
    request: msgspec.Raw


_decode_outside = msgspec.msgpack.Decoder(_Outside).decode


def allowed_clients(datadir: Path) -> frozenset[bytes]:
    """The paired public keys, one Z85 text a line."""
    try:
        lines = (datadir / ALLOWED_FILE).read_text().split()
    except FileNotFoundError:
        return frozenset()
    return frozenset(z85.decode(line) for line in lines)


def pair(datadir: Path, client_key: bytes) -> None:
    """Lets a client key in, from the next start on and, for a running signer, from the next connection on."""
    if client_key in allowed_clients(datadir):
        return
    with (datadir / ALLOWED_FILE).open("a") as file:
        file.write(z85.encode(client_key).decode() + "\n")
    (datadir / ALLOWED_FILE).chmod(0o600)


class Link:
    """Binds at once; `endpoint` is the bound one (a port of 0 is replaced)."""

    def __init__(self, service: SignerService, datadir: Path, endpoint: str) -> None:
        self._service = service
        self._datadir = datadir
        self._context = zmq.Context()
        # The ZAP socket must be there before the first handshake.
        self._zap = self._context.socket(zmq.ROUTER)
        self._zap.bind(ZAP_ENDPOINT)
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.IPV6, 1)
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
        self._socket.curve_server = True
        self._socket.curve_secretkey = service.curve_secret.reveal()
        self._socket.zap_domain = b"lnp-signer"
        self._socket.bind(endpoint)
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._poller = zmq.Poller()
        self._poller.register(self._zap, zmq.POLLIN)
        self._poller.register(self._socket, zmq.POLLIN)

    def run(self, stop_descriptor: int) -> None:
        """Until something can be read from `stop_descriptor`. The turn that runs is always finished."""
        self._poller.register(stop_descriptor, zmq.POLLIN)
        while True:
            ready = dict(self._poller.poll(0 if self._service.can_prepare else None))
            if not ready:
                self._service.prepare()
            if self._zap in ready:
                self._admit()
            if self._socket in ready:
                self._turn()
            if stop_descriptor in ready:
                return

    def close(self) -> None:
        self._context.destroy(linger=1000)

    def _admit(self) -> None:
        """Answers ZAP requests: version, request id, domain, address, identity, mechanism, credentials."""
        while True:
            try:
                routing, _, version, request_id, _, address, _, mechanism, *credentials = (
                    self._zap.recv_multipart(zmq.NOBLOCK)
                )
            except zmq.Again:
                return
            known = (
                mechanism == b"CURVE"
                and bool(credentials)
                and credentials[0] in allowed_clients(self._datadir)
            )
            if not known:
                _log.warning("client_refused address=%s", address.decode("ascii", "replace"))
            status, text = (b"200", b"OK") if known else (b"400", b"this key is not paired")
            self._zap.send_multipart([routing, b"", version, request_id, status, text, b"node", b""])

    def _turn(self) -> None:
        received = time.monotonic()
        quick: list[tuple[bytes, contract.SignerCall]] = []
        durable: list[tuple[bytes, contract.SignerCall]] = []
        onions: list[tuple[bytes, contract.SignerCall]] = []
        for _ in range(TURN_LIMIT):
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                break
            try:
                call = contract.decode_call(frames[-1])
            except UNREADABLE as error:
                self._unreadable(frames, error)
                continue
            match call.request:
                case contract.PeelOnions():
                    onions.append((frames[0], call))
                case request:
                    (quick if isinstance(request, QUICK) else durable).append((frames[0], call))
        for waiting in (quick, durable, onions):
            self._answer(waiting, received)

    def _unreadable(self, frames: list[bytes], error: Exception) -> None:
        """Whoever is paired and sends this runs another version, or has a bug; it shall not wait for an answer."""
        _log.warning("unreadable_request bytes=%d", len(frames[-1]))
        try:
            number = _decode_outside(frames[-1]).id
        except UNREADABLE:
            return
        refused = contract.Refused(
            "unreadable",
            "a request has the form of the signer contract",
            seen=str(error),
            limit=f"contract version {contract.CONTRACT_VERSION}",
            next_step="Run node and signer of the same release.",
        )
        self._send(frames[0], contract.SignerReply(number, refused))

    def _answer(self, waiting: list[tuple[bytes, contract.SignerCall]], received: float) -> None:
        if not waiting:
            return
        replies = self._service.handle_batch(
            [call for _, call in waiting], lambda: 1000 * (time.monotonic() - received)
        )
        for (routing, _), reply in zip(waiting, replies, strict=True):
            self._send(routing, reply)

    def _send(self, routing: bytes, reply: contract.SignerReply) -> None:
        try:
            self._socket.send_multipart([routing, contract.encode(reply)], zmq.NOBLOCK)
        except zmq.ZMQError as error:
            # The node is gone; it asks again and gets the same answer.
            _log.warning("answer_not_sent error=%s", error.errno)
