"""The watchtower's file: one line for each revoked commitment, which tells its holder nothing until that commitment is
published (BOLT 5, "Revoked Transaction Close Handling").

A line is `hint blob`: the hint, in hex, is the first half of the commitment's transaction id (in the order of the
bytes, not of the display); the blob, in base64, holds the penalties, encrypted under a key made of the whole id. Who
sees the commitment knows the key; from a hint alone the other 128 bits cannot be guessed. Lines that begin with `#`
say something to people.
"""

import base64
import binascii
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

HEADER = b"# Penalties for a watchtower, version 1. `python -m node.tower watch` reads it.\n"
HINT_SIZE = 16
MODE = 0o600
_PURPOSE = b"lnp watchtower 1"
_NONCE_SIZE = 12
_PADDING = 512
"""The size of a blob would tell how many HTLCs there were; so it is rounded up."""
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(tuple[bytes, ...]).decode
_LENGTH = 4


def hint_of(txid: bytes) -> bytes:
    return txid[:HINT_SIZE]


def _cipher(txid: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(HKDF(SHA256(), 32, None, _PURPOSE).derive(txid))


def line(txid: bytes, transactions: Sequence[bytes]) -> bytes:
    """The nonce is drawn, since a line that a crash repeats may hold other feerates under the same key."""
    body = _encode(tuple(transactions))
    plain = len(body).to_bytes(_LENGTH, "big") + body
    plain += bytes(-len(plain) % _PADDING)
    nonce = os.urandom(_NONCE_SIZE)
    hint = hint_of(txid)
    blob = nonce + _cipher(txid).encrypt(nonce, plain, hint)
    return hint.hex().encode() + b" " + base64.b64encode(blob) + b"\n"


def parse(raw: bytes) -> tuple[bytes, bytes] | None:
    """Hint and blob; None for what is no line of ours."""
    hint, space, blob = raw.strip().partition(b" ")
    if not space or len(hint) != 2 * HINT_SIZE:
        return None
    try:
        return bytes.fromhex(hint.decode("ascii")), base64.b64decode(blob, validate=True)
    except (ValueError, binascii.Error):
        return None


def unseal(txid: bytes, blob: bytes) -> tuple[bytes, ...] | None:
    """The penalties; None when the blob is damaged, or belongs to another transaction with this hint."""
    nonce, sealed = blob[:_NONCE_SIZE], blob[_NONCE_SIZE:]
    try:
        plain = _cipher(txid).decrypt(nonce, sealed, hint_of(txid))
        return _decode(plain[_LENGTH : _LENGTH + int.from_bytes(plain[:_LENGTH], "big")])
    except (InvalidTag, ValueError, msgspec.DecodeError):
        return None


def append(path: Path, lines: Sequence[bytes]) -> int:
    """Durable when it returns. Answers the size of the file. A line that a crash cut off is ended first, so that
    it spoils no other. Raises OSError."""
    fresh = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, MODE)
    with open(descriptor, "rb+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        begin = HEADER if size == 0 else b""
        if size:
            file.seek(size - 1)
            begin = b"" if file.read(1) == b"\n" else b"\n"
        _write_all(descriptor, begin + b"".join(lines))
        os.fsync(descriptor)
        size = file.seek(0, os.SEEK_END)
    if fresh:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    return size


def _write_all(descriptor: int, raw: bytes) -> None:
    view = memoryview(raw)
    while view:
        view = view[os.write(descriptor, view) :]


class Book:
    """The file as its holder reads it: which hints there are, and where. It may grow, or be replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[bytes, list[int]] = {}
        self._read = 0
        self._file: tuple[int, int] | None = None
        self.lines = 0
        self.wrong = 0

    def refresh(self) -> bool:
        """Reads what was added, up to the last whole line. Whether there was any. Raises OSError."""
        with self._path.open("rb") as file:
            status = os.fstat(file.fileno())
            if self._file != (status.st_dev, status.st_ino) or status.st_size < self._read:
                self._places.clear()
                self._read = self.lines = self.wrong = 0
                self._file = (status.st_dev, status.st_ino)
            file.seek(self._read)
            before = self.lines
            while (raw := file.readline()).endswith(b"\n"):
                self._note(raw, self._read)
                self._read += len(raw)
        return self.lines > before

    def _note(self, raw: bytes, place: int) -> None:
        if raw.startswith(b"#") or not raw.strip():
            return
        found = parse(raw)
        if found is None:
            self.wrong += 1
            return
        self.lines += 1
        self._places.setdefault(found[0], []).append(place)

    def __contains__(self, txid: bytes) -> bool:
        return hint_of(txid) in self._places

    def penalties(self, txid: bytes) -> tuple[bytes, ...]:
        """For a commitment that was published: those of all its lines that can be opened."""
        found: dict[bytes, None] = {}
        with self._path.open("rb") as file:
            for place in self._places.get(hint_of(txid), ()):
                file.seek(place)
                parsed = parse(file.readline())
                opened = None if parsed is None else unseal(txid, parsed[1])
                found.update(dict.fromkeys(opened or ()))
        return tuple(found)
