"""Reading and writing invoices (BOLT 11)."""

from typing import Any

import msgspec
import pytest

from protocol import curve
from protocol.amounts import MAX_MONEY, Msat, ShortChannelId, parse_scid
from protocol.bolt11 import bech32
from protocol.bolt11.decode import decode, read_terms
from protocol.bolt11.encode import DEFAULT_ORDER, UnsignedInvoice, digest, unsigned
from protocol.bolt11.invoice import FallbackAddress, HopHint, InvalidInvoice, InvoiceTerms
from protocol.errors import CommandRefused
from tests.support import vectors

NODE_SECRET = bytes.fromhex("e126f68f7eafcc8b74f54d269fe206be715000f94dac067d1c04a8ca3b2db734")
NODE_ID = "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad"
PAYMENT_HASH = bytes.fromhex("0001020304050607080900010203040506070809000102030405060708090102")
# One case of bolt11/valid.json and one of bolt11/invalid.json.
DONATION = (
    "lnbc1pvjluezsp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygspp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyq"
    "cyq5rqwzqfqypqdpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq9qrsgq357wnc5r2ueh7ck6q93dj3"
    "2dlqnls087fxdwk8qakdyafkq3yap9us6v52vjjsrvywa6rt52cm9r9zqt8r2t7mlcwspyetp5h2tztugp9lfyql"
)
FEATURE_100 = (
    "lnbc25m1pvjluezpp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypqdq5vdhkven9v5sxyetpdeessp5zyg3zyg3zyg3z"
    "yg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygs9q4psqqqqqqqqqqqqqqqqsgqtqyx5vggfcsll4wu246hz02kp85x4katwsk9639we5n5yn"
    "gc3yhqkm35jnjw4len8vrnqnf5ejh0mzj9n3vz2px97evektfm2l6wqccp3y7372"
)
# It contradicts the document's own, newer rule: a wrong length of p, h, s or n fails the payment.
SUPERSEDED = "ignored_fields"

TERMS = InvoiceTerms(
    prefix="bc",
    amount_msat=None,
    timestamp=1496314658,
    payment_hash=PAYMENT_HASH,
    payment_secret=bytes([0x11]) * 32,
    description="Please consider supporting this project",
    features=frozenset({8, 14}),
)


def sign(invoice: UnsignedInvoice) -> str:
    return invoice.with_signature(*curve.sign_recoverable(NODE_SECRET, invoice.digest))


def signed_fields(tail: str, hrp: str = "lnbc", base: str = "psd9") -> str:
    """An invoice of a valid base and more fields, signed as it stands."""
    alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
    fields = {
        "p": "pp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypq",
        "s": "sp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygs",
        "d": "dqqq"[:3],
        "9": "9qrsgq",
    }
    text = "pvjluez" + "".join(fields[tag] for tag in base) + tail
    words = bytes(alphabet.index(character) for character in text)
    return sign(UnsignedInvoice(hrp, words, digest(hrp, words)))


def test_the_published_donation_is_read() -> None:
    """checklist 40"""
    invoice = decode(DONATION, expect_prefix="bc")
    assert invoice.payee.hex() == NODE_ID
    assert invoice.amount_msat is None
    assert invoice.payment_hash == PAYMENT_HASH
    assert invoice.payment_secret == bytes([0x11]) * 32
    assert invoice.description == "Please consider supporting this project"
    assert (invoice.expiry, invoice.expires_at) == (3600, 1496318258)
    assert invoice.min_final_cltv_expiry_delta == 18
    assert invoice.features == {8, 14} and invoice.supports(14) and not invoice.supports(16)


def test_the_published_donation_is_written_byte_for_byte() -> None:
    assert sign(unsigned(TERMS, order="spdhmnxcfr9")) == DONATION


def test_required_feature_that_we_do_not_know_is_named() -> None:
    with pytest.raises(InvalidInvoice, match="feature 100") as caught:
        decode(FEATURE_100)
    assert caught.value.what_to_do.startswith("Update")
    assert decode(FEATURE_100, understood_features={8, 14, 100}).amount_msat == 2_500_000_000


