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
    Later,
    OnionsPeeled,
    Peel,
    Publish,
    Resolve,
    Save,
    Say,
    Send,
    SignerAnswered,
    SignerAsked,
    SignerIsAhead,
    Step,
    Tell,
    Tick,
)
from node.channel.recovery import lost_reason
from node.channel.state import Closing, State, Volatile
from node.channel.step import steps
from node.channel.terms import Policy
from protocol.amounts import BlockHeight, FeeratePerKw, Msat, Sat, scid
from protocol.bitcoin.transaction import OutPoint, Transaction, TxIn, TxOut
from protocol.bolt4 import sphinx
from protocol.bolt4.payload import FinalPayload, encode_final
from protocol.bolt9 import OUR_INIT, ChannelType
from protocol.bus.messages import channel as said
from protocol.bus.messages import signer as sign
from protocol.bus.messages.wallet import SpendPlanned
from protocol.secret import Secret
from protocol.wire.bolt2_update import CommitmentSigned, RevokeAndAck
from protocol.wire.message import Message, decode, encode
from signer.initialise import create
from signer.service import SignerService
from tests.node.channel.saved import Database

PASSPHRASE = Secret(b"correct horse")
ALICES_ALIAS, BOBS_ALIAS = scid(5_000_000, 1, 1), scid(5_000_000, 2, 2)
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

    def __init__(self, name: str, signer: SignerService, folder: Path) -> None:
        self.name = name
        self.folder = folder
        self.signer = signer
        self.session = 0
        self.hello()
        self.state: State | None = None
        self.saved: State | None = None
        self.durable: State | None = None
        """The last state that no crash can take; `saved` may still wait for the next commit."""
        self.database = Database()
        self.lose_save: bool | None = None
        """The process dies in the next save that has to be durable; True: the signer still got the question."""
        self.out = Line()
        self.asks: deque[AskSigner] = deque()
        self.peels: deque[Peel] = deque()
        self.said = Said([], [], [], [], [])
        self.published: list[bytes] = []
        self.resolves: list[Resolve] = []
        self.later: list[Later] = []
        self.drops: list[Drop] = []
        self.says: list[said.ChannelStateChanged] = []
        self.saves = 0
        self.requests = 0
        self.env = Env(height=BlockHeight(110))
        self.on_save: list[Save] = []
        self.died = False
        self.questions_lost = 0
        """How often the signer was asked and the node died without knowing."""

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

    def begin(self, state: State) -> None:
        """The channel is open: its first state is durable."""
        self.state = self.saved = self.durable = state
        self.database.write(store.new_channel(1, state.committed), now=True)

    def do(self, *events: Event) -> None:
        assert self.state is not None
        if self.died:
            return
        before = self.state
        step = steps(before, events, self.env)
        if step.save is Save.NOW and self.lose_save is not None:
            self._die_saving(step)
            return
        self.state = step.state
        if step.save is not Save.NONE:
            now = step.save is Save.NOW
            self.database.write(store.changes(1, before, step, "test"), now=now)
            self.saves += now
            self.saved = State(step.state.committed, step.state.htlcs, Volatile())
            if now:
                self.durable = self.saved
            self.on_save.append(step.save)
        for effect in step.effects:
            self._perform(effect)

    def _die_saving(self, step: Step) -> None:
        asked, self.lose_save = self.lose_save, None
        for effect in step.effects:
            if asked and isinstance(effect, AskSigner):
                self.questions_lost += 1
                self.call(sign.ChannelRequest(step.state.committed.params.handle, effect.operations))
        self.died = True

    def _perform(self, effect: Effect) -> None:
        match effect:
            case Send(messages=messages):
                for message in messages:
                    self._check_saved_before(message)
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
            case Resolve():
                self.resolves.append(effect)
            case Later():
                self.later.append(effect)
            case Drop(messages=messages):
                self.out.waiting.extend(encode(message) for message in messages)
                self.drops.append(effect)

    def _check_saved_before(self, message: Message) -> None:
        """No secret and no signature leaves that the durable state would not give again."""
        assert self.state is not None and self.durable is not None
        now, durable = self.state.committed, self.durable.committed
        if isinstance(message, RevokeAndAck):
            validating = durable.question is not None and durable.question.validate is not None
            assert durable.local_number + validating >= now.local_number
        if isinstance(message, CommitmentSigned):
            assert durable.remote_number >= now.remote_number

    def answer(self, *, not_now: bool = False) -> bool:
        """The signer answers the oldest question, or peels the oldest onions."""
        assert self.state is not None
        if self.peels and not not_now:
            peel = self.peels.popleft()
            reply = self.call(sign.PeelOnions(peel.onions))
            assert isinstance(reply, sign.OnionsPeeled)
            packets = (onion.packet for onion in peel.onions)
            self.do(OnionsPeeled(tuple(zip(peel.ids, packets, reply.results, strict=True))))
            return True
        if self.asks:
            ask = self.asks.popleft()
            self.requests += 1
            reply: sign.Reply = sign.NotNow("away")
            if not not_now:
                handle = self.state.committed.params.handle
                reply = self.call(sign.ChannelRequest(handle, ask.operations))
            assert isinstance(reply, sign.ChannelAnswer | sign.Refused | sign.NotNow)
            self.do(SignerAnswered(ask.ask, reply))
            return True
        return False

    def signer_is_back(self) -> None:
        self.do(SignerAsked())

    def crash(self, *, lose_next: bool = False) -> None:
        """The process dies and starts again from what it had saved; the signer lives.

        `lose_next`: what waits for the next commit is lost.
        """
        self.asks.clear()
        self.peels.clear()
        self.died, self.lose_save = False, None
        self.database.crash(lose_next=lose_next)
        self.saved = self.durable = self.state = self.database.state()
        self.hello()
        assert self.state is not None
        if not isinstance(self.state.committed.phase, Closing):
            assert lost_reason(self.state.committed, self.numbers()) is None
        if (signed := self.numbers().counterparty_signed) > self.state.committed.remote_number:
            self.do(SignerIsAhead(signed))
        self.do(Tick())

    def numbers(self) -> sign.NumbersOfChannel:
        reply = self.call(sign.ChannelNumbers())
        assert isinstance(reply, sign.Numbers)
        assert self.state is not None
        handle = self.state.committed.params.handle
        return next(entry for entry in reply.channels if entry.channel == handle)


