"""Bech32 without its limit of 90 characters, on words of 5 bits (BIP 173; BOLT 11, "Requirements")."""

from protocol.bolt11.invoice import InvalidInvoice

MAX_TEXT = 7089
"""Longer texts fit no QR code and are refused before any work is spent on them."""

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_CHECKSUM = 6
_COPY_AGAIN = "Copy or scan it again, all of it."


def _feedback(top: int) -> int:
    generators = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
    value = 0
    for bit, generator in enumerate(generators):
        if top >> bit & 1:
            value ^= generator
    return value


_FEEDBACK = tuple(_feedback(top) for top in range(32))  # an invoice has some 300 words: one look-up for each


def _polymod(hrp: str, words: bytes) -> int:
    state = 1
    expanded = bytes(ord(c) >> 5 for c in hrp) + b"\x00" + bytes(ord(c) & 31 for c in hrp)
    for word in expanded + words:
        state = (state & 0x1FFFFFF) << 5 ^ word ^ _FEEDBACK[state >> 25]
    return state


def encode(hrp: str, words: bytes) -> str:
    checksum = _polymod(hrp, words + bytes(_CHECKSUM)) ^ 1
    tail = bytes(checksum >> shift & 31 for shift in range(25, -1, -5))
    return hrp + "1" + "".join(_ALPHABET[word] for word in words + tail)


def decode(text: str) -> tuple[str, bytes]:
    """The human-readable part in lower case, and the words without the checksum."""
    if len(text) > MAX_TEXT:
        raise InvalidInvoice(f"an invoice of {len(text)} characters is too long", what_to_do=_COPY_AGAIN)
    # Lower-casing first would let characters in whose lower case is ASCII, such as the Kelvin sign.
    if not text.isascii() or not text.isprintable() or " " in text:
        raise InvalidInvoice("the invoice holds characters that no invoice has", what_to_do=_COPY_AGAIN)
    if text.lower() != text and text.upper() != text:
        raise InvalidInvoice("the invoice mixes upper and lower case", what_to_do=_COPY_AGAIN)
    hrp, separator, data = text.lower().rpartition("1")
    if not separator or not hrp:
        raise InvalidInvoice("this is not an invoice: it does not start like one", what_to_do=_COPY_AGAIN)
    try:
        words = bytes([_VALUES[character] for character in data])
    except KeyError:
        raise InvalidInvoice(
            "the invoice holds characters that no invoice has", what_to_do=_COPY_AGAIN
        ) from None
    if len(words) < _CHECKSUM or _polymod(hrp, words) != 1:
        raise InvalidInvoice(
            "the invoice's checksum is wrong: a character is missing or changed", what_to_do=_COPY_AGAIN
        )
    return hrp, words[:-_CHECKSUM]


def to_words(data: bytes) -> bytes:
    """Padded with zero bits to whole words."""
    count = (len(data) * 8 + 4) // 5
    number = int.from_bytes(data, "big") << (count * 5 - len(data) * 8)
    return integer_to_words(number, count)


def to_bytes(words: bytes) -> bytes:
    """Whole bytes; what is left over must be zero bits."""
    spare = len(words) * 5 % 8
    number = words_to_integer(words)
    if number & ((1 << spare) - 1):
        raise InvalidInvoice("a field of the invoice is not padded with zeros")
    return (number >> spare).to_bytes(len(words) * 5 // 8, "big")


def integer_to_words(number: int, count: int) -> bytes:
    return bytes(number >> shift & 31 for shift in range(5 * (count - 1), -1, -5))


def words_to_integer(words: bytes) -> int:
    number = 0
    for word in words:
        number = number << 5 | word
    return number


def padded_to_bytes(words: bytes) -> bytes:
    """All words, padded with zero bits to whole bytes: what is signed."""
    bits = len(words) * 5
    return (words_to_integer(words) << (-bits % 8)).to_bytes((bits + 7) // 8, "big")