def expected_terms(case: dict[str, Any]) -> dict[str, Any]:
    expected: dict[str, Any] = {"prefix": case["currency"], "timestamp": case["timestamp"]}
    expected["amount_msat"] = case["amount_msat"]
    for field in case["fields"]:
        match field["tag"]:
            case "p":
                expected["payment_hash"] = bytes.fromhex(field["payment_hash"])
            case "s":
                expected["payment_secret"] = bytes.fromhex(field["payment_secret"])
            case "d":
                expected["description"] = field["description"]
            case "h":
                expected["description_hash"] = bytes.fromhex(field["description_hash"])
            case "x":
                expected["expiry"] = field["expiry_seconds"]
            case "c":
                expected["min_final_cltv_expiry_delta"] = field["min_final_cltv_expiry_delta"]
            case "m":
                expected["payment_metadata"] = bytes.fromhex(field["payment_metadata"])
            case "9":
                expected["features"] = frozenset(field["feature_bits"])
            case "f":
                program = bytes.fromhex(field["fallback_program"])
                expected["fallback_addresses"] = (FallbackAddress(field["fallback_version"], program),)
            case "r":
                expected["route_hints"] = (tuple(map(expected_hop, field["hops"])),)
            case tag:
                raise AssertionError(f"a published field that this test does not know: {tag}")
    return expected


def expected_hop(hop: dict[str, Any]) -> HopHint:
    return HopHint(
        node_id=bytes.fromhex(hop["pubkey"]),
        short_channel_id=parse_scid(hop["short_channel_id"]),
        fee_base_msat=hop["fee_base_msat"],
        fee_proportional_millionths=hop["fee_proportional_millionths"],
        cltv_expiry_delta=hop["cltv_expiry_delta"],
    )


def test_published_valid_invoices_are_read_and_written_again() -> None:
    """checklist 40"""
    cases = [case for case in vectors("bolt11/valid.json")["cases"] if case["label"] != SUPERSEDED]
    assert len(cases) == 15
    for case in cases:
        invoice = decode(case["invoice"], expect_prefix=case["currency"])
        for name, value in expected_terms(case).items():
            assert getattr(invoice, name) == value, (case["label"], name)
        assert invoice.payee.hex() == case["recovered_node_id"]
        assert invoice.signature.hex() == case["signature"]
        assert invoice.recovery_id == case["recovery_flag"]
        assert invoice.digest.hex() == case["signing_hash"]
        tags = "".join(field["tag"] for field in case["fields"])
        order = tags + "".join(tag for tag in DEFAULT_ORDER if tag not in tags)
        again = unsigned(invoice, order=order)
        assert again.digest == invoice.digest
        assert again.with_signature(invoice.signature, invoice.recovery_id) == case["invoice"].lower()
        if case["recovered_node_id"] == NODE_ID:  # all but the one whose S was made high
            assert sign(again) == case["invoice"].lower()


def test_published_case_with_wrong_lengths_follows_the_newer_rule() -> None:
    (case,) = [case for case in vectors("bolt11/valid.json")["cases"] if case["label"] == SUPERSEDED]
    with pytest.raises(InvalidInvoice, match="wrong length"):
        decode(case["invoice"])


def test_published_invalid_invoices_are_refused_for_their_reason() -> None:
    """checklist 40"""
    reasons = {
        "unknown_even_feature_100": "feature 100",
        "bad_bech32_checksum": "checksum",
        "no_separator": "does not start like one",
        "mixed_case": "upper and lower",
        "signature_not_recoverable": "signature",
        "too_short": "too short",
        "invalid_multiplier": "multiplier",
        "sub_millisatoshi": "millisatoshi",
        "missing_payment_secret": "no payment secret",
        "high_s_with_n_field": "twice",  # it has a second s field too; the rule itself is tested below
    }
    cases = vectors("bolt11/invalid.json")
    assert {case["label"] for case in cases} == set(reasons)
    for case in cases:
        with pytest.raises(InvalidInvoice, match=reasons[case["label"]]):
            decode(case["invoice"])


def test_upper_case_and_uri_prefix_are_read_alike() -> None:
    plain = decode(DONATION)
    for text in (
        DONATION.upper(),
        "lightning:" + DONATION,
        "LIGHTNING:" + DONATION.upper(),
        f" {DONATION}\n",
    ):
        assert decode(text) == plain


def test_invoice_of_another_chain_is_refused_by_name() -> None:
    with pytest.raises(InvalidInvoice, match="for mainnet, and this node runs on regtest"):
        decode(DONATION, expect_prefix="bcrt")
    with pytest.raises(InvalidInvoice, match="chain that we do not know"):
        decode(signed_fields("", hrp="lnltc"))
    assert decode(sign(unsigned(msgspec.structs.replace(TERMS, prefix="bcrt")))).prefix == "bcrt"


