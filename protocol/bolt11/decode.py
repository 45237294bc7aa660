"""Reading an invoice (BOLT 11, "Requirements" of each section, the reader).

Wrong bytes raise `InvalidInvoice`, whose text a person can act on. Expiry is not checked here: there is no
clock in this package.
"""

import re
from collections.abc import Set
from typing import NoReturn

from protocol import curve
from protocol.amounts import MAX_MONEY, Msat, ShortChannelId
from protocol.bolt11 import bech32
from protocol.bolt11.encode import digest as digest_of
from protocol.bolt11.invoice import (
    DEFAULT_EXPIRY,
    DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA,
    FEATURE_DEPENDENCIES,
    PREFIXES,
    UNDERSTOOD_FEATURES,
    FallbackAddress,
    HopHint,
    InvalidInvoice,
    Invoice,
    InvoiceTerms,
)

_SIGNATURE_WORDS = 104
_TIMESTAMP_WORDS = 7
_FIXED_WORDS = {"p": 52, "s": 52, "h": 52, "n": 53}
_SINGLE = frozenset("pshdmnxc9")
_TAGS = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_READABLE_PART = re.compile(r"ln([a-z]+)(?:([0-9]+)([a-z]*))?")
_PICO_PER_UNIT = {"": 10**12, "m": 10**9, "u": 10**6, "n": 10**3, "p": 1}
_MAX_DIGITS = 20
_MAX_INTEGER_WORDS = 13  # 64 bits

_Fields = dict[str, list[bytes]]


def decode(
    text: str, *, expect_prefix: str | None = None, understood_features: Set[int] = UNDERSTOOD_FEATURES
) -> Invoice:
    """The invoice in `text`, its signature checked; a leading `lightning:` is allowed.

    `expect_prefix` is the currency prefix of our chain ("bc", "tb", "tbs", "bcrt"); None takes all of them.
    """
    text = text.strip()
    if text[:10].lower() == "lightning:":
        text = text[10:]
    hrp, words = bech32.decode(text)
    if len(words) < _TIMESTAMP_WORDS + _SIGNATURE_WORDS:
        raise InvalidInvoice("the invoice is too short", what_to_do="Copy or scan it again, all of it.")
    signed, signature_words = words[:-_SIGNATURE_WORDS], words[-_SIGNATURE_WORDS:]
    terms = read_terms(hrp, signed, expect_prefix=expect_prefix, understood_features=understood_features)
    signature = bech32.to_bytes(signature_words)
    digest = digest_of(hrp, signed)
    payee = _payee(terms.node_id, digest, signature[:64], signature[64])
    return Invoice(
        **{name: getattr(terms, name) for name in InvoiceTerms.__struct_fields__},
        payee=payee,
        signature=signature[:64],
        recovery_id=signature[64],
        digest=digest,
        text=text.lower(),
    )


def read_terms(
    hrp: str,
    words: bytes,
    *,
    expect_prefix: str | None = None,
    understood_features: Set[int] = UNDERSTOOD_FEATURES,
) -> InvoiceTerms:
    """What an invoice says, before any signature: the signer reads what it is asked to sign with it."""
    prefix, amount = _readable_part(hrp, expect_prefix)
    if len(words) < _TIMESTAMP_WORDS or max(words) > 31:
        raise InvalidInvoice("the invoice is too short", what_to_do="Copy or scan it again, all of it.")
    fields = _fields(words)
    features = _features(fields, understood_features)
    if "d" in fields and "h" in fields:
        raise InvalidInvoice("the invoice has both a description and the hash of one")
    if "d" not in fields and "h" not in fields:
        raise InvalidInvoice("the invoice has no description")
    return InvoiceTerms(
        prefix=prefix,
        amount_msat=amount,
        timestamp=bech32.words_to_integer(words[:_TIMESTAMP_WORDS]),
        payment_hash=_need(fields, "p", "payment hash"),
        payment_secret=_need(fields, "s", "payment secret"),
        description=_description(fields),
        description_hash=_optional(fields, "h"),
        expiry=_integer(fields, "x", DEFAULT_EXPIRY),
        min_final_cltv_expiry_delta=_integer(fields, "c", DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA),
        node_id=_optional(fields, "n"),
        fallback_addresses=tuple(_fallbacks(fields)),
        route_hints=tuple(_route_hint(field) for field in fields.get("r", ())),
        features=features,
        payment_metadata=_optional(fields, "m"),
    )


