"""Encrypted frames with key rotation (BOLT 8, "Lightning Message Specification").

A frame is the encrypted length (18 bytes) and the encrypted message (16 bytes more than the message). Each
of the two uses one nonce, and each direction changes its key after 1000 nonces: as 1000 is even, that happens
between two frames.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from protocol.bolt8.static_key import hkdf_two
from protocol.errors import PeerViolation
from protocol.secret import Secret

LARGEST_MESSAGE = 65535
ROTATION = 1000
_NONCES = tuple(bytes(4) + n.to_bytes(8, "little") for n in range(ROTATION))
_TAG = 16
_HEAD = 2 + _TAG


class BrokenFrame(PeerViolation):
    """A frame that does not open. Nothing after it can be trusted: drop the connection at once."""

    def __init__(self, what: str) -> None:
        super().__init__(what, clause='BOLT 8, "Receiving and Decrypting Messages"')


class _Direction:
    """The key of one direction and how often it was used."""

    def __init__(self, key: Secret, chaining_key: Secret) -> None:
        self._key = key
        self._chaining_key = chaining_key
        self._cipher = ChaCha20Poly1305(key.reveal())
        self._nonce = 0

    def _rotate(self) -> None:
        chaining_key, key = hkdf_two(self._chaining_key.reveal(), self._key.reveal())
        self._chaining_key, self._key = Secret(chaining_key), Secret(key)
        self._cipher = ChaCha20Poly1305(key)
        self._nonce = 0


class Encryptor(_Direction):
    def encrypt(self, plaintext: bytes) -> bytes:
        """One frame. Frames must be sent in the order in which they were made."""
        size = len(plaintext)
        if size > LARGEST_MESSAGE:
            raise ValueError(f"a message has at most {LARGEST_MESSAGE} bytes, this one has {size}")
        nonce = self._nonce
        encrypt = self._cipher.encrypt
        frame = encrypt(_NONCES[nonce], size.to_bytes(2, "big"), None) + encrypt(
            _NONCES[nonce + 1], plaintext, None
        )
        self._nonce = nonce + 2
        if self._nonce == ROTATION:
            self._rotate()
        return frame


class Decryptor(_Direction):
    """Takes bytes as they come and gives the messages that are whole; keeps at most one unfinished frame."""

    def __init__(self, key: Secret, chaining_key: Secret) -> None:
        super().__init__(key, chaining_key)
        self._kept = bytearray()
        self._size = -1  # of the message whose length was read already, else -1
        self._broken = False

    def feed(self, data: bytes) -> list[bytes]:
        """All messages that these bytes complete, in order. BrokenFrame ends this direction for good."""
        if self._broken:
            raise BrokenFrame("a frame before this one did not open")
        if self._kept:
            self._kept += data
            needed = _HEAD if self._size < 0 else self._size + _TAG
            if len(self._kept) < needed:
                return []
            data = bytes(self._kept)
            self._kept.clear()
        try:
            messages, used = self._open(memoryview(data))
        except InvalidTag:
            self._broken = True
            raise BrokenFrame("the authentication tag of a frame is wrong") from None
        if used < len(data):
            self._kept += data[used:]
        return messages

    def _open(self, data: memoryview) -> tuple[list[bytes], int]:
        messages = []
        pos, end = 0, len(data)
        while True:
            if self._size < 0:
                if end - pos < _HEAD:
                    break
                length = self._cipher.decrypt(_NONCES[self._nonce], data[pos : pos + _HEAD], None)
                self._size = length[0] << 8 | length[1]
                self._nonce += 1
                pos += _HEAD
            stop = pos + self._size + _TAG
            if stop > end:
                break
            messages.append(self._cipher.decrypt(_NONCES[self._nonce], data[pos:stop], None))
            pos = stop
            self._size = -1
            self._nonce += 1
            if self._nonce == ROTATION:
                self._rotate()
        return messages, pos