def test_with_n_field_that_key_must_have_signed_with_a_low_s() -> None:
    """checklist 40"""
    terms = msgspec.structs.replace(TERMS, node_id=bytes.fromhex(NODE_ID))
    invoice = unsigned(terms)
    signature, recovery_id = curve.sign_recoverable(NODE_SECRET, invoice.digest)
    assert decode(invoice.with_signature(signature, recovery_id)).payee.hex() == NODE_ID
    high_s = signature[:32] + (curve.ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    with pytest.raises(InvalidInvoice, match="signature"):
        decode(invoice.with_signature(high_s, recovery_id ^ 1))
    other, other_id = curve.sign_recoverable(bytes([0x41]) * 32, invoice.digest)
    with pytest.raises(InvalidInvoice, match="signature"):
        decode(invoice.with_signature(other, other_id))


def test_without_n_field_a_high_s_is_accepted() -> None:
    """checklist 40"""
    invoice = unsigned(TERMS)
    signature, recovery_id = curve.sign_recoverable(NODE_SECRET, invoice.digest)
    high_s = signature[:32] + (curve.ORDER - int.from_bytes(signature[32:], "big")).to_bytes(32, "big")
    assert decode(invoice.with_signature(high_s, recovery_id ^ 1)).payee.hex() == NODE_ID


@pytest.mark.parametrize(
    ("hrp", "amount"),
    [
        ("lnbc", None),
        ("lnbc1", 10**11),
        ("lnbc20m", 2_000_000_000),
        ("lnbc2500u", 250_000_000),
        ("lnbc100n", 10_000),
        ("lnbc10p", 1),
        ("lnbc1000m", 10**11),  # not the largest multiplier, but seen in the wild
        ("lnbc21000000", MAX_MONEY * 1000),
    ],
)
def test_amount_is_read(hrp: str, amount: int | None) -> None:
    """checklist 40"""
    assert decode(signed_fields("", hrp)).amount_msat == amount


@pytest.mark.parametrize(
    ("hrp", "reason"),
    [
        ("lnbc0m", "zero"),
        ("lnbc020m", "zeros"),
        ("lnbc20k", "multiplier"),
        ("lnbc20mm", "multiplier"),
        ("lnbc11p", "millisatoshi"),
        ("lnbc21000001", "more bitcoin"),
        ("lnbc" + "9" * 400, "too large"),
        ("lnbc20m5", "not an invoice"),
        ("bc", "not an invoice"),
        ("ln20m", "not an invoice"),
    ],
)
def test_wrong_readable_part_is_refused(hrp: str, reason: str) -> None:
    """checklist 40"""
    with pytest.raises(InvalidInvoice, match=reason):
        decode(signed_fields("", hrp))


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        (1, "10p"),
        (100, "1n"),
        (10**5, "1u"),
        (10**8, "1m"),
        (10**11, "1"),
        (967878534, "9678785340p"),
        (None, ""),
    ],
)
def test_amount_is_written_in_its_largest_unit(amount: int | None, text: str) -> None:
    terms = msgspec.structs.replace(TERMS, amount_msat=None if amount is None else Msat(amount))
    assert unsigned(terms).hrp == "lnbc" + text


@pytest.mark.parametrize(
    ("base", "tail", "reason"),
    [
        ("sd9", "", "no payment hash"),
        ("pd9", "", "no payment secret"),
        ("ps9", "", "no description"),
        ("ppsd9", "", "'p' stands twice"),
        ("pssd9", "", "'s' stands twice"),
        ("psdd9", "", "'d' stands twice"),
        ("psd9", "h" + "p5" + "q" * 52, "both a description"),
        ("ps9", "h" + "pn" + "q" * 51, "'h' of the invoice has a wrong length"),
        ("sd9", "p" + "p4" + "q" * 53, "'p' of the invoice has a wrong length"),
        ("pd9", "s" + "pn" + "q" * 51, "'s' of the invoice has a wrong length"),
        ("psd9", "n" + "p5" + "q" * 52, "'n' of the invoice has a wrong length"),
        ("psd9", "xqzqp", "'x' of the invoice is empty, padded"),
        ("psd9", "cqzqp", "'c' of the invoice is empty, padded"),
        ("psd9", "xqq", "'x' of the invoice is empty"),
        ("psd9", "xqw" + "p" * 14, "too large"),
        ("psd", "9qzqs", "features are padded"),
        ("psd9", "fqpq", "fallback"),
        ("psd9", "fqz0p", "not padded with zeros"),
        ("psd9", "rqq", "route hint"),
        ("psd9", "rqypqqq", "route hint"),
        ("psd9", "rp2" + "q" * 42, "route hint"),
        ("psd9", "rzj" + "q" * 82, "no valid node"),
        ("psd9", "mqpp", "not padded with zeros"),
        ("psd9", "xq", "cut short"),
        ("psd9", "xqyp", "cut short"),
        ("ps9", "dqzlu", "not text"),
    ],
)
def test_invoice_that_breaks_a_rule_is_refused(base: str, tail: str, reason: str) -> None:
    """checklist 40"""
    with pytest.raises(InvalidInvoice, match=reason):
        decode(signed_fields(tail, base=base))


