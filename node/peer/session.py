"""One connection with a peer, without I/O: handshake, init, keeping alive, and who gets which message
(BOLT 8; BOLT 1, "The init Message", "The ping and pong Messages", "The error and warning Messages").

The owner hands in bytes and the time, and acts on the events that come back; bytes to send wait in
`take_output()`. Whatever a peer sends ends at worst its own session. Channel messages are not decoded here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import assert_never

from node.peer import gossip
from node.peer.events import (
    Ended,
    Event,
    ForChannels,
    ForGossip,
    Identified,
    LocalNode,
    PeerSaid,
    Ready,
    StaticKeyNeeded,
)
from node.peer.limits import USUAL_LIMITS, Budget, PeerLimits
from protocol.bolt8.ciphers import BrokenFrame, Decryptor, Encryptor
from protocol.bolt8.handshake import ACT_SIZES, Initiator, Responder
from protocol.bolt8.handshake import Session as Keys
from protocol.bolt9 import FeatureSet, check_peer_init
from protocol.errors import MalformedMessage, PeerViolation
from protocol.secret import Secret
from protocol.transport import LinkProfile
from protocol.wire import bolt1, decode, encode

_CHANNEL_RANGES = (range(2, 3), range(32, 42), range(64, 82), range(127, 137))
STORAGE_TYPES = (bolt1.PeerStorage.TYPE, bolt1.PeerStorageRetrieval.TYPE)
_IS_CHANNEL = tuple(
    number in STORAGE_TYPES or any(number in types for types in _CHANNEL_RANGES) for number in range(256)
)
"""What is handed on undecoded: to the channels, and to peer storage."""
_CONTROL = frozenset(
    (bolt1.Init.TYPE, bolt1.Error.TYPE, bolt1.Warning.TYPE, bolt1.Ping.TYPE, bolt1.Pong.TYPE)
)
_INIT_TYPE = bolt1.Init.TYPE.to_bytes(2, "big")
_COMMITMENT_SIGNED = 132
_REVOKE_AND_ACK = 133
_ANNOUNCEMENT_SIGNATURES = 259
_PONG_BYTES = 8
FRAME_OVERHEAD = 2 + 16 + 16
"""Of a message on the line: its length and two MACs (BOLT 8, "Encrypting and Sending Messages")."""
_LONGEST_TEXT = 500
_INIT_CLAUSE = 'BOLT 1, "The init Message"'


# States.


@dataclass(frozen=True, slots=True)
class _AwaitActOne:
    handshake: Responder


@dataclass(frozen=True, slots=True)
class _AwaitActTwo:
    handshake: Initiator


@dataclass(frozen=True, slots=True)
class _AwaitSigner:
    handshake: Initiator | Responder


@dataclass(frozen=True, slots=True)
class _AwaitActThree:
    handshake: Responder


@dataclass(frozen=True, slots=True)
class _AwaitInit:
    encryptor: Encryptor
    decryptor: Decryptor


@dataclass(frozen=True, slots=True)
class _Live:
    encryptor: Encryptor
    decryptor: Decryptor


@dataclass(frozen=True, slots=True)
class _Over:
    reason: str


_State = _AwaitActOne | _AwaitActTwo | _AwaitSigner | _AwaitActThree | _AwaitInit | _Live | _Over


class Session:
    """Made by `dial` or `accept`; over after the event `Ended` or a call of `end`."""

    def __init__(
        self,
        local: LocalNode,
        profile: LinkProfile,
        limits: PeerLimits,
        state: _State,
        now: float,
        gossip: bool,
    ) -> None:
        self._local = local
        self._profile = profile
        self._state = state
        self._started = now
        self._heard = now
        self._pinged: float | None = None
        self._now = now
        self._unrevoked: dict[bytes, float] = {}
        """Since when each channel waits for the revoke_and_ack to our commitment_signed."""
        self._answers = Budget(rate=limits.answers_per_second, burst=limits.answers_burst, now=now)
        self._gossip_budget = Budget(rate=limits.gossip_bytes_per_second, burst=limits.gossip_burst, now=now)
        self._gossip_bytes = 0
        self.gossip_dropped = 0
        """Frames beyond the budget."""
        self._act = b""
        self._has_gossip = gossip
        self._gossip: list[bytes] = []
        """What came in this turn; without a gossip service it is dropped, and queries get an empty answer."""
        self._output: list[bytes] = []
        self._events: list[Event] = []

    @classmethod
    def dial(
        cls,
        local: LocalNode,
        node_id: bytes,
        *,
        ephemeral: Secret,
        profile: LinkProfile,
        now: float,
        limits: PeerLimits = USUAL_LIMITS,
        gossip: bool = False,
    ) -> "Session":
        """`InvalidKey` when `node_id` is not on the curve. Act one waits in the output."""
        handshake = Initiator(ephemeral, node_id, local.node_id)
        session = cls(local, profile, limits, _AwaitActTwo(handshake), now, gossip)
        session._output.append(handshake.act_one())
        return session

    @classmethod
    def accept(
        cls,
        local: LocalNode,
        *,
        ephemeral: Secret,
        profile: LinkProfile,
        now: float,
        limits: PeerLimits = USUAL_LIMITS,
        gossip: bool = False,
    ) -> "Session":
        return cls(local, profile, limits, _AwaitActOne(Responder(ephemeral, local.node_id)), now, gossip)

    @property
    def is_live(self) -> bool:
        return isinstance(self._state, _Live)

    @property
    def is_over(self) -> bool:
        return isinstance(self._state, _Over)

    def take_output(self) -> bytes:
        """All bytes that are to be sent now, as one piece."""
        if not self._output:
            return b""
        output = b"".join(self._output)
        self._output.clear()
        return output

    def take_gossip_bytes(self) -> int:
        """How many bytes of gossip came since the last call, as they were on the line."""
        count, self._gossip_bytes = self._gossip_bytes, 0
        return count

    def receive(self, data: bytes, now: float) -> list[Event]:
        """Bytes from the peer. Raises nothing, whatever they are."""
        self._heard = self._now = now
        self._guarded(lambda: self._take(data, now))
        return self._take_events()

    def static_key_mixed(self, chaining_key: bytes, cipher_key: bytes, now: float) -> list[Event]:
        """The signer's answer to `StaticKeyNeeded`."""
        self._guarded(lambda: self._go_on((chaining_key, cipher_key), now))
        return self._take_events()

    def send(self, frames: tuple[bytes, ...]) -> None:
        """Queue messages, in order. Without a live session they are lost like bytes in flight."""
        if isinstance(self._state, _Live):
            for frame in frames:
                if frame[0] == 0:
                    if frame[1] == _COMMITMENT_SIGNED:
                        self._unrevoked.setdefault(frame[2:34], self._now)
                    elif frame[1] == bolt1.Error.TYPE:
                        self._unrevoked.pop(frame[2:34], None)
            encrypt = self._state.encryptor.encrypt
            self._output += [encrypt(frame) for frame in frames]

    def end(self, reason: str) -> None:
        """We are done with it. Wakes nobody: the caller knows."""
        self._state = _Over(reason)

    def tick(self, now: float) -> list[Event]:
        """To be called now and then: what is late ends, and a quiet peer is pinged."""
        self._now = now
        match self._state:
            case _Over():
                pass
            case _Live():
                self._keep_alive(now)
                self._watch_revocations(now)
            case _:
                wait = self._profile.handshake_timeout
                if now - self._started > wait:
                    self._end(f"the handshake was not finished within {wait:.0f} s")
        return self._take_events()

    # The way of the bytes.

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _guarded(self, work: Callable[[], None]) -> None:
        """Ends the session for what the peer did wrong, with a warning where it can still read one."""
        try:
            work()
        except BrokenFrame as error:
            self._end(error.sentence)
        except PeerViolation as error:
            self._warn_and_end(error.sentence)
        except MalformedMessage as error:
            self._warn_and_end(str(error))

    def _take(self, data: bytes, now: float) -> None:
        while data:
            state = self._state
            match state:
                case _AwaitActOne():
                    data = self._collect(data, 1)
                    if len(self._act) == ACT_SIZES[1]:
                        state.handshake.receive_act_one(self._act)
                        self._ask_signer(state.handshake)
                case _AwaitActTwo():
                    data = self._collect(data, 2)
                    if len(self._act) == ACT_SIZES[2]:
                        state.handshake.receive_act_two(self._act)
                        self._ask_signer(state.handshake)
                case _AwaitSigner():
                    # The next word is ours: neither side may speak between these acts.
                    raise PeerViolation("bytes came before their turn in the handshake", clause="BOLT 8")
                case _AwaitActThree():
                    data = self._collect(data, 3)
                    if len(self._act) == ACT_SIZES[3]:
                        self._identified(state.handshake.receive_act_three(self._act))
                case _AwaitInit() | _Live():
                    frames = state.decryptor.feed(data)
                    data = b""
                    if frames:
                        self._read(frames, now)
                case _Over():
                    return
                case _:
                    assert_never(state)

    def _collect(self, data: bytes, act: int) -> bytes:
        """Keeps what belongs to this act; the rest is for the next layer."""
        missing = ACT_SIZES[act] - len(self._act)
        self._act += data[:missing]
        return data[missing:]

    def _ask_signer(self, handshake: Initiator | Responder) -> None:
        self._act = b""
        request = handshake.static_request
        if request is None:
            raise RuntimeError("an act that needs the static key left no request for it")
        self._state = _AwaitSigner(handshake)
        self._events.append(StaticKeyNeeded(request))

    def _go_on(self, answer: tuple[bytes, bytes], now: float) -> None:
        if not isinstance(self._state, _AwaitSigner):
            return  # the session ended while the signer thought
        handshake = self._state.handshake
        match handshake:
            case Initiator():
                act_three, keys = handshake.finish(answer)
                self._output.append(act_three)
                self._identified(keys)
            case Responder():
                self._output.append(handshake.act_two(answer))
                self._state = _AwaitActThree(handshake)
            case _:
                assert_never(handshake)

    def _identified(self, keys: Keys) -> None:
        self._act = b""
        if keys.remote_static == self._local.node_id:
            self._end("this connection leads to ourselves")
            return
        encryptor = Encryptor(keys.sending_key, keys.chaining_key)
        self._state = _AwaitInit(encryptor, Decryptor(keys.receiving_key, keys.chaining_key))
        self._output.append(encryptor.encrypt(self._local.init()))
        self._events.append(Identified(keys.remote_static))

    # The way of the messages.

    def _read(self, frames: list[bytes], now: float) -> None:
        first = 0
        if isinstance(self._state, _AwaitInit):
            self._on_init(frames[0], self._state)
            first = 1
        for_channels: list[bytes] = []
        try:
            for frame in frames[first:]:
                if self._is_for_channels(frame, now):
                    for_channels.append(frame)
        finally:
            # What came before a bad message is as good as if the bad one had come a second later.
            if for_channels:
                self._events.append(ForChannels(tuple(for_channels)))
            if self._gossip:
                # Behind: whatever gossip costs is paid after the channels had their turn.
                self._events.append(ForGossip(tuple(self._gossip)))
                self._gossip.clear()

    def _is_for_channels(self, frame: bytes, now: float) -> bool:
        """Answers or drops what is not."""
        if len(frame) < 2:
            raise MalformedMessage(f"a message has at least its 2 bytes of type, this one has {len(frame)}")
        if frame[0] == 0 and _IS_CHANNEL[frame[1]]:
            if frame[1] == _REVOKE_AND_ACK:
                self._unrevoked.pop(frame[2:34], None)
            return True
        number = frame[0] << 8 | frame[1]
        if number in _CONTROL:
            return self._on_control(frame, now)
        if number in gossip.GOSSIP_TYPES:
            if number != _ANNOUNCEMENT_SIGNATURES:  # which belong to a channel
                size = len(frame) + FRAME_OVERHEAD
                self._gossip_bytes += size
                if not self._gossip_budget.take(size, now):
                    self.gossip_dropped += 1
                    return False
            if self._has_gossip:
                self._gossip.append(frame)
            elif gossip.is_query(number):
                self._spend_answer(now)
                self._send_now(gossip.answer(frame))
            return False
        if number & 1:
            return False
        raise PeerViolation(
            f"message type {number} is even and unknown to us", clause='BOLT 1, "Lightning Message Format"'
        )

    def _on_control(self, frame: bytes, now: float) -> bool:
        message = decode(frame)
        match message:
            case bolt1.Ping():
                self._spend_answer(now)
                pong = bolt1.pong_for(message)
                if pong is not None:
                    self._send_now(encode(pong))
                return False
            case bolt1.Error() | bolt1.Warning():
                kind = "error" if isinstance(message, bolt1.Error) else "warning"
                self._unrevoked.pop(message.channel_id, None)
                self._events.append(PeerSaid(kind, bolt1.printable(message.data[:_LONGEST_TEXT])))
                return True
            case bolt1.Init():
                raise PeerViolation("init came a second time", clause=_INIT_CLAUSE)
            case _:
                return False  # a pong: that it came is all we wanted, and `_heard` has it

    def _on_init(self, frame: bytes, state: _AwaitInit) -> None:
        message = decode(frame) if frame[:2] == _INIT_TYPE else None
        if not isinstance(message, bolt1.Init):
            raise PeerViolation("another message came before init", clause=_INIT_CLAUSE)
        networks = message.tlvs.networks
        if networks and self._local.chain_hash not in networks:
            raise PeerViolation("the peer is on none of our chains", clause=_INIT_CLAUSE)
        features = FeatureSet.from_bytes(message.globalfeatures) | FeatureSet.from_bytes(message.features)
        check_peer_init(self._local.features, features)
        self._state = _Live(state.encryptor, state.decryptor)
        self._events.append(Ready(features.to_bytes()))

    def _spend_answer(self, now: float) -> None:
        if not self._answers.spend(1, now):
            raise PeerViolation(
                "too many pings and queries in a short time", clause='BOLT 1, "The ping and pong Messages"'
            )

    def _send_now(self, frame: bytes) -> None:
        self.send((frame,))

    def _keep_alive(self, now: float) -> None:
        if self._pinged is not None and self._heard >= self._pinged:
            self._pinged = None  # whatever came shows that the peer lives, the pong may be late
        if self._pinged is not None:
            if now - self._pinged > self._profile.pong_wait:
                self._end(f"the peer was silent for {now - self._heard:.0f} s and did not answer a ping")
        elif now - self._heard >= self._profile.ping_interval:
            self._pinged = now
            self._send_now(encode(bolt1.Ping(_PONG_BYTES)))

    def _watch_revocations(self, now: float) -> None:
        """A peer that lives but does not answer a commitment would hold up all payments of the channel; after
        a new connection both sides say again what they owe."""
        waiting = next(iter(self._unrevoked.values()), now)  # the oldest, in the order of the dict
        if now - waiting > self._profile.revocation_wait and isinstance(self._state, _Live):
            self._warn_and_end(f"no revoke_and_ack came for {now - waiting:.0f} s after commitment_signed")

    # The end.

    def _warn_and_end(self, sentence: str) -> None:
        """The whole connection is meant, so the warning names no channel; a warning fails none."""
        state = self._state
        if isinstance(state, _AwaitInit | _Live):
            warning = bolt1.Warning(bolt1.ALL_CHANNELS, sentence.encode("ascii", "replace")[:_LONGEST_TEXT])
            self._output.append(state.encryptor.encrypt(encode(warning)))
        self._end(sentence)

    def _end(self, reason: str) -> None:
        self._state = _Over(reason)
        self._events.append(Ended(reason))
