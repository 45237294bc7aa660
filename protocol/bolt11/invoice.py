"""What an invoice says (BOLT 11, "Tagged Fields"), and the error of one that cannot be paid."""

from typing import ClassVar

from msgspec import Struct

from protocol.amounts import Msat, ShortChannelId
from protocol.errors import MalformedMessage

PREFIXES = {"bc": "mainnet", "tb": "testnet", "tbs": "signet", "bcrt": "regtest"}
"""The currency prefixes that we know, and what people call those chains."""

DEFAULT_EXPIRY = 3600
DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA = 18
P2PKH_VERSION, P2SH_VERSION = 17, 18
UNDERSTOOD_FEATURES = frozenset({8, 14, 16, 48})
"""What may be required of us: var_onion_optin, payment_secret, basic_mpp, option_payment_metadata."""
FEATURE_DEPENDENCIES = {16: 14}
"""Of the bits that appear in invoices (BOLT 9, "Dependencies"): basic_mpp needs payment_secret."""


class InvalidInvoice(MalformedMessage):
    """An invoice that must not be paid: `sentence` says why, `what_to_do` what helps."""

    def __init__(self, sentence: str, *, what_to_do: str = "Ask the recipient for a new invoice.") -> None:
        super().__init__(f"{sentence}. {what_to_do}")
        self.sentence = sentence
        self.what_to_do = what_to_do


class HopHint(Struct, frozen=True):
    """One channel of a private route; `node_id` is where the channel starts."""

    SIZE: ClassVar[int] = 51

    node_id: bytes
    short_channel_id: ShortChannelId
    fee_base_msat: int
    fee_proportional_millionths: int
    cltv_expiry_delta: int


class FallbackAddress(Struct, frozen=True):
    """A witness version 0..16 with its program, or 17 with a public key hash, or 18 with a script hash."""

    version: int
    program: bytes

    def is_valid(self) -> bool:
        size = len(self.program)
        if self.version in (P2PKH_VERSION, P2SH_VERSION):
            return size == 20
        if self.version == 0:
            return size in (20, 32)
        return 1 <= self.version <= 16 and 2 <= size <= 40

    def script_pubkey(self) -> bytes:
        if self.version == P2PKH_VERSION:
            return b"\x76\xa9\x14" + self.program + b"\x88\xac"
        if self.version == P2SH_VERSION:
            return b"\xa9\x14" + self.program + b"\x87"
        opcode = 0x50 + self.version if self.version else 0
        return bytes((opcode, len(self.program))) + self.program


class InvoiceTerms(Struct, frozen=True, kw_only=True):
    """What the recipient signs. `features` holds bit numbers; no `amount_msat` means any amount."""

    prefix: str
    amount_msat: Msat | None
    timestamp: int
    payment_hash: bytes
    payment_secret: bytes
    description: str | None = None
    description_hash: bytes | None = None
    expiry: int = DEFAULT_EXPIRY
    min_final_cltv_expiry_delta: int = DEFAULT_MIN_FINAL_CLTV_EXPIRY_DELTA
    node_id: bytes | None = None
    """The `n` field; most invoices leave it out, since the signature tells."""
    fallback_addresses: tuple[FallbackAddress, ...] = ()
    route_hints: tuple[tuple[HopHint, ...], ...] = ()
    features: frozenset[int] = frozenset()
    payment_metadata: bytes | None = None

    @property
    def expires_at(self) -> int:
        return self.timestamp + self.expiry

    def supports(self, even_bit: int) -> bool:
        """Whether a feature is offered or required, by its even bit."""
        return even_bit in self.features or even_bit + 1 in self.features


class Invoice(InvoiceTerms, frozen=True, kw_only=True):
    """Terms whose signature was checked; `payee` signed them."""

    payee: bytes
    signature: bytes
    recovery_id: int
    digest: bytes
    text: str
    """The invoice itself, in lower case."""
