"""Writing an invoice in two steps, so that the signer can stand between them (BOLT 11, "Data Part").

`unsigned` gives the digest to sign; `with_signature` of its result gives the text.
"""

from collections.abc import Iterator

from msgspec import Struct

from protocol.amounts import MAX_MONEY, Msat
from protocol.bolt11 import bech32
from protocol.bolt11.invoice import (
    DEFAULT_EXPIRY,
    DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA,
    FEATURE_DEPENDENCIES,
    PREFIXES,
    HopHint,
    InvoiceTerms,
)
from protocol.errors import CommandRefused
from protocol.hashes import sha256

MAX_FIELD_WORDS = 1023
DEFAULT_ORDER = "pshdmnxcfr9"
_TAGS = {tag: value for value, tag in enumerate("qpzry9x8gf2tvdw0s3jn54khce6mua7l")}
_PICO_PER_MSAT = 10
_UNITS = (("", 10**12), ("m", 10**9), ("u", 10**6), ("n", 10**3), ("p", 1))  # in pico-bitcoin, largest first


class UnsignedInvoice(Struct, frozen=True):
    """The signer reads `hrp` and `words` with `decode.read_terms` and computes the digest itself."""

    hrp: str
    words: bytes
    digest: bytes

    def with_signature(self, signature: bytes, recovery_id: int) -> str:
        """`signature` is the recoverable one over `digest`, 64 bytes compact."""
        if len(signature) != 64 or not 0 <= recovery_id <= 3:
            raise ValueError("a recoverable signature has 64 bytes and a recovery id from 0 to 3")
        return bech32.encode(self.hrp, self.words + bech32.to_words(signature + bytes((recovery_id,))))


def digest(hrp: str, words: bytes) -> bytes:
    """What is signed: the readable part and the words before the signature, padded to whole bytes."""
    return sha256(hrp.encode() + bech32.padded_to_bytes(words))


def unsigned(terms: InvoiceTerms, *, order: str = DEFAULT_ORDER) -> UnsignedInvoice:
    """Raises `CommandRefused` when the terms make no valid invoice; `order` is that of the fields, by tag."""
    if sorted(order) != sorted(DEFAULT_ORDER):
        raise ValueError(f"the order names each of {DEFAULT_ORDER} once, not {order}")
    _check(terms)
    hrp = "ln" + terms.prefix + ("" if terms.amount_msat is None else _amount(terms.amount_msat))
    words = bech32.integer_to_words(terms.timestamp, 7) + b"".join(
        _field(tag, value) for tag in order for value in _values(terms, tag)
    )
    return UnsignedInvoice(hrp, words, digest(hrp, words))


def _check(terms: InvoiceTerms) -> None:
    if terms.prefix not in PREFIXES:
        raise CommandRefused(
            f"no chain has the prefix {terms.prefix!r}", what_to_do="Use bc, tb, tbs or bcrt."
        )
    if terms.amount_msat is not None and not 0 < terms.amount_msat <= MAX_MONEY * 1000:
        raise CommandRefused(
            f"an invoice cannot ask for {terms.amount_msat} msat",
            what_to_do="Give an amount, or leave it open.",
        )
    if not 0 <= terms.timestamp < 1 << 35:
        raise CommandRefused(
            f"{terms.timestamp} is no time of an invoice", what_to_do="Set this computer's clock."
        )
    if (terms.description is None) == (terms.description_hash is None):
        raise CommandRefused(
            "an invoice has either a description or the hash of one", what_to_do="Give exactly one of them."
        )
    if not (0 <= terms.expiry < 1 << 35 and 0 <= terms.min_final_cltv_expiry_delta < 1 << 16):
        raise CommandRefused(
            "the expiry of the invoice or of its last HTLC is negative or too large", what_to_do="Change it."
        )
    for bit, needed in FEATURE_DEPENDENCIES.items():
        if terms.supports(bit) and not terms.supports(needed):
            raise CommandRefused(f"feature {bit} needs feature {needed}", what_to_do="Set both or none.")
    lengths = {"payment_hash": 32, "payment_secret": 32, "description_hash": 32, "node_id": 33}
    for name, length in lengths.items():
        value = getattr(terms, name)
        if value is not None and len(value) != length:
            raise CommandRefused(
                f"{name} has {length} bytes, not {len(value)}", what_to_do="Give it in full."
            )
    if not all(address.is_valid() for address in terms.fallback_addresses):
        raise CommandRefused("a fallback address is not valid", what_to_do="Give another address, or none.")
    if not all(terms.route_hints):
        raise CommandRefused("a route hint has no channel", what_to_do="Leave empty hints out.")


def _values(terms: InvoiceTerms, tag: str) -> Iterator[bytes]:
    """The words of each field of one tag; none for what is absent or has its default."""
    match tag:
        case "p":
            yield bech32.to_words(terms.payment_hash)
        case "s":
            yield bech32.to_words(terms.payment_secret)
        case "d" if terms.description is not None:
            yield bech32.to_words(terms.description.encode())
        case "h" if terms.description_hash is not None:
            yield bech32.to_words(terms.description_hash)
        case "m" if terms.payment_metadata is not None:
            yield bech32.to_words(terms.payment_metadata)
        case "n" if terms.node_id is not None:
            yield bech32.to_words(terms.node_id)
        case "x" if terms.expiry != DEFAULT_EXPIRY:
            yield _shortest(terms.expiry)
        case "c" if terms.min_final_cltv_expiry_delta != DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA:
            yield _shortest(terms.min_final_cltv_expiry_delta)
        case "f":
            for address in terms.fallback_addresses:
                yield bytes((address.version,)) + bech32.to_words(address.program)
        case "r":
            for hint in terms.route_hints:
                yield bech32.to_words(b"".join(_hop(hop) for hop in hint))
        case "9" if terms.features:
            yield _shortest(sum(1 << bit for bit in terms.features))


def _field(tag: str, words: bytes) -> bytes:
    if len(words) > MAX_FIELD_WORDS:
        raise CommandRefused(
            f"field {tag!r} of the invoice is longer than 639 bytes",
            what_to_do="Shorten it; a long description can be given as its hash.",
        )
    return bytes((_TAGS[tag], len(words) >> 5, len(words) & 31)) + words


def _hop(hop: HopHint) -> bytes:
    return b"".join(
        (
            hop.node_id,
            hop.short_channel_id.to_bytes(8, "big"),
            hop.fee_base_msat.to_bytes(4, "big"),
            hop.fee_proportional_millionths.to_bytes(4, "big"),
            hop.cltv_expiry_delta.to_bytes(2, "big"),
        )
    )


def _shortest(number: int) -> bytes:
    """Without leading zero words; zero itself is one word, since an empty field says nothing."""
    return bech32.integer_to_words(number, max(1, (number.bit_length() + 4) // 5))


def _amount(amount: Msat) -> str:
    pico = amount * _PICO_PER_MSAT
    for letter, unit in _UNITS:
        if pico % unit == 0:
            return f"{pico // unit}{letter}"
    raise AssertionError("every amount is a whole number of pico-bitcoin")
