"""Bech32 and Bech32m strings of at most 90 characters (BIP 173, BIP 350), through embit's copy of the
reference code.
"""

from enum import Enum

from embit import bech32 as _embit

from protocol.errors import MalformedMessage


class Checksum(Enum):
    BECH32 = _embit.Encoding.BECH32
    BECH32M = _embit.Encoding.BECH32M


def encode(checksum: Checksum, hrp: str, words: list[int]) -> str:
    """`words` are 5-bit values."""
    return str(_embit.bech32_encode(checksum.value, hrp, words))


def decode(text: str) -> tuple[Checksum, str, list[int]]:
    """Checksum kind, lower-case human-readable part, 5-bit words without the checksum."""
    # The reference code changes the case of the text, so anything beyond ASCII must be refused first.
    if not text.isascii():
        raise MalformedMessage("a bech32 text holds ASCII characters only")
    encoding, hrp, words = _embit.bech32_decode(text)
    if encoding is None or hrp is None or words is None:
        raise MalformedMessage("not a bech32 text, or its checksum is wrong: check it for a typing error")
    return Checksum(encoding), hrp, words


def to_words(data: bytes) -> list[int]:
    """8-bit bytes to 5-bit words, padded with zeros."""
    return list(_embit.convertbits(data, 8, 5))


def to_bytes(words: list[int]) -> bytes:
    """5-bit words to bytes; the padding must be shorter than 5 bits and zero."""
    data = _embit.convertbits(words, 5, 8, False)
    if data is None:
        raise MalformedMessage("the padding of this bech32 text is wrong")
    return bytes(data)
