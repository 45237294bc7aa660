"""Mnemonic words for seeds, English list (BIP 39)."""

import hashlib
import unicodedata

from embit.wordlists.bip39 import WORDLIST

from protocol.errors import MalformedMessage
from protocol.hashes import sha256
from protocol.secret import Secret

WORDS: tuple[str, ...] = tuple(WORDLIST)
_NUMBERS = {word: number for number, word in enumerate(WORDS)}
_ENTROPY_SIZES = (16, 20, 24, 28, 32)


def words_of(entropy: Secret) -> Secret:
    """12 to 24 words, separated by spaces, as ASCII bytes."""
    size = len(entropy)
    if size not in _ENTROPY_SIZES:
        raise ValueError(f"entropy has 16, 20, 24, 28 or 32 bytes, not {size}")
    checksum_bits = size // 4
    number = int.from_bytes(entropy.reveal(), "big") << checksum_bits | _checksum(entropy)
    count = (size * 8 + checksum_bits) // 11
    picked = (WORDS[number >> 11 * (count - 1 - n) & 0x7FF] for n in range(count))
    return Secret(" ".join(picked).encode())


def _checksum(entropy: Secret) -> int:
    return sha256(entropy.reveal())[0] >> (8 - len(entropy) // 4)


def entropy_of(words: Secret) -> Secret:
    """Raises MalformedMessage, which names the position of a wrong word and never the word."""
    picked = _text(words).split()
    if len(picked) not in (12, 15, 18, 21, 24):
        raise MalformedMessage(f"a mnemonic has 12, 15, 18, 21 or 24 words, this one {len(picked)}")
    number = 0
    for position, word in enumerate(picked, 1):
        if word not in _NUMBERS:
            raise MalformedMessage(f"word {position} is not in the English list: check its spelling")
        number = number << 11 | _NUMBERS[word]
    checksum_bits = len(picked) // 3
    entropy = Secret((number >> checksum_bits).to_bytes(checksum_bits * 4, "big"))
    if number & (1 << checksum_bits) - 1 != _checksum(entropy):
        raise MalformedMessage("the checksum is wrong: a word is mistaken, or two stand in the wrong order")
    return entropy


def _text(words: Secret) -> str:
    try:
        return unicodedata.normalize("NFKD", words.reveal().decode())
    except UnicodeDecodeError:
        raise MalformedMessage("a mnemonic is UTF-8 text") from None


def seed_of(words: Secret, passphrase: str = "") -> Secret:
    """The 64-byte seed (BIP 39, "From mnemonic to seed"). The words are checked first."""
    entropy_of(words)
    password = " ".join(_text(words).split()).encode()
    salt = b"mnemonic" + unicodedata.normalize("NFKD", passphrase).encode()
    return Secret(hashlib.pbkdf2_hmac("sha512", password, salt, 2048))
