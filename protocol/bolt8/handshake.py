"""The three-act handshake with the static-key operation outside (BOLT 8, "Authenticated Key Exchange").

The one who dials:                               The one who is dialled:
    request bytes out: act_one()                     receive_act_one(50 bytes)
    receive_act_two(50 bytes)                        answer static_request, then act_two(answer) -> 50 bytes
    answer static_request, then                      receive_act_three(66 bytes) -> Session
    finish(answer) -> 66 bytes, Session

`static_request` names the two inputs of `protocol.bolt8.static_key.mix_static`; the signer runs it. Each act
is handed in whole: the caller collects exactly `ACT_SIZES[n]` bytes, what follows belongs to the next layer.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cryptography.exceptions import InvalidTag
from noise.constants import Empty

from protocol import curve
from protocol.bolt8 import noise_suite
from protocol.bolt8.noise_suite import KeyPair, MixedKeys, RemoteStatic
from protocol.errors import PeerViolation
from protocol.secret import Secret

ACT_SIZES = {1: 50, 2: 50, 3: 66}
_VERSION = 0
_CLAUSE = {
    1: 'BOLT 8, "Act One"',
    2: 'BOLT 8, "Act Two"',
    3: 'BOLT 8, "Act Three"',
}


class Why(StrEnum):
    SHORT = "wrong length"
    BAD_VERSION = "unknown version"
    BAD_KEY = "not a public key"
    BAD_CIPHERTEXT = "the encrypted static key does not open"
    BAD_TAG = "the authentication tag is wrong"


class HandshakeFailed(PeerViolation):
    """The other end does not hold the key it should, or speaks something else: close the connection."""

    def __init__(self, act: int, why: Why) -> None:
        super().__init__(f"handshake act {act}: {why}", clause=_CLAUSE[act])
        self.act = act
        self.why = why


@dataclass(frozen=True)
class StaticDh:
    """The question for the signer: mix our static key with this ephemeral key into this chaining key."""

    chaining_key: Secret
    remote_ephemeral: bytes


@dataclass(frozen=True)
class Session:
    """What a finished handshake leaves: the peer, and the keys for `protocol.bolt8.ciphers`."""

    remote_static: bytes
    sending_key: Secret
    receiving_key: Secret
    chaining_key: Secret


class _Handshake:
    """What both ends share: reading an act with all its checks, and the answer of the signer."""

    def __init__(self, ephemeral_secret: Secret, local_static_point: bytes, remote: bytes | None) -> None:
        self._static = RemoteStatic()
        self._state: Any = noise_suite.start(
            initiator=remote is not None,
            static=KeyPair(self._static, local_static_point),
            ephemeral=KeyPair.from_secret(ephemeral_secret),
            remote_static=None if remote is None else KeyPair.from_public_bytes(remote),
        )
        # The library drops its own reference in the last act; key rotation needs the chaining key after that.
        self._symmetric: Any = self._state.symmetric_state
        self._next = 1
        self.static_request: StaticDh | None = None

    def _turn(self, act: int) -> None:
        if self._next != act:
            raise RuntimeError(f"act {self._next} of the handshake is next, not act {act}")
        self._next = act + 1

    def _check(self, act: int, data: bytes) -> bytes:
        """The act without its version byte."""
        if len(data) != ACT_SIZES[act]:
            raise HandshakeFailed(act, Why.SHORT)
        if data[0] != _VERSION:
            raise HandshakeFailed(act, Why.BAD_VERSION)
        if act < 3 and not curve.is_point(data[1:34]):
            raise HandshakeFailed(act, Why.BAD_KEY)
        return data[1:]

    def _read(self, act: int, body: bytes) -> Any:
        try:
            return self._state.read_message(body, bytearray())
        except curve.InvalidKey:
            raise HandshakeFailed(act, Why.BAD_KEY) from None
        except InvalidTag:
            opened = act < 3 or not isinstance(self._state.rs, Empty)
            raise HandshakeFailed(act, Why.BAD_TAG if opened else Why.BAD_CIPHERTEXT) from None

    def _write(self) -> tuple[bytes, Any]:
        out = bytearray((_VERSION,))
        split = self._state.write_message(b"", out)
        return bytes(out), split

    def _ask(self, remote_ephemeral: bytes) -> None:
        self.static_request = StaticDh(Secret(self._symmetric.ck), remote_ephemeral)

    def _install(self, answer: tuple[bytes, bytes]) -> None:
        chaining_key, cipher_key = answer
        self._static.answer = MixedKeys(Secret(chaining_key), Secret(cipher_key))
        self.static_request = None

    def _session(self, sending: Any, receiving: Any) -> Session:
        return Session(
            remote_static=self._state.rs.public_bytes,
            sending_key=Secret(sending.k),
            receiving_key=Secret(receiving.k),
            chaining_key=Secret(self._symmetric.ck),
        )


class Initiator(_Handshake):
    """The end that dials and knows whom it calls. `InvalidKey` when that node id is not on the curve."""

    def __init__(
        self, ephemeral_secret: Secret, remote_static_point: bytes, local_static_point: bytes
    ) -> None:
        super().__init__(ephemeral_secret, local_static_point, remote_static_point)

    def act_one(self) -> bytes:
        self._turn(1)
        return self._write()[0]

    def receive_act_two(self, data: bytes) -> None:
        """After this `static_request` is set."""
        self._turn(2)
        body = self._check(2, data)
        self._read(2, body)
        self._ask(body[:33])

    def finish(self, answer: tuple[bytes, bytes]) -> tuple[bytes, Session]:
        """Act three to send, and the session. `answer` is what `mix_static` made of `static_request`."""
        self._turn(3)
        self._install(answer)
        act_three, (sending, receiving) = self._write()
        return act_three, self._session(sending, receiving)


class Responder(_Handshake):
    """The end that is dialled; it learns in act three who calls."""

    def __init__(self, ephemeral_secret: Secret, local_static_point: bytes) -> None:
        super().__init__(ephemeral_secret, local_static_point, None)
        self._act_one = b""

    def receive_act_one(self, data: bytes) -> None:
        """Checks what can be checked without our key; after this `static_request` is set."""
        self._turn(1)
        self._act_one = self._check(1, data)
        self._ask(self._act_one[:33])

    def act_two(self, answer: tuple[bytes, bytes]) -> bytes:
        """Opens act one with the answer (a caller without our node id fails here) and makes act two."""
        self._turn(2)
        self._install(answer)
        self._read(1, self._act_one)
        return self._write()[0]

    def receive_act_three(self, data: bytes) -> Session:
        self._turn(3)
        receiving, sending = self._read(3, self._check(3, data))
        return self._session(sending, receiving)
