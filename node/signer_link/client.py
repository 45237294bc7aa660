"""The node's end of the signer link: ZeroMQ DEALER with CURVE (DESIGN, "The signer contract").

Questions are pipelined; nothing waits in lock-step. When the signer goes away every open question ends in
`SignerAway` and none is sent again by itself: the same request gets the same answer, so whoever asked may ask
again after `up`. Every connection opens with `Hello`, which fences the session before it.
"""

import asyncio
import contextlib
from collections.abc import Callable
from enum import StrEnum

import msgspec
import structlog
import zmq

from node.signer_link.lanes import LaneBook, lane_of
from protocol.bus.messages.signer import (
    Hello,
    NotNow,
    Refused,
    Reply,
    Request,
    SignerCall,
    Welcome,
    decode_reply,
    encode,
)
from protocol.bus.zmq_socket import CONNECTED, DENIED, DISCONNECTED, LoopSocket, monitor
from protocol.errors import ProtocolError
from protocol.secret import Secret

log = structlog.get_logger()
DEADLINE = 30.0
SWEEP_SECONDS = 1.0
HELLO_DEADLINE = 10.0
DENIED_SECONDS = 2.0
HEARTBEAT_MS = 2_000
SILENCE_MS = 6_000
FENCED = "session-fenced"
_OTHER_SEED = "the signer answers with another node id than before: it has another seed now"


class SignerAway(ProtocolError):
    """No answer from the signer; the request may have been granted, and may be repeated."""


class SignerState(StrEnum):
    UP = "up"
    AWAY = "away"


Callback = Callable[[Reply | SignerAway], None]


