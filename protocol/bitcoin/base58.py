"""Base58 and Base58Check, the text of old addresses and extended keys (BIP 32, "Serialization format")."""

from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
MAX_TEXT = 200
"""Longer than any address or key; decoding costs the square of the length."""


def encode(data: bytes) -> str:
    number = int.from_bytes(data, "big")
    digits = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def decode(text: str) -> bytes:
    if len(text) > MAX_TEXT:
        raise MalformedMessage(f"{len(text)} characters are too many for a base58 text")
    number = 0
    for character in text:
        if character not in _VALUES:
            raise MalformedMessage(f"{character!r} is not a base58 character")
        number = number * 58 + _VALUES[character]
    zeros = len(text) - len(text.lstrip("1"))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def encode_check(payload: bytes) -> str:
    return encode(payload + double_sha256(payload)[:4])


def decode_check(text: str) -> bytes:
    """The payload; raises MalformedMessage when the checksum does not fit."""
    data = decode(text)
    if len(data) < 5 or double_sha256(data[:-4])[:4] != data[-4:]:
        raise MalformedMessage("the base58 checksum is wrong: check the text for a typing error")
    return data[:-4]