def _readable_part(hrp: str, expect_prefix: str | None) -> tuple[str, Msat | None]:
    match = _READABLE_PART.fullmatch(hrp)
    if match is None:
        raise InvalidInvoice(
            "this is not an invoice: one starts with ln",
            what_to_do="Copy or scan the invoice again, all of it.",
        )
    prefix, digits, multiplier = match.groups()
    if prefix not in PREFIXES:
        raise InvalidInvoice(f"the invoice is for a chain that we do not know ({prefix!r})")
    if expect_prefix is not None and prefix != expect_prefix:
        here = PREFIXES.get(expect_prefix, expect_prefix)
        raise InvalidInvoice(
            f"the invoice is for {PREFIXES[prefix]}, and this node runs on {here}",
            what_to_do=f"Ask the recipient for an invoice on {here}.",
        )
    if digits is None:
        return prefix, None
    if multiplier not in _PICO_PER_UNIT:
        raise InvalidInvoice(f"the amount's multiplier {multiplier!r} is not m, u, n or p")
    if digits[0] == "0" or len(digits) > _MAX_DIGITS:
        raise InvalidInvoice("the invoice's amount is zero, starts with zeros or is too large")
    pico = int(digits) * _PICO_PER_UNIT[multiplier]
    if pico % 10:
        raise InvalidInvoice("the invoice's amount is not a whole number of millisatoshis")
    if pico // 10 > MAX_MONEY * 1000:
        raise InvalidInvoice("the invoice asks for more bitcoin than there will ever be")
    return prefix, Msat(pico // 10)


def _fields(words: bytes) -> _Fields:
    """The fields by tag; those of unknown tags are skipped."""
    fields: _Fields = {}
    at = _TIMESTAMP_WORDS
    while at < len(words):
        if at + 3 > len(words):
            raise InvalidInvoice("the last field of the invoice is cut short")
        tag, length = _TAGS[words[at]], words[at + 1] << 5 | words[at + 2]
        value = words[at + 3 : at + 3 + length]
        if len(value) != length:
            raise InvalidInvoice("the last field of the invoice is cut short")
        if tag in _FIXED_WORDS and length != _FIXED_WORDS[tag]:
            raise InvalidInvoice(f"field {tag!r} of the invoice has a wrong length")
        if tag in _SINGLE and tag in fields:
            raise InvalidInvoice(f"field {tag!r} stands twice in the invoice")
        fields.setdefault(tag, []).append(value)
        at += 3 + length
    return fields


def _optional(fields: _Fields, tag: str) -> bytes | None:
    return bech32.to_bytes(fields[tag][0]) if tag in fields else None


def _need(fields: _Fields, tag: str, name: str) -> bytes:
    value = _optional(fields, tag)
    if value is None:
        raise InvalidInvoice(f"the invoice has no {name}")
    return value


def _description(fields: _Fields) -> str | None:
    value = _optional(fields, "d")
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        raise InvalidInvoice("the invoice's description is not text") from None


def _integer(fields: _Fields, tag: str, default: int) -> int:
    if tag not in fields:
        return default
    words = fields[tag][0]
    if not words or len(words) > _MAX_INTEGER_WORDS or (words[0] == 0 and len(words) > 1):
        raise InvalidInvoice(f"the number in field {tag!r} of the invoice is empty, padded or too large")
    return bech32.words_to_integer(words)


def _features(fields: _Fields, understood: Set[int]) -> frozenset[int]:
    if "9" not in fields:
        return frozenset()
    words = fields["9"][0]
    if words[:1] == b"\x00":
        raise InvalidInvoice("the invoice's features are padded with zeros")
    bits = frozenset(
        5 * i + bit for i, word in enumerate(reversed(words)) for bit in range(5) if word >> bit & 1
    )
    for bit in sorted(bits):
        if bit % 2 == 0 and bit not in understood:
            raise InvalidInvoice(
                f"the invoice requires feature {bit}, which this node does not know",
                what_to_do="Update this node, or ask for an invoice without it.",
            )
    for even, needed in FEATURE_DEPENDENCIES.items():
        if bits & {even, even + 1} and not bits & {needed, needed + 1}:
            raise InvalidInvoice(f"the invoice has feature {even} without feature {needed}, which it needs")
    return bits


def _fallbacks(fields: _Fields) -> list[FallbackAddress]:
    """Fallback addresses of unknown versions are skipped, as they may be of a later form."""
    addresses = []
    for field in fields.get("f", ()):
        if not field or field[0] > 18:
            continue
        address = FallbackAddress(field[0], bech32.to_bytes(field[1:]))
        if not address.is_valid():
            raise InvalidInvoice("a fallback address of the invoice is not valid")
        addresses.append(address)
    return addresses


def _route_hint(field: bytes) -> tuple[HopHint, ...]:
    data = bech32.to_bytes(field)
    if not data or len(data) % HopHint.SIZE:
        raise InvalidInvoice("a route hint of the invoice is cut short")
    return tuple(_hop(data[at : at + HopHint.SIZE]) for at in range(0, len(data), HopHint.SIZE))


def _hop(data: bytes) -> HopHint:
    if not curve.is_point(data[:33]):
        raise InvalidInvoice("a route hint of the invoice names no valid node")
    return HopHint(
        node_id=data[:33],
        short_channel_id=ShortChannelId(int.from_bytes(data[33:41], "big")),
        fee_base_msat=int.from_bytes(data[41:45], "big"),
        fee_proportional_millionths=int.from_bytes(data[45:49], "big"),
        cltv_expiry_delta=int.from_bytes(data[49:51], "big"),
    )


def _payee(node_id: bytes | None, digest: bytes, signature: bytes, recovery_id: int) -> bytes:
    """With an `n` field that key must have signed, with a low S; else the key comes of the signature."""
    if node_id is not None:
        if recovery_id > 3 or not curve.verify_ecdsa(node_id, digest, signature):
            _refuse_signature()
        return node_id
    payee = curve.recover(digest, signature, recovery_id)
    if payee is None:
        _refuse_signature()
    return payee


def _refuse_signature() -> NoReturn:
    raise InvalidInvoice("the invoice's signature is wrong, so it may not come from the recipient")