class Pair:
    """`alice` opens, `bob` accepts. `simple_close`: both signal option_simple_close."""

    simple_close = False
    can_quiesce = True

    def __init__(self, folder: Path, *, in_memory: bool = True) -> None:
        ends = [
            End(name, new_signer(folder / name, in_memory=in_memory), folder / name)
            for name in ("alice", "bob")
        ]
        self.alice, self.bob = ends
        self.connections = 0

    @classmethod
    def of(cls, alice: End, bob: End) -> "Pair":
        made = cls.__new__(cls)
        made.alice, made.bob, made.connections = alice, bob, 0
        return made

    @property
    def ends(self) -> tuple[End, End]:
        return self.alice, self.bob

    def other(self, end: End) -> End:
        return self.bob if end is self.alice else self.alice

    def connect(self) -> None:
        self.connections += 1
        for end in self.ends:
            end.do(Connected(self.connections, simple_close=self.simple_close, can_quiesce=self.can_quiesce))

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

    def claim(self, _channel_id: bytes) -> bool:
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
    kind: ChannelType | None = None,
    announce: bool = False,
) -> None:
    """`kind`: instead of the basic one that `anchors` names."""
    kind = kind or ChannelType.of(anchors=anchors)
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
        kind=kind,
        announce=announce,
        alias=ALICES_ALIAS,
        mindepth=0 if kind.zeroconf else None,
    )
    policy = policy or Policy(zeroconf_peers=frozenset({pair.alice.node_id} if kind.zeroconf else ()))

    async def bob() -> opening.Opened:
        from protocol.wire.bolt2_open import OpenChannel

        offer = await theirs.receive(OpenChannel)
        opened = await opening.accept(
            theirs,  # type: ignore[arg-type]
            offer,  # type: ignore[arg-type]
            policy,
            peer=pair.alice.node_id,
            features=OUR_INIT,
            chain_hash=CHAIN,
            request_id=os.urandom(32),
            alias=BOBS_ALIAS,
        )
        assert opened.message is not None
        theirs.send(opened.message)
        return opened

    first, second = await asyncio.gather(
        opening.fund(ours, wish, policy, lambda _: None),  # type: ignore[arg-type]
        bob(),
    )
    for end, opened in ((pair.alice, first), (pair.bob, second)):
        end.begin(State(opened.committed, {}, Volatile()))


def open_channel(pair: Pair, **options: object) -> None:
    """A channel that both ends may use, connected and quiet."""
    asyncio.run(open_both(pair, **options))  # type: ignore[arg-type]
    pair.connect()
    pair.quiet()
    pair.confirm()
    pair.quiet()


def question(end: End) -> tuple[sign.Operation, ...]:
    """The last one that went to its signer."""
    return end.asks[-1].operations


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