def test_features_that_need_each_other_come_together() -> None:
    with pytest.raises(CommandRefused, match="feature 16 needs feature 14"):
        unsigned(msgspec.structs.replace(TERMS, features=frozenset({8, 17})))
    words = bech32.integer_to_words(1 << 17 | 1 << 8, 4)
    field = "9qy" + "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[word] for word in words)
    with pytest.raises(InvalidInvoice, match="feature 16 without feature 14"):
        decode(signed_fields(field, base="psd"))


def test_unknown_fields_and_fallback_versions_are_skipped() -> None:
    """checklist 40"""
    invoice = decode(signed_fields("2qrqqq" + "fppn" + "q" * 32 + "xqpp"))
    assert invoice.fallback_addresses == ()
    assert invoice.expiry == 1
    assert invoice.features == {8, 14}


def test_lengths_of_repeated_route_hints_and_fallbacks_are_kept_in_order() -> None:
    hops = tuple(HopHint(bytes.fromhex(NODE_ID), ShortChannelId(i), i, i, i) for i in range(3))
    addresses = (FallbackAddress(1, bytes(32)), FallbackAddress(17, bytes(20)))
    terms = msgspec.structs.replace(TERMS, route_hints=(hops[:1], hops[1:]), fallback_addresses=addresses)
    invoice = decode(sign(unsigned(terms)))
    assert invoice.route_hints == (hops[:1], hops[1:])
    assert invoice.fallback_addresses == addresses


@pytest.mark.parametrize(
    ("address", "script"),
    [
        (FallbackAddress(17, bytes(20)), "76a914" + "00" * 20 + "88ac"),
        (FallbackAddress(18, bytes(20)), "a914" + "00" * 20 + "87"),
        (FallbackAddress(0, bytes(20)), "0014" + "00" * 20),
        (FallbackAddress(1, bytes(32)), "5120" + "00" * 32),
    ],
)
def test_fallback_address_has_its_script(address: FallbackAddress, script: str) -> None:
    assert address.script_pubkey().hex() == script


@pytest.mark.parametrize(
    "change",
    [
        {"prefix": "ltc"},
        {"amount_msat": 0},
        {"amount_msat": MAX_MONEY * 1000 + 1},
        {"timestamp": 1 << 35},
        {"description": None},
        {"description_hash": bytes(32)},
        {"description": "x" * 640},
        {"payment_hash": bytes(31)},
        {"payment_secret": bytes(33)},
        {"node_id": bytes(32)},
        {"expiry": -1},
        {"min_final_cltv_expiry_delta": 1 << 16},
        {"fallback_addresses": (FallbackAddress(0, bytes(21)),)},
        {"route_hints": ((),)},
    ],
)
def test_terms_that_make_no_valid_invoice_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CommandRefused):
        unsigned(msgspec.structs.replace(TERMS, **change))


def test_order_that_leaves_a_field_out_is_our_bug() -> None:
    with pytest.raises(ValueError, match="once"):
        unsigned(TERMS, order="psd")


def test_signer_reads_the_terms_before_it_signs() -> None:
    invoice = unsigned(TERMS)
    assert read_terms(invoice.hrp, invoice.words, expect_prefix="bc") == TERMS
    assert digest(invoice.hrp, invoice.words) == invoice.digest
    for words in (b"", bytes(6), invoice.words[:-1], b"\xff" * 20):
        with pytest.raises(InvalidInvoice):
            read_terms(invoice.hrp, words)
