"""The signer link against a real ZeroMQ socket that speaks the contract."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import zmq
from structlog.testing import capture_logs

from node.signer_link.client import SignerAway, SignerClient, SignerState
from protocol.bus.messages.signer import (
    ChannelNumbers,
    Hello,
    MessageSigned,
    NotNow,
    Refused,
    Reply,
    Request,
    SignerCall,
    SignerReply,
    SignMessage,
    Welcome,
    decode_call,
    encode,
)
from protocol.bus.zmq_socket import Allowlist, LoopSocket
from protocol.secret import Secret

SERVER_PUBLIC, SERVER_SECRET = zmq.curve_keypair()
CLIENT_PUBLIC, CLIENT_SECRET = zmq.curve_keypair()
WELCOME = Welcome(1, b"\x02" * 33, "regtest", "tpub", "[00000000/9735h/1h/2h]")


class FakeSigner:
    """Answers messages with themselves; holds everything back while `held`."""

    def __init__(self, endpoint: str = "tcp://127.0.0.1:*") -> None:
        self.calls: list[SignerCall] = []
        self.held: list[tuple[bytes, SignerCall]] | None = None
        self.answer_hello: Callable[[Hello], Reply] = lambda _: WELCOME
        self.fenced = False
        self._context: zmq.Context[Any] = zmq.Context()
        self._allowlist = Allowlist(self._context, frozenset({CLIENT_PUBLIC}))
        socket = self._context.socket(zmq.ROUTER)
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt(zmq.CURVE_PUBLICKEY, SERVER_PUBLIC)
        socket.setsockopt(zmq.CURVE_SECRETKEY, SERVER_SECRET)
        socket.bind(endpoint)
        self.endpoint = socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.link = LoopSocket(socket, self._on_frames)

    def requests(self) -> list[Request]:
        return [call.request for call in self.calls]

    def _on_frames(self, frames: list[bytes]) -> None:
        call = decode_call(frames[1])
        self.calls.append(call)
        if self.held is not None and not isinstance(call.request, Hello):
            self.held.append((frames[0], call))
            return
        self.answer(frames[0], call)

    def answer(self, identity: bytes, call: SignerCall) -> None:
        self.link.send([identity, encode(SignerReply(call.id, self._reply(call.request)))])

    def _reply(self, request: Request) -> Reply:
        if self.fenced:
            return Refused("session-fenced", "the newest session only", "1", "2", "Run one node only.")
        match request:
            case Hello():
                return self.answer_hello(request)
            case SignMessage():
                return MessageSigned(request.message, b"\x01" * 64, 0)
            case ChannelNumbers():
                return Refused("frozen", "no numbers", "1", "0", "Try another day.")
            case _:
                raise AssertionError(request)

    def close(self) -> None:
        self.link.close()
        self._allowlist.close()
        self._context.term()


@pytest.fixture
async def signer() -> AsyncIterator[FakeSigner]:
    signer = FakeSigner()
    yield signer
    signer.close()


@pytest.fixture
async def client(signer: FakeSigner) -> AsyncIterator[SignerClient]:
    client = make_client(signer.endpoint)
    client.start()
    yield client
    await client.stop()


def make_client(endpoint: str, secret: bytes = CLIENT_SECRET, public: bytes = CLIENT_PUBLIC) -> SignerClient:
    return SignerClient(endpoint, SERVER_PUBLIC, public, Secret(secret))


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - ZeroMQ's own thread is awaited
            await asyncio.sleep(0.005)


async def up(client: SignerClient) -> Welcome:
    return await asyncio.wait_for(client.wait_up(), 20)


async def test_hello_comes_first_and_later_calls_carry_the_session(
    signer: FakeSigner, client: SignerClient
) -> None:
    assert await up(client) == WELCOME
    assert client.state == "up" and client.state is SignerState.UP
    await client.call(SignMessage("a"))
    assert signer.requests() == [Hello("regtest"), SignMessage("a")]
    assert [call.session for call in signer.calls] == [0, 1]
    assert client.requests == 2


async def test_calls_are_pipelined_and_answers_may_come_in_any_order(
    signer: FakeSigner, client: SignerClient
) -> None:
    await up(client)
    signer.held = []
    calls = [asyncio.ensure_future(client.call(SignMessage(str(number)))) for number in range(20)]
    await until(lambda: signer.held is not None and len(signer.held) == 20)
    for identity, call in reversed(signer.held):
        signer.answer(identity, call)
    assert await asyncio.gather(*calls) == [MessageSigned(str(n), b"\x01" * 64, 0) for n in range(20)]


async def test_a_refusal_is_a_value(client: SignerClient) -> None:
    await up(client)
    reply = await client.call(ChannelNumbers())
    assert isinstance(reply, Refused) and reply.tag == "frozen"


async def test_call_nowait_answers_in_the_loop_and_a_failing_callback_spares_the_others(
    client: SignerClient,
) -> None:
    await up(client)
    got: list[Any] = []
    with capture_logs() as logs:
        client.call_nowait(SignMessage("bad"), lambda reply: 1 // 0)  # type: ignore[arg-type, return-value]
        for number in range(300):
            client.call_nowait(SignMessage(str(number)), got.append)
        assert got == []
        await until(lambda: len(got) == 300)
    assert [reply.zbase for reply in got] == [str(number) for number in range(300)]
    assert [line["event"] for line in logs] == ["bug"]


async def test_no_answer_in_time_raises_signer_away(signer: FakeSigner, client: SignerClient) -> None:
    await up(client)
    signer.held = []
    with pytest.raises(SignerAway, match="within"):
        await client.call(SignMessage("late"), deadline=0.05)
    got: list[Any] = []
    client.call_nowait(SignMessage("late too"), got.append, deadline=0.05)
    await until(lambda: got)
    assert isinstance(got[0], SignerAway)
    assert client.state == "up"


async def test_an_answer_after_its_deadline_is_dropped(signer: FakeSigner, client: SignerClient) -> None:
    await up(client)
    signer.held = []
    with pytest.raises(SignerAway):
        await client.call(SignMessage("late"), deadline=0.05)
    await until(lambda: signer.held)
    identity, call = signer.held[0]
    signer.held = None
    signer.answer(identity, call)
    assert await client.call(SignMessage("next")) == MessageSigned("next", b"\x01" * 64, 0)


async def test_a_lost_signer_ends_open_calls_and_nothing_is_sent_again_by_itself(
    signer: FakeSigner, client: SignerClient
) -> None:
    await up(client)
    states: list[SignerState] = []
    client.on_state = states.append
    signer.held = []
    got: list[Any] = []
    call = asyncio.ensure_future(client.call(SignMessage("open")))
    client.call_nowait(SignMessage("open too"), got.append)
    await until(lambda: signer.held is not None and len(signer.held) == 2)
    signer.close()
    with pytest.raises(SignerAway, match="lost"):
        await asyncio.wait_for(call, 20)
    assert isinstance(got[0], SignerAway)
    with pytest.raises(SignerAway, match="lost"):
        await client.call(SignMessage("while away"))
    client.call_nowait(SignMessage("while away"), got.append)
    await asyncio.sleep(0)
    assert len(got) == 2 and isinstance(got[1], SignerAway)

    again = FakeSigner(signer.endpoint)
    await up(client)
    await client.call(SignMessage("after"))
    assert again.requests() == [Hello("regtest"), SignMessage("after")]
    assert states == ["away", "up"]
    again.close()


async def test_a_locked_signer_is_asked_again(signer: FakeSigner) -> None:
    replies: list[Reply] = [NotNow("locked: type the passphrase", 0.1), WELCOME]
    signer.answer_hello = lambda _: replies.pop(0)
    client = make_client(signer.endpoint)
    with capture_logs() as logs:
        client.start()
        await up(client)
    assert signer.requests() == [Hello("regtest"), Hello("regtest")]
    assert any("type the passphrase" in line.get("reason", "") for line in logs)
    await client.stop()


async def test_a_signer_with_another_seed_is_not_used(signer: FakeSigner, client: SignerClient) -> None:
    await up(client)
    signer.close()
    await until(lambda: client.state == "away")
    other = FakeSigner(signer.endpoint)
    other.answer_hello = lambda _: Welcome(1, b"\x03" * 33, "regtest", "tpub", "")
    await until(lambda: "another seed" in client.reason)
    assert client.state == "away"
    other.close()


async def test_a_signer_with_another_seed_than_the_database_knows_is_not_used(signer: FakeSigner) -> None:
    client = make_client(signer.endpoint)
    client.expect(b"\x03" * 33)
    client.start()
    await until(lambda: "another seed" in client.reason)
    assert client.state == "away"
    await client.stop()


async def test_a_fenced_node_stays_away_and_does_not_fence_the_other_back(
    signer: FakeSigner, client: SignerClient
) -> None:
    await up(client)
    signer.fenced = True
    with pytest.raises(SignerAway, match="another node uses this signer"):
        await client.call(SignMessage("x"))
    assert client.state == "away"
    with pytest.raises(SignerAway):
        await client.call(SignMessage("y"))
    assert signer.requests() == [Hello("regtest"), SignMessage("x")]


async def test_an_unpaired_key_stays_away_and_says_what_to_do(signer: FakeSigner) -> None:
    public, secret = zmq.curve_keypair()
    client = make_client(signer.endpoint, secret, public)
    client.start()
    await until(lambda: "lnp-signer pair" in client.reason)
    assert client.state == "away" and signer.calls == []
    await client.stop()


async def test_garbage_from_the_wire_is_logged_and_ignored(signer: FakeSigner, client: SignerClient) -> None:
    await up(client)
    signer.held = []
    call = asyncio.ensure_future(client.call(SignMessage("x")))
    await until(lambda: signer.held)
    identity, held = signer.held[0]
    with capture_logs() as logs:
        for frames in ([b"\xc1"], [b""], [encode([held.id, 7])], [b"a", b"b"]):
            signer.link.send([identity, *frames])
        signer.answer(identity, held)
        assert isinstance(await call, MessageSigned)
    assert [line["event"] for line in logs] == ["signer_reply_malformed"] * 4
