"""Looking for a secret in bytes, in every form in which a program usually writes bytes down."""

import base64
from collections.abc import Iterator, Mapping

from zmq.utils import z85

from protocol.bitcoin import base58

_CHARSET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_SHORTEST = 12
"""A pattern shorter than this could be found by chance."""


def forms_of(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """(name of the encoding, pattern). Encodings of groups of bytes come at every place in their group."""
    for name, data in (("", secret), ("reversed ", secret[::-1])):
        yield f"{name}raw", data
        yield f"{name}hex", data.hex().encode()
        yield f"{name}HEX", data.hex().upper().encode()
        yield f"{name}hex with colons", data.hex(":").encode()
        yield f"{name}hex with blanks", data.hex(" ").encode()
        yield f"{name}base58", base58.encode(data).encode()
        yield f"{name}decimal", str(int.from_bytes(data, "big")).encode()
        yield f"{name}byte list", ", ".join(map(str, data)).encode()
        yield f"{name}short byte list", ",".join(map(str, data)).encode()
        yield f"{name}escapes", repr(data)[2:-1].encode()
        for at in range(3):
            yield f"{name}base64 at {at}", _inside(base64.b64encode(bytes(at) + data), at, 3, 4, len(data))
            text = base64.urlsafe_b64encode(bytes(at) + data)
            yield f"{name}base64url at {at}", _inside(text, at, 3, 4, len(data))
        for at in range(5):
            text = base64.b32encode(bytes(at) + data)
            yield f"{name}base32 at {at}", _inside(text, at, 5, 8, len(data))
            words = _bech32(bytes(at) + data)
            yield f"{name}bech32 at {at}", _inside(words, at, 5, 8, len(data))
        for at in range(4):
            padded = bytes(at) + data + bytes(-(at + len(data)) % 4)
            yield f"{name}Z85 at {at}", _inside(z85.encode(padded), at, 4, 5, len(data))
    yield "base58check", base58.encode_check(secret).encode()


def _inside(text: bytes, at: int, group: int, symbols: int, size: int) -> bytes:
    """The symbols that hold nothing but bits of the secret: whole groups of it."""
    first = -(-at // group)
    last = (at + size) // group
    return text[first * symbols : last * symbols]


def _bech32(data: bytes) -> bytes:
    bits = "".join(f"{byte:08b}" for byte in data)
    return "".join(
        _CHARSET[int(bits[at : at + 5].ljust(5, "0"), 2)] for at in range(0, len(bits), 5)
    ).encode()


def forms_of_words(words: str) -> Iterator[tuple[str, bytes]]:
    """A mnemonic leaks with any few of its words in a row, whatever stands between them."""
    picked = words.split()
    for between in (" ", ",", ", ", "\n", '", "', "', '", "-", "_"):
        for at in range(len(picked) - 3):
            yield f"words joined by {between!r}", between.join(picked[at : at + 4]).encode()
            yield f"words backwards joined by {between!r}", between.join(picked[at : at + 4][::-1]).encode()


def find(secrets: Mapping[str, bytes], places: Mapping[str, bytes]) -> list[str]:
    """One line for each secret, encoding and place where it stands."""
    found = []
    for name, secret in secrets.items():
        forms = list(forms_of(secret))
        if name.endswith("words"):
            forms += forms_of_words(secret.decode())
        for encoding, pattern in forms:
            if len(pattern) < _SHORTEST:
                raise ValueError(f"{name} as {encoding} is too short to be looked for")
            found += [f"{name} as {encoding} in {place}" for place, data in places.items() if pattern in data]
    return found
