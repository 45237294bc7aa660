"""Two sessions joined by hand: time and keys are given, the signer is answered at once or when the test says."""

from dataclasses import dataclass, field

from node.peer.events import Ended, Event, ForChannels, Identified, LocalNode, Ready, StaticKeyNeeded
from node.peer.limits import USUAL_LIMITS, PeerLimits
from node.peer.session import Session
from protocol import curve
from protocol.bitcoin.network import REGTEST
from protocol.bolt8.ciphers import Decryptor, Encryptor
from protocol.bolt8.handshake import Initiator
from protocol.bolt8.static_key import mix_static
from protocol.bolt9 import OUR_INIT, FeatureSet
from protocol.secret import Secret
from protocol.transport import LinkProfile
from protocol.wire import Message, UnknownMessage, decode

PROFILE = LinkProfile(latency=0.1)
ALICE_KEY = bytes([1]) * 32
BOB_KEY = bytes([2]) * 32
ALICE_EPHEMERAL = bytes([3]) * 32
BOB_EPHEMERAL = bytes([4]) * 32
ALICE = curve.point_of(ALICE_KEY)
BOB = curve.point_of(BOB_KEY)


def local(key: bytes, features: FeatureSet = OUR_INIT, chain_hash: bytes = REGTEST.chain_hash) -> LocalNode:
    return LocalNode(curve.point_of(key), features, chain_hash)


@dataclass
class End:
    """A session, its node key, and every event that it gave."""

    session: Session
    key: bytes
    events: list[Event] = field(default_factory=list)

    def take(self, events: list[Event], now: float) -> None:
        for event in events:
            self.events.append(event)
            if isinstance(event, StaticKeyNeeded):
                answer = mix_static(
                    self.key, event.request.chaining_key.reveal(), event.request.remote_ephemeral
                )
                self.take(self.session.static_key_mixed(*answer, now), now)

    def receive(self, data: bytes, now: float = 0.0) -> None:
        self.take(self.session.receive(data, now), now)

    def tick(self, now: float) -> None:
        self.take(self.session.tick(now), now)

    @property
    def ended(self) -> str | None:
        return next((event.reason for event in self.events if isinstance(event, Ended)), None)

    @property
    def ready(self) -> bool:
        return any(isinstance(event, Ready) for event in self.events)

    @property
    def peer(self) -> bytes | None:
        return next((event.node_id for event in self.events if isinstance(event, Identified)), None)

    @property
    def frames(self) -> list[bytes]:
        return [f for event in self.events if isinstance(event, ForChannels) for f in event.frames]


def dialler(now: float = 0.0, **more: object) -> End:
    session = Session.dial(
        local(ALICE_KEY, **more),  # type: ignore[arg-type]
        BOB,
        ephemeral=Secret(ALICE_EPHEMERAL),
        profile=PROFILE,
        now=now,
    )
    return End(session, ALICE_KEY)


def listener(
    now: float = 0.0, limits: PeerLimits = USUAL_LIMITS, *, gossip: bool = False, **more: object
) -> End:
    session = Session.accept(
        local(BOB_KEY, **more),  # type: ignore[arg-type]
        ephemeral=Secret(BOB_EPHEMERAL),
        profile=PROFILE,
        now=now,
        limits=limits,
        gossip=gossip,
    )
    return End(session, BOB_KEY)


def exchange(one: End, other: End, now: float = 0.0) -> None:
    """Carry bytes both ways until both are quiet."""
    while True:
        there = one.session.take_output()
        if there:
            other.receive(there, now)
        back = other.session.take_output()
        if back:
            one.receive(back, now)
        if not there and not back:
            return


def connected(now: float = 0.0) -> tuple[End, End]:
    alice, bob = dialler(now), listener(now)
    exchange(alice, bob, now)
    return alice, bob


class RawPeer:
    """A peer that is in the test's hand after the handshake: it can send any message, or none."""

    def __init__(self, end: End, key: bytes = ALICE_KEY, now: float = 0.0) -> None:
        handshake = Initiator(Secret(ALICE_EPHEMERAL), curve.point_of(end.key), curve.point_of(key))
        end.receive(handshake.act_one(), now)
        handshake.receive_act_two(end.session.take_output())
        request = handshake.static_request
        assert request is not None
        answer = mix_static(key, request.chaining_key.reveal(), request.remote_ephemeral)
        act_three, keys = handshake.finish(answer)
        self.encryptor = Encryptor(keys.sending_key, keys.chaining_key)
        self.decryptor = Decryptor(keys.receiving_key, keys.chaining_key)
        self.end = end
        end.receive(act_three, now)

    def sends(self, *messages: bytes, now: float = 0.0) -> None:
        """All in one piece, as TCP may deliver them."""
        self.end.receive(b"".join(self.encryptor.encrypt(message) for message in messages), now)

    def hears(self) -> list[Message | UnknownMessage]:
        """What the session under test said since the last time."""
        return [decode(frame) for frame in self.decryptor.feed(self.end.session.take_output())]
