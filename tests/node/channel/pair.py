"""Two channel machines over two pipes, each with a real signer: what the dialogues and the rule machine drive.

Nothing runs by itself. Messages wait in the pipes, questions wait for the signer, saves are recorded; the test
says what moves next, or `quiet()` moves everything until nothing is left.
"""

import asyncio
import os
from collections import deque
from pathlib import Path

from msgspec import Struct

from node.channel import opening, store
from node.channel.events import (
    AskSigner,
    Connected,
    Disconnected,
    Drop,
    Effect,
    Env,
    Event,
    FromPeer,
    FundingConfirmed,
    OnionsPeeled,
    Peel,
    Publish,
    Save,
    Say,
    Send,
    SignerAnswered,
    Sweep,
    SweepMade,
    Tell,
    Tick,
)
from node.channel.state import State, Volatile
from node.channel.step import steps
from node.channel.terms import Policy
from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat, scid
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bolt4 import sphinx
from protocol.bolt4.payload import FinalPayload, encode_final
from protocol.bus.messages import channel as said
from protocol.bus.messages import signer as sign
from protocol.bus.messages.wallet import SpendPlanned
from protocol.secret import Secret
from protocol.wire.message import Message, decode, encode
from signer.initialise import create
from signer.service import SignerService

PASSPHRASE = Secret(b"correct horse")
CHAIN = bytes.fromhex("06226e46111a0b59caaf126043eb5bbf28c34f3a5e332a1fc7b2b73cf188910f")


def new_signer(folder: Path, *, in_memory: bool = True) -> SignerService:
    folder.mkdir(parents=True, exist_ok=True)
    create(folder, "regtest", PASSPHRASE, scrypt_cost=2)
    return SignerService(folder, PASSPHRASE, in_memory=in_memory)


class Said(Struct):
    """What an end told its payment service."""

    received: list[said.HtlcReceived]
    fulfilled: list[said.HtlcFulfilled]
    failed: list[said.HtlcFailed]
    refused: list[said.HtlcRefused]
    resolved: list[said.HtlcResolved]


class Line:
    """One direction of the connection; cut, it loses what is under way."""

    def __init__(self) -> None:
        self.waiting: deque[bytes] = deque()


class End:
    """One node's half: machine, signer, and the last durable state."""

    def __init__(self, name: str, signer: SignerService) -> None:
        self.name = name
        self.signer = signer
        self.session = 0
        self.hello()
        self.state: State | None = None
        self.saved: State | None = None
        self.out = Line()
        self.asks: deque[AskSigner] = deque()
        self.peels: deque[Peel] = deque()
        self.said = Said([], [], [], [], [])
        self.published: list[bytes] = []
        self.sweeps: list[Sweep] = []
        self.drops: list[Drop] = []
        self.says: list[said.ChannelStateChanged] = []
        self.saves = 0
        self.requests = 0
        self.env = Env(height=BlockHeight(110))
        self.on_save: list[Save] = []

    def hello(self) -> sign.Welcome:
        welcome = self.call(sign.Hello("regtest"))
        assert isinstance(welcome, sign.Welcome)
        self.session = welcome.session
        self.node_id = welcome.node_id
        return welcome

    def call(self, request: sign.Request) -> sign.Reply:
        (reply,) = self.signer.handle_batch([sign.SignerCall(1, self.session, 10_000, request)])
        # Over the wire and back, so that nothing passes that msgpack would change.
        return sign.decode_reply(sign.encode(reply)).reply

    def do(self, *events: Event) -> None:
        assert self.state is not None
        before = self.state
        step = steps(before, events, self.env)
        self.state = step.state
        if step.save is not Save.NONE:
            store.changes(1, before, step, "test")
            self.saves += step.save is Save.NOW
            self.saved = State(step.state.committed, step.state.htlcs, Volatile())
            self.on_save.append(step.save)
        for effect in step.effects:
            self._perform(effect)

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(messages=messages):
                self.out.waiting.extend(encode(message) for message in messages)
            case AskSigner():
                self.asks.append(effect)
            case Peel():
                self.peels.append(effect)
            case Tell(event=event):
                kind = type(event).__name__.removeprefix("Htlc").lower()
                getattr(self.said, kind).append(event)
            case Say(event=event):
                self.says.append(event)
            case Publish(tx=tx):
                self.published.append(tx)
            case Sweep():
                self.sweeps.append(effect)
            case Drop(messages=messages):
                self.out.waiting.extend(encode(message) for message in messages)
                self.drops.append(effect)

    def answer(self) -> bool:
        """The signer answers the oldest question, or peels the oldest onions."""
        assert self.state is not None
        if self.peels:
            peel = self.peels.popleft()
            reply = self.call(sign.PeelOnions(peel.onions))
            assert isinstance(reply, sign.OnionsPeeled)
            self.do(OnionsPeeled(tuple(zip(peel.ids, reply.results, strict=True))))
            return True
        if self.asks:
            ask = self.asks.popleft()
            self.requests += 1
            reply = self.call(sign.ChannelRequest(self.state.committed.params.handle, ask.operations))
            assert isinstance(reply, sign.ChannelAnswer | sign.Refused | sign.NotNow)
            self.do(SignerAnswered(ask.ask, reply))
            return True
        return False

    def crash(self) -> None:
        """The process dies and starts again from what it had saved; the signer lives."""
        assert self.saved is not None
        self.asks.clear()
        self.peels.clear()
        self.state = self.saved
        self.hello()
        self.do(Tick())

    def sweep(self) -> bytes:
        assert self.state is not None
        wanted = self.sweeps.pop()
        handle = self.state.committed.params.handle
        spend = sign.SweepInput(wanted.kind, wanted.txid, wanted.index, wanted.value, wanted.number)
        reply = self.call(sign.SignSweep(handle, (spend,), FeeratePerKw(1000)))
        assert isinstance(reply, sign.SweepSigned), reply
        self.do(SweepMade(reply.transaction))
        return reply.transaction