class SignerClient:
    """Keys are Z85 text of 40 bytes. Belongs to the event loop in which `start` was called."""

    def __init__(
        self,
        endpoint: str,
        server_key: bytes,
        client_public: bytes,
        client_secret: Secret | bytes,
        *,
        network: str = "regtest",
    ) -> None:
        self._endpoint = endpoint
        self._server_key = server_key
        self._public = client_public
        self._secret = client_secret if isinstance(client_secret, Secret) else Secret(client_secret)
        self._network = network
        self.state = SignerState.AWAY
        self.welcome: Welcome | None = None
        """What the signer said last: node id, wallet key. Kept while it is away."""
        self.reason = f"the signer at {endpoint} was not reached yet"
        """Why the signer is away, for people."""
        self.on_state: Callable[[SignerState], None] | None = None
        self.requests = 0
        self.lanes = LaneBook()
        self._became_up: asyncio.Event | None = None
        self._open: dict[int, tuple[float, Callback, str, float]] = {}
        self._next_id = 0
        self._session = 0
        self._expected: bytes | None = None
        self._connected = False
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._link: LoopSocket | None = None
        self._monitor: LoopSocket | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._hello_again: asyncio.TimerHandle | None = None
        self._socket: zmq.Socket[bytes] | None = None
        self._dial_again: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._became_up = asyncio.Event()
        self._context = zmq.Context()
        socket = self._context.socket(zmq.DEALER)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.IMMEDIATE, 1),  # nothing is queued for a signer that is away
            (zmq.SNDHWM, 0),
            (zmq.RCVHWM, 0),
            (zmq.IPV6, 1),
            (zmq.RECONNECT_IVL, 100),
            (zmq.RECONNECT_IVL_MAX, 1_000),
            (zmq.HEARTBEAT_IVL, HEARTBEAT_MS),
            (zmq.HEARTBEAT_TIMEOUT, SILENCE_MS),
        ):
            socket.setsockopt(option, value)
        socket.setsockopt(zmq.CURVE_SERVERKEY, self._server_key)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, self._public)
        socket.setsockopt(zmq.CURVE_SECRETKEY, self._secret.reveal())
        self._monitor = monitor(socket, self._on_event)
        self._link = LoopSocket(socket, self._on_frames)
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)
        socket.connect(self._endpoint)
        self._socket = socket

    async def stop(self) -> None:
        for timer in (self._sweeper, self._hello_again, self._dial_again):
            if timer is not None:
                timer.cancel()
        if self._link is None or self._monitor is None or self._context is None:
            return
        self.on_state = None
        self._go_away("the node is stopping")
        self._connected = False
        self._monitor.close()
        self._link.close(linger_ms=200)
        self._context.term()
        self._link = self._monitor = self._context = self._socket = None

    @property
    def endpoint(self) -> str:
        return self._endpoint

    @property
    def open_requests(self) -> int:
        return len(self._open)

    def expect(self, node_id: bytes) -> None:
        """From here on only a signer with this node id is used: another one has another seed."""
        self._expected = node_id
        if self.welcome is not None and self.welcome.node_id != node_id:
            self._go_away(_OTHER_SEED)

    async def wait_up(self) -> Welcome:
        """Returns once the signer has greeted us; there is no deadline, because it may wait for a person."""
        while self.state is not SignerState.UP or self.welcome is None:
            if self._became_up is None:
                raise SignerAway("the signer link was not started")
            await self._became_up.wait()
        return self.welcome

    async def call(self, request: Request, *, deadline: float = DEADLINE) -> Reply:
        """The reply, also when it is `Refused`, `PeerFault` or `NotNow`. Raises SignerAway."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()

        def answered(reply: Reply | SignerAway) -> None:
            if future.done():
                return
            if isinstance(reply, SignerAway):
                future.set_exception(reply)
            else:
                future.set_result(reply)

        number = self.call_nowait(request, answered, deadline=deadline)
        timer = loop.call_later(deadline, self._expire, number, deadline)
        try:
            return await future
        finally:
            timer.cancel()
            self._open.pop(number, None)

    def call_nowait(self, request: Request, callback: Callback, *, deadline: float = DEADLINE) -> int:
        """The callback gets the reply, or a SignerAway as a value, in the loop and never inside this call.

        Deadlines are looked at once a second here; `call` is exact.
        """
        self._next_id += 1
        number = self._next_id
        if self.state is not SignerState.UP:
            asyncio.get_running_loop().call_soon(callback, SignerAway(self.reason))
            return number
        self._send(number, request, callback, deadline)
        return number

    def _send(self, number: int, request: Request, callback: Callback, deadline: float) -> None:
        self.requests += 1
        call = SignerCall(number, self._session, int(deadline * 1000), request)
        if self._link is None or not self._link.send([encode(call)]):
            self._loop.call_soon(callback, SignerAway(self.reason))
            return
        now = self._loop.time()
        self._open[number] = (now + deadline, callback, lane_of(request), now)

    def _on_frames(self, frames: list[bytes]) -> None:
        try:
            if len(frames) != 1:
                raise ValueError(f"{len(frames)} frames instead of one")
            answer = decode_reply(frames[0])
        except (msgspec.DecodeError, ValueError, RecursionError) as error:
            log.error("signer_reply_malformed", error=str(error))
            return
        entry = self._open.pop(answer.id, None)
        if entry is None:
            return  # it came after its deadline
        self.lanes.answered(entry[2], self._loop.time() - entry[3], answer.reply)
        if isinstance(answer.reply, Refused) and answer.reply.tag == FENCED and self._session:
            # Another node has said hello after us. Saying it again would make the two fence each other for ever.
            self._go_away(f"another node uses this signer now. {answer.reply.next_step}")
            _tell(entry[1], SignerAway(self.reason))
            return
        _tell(entry[1], answer.reply)

    def _on_event(self, event: int) -> None:
        if event == CONNECTED:
            self._connected = True
            self._say_hello()
        elif event == DISCONNECTED and self._connected:  # else DENIED has said why already
            self._connected = False
            self._go_away(f"the connection to the signer at {self._endpoint} was lost")
        elif event & DENIED:
            self._go_away(
                f"the signer at {self._endpoint} and this node do not know each other's keys; "
                "run `lnp-signer pair` with the key that `lnpd init` printed, and compare --signer-key"
            )
            if self._dial_again is None:
                self._dial_again = self._loop.call_later(DENIED_SECONDS, self._dial)

    def _dial(self) -> None:
        """libzmq gives a server up that refused our key; a person may have paired us since."""
        self._dial_again = None
        if self._socket is not None:
            with contextlib.suppress(zmq.ZMQError):
                self._socket.disconnect(self._endpoint)
            self._socket.connect(self._endpoint)

    def _say_hello(self) -> None:
        self._hello_again = None
        self._session = 0
        self._next_id += 1
        self._send(self._next_id, Hello(self._network), self._on_hello, HELLO_DEADLINE)

    def _on_hello(self, reply: Reply | SignerAway) -> None:
        if isinstance(reply, Welcome):
            if self._expected is not None and self._expected != reply.node_id:
                self._go_away(_OTHER_SEED)
                return
            self.welcome, self._expected = reply, reply.node_id
            self._session = reply.session
            self._set_state(SignerState.UP, "")
            return
        wait = reply.retry_after_seconds if isinstance(reply, NotNow) else 5.0
        self._go_away(f"the signer at {self._endpoint} does not serve us: {_plain(reply)}")
        if self._connected:
            self._hello_again = self._loop.call_later(max(wait, 0.1), self._say_hello)

    def _go_away(self, reason: str) -> None:
        if self._hello_again is not None:
            self._hello_again.cancel()
            self._hello_again = None
        lost, self._open = self._open, {}
        self._session = 0
        self._set_state(SignerState.AWAY, reason)
        for _, callback, *_rest in lost.values():
            _tell(callback, SignerAway(reason))

    def _set_state(self, state: SignerState, reason: str) -> None:
        if reason != self.reason:
            log.info("signer_state", state=state.value, reason=reason)
        changed = state is not self.state
        self.state, self.reason = state, reason
        if self._became_up is not None:
            if state is SignerState.UP:
                self._became_up.set()
            else:
                self._became_up.clear()
        if changed and self.on_state is not None:
            self.on_state(state)

    def _expire(self, number: int, deadline: float) -> None:
        entry = self._open.pop(number, None)
        if entry is not None:
            entry[1](SignerAway(f"the signer did not answer within {deadline:g} s"))

    def _sweep(self) -> None:
        now = self._loop.time()
        for number in [number for number, entry in self._open.items() if entry[0] <= now]:
            _tell(self._open.pop(number)[1], SignerAway("the signer did not answer in time"))
        self._sweeper = self._loop.call_later(SWEEP_SECONDS, self._sweep)


def _tell(callback: Callback, reply: Reply | SignerAway) -> None:
    """A callback that fails must not take the answers of the others with it."""
    try:
        callback(reply)
    except Exception as error:
        log.error("bug", service="signer_link", error=repr(error), exc_info=True)


def _plain(reply: Reply | SignerAway) -> str:
    for field in ("sentence", "next_step"):
        text = getattr(reply, field, None)  # Refused, PeerFault and NotNow name their sentence differently
        if isinstance(text, str) and text:
            return text
    return str(reply)
