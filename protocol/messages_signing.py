"""Messages signed with a node key, as LND and Core Lightning do it (zbase32, recoverable ECDSA).

No BOLT describes it. The signer signs `digest(message)`; the text is `encode` of what comes back.
"""

from protocol import curve
from protocol.errors import MalformedMessage
from protocol.hashes import double_sha256

_PREFIX = b"Lightning Signed Message:"
_ALPHABET = "ybndrfg8ejkmcpqxot1uwisza345h769"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_CHARACTERS = 104  # 65 bytes are exactly 104 groups of 5 bits
_HEADER = 31  # Bitcoin's header byte for a recovery id of a compressed key


def digest(message: bytes) -> bytes:
    return double_sha256(_PREFIX + message)


def encode(signature: bytes, recovery_id: int) -> str:
    """The text of a 64-byte compact signature and its recovery id."""
    if len(signature) != 64 or not 0 <= recovery_id <= 3:
        raise ValueError("a recoverable signature has 64 bytes and a recovery id from 0 to 3")
    number = int.from_bytes(bytes((_HEADER + recovery_id,)) + signature, "big")
    return "".join(_ALPHABET[number >> shift & 31] for shift in range(5 * (_CHARACTERS - 1), -1, -5))


def decode(text: str) -> tuple[bytes, int]:
    """The compact signature and the recovery id."""
    if len(text) != _CHARACTERS:
        raise MalformedMessage(
            f"a signed message's signature has {_CHARACTERS} characters, not {len(text)}: copy all of it"
        )
    number = 0
    for character in text:
        value = _VALUES.get(character)
        if value is None:
            raise MalformedMessage(
                f"{character!r} is no character of zbase32: check the signature for an error"
            )
        number = number << 5 | value
    data = number.to_bytes(65, "big")
    if not _HEADER <= data[0] <= _HEADER + 3:
        raise MalformedMessage("the signature was not made by a Lightning node")
    return data[1:], data[0] - _HEADER


def signer_of(message: bytes, text: str) -> bytes | None:
    """The node id that signed, or None. Anyone can make a text that gives *some* node id: compare it."""
    signature, recovery_id = decode(text)
    return curve.recover(digest(message), signature, recovery_id)