class Pair:
    """`alice` opens, `bob` accepts."""

    def __init__(self, folder: Path, *, in_memory: bool = True) -> None:
        self.alice = End("alice", new_signer(folder / "alice", in_memory=in_memory))
        self.bob = End("bob", new_signer(folder / "bob", in_memory=in_memory))
        self.connections = 0

    @property
    def ends(self) -> tuple[End, End]:
        return self.alice, self.bob

    def other(self, end: End) -> End:
        return self.bob if end is self.alice else self.alice

    def connect(self) -> None:
        self.connections += 1
        for end in self.ends:
            end.do(Connected(self.connections))

    def disconnect(self) -> None:
        for end in self.ends:
            end.out.waiting.clear()
            end.do(Disconnected())

    def deliver(self, sender: End, count: int = 1) -> bool:
        """Hands the oldest messages of `sender` to the other end, as one turn."""
        frames = [sender.out.waiting.popleft() for _ in range(min(count, len(sender.out.waiting)))]
        if not frames:
            return False
        messages = [decode(frame) for frame in frames]
        self.other(sender).do(*(FromPeer(m) for m in messages if isinstance(m, Message)))
        return True

    def quiet(self) -> None:
        """Moves everything until nothing is left to move."""
        for _ in range(10_000):
            moved = False
            for end in self.ends:
                moved |= end.answer()
                moved |= self.deliver(end, 1000)
            if not moved:
                return
        raise AssertionError("the two ends never come to rest")

    def confirm(self, depth: int = 3) -> None:
        for end in self.ends:
            end.do(FundingConfirmed(BlockHeight(101), scid(101, 1, 0), depth))


def funding_transaction(script: bytes, value: Sat) -> SpendPlanned:
    tx = Transaction(2, (TxIn(OutPoint(os.urandom(32), 0)),), (TxOut(value, script),))
    return SpendPlanned("test", tx.serialize(), tx.txid, 0, value, Sat(500))


class _IO:
    def __init__(self, end: End, plan: object = funding_transaction) -> None:
        self.end = end
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self.peer: _IO | None = None
        self._plan = plan

    async def signer(self, request: sign.Request) -> sign.Reply:
        return self.end.call(request)

    async def receive(self, kind: type[Message]) -> Message:
        message = await asyncio.wait_for(self.inbox.get(), 5)
        assert isinstance(message, kind), message
        return message

    def send(self, message: Message) -> None:
        assert self.peer is not None
        received = decode(encode(message))
        assert isinstance(received, Message)
        self.peer.inbox.put_nowait(received)

    async def plan(self, script: bytes, value: Sat) -> SpendPlanned:
        return self._plan(script, value)  # type: ignore[operator, no-any-return]

    def is_free(self, _channel_id: bytes) -> bool:
        return True


async def open_both(
    pair: Pair,
    *,
    funding: int = 10_000_000,
    push: int = 0,
    anchors: bool = True,
    feerate: int = 1000,
    policy: Policy | None = None,
    plan: object = funding_transaction,
) -> None:
    ours, theirs = _IO(pair.alice, plan), _IO(pair.bob)
    ours.peer, theirs.peer = theirs, ours
    wish = opening.Wish(
        peer=pair.bob.node_id,
        chain_hash=CHAIN,
        request_id=os.urandom(32),
        temporary_channel_id=os.urandom(32),
        funding=Sat(funding),
        push_msat=Msat(push),
        feerate_per_kw=FeeratePerKw(feerate),
        anchors=anchors,
    )
    policy = policy or Policy()

    async def bob() -> opening.Opened:
        from protocol.wire.bolt2_open import OpenChannel

        offer = await theirs.receive(OpenChannel)
        opened = await opening.accept(
            theirs,  # type: ignore[arg-type]
            offer,  # type: ignore[arg-type]
            policy,
            peer=pair.alice.node_id,
            chain_hash=CHAIN,
            request_id=os.urandom(32),
        )
        assert opened.message is not None
        theirs.send(opened.message)
        return opened

    first, second = await asyncio.gather(
        opening.fund(ours, wish, policy, lambda _: None),  # type: ignore[arg-type]
        bob(),
    )
    for end, opened in ((pair.alice, first), (pair.bob, second)):
        end.state = end.saved = State(opened.committed, {}, Volatile())


def open_channel(pair: Pair, **options: object) -> None:
    """A channel that both ends may use, connected and quiet."""
    asyncio.run(open_both(pair, **options))  # type: ignore[arg-type]
    pair.connect()
    pair.quiet()
    pair.confirm()
    pair.quiet()


def invoice(end: End, amount_msat: int | None) -> sign.InvoiceMade:
    made = end.call(
        sign.MakeInvoice(os.urandom(32), 1_700_000_000, amount_msat, "test", None, 3600, 18)  # type: ignore[arg-type]
    )
    assert isinstance(made, sign.InvoiceMade)
    return made


def onion_for(end: End, made: sign.InvoiceMade, amount_msat: int, cltv_expiry: int) -> bytes:
    payload = encode_final(
        FinalPayload(
            amt_to_forward=Msat(amount_msat),
            outgoing_cltv_value=cltv_expiry,
            payment_secret=made.payment_secret,
            total_msat=Msat(amount_msat),
        )
    )
    return sphinx.build(os.urandom(32), [(end.node_id, payload)], made.payment_hash).packet
